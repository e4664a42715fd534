"""Contracts checked on real tables of every format: rules, freshness, reports, exit codes."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from clouds.command import meshql_in
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

import meshql
from meshql.build.freshness import duration_text
from meshql.build.junit import junit_xml
from meshql.build.quality import CheckResult, check, run
from meshql.build.rules import rules_of
from meshql.commands.check import results_json
from meshql.errors import UnknownProductError, UnreachableError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

ROWS = pa.table(
    {
        "id": [1, 2, 2, None],
        "country": ["DE", "FR", "XX", None],
        "amount": [10.0, -1.0, 5.0, 2.0],
        "ordered_at": [NOW - timedelta(hours=h) for h in (30, 3, 2, 1)],
    }
)

SCHEMA = [
    {
        "name": "orders",
        "properties": [
            {"name": "id", "logicalType": "integer", "required": True, "unique": True},
            {"name": "country", "enum": [{"value": "DE"}, {"value": "FR"}]},
            {"name": "amount", "logicalType": "number", "logicalTypeOptions": {"minimum": -1}},
        ],
        "quality": [
            {"metric": "rowCount", "mustBe": 5, "severity": "warning"},
            {"type": "text", "name": "ask Ines", "description": "ask her"},
        ],
    }
]

LATENCY = {"property": "latency", "value": 4, "unit": "h", "element": "orders.ordered_at"}

WANTED = {
    "id.required": ("failed", 1),
    "id.unique": ("failed", 1),
    "country.enum": ("failed", 1),
    "amount.minimum": ("passed", 0),
    "rowCount": ("warning", None),
    "ask Ines": ("skipped", None),
    "latency of ordered_at": ("passed", None),
}


def written(folder, form):
    """Write ROWS in a format below `folder`, and return the location."""
    target = folder / f"orders_{form}"
    if form == "delta":
        write_deltalake(target, ROWS)
    elif form == "iceberg":
        with SqlCatalog("here", uri="sqlite:///:memory:", warehouse=f"file://{folder}") as tables:
            tables.create_namespace("db")
            tables.create_table("db.orders", ROWS.schema, location=f"file://{target}").append(ROWS)
    else:
        target = target.with_suffix(f".{form}")
        duckdb.sql(f"COPY (FROM ROWS) TO '{target}' (FORMAT {form})")
    return str(target)


def catalog(folder, *products, **more):
    file = folder / "catalog.yaml"
    file.write_text(json.dumps({"meshql": 1, "products": products, **more}, default=str))
    return file


def product(location, form, name="sales.orders", **more):
    return {"name": name, "location": str(location), "format": form, **more}


@pytest.fixture
def checked(tmp_path):
    """A function that checks products and returns the results by the checks' names."""

    def checked(*products, names=(), **options):
        with meshql.connect(catalog(tmp_path, *products)) as mesh:
            return {r.check: r for r in check(mesh, names, now=NOW, **options)}

    return checked


@pytest.mark.parametrize("form", ["delta", "parquet", "csv", "json"])
def test_every_format_keeps_or_breaks_the_same_rules(checked, tmp_path, form):
    location = written(tmp_path, form)
    found = checked(product(location, form, schema=SCHEMA, slaProperties=[LATENCY]))
    assert {name: (r.state, r.rows_failed) for name, r in found.items()} == WANTED
    assert found["latency of ordered_at"].measured == "1 h"
    assert found["latency of ordered_at"].value == 3600
    assert found["id.required"].measured == "1 of 4 rows"


def test_iceberg_keeps_or_breaks_the_same_rules(checked, tmp_path):
    location = written(tmp_path, "iceberg")
    found = checked(product(location, "iceberg", schema=SCHEMA, slaProperties=[LATENCY]))
    assert {name: (r.state, r.rows_failed) for name, r in found.items()} == WANTED


