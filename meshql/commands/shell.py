"""`meshql` and `meshql shell`."""

from __future__ import annotations

import sys

from meshql.commands.opening import catalog_of
from meshql.config import Config
from meshql.errors import UsageError
from meshql.shell.loop import run_shell
from meshql.shell.state import Settings

__all__ = ["open_shell"]


def open_shell(config: Config) -> None:
    """Open the shell on this terminal; raises UsageError where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the shell needs a terminal", hint="meshql query - runs SQL from stdin")
    run_shell(
        catalog_of(config),
        settings=Settings.of(config),
        engine_settings=config.engine(),
        keep_history=config.keep_history,
    )
