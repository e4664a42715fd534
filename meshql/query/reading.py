"""Products held at one version each, for work that takes more than one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from meshql.catalog.model import Product
from meshql.errors import CredentialsError, MeshError
from meshql.query.engine import Engine
from meshql.query.failure import failure
from meshql.query.resolve import Resolution, Resolver

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Reading", "looking", "reading"]

T = TypeVar("T")


class Reading:
    """A cursor that sees each of some products at one version, under its name.

    Methods raise the errors that statements of users do.
    """

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, resolution: Resolution, renew: Callable[[], object]
    ) -> None:
        self.cursor = cursor
        self.snapshots = {s.product.name: s for s in resolution.snapshots}
        self._renew = renew

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement and return all of its rows."""
        return self._tried(lambda: self.cursor.execute(sql).fetchall())

    def stream(self, sql: str, rows: int = 100_000) -> pyarrow.RecordBatchReader:
        """Return the rows of a query as they come, in Arrow batches of about `rows`.

        What fails after the first batch is raised by whoever reads it: hand it to `failure`.
        """
        return self._tried(lambda: self.cursor.sql(sql).to_arrow_reader(rows))

    def failure(self, error: BaseException) -> MeshError:
        """Return the error that `error`, met while these products were read, amounts to.

        Credentials that a store refused are fetched anew, for the next try.
        """
        found = failure(error, list(self.snapshots.values()))
        if isinstance(found, CredentialsError):
            self._renew()
        return found

    def interrupt(self) -> None:
        """Cancel the running statement; for another thread to call."""
        self.cursor.interrupt()

    def _tried(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise self.failure(error) from None


@contextmanager
def reading(
    products: Iterable[Product], resolver: Resolver, engine: Engine, extensions: Iterable[str] = ()
) -> Iterator[Reading]:
    """Hold products at their newest versions inside the block; raises for one that cannot be had."""
    engine.load((), extensions)
    with resolver.gate.passing():
        resolution = resolver.resolve(products)
        resolution.raise_first()
        used = resolution.snapshots
        cursor = engine.cursor()
        try:
            with engine.using(used):
                resolution = resolver.mount(resolution)
                resolution.raise_first()
                engine.begin(cursor)
        except BaseException:
            engine.release(used)
            raise
    try:
        yield Reading(cursor, resolution, lambda: resolver.renew(resolution))
    finally:
        if not engine.closed:
            with suppress(duckdb.Error, RuntimeError):
                cursor.execute("ROLLBACK")
            cursor.close()
            engine.release(used)


@contextmanager
def looking(product: Product, resolver: Resolver, engine: Engine) -> Iterator[Reading]:
    """Open a cursor that may read the files of a product's location by their addresses.

    They begin as the location of the only snapshot does, which stands for no version. An error of one
    statement leaves the next ones be.
    """
    snapshot, identity = resolver.place(product)
    resolution = Resolution((snapshot,), identities=(identity,))
    cursor = engine.cursor()
    try:
        yield Reading(cursor, resolution, lambda: resolver.renew(resolution))
    finally:
        if not engine.closed:
            cursor.close()
