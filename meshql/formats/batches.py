"""Parquet that is built here in batches: what the log of batches says, and the SQL that scans some of them.

Below the product's folder lie the rows, `_ingested_on=2026-11-23/000000007-<id>-0.parquet`, and the log:
`_batches/000000007.json` is the commit of batch 7, which only one writer can make; now and then there is a
`000000007.checkpoint.json` with all that the log says up to there. What no entry of the log names is not part
of the product: a writer that was killed has left it.

    state(store, location, upto=None) -> State          what the log says; State() where there is none
    relation(state, location, after=0, upto=None)       what goes behind FROM: the rows of those batches
    State.number                                        the newest batch; 0 without any
    State.since                                         the batch that replaced all earlier ones; 0 if none
    State.live                                          the batches whose rows count
    State.schema                                        columns by name, with the types that they are read at
    Batch.number .at .rows .bytes .files .commit        `commit` is the text that the builder wrote into it

To scan, hand `relation` the location of the product's snapshot (`mesh.snapshot(product).location`), which is
spelled as DuckDB knows the identity by. A reader that has taken batches up to n has to begin anew where
`State.since` is greater than n: the rows that it took have been replaced.

    Batch(number, ...), commit(store, location, batch)  makes a batch visible; False: another was first
    checkpoint(store, location, state)
    orphans(state, store, location)                     files of killed writers, and of some that still write
    superseded(state)                                   files of batches that were replaced
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from meshql.catalog.model import Product
from meshql.errors import CorruptError, LocationError
from meshql.formats.batch_layout import Layout, MergedFile, layout_proof, newest_layout
from meshql.formats.files import readable_uri
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = [
    "DATA",
    "ROW_COLUMNS",
    "UNKNOWN",
    "Batch",
    "BatchFile",
    "Cursor",
    "State",
    "Taken",
    "TakenFile",
    "checkpoint",
    "commit",
    "contents",
    "details",
    "orphans",
    "relation",
    "resolve",
    "scan",
    "state",
    "superseded",
]

LOG = "_batches/"

DATA = "_ingested_on="

ENTRY = re.compile(r"(\d{9,})(\.checkpoint)?\.json")

ROW_COLUMNS = {"_ingested_at": "TIMESTAMP WITH TIME ZONE", "_source": "VARCHAR", "_batch": "BIGINT"}
"""The columns that every row has besides its source's own: when it came, from where, in which batch."""

