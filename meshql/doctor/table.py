"""Diagnoses as lines of text: one for a connection that is well, more for one that is not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from meshql.doctor.diagnosis import Diagnosis, State
from meshql.terminal import STYLES

__all__ = ["diagnoses_text"]

MARKS: dict[State, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
    "skipped": ("–", "dim"),
}

QUIET = frozenset({"credentials", "network", "clock", "region"})
"""Checks that go without saying when they are well, or cannot be done where all else is."""

CATALOGS = frozenset({"iceberg_rest", "unity"})
"""Clouds whose products nobody declares."""

LEAST_IDENTITY = 24


def diagnoses_text(diagnoses: Sequence[Diagnosis], *, width: int | None = None, colour: bool = False) -> str:
    """Return the lines; identities are shortened where a line would be wider than `width` columns."""
    columns = [_columns(d) for d in diagnoses]
    widths = [
        max((len(row[i]) for row in columns), default=0) for i in range(len(columns[0]) if columns else 0)
    ]
    tails = [_tail(d) for d in diagnoses]
    if width is not None and columns:
        longest = max(len(_plain(tail)) for tail in tails)
        room = width - 4 - sum(widths) - 2 * len(widths) - longest + widths[3]
        widths[3] = min(widths[3], max(room, LEAST_IDENTITY))
    lines = []
    for found, row, tail in zip(diagnoses, columns, tails, strict=True):
        row[3] = _shortened(row[3], widths[3])
        cells = "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True) if w)
        lines.append(f"{_mark(_state(found), colour)} {cells}  {_coloured(tail, colour)}".rstrip())
        lines += _explained(found, colour)
    return "\n".join([*lines, *_verdict(diagnoses)])


Tail = list[tuple[str, State | None]]
"""What stands behind the columns: words, and marks of checks."""


def _columns(found: Diagnosis) -> list[str]:
    credentials = found.check("credentials")
    method = credentials.message if credentials and credentials.state == "ok" else found.method
    until = f"until {_moment(found.expires_at)}" if found.expires_at else ""
    return [found.connection, found.cloud, method or "", found.identity or "", until]


def _tail(found: Diagnosis) -> Tail:
    tail: Tail = []
    bare = all(check.name in QUIET for check in found.checks)
    for check in found.checks:
        # Nobody misses what a store does not tell while all else is well.
        well = check.state == "ok" or (check.state == "skipped" and found.ok)
        if not well or check.name not in QUIET or bare:
            tail += [(f"{check.name} ", None), (MARKS[check.state][0], check.state), (" ", None)]
    return [*tail, (f"{found.seconds:.2f} s", None)]


def _explained(found: Diagnosis, colour: bool) -> list[str]:
    lines, hints = [], set[str]()
    for check in found.checks:
        if check.state in ("failed", "warning"):
            first, *rest = (check.message or "failed").splitlines()
            lines += [f"    {check.name}: {first}", *(f"      {line}" for line in rest)]
            if check.hint and check.hint not in hints:
                hints.add(check.hint)
                lines.append(f"    {_styled('hint:', 'cyan', colour)} {check.hint}")
    if not found.products and found.cloud not in CATALOGS:
        lines.append(_styled("    no product uses it", "dim", colour))
    return lines


def _verdict(diagnoses: Sequence[Diagnosis]) -> list[str]:
    failed = sum(not d.ok for d in diagnoses)
    if not failed:
        return []
    return [f"{failed} of {len(diagnoses)} connection{'s' if len(diagnoses) > 1 else ''} failed"]


def _state(found: Diagnosis) -> State:
    if not found.ok:
        return "failed"
    return "warning" if any(c.state == "warning" for c in found.checks) else "ok"


def _moment(instant: datetime) -> str:
    """Local time; with the day where it is not today."""
    local = instant.astimezone()
    today = datetime.now(local.tzinfo).date()
    return f"{local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


def _shortened(text: str, width: int) -> str:
    """The text without its middle: what it begins and ends with tells most."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def _mark(state: State, colour: bool) -> str:
    mark, style = MARKS[state]
    return _styled(mark, style, colour)


def _plain(tail: Tail) -> str:
    return "".join(text for text, _ in tail)


def _coloured(tail: Tail, colour: bool) -> str:
    return "".join(_mark(state, colour) if state else text for text, state in tail)


def _styled(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if colour else text
