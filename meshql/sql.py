"""The text of SQL: split, classified, its table names and parameters found, its words quoted.

DuckDB's own tokenizer and parser do the reading, so there is no second grammar to keep in step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb

from meshql.errors import QueryError
from meshql.redact import learn_typed, scrub

__all__ = [
    "Statement",
    "TableName",
    "at_line",
    "nodes",
    "parse",
    "quote_identifier",
    "quote_literal",
    "quote_name",
    "split",
]

SYNTAX_LEVEL = (duckdb.ParserException, duckdb.SyntaxException, duckdb.NotImplementedException)

WORD = re.compile(r'"((?:[^"]|"")*)"|[\w$]+|.', re.DOTALL)

READ_NOTHING = frozenset({"ATTACH", "DETACH", "DROP", "LOAD", "PRAGMA", "TRANSACTION", "VACUUM"})

UNDONE = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE_INTO", "CREATE", "EXPLAIN"})
"""Kinds of which nothing is left once they are rolled back."""

COPY = re.compile(r"\s*EXPLAIN\b.*\bCOPY\b", re.IGNORECASE | re.DOTALL)

DYNAMIC = re.compile(r"\bquery(_table)?\s*\(", re.IGNORECASE)

DYNAMIC_FUNCTIONS = frozenset({"query", "query_table"})
"""Table functions that take SQL or table names as strings."""


@dataclass(frozen=True, slots=True)
class TableName:
    """A table as a statement names it; parts that it leaves out are empty."""

    table: str
    schema: str = ""
    database: str = ""

    def __str__(self) -> str:
        return ".".join(p for p in (self.database, self.schema, self.table) if p)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text.

    `names` are the tables it reads, each once, in the order of the text. They are `exact` when DuckDB's parse
    tree gave them; otherwise they are every `a.b` of its tokens, which holds all tables and perhaps a column
    such as `alias.column` too.
    """

    text: str
    line: int
    kind: str
    names: tuple[TableName, ...]
    exact: bool
    parameters: frozenset[str] = field(default_factory=frozenset)

    @property
    def reads_nothing(self) -> bool:
        """Whether it is of a kind that reads no table, by whatever name: BEGIN, ATTACH, DROP ..."""
        return self.kind in READ_NOTHING

    @property
    def is_dynamic(self) -> bool:
        """Whether it may read tables whose names come from values: `query_table($name)`."""
        return bool(DYNAMIC.search(self.text))

    @property
    def makes_names(self) -> bool:
        """Whether later statements may read its tables through a name that it makes: views, macros ..."""
        return self.kind in {"CREATE", "PREPARE"}

    @property
    def leaves_files(self) -> bool:
        """Whether it may write files, which stay when it fails: COPY, and what may hide one."""
        return self.kind not in UNDONE or bool(COPY.match(self.text))

    @property
    def reads(self) -> bool:
        """Whether it only reads and can stand in a FROM clause: SELECT, FROM, VALUES, DESCRIBE, PIVOT ..."""
        return self.kind == "SELECT"


def parse(text: str, connection: duckdb.DuckDBPyConnection) -> list[Statement]:
    """Return the statements of `text`, in order; empty statements and comments alone are left out.

    Nothing is bound and nothing outside the process is touched. Raises QueryError, with DuckDB's own words
    and the line in `text`, where the text does not parse.
    """
    # DuckDB's words for what does not parse or run quote it.
    learn_typed(text)
    return [_statement(piece, line, connection) for piece, line in split(text)]


def split(text: str) -> Iterator[tuple[str, int]]:
    """Yield each statement of `text`, without its semicolon, and the 1-based line where it starts."""
    raw = text.encode()
    starts = [offset for offset, _ in duckdb.tokenize(text)]
    begin: int | None = None
    for offset in starts:
        if raw[offset : offset + 1] == b";":
            if begin is not None:
                yield _piece(raw, begin, offset)
            begin = None
        elif begin is None:
            begin = offset
    if begin is not None:
        yield _piece(raw, begin, len(raw))


