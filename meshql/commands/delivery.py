"""Results on their way out: to stdout, or to a file of their own."""

from __future__ import annotations

import os
import sys

from meshql.output import write
from meshql.output.table import terminal_width
from meshql.query.result import Result, is_count
from meshql.shell.state import Front
from meshql.shell.target import Targets, rows_said
from meshql.sql import Statement
from meshql.terminal import coloured, note, say

__all__ = ["Delivery"]

SEPARATED = frozenset({"table", "vertical", "markdown"})
"""Formats in which an empty line stands between results."""


class Delivery:
    """Writes one result after the other."""

    def __init__(self, front: Front, *, limit: int | None, quiet: bool) -> None:
        self._front = front
        self._limit = limit
        self._quiet = quiet
        self._width = terminal_width()
        self._box = self._width is not None and os.environ.get("TERM") != "dumb"
        self._shown = 0
        self._targets = Targets()

    def deliver(self, statement: Statement, result: Result) -> bool:
        """Write the rows of a statement that has some; say what one that changes rows did.

        Returns whether anybody still reads. Raises UsageError for a file that took a result before.
        """
        with result:
            if not is_count(statement, result):
                return self._write(statement, result)
            if not self._quiet:
                self._tell(statement, result)
        return True

    def _write(self, statement: Statement, result: Result) -> bool:
        front = self._front
        target, format_ = front.once or front.output, front.file_format
        if front.once:
            front.once, format_ = None, None
        self._targets.count()
        if target:
            return self._to_file(result, self._targets.claim(target), format_)
        return self._to_stdout(statement, result)

    def _to_file(self, result: Result, target: str, format_: str | None) -> bool:
        null = self._front.settings.null
        written = write(result, target, format_, limit=self._limit, null=null, box=False)
        self._targets.fill(target)
        if written.truncated:
            self._note_limit(written.rows)
        elif not self._quiet:
            say(f"{rows_said(written.rows)} written to {target}")
        return True

    def _to_stdout(self, statement: Statement, result: Result) -> bool:
        settings = self._front.settings
        format_ = settings.mode
        if format_ == "table" and settings.expanded == "on":
            format_ = "vertical"
        if self._shown and format_ in SEPARATED:
            sys.stdout.buffer.write(b"\n")
        self._shown += 1
        if statement.kind == "EXPLAIN" and settings.mode == "table":
            print("\n".join(str(row[-1]).rstrip() for row in result.fetchall()), flush=True)
            return True
        written = write(
            result,
            sys.stdout.buffer,
            format_,
            limit=self._limit,
            width=self._width,
            null=settings.null,
            box=self._box,
            dim=self._box and coloured(sys.stdout),
        )
        if written.truncated:
            self._note_limit(written.rows)
        return not written.closed

    def _note_limit(self, rows: int) -> None:
        if not self._quiet:
            note(f"only the first {rows:,} rows, as --limit says; there are more")

    def _tell(self, statement: Statement, result: Result) -> None:
        for (count,) in result.fetchall():
            if isinstance(count, int) and not isinstance(count, bool):
                say(f"{statement.kind.replace('_', ' ')}: {rows_said(count)}")
