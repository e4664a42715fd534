"""A contract becomes SQL that finds just the rows, and the numbers, that break it."""

from __future__ import annotations

import json

import duckdb
import pytest

from meshql.build.rules import ROW, rules_of
from meshql.catalog.load import load

ROWS = """
    SELECT * FROM (VALUES
        (1, 'a@x.io', 'open',   5.0,  DATE '2026-01-05', 10,   'N/A', {'city': 'Rome', 'zip': '1'}, [1, 2]),
        (2, 'b@x.io', 'closed', 0.5,  DATE '2026-02-05', 11,   'x',   {'city': NULL, 'zip': '22'}, [1, 1]),
        (3, NULL,     'odd',    -1.0, DATE '2025-12-31', 99,   '',    NULL, NULL),
        (4, 'nonsense', NULL,   NULL, NULL,              NULL, NULL,  {'city': 'Oslo', 'zip': '3'}, []),
        (4, 'd@x.io', 'open',   99.9, DATE '2026-03-05', 12,   'y',   {'city': 'Bonn', 'zip': '4'}, [3])
    ) AS t(id, email, status, value, day, user_id, note, home, scores)
"""
USERS = "SELECT * FROM (VALUES (10, 'it'), (11, 'de'), (12, 'fr')) AS t(id, country)"


@pytest.fixture
def contract(tmp_path):
    """A function that gives the rules of crm.events, and a connection that has it and crm.users."""

    def make(columns=(), quality=(), more=None, **table):
        for name, rows in (("events", ROWS), ("users", USERS)):
            duckdb.sql(rows).write_parquet(str(tmp_path / f"{name}.parquet"))
        schema = [{"name": "events", "properties": list(columns), **table}]
        products = [
            {
                "name": "crm.events",
                "location": "events.parquet",
                "format": "parquet",
                "schema": schema,
                "quality": list(quality),
                **(more or {}),
            },
            {"name": "crm.users", "location": "users.parquet", "format": "parquet"},
        ]
        (tmp_path / "c.yaml").write_text(json.dumps({"meshql": 1, "products": products}))
        catalog = load(tmp_path / "c.yaml")
        return rules_of(catalog.product("crm.events"), catalog)

    return make


@pytest.fixture
def tables():
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA crm")
        connection.execute(f"CREATE TABLE crm.events AS SELECT row_number() OVER () AS n, * FROM ({ROWS})")
        connection.execute(f"CREATE TABLE crm.users AS {USERS}")
        yield connection


def broken(rule, tables):
    """The rows, by number, that a rule marks; what it counts has to be as many."""
    rows = tables.execute(f"SELECT n FROM crm.events AS {ROW} WHERE {rule.bad} ORDER BY n").fetchall()
    assert tables.execute(rule.query("crm.events")).fetchall() == [(len(rows),)]
    return [n for (n,) in rows]


def options(logical, **given):
    return {"logicalType": logical, "logicalTypeOptions": given}


