"""Silver: every row of bronze is in the table, in the quarantine, or a duplicate, however it is built."""

from __future__ import annotations

import json
import random
import shutil
import threading
from contextlib import suppress
from datetime import UTC, datetime

import duckdb
import pyarrow
import pytest
from clouds.batches import add_batch

import meshql
from meshql.build import delta, silver, takes
from meshql.build.run import definition_of
from meshql.build.step import Counts, Request, Step
from meshql.errors import InterruptedQueryError, MeshError, QueryError, StorageError, UsageError

COLUMNS = [
    {"name": "id", "required": True},
    {"name": "value", "logicalTypeOptions": {"minimum": 0}, "logicalType": "number"},
]
SELECT = {
    "id": "id",
    "kind": "upper(kind)",
    "value": {"sql": "value", "type": "DECIMAL(10,2)"},
    "seen": "seen",
}


class Lake:
    """A catalog of bronze.events and silver.events in a folder of this machine, and steps over it."""

    def __init__(self, folder, store=None):
        self.folder = folder
        self.root = f"{store.scheme}://silver-tests" if store else str(folder)
        self.store = store
        self.mesh = None
        self.declare()

    @classmethod
    def beside(cls, lake):
        """The same catalog, for another process."""
        other = cls.__new__(cls)
        other.folder, other.mesh = lake.folder, None
        return other

    def declare(self, columns=COLUMNS, quality=(), products=(), **build):
        """Write the catalog and open it anew."""
        given = {"kind": "silver", "from": "bronze.events", "select": SELECT} | build
        given = {key: value for key, value in given.items() if value is not None}
        sources = [{"kind": "files", "location": str(self.folder / "landing/*.json")}]
        silver_ = {"name": "silver.events", "location": f"{self.root}/silver/events/", "build": given}
        silver_ |= {"schema": [{"name": "events", "properties": list(columns)}], "quality": list(quality)}
        catalog = {
            "meshql": 1,
            "connections": {"cloud": self.store.connection} if self.store else {},
            "products": [
                {
                    "name": "bronze.events",
                    "location": f"{self.root}/bronze/events/",
                    "build": {"kind": "bronze", "sources": sources},
                },
                silver_,
                *products,
            ],
        }
        for product in catalog["products"][: 2 if self.store else 0]:
            product["connection"] = "cloud"
        (self.folder / "c.yaml").write_text(json.dumps(catalog))
        self.open()

    def open(self):
        self.close()
        self.mesh = meshql.connect(self.folder / "c.yaml")

    def close(self):
        if self.mesh is not None:
            self.mesh.close()

    def land(self, sql, **more):
        """Add a batch to bronze."""
        return add_batch(self.mesh, "bronze.events", sql, **more)

    def step(self, request=None, **more):
        product = self.mesh.find("silver.events")
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return Step(
            self.mesh, product, "run-1", request or Request(), scratch, definition_of(product), **more
        )

    def build(self, request=None, **more):
        """Build silver; whatever it commits, no row may go missing."""
        outcome = silver.build(self.step(request, **more))
        for commit in outcome.commits:
            counts = commit.counts
            assert counts.rows_in == counts.rows_out + counts.rows_quarantined + counts.rows_duplicate
        return outcome

    def rows(self, sql="SELECT * EXCLUDE (_ingested_at, _source) FROM silver.events ORDER BY ALL"):
        with self.mesh.sql(sql) as result:
            return result.fetchall()

    def quarantined(self):
        return self.rows("SELECT _reasons, _row, _batch FROM silver.events_quarantine ORDER BY ALL")


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    yield lake
    lake.close()


def events(*rows):
    """SQL of rows (id, kind, value, at); value is text, as sources have it."""
    listed = ", ".join(
        f"({'NULL' if i is None else i}::BIGINT, '{kind}', {value!r}, TIMESTAMP '2026-01-01' + INTERVAL {at} HOUR)"
        for i, kind, value, at in rows
    )
    return f"SELECT * FROM (VALUES {listed}) AS t(id, kind, value, seen)"


