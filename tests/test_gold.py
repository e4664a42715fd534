"""Gold products: SQL over real Delta, Iceberg and Parquet, written as Iceberg on disk and in emulated clouds."""

from __future__ import annotations

import json
import random
import shutil
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import datafusion
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clouds.batches import add_batch
from clouds.fixtures import plain_duckdb
from clouds.house import DAILY, DAY, House, door, house, orders, path, some_orders
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import StaticTable
from pyiceberg.transforms import parse_transform
from test_delta_files import by_hand, field, vector

from meshql.build.iceberg import open_folder
from meshql.build.iceberg_schema import columns_of
from meshql.build.partitions import in_partitions, partitions_of
from meshql.errors import ExistsError, QueryError, UsageError

__all__ = ["door", "house", "path"]


def test_first_build_gives_the_rows_of_the_sql(house):
    location = house.gold(DAILY)
    outcome = house.build()
    assert outcome.notes == ("first build",)
    assert outcome.status == "built"
    assert outcome.counts.rows_out == outcome.rows_total == len(house.ask(DAILY))
    assert outcome.version == outcome.commits[0].version == "v1"
    assert outcome.commits[0].inputs == {"sales.orders": "0"}
    assert house.same(DAILY)
    assert house.metadata().location() == f"file://{location}"


def test_nothing_is_built_where_nothing_changed(house):
    house.gold(DAILY)
    house.build()
    outcome = house.build()
    assert (outcome.status, outcome.version) == ("unchanged", "v1")
    assert not (house.folder / "gold.out/metadata/v2.metadata.json").exists()


def test_only_the_partitions_that_changed_are_made_again(house, path):
    house.gold(DAILY, ["day"])
    house.build()
    write_deltalake(path, orders([(5000, DAY, "eu", 100)]), mode="append")
    assert house.pending() == "sales.orders 0 → 1"
    outcome = house.build()
    assert outcome.notes == ("1 of 10 partitions recomputed",)
    assert outcome.commits[0].inputs == {"sales.orders": "1"}
    assert outcome.rows_total == len(house.ask(DAILY))
    assert house.same(DAILY)
    assert house.pending() == ""


# --- always the rows of a whole recompute ---------------------------------------------------------

PARTITIONINGS = [(), ("day", "region"), ("month(day)", "bucket(4, region)"), ("truncate(2, region)",)]


def read_by_pyiceberg(house, name="gold.out"):
    return sorted((tuple(r.values()) for r in house.metadata(name).scan().to_arrow().to_pylist()), key=repr)


def read_by_datafusion(house, name="gold.out"):
    """The rows by DataFusion over iceberg-rust: neither DuckDB nor pyiceberg reads them."""
    context = datafusion.SessionContext()
    context.register_table("t", house.metadata(name))
    return sorted((tuple(r.values()) for r in context.table("t").to_pylist()), key=repr)


def changes(path, rng, next_id):
    """One random commit to the orders: an append, an update, a delete, or a compaction."""
    table = DeltaTable(path)
    day = DAY + timedelta(days=rng.randrange(12))
    match rng.randrange(5):
        case 0:
            write_deltalake(path, some_orders(next_id, next_id + rng.randrange(1, 20)), mode="append")
        case 1:
            rows = orders((next_id + i, day, rng.choice(["eu", "cn", None]), 1) for i in range(3))
            write_deltalake(path, rows, mode="append")
        case 2:
            table.update({"amount": "amount + 1"}, predicate=f"day = '{day}' AND id % 3 = {rng.randrange(3)}")
        case 3:
            table.delete(f"id % 97 = {rng.randrange(97)}")
        case 4:
            table.optimize.compact()


@pytest.mark.slow
@pytest.mark.parametrize("partitions", PARTITIONINGS, ids=lambda p: "+".join(p) or "none")
def test_rows_always_equal_a_whole_recompute(partitions, house, path):
    """Random changes of the input, and after each the table against plain DuckDB over the same version."""
    sql = """SELECT day, region, count(*) AS n, sum(amount) AS total, max(stamp) AT TIME ZONE 'UTC' AS last
        FROM {} GROUP BY day, region"""
    house.gold(sql.format("sales.orders"), partitions)
    rng = random.Random(",".join(partitions))
    notes = list(house.build().notes)
    for step in range(6):
        for _ in range(rng.randrange(1, 3)):
            changes(path, rng, 10_000 + step * 100 + rng.randrange(50))
        notes += house.build().notes
        plain = duckdb.connect()
        plain.register("seen", DeltaTable(path).to_pyarrow_table())
        expected = plain.sql(sql.format("seen")).fetchall()
        assert sorted(house.ask("FROM gold.out"), key=repr) == sorted(expected, key=repr), notes
    if "day" in partitions:
        assert any("partitions recomputed" in note for note in notes)
    assert read_by_datafusion(house) == read_by_pyiceberg(house) == sorted(expected, key=repr)


