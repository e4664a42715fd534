"""Tables that are built here, cared for: fewer files, the same rows, and nothing taken from under a reader."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest
from clouds.batches import add_batch
from clouds.command import meshql_in
from deltalake import CommitProperties, DeltaTable, QueryBuilder, write_deltalake
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField

import meshql
from meshql.build import maintain as maintenance
from meshql.build import silver
from meshql.build.iceberg import open_folder
from meshql.build.maintain import Given, maintain
from meshql.build.step import Request, Step
from meshql.errors import StorageError, UnknownProductError, UsageError
from meshql.formats import batches
from meshql.storage.store import Store

NOW = timedelta(0)

SOURCES = [{"kind": "files", "location": "landing/*.json"}]

PRODUCTS = [
    {"name": "bronze.events", "location": "lake/bronze/", "build": {"kind": "bronze", "sources": SOURCES}},
    {
        "name": "silver.events",
        "location": "lake/silver/",
        "build": {"kind": "silver", "from": "bronze.events", "key": "id"},
    },
    {"name": "gold.events", "location": "lake/gold/", "build": {"kind": "gold", "sql": "FROM silver.events"}},
    {"name": "other.events", "location": "lake/other/", "format": "delta"},
]


@pytest.fixture
def lake(tmp_path, monkeypatch):
    """A folder with a catalog of one product of each layer, whose log of runs lies there, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "catalog.yaml").write_text(json.dumps({"meshql": 1, "products": PRODUCTS}))
    return tmp_path


@pytest.fixture
def mesh(lake):
    with meshql.connect(lake) as mesh:
        yield mesh


@pytest.fixture
def at_once(monkeypatch):
    """Whoever asks for it may remove what is a moment old."""
    monkeypatch.setattr(maintenance, "LEAST_RETENTION", NOW)


def append(location, n, day="a", **more):
    rows = pa.table({"id": [n, n + 1000], "day": [day, "b"]})
    said = CommitProperties(custom_metadata={"meshql": json.dumps({"n": n})})
    write_deltalake(location, rows, mode="append", partition_by=["day"], commit_properties=said, **more)


def care(mesh, name, given=None):
    (found,) = maintain(mesh, [name], given)
    assert found.error is None, found.error
    return found


def ids(mesh, name):
    return sorted(row[0] for row in mesh.sql(f"SELECT id FROM {name}").fetchall())


def parquet_files(folder):
    return sorted(folder.rglob("*.parquet"))


def age(folder, days):
    """Make all files below a folder look as if they had been written days ago."""
    moment = time.time() - days * 86_400
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (moment, moment))


# --- Delta ----------------------------------------------------------------------------------------


def test_small_delta_files_become_one_a_partition_and_the_rows_stay(mesh, lake):
    for n in range(12):
        append(lake / "lake/silver", n)
    before = ids(mesh, "silver.events")
    done = care(mesh, "silver.events")
    assert (done.kind, done.files_before, done.files_after) == ("silver", 24, 2)
    assert done.removed == 0
    assert done.done == ("wrote 24 small files into 2", "wrote a checkpoint of 13 commits")
    assert ids(mesh, "silver.events") == before
    assert len(parquet_files(lake / "lake/silver")) == 26 + 1
    again = care(mesh, "silver.events")
    assert again.done == ()


def test_a_compaction_says_that_it_changes_no_data_and_leaves_the_log_as_it_is(mesh, lake):
    table = lake / "lake/silver"
    for n in range(12):
        append(table, n)
    care(mesh, "silver.events")
    commits = sorted((table / "_delta_log").glob("0*.json"))
    assert len(commits) == 13
    actions = [json.loads(line) for line in commits[-1].read_text().splitlines()]
    changes = [a[k]["dataChange"] for a in actions for k in ("add", "remove") if k in a]
    assert len(changes) == 26
    assert not any(changes)
    said = [h["meshql"] for h in DeltaTable(table).history() if "meshql" in h]
    assert json.loads(said[0]) == {"n": 11}


