"""A run as it is at the moment: whose turn it is, and what became of the others."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Literal

from meshql.build.graph import Graph
from meshql.build.runs import Status
from meshql.build.step import Outcome, Progress, Request
from meshql.catalog.model import Product
from meshql.errors import MeshError

__all__ = ["Run", "Turn"]


@dataclass(slots=True)
class Turn:
    """A product's turn in a run, as it is at the moment; one thread writes it, others look."""

    product: Product
    status: Literal["waiting", "running"] | Status = "waiting"
    progress: Progress = field(default_factory=lambda: Progress(""))
    began: float = 0.0
    ended: float | None = None
    outcome: Outcome = field(default_factory=Outcome)
    error: MeshError | None = None
    blocked_by: str | None = None

    @property
    def name(self) -> str:
        """The product's name."""
        return self.product.name

    def report(self, progress: Progress) -> None:
        """Note how far it is; what was told of a stream stays until that is told anew."""
        self.progress = progress if progress.stream else replace(progress, stream=self.progress.stream)

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status not in ("waiting", "running")

    @property
    def seconds(self) -> float:
        """How long it takes, or took."""
        return ((self.ended or time.monotonic()) - self.began) if self.began else 0.0


@dataclass(slots=True)
class Run:
    """A run under way, or done; `turns` stand in the order of the graph."""

    id: str
    request: Request
    graph: Graph
    turns: dict[str, Turn]
    cancelled: threading.Event = field(default_factory=threading.Event)
    notes: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[MeshError]:
        """The errors of the steps that failed."""
        return [turn.error for turn in self.turns.values() if turn.error]

    @property
    def failed_checks(self) -> list[str]:
        """Checks of error severity that what was built does not keep."""
        return [f"{t.name}: {check}" for t in self.turns.values() for check in t.outcome.failed]
