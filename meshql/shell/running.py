"""The line that lives while a query runs: a spinner, the time, and how far it is when DuckDB knows."""

from __future__ import annotations

import sys
import time

__all__ = ["LiveLine"]

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

SHOWN_AFTER_SECONDS = 0.3

BAR_WIDTH = 24


class LiveLine:
    """Drawn on stderr, over itself, by `tick`; gone without a trace after `clear`."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._started = time.perf_counter()
        self._frame = 0
        self._drawn = False

    @property
    def seconds(self) -> float:
        """The time since the line was made."""
        return time.perf_counter() - self._started

    def tick(self, percent: float) -> None:
        """Draw the line anew; `percent` is negative as long as nothing is known."""
        if not self._shown or self.seconds < SHOWN_AFTER_SECONDS:
            return
        self._frame += 1
        self._drawn = True
        text = f"{FRAMES[self._frame % len(FRAMES)]} {self.seconds:.1f} s"
        if percent > 0:
            done = int(BAR_WIDTH * min(percent, 100) / 100)
            text += f"  {'━' * done}{'─' * (BAR_WIDTH - done)} {percent:.0f} %"
        sys.stderr.write(f"\r\x1b[2K\x1b[2m{text}  Ctrl-C cancels\x1b[0m")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._drawn = False
