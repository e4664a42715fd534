"""Whether the rows of a query that one input's rows lead to are known by the query's text alone.

trace = Trace.of(sql, connection)
trace.restless()                     what makes the query give other rows of the same inputs; or None
trace.followed(table, columns)       SQL with CHANGED in the place of an input, or why there is none
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from meshql.sql import TableName, nodes, quote_literal

__all__ = ["CHANGED", "Trace", "Unfollowed"]

CHANGED = "changed rows of an input"
"""The temporary view that stands in a followed query for the input."""

Node = dict[str, Any]

CLOCK = frozenset(
    {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "today", "now"}
)

PURE_TABLES = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"})
"""Table functions whose rows depend on nothing but their arguments."""

KINDS = """
    SELECT lower(function_name), bool_and(function_type = 'scalar'),
        bool_or(stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY'))
    FROM duckdb_functions()
    GROUP BY ALL
"""

WINDOWED = "WINDOW"


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """Why changed rows of an input cannot be followed to rows of the query."""

    why: str


@dataclass(frozen=True, slots=True)
class _Functions:
    """Names of DuckDB's functions: those that are only scalar, and those that change by themselves."""

    scalar: frozenset[str]
    restless: frozenset[str]


@dataclass(frozen=True, slots=True)
class Trace:
    """A query's parse tree; None where DuckDB has none of it."""

    tree: Node | None
    functions: _Functions
    connection: duckdb.DuckDBPyConnection

    @classmethod
    def of(cls, sql: str, connection: duckdb.DuckDBPyConnection) -> Trace:
        """Return the trace of a query; nothing is bound."""
        row = connection.execute(f"SELECT json_serialize_sql({quote_literal(sql)})").fetchone()
        said: Node = json.loads(row[0]) if row else {"error": True}
        tree = None if said["error"] else said["statements"][0]["node"]
        kinds = connection.execute(KINDS).fetchall()
        functions = _Functions(
            scalar=frozenset(n for n, scalar, _ in kinds if scalar),
            restless=frozenset(n for n, _, restless in kinds if restless and n != "error"),
        )
        return cls(tree, functions, connection)

    def restless(self) -> str | None:
        """Return what gives other rows of the same inputs at another time; None where nothing does."""
        if self.tree is None:
            return "its SQL cannot be looked into"
        for node in nodes(self.tree):
            name = _function(node)
            if name in self.functions.restless or name in CLOCK:
                return f"its SQL calls {name}()"
            if node.get("type") == "COLUMN_REF" and node["column_names"][-1].lower() in CLOCK:
                return f"its SQL says {node['column_names'][-1]}"
            if node.get("type") == "TABLE_FUNCTION":
                called = str(node["function"]["function_name"]).lower()
                if called not in PURE_TABLES:
                    return f"its SQL reads {called}(), which is no product"
            if node.get("sample"):
                return "its SQL takes a sample"
        return None

    def followed(self, table: TableName, columns: Sequence[str]) -> str | Unfollowed:
        """Return SQL for the values of `columns` in the rows that changed rows of `table` lead to.

        The view CHANGED stands in it for the table. Values of rows that the query leaves out by HAVING are
        among them.
        """
        node = copy.deepcopy(self.tree)
        reason = self._refused(node, table)
        if node is None or reason is not None:
            return Unfollowed(reason or "its SQL cannot be looked into")
        _replaced(_leftmost(node["from_table"]))
        if self._aggregates(node):
            chosen = self._items(node, columns)
            if isinstance(chosen, Unfollowed):
                return chosen
            node |= {"select_list": chosen, "having": None, "group_expressions": [], "group_sets": []}
            node["aggregate_handling"] = "STANDARD_HANDLING"
        node["modifiers"] = []
        said = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
        text = quote_literal(json.dumps(said))
        row = self.connection.execute(f"SELECT json_deserialize_sql({text})").fetchone()
        assert row is not None
        return str(row[0])

    def _refused(self, node: Node | None, table: TableName) -> str | None:
        """What of the query keeps rows of one input from being followed."""
        if node is None or node["type"] != "SELECT_NODE":
            return "its SQL is no single SELECT"
        if any(m["type"] != "ORDER_MODIFIER" and not _distinct(m) for m in node["modifiers"]):
            return "its SQL has a LIMIT or a DISTINCT ON"
        if node.get("qualify"):
            return "its SQL has a QUALIFY"
        if len(node.get("group_sets") or ()) > 1:
            return "its SQL groups by several sets of keys"
        if any(n.get("class") == WINDOWED for item in node["select_list"] for n in nodes(item)):
            return "its SQL has a window"
        named = [n for n in nodes(node) if n.get("type") == "BASE_TABLE" and _is(n, table)]
        if len(named) != 1:
            return f"its SQL names {table} more than once"
        return _behind_outer_join(node["from_table"], table)

    def _aggregates(self, node: Node) -> bool:
        """Whether the query groups, be it all of its rows into one."""
        grouped = node["group_expressions"] or node["aggregate_handling"] == "FORCE_AGGREGATES"
        called = (_function(n) for item in node["select_list"] for n in nodes(item))
        return bool(grouped or node["having"]) or any(
            name and name not in self.functions.scalar for name in called
        )

    def _items(self, node: Node, columns: Sequence[str]) -> list[Node] | Unfollowed:
        """The items of the SELECT list that give `columns`: such that have one value in each group."""
        found = []
        for column in columns:
            item = next((i for i in node["select_list"] if _name(i).casefold() == column.casefold()), None)
            if item is None:
                return Unfollowed(f"its SQL does not say what column {column} is")
            if not self._plain(item):
                return Unfollowed(f"column {column} is no key that its SQL groups by")
            found.append({**item, "alias": column})
        return found

    def _plain(self, item: Node) -> bool:
        """Whether an expression depends on nothing but the row."""
        for node in nodes(item):
            name = _function(node)
            if node.get("class") in ("SUBQUERY", WINDOWED, "STAR"):
                return False
            if name and (name not in self.functions.scalar or name in self.functions.restless):
                return False
        return True


def _function(node: Node) -> str:
    """The name of the function that a node calls; empty for other nodes."""
    return str(node["function_name"]).lower() if "function_name" in node else ""


def _name(item: Node) -> str:
    """The name of a column of the result, where the text tells it."""
    if item["alias"]:
        return str(item["alias"])
    return str(item["column_names"][-1]) if item.get("type") == "COLUMN_REF" else ""


def _distinct(modifier: Node) -> bool:
    return modifier["type"] == "DISTINCT_MODIFIER" and not modifier.get("distinct_on_targets")


def _is(node: Node, table: TableName) -> bool:
    said = (str(node["schema_name"]).casefold(), str(node["table_name"]).casefold())
    return said == (table.schema.casefold(), table.table.casefold())


def _leftmost(source: Node) -> Node:
    while source["type"] == "JOIN":
        source = source["left"]
    return source


def _behind_outer_join(source: Node, table: TableName) -> str | None:
    """Why a table does not stand where each of its rows leads to rows of its own."""
    while source["type"] == "JOIN":
        if source["join_type"] not in ("INNER", "LEFT", "SEMI", "ANTI") or source["ref_type"] == "POSITIONAL":
            return "its SQL joins otherwise than by INNER and LEFT"
        source = source["left"]
    if source["type"] != "BASE_TABLE" or not _is(source, table):
        return f"{table} does not stand first behind FROM"
    return f"its SQL reads an old version of {table}" if source.get("at_clause") else None


def _replaced(source: Node) -> None:
    """Put the view of changed rows in the place of a table, under the table's name."""
    source["alias"] = source["alias"] or source["table_name"]
    source |= {"catalog_name": "temp", "schema_name": "", "table_name": CHANGED}
