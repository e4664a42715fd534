"""Bronze products: batches that become visible whole, read back by SQL."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
import yaml
from clouds.batches import NAME, Bronze, add_batch

import meshql
from meshql.build import bronze_log
from meshql.build.sources import files as files_source
from meshql.build.sources import portion
from meshql.errors import CatalogError, CorruptError, LocationError, QueryError, StorageError
from meshql.formats import batches

SOURCES = [{"kind": "files", "location": "landing/*.json"}]


@pytest.fixture
def catalog(tmp_path):
    said = {
        "meshql": 1,
        "products": [
            {
                "name": "bronze.events",
                "location": "lake/events/",
                "build": {"kind": "bronze", "sources": SOURCES},
            }
        ],
    }
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(said))
    return tmp_path


def test_a_batch_is_read_back(catalog):
    with meshql.connect(catalog) as mesh:
        with pytest.raises(LocationError, match=r"bronze\.events was not built yet"):
            mesh.sql("FROM bronze.events")
        add_batch(mesh, "bronze.events", "SELECT 1 AS id")
        assert mesh.sql("SELECT id, _batch FROM bronze.events").fetchall() == [(1, 1)]
        add_batch(mesh, "bronze.events", "SELECT 2.5 AS id, {'a': 1} AS more")
        rows = mesh.sql("SELECT id, more, _batch FROM bronze.events ORDER BY _batch").fetchall()
        assert [(float(i), m, b) for i, m, b in rows] == [(1.0, None, 1), (2.5, {"a": 1}, 2)]
        found = mesh.product("bronze.events")
        assert (found.version, found.rows, found.files) == ("2", 2, 2)


def test_batches_between_two_numbers(catalog):
    with meshql.connect(catalog) as mesh:
        for n in range(1, 5):
            add_batch(mesh, "bronze.events", f"SELECT {n} AS id", replaces=n == 2)
        product = mesh.find("bronze.events")
        store, location = mesh.store(product)
        state = batches.state(store, location)
        assert (state.number, state.since, state.rows) == (4, 2, 3)
        assert batches.state(store, location, upto=3).number == 3
        with mesh.reading([product]) as held:
            place = held.snapshots["bronze.events"].location

            def ids(*bounds):
                return [i for (i,) in held.ask(f"SELECT id FROM {batches.relation(state, place, *bounds)}")]

            assert ids() == [2, 3, 4]
            assert ids(2) == [3, 4]
            assert ids(2, 3) == [3]
            assert ids(4) == []


def test_a_checkpoint_stands_for_the_entries_before_it(catalog):
    with meshql.connect(catalog) as mesh:
        for n in range(1, 4):
            add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
        store, location = mesh.store(mesh.find("bronze.events"))
        before = batches.state(store, location)
        batches.checkpoint(store, location, batches.state(store, location, upto=2))
        folder = catalog / "lake" / "events" / "_batches"
        (folder / "000000001.json").unlink()
        (folder / "000000002.json").unlink()
        after = batches.state(store, location)
        assert [b.number for b in after.batches] == [b.number for b in before.batches]
        assert after.schema == before.schema
        assert mesh.sql("SELECT sum(id) FROM bronze.events").fetchall() == [(6,)]


def test_a_missing_entry_is_told(catalog):
    with meshql.connect(catalog) as mesh:
        for n in range(1, 4):
            add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
        (catalog / "lake" / "events" / "_batches" / "000000002.json").unlink()
        with pytest.raises(CorruptError, match="batch 2 is missing"):
            mesh.sql("FROM bronze.events")


# --- files ----------------------------------------------------------------------------------------


def landed(folder, name, *rows, age=0):
    """Write a file of the landing zone: JSON lines, or a text as it is."""
    path = folder / "landing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows)
    path.write_text(text)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def from_files(location="landing/", **more):
    return {"kind": "files", "location": location, **more}


def ids(product):
    return [i for (i,) in product.rows("SELECT id FROM bronze.events ORDER BY ALL")]


def test_each_file_is_taken_once(tmp_path):
    product = Bronze(tmp_path, from_files())
    path = landed(tmp_path, "a.json", {"id": 1}, {"id": 2})
    landed(tmp_path, "deep/b.csv", "id,name\n3,x\n")
    landed(tmp_path, "_ignored.json", {"id": 99})
    assert product.pending() == "2 new files, 32 B"
    out = product.build()
    assert (out.counts.rows_in, out.counts.rows_out, out.rows_total, out.version) == (3, 3, 3, "2")
    assert product.pending() == ""
    assert product.build().status == "unchanged"
    landed(tmp_path, "c.json", {"id": 4})
    assert product.build().counts.rows_out == 1
    assert ids(product) == [1, 2, 3, 4]
    rows = product.rows("SELECT _source, _batch, _ingested_at IS NOT NULL FROM bronze.events ORDER BY id")
    assert rows[0] == (str(path), 1, True)
    assert rows[2] == (str(tmp_path / "landing" / "deep" / "b.csv"), 2, True)
    assert [c.version for c in product.commits()] == ["3", "2", "1"]
    assert [c.counts.rows_out for c in product.commits()] == [1, 1, 2]
    days = {p.parent.name for p in (tmp_path / "lake").rglob("*.parquet")}
    assert days == {f"_ingested_on={datetime.now(UTC):%Y-%m-%d}"}


def test_parquet_keeps_its_types(tmp_path):
    product = Bronze(tmp_path, from_files("landing/**/*.parquet"))
    (tmp_path / "landing").mkdir()
    sql = "SELECT 1 AS id, DATE '2026-01-01' AS d, 1.50::DECIMAL(9,2) AS m, {'a': [1]} AS s"
    duckdb.sql(f"COPY ({sql}) TO '{tmp_path}/landing/x.parquet'")
    product.build()
    described = product.rows("SELECT column_name, column_type FROM (DESCRIBE bronze.events)")
    assert described[:4] == [
        ("id", "INTEGER"),
        ("d", "DATE"),
        ("m", "DECIMAL(9,2)"),
        ("s", "STRUCT(a INTEGER[])"),
    ]


def test_a_folder_that_moves_with_its_lake_is_the_same(tmp_path):
    (tmp_path / "one").mkdir()
    product = Bronze(tmp_path / "one", from_files())
    path = landed(tmp_path / "one", "a.json", {"id": 1})
    product.build()
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert not path.exists()
    product.folder = tmp_path / "two"
    assert product.build().status == "unchanged"
    assert ids(product) == [1]


@pytest.mark.parametrize("overwritten", ["ignore", "append"])
def test_a_file_that_changes_after_it_was_taken(overwritten, tmp_path):
    product = Bronze(tmp_path, from_files(overwritten=overwritten))
    landed(tmp_path, "a.json", {"id": 1}, age=60)
    product.build()
    landed(tmp_path, "a.json", {"id": 1}, {"id": 2})
    out = product.build()
    if overwritten == "ignore":
        assert out.status == "unchanged"
        assert out.notes[0].startswith("changed since taken, and passed over: a.json")
    else:
        assert ids(product) == [1, 1, 2]
        assert product.build().status == "unchanged"


BAD = {
    "bad.json": ('{"id": 7}\n{"id": 8\n', "bad.json.*line 3"),
    "bad.csv": ("id,name\n7,x\n8\n9,y,z\n", r"bad\.csv, line 3: Expected Number of Columns: 2 Found: 1"),
    "bad.parquet": ("id,name\n7,x\n", "bad.parquet: .*No magic bytes"),
    "bytes.json": ("\x00\x01 rubbish", "bytes.json"),
    "semi.csv": ("id;name\n7;x\n", r"columns of .*semi\.csv are divided by ';'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_stops_the_build_and_leaves_nothing(name, tmp_path):
    text, message = BAD[name]
    product = Bronze(tmp_path, from_files())
    good = f"good.{name.split('.')[1]}"
    if good.endswith("parquet"):
        (tmp_path / "landing").mkdir()
        duckdb.sql(f"COPY (SELECT 1 AS id) TO '{tmp_path}/landing/{good}'")
    else:
        landed(tmp_path, good, "id,name\n1,a\n" if good.endswith("csv") else {"id": 1})
    bad = landed(tmp_path, name, text, age=-5)
    with pytest.raises(CorruptError, match=f"(?s)bronze.events: .*{message}") as caught:
        product.build()
    assert "bad_files: skip" in caught.value.hint or "delim" in caught.value.hint
    assert product.state().number == 0
    bad.unlink()
    product.build()
    assert ids(product) == [1]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_may_be_left_out(name, tmp_path):
    text, _ = BAD[name]
    product = Bronze(tmp_path, from_files(bad_files="skip"))
    landed(tmp_path, "good.json", {"id": 1})
    landed(tmp_path, "more.csv", "id,name\n2,b\n")
    landed(tmp_path, name, text, age=60)
    out = product.build()
    assert any(note.startswith(f"left out, since unreadable: {name}") for note in out.notes)
    assert ids(product) == [1, 2]
    again = product.build()
    assert (again.status, again.notes) == ("unchanged", ())
    if name != "bad.parquet":
        (tmp_path / "landing" / name).write_text('{"id": 3}\n' if "json" in name else "id,name\n3,c\n")
        product.build()
        assert ids(product) == [1, 2, 3]


def test_what_a_sample_would_miss_is_not_dropped(tmp_path):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", *({"id": i} for i in range(30_000)), {"id": 30_000, "late": {"x": "y"}})
    for i in range(40):
        landed(tmp_path, f"b{i}.json", {"id": 30_001 + i, f"c{i}": i})
    landed(tmp_path, "c.csv", "id,v\n" + "".join(f"{i},1\n" for i in range(30_000)) + "40000,n/a\n")
    product.build()
    assert product.rows("SELECT late.x FROM bronze.events WHERE id = 30000 AND late IS NOT NULL") == [("y",)]
    assert product.rows("SELECT c39 FROM bronze.events WHERE id = 30040") == [(39,)]
    assert product.rows("SELECT v FROM bronze.events WHERE id = 40000") == [("n/a",)]


def test_a_file_that_is_written_to_meanwhile_is_not_taken(tmp_path, monkeypatch):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1}, age=60)
    copied = bronze_log.copied

    def meanwhile(*given):
        landed(tmp_path, "a.json", {"id": 1}, {"id": 2})
        return copied(*given)

    with monkeypatch.context() as patch:
        patch.setattr(bronze_log, "copied", meanwhile)
        with pytest.raises(StorageError, match=r"a\.json changed while it was read"):
            product.build()
    assert product.state().number == 0
    product.build()
    assert ids(product) == [1, 2]


def test_names_that_meshql_gives_are_refused(tmp_path):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1, "_Batch": 2})
    with pytest.raises(QueryError, match=r"bronze\.events: rows of .* have a column _Batch") as caught:
        product.build()
    assert "RENAME (_Batch AS" in caught.value.hint


def test_options_that_the_reader_does_not_know(tmp_path):
    product = Bronze(tmp_path, from_files(options={"delimm": ";"}))
    landed(tmp_path, "a.csv", "id\n1\n")
    with pytest.raises(CatalogError, match=r"bronze\.events: .*delimm"):
        product.build()


def test_options_of_the_reader(tmp_path):
    product = Bronze(
        tmp_path, from_files("landing/*.txt", options={"delim": ";", "all_varchar": True}, format="csv")
    )
    landed(tmp_path, "a.txt", "id;n\n007;x\n")
    product.build()
    assert product.rows("SELECT id, n FROM bronze.events") == [("007", "x")]


def test_many_files_become_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(files_source, "PORTION_FILES", 2)
    monkeypatch.setattr(bronze_log, "CHECKPOINT_EVERY", 2)
    product = Bronze(tmp_path, from_files())
    for i in range(5):
        landed(tmp_path, f"f{i}.json", {"id": i}, age=60 - i)
    out = product.build()
    assert [c.version for c in out.commits] == ["1", "2", "3"]
    assert product.rows("SELECT id, _batch FROM bronze.events ORDER BY id") == [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 3),
    ]
    assert (tmp_path / "lake" / "events" / "_batches" / "000000002.checkpoint.json").exists()
    assert product.build().status == "unchanged"


def test_drift_is_taken_and_recorded(tmp_path):
    product = Bronze(tmp_path, from_files())
    batches_of = [
        [{"id": 1, "a": 1, "n": None, "s": {"x": 1}, "t": "2026-01-01"}],
        [{"id": 2, "a": 2.5, "n": 7, "s": {"x": 2, "y": "k"}, "new": [1]}],
        [{"id": 3, "a": "three", "n": 8, "s": {"x": "two"}, "new": [{"z": 1}], "t": "n/a"}],
        [{"id": 4, "a": {"deep": 1}, "n": 9, "s": "flat", "new": None}],
    ]
    for i, rows in enumerate(batches_of):
        landed(tmp_path, f"{i}.json", *rows)
        product.build()
    changes = [c.changes for c in reversed(product.commits())]
    assert changes[0] == ()
    assert changes[1] == (
        "new column new: BIGINT[]",
        "column t did not come",
        "column a: BIGINT became DOUBLE, read as DOUBLE",
        "column s: STRUCT(x BIGINT) became STRUCT(x BIGINT, y VARCHAR), read as STRUCT(x BIGINT, y VARCHAR)",
    )
    assert "column a: DOUBLE became VARCHAR, read as VARCHAR" in changes[2]
    rows = product.rows("SELECT id, a, n, s, new, t FROM bronze.events ORDER BY id")
    assert [r[1] for r in rows] == ["1", "2.5", "three", '{"deep":1}']
    assert [r[2] for r in rows] == [None, 7, 8, 9]
    assert [json.loads(r[3]) for r in rows] == [
        {"x": 1},
        {"x": 2, "y": "k"},
        {"x": "two"},
        "flat",
    ]
    assert json.loads(rows[2][4]) == [{"z": 1}]
    assert [r[5] for r in rows] == ["2026-01-01", None, "n/a", None]


def test_a_full_build_replaces_all_in_one_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(files_source, "PORTION_FILES", 1)
    product = Bronze(tmp_path, from_files())
    for i in range(3):
        landed(tmp_path, f"f{i}.json", {"id": i, "old": 1}, age=60 - i)
    product.build()
    for i in range(3):
        landed(tmp_path, f"f{i}.json", {"id": 10 + i, "new": "x"})
    assert product.pending(full=True) == "all of it anew: 3 new files, 69 B"
    with meshql.connect(tmp_path) as reader, reader.reading([reader.find(NAME)]) as held:
        out = product.build(full=True)
        assert held.ask("SELECT id FROM bronze.events ORDER BY id") == [(0,), (1,), (2,)]
    assert [c.version for c in out.commits] == ["4"]
    assert (out.rows_total, out.counts.rows_out) == (3, 3)
    assert product.rows("SELECT id, new, _batch FROM bronze.events ORDER BY id") == [
        (10, "x", 4),
        (11, "x", 4),
        (12, "x", 4),
    ]
    assert product.build().status == "unchanged"
    state = product.state()
    assert state.since == 4
    assert len([f for b in state.batches if b.number < state.since for f in b.files]) == 3
    assert out.commits[0].changes == ("new column new: VARCHAR", "column old did not come")


def test_a_backfill_takes_files_of_its_interval(tmp_path):
    product = Bronze(tmp_path, from_files())
    for day in range(1, 6):
        path = landed(tmp_path, f"f{day}.json", {"id": day})
        moment = datetime(2026, 11, day, 12, tzinfo=UTC).timestamp()
        os.utime(path, (moment, moment))
    since, until = datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC)
    product.build(since=since, until=until)
    assert ids(product) == [2, 3]
    assert product.build(since=since - timedelta(days=1), until=until).counts.rows_out == 1
    product.build()
    assert ids(product) == [1, 2, 3, 4, 5]


def test_of_two_builds_of_one_batch_one_makes_it(tmp_path, monkeypatch):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1}, {"id": 2})
    both = threading.Barrier(2)
    commit = batches.commit

    def together(*given):
        both.wait(20)
        return commit(*given)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "commit", together)
        outcomes = []

        def build():
            try:
                outcomes.append(product.build().status)
            except StorageError as error:
                outcomes.append(error.message)

        threads = [threading.Thread(target=build) for _ in range(2)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    assert sorted(outcomes) == [
        "bronze.events: another build has made batch 1 meanwhile, and this one was given up",
        "built",
    ]
    assert ids(product) == [1, 2]
    assert product.build().status == "unchanged"
    with meshql.connect(tmp_path) as mesh:
        store, location = mesh.store(mesh.find(NAME))
        assert len(batches.orphans(batches.state(store, location), store, location)) == 1


def test_a_commit_whose_answer_was_lost_counts(tmp_path, monkeypatch):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1})
    from meshql.storage.store import Store

    put = Store.put

    def twice(self, key, content, *, new=False):
        made = put(self, key, content, new=new)
        return made if not new else put(self, key, content, new=new)

    monkeypatch.setattr(Store, "put", twice)
    assert product.build().status == "built"
    assert ids(product) == [1]


@pytest.mark.parametrize("point", ["read", "upload", "uploaded", "committed"])
def test_a_build_that_dies_is_made_good_by_the_next(point, tmp_path, monkeypatch):
    monkeypatch.setattr(files_source, "PORTION_FILES", 1)
    product = Bronze(tmp_path, from_files())
    for i in range(3):
        landed(tmp_path, f"f{i}.json", {"id": i}, age=60 - i)

    class Died(BaseException):
        pass

    names = {"read": "add", "upload": "_upload", "uploaded": "commit", "committed": "commit"}
    whole = getattr(bronze_log.BatchWriter, names[point])
    calls = []

    def dies(self, *given):
        calls.append(given)
        if len(calls) == 2 and point != "committed":
            raise Died
        whole(self, *given)
        if len(calls) == 2:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(bronze_log.BatchWriter, names[point], dies)
        with pytest.raises(Died):
            product.build()
    assert ids(product) == ([0, 1] if point == "committed" else [0])
    product.build()
    assert ids(product) == [0, 1, 2]


def test_resolving_costs_one_listing_while_nothing_changed(tmp_path, monkeypatch):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1})
    product.build()
    landed(tmp_path, "b.json", {"id": 2})
    product.build()
    from meshql.storage.store import Store

    asked = []
    for name in ("objects", "get", "head"):
        whole = getattr(Store, name)
        monkeypatch.setattr(
            Store, name, lambda *a, _n=name, _w=whole, **k: (asked.append(_n), _w(*a, **k))[1]
        )
    with meshql.connect(tmp_path) as mesh:
        mesh.sql("FROM bronze.events").fetchall()
        asked.clear()
        mesh.sql("FROM bronze.events").fetchall()
        assert asked == ["objects"]


def test_a_plan_knows_its_files(tmp_path):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1})
    product.build()
    landed(tmp_path, "b.json", {"id": 2})
    product.build()
    with meshql.connect(tmp_path) as mesh:
        session = mesh.session()
        plan = session.plan(session.parse("SELECT id FROM bronze.events WHERE id > 0")[0])
        stored = sum(p.stat().st_size for p in (tmp_path / "lake").rglob("*.parquet"))
        (read,) = plan.reads
        assert (read.files, read.bytes) == (2, stored)
        session.close()


def test_nothing_at_the_source_yet(tmp_path):
    product = Bronze(tmp_path, from_files("landing/*.json"))
    out = product.build()
    assert (out.status, out.version) == ("unchanged", None)
    assert out.notes == (f"there is no file at {tmp_path}/landing/*.json yet",)
    assert product.pending() == ""


@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
def test_bronze_in_the_clouds(cloud, tmp_path, request):
    store = request.getfixturevalue(cloud)
    auth = {
        "s3": {"method": "keys", "key_id": store.key_id, "secret": store.secret},
        "gcs": {"method": "hmac", "key_id": store.key_id, "secret": store.secret},
        "azure": {"method": "connection_string", "connection_string": store.connection_string},
    }[cloud]
    place = {"cloud": cloud, "insecure": True, "auth": auth}
    if cloud != "azure":
        place["endpoint"] = store.endpoint
    if cloud == "s3":
        place["url_style"] = "path"
    store.create_bucket("bronze")
    root = f"{store.scheme}://bronze"
    upload = tmp_path / "upload"
    product = Bronze(
        tmp_path,
        from_files(f"{root}/landing/**/*.json"),
        from_files(str(tmp_path / "landing")),
        connections={"lake": place},
        connection="lake",
        location=f"{root}/lake/events/",
    )
    landed(tmp_path, "local.csv", "id\n3\n")
    landed(upload, "a/x [1].json", {"id": 1})
    store.upload("bronze", upload)
    assert product.pending() == "1 new file, 10 B; 1 new file, 5 B"
    assert product.build().counts.rows_out == 2
    landed(upload, "a/y.json", {"id": 2, "more": "m"})
    (upload / "landing" / "a" / "x [1].json").unlink()
    store.upload("bronze", upload)
    assert product.build().counts.rows_out == 1
    assert product.build().status == "unchanged"
    rows = product.rows("SELECT id, more, _source, _batch FROM bronze.events ORDER BY id")
    assert rows == [
        (1, None, f"{root}/landing/a/x [1].json", 1),
        (2, "m", f"{root}/landing/a/y.json", 3),
        (3, None, str(tmp_path / "landing" / "local.csv"), 2),
    ]
    with meshql.connect(tmp_path) as mesh:
        described = mesh.product(NAME)
        assert (described.rows, described.files, described.version) == (3, 3, "3")
        assert "READ_PARQUET" in mesh.explain("FROM bronze.events")
        with mesh.session() as session:
            plan = session.plan(session.parse("SELECT * FROM bronze.events")[0])
        (read,) = plan.reads
        assert (read.product, read.version, read.cloud, read.files) == (NAME, "3", cloud, 3)
        assert read.bytes == described.bytes > 0


def test_a_full_disk_is_named(tmp_path):
    product = Bronze(tmp_path, from_files())
    landed(tmp_path, "a.json", {"id": 1})
    with meshql.connect(tmp_path) as mesh, mesh.looking(mesh.find(NAME)) as reading:
        step = product.step(mesh, tmp_path)
        with pytest.raises(
            StorageError, match=f"bronze.events: the disk of this machine is full: {tmp_path}"
        ):
            portion.copied(reading, "SELECT range FROM range(1000000)", "/dev/full", step)