def test_postgres_keeps_or_breaks_the_same_rules(postgres, tmp_path, monkeypatch):
    postgres.execute(
        "CREATE SCHEMA IF NOT EXISTS checked",
        "DROP TABLE IF EXISTS checked.orders",
        "CREATE TABLE checked.orders (id int, country text, amount float8, ordered_at timestamptz)",
        *(
            f"INSERT INTO checked.orders VALUES ({'NULL' if r['id'] is None else r['id']}, "
            f"{'NULL' if r['country'] is None else repr(r['country'])}, {r['amount']}, '{r['ordered_at']}')"
            for r in ROWS.to_pylist()
        ),
    )
    monkeypatch.setenv("PG", postgres.password)
    auth = {"method": "password", "user": postgres.user, "password": "${PG}"}
    shop = {"cloud": "postgres", "host": postgres.host, "port": postgres.port, "database": "postgres"}
    table_age = {"property": "freshness", "value": 4, "unit": "h"}
    orders = product("checked.orders", "postgres", schema=SCHEMA, slaProperties=[LATENCY, table_age])
    file = catalog(
        tmp_path,
        orders | {"connection": "shop"},
        connections={"shop": shop | {"sslmode": "prefer", "auth": auth}},
    )
    with meshql.connect(file) as mesh:
        found = {r.check: r for r in check(mesh, now=NOW)}
    assert "does not tell when the table last changed" in found.pop("freshness").message
    assert {name: (r.state, r.rows_failed) for name, r in found.items()} == WANTED


def test_all_of_a_products_row_rules_and_freshness_are_one_scan(tmp_path):
    location = written(tmp_path, "parquet")
    columns = [
        {"name": "amount", "required": True, "logicalTypeOptions": {"minimum": n, "maximum": 100 + n}}
        for n in range(10)
    ]
    orders = product(location, "parquet", schema=[{"name": "orders", "properties": columns}])
    said = []
    with meshql.connect(catalog(tmp_path, orders)) as mesh:
        declared = mesh.find("sales.orders")
        rules = rules_of(declared, mesh.catalog)
        with mesh.reading([declared]) as reading:

            def ask(sql):
                said.append(sql)
                return reading.ask(sql)

            results = run(rules, ask, declared)
    assert len(results) == 30
    scans = [sql for sql in said if "count" in sql]
    assert len(scans) == 1


def test_a_rule_that_the_engine_refuses_spoils_no_other(checked, tmp_path):
    quality = [
        {
            "type": "sql",
            "name": "wrong",
            "query": "SELECT count(*) FROM ${table} WHERE nope > 1",
            "mustBe": 0,
        },
        {
            "type": "sql",
            "name": "right",
            "query": "SELECT count(*) FROM ${table} WHERE amount < 0",
            "mustBe": 0,
        },
        {"type": "sql", "name": "two", "query": "SELECT 1, 2", "mustBe": 0},
        {
            "type": "sql",
            "name": "none",
            "query": "SELECT amount FROM ${table} WHERE amount > 1e9",
            "mustBe": 0,
        },
        {"metric": "missingValues", "name": "gone", "mustBe": 0, "arguments": {"missingValues": [None]}},
    ]
    lost = {"name": "lost", "required": True, "unique": True}
    orders = product(
        written(tmp_path, "delta"),
        "delta",
        quality=quality[:4],
        schema=[{"name": "orders", "properties": [lost]}],
    )
    found = checked(orders)
    assert {name: r.state for name, r in found.items()} == {
        "wrong": "error",
        "right": "failed",
        "two": "error",
        "none": "error",
        "lost.required": "failed",
        "lost.unique": "failed",
    }
    assert "nope" in found["wrong"].message
    assert "one value is needed" in found["none"].message
    assert found["lost.required"].measured == "the table has no column lost"


def test_examples_are_rows_that_break_the_rule(checked, tmp_path):
    orders = product(written(tmp_path, "delta"), "delta", schema=SCHEMA)
    assert all(not r.examples for r in checked(orders).values())
    found = checked(orders, examples=2)
    assert [row["country"] for row in found["country.enum"].examples] == ["XX"]
    assert found["id.unique"].examples == ({"id": 2, "times": 2},)
    assert not found["amount.minimum"].examples


def test_a_relationship_reads_the_other_product_and_is_an_error_without_it(checked, tmp_path):
    column = {"name": "country", "relationships": [{"to": "geo.countries.code"}]}
    schema = [{"name": "orders", "properties": [{"name": "id", "required": True}, column]}]
    orders = product(written(tmp_path, "delta"), "delta", schema=schema)
    countries = product(tmp_path / "countries.csv", "csv", name="geo.countries")
    found = checked(orders, countries, names="sales.orders")
    assert {n: r.state for n, r in found.items()} == {
        "id.required": "failed",
        "country.relationship": "error",
    }
    (tmp_path / "countries.csv").write_text("code\nDE\nFR\n")
    found = checked(orders, countries, names="sales.orders")
    assert found["country.relationship"].rows_failed == 1


