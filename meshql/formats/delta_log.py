"""A Delta table's log, copied commit by commit to a folder of this machine, and what it says.

Names and actions are those of the Delta Transaction Protocol:
https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from meshql.errors import CorruptError
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = ["DataFile", "Log", "copied", "dropped", "goes_on", "put"]

CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\.[\w-]+)?\.(?:parquet|json)$")

MOST_COMMITS = 200
"""Behind more commits than these, the copy is made anew once there is a newer checkpoint."""

AT_ONCE = 8

COLUMNS = (
    "add.path",
    "add.partitionValues",
    "add.size",
    "add.stats",
    "add.deletionVector",
    "protocol",
    "metaData",
    "sidecar",
)

Action = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file: its path in the table as the log has it, without percent signs, and its bytes.

    `partition` has the values of partition columns as text, by their physical names. `rows` is None where
    the log does not count them. `vector` is the deletion vector that takes rows away, if one does.
    """

    path: str
    size: int
    partition: Mapping[str, str | None]
    rows: int | None
    vector: Mapping[str, Any] | None = None

    @property
    def left(self) -> int | None:
        """The rows that the deletion vector leaves; None where the log does not count them."""
        if self.rows is None or not self.vector:
            return self.rows
        return self.rows - int(self.vector["cardinality"])


@dataclass(frozen=True, slots=True)
class Log:
    """What the log says at one version, and the folder that holds the copy of `_delta_log`.

    `parts` are the names of the files that were copied, each with what the store said of its content;
    `start` is the version of the first of them.
    """

    folder: Path
    version: int
    start: int
    parts: Mapping[str, str]
    protocol: Action = field(default_factory=dict)
    metadata: Action = field(default_factory=dict)
    files: Mapping[tuple[str, str | None], DataFile] = field(default_factory=dict)


def copied(store: Store, root: Location, listed: Sequence[Object], version: int, last: Log | None) -> Log:
    """Return what the log says at `version`, with its files in a folder below `store.copies`.

    `listed` are the commits and checkpoints from the newest checkpoint on, or those behind the version of
    `last`, which then is gone on from. Raises CorruptError where a commit is missing or cannot be read.
    """
    if last is not None:
        return _gone_on(_Copy(store, root, last.folder), last, listed, version)
    copy = _Copy(store, root, _new_folder(store))
    try:
        return _begun(copy, listed, version)
    except BaseException:
        shutil.rmtree(copy.folder, ignore_errors=True)
        raise


def dropped(log: Log) -> None:
    """Remove the copy of a log that is not read after all."""
    shutil.rmtree(log.folder, ignore_errors=True)


def _begun(copy: _Copy, listed: Sequence[Object], version: int) -> Log:
    checkpoint = _newest_checkpoint(listed, version)
    start = _number(checkpoint[0]) if checkpoint else -1
    log = Log(copy.folder, start, start, {o.name: _tag(o) for o in checkpoint})
    if checkpoint:
        copy.fetch(checkpoint)
        actions = list(copy.actions(checkpoint))
        sidecars = copy.sidecars(a["sidecar"]["path"] for a in actions if a.get("sidecar"))
        log = _applied(log, [*actions, *copy.actions(sidecars)], start)
    return _gone_on(copy, log, listed, version)


def _gone_on(copy: _Copy, log: Log, listed: Sequence[Object], version: int) -> Log:
    commits = _following(listed, log.version, version, copy.root)
    copy.fetch(commits)
    for commit in commits:
        actions = list(copy.actions([commit]))
        if not actions:
            raise CorruptError(f"a commit of the Delta log is empty: {copy.root.at(commit.key)}")
        log = _applied(log, actions, _number(commit))
    return replace(log, parts={**log.parts, **{o.name: _tag(o) for o in commits}})


def goes_on(last: Log, listed: Sequence[Object]) -> bool:
    """Return whether these commits and checkpoints, from the version of `last` on, only add to what it says.

    They do not when the table was made anew. Where very many were added it is better to begin anew, too.
    """
    same = [last.parts[o.name] == _tag(o) for o in listed if o.name in last.parts]
    near = _number(listed[-1]) - last.start <= MOST_COMMITS
    return bool(same) and all(same) and (near or not any(CHECKPOINT.match(o.name) for o in listed))


def _applied(log: Log, actions: Sequence[Action], version: int) -> Log:
    try:
        return _with(log, actions, version)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CorruptError(f"version {version} of the Delta log holds what is no action of Delta's") from None


