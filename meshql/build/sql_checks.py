"""Checks of a contract that are SQL already: which rows they mark, or which number they give."""

from __future__ import annotations

import json
from typing import Any

import duckdb

from meshql.build.rule import (
    ROW,
    NotRun,
    RowRule,
    Rule,
    Severity,
    TableRule,
    demand,
    in_words,
    none_allowed,
    unit_of,
)
from meshql.catalog.contract import QualityCheck
from meshql.catalog.model import Catalog, Product
from meshql.errors import QueryError
from meshql.redact import scrub
from meshql.sql import nodes, parse, quote_literal, quote_name

__all__ = ["refused_pattern", "sql_rule"]

Node = dict[str, Any]

OF_ROWS: Node = {
    "modifiers": [],
    "group_expressions": [],
    "group_sets": [],
    "having": None,
    "sample": None,
    "qualify": None,
}
"""What a query has that does nothing but count the rows of one table for which a condition holds."""

PLAIN: Node = {"type": "BASE_TABLE", "sample": None, "column_name_alias": [], "at_clause": None}


def sql_rule(
    check: QualityCheck,
    product: Product,
    catalog: Catalog,
    column: str | None,
    name: str,
    severity: Severity,
    place: str,
) -> Rule:
    """Return the rule that a check of type sql is.

    One that counts the rows of the product for which a condition holds, and allows for none, marks these
    rows; any other is about the number that it gives. Tables may be named as the product is, or `${table}`.
    """
    text = _filled(str(check.query), product, column)
    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
        try:
            statements = parse(text, connection)
        except QueryError as error:
            why = f"not run, the query is no SQL that DuckDB reads: {error.message.splitlines()[0]}"
            return NotRun(name, column, severity, why, place)
        if len(statements) != 1 or not statements[0].reads:
            return NotRun(name, column, severity, "not run, the query is not one SELECT", place)
        tree = _tree(text, connection)
        if tree is not None:
            _complete_names(tree, product)
            text = _text(tree, connection)
        condition = _condition(tree, product, connection) if tree and none_allowed(check) else None
        products = _products(f"SELECT {condition}" if condition else text, product, catalog, connection)
    if condition is not None:
        words = check.description or check.name or f"breaks the rule that no row has {condition}"
        return RowRule(name, column, severity, condition.replace("\n", " "), words, place, products)
    operator, bound = demand(check)
    words = check.description or f"{name} {in_words(check)}"
    return TableRule(name, column, severity, text, operator, bound, unit_of(check), words, place, products)


def refused_pattern(pattern: str) -> str:
    """Return why DuckDB cannot match with a regular expression; empty where it can."""
    with duckdb.connect(":memory:") as connection:
        try:
            connection.execute(f"SELECT regexp_matches(x, {quote_literal(pattern)}) FROM (VALUES ('a')) t(x)")
        except duckdb.Error as error:
            scrub(error)
            return str(error).splitlines()[0]
    return ""


def _filled(query: str, product: Product, column: str | None) -> str:
    table = quote_name(product.domain, product.table)
    for mark in ("${table}", "${object}"):
        query = query.replace(mark, table)
    if column is not None:
        for mark in ("${column}", "${property}"):
            query = query.replace(mark, quote_name(*column.split(".")))
    return query.strip().rstrip(";")


def _tree(text: str, connection: duckdb.DuckDBPyConnection) -> Node | None:
    row = connection.execute(f"SELECT json_serialize_sql({quote_literal(text)})").fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    return None if tree["error"] else tree


def _text(tree: Node, connection: duckdb.DuckDBPyConnection) -> str:
    row = connection.execute(f"SELECT json_deserialize_sql({quote_literal(json.dumps(tree))})").fetchone()
    return str(row[0]) if row else ""


