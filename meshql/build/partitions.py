"""The partitions of an Iceberg table, and the SQL that tells which one a row belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import parse_transform
from pyiceberg.typedef import Record

from meshql.build.iceberg_schema import Column
from meshql.errors import UsageError, nearest
from meshql.sql import quote_literal

__all__ = ["Key", "Partition", "Partitioning", "check_keys", "in_partitions", "partitions_of", "spec_of"]

Key = tuple[Any, ...]
"""The values of one partition, as Iceberg has them: days since 1970 for a date, and so on."""

WRITTEN = re.compile(r"\s*(\w+)\s*\(\s*(?:(\d+)\s*,\s*)?(.+?)\s*\)\s*", re.DOTALL)

UNITS = ("year", "month", "day", "hour")

INSTANTS = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE")

WHOLE = ("INTEGER", "BIGINT")

TAKES: dict[str, tuple[str, ...]] = {
    "year": ("DATE", *INSTANTS),
    "month": ("DATE", *INSTANTS),
    "day": ("DATE", *INSTANTS),
    "hour": INSTANTS,
    # DuckDB's hash of a UUID is not the one that Iceberg prescribes.
    "bucket": (*WHOLE, "DECIMAL", "DATE", "TIME", *INSTANTS, "VARCHAR"),
    # DuckDB reads truncated decimals of such a table wrongly, or not at all.
    "truncate": (*WHOLE, "VARCHAR"),
    # Of floating numbers some are equal that are not the same. A UUID is what other engines fail at.
    "identity": (*WHOLE, "DECIMAL", "BOOLEAN", "DATE", "TIME", *INSTANTS, "VARCHAR"),
}
"""The types that each transform takes."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One field of a partitioning: a column, and what is made of its values."""

    column: Column
    transform: str
    width: int = 0

    @property
    def name(self) -> str:
        """The field's name in the table: `ordered_at_day`."""
        if self.transform == "identity":
            return self.column.name
        return f"{self.column.name}_{'trunc' if self.transform == 'truncate' else self.transform}"

    @property
    def iceberg(self) -> str:
        """The transform as Iceberg spells it."""
        return f"{self.transform}[{self.width}]" if self.width else self.transform

    @property
    def key(self) -> str:
        """SQL for the value of a row's partition as Iceberg has it."""
        column, kind = self.column.quoted, self.column.type
        if self.transform in UNITS:
            # What hour it is must not depend on where the session is.
            moment = f"make_timestamp(epoch_us({column}))" if kind == INSTANTS[1] else column
            start = "DATE '1970-01-01'" if kind == "DATE" else "TIMESTAMP '1970-01-01'"
            return f"date_diff('{self.transform}', {start}, {moment})"
        if self.transform == "truncate" and kind in WHOLE:
            # DuckDB's own function goes on at the other end where this is an error.
            return f"({column} - ((({column} % {self.width}) + {self.width}) % {self.width}))"
        if self.width:
            return f"iceberg_{self.transform}({self.width}, {column})"
        match kind:
            case "DATE":
                return f"date_diff('day', DATE '1970-01-01', {column})"
            case "TIMESTAMP" | "TIMESTAMP WITH TIME ZONE" | "TIME":
                return f"epoch_us({column})"
        return column

    @property
    def begins_in_1970(self) -> bool:
        """Whether DuckDB passes over rows of before 1970 when it looks for them in such partitions."""
        return self.transform in ("month", "day") and self.column.type in INSTANTS

    @property
    def ordered(self) -> bool:
        """Whether the field tells when something was."""
        return self.transform in UNITS or self.column.type in ("DATE", *INSTANTS)

    def at(self, moment: datetime) -> int:
        """Return the partition that a moment lies in, for a field that is `ordered`; UTC, if of no zone."""
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        passed = moment - datetime(1970, 1, 1, tzinfo=UTC)
        match self.transform:
            case "year":
                return moment.year - 1970
            case "month":
                return (moment.year - 1970) * 12 + moment.month - 1
            case "hour":
                return passed // timedelta(hours=1)
            case "identity" if self.column.type != "DATE":
                return passed // timedelta(microseconds=1)
        return passed.days

    def among(self, values: Sequence[Any]) -> str:
        """SQL that is true of rows with one of these values of the field; scans leave out others by it."""
        known = sorted(v for v in values if v is not None)
        parts = [f"{self.column.quoted} IS NULL"] if len(known) < len(values) else []
        if not known:
            return parts[0] if parts else "false"
        found = f"{self.key} IN ({', '.join(map(_literal, known))})"
        if self.transform in UNITS:
            # No scan leaves out anything by what a function makes of a column.
            found = f"{self._between(known[0], known[-1] + 1)}{found}"
        elif not self.width:
            found = f"{self.column.quoted} IN ({', '.join(map(self._value, known))})"
        return " OR ".join([*parts, found])

    def _between(self, first: int, end: int) -> str:
        try:
            begin, behind = (_start(self.transform, v).isoformat(" ") for v in (first, end))
        except (OverflowError, ValueError):
            return ""
        kind = self.column.type
        zone = "+00" if kind == INSTANTS[1] else ""
        low, high = (f"CAST({quote_literal(t + zone)} AS {kind})" for t in (begin, behind))
        return f"{self.column.quoted} >= {low} AND {self.column.quoted} < {high} AND "

    def _value(self, value: Any) -> str:
        """The column's value, from what Iceberg has for it."""
        match self.column.type:
            case "DATE":
                return f"(DATE '1970-01-01' + {value})"
            case "TIMESTAMP":
                return f"make_timestamp({value})"
            case "TIMESTAMP WITH TIME ZONE":
                return f"make_timestamptz({value})"
            case "TIME":
                return f"(TIME '00:00:00' + to_microseconds({value}))"
        return f"CAST({_literal(value)} AS {self.column.type})"


