"""Following: all chosen products at once, each built again as soon as what it is made of has changed.

Each product has a thread, which holds it for as long as a run lasts. A run is over after a while, and the
next one begins for each product as soon as it has come to the end of its build: so that the log of runs tells
what happened, and no product waits for another one's build.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from meshql.build.followed import Event, Followed, followed
from meshql.build.run import begun, run_name, sweep
from meshql.build.runner import BACKOFF_SECONDS, FINAL, Runner, ended, layer_of
from meshql.build.runs import RunLog
from meshql.build.step import Commit, Outcome, Progress, Request
from meshql.build.turn import Run, Turn
from meshql.errors import BusyError, InterruptedQueryError, MeshError, StorageError
from meshql.mesh import Mesh

__all__ = ["Following", "follow"]

T = TypeVar("T")

RUN_SECONDS = 900.0

LONGEST_PAUSE_SECONDS = 30.0

LOOKED_AGAIN_SECONDS = 0.5
"""How soon a thread that waits notices that it is to end."""


class Following:
    """Products that are followed; `stop` and `cancel` are for other threads to call."""

    def __init__(
        self,
        mesh: Mesh,
        run: Run,
        log: RunLog,
        *,
        every: float = 10.0,
        jobs: int = 4,
        wait_seconds: float = 0.0,
        told: Callable[[Followed, Event], None] = lambda product, event: None,
        turned: Callable[[Run, Turn], None] = lambda run, turn: None,
    ) -> None:
        self.run = run
        self.products = {name: followed(run, turn) for name, turn in run.turns.items()}
        self.runs = 1
        self.notes: list[str] = []
        self.stopping = threading.Event()
        self._cancelled, self._lock = threading.Event(), threading.Lock()
        self._mesh, self._log, self._every, self._told, self._turned = mesh, log, every, told, turned
        self._wait_seconds = wait_seconds
        self._jobs = threading.Semaphore(max(jobs, 1))
        self._runner = self._runner_of(run)

    def stop(self) -> None:
        """End: every product once the commit under way is made."""
        with self._lock:
            self.stopping.set()
            for one in self.products.values():
                self._close(one)

    def cancel(self) -> None:
        """End now; what is under way and not committed is given up."""
        self._cancelled.set()
        self.stop()
        for one in self.products.values():
            one.cancelled.set()
        self._mesh.interrupt()

    def behind(self, one: Followed) -> int | None:
        """How many versions of its parents a product has not taken yet; None where they do not tell."""
        pairs = [(self.products[p].version, one.taken.get(p, "")) for p in one.parents]
        numbers = [(new.removeprefix("v"), taken.removeprefix("v")) for new, taken in pairs]
        if not pairs or not all(new.isdigit() and taken.isdigit() for new, taken in numbers):
            return None
        return sum(max(int(new) - int(taken), 0) for new, taken in numbers)

    def until_stopped(self) -> None:
        """Follow, until it is stopped or nothing more can come."""
        with ThreadPoolExecutor(len(self.products) or 1, thread_name_prefix="meshql-follow") as pool:
            try:
                self._watch({pool.submit(self._follow, one) for one in self.products.values()})
            except BaseException:
                self.cancel()
                raise

    def _watch(self, working: set[Future[None]]) -> None:
        """Wait for the products' threads, and begin another run now and then."""
        began_at = time.monotonic()
        while working:
            left = began_at + RUN_SECONDS - time.monotonic()
            done, working = wait(working, timeout=max(left, 0.0), return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            if not done and not self.stopping.is_set():
                self._next_run()
                began_at = time.monotonic()

    def _next_run(self) -> None:
        """Begin another run; a log that cannot be read leaves the one of the moment be for as long again."""
        old = self.run
        living = {n: Turn(p.product) for n, p in self.products.items() if not p.done}
        run = Run(run_name(), old.request, old.graph, living)
        with suppress(StorageError):
            runner = self._runner_of(run)
            with self._lock:
                self.run, self._runner, self.runs = run, runner, self.runs + 1
                for one in self.products.values():
                    self._close(one)

    def _runner_of(self, run: Run) -> Runner:
        return Runner(self._mesh, run, self._log, self._wait_seconds, self._turned)

    def _close(self, one: Followed) -> None:
        """Let a product come to the end of its turn."""
        one.run.cancelled.set()
        if one.streams:
            one.cancelled.set()
        one.woken.set()

    def _over(self, run: Run) -> bool:
        return self.stopping.is_set() or run.cancelled.is_set()

    # --- one product ------------------------------------------------------------------------------

    def _follow(self, one: Followed) -> None:
        """Take a product's turn in one run after the other."""
        while not one.done:
            with self._lock:
                if self.stopping.is_set():
                    break
                runner = self._runner
                one.begin(runner.run)
            self._take(one, runner)
        self._wake_children(one)

    def _take(self, one: Followed, runner: Runner) -> None:
        """A product's turn: held, built again and again, and told of in the log."""
        began = datetime.now(UTC)
        self._turned(runner.run, one.turn)
        with ExitStack() as held:
            try:
                gone = self._patiently(one, lambda: held.enter_context(runner.holding(one.turn)))
                with runner.step(one.turn) as step:
                    self._found(one, self._patiently(one, lambda: runner.recover(one.turn, step, gone)))
                self._build_on(one, runner)
            except Exception as error:
                self._end(one, error)
            self._count(one, runner)
            # While the product is held, nobody else takes these commits for those of a killed run.
            self._write(one, runner, began)
        self._turned(runner.run, one.turn)

    def _found(self, one: Followed, newest: Commit | None) -> None:
        if newest is not None and newest.version != one.version:
            # It may have been built elsewhere, between two runs.
            one.version, one.taken, one.there = newest.version, {**newest.inputs, **one.taken}, True
            self._wake_children(one)
        if one.state == "starting":
            one.state = "waiting"
            self._told(one, "started")

    def _build_on(self, one: Followed, runner: Runner) -> None:
        """Build whenever there may be something to do, until the run is over."""
        run = runner.run
        while True:
            one.woken.clear()
            if self._over(run):
                return
            last = bool(one.parents) and not one.polls and all(self.products[p].done for p in one.parents)
            if self._patiently(one, lambda: self._may_build(one)):
                self._build(one, runner)
                if last and not self._over(run):
                    one.state = "ended"
                    self._told(one, "ended")
                    return
                if one.streams:
                    # It is to go on until it is cancelled.
                    self._rest(run, BACKOFF_SECONDS)
                    continue
            elif last:
                raise _Blocked(one.waits_for)
            one.woken.wait(self._every if one.polls or one.state == "waiting" else None)

    def _may_build(self, one: Followed) -> bool:
        """Whether what the product is made of is there, and is known to keep its contract."""
        for parent in map(self.products.__getitem__, one.parents):
            parent.there = parent.there or self._mesh.snapshot(parent.product) is not None
            if parent.broken or not parent.there or parent.unjudged:
                # In this order: who sees the state sees the name.
                one.waits_for, one.state = parent.name, ("held" if parent.broken else "waiting")
                return False
        one.waits_for = ""
        return True

    def _build(self, one: Followed, runner: Runner) -> None:
        broken, version = one.broken, one.version
        taken = {parent: self.products[parent].version for parent in one.parents}
        outcome = self._patiently(one, lambda: self._built(one, runner))
        one.add(outcome)
        one.taken |= taken
        one.served, one.broken = True, outcome.failed
        if not one.streams:
            one.state = "idle"
        if outcome.commits or one.broken != broken or one.version != version:
            self._wake_children(one)
        else:
            self._wake_children(one, waiting=True)

    def _built(self, one: Followed, runner: Runner) -> Outcome:
        """Build once; a stream until it is cancelled."""
        run = runner.run
        while not one.streams and not self._jobs.acquire(timeout=LOOKED_AGAIN_SECONDS):
            if self._over(run):
                raise InterruptedQueryError(f"{one.name}: no build was begun any more")
        one.state = "following" if one.streams else "building"
        one.turn.progress = Progress("")
        try:
            with runner.step(
                one.turn,
                report=lambda progress: self._progressed(one, progress),
                committed=lambda commit: self._committed(one, commit),
                cancelled=one.cancelled,
            ) as step:
                return layer_of(one.product).build(step)
        except BaseException:
            one.add(one.making)
            raise
        finally:
            one.turn.progress = Progress("")
            if not one.streams:
                self._jobs.release()

    def _progressed(self, one: Followed, progress: Progress) -> None:
        one.turn.report(progress)
        if progress.stream is not None:
            one.served = True
            self._recovered(one)

    def _committed(self, one: Followed, commit: Commit) -> None:
        one.note(commit)
        self._recovered(one)
        if one.streams:
            # Others are judged as a whole before anything is made of them.
            self._wake_children(one)
        if self._over(one.run):
            one.cancelled.set()

    def _wake_children(self, one: Followed, *, waiting: bool = False) -> None:
        """Have children look at what there is; only those that are `waiting` for this very product."""
        for child in self.products.values():
            if one.name in child.parents and (not waiting or child.waits_for == one.name):
                child.woken.set()

    # --- what goes wrong --------------------------------------------------------------------------

    def _patiently(self, one: Followed, action: Callable[[], T]) -> T:
        """Do it, again for as long as a store fails; raises InterruptedQueryError once the run is over."""
        while True:
            try:
                done = action()
            except StorageError as error:
                # Others may build it between two runs, and a server takes its time to let a connection go.
                if isinstance(error, FINAL) and not (isinstance(error, BusyError) and one.served):
                    raise
                if self._cancelled.is_set():
                    raise InterruptedQueryError(f"{one.name}: cancelled") from None
                self._trouble(one, error)
            else:
                self._recovered(one)
                return done
            self._rest(one.run, one.pause)
            if self._over(one.run):
                raise InterruptedQueryError(f"{one.name}: the run is over")

    def _trouble(self, one: Followed, error: StorageError) -> None:
        now, before = time.monotonic(), one.problem
        long_well = now - one.troubled_at > 2 * LONGEST_PAUSE_SECONDS
        longer = min(one.pause * 2, LONGEST_PAUSE_SECONDS)
        one.pause = BACKOFF_SECONDS if long_well else max(longer, BACKOFF_SECONDS)
        one.problem, one.state, one.troubled_at, one.stumbled = error, "retrying", now, True
        if before is None or before.message != error.message:
            self._told(one, "error")

    def _recovered(self, one: Followed) -> None:
        if one.problem is not None:
            one.problem = None
            self._told(one, "recovered")

    def _rest(self, run: Run, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not self._over(run) and (left := ends - time.monotonic()) > 0:
            run.cancelled.wait(min(left, LOOKED_AGAIN_SECONDS))

    def _count(self, one: Followed, runner: Runner) -> None:
        """Count the run's commits by the table itself where an answer may have been lost."""
        if not one.stumbled or self._cancelled.is_set():
            return
        with suppress(MeshError), runner.step(one.turn) as step:
            made = Outcome(runner.made(step)) + Outcome()
            one.turn.outcome = replace(one.turn.outcome, commits=made.commits, summed=made.summed)

    def _end(self, one: Followed, error: Exception) -> None:
        if isinstance(error, _Blocked):
            one.state, one.turn.status, one.turn.blocked_by = "blocked", "blocked", error.by
            one.turn.ended = time.monotonic()
            self._told(one, "failed")
            return
        if self._cancelled.is_set() or (isinstance(error, InterruptedQueryError) and self._over(one.run)):
            # What it met before its run was over, and could not get over, is what became of it.
            if one.problem is not None:
                ended(one.turn, one.problem)
            return
        ended(one.turn, error)
        one.state = "failed"
        self._told(one, "failed")

    def _write(self, one: Followed, runner: Runner, began: datetime) -> None:
        if one.turn.status == "running":
            one.turn.status, one.turn.ended = one.turn.outcome.status, time.monotonic()
        runner.write(one.turn, began)
        self.notes += [n for n in runner.run.notes if n not in self.notes]


class _Blocked(Exception):
    """What a product is made of will never be there."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


def follow(
    mesh: Mesh,
    selectors: Sequence[str] = (),
    *,
    every: float = 10.0,
    jobs: int = 4,
    wait_seconds: float = 0.0,
    started: Callable[[Following], None] = lambda following: None,
    told: Callable[[Followed, Event], None] = lambda product, event: None,
    turned: Callable[[Run, Turn], None] = lambda run, turn: None,
) -> Following:
    """Follow the products that selectors mean, all for none, until stopped; return what became of each.

    What changes without a word, files and APIs, is looked at `every` so many seconds; `jobs` builds that come
    to an end run side by side. A store that fails is tried again for as long as it takes; any other error
    ends its product, and the others go on with what there is. `started` is given what is followed, whose
    `stop` ends it; `told` is told of each product what a person may want to know, `turned` of its turns in
    each run. Raises UsageError for a selector that means nothing.
    """
    run, log = begun(mesh, selectors, Request(follow=True))
    following = Following(
        mesh, run, log, every=every, jobs=jobs, wait_seconds=wait_seconds, told=told, turned=turned
    )
    started(following)
    sweep()
    following.until_stopped()
    return following