def test_good_rows_are_in_the_table_and_bad_ones_in_the_quarantine_with_all_reasons(lake):
    lake.land(events((1, "click", "1.5", 0), (None, "view", "-2", 1), (3, "view", "much", 2)))
    outcome = lake.build()
    assert [row[:3] for row in lake.rows("SELECT id, kind, value::VARCHAR FROM silver.events")] == [
        (1, "CLICK", "1.50")
    ]
    bad = lake.quarantined()
    assert [(reasons, batch) for reasons, _, batch in bad] == [
        (["id must not be null", "value must be at least 0"], 1),
        (["value is no DECIMAL(10,2)"], 1),
    ]
    assert json.loads(bad[1][1])["value"] == "much"
    counts = outcome.counts
    assert (counts.rows_in, counts.rows_out, counts.rows_quarantined) == (3, 1, 2)
    assert outcome.rows_total == 1
    assert counts.files == 1
    assert counts.bytes > 0


def test_only_new_batches_are_taken_and_nothing_without_any(lake):
    lake.land(events((1, "a", "1", 0)))
    first = lake.build()
    assert lake.build().commits == ()
    assert silver.pending(lake.step()).words == ""
    lake.land(events((2, "b", "2", 0)))
    lake.land(events((3, "c", "3", 0)))
    assert silver.pending(lake.step()).words == "2 rows of 2 batches of bronze.events"
    second = lake.build()
    assert [c.watermark for c in first.commits + second.commits] == ["1", "3"]
    assert second.counts.rows_in == 2
    assert [c.watermark for c in silver.commits(lake.step())] == ["3", "1"]
    assert [r[0] for r in lake.rows()] == [1, 2, 3]


# --- the key --------------------------------------------------------------------------------------


def test_of_each_key_the_first_in_the_order_is_kept_then_the_latest_batch(lake):
    lake.declare(key="id", order="seen DESC")
    lake.land(events((1, "old", "1", 1), (1, "new", "1", 2), (2, "a", "1", 5), (3, "same", "1", 0)))
    first = lake.build()
    lake.land(events((2, "late", "1", 4), (1, "newer", "1", 3), (3, "again", "1", 0), (4, "b", "1", 0)))
    second = lake.build()
    kinds = lake.rows("SELECT id, kind FROM silver.events ORDER BY id")
    assert kinds == [(1, "NEWER"), (2, "A"), (3, "AGAIN"), (4, "B")]
    assert (first.counts.rows_out, first.counts.rows_duplicate, first.counts.rows_updated) == (3, 1, 0)
    assert (second.counts.rows_out, second.counts.rows_duplicate, second.counts.rows_updated) == (1, 3, 2)
    assert second.rows_total == 4


def test_rows_without_a_key_are_refused_once_per_reason(lake):
    lake.declare(columns=(), key=["id", "kind"])
    lake.land(events((None, "a", "1", 1), (1, "a", "x", 1)))
    lake.build()
    assert [reasons for reasons, *_ in lake.quarantined()] == [
        ["id must not be null"],
        ["value is no DECIMAL(10,2)"],
    ]


def test_an_order_over_what_the_product_has_not_is_refused_before_anything_is_written(lake):
    lake.declare(key="id", order="updated_at DESC")
    lake.land(events((1, "a", "1", 1)))
    with pytest.raises(QueryError, match="order `updated_at DESC`") as failed:
        lake.build()
    assert "below `select:`" in failed.value.hint
    assert not (lake.folder / "silver").exists()


