"""Files that appear in a folder: each is taken once, in the order in which they came."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from meshql.build.sources.portion import Portion, Work, columns_of, json_columns
from meshql.build.step import Request, Step
from meshql.catalog.build import FilesSource
from meshql.catalog.locations import scheme_of
from meshql.catalog.model import Product
from meshql.errors import CatalogError, CorruptError, CredentialsError, MeshError, StorageError
from meshql.formats.batch_state import Taken, TakenFile
from meshql.formats.files import READERS, SUFFIXES, listed, literal, readable_uri
from meshql.query.failure import mount_failure
from meshql.query.reading import Reading
from meshql.redact import scrub
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store
from meshql.terminal import size

__all__ = ["Files"]

PORTION_BYTES = 256_000_000
PORTION_FILES = 2_000

ANY = re.compile("|".join(suffix.pattern for suffix in SUFFIXES.values()), re.IGNORECASE)

DEFAULTS: dict[str, dict[str, Any]] = {
    # The sniffer would skip lines, and take those that break a file's form for rows of one column.
    "csv": {
        "delim": ",",
        "quote": '"',
        "escape": '"',
        "comment": "",
        "skip": 0,
        "header": True,
        "sample_size": -1,
        "union_by_name": True,
    },
    # What is in no sample would be dropped.
    "json": {"sample_size": -1, "maximum_sample_files": PORTION_FILES, "union_by_name": True},
    "parquet": {"union_by_name": True},
}

TIME_FORMATS = frozenset({"dateformat", "date_format", "timestampformat", "timestamp_format"})

NAMED = 3
"""So many files are named in a note."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the source: what the store says of it, its form, and its addresses."""

    object: Object
    form: str
    uri: str
    """As DuckDB is to read it."""
    plain: str
    key: str
    """By what the log knows it."""

    @property
    def mark(self) -> TakenFile:
        return TakenFile(self.object.etag, self.object.size, self.object.modified.isoformat())


