"""Products that are followed: built as what they are made of changes, until somebody stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict

import pytest
from clouds.gateway import gateway
from faults.kills import CATALOG, ROWS, land

from meshql.build import follow as following_module
from meshql.build.follow import follow
from meshql.build.lease import Holder, lease
from meshql.build.run import build
from meshql.build.step import Commit, Counts, Outcome
from meshql.errors import UnknownProductError
from meshql.mesh import connect

NAMES = ("web.raw", "web.events", "web.daily")


@pytest.fixture
def home(tmp_path):
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "landing").mkdir()
    return tmp_path


@pytest.fixture
def mesh(home):
    with connect(home / "catalog.yaml") as mesh:
        yield mesh


def wait(condition, seconds=30):
    """Wait until something holds, and return it."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come to be"
        time.sleep(0.05)
    return found


class Followed:
    """What a thread follows; `events` are those that a person is told of."""

    def __init__(self, mesh, *selectors, **given):
        self.events, self._begun, self.failure = [], [], None
        self._given = {"every": 0.2, **given}
        self._thread = threading.Thread(target=self._run, args=(mesh, selectors))
        self._thread.start()
        wait(lambda: self._begun or self.failure)

    def _run(self, mesh, selectors):
        try:
            follow(
                mesh,
                selectors,
                started=self._begun.append,
                told=lambda one, event: self.events.append((one.name, event)),
                **self._given,
            )
        except Exception as error:
            self.failure = error

    def __getitem__(self, name):
        return self.following.products[name]

    @property
    def following(self):
        return self._begun[0]

    def ended(self, seconds=30):
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        if self.failure:
            raise self.failure

    def stop(self):
        self.following.stop()
        self.ended()


@contextmanager
def followed(mesh, *selectors, **given):
    """Follow for the block."""
    found = Followed(mesh, *selectors, **given)
    try:
        yield found
    finally:
        found.stop()


def ask(mesh, sql):
    with mesh.sql(sql) as result:
        return result.fetchall()


def log_of(mesh, what="status, commits, rows_in"):
    rows = ask(mesh, f"SELECT product, {what} FROM meshql.runs ORDER BY started_at")
    return {name: [row[1:] for row in rows if row[0] == name] for name in NAMES}


def total(mesh):
    """Rows that gold counts; None while there is no gold."""
    return mesh.snapshot(mesh.find("web.daily")) and ask(mesh, "SELECT sum(n)::INT FROM web.daily")[0][0]


def test_what_lands_flows_through_all_layers_and_is_one_row_of_the_log(mesh, home):
    with followed(mesh) as found:
        # Nothing is there yet, which is no failure: children wait for their parents.
        wait(lambda: found["web.raw"].state == "idle")
        wait(lambda: (found["web.events"].state, found["web.daily"].state) == ("waiting", "waiting"))
        wait(lambda: found["web.events"].waits_for == "web.raw")
        for wave in (0, 1):
            land(home, wave)
            wait(lambda commits=wave + 1: found["web.daily"].total.number == commits)
            wait(lambda: all(found[name].state == "idle" for name in NAMES))
            rows = ask(mesh, "SELECT count(*)::INT FROM web.events")[0][0]
            assert (total(mesh), found["web.raw"].total.counts.rows_in) == (rows, (wave + 1) * ROWS)
        assert found["web.events"].taken == {"web.raw": "2"}
        assert [found.following.behind(found[name]) for name in NAMES] == [None, 0, 0]
        time.sleep(1)
    assert log_of(mesh) == {
        "web.raw": [("built", 2, 2 * ROWS)],
        "web.events": [("built", 2, 2 * ROWS)],
        "web.daily": [("built", 2, 0)],
    }
    assert len(ask(mesh, "SELECT DISTINCT run FROM meshql.runs")) == 1
    assert sorted(e for e in found.events) == sorted((name, "started") for name in NAMES)
    # Whoever builds next finds nothing to do, and nothing that was not told of.
    assert {t.status for t in build(mesh).turns.values()} == {"unchanged"}
    assert [len(rows) for rows in log_of(mesh).values()] == [2, 2, 2]


def test_runs_follow_one_another_and_nothing_is_counted_twice(mesh, home, monkeypatch):
    monkeypatch.setattr(following_module, "RUN_SECONDS", 1.0)
    land(home, 0)
    with followed(mesh) as found:
        wait(lambda: found["web.daily"].total.number == 1)
        runs = found.following.runs
        wait(lambda: found.following.runs >= runs + 2)
        land(home, 1)
        wait(lambda: found["web.daily"].total.number == 2)
        runs = found.following.runs
        wait(lambda: found.following.runs >= runs + 2)
    rows = ask(mesh, "SELECT run, product, status, commits, rows_in FROM meshql.runs")
    assert len({(run, product) for run, product, *_ in rows}) == len(rows)
    assert len({run for run, *_ in rows}) >= 4
    for name in NAMES:
        told = [row for row in rows if row[1] == name]
        assert sum(row[3] for row in told) == 2 == found[name].total.number
        assert {row[2] for row in told} == {"built", "unchanged"}
    assert sum(row[4] for row in rows if row[1] == "web.events") == 2 * ROWS
    assert not [e for e in found.events if e[1] != "started"]