def test_what_is_younger_than_the_retention_stays(mesh, lake):
    table = lake / "lake/silver"
    for n in range(4):
        append(table, n)
    (table / "_meshql").mkdir()
    (table / "_meshql/lease-000000001.json").write_text("{}")
    (table / "day=a/left.parquet").write_bytes(b"of a killed writer")
    care(mesh, "silver.events", Given(older_than=timedelta(hours=1)))
    assert len(parquet_files(table)) == 8 + 2 + 1
    age(table, days=3)
    tombstones_are_new = care(mesh, "silver.events", Given(older_than=timedelta(days=2)))
    assert tombstones_are_new.removed == 1
    assert not (table / "day=a/left.parquet").exists()
    assert (table / "_meshql/lease-000000001.json").exists()
    assert len(parquet_files(table)) == 8 + 2


def test_delta_files_that_no_version_needs_go(mesh, lake, at_once):
    table = lake / "lake/silver"
    for n in range(4):
        append(table, n, day="a b%20/x:y")
    before = ids(mesh, "silver.events")
    size = sum(f.stat().st_size for f in parquet_files(table))
    done = care(mesh, "silver.events", Given(older_than=NOW))
    assert (done.removed, done.freed) == (8, size)
    assert len(parquet_files(table)) == 2
    assert ids(mesh, "silver.events") == before


def test_a_dry_run_writes_and_removes_nothing(mesh, lake, at_once):
    table = lake / "lake/silver"
    for n in range(12):
        append(table, n)
    files = {f: f.stat().st_mtime_ns for f in table.rglob("*")}
    DeltaTable(table).vacuum(dry_run=True)
    done = care(mesh, "silver.events", Given(dry_run=True, older_than=NOW))
    assert done.done == ("would write 24 small files into 2", "would write a checkpoint of 12 commits")
    assert {f: f.stat().st_mtime_ns for f in table.rglob("*")} == files


def test_files_of_a_product_inside_the_folder_are_not_its_own(lake, at_once):
    inside = {"name": "other.inside", "location": "lake/silver/inside/", "format": "parquet"}
    (lake / "catalog.yaml").write_text(json.dumps({"meshql": 1, "products": [*PRODUCTS, inside]}))
    append(lake / "lake/silver", 1)
    (lake / "lake/silver/inside").mkdir()
    duckdb.sql("SELECT 1 AS x").write_parquet(str(lake / "lake/silver/inside/x.parquet"))
    with meshql.connect(lake) as mesh:
        assert care(mesh, "silver.events", Given(older_than=NOW)).removed == 0
        assert mesh.sql("FROM other.inside").fetchall() == [(1,)]


def test_a_compaction_that_meets_a_build_is_done_again(mesh, lake, monkeypatch):
    """The build takes rows away from under the compaction, once; rows are those of the build."""
    from meshql.build import maintain_delta

    table = lake / "lake/silver"
    for n in range(6):
        append(table, n)
    plain = maintain_delta.opened

    def opened(*given):
        found = plain(*given)
        DeltaTable(table).delete("id = 3")
        append(table, 50)
        return found

    monkeypatch.setattr(maintain_delta, "opened", opened)
    done = care(mesh, "silver.events")
    assert done.files_after <= 4
    assert ids(mesh, "silver.events") == sorted(
        [*(n for n in range(6) if n != 3), *range(1000, 1006), 50, 1050]
    )


# --- bronze ---------------------------------------------------------------------------------------


def bronze_state(mesh):
    return batches.state(*mesh.store(mesh.find("bronze.events")))


def test_files_of_small_batches_become_one_and_batches_keep_their_numbers(mesh, lake):
    for n in range(1, 13):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    rows = mesh.sql("SELECT id, _batch FROM bronze.events ORDER BY id").fetchall()
    version = mesh.product("bronze.events").version
    done = care(mesh, "bronze.events")
    assert (done.files_before, done.files_after) == (12, 1)
    assert done.done == ("wrote 12 small files into 1", "wrote a checkpoint of 12 batches")
    assert mesh.sql("SELECT id, _batch FROM bronze.events ORDER BY id").fetchall() == rows
    found = mesh.product("bronze.events")
    assert (found.version, found.files, found.rows) == (version, 1, 12)
    assert care(mesh, "bronze.events").done == ()


def test_whoever_takes_what_is_new_of_merged_batches_takes_it_once(mesh, lake):
    for n in range(1, 9):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    care(mesh, "bronze.events")
    add_batch(mesh, "bronze.events", "SELECT 9 AS id")
    product = mesh.find("bronze.events")
    store, location = mesh.store(product)
    with mesh.reading([product]) as reading:
        for after in range(10):
            for upto in (*range(after, 10), None):
                relation = batches.relation(bronze_state(mesh), location, after, upto)
                found = sorted(r[0] for r in reading.ask(f"SELECT id FROM {relation}"))
                assert found == list(range(after + 1, (9 if upto is None else upto) + 1)), (after, upto)
        for upto in range(1, 10):
            old = batches.state(store, location, upto=upto)
            found = reading.ask(f"SELECT id FROM {batches.relation(old, location)}")
            assert sorted(r[0] for r in found) == list(range(1, upto + 1))


