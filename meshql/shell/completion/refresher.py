"""Keeps the snapshot that completion reads: built in the background, swapped in whole."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from meshql.catalog.model import Catalog
from meshql.shell.completion.engine import Ask, ask_alone, offered
from meshql.shell.completion.metadata import Column, Engine, Known, Metadata

__all__ = ["ColumnsOf", "Refresher"]

log = logging.getLogger(__name__)

ColumnsOf = Callable[[str], Sequence[tuple[str, str]] | None]
"""Asks a product's store for its columns, names with types; None if it cannot tell. It may be slow."""


class Refresher:
    """A snapshot that is always there to read, if empty at first; nothing here waits but `wait`.

    `catalog` gives the catalog, `columns_of` a product's columns, and `ask` runs queries on the session's
    engine: all three are called from threads of the refresher only. `on_change` is called from there too,
    after each swap.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        *,
        columns_of: ColumnsOf | None = None,
        ask: Ask | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.metadata = Metadata()
        """The snapshot of now."""
        self._catalog = catalog
        self._columns_of = columns_of
        self._ask = ask
        self._on_change = on_change
        self._lock = threading.Lock()
        self._running = self._restart = self._closed = False
        self._idle = threading.Event()
        self._idle.set()
        self._asked: set[str] = set()
        self._wanted: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._asker: threading.Thread | None = None

    def refresh(self) -> None:
        """Build a new snapshot in the background; while one is being built, do so once more after it."""
        with self._lock:
            if self._running or self._closed:
                self._restart = self._running
                return
            self._running = True
            self._idle.clear()
        threading.Thread(target=self._build, name="completion-refresh", daemon=True).start()

    def want(self, products: Iterable[str]) -> None:
        """Ask for the columns of products, each once until the next refresh, in the background."""
        if self._columns_of is None:
            return
        with self._lock:
            fresh = [name for name in products if name.casefold() not in self._asked]
            self._asked.update(name.casefold() for name in fresh)
            if fresh and self._asker is None and not self._closed:
                self._asker = threading.Thread(target=self._answer, name="completion-columns", daemon=True)
                self._asker.start()
        for name in fresh:
            self._wanted.put(name)

    def learn(
        self,
        product: str,
        columns: Iterable[tuple[str, str]] | None = None,
        changed_at: datetime | None = None,
    ) -> None:
        """Take over what somebody else came to know of a product; None leaves what was known."""
        with self._lock:
            before = self.metadata.known.get(product.casefold(), Known())
            told = tuple(Column(n, k) for n, k in columns) if columns is not None else before.columns
            self.metadata = self.metadata.learned(product, Known(told, changed_at or before.changed_at))
        self._changed()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no snapshot is being built; whether that came to pass in `timeout` seconds."""
        return self._idle.wait(timeout)

    def close(self) -> None:
        """Start nothing more; what runs ends by itself and changes nothing."""
        with self._lock:
            self._closed = True
            self._restart = False
        self._wanted.put(None)

    def _build(self) -> None:
        again = True
        while again:
            try:
                built = Metadata(self._catalog(), self._offered()).prepared()
                self._swap(built)
            except Exception as error:
                log.warning("completion: the catalog could not be read: %s", error)
            with self._lock:
                again, self._restart = self._restart, False
                self._running = again
                if not again:
                    self._idle.set()

    def _swap(self, built: Metadata) -> None:
        with self._lock:
            if self._closed:
                return
            known = {n: k for n, k in self.metadata.known.items() if built.product(n)}
            self.metadata = built.knowing(known)
            self._asked.clear()
        self._changed()
        # What was known is shown until the stores have told it anew.
        self.want(name for name, told in known.items() if told.columns is not None)

    def _offered(self) -> Engine:
        try:
            return offered(self._ask or ask_alone)
        except Exception as error:
            log.warning("completion: the engine could not be asked: %s", error)
        kept = self.metadata.engine
        return kept if kept.functions else offered(ask_alone)

    def _answer(self) -> None:
        while (name := self._wanted.get()) is not None and not self._closed:
            try:
                columns = self._columns_of(name) if self._columns_of else None
            except Exception as error:
                log.info("completion: the columns of %s are not to be had: %s", name, error)
                continue
            if columns is not None and not self._closed:
                self.learn(name, columns)

    def _changed(self) -> None:
        if self._on_change is not None and not self._closed:
            self._on_change()
