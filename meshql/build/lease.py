"""Who builds a product at the moment, said in an object beside its table, so that two builds keep apart.

It is a courtesy: what keeps a table right is that its commits are conditional.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from meshql.errors import BusyError, MeshError
from meshql.storage.location import Location
from meshql.storage.store import Store

__all__ = ["Holder", "holder", "lease"]

LIFE_SECONDS = 60.0
RENEWED_EVERY_SECONDS = 15.0
LOOKED_AGAIN_AFTER_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """The build that holds a product."""

    run: str
    host: str
    pid: int
    since: str
    until: str

    @classmethod
    def of(cls, run: str, since: datetime) -> Holder:
        """Return this process as the holder, for the next minute."""
        until = datetime.now(UTC) + timedelta(seconds=LIFE_SECONDS)
        return cls(run, socket.gethostname(), os.getpid(), since.isoformat(), until.isoformat())

    @property
    def gone(self) -> bool:
        """Whether it has ended without saying so: its time is over, or its process is not there any more."""
        if datetime.fromisoformat(self.until) < datetime.now(UTC):
            return True
        return self.host == socket.gethostname() and not _alive(self.pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def lease(
    name: str, store: Store, location: Location, run: str, wait: float, check: Callable[[], None]
) -> Iterator[list[Holder]]:
    """Hold the product `name` for the block, and yield those who ended without letting it go.

    Whoever else holds it is waited for, `wait` seconds long, while `check` is called now and then. Raises
    BusyError after that.
    """
    ends = time.monotonic() + wait
    folder = f"{location.folder.key}_meshql/"
    while (found := _taken(store, folder, run)) is None or isinstance(found, Holder):
        check()
        if time.monotonic() >= ends:
            raise _busy(name, found)
        time.sleep(min(LOOKED_AGAIN_AFTER_SECONDS, max(ends - time.monotonic(), 0.01)))
    key, dead = found
    done = threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, key, run, done), daemon=True, name="meshql-lease")
    renewal.start()
    try:
        yield dead
    finally:
        done.set()
        renewal.join()
        # A lease that stays behind ends by itself.
        with suppress(MeshError):
            store.delete([key])


def holder(store: Store, location: Location) -> Holder | None:
    """Return the build that holds the product at `location` now; None where none does."""
    listed = store.objects(f"{location.folder.key}_meshql/lease-")
    living = [found for o in listed if (found := _holder(store.get(o.key))) and not found.gone]
    return living[-1] if living else None


def _taken(store: Store, folder: str, run: str) -> tuple[str, list[Holder]] | Holder | None:
    """Take the lease: its key and those that are gone; or who holds it; None when another was faster."""
    objects = [o for o in store.objects(f"{folder}lease-") if o.name.startswith("lease-")]
    holders = {o.key: _holder(store.get(o.key)) for o in objects}
    living = [h for h in holders.values() if h and not h.gone]
    if living:
        return living[-1]
    last = max((int(o.name.removeprefix("lease-").removesuffix(".json")) for o in objects), default=0)
    # The next number: of two that find the same one gone, one takes over.
    key = f"{folder}lease-{last + 1:09d}.json"
    if not store.put(key, _text(Holder.of(run, datetime.now(UTC))), new=True):
        return None
    store.delete(list(holders))
    return key, [h for h in holders.values() if h]


def _renew(store: Store, key: str, run: str, done: threading.Event) -> None:
    since = datetime.now(UTC)
    while not done.wait(RENEWED_EVERY_SECONDS):
        with suppress(MeshError):
            store.put(key, _text(Holder.of(run, since)))


def _text(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _holder(content: bytes | None) -> Holder | None:
    try:
        return Holder(**json.loads(content or b""))
    except (TypeError, ValueError):
        return None


def _busy(name: str, holder: Holder | None) -> BusyError:
    by = f" by run {holder.run} on {holder.host}, since {holder.since[:19]}" if holder else ""
    return BusyError(f"{name} is being built{by}", hint="wait for it: meshql build --wait 600")