# --- refusing a definition ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"select": {"id": "id", "x": "colour"}}, 'select.x: Binder Error: Referenced column "colour" not found'),
        ({"select": {"id": "id", "x": {"sql": "seen", "type": "TIME"}}}, "select.x: a Delta table holds no TIME"),
        ({"select": {"id": "id", "x": {"sql": "seen", "type": "DATUM"}}}, "select.x: Catalog Error: Type with name DATUM"),
        ({"select": {"id": "id", "ID": "kind"}}, "does not tell the columns id and ID apart"),
        ({"select": {"id": "id", "_batch": "id"}}, "every row has _batch anyway"),
        ({"select": None, "key": "nope"}, "key names the column nope"),
        ({"columns": [{"name": "colour", "required": True}]}, "the rule colour.required does not fit"),
        ({"from": "silver.events"}, "not built as bronze"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_named_before_anything_is_written(lake, declared, message):
    lake.declare(**({"columns": ()} | declared))
    if "from" not in declared:
        lake.land(events((1, "a", "1", 1)))
    with pytest.raises(MeshError) as failed:
        lake.build()
    assert message in failed.value.message
    assert "silver.events" in failed.value.message
    assert not (lake.folder / "silver").exists()


def test_a_table_of_somebody_else_is_left_alone(lake):
    from deltalake import write_deltalake

    write_deltalake(str(lake.folder / "silver/events"), duckdb.sql("SELECT 1 AS id").to_arrow_table())
    lake.land(events((1, "a", "1", 1)))
    with pytest.raises(UsageError, match="did not build"):
        lake.build()
    assert lake.rows("SELECT id FROM silver.events") == [(1,)]


# --- rules ----------------------------------------------------------------------------------------


def test_lesser_rules_are_counted_and_the_rows_stay(lake):
    rule = {
        "metric": "invalidValues",
        "mustBe": 0,
        "arguments": {"validValues": ["A"]},
        "severity": "warning",
    }
    text = {"type": "text", "description": "looks fine", "name": "looks"}
    lake.declare(columns=[{"name": "kind", "quality": [rule, text]}])
    lake.land(events((1, "a", "1", 1), (2, "b", "1", 1)))
    lake.land(events((3, "c", "1", 1)))
    outcome = lake.build()
    assert outcome.counts.rows_out == 3
    assert outcome.notes[0] == "2 rows kept although: kind must be one of A (warning)"
    assert "looks" in outcome.notes[1]


def test_rows_have_to_refer_to_rows_of_another_product(lake):
    duckdb.sql("SELECT * FROM (VALUES (1), (2)) t(id)").write_parquet(str(lake.folder / "users.parquet"))
    users = {"name": "crm.users", "location": str(lake.folder / "users.parquet"), "format": "parquet"}
    lake.declare(columns=[{"name": "id", "relationships": [{"to": "crm.users.id"}]}], products=[users])
    lake.land(events((1, "a", "1", 1), (7, "b", "1", 1), (None, "c", "1", 1)))
    outcome = lake.build()
    assert [reasons for reasons, *_ in lake.quarantined()] == [["id must be in crm.users.id"]]
    assert set(outcome.commits[0].inputs) == {"bronze.events", "crm.users"}


def test_a_rule_that_a_row_makes_fail_refuses_that_row_only(lake):
    query = "SELECT count(*) FROM ${table} WHERE kind::INTEGER > 5"
    lake.declare(
        quality=[
            {"type": "sql", "query": query, "mustBe": 0, "name": "small", "description": "kind is small"}
        ]
    )
    lake.land(events((1, "3", "1", 1), (2, "9", "1", 1), (3, "x", "1", 1)))
    lake.build()
    assert [(reasons, json.loads(row)["id"]) for reasons, row, _ in lake.quarantined()] == [
        (["kind is small"], 2),
        (["kind is small"], 3),
    ]


def test_an_expression_that_a_row_makes_fail_refuses_that_row_only(lake):
    lake.declare(columns=(), select={"id": "id", "half": "100 / kind::INTEGER", "year": "year(seen)"})
    lake.land(events((1, "3", "1", 1), (3, "x", "1", 1)))
    lake.build()
    assert [reasons for reasons, *_ in lake.quarantined()] == [["half failed"]]
    assert lake.rows("SELECT id, year FROM silver.events") == [(1, 2026)]


def test_rules_of_the_table_are_checked_each_time_and_said_to_have_failed(lake):
    quality = [
        {"metric": "rowCount", "mustBeGreaterThan": 1},
        {
            "metric": "duplicateValues",
            "mustBe": 0,
            "arguments": {"properties": ["kind"]},
            "severity": "warning",
        },
        {"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": ["id", "kind"]}},
        {"type": "sql", "query": "SELECT nothing FROM ${table}", "mustBe": 0, "name": "broken"},
    ]
    lake.declare(quality=quality, key="id")
    lake.land(events((1, "a", "1", 1)))
    for _ in range(2):
        failed = lake.build().failed
        assert [words.partition(";")[0] for words in failed] == [
            "rowCount: rowCount must be greater than 1",
            "broken: broken must be 0",
        ]
    lake.land(events((2, "a", "1", 1)))
    outcome = lake.build()
    assert len(outcome.failed) == 1
    assert "duplicateValues: duplicates of kind must be 0; is 1" in outcome.notes