def test_a_change_that_leads_nowhere_makes_nothing(house, path):
    sql = "SELECT day, count(*) AS n FROM sales.orders WHERE region = 'eu' GROUP BY day"
    house.gold(sql, ["day"])
    house.build()
    write_deltalake(path, orders([(5000, DAY, "us", 100)]), mode="append")
    assert house.build().status == "unchanged"


def test_files_put_together_change_nothing(house, path):
    house.gold(DAILY, ["day"])
    for i in range(3):
        write_deltalake(path, orders([(5000 + i, DAY, "us", 100)]), mode="append")
    house.build()
    DeltaTable(path).optimize.compact()
    assert house.pending() == "sales.orders 3 → 4"
    assert house.build().status == "unchanged"
    write_deltalake(path, orders([(6000, DAY, "us", 100)]), mode="append")
    assert house.build().notes == ("1 of 10 partitions recomputed",)
    assert house.same(DAILY)


def test_having_and_joins_hide_no_change(house, path):
    """A group that only all of its rows together bring over the bar, and a row that a join multiplies."""
    write_deltalake(
        house.add("crm.regions", format="delta"), pa.table({"region": ["eu", "us"], "zone": ["A", "B"]})
    )
    sql = """SELECT o.day AS day, zone, count(*) AS n FROM sales.orders AS o LEFT JOIN crm.regions r USING (region)
        WHERE amount >= 0 GROUP BY ALL HAVING count(*) BETWEEN 50 AND 60 ORDER BY n"""
    house.gold(sql, ["day"])
    house.build()
    write_deltalake(path, orders((5000 + i, DAY, "eu", 1) for i in range(4)), mode="append")
    assert house.build().notes == ("1 of 10 partitions recomputed",)
    assert house.same(sql)
    write_deltalake(
        house.products["crm.regions"]["location"], pa.table({"region": ["cn"], "zone": ["C"]}), mode="append"
    )
    assert house.build().notes == (
        "recomputed whole: crm.regions changed, and crm.regions does not stand first behind FROM",
    )
    write_deltalake(path, orders([(5000, DAY, "us", 100)]), mode="append")
    write_deltalake(
        house.products["crm.regions"]["location"], pa.table({"region": ["cn"], "zone": ["C"]}), mode="append"
    )
    assert house.build().notes == ("recomputed whole: sales.orders and crm.regions changed",)
    assert house.same(sql)


UNFOLLOWED = {
    "SELECT day, count(*) AS n FROM sales.orders GROUP BY day LIMIT 5": "its SQL has a LIMIT or a DISTINCT ON",
    "SELECT DISTINCT ON (day) day, id FROM sales.orders ORDER BY id": "its SQL has a LIMIT or a DISTINCT ON",
    "SELECT day, row_number() OVER (ORDER BY id) AS n FROM sales.orders": "its SQL has a window",
    "SELECT day, id FROM sales.orders QUALIFY row_number() OVER (PARTITION BY region ORDER BY id) = 1": "its SQL has a QUALIFY",
    "SELECT day, count(*) AS n FROM sales.orders GROUP BY ROLLUP (day)": "its SQL groups by several sets of keys",
    "SELECT max(day) AS day, region FROM sales.orders GROUP BY region": "column day is no key that its SQL groups by",
    "SELECT day FROM sales.orders UNION ALL SELECT DATE '2020-01-01'": "its SQL is no single SELECT",
    "SELECT a.day, count(*) AS n FROM sales.orders a JOIN sales.orders b USING (day, region) GROUP BY 1": "its SQL names sales.orders more than once",
    "SELECT o.day, x FROM (VALUES (1)) t(x) JOIN sales.orders o ON o.amount = x": "sales.orders does not stand first behind FROM",
    "SELECT o.day, x FROM sales.orders o FULL JOIN (VALUES (1)) t(x) ON o.id = x": "its SQL joins otherwise than by INNER and LEFT",
}


@pytest.mark.parametrize("sql", UNFOLLOWED, ids=lambda sql: UNFOLLOWED[sql][:40])
def test_what_cannot_be_followed_is_made_again_whole(sql, house, path):
    house.gold(sql, ["day"])
    house.build()
    write_deltalake(path, orders([(5000, DAY + timedelta(days=40), "eu", 1)]), mode="append")
    assert house.build().notes == (f"recomputed whole: sales.orders changed, and {UNFOLLOWED[sql]}",)
    if "LIMIT" not in sql:
        assert house.same(sql)


FOLLOWED = [
    "FROM sales.orders",
    "SELECT DISTINCT day, region FROM sales.orders",
    "SELECT * EXCLUDE (amount), amount * 2 AS double FROM sales.orders WHERE amount > 2",
    "WITH r AS (SELECT 'eu' AS region) SELECT o.day, o.id FROM sales.orders o SEMI JOIN r USING (region)",
    "SELECT orders.day, sum(amount) FILTER (region = 'eu') AS eu FROM sales.orders GROUP BY 1",
    "SELECT stamp::DATE AS day, max((SELECT 1)) AS x, list(id ORDER BY id) AS ids FROM sales.orders GROUP BY stamp::DATE",
    "SELECT date_trunc('month', day)::DATE AS day, count(*) AS n, -- a comment\n avg(amount) AS mean FROM sales.orders GROUP BY ALL;",
]


