"""Tables out of changes: their rows are the source's, however the changes come, and whatever fails meanwhile."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow
import pytest
from clouds.batches import add_batch
from clouds.changes import ENVELOPE, LOG, TABLE, Lake, Model, change, shape
from deltalake import write_deltalake

import meshql
from meshql.build import delta, run, takes
from meshql.build.cdc import table
from meshql.errors import MeshError, QueryError, StorageError, UsageError


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    yield lake
    lake.close()


def as_rows(state):
    """Rows of a model as a table has them."""
    return sorted(
        (
            (int(r["id"]), r["name"], r["big"], None if r["n"] is None else Decimal(r["n"]))
            for r in state.values()
        ),
        key=str,
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_rows_are_the_sources_however_batches_are_taken(lake, seed, monkeypatch):
    monkeypatch.setattr(takes, "ROWS_IN_COMMIT", (1, 20, 1_000_000)[seed % 3])
    model = Model(seed)
    for wave in range(8):
        for _ in range(model.chance.randrange(1, 4)):
            rows = model.batch(model.chance.randrange(1, 12))
            lake.land(rows, *[model.shape] * (not lake_has(lake)))
        lake.build(full=wave == 5)
        got = sorted(lake.rows(f"SELECT id, name, big, n FROM {TABLE}"), key=str)
        assert got == as_rows(model.rows), wave
    assert lake.build().status == "unchanged"


def lake_has(lake):
    from meshql.formats import batches

    return batches.state(*lake.mesh.store(lake.mesh.find(LOG))).batches


@pytest.mark.parametrize("seed", range(6))
def test_the_history_tells_the_rows_as_of_each_commit(lake, seed, monkeypatch):
    monkeypatch.setattr(takes, "ROWS_IN_COMMIT", (1, 20, 1_000_000)[seed % 3])
    lake.declare(history=True)
    model = Model(seed)
    commits = {}
    for wave in range(6):
        for _ in range(model.chance.randrange(1, 4)):
            rows = model.batch(model.chance.randrange(1, 10))
            commits |= {row["lsn"]: row["committed_at"] for row in rows}
            lake.land(rows, *[model.shape] * (not lake_has(lake)))
        lake.build(full=wave == 4 and seed % 2 == 1)
        assert current(lake) == as_rows(model.rows), wave
    before = lake.rows()
    assert versions_overlap(lake) == []
    moment = None
    for lsn, at in commits.items():
        # A clock that is set back counts on from the last commit.
        moment = at if moment is None else max(at, moment + timedelta(microseconds=1))
        assert current(lake, f"TIMESTAMPTZ '{moment.isoformat()}'") == as_rows(model.states[lsn]), lsn
    lake.build(full=True)
    assert lake.rows() == before


def current(lake, moment=None):
    """The rows that are valid now, or at a moment."""
    when = (
        f"valid_from <= {moment} AND (valid_to IS NULL OR valid_to > {moment})"
        if moment
        else "valid_to IS NULL"
    )
    return sorted(lake.rows(f"SELECT id, name, big, n FROM {TABLE} WHERE {when}"), key=str)


def versions_overlap(lake):
    following = "lead(valid_from) OVER (PARTITION BY id ORDER BY valid_from) AS following"
    return lake.rows(
        f"SELECT * FROM (SELECT id, valid_from, valid_to, {following} FROM {TABLE}) WHERE valid_from >= valid_to"
        " OR following < valid_to OR (valid_to IS NULL AND following IS NOT NULL)"
    )


# --- re-reads, counts, what cannot be -------------------------------------------------------------


def row(lsn, op, seq=1, **values):
    """A change of public.t; for a delete, the values are the key's."""
    texts = {name: None if value is None else str(value) for name, value in values.items()}
    return change(op, lsn, seq, **{"before" if op == "d" else "after": texts or None})


ID_NAME = shape(id="integer", name="text")


