"""What a chart of a result shows: which columns are its axes and series, and where ticks go."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from meshql.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["KINDS", "Chart", "Series", "chart_of", "compact", "moment", "placed", "ticks", "time_ticks"]

Kind = Literal["bar", "line", "hist"]

KINDS: tuple[Kind, ...] = ("bar", "line", "hist")

MOST_BARS = 50

MOST_SERIES = 8

MOST_POINTS = 2_000
"""Points of a line; of more, the lowest and the highest of each stretch are drawn."""

NUMBERING = re.compile(r"(^|_)id$", re.IGNORECASE)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Seconds between ticks of time, up to a day."""

DAYS = (2, 7, 14)

MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200)


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one column, or of one member of a column; each has a place on the chart's x axis, or none."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready to be drawn.

    `x` holds texts, numbers, or seconds since 1970 where `timed`. In a histogram it holds the edges of the
    bins, one more than there are values. `note` says what is not shown.
    """

    kind: Kind
    x_name: str
    y_name: str
    x: tuple[str | float, ...]
    series: tuple[Series, ...]
    timed: bool = False
    note: str = ""

    @property
    def title(self) -> str:
        """What is charted by what."""
        if self.kind == "hist":
            return f"distribution of {self.x_name}"
        return f"{self.y_name} by {self.x_name}"

    @property
    def places(self) -> list[float]:
        """The places of x as numbers; texts follow each other evenly, from 0."""
        return [float(i) if isinstance(x, str) else x for i, x in enumerate(self.x)]

    def labels(self) -> list[str]:
        """Return the places of x as texts."""
        if not self.timed:
            return [x if isinstance(x, str) else placed(x) for x in self.x]
        places = self.places
        gaps = [abs(b - a) for a, b in pairwise(places) if a != b]
        exact = next((s for s in (86400.0, 60.0) if all(x % s == 0 for x in places)), 1.0)
        monthly = exact == 86400.0 and gaps and min(gaps) >= 86400 * 28
        return [moment(x, min(gaps) if monthly else exact) for x in places]

    def numbers(self) -> list[float]:
        """Return all values that there are, of all series."""
        return [v for s in self.series for v in s.values if v is not None]


def chart_of(table: pyarrow.Table, kind: str | None = None) -> Chart:
    """Return the chart that shows the rows best, or the best of this kind, one of KINDS.

    The first column of dates or times is the x axis, else the first of texts, else a first numeric column
    that only rises. Numeric columns are the series; where values of x come again and a text column tells them
    apart, its members are. Raises UsageError for an unknown kind, and for rows that no chart shows.
    """
    wanted = next((k for k in KINDS if k == kind), None)
    if kind is not None and wanted is None:
        raise UsageError(f"no chart is called {kind}", hint=f"there are {', '.join(KINDS)}")
    columns = [_Column.read(table, i) for i in range(table.num_columns)]
    if table.num_rows == 0:
        raise UsageError("the result has no rows to draw")
    numeric = [c for c in columns if c.sort == "number"]
    if not numeric:
        raise UsageError(
            "there is no numeric column to draw",
            hint="add one, such as count(*), or sum(...); a text can be CAST(... AS DOUBLE)",
        )
    axis = _axis(columns)
    alone = wanted is None and axis is None and len(numeric) == 1 and table.num_rows > 20
    if wanted == "hist" or alone:
        return _histogram(numeric[0])
    numeric = _measures([c for c in numeric if c is not axis])
    axis = axis or _Column("row", "number", [float(i + 1) for i in range(table.num_rows)])
    members = [c for c in columns if c.sort == "text" and c is not axis]
    return _plotted(wanted or ("bar" if axis.sort == "text" else "line"), axis, numeric, members)


@dataclass(slots=True)
class _Column:
    """A column as numbers, seconds since 1970 or texts; `sort` is empty for what is none of them."""

    name: str
    sort: Literal["number", "time", "text", ""]
    values: list[Any]

    @classmethod
    def read(cls, table: pyarrow.Table, index: int) -> _Column:
        import pyarrow

        is_, kind, name = pyarrow.types, table.schema.field(index).type, table.schema.field(index).name
        if is_.is_integer(kind) or is_.is_floating(kind) or is_.is_decimal(kind):
            numbers = (None if v is None else float(v) for v in table.column(index).to_pylist())
            return cls(name, "number", [v if v is not None and math.isfinite(v) else None for v in numbers])
        if is_.is_timestamp(kind) or is_.is_date(kind) or is_.is_time(kind):
            # Nanoseconds would come as a type of pandas, which need not be there.
            coarse = pyarrow.timestamp("us", kind.tz) if is_.is_timestamp(kind) else kind
            with suppress(ValueError, OverflowError):
                moments = table.column(index).cast(coarse, safe=False).to_pylist()
                return cls(name, "time", [None if v is None else _seconds(v) for v in moments])
        if (
            is_.is_dictionary(kind)
            or is_.is_boolean(kind)
            or is_.is_string(kind)
            or is_.is_large_string(kind)
        ):
            values = table.column(index).to_pylist()
            return cls(name, "text", ["NULL" if v is None else _text(v) for v in values])
        return cls(name, "", [])


def _axis(columns: Sequence[_Column]) -> _Column | None:
    for sort in ("time", "text"):
        for column in columns:
            if column.sort == sort and any(v is not None for v in column.values):
                return (sort == "text" and _counted_by(columns, column)) or column
    numeric = [c for c in columns if c.sort == "number"]
    first = numeric[0].values if numeric else []
    rises = None not in first and all(a < b for a, b in pairwise(first))
    return numeric[0] if len(numeric) > 1 and len(first) > 1 and rises else None


def _measures(numeric: list[_Column]) -> list[_Column]:
    """The columns without those that number things, unless there are no others."""
    return [c for c in numeric if not NUMBERING.search(c.name)] or numeric


def _counted_by(columns: Sequence[_Column], text: _Column) -> _Column | None:
    """The whole numbers, such as months, that tell the rows of each member of a text column apart."""
    numeric = [c for c in columns if c.sort == "number"]
    if len(numeric) < 2 or len(set(text.values)) == len(text.values):
        return None
    for column in numeric[:-1]:
        pairs = set(zip(text.values, column.values, strict=True))
        whole = all(v is not None and v == int(v) for v in column.values)
        if whole and len(pairs) == len(column.values) > len(set(column.values)):
            return column
    return None


def _plotted(kind: Kind, axis: _Column, numeric: Sequence[_Column], members: Sequence[_Column]) -> Chart:
    again = len(set(axis.values)) < len(axis.values)
    split = members[0] if members and again else None
    if split:
        series, places = _split(axis, numeric[0], split)
        y_name = f"{numeric[0].name} of each {split.name}"
    else:
        places = list(axis.values)
        series = [Series(c.name, tuple(c.values)) for c in numeric]
        y_name = ", ".join(c.name for c in numeric)
    notes = []
    if len(series) > MOST_SERIES:
        notes.append(f"{len(series) - MOST_SERIES:,} of {len(series):,} series are not shown")
        series = series[:MOST_SERIES]
    kept = [i for i, x in enumerate(places) if x is not None and any(s.values[i] is not None for s in series)]
    if not kept:
        raise UsageError(f"all values of {y_name} are NULL")
    if kind == "line" and axis.sort != "text":
        kept.sort(key=lambda i: places[i])
        kept = _thinned(kept, series)
    if kind == "bar" and len(kept) > MOST_BARS:
        notes.append(f"{len(kept) - MOST_BARS:,} of {len(kept):,} bars are not shown")
        kept = kept[:MOST_BARS]
    return Chart(
        kind=kind,
        x_name=axis.name,
        y_name=y_name,
        x=tuple(places[i] for i in kept),
        series=tuple(Series(s.name, tuple(s.values[i] for i in kept)) for s in series),
        timed=axis.sort == "time",
        note="; ".join(notes),
    )


def _split(axis: _Column, numbers: _Column, split: _Column) -> tuple[list[Series], list[Any]]:
    """A series for each member of `split`, over the values of x, each once."""
    places = list(dict.fromkeys(x for x in axis.values if x is not None))
    index = {x: i for i, x in enumerate(places)}
    found: dict[str, list[float | None]] = {}
    for x, value, member in zip(axis.values, numbers.values, split.values, strict=True):
        values = found.setdefault(member, [None] * len(places))
        if x is not None:
            values[index[x]] = value
    return [Series(member, tuple(values)) for member, values in found.items()], places


def _thinned(kept: list[int], series: Sequence[Series]) -> list[int]:
    """The rows of which a line keeps its shape: of each stretch the lowest and the highest of each series."""
    if len(kept) <= MOST_POINTS:
        return kept
    stretch = math.ceil(len(kept) * 2 * len(series) / MOST_POINTS)
    chosen: set[int] = {0, len(kept) - 1}
    for start in range(0, len(kept), stretch):
        places = range(start, min(start + stretch, len(kept)))
        for one in series:
            there = [p for p in places if one.values[kept[p]] is not None]
            chosen.update(f(there, key=lambda p: one.values[kept[p]] or 0.0) for f in (min, max) if there)
    return [kept[p] for p in sorted(chosen)]


def _histogram(column: _Column) -> Chart:
    values = [v for v in column.values if v is not None]
    if not values:
        raise UsageError(f"all values of {column.name} are NULL")
    low, high = min(values), max(values)
    whole = all(v == int(v) for v in values) and high - low < 2 * MOST_BARS
    count = min(max(math.ceil(math.log2(len(values))) + 1, 5), 30)
    edges = ticks(low, high, count)
    if whole and high - low < 30:
        edges = [low + i - 0.5 for i in range(int(high - low) + 2)]
    step = edges[1] - edges[0]
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(int((value - edges[0]) / step), len(counts) - 1)] += 1
    series = Series("rows", tuple(float(c) for c in counts))
    return Chart("hist", column.name, "rows", tuple(edges), (series,))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers, evenly spaced, that `low` and `high` lie between."""
    if high <= low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def time_ticks(low: float, high: float, count: int) -> tuple[list[float], float]:
    """Return up to about `count` moments at which clocks and calendars turn, and the seconds between."""
    rough = (high - low) / max(count, 1)
    step = next((s for s in (*STEPS, *(d * 86400 for d in DAYS)) if s >= rough), None)
    if step is not None:
        first, last = math.ceil(low / step), math.floor(high / step)
        return [float(i * step) for i in range(first, last + 1)], float(step)
    months = next((m for m in MONTHS if m * 86400 * 30.4 >= rough), MONTHS[-1])
    begin = EPOCH + timedelta(seconds=low)
    number = -(-(begin.year * 12 + begin.month - 1) // months) * months
    found = []
    while number // 12 < 9999 and (at := _seconds(date(number // 12, number % 12 + 1, 1))) <= high:
        found += [at] if at >= low else []
        number += months
    return found, months * 86400 * 30.4


def moment(seconds: float, step: float = 86400.0) -> str:
    """Return a moment as text, as exactly as moments `step` seconds apart need it."""
    when = EPOCH + timedelta(seconds=seconds)
    if 0 <= seconds < 86400 and step < 86400:
        return f"{when:%H:%M}" if step >= 60 else f"{when:%H:%M:%S}"
    if step >= 86400 * 360:
        return f"{when:%Y}"
    if step >= 86400 * 28:
        return f"{when:%Y-%m}"
    if step >= 86400:
        return f"{when:%Y-%m-%d}"
    return f"{when:%m-%d %H:%M}" if step >= 60 else f"{when:%H:%M:%S}"


def placed(value: float) -> str:
    """Return a number that is a place rather than an amount, such as a year, as text."""
    return str(int(value)) if value == int(value) and abs(value) < 10_000 else compact(value)


def compact(value: float) -> str:
    """Return a number as short as it stays telling: `1.25M`, `12,400`, `0.031`."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{unit}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"


def _seconds(value: date | datetime | time) -> float:
    if isinstance(value, time):
        return value.hour * 3600.0 + value.minute * 60 + value.second + value.microsecond / 1e6
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value.replace(tzinfo=UTC) - EPOCH).total_seconds()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
