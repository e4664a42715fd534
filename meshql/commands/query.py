"""`meshql query`: statements run in order, each result written."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshql.errors import UsageError, nearest
from meshql.mesh import connect
from meshql.output import format_of, write
from meshql.output.table import terminal_width
from meshql.query.result import Result
from meshql.query.session import Session
from meshql.query.supervise import supervise
from meshql.sql import Statement
from meshql.terminal import note, say

__all__ = ["parse_params", "read_text", "run"]

SEPARATED = frozenset({"table", "vertical", "markdown"})
"""Formats in which an empty line stands between results."""


def read_text(file: str) -> str:
    """Return the SQL of a file, or of stdin for `-`; raises UsageError when it cannot be read."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [p.name for p in Path(file).parent.glob("*.sql")] if Path(file).parent.is_dir() else []
        close = nearest(Path(file).name, beside, most=1)
        hint = f"did you mean {Path(file).with_name(close[0])}?" if close else "SQL itself goes behind -c"
        raise UsageError(f"no file {file}", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read {file}: {reason}") from None


def parse_params(given: Sequence[str]) -> dict[str, Any]:
    """Return the values of `name=value` arguments.

    A value that reads as a JSON number, true, false, null or quoted string is that; any other is text, so
    that dates, and codes with leading zeros, stay as they are.
    """
    params: dict[str, Any] = {}
    for argument in given:
        name, found, text = argument.partition("=")
        name = name.removeprefix("$")
        if not found or not name.isidentifier():
            raise UsageError(f"not a parameter: {argument}", hint="write --param name=value for $name")
        params[name] = _value(text)
    return params


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (list, dict)) else value


def run(
    text: str,
    params: Sequence[str],
    *,
    format_: str | None,
    output: str | None,
    limit: int | None,
    timeout: float | None,
    quiet: bool,
    catalog: str | None,
) -> None:
    """Run all statements of `text` and write their results to stdout, or to `output`."""
    format_ = format_ or (format_of(output) if output else "table")
    values = parse_params(params)
    with connect(catalog) as mesh:
        session = mesh.session()
        statements = session.parse(text)
        _check(statements, values, output)
        delivery = _Delivery(format_, output, limit, quiet)

        def work() -> None:
            for statement in statements:
                delivery.deliver(statement, _run(session, statement, values))

        supervise(work, mesh.interrupt, timeout=timeout)


def _run(session: Session, statement: Statement, values: Mapping[str, Any]) -> Result:
    return session.run(statement, {n: values[n] for n in statement.parameters if n in values})


def _check(statements: Sequence[Statement], values: Mapping[str, Any], output: str | None) -> None:
    if not statements:
        raise UsageError("there is no SQL statement to run")
    named = {name for s in statements for name in s.parameters}
    for name in values.keys() - named:
        close = nearest(name, named, most=1)
        hint = f"did you mean {close[0]}?" if close else f"write ${name} where its value belongs"
        raise UsageError(f"no statement uses the parameter ${name}", hint=hint)
    writing = [s for s in statements if s.reads]
    if output and len(writing) > 1 and "{n}" not in output:
        raise UsageError(
            f"{len(writing)} statements give rows, and {output} takes one result",
            hint=f"number the files: -o {Path(output).with_stem(Path(output).stem + '-{n}')}",
        )


class _Delivery:
    """Writes one result after the other."""

    def __init__(self, format_: str, output: str | None, limit: int | None, quiet: bool) -> None:
        self._format = format_
        self._output = output
        self._limit = limit
        self._quiet = quiet
        self._width = None if output else terminal_width()
        self._written = 0

    def deliver(self, statement: Statement, result: Result) -> None:
        """Write the rows of a statement that has some; say what one that changes rows did."""
        with result:
            if statement.kind == "EXPLAIN" and self._format == "table" and not self._output:
                print("\n".join(str(row[-1]).rstrip() for row in result.fetchall()))
            elif statement.reads or result.types not in (("BIGINT",), ("BOOLEAN",)):
                self._write(result)
            elif not self._quiet:
                self._tell(statement, result)

    def _write(self, result: Result) -> None:
        if self._written and self._format in SEPARATED and not self._output:
            sys.stdout.buffer.write(b"\n")
        self._written += 1
        target = self._output.replace("{n}", str(self._written)) if self._output else sys.stdout.buffer
        written = write(result, target, self._format, limit=self._limit, width=self._width)
        if written.truncated and not self._quiet:
            note(f"only the first {written.rows:,} rows, as --limit says; there are more")
        elif self._output and not self._quiet:
            say(f"{written.rows:,} rows written to {target}")

    def _tell(self, statement: Statement, result: Result) -> None:
        for (count,) in result.fetchall():
            if isinstance(count, int) and not isinstance(count, bool):
                say(f"{statement.kind.replace('_', ' ')}: {count:,} rows")
