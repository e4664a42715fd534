"""One product's turn in a run: what it is given, what it reports, and what its commits say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from meshql.catalog.model import Product
from meshql.errors import InterruptedQueryError
from meshql.mesh import Mesh

__all__ = ["Commit", "Counts", "Layer", "Outcome", "Pending", "Progress", "Request", "Step", "Stream"]


@dataclass(frozen=True, slots=True)
class Request:
    """How a run was asked for. `since` and `until` bound a backfill: from `since` on, before `until`.

    With `follow`, sources that can be waited on are read until the run is cancelled.
    """

    full: bool = False
    since: datetime | None = None
    until: datetime | None = None
    follow: bool = False

    @property
    def backfill(self) -> bool:
        """Whether an interval is to be built again."""
        return self.since is not None or self.until is not None


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows and bytes of one commit or several.

    Of a silver product `rows_in` is always `rows_out` + `rows_quarantined` + `rows_duplicate`: a row that
    replaces one of the same key makes that one the duplicate, and counts in `rows_updated` besides.
    """

    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    rows_duplicate: int = 0
    rows_updated: int = 0
    bytes: int = 0
    files: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)))


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit of a built table says of itself, inside that very commit.

    `inputs` are versions by product; `watermark` is how far the inputs were read, in the layer's own words;
    `definition` is the digest of the product's `build` block; `changes` are those of the schema.
    """

    run: str
    at: datetime
    counts: Counts = field(default_factory=Counts)
    inputs: Mapping[str, str] = field(default_factory=dict)
    watermark: str = ""
    definition: str = ""
    changes: tuple[str, ...] = ()
    version: str = ""
    """The table's version that it made; told by the table, and not written into it."""

    def json(self) -> str:
        """Return it as the text that is written into the table's commit."""
        said = {**asdict(self), "at": self.at.isoformat()}
        said.pop("version")
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str, version: str) -> Commit:
        """Return what the text in a commit says; keys of later versions of meshql are passed over."""
        said: dict[str, Any] = json.loads(text)
        counts = {f.name: said["counts"].get(f.name, 0) for f in fields(Counts)}
        return cls(
            run=said["run"],
            at=datetime.fromisoformat(said["at"]),
            counts=Counts(**counts),
            inputs=said.get("inputs", {}),
            watermark=said.get("watermark", ""),
            definition=said.get("definition", ""),
            changes=tuple(said.get("changes", ())),
            version=version,
        )


MOST_NOTES = 20

LEFT_OUT = "earlier notes are left out"


def _sum(commits: Sequence[Commit]) -> Commit:
    changes = dict.fromkeys(change for commit in commits for change in commit.changes)
    counts = sum((c.counts for c in commits), Counts())
    return replace(commits[-1], counts=counts, changes=tuple(changes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did. `commits` are those that it made, in order; none when there was nothing to do."""

    commits: tuple[Commit, ...] = ()
    version: str | None = None
    rows_total: int | None = None
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Checks of error severity that the table does not keep: what is made of it is not built."""
    summed: int = 0
    """Commits that the first of `commits` stands for besides itself."""

    def __add__(self, later: Outcome) -> Outcome:
        """Return what both builds did, the commits summed up in one; `failed` is what the later one says."""
        made = (*self.commits, *later.commits)
        notes = tuple(dict.fromkeys((*self.notes, *later.notes)))
        return Outcome(
            commits=(_sum(made),) if made else (),
            version=later.version or self.version,
            rows_total=self.rows_total if later.rows_total is None else later.rows_total,
            notes=notes if len(notes) <= MOST_NOTES else (LEFT_OUT, *notes[1 - MOST_NOTES :]),
            failed=later.failed,
            summed=self.number + later.number - 1 if made else 0,
        )

    @property
    def number(self) -> int:
        """How many commits were made."""
        return len(self.commits) + self.summed

    @property
    def status(self) -> Literal["built", "unchanged"]:
        """Whether anything changed."""
        return "built" if self.commits else "unchanged"

    @property
    def counts(self) -> Counts:
        """What the commits sum up to."""
        return sum((c.counts for c in self.commits), Counts())


@dataclass(frozen=True, slots=True)
class Pending:
    """What a step would do now; no words when there is nothing to do."""

    words: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """How far a source that never ends has been followed.

    `lag_bytes` is what the server has written and we have not made durable; `lag_seconds` how old the newest
    durable change was when it became so, 0 when there is none to come. `inserts`, `updates`, `deletes` and
    `others` count changes since the step began. `committed_at` is the server's time of the last one.
    """

    position: str = ""
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    others: int = 0
    committed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is: rows and bytes written so far, and what it does at the moment."""

    doing: str
    rows: int = 0
    bytes: int = 0
    stream: Stream | None = None


class Layer(Protocol):
    """What the module of each kind of build does."""

    def build(self, step: Step) -> Outcome:
        """Bring the product up to date; after a kill at any point, the next call gives the same rows."""

    def pending(self, step: Step) -> Pending:
        """Return what `build` would do now; nothing is written."""

    def commits(self, step: Step, known: Container[str] = ()) -> list[Commit]:
        """Return what the table's own commits say, newest first; none where there is no table yet.

        Those before the newest one of a `known` run may be left out.
        """


@dataclass(slots=True)
class Step:
    """One product to build in one run, with what building it takes.

    `scratch` is a folder of this machine that is the step's own and goes with it.
    """

    mesh: Mesh
    product: Product
    run: str
    request: Request
    scratch: Path
    definition: str = ""
    report: Callable[[Progress], None] = lambda progress: None
    committed: Callable[[Commit], None] = lambda commit: None
    """Called after each commit of a step that may make several."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def progress(
        self,
        doing: str,
        rows: int = 0,
        bytes: int = 0,  # noqa: A002
        stream: Stream | None = None,
    ) -> None:
        """Tell how far the step is; raises InterruptedQueryError when the run was cancelled."""
        self.check()
        self.report(Progress(doing, rows, bytes, stream))

    def check(self) -> None:
        """Raise InterruptedQueryError when the run was cancelled."""
        if self.cancelled.is_set():
            raise InterruptedQueryError(f"{self.product.name}: the build was cancelled")

    def commit(
        self,
        counts: Counts,
        *,
        inputs: Mapping[str, str],
        watermark: str,
        changes: Iterable[str] = (),
    ) -> Commit:
        """Return what a commit of this step is to say of itself."""
        return Commit(
            self.run, datetime.now(UTC), counts, dict(inputs), watermark, self.definition, tuple(changes)
        )
