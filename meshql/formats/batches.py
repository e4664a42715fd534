"""Parquet that is built here in batches: its log read and written, and the SQL that scans some of them.

Below the product's folder lie the rows, `_ingested_on=2026-11-23/000000007-<id>-0.parquet`, and the log:
`_batches/000000007.json` is the commit of batch 7, which only one writer can make; now and then there is a
`000000007.checkpoint.json` with all that the log says up to there. What no entry of the log names is not part
of the product: a writer that was killed has left it.

    state(store, location, upto=None) -> State          what the log says; State() where there is none
    relation(state, location, after=0, upto=None)       what goes behind FROM: the rows of those batches

To scan, hand `relation` the location of the product's snapshot (`mesh.snapshot(product).location`), which is
spelled as DuckDB knows the identity by. A reader that has taken batches up to n has to begin anew where
`State.since` is greater than n: the rows that it took have been replaced.

    Batch(number, ...), commit(store, location, batch)  makes a batch visible; False: another was first
    checkpoint(store, location, state)
    orphans(state, store, location)                     files of killed writers, and of some that still write
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from meshql.catalog.model import Product
from meshql.errors import CorruptError, LocationError
from meshql.formats.batch_layout import layout_proof, newest_layout
from meshql.formats.batch_state import Batch, State, Taken
from meshql.formats.files import readable_uri
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = [
    "DATA",
    "LOG",
    "checkpoint",
    "commit",
    "contents",
    "details",
    "orphans",
    "relation",
    "resolve",
    "scan",
    "state",
]

LOG = "_batches/"

DATA = "_ingested_on="

ENTRY = re.compile(r"(\d{9,})(\.checkpoint)?\.json")


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
    # What a source keeps for itself is asked for as of any batch.
    last = replace(state.batches[-1], taken=Taken(kept=state.batches[-1].taken.kept))
    bare = (replace(b, taken=Taken(kept=b.taken.kept), columns={}, schema={}) for b in state.batches[:-1])
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