# --- schemas --------------------------------------------------------------------------------------


def test_new_columns_come_as_policy_says(lake):
    lake.declare(columns=(), select=None, key="id")
    lake.land("SELECT 1 AS id, 'a' AS kind")
    lake.build()
    lake.land("SELECT 2 AS id, 'b' AS kind, 1.5::DOUBLE AS extra")
    lake.declare(columns=(), select=None, key="id", evolution="refuse")
    with pytest.raises(UsageError, match="extra is new: DOUBLE") as refused:
        lake.build()
    assert "evolution: add" in refused.value.hint
    assert len(lake.rows()) == 1
    lake.declare(columns=(), select=None, key="id")
    outcome = lake.build()
    assert outcome.commits[0].changes == ("extra is new: DOUBLE",)
    assert lake.rows("SELECT id, extra FROM silver.events ORDER BY id") == [(1, None), (2, 1.5)]
    lake.land("SELECT 1 AS id, 'c' AS kind, 2.5::DOUBLE AS extra, true AS more")
    assert lake.build().counts.rows_updated == 1
    assert lake.rows("SELECT id, extra, more FROM silver.events ORDER BY id") == [
        (1, 2.5, True),
        (2, 1.5, None),
    ]
    lake.land("SELECT 2 AS id, 'd' AS kind, 3.5::DOUBLE AS extra, TIMESTAMP '2026-01-31' AS seen")
    assert lake.build().counts.rows_updated == 1
    assert lake.rows("SELECT id, extra, seen::VARCHAR FROM silver.events ORDER BY id") == [
        (1, 2.5, None),
        (2, 3.5, "2026-01-31 00:00:00"),
    ]


@pytest.mark.parametrize("key", ["id", None])
def test_wider_types_rewrite_the_table_in_the_same_commit(lake, key):
    lake.declare(columns=(), select=None, key=key)
    lake.land("SELECT 1::INTEGER AS id, 1::DECIMAL(4,2) AS price, {'a': 1} AS more")
    lake.land("SELECT 2::INTEGER AS id, 2::DECIMAL(4,2) AS price, {'a': 2} AS more")
    lake.build()
    lake.declare(
        columns=(),
        select={
            "id": {"sql": "id", "type": "BIGINT"},
            "price": {"sql": "price", "type": "DECIMAL(12,3)"},
            "more": {"sql": "more", "type": "STRUCT(a BIGINT, b VARCHAR)"},
        },
        key=key,
    )
    lake.land("SELECT 2::INTEGER AS id, 9::DECIMAL(4,2) AS price, {'a': 3} AS more")
    outcome = lake.build()
    assert len(outcome.commits) == 1
    assert "id: INTEGER becomes BIGINT" in outcome.commits[0].changes
    expected = [(1, "1.000", {"a": 1, "b": None}), (2, "9.000", {"a": 3, "b": None})]
    if key is None:
        expected.insert(1, (2, "2.000", {"a": 2, "b": None}))
    assert lake.rows("SELECT id, price::VARCHAR, more FROM silver.events ORDER BY id, price") == expected


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"id": {"sql": "id", "type": "SMALLINT"}, "kind": "kind"}, None),
        ({"id": {"sql": "id", "type": "DOUBLE"}, "kind": "kind"}, "the type of id: BIGINT becomes DOUBLE"),
        ({"id": "id"}, "the column kind is not made any more"),
    ],
)
def test_what_might_lose_values_takes_a_full_build(lake, select, message):
    lake.declare(columns=(), select={"id": "id", "kind": "kind"})
    lake.land(events((1, "a", "1", 1)))
    lake.build()
    lake.declare(columns=(), select=select)
    lake.land(events((2, "b", "1", 1)))
    if message is None:
        # Every SMALLINT is a BIGINT: what is new is what is cast.
        assert lake.build().counts.rows_out == 1
        return
    with pytest.raises(UsageError, match=message) as refused:
        lake.build()
    assert refused.value.hint == "meshql build silver.events --full"
    lake.build(Request(full=True))
    assert len(lake.rows()) == 2