def test_merged_files_are_merged_again_and_drift_is_kept_apart(mesh, lake):
    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    for n in range(6, 11):
        add_batch(mesh, "bronze.events", f"SELECT {n}.5::DECIMAL(9,1) AS id, 'x' AS more")
    rows = mesh.sql("SELECT id::VARCHAR, more FROM bronze.events ORDER BY _batch").fetchall()
    assert care(mesh, "bronze.events").files_after == 2
    for n in range(11, 16):
        add_batch(mesh, "bronze.events", f"SELECT {n}.5::DECIMAL(9,1) AS id, 'x' AS more")
    done = care(mesh, "bronze.events")
    assert (done.files_before, done.files_after) == (7, 2)
    found = mesh.sql("SELECT id::VARCHAR, more FROM bronze.events ORDER BY _batch").fetchall()
    assert found[:10] == rows
    assert len(found) == 15


def test_bronze_files_that_nobody_reads_go_once_they_are_old(mesh, lake, at_once):
    table = lake / "lake/bronze"
    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    orphan = parquet_files(table)[0].with_name("000000009-dead-0.parquet")
    orphan.write_bytes(b"of a killed writer")
    assert care(mesh, "bronze.events").removed == 0
    assert len(parquet_files(table)) == 5 + 1 + 1
    done = care(mesh, "bronze.events", Given(older_than=NOW))
    assert done.removed == 6
    assert len(parquet_files(table)) == 1
    assert ids(mesh, "bronze.events") == [1, 2, 3, 4, 5]
    for n in range(6, 10):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    care(mesh, "bronze.events", Given(older_than=NOW))
    care(mesh, "bronze.events", Given(older_than=NOW))
    assert len(list((table / "_batches").glob("layout-*"))) == 1
    assert ids(mesh, "bronze.events") == list(range(1, 10))


def test_what_was_read_within_the_retention_stays(mesh, lake):
    """Files of batches that were replaced, or merged, a moment ago are kept, however old they are."""
    table = lake / "lake/bronze"
    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    age(table, days=30)
    care(mesh, "bronze.events")
    assert len(parquet_files(table)) == 6
    add_batch(mesh, "bronze.events", "SELECT 7 AS id", replaces=True)
    assert care(mesh, "bronze.events").removed == 0
    assert ids(mesh, "bronze.events") == [7]
    age(table, days=30)
    assert care(mesh, "bronze.events").removed == 6
    assert ids(mesh, "bronze.events") == [7]


def test_two_that_merge_at_once_are_one_and_an_error(mesh, lake, monkeypatch):
    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    from meshql.build import maintain_bronze

    plain = maintain_bronze.write_layout
    with meshql.connect(lake) as other:

        def late(*arguments):
            monkeypatch.setattr(maintain_bronze, "write_layout", plain)
            care(other, "bronze.events")
            return plain(*arguments)

        monkeypatch.setattr(maintain_bronze, "write_layout", late)
        (found,) = maintain(mesh, ["bronze.events"])
    assert isinstance(found.error, StorageError)
    assert "another maintenance" in found.error.message
    assert ids(mesh, "bronze.events") == [1, 2, 3, 4, 5]
    assert len(parquet_files(lake / "lake/bronze")) == 6


def test_a_bronze_dry_run_writes_nothing(mesh, lake, at_once):
    for n in range(1, 13):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    files = {f: f.stat().st_mtime_ns for f in (lake / "lake").rglob("*")}
    done = care(mesh, "bronze.events", Given(dry_run=True, older_than=NOW))
    assert done.done == ("would write 12 small files into 1", "would write a checkpoint of 12 batches")
    assert {f: f.stat().st_mtime_ns for f in (lake / "lake").rglob("*")} == files


# --- gold -----------------------------------------------------------------------------------------