@pytest.mark.parametrize("sql", FOLLOWED, ids=range(len(FOLLOWED)))
def test_what_can_be_followed_is_made_again_in_part(sql, house, path):
    house.gold(sql, ["day"])
    house.build()
    # Far off, so that months differ as well.
    later = [(5000 + i, DAY + timedelta(days=40 * i), "eu", 3) for i in range(1, 4)]
    write_deltalake(path, orders(later), mode="append")
    house.build()
    write_deltalake(path, orders([(9000, DAY + timedelta(days=40), "eu", 5)]), mode="append")
    (note,) = house.build().notes
    assert note.startswith("1 of ")
    assert house.same(sql.rstrip(";"))


def test_most_of_the_partitions_are_made_again_with_the_rest(house, path):
    house.gold(DAILY, ["day"])
    house.build()
    write_deltalake(path, some_orders(5000, 5006), mode="append")
    assert house.build().notes == ("recomputed whole: 6 of 10 partitions are affected",)
    assert house.same(DAILY)


def test_everything_is_made_again_when_asked_for(house, path):
    house.gold(DAILY, ["day"])
    house.build()
    outcome = house.build(full=True)
    assert outcome.notes == ("recomputed whole: --full",)
    assert outcome.rows_total == outcome.counts.rows_out == len(house.ask(DAILY))
    house.gold(DAILY, ["day"], whole=True)
    assert house.build().status == "unchanged"
    write_deltalake(path, orders([(5000, DAY, "us", 1)]), mode="append")
    assert house.build().notes == ("recomputed whole: its definition says so",)
    assert house.same(DAILY)


def test_a_query_that_tells_the_time_is_run_each_time(house):
    house.gold("SELECT day, now() AS built_at FROM sales.orders")
    house.build()
    assert house.pending() == "whole: its SQL calls now()"
    assert house.build().notes == ("recomputed whole: its SQL calls now()",)
    house.gold("SELECT day FROM sales.orders WHERE day <= current_date")
    house.build()
    assert house.pending() == "whole: its SQL says current_date"


def test_days_do_not_depend_on_where_the_build_runs(house, monkeypatch):
    house.gold("SELECT stamp::DATE AS day, count(*) AS n FROM sales.orders GROUP BY 1")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    house.build()
    assert house.ask("SELECT min(day) FROM gold.out") == [(DAY,)]


def test_an_input_that_lost_its_old_versions(house, path):
    house.gold(DAILY, ["day"])
    house.build()
    table = DeltaTable(path)
    table.delete(f"day = '{DAY}'")
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    (note,) = house.build().notes
    assert note.startswith("recomputed whole: sales.orders changed, and ")
    assert house.same(DAILY)


def test_an_input_made_anew(house, path):
    house.gold(DAILY, ["day"])
    house.build()
    shutil.rmtree(path)
    write_deltalake(path, some_orders(0, 10))
    (note,) = house.build().notes
    assert note == "recomputed whole: sales.orders 0 → 0: version 0 is no longer in its log"
    assert house.same(DAILY)


# --- backfill -------------------------------------------------------------------------------------


def test_an_interval_is_built_again_and_the_rest_is_left(house, path):
    house.gold(DAILY, ["month(day)", "day"])
    house.build()
    write_deltalake(path, some_orders(5000, 5100), mode="append")
    until = datetime(2026, 1, 4, tzinfo=UTC)
    outcome = house.build(since=datetime(2026, 1, 2, tzinfo=UTC), until=until)
    assert outcome.notes == ("from 2026-01-02 00:00 to 2026-01-04 00:00 recomputed",)
    new = f"SELECT * FROM ({DAILY}) WHERE day = '2026-01-03'"
    # Of a partitioning by month and day, the first that tells the time is the month.
    assert house.ask(f"FROM gold.out WHERE day = '2026-01-03' EXCEPT ALL {new}") == []
    assert house.pending() == "sales.orders 0 → 1"
    house.build()
    assert house.same(DAILY)


def test_an_interval_by_days(house, path):
    house.gold(DAILY, ["region", "day"])
    house.build()
    write_deltalake(path, some_orders(5000, 5100), mode="append")
    house.build(since=datetime(2026, 1, 2, 12, tzinfo=UTC), until=datetime(2026, 1, 4, tzinfo=UTC))
    fresh = house.ask(f"SELECT DISTINCT day FROM (({DAILY}) INTERSECT FROM gold.out) ORDER BY day")
    assert fresh == [(date(2026, 1, 2),), (date(2026, 1, 3),)]
    house.build()
    assert house.same(DAILY)


def test_without_a_partition_of_time_there_is_no_interval(house):
    house.gold(DAILY, ["region"])
    house.build()
    with pytest.raises(UsageError, match="no partition of it tells when something was") as caught:
        house.build(since=datetime(2026, 1, 2, tzinfo=UTC))
    assert "partitions: [day(ordered_at)]" in caught.value.hint