def test_types_that_delta_lacks_are_kept_as_what_holds_them(lake):
    lake.declare(columns=(), select=None)
    lake.land(
        "SELECT 1::UTINYINT AS a, 18446744073709551615::UBIGINT AS b, 7::HUGEINT AS c, uuid() AS d,"
        " '{\"x\": 1}'::JSON AS e, 'k'::ENUM('k') AS f, TIMESTAMPTZ '2026-01-01 12:00:00+02' AS g,"
        " [{'y': 1::UINTEGER}] AS h, MAP {'k': 2::USMALLINT} AS i, '2026-01-01'::DATE AS j, TIMESTAMP '2026-01-01 01:02:03.456789' AS k"
    )
    lake.build()
    ((a, b, c, e, f, g, h, i, j, k),) = lake.rows(
        "SELECT a, b, c, e, f, g::VARCHAR, h, i, j::VARCHAR, k::VARCHAR FROM silver.events"
    )
    assert (a, int(b), int(c), e, f) == (1, 18446744073709551615, 7, '{"x": 1}', "k")
    assert g.startswith("2026-01-01 10:00:00")
    assert (h, dict(i)) == ([{"y": 1}], {"k": 2})
    assert (j, k) == ("2026-01-01", "2026-01-01 01:02:03.456789")


# --- everything again -----------------------------------------------------------------------------


def test_a_full_build_is_one_commit_under_todays_rules(lake):
    lake.land(events((1, "a", "1", 1), (2, "b", "-1", 1)))
    lake.land(events((3, "c", "x", 1)))
    lake.build()
    lake.declare(columns=(), select=SELECT | {"value": "value"}, partitions="kind")
    with pytest.raises(UsageError, match="partitioned by nothing, not by kind"):
        lake.build()
    outcome = lake.build(Request(full=True))
    assert len(outcome.commits) == 1
    assert [r[:3] for r in lake.rows("SELECT id, kind, value FROM silver.events ORDER BY id")] == [
        (1, "A", "1"), (2, "B", "-1"), (3, "C", "x"),
    ]  # fmt: skip
    assert lake.quarantined() == []
    assert list((lake.folder / "silver/events").glob("kind=A/*.parquet"))
    lake.land(events((4, "a", "1", 1)))
    assert lake.build().counts.rows_out == 1


def test_a_key_that_changed_takes_a_full_build(lake):
    lake.land(events((1, "a", "1", 1), (1, "b", "1", 1)))
    lake.declare(key="id")
    lake.build()
    lake.declare(key=["id", "kind"])
    with pytest.raises(UsageError, match="its key or order has changed"):
        lake.build()
    lake.build(Request(full=True))
    assert len(lake.rows()) == 2


def test_a_definition_that_changed_is_noted(lake):
    lake.land(events((1, "a", "1", 1)))
    lake.build()
    lake.declare(columns=())
    lake.land(events((2, "b", "-1", 1)))
    assert "its definition has changed" in lake.build().notes[0]
    assert len(lake.rows()) == 2
    assert lake.build().notes == ()


def test_bronze_that_was_replaced_is_taken_whole(lake):
    lake.land(events((1, "a", "1", 1)))
    lake.build()
    lake.land(events((5, "z", "-5", 1), (6, "z", "6", 1)), replaces=True)
    lake.land(events((7, "z", "7", 1)))
    assert "all again: bronze.events was replaced" in silver.pending(lake.step()).words
    outcome = lake.build()
    assert outcome.notes == ("all rows are made again: bronze.events was replaced",)
    assert [r[0] for r in lake.rows()] == [6, 7]
    assert len(lake.quarantined()) == 1
    assert lake.build().commits == ()


