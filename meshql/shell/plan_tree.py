"""A plan drawn as a tree: a line an operator, with its rows, its time and its share of all time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshql.output.visible import clipped, padded, visible, width_of
from meshql.query.profile import Operator, Scan
from meshql.terminal import STYLES, size

__all__ = ["draw"]

NARROWEST = 40
"""Columns that a tree is drawn in at least."""

BARS_FROM = 84
"""Columns from which there is room for bars."""

BAR = 8

EIGHTHS = " ▏▎▍▌▋▊▉█"

HOT, WARM = 0.5, 0.2
"""Shares of all time from which an operator is worth a second look."""


def draw(operator: Operator, width: int, *, colour: bool = False) -> str:
    """Return the tree of a plan for a terminal of `width` columns, without a newline at the end.

    Products stand under their own names, with what was read of them; filters that a scan applies stand below
    it. Text that finds no room is cut with …. Nothing is told by colour alone.
    """
    whole = operator.seconds is not None or operator.name in {"plan", "result"}
    steps = operator.children if whole and operator.scan is None else (operator,)
    ran = any(step.seconds is not None for step in steps) or operator.seconds is not None
    counts = [_count(step, ran) for top in steps for step in top.walk()]
    canvas = _Canvas(max(width, NARROWEST), max(map(len, ["≈ rows", *counts])), ran, colour)
    drawn = [line for step in steps for line in canvas.lines(step, "", "")]
    foot = canvas.painted(clipped(_foot(operator, ran), canvas.width), "dim")
    return "\n".join([canvas.head(), *drawn, "", foot] if drawn else ["nothing was scanned", "", foot])


@dataclass(frozen=True, slots=True)
class _Canvas:
    """How wide a tree may be, and what its columns are."""

    width: int
    counts: int
    ran: bool
    colour: bool

    @property
    def bars(self) -> bool:
        """Whether there is room for bars."""
        return self.ran and self.width >= BARS_FROM

    @property
    def room(self) -> int:
        """The columns left of the numbers."""
        return self.width - width_of(self._numbers("", "", None))

    def head(self) -> str:
        """The line above the numbers."""
        numbers = self._numbers("rows" if self.ran else "≈ rows", "time", None)
        share = "share" if self.bars else ""
        return self.painted((" " * self.room + numbers).rstrip() + f"  {share}".rstrip(), "dim")

    def lines(self, step: Operator, before: str, below: str) -> Iterator[str]:
        """Yield the lines of a step and of all below it.

        `before` stands left of its own line, `below` left of the others.
        """
        stem = below + ("│  " if step.children else "   ")
        room = self.room - width_of(before) - 1
        first, others = self._told(step, room, self.width - width_of(stem))
        shown = self._shortened(before)
        label = clipped(first, self.room - width_of(shown) - 1)
        numbers = self._numbers(_count(step, self.ran), _time(step.seconds), step.share)
        styled = self._styled(step, label) + " " * (self.room - width_of(shown) - width_of(label))
        yield (self.painted(shown, "dim") + styled + self._hot(step, numbers)).rstrip()
        for text in others:
            line = self._shortened(stem) + text
            yield self.painted(clipped(line, self.width), "dim")
        for child in step.children:
            last = child is step.children[-1]
            yield from self.lines(
                child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")
            )

    def painted(self, text: str, style: str) -> str:
        """The text in a style, where there is colour."""
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.colour and text else text

    def _told(self, step: Operator, room: int, below: int) -> tuple[str, list[str]]:
        """The text of a step's own line, cut at `room`, and the lines under it, one if that fits `below`."""
        details = [visible(text) for text in step.details]
        if step.scan is None:
            return "  ".join([visible(step.name), *details[:1]]), details[1:]
        facts, line = _facts(step.scan), visible(step.name)
        while facts and width_of(f"{line}  {facts[0]}") <= room:
            line += f"  {facts.pop(0)}"
        others = [*facts, *details]
        together = " · ".join(others)
        return line, [together] if others and width_of(together) <= below else others

    def _shortened(self, prefix: str) -> str:
        """The branches left of a step; of a deep tree the ones next to it."""
        most = max(self.room // 2, 12)
        return prefix if len(prefix) <= most else f"…{prefix[-most // 3 * 3 :]}"

    def _styled(self, step: Operator, label: str) -> str:
        name = visible(step.name)
        if not label.startswith(name):
            return self.painted(label, "bold")
        style = "cyan" if step.scan else "bold"
        return self.painted(name, style) + label[len(name) :]

    def _hot(self, step: Operator, numbers: str) -> str:
        share = step.share or 0.0
        return self.painted(numbers, "red" if share >= HOT else "yellow") if share >= WARM else numbers

    def _numbers(self, rows: str, time: str, share: float | None) -> str:
        line = f"  {rows:>{self.counts}}"
        if self.ran:
            line += f"  {time:>6}"
        if self.bars:
            line += f"  {padded(_bar(share), BAR, right=False)} {_percent(share):>4}"
        return line


def _facts(scan: Scan) -> list[str]:
    """What is told of a scan: the version and where it lies, then how many files and bytes it took."""
    place = " ".join(filter(None, (scan.cloud, scan.region)))
    facts = [" ".join(filter(None, (_version(scan), "" if scan.cloud == "local" else place)))]
    read = []
    if scan.files is not None and scan.files_total is not None:
        read.append(f"{scan.files:,} of {_counted(scan.files_total, 'file')}")
    elif scan.files is not None:
        read.append(_counted(scan.files, "file"))
    if scan.bytes is not None and scan.requests:
        read.append(size(scan.bytes) if scan.bytes else "cached")
    return [*facts, "  ".join(read)] if read else facts


def _version(scan: Scan) -> str:
    """The format and the version; a digest of files would tell a reader nothing."""
    if scan.format == "delta":
        return f"delta@{scan.version}"
    if scan.format == "iceberg":
        number = scan.version.removesuffix(".metadata.json").partition("-")[0].lstrip("v0")
        return f"iceberg@{number or '0'}" if number.isdigit() or not number else "iceberg"
    return scan.format


def _foot(operator: Operator, ran: bool) -> str:
    """The line below the tree: what all of it took."""
    if not ran:
        return "not run: rows are estimates"
    parts = []
    if operator.rows is not None and operator.seconds is not None:
        parts.append(f"{_counted(operator.rows, 'row')} in {_time(operator.seconds)}")
    scans = [step.scan for step in operator.walk() if step.scan and step.scan.bytes is not None]
    requests = sum(scan.requests or 0 for scan in scans)
    if requests:
        read = sum(scan.bytes or 0 for scan in scans)
        asked = _counted(requests, "request")
        parts.append(f"{size(read)} in {asked}" if read else f"{asked}, all bytes were cached")
    if operator.children:
        parts.append("times add up over threads")
    return " · ".join(parts)


def _count(step: Operator, ran: bool) -> str:
    rows = step.rows if ran else step.estimated_rows
    return "" if rows is None else f"{rows:,}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _time(seconds: float | None) -> str:
    if seconds is None or seconds < 0.0000005:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale * 0.9995:
            value = seconds / scale
            return f"{value:,.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    return f"{seconds / 1e-6:.0f} µs"


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return f"{share:.0%}" if share >= 0.005 else ""


def _bar(share: float | None) -> str:
    eighths = round((share or 0.0) * BAR * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