# --- columns --------------------------------------------------------------------------------------

TYPES = {
    "1::TINYINT": "INTEGER",
    "6::UINTEGER": "BIGINT",
    "18446744073709551615::UBIGINT": "DECIMAL(20,0)",
    "sum(1) OVER ()": "DECIMAL(38,0)",
    "'nan'::DOUBLE": "DOUBLE",
    "12.34::DECIMAL(4,2)": "DECIMAL(4,2)",
    "-1234567890123456789012.5::DECIMAL(30,3)": "DECIMAL(30,3)",
    "'a'::ENUM('a', 'b')": "VARCHAR",
    "'{\"x\": 1}'::JSON": "VARCHAR",
    "'\\x01\\xFF'::BLOB": "BLOB",
    "UUID 'f79c3e09-677c-4bbd-a479-3f349cb785e7'": "UUID",
    "DATE '1969-12-31'": "DATE",
    "TIME '12:34:56.789012'": "TIME",
    "TIMESTAMP '1969-12-31 23:59:59.999999'": "TIMESTAMP",
    "TIMESTAMP_S '2026-01-01 00:00:00'": "TIMESTAMP",
    "TIMESTAMPTZ '2026-01-01 00:00:00+05'": "TIMESTAMP WITH TIME ZONE",
    "[1, 2, NULL]": "INTEGER[]",
    "{'a': 1, 'b c': [{'d': 'x'}]}": 'STRUCT(a INTEGER, "b c" STRUCT(d VARCHAR)[])',
    "MAP {'k': [1.5::DECIMAL(3,1)]}": "MAP(VARCHAR, DECIMAL(3,1)[])",
    "[1, 2]::INT[2]": "INTEGER[]",
    "true": "BOOLEAN",
}


def test_every_type_comes_back(house):
    items = ", ".join(f"{value} AS c{n}" for n, value in enumerate(TYPES))
    sql = f"SELECT {items} UNION ALL SELECT {', '.join('NULL' for _ in TYPES)}"
    house.gold(sql)
    house.build()
    assert [row[1] for row in house.ask("DESCRIBE gold.out")] == list(TYPES.values())
    chosen = ", ".join(f"c{n}::VARCHAR" for n in range(len(TYPES)))
    stored = ", ".join(f"CAST(c{n} AS {kind})::VARCHAR" for n, kind in enumerate(TYPES.values()))
    expected = house.ask(f"SELECT {stored} FROM ({sql}) ORDER BY ALL")
    assert house.ask(f"SELECT {chosen} FROM gold.out ORDER BY ALL") == expected
    row = house.metadata().scan().to_arrow().to_pylist()[0]
    assert row["c2"] == Decimal("18446744073709551615")
    assert row["c10"] == UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7")
    assert row["c17"] == {"a": 1, "b c": [{"d": "x"}]}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("INTERVAL 1 DAY", "CAST(... AS VARCHAR) AS x"),
        ("TIMESTAMP_NS '2026-01-01 00:00:00'", "CAST(... AS TIMESTAMP) AS x"),
        ("[{'a': '1'::BIT}]", "CAST(... AS VARCHAR) AS x"),
        ("1::UHUGEINT", "CAST(... AS DECIMAL(38,0)) AS x"),
    ],
)
def test_a_type_that_iceberg_lacks_is_named_with_the_cast(value, hint, house):
    house.gold(f"SELECT {value} AS x")
    with pytest.raises(UsageError, match=r"gold\.out: Iceberg has no type for column x, a ") as caught:
        house.build()
    assert hint in caught.value.hint


def test_a_sum_that_does_not_fit_is_an_error_and_not_another_number(house):
    house.gold("SELECT 170141183460469231731687303715884105727::HUGEINT AS x")
    with pytest.raises(QueryError, match="DECIMAL"):
        house.build()
    assert not (house.folder / "gold.out/metadata").exists()


WRONG = {
    "SELECT day, day FROM sales.orders": "its SQL gives two columns by the name day",
    "SELECT nothing FROM sales.orders": 'gold.out: Binder Error: Referenced column "nothing" not found',
    "SELEC 1": "gold.out: its SQL does not parse: Parser Error",
    "CREATE TABLE t (i INT)": "gold.out: its SQL is no single SELECT",
    "SELECT $x AS x": "gold.out: its SQL has parameters",
}


@pytest.mark.parametrize("sql", WRONG)
def test_wrong_sql_is_told(sql, house):
    house.gold(sql)
    with pytest.raises((UsageError, QueryError)) as caught:
        house.build()
    assert WRONG[sql] in str(caught.value)


