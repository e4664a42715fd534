from __future__ import annotations

import duckdb
import pytest

from meshql import sql
from meshql.errors import QueryError


@pytest.fixture(scope="module")
def connection():
    return duckdb.connect()


def one(text, connection):
    (statement,) = sql.parse(text, connection)
    return statement


def names(text, connection):
    return sorted(map(str, one(text, connection).names))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT * FROM sales.orders", ["sales.orders"]),
        ("FROM sales.orders", ["sales.orders"]),
        ("TABLE sales.orders", ["sales.orders"]),
        ('SELECT * FROM "sales"."orders"', ["sales.orders"]),
        ("SELECT * FROM memory.sales.orders", ["memory.sales.orders"]),
        ("SELECT sales.orders.amount FROM sales.orders", ["sales.orders"]),
        ("SELECT * FROM sales.orders o JOIN crm.customers c USING (id)", ["crm.customers", "sales.orders"]),
        ("SELECT (SELECT max(x) FROM a.b) FROM range(3)", ["a.b"]),
        ("SELECT * FROM x WHERE y IN (FROM a.b)", ["a.b", "x"]),
        ("WITH t AS (FROM a.b) SELECT * FROM t", ["a.b", "t"]),
        ("WITH sales AS (SELECT 1 AS orders) SELECT sales.orders FROM sales", ["sales"]),
        ("FROM a.b UNION ALL FROM c.d", ["a.b", "c.d"]),
        ("DESCRIBE a.b", ["a.b"]),
        ("DESCRIBE FROM a.b", ["a.b"]),
        ("SUMMARIZE a.b", ["a.b"]),
        ("SHOW a.b", ["a.b"]),
        ("FROM (DESCRIBE a.b)", ["a.b"]),
        ("PIVOT a.b ON x IN ('p', 'q') USING sum(y)", ["a.b"]),
        ("FROM query_table('a.b')", ["a.b"]),
        ("SELECT * FROM a.b TABLESAMPLE 10%", ["a.b"]),
        ("SELECT 'x.y', 1.5 -- p.q", []),
        ('SELECT \'é🙂\' FROM "dömäin"."ta ble"', ["dömäin.ta ble"]),
    ],
)
def test_parse_tree_gives_exactly_the_tables(connection, text, expected):
    assert names(text, connection) == expected
    assert one(text, connection).exact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PIVOT a.b ON x USING sum(y)", ["a.b"]),
        ("FROM (PIVOT a.b ON x USING sum(y))", ["a.b"]),
        ("EXPLAIN FROM a.b", ["a.b"]),
        ("EXPLAIN ANALYZE SELECT t.c FROM a.b t", ["a.b", "t.c"]),
        ("CREATE TABLE t AS FROM a.b", ["a.b"]),
        ('CREATE VIEW v AS FROM "a"."b""c"', ['a.b"c']),
        ("INSERT INTO t SELECT * FROM a /* x.y */ . /* z */ b", ["a.b"]),
        ("COPY (FROM a.b) TO 'x.y'", ["a.b"]),
        ("COPY a.b TO 'file.csv' -- p.q", ["a.b"]),
        ("UPDATE t SET x = s.y FROM a.b s", ["a.b", "s.y"]),
        ("DELETE FROM t USING a.b", ["a.b"]),
        ("MERGE INTO t USING a.b ON true WHEN MATCHED THEN DELETE", ["a.b"]),
    ],
)
def test_tokens_give_at_least_the_tables_of_other_statements(connection, text, expected):
    assert names(text, connection) == expected
    assert not one(text, connection).exact


def test_statements_are_split_where_sql_ends_them(connection):
    text = "SELECT ';' AS \"a;b\"; -- not ; here\n\nSELECT 2 /* ; */;;\n;SELECT 3"
    found = sql.parse(text, connection)
    assert [s.text for s in found] == ["SELECT ';' AS \"a;b\"", "SELECT 2 /* ; */", "SELECT 3"]
    assert [s.line for s in found] == [1, 3, 4]


@pytest.mark.parametrize("text", ["", " \n", "-- nothing\n", ";;", "/* only this */"])
def test_a_text_without_statements_has_none(connection, text):
    assert sql.parse(text, connection) == []


def test_parameters_are_those_a_statement_names(connection):
    assert one("SELECT $a, $b || $a, '$c'", connection).parameters == {"a", "b"}


def test_a_syntax_error_names_the_line_of_the_text(connection):
    with pytest.raises(QueryError) as caught:
        sql.parse("SELECT 1;\n\n\nSELECT 2 FROM WHERE", connection)
    lines = caught.value.message.splitlines()
    assert lines[2] == "LINE 4: SELECT 2 FROM WHERE"
    assert lines[3].index("^") == lines[2].index("WHERE")


def test_the_caret_follows_when_the_line_number_grows():
    assert sql.at_line("x\n\nLINE 2: abc\n         ^", 9) == "x\n\nLINE 10: abc\n          ^"


def test_quoting_survives_any_name(connection):
    name = 'a"b.c'
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {sql.quote_identifier(name)} (x INTEGER)")
    assert connection.execute(f"SELECT {sql.quote_literal(name + chr(39))}").fetchone() == (name + "'",)
    assert names(f"FROM {sql.quote_name('s', name)}", connection) == [f"s.{name}"]


def test_deep_nesting_does_not_break_the_walk(connection):
    depth = 300
    text = "SELECT * FROM " + "(SELECT * FROM " * depth + "a.b" + ")" * depth
    assert names(text, connection) == ["a.b"]