@pytest.fixture
def gold_of(lake, monkeypatch):
    """A function that builds a gold product as a run, of files that are small for its rows."""
    from meshql.build import gold, iceberg_write

    monkeypatch.setattr(iceberg_write, "FILE_BYTES", "200KB")

    def build(mesh, run, name="gold.numbers"):
        scratch = lake / "scratch" / run
        scratch.mkdir(parents=True, exist_ok=True)
        return gold.build(Step(mesh, mesh.find(name), run, Request(), scratch))

    numbers = {"name": "other.numbers", "location": "lake/numbers/", "format": "delta"}
    products = [
        {
            "name": "gold.numbers",
            "location": "lake/gold/",
            "build": {"kind": "gold", "sql": "FROM other.numbers"},
        },
        {
            "name": "gold.again",
            "location": "lake/again/",
            "build": {"kind": "gold", "sql": "FROM gold.numbers"},
        },
    ]
    (lake / "catalog.yaml").write_text(json.dumps({"meshql": 1, "products": [numbers, *products]}))
    numbers_from(lake, 0)
    return build


def numbers_from(lake, start):
    rows = duckdb.sql(
        f"SELECT {start} + i AS id, hash(i)::DOUBLE AS word FROM range(700000) t(i)"
    ).to_arrow_table()
    write_deltalake(lake / "lake/numbers", rows, mode="overwrite")


def sums(mesh, name="gold.numbers"):
    return mesh.sql(f"SELECT count(*), count(DISTINCT word), min(id), sum(id)::BIGINT FROM {name}").fetchall()


def snapshots(mesh, name="gold.numbers"):
    table = open_folder(mesh, mesh.find(name)).current()
    return [s.summary.operation.value for s in table.metadata.snapshots], sorted(table.metadata.refs)


@pytest.mark.slow
def test_small_gold_files_become_one_and_nothing_is_recomputed(lake, gold_of, at_once):
    from meshql.build import gold

    with meshql.connect(lake) as mesh:
        built = gold_of(mesh, "run-1")
        gold_of(mesh, "again-1", "gold.again")
        before = sums(mesh)
        files = mesh.product("gold.numbers").files
        assert files > 4
        done = care(mesh, "gold.numbers")
        assert (done.kind, done.files_before, done.files_after) == ("gold", files, 1)
        assert done.done == (f"wrote {files} small files into 1",)
        assert sums(mesh) == before
        assert snapshots(mesh) == (["append", "replace"], ["main", "run-1"])
        step = Step(mesh, mesh.find("gold.numbers"), "x", Request(), lake)
        assert gold.commits(step) == list(built.commits)
        assert gold_of(mesh, "run-2").status == "unchanged"
        assert gold_of(mesh, "again-2", "gold.again").status == "unchanged"
        numbers_from(lake, 7)
        assert gold_of(mesh, "run-3").status == "built"
        assert gold_of(mesh, "again-3", "gold.again").status == "built"
        assert sums(mesh) == sums(mesh, "gold.again") != before


def test_another_engine_reads_what_was_compacted(lake, gold_of):
    from pyiceberg.table import StaticTable

    with meshql.connect(lake) as mesh:
        gold_of(mesh, "run-1")
        care(mesh, "gold.numbers")
    newest = lake / "lake/gold/metadata/v2.metadata.json"
    rows = StaticTable.from_metadata(str(newest)).scan(row_filter="id >= 699990").to_arrow()
    assert sorted(rows["id"].to_pylist()) == list(range(699990, 700000))


@pytest.mark.slow
def test_snapshots_of_old_runs_expire_and_their_files_go(lake, gold_of, at_once):
    with meshql.connect(lake) as mesh:
        for n in range(5):
            numbers_from(lake, n)
            gold_of(mesh, f"run-{n}")
        (lake / "lake/gold/data/left.parquet").write_bytes(b"of a killed writer")
        files = len(parquet_files(lake / "lake/gold"))
        assert care(mesh, "gold.numbers", Given(keep_runs=2)).removed == 0
        assert len(snapshots(mesh)[1]) == 6
        done = care(mesh, "gold.numbers", Given(older_than=NOW, keep_runs=2, dry_run=True))
        assert len(parquet_files(lake / "lake/gold")) == files + 1
        told = done.removed, done.freed
        done = care(mesh, "gold.numbers", Given(older_than=NOW, keep_runs=2))
        assert done.done[0].startswith("expired ")
        assert (done.removed, done.freed) >= told
        operations, refs = snapshots(mesh)
        assert refs == ["main", "run-3", "run-4"]
        assert len(operations) == 3
        assert sums(mesh)[0][2] == 4
        table = open_folder(mesh, mesh.find("gold.numbers")).current()
        for name in ("run-3", "run-4"):
            rows = table.scan(
                snapshot_id=table.metadata.refs[name].snapshot_id, selected_fields=("id",)
            ).to_arrow()
            assert min(rows["id"].to_pylist()) == int(name[-1])
        assert not (lake / "lake/gold/data/left.parquet").exists()
        # The metadata file that was current before it expired is old only now.
        assert care(mesh, "gold.numbers", Given(older_than=NOW, keep_runs=2)).removed == 1
        assert care(mesh, "gold.numbers", Given(older_than=NOW, keep_runs=2)).removed == 0
        numbers_from(lake, 9)
        assert gold_of(mesh, "run-9").version
        assert sums(mesh)[0][2] == 9