WRONG_PARTITIONS = {
    "nothing": ("its SQL gives no column nothing to partition by", "day"),
    "hour(day)": ("column day is a DATE, which cannot be partitioned by hour", "TIMESTAMP"),
    "share": ("column share is a DOUBLE, which cannot be partitioned by identity", "CAST"),
    "week(day)": ("not a partition: week(day)", "bucket(16, c)"),
    "bucket(region)": ("not a partition: bucket(region)", "bucket(16, c)"),
    "bucket(4, key)": ("column key is a UUID, which cannot be partitioned by bucket", "VARCHAR"),
    "truncate(4, price)": (
        "column price is a DECIMAL(5,2), which cannot be partitioned by truncate",
        "BIGINT",
    ),
}


@pytest.mark.parametrize("written", WRONG_PARTITIONS)
def test_wrong_partitions_are_told(written, house):
    house.gold(
        "SELECT day, region, 1.5::DOUBLE AS share, uuid() AS key, 1.5::DECIMAL(5,2) AS price FROM sales.orders",
        [written],
    )
    with pytest.raises(UsageError) as caught:
        house.build()
    message, hint = WRONG_PARTITIONS[written]
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_another_sql_changes_the_columns_in_the_commit_of_its_rows(house):
    house.gold("SELECT id, day, region FROM sales.orders", ["day"])
    house.build()
    house.gold("SELECT id, day, region, amount FROM sales.orders", ["day"])
    assert house.pending() == "whole: its definition changed"
    outcome = house.build()
    assert outcome.notes == ("recomputed whole: its definition changed",)
    assert outcome.commits[0].changes == ("added column amount",)
    house.gold(
        "SELECT id::VARCHAR AS id, amount, month(day) AS month FROM sales.orders",
        ["month", "truncate(2, id)"],
    )
    changes = house.build().commits[0].changes
    assert changes == (
        "added column month",
        "removed column day",
        "removed column region",
        "column id is string, and was long",
    )
    assert house.same("SELECT id::VARCHAR, amount, month(day) FROM sales.orders")
    house.gold("SELECT id, day, region FROM sales.orders", [])
    house.build()
    table = house.metadata()
    assert [s.sequence_number for s in table.metadata.snapshots] == [1, 2, 3, 4]
    for name, columns in (("run-1", 3), ("run-3", 4), ("run-4", 3), ("run-5", 3)):
        ref = table.metadata.refs.get(name)
        if ref:
            assert table.scan(snapshot_id=ref.snapshot_id).to_arrow().shape == (1000, columns)
    assert house.same("SELECT id, day, region FROM sales.orders")
    assert len(read_by_datafusion(house)) == 1000
    write_deltalake(house.products["sales.orders"]["location"], orders([(5000, DAY, "eu", 1)]), mode="append")
    house.build()
    assert house.same("SELECT id, day, region FROM sales.orders")


def test_columns_of_an_input_that_change_change_the_table(house, path):
    house.gold("FROM sales.orders", ["day"])
    house.build()
    more = some_orders(5000, 5001).append_column("note", pa.array(["new"]))
    write_deltalake(path, more, mode="append", schema_mode="merge")
    outcome = house.build()
    assert outcome.notes == ("recomputed whole: its columns changed",)
    assert outcome.commits[0].changes == ("added column note",)
    assert house.same("FROM sales.orders")


def test_a_table_without_rows(house, path):
    sql = "SELECT day, count(*) AS n FROM sales.orders WHERE amount > 100 GROUP BY day"
    house.gold(sql, ["day"])
    outcome = house.build()
    assert (outcome.rows_total, outcome.counts.files) == (0, 0)
    assert house.ask("FROM gold.out") == read_by_datafusion(house) == []
    write_deltalake(path, orders([(5000, DAY, "eu", 1000)]), mode="append")
    house.build()
    assert house.ask("SELECT n FROM gold.out") == [(1,)]
    DeltaTable(path).delete("amount > 100")
    house.build()
    assert house.ask("FROM gold.out") == []


# --- partitions as Iceberg has them ---------------------------------------------------------------

