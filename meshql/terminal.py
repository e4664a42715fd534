"""What meshql says beside the data: everything here goes to stderr."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from meshql.errors import MeshError
from meshql.redact import redact

__all__ = ["Steps", "coloured", "note", "report", "say", "size", "warn_unasked"]

SHOWN_AFTER_SECONDS = 1.0

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def coloured(stream: object = None) -> bool:
    """Whether a stream, stderr if none is given, takes colour: a terminal that nobody asked to stay plain."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    is_terminal = getattr(stream or sys.stderr, "isatty", lambda: False)()
    return bool(is_terminal) and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    """Return `text` in a style where stderr takes colour, else as it is."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if coloured() else text


def say(text: str) -> None:
    """Write a line to stderr, behind whatever stdout still holds back; secrets in it are masked."""
    sys.stdout.flush()
    print(redact(text), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Say something the reader should know."""
    say(f"{styled('note:', 'cyan')} {text}")


def warn_unasked(name: str, error: MeshError) -> None:
    """Say that a remote catalog could not be asked what it has."""
    note(f"catalog {name} could not be asked, and its products may be missing: {error.message}")


def report(error: MeshError) -> None:
    """Say what failed, and its hint after an empty line."""
    say(f"{styled('meshql: error:', 'red')} {error.message}")
    if error.hint:
        say(f"\n{styled('hint:', 'cyan')} {error.hint}")


def size(count: float) -> str:
    """Return a number of bytes for people, in powers of 1000: `18.2 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


class Steps:
    """Says which step is under way once it has taken a second, and what it took when it is done."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show `name` while inside; a step of under a second stays silent."""
        started = time.perf_counter()
        timer = threading.Timer(SHOWN_AFTER_SECONDS, lambda: say(styled(f"  {name} …", "dim")))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        seconds = time.perf_counter() - started
        if seconds >= SHOWN_AFTER_SECONDS:
            say(f"  {styled('✓', 'green')} {name} ({seconds:.1f} s)")
