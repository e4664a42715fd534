"""Change capture where servers, networks and stores fail: it recovers, or says what to do; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from clouds.gateway import gateway
from clouds.postgres import running
from clouds.wire import wired
from test_cdc import ORDERS, Shop, slot_of, wait

import meshql
from meshql.build.cdc import log, slots, stream
from meshql.build.cdc.capture import Capture
from meshql.build.cdc.server import server_of
from meshql.build.follow import follow
from meshql.build.run import build
from meshql.errors import BusyError, LocationError, StorageError

KILLS = 8
"""How many builds a test kills; the program in faults/ takes any number."""

FILLED = "INSERT INTO orders SELECT i, 'n' || i, i FROM generate_series(1, 500) i"


@pytest.fixture(scope="module")
def fragile():
    """A server that tests stop and start."""
    options = "-c wal_level=logical -c max_wal_senders=20 -c max_replication_slots=20 -c min_wal_size=32MB"
    with running(options) as server:
        yield server


@pytest.fixture
def shop(tmp_path, fragile, request):
    name = request.node.name.replace("[", "_").replace("]", "")[:50].lower()
    found = Shop(tmp_path, fragile, name)
    found.sql(ORDERS, FILLED)
    yield found
    found.close()
    for (slot,) in fragile.ask("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [name]):
        fragile.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    fragile.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def built(shop):
    """A shop whose log has its tables, and a change to come."""
    shop.declare("orders")
    shop.build()
    shop.sql("UPDATE orders SET amount = -amount WHERE id <= 100", "DELETE FROM orders WHERE id > 490")
    return shop


@contextmanager
def following(shop):
    """Follow for the block; yields what is followed."""
    begun, ended = [], []
    told = threading.Thread(
        target=lambda: ended.append(follow(shop.mesh, ["shop.changes"], started=begun.append))
    )
    told.start()
    wait(lambda: begun and begun[0].products["shop.changes"].turn.progress.stream)
    try:
        yield begun[0]
    finally:
        begun[0].stop()
        told.join(30)
        assert not told.is_alive()


def insert(shop, number):
    """Insert a row, and wait until the log has it."""
    shop.sql(f"INSERT INTO orders VALUES ({number})")
    wait(lambda: any(e["after"] and ("id", str(number)) in e["after"] for e in shop.log()), seconds=30)


def once(monkeypatch, owner, name, act, nth=1):
    """Do something before the n-th call of a function, once."""
    real, left = getattr(owner, name), [nth]

    def called(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


# --- servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_during_a_build(built, fragile, monkeypatch, mode):
    def restart():
        fragile.stop(mode)
        fragile.start()

    # A server that is stopped fast waits for us.
    restarting = threading.Thread(target=restart)
    once(monkeypatch, Capture, "take", lambda: (restarting.start(), time.sleep(0.5)), nth=40)
    built.build()
    restarting.join()
    built.build()
    built.check("public.orders")
    assert built.build().status == "unchanged"


def test_a_server_that_stays_down_is_a_clear_error_and_the_next_build_is_right(built, fragile, monkeypatch):
    once(monkeypatch, Capture, "take", lambda: fragile.stop("immediate"), nth=40)
    try:
        with pytest.raises(StorageError, match=f"127.0.0.1:{fragile.port}/{built.name}") as caught:
            built.build()
        assert caught.value.hint
    finally:
        fragile.start()
    built.build()
    built.check("public.orders")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_is_followed_on(built, fragile, mode):
    with following(built) as followed:
        insert(built, 1001)
        fragile.stop(mode)
        wait(lambda: followed.products["shop.changes"].problem)
        fragile.start()
        insert(built, 1002)
        assert followed.products["shop.changes"].problem is None
    built.build()
    built.check("public.orders")


def test_a_server_whose_files_were_put_back_is_noticed(built, fragile):
    fragile.stop()
    shutil.copytree(fragile.folder / "data", fragile.folder / "saved")
    try:
        fragile.start()
        built.build()
        built.sql("SELECT pg_switch_wal()", "INSERT INTO orders VALUES (1001)")
        built.build()
        fragile.stop()
        shutil.rmtree(fragile.folder / "data")
    finally:
        shutil.move(fragile.folder / "saved", fragile.folder / "data")
        if fragile.owner:
            subprocess.run(["chown", "-R", fragile.owner, fragile.folder / "data"], check=True)
        fragile.start()
    built.sql("INSERT INTO orders VALUES (2002)")
    with pytest.raises(LocationError, match=r"server's log ends at .*, before") as caught:
        built.build()
    assert "meshql build shop.changes --full" in caught.value.hint
    built.build(full=True)
    built.check("public.orders")


def test_a_commit_at_the_very_place_of_the_snapshot(shop):
    """A session that was writing when the slot came to be, and commits next, is behind the snapshot."""
    shop.declare("orders")
    sessions = [shop.server.connect(dbname=shop.name, autocommit=False) for _ in range(3)]
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid' AND transactionid = %s"
    try:
        one, two, three = sessions
        first = began(one, "UPDATE orders SET amount = 1 WHERE id = 1")
        builder = threading.Thread(target=shop.build)
        builder.start()
        wait(lambda: shop.server.ask(waits, [first]) == [(1,)])
        second = began(two, "UPDATE orders SET amount = 2 WHERE id = 2")
        one.commit()
        wait(lambda: shop.server.ask(waits, [second]) == [(1,)])
        began(three, "UPDATE orders SET name = 'last' WHERE id = 500")
        two.commit()
        wait(
            lambda: shop.server.ask(
                "SELECT 1 FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL AND database = %s",
                [shop.name],
            )
        )
        three.commit()
        builder.join(30)
    finally:
        for session in sessions:
            session.close()
    shop.build()
    shop.check("public.orders")
    entries = shop.log()
    last = max(entries, key=lambda e: (e["lsn"], e["seq"]))
    assert (last["op"], last["after"][1]) == ("u", ("name", "last"))


def began(session, statement):
    """Run a statement in a transaction that stays open, and return its number."""
    session.execute(statement)
    ((number,),) = session.execute("SELECT pg_current_xact_id()::xid").fetchall()
    return number


# --- slots ----------------------------------------------------------------------------------------


def dropped(shop):
    name = slot_of(shop)
    shop.server.execute(
        f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}'"
    )
    wait(
        lambda: shop.server.ask(
            "SELECT 1 FROM pg_replication_slots WHERE NOT active AND slot_name = %s", [name]
        )
    )
    shop.server.execute(f"SELECT pg_drop_replication_slot('{name}')")


def test_a_slot_that_is_dropped_while_it_is_followed(built):
    with following(built) as followed:
        insert(built, 1001)
        dropped(built)
        one = followed.products["shop.changes"]
        wait(lambda: one.state == "failed", seconds=30)
    assert isinstance(one.turn.error, LocationError)
    assert "is gone: changes since the last build are lost" in one.turn.error.message
    assert "meshql build shop.changes --full" in one.turn.error.hint


def test_a_slot_that_the_server_gave_up(built, fragile):
    fragile.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'", "SELECT pg_reload_conf()")
    try:
        for _ in range(6):
            built.sql("UPDATE orders SET amount = 0", "SELECT pg_switch_wal()")
        built.sql("CHECKPOINT")
        with pytest.raises(LocationError, match="the server has removed what the slot") as caught:
            built.build()
        assert "meshql build shop.changes --full" in caught.value.hint
        assert "max_slot_wal_keep_size" in caught.value.hint
        status = slots.status(built.mesh, built.mesh.find("shop.changes"))
        assert status.state == "lost"
        assert "has removed what the slot" in status.warning
        built.build(full=True)
        built.check("public.orders")
    finally:
        fragile.execute("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def test_a_session_of_a_product_with_a_long_name_is_known_again(shop, monkeypatch):
    name = "shop." + "long_" * 12 + "name"
    shop.declare("orders")
    catalog = json.loads((shop.folder / "catalog.yaml").read_text())
    catalog["products"][0]["name"] = name
    (shop.folder / "catalog.yaml").write_text(json.dumps(catalog))
    with meshql.connect(shop.folder / "catalog.yaml") as mesh:
        assert build(mesh, [name]).errors == []
        server = server_of(mesh, "shop_db", name)
        slot, publication = slots.names_of(mesh, mesh.find(name))
        left = stream.Stream(server, name, slot, publication, 1)
        assert build(mesh, [name]).errors == []
        left.close()


# --- networks -------------------------------------------------------------------------------------


def test_a_network_that_is_cut_during_a_build(built, fragile, monkeypatch):
    with wired(fragile.port) as wire:
        built.declare("orders", connection={"port": wire.port})
        once(monkeypatch, Capture, "take", wire.cut, nth=40)
        built.build()
    built.declare("orders")
    built.check("public.orders")


def test_a_network_that_is_cut_while_it_is_followed(built, fragile):
    with wired(fragile.port) as wire:
        built.declare("orders", connection={"port": wire.port})
        with following(built):
            for number in range(3):
                insert(built, 1001 + number)
                wire.cut()
        built.build()
        built.check("public.orders")


@pytest.mark.parametrize("how", ["follow", "build"])
def test_a_network_in_which_nothing_passes_any_more(built, fragile, monkeypatch, how):
    monkeypatch.setattr("meshql.build.cdc.stream.QUIET_SECONDS", 1.0)
    monkeypatch.setattr("meshql.build.cdc.stream.STATUS_SECONDS", 0.3)
    monkeypatch.setattr("meshql.build.cdc.server.ANSWER_SECONDS", 1.0)
    with wired(fragile.port) as wire:
        built.declare("orders", connection={"port": wire.port})
        if how == "build":
            once(monkeypatch, Capture, "take", wire.silence, nth=2)
            built.build()
        else:
            with following(built):
                insert(built, 1001)
                # The server holds the slot for the session of which it hears nothing.
                wire.silence()
                insert(built, 1002)
    built.declare("orders")
    built.build()
    built.check("public.orders")


def test_who_follows_over_a_dead_network_can_stop(built, fragile, monkeypatch):
    with wired(fragile.port) as wire:
        built.declare("orders", connection={"port": wire.port})
        with following(built):
            wire.silence(new=True)
            time.sleep(1)
            began_at = time.monotonic()
        assert time.monotonic() - began_at < 10


# --- stores ---------------------------------------------------------------------------------------


def test_a_store_that_fails_while_it_is_followed(built, s3):
    s3.create_bucket("faulty-log")
    with gateway(s3.endpoint) as door:
        stored(built, type(s3)(s3.cloud, door.url, s3.key_id, s3.secret))
        with following(built) as followed:
            insert(built, 1001)
            failing = threading.Event()
            failing.set()
            door.fault = lambda request: "503" if failing.is_set() and "/_batches/" in request.path else None
            built.sql("INSERT INTO orders VALUES (1002)")
            wait(lambda: followed.products["shop.changes"].problem, seconds=60)
            failing.clear()
            insert(built, 1003)
    stored(built, s3)
    built.build()
    built.check("public.orders")
    assert [e["op"] for e in built.log()].count("s") == 1


def stored(shop, store):
    """Have the log lie in a bucket."""
    catalog = json.loads((shop.folder / "catalog.yaml").read_text())
    catalog["connections"]["store"] = store.connection
    catalog["products"][0] |= {"connection": "store", "location": "s3://faulty-log/changes/"}
    (shop.folder / "catalog.yaml").write_text(json.dumps(catalog))
    shop.close()
    shop.mesh = meshql.connect(shop.folder / "catalog.yaml")


def test_a_store_that_takes_its_time_is_no_silence_of_the_server(built, monkeypatch):
    monkeypatch.setattr("meshql.build.cdc.stream.QUIET_SECONDS", 1.0)
    monkeypatch.setattr("meshql.build.cdc.capture.ROWS_IN_PART", 50)
    once(monkeypatch, log._Log, "write", lambda: time.sleep(1.5))
    begun = []
    once(monkeypatch, stream.Stream, "_begin", lambda: begun.append(True), nth=2)
    built.build()
    assert begun == []
    built.check("public.orders")


# --- several at once, clocks, and waiting ---------------------------------------------------------


def test_of_two_builds_at_once_one_gives_way(built, monkeypatch):
    began_at = threading.Event()
    once(monkeypatch, Capture, "take", lambda: (began_at.set(), time.sleep(1)))
    first = threading.Thread(target=built.build)
    first.start()
    began_at.wait(10)
    with meshql.connect(built.folder / "catalog.yaml") as mesh:
        errors = build(mesh, ["shop.changes"]).errors
    first.join()
    assert [type(e) for e in errors] == [BusyError]
    built.check("public.orders")
    assert built.build().status == "unchanged"


def test_of_two_builds_that_know_nothing_of_each_other_one_gives_way(built, monkeypatch):
    """A machine that slept wakes up in the middle of a build that another one has taken over."""
    other = []

    def overtake():
        with meshql.connect(built.folder / "catalog.yaml") as mesh:
            store, location = mesh.store(mesh.find("shop.changes"))
            for found in store.objects(f"{location.folder.key}_meshql/"):
                store.delete([found.key])
            other.append(build(mesh, ["shop.changes"]))

    once(monkeypatch, log._Log, "commit", overtake)
    built.build()
    assert other[0].errors == []
    built.check("public.orders")
    entries = built.log()
    assert len({(e["op"], e["lsn"], e["seq"]) for e in entries}) == len(entries)


def test_a_clock_that_is_set_back(built, monkeypatch):
    real = time.time_ns
    with following(built) as followed:
        insert(built, 1001)
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
        insert(built, 1002)
        wait(lambda: followed.products["shop.changes"].turn.progress.stream)
        assert followed.products["shop.changes"].turn.progress.stream.lag_seconds >= 0
    built.build()
    built.check("public.orders")


def test_a_build_that_waits_for_a_transaction_can_be_cancelled(shop):
    shop.declare("orders")
    runs = []
    with closing(shop.server.connect(dbname=shop.name, autocommit=False)) as session:
        session.execute("INSERT INTO orders VALUES (1001)")
        builder = threading.Thread(target=lambda: build(shop.mesh, ["shop.changes"], started=runs.append))
        builder.start()
        wait(lambda: runs and "waiting for transactions" in runs[0].turns["shop.changes"].progress.doing)
        wait(lambda: shop.server.ask("SELECT 1 FROM pg_locks WHERE NOT granted"))
        began_at = time.monotonic()
        runs[0].cancelled.set()
        builder.join(10)
        assert time.monotonic() - began_at < 2
        assert runs[0].turns["shop.changes"].status == "cancelled"
        session.commit()
    assert shop.server.ask("SELECT 1 FROM pg_replication_slots WHERE database = %s", [shop.name]) == []
    shop.build()
    shop.check("public.orders")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_builds_killed_at_many_points_lose_and_double_nothing(tmp_path):
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "faults.cdc_kills", tmp_path / "shops", str(KILLS)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
        timeout=380,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    print({k: v for k, v in found.items() if k != "cases"})
    assert [c for c in found["cases"] if c["torn"] or c["lost"] or c["duplicated"]] == []
    assert (found["killed"], found["torn"], found["lost"], found["duplicated"]) == (KILLS, 0, 0, 0)