def test_bronze_that_was_made_anew_is_taken_whole(lake):
    lake.land(events((1, "a", "1", 1)))
    lake.build()
    lake.close()
    shutil.rmtree(lake.folder / "bronze")
    lake.mesh = None
    lake.open()
    lake.land(events((2, "b", "1", 1)))
    assert "made anew" in lake.build().notes[0]
    assert [r[0] for r in lake.rows()] == [2]


@pytest.mark.parametrize("key", ["id", None])
def test_a_backfill_decides_again_over_the_rows_of_its_batches(lake, key):
    lake.declare(key=key)
    for row in ((1, "a", "1", 1), (2, "b", "-2", 1), (3, "c", "3", 1), (4, "d", "-4", 1)):
        lake.land(events(row))
    lake.build()
    store, location = lake.mesh.store(lake.mesh.find("bronze.events"))
    at = [b.at for b in silver.batches.state(store, location).batches]
    lake.declare(columns=[{"name": "kind", "enum": [{"value": "B"}]}], key=key)
    outcome = lake.build(Request(since=at[1], until=at[3]))
    if key:
        assert "with a key" in outcome.notes[0]
        assert [r[0] for r in lake.rows()] == [2]
        return
    assert [r[0] for r in lake.rows()] == [1, 2]
    assert [(json.loads(row)["id"], reasons) for reasons, row, _ in lake.quarantined()] == [
        (3, ["kind must be one of B"]),
        (4, ["value must be at least 0"]),
    ]
    assert outcome.counts.rows_in == 2
    assert outcome.commits[0].watermark == "4"
    assert lake.build().commits == ()


# --- however it is grouped, and wherever it is cut off --------------------------------------------


def random_batches(seed):
    """Batches of rows (id, kind, value, seen) with doubles within and across them, and bad rows."""
    rng = random.Random(seed)
    return [
        [
            (
                rng.choice([None, *range(6)]),
                rng.choice("ab"),
                rng.choice(["1", "2", "-1", "x"]),
                rng.randrange(3),
            )
            for _ in range(rng.randrange(1, 8))
        ]
        for _ in range(rng.randrange(2, 6))
    ]


def is_good(row):
    return row[0] is not None and row[2] in ("1", "2")


def contents(lake):
    """All rows of the table and of the quarantine, without what tells one build from another."""
    rows = lake.rows("SELECT id, kind, value::VARCHAR, seen::VARCHAR, _batch FROM silver.events ORDER BY ALL")
    refused = [(reasons, json.loads(row), batch) for reasons, row, batch in lake.quarantined()]
    for _, row, _ in refused:
        del row["_ingested_at"]
    return rows, sorted(refused, key=repr)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "key"), [(1, "id"), (2, "id"), (3, None)])
def test_rows_do_not_depend_on_how_batches_are_grouped(tmp_path, monkeypatch, seed, key):
    batches_ = random_batches(seed)
    given = {"key": key, "order": "seen DESC"} if key else {}
    found = []
    for way in ("each", "at once", "by three", "full"):
        (tmp_path / way).mkdir()
        lake = Lake(tmp_path / way)
        lake.declare(**given)
        monkeypatch.setattr(takes, "ROWS_IN_COMMIT", 3 if way == "by three" else 1000)
        outcomes = []
        for rows in batches_:
            lake.land(events(*rows))
            if way == "each":
                outcomes.append(lake.build())
        outcomes.append(lake.build())
        total = sum((o.counts for o in outcomes), Counts())
        rows, refused = contents(lake)
        assert total.rows_in == sum(map(len, batches_))
        assert (total.rows_out, total.rows_quarantined) == (len(rows), len(refused))
        if way == "full":
            lake.build(Request(full=True))
            assert contents(lake) == (rows, refused)
        found.append((rows, refused))
        lake.close()
    assert all(each == found[0] for each in found)
    good = [row for rows in batches_ for row in rows if is_good(row)]
    assert len(found[0][1]) == sum(map(len, batches_)) - len(good)
    if key is None:
        assert len(found[0][0]) == len(good)
        return
    assert [row[0] for row in found[0][0]] == sorted({row[0] for row in good})
    latest = {i: max(row[3] for row in good if row[0] == i) for i in {row[0] for row in good}}
    assert [f"2026-01-01 {latest[row[0]]:02}:00:00" for row in found[0][0]] == [r[3] for r in found[0][0]]