@pytest.mark.slow
def test_a_snapshot_that_was_current_within_the_retention_stays_however_old(lake, gold_of, at_once):
    with meshql.connect(lake) as mesh:
        gold_of(mesh, "run-1")
        time.sleep(1.2)
        numbers_from(lake, 1)
        gold_of(mesh, "run-2")
        age(lake / "lake/gold", days=3)
        done = care(mesh, "gold.numbers", Given(older_than=timedelta(seconds=1), keep_runs=1))
        assert "expired" not in str(done.done)
        time.sleep(1)
        done = care(mesh, "gold.numbers", Given(older_than=timedelta(seconds=1), keep_runs=1))
        assert "expired 1 snapshot" in done.done


@pytest.mark.slow
def test_maintenance_that_meets_a_gold_build_goes_on_top_of_it(lake, gold_of, monkeypatch):
    from meshql.build import maintain_iceberg

    with meshql.connect(lake) as mesh, meshql.connect(lake) as other:
        gold_of(mesh, "run-1")
        plain, met = maintain_iceberg.uploaded, []

        def late(*given):
            plain(*given)
            if not met:
                met.append(True)
                numbers_from(lake, 3)
                gold_of(other, "run-2")

        monkeypatch.setattr(maintain_iceberg, "uploaded", late)
        done = care(mesh, "gold.numbers")
        assert done.files_after == 1
        assert sums(mesh)[0][2] == 3
        assert [o for o in snapshots(mesh)[0] if o == "replace"] == ["replace"]
        left = [f.name for f in parquet_files(lake / "lake/gold") if f.name.startswith("compacted")]
        assert len(left) == 1


# --- what is made of what -------------------------------------------------------------------------


@pytest.mark.slow
def test_silver_takes_rows_of_merged_batches_once(mesh, lake, at_once):
    """Whether they were merged before it took them, or after, and even when the batches' own files are gone."""

    def build(run, **request):
        scratch = lake / "scratch" / run
        scratch.mkdir(parents=True)
        return silver.build(Step(mesh, mesh.find("silver.events"), run, Request(**request), scratch))

    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    build("run-1")
    care(mesh, "bronze.events")
    assert care(mesh, "bronze.events", Given(older_than=NOW)).removed == 5
    assert build("run-2").status == "unchanged"
    for n in range(6, 11):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    assert care(mesh, "bronze.events").files_after == 1
    assert care(mesh, "bronze.events", Given(older_than=NOW)).removed == 6
    assert care(mesh, "silver.events", Given(older_than=NOW)).error is None
    found = build("run-3")
    assert (found.counts.rows_in, found.counts.rows_out, found.rows_total) == (5, 5, 10)
    assert ids(mesh, "silver.events") == list(range(1, 11))
    assert build("run-4", full=True).rows_total == 10
    assert ids(mesh, "silver.events") == list(range(1, 11))


def test_gold_is_not_built_anew_because_its_inputs_were_cared_for(mesh, lake, at_once):
    from meshql.build import gold

    def build(run):
        scratch = lake / "scratch" / run
        scratch.mkdir(parents=True)
        return gold.build(Step(mesh, mesh.find("gold.events"), run, Request(), scratch))

    for n in range(5):
        append(lake / "lake/silver", n)
    assert build("run-1").status == "built"
    done = care(mesh, "silver.events", Given(older_than=NOW))
    assert done.removed == 10
    assert build("run-2").status == "unchanged"
    append(lake / "lake/silver", 5)
    assert build("run-3").rows_total == 12


