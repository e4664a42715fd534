"""Charts of results as SVG, for a page; the page's style sheet gives the colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape

from meshql.output.visible import clipped, visible, width_of
from meshql.shell.chart import Chart, Series, compact, moment, placed, ticks, time_ticks

__all__ = ["svg"]

WIDTH = 960

LETTER = 7.2
"""About the width of a letter, which is all that a text knows before it is drawn."""

LONGEST_LABEL = 28

BAR, GAP = 20, 10

LINE_HEIGHT = 300

MARKED_POINTS = 60
"""Points of a line that are marked each; more would cover the line."""

ALIKE = 20
"""How many times the largest series may be the smallest one, for both to be seen on one scale."""


def svg(chart: Chart) -> str:
    """Return the chart as SVG elements: one, or one for each series where their scales differ much."""
    peaks = [max((abs(v) for v in s.values if v is not None), default=0.0) for s in chart.series]
    lowest = min((p for p in peaks if p), default=0.0)
    if max(peaks) <= lowest * ALIKE:
        return _drawn(chart, 0, "")
    parts = (replace(chart, series=(s,), y_name=s.name) for s in chart.series)
    return "\n".join(_drawn(part, n, escape(visible(part.title))) for n, part in enumerate(parts))


def _drawn(chart: Chart, first: int, caption: str) -> str:
    """One element; its first series has the colour of number `first`."""
    height, shapes = (_bars if chart.kind == "bar" else _lines)(chart, first)
    body = "\n".join(shapes)
    caption += _legend(chart.series, first) if len(chart.series) > 1 else ""
    head = f"<figcaption>{caption}</figcaption>\n" if caption else ""
    label = f'role="img" aria-label="{escape(visible(chart.title))}"'
    return f'<figure>{head}<svg viewBox="0 0 {WIDTH} {height:.0f}" {label}>\n{body}\n</svg></figure>'


def _legend(series: Sequence[Series], first: int) -> str:
    return "".join(
        f'<span class="key"><i class="c{first + n}"></i>{escape(visible(s.name))}</span>'
        for n, s in enumerate(series)
    )


def _bars(chart: Chart, first: int) -> tuple[float, list[str]]:
    labels = [clipped(visible(text), LONGEST_LABEL) for text in chart.labels()]
    each = len(chart.series)
    thick = BAR if each == 1 else 13
    group = each * thick + GAP
    left = max(map(width_of, labels)) * LETTER + 12
    room = WIDTH - left - max(len(compact(v)) for v in chart.numbers()) * LETTER - 12
    low, high = min([0.0, *chart.numbers()]), max([0.0, *chart.numbers()])
    per = room / ((high - low) or 1.0)
    zero = left - low * per
    shapes = [f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{len(labels) * group}"/>']
    for place, label in enumerate(labels):
        top = place * group + GAP / 2
        shapes.append(_text(left - 8, top + each * thick / 2, label, "end"))
        for number, series in enumerate(chart.series):
            value = series.values[place]
            if value is not None:
                tip = f"{label}: {series.name} {_exact(value)}"
                at, wide = min(zero, zero + value * per), abs(value) * per
                y = top + number * thick
                shapes.append(
                    f'<rect class="c{first + number}" x="{at:.1f}" y="{y:.1f}" width="{max(wide, 1):.1f}"'
                    f' height="{thick - 2}" rx="2"><title>{escape(visible(tip))}</title></rect>'
                )
                shapes.append(_text(at + wide + 6, y + thick / 2 - 1, compact(value), "start", "value"))
    return len(labels) * group, shapes


def _lines(chart: Chart, first: int) -> tuple[float, list[str]]:
    numbers, places, names = chart.numbers(), chart.places, chart.labels()
    scale = ticks(min(numbers), max(numbers), 5)
    left = max(len(compact(t)) for t in scale) * LETTER + 12
    low, high = min(places), max(places)
    across, up = (WIDTH - left - 24) / ((high - low) or 1.0), (LINE_HEIGHT - 44) / (scale[-1] - scale[0])

    def x(place: float) -> float:
        return left + (place - low) * across

    def y(value: float) -> float:
        return 10 + (scale[-1] - value) * up

    shapes = []
    for tick in scale:
        at = y(tick)
        shapes.append(f'<line class="grid" x1="{left:.1f}" x2="{WIDTH - 24}" y1="{at:.1f}" y2="{at:.1f}"/>')
        shapes.append(_text(left - 8, at, compact(tick), "end"))
    for place, text in _marks(chart, low, high):
        half = width_of(text) * LETTER / 2
        at = min(max(x(place), half), WIDTH - half)
        shapes.append(_text(at, LINE_HEIGHT - 14, text, "middle"))
    for number, series in enumerate(chart.series):
        points = [
            (x(p), y(v), f"{name}: {series.name} {_exact(v)}")
            for p, v, name in zip(places, series.values, names, strict=True)
            if v is not None
        ]
        shapes.extend(_line(points, first + number))
    return LINE_HEIGHT, shapes


def _line(points: Sequence[tuple[float, float, str]], number: int) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    yield f'<polyline class="c{number}" points="{path}"/>'
    if len(points) <= MARKED_POINTS:
        for x, y, tip in points:
            title = f"<title>{escape(visible(tip))}</title>"
            yield f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>'


def _marks(chart: Chart, low: float, high: float) -> list[tuple[float, str]]:
    """The places on the x axis that are named, with their names."""
    if low == high:
        return [(low, chart.labels()[0])]
    if chart.timed:
        at, step = time_ticks(low, high, 8)
        return [(t, moment(t, step)) for t in at]
    if isinstance(chart.x[0], str):
        every = -(-len(chart.x) // 8)
        return [(p, clipped(visible(t), 14)) for p, t in zip(chart.places, chart.labels(), strict=True)][
            ::every
        ]
    return [(t, placed(t)) for t in ticks(low, high, 8) if low <= t <= high]


def _exact(value: float) -> str:
    return f"{value:,.10g}"


def _text(x: float, y: float, text: str, anchor: str, style: str = "label") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        f' dominant-baseline="central">{escape(text)}</text>'
    )