def copied(folder, to, key):
    """A lake like the one in a folder."""
    shutil.copytree(folder, to)
    lake = Lake(to)
    lake.declare(key=key)
    return lake


class CutOffError(BaseException):
    """The process was killed here."""


def cut_off_after(monkeypatch, number):
    """Kill the build when its nth write of a table has landed; returns the writes so far."""
    writes = []
    real = {name: getattr(delta, name) for name in ("append", "replace", "merge")}

    def dying(name):
        def write(table, *args, **more):
            real[name](table, *args, **more)
            writes.append(name)
            if len(writes) == number:
                raise CutOffError

        return write

    for name in real:
        monkeypatch.setattr(delta, name, dying(name))
    return writes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "request_"),
    [
        ("id", Request()),
        ("id", Request(full=True)),
        (None, Request()),
        (None, Request(until=datetime.max.replace(tzinfo=UTC))),
    ],
)
def test_a_build_that_was_cut_off_anywhere_and_run_again_gives_the_same_rows(
    tmp_path, monkeypatch, key, request_
):
    batches_ = [
        [(1, "a", "1", 0), (2, "b", "x", 0)],
        [(1, "a", "2", 1), (3, "b", "-1", 1)],
        [(1, "b", "1", 2), (4, "b", "1", 1), (None, "c", "1", 1)],
    ]
    monkeypatch.setattr(takes, "ROWS_IN_COMMIT", 2)
    before = tmp_path / "before"
    before.mkdir()
    lake = Lake(before)
    lake.declare(key=key)
    lake.land(events(*batches_[0]))
    if request_ != Request():
        lake.build()
    for rows in batches_[1:]:
        lake.land(events(*rows))
    lake.close()
    lake = copied(before, tmp_path / "undisturbed", key)
    lake.build(request_)
    expected = contents(lake)
    lake.close()
    for number in range(1, 20):
        lake = copied(before, tmp_path / str(number), key)
        with monkeypatch.context() as patch:
            writes = cut_off_after(patch, number)
            with suppress(CutOffError):
                lake.build(request_)
        lake.build(request_)
        assert contents(lake) == expected, (number, writes)
        lake.close()
        if len(writes) < number:
            break
    assert number > 2


def test_of_two_builds_at_the_same_moment_one_commits_and_the_other_sees_it(lake, monkeypatch):
    lake.land(events((1, "a", "1", 0), (2, "b", "x", 0)))
    lake.build()
    lake.land(events((3, "c", "1", 0), (4, "d", "x", 0)))
    other = Lake.beside(lake)
    other.open()
    first = silver._Silver(lake.step())
    second = silver._Silver(other.step())
    first.build()
    with pytest.raises(StorageError, match=r"silver.events.*: another (build|writer) committed"):
        second.build()
    assert other.build().commits == ()
    other.close()
    assert [r[0] for r in lake.rows()] == [1, 3]
    assert len(lake.quarantined()) == 2


@pytest.mark.parametrize("table", ["events", "events_quarantine"])
def test_who_commits_while_a_build_writes_makes_it_fail(lake, monkeypatch, table):
    """The other build lands between the reading and the writing of this one."""
    lake.declare(key="id")
    lake.land(events((1, "a", "1", 0), (2, "b", "x", 0)))
    lake.build()
    lake.land(events((1, "c", "2", 1), (4, "d", "x", 0)))
    other = Lake.beside(lake)
    real, seen = delta.properties, []

    def late(*args):
        seen.append(args)
        if len(seen) == (1 if table.endswith("quarantine") else 2):
            other.open()
            other.build()
            other.close()
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(delta, "properties", late)
        with pytest.raises(StorageError, match="another writer committed"):
            lake.build()
    lake.build()
    assert lake.rows("SELECT id, kind FROM silver.events") == [(1, "C")]
    assert [json.loads(row)["id"] for _, row, _ in lake.quarantined()] == [2, 4]


