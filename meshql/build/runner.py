"""Gives each product of a run its turn: held, built, tried again, and told of in the log."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from meshql.build.lease import Holder, lease
from meshql.build.runs import Record, RunLog, failed, recovered
from meshql.build.step import Commit, Layer, Outcome, Progress, Step
from meshql.build.turn import Run, Turn
from meshql.catalog.build import CdcBuild, in_batches
from meshql.catalog.model import Product
from meshql.errors import (
    BusyError,
    InterruptedQueryError,
    LocationError,
    MeshError,
    QueryError,
    StorageError,
)
from meshql.mesh import Mesh
from meshql.redact import scrub

__all__ = ["BACKOFF_SECONDS", "FINAL", "Runner", "definition_of", "ended", "layer_of", "scratch_prefix"]

TRIES = 3

FINAL = (BusyError, LocationError)
"""Errors of stores that do not pass by themselves."""

BACKOFF_SECONDS = 1.0
"""Doubled with each try."""


def layer_of(product: Product) -> Layer:
    """The module that builds products of this kind."""
    assert product.build is not None
    if isinstance(product.build, CdcBuild):
        from meshql.build.cdc import log, table

        return log if in_batches(product.build) else table
    from meshql.build import bronze, gold, silver

    layers: dict[str, Layer] = {"bronze": bronze, "silver": silver, "gold": gold}
    return layers[product.build.kind]


def definition_of(product: Product) -> str:
    """Return a digest of what says how a product is made and what its rows must keep."""
    said = product.model_dump_json(include={"build", "table_schema", "quality"}, by_alias=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


class Runner:
    """Gives each product its turn."""

    def __init__(
        self, mesh: Mesh, run: Run, log: RunLog, wait_seconds: float, told: Callable[[Run, Turn], None]
    ) -> None:
        self.mesh = mesh
        self.run = run
        self.log = log
        self.wait_seconds = wait_seconds
        self.told = told
        self.known = {name: set(runs) for name, runs in log.known().items()}

    def all_in(self, pool: ThreadPoolExecutor) -> None:
        """Take all turns, each once its parents have had theirs."""
        working: dict[Future[None], Turn] = {}
        waiting = dict(self.run.turns)
        while waiting or working:
            for turn in [t for t in waiting.values() if self._ready(t)]:
                del waiting[turn.name]
                if self._blocked(turn):
                    self.write(turn, datetime.now(UTC))
                    self.told(self.run, turn)
                else:
                    working[pool.submit(self._take, turn)] = turn
            if working:
                done, _ = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    del working[future]
                    future.result()

    def _parents(self, turn: Turn) -> list[Turn]:
        return [self.run.turns[p] for p in self.run.graph.parents(turn.name) if p in self.run.turns]

    def _ready(self, turn: Turn) -> bool:
        before = (self.run.turns.get(name) for name in self.run.graph.follows[turn.name])
        return all(other.done for other in before if other is not None)

    def _blocked(self, turn: Turn) -> bool:
        """Whether what the product is made of did not come to be, which ends its turn."""
        bad = next((p for p in self._parents(turn) if p.error or p.blocked_by or p.outcome.failed), None)
        if self.run.cancelled.is_set():
            turn.status = "cancelled"
        elif bad is not None:
            turn.status, turn.blocked_by = "blocked", bad.name
        return turn.done

    def _take(self, turn: Turn) -> None:
        began = datetime.now(UTC)
        turn.began, turn.status = time.monotonic(), "running"
        self.told(self.run, turn)
        try:
            with self.holding(turn) as gone:
                self._build(turn, gone)
                # While the product is held, nobody else takes these commits for those of a killed run.
                self.write(turn, began)
        except MeshError as error:
            ended(turn, error)
            self.write(turn, began)
        self.told(self.run, turn)

    def holding(self, turn: Turn) -> AbstractContextManager[list[Holder]]:
        """Hold the product for a block; see `lease`."""
        store, location = self.mesh.store(turn.product)
        return lease(turn.name, store, location, self.run.id, self.wait_seconds, self._check)

    @contextmanager
    def step(
        self,
        turn: Turn,
        *,
        report: Callable[[Progress], None] | None = None,
        committed: Callable[[Commit], None] = lambda commit: None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[Step]:
        """Return what building the product once takes; its folder goes with the block."""
        with tempfile.TemporaryDirectory(prefix=scratch_prefix(), ignore_cleanup_errors=True) as folder:
            yield Step(
                self.mesh,
                turn.product,
                self.run.id,
                self.run.request,
                Path(folder),
                definition_of(turn.product),
                report=report or turn.report,
                committed=committed,
                cancelled=cancelled or self.run.cancelled,
            )

    def _build(self, turn: Turn, gone: list[Holder]) -> None:
        """Build a product that is held, and note in its turn how that ended."""
        with self.step(turn) as step:
            try:
                self.recover(turn, step, gone)
                turn.outcome = self._tried(turn, step)
                turn.status, turn.ended = turn.outcome.status, time.monotonic()
            except Exception as error:
                ended(turn, error)

    def _check(self) -> None:
        if self.run.cancelled.is_set():
            raise InterruptedQueryError("the build was cancelled")

    def _tried(self, turn: Turn, step: Step) -> Outcome:
        """Build, and again where a store failed: a layer goes on from where its table's commits end."""
        layer = layer_of(step.product)
        for left in reversed(range(TRIES)):
            try:
                outcome = layer.build(step)
                return replace(outcome, commits=self.made(step)) if turn.outcome.commits else outcome
            except MeshError as error:
                # What landed before is there, and has to be told of.
                with suppress(MeshError):
                    turn.outcome = Outcome(commits=self.made(step))
                if not left or not isinstance(error, StorageError) or isinstance(error, FINAL):
                    raise
            self.run.cancelled.wait(BACKOFF_SECONDS * 2 ** (TRIES - 1 - left))
            step.check()
        raise AssertionError

    def made(self, step: Step) -> tuple[Commit, ...]:
        """The commits of this run, oldest first."""
        known = self.known.get(step.product.name, set())
        return tuple(c for c in reversed(self._commits(step, known)) if c.run == step.run)

    def _commits(self, step: Step, known: Container[str]) -> list[Commit]:
        return layer_of(step.product).commits(step, known)

    def recover(self, turn: Turn, step: Step, gone: list[Holder]) -> Commit | None:
        """Tell the log what earlier runs did and could not tell any more, and return the newest commit."""
        assert turn.product.build is not None
        kind, known = turn.product.build.kind, self.known.get(turn.name, set())
        commits = self._commits(step, known)
        if gone or (commits and commits[0].run not in known):
            # Other builds have written since this one began.
            known = self.log.known_runs(turn.name)
        records = recovered(turn.name, kind, commits, known)
        told = known | {r.run for r in records}
        for holder in (h for h in gone if h.run not in told):
            since = datetime.fromisoformat(holder.since)
            records.append(Record(holder.run, turn.name, kind, "killed", since, since, host=holder.host))
        if records:
            self.log.append(records)
        return commits[0] if commits else None

    def write(self, turn: Turn, began: datetime) -> None:
        """Put the turn into the log; a log that cannot be written is noted, for the table is right anyway."""
        assert turn.product.build is not None
        outcome = turn.outcome
        last = outcome.commits[-1] if outcome.commits else None
        record = Record(
            run=self.run.id,
            product=turn.name,
            kind=turn.product.build.kind,
            status=turn.status,  # type: ignore[arg-type]
            started_at=began,
            ended_at=datetime.now(UTC),
            commits=outcome.number,
            counts=outcome.counts,
            rows_total=outcome.rows_total,
            version=outcome.version,
            watermark=last.watermark if last else None,
            definition=definition_of(turn.product),
            inputs=last.inputs if last else {},
            changes=tuple(c for commit in outcome.commits for c in commit.changes),
            notes=outcome.notes,
            failed_checks=outcome.failed,
            error=failed(turn.error) if turn.error else turn.blocked_by and f"{turn.blocked_by} failed",
            host=socket.gethostname(),
        )
        try:
            self.log.append([record])
        except MeshError as error:
            self.run.notes.append(error.message)


def ended(turn: Turn, error: Exception) -> None:
    """Note in a turn that `error` ended it."""
    turn.ended = time.monotonic()
    if isinstance(error, InterruptedQueryError):
        turn.status = "cancelled"
        return
    turn.status = "failed"
    if isinstance(error, MeshError):
        turn.error = error
        return
    # A mistake of meshql's own ends this step only; its words may hold anything.
    scrub(error)
    turn.error = QueryError(f"{turn.name}: {type(error).__name__}: {error}")
    turn.error.__cause__ = error


def scratch_prefix() -> str:
    """Return how the names of this process's temporary folders begin."""
    return f"meshql-build-{os.getpid()}-"
