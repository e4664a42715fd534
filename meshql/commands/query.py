"""`meshql query`: the statements of a script run in order, each result written."""

from __future__ import annotations

from collections.abc import Sequence

from meshql.commands.delivery import Delivery
from meshql.commands.front import ScriptFront
from meshql.commands.given import Source, read_params, read_source
from meshql.commands.opening import open_mesh
from meshql.commands.script import Habits, Script
from meshql.config import Config
from meshql.output import format_of
from meshql.query.supervise import supervise
from meshql.shell.state import Settings

__all__ = ["run", "source"]


def source(file: str | None, command: str | None) -> Source:
    """Return the script of a file, of stdin for `-`, or of a command line."""
    if file is not None:
        return read_source(file)
    text = command or ""
    return Source(text, "-c" if "\n" in text.strip() else None)


def run(
    given: Source,
    config: Config,
    habits: Habits,
    *,
    params: Sequence[str] = (),
    param_file: str | None = None,
    format_: str | None = None,
    output: str | None = None,
    limit: int | None = None,
) -> int:
    """Run a script and write its results to stdout, or to `output`; returns the exit code.

    `format_` is one that somebody asked for; without it the suffix of `output` tells, and on stdout the
    configuration. Raises the error of the first statement that fails, unless it is to go on after one.
    """
    values, typed = read_params(param_file, params)
    if output and not format_:
        format_of(output)
    settings = Settings(mode=format_ or config.format, null=config.null, timing=False, pager="off")
    with open_mesh(config, receipts=habits.stats, lossless=True) as mesh:
        front = ScriptFront(
            settings,
            mesh,
            mesh.session(),
            reader=lambda file: script.read(file),
            runner=lambda statement: script.deliver(statement),
            params=values,
            output=output,
            file_format=format_,
            silent=habits.dry_run,
        )
        script = Script(front, Delivery(front, limit=limit, quiet=habits.quiet), habits)
        script.check(given, typed)

        def interrupt() -> None:
            script.stop()
            mesh.interrupt()

        supervise(lambda: script.run(given), interrupt, timeout=config.timeout)
    return script.code