def test_counts_sum_up_and_say_what_became_of_the_changes(lake):
    lake.land([row(1, "s"), row(1, "r", 2, id=1, name="a"), row(1, "r", 3, id=2, name="b")], ID_NAME)
    lake.land(
        [row(2, "u", id=1, name="c"), row(2, "c", 2, id=3, name="d"), row(3, "d", id=2), row(4, "d", id=9)]
    )
    lake.build(full=True)
    assert lake.rows() == [(1, "c"), (3, "d")]
    lake.land(
        [
            row(5, "u", id=1, name="e"),
            row(6, "u", id=1, name="f"),
            row(7, "c", id=4, name="g"),
            row(8, "d", id=3),
        ]
    )
    (commit,) = lake.build().commits
    counts = commit.counts
    assert (counts.rows_in, counts.rows_out, counts.rows_updated, counts.rows_duplicate) == (4, 1, 1, 3)
    assert (commit.watermark, commit.inputs) == ("0/8", {LOG: "3"})
    assert lake.rows() == [(1, "f"), (4, "g")]


def test_rows_that_are_read_anew_and_are_equal_keep_their_version(lake):
    lake.declare(history=True)
    lake.land([row(1, "s")] + [row(1, "r", i + 2, id=i, name=f"n{i}") for i in range(4)], ID_NAME)
    lake.build()
    lake.land(
        [
            row(9, "s"),
            row(9, "r", 2, id=0, name="n0"),
            row(9, "r", 3, id=1, name=None),
            row(9, "r", 4, id=2, name="n2"),
        ]
    )
    lake.build()
    count = f"SELECT id, count(*), count(valid_to) FROM {TABLE} GROUP BY id ORDER BY id"
    assert lake.rows(count) == [(0, 1, 0), (1, 2, 1), (2, 1, 0), (3, 1, 1)]


def test_batches_without_changes_of_the_table_make_no_commits(lake):
    lake.land([row(1, "c", id=1, name="a")], ID_NAME)
    lake.build()
    for lsn in range(2, 5):
        lake.land([change("c", lsn, 1, after={"id": "7"}, table="public.other")])
    assert table.pending(lake.step()).words == ""
    assert lake.build().status == "unchanged"
    lake.land([row(9, "c", id=2, name="b")])
    assert table.pending(lake.step()).words == f"1 changes of 4 batches of {LOG}"
    assert len(lake.build().commits) == 1
    assert lake.rows() == [(1, "a"), (2, "b")]


def test_many_batches_without_changes_are_noted_once(lake, monkeypatch):
    monkeypatch.setattr(table, "IDLE_BATCHES", 3)
    lake.land([row(1, "c", id=1, name="a")], ID_NAME)
    lake.build()
    for lsn in range(2, 6):
        lake.land([change("c", lsn, 1, after={"id": "7"}, table="public.other")])
    assert [c.counts.rows_in for c in lake.build().commits] == [0]
    assert lake.build().status == "unchanged"


def test_a_log_that_was_made_anew_makes_all_rows_anew(lake):
    lake.land([row(1, "c", id=1, name="a")], ID_NAME)
    lake.build()
    lake.land([row(1, "s"), row(1, "r", 2, id=5, name="z")], ID_NAME, replaces=True)
    outcome = lake.build()
    assert outcome.notes == (f"all rows are made again: {LOG} was replaced",)
    assert lake.rows() == [(5, "z")]


def test_what_a_change_does_not_tell_is_as_before_or_refused(lake):
    big = shape(id="integer", name="text", big="text")
    lake.land([row(1, "c", id=1, name="a", big="B")], big)
    lake.build()
    lake.land([change("u", 2, 1, after={"id": "1", "name": None}, unchanged=["big"])])
    lake.build()
    assert lake.rows() == [(1, None, "B")]
    lake.land([change("u", 3, 1, after={"id": "7", "name": "x"}, unchanged=["big"])])
    with pytest.raises(QueryError, match=r"an update of the row id=7 does not tell big") as refused:
        lake.build()
    assert "--full" in refused.value.hint
    assert lake.rows() == [(1, None, "B")]


def test_table_without_a_key_takes_inserts_and_refuses_the_rest(lake):
    lake.land(
        [row(1, "c", id=1, name="a"), row(2, "c", id=1, name="a")], shape(key=(), id="integer", name="text")
    )
    lake.build()
    lake.land([row(3, "c", id=2, name="b")])
    lake.build()
    assert lake.rows() == [(1, "a"), (1, "a"), (2, "b")]
    lake.land([row(4, "t"), row(5, "c", id=3, name="c")])
    lake.build()
    assert lake.rows() == [(3, "c")]
    lake.land([row(6, "d", id=3)])
    with pytest.raises(UsageError, match="a delete came for a table that has no key") as refused:
        lake.build()
    assert refused.value.hint.startswith("ALTER TABLE public.t ADD PRIMARY KEY")
    lake.declare(history=True)
    with pytest.raises(UsageError, match="no key, which `history` takes"):
        lake.build(full=True)


