"""A build that dies at a chosen point, in a process of its own.

Points are the calls by which a build changes what others see, or is about to: objects put and removed, Delta
and Iceberg commits, queries. A child process is forked for each build, so that nothing has to be imported
again; it is killed with SIGKILL, which no code can catch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshql.storage.store import Store

MOMENTS = ("before", "during", "after")


class Killer:
    """Counts points, and kills the process at one of them."""

    def __init__(self, at: int | None, moment: str, delay: float) -> None:
        self.at = at
        self.moment = moment
        self.delay = delay
        self.seen: list[str] = []
        self._lock = threading.Lock()

    def chosen(self, number: int, point: str) -> bool:
        """Whether this is the point to die at."""
        return number == self.at

    def wrap(self, owner: Any, name: str, label: Callable[..., str]) -> None:
        """Make each call of a function a point."""
        real = getattr(owner, name)

        def point(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                number = len(self.seen)
                self.seen.append(label(*args, **kwargs))
                mine = self.chosen(number, self.seen[-1])
            if mine and self.moment == "before":
                die()
            if mine and self.moment == "during":
                threading.Thread(target=lambda: (time.sleep(self.delay), die()), daemon=True).start()
            result = real(*args, **kwargs)
            if mine and self.moment in ("after", "during"):
                die()
            return result

        setattr(owner, name, point)


def die() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def instrument(killer: Killer) -> None:
    """Make points of what a build does to its stores."""
    import deltalake
    import deltalake.table
    import deltalake.writer

    from meshql.query.reading import Reading

    killer.wrap(Store, "put", lambda self, key, *a, **k: f"put {key}")
    killer.wrap(Store, "delete", lambda self, keys: f"delete {len(keys)}")
    killer.wrap(Reading, "ask", lambda self, sql: f"ask {sql[:30]!r}")
    write = deltalake.write_deltalake
    killer.wrap(deltalake, "write_deltalake", lambda uri, *a, **k: f"delta write {uri}")
    deltalake.writer.write_deltalake = deltalake.write_deltalake
    assert write is not deltalake.write_deltalake
    killer.wrap(deltalake.table.TableMerger, "execute", lambda self, *a, **k: "delta merge")
    killer.wrap(deltalake.DeltaTable, "delete", lambda self, *a, **k: "delta delete")
    killer.wrap(deltalake.DeltaTable, "create_write_transaction", lambda self, *a, **k: "delta commit")


def forked(work: Callable[[], object], log: Path) -> int:
    """Run `work` in a forked child, and return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