VALUES = {
    "i": ("INTEGER", [0, 7, -1, -10, 2147483647, -2147483648, None]),
    "j": ("INTEGER", [0, 7, -1, -10, None]),
    "l": ("BIGINT", [0, -1, 34, 2**62, None]),
    "d": ("DECIMAL(9,2)", [Decimal("10.65"), Decimal("-10.65"), Decimal("0.00"), None]),
    "w": ("DECIMAL(30,3)", [Decimal("-3.500"), Decimal("12345678901234567890.125"), None]),
    "s": (
        "VARCHAR",
        ["", "-", "iceberg", "äöü😀xyz", "it's", "a/b%c", "__HIVE_DEFAULT_PARTITION__", "NULL", None],
    ),
    "b": ("BLOB", [b"", b"\x00\x01\x02\x03", b"\xff", None]),
    "t": (
        "DATE",
        [date(1970, 1, 1), date(1969, 12, 31), date(1969, 1, 1), date(2026, 2, 28), date(1600, 2, 29), None],
    ),
    "n": (
        "TIMESTAMP",
        [
            datetime(1969, 12, 31, 23, 59, 59, 999999),
            datetime(1970, 1, 1),
            datetime(2026, 1, 1, 12, 30),
            None,
        ],
    ),
    "z": (
        "TIMESTAMP WITH TIME ZONE",
        [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), datetime(2026, 12, 31, 23, tzinfo=UTC), None],
    ),
    "o": ("BOOLEAN", [True, False, None]),
    "u": ("UUID", [UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7"), UUID(int=0), None]),
}

TRANSFORMS = [
    *(("identity", name) for name in VALUES if name not in "ub"),
    *((f"bucket[{n}]", name) for n in (1, 16) for name in "ijldwstnz"),
    *((f"truncate[{n}]", name) for n in (1, 3, 50) for name in "jls"),
    *((unit, name) for unit in ("year", "month", "day") for name in "tnz"),
    *(("hour", name) for name in "nz"),
]


def written(transform, column):
    if transform == "identity":
        return column
    name, _, width = transform.rstrip("]").partition("[")
    return f"{name}({width}, {column})" if width else f"{name}({column})"


@pytest.fixture(scope="module")
def odd_rows(tmp_path_factory):
    """A Parquet file with 60 rows of odd values."""
    file = tmp_path_factory.mktemp("odd") / "rows.parquet"
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in VALUES.items())
    con = duckdb.connect()
    con.execute(f"CREATE TABLE odd ({columns})")
    marks = ", ".join("?" for _ in VALUES)
    rows = [[v[i % len(v)] for _, v in VALUES.values()] for i in range(60)]
    con.executemany(f"INSERT INTO odd VALUES ({marks})", rows)
    con.execute(f"COPY odd TO '{file}' (FORMAT parquet, WRITE_BLOOM_FILTER false)")
    return file


def internal(value):
    """A value as Iceberg has it."""
    match value:
        case datetime():
            return (value - datetime(1970, 1, 1, tzinfo=value.tzinfo)) // timedelta(microseconds=1)
        case date():
            return (value - date(1970, 1, 1)).days
    return value


def test_partition_values_are_those_that_iceberg_prescribes(house, odd_rows):
    """Every transform over odd values: keys by SQL against pyiceberg's, and the rows that they lead back to."""
    with house.mesh.reading([], extensions=["iceberg"]) as reading:
        reading.ask("SET TimeZone = 'Pacific/Auckland'")
        relation = reading.cursor.sql(f"FROM read_parquet('{odd_rows}')")
        columns = {c.name: c for c in columns_of("x.y", relation.columns, relation.types)}
        for transform, name in TRANSFORMS:
            values = [VALUES[name][1][i % len(VALUES[name][1])] for i in range(60)]
            partitioning = partitions_of("x.y", [written(transform, name)], list(columns.values()))
            prescribed = parse_transform(transform).transform(columns[name].iceberg)
            expected = [prescribed(internal(v)) for v in values]
            scan = f"read_parquet('{odd_rows}')"
            found = reading.ask(f"SELECT {partitioning.keys}, {partitioning.digest} FROM {scan}")
            assert [key for key, _ in found] == expected, (transform, name)
            assert len(set(found)) == len({digest for _, digest in found}) == len(set(expected)), (
                transform,
                name,
            )
            sought = [*({key} for key in set(expected)), set(expected)]
            conditions = [in_partitions(partitioning, [(key,) for key in keys]) for keys in sought]
            counts = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions)
            ((*rows,),) = reading.ask(f"SELECT {counts} FROM {scan}")
            assert rows == [sum(key in keys for key in expected) for keys in sought], (transform, name)


def test_times_that_duckdb_would_not_find_again_are_refused(house):
    house.gold("SELECT TIMESTAMP '1969-12-31 12:00:00' AS stamp", ["day(stamp)"])
    with pytest.raises(UsageError, match="column stamp has times of before 1970") as caught:
        house.build()
    assert caught.value.hint == "partition by year(stamp), or by a DATE"
    assert not (house.folder / "gold.out").exists()


def test_a_number_too_small_to_truncate_is_an_error(house):
    house.gold("SELECT (-2147483648)::INTEGER AS i", ["truncate(3, i)"])
    with pytest.raises(QueryError, match="Overflow"):
        house.build()


@pytest.mark.parametrize(
    "partitions",
    [
        ["t", "s"],
        ["hour(n)", "bucket(4, s)"],
        ["month(t)", "year(z)", "truncate(3, l)"],
        ["day(t)", "d", "z"],
        ["o", "j", "n"],
        ["year(t)", "w", "i"],
    ],
    ids="+".join,
)
def test_odd_values_lie_in_partitions_that_scans_leave_out(partitions, house, odd_rows):
    house.add("odd.rows", str(odd_rows), format="parquet")
    location = house.gold("FROM odd.rows", partitions)
    house.build()
    assert house.same("FROM odd.rows")
    assert len(read_by_datafusion(house)) == len(house.metadata().scan().to_arrow()) == 60
    # All of it is replaced, so that the manifests that were written are read, too.
    house.build(full=True)
    assert house.same("FROM odd.rows")
    plain = plain_duckdb()
    for name, (kind, values) in VALUES.items():
        for value in values:
            same = f"{name} = CAST(? AS {kind})" if value is not None else f"{name} IS NULL"
            query = f"SELECT count(*) FROM iceberg_scan('{location}') WHERE {same}"
            found = plain.execute(query, [] if value is None else [value]).fetchall()
            expected = sum(values[i % len(values)] == value for i in range(60))
            assert found == [(expected,)], (name, value)


