"""The example catalogs/medallion: user events from an API to hourly figures, and the API that it reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest

from meshql import connect
from meshql.demo import emulators, events

CATALOG = Path(__file__).parent.parent / "catalogs" / "medallion"


@contextmanager
def served(feed):
    """The URL of a server of the feed."""
    server = events.serve(feed, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(url, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
        return json.load(answer)


def everything(url, *, since=0, limit=1000):
    """All records behind a sequence, page by page."""
    found = []
    while since is not None:
        page = get(f"{url}/events?since={since}&limit={limit}")
        assert len(page["data"]) <= limit
        found += page["data"]
        since = page["meta"]["next"]
    return found


# --- the API --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, 100, 1000])
def test_pages_of_any_size_hold_the_whole_feed(limit):
    with served(events.Feed(900)) as url:
        found = everything(url, limit=limit)
    assert found == [record for number in range(1, 901) for record in events.records(number)]
    assert [record["sequence"] for record in found] == list(range(1, len(found) + 1))
    assert {record["id"] for record in found} == set(range(1, 901))


def test_the_feed_goes_on_where_the_last_event_was():
    feed = events.Feed(1000)
    with served(feed) as url:
        first = everything(url)
        last = first[-1]["sequence"]
        assert everything(url, since=last) == []
        assert get(f"{url}/advance?events=100", "POST") == {"available": 1100}
        second = everything(url, since=last)
        assert everything(url) == first + second
    # Some that came in the first part are corrected in the second.
    assert {record["id"] for record in second} == {333, 373, *range(1001, 1101)}


def test_the_feed_is_the_same_after_a_restart(tmp_path):
    events.Feed(100, tmp_path / "available").advance(50)
    assert events.Feed(100, tmp_path / "available").available == 150


def test_the_feed_has_what_the_rules_are_for():
    feed = [record for number in range(1, 2001) for record in events.records(number)]
    assert any(record["user_id"] is None for record in feed)
    assert any(record["timestamp"] is None for record in feed)
    assert any(record["value"] == "n/a" for record in feed)
    assert any(isinstance(record["value"], float) and record["value"] < 0 for record in feed)
    assert {record["event_type"] for record in feed} == {"view", "click", "purchase", "hover"}
    assert any(
        record["user_id"] and record["user_id"] != record["user_id"].strip().lower() for record in feed
    )
    versions = {}
    for record in feed:
        versions.setdefault(record["id"], []).append(record["timestamp"])
    later = [found for found in versions.values() if len(found) > 1 and found[-1] > (found[0] or "")]
    same = [found for found in versions.values() if len(found) > 1 and found[-1] == found[0]]
    assert later
    assert same


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/events?limit=many", "GET", 400),
        ("/events?since=yesterday", "GET", 400),
        ("/advance?events=-1", "POST", 400),
        ("/elsewhere", "GET", 404),
        ("/events", "POST", 404),
    ],
)
def test_what_makes_no_sense_is_refused(path, method, status):
    with served(events.Feed(10)) as url, pytest.raises(HTTPError) as refused:
        get(url + path, method)
    assert refused.value.code == status
    assert json.load(refused.value)["error"]


# --- meshql demo --events -------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def meshql(*arguments, environ, code=0, timeout=120):
    """What `meshql ARGUMENTS` prints to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "meshql", *map(str, arguments)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def own(tmp_path):
    """The environment of commands whose state and cache are the test's own."""
    environ = {"MESHQL_STATE": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    yield environ
    if server := emulators.find("web", tmp_path / "state" / "demo" / "stores"):
        emulators.stop(server)


def newest(printed):
    """The newest event of the API whose URL was printed."""
    return everything(printed.strip().removesuffix("/events"), since=10_000)[-1]["id"]


def test_the_demo_serves_events_until_it_is_taken_down(own, tmp_path):
    port = free_port()
    started = time.monotonic()
    out, err = meshql("demo", "--events", "--port", port, environ=own)
    assert time.monotonic() - started < 10
    assert out == f"http://127.0.0.1:{port}/events\n"
    assert f"curl -X POST http://127.0.0.1:{port}/advance" in err
    assert newest(out) == 10_000
    get(f"http://127.0.0.1:{port}/advance", "POST")
    # Again is the same one, which has gone on; moved to another port, it remembers.
    assert meshql("demo", "--events", environ=own)[0] == out
    moved, _ = meshql("demo", "--events", "--port", free_port(), environ=own)
    assert not emulators.taken(port)
    assert newest(moved) == 12_500
    assert "removed events (web) on port" in meshql("demo", "--down", environ=own)[1]
    assert not (tmp_path / "state").exists()


def test_a_port_that_is_taken_is_said_with_the_way_out(own):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        _, err = meshql("demo", "--events", "--port", port, environ=own, code=2)
    assert f"port {port} of 127.0.0.1 is taken" in err
    assert f"meshql demo --events --port {port + 1}" in err


# --- the layers -----------------------------------------------------------------------------------

FIRST, THEN = events.AVAILABLE, 500


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The example built three times: from the first events, from what came then, and from nothing new."""
    folder = tmp_path_factory.mktemp("medallion")
    feed = events.Feed(FIRST)
    with served(feed) as url:
        environ = {
            "MESHQL_STATE": str(folder / "state"),
            "MESHQL_LAKE": str(folder / "lake"),
            "EVENTS_URL": f"{url}/events",
            "NO_PROXY": "127.0.0.1",
        }
        found = SimpleNamespace(environ=environ, folder=folder, builds=[], served=[])
        for more in (0, THEN, 0):
            feed.advance(more)
            found.served.append(everything(url, since=sum(map(len, found.served))))
            out, _ = meshql("-C", CATALOG, "build", "--format", "json", environ=environ)
            found.builds.append({step["product"]: step for step in json.loads(out)["steps"]})
    return found


@pytest.fixture
def mesh(lake, monkeypatch):
    """The example's products as anybody sees them, with the API gone."""
    for name, value in lake.environ.items():
        monkeypatch.setenv(name, value)
    with connect(CATALOG) as opened:
        yield opened


def reasons(record):
    """Why the rules refuse a record, by what they are called here."""
    value = record["value"]
    number = isinstance(value, float)
    broken = {
        "timestamp must not be null": record["timestamp"] is None,
        "user_id must not be null": record["user_id"] is None,
        "event_type must be one of click, view, purchase": record["event_type"] == "hover",
        "value is no DECIMAL(10,2)": not number,
        "value must be at least 0": number and value < 0,
    }
    return sorted(reason for reason, is_so in broken.items() if is_so)


def cleaned(records):
    """The events that a feed's records come to, by id: the newest that no rule refuses."""
    kept = {}
    for record in (r for r in records if not reasons(r)):
        if record["id"] not in kept or kept[record["id"]]["timestamp"] < record["timestamp"]:
            kept[record["id"]] = record
    return kept


def hourly(records):
    """The seed's figures by hour and type of event, from records of a feed; money in cents."""
    groups = {}
    for record in cleaned(records).values():
        groups.setdefault((record["timestamp"][:13], record["event_type"]), []).append(record)
    found = {}
    for key, group in groups.items():
        cents = [round(record["value"] * 100) for record in group]
        users = {record["user_id"].strip().lower() for record in group}
        found[key] = (len(users), len(group), sum(cents), min(cents), max(cents))
    return found


def accounted(step):
    return step["in"] == step["out"] + step["quarantined"] + step["duplicate"]


@pytest.mark.slow
def test_the_first_build_takes_all_and_the_next_what_is_new(lake):
    first, second, third = lake.builds
    seen = []
    for build, new in zip(lake.builds, lake.served, strict=True):
        had, seen = cleaned(seen), seen + new
        bronze, silver = build["web.events_raw"], build["web.events"]
        assert bronze["in"] == bronze["out"] == silver["in"] == len(new)
        assert bronze["rows"] == len(seen)
        assert accounted(silver)
        assert silver["quarantined"] == sum(bool(reasons(record)) for record in new)
        assert silver["out"] == len(cleaned(seen)) - len(had)
        assert silver["rows"] == len(cleaned(seen))
        assert build["web.events_hourly"]["rows"] == len(hourly(seen))
    assert second["web.events"]["updated"] > 0
    assert 0 < second["web.events_hourly"]["out"] < len(hourly(seen))
    assert {step["status"] for step in first.values()} == {"built"}
    assert {step["status"] for step in second.values()} == {"built"}
    assert {step["status"] for step in third.values()} == {"unchanged"}


@pytest.mark.slow
def test_each_layer_holds_what_the_feed_comes_to(lake, mesh):
    sent = [record for page in lake.served for record in page]
    raw = mesh.sql("SELECT id, user_id, raw_data, _source FROM web.events_raw").fetchall()
    assert sorted(raw, key=str) == sorted(
        ((r["id"], r["user_id"], r["raw_data"], "events-api") for r in sent), key=str
    )
    silver = mesh.sql(
        "SELECT id, strftime(timestamp, '%Y-%m-%dT%H:%M:%S'), user_id, event_type, value, year, month"
        " FROM web.events ORDER BY id"
    ).fetchall()
    assert silver == [
        (
            record["id"],
            record["timestamp"],
            record["user_id"].strip().lower(),
            record["event_type"],
            Decimal(str(record["value"])),
            int(record["timestamp"][:4]),
            int(record["timestamp"][5:7]),
        )
        for _, record in sorted(cleaned(sent).items())
    ]
    gold = mesh.sql(
        "SELECT strftime(hour, '%Y-%m-%dT%H'), event_type, unique_users, total_events, total_value,"
        " min_value, max_value, avg_value FROM web.events_hourly"
    ).fetchall()
    figures = {(row[0], row[1]): (*row[2:4], *(int(money * 100) for money in row[4:7])) for row in gold}
    assert figures == hourly(sent)
    assert all(abs(row[7] - float(row[4]) / row[3]) < 0.0051 for row in gold)


@pytest.mark.slow
def test_the_quarantine_holds_what_was_refused_and_why(lake, mesh):
    sent = [record for page in lake.served for record in page]
    rows = mesh.sql("SELECT _row, _reasons FROM web.events_quarantine").fetchall()
    found = sorted((json.loads(row)["id"], sorted(why)) for row, why in rows)
    assert found == sorted((record["id"], reasons(record)) for record in sent if reasons(record))
    assert any(len(why) > 1 for _, why in found)


@pytest.mark.slow
def test_the_dashboard_shows_the_figures_by_type_of_event(lake):
    out, _ = meshql(
        "-C", CATALOG, "query", CATALOG / "dashboard.sql", "--format", "json", environ=lake.environ
    )
    by_type = {}
    for (_, event_type), figures in hourly([r for page in lake.served for r in page]).items():
        by_type.setdefault(event_type, []).append(figures)
    wanted = [(name, sum(f[1] for f in group)) for name, group in by_type.items()]
    shown = json.loads(out)
    assert [(row["event_type"], int(row["events"])) for row in shown] == sorted(wanted, key=lambda w: -w[1])
    for row in shown:
        means = [figures[2] / figures[1] / 100 for figures in by_type[row["event_type"]]]
        assert abs(float(row["avg_value"]) - sum(means) / len(means)) < 0.011


@pytest.mark.slow
def test_the_log_of_runs_and_the_lineage_tell_how_it_came_to_be(lake, mesh):
    steps = mesh.sql(
        "SELECT rows_in, rows_out, rows_quarantined, rows_duplicate, status FROM meshql.runs"
        " WHERE product = 'web.events' ORDER BY started_at"
    ).fetchall()
    assert [step[4] for step in steps] == ["built", "built", "unchanged"]
    assert all(into == out + bad + twice for into, out, bad, twice, _ in steps)
    runs, _ = meshql("-C", CATALOG, "runs", "--format", "json", environ=lake.environ)
    assert [run["built"] for run in json.loads(runs)] == [0, 3, 3]
    assert [run["failures"] for run in json.loads(runs)] == [None] * 3
    tree, _ = meshql("-C", CATALOG, "lineage", "web.events_hourly", environ=lake.environ)
    gold, silver, bronze = tree.splitlines()
    assert gold.startswith("web.events_hourly  gold")
    assert gold.endswith("rui@example.com")
    assert silver.startswith("└─ web.events  silver")
    assert bronze.startswith("   └─ web.events_raw  bronze")


@pytest.mark.slow
def test_the_contracts_hold(lake):
    out, _ = meshql("-C", CATALOG, "check", "--format", "json", environ=lake.environ)
    assert '"failed"' not in out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="its peaks come from /proc")
def test_the_benchmark_builds_the_same_tables_as_the_script_by_hand(tmp_path):
    program = Path(__file__).parent / "benchmarks" / "bench_medallion.py"
    command = [sys.executable, str(program), "--rows", "30000", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both built the same tables" in done.stdout
