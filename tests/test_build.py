from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from faults.kills import CATALOG, ROWS, land

from meshql.build.lease import lease
from meshql.build.lineage import lineage, made_of, mermaid, tree
from meshql.build.openlineage import Emitter, sender
from meshql.build.run import build, plan
from meshql.build.step import Request
from meshql.mesh import connect


@pytest.fixture
def home(tmp_path):
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    land(tmp_path, 0)
    return tmp_path


@pytest.fixture
def mesh(home):
    with connect(home / "catalog.yaml") as mesh:
        yield mesh


def statuses(run):
    return {name: turn.status for name, turn in run.turns.items()}


def one(mesh, sql):
    with mesh.sql(sql) as result:
        return result.fetchall()[0]


def many(mesh, sql):
    with mesh.sql(sql) as result:
        return result.fetchall()


def meshql(home, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "meshql", "-C", home / "catalog.yaml", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


def balanced(mesh):
    """The log's figures of silver against what lies in its tables."""
    counted = one(
        mesh,
        "SELECT sum(rows_in), sum(rows_out), sum(rows_quarantined), sum(rows_duplicate) FROM meshql.runs"
        " WHERE kind = 'silver'",
    )
    took, out, refused, twice = map(int, counted)
    assert took == out + refused + twice
    assert one(mesh, "SELECT count(*) FROM web.raw") == (took,)
    assert one(mesh, "SELECT count(*) FROM web.events") == (out,)
    assert one(mesh, "SELECT count(*) FROM web.events_quarantine") == (refused,)
    return took, out, refused, twice


def test_a_build_makes_every_layer_and_the_next_one_only_what_is_new(mesh, home):
    assert statuses(build(mesh)) == {"web.raw": "built", "web.events": "built", "web.daily": "built"}
    took, out, refused, twice = balanced(mesh)
    assert took == ROWS
    assert refused > 0
    assert twice > 0
    assert one(mesh, "SELECT sum(n) FROM web.daily") == (out,)
    assert statuses(build(mesh)) == dict.fromkeys(("web.raw", "web.events", "web.daily"), "unchanged")
    land(home, 1)
    assert set(statuses(build(mesh)).values()) == {"built"}
    assert balanced(mesh)[0] == 2 * ROWS
    newest = "SELECT id, arg_max(kind, ts) FROM (SELECT id, kind, ts::TIMESTAMP AS ts, try_cast(value AS DECIMAL(10,2)) AS v FROM web.raw) WHERE v >= 0 GROUP BY id ORDER BY id"
    assert many(mesh, newest) == many(mesh, "SELECT id, kind FROM web.events ORDER BY id")
    assert many(
        mesh, "SELECT day, kind, count(*), sum(value) FROM web.events GROUP BY ALL ORDER BY ALL"
    ) == many(mesh, "SELECT day, kind, n, total FROM web.daily ORDER BY ALL")


def test_what_is_built_is_in_the_catalog_at_once(mesh):
    build(mesh)
    assert {"web.raw", "web.events", "web.events_quarantine", "web.daily", "meshql.runs"} <= {
        p.name for p in mesh.products()
    }
    made = made_of(mesh, "web.events")
    assert made["kind"] == "silver"
    assert made["made of"] == "web.raw 1"
    assert made["feeds"] == "web.daily"
    assert "by run 2" in made["built"]
    assert made_of(mesh, "web.events_quarantine")["made with"] == "web.events"
    described = mesh.product("web.events")
    assert described.rows == one(mesh, "SELECT count(*) FROM web.events")[0]


def test_lineage_says_which_version_was_made_of_which(mesh, home):
    build(mesh)
    found = lineage(mesh, "web.daily")
    version = mesh.product("web.events").version
    assert ("web.events", "web.daily", version) in found.edges
    lines = tree(found).splitlines()
    assert lines[0].startswith("web.daily  gold · version ")
    assert lines[1].startswith(f"└─ web.events  silver · version {version} · ")
    assert lines[2].startswith("   └─ web.raw  bronze · version 1 · ")
    assert tree(lineage(mesh, "web.raw")).endswith("feeds web.events")
    drawn = mermaid(found)
    assert drawn.startswith("flowchart LR\n")
    assert f"-->|{version}|" in drawn
    land(home, 1)
    build(mesh, ["web.raw", "web.events"])
    assert f"web.events  silver · version {version} · now at " in tree(lineage(mesh, "web.daily"))


def test_selectors_build_a_part(mesh, home):
    assert list(build(mesh, ["web.raw"]).turns) == ["web.raw"]
    assert statuses(build(mesh, ["changed"])) == {"web.events": "built", "web.daily": "built"}
    assert statuses(build(mesh, ["changed"])) == {}
    assert list(build(mesh, ["web.events+"]).turns) == ["web.events", "web.daily"]


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(mesh, home):
    words = plan(mesh)
    assert words["web.raw"].startswith("2 new files")
    assert words["web.events"]
    assert words["web.daily"]
    assert not (home / "lake").exists()
    build(mesh)
    assert set(plan(mesh).values()) == {""}


def test_a_step_that_fails_stops_what_is_made_of_it_and_nothing_else(mesh, home):
    build(mesh)
    land(home, 1)
    (home / "landing" / "broken.json").write_text('{"id": 1, "ts": \n oops')
    run = build(mesh)
    assert statuses(run) == {"web.raw": "failed", "web.events": "blocked", "web.daily": "blocked"}
    (error,) = run.errors
    assert "web.raw" in error.message
    assert "broken.json" in error.message
    assert one(mesh, "SELECT count(*) FROM web.raw") == (ROWS,)
    (home / "landing" / "broken.json").unlink()
    assert set(statuses(build(mesh)).values()) == {"built"}
    assert balanced(mesh)[0] == 2 * ROWS


def test_two_builds_of_one_product_keep_apart(mesh, home):
    product = mesh.find("web.raw")
    with lease("web.raw", *mesh.store(product), "other", 0, lambda: None):
        run = build(mesh)
        assert "web.raw is being built by run other" in run.errors[0].message
        assert run.errors[0].exit_code == 3
        waiting = threading.Thread(target=lambda: runs.append(build(mesh, wait_seconds=60)))
        runs: list = []
        waiting.start()
    waiting.join()
    assert set(statuses(runs[0]).values()) == {"built"}
    balanced(mesh)


def test_steps_run_side_by_side_where_the_graph_allows(tmp_path):
    """Two functions that each wait for the other one end only when both run at once."""
    (tmp_path / "meeting.py").write_text(
        "import threading\n"
        "barrier = threading.Barrier(2)\n"
        "def rows(since):\n"
        "    barrier.wait(timeout=20)\n"
        "    return [{'id': 1}]\n"
    )
    source = "{kind: python, function: 'meeting:rows', cursor: {column: id}}"
    products = "".join(
        f"  - {{name: web.{name}, location: lake/{name}/, build: {{kind: bronze, sources: [{source}]}}}}\n"
        for name in ("left", "right")
    )
    (tmp_path / "catalog.yaml").write_text(f"meshql: 1\nproducts:\n{products}")
    with connect(tmp_path / "catalog.yaml") as mesh:
        assert statuses(build(mesh, jobs=2)) == {"web.left": "built", "web.right": "built"}


@pytest.mark.slow
def test_many_builds_at_once_double_nothing(home):
    program = [sys.executable, "-m", "meshql", "-C", home / "catalog.yaml", "build", "--wait", "90"]
    running = [
        subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    ended = [(p.wait(150), p.stderr.read()) for p in running]
    assert [code for code, _ in ended] == [0, 0, 0], ended
    with connect(home / "catalog.yaml") as mesh:
        assert balanced(mesh)[0] == ROWS


def test_full_builds_all_of_it_again_to_the_same_rows(mesh, home):
    build(mesh)
    land(home, 1)
    build(mesh)
    look = "SELECT * EXCLUDE (_batch, _ingested_at) FROM web.events ORDER BY ALL"
    before, daily = many(mesh, look), many(mesh, "FROM web.daily ORDER BY ALL")
    assert set(statuses(build(mesh, request=Request(full=True))).values()) == {"built"}
    assert many(mesh, look) == before
    assert many(mesh, "FROM web.daily ORDER BY ALL") == daily


def test_the_command_shows_a_table_and_its_exit_code_what_failed(home):
    done = meshql(home, "build", "--format", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [step["status"] for step in said["steps"]] == ["built"] * 3
    silver = said["steps"][1]
    assert silver["in"] == silver["out"] + silver["quarantined"] + silver["duplicate"]
    assert "✓ web.raw" in done.stderr
    listed = meshql(home, "runs")
    assert said["run"] in listed.stdout
    steps = meshql(home, "runs", said["run"], "--format", "csv")
    assert steps.stdout.count("\n") == 4
    shown = meshql(home, "lineage", "web.daily")
    assert shown.stdout.startswith("web.daily  gold")
    told = meshql(home, "describe", "web.events")
    assert "made of" in told.stdout
    shutil.rmtree(home / "landing")
    (home / "landing").mkdir()
    (home / "landing" / "bad.json").write_text("{")
    failed = meshql(home, "build")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    assert "hint:" in failed.stderr
    asked = meshql(
        home,
        "query",
        "-c",
        "SELECT status FROM meshql.runs WHERE status <> 'built' ORDER BY ALL",
        "-f",
        "csv",
    )
    assert asked.stdout.split() == ["status", "blocked", "blocked", "failed"]


def test_no_build_yet_is_said_and_a_catalog_without_builds_too(home, tmp_path):
    empty = meshql(home, "runs")
    assert empty.returncode == 0
    assert "nothing was built yet" in empty.stderr
    (home / "catalog.yaml").write_text("meshql: 1\nproducts: [{name: a.b, location: x.csv, format: csv}]\n")
    assert "no product of this catalog is built here" in meshql(home, "build").stderr


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.events.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def receiver():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.events, server.status = [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_openlineage_events_of_each_step(mesh, receiver, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "lineage-key")
    to_url = Emitter(mesh, sender(f"http://127.0.0.1:{receiver.server_port}"))
    to_file = Emitter(mesh, sender(str(tmp_path / "events.jsonl")))

    def told(run, turn):
        to_url.told(run, turn)
        to_file.told(run, turn)

    run = build(mesh, told=told)
    assert run.notes == []
    assert {(path, key) for path, key, _ in receiver.events} == {("/api/v1/lineage", "Bearer lineage-key")}
    events = [event for _, _, event in receiver.events]
    assert [(e["job"]["name"], e["eventType"]) for e in events] == [
        (name, kind) for name in ("web.raw", "web.events", "web.daily") for kind in ("START", "COMPLETE")
    ]
    silver = events[3]
    assert [d["name"] for d in silver["inputs"]] == [str(tmp_path / "lake/raw")]
    assert silver["inputs"][0]["facets"]["version"]["datasetVersion"] == "1"
    fields = {f["name"] for f in silver["outputs"][0]["facets"]["schema"]["fields"]}
    assert {"id", "ts", "kind", "value"} <= fields
    rows = silver["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"]
    assert rows == one(mesh, "SELECT count(*) FROM web.events")[0]
    assert events[2]["run"]["runId"] == silver["run"]["runId"]
    assert events[5]["job"]["facets"]["sql"]["query"].startswith("SELECT day")
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 6


def test_openlineage_that_cannot_be_sent_is_noted_and_fails_nothing(mesh, receiver):
    receiver.status = 500
    emitter = Emitter(mesh, sender(f"http://127.0.0.1:{receiver.server_port}"))
    run = build(mesh, told=emitter.told)
    assert set(statuses(run).values()) == {"built"}
    assert "OpenLineage" in run.notes[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_killed_at_many_points_loses_and_doubles_nothing(tmp_path):
    tests = Path(__file__).parent
    path = f"{tests.parent}{os.pathsep}{tests}"
    done = subprocess.run(
        [sys.executable, "-m", "faults.kills", tmp_path / "lakes", "18"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=850,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    print({k: v for k, v in found.items() if k != "cases"})
    bad = [c for c in found["cases"] if c["torn"] or c["lost"] or c["duplicated"] or c["miscounted"]]
    assert bad == []
    assert (found["killed"], found["torn"], found["lost"], found["duplicated"]) == (18, 0, 0, 0)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that holds 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_clear_error_and_the_next_build_is_right(home, small_disk):
    text = (home / "catalog.yaml").read_text().replace("lake/raw", f"{small_disk}/raw")
    (home / "catalog.yaml").write_text(text)
    with connect(home / "catalog.yaml") as mesh:
        build(mesh)
        (small_disk / "filler").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 8192))
        land(home, 1)
        for wave in range(2, 9):
            land(home, wave)
        run = build(mesh)
        assert statuses(run)["web.raw"] == "failed"
        assert "space" in run.errors[0].message.lower()
        assert one(mesh, "SELECT count(*) FROM web.raw") == (ROWS,)
        (small_disk / "filler").unlink()
        assert set(statuses(build(mesh)).values()) == {"built"}
        assert balanced(mesh)[0] == 9 * ROWS


def test_columns_keep_their_types_when_the_command_builds_them(home):
    text = CATALOG.replace(
        "kind: kind,", "kind: kind, bought: \"kind = 'buy'\", great: 'CAST(id AS HUGEINT)',"
    )
    (home / "catalog.yaml").write_text(text)
    assert meshql(home, "build", "web.raw", "web.events").returncode == 0
    with connect(home / "catalog.yaml") as mesh:
        kinds = dict(many(mesh, "SELECT column_name, column_type FROM (DESCRIBE web.events)"))
    assert (kinds["bought"], kinds["great"]) == ("BOOLEAN", "DECIMAL(38,0)")