def _complete_names(tree: Node, product: Product) -> None:
    """Give the product's domain to tables that are named without one, as contracts name their own."""
    own = {product.table.casefold()}
    for table in product.table_schema:
        own |= {name.casefold() for name in (table.name, table.physicalName) if name}
    made = {entry["key"].casefold() for n in nodes(tree) for entry in _entries(n)}
    for node in nodes(tree):
        name = str(node.get("table_name", "")).casefold()
        bare = node.get("type") == "BASE_TABLE" and not node["schema_name"]
        if bare and name in own and name not in made:
            node["alias"] = node["alias"] or node["table_name"]
            node["schema_name"], node["table_name"] = product.domain, product.table


def _entries(node: Node) -> list[Node]:
    found = node.get("cte_map")
    return found["map"] if isinstance(found, dict) else []


def _is_own(node: Node, product: Product) -> bool:
    if node.get("type") != "BASE_TABLE":
        return False
    return f"{node['schema_name']}.{node['table_name']}".casefold() == product.name.casefold()


def _condition(tree: Node, product: Product, connection: duckdb.DuckDBPyConnection) -> str | None:
    """The condition of `SELECT count(*) FROM product WHERE condition`; None of any other query.

    What the condition says of the product becomes something of the row, as rules call it.
    """
    if len(tree["statements"]) != 1:
        return None
    node = tree["statements"][0]["node"]
    if not _counts_rows(node, product):
        return None
    where, table = node["where_clause"], node["from_table"]
    alias = str(table["alias"] or table["table_name"]).casefold()
    inner = [n for n in nodes(where) if "table_name" in n or n.get("type") in ("SUBQUERY", "TABLE_FUNCTION")]
    shadowed = any(str(n.get("alias") or n.get("table_name", "")).casefold() == alias for n in inner)
    if shadowed or any(_is_own(n, product) for n in inner):
        return None
    _say_row(where, alias, table)
    empty = _tree("SELECT 1", connection)
    if empty is None:
        return None
    empty["statements"][0]["node"]["select_list"] = [where]
    return _text(empty, connection).removeprefix("SELECT ")


def _counts_rows(node: Node, product: Product) -> bool:
    table = node.get("from_table") or {}
    return (
        node.get("type") == "SELECT_NODE"
        and all(node.get(key) == value for key, value in OF_ROWS.items())
        and not _entries(node)
        and node["where_clause"] is not None
        and len(node["select_list"]) == 1
        and _is_count(node["select_list"][0])
        and all(table.get(key) == value for key, value in PLAIN.items())
        and _is_own(table, product)
    )


def _is_count(node: Node) -> bool:
    """Whether it is count(*), or count of a constant such as 1."""
    if node.get("filter") is not None or node.get("distinct"):
        return False
    if node.get("function_name") == "count_star":
        return True
    children = node.get("children") or [{}]
    constant = children[0].get("type") == "VALUE_CONSTANT" and not children[0]["value"]["is_null"]
    return node.get("function_name") == "count" and len(children) == 1 and constant


def _say_row(where: Node, alias: str, table: Node) -> None:
    """Replace what the table is called in front of columns by ROW."""
    whole = [str(table["schema_name"]).casefold(), str(table["table_name"]).casefold()]
    for node in nodes(where):
        names = node.get("column_names")
        if node.get("type") != "COLUMN_REF" or not names or len(names) < 2:
            continue
        if str(names[0]).casefold() == alias:
            node["column_names"] = [ROW, *names[1:]]
        elif len(names) > 2 and [str(n).casefold() for n in names[:2]] == whole:
            node["column_names"] = [ROW, *names[2:]]


def _products(
    sql: str, product: Product, catalog: Catalog, connection: duckdb.DuckDBPyConnection
) -> tuple[str, ...]:
    """Names of the other products that a query reads."""
    names = [n for s in parse(sql, connection) for n in s.names]
    found = (catalog.find(name.schema, name.table) for name in names)
    return tuple(dict.fromkeys(p.name for p in found if p is not None and p.name != product.name))
