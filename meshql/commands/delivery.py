"""Results on their way out: to stdout, or to a file of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from meshql.errors import UsageError
from meshql.output import write
from meshql.output.table import terminal_width
from meshql.query.result import Result
from meshql.shell.state import Front
from meshql.sql import Statement
from meshql.terminal import note, say

__all__ = ["Delivery", "numbered"]

SEPARATED = frozenset({"table", "vertical", "markdown"})
"""Formats in which an empty line stands between results."""

NUMBER = "{n}"


def numbered(output: str) -> str:
    """Return a name for one file a result: `out-{n}.csv`."""
    path = Path(output)
    return str(path.with_stem(f"{path.stem}-{NUMBER}"))


class Delivery:
    """Writes one result after the other."""

    def __init__(self, front: Front, *, limit: int | None, null: str | None, quiet: bool) -> None:
        self._front = front
        self._limit = limit
        self._null = null
        self._quiet = quiet
        self._width = terminal_width()
        self._box = self._width is not None and os.environ.get("TERM") != "dumb"
        self._results = 0
        self._shown = 0
        self._files: set[Path] = set()

    def deliver(self, statement: Statement, result: Result) -> bool:
        """Write the rows of a statement that has some; say what one that changes rows did.

        Returns whether anybody still reads. Raises UsageError for a file that took a result before.
        """
        with result:
            if statement.reads or result.types not in (("BIGINT",), ("BOOLEAN",)):
                return self._write(statement, result)
            if not self._quiet:
                self._tell(statement, result)
        return True

    def _write(self, statement: Statement, result: Result) -> bool:
        front = self._front
        target, format_ = front.once or front.output, front.file_format
        if front.once:
            front.once, format_ = None, None
        self._results += 1
        if target:
            return self._to_file(result, target.replace(NUMBER, str(self._results)), format_)
        return self._to_stdout(statement, result)

    def _to_file(self, result: Result, target: str, format_: str | None) -> bool:
        path = Path(target).absolute()
        if path in self._files:
            raise UsageError(f"{target} holds a result already", hint=f"number the files: {numbered(target)}")
        written = write(result, target, format_, limit=self._limit, null=self._null, box=False)
        self._files.add(path)
        if written.truncated:
            self._note_limit(written.rows)
        elif not self._quiet:
            say(f"{written.rows:,} rows written to {target}")
        return True

    def _to_stdout(self, statement: Statement, result: Result) -> bool:
        format_ = self._front.settings.mode
        if self._shown and format_ in SEPARATED:
            sys.stdout.buffer.write(b"\n")
        self._shown += 1
        if statement.kind == "EXPLAIN" and format_ == "table":
            print("\n".join(str(row[-1]).rstrip() for row in result.fetchall()), flush=True)
            return True
        written = write(
            result,
            sys.stdout.buffer,
            format_,
            limit=self._limit,
            width=self._width,
            null=self._null,
            box=self._box,
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
                say(f"{statement.kind.replace('_', ' ')}: {count:,} rows")