def test_scans_leave_out_partitions_and_files(house):
    location = house.gold("SELECT day, id FROM sales.orders ORDER BY id", ["day"])
    house.build()
    plain = plain_duckdb()
    plan = plain.execute(
        f"EXPLAIN ANALYZE FROM iceberg_scan('{location}') WHERE day = '2026-01-03'"
    ).fetchall()[0][1]
    assert "Total Files Read: 1" in plan
    plan = plain.execute(f"EXPLAIN ANALYZE FROM iceberg_scan('{location}') WHERE id = 9").fetchall()[0][1]
    assert "Total Files Read: 1" in plan


def test_bytes_are_found_again(house):
    """DuckDB's filter in Parquet files for which values they hold is wrong about BLOBs."""
    house.gold("SELECT ('\\xFF\\x0' || i % 3)::BLOB AS b FROM range(100) t(i)")
    house.build()
    assert house.ask("SELECT count(*) FROM gold.out WHERE b = '\\xFF\\x01'::BLOB") == [(33,)]


def test_numbers_that_are_none_hide_no_rows(house):
    """A row group with NaN in it has no bounds, and those of the others must not count for the file."""
    sql = "SELECT i, CASE WHEN i % 200000 = 5 THEN 'nan'::DOUBLE ELSE i END AS x FROM range(400000) t(i)"
    house.gold(sql)
    house.build()
    assert house.ask("SELECT count(*) FROM gold.out WHERE x > 1e9") == [(2,)]
    assert house.ask("SELECT count(*) FROM gold.out WHERE isnan(x)") == [(2,)]


# --- inputs ---------------------------------------------------------------------------------------


def test_gold_of_gold_follows_the_changes_of_gold(house, path):
    house.gold("SELECT day, region, count(*) AS n FROM sales.orders GROUP BY ALL", ["day"], name="gold.daily")
    monthly = "SELECT date_trunc('month', day)::DATE AS month, sum(n)::BIGINT AS n FROM gold.daily GROUP BY 1"
    house.gold(monthly, ["month"])
    months = [(5000 + i, DAY + timedelta(days=32 * i), "eu", 1) for i in range(6)]
    write_deltalake(path, orders(months), mode="append")
    house.build("gold.daily")
    assert house.build().commits[0].inputs == {"gold.daily": "v1"}
    write_deltalake(path, orders([(6000, DAY + timedelta(days=32), "cn", 1)]), mode="append")
    assert house.build("gold.daily").notes == ("1 of 15 partitions recomputed",)
    assert house.pending() == "gold.daily v1 → v2"
    assert house.build().notes == ("1 of 6 partitions recomputed",)
    assert house.same(monthly)


def test_an_iceberg_input_that_others_wrote(house):
    location = house.add("other.t", format="iceberg")
    sql = "SELECT day, count(*) AS n FROM other.t GROUP BY day"
    house.gold(sql, ["day"])
    with SqlCatalog("t", uri="sqlite:///:memory:", warehouse=f"file://{house.folder}") as catalog:
        catalog.create_namespace("db")
        table = catalog.create_table("db.t", some_orders(0, 1).schema, location=f"file://{location}")
        table.append(some_orders(0, 100))
        house.build()
        table.append(orders([(5000, DAY, "eu", 1)]))
        assert house.build().notes == ("1 of 10 partitions recomputed",)
        assert house.same(sql)
        table.delete("id = 5000")
        assert house.build().notes == ("1 of 10 partitions recomputed",)
        assert house.same(sql)
        # Files without field ids: what they hold of a column is for their names to say.
        pq.write_table(orders([(6000, DAY, "eu", 1)]), f"{location}/data/bare.parquet")
        table.add_files([f"file://{location}/data/bare.parquet"])
        (note,) = house.build().notes
        assert note.startswith("recomputed whole: other.t ")
        assert house.same(sql)


def test_a_bronze_input_is_followed_batch_by_batch(house):
    source = {"kind": "files", "location": "landing/*.json"}
    house.add("bronze.orders", build={"kind": "bronze", "sources": [source]})
    sql = "SELECT day, count(*) AS n, max(_batch) AS newest FROM bronze.orders GROUP BY day"
    house.gold(sql, ["day"])
    rows = "SELECT DATE '2026-01-01' + (i % 10)::INT AS day FROM range({}) t(i)"
    for number, count in enumerate((100, 1, 2), start=1):
        add_batch(house.mesh, "bronze.orders", rows.format(count))
        outcome = house.build()
        assert outcome.commits[0].inputs == {"bronze.orders": str(number)}
        assert outcome.notes == (f"{count} of 10 partitions recomputed" if number > 1 else "first build",)
        assert house.same(sql)
    add_batch(house.mesh, "bronze.orders", rows.format(5), replaces=True)
    assert house.build().notes == ("recomputed whole: bronze.orders 3 → 4: its rows were replaced",)
    assert house.same(sql)