def test_a_product_that_cannot_be_read_is_one_error_and_the_others_go_on(checked, tmp_path):
    good = product(
        written(tmp_path, "delta"), "delta", name="a.good", quality=[{"metric": "rowCount", "mustBe": 4}]
    )
    gone = product(tmp_path / "gone", "delta", name="a.gone", quality=[{"metric": "rowCount", "mustBe": 4}])
    found = checked(good, gone)
    assert {r.product: r.state for r in found.values()} == {"a.good": "passed", "a.gone": "error"}
    assert "no Delta table" in found["read"].message


def test_names_globs_and_products_that_promise_nothing(checked, tmp_path):
    location = written(tmp_path, "delta")
    bare = product(location, "delta", name="a.bare")
    kept = product(location, "delta", name="b.kept", quality=[{"metric": "rowCount", "mustBe": 4}])
    assert {r.product for r in checked(bare, kept).values()} == {"b.kept"}
    assert checked(bare, kept, names=["a.*"])["contract"].state == "skipped"
    assert set(checked(bare, kept, names=["B.KEPT"])) == {"rowCount"}
    for unknown in ("b.kep", "z.*"):
        with pytest.raises(UnknownProductError):
            checked(bare, kept, names=[unknown])


# --- freshness ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("promise", "state"),
    [
        ({"value": 59, "unit": "min"}, "failed"),
        ({"value": 60, "unit": "minutes"}, "passed"),
        ({"value": 1, "unit": "h"}, "passed"),
        ({"value": "1h"}, "passed"),
        ({"value": "PT59M"}, "failed"),
        ({"value": 0.05, "unit": "d"}, "passed"),
        ({"value": 1, "unit": "parsec"}, "error"),
        ({"value": 1, "unit": "ms"}, "error"),
        ({"value": 1}, "error"),
        ({"value": 1, "unit": "d", "element": "orders.nope"}, "error"),
        ({"value": 1, "unit": "d", "element": "country"}, "error"),
        ({"value": 1, "unit": "d", "element": "sales.orders.ORDERED_AT"}, "passed"),
    ],
)
def test_freshness_by_unit_and_element(checked, tmp_path, promise, state):
    given = {"property": "Latency", "element": "orders.ordered_at"} | promise
    found = checked(product(written(tmp_path, "parquet"), "parquet", slaProperties=[given]))
    assert [r.state for r in found.values()] == [state]


def test_freshness_by_types_of_moments_and_without_rows(checked, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    said = """
        SELECT TIMESTAMP '2026-11-23 11:00:00' AS naive, TIMESTAMPTZ '2026-11-23 11:00:00+00' AS zoned,
               DATE '2026-11-23' AS day, {'at': TIMESTAMP '2026-11-23 11:00:00'} AS made,
               '2026-11-23T11:00:00' AS said, '2026-11-23 12:00:00.5+02:00' AS offset, '2026-11-23' AS said_day
    """
    duckdb.sql(said).write_parquet(str(tmp_path / "x.parquet"))
    duckdb.sql(f"FROM ({said}) LIMIT 0").write_parquet(str(tmp_path / "none.parquet"))
    promises = [
        {"property": "latency", "value": 1, "unit": "h", "element": name}
        for name in ("naive", "zoned", "day", "made.at", "said", "offset", "said_day")
    ]
    found = checked(product(tmp_path / "x.parquet", "parquet", slaProperties=promises))
    ages = {r.check.removeprefix("latency of "): r.measured for r in found.values()}
    assert ages.pop("offset") == "1 h 59 min"
    assert ages.pop("day") == ages.pop("said_day") == "12 h"
    assert set(ages.values()) == {"1 h"}
    found = checked(product(tmp_path / "none.parquet", "parquet", slaProperties=promises[:1]))
    assert [(r.state, r.measured) for r in found.values()] == [("failed", "no value")]


def test_compaction_makes_no_table_fresher(tmp_path):
    location = tmp_path / "t"
    for _ in range(3):
        write_deltalake(location, ROWS, mode="append")
    DeltaTable(location).optimize.compact()
    DeltaTable(location).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    long_ago = datetime.now(UTC) - timedelta(days=3)
    for commit in sorted((location / "_delta_log").glob("*.json"))[:3]:
        os.utime(commit, (long_ago.timestamp(),) * 2)
    sla = [{"property": "freshness", "value": 1, "unit": "d"}]
    with meshql.connect(catalog(tmp_path, product(location, "delta", slaProperties=sla))) as mesh:
        found = check(mesh)
        assert [(r.state, r.measured) for r in found] == [("failed", "3 d")]
        write_deltalake(location, ROWS, mode="append")
        assert check(mesh)[0].state == "passed"


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(seconds=5), "5 s"),
        (timedelta(minutes=61), "1 h 1 min"),
        (timedelta(hours=26, minutes=3), "26 h 3 min"),
        (timedelta(days=3, hours=4), "3 d 4 h"),
        (-timedelta(minutes=2), "-2 min"),
    ],
)
def test_lengths_of_time_in_words(length, words):
    assert duration_text(length) == words


