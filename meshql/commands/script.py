"""A script: SQL statements and commands, done in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshql.commands.delivery import Delivery
from meshql.commands.front import known, run_command
from meshql.commands.given import Source, read_source
from meshql.errors import DeadlineError, InterruptedQueryError, MeshError, QueryError, UsageError, nearest
from meshql.redact import learn_typed
from meshql.shell.completion.tokens import read
from meshql.shell.script import Command, Sql, items
from meshql.shell.state import Front
from meshql.shell.target import NUMBER, numbered
from meshql.sql import Statement, split
from meshql.terminal import report, say

if TYPE_CHECKING:
    from meshql.query.receipt import Receipt

__all__ = ["Habits", "Script", "pieces"]

NAMING = frozenset({".read", ".explain", ".plan"})
"""Commands whose SQL may use a parameter that no statement of the script names."""

DEEPEST = 20
"""Files that read files that read files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a script runs: what it says on stderr, and what it does after an error."""

    quiet: bool = False
    echo: bool = False
    stats: bool = False
    keep_going: bool = False
    dry_run: bool = False


def pieces(source: Source) -> Iterator[Command | Sql]:
    """Yield the commands and the single statements of a script, each with its line.

    Raises QueryError for a comment that nothing ends: whatever follows it would be left out in silence.
    """
    for item in items(source.text):
        if isinstance(item, Command):
            yield item
            continue
        for text, line in split(item.text):
            yield Sql(text, item.line + line - 1)
        last = read(item.text)[-1:]
        if last and last[0].kind == "comment" and not last[0].closed:
            line = item.line + item.text.count("\n", 0, last[0].start)
            raise QueryError(
                f"{source.place(line)}the comment that begins here has no end", hint="end it: */"
            )


class Script:
    """Runs a script in a session; `code` is the exit code of the first failure that it went on after."""

    def __init__(
        self,
        front: Front,
        delivery: Delivery,
        habits: Habits,
    ) -> None:
        self.code = 0
        self._session = front.session
        self._front = front
        self._delivery = delivery
        self._habits = habits
        self._number = 0
        self._reading = 0
        self._next: Source | None = None
        self._changed = False
        self._stopped = False

    def check(self, source: Source, typed: set[str]) -> None:
        """Raise what is known to be wrong before anything runs; `typed` are parameters that were typed."""
        found = list(pieces(source))
        if not found:
            raise UsageError("there is no SQL statement to run")
        statements = [s for item in found if isinstance(item, Sql) for s in self._known(source, item)]
        commands = [name for item in found if isinstance(item, Command) for name in self._named(source, item)]
        if not NAMING & set(commands):
            _refuse_unused(typed, statements)
        output, rows = self._front.output, [s for s in statements if s.reads]
        if output and len(rows) > 1 and NUMBER not in output and not commands and not self._habits.dry_run:
            raise UsageError(
                f"{len(rows)} statements give rows, and {output} takes one result",
                hint=f"number the files: -o {numbered(output)}",
            )

    def run(self, source: Source) -> None:
        """Do everything in order; raises what the first failure raises, unless it is to go on after one."""
        for item in pieces(source):
            if self._front.leaving or self._stopped:
                return
            try:
                self._do(source, item)
            except (InterruptedQueryError, DeadlineError):
                raise
            except MeshError as error:
                self._fail(_placed(error, source.place(item.line)))
            if self._next is not None:
                following, self._next = self._next, None
                self._run_nested(following)

    def read(self, file: str) -> None:
        """Run another file's script when the command that asks for it has ended."""
        self._next = read_source(file)

    def stop(self) -> None:
        """Begin nothing more; for another thread to call."""
        self._stopped = True

    def _run_nested(self, source: Source) -> None:
        self._reading += 1
        if self._reading > DEEPEST:
            raise UsageError(f"{source.name} reads itself, through {DEEPEST} files")
        self.run(source)
        self._reading -= 1

    def _named(self, source: Source, item: Command) -> list[str]:
        """The name of a command, or none for one that will fail when its turn comes."""
        try:
            return [known(item.text)[0]]
        except UsageError as error:
            if self._habits.keep_going:
                return []
            raise _placed(error, source.place(item.line)) from None

    def _known(self, source: Source, item: Sql) -> list[Statement]:
        """The statement of a piece, or none for one that will fail when its turn comes."""
        try:
            return [self._parsed(item)]
        except QueryError as error:
            if self._habits.keep_going:
                return []
            raise _placed(error, source.place(item.line)) from None

    def _parsed(self, item: Sql) -> Statement:
        # Lines in DuckDB's words are then those of the file.
        return self._session.parse("\n" * (item.line - 1) + item.text)[0]

    def _fail(self, error: MeshError) -> None:
        if not self._habits.keep_going:
            raise error
        report(error)
        self.code = self.code or error.exit_code

    def _do(self, source: Source, item: Command | Sql) -> None:
        if self._habits.echo:
            learn_typed(item.text)
            say(item.text)
        if isinstance(item, Command):
            run_command(self._front, item.text)
            return
        self._number += 1
        statement = self._understood(source, item)
        if self._habits.dry_run:
            self._plan(source, statement)
        else:
            self._measured(source, statement)

    def _understood(self, source: Source, item: Sql) -> Statement:
        try:
            return self._parsed(item)
        except QueryError as error:
            if self._habits.stats:
                unknown = Statement(item.text, item.line, "INVALID", (), exact=False)
                self._say_stats(source, unknown, 0.0, None, error.message)
            raise

    def _measured(self, source: Source, statement: Statement) -> None:
        """Run a statement, and say what it took where that is wanted, even when it fails."""
        self._front.last_sql = statement.text
        started = time.perf_counter()
        receipt, failed = None, None
        try:
            receipt = self.deliver(statement)
        except MeshError as error:
            failed = error.message
            raise
        finally:
            seconds = time.perf_counter() - started
            if self._habits.stats:
                self._say_stats(source, statement, seconds, receipt, failed)
            if self._front.settings.timing and failed is None:
                say(f"time: {seconds:.3f} s")

    def deliver(self, statement: Statement) -> Receipt | None:
        """Run a statement, write its rows, and return what it read; ends the script if nobody reads on."""
        result = self._session.run(statement, self._front.values_of(statement))
        if not self._delivery.deliver(statement, result):
            self._stopped = True
        return result.receipt

    def _say_stats(
        self,
        source: Source,
        statement: Statement,
        seconds: float,
        receipt: Receipt | None,
        failed: str | None,
    ) -> None:
        told: dict[str, Any] = {"statement": self._number, "line": statement.line, "kind": statement.kind}
        if source.name:
            told["file"] = source.name
        if receipt is not None:
            told |= json.loads(receipt.json())
        else:
            # A result that is not read to its end has no account of what was read.
            told |= {"sql": statement.text, "reads": None, "rows": None, "seconds": seconds}
        if failed is not None:
            told["error"] = failed
        say(json.dumps(told, default=str))

    def _plan(self, source: Source, statement: Statement) -> None:
        """Print what a statement would read."""
        try:
            plan = self._session.plan(statement, self._front.values_of(statement))
            shown, told = plan.text(), plan.json()
        except QueryError as error:
            if not self._changed:
                raise
            reason = error.message.splitlines()[0]
            shown = f"not planned, since what earlier statements make is not there: {reason}"
            told = json.dumps({"sql": statement.text, "reads": None, "unplanned": reason})
        self._changed = self._changed or not statement.reads
        if self._front.settings.mode in {"json", "jsonl"}:
            print(told, flush=True)
            return
        if self._number > 1:
            print()
        if source.name:
            print(f"{source.place(statement.line)}{statement.kind.replace('_', ' ')}")
        print(shown, flush=True)


def _placed(error: MeshError, place: str) -> MeshError:
    error.message = f"{place}{error.message}"
    error.args = (error.message,)
    return error


def _refuse_unused(typed: set[str], statements: list[Statement]) -> None:
    named = {name for s in statements for name in s.parameters}
    for name in sorted(typed - named):
        close = nearest(name, named, most=1)
        hint = f"did you mean {close[0]}?" if close else f"write ${name} where its value belongs"
        raise UsageError(f"no statement uses the parameter ${name}", hint=hint)
