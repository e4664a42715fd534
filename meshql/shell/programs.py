"""Programs of the user's that take the terminal for a while: the pager and the editor."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from meshql.errors import UsageError

__all__ = ["run_program", "words_of"]


def words_of(text: str) -> list[str]:
    """Return the words of a command line, as a POSIX shell splits it; raises UsageError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        reason = str(error).casefold()
        raise UsageError(f"cannot read {text}: {reason}", hint="close the quote") from None


def run_program(
    program: Sequence[str], *, text: str | None = None, environment: Mapping[str, str] | None = None
) -> int:
    """Run a program until it ends, with `text` on its stdin, and return its exit code; Ctrl-C is its own."""
    with _left_alone():
        given = None if text is None else text.encode()
        return subprocess.run(program, input=given, env=environment, check=False).returncode


@contextmanager
def _left_alone() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, for the program would inherit SIG_IGN and could not be interrupted at all.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
