"""Changes gathered as the columns of a log of changes, and handed on as Arrow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from meshql.build.cdc.pgoutput import UNCHANGED, Values
from meshql.build.cdc.shapes import Shape

if TYPE_CHECKING:
    import pyarrow
    from psycopg.abc import Loader

__all__ = ["LOG_COLUMNS", "Encoder", "Rows"]

LOG_COLUMNS = {
    "table_name": "VARCHAR",
    "op": "VARCHAR",
    "lsn": "BIGINT",
    "seq": "BIGINT",
    "xid": "BIGINT",
    "committed_at": "TIMESTAMP WITH TIME ZONE",
    "before": "MAP(VARCHAR, VARCHAR)",
    "after": "MAP(VARCHAR, VARCHAR)",
    "unchanged": "VARCHAR[]",
}
"""The columns of a log of changes."""


@cache
def _lists() -> Loader:
    """What reads the text of an array, whatever its elements are."""
    import psycopg
    from psycopg.adapt import Transformer
    from psycopg.pq import Format

    oid = psycopg.adapters.types["text"].array_oid
    return Transformer().get_loader(oid, Format.TEXT)


def list_text(text: str) -> str:
    """Return PostgreSQL's text of an array as a JSON list of texts."""
    return json.dumps(_lists().load(text.encode()), ensure_ascii=False, separators=(",", ":"))


class Encoder:
    """Turns rows of one table, as the stream has them, into entries of a log."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.names = list(shape.names)
        self.lists = [i for i, c in enumerate(shape.columns) if c.kind.endswith("[]")]
        self.key = [i for i, c in enumerate(shape.columns) if c.name in shape.key]
        self.key_names = [shape.columns[i].name for i in self.key]

    def spelled(self, values: Values) -> Values:
        """Return a row with its arrays as the log has them; it may be the same object, changed."""
        for i in self.lists:
            if isinstance(values[i], str):
                values[i] = list_text(values[i])
        return values

    def keyed(self, values: Values) -> Values:
        """Return the key of a row."""
        return [values[i] for i in self.key]


@dataclass(slots=True)
class _Maps:
    """A column of maps: where each begins, its names and values behind one another; None for no map."""

    offsets: list[int | None]
    names: list[str]
    values: list[str | None]

    def add(self, names: Sequence[str], values: Values) -> None:
        self.offsets.append(len(self.names))
        self.names.extend(names)
        self.values.extend(values)

    def skip(self) -> None:
        self.offsets.append(None)

    def array(self) -> pyarrow.MapArray:
        import pyarrow as pa

        return pa.MapArray.from_arrays(
            pa.array([*self.offsets, len(self.names)], pa.int32()),
            pa.array(self.names, pa.string()),
            pa.array(self.values, pa.string()),
        )


class Rows:
    """Entries of a log, in order; `bytes` is about how much memory they take."""

    def __init__(self) -> None:
        self.bytes = 0
        self._plain: dict[str, list[Any]] = {name: [] for name in list(LOG_COLUMNS)[:6]}
        self._before, self._after = _Maps([], [], []), _Maps([], [], [])
        self._unchanged: list[list[str] | None] = []

    def __len__(self) -> int:
        return len(self._unchanged)

    def add(
        self,
        head: tuple[str, str, int, int, int | None, int | None],
        *,
        before: tuple[Sequence[str], Values] | None = None,
        after: tuple[Sequence[str], Values] | None = None,
        size: int = 0,
    ) -> None:
        """Add an entry: table, operation, lsn, seq, transaction and time of its commit in µs; and the row.

        UNCHANGED values of `after` are named instead.
        """
        for column, value in zip(self._plain.values(), head, strict=True):
            column.append(value)
        if before is None:
            self._before.skip()
        else:
            self._before.add(*before)
        missing = None
        if after is None:
            self._after.skip()
        else:
            names, values = after
            if UNCHANGED in values:
                missing = [n for n, v in zip(names, values, strict=True) if v is UNCHANGED]
                names = [n for n in names if n not in missing]
                values = [v for v in values if v is not UNCHANGED]
            self._after.add(names, values)
        self._unchanged.append(missing)
        self.bytes += size + 100

    def tables(self) -> set[str]:
        """Return the tables that entries are of."""
        return set(self._plain["table_name"])

    def arrow(self) -> pyarrow.Table:
        """Return the entries with the columns of a log."""
        import pyarrow as pa

        kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.int64(), pa.timestamp("us", tz="UTC"))
        plain = [pa.array(v, k) for v, k in zip(self._plain.values(), kinds, strict=True)]
        unchanged = pa.array(self._unchanged, pa.list_(pa.string()))
        columns = [*plain, self._before.array(), self._after.array(), unchanged]
        return pa.table(dict(zip(LOG_COLUMNS, columns, strict=True)))