@pytest.mark.parametrize(
    ("column", "name", "expected"),
    [
        ({"name": "email", "required": True}, "email.required", [3]),
        ({"name": "status", "enum": [{"value": "open"}, {"value": "closed"}]}, "status.enum", [3]),
        ({"name": "id", "enum": [{"value": 1}, {"value": 2}, {"value": 3}]}, "id.enum", [4, 5]),
        ({"name": "value", **options("number", minimum=0)}, "value.minimum", [3]),
        ({"name": "value", **options("number", exclusiveMinimum=0.5)}, "value.exclusiveMinimum", [2, 3]),
        ({"name": "value", **options("number", maximum=99)}, "value.maximum", [5]),
        ({"name": "value", **options("number", exclusiveMaximum=5)}, "value.exclusiveMaximum", [1, 5]),
        ({"name": "value", **options("number", multipleOf=0.5)}, "value.multipleOf", [5]),
        ({"name": "day", **options("date", minimum="2026-01-01")}, "day.minimum", [3]),
        ({"name": "email", **options("string", pattern="@x[.]io$")}, "email.pattern", [4]),
        ({"name": "note", **options("string", minLength=1)}, "note.minLength", [3]),
        ({"name": "email", **options("string", maxLength=6)}, "email.maxLength", [4]),
        ({"name": "scores", **options("array", minItems=1)}, "scores.minItems", [4]),
        ({"name": "scores", **options("array", maxItems=1)}, "scores.maxItems", [1, 2]),
        ({"name": "scores", **options("array", uniqueItems=True)}, "scores.uniqueItems", [2]),
        ({"name": "home", "properties": [{"name": "city", "required": True}]}, "home.city.required", [2]),
        ({"name": "home", **options("object", required=["city"])}, "home.city.required", [2]),
        ({"name": "user_id", "relationships": [{"to": "users.id"}]}, "user_id.relationship", [3]),
        ({"name": "user_id", "relationships": [{"to": "crm.users.id"}]}, "user_id.relationship", [3]),
    ],
)
def test_a_column_marks_the_rows_that_break_what_it_says(contract, tables, column, name, expected):
    rules = contract([column])
    assert [r.name for r in rules.rows] == [name]
    assert broken(rules.rows[0], tables) == expected
    assert rules.rows[0].severity == "error"
    assert not rules.not_run


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ({"metric": "nullValues", "mustBe": 0}, [4]),
        (
            {"metric": "missingValues", "mustBe": 0, "arguments": {"missingValues": [None, "", "N/A"]}},
            [1, 3, 4],
        ),
        ({"metric": "missingValues", "mustBeLessThan": 1, "arguments": {"missingValues": ["N/A"]}}, [1, 4]),
        ({"metric": "invalidValues", "mustBe": 0, "arguments": {"validValues": ["x", "y"]}}, [1, 3]),
        ({"metric": "invalidValues", "mustBe": 0, "arguments": {"pattern": "^[a-z]*$"}}, [1]),
        ({"type": "sql", "query": "SELECT count(*) FROM ${table} WHERE ${column} = ''", "mustBe": 0}, [3]),
        ({"type": "sql", "query": "SELECT COUNT(1) FROM events e WHERE e.note = 'x';", "mustBe": 0}, [2]),
        (
            {
                "type": "sql",
                "query": "SELECT count(*) FROM crm.events WHERE crm.events.home.zip = '22'",
                "mustBe": 0,
            },
            [2],
        ),
        (
            {
                "type": "sql",
                "query": "SELECT count(*) FROM ${table} t WHERE NOT EXISTS "
                "(SELECT 1 FROM crm.users AS u WHERE u.id = t.user_id)",
                "mustBe": 0,
            },
            [3, 4],
        ),
    ],
)
def test_a_check_that_allows_for_no_row_marks_them(contract, tables, check, expected):
    rules = contract([{"name": "note", "quality": [{**check, "severity": "warning"}]}])
    (rule,) = rules.rows
    assert broken(rule, tables) == expected
    assert rule.severity == "warning"
    assert rule.products == (("crm.users",) if "users" in str(check) else ())


def number(rule, tables):
    ((value,),) = tables.execute(rule.query).fetchall()
    return value


@pytest.mark.parametrize(
    ("check", "value", "holds"),
    [
        ({"metric": "rowCount", "mustBeGreaterThan": 4}, 5, True),
        ({"metric": "rowCount", "mustBeBetween": [1, 4]}, 5, False),
        ({"metric": "rowCount", "mustNotBeBetween": [1, 4]}, 5, True),
        (
            {"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": ["id", "email"]}},
            0,
            True,
        ),
        ({"metric": "duplicateValues", "mustBeLessThan": 10, "unit": "percent", "arguments": {"properties": ["id"]}}, 20, False),
        ({"type": "sql", "query": "SELECT max(value) FROM events", "mustBeLessThan": 50}, 99.9, False),
        ({"type": "sql", "query": "SELECT count(*) FROM ${table} WHERE value < 0", "mustBeLessThan": 2}, 1, True),
        (
            {
                "type": "sql",
                "query": "SELECT count(*) FROM ${table} e WHERE value < (SELECT avg(value) FROM ${table})",
                "mustBe": 0,
            },
            3,
            False,
        ),
        ({"type": "sql", "query": "WITH events AS (SELECT 7 AS i) SELECT sum(i) FROM events", "mustBe": 7}, 7, True),
        ({"type": "sql", "query": "SELECT min(status) FROM events", "mustBe": "closed"}, "closed", True),
        ({"type": "sql", "query": "SELECT max(id) FROM events WHERE false", "mustBeGreaterThan": 0}, None, False),
    ],
)  # fmt: skip
def test_other_checks_are_about_a_number(contract, tables, check, value, holds):
    rules = contract(quality=[check])
    (rule,) = rules.table
    assert not rules.rows
    found = number(rule, tables)
    assert (float(found) if isinstance(value, float) else found) == value
    assert rule.holds(number(rule, tables)) is holds