PROGRAM = """
import pathlib
def rows(since):
    if (pathlib.Path(__file__).parent / "broken").exists():
        raise ValueError("out of order")
    return [{"id": 1, "ts": "2026-01-01", "kind": "buy", "value": 1}]
"""


@pytest.fixture
def fed(home):
    """The catalog with bronze from a program, which fails while there is a file `broken`."""
    (home / "followed_rows.py").write_text(PROGRAM)
    source = "{kind: python, function: 'followed_rows:rows', cursor: {column: id}}"
    path = home / "catalog.yaml"
    path.write_text(CATALOG.replace('{kind: files, location: "landing/*.json", format: json}', source))
    yield home
    sys.modules.pop("followed_rows", None)


def test_a_mistake_ends_its_product_and_the_others_go_on_with_what_is_there(fed):
    with connect(fed / "catalog.yaml") as mesh:
        found = Followed(mesh)
        wait(lambda: found["web.daily"].total.number == 1)
        (fed / "broken").touch()
        # Its children end with it, as nothing more can come to them.
        found.ended()
        logged = log_of(mesh, "status, commits")
    assert {name: found[name].state for name in NAMES} == {
        "web.raw": "failed",
        "web.events": "ended",
        "web.daily": "ended",
    }
    assert "out of order" in found["web.raw"].turn.error.message
    assert logged == {"web.raw": [("failed", 1)], "web.events": [("built", 1)], "web.daily": [("built", 1)]}
    assert found.events[-3:] == [("web.raw", "failed"), ("web.events", "ended"), ("web.daily", "ended")]


def test_what_is_made_of_nothing_that_will_ever_be_there_is_blocked(fed):
    (fed / "broken").touch()
    with connect(fed / "catalog.yaml") as mesh:
        found = Followed(mesh)
        found.ended()
        logged = log_of(mesh, "status")
    assert [found[name].state for name in NAMES] == ["failed", "blocked", "blocked"]
    assert found["web.events"].turn.blocked_by == "web.raw"
    assert [rows[0][0] for rows in logged.values()] == ["failed", "blocked", "blocked"]


def test_a_file_that_cannot_be_read_is_tried_again_until_it_can(mesh, home):
    broken = home / "landing" / "late.json"
    broken.write_text("{")
    with followed(mesh) as found:
        assert "late.json" in wait(lambda: found["web.raw"].problem).message
        broken.unlink()
        land(home, 0)
        wait(lambda: found["web.daily"].total.number == 1)
    assert [event for name, event in found.events if name == "web.raw"] == ["started", "error", "recovered"]


def test_what_breaks_its_contract_is_held_back_from_its_children_through_all_runs(home, monkeypatch):
    monkeypatch.setattr(following_module, "RUN_SECONDS", 1.0)
    path = home / "catalog.yaml"
    rule = "    quality: [{metric: rowCount, mustBeGreaterThan: 250}]\n  - name: web.daily\n"
    path.write_text(CATALOG.replace("  - name: web.daily\n", rule))
    land(home, 0)
    with connect(path) as mesh:
        with followed(mesh) as found:
            wait(lambda: found["web.daily"].state == "held" and found["web.events"].total.number)
            runs = found.following.runs
            wait(lambda: found.following.runs >= runs + 3)
            assert found["web.daily"].total.number == 0
            assert found["web.events"].broken
            land(home, 1)
            wait(lambda: found["web.daily"].total.number == 1)
            assert not found["web.events"].broken
        assert total(mesh) == ask(mesh, "SELECT count(*)::INT FROM web.events")[0][0]


def test_a_product_that_somebody_else_builds_is_refused_first_and_waited_for_later(mesh, home, monkeypatch):
    land(home, 0)
    with lease("web.raw", *mesh.store(mesh.find("web.raw")), "other", 0, lambda: None):
        found = Followed(mesh, "web.raw")
        found.ended()
        assert "web.raw is being built by run other" in found["web.raw"].turn.error.message
    monkeypatch.setattr(following_module, "RUN_SECONDS", 0.5)
    with followed(mesh, "web.raw") as found:
        wait(lambda: found["web.raw"].total.number == 1)
        # Somebody takes it over between two runs.
        store, location = mesh.store(found["web.raw"].product)
        other = Holder("other", "elsewhere", 1, "2026-01-01", "2999-01-01T00:00:00+00:00")
        key = f"{location.folder.key}_meshql/lease-999999999.json"
        store.put(key, json.dumps(asdict(other)).encode())
        assert "is being built by run other" in wait(lambda: found["web.raw"].problem).message
        store.delete([key])
        wait(lambda: found["web.raw"].problem is None)
    assert [event for _, event in found.events] == ["started", "error", "recovered"]


