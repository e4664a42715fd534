"""Work that can be given up: a deadline and Ctrl-C hold even while a store hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from meshql.errors import DeadlineError, InterruptedQueryError, MeshError

__all__ = ["abandoned", "supervise"]

T = TypeVar("T")

GRACE_SECONDS = 0.8

TICK_SECONDS = 0.1


class _Work(threading.Thread, Generic[T]):
    """Runs one function and keeps its outcome."""

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__(name="meshql-work", daemon=True)
        self._function = function
        self.done = threading.Event()
        self.value: T
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()


def supervise(
    function: Callable[[], T],
    interrupt: Callable[[], None],
    *,
    timeout: float | None = None,
    tick: Callable[[], None] | None = None,
    stop: Callable[[], None] | None = None,
) -> T:
    """Run `function` in a thread of its own and return its value; `tick` is called ten times a second.

    On Ctrl-C, or after `timeout` seconds, `interrupt` is called, and InterruptedQueryError or DeadlineError
    raised. A function that hangs on a store all the same is left behind a second later: `abandoned` is then
    true of the error. The mesh it used has to be given up, and the process left with os._exit. With `stop`,
    the first Ctrl-C calls that, and the function is waited for until it has come to its end.
    """
    work = _Work(function)
    error: MeshError
    try:
        work.start()
        if _ended(work.done, timeout, tick, stop):
            if work.error is not None:
                raise work.error
            return work.value
        error = DeadlineError(f"not done within {timeout:g} s", hint="raise --timeout, or read less")
    except KeyboardInterrupt:
        error = InterruptedQueryError("cancelled")
    interrupt()
    if not work.done.wait(GRACE_SECONDS):
        error.__cause__ = TimeoutError("the store hangs")
    raise error


def _ended(
    done: threading.Event,
    timeout: float | None,
    tick: Callable[[], None] | None,
    stop: Callable[[], None] | None,
) -> bool:
    try:
        return _waited(done, timeout, tick)
    except KeyboardInterrupt:
        if stop is None:
            raise
        stop()
        return _waited(done, timeout, tick)


def _waited(done: threading.Event, timeout: float | None, tick: Callable[[], None] | None) -> bool:
    """Wait until `done` or the timeout, whichever comes first; whether it was `done`."""
    if tick is None:
        return done.wait(timeout)
    ends = None if timeout is None else time.monotonic() + timeout
    while not done.wait(TICK_SECONDS):
        if ends is not None and time.monotonic() >= ends:
            return False
        tick()
    return True


def abandoned(error: BaseException) -> bool:
    """Whether `error` left work behind that hangs."""
    return isinstance(error, (DeadlineError, InterruptedQueryError)) and isinstance(
        error.__cause__, TimeoutError
    )
