"""`meshql config`: every setting, its value, and where that came from."""

from __future__ import annotations

import json

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
    import pyarrow

    from meshql.output.table import terminal_width, text_table

    texts = [row | {"value": _text(row["value"])} for row in rows]
    table = pyarrow.Table.from_pylist(texts)
    types = ["VARCHAR"] * table.num_columns
    print(text_table(table.column_names, types, table, width=terminal_width(), null=""))


def print_path() -> None:
    """Print where the configuration file is looked for, whether it is there or not."""
    print(config_path())


def _text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
