"""A folder as an Iceberg catalog: commits that only one can make, lost answers, kills, care of old files."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clouds.house import DAILY, DAY, door, house, orders, path
from deltalake import write_deltalake

from meshql.build import gold
from meshql.build.iceberg import open_folder
from meshql.build.iceberg_care import expire_snapshots, orphan_files
from meshql.errors import ExistsError, StorageError, UsageError
from meshql.storage.store import Store

__all__ = ["door", "house", "path"]


def remove_orphan_files(folder, older_than):
    found = orphan_files(folder, older_than)
    folder.store.delete([o.key for o in found])
    return found


def folder_of(house, name="gold.out"):
    mesh = house.mesh
    return open_folder(mesh, mesh.find(name))


def files_below(place):
    return sorted(str(p.relative_to(place)) for p in Path(place).rglob("*") if p.is_file())


def test_each_run_is_a_snapshot_with_its_tag(house, path):
    house.gold(DAILY, ["day"])
    for i in range(3):
        house.build()
        write_deltalake(path, orders([(5000 + i, DAY, "eu", 1)]), mode="append")
    table = house.metadata()
    assert len(table.metadata.snapshots) == 3
    assert set(table.metadata.refs) == {"main", "run-1", "run-2", "run-3"}
    assert [(c.version, c.run, c.inputs["sales.orders"]) for c in house.commits()] == [
        ("v3", "run-3", "2"),
        ("v2", "run-2", "1"),
        ("v1", "run-1", "0"),
    ]
    first = table.metadata.refs["run-1"].snapshot_id
    assert table.scan(snapshot_id=first).to_arrow()["n"].to_pylist().count(50) == 20


def test_the_reader_sees_each_version_at_once(house, path):
    house.gold(DAILY)
    for i in range(12):
        house.build()
        assert house.ask("SELECT sum(n) FROM gold.out") == [(1000 + i,)]
        assert house.mesh.check("gold.out") == f"v{i + 1}"
        write_deltalake(path, orders([(5000 + i, DAY, "eu", 1)]), mode="append")


def test_a_hint_that_lags_behind_misleads_nobody(house, path):
    location = Path(house.gold(DAILY))
    house.build()
    house.build(full=True)
    (location / "metadata/version-hint.text").write_text("1")
    assert house.mesh.check("gold.out") == "v2"
    assert house.build(full=True).version == "v3"
    assert (location / "metadata/version-hint.text").read_text() == "3"


def test_a_table_of_another_catalog_is_left_alone(house, tmp_path):
    location = Path(house.gold(DAILY))
    (location / "metadata").mkdir(parents=True)
    (location / "metadata/00001-abc.metadata.json").write_text("{}")
    with pytest.raises(UsageError, match=r"an Iceberg table lies at .* that was not built here"):
        house.build()


class Trouble:
    """Makes the store fail, or somebody else act, when a file is put whose key holds some text."""

    def __init__(self, monkeypatch, text, before=None, after=None):
        put = Store.put
        self.times = 0

        def meddled(store, key, content, *, new=False):
            if text not in key:
                return put(store, key, content, new=new)
            self.times += 1
            if before and self.times == 1:
                before()
            done = put(store, key, content, new=new)
            if after and self.times == 1:
                after()
            return done

        monkeypatch.setattr(Store, "put", meddled)


def fail():
    raise StorageError("the connection was reset")


def test_a_commit_whose_answer_was_lost_counts(house, monkeypatch):
    house.gold(DAILY)
    Trouble(monkeypatch, "metadata/v1.", after=fail)
    assert house.build().status == "built"
    assert house.same(DAILY)
    assert files_below(house.folder / "gold.out/metadata").count("v2.metadata.json") == 0


def test_a_try_after_a_lost_answer_finds_its_own_commit(house, monkeypatch):
    """The whole step is tried again, and the first try has committed without knowing."""
    house.gold(DAILY)
    Trouble(monkeypatch, "metadata/v1.", after=fail)
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda store, key: fail() if "v1.metadata" in key else get(store, key))
    with pytest.raises(StorageError, match="the connection was reset"):
        house.build(run="mine")
    monkeypatch.undo()
    outcome = house.build(run="mine")
    assert [c.run for c in outcome.commits] == ["mine"]
    assert outcome.version == "v1"
    assert outcome.rows_total == len(house.ask(DAILY))
    assert house.build(run="other").status == "unchanged"


def test_a_lost_race_is_told_and_leaves_nothing(house, monkeypatch, path):
    house.gold(DAILY)
    house.build()
    write_deltalake(path, orders([(5000, DAY, "eu", 1)]), mode="append")
    other = house.step(run="faster")
    before = files_below(house.folder / "gold.out")
    Trouble(monkeypatch, "metadata/v2.", before=lambda: gold.build(other))
    with pytest.raises(ExistsError, match="another build has made version v2"):
        house.build(run="slower")
    assert next(c.run for c in house.commits()) == "faster"
    gone = set(files_below(house.folder / "gold.out")) - set(before)
    # Of the faster one: its metadata, two manifests and their list, one data file.
    assert len(gone) == 5
    assert house.build(run="slower").status == "unchanged"
    assert house.same(DAILY)


def test_many_builds_at_once_lose_nothing(house, path):
    house.gold(DAILY, ["day"])
    house.build()
    write_deltalake(path, orders([(5000, DAY, "eu", 1)]), mode="append")
    steps = [house.step(run=f"at-once-{i}") for i in range(4)]

    def build(step):
        for _ in range(4):
            try:
                return gold.build(step)
            except ExistsError:
                continue
        raise AssertionError

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(build, steps))
    assert sorted(o.status for o in outcomes) == ["built", "unchanged", "unchanged", "unchanged"]
    assert house.same(DAILY)
    assert house.metadata().current_snapshot().summary.additional_properties["total-records"] == "20"


@pytest.mark.parametrize("text", ["data/", ".avro", "metadata/v2."])
def test_a_store_that_fails_leaves_the_table_as_it_was(text, house, monkeypatch, path):
    house.gold(DAILY, ["day"])
    house.build()
    write_deltalake(path, orders([(5000, DAY, "eu", 1)]), mode="append")
    before = house.ask("FROM gold.out ORDER BY ALL")
    Trouble(monkeypatch, text, before=fail)
    with pytest.raises(StorageError, match="the connection was reset"):
        house.build()
    assert house.ask("FROM gold.out ORDER BY ALL") == before
    assert house.build().status == "built"
    assert house.same(DAILY)


KILLED = """
import sys, time
from pathlib import Path
from meshql import connect
from meshql.build import gold
from meshql.build.step import Request, Step
from meshql.storage.store import Store