def _literal(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case Decimal():
            return f"{value:f}"
    return quote_literal(str(value))


def _start(unit: str, value: int) -> datetime:
    """When a partition by a unit of time begins."""
    match unit:
        case "hour":
            return datetime(1970, 1, 1) + timedelta(hours=value)
        case "day":
            return datetime(1970, 1, 1) + timedelta(days=value)
        case "month":
            return datetime(1970 + value // 12, value % 12 + 1, 1)
    return datetime(1970 + value, 1, 1)


@dataclass(frozen=True, slots=True)
class Partitioning:
    """All fields of a table's partitioning; none for a table that has no partitions."""

    fields: tuple[Partition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fields)

    @property
    def needs_functions(self) -> bool:
        """Whether the SQL of keys calls functions of the iceberg extension."""
        return any(f.width for f in self.fields)

    @property
    def keys(self) -> str:
        """SELECT items with the key of a row's partition, as k0, k1 and so on."""
        return ", ".join(f"{f.key} AS k{i}" for i, f in enumerate(self.fields))

    @property
    def digest(self) -> str:
        """SQL for a text that differs for rows of different partitions, and can name a folder."""
        texts = (f"CAST({f.key} AS VARCHAR)" for f in self.fields)
        parts = (f"coalesce(strlen({t}) || ':' || {t}, '-')" for t in texts)
        return f"md5({' || '.join(parts)})"

    def clock(self, since: datetime | None, until: datetime | None) -> tuple[Partition, range] | None:
        """Return the first field that tells when something was, and its values in an interval."""
        field = next((f for f in self.fields if f.ordered), None)
        if field is None:
            return None
        first = field.at(since) if since else -(10**18)
        # A partition that ends behind the interval still has a part in it.
        last = field.at(until - timedelta(microseconds=1)) if until else 10**18
        return field, range(first, last + 1)


def check_keys(product: str, partitioning: Partitioning, keys: Iterable[Key]) -> None:
    """Raise UsageError for a partition in which rows would be passed over when they are looked for."""
    keys = list(keys)
    for i, field in enumerate(partitioning.fields):
        if field.begins_in_1970 and any(key[i] is not None and key[i] < 0 for key in keys):
            raise UsageError(
                f"{product}: column {field.column.name} has times of before 1970, which DuckDB"
                f" does not find in partitions by {field.transform}",
                hint=f"partition by year({field.column.name}), or by a DATE",
            )


def partitions_of(product: str, written: Sequence[str], columns: Sequence[Column]) -> Partitioning:
    """Return what a product's `partitions` mean; raises UsageError for what its columns do not allow."""
    fields = tuple(_partition(product, text, columns) for text in written)
    twice = next((f.name for f in fields if sum(f.name == other.name for other in fields) > 1), None)
    if twice:
        raise UsageError(f"{product}: two of its partitions are {twice}", hint="remove one of them")
    names = {c.name for c in columns}
    taken = next((f.name for f in fields if f.transform != "identity" and f.name in names), None)
    if taken:
        raise UsageError(
            f"{product}: a partition and a column would both be named {taken}", hint=f"rename column {taken}"
        )
    return Partitioning(fields)


def _partition(product: str, text: str, columns: Sequence[Column]) -> Partition:
    by_name = {c.name.casefold(): c for c in columns}
    # A column may have any name, that of a call too.
    call = None if text.casefold() in by_name else WRITTEN.fullmatch(text)
    transform, width, name = (call[1].lower(), call[2], call[3]) if call else ("identity", None, text)
    column = by_name.get(name.strip().strip('"').casefold())
    sized = transform in ("bucket", "truncate")
    if transform not in TAKES or bool(width) != sized or int(width or 1) < 1:
        raise UsageError(
            f"{product}: not a partition: {text}",
            hint="a column, year(c), month(c), day(c), hour(c), bucket(16, c) or truncate(10, c)",
        )
    if column is None:
        close = nearest(name, [c.name for c in columns]) or [c.name for c in columns]
        raise UsageError(
            f"{product}: its SQL gives no column {name} to partition by", hint=f"it gives {', '.join(close)}"
        )
    kind = column.type.partition("(")[0]
    if kind not in TAKES[transform] or column.type.endswith("]"):
        raise UsageError(
            f"{product}: column {column.name} is a {column.type}, which cannot be partitioned by {transform}",
            hint=f"that takes {', '.join(TAKES[transform])}: CAST it to one of them",
        )
    return Partition(column, transform, int(width) if width else 0)


def spec_of(partitioning: Partitioning, schema: Schema, specs: Iterable[PartitionSpec] = ()) -> PartitionSpec:
    """Return the partitioning as Iceberg has it: one of `specs` if it is the same, or else a new one."""
    specs = list(specs)
    wanted = [(schema.find_field(f.column.name).field_id, f.iceberg, f.name) for f in partitioning.fields]
    for spec in specs:
        if [(f.source_id, str(f.transform), f.name) for f in spec.fields] == wanted:
            return spec
    known = {(f.source_id, str(f.transform), f.name): f.field_id for spec in specs for f in spec.fields}
    ids = iter(range(max([PARTITION_FIELD_ID_START - 1, *known.values()]) + 1, 2**31))
    fields = [
        PartitionField(source, known.get((source, text, name)) or next(ids), parse_transform(text), name)
        for source, text, name in wanted
    ]
    return PartitionSpec(*fields, spec_id=max((s.spec_id for s in specs), default=-1) + 1)


def key_of(partition: Record) -> Key:
    """Return the key of a file's partition."""
    return tuple(partition[i] for i in range(len(partition)))


def in_partitions(partitioning: Partitioning, keys: Iterable[Key]) -> str:
    """Return SQL that is true of the rows of these partitions."""
    first, *others = partitioning.fields
    if not others:
        return first.among([key[0] for key in keys])
    behind: dict[Key, list[Any]] = {}
    for key in keys:
        behind.setdefault(key[1:], []).append(key[0])
    each = (
        " AND ".join(
            f"({text})"
            for text in (first.among(values), *(f.among([v]) for f, v in zip(others, rest, strict=True)))
        )
        for rest, values in behind.items()
    )
    return " OR ".join(f"({one})" for one in each) or "false"
