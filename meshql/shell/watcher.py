"""The catalog's files, looked at while the shell runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from meshql.catalog.load import load
from meshql.catalog.model import Catalog
from meshql.errors import CatalogError

__all__ = ["CatalogWatcher"]

EVERY_SECONDS = 1.0


class CatalogWatcher:
    """Loads the catalog again when a file of it has changed, and tells the outcome.

    `changed` gets the new catalog; `broken` gets the error, and the last good catalog stays in force.
    """

    def __init__(
        self,
        root: Path,
        changed: Callable[[Catalog], None],
        broken: Callable[[CatalogError], None],
        *,
        every: float = EVERY_SECONDS,
    ) -> None:
        self._root = root
        self._changed = changed
        self._broken = broken
        self._every = every
        self._seen = self._stamp()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meshql-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every):
            self.look()

    def look(self) -> None:
        """Look once; does nothing as long as the files are as they were."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            catalog = load(self._root)
        except CatalogError as error:
            self._broken(error)
        else:
            self._changed(catalog)

    def _stamp(self) -> frozenset[tuple[str, int, int]]:
        files = [self._root] if self._root.is_file() else self._root.rglob("*.y*ml")
        stamps = set()
        for file in files:
            try:
                found = file.stat()
            except OSError:
                # An editor that writes aside and renames takes the file away for a moment.
                continue
            stamps.add((str(file), found.st_mtime_ns, found.st_size))
        return frozenset(stamps)