@pytest.mark.parametrize(
    ("build", "shape_", "words"),
    [
        ({"types": {"nme": "VARCHAR"}}, ID_NAME, "types names the column nme, which public.t does not have"),
        ({"types": {"name": "STUFF"}}, ID_NAME, "STUFF is no type"),
        ({"types": {"name": "TIME"}}, ID_NAME, "no TIME is made of text"),
        ({"table": "public.u"}, ID_NAME, "`raw.shop` does not follow a table `public.u`"),
        ({"history": True}, shape(id="integer", Valid_From="text"), "a column Valid_From"),
        ({}, shape(id="integer", Id="text"), "does not tell the columns id and Id apart"),
        ({}, shape(id="integer", __op="text"), "no column can be called __op"),
        ({"partitions": ["day"]}, ID_NAME, "partitions names the column day"),
        ({"from": "shop.other"}, ID_NAME, "product `shop.other` is no log of a database"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(lake, build, shape_, words):
    def declared_and_built():
        lake.declare(**build)
        lake.land([row(1, "c", **dict.fromkeys(shape_.names, "1"))], shape_)
        lake.build()

    with pytest.raises(UsageError, match=words) as refused:
        declared_and_built()
    assert refused.value.hint or "hint:" in str(refused.value)


def test_interval_foreign_table_and_changed_definition_are_refused(lake):
    lake.land([row(1, "c", id=1, name="1")], ID_NAME)
    with pytest.raises(UsageError, match="an interval cannot be built again"):
        lake.build(since=datetime(2026, 1, 1, tzinfo=UTC))
    write_deltalake(str(lake.folder / "lake/t"), pyarrow.table({"id": [1]}))
    with pytest.raises(UsageError, match="that meshql did not build"):
        lake.build()
    shutil.rmtree(lake.folder / "lake/t")
    lake.declare()
    lake.build()
    lake.declare(types={"name": "INTEGER"})
    with pytest.raises(UsageError, match="its definition has changed") as refused:
        lake.build()
    assert refused.value.hint == f"meshql build {TABLE} --full"
    lake.build(full=True)
    assert lake.rows() == [(1, 1)]


# --- values ---------------------------------------------------------------------------------------

VALUES = [
    ("boolean", "t", True),
    ("smallint", "-7", -7),
    ("bigint", "9223372036854775807", 2**63 - 1),
    ("numeric(38,10)", "9999999999999999999999999999.9999999999", Decimal("9" * 28 + "." + "9" * 10)),
    ("numeric", "NaN", "NaN"),
    ("real", "1.5", 1.5),
    ("double precision", "-Infinity", float("-inf")),
    ("text", "", ""),
    ("jsonb", '{"a": null}', '{"a": null}'),
    ("uuid", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000001"),
    ("bytea", "\\x00ff", b"\x00\xff"),
    ("bytea", "\\x", b""),
    ("date", "0001-01-01", date(1, 1, 1)),
    ("timestamp(3) without time zone", "9999-12-31 23:59:59.999", datetime(9999, 12, 31, 23, 59, 59, 999000)),
    ("timestamp with time zone", "2026-01-01 00:00:00.000001+00", datetime(2026, 1, 1, 0, 0, 0, 1, UTC)),
    ("time without time zone", "24:00:00", "24:00:00"),
    ("interval", "1 mon -1 days", "1 mon -1 days"),
    ("integer[]", '["1",null]', [1, None]),
    ("integer[]", "[]", []),
    ("text[]", '["NULL",null,"a,\\"b","[x]"]', ["NULL", None, 'a,"b', "[x]"]),
    ("bytea[]", '["\\\\x00"]', [b"\x00"]),
    ("date[]", '["2026-01-01"]', [date(2026, 1, 1)]),
]


def test_values_are_those_of_the_source(lake):
    types = {f"c{i}": type_ for i, (type_, _, _) in enumerate(VALUES)}
    said = {f"c{i}": text for i, (_, text, _) in enumerate(VALUES)}
    lake.land(
        [row(1, "c", id=1, **said), row(1, "c", 2, id=2, **dict.fromkeys(said))], shape(id="integer", **types)
    )
    lake.build()
    # Once more, through a merge.
    lake.land([row(2, "u", id=2, **said)])
    lake.build()
    wanted = [value for _, _, value in VALUES]
    columns = ", ".join(types)
    assert [list(r) for r in lake.rows(f"SELECT {columns} FROM {TABLE}")] == [wanted, wanted]


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("numeric(10,2)", "NaN"),
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("date", "10000-01-01"),
        ("timestamp with time zone", "-infinity"),
        ("timestamp without time zone", "0044-03-15 00:00:00 BC"),
        ("integer[]", '[["1","2"],["3","4"]]'),
        ("date[]", '["infinity"]'),
    ],
)
def test_values_that_no_table_holds_are_refused_and_can_be_had_as_text(lake, type_, text):
    lake.land([row(1, "c", id=4, v=text)], shape(id="integer", v=type_))
    with pytest.raises(QueryError, match=rf"shop.t: v of the row id=4 is .*{re.escape(text[:5])}") as refused:
        lake.build()
    assert "types: {v: VARCHAR}" in refused.value.hint
    lake.declare(types={"v": "VARCHAR"})
    lake.build(full=True)
    assert lake.rows() == [(4, text)]


@pytest.mark.parametrize(
    ("asked", "text", "wanted"),
    [
        ("DECIMAL(10,2)", "1.500", Decimal("1.50")),
        ("DECIMAL(10,2)", "1.505", None),
        ("INTEGER", "1.5", None),
        ("DOUBLE", "1" + "0" * 400, None),
        ("BIGINT", "12", 12),
        ("UUID", "nobody", None),
    ],
)
def test_asked_types_hold_all_of_the_value_or_refuse_it(lake, asked, text, wanted):
    lake.declare(types={"v": asked})
    lake.land([row(1, "c", id=4, v=text)], shape(id="integer", v="numeric"))
    if wanted is None:
        with pytest.raises(QueryError, match="v of the row id=4 is"):
            lake.build()
    else:
        lake.build()
        assert lake.rows() == [(4, wanted)]


@pytest.mark.parametrize(
    "type_",
    [
        "text",
        "uuid",
        "bytea",
        "numeric(12,3)",
        "date",
        "timestamp with time zone",
        "integer[]",
        "double precision",
    ],
)
def test_keys_may_be_of_any_type(lake, type_):
    texts = {
        "text": ("a", "A", "a "),
        "uuid": (
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000002",
            "00000000-0000-0000-0000-000000000003",
        ),
        "bytea": ("\\x", "\\x00", "\\xff"),
        "numeric(12,3)": ("1.000", "-1.000", "0.001"),
        "date": ("2026-01-01", "2026-01-02", "2026-01-03"),
        "timestamp with time zone": (
            "2026-01-01 00:00:00+00",
            "2026-01-01 00:00:00.000001+00",
            "2026-01-01 00:00:00.000002+00",
        ),
        "integer[]": ('["1"]', '["1","2"]', "[]"),
        "double precision": ("0.1", "NaN", "-0"),
    }[type_]
    for history in (False, True):
        lake.declare(history=history)
        keyed = shape(key=("k", "Part No"), k=type_, **{"Part No": "integer"}, v="text")
        lake.land(
            [row(i, "c", k=text, v="old", **{"Part No": 1}) for i, text in enumerate(texts)],
            keyed,
            replaces=history,
        )
        lake.build(full=history)
        lake.land(
            [row(9, "u", k=texts[0], v="new", **{"Part No": 1}), row(9, "d", 2, k=texts[1], **{"Part No": 1})]
        )
        lake.build()
        valid = "WHERE valid_to IS NULL" if history else ""
        assert lake.rows(f"SELECT v FROM {TABLE} {valid} ORDER BY v") == [("new",), ("old",)]


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_columns_come_go_and_are_renamed(lake, history, together):
    lake.declare(history=history)
    valid = "WHERE valid_to IS NULL" if history else ""
    steps = [
        ([row(1, "c", id=1, a="x", b="y"), row(1, "c", 2, id=2, a="p", b="q")], shape(id="integer", a="text", b="text"), "id, a, b", [(1, "x", "y"), (2, "p", "q")]),
        ([row(2, "u", id=1, a="x2", b="y2", c=5)], shape(id="integer", a="text", b="text", c="integer"), "id, a, b, c", [(1, "x2", "y2", 5), (2, "p", "q", None)]),
        ([row(3, "c", id=3, bb="z", c=7)], shape(id="integer", bb=(3, "text"), c=(4, "integer")), "id, bb, c", [(1, "y2", 5), (2, "q", None), (3, "z", 7)]),
        ([row(4, "c", id=4, bb="z", c="t")], shape(id="integer", bb=(3, "text"), c=(5, "text")), "id, bb, c", [(1, "y2", None), (2, "q", None), (3, "z", None), (4, "z", "t")]),
        ([change("u", 5, 1, after={"id": "2", "c": "u", "seen": "2026-01-01 00:00:00"}, unchanged=["bb"])],
         shape(id="integer", bb=(3, "text"), c=(5, "text"), seen=(6, "timestamp without time zone")), "id, bb, c, seen",
         [(1, "y2", None, None), (2, "q", "u", datetime(2026, 1, 1)), (3, "z", None, None), (4, "z", "t", None)]),
    ]  # fmt: skip
    said = []
    for rows, shape_, columns, wanted in steps:
        lake.land(rows, shape_)
        if not together:
            (commit,) = lake.build().commits
            said.append(commit.changes)
            assert lake.rows(f"SELECT {columns} FROM {TABLE} {valid} ORDER BY id") == wanted
    lake.build(full=together)
    assert lake.rows(f"SELECT {columns} FROM {TABLE} {valid} ORDER BY id") == wanted
    if not together:
        assert said == [
            (),
            ("c is new: INTEGER",),
            ("b is called bb now", "a is gone"),
            ("c is new: VARCHAR", "c is gone"),
            ("seen is new: TIMESTAMP",),
        ]
    if history:
        assert lake.rows(f"SELECT count(*), count(valid_to) FROM {TABLE}") == [(6, 2)]


def test_columns_change_where_batches_in_between_have_no_rows(lake, monkeypatch):
    monkeypatch.setattr(takes, "ROWS_IN_COMMIT", 1)
    lake.land([row(1, "c", id=1, a="x", b="y")], shape(id="integer", a="text", b="text"))
    lake.build()
    lake.land(
        [change("c", 2, 1, after={"id": "7"}, table="public.other")], shape(id="integer", b=(3, "text"))
    )
    lake.land([row(3, "c", id=2, b="z")])
    (commit,) = lake.build().commits
    assert commit.changes == ("a is gone",)
    assert lake.rows() == [(1, "y"), (2, "z")]


def test_another_key_and_other_types(lake):
    lake.land([row(1, "c", id=1, n="7"), row(1, "c", 2, id=2, n="8")], shape(id="integer", n="text"))
    lake.land([row(2, "u", id=5, n="7")], shape(key=("n",), id="integer", n="text"))
    assert len(lake.build().commits) == 2
    assert lake.rows() == [(2, "8"), (5, "7")]
    lake.land([row(3, "u", id=5, n=7)], shape(key=("n",), id="integer", n="integer"))
    with pytest.raises(
        QueryError, match=r"n: text becomes integer, and raw\.shop does not hold the rows anew"
    ):
        lake.build()
    lake.land([row(4, "s"), row(4, "r", 2, id=5, n="7")])
    lake.build()
    assert lake.rows() == [(5, 7)]


def test_history_outlives_another_type(lake):
    lake.declare(history=True)
    lake.land([row(1, "c", id=1, n="7")], shape(id="integer", n="text"))
    lake.build()
    lake.land([row(4, "s"), row(4, "r", 2, id=1, n="8")], shape(id="integer", n="integer"))
    lake.build()
    assert lake.rows(f"SELECT n, valid_to IS NULL FROM {TABLE} ORDER BY valid_from") == [
        (7, False),
        (8, True),
    ]


# --- other builds, kills --------------------------------------------------------------------------


def test_of_two_builds_at_once_one_fails_and_nothing_doubles(lake, monkeypatch):
    lake.land([row(1, "c", id=1, name="a")], ID_NAME)
    lake.build()
    lake.land([row(2, "u", id=1, name="b"), row(2, "c", 2, id=2, name="c")])
    other, merge = Lake.__new__(Lake), delta.merge
    other.folder, other.mesh = lake.folder, None
    with meshql.connect(lake.folder / "c.yaml") as other.mesh:

        def late(*args, **kwargs):
            monkeypatch.setattr(delta, "merge", merge)
            other.build()
            return merge(*args, **kwargs)

        monkeypatch.setattr(delta, "merge", late)
        with pytest.raises(StorageError, match="another writer committed at the same moment") as refused:
            lake.build()
        assert refused.value.hint == "run it again"
    assert lake.build().status == "unchanged"
    assert lake.rows() == [(1, "b"), (2, "c")]


def test_killed_builds_leave_nothing_that_the_next_does_not_put_right(tmp_path):
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "faults.table_kills", tmp_path / "lakes", "6"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for figures in json.loads(done.stdout):
        assert figures["deciding"] >= 3
        assert (figures["killed"], figures["torn"], figures["wrong"]) == (6, 0, 0)


# --- changes out of other products ----------------------------------------------------------------

DEBEZIUM = {
    "select": {"id": "coalesce(after.id, before.id)", "status": "after.status", "big": "after.big"},
    "key": "id",
    "order": ["source.lsn"],
    "operation": "op",
    "at": "make_timestamp(ts_ms * 1000)",
}


def envelope(op, lsn, id=None, status=None, big=None, ts=None):  # noqa: A002
    """A change as Debezium writes it."""
    row = None if id is None else {"id": id, "status": status, "big": big}
    side = {"before": row} if op == "d" else {"after": row}
    return {
        "op": op,
        "source": {"lsn": lsn},
        "ts_ms": 1_760_000_000_000 + ((lsn or 0) if ts is None else ts),
        **side,
    }


def test_debezium_topic_becomes_its_table(lake):
    lake.tell(**DEBEZIUM)
    lake.topic(envelope("r", 1, 1, "new", "B1"), envelope("c", 2, 2, "new", "B2"), envelope("c", 3, 3, "new"))
    lake.build()
    lake.topic(
        envelope("u", 5, 1, "paid", "__debezium_unavailable_value"), envelope("d", 6, 2), envelope("u", 7, 3)
    )
    (commit,) = lake.build().commits
    assert commit.watermark == '["7"]'
    assert lake.rows() == [(1, "paid", "B1"), (3, None, None)]
    lake.topic(envelope("t", 8), envelope("c", 9, 4, "__debezium_unavailable_value"))
    lake.build()
    assert lake.rows() == [(4, "__debezium_unavailable_value", None)]
    assert lake.build().status == "unchanged"


def told(chance, keys=6, number=60, untold=0.3):
    """Changes in their order, and the rows after them."""
    rows, found = {}, []
    for lsn in range(1, number):
        key = chance.randrange(keys)
        if chance.random() < 0.03:
            rows.clear()
            found.append(envelope("t", lsn))
        elif key in rows and chance.random() < 0.3:
            del rows[key]
            found.append(envelope("d", lsn, key))
        else:
            value = (f"s{lsn}", chance.choice([None, f"b{lsn}"]))
            if key in rows and chance.random() < untold:
                value = (f"s{lsn}", rows[key][1])
                found.append(envelope("u", lsn, key, value[0], "__debezium_unavailable_value", ts=lsn // 4))
            else:
                found.append(envelope("u" if key in rows else "c", lsn, key, *value, ts=lsn // 4))
            rows[key] = value
    return found, sorted((k, *v) for k, v in rows.items())


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_changes_that_come_late_or_twice_do_not_win(lake, seed, history):
    chance = random.Random(seed)
    changes, wanted = told(chance, untold=0)
    # Each may come some places too late, and some come twice.
    arrived = sorted(changes, key=lambda c: c["source"]["lsn"] + chance.choice([0, 0, 0, 5, 12]))
    arrived += chance.sample(changes, 5)
    lake.tell(**DEBEZIUM, history=history)
    rebuilt, left = 0, arrived
    while left:
        size = chance.randrange(1, 9)
        lake.topic(*left[:size])
        left = left[size:]
        rebuilt += any("came after later ones" in note for note in lake.build().notes)
    assert rebuilt
    valid = "WHERE valid_to IS NULL" if history else ""
    assert lake.rows(f"SELECT id, status, big FROM {TABLE} {valid} ORDER BY id") == wanted
    if history:
        assert versions_overlap(lake) == []
    before = lake.rows()
    lake.build(full=True)
    assert lake.rows() == before


def test_history_of_a_topic_is_the_same_bit_by_bit_and_at_once(lake):
    changes, wanted = told(random.Random(9))
    lake.tell(**DEBEZIUM, history=True)
    for first in range(0, len(changes), 7):
        lake.topic(*changes[first : first + 7])
        assert not lake.build().notes
    before = lake.rows()
    assert lake.rows(f"SELECT id, status, big FROM {TABLE} WHERE valid_to IS NULL ORDER BY id") == wanted
    assert versions_overlap(lake) == []
    lake.build(full=True)
    assert lake.rows() == before


@pytest.mark.parametrize(
    ("changes", "build", "words"),
    [
        ([envelope("x", 1, 1)], {}, "operation `op` is x in raw.shop"),
        ([envelope(None, 1, 1)], {}, "operation `op` is NULL in raw.shop"),
        ([envelope("c", None, 1)], {}, "a change has no order"),
        ([envelope("c", 1)], {}, "a change has no id, which is part of the key"),
        ([envelope("c", 1, 1, "a"), envelope("u", 1, 1, "b")], {}, "two different changes of the row id=1 have the order 1"),
        ([envelope("c", 1, 1, "a"), envelope("t", 1)], {}, "a truncate has the order of another change"),
        ([envelope("c", 1, 1, "a")], {"types": {"status": "DATE"}}, "status of the row id=1 is 'a', which is no DATE"),
        ([envelope("c", 1, 1)], {"select": {"id": "nothing"}}, "select.id: .*nothing"),
        ([envelope("c", 1, 1)], {"key": "ident"}, "key names the column ident, which is not there"),
        ([envelope("c", 1, 1)], {"order": ["source.lsn DESC"]}, "order: "),
        ([envelope("c", 1, 1) | {"ts_ms": None}], {"history": True}, "a change has no time"),
        ([envelope("u", 1, 1, "__debezium_unavailable_value")], {}, "an update of the row id=1 does not tell status"),
    ],
)  # fmt: skip
def test_changes_that_cannot_be_understood_are_refused(lake, changes, build, words):
    lake.tell(**DEBEZIUM | build)
    lake.topic(*changes)
    with pytest.raises(MeshError, match=words) as refused:
        lake.build()
    assert refused.value.hint


def test_changes_of_the_same_order_in_a_later_batch_win(lake):
    lake.tell(**DEBEZIUM)
    lake.topic(envelope("c", 1, 1, "a"), envelope("c", 1, 1, "a"))
    lake.build()
    lake.topic(envelope("u", 1, 1, "b"))
    assert not lake.build().notes
    assert lake.rows() == [(1, "b", None)]
    lake.build(full=True)
    assert lake.rows() == [(1, "b", None)]


def test_audit_table_without_select_gives_the_columns_of_its_rows(lake):
    audit = lake.folder / "audit.parquet"
    product = {"name": "raw.audit", "location": str(audit), "format": "parquet"}
    lake.say(
        {"from": "raw.audit", "operation": "action", "order": ["audit_id"], "key": "id"},
        {"from": "db", "tables": ["public.t"]},
        others=[product],
    )

    def write(sql):
        duckdb.sql(f"COPY (SELECT * FROM (VALUES {sql}) AS v(audit_id, action, id, price)) TO '{audit}'")

    write("(1, 'INSERT', 1, 1.50), (2, 'insert', 2, 2.50), (3, 'Update', 1, NULL)")
    lake.build()
    assert lake.rows() == [(1, None), (2, Decimal("2.50"))]
    assert lake.build().status == "unchanged"
    assert table.pending(lake.step()).words == ""
    write("(1, 'INSERT', 1, 1.50), (2, 'insert', 2, 2.50), (3, 'Update', 1, NULL), (4, 'DELETE', 2, 2.50)")
    assert table.pending(lake.step()).words == "4 changes of raw.audit"
    lake.build()
    assert lake.rows() == [(1, None)]


def test_new_columns_and_wider_types_of_a_topic_come_through(lake):
    lake.tell(operation="op", order=["n"], key="id")
    add_batch(lake.mesh, LOG, "SELECT 'c' AS op, 1 AS n, 1 AS id, 5::INTEGER AS v")
    lake.build()
    add_batch(
        lake.mesh, LOG, "SELECT 'c' AS op, 2 AS n, 2 AS id, 6::INTEGER AS v, TIMESTAMP '2026-01-01' AS w"
    )
    (commit,) = lake.build().commits
    assert commit.changes == ("w is new: TIMESTAMP",)
    add_batch(
        lake.mesh, LOG, "SELECT 'u' AS op, 3 AS n, 1 AS id, 5000000000::BIGINT AS v, NULL::TIMESTAMP AS w"
    )
    outcome = lake.build()
    assert outcome.notes == ("all rows are made again: v: INTEGER becomes BIGINT",)
    assert lake.rows() == [(1, 5_000_000_000, None), (2, 6, datetime(2026, 1, 1))]


def test_topic_of_files_is_followed_by_the_runner(lake):
    lake.tell(ENVELOPE | {"before": "VARCHAR"}, **DEBEZIUM)
    landing = lake.folder / "landing"
    landing.mkdir()
    changes = [envelope("c", 1, 1, "new", "B"), envelope("u", 2, 1, "paid", "__debezium_unavailable_value")]
    (landing / "0.json").write_text(json.dumps({"before": None} | changes[0]))
    (error,) = run.build(lake.mesh).errors
    assert "Cannot extract field 'id'" in error.message
    assert error.hint == f"give its type in the source of {LOG}: options: {{columns: {{...}}}}"
    shutil.rmtree(lake.folder / "lake")
    lake.tell(**DEBEZIUM, history=True)
    for number, one in enumerate(changes):
        (landing / f"{number}.json").write_text(json.dumps({"before": None, "after": None} | one))
        done = run.build(lake.mesh)
        assert not done.errors
        assert {t.status for t in done.turns.values()} == {"built"}
    versions = f"SELECT id, status, big, valid_to IS NULL FROM {TABLE} ORDER BY valid_from"
    assert lake.rows(versions) == [(1, "new", "B", False), (1, "paid", "B", True)]
    said = (
        "SELECT kind, status, rows_in, rows_out FROM meshql.runs WHERE product = 'shop.t' ORDER BY started_at"
    )
    assert lake.rows(said) == [("cdc", "built", 1, 1), ("cdc", "built", 1, 1)]
    assert set(run.plan(lake.mesh).values()) == {""}


@pytest.mark.parametrize("history", [False, True])
def test_rows_move_between_partitions(lake, history):
    lake.declare(partitions=["name"], history=history)
    lake.land([row(1, "c", id=1, name="a"), row(1, "c", 2, id=2, name="b")], ID_NAME)
    lake.build()
    lake.land([row(2, "u", id=1, name="b"), row(2, "d", 2, id=2)])
    lake.build()
    valid = "WHERE valid_to IS NULL" if history else ""
    assert lake.rows(f"SELECT id, name FROM {TABLE} {valid}") == [(1, "b")]
    lake.declare(history=history)
    lake.land([row(3, "u", id=1, name="c")])
    with pytest.raises(UsageError, match="partitioned by name, not by nothing"):
        lake.build()


@pytest.mark.parametrize("history", [False, True])
def test_key_that_an_update_does_not_repeat(lake, history):
    lake.declare(history=history)
    keyed = shape(key=("k",), k="text", v="text")
    lake.land([row(1, "c", k="long", v="a")], keyed)
    lake.build()
    lake.land([change("u", 2, 1, before={"k": "long"}, after={"v": "b"}, unchanged=["k"])])
    lake.build()
    assert lake.rows(f"SELECT k, v FROM {TABLE} ORDER BY v DESC LIMIT 1") == [("long", "b")]


def test_log_without_rows_makes_an_empty_table(lake):
    assert lake.build().status == "unchanged"
    lake.land([], ID_NAME)
    assert len(lake.build().commits) == 1
    assert lake.rows() == []
    lake.land([row(1, "c", id=1, name="a")])
    lake.build()
    assert lake.rows() == [(1, "a")]