catalog, run, scratch, at = sys.argv[1:]
put, puts = Store.put, [0]

def slow(store, key, content, *, new=False):
    puts[0] += 1
    if puts[0] == int(at):
        print("now", flush=True)
        time.sleep(30)
    done = put(store, key, content, new=new)
    if -puts[0] == int(at):
        print("now", flush=True)
        time.sleep(30)
    return done

Store.put = slow
with connect(catalog) as mesh:
    gold.build(Step(mesh, mesh.find("gold.out"), run, Request(), Path(scratch)))
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [-1, 6, -6])
def test_a_build_killed_at_any_point(at, house, path):
    """kill -9 before or behind the n-th file that is put into the store."""
    house.gold(DAILY, ["day"])
    house.build()
    write_deltalake(path, orders([(5000, DAY, "eu", 1), (5001, DAY, "us", 1)]), mode="append")
    before = house.ask("FROM gold.out ORDER BY ALL")
    after = house.ask(f"FROM ({DAILY}) ORDER BY ALL")
    house.mesh.check("gold.out")
    arguments = [str(house.folder / "catalog.yaml"), "killed", str(house.folder / "scratch"), str(at)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    process.kill()
    process.wait()
    assert said.strip() in ("now", "done")
    assert house.ask("FROM gold.out ORDER BY ALL") in (before, after)
    house.build()
    assert house.ask("FROM gold.out ORDER BY ALL") == after
    assert [c.inputs["sales.orders"] for c in house.commits()] == ["1", "0"]


# --- care -----------------------------------------------------------------------------------------


def test_old_snapshots_go_and_the_last_runs_stay(house, path):
    house.gold(DAILY, ["day"])
    for i in range(6):
        house.build()
        write_deltalake(path, orders([(5000 + i, DAY, "eu", 1)]), mode="append")
    rows = house.ask("FROM gold.out ORDER BY ALL")
    folder, now = folder_of(house), datetime.now(UTC)
    assert expire_snapshots(folder, now - timedelta(hours=1), 0) == 0
    assert folder.version() == 6
    folder.current().manage_snapshots().create_tag(
        folder.current().metadata.refs["run-2"].snapshot_id, "audit"
    ).commit()
    assert expire_snapshots(folder, now + timedelta(seconds=1), 2) == 3
    table = folder.current()
    assert set(table.metadata.refs) == {"main", "run-2", "audit", "run-5", "run-6"}
    before = set(files_below(house.folder / "gold.out"))
    assert orphan_files(folder, now - timedelta(hours=1)) == []
    removed = remove_orphan_files(folder, datetime.now(UTC) + timedelta(seconds=1))
    assert len(removed) == len(before) - len(files_below(house.folder / "gold.out")) > 10
    assert house.ask("FROM gold.out ORDER BY ALL") == rows
    for name in ("run-2", "run-5", "run-6"):
        assert table.scan(snapshot_id=table.metadata.refs[name].snapshot_id).to_arrow().num_rows >= 20
    assert house.build().notes == ("1 of 10 partitions recomputed",)
    assert house.same(DAILY)


def test_a_snapshot_is_as_old_as_its_end(house, path):
    """It was made long ago, and was the current one until now: readers may be at it."""
    house.gold(DAILY)
    house.build()
    time.sleep(1.1)
    between = datetime.now(UTC)
    time.sleep(0.05)
    write_deltalake(path, orders([(5000, DAY, "eu", 1)]), mode="append")
    house.build()
    folder = folder_of(house)
    assert expire_snapshots(folder, between, 0) == 0
    assert [o.name for o in orphan_files(folder, between)] == []
    with house.mesh.sql("FROM gold.out") as running:
        house.build(full=True)
        assert expire_snapshots(folder, between, 0) == 0
        remove_orphan_files(folder, between)
        assert len(running.fetchall()) == 20


def test_what_a_killed_build_left_is_an_orphan(house, monkeypatch):
    house.gold(DAILY, ["day"])
    house.build()
    before = files_below(house.folder / "gold.out")
    left = house.folder / "gold.out/data/killed-00000.parquet"
    left.write_bytes(b"x")
    folder = folder_of(house)
    assert [o.name for o in orphan_files(folder, datetime.now(UTC) + timedelta(seconds=1))] == [left.name]
    remove_orphan_files(folder, datetime.now(UTC) + timedelta(seconds=1))
    assert files_below(house.folder / "gold.out") == before
    assert house.same(DAILY)
