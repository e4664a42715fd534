"""`meshql config`: every setting, its value, and where that came from."""

from __future__ import annotations

import json

from meshql.catalog.locate import find_catalog
from meshql.commands.listing import print_rows
from meshql.config import Config, config_path
from meshql.errors import CatalogError

__all__ = ["print_config", "print_path"]


def print_config(config: Config, format_: str) -> None:
    """Print all settings as a table, or as JSON."""
    rows = [
        {"name": name, "value": value, "origin": origin, "description": description}
        for name, value, origin, description in config.rows()
    ]
    if config.catalog is None:
        next(row for row in rows if row["name"] == "catalog").update(_found_catalog())
    if format_ == "json":
        print(json.dumps(rows, indent=2))
        return
    print_rows([row | {"value": _text(row["value"])} for row in rows], format_, null="")


def print_path() -> None:
    """Print where the configuration file is looked for, whether it is there or not."""
    print(config_path())


def _found_catalog() -> dict[str, str]:
    """The catalog that is used though nothing names one, and where it was found; nothing where none is."""
    try:
        path = find_catalog(None)
    except CatalogError:
        return {}
    return {"value": str(path), "origin": "the user's own" if path.is_absolute() else f"./{path}"}


def _text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
