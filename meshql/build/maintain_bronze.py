"""Care for bronze products: small batches' files merged, the log summed up, files that nobody reads removed.

Merging changes no batch: a layout beside the log names the files that are read in place of theirs, and what
comes after the log's last batch is not touched. So builds and maintenance never meet.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, zip_longest
from pathlib import Path

from meshql.build.footers import shapes
from meshql.build.maintain import Job, counted
from meshql.errors import CorruptError, ExistsError
from meshql.formats import batches
from meshql.formats.batch_layout import Layout, MergedFile, layouts_in, read_layout, write_layout
from meshql.formats.batch_state import State
from meshql.formats.files import readable_uri
from meshql.query.reading import Reading
from meshql.sql import quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store
from meshql.terminal import size

__all__ = ["care"]

CHECKPOINT_AFTER = 10
"""Batches since the last checkpoint that are worth a new one."""


def care(job: Job) -> None:
    """Merge what is small, checkpoint the log, and remove what is older than the retention.

    Raises StorageError where another maintenance merged at the same time.
    """
    store, location = job.mesh.store(job.product)
    table = _Table(job, store, location.folder, batches.state(store, location))
    if not table.state.batches:
        job.tell("not built yet")
        return
    job.tell_files(before=len(table.state.files()))
    table.merge()
    job.check()
    table.checkpoint()
    job.check()
    table.remove()
    if not job.given.dry_run:
        job.tell_files(after=len(table.state.files()))


@dataclass(slots=True)
class _Table:
    """The product's folder and what its log says."""

    job: Job
    store: Store
    location: Location
    state: State

    # --- merging ----------------------------------------------------------------------------------

    def merge(self) -> None:
        """Write small files that follow each other on one day into one, and name those in a new layout."""
        groups = list(self._groups())
        if not groups:
            return
        merged: list[MergedFile] = []
        committing = False
        try:
            with self.job.mesh.reading([self.job.product]) as reading:
                parts = [part for group in groups for part in self._alike(reading, group)]
                for part in () if self.job.given.dry_run else parts:
                    self.job.check()
                    merged.append(self._merged(reading, part))
            if merged:
                committing = True
                self._commit(merged)
        except BaseException as error:
            # A commit that failed otherwise than by another's may have landed, and name them.
            if not committing or isinstance(error, ExistsError):
                self.store.delete([self.location.key + f.key for f in merged])
            raise
        if parts:
            wrote = "would write" if self.job.given.dry_run else "wrote"
            self.job.tell(f"{wrote} {sum(map(len, parts)):,} small files into {len(parts):,}")

    def _groups(self) -> Iterator[list[MergedFile]]:
        """Files of batches that follow each other, lie in one day's folder and are small together."""
        group: list[MergedFile] = []
        total = 0
        for files in _by_batches(self.state.files()):
            length = sum(f.size for f in files)
            small = length < self.job.given.target_bytes
            same_day = not group or _day(files[0]) == _day(group[-1])
            if group and (not small or not same_day or total + length > self.job.given.target_bytes):
                if len(group) >= self.job.given.fewest:
                    yield group
                group, total = [], 0
            if small:
                group, total = [*group, *files], total + length
        if len(group) >= self.job.given.fewest:
            yield group

    def _alike(self, reading: Reading, group: Sequence[MergedFile]) -> Iterator[list[MergedFile]]:
        """The parts of a group whose files have the very same columns: no value is cast."""
        folder = reading.snapshots[self.job.product.name].location
        uris = [readable_uri(folder, folder.key + f.key) for f in group]
        found = dict(zip((f.key for f in group), shapes(reading, uris), strict=True))
        parts: list[list[MergedFile]] = [[]]
        for files in _by_batches(group):
            mine = {found[f.key] for f in files}
            if parts[-1] and mine != {found[parts[-1][-1].key]}:
                parts.append([])
            if len(mine) == 1:
                parts[-1] += files
        yield from (part for part in parts if len(part) >= self.job.given.fewest)

    def _merged(self, reading: Reading, group: Sequence[MergedFile]) -> MergedFile:
        """Write the rows of files into one, and put it into the store; nothing names it yet."""
        folder = reading.snapshots[self.job.product.name].location
        uris = [readable_uri(folder, folder.key + f.key) for f in group]
        first, last = min(f.first for f in group), max(f.last for f in group)
        name = f"{last:09d}-{uuid.uuid4().hex[:12]}-merged.parquet"
        local = self.job.scratch / name
        listed = ", ".join(map(quote_literal, uris))
        reading.ask(
            f"COPY (FROM read_parquet([{listed}], hive_partitioning => false)) TO {quote_literal(str(local))}"
            " (FORMAT parquet, COMPRESSION zstd, WRITE_BLOOM_FILTER false)"
        )
        rows = int(reading.ask(f"SELECT count(*) FROM read_parquet({quote_literal(str(local))})")[0][0])
        self._must_agree(reading, group, local, rows, uris[0])
        key = f"{_day(group[0])}/{name}"
        self.store.put(self.location.key + key, local)
        length = local.stat().st_size
        local.unlink()
        return MergedFile(key, length, rows, first, last)

    def _must_agree(
        self, reading: Reading, group: Sequence[MergedFile], local: Path, rows: int, uri: str
    ) -> None:
        name, said = self.job.product.name, sum(f.rows for f in group)
        which = f"{name}: files of the batches {group[0].first} to {group[-1].last}"
        if rows != said:
            raise CorruptError(
                f"{which} hold {rows:,} rows, and the log says {said:,}",
                hint=f"see whose: meshql query -c 'SELECT _batch, count(*) FROM {name} GROUP BY ALL'",
            )
        if len(set(shapes(reading, [str(local), uri]))) != 1:
            raise CorruptError(f"{which} would have other types if they were merged")

    def _commit(self, merged: Sequence[MergedFile]) -> None:
        kept = [
            f
            for f in self.state.layout.since(self.state.since).files
            if not any(m.first <= f.first and f.last <= m.last for m in merged)
        ]
        files = sorted([*kept, *merged], key=lambda f: f.first)
        number = self.state.layout.number + 1
        if not write_layout(self.store, self.location, number, files):
            raise ExistsError(
                f"{self.job.product.name}: another maintenance merged its files meanwhile",
                hint=f"there may be nothing left to do: meshql maintain {self.job.product.name} --dry-run",
            )
        self.state = replace(self.state, layout=Layout(number, tuple(files)))

    # --- the log ----------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Sum up the log where enough batches came since it was last summed up."""
        names = [batches.ENTRY.fullmatch(o.name) for o in self._log()]
        last = max((int(n[1]) for n in names if n and n[2]), default=0)
        since = self.state.number - last
        if since < CHECKPOINT_AFTER:
            return
        if self.job.given.dry_run:
            self.job.tell(f"would write a checkpoint of {since:,} batches")
            return
        batches.checkpoint(self.store, self.location, self.state)
        self.job.tell(f"wrote a checkpoint of {since:,} batches")

    def _log(self) -> list[Object]:
        return self.store.objects(self.location.key + batches.LOG)

    # --- what nobody needs ------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove files that nobody has read since the retention began, and layouts that no longer count."""
        before = self.job.before
        layouts = self._layouts()
        needed = self._needed(layouts)
        doomed = [
            o
            for o in self.store.objects(self.location.key + batches.DATA)
            if o.key not in needed and o.modified < before and not o.key.startswith(self.job.nested)
        ]
        # An older one counted until the next one came.
        old = [o for o, following in pairwise(layouts) if following.modified < before]
        if not doomed and not old:
            return
        freed = sum(o.size for o in (*doomed, *old))
        if not self.job.given.dry_run:
            self.store.delete([o.key for o in (*doomed, *old)])
        would = "would remove" if self.job.given.dry_run else "removed"
        count = len(doomed)
        self.job.tell(f"{would} {counted(count, 'file')}, {size(freed)}", removed=count, freed=freed)

    def _layouts(self) -> list[Object]:
        return layouts_in(self._log())

    def _needed(self, layouts: Sequence[Object]) -> set[str]:
        """The files that are read now, and all that were at any moment since the retention began."""
        before = self.job.before
        counted = [
            o
            for o, following in zip_longest(layouts, layouts[1:])
            if following is None or following.modified >= before
        ]
        known = [read_layout(self.store, self.location, o) for o in counted]
        if not layouts or layouts[0].modified >= before:
            known.append(Layout())
        # What was replaced within the retention was read within it.
        entries = {o.name: o.modified for o in self._log()}
        past = [b for b in self.state.batches if entries.get(f"{b.number:09d}.json", before) < before]
        states = [replace(self.state, layout=layout) for layout in known]
        states += [State(tuple(past), layout=layout) for layout in known]
        return {self.location.key + f.key for state in states for f in state.files()}


def _by_batches(files: Sequence[MergedFile]) -> Iterator[list[MergedFile]]:
    """Files, those together that hold the same batches."""
    for _, together in groupby(files, lambda f: f.first):
        yield list(together)


def _day(file: MergedFile) -> str:
    return file.key.rpartition("/")[0]
