"""How old a product may be: what its contract promises, and how that is measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from meshql.catalog.model import Product, SlaProperty
from meshql.errors import UsageError
from meshql.formats import iceberg
from meshql.formats.snapshot import Snapshot
from meshql.mesh import Mesh
from meshql.sql import quote_identifier
from meshql.storage.location import Location
from meshql.storage.store import Store

__all__ = ["Freshness", "duration_text", "last_change", "length_of", "promises"]

MEASURED = frozenset({"latency", "freshness", "dataage"})
"""Properties of service levels that say how old the newest rows may be, without case."""

SECONDS = {
    "s sec second": 1,
    "m min minute": 60,
    "h hr hour": 3600,
    "d day": 86_400,
    "w wk week": 7 * 86_400,
    "mo mon month": 30 * 86_400,
    "y yr year": 365 * 86_400,
}

UNITS = {unit: seconds for units, seconds in SECONDS.items() for unit in units.split()}

AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

ISO = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.IGNORECASE)

RECENT_COMMITS = 50
"""Commits of a Delta log that are looked at before all of it is listed."""

OFFSET = r":\d\d.*([zZ]|[+-]\d\d(:?\d\d)?)\s*$"
"""The end of a text that tells a moment with its zone."""

MOMENTS = ("TIMESTAMP", "DATE", "VARCHAR")
"""What the types of columns begin with that may tell a moment: raw files have them as text."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """A promise that the newest row, or the table's last change where no `column` is named, is not too old.

    A `column` inside a struct has the names on the way to it in front, with dots.
    """

    promise: str
    column: str | None
    most: timedelta

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.promise} of {self.column}" if self.column else self.promise

    @property
    def demanded(self) -> str:
        """What is promised, in words."""
        return f"at most {duration_text(self.most)}"

    def expression(self, columns: Iterable[str], type_of: Callable[[str], str]) -> str:
        """Return the aggregate that gives the newest moment in microseconds since 1970, NULL without rows.

        `columns` are the table's, and `type_of` tells the type of an expression over them. A timestamp
        without a zone counts as UTC, a date as its midnight; text has to be one of these. Raises UsageError
        for a column that is not there or tells no moment.
        """
        sql = ".".join(map(quote_identifier, _found(str(self.column), columns)))
        kind = type_of(sql)
        if not kind.startswith(MOMENTS):
            raise UsageError(
                f"{self.promise}: column {self.column} is {kind}, which tells no moment",
                hint="name a column of type TIMESTAMP or DATE in `element`",
            )
        if kind == "VARCHAR":
            zoned = f"epoch_us({sql}::TIMESTAMPTZ)"
            return f"max(if(regexp_matches({sql}, '{OFFSET}'), {zoned}, epoch_us({sql}::TIMESTAMP)))"
        return f"epoch_us(max({sql}))" if "WITH TIME ZONE" in kind else f"epoch_us(max({sql})::TIMESTAMP)"

    def kept(self, newest: datetime | None, now: datetime) -> bool:
        """Whether the promise is kept at `now`; without any row it is not."""
        return newest is not None and now - newest <= self.most

    def measured(self, newest: datetime | None, now: datetime) -> str:
        """Return how old the newest row is, in words."""
        return "no value" if newest is None else duration_text(now - newest)


def promises(product: Product) -> Iterator[Freshness | tuple[str, UsageError]]:
    """Yield what a product's service levels promise of freshness.

    A promise that nobody could measure comes as its property's name and the error that says why.
    """
    for sla in product.slaProperties:
        if sla.property.casefold() not in MEASURED:
            continue
        try:
            most = _most(sla)
        except UsageError as error:
            yield sla.property, error
            continue
        for element in (sla.element or "").split(","):
            yield Freshness(sla.property, _column(product, element.strip()), most)


def _most(sla: SlaProperty) -> timedelta:
    try:
        return length_of(str(sla.value), sla.unit)
    except UsageError as error:
        raise UsageError(f"{sla.property}: {error.message}", hint=error.hint) from None


def length_of(text: str, unit: str | None = None) -> timedelta:
    """Return a length of time: `4` with unit `h`, `4h`, or ISO 8601's PT4H; a month has 30 days, a year 365.

    Raises UsageError for text that is none.
    """
    iso = ISO.fullmatch(text.strip())
    if iso and any(iso.groups()):
        weeks, days, hours, minutes, seconds = (int(part or 0) for part in iso.groups())
        return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    amount = AMOUNT.fullmatch(text)
    said = (unit or (amount[2] if amount else "") or "").casefold()
    # `ms` is no plural.
    seconds_each = UNITS.get(said) or (UNITS.get(said.removesuffix("s")) if len(said) > 2 else None)
    if amount is None or seconds_each is None:
        raise UsageError(
            f"{text} {unit or ''}".rstrip() + " is no length of time",
            hint="write 4h, 7d or 90min; or a number, and the unit by itself: min, h, d, w, month, y",
        )
    return timedelta(seconds=float(amount[1]) * seconds_each)


def _column(product: Product, element: str) -> str | None:
    """The column that an `element` names; the table's name in front of it is left out."""
    tables = {t.name.casefold() for t in product.table_schema} | {product.table.casefold()}
    declared = {e.name.casefold() for t in product.table_schema for e in t.properties}
    if element.casefold().startswith(f"{product.name}.".casefold()):
        element = element[len(product.name) + 1 :]
    first, _, rest = element.partition(".")
    if first.casefold() in tables and (rest or first.casefold() not in declared):
        return rest or None
    return element or None