def quote_identifier(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_name(*parts: str) -> str:
    """Return the parts as one dotted name, each of them quoted."""
    return ".".join(quote_identifier(p) for p in parts)


def quote_literal(text: str) -> str:
    """Return `text` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _piece(raw: bytes, begin: int, end: int) -> tuple[str, int]:
    return raw[begin:end].decode().rstrip(), raw.count(b"\n", 0, begin) + 1


def _statement(text: str, line: int, connection: duckdb.DuckDBPyConnection) -> Statement:
    try:
        parsed = connection.extract_statements(text)
    except SYNTAX_LEVEL as error:
        scrub(error)
        raise QueryError(at_line(str(error), line)) from None
    # A PIVOT over values not listed parses as two statements: a type of its values, then the SELECT.
    last = parsed[-1]
    names = _names_in_tree(text, connection) if last.type.name == "SELECT" else None
    return Statement(
        text=text,
        line=line,
        kind=last.type.name,
        names=tuple(dict.fromkeys(_names_in_tokens(text) if names is None else names)),
        exact=names is not None,
        parameters=frozenset(p for s in parsed for p in s.named_parameters),
    )


def at_line(message: str, line: int) -> str:
    """Return DuckDB's `message` with its LINE counted from the text's start, for a statement at `line`.

    DuckDB counts the lines of one statement; the reader counts those of the file. The caret below stays
    under its word.
    """
    found = re.search(r"^LINE (\d+):", message, re.MULTILINE)
    if line == 1 or not found:
        return message
    label = f"LINE {int(found[1]) + line - 1}:"
    caret = " " * (len(label) - len(found[0]))
    tail = re.sub(r"\n(?= *\^)", "\n" + caret, message[found.end() :], count=1)
    return message[: found.start()] + label + tail


def _names_in_tree(text: str, connection: duckdb.DuckDBPyConnection) -> list[TableName] | None:
    # Not as a parameter: binding one makes DuckDB import pandas, where that is installed.
    row = connection.cursor().execute(f"SELECT json_serialize_sql({quote_literal(text)})").fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    if tree["error"]:
        return None
    names: list[TableName] = []
    for node in nodes(tree["statements"]):
        if node.get("type") == "BASE_TABLE":
            names.append(TableName(node["table_name"], node["schema_name"], node["catalog_name"]))
        elif node.get("type") == "SHOW_REF" and node["table_name"]:
            names.append(TableName(node["table_name"].strip('"'), node["schema_name"], node["catalog_name"]))
        elif node.get("type") == "TABLE_FUNCTION" and _is_dynamic(node["function"]):
            names.extend(_names_in_arguments(node["function"]))
    return names


def _is_dynamic(function: dict[str, Any]) -> bool:
    return str(function["function_name"]).lower() in DYNAMIC_FUNCTIONS


def _names_in_arguments(function: dict[str, Any]) -> list[TableName]:
    constants = (n["value"]["value"] for n in nodes(function) if n.get("type") == "VALUE_CONSTANT")
    return [name for text in constants if isinstance(text, str) for name in _names_in_tokens(text)]


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON tree, in order; by a stack, since SQL nests deeper than Python recurses."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(reversed(node.values()))
        elif isinstance(node, list):
            stack.extend(reversed(node))


def _names_in_tokens(text: str) -> list[TableName]:
    words = list(_words(text))
    names = []
    for i in range(len(words) - 2):
        schema, dot, table = words[i : i + 3]
        if dot == "." and schema.strip(".") and table.strip("."):
            names.append(TableName(table, schema))
    return names


def _words(text: str) -> Iterator[str]:
    """The tokens of `text`, with identifiers unquoted and strings left empty."""
    raw = text.encode()
    tokens = duckdb.tokenize(text)
    ends = [offset for offset, _ in tokens[1:]] + [len(raw)]
    for (begin, kind), end in zip(tokens, ends, strict=True):
        word = WORD.match(raw[begin:end].decode()) if kind is not duckdb.token_type.string_const else None
        yield "" if word is None else word[0] if word[1] is None else word[1].replace('""', '"')
