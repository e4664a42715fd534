"""`meshql config`: every setting, its value, and where that came from."""

from __future__ import annotations

import json

from meshql.commands.listing import print_rows
from meshql.config import Config, config_path

__all__ = ["print_config", "print_path"]


def print_config(config: Config, format_: str) -> None:
    """Print all settings as a table, or as JSON."""
    rows = [
        {"name": name, "value": value, "origin": origin, "description": description}
        for name, value, origin, description in config.rows()
    ]
    if format_ == "json":
        print(json.dumps(rows, indent=2))
        return
    print_rows([row | {"value": _text(row["value"])} for row in rows], format_, null="")


def print_path() -> None:
    """Print where the configuration file is looked for, whether it is there or not."""
    print(config_path())


def _text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