def _found(written: str, columns: Iterable[str]) -> list[str]:
    """The names on the way to a column, the first as the table spells it."""
    folded = {name.casefold(): name for name in columns}
    if exact := folded.get(written.casefold()):
        return [exact]
    first, *fields = written.split(".")
    column = folded.get(first.casefold())
    if column is None or not fields:
        raise UsageError(
            f"no column {written} to measure freshness by",
            hint=f"name one in `element`: {', '.join(folded.values())}",
        )
    return [column, *fields]


def duration_text(length: timedelta) -> str:
    """Return a length of time in its two largest units: `26 h 3 min`, `3 d 4 h`."""
    seconds = int(abs(length).total_seconds())
    sign = "-" if length < timedelta() and seconds else ""
    if seconds < 60:
        return f"{sign}{seconds} s"
    minutes, hours = seconds // 60, seconds // 3600
    if hours >= 72:
        parts = [(hours // 24, "d"), (hours % 24, "h")]
    elif hours:
        parts = [(hours, "h"), (minutes % 60, "min")]
    else:
        parts = [(minutes, "min"), (seconds % 60, "s")]
    return sign + " ".join(f"{amount} {unit}" for amount, unit in parts if amount)


# --- the last change ------------------------------------------------------------------------------


def last_change(mesh: Mesh, snapshot: Snapshot) -> datetime:
    """Return when the rows of a version last changed; compaction and vacuum change none.

    Raises UsageError where the format does not tell.
    """
    product = snapshot.product
    found: datetime | None = None
    if product.format == "delta":
        found = _delta_change(*mesh.store(product), int(snapshot.version))
    elif product.format == "iceberg":
        found = _iceberg_change(mesh, snapshot)
    found = found or snapshot.changed_at
    if found is None:
        raise UsageError(
            f"{product.name}: {product.format} does not tell when the table last changed",
            hint="name a column in `element`: the newest row's moment is measured then",
        )
    return found


def _delta_change(store: Store, location: Location, version: int) -> datetime | None:
    log = f"{location.folder.key}_delta_log/"
    unread = version
    for start in (max(version - RECENT_COMMITS, 0), 0):
        listed = store.objects(log, after=f"{log}{start:020d}")
        commits = [o for o in listed if re.fullmatch(r"\d{20}\.json", o.name)]
        for commit in reversed(commits):
            if int(commit.name[:20]) > unread:
                continue
            if _changes_data((store.get(commit.key) or b"").decode(errors="replace").splitlines()):
                return commit.modified
        unread = start - 1
    # What came before was cleaned away: it is older than this.
    return commits[0].modified if commits else None


def _changes_data(lines: Sequence[str]) -> bool:
    try:
        actions = [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        return False
    return any(
        action[kind].get("dataChange", True)
        for action in actions
        for kind in ("add", "remove")
        if action.get(kind)
    )


def _iceberg_change(mesh: Mesh, snapshot: Snapshot) -> datetime | None:
    """When the newest snapshot was made that is no mere rewriting of files."""
    metadata = iceberg.document(snapshot, mesh.store(snapshot.product)[0])
    by_id = {s["snapshot-id"]: s for s in metadata.get("snapshots", ())}
    current = by_id.get(metadata.get("current-snapshot-id"))
    oldest = None
    while current is not None:
        oldest = datetime.fromtimestamp(current["timestamp-ms"] / 1000, UTC)
        if current.get("summary", {}).get("operation") != "replace":
            return oldest
        current = by_id.get(current.get("parent-snapshot-id"))
    return oldest