def commit_by_hand(root, version, actions):
    text = "\n".join(map(json.dumps, actions))
    (Path(root) / "_delta_log" / f"{version:020d}.json").write_text(text)


def added(root):
    lines = (Path(root) / "_delta_log" / f"{0:020d}.json").read_text().splitlines()
    return [json.loads(line)["add"] for line in lines if "add" in json.loads(line)]


def test_rows_that_a_deletion_vector_takes_away_are_followed(house):
    root = Path(house.add("other.deleted", format="delta"))
    files = [(f"{p}.parquet", f"SELECT i AS id, {p}::BIGINT AS p FROM range(10) t(i)", {}) for p in range(4)]
    by_hand(root, [field("id", "long"), field("p", "long")], files, features=["deletionVectors"])
    sql = "SELECT p, count(*) AS n, sum(id) AS total FROM other.deleted GROUP BY p"
    house.gold(sql, ["p"])
    house.build()
    before = added(root)[2]
    for version, gone in ((1, [3]), (2, [3, 4])):
        after = before | {"deletionVector": vector(gone, root)}
        remove = {key: before[key] for key in ("path", "deletionVector") if key in before}
        commit_by_hand(root, version, [{"add": after}, {"remove": remove | {"dataChange": True}}])
        before = after
        assert house.build().notes == ("1 of 4 partitions recomputed",)
        assert house.same(sql)
    assert house.ask("SELECT n FROM gold.out WHERE p = 2") == [(8,)]


def test_columns_with_other_names_in_files_are_followed(house):
    root = Path(house.add("other.mapped", format="delta"))
    fields = [field("id", "long", "c-1", 1), field("p", "long", "was", 2)]
    files = [(f"{p}.parquet", f'SELECT {p} AS "c-1", {p}::BIGINT AS was', {}) for p in range(4)]
    by_hand(root, fields, files, [], ["columnMapping"], {"delta.columnMapping.mode": "name"})
    house.gold("SELECT p, sum(id) AS total FROM other.mapped GROUP BY p", ["p"])
    house.build()
    duckdb.sql(
        f"""COPY (SELECT 7::BIGINT AS "c-1", 2::BIGINT AS was) TO '{root / "new.parquet"}' (FORMAT parquet)"""
    )
    size = (root / "new.parquet").stat().st_size
    commit_by_hand(root, 1, [{"add": added(root)[0] | {"path": "new.parquet", "size": size, "stats": None}}])
    assert house.build().notes == ("1 of 4 partitions recomputed",)
    assert house.ask("SELECT total FROM gold.out WHERE p = 2") == [(9,)]


# --- clouds ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
def test_gold_in_a_cloud(cloud, tmp_path, door, request):
    store = request.getfixturevalue(cloud)
    bucket = f"gold-{cloud}"
    store.create_bucket(bucket)
    auth = {
        "s3": {"method": "keys", "key_id": store.key_id, "secret": store.secret},
        "gcs": {"method": "hmac", "key_id": store.key_id, "secret": store.secret},
        "azure": {"method": "account_key", "key": store.secret},
    }[cloud]
    where = {"account": store.key_id} if cloud == "azure" else {}
    lake = {"cloud": cloud, "endpoint": store.endpoint, "insecure": True, "auth": auth, **where}
    if cloud == "s3":
        lake["url_style"] = "path"
    house = House(tmp_path, door, {"lake": lake})
    path = house.add("sales.orders", format="delta")
    write_deltalake(path, some_orders(0, 1000), partition_by=["day"])
    scheme = {"s3": "s3", "gcs": "gs", "azure": "az"}[cloud]
    house.gold(DAILY, ["day"], location=f"{scheme}://{bucket}/gold/out/", connection="lake")
    assert house.build().version == "v1"
    write_deltalake(path, orders([(5000, DAY, "eu", 1)]), mode="append")
    assert house.build().notes == ("1 of 10 partitions recomputed",)
    assert house.build().status == "unchanged"
    assert house.same(DAILY)
    # By pyiceberg, as the same identity, from the metadata file alone.
    uri, options = house.mesh.storage_options("gold.out", "pyiceberg")
    table = StaticTable.from_metadata(f"{uri}metadata/v2.metadata.json", properties=options)
    assert sorted((tuple(r.values()) for r in table.scan().to_arrow().to_pylist()), key=repr) == sorted(
        house.ask("FROM gold.out"), key=repr
    )
    # The commit is one that only one writer can make.
    first, second = (open_folder(house.mesh, house.mesh.find("gold.out")) for _ in range(2))
    tables = [folder.current() for folder in (first, second)]
    tables[0].manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "first").commit()
    with pytest.raises(ExistsError, match="another build has made version v3"):
        tables[1].manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "second").commit()
    assert not first.store.put(first.metadata_key(3), b"{}", new=True)
