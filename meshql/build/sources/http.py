"""Records of an API, as they are at its cursor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshql.build.sources.api import Pages
from meshql.build.sources.fresh import beginning, fresh, held
from meshql.build.sources.portion import Portion, Work, json_columns, room
from meshql.build.step import Step
from meshql.catalog.build import HttpSource
from meshql.formats.files import literal
from meshql.identity.http import place_of
from meshql.query.reading import Reading
from meshql.sql import quote_literal

__all__ = ["Api"]


class Api:
    """An API that answers with JSON.

    All of what is new comes in one batch: an API need not answer in its cursor's order, so that no part of
    an answer could be gone on from.
    """

    def __init__(self, declared: HttpSource, step: Step) -> None:
        self.name = declared.name or place_of(declared.url)
        self.notes: list[str] = []
        self._declared, self._step = declared, step

    def pending(self, work: Work) -> str:
        """Return from where on the API would be asked; it is not."""
        since = beginning(work, self.name, self._declared.cursor)
        return f"{self.name} since {since}" if since is not None else f"{self.name} from the beginning"

    def portions(self, work: Work) -> Iterator[Portion]:
        """Yield the new records."""
        spool = self._step.scratch / "records.ndjson"
        if not self._spooled(spool, beginning(work, self.name, self._declared.cursor)):
            return
        with held(work) as reading:
            relation = self._relation(reading, spool)
            cursor = self._declared.cursor
            portion, left = fresh(work, reading, self.name, cursor, relation, {}, told=bool(cursor.param))
            self.notes += left
            if portion:
                yield portion
        spool.unlink()

    def _spooled(self, spool: Path, since: str | None) -> int:
        """Write all records down; returns how many."""
        count = 0
        with room(self._step), spool.open("w", encoding="utf-8") as file:
            for records in Pages(self._declared, self._step).records(since):
                file.writelines(
                    json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in records
                )
                count += len(records)
                self._step.progress(f"reading {self.name}", count)
        return count

    def _relation(self, reading: Reading, spool: Path) -> str:
        file = quote_literal(str(spool))
        fixed = "format => 'newline_delimited', maximum_object_size => 268435456"

        def scan(more: Mapping[str, Any]) -> str:
            options = "".join(f", {name} => {literal(value)}" for name, value in more.items())
            return f"read_json({file}, sample_size => -1, {fixed}{options})"

        columns = literal(json_columns(reading.ask, reading.cursor, scan))
        return f"read_json({file}, columns => {columns}, {fixed})"