# --- clouds ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
def test_tables_in_every_cloud(request, cloud, tmp_path, monkeypatch, at_once):
    store = request.getfixturevalue(cloud)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    bucket = f"care-{cloud}"
    store.create_bucket(bucket)
    auth = {
        "azure": {"method": "connection_string", "connection_string": getattr(store, "connection_string", "")}
    }
    auth |= (
        {
            "s3": {"method": "keys", "key_id": store.key_id, "secret": store.secret},
            "gcs": {"method": "hmac", "key_id": store.key_id, "secret": store.secret},
        }
        if cloud != "azure"
        else {}
    )
    lake = {"cloud": cloud, "insecure": True, "auth": auth[cloud]}
    if cloud != "azure":
        lake |= {"endpoint": store.endpoint} | (
            {"url_style": "path", "region": "eu-west-1"} if cloud == "s3" else {}
        )
    products = [
        p | {"connection": "lake", "location": f"{store.scheme}://{bucket}/{p['name'].replace('.', '/')}/"}
        for p in PRODUCTS[:3]
    ]
    catalog = {"meshql": 1, "connections": {"lake": lake}, "products": products}
    (tmp_path / "catalog.yaml").write_text(json.dumps(catalog))
    # The emulator lists a Delta log from its beginning, whatever it is asked for, so nobody appends there.
    names = ["bronze.events", "gold.events", *(["silver.events"] if cloud != "azure" else [])]
    with meshql.connect(tmp_path) as mesh:
        for n in range(1, 6):
            add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
            append_iceberg(mesh, "gold.events", n)
            if "silver.events" in names:
                uri, options = mesh.storage_options("silver.events", "deltalake")
                write_deltalake(uri, pa.table({"id": [n]}), mode="append", storage_options=options)
        first = {c.product: c for c in maintain(mesh, names)}
        assert {n: (c.error, c.files_before, c.files_after) for n, c in first.items()} == dict.fromkeys(
            names, (None, 5, 1)
        )
        time.sleep(1.1)
        second = {c.product: c for c in maintain(mesh, names, Given(older_than=NOW))}
        assert {n: c.removed >= 5 for n, c in second.items()} == dict.fromkeys(names, True)
        for name in names:
            assert ids(mesh, name) == [1, 2, 3, 4, 5]


# --- readers --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["bronze", "silver", "gold"])
def test_a_reader_sees_every_row_once_at_every_moment(mesh, lake, layer):
    """A reader counts while tables grow and are cared for; what it began to read stays for the retention."""
    name, written, wrong, seen = f"{layer}.events", [0], [], []

    def grow(n):
        if layer == "bronze":
            add_batch(mesh, name, f"SELECT {n} AS id")
        elif layer == "silver":
            write_deltalake(lake / "lake/silver", pa.table({"id": [n]}), mode="append")
        else:
            append_iceberg(mesh, name, n)
        written[0] = n

    grow(1)
    stop = threading.Event()

    def read():
        with meshql.connect(lake) as own:
            while not stop.is_set():
                least = written[0]
                rows = own.sql(f"SELECT count(*), count(DISTINCT id), max(id) FROM {name}").fetchall()[0]
                seen.append(rows[0])
                if rows[0] != rows[1] or rows[0] != rows[2] or rows[0] < least:
                    wrong.append((least, rows))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(2, 26):
            grow(n)
            looks = len(seen)
            while len(seen) == looks and reader.is_alive():
                time.sleep(0.01)
            if n % 5 == 0:
                age(lake / "lake", days=30)
                care(mesh, name, Given(older_than=timedelta(hours=1)))
    finally:
        stop.set()
        reader.join()
    assert not wrong
    assert len(set(seen)) > 3
    assert ids(mesh, name) == list(range(1, 26))
    assert mesh.product(name).files < 25


def append_iceberg(mesh, name, n):
    """Append as another writer of the folder does, which knows nothing of runs."""
    folder, rows = open_folder(mesh, mesh.find(name)), pa.table({"id": [n]})
    table = folder.current()
    if table is None:
        schema = Schema(NestedField(1, "id", LongType(), required=False))
        with folder.start(schema, UNPARTITIONED_PARTITION_SPEC) as transaction:
            transaction.append(rows)
    else:
        table.append(rows)


