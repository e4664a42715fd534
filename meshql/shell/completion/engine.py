"""What the engine offers to completion: functions, keywords, settings, types and the session's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import duckdb

from meshql.shell.completion.metadata import Column, Engine, Function, Setting

__all__ = ["Ask", "ask_alone", "offered"]

Ask = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a query on the engine and returns its rows."""

FUNCTIONS = r"""
    SELECT function_name, any_value(function_type), coalesce(any_value(description), ''),
        max(len(parameters)) = 0 AND count(varargs) = 0
    FROM duckdb_functions()
    WHERE regexp_full_match(function_name, '[A-Za-z_]\w*') AND function_type <> 'pragma'
    GROUP BY function_name ORDER BY function_name
"""

KEYWORDS = "SELECT keyword_name, keyword_category FROM duckdb_keywords() ORDER BY keyword_name"

SETTINGS = "SELECT name, coalesce(value, ''), coalesce(description, '') FROM duckdb_settings() ORDER BY name"

TYPES = "SELECT DISTINCT upper(type_name) FROM duckdb_types() WHERE type_name <> 'NULL' ORDER BY 1"

TABLES = """
    SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal
    ORDER BY schema_name, table_name, column_index
"""

SECRET = re.compile(r"secret|key|token|password|credential", re.IGNORECASE)


def offered(ask: Ask) -> Engine:
    """Return what the engine behind `ask` offers; raises what `ask` raises."""
    keywords = ask(KEYWORDS)
    tables: dict[str, list[Column]] = {}
    for schema, table, column, kind in ask(TABLES):
        name = table if schema in ("main", "temp") else f"{schema}.{table}"
        tables.setdefault(name.lower(), []).append(Column(column, kind))
    return Engine(
        functions=tuple(Function(name, kind, note, bare) for name, kind, note, bare in ask(FUNCTIONS)),
        keywords=tuple(word.upper() for word, _ in keywords),
        reserved=frozenset(word for word, kind in keywords if kind in ("reserved", "type_function")),
        settings=tuple(Setting(n, "" if SECRET.search(n) else v, note) for n, v, note in ask(SETTINGS)),
        types=tuple(name for (name,) in ask(TYPES)),
        tables={name: tuple(columns) for name, columns in tables.items()},
    )


def ask_alone(query: str) -> Sequence[Sequence[Any]]:
    """Run a query on an engine of its own, which no extension and no product is loaded into."""
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()