def test_thresholds_of_columns_count_rows_or_percent(contract, tables):
    column = {
        "name": "note",
        "quality": [
            {"metric": "nullValues", "mustBeLessThan": 2},
            {"metric": "nullValues", "mustBeLessOrEqualTo": 10, "unit": "percent"},
            {"metric": "invalidValues", "mustBeGreaterThan": 1, "arguments": {"validValues": ["x", "y"]}},
        ],
    }
    rules = contract([column])
    assert [(r.name, number(r, tables), r.holds(number(r, tables))) for r in rules.table] == [
        ("note.nullValues", 1, True),
        ("note.nullValues (2)", 20.0, False),
        ("note.invalidValues", 2, True),
    ]
    assert rules.table[1].reason == "note nullValues must be at most 10 percent"


def test_of_an_empty_table_no_percentage_is_broken(contract, tables):
    check = {"metric": "nullValues", "mustBeLessThan": 5, "unit": "percent"}
    (rule,) = contract([{"name": "note", "quality": [check]}]).table
    tables.execute("DELETE FROM crm.events")
    assert rule.holds(number(rule, tables))


def test_unique_and_primary_keys_are_of_the_table_and_null_is_no_duplicate(contract, tables):
    columns = [
        {"name": "day", "primaryKey": True, "primaryKeyPosition": 2},
        {"name": "id", "primaryKey": True, "primaryKeyPosition": 1},
        {"name": "status", "unique": True},
    ]
    rules = contract(columns)
    assert [(r.name, r.unique, number(r, tables)) for r in rules.table] == [
        ("status.unique", ("status",), 1),
        ("id,day.primaryKey", ("id", "day"), 0),
    ]
    assert [broken(r, tables) for r in rules.rows] == [[4], []]


def test_a_relationship_to_the_table_itself_is_of_the_table(contract, tables):
    rules = contract([{"name": "user_id", "relationships": [{"to": "events.id"}]}])
    assert not rules.rows
    assert number(rules.table[0], tables) == 4


def test_a_relationship_of_several_columns_needs_all_of_them(contract, tables):
    ends = {"from": ["events.user_id", "events.note"], "to": ["users.id", "users.country"]}
    tables.execute("UPDATE crm.events SET note = 'it' WHERE n = 1")
    (rule,) = contract(relationships=[ends]).rows
    assert broken(rule, tables) == [2, 3, 5]


def test_what_is_not_run_is_listed_with_the_reason(contract):
    columns = [
        {"name": "note", "logicalType": "string", "logicalTypeOptions": {"pattern": "(?=x)"}},
        {"name": "user_id", "relationships": [{"to": "elsewhere.id"}]},
        {"name": "scores", "items": {"logicalType": "integer", "logicalTypeOptions": {"minimum": 0}}},
    ]
    quality = [
        {"type": "text", "description": "looks good"},
        {"type": "custom", "engine": "soda", "implementation": "checks: x"},
        {"type": "sql", "query": "SELEC count(*)", "mustBe": 0, "name": "typo"},
        {"metric": "nullValues", "mustBe": 0},
    ]
    rules = contract(columns, quality)
    assert not rules.rows
    assert not rules.table
    assert [r.name for r in rules.not_run] == [
        "note.pattern",
        "user_id.relationship",
        "scores.items.minimum",
        "text",
        "custom",
        "typo",
        "nullValues",
    ]
    assert all(r.reason for r in rules.not_run)
    assert "soda" in rules.not_run[4].reason


def test_names_and_places_tell_rules_apart(contract):
    null = {"metric": "nullValues", "mustBe": 0}
    rules = contract([{"name": "note", "required": True, "quality": [null, {**null, "name": "noted"}, null]}])
    assert [(r.name, r.place) for r in rules.rows] == [
        ("note.required", "schema[0].properties[0].required"),
        ("note.nullValues", "schema[0].properties[0].quality[0]"),
        ("noted", "schema[0].properties[0].quality[1]"),
        ("note.nullValues (2)", "schema[0].properties[0].quality[2]"),
    ]


def test_numbers_are_compared_in_columns_of_text_too(contract, tables):
    tables.execute("ALTER TABLE crm.events ALTER value TYPE VARCHAR")
    tables.execute("UPDATE crm.events SET value = 'much' WHERE n = 1")
    (rule,) = contract(
        [{"name": "value", "logicalType": "number", "logicalTypeOptions": {"minimum": 0}}]
    ).rows
    assert broken(rule, tables) == [1, 3]
