"""What the commands of the command line have in common: options, and the configuration that they lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from meshql.config import Config, load_config

__all__ = ["catalog_option", "configuration", "format_option"]

catalog_option = click.option(
    "-C",
    "--catalog",
    metavar="PATH",
    help="Folder or file of the catalog [default: $MESHQL_CATALOG, the configuration, ./catalogs, the "
    "user's own].",
)


def format_option(*names: str) -> Callable[..., Any]:
    """An option that takes one of these output formats."""
    return click.option(
        "-f", "--format", "format_", type=click.Choice(names), help="How rows are written [default: table]."
    )


def configuration(**flags: Any) -> Config:
    """The configuration; those of these flags that somebody typed beat it, as does the group's catalog."""
    context = click.get_current_context()
    group = context.find_root()
    typed = {n: v for n, v in flags.items() if context.get_parameter_source(n) is ParameterSource.COMMANDLINE}
    if group.get_parameter_source("catalog") is ParameterSource.COMMANDLINE:
        typed.setdefault("catalog", group.params["catalog"])
    return load_config(flags=typed)
