"""Charts of results in the terminal, drawn by plotext."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from meshql.output.visible import clipped, visible, width_of
from meshql.shell.chart import Chart, chart_of, compact, moment, placed, ticks, time_ticks
from meshql.terminal import STYLES

if TYPE_CHECKING:
    import pyarrow

__all__ = ["plot"]

COLOURS = (39, 208, 76, 170, 220, 203, 105, 245)
"""Of the 256 of terminals; they tell apart on a dark and on a light ground."""

FILLS = "█▒░▓#=+x"

DOTS = "*o+x#@%="

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

FRAME = 4
"""Lines that are no canvas: the frame's two, the ticks and the name of the axis."""

NARROWEST, LOWEST = 30, 8


def plot(
    table: pyarrow.Table, kind: str | None = None, *, width: int, height: int, colour: bool = False
) -> str:
    """Return a chart of the rows, without a newline at the end.

    It is `width` columns wide and about `height` lines high; bars take a line each and are never squeezed.
    Without `kind`, the columns decide: see `chart_of`, which also says what raises UsageError. NULLs are
    skipped. Without `colour`, series differ by their marks, and there are no escapes.
    """
    chart = chart_of(table, kind)
    width, height = max(width, NARROWEST), max(height, LOWEST)
    head = [_painted(clipped(visible(chart.title), width), "bold", colour)]
    if len(chart.series) > 1:
        head.append(_legend(chart, width, colour))
    draw = {"bar": _bars, "line": _lines, "hist": _histogram}[chart.kind]
    body = draw(chart, width, height - len(head), colour)
    lines = [line.rstrip() for line in (body if colour else ESCAPES.sub("", body)).split("\n")]
    note = [_painted(chart.note, "dim", colour)] if chart.note else []
    return "\n".join([*head, *lines, *note]).rstrip("\n")


def _bars(chart: Chart, width: int, height: int, colour: bool) -> str:
    """Bars from left to right, the first row's on top, with their values behind them."""
    each = len(chart.series)
    gap = 1 if each > 1 or len(chart.x) * 2 + FRAME <= height else 0
    rows = len(chart.x) * (each + gap) - gap
    labels = [clipped(visible(text), width // 3) for text in chart.labels()]
    plt = _fresh(width, rows + FRAME)
    low, high = min([0.0, *chart.numbers()]), max([0.0, *chart.numbers()])
    told = max(len(compact(v)) for v in chart.numbers()) + 2
    canvas = max(width - max(map(width_of, labels)) - 2, told + 8)
    high += ((high - low) or 1.0) * told / (canvas - told)
    for number, series in enumerate(chart.series):
        bars = [
            (float(rows - i * (each + gap) - number), v) for i, v in enumerate(series.values) if v is not None
        ]
        places, values = [p for p, _ in bars], [v for _, v in bars]
        if bars:
            mark, shade = (FILLS[0] if colour else FILLS[number]), _colour(number, colour)
            plt.bar(places, values, orientation="h", width=0.001, marker=mark, color=shade, minimum=0)
        for place, value in bars:
            plt.text(f" {compact(value)}", max(value, 0.0) + (high - low) / canvas, place, alignment="left")
    plt.ylim(*((1, rows) if rows > 1 else (0, 2)))
    plt.yticks([float(rows - i * (each + gap)) for i in range(len(labels))], labels)
    plt.xlim(low, high)
    _mark_x(plt, [t for t in ticks(low, high, max(canvas // 16, 2)) if low <= t <= high], compact)
    return _built(plt, chart.y_name, chart.x_name)


def _lines(chart: Chart, width: int, height: int, colour: bool) -> str:
    """A line a series, over a scale of numbers or time; texts follow each other evenly."""
    plt = _fresh(width, height)
    texts = chart.labels() if isinstance(chart.x[0], str) else None
    places = chart.places
    several = len(chart.series) > 1
    for number, series in enumerate(chart.series):
        points = [(x, v) for x, v in zip(places, series.values, strict=True) if v is not None]
        mark = DOTS[number] if several and not colour else "braille"
        if len(points) == 1:
            mark = "●"
        if points:
            plt.plot(
                [x for x, _ in points], [v for _, v in points], marker=mark, color=_colour(number, colour)
            )
    numbers = chart.numbers()
    scale = ticks(min(numbers), max(numbers), max(height // 4, 2))
    plt.ylim(scale[0], scale[-1])
    plt.yticks(scale, [compact(t) for t in scale])
    low, high = min(places), max(places)
    room = max(width // 14, 2)
    if texts is not None:
        every = -(-len(texts) // room)
        plt.xticks(places[::every], [clipped(visible(t), 12) for t in texts[::every]])
    elif low == high:
        plt.xticks([low], chart.labels()[:1])
    elif chart.timed:
        at, step = time_ticks(low, high, room)
        plt.xticks(at, [moment(t, step) for t in at])
    else:
        _mark_x(plt, [t for t in ticks(low, high, room) if low <= t <= high], placed)
    if low < high:
        plt.xlim(low, high)
    return _built(plt, chart.x_name, chart.y_name)


def _histogram(chart: Chart, width: int, height: int, colour: bool) -> str:
    """Columns that touch, one a bin, from its lower edge to its upper one."""
    plt = _fresh(width, height)
    edges = chart.places
    counts = [v or 0.0 for v in chart.series[0].values]
    centres = [(a + b) / 2 for a, b in pairwise(edges)]
    plt.bar(centres, counts, width=1.0, marker=FILLS[0], color=_colour(0, colour), minimum=0)
    scale = [t for t in ticks(0, max(counts), max(height // 4, 2)) if t == int(t)]
    plt.ylim(0, scale[-1])
    plt.yticks(scale, [compact(t) for t in scale])
    plt.xlim(edges[0], edges[-1])
    _mark_x(
        plt,
        [t for t in ticks(edges[0], edges[-1], max(width // 14, 2)) if edges[0] <= t <= edges[-1]],
        placed,
    )
    return _built(plt, chart.x_name, chart.y_name)


def _legend(chart: Chart, width: int, colour: bool) -> str:
    marks = FILLS if chart.kind == "bar" else DOTS
    shown: list[str] = []
    used = 0
    for number, series in enumerate(chart.series):
        name = clipped(visible(series.name), 24)
        used += width_of(name) + 4
        if used > width and shown:
            return "  ".join([*shown[:-1], "…"])
        mark = f"\x1b[38;5;{COLOURS[number]}m██\x1b[0m" if colour else marks[number]
        shown.append(f"{mark} {name}")
    return "  ".join(shown)


def _mark_x(plt: Any, places: Sequence[float], told: Callable[[float], str]) -> None:
    plt.xticks(places, [told(t) for t in places])


def _fresh(width: int, height: int) -> Any:
    """plotext, which keeps one figure for all, with a new one of this size."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limitsize(False, False)
    plotext.plotsize(width, height)
    return plotext


def _built(plt: Any, along: str, up: str) -> str:
    plt.xlabel(visible(along))
    plt.ylabel(visible(up))
    return str(plt.build())


def _colour(number: int, colour: bool) -> int | str:
    return COLOURS[number] if colour else "default"


def _painted(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if colour else text