def test_a_quarantine_that_a_slow_build_wrote_over_is_made_again(lake, monkeypatch):
    """Two builds without a lease: one sets rows aside again after the other's product went on."""
    lake.land(events((1, "a", "1", 0)))
    lake.build()
    lake.land(events((2, "b", "x", 0)))
    fast, slow = Lake.beside(lake), Lake.beside(lake)
    fast.open()
    slow.open()
    real, reached, go_on = delta.properties, threading.Event(), threading.Event()
    writes = []

    def paused(commit, numbers):
        writes.append(threading.current_thread().name)
        if writes.count("fast") == 2 and writes[-1] == "fast":
            reached.set()
            assert go_on.wait(30)
        return real(commit, numbers)

    monkeypatch.setattr(delta, "properties", paused)
    thread = threading.Thread(target=fast.build, name="fast")
    thread.start()
    assert reached.wait(30)
    # The quarantine is ahead now. The slow one sees batch 2 only, and judges it before the fast one is done.
    late = silver._Silver(slow.step())
    lake.land(events((3, "c", "x", 0)))
    real_quarantine = late._quarantine

    def quarantine(*args):
        go_on.set()
        thread.join()
        return real_quarantine(*args)

    late._quarantine = quarantine
    with pytest.raises(StorageError, match="another writer committed"):
        late.build()
    outcome = lake.build()
    assert "was cut off" in outcome.notes[0]
    assert [r[0] for r in lake.rows()] == [1]
    assert [json.loads(row)["id"] for _, row, _ in lake.quarantined()] == [2, 3]
    fast.close()
    slow.close()


def test_a_build_that_is_cancelled_leaves_nothing_visible_and_no_files(lake):
    lake.land(events((1, "a", "1", 0), (2, "b", "x", 0)))
    cancelled = threading.Event()
    with pytest.raises(InterruptedQueryError):
        lake.build(report=lambda progress: cancelled.set(), cancelled=cancelled)
    assert not (lake.folder / "silver/events").exists()
    assert not list((lake.folder / "scratch").iterdir())
    assert lake.build().counts.rows_in == 2


def test_a_build_that_is_interrupted_while_rows_stream_was_cancelled(lake, monkeypatch):
    lake.land(events((1, "a", "1", 0)))
    cancelled, real = threading.Event(), delta.append

    def interrupted(table, rows, said, **more):
        def batches(rows):
            yield rows.read_next_batch()
            cancelled.set()
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")

        if table.name == "silver.events":
            rows = pyarrow.RecordBatchReader.from_batches(rows.schema, batches(rows))
        real(table, rows, said, **more)

    monkeypatch.setattr(delta, "append", interrupted)
    with pytest.raises(InterruptedQueryError):
        lake.build(cancelled=cancelled)
    monkeypatch.undo()
    assert lake.build().counts.rows_out == 1
    assert len(lake.rows()) == 1


def test_a_table_that_cannot_be_written_is_said_with_the_products_name(lake):
    (lake.folder / "silver").write_text("no folder")
    lake.land(events((1, "a", "1", 0)))
    with pytest.raises(StorageError, match=r"silver\.events"):
        lake.build()
    assert not list((lake.folder / "scratch").iterdir())


# --- in the clouds --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
def test_silver_in_the_clouds(tmp_path, cloud, request):
    store = request.getfixturevalue(cloud)
    store.create_bucket("silver-tests")
    lake = Lake(tmp_path, store)
    lake.declare(key="id", order="seen DESC")
    lake.land(events((1, "a", "1", 0), (2, "b", "x", 0)))
    lake.build()
    lake.land(events((1, "c", "2", 1), (3, "d", "1", 0)))
    outcome = lake.build()
    assert (outcome.counts.rows_updated, outcome.counts.rows_out) == (1, 1)
    assert lake.rows("SELECT id, kind FROM silver.events ORDER BY id") == [(1, "C"), (3, "D")]
    assert [c.watermark for c in silver.commits(lake.step())] == ["2", "1"]
    lake.build(Request(full=True))
    assert lake.rows("SELECT id, kind FROM silver.events ORDER BY id") == [(1, "C"), (3, "D")]
    assert len(lake.quarantined()) == 1
    lake.close()