# --- reports and exit codes -----------------------------------------------------------------------


def meshql_check(folder, *arguments, code):
    return meshql_in(folder, "check", *arguments, code=code)


@pytest.mark.slow
def test_the_command_prints_a_table_and_ends_with_5(tmp_path):
    catalog(tmp_path, product(written(tmp_path, "delta"), "delta", schema=SCHEMA))
    done = meshql_check(tmp_path, "--examples", "1", code=5)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["product", "check", "severity", "state"]
    assert any("country.enum" in line and "failed" in line and "1 of 4 rows" in line for line in lines)
    assert "sales.orders: country.enum" in lines
    assert "6 checks of 1 product: 1 passed, 3 failed, 1 warning, 1 skipped" in done.stderr
    assert "3 of 6 checks failed: sales.orders" in done.stderr


@pytest.mark.slow
def test_exit_codes_of_warnings_and_of_products_that_cannot_be_read(tmp_path):
    rule = {"metric": "rowCount", "mustBe": 5, "severity": "warning"}
    orders = product(written(tmp_path, "delta"), "delta", quality=[rule])
    gone = product(tmp_path / "gone", "delta", name="sales.gone", quality=[rule])
    catalog(tmp_path, orders, gone)
    assert "1 warning" in meshql_check(tmp_path, "sales.orders", code=0).stderr
    done = meshql_check(tmp_path, "-f", "json", code=3)
    found = {r["product"]: r for r in json.loads(done.stdout)}
    assert found["sales.gone"]["state"] == "error"
    assert found["sales.orders"]["value"] == 4
    assert "no Delta table" in done.stderr
    assert "did you mean sales.orders" in meshql_check(tmp_path, "sales.order", code=2).stderr


@pytest.mark.slow
def test_a_file_gets_the_format_that_its_suffix_tells(tmp_path):
    catalog(tmp_path, product(written(tmp_path, "delta"), "delta", schema=SCHEMA))
    assert not meshql_check(tmp_path, "-o", "report.xml", code=5).stdout
    assert_junit((tmp_path / "report.xml").read_text())
    meshql_check(tmp_path, "-o", "report.json", code=5)
    assert len(json.loads((tmp_path / "report.json").read_text())) == 6
    meshql_check(tmp_path, "-o", "report.txt", code=5)
    assert (tmp_path / "report.txt").read_text().startswith("product")


SUITES = {"name", "tests", "failures", "errors", "time", "disabled"}
SUITE = {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname", "id", "package"}
CASE = {"name", "classname", "time", "assertions", "status"}
INSIDE = ["skipped", "error", "failure", "system-out", "system-err"]


def assert_junit(text):
    """Raise unless a document has the elements and attributes that the JUnit schema of Jenkins demands."""
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    assert set(root.attrib) <= SUITES
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests"} <= set(suite.attrib) <= SUITE
        datetime.strptime(suite.get("timestamp"), "%Y-%m-%dT%H:%M:%S")
        assert int(suite.get("tests")) == len(suite)
        for tag, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.get(total)) == len(suite.findall(f"testcase/{tag}"))
        for case in suite:
            assert case.tag == "testcase"
            assert {"name", "classname"} <= set(case.attrib) <= CASE
            float(case.get("time"))
            assert [child.tag for child in case] == [t for t in INSIDE if case.find(t) is not None]
            for outcome in case:
                assert set(outcome.attrib) <= {"message", "type"}
    return root


def test_junit_holds_every_state_and_no_character_that_xml_lacks():
    states = ("passed", "failed", "warning", "error", "skipped")
    results = [
        CheckResult("a.b", f"{state} \x00<&\ud800", state, measured="\x1b[1m", demanded="x", message=None)
        for state in states
    ]
    root = assert_junit(junit_xml([*results, CheckResult("a.c", "read", "error", message="gone")], NOW))
    assert root.get("tests") == "6"
    assert root.get("errors") == "2"
    assert [len(suite) for suite in root] == [5, 1]
    assert "warning: " in root[0][2].find("system-out").text
    ET.fromstring(junit_xml([]))


def test_json_has_no_error_objects():
    result = CheckResult("a.b", "read", "error", message="gone", error=UnreachableError("gone"))
    assert "error" not in json.loads(results_json([result]))[0]
