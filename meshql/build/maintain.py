"""Care for the tables that are built here: small files made large, and what nobody needs any more removed.

Nothing that is younger than the retention is removed, so that a reader, and a build, keeps the files that it
began with. Each table is at every moment as it was before or as it is after.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from meshql.build.lease import holder
from meshql.build.needs import needs
from meshql.catalog.build import in_batches
from meshql.catalog.derived import RUNS
from meshql.catalog.model import Product
from meshql.errors import CatalogError, InterruptedQueryError, MeshError, UnknownProductError, UsageError
from meshql.mesh import Mesh
from meshql.storage.location import Location

__all__ = [
    "LEAST_RETENTION",
    "Care",
    "Given",
    "Job",
    "counted",
    "kind_of",
    "maintain",
    "maintained_products",
]

LEAST_RETENTION = timedelta(hours=1)
"""Files of statements and builds that are under way are younger than this, in all likelihood."""

CLOCKS = timedelta(minutes=5)
"""What the clocks of a builder and of a store may differ by."""

TARGET_BYTES = 128 * 1024 * 1024
"""Files below this size are small: several of them are written into one."""

FEWEST = 4
"""Small files that lie together and are worth writing anew."""


@dataclass(frozen=True, slots=True)
class Given:
    """How care is to be taken: `older_than` is the retention, `keep_runs` how many tagged runs stay readable.

    With `dry_run` nothing is written or removed, and what would be is told.
    """

    older_than: timedelta = timedelta(days=7)
    dry_run: bool = False
    keep_runs: int = 10
    target_bytes: int = TARGET_BYTES
    fewest: int = FEWEST


@dataclass(frozen=True, slots=True)
class Care:
    """What was done for one product, or would be: its data files before and after, and what was removed.

    `done` says it in words. `freed` is in bytes, and counts what was removed only: files that were written
    anew stay for the retention. `error` is why the rest was not done.
    """

    product: str
    kind: str
    files_before: int | None = None
    files_after: int | None = None
    removed: int = 0
    freed: int = 0
    seconds: float = 0.0
    done: tuple[str, ...] = ()
    error: MeshError | None = None


@dataclass(slots=True)
class Job:
    """The care for one product: what it takes, and what was done so far.

    `scratch` is a folder of this machine that goes with the job. `before` is the moment that what is removed
    has to be older than: the retention ago, or where the build began that is at the product. `nested` are
    folders of other products inside this one's.
    """

    mesh: Mesh
    product: Product
    given: Given
    scratch: Path
    before: datetime
    nested: tuple[str, ...] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)
    care: Care = field(init=False)

    def __post_init__(self) -> None:
        self.care = Care(self.product.name, kind_of(self.product))

    def tell(self, words: str, **figures: int) -> None:
        """Note what was done, or would be."""
        self.care = replace(self.care, done=(*self.care.done, words), **figures)  # type: ignore[arg-type]

    def tell_files(self, *, before: int | None = None, after: int | None = None) -> None:
        """Note how many data files the table's newest version has."""
        care = self.care
        self.care = replace(
            care,
            files_before=care.files_before if before is None else before,
            files_after=care.files_after if after is None else after,
        )

    def check(self) -> None:
        """Raise InterruptedQueryError when somebody cancelled it."""
        if self.cancelled.is_set():
            raise InterruptedQueryError(f"{self.product.name}: cancelled")


def counted(number: int, thing: str) -> str:
    """Return a number of things: `1 file`, `1,200 files`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Carer(Protocol):
    """What the module of each format does."""

    def care(self, job: Job) -> None:
        """Do what the table needs, and note it in the job; nothing where there is no table."""


def maintain(
    mesh: Mesh,
    selectors: Sequence[str] = (),
    given: Given | None = None,
    *,
    told: Callable[[Care], object] = lambda care: None,
    cancelled: threading.Event | None = None,
) -> list[Care]:
    """Care for products that are built here, one after the other, and return what was done for each.

    `selectors` are names or globs; none means all, with their quarantines and the log of runs. A product
    that fails has its `error`, and the others go on. `told` is told of each as it is done. Raises UsageError
    for a product that is not built here, and for a retention under an hour.
    """
    needs("deltalake")
    needs("pyiceberg")
    given = given or Given()
    if given.older_than < LEAST_RETENTION:
        raise UsageError(
            "files are kept for an hour at least: statements and builds that are under way read them",
            hint="--older-than 1h",
        )
    stopped = cancelled or threading.Event()
    found = []
    for product in maintained_products(mesh, selectors):
        if stopped.is_set():
            break
        found.append(_one(mesh, product, given, stopped))
        told(found[-1])
    return found


def maintained_products(mesh: Mesh, selectors: Sequence[str] = ()) -> list[Product]:
    """Return the products to care for, by name; raises UsageError for one that is not built here."""
    owned = {p.name: p for p in mesh.catalog.products.values() if kind_of(p)}
    if not selectors:
        return [owned[name] for name in sorted(owned)]
    found = dict[str, Product]()
    for selector in selectors:
        matching = mesh.catalog.matching(selector)
        if not matching:
            raise UnknownProductError.from_names(selector, owned)
        mine = {p.name: p for p in matching if p.name in owned}
        if not mine:
            raise UsageError(
                f"{matching[0].name} is not built here: whoever writes its table cares for it",
                hint=f"built here are {', '.join(sorted(owned))}" if owned else None,
            )
        found |= mine
    return [found[name] for name in sorted(found)]


def kind_of(product: Product) -> str:
    """Return bronze, silver, gold, quarantine or runs; empty for a product that is not built here."""
    if product.build is not None:
        return product.build.kind
    if product.name == RUNS:
        return "runs"
    return "quarantine" if product.beside else ""


def _one(mesh: Mesh, product: Product, given: Given, cancelled: threading.Event) -> Care:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="meshql-maintain-", ignore_cleanup_errors=True) as folder:
        before = datetime.now(UTC) - given.older_than
        job = Job(mesh, product, given, Path(folder), before, cancelled=cancelled)
        try:
            if since := _building_since(mesh, product):
                job.before = min(before, since - CLOCKS)
            job.nested = _nested(mesh, product)
            _carer(product).care(job)
        except MeshError as error:
            job.care = replace(job.care, error=error)
    return replace(job.care, seconds=time.perf_counter() - started)


def _carer(product: Product) -> Carer:
    from meshql.build import maintain_bronze, maintain_delta, maintain_iceberg

    if in_batches(product.build):
        return maintain_bronze
    return maintain_iceberg if product.format == "iceberg" else maintain_delta


def _building_since(mesh: Mesh, product: Product) -> datetime | None:
    """When the build began that is at the product now, whose files no commit names yet; None without one."""
    builder = mesh.find(product.beside) if product.beside else product
    found = holder(*mesh.store(builder))
    return datetime.fromisoformat(found.since) if found else None


def _nested(mesh: Mesh, product: Product) -> tuple[str, ...]:
    """The keys of folders inside the product's where other products lie, whose files are not its own."""
    mine, found = mesh.store(product)[1].folder, []
    for other in mesh.catalog.products.values():
        try:
            location = Location.parse(other.location, mesh.catalog.connection_of(other)).folder
        except CatalogError:
            # A variable that is not set hides it.
            continue
        same_bucket = (location.scheme, location.bucket) == (mine.scheme, mine.bucket)
        if same_bucket and location.key != mine.key and location.key.startswith(mine.key):
            found.append(location.key)
    return tuple(found)