def _with(log: Log, actions: Sequence[Action], version: int) -> Log:
    """What the log says once the actions of one commit, or of a checkpoint, are done."""
    protocol, metadata, files = log.protocol, log.metadata, dict(log.files)
    # A new deletion vector takes a file away and adds it again in one commit, in any order.
    for remove in (a["remove"] for a in actions if a.get("remove")):
        files.pop((unquote(remove["path"]), _vector_id(remove.get("deletionVector"))), None)
    for action in actions:
        protocol = action.get("protocol") or protocol
        metadata = action.get("metaData") or metadata
        if add := action.get("add"):
            vector = add.get("deletionVector")
            path = unquote(add["path"])
            partition = {name: value or None for name, value in dict(add["partitionValues"] or {}).items()}
            file = DataFile(path, int(add["size"]), partition, _rows(add.get("stats")), vector)
            files[path, _vector_id(vector)] = file
    return replace(log, version=version, protocol=protocol, metadata=metadata, files=files)


def _vector_id(vector: Action | None) -> str | None:
    return f"{vector['storageType']}{vector['pathOrInlineDv']}@{vector.get('offset')}" if vector else None


def _rows(stats: str | None) -> int | None:
    try:
        return int(json.loads(stats)["numRecords"]) if stats else None
    except (ValueError, KeyError, TypeError):
        return None


def _newest_checkpoint(listed: Sequence[Object], version: int) -> list[Object]:
    """The files of the newest checkpoint that is whole, at `version` or before."""
    found: dict[tuple[int, str], list[Object]] = {}
    for o in listed:
        if (match := CHECKPOINT.match(o.name)) and int(match[1]) <= version:
            parts = match[3] or ("1" if match[0].count(".") == 2 else "")
            found.setdefault((int(match[1]), parts or o.name), []).append(o)
    whole = [(v, os) for (v, parts), os in found.items() if not parts.isdigit() or len(os) == int(parts)]
    return max(whole, key=lambda pair: pair[0])[1] if whole else []


def _following(listed: Sequence[Object], since: int, version: int, root: Location) -> list[Object]:
    """The commits behind version `since`, up to `version`, every one of them."""
    commits = {_number(o): o for o in listed if o.name.endswith(".json") and o.name.count(".") == 1}
    missing = next((v for v in range(since + 1, version + 1) if v not in commits), None)
    if missing is not None:
        name = f"{root}_delta_log/{missing:020d}.json"
        raise CorruptError(f"commit {missing} of the Delta log is missing: {name}")
    return [commits[v] for v in range(since + 1, version + 1)]


def _number(o: Object) -> int:
    return int(o.name[:20])


def _tag(o: Object) -> str:
    return o.etag or o.modified.isoformat()


def _new_folder(store: Store) -> Path:
    assert store.copies is not None
    folder = Path(tempfile.mkdtemp(prefix="delta-", dir=store.copies()))
    (folder / "_delta_log" / "_sidecars").mkdir(parents=True)
    return folder


def put(folder: Path, path: Path, content: bytes) -> None:
    """Write a file below `folder` as a whole or not at all: other threads may write and read it too."""
    # Not in the log's own folder, which the delta extension lists.
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


@dataclass(frozen=True, slots=True)
class _Copy:
    """The folder that a log is copied to."""

    store: Store
    root: Location
    folder: Path

    def fetch(self, objects: Sequence[Object]) -> None:
        """Copy what is not there yet, several files at a time."""
        missing = [o for o in objects if not self._path(o).exists()]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="meshql-delta-log") as pool:
            for _ in pool.map(self._fetch, missing):
                pass

    def _fetch(self, o: Object) -> None:
        content = self.store.get(o.key)
        if content is None:
            raise CorruptError(f"a part of the Delta log is gone: {self.root.at(o.key)}")
        put(self.folder, self._path(o), content)

    def _path(self, o: Object) -> Path:
        return self.folder / o.key.removeprefix(self.root.key)

    def sidecars(self, names: Iterable[str]) -> list[Object]:
        """Copy the files that a checkpoint names, and return them."""
        names = [unquote(name) for name in names]
        if not names:
            return []
        listed = {o.name: o for o in self.store.objects(f"{self.root.key}_delta_log/_sidecars/")}
        for name in names:
            if name not in listed:
                raise CorruptError(f"a part of the Delta log is gone: {self.root}_delta_log/_sidecars/{name}")
        found = [listed[name] for name in names]
        self.fetch(found)
        return found

    def actions(self, objects: Iterable[Object]) -> Iterator[Action]:
        """The actions in copied files, in order."""
        for o in objects:
            path = self._path(o)
            try:
                if o.name.endswith(".json"):
                    yield from (json.loads(line) for line in path.read_bytes().splitlines() if line.strip())
                else:
                    yield from _checkpointed(path)
            except (ValueError, KeyError, TypeError):
                raise CorruptError(f"not a part of a Delta log: {self.root.at(o.key)}") from None


def _checkpointed(path: Path) -> Iterator[Action]:
    """The actions in a checkpoint's Parquet file."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    there = set(file.schema_arrow.names)
    chosen = [c for c in COLUMNS if c.partition(".")[0] in there]
    for batch in file.iter_batches(columns=chosen):
        yield from batch.to_pylist()