@pytest.mark.slow
def test_a_store_that_fails_for_a_while_is_tried_again_and_nothing_is_lost(home, s3, monkeypatch):
    monkeypatch.setattr(following_module, "LONGEST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(following_module, "BACKOFF_SECONDS", 0.2)
    s3.create_bucket("followed")
    down = threading.Event()
    with gateway(s3.endpoint) as door:
        door.fault = lambda request: "503" if down.is_set() and "/raw/" in request.path else None
        connection = type(s3)(s3.cloud, door.url, s3.key_id, s3.secret).connection
        text = CATALOG.replace("location: lake/raw/", "connection: lake\n    location: s3://followed/raw/")
        (home / "catalog.yaml").write_text(f"{text}\nconnections: {json.dumps({'lake': connection})}\n")
        with connect(home / "catalog.yaml") as mesh, followed(mesh) as found:
            land(home, 0)
            wait(lambda: found["web.daily"].total.number == 1)
            down.set()
            land(home, 1)
            wait(lambda: ("web.raw", "error") in found.events, seconds=60)
            assert found["web.raw"].state == "retrying"
            down.clear()
            wait(lambda: ("web.raw", "recovered") in found.events, seconds=60)
            wait(lambda: found["web.daily"].total.number == 2)
            assert ask(mesh, "SELECT count(*)::INT FROM web.raw")[0][0] == 2 * ROWS
        assert not any(one.turn.error for one in found.following.products.values())


def test_stopping_ends_after_the_commit_under_way_and_keeps_it(mesh, home):
    for wave in range(3):
        land(home, wave)
        build(mesh, ["web.raw"])
    began = threading.Event()
    with followed(mesh, "web.events") as found:
        inner = found["web.events"]
        wait(lambda: inner.making.number or inner.total.number)
        began.set()
        found.following.stop()
    status, commits, rows = log_of(mesh)["web.events"][-1]
    assert status == "built"
    assert commits >= 1
    assert rows == ask(mesh, "SELECT count(*)::INT FROM web.events")[0][0] + sum(
        ask(mesh, "SELECT sum(rows_quarantined)::INT, sum(rows_duplicate)::INT FROM meshql.runs")[0]
    )
    build(mesh)
    assert ask(mesh, "SELECT sum(rows_in)::INT FROM meshql.runs WHERE kind = 'silver'") == [(3 * ROWS,)]


def test_an_unknown_selector_is_refused(mesh):
    with pytest.raises(UnknownProductError):
        follow(mesh, ["web.nothing"])


def test_outcomes_are_summed_and_not_kept_one_by_one(mesh):
    at = ask(mesh, "SELECT now()")[0][0]
    whole = Outcome()
    for number in range(1000):
        commit = Commit("r", at, Counts(2, 1), changes=("+a",), version=str(number))
        whole += Outcome((commit,), str(number), number, (f"note {number}",))
    whole += Outcome((), "999", failed=("unique",))
    assert (len(whole.commits), whole.number, whole.counts) == (1, 1000, Counts(2000, 1000))
    assert (whole.version, whole.rows_total, whole.commits[0].changes) == ("999", 999, ("+a",))
    assert (whole.notes[0], whole.notes[-1], len(whole.notes)) == (
        "earlier notes are left out",
        "note 999",
        20,
    )
    assert whole.failed == ("unique",)


# --- the command ----------------------------------------------------------------------------------


def command(home, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "meshql", "-C", home / "catalog.yaml", "build", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NO_COLOR": "1"} | environment,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_a_summary(home, mesh, number):
    land(home, 0)
    process = command(home, "--full", "--follow", "--every", "0.2", "-f", "json")
    try:
        wait(lambda: total(mesh), seconds=60)
        land(home, 1)
        wait(lambda: ask(mesh, "SELECT max(_batch)::INT FROM web.events")[0][0] == 2, seconds=60)
    finally:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "ends after the commits under way" in err
    said = json.loads(out)
    products = {row["product"]: row for row in said["products"]}
    assert list(products) == list(NAMES)
    assert products["web.raw"]["rows"] == 2 * ROWS
    assert {row["status"] for row in products.values()} == {"stopped"}
    assert {rows[0][0] for rows in log_of(mesh).values()} == {"built"}


def test_the_command_ends_by_itself_with_the_code_of_what_failed(fed):
    (fed / "broken").touch()
    process = command(fed, "--follow")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "web.raw  failed: " in err
    assert "web.events  failed: web.raw is not there" in err
    assert "meshql: error: web.raw: followed_rows:rows failed: ValueError: out of order" in err
    assert [line.split()[:2] for line in out.splitlines()[-3:]] == [
        ["web.raw", "failed"],
        ["web.events", "blocked"],
        ["web.daily", "blocked"],
    ]


@pytest.mark.parametrize("given", [["--dry-run"], ["--from", "2026-01-01"], ["--to", "2026-01-01"]])
def test_what_has_an_end_is_not_followed(home, given):
    _, err = (process := command(home, "--follow", *given)).communicate(timeout=60)
    assert process.returncode == 2
    assert "--follow goes on until it is stopped" in err
