"""A product that is followed, as it is at the moment: what it does, what it took, and what came of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from meshql.build.graph import Graph
from meshql.build.step import Commit, Outcome
from meshql.build.turn import Run, Turn
from meshql.catalog.build import BronzeBuild, CdcBuild, SqlSource, in_batches
from meshql.catalog.model import Product
from meshql.errors import MeshError

__all__ = ["Event", "Followed", "State", "followed"]

State = Literal[
    "starting", "waiting", "building", "following", "idle", "retrying", "held", "failed", "blocked", "ended"
]
"""What a product does. `waiting` has a parent that is not there yet; `following` reads a stream; `idle` has
all there is; `retrying` met a store that failed; `held` has a parent that breaks its contract. Those that
`failed`, are `blocked` by a parent that did, or have `ended`, since nothing more can come, are done for good.
"""

Event = Literal["started", "error", "recovered", "failed", "ended"]

LAST: tuple[State, ...] = ("failed", "blocked", "ended")


@dataclass(slots=True)
class Followed:
    """One product; its own thread writes it, others look."""

    product: Product
    run: Run
    turn: Turn
    parents: tuple[str, ...]
    """The products that are followed along with it and that it is made of."""
    polls: bool
    """Whether something it is made of changes without a word."""
    state: State = "starting"
    problem: MeshError | None = None
    """What is wrong with a store at the moment."""
    waits_for: str = ""
    before: Outcome = field(default_factory=Outcome)
    """What came of the runs that are over."""
    making: Outcome = field(default_factory=Outcome)
    """The commits of the build under way."""
    version: str = ""
    """The newest version of its table, as far as this process made it or found it."""
    taken: dict[str, str] = field(default_factory=dict)
    """The versions of its parents that it is made of."""
    there: bool = False
    """Whether its table is known to be there."""
    broken: tuple[str, ...] = ()
    """The checks that its table does not keep since its last build."""
    committed_at: float | None = None
    served: bool = False
    """Whether it was built in this process, or began to stream."""
    stumbled: bool = False
    pause: float = 0.0
    troubled_at: float = 0.0
    woken: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Ends the build under way."""

    @property
    def name(self) -> str:
        """The product's name."""
        return self.product.name

    @property
    def streams(self) -> bool:
        """Whether one build of it goes on until it is cancelled: the log of a database."""
        return isinstance(self.product.build, CdcBuild) and in_batches(self.product.build)

    @property
    def unjudged(self) -> bool:
        """Whether its table may have rows by now that were not checked yet."""
        if self.streams or self.done or self.problem is not None:
            return False
        return self.state == "building" or not self.served

    @property
    def done(self) -> bool:
        """Whether it is not followed any more, whatever comes."""
        return self.state in LAST

    @property
    def total(self) -> Outcome:
        """What came of it since it is followed."""
        return self.before + self.turn.outcome + self.making

    def begin(self, run: Run) -> None:
        """Take its turn in another run than before."""
        self.before += self.turn.outcome
        self.run, self.turn = run, run.turns[self.name]
        self.turn.began, self.turn.status = time.monotonic(), "running"
        self.cancelled, self.stumbled = threading.Event(), False

    def note(self, commit: Commit) -> None:
        """Take notice of a commit of the build under way."""
        self.making += Outcome((commit,))
        self.version, self.there = commit.version or self.version, True
        self.committed_at = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Add what a build did that has ended, its commits among it."""
        self.making = Outcome()
        self.turn.outcome += outcome
        self.version = outcome.version or self.version
        if outcome.commits:
            self.there, self.committed_at = True, time.monotonic()


def followed(run: Run, turn: Turn) -> Followed:
    """Return a product of a run as one to be followed."""
    return Followed(
        turn.product,
        run,
        turn,
        tuple(p for p in run.graph.parents(turn.name) if p in run.turns),
        _polls(run.graph, run, turn.product),
    )


def _polls(graph: Graph, run: Run, product: Product) -> bool:
    if isinstance(product.build, BronzeBuild) and any(
        not isinstance(source, SqlSource) for source in product.build.sources
    ):
        return True
    inputs = graph.inputs[product.name]
    streams = isinstance(product.build, CdcBuild) and in_batches(product.build)
    return not streams and not all(name in run.turns for name in inputs)
