"""The lock that lets one process at a time change the demo."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meshql.errors import DeadlineError

__all__ = ["locked"]


@contextmanager
def locked(path: Path, *, seconds: float = 300) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process to let go of it; the file is gone afterwards.

    A process that dies lets go. Raises DeadlineError when the lock is not free after `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    while (handle := _try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"another meshql demo has been at work for {seconds:.0f} s", hint=f"its lock is {path}"
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _try_lock(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    # Another process holds the lock, or has just removed the file: the caller tries again.
    with suppress(OSError):
        _lock(handle)
        # The last holder removes the file: a lock on a removed file keeps nobody out.
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    os.close(handle)
    return None


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