UNKNOWN = '"NULL"'
"""The type of a column of which only NULLs have come so far."""


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A Parquet file of a batch: its key below the product's folder, its bytes and rows."""

    key: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class TakenFile:
    """A source's file as it was when it was taken; `bad` when it could not be read and was left out."""

    etag: str | None
    size: int
    modified: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a source was taken: its highest value as text, that column's type, and since which batch.

    Rows with the highest value are in no batch before `batch`.
    """

    value: str
    type: str
    batch: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken: files by their address, and by the source's name its cursor and its columns' types."""

    files: Mapping[str, TakenFile] = field(default_factory=dict)
    cursors: Mapping[str, Cursor] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __or__(self, later: Taken) -> Taken:
        return Taken(
            {**self.files, **later.files},
            {**self.cursors, **later.cursors},
            {**self.columns, **later.columns},
        )

    def __bool__(self) -> bool:
        return bool(self.files or self.cursors or self.columns)

    def json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "files": {k: [f.etag, f.size, f.modified, f.bad] for k, f in self.files.items()},
            "cursors": {k: [c.value, c.type, c.batch] for k, c in self.cursors.items()},
            "columns": {k: dict(columns) for k, columns in self.columns.items()},
        }

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Taken:
        """Return what JSON says of it."""
        return cls(
            {k: TakenFile(*values) for k, values in said.get("files", {}).items()},
            {k: Cursor(*values) for k, values in said.get("cursors", {}).items()},
            said.get("columns", {}),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One commit: rows that became visible at once.

    `id` tells it from another writer's batch of the same number. `columns` are those of its own files;
    `schema` all columns so far, with the types that all batches are read at. `replaces` says that the rows of
    earlier batches count no more. `taken` is what it took from sources, besides what earlier ones did.
    """

    number: int
    id: str
    at: datetime
    commit: str
    files: tuple[BatchFile, ...]
    columns: Mapping[str, str]
    schema: Mapping[str, str]
    taken: Taken = Taken()
    replaces: bool = False

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(f.rows for f in self.files)

    @property
    def bytes(self) -> int:
        """The bytes of its files."""
        return sum(f.size for f in self.files)

    def json(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return {
            "meshql": 1,
            "number": self.number,
            "id": self.id,
            "at": self.at.isoformat(),
            "commit": json.loads(self.commit),
            "replaces": self.replaces,
            "files": [[f.key, f.size, f.rows] for f in self.files],
            "columns": dict(self.columns),
            "schema": dict(self.schema),
            "taken": self.taken.json(),
        }

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Batch:
        """Return what an entry of the log says."""
        return cls(
            number=int(said["number"]),
            id=str(said["id"]),
            at=datetime.fromisoformat(said["at"]),
            commit=json.dumps(said["commit"], separators=(",", ":")),
            files=tuple(BatchFile(*values) for values in said["files"]),
            columns=said["columns"],
            schema=said["schema"],
            taken=Taken.parse(said["taken"]),
            replaces=bool(said["replaces"]),
        )


@dataclass(frozen=True, slots=True)
class State:
    """All that the log says: the batches, oldest first, and what was taken from sources."""

    batches: tuple[Batch, ...] = ()
    taken: Taken = Taken()
    layout: Layout = field(default_factory=Layout)

    @property
    def number(self) -> int:
        """The newest batch; 0 where there is none."""
        return self.batches[-1].number if self.batches else 0

    @property
    def since(self) -> int:
        """The batch that replaced all earlier ones; 0 where none did."""
        return max((b.number for b in self.batches if b.replaces), default=0)

    @property
    def live(self) -> tuple[Batch, ...]:
        """The batches whose rows count, oldest first."""
        since = self.since
        return tuple(b for b in self.batches if b.number >= since)

    @property
    def schema(self) -> Mapping[str, str]:
        """All columns with the types that they are read at, `_ingested_at` and its like last."""
        own = self.batches[-1].schema if self.batches else {}
        return {name: "VARCHAR" if kind == UNKNOWN else kind for name, kind in own.items()} | ROW_COLUMNS

    @property
    def rows(self) -> int:
        """The rows of all live batches."""
        return sum(b.rows for b in self.live)

    def adding(self, batch: Batch) -> State:
        """Return the state with one more batch."""
        taken = batch.taken if batch.replaces else self.taken | batch.taken
        return replace(self, batches=(*self.batches, batch), taken=taken)

    def files(self, after: int = 0, upto: int | None = None) -> list[MergedFile]:
        """Return the files that hold the rows of batches `after` < n <= `upto`, as far as they count.

        One that was merged may hold rows of other batches besides.
        """
        wanted = self._wanted(after, upto)
        numbers = [b.number for b in wanted if b.files]
        found = [f for f in self.layout.files if _any_between(numbers, f.first, f.last)]
        merged = self.layout.batches
        for batch in wanted:
            if batch.number not in merged:
                found += [MergedFile(f.key, f.size, f.rows, batch.number, batch.number) for f in batch.files]
        return sorted(found, key=lambda f: f.first)

    def _wanted(self, after: int, upto: int | None) -> list[Batch]:
        return [b for b in self.live if after < b.number and (upto is None or b.number <= upto)]

    def beyond(self, files: Sequence[MergedFile], after: int = 0, upto: int | None = None) -> str:
        """Return the condition under which rows of `files` are of those batches; empty where all are."""
        numbers = [b.number for b in self._wanted(after, upto)]
        if {n for f in files for n in range(f.first, f.last + 1)} <= set(numbers):
            return ""
        first, last = numbers[0], numbers[-1]
        if len(numbers) == last - first + 1:
            return f"_batch BETWEEN {first} AND {last}"
        return f"_batch IN ({', '.join(map(str, numbers))})"


def _any_between(numbers: Sequence[int], first: int, last: int) -> bool:
    """Whether one of some sorted numbers is `first`, `last` or between them."""
    at = bisect_left(numbers, first)
    return at < len(numbers) and numbers[at] <= last


def state(store: Store, location: Location, *, upto: int | None = None) -> State:
    """Return what the log of the product at `location` says, as of batch `upto`, if given.

    Raises CorruptError where entries are missing or are no JSON.
    """
    return _state(store, location, _log(store, location), upto)


def _log(store: Store, location: Location, after: int = 0) -> list[Object]:
    folder = location.folder.key + LOG
    return store.objects(folder, after=f"{folder}{after:09d}.json" if after else None)


def _state(store: Store, location: Location, log: Sequence[Object], upto: int | None) -> State:
    names = [name for o in log if (name := ENTRY.fullmatch(o.name))]
    entries = [int(n[1]) for n in names if not n[2] and (upto is None or int(n[1]) <= upto)]
    newest = max(entries, default=0)
    start = max((int(n[1]) for n in names if n[2] and int(n[1]) <= newest), default=0)
    found = _checkpoint(store, location, start) if start else State()
    numbers = range(found.number + 1, newest + 1)
    missing = sorted(set(numbers) - set(entries))
    if missing:
        raise CorruptError(
            f"batch {missing[0]} is missing from the log: {location.folder}{LOG}",
            hint="bring the file back: from a backup, or an older version that the bucket keeps",
        )
    with ThreadPoolExecutor(max_workers=8) as pool:
        for batch in pool.map(lambda number: _entry(store, location, number), numbers):
            found = found.adding(batch)
    return replace(found, layout=newest_layout(store, location, log))


def _key(location: Location, number: int, kind: str = "") -> str:
    return f"{location.folder.key}{LOG}{number:09d}{kind}.json"


def _read(store: Store, location: Location, key: str) -> Any:
    content = store.get(key)
    try:
        return json.loads(content or b"")
    except ValueError:
        raise CorruptError(f"the log of batches holds what is no JSON: {location.at(key)}") from None


def _entry(store: Store, location: Location, number: int) -> Batch:
    key = _key(location, number)
    said = _read(store, location, key)
    try:
        return Batch.parse(said)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CorruptError(f"the log of batches holds no batch: {location.at(key)}") from None


def _checkpoint(store: Store, location: Location, number: int) -> State:
    key = _key(location, number, ".checkpoint")
    said = _read(store, location, key)
    try:
        return State(tuple(Batch.parse(b) for b in said["batches"]), Taken.parse(said["taken"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CorruptError(f"the log of batches holds no checkpoint: {location.at(key)}") from None


# --- what queries read ----------------------------------------------------------------------------


def resolve(product: Product, location: Location, store: Store, last: Snapshot | None) -> Snapshot:
    """Return the newest batch's snapshot; `last` itself while no batch came after it.

    Raises LocationError where nothing was built yet.
    """
    location = location.folder
    if last is not None and _newest(_log(store, location, int(last.version) - 1)) == last.proof[0]:
        return last
    log = _log(store, location)
    found = _state(store, location, log, None)
    if not found.batches:
        raise LocationError(
            f"{product.name} was not built yet: nothing lies at {location}",
            hint=f"meshql build {product.name}",
        )
    files = found.files()
    return Snapshot(
        product=product,
        location=location,
        version=str(found.number),
        relation=relation(found, location),
        proof=(_newest(log), *(f"{location.key}{f.key}\0{f.size}\0{f.rows}" for f in files)),
        changed_at=found.batches[-1].at,
        files=len(files),
        bytes=sum(f.size for f in files),
    )


def _newest(log: Sequence[Object]) -> str:
    """What proves which entry of the log is the last, and which layout; empty without any."""
    entries = [o for o in log if (name := ENTRY.fullmatch(o.name)) and not name[2]]
    last = max(entries, key=lambda o: o.key, default=None)
    proof = f"{last.key}\0{last.size}\0{last.etag or last.modified.isoformat()}" if last else ""
    return f"{layout_proof(log)}\0{proof}"


def details(snapshot: Snapshot, store: Store, ask: Ask) -> Details:
    """Return what the log says of the snapshot's files."""
    rows = sum(int(proof.split("\0")[2]) for proof in snapshot.proof[1:])
    return Details(files=snapshot.files, rows=rows, bytes=snapshot.bytes, changed_at=snapshot.changed_at)


def contents(snapshot: Snapshot, store: Store, ask: Ask) -> list[File]:
    """Return the files of all batches that count."""
    return [File(key, int(size)) for key, size, _ in (proof.split("\0") for proof in snapshot.proof[1:])]


def relation(state: State, location: Location, after: int = 0, upto: int | None = None) -> str:
    """Return what goes behind FROM to scan the batches `after` < n <= `upto`, as far as they count.

    Rows have the columns of all batches; a column that a batch did not have is NULL in its rows.
    """
    folder = location.folder
    files = state.files(after, upto)
    found = scan([readable_uri(folder, folder.key + f.key) for f in files], state.schema)
    condition = state.beyond(files, after, upto)
    return f"(FROM {found} WHERE {condition})" if condition else found


def scan(uris: Sequence[str], schema: Mapping[str, str]) -> str:
    """Return what goes behind FROM to read Parquet files that differ as one table with these columns."""
    if not uris:
        empty = (f"CAST(NULL AS {kind}) AS {quote_identifier(name)}" for name, kind in schema.items())
        return f"(SELECT {', '.join(empty)} WHERE false)"
    columns = (
        f"{quote_literal(name)}: {{name: {quote_literal(name)}, type: {quote_literal(kind)},"
        " default_value: NULL}"
        for name, kind in schema.items()
    )
    listed = ", ".join(map(quote_literal, uris))
    return f"read_parquet([{listed}], schema => MAP {{{', '.join(columns)}}})"


# --- what builders write --------------------------------------------------------------------------


def commit(store: Store, location: Location, batch: Batch) -> bool:
    """Make a batch visible; False where another writer has made one of its number.

    A batch that is there already because the store stored it and its answer was lost, counts as made.
    """
    key = _key(location, batch.number)
    content = json.dumps(batch.json(), separators=(",", ":")).encode()
    return store.put(key, content, new=True) or _entry(store, location, batch.number).id == batch.id


def checkpoint(store: Store, location: Location, state: State) -> None:
    """Write down all that the log says, so that readers need not read it entry by entry."""
    last = replace(state.batches[-1], taken=Taken())
    bare = (replace(b, taken=Taken(), columns={}, schema={}) for b in state.batches[:-1])
    said = {"meshql": 1, "batches": [b.json() for b in (*bare, last)], "taken": state.taken.json()}
    content = json.dumps(said, separators=(",", ":")).encode()
    store.put(_key(location, state.number, ".checkpoint"), content)


def orphans(state: State, store: Store, location: Location) -> list[Object]:
    """Return the data files that no batch names: writers that were killed left them.

    A writer that is at work has some, too: judge by their age.
    """
    folder = location.folder.key
    named = {folder + f.key for b in state.batches for f in b.files}
    named |= {folder + f.key for f in state.layout.files}
    return [o for o in store.objects(folder + DATA) if o.key not in named]


def superseded(state: State) -> list[BatchFile]:
    """Return the files of batches that were replaced; running readers of old versions may need them."""
    return [f for b in state.batches if b.number < state.since for f in b.files]
