"""What is followed, as a table for a terminal or as a line: states, rates, how far each product is behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshql.catalog.build import in_batches
from meshql.terminal import size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from meshql.build.follow import Following
    from meshql.build.followed import Followed, State

__all__ = ["Rates", "status_lines", "table"]

WINDOW_SECONDS = 5.0

WIDE = 116
"""From so many columns on, a product takes one line."""

SIGNS: dict[State, tuple[str, str]] = {
    "starting": ("·", "dim"),
    "waiting": ("·", "dim"),
    "building": ("▸", "cyan"),
    "following": ("▸", "cyan"),
    "idle": ("✓", "green"),
    "retrying": ("!", "yellow"),
    "held": ("–", "yellow"),
    "failed": ("✗", "red"),
    "blocked": ("✗", "red"),
    "ended": ("=", "dim"),
}

Counted = tuple[int, int, int, int]
"""Inserts, updates, deletes, and others; of a product that tells no kinds, all of its changes are others."""


@dataclass(slots=True)
class _Seen:
    """What was counted of one product lately; a step that begins anew begins at 0."""

    samples: deque[tuple[float, Counted]] = field(default_factory=deque)
    last: Counted = (0, 0, 0, 0)
    base: Counted = (0, 0, 0, 0)

    def look(self, now: float, counted: Counted) -> None:
        if sum(counted) < sum(self.last):
            self.base = _added(self.base, self.last)
        self.last = counted
        self.samples.append((now, _added(self.base, counted)))
        while len(self.samples) > 2 and now - self.samples[0][0] > WINDOW_SECONDS:
            self.samples.popleft()

    def rates(self) -> tuple[float, ...]:
        if len(self.samples) < 2:
            return (0.0,) * 4
        (began, first), (ended, last) = self.samples[0], self.samples[-1]
        seconds = max(ended - began, 0.1)
        return tuple((b - a) / seconds for a, b in zip(first, last, strict=True))


def _added(a: Counted, b: Counted) -> Counted:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


class Rates:
    """Changes a second of each product, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def look(self, following: Following, now: float) -> None:
        """Take notice of what is counted at the moment."""
        for one in following.products.values():
            stream = one.turn.progress.stream
            seen = self._seen.setdefault(one.name, _Seen())
            if stream is not None:
                seen.look(now, (stream.inserts, stream.updates, stream.deletes, stream.others))
            elif not one.streams:
                seen.look(now, (0, 0, 0, one.total.counts.rows_in or one.total.counts.rows_out))

    def of(self, one: Followed) -> tuple[float, ...]:
        """Inserts, updates, deletes and others a second."""
        return self._seen[one.name].rates() if one.name in self._seen else (0.0,) * 4


def status_lines(following: Following, rates: Rates) -> Iterator[str]:
    """Yield how each product stands, a line each."""
    for one in following.products.values():
        by_kind, position, lag = _by_kind(one, rates), _position(one), _lag(following, one)
        rows, problem = one.total.counts.rows_out, _problem(one)
        said = [
            _state(one),
            f"{rows:,} rows" if rows else "",
            f"{by_kind} a second" if by_kind else "",
            f"{lag} behind" if lag not in ("", "0") else "",
            f"at {position}" if position else "",
            f"committed {_ago(one)}" if one.committed_at is not None else "",
            problem or "",
        ]
        yield f"{one.name}  {' · '.join(s for s in said if s)}"


