from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from meshql.build import lease as leases
from meshql.build.lease import lease
from meshql.catalog.connections import LocalConnection
from meshql.errors import BusyError
from meshql.identity.credentials import Public
from meshql.storage.location import Location
from meshql.storage.store import open_store


@pytest.fixture
def place(tmp_path):
    location = Location.parse(f"{tmp_path}/table/")
    return open_store(LocalConnection(cloud="local", name="local"), Public(), location), location


def held(place, run="r1", wait=0.0):
    return lease("web.events", *place, run, wait, lambda: None)


def files(tmp_path):
    return sorted(p.name for p in (tmp_path / "table" / "_meshql").glob("*"))


def test_one_build_holds_a_product_and_the_other_is_told_who(place, tmp_path):
    with held(place) as gone:
        assert gone == []
        with pytest.raises(BusyError) as refused, held(place, "r2"):
            pass
    assert refused.value.message.startswith("web.events is being built by run r1 on ")
    assert refused.value.hint == "wait for it: meshql build --wait 600"
    assert refused.value.exit_code == 3
    assert files(tmp_path) == []
    with held(place, "r3"):
        pass


def test_waiting_ends_when_the_other_lets_go(place):
    entered = threading.Event()

    def first():
        with held(place):
            entered.set()
            time.sleep(0.7)

    other = threading.Thread(target=first)
    other.start()
    entered.wait()
    began = time.monotonic()
    with held(place, "r2", wait=20):
        assert 0.2 < time.monotonic() - began < 5
    other.join()


def test_a_build_whose_process_is_gone_holds_nothing(place, tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    with held(place, "killed"):
        (file,) = (tmp_path / "table" / "_meshql").glob("*")
        said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"pid": int(dead.stdout)}))
    with held(place, "r2") as gone:
        assert [holder.run for holder in gone] == ["killed"]
        assert files(tmp_path) == ["lease-000000002.json"]


def test_a_lease_of_another_host_ends_by_itself_only(place, tmp_path):
    with held(place, "far"):
        (file,) = (tmp_path / "table" / "_meshql").glob("*")
        said = json.loads(file.read_text()) | {"host": "elsewhere", "pid": 1}
    file.write_text(json.dumps(said))
    with pytest.raises(BusyError), held(place, "r2"):
        pass
    file.write_text(json.dumps(said | {"until": "2020-01-01T00:00:00+00:00"}))
    with held(place, "r2") as gone:
        assert [holder.host for holder in gone] == ["elsewhere"]


def test_of_many_that_find_a_lease_over_one_takes_it(place, tmp_path):
    with held(place, "far"):
        (file,) = (tmp_path / "table" / "_meshql").glob("*")
        said = json.loads(file.read_text()) | {"until": "2020-01-01T00:00:00+00:00"}
    file.write_text(json.dumps(said))
    inside, most, refused = [], [], []
    start = threading.Barrier(8)

    def race(run):
        start.wait()
        try:
            with held(place, run):
                inside.append(run)
                most.append(len(inside))
                time.sleep(0.3)
                inside.remove(run)
        except BusyError:
            refused.append(run)

    threads = [threading.Thread(target=race, args=(f"r{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(refused) == 7


def test_a_lease_is_renewed_while_it_is_held(place, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED_EVERY_SECONDS", 0.05)
    with held(place):
        (file,) = (tmp_path / "table" / "_meshql").glob("*")
        first = json.loads(file.read_text())["until"]
        time.sleep(0.5)
        assert json.loads(file.read_text())["until"] > first
