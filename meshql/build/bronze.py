"""The bronze layer: raw rows as they came, appended in batches that become visible whole."""

from __future__ import annotations

from collections.abc import Container

from meshql.build.bronze_log import BatchWriter
from meshql.build.sources.files import Files
from meshql.build.sources.http import Api
from meshql.build.sources.portion import Source, Work
from meshql.build.sources.python import Function
from meshql.build.sources.sql import Query
from meshql.build.step import Commit, Outcome, Pending, Step
from meshql.catalog.build import BronzeBuild, FilesSource, HttpSource, PythonSource
from meshql.catalog.build import Source as Declared
from meshql.errors import UsageError
from meshql.formats import batches
from meshql.formats.batch_state import State

__all__ = ["build", "commits", "pending"]


def build(step: Step) -> Outcome:
    """Append what is new of the product's sources, a batch for each bounded portion of it.

    Called again after it was killed, it goes on behind the last batch. A full build takes everything anew
    and replaces what is there in one commit. Raises StorageError where another build made the next batch
    first, or a source cannot be had: what was committed before stays.
    """
    store, location = step.mesh.store(step.product)
    writer = BatchWriter(step, store, location, batches.state(store, location), full=step.request.full)
    notes: list[str] = []
    for source in _sources(step):
        for portion in source.portions(writer.work):
            writer.add(portion)
            if not step.request.full and (made := writer.commit()):
                step.committed(made)
        notes += source.notes
    if step.request.full:
        writer.commit()
    state = writer.state
    return Outcome(
        commits=tuple(writer.commits),
        version=str(state.number) if state.number else None,
        rows_total=state.rows,
        notes=tuple(notes),
    )


def pending(step: Step) -> Pending:
    """Return what is new, in words; lists folders of files, and asks nobody else."""
    store, location = step.mesh.store(step.product)
    state = batches.state(store, location)
    work = Work(step, State() if step.request.full else state, state.number + 1)
    words = [said for source in _sources(step) if (said := source.pending(work))]
    if step.request.full and state.rows:
        words = [f"all of it anew: {', '.join(words) or 'nothing'}"]
    return Pending("; ".join(words))


def commits(step: Step, known: Container[str] = ()) -> list[Commit]:  # noqa: ARG001
    """Return what the log of batches says of each, newest first."""
    store, location = step.mesh.store(step.product)
    said = batches.state(store, location).batches
    return [Commit.parse(batch.commit, str(batch.number)) for batch in reversed(said)]


def _sources(step: Step) -> list[Source]:
    build = step.product.build
    if not isinstance(build, BronzeBuild):
        raise UsageError(f"{step.product.name} is no bronze product", hint="see its `build:` in the catalog")
    return [_source(declared, step) for declared in build.sources]


def _source(declared: Declared, step: Step) -> Source:
    if isinstance(declared, FilesSource):
        return Files(declared, step)
    if isinstance(declared, HttpSource):
        return Api(declared, step)
    if isinstance(declared, PythonSource):
        return Function(declared, step)
    return Query(declared, step)