class _Unreadable(Exception):
    """Files, read together, of which one is not what its form says."""

    def __init__(self, problem: CorruptError) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Files:
    """Files of a folder or glob; each is taken once, whichever source of the product finds it."""

    def __init__(self, declared: FilesSource, step: Step) -> None:
        self.name = declared.name or declared.location
        self.notes: list[str] = []
        self._declared = declared
        self._step = step
        connection = declared.connection
        if connection is None and scheme_of(declared.location) not in ("", "file"):
            connection = step.product.connection
        # A product only to reach the files by.
        self._found = Product(
            name=step.product.name, connection=connection, location=declared.location, format="parquet"
        )

    def pending(self, work: Work) -> str:
        """Return how many files are new, and their bytes."""
        store, location = self._step.mesh.store(self._found)
        new = self._new(work, store, location)
        if not new:
            return ""
        total = sum(f.object.size for f in new)
        return f"{len(new):,} new file{'s' if len(new) > 1 else ''}, {size(total)}"

    def portions(self, work: Work) -> Iterator[Portion]:
        """Yield the rows of new files, those of about 256 MB at a time."""
        store, _ = self._step.mesh.store(self._found)
        with self._step.mesh.looking(self._found) as reading:
            place = next(iter(reading.snapshots.values())).location
            whole = self._whole(place)
            for group in _grouped(self._new(work, store, whole)):
                yield from self._portions(group, reading, store, whole)

    def _whole(self, place: Location) -> Location:
        """The source's own location, glob and all, with the root that DuckDB is to read it at."""
        return place.to(self._step.mesh.store(self._found)[1].key)

    # --- what is new ------------------------------------------------------------------------------

    def _new(self, work: Work, store: Store, location: Location) -> list[_File]:
        taken = work.state.taken.files
        files = self._all(store, location)
        if not files:
            self.notes.append(f"there is no file at {self._declared.location} yet")
        fresh = [f for f in files if f.key not in taken]
        changed = [f for f in files if f.key in taken and _differs(f.mark, taken[f.key])]
        again = [f for f in changed if self._declared.overwritten == "append" or taken[f.key].bad]
        if ignored := [f for f in changed if f not in again]:
            self.notes.append(
                f"changed since taken, and passed over: {_files(ignored)}; `overwritten: append` takes such"
                " files again"
            )
        wanted = [f for f in (*fresh, *again) if _within(f.object.modified, work.step.request)]
        return sorted(wanted, key=lambda f: (f.object.modified, f.key))

    def _all(self, store: Store, location: Location) -> list[_File]:
        suffix = SUFFIXES[self._declared.format] if self._declared.format else ANY
        return [self._file(found, location) for found in listed(location, store, suffix)]

    def _file(self, found: Object, location: Location) -> _File:
        form = self._declared.format or _form(found.key)
        if form is None:
            raise CatalogError(
                f"{self._step.product.name}: the name of {found.name} does not tell what is in it",
                hint="add `format:` to the source: csv, json or parquet",
            )
        plain = location.to(found.key).plain
        return _File(found, form, readable_uri(location, found.key), plain, self._key(found.key, plain))

    def _key(self, key: str, plain: str) -> str:
        """The file's address; below the same folder as a local product, the way from there to it.

        So a folder that holds both may be moved.
        """
        here = self._step.mesh.store(self._step.product)[1]
        if here.scheme or "://" in plain:
            return plain
        return os.path.relpath(f"/{key}", f"/{here.folder.key}")

    # --- reading them -----------------------------------------------------------------------------

    def _portions(
        self, group: list[_File], reading: Reading, store: Store, whole: Location
    ) -> Iterator[Portion]:
        """The rows of some files; as one portion, where they can be read as one."""
        self._step.progress(f"reading {_files(group)}")
        good = [f for f in group if f.object.size]
        read, bad = ("", dict[str, str]()), list[_File]()
        try:
            read = self._read(good, reading, store) if good else read
        except _Unreadable:
            bad = self._bad(good, reading, store)
            if not bad:
                for file in group:
                    yield from self._portions([file], reading, store, whole)
                return
            good = [f for f in good if f not in bad]
            read = self._read(good, reading, store) if good else read
        marks = {f.key: replace(f.mark, bad=f in bad) for f in group}
        source = f"{quote_literal(whole.to('').plain)} || substr(_source, {len(whole.at('')) + 1})"
        check = self._unchanged(group, store, whole)
        yield Portion(reading, self.name, *read, source, Taken(marks), check=check)

    def _unchanged(self, group: Sequence[_File], store: Store, whole: Location) -> Callable[[], None]:
        def check() -> None:
            now = {f.key: f.mark for f in self._all(store, whole)}
            changed = [f for f in group if f.key not in now or _differs(now[f.key], f.mark)]
            if changed:
                raise StorageError(
                    f"{self._step.product.name}: {_files(changed)} changed while it was read",
                    hint="run it again; whoever writes there should write elsewhere and move the file in",
                )

        return check

    def _options(self, form: str, more: Mapping[str, Any]) -> str:
        own = {str(k): v for k, v in self._declared.options.items()}
        if form == "csv" and own.keys() & {"sep", "delimiter"}:
            more = {**more, "delim": None}
        options = {**DEFAULTS[form], **more, **own}
        return "".join(
            f", {quote_identifier(k)} => {literal(v)}" for k, v in options.items() if v is not None
        )

    def _scan(self, files: Sequence[_File], more: Mapping[str, Any]) -> str:
        uris = ", ".join(quote_literal(f.uri) for f in files)
        if files[0].object.name.casefold().endswith((".tsv", ".tsv.gz", ".tsv.zst")):
            more = {**more, "delim": "\t"}
        return f"{READERS[files[0].form]}([{uris}]{self._options(files[0].form, more)})"

    def _relation(self, files: Sequence[_File], reading: Reading) -> tuple[str, dict[str, str]]:
        """What reads the files with their addresses as `_source`, and the columns that are theirs."""
        more: dict[str, Any] = {}

        def ask(sql: str) -> list[tuple[Any, ...]]:
            return reading.cursor.execute(sql).fetchall()

        def scan(options: Mapping[str, Any]) -> str:
            return self._scan(files, {"hive_partitioning": False, **options})

        form = files[0].form
        if form == "json" and not self._declared.options.keys() & (TIME_FORMATS | {"columns"}):
            # All of them are looked at here; reading need not do so again.
            unused = ("sample_size", "maximum_sample_files", "union_by_name")
            more = {"columns": json_columns(ask, reading.cursor, scan), **dict.fromkeys(unused)}
        columns = columns_of(ask, self._scan(files, more), self._step.product.name, self.name)
        if form == "parquet" and self._declared.bad_files == "skip":
            # What a footer says is not what the pages hold; other files have been read whole by now.
            ask(f"SELECT max(hash(t)) FROM {self._scan(files, more)} t")
        return self._scan(files, {**more, "filename": "_source"}), columns

    def _read(self, files: Sequence[_File], reading: Reading, store: Store) -> tuple[str, dict[str, str]]:
        """What reads the files, and their columns; raises _Unreadable where that is a file's fault."""
        try:
            relation, columns = self._relation(files, reading)
        except (MeshError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            problem = mount_failure(error, next(iter(reading.snapshots.values())))
            if isinstance(problem, CredentialsError):
                raise reading.failure(problem) from None
            if not isinstance(problem, CorruptError):
                raise problem from None
            raise _Unreadable(self._named(files[0], str(error), store)) from None
        if files[0].form == "csv" and (undivided := self._undivided(files, list(columns))):
            raise _Unreadable(undivided)
        return relation, columns

    # --- bad files --------------------------------------------------------------------------------

    def _bad(self, files: Sequence[_File], reading: Reading, store: Store) -> list[_File]:
        """Those of the files that cannot be read, which are to be left out; raises where they are not."""
        found: list[tuple[_File, CorruptError]] = []
        for file in files:
            try:
                self._read([file], reading, store)
            except _Unreadable as unreadable:
                if self._declared.bad_files == "fail":
                    raise unreadable.problem from None
                found.append((file, unreadable.problem))
        bad = [file for file, _ in found]
        if bad:
            said = "; ".join(problem.message for _, problem in found[:NAMED])
            self.notes.append(f"left out, since unreadable: {_files(bad)}: {said}")
        return bad

    def _named(self, file: _File, words: str, store: Store) -> CorruptError:
        if file.form == "csv" and "sniffing" in words:
            words = self._csv_words(file, store) or words
        lines = words.strip().splitlines()
        where, said = file.plain, lines[0]
        if found := re.search(r"CSV Error on Line: (\d+)", words):
            where = f"{where}, line {found[1]}"
            said = next((w for w in lines[1:] if w and not w.startswith("Original Line")), said)
        return CorruptError(
            f"{self._step.product.name}: cannot read {where}: {said}",
            hint="repair or remove the file, or go on without such files: `bad_files: skip` in the source",
        )

    def _csv_words(self, file: _File, store: Store) -> str | None:
        """What the reader says of a CSV file once it need not guess: the sniffer names no line."""
        head = (store.beginning(file.object.key, 65_536) or b"").split(b"\n")[0].decode(errors="replace")
        own = self._declared.options
        delim = str(own.get("delim") or own.get("sep") or own.get("delimiter") or ",")
        names = next(csv.reader([head], delimiter=delim[:1]), [])
        columns = {f"c{i}": "VARCHAR" for i in range(len(names))}
        more = {"auto_detect": False, "columns": columns, "sample_size": None, "union_by_name": None}
        try:
            with self._step.mesh.looking(self._found) as reading:
                reading.cursor.execute(f"SELECT count(*) FROM {self._scan([file], more)}").fetchall()
        except Exception as error:
            scrub(error)
            return str(error)
        return None

    def _undivided(self, files: Sequence[_File], columns: Sequence[str]) -> CorruptError | None:
        """A file of one column whose name holds what may divide columns was not meant so."""
        signs = [sign for sign in ";|\t" if any(sign in column for column in columns)]
        declared = self._declared.options.keys() & {"delim", "sep", "delimiter"}
        if not signs or declared or (len(files) == 1 and len(columns) > 1):
            return None
        return CorruptError(
            f"{self._step.product.name}: the columns of {files[0].plain} are divided by {signs[0]!r}",
            hint=f"add to the source: options: {{delim: {signs[0]!r}}}",
        )


def _grouped(files: Iterable[_File]) -> Iterator[list[_File]]:
    """Files in portions, each of one form."""
    group: list[_File] = []
    for file in files:
        total = sum(f.object.size for f in group) + file.object.size
        if group and (total > PORTION_BYTES or len(group) >= PORTION_FILES or group[0].form != file.form):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _form(key: str) -> str | None:
    return next((form for form, suffix in SUFFIXES.items() if suffix.search(key)), None)


def _differs(now: TakenFile, then: TakenFile) -> bool:
    if now.etag and then.etag:
        return now.etag != then.etag
    return (now.size, now.modified) != (then.size, then.modified)


def _within(moment: datetime, request: Request) -> bool:
    since, until = request.since, request.until
    return (since is None or moment >= since) and (until is None or moment < until)


def _files(files: Sequence[_File]) -> str:
    """Some files by name: `a.json`, `3 files (a.json, b.json, ...)`."""
    names = [f.object.name for f in files[:NAMED]]
    if len(files) == 1:
        return names[0]
    return f"{len(files):,} files ({', '.join(names)}{', ...' if len(files) > NAMED else ''})"