def test_a_mesh_that_lives_on_reads_the_files_that_are_left(mesh, lake, at_once):
    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
        append(lake / "lake/silver", n)
    with meshql.connect(lake) as long_lived:
        for name in ("bronze.events", "silver.events"):
            before = ids(long_lived, name)
            care(mesh, name)
            assert care(mesh, name, Given(older_than=NOW)).removed
            assert ids(long_lived, name) == before


# --- what is cared for, and the command -----------------------------------------------------------


def test_only_what_is_built_here_is_cared_for(mesh, lake):
    for n in range(6):
        append(lake / "lake/other", n)
        append(lake / "lake/silver_quarantine", n)
    found = {c.product: c for c in maintain(mesh)}
    assert set(found) == {
        "bronze.events",
        "silver.events",
        "silver.events_quarantine",
        "gold.events",
        "meshql.runs",
    }
    assert found["silver.events_quarantine"].kind == "quarantine"
    assert found["silver.events_quarantine"].files_after == 2
    assert found["silver.events"].done == ("not built yet",)
    assert len(DeltaTable(lake / "lake/other").file_uris()) == 12
    with pytest.raises(UsageError, match=r"other\.events is not built here"):
        maintain(mesh, ["other.events"])
    with pytest.raises(UnknownProductError):
        maintain(mesh, ["nope.*"])
    with pytest.raises(UsageError, match="an hour"):
        maintain(mesh, [], Given(older_than=timedelta(minutes=59)))


def test_a_product_that_fails_does_not_stop_the_others(mesh, lake):
    append(lake / "lake/silver", 1)
    (lake / "lake/silver/_delta_log/00000000000000000000.json").write_text("{no json")
    add_batch(mesh, "bronze.events", "SELECT 1 AS id")
    found = {c.product: c for c in maintain(mesh, ["*.events"])}
    assert "silver.events" in found["silver.events"].error.message
    assert found["bronze.events"].error is None


def test_files_of_a_build_under_way_are_kept(mesh, lake, at_once):
    from meshql.build.lease import lease

    product = mesh.find("bronze.events")
    add_batch(mesh, "bronze.events", "SELECT 1 AS id")
    store, location = mesh.store(product)
    with lease(product.name, store, location, "some-run", 0, lambda: None):
        young = parquet_files(lake / "lake/bronze")[0].with_name("000000002-abc-0.parquet")
        young.write_bytes(b"not committed yet")
        assert care(mesh, "bronze.events", Given(older_than=NOW)).removed == 0
    assert care(mesh, "bronze.events", Given(older_than=NOW)).removed == 1


def meshql_maintain(folder, *arguments, code=0):
    return meshql_in(folder, "maintain", *arguments, code=code)


@pytest.mark.slow
def test_the_command_tells_what_it_did(lake):
    for n in range(5):
        append(lake / "lake/silver", n)
    done = meshql_maintain(lake, "silver.events", "--dry-run", "--older-than", "3d", "-f", "json")
    assert json.loads(done.stdout)[0]["done"] == "would write 10 small files into 2"
    done = meshql_maintain(lake, "silver.*")
    line = next(line for line in done.stdout.splitlines() if line.startswith("silver.events "))
    assert "wrote 10 small files into 2" in line
    assert "other.events is not built here" in meshql_maintain(lake, "other.events", code=2).stderr
    assert "3 parsecs" in meshql_maintain(lake, "--older-than", "3 parsecs", code=2).stderr
    query = (
        QueryBuilder().register("t", DeltaTable(lake / "lake/silver")).execute("SELECT count(*) AS n FROM t")
    )
    assert pa.table(query.read_all()).to_pylist() == [{"n": 10}]


def test_merged_files_stay_when_nobody_knows_whether_they_were_committed(mesh, lake, monkeypatch):
    """The store takes the layout and then fails: what it names must be there."""
    for n in range(1, 6):
        add_batch(mesh, "bronze.events", f"SELECT {n} AS id")
    put = Store.put

    def lost(self, key, content, **more):
        made = put(self, key, content, **more)
        if "layout-" in key:
            raise StorageError("the store does not answer")
        return made

    monkeypatch.setattr(Store, "put", lost)
    (found,) = maintain(mesh, ["bronze.events"])
    monkeypatch.undo()
    assert "does not answer" in found.error.message
    assert mesh.product("bronze.events").files == 1
    assert ids(mesh, "bronze.events") == [1, 2, 3, 4, 5]