def table(
    following: Following, rates: Rates, seconds: float, ending: str, width: int, height: int
) -> RenderableType:
    """Return the table, no higher than the terminal, with what is wrong below it."""
    from rich.console import Group
    from rich.text import Text

    products = list(following.products.values())
    lines = 1 if width >= WIDE else 2
    troubles = [t for p in products if (t := _trouble(p)) is not None]
    shown = max((height - 4 - len(troubles)) // lines, 1)
    count = f"{len(products)} product{'' if len(products) == 1 else 's'}"
    title = f"{count} followed for {_time(seconds)} · run {following.run.id} · {ending}"
    drawn = _Drawing(following, rates, wide=lines == 1)
    for one in products[:shown]:
        drawn.add(one)
    more = [Text(f"and {len(products) - shown} more", "dim")] if len(products) > shown else []
    return Group(Text(title, "dim", no_wrap=True, overflow="ellipsis"), drawn.table, *more, *troubles)


def _trouble(one: Followed) -> Text | None:
    from rich.text import Text

    if (words := _problem(one)) is None:
        return None
    named = words if one.name in words else f"{one.name}: {words}"
    return Text(named, SIGNS[one.state][1], no_wrap=True, overflow="ellipsis")


def _problem(one: Followed) -> str | None:
    """What is wrong with a product, in a line."""
    error = one.problem or (one.turn.error if one.state == "failed" else None)
    if error is not None:
        return error.message.splitlines()[0]
    return f"breaks its contract: {one.broken[0]}" if one.broken else None


def _state(one: Followed) -> str:
    return f"{one.state}: {one.waits_for}" if one.waits_for else one.state


class _Drawing:
    """A table of products: a line each, or two where the terminal is narrow."""

    def __init__(self, following: Following, rates: Rates, *, wide: bool) -> None:
        from rich.table import Table

        self.table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), show_edge=False)
        self._following, self._rates, self._wide = following, rates, wide
        for name in ("", "product", "kind", "state") if wide else ("", "product", "state"):
            self.table.add_column(name, no_wrap=True)
        figures = ("changes/s", "by kind", "rows", "lag", "at", "commit")
        for name in figures if wide else ("changes/s", "rows", "lag", "commit"):
            self.table.add_column(name, justify="right", no_wrap=True)

    def add(self, one: Followed) -> None:
        """Draw a product."""
        from rich.text import Text

        sign, style = SIGNS[one.state]
        kind = "log" if one.streams else one.product.build.kind if one.product.build else ""
        at, lag, ago = _position(one), _lag(self._following, one), _ago(one)
        # What a stream has read and not committed is no row yet.
        rows = one.total.counts.rows_out + (one.turn.progress.rows if one.state == "building" else 0)
        rates = self._rates.of(one)
        changes, written = _rate(sum(rates)), f"{rows:,}" if rows else ""
        kinds = [f"{s}{_rate(r)}" for s, r in zip("+~-×", rates, strict=True) if one.streams and r]
        named = Text(sign, style), Text(one.name, "bold" if style == "cyan" else "")
        if self._wide:
            state = Text(_state(one), style)
            self.table.add_row(
                *named, Text(kind, "dim"), state, changes, " ".join(kinds), written, lag, at, ago
            )
            return
        self.table.add_row(*named, Text(one.state, style), changes, written, lag, ago)
        below = Text(" · ".join(text for text in (kind, at) if text), "dim")
        self.table.add_row("", below, "", *(Text(text, "dim") for text in kinds))


def _by_kind(one: Followed, rates: Rates) -> str:
    """Changes a second by kind; nothing where none came."""
    names = ("ins", "upd", "del", "trunc") if one.streams else ("", "", "", "rows")
    named = zip(rates.of(one), names, strict=True)
    return " ".join(f"{_rate(rate)} {name}" for rate, name in named if rate)


def _rate(rate: float) -> str:
    """Changes a second; nothing where none came."""
    return f"{rate:,.0f}" if rate >= 1 else "<1" if rate else ""


def _ago(one: Followed) -> str:
    return "" if one.committed_at is None else f"{_time(time.monotonic() - one.committed_at)} ago"


def _lag(following: Following, one: Followed) -> str:
    """How far a product is behind: bytes and seconds of a stream, or versions of its parents."""
    stream = one.turn.progress.stream
    if stream is not None:
        return f"{size(stream.lag_bytes)} {stream.lag_seconds:.1f} s"
    behind = following.behind(one)
    return "" if behind is None else f"{behind:,}"


def _position(one: Followed) -> str:
    """Where a stream is in the server's log, or which version of its parent a product is made of."""
    if (stream := one.turn.progress.stream) is not None:
        return stream.position
    if len(one.parents) != 1 or one.parents[0] not in one.taken:
        return ""
    word = "batch" if in_batches(one.run.graph.products[one.parents[0]].build) else "version"
    return f"{word} {one.taken[one.parents[0]].removeprefix('v')}"


def _time(seconds: float) -> str:
    """A length of time in the unit that suits it: `8 s`, `3 min`, `26 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.0f} h"
