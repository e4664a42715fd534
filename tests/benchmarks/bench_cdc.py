"""Change capture at size: how fast a backlog is taken, how far behind it follows, what a merge costs as tables grow.

    python tests/benchmarks/bench_cdc.py                       # all three
    python tests/benchmarks/bench_cdc.py backlog lag
    python tests/benchmarks/bench_cdc.py merge --rows 1 3      # millions

The backlog is 200,000 inserts, 50,000 updates and 10,000 deletes. Its base is what reading the same changes
costs a client that does nothing with them: pg_logical_slot_peek_binary_changes, read by psycopg. The lag is
from a commit in PostgreSQL to the answer of a query that has it, of a row that comes every 100 ms beside the
load. Everything runs on one machine: the server, its writers, meshql and whoever queries. Nothing is asserted
about time, since machines differ.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_medallion import megabytes, meshql
from clouds.postgres import running

if TYPE_CHECKING:
    from clouds.postgres import Postgres

OPTIONS = "-c wal_level=logical -c max_wal_size=8GB -c shared_buffers=512MB -c checkpoint_timeout=1h"

BACKLOG = (
    (
        "INSERT INTO orders SELECT i, 'order ' || i, i % 1000 / 4.0, now() FROM generate_series({0}, {1}) i",
        200_000,
    ),
    ("UPDATE orders SET amount = amount + 1 WHERE id BETWEEN {0} AND {1}", 50_000),
    ("DELETE FROM orders WHERE id BETWEEN {0} AND {1}", 10_000),
)

IN_TRANSACTION = 1000

ORDERS = "(id bigint PRIMARY KEY, name text, amount numeric(12,2), at timestamptz)"

CHANGED = 10_000


def declare(folder: Path, server: Postgres, *tables: str) -> None:
    """Write a catalog that follows tables of the server."""
    folder.mkdir(parents=True)
    auth = {"method": "password", "user": server.user, "password": server.password}
    where = {"host": server.host, "port": server.port, "database": "postgres"}
    catalog = {
        "meshql": 1,
        "connections": {"db": {"cloud": "postgres", **where, "insecure": True, "auth": auth}},
        "products": [
            {
                "name": "shop.changes",
                "location": "lake/changes/",
                "build": {"kind": "cdc", "from": "db", "tables": list(tables)},
            }
        ],
    }
    (folder / "catalog.yaml").write_text(json.dumps(catalog))


def built(folder: Path) -> tuple[dict[str, float], float]:
    """Build in a process of its own; returns the seconds of each step, and the peak of memory in MB."""
    out, err = meshql(folder, "build", "--format", "json")
    return {step["product"]: step["seconds"] for step in json.loads(out)["steps"]}, megabytes(err)


# --- a backlog ------------------------------------------------------------------------------------


def backlog(folder: Path, server: Postgres) -> None:
    """Measure changes/s of a backlog: in the log, in the table, and merely read."""
    server.execute("CREATE TABLE orders " + ORDERS)
    declare(folder, server, "orders")
    built(folder)
    changes = 0
    for statement, rows in BACKLOG:
        for first in range(1, rows, IN_TRANSACTION):
            server.execute(statement.format(first, first + IN_TRANSACTION - 1))
        changes += rows
    bare = min(peeked(server) for _ in range(2))
    took, peak = built(folder)
    log, table = took["shop.changes"], took["shop.orders"]
    print(f"a backlog of {changes:,} changes\n")
    print(f"{'':12}{'s':>8}{'changes/s':>12}{'ratio':>8}")
    for name, seconds in (("merely read", bare), ("log", log), ("table", table), ("both", log + table)):
        print(f"{name:12}{seconds:8.1f}{changes / seconds:12,.0f}{seconds / bare:8.2f}")
    print(f"{'peak MB':12}{peak:8.0f}\n")
    ((rows,),) = server.ask("SELECT count(*) FROM orders")
    out, _ = meshql(folder, "query", "-c", "SELECT count(*) AS n FROM shop.orders", "--format", "jsonl")
    assert json.loads(out) == {"n": rows}, out


def peeked(server: Postgres) -> float:
    """Return how long it takes to read what the slot has, without a look at it."""
    ((slot,),) = server.ask("SELECT slot_name FROM pg_replication_slots")
    query = (
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', %s)"
    )
    with closing(server.connect()) as session, session.cursor(binary=True) as cursor:
        started = time.perf_counter()
        for _ in cursor.stream(query, (slot, slot)):
            pass
        return time.perf_counter() - started


# --- the lag --------------------------------------------------------------------------------------


def lag(folder: Path, server: Postgres, rate: int, seconds: float) -> None:
    """Measure from commits to queries that see them, while `rate` changes come each second."""
    server.execute(
        "CREATE TABLE load " + ORDERS,
        "INSERT INTO load SELECT i, 'row ' || i, 0, now() FROM generate_series(1, 100000) i",
        "CREATE TABLE beats (id int PRIMARY KEY, at timestamptz)",
    )
    declare(folder, server, "load", "beats")
    built(folder)
    with followed(folder), loaded(server, rate) as counted:
        # What is there at the beginning is not to be measured.
        time.sleep(10)
        seen = watched(folder, server, seconds)
        done, during = counted()
    lags = sorted(seen)
    print(f"{done / during:,.0f} changes/s for {seconds:g} s, of {rate:,} asked for; {len(lags)} beats\n")
    cuts = statistics.quantiles(lags, n=100)
    print(f"{'lag s':12}{'p50':>8}{'p90':>8}{'p99':>8}{'worst':>8}")
    print(f"{'':12}{cuts[49]:8.2f}{cuts[89]:8.2f}{cuts[98]:8.2f}{lags[-1]:8.2f}\n")


@contextmanager
def followed(folder: Path) -> Iterator[None]:
    """Follow in a process of its own, for the block."""
    command = [sys.executable, __file__, "--only-follow", "--folder", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
        assert process.poll() is None, "following ended by itself"
    finally:
        process.communicate()


def follow_on(folder: Path) -> None:
    """Follow until the input ends."""
    from meshql.build.follow import Following, follow
    from meshql.mesh import connect

    def started(following: Following) -> None:
        threading.Thread(target=lambda: (sys.stdin.read(), following.stop()), daemon=True).start()

    with connect(folder / "catalog.yaml") as mesh:
        follow(mesh, started=started)


@contextmanager
def loaded(server: Postgres, rate: int) -> Iterator[Any]:
    """Update so many rows each second, and insert a beat every 100 ms; yields what counts them."""
    ended = threading.Event()
    done = [0]
    began = time.perf_counter()

    def load() -> None:
        rows = rate // 50
        with closing(server.connect()) as session:
            at = time.perf_counter()
            while not ended.is_set():
                first = random.randrange(100_000 - rows)
                statement = "UPDATE load SET amount = amount + 1, at = now() WHERE id > %s AND id <= %s"
                done[0] += session.execute(statement, (first, first + rows)).rowcount
                at += 0.02
                time.sleep(max(at - time.perf_counter(), 0))

    def beat() -> None:
        with closing(server.connect()) as session:
            number = 0
            while not ended.wait(0.1):
                number += 1
                session.execute("INSERT INTO beats VALUES (%s, clock_timestamp())", (number,))

    threads = [threading.Thread(target=load), threading.Thread(target=beat)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: (done[0], time.perf_counter() - began)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def watched(folder: Path, server: Postgres, seconds: float) -> list[float]:
    """Return the lag of each beat that comes within so many seconds, as a query sees it."""
    from meshql.mesh import connect

    ((first,),) = server.ask("SELECT max(id) FROM beats")
    lags: list[float] = []
    ends = time.monotonic() + seconds
    with connect(folder / "catalog.yaml") as mesh:
        while time.monotonic() < ends:
            sql = f'SELECT id, epoch_us("at") FROM shop.beats WHERE id > {first} ORDER BY id'
            with mesh.sql(sql) as result:
                rows = result.fetchall()
            now = time.time()
            lags += [now - at / 1e6 for _, at in rows]
            first = rows[-1][0] if rows else first
            time.sleep(0.05)
    return lags


# --- merges ---------------------------------------------------------------------------------------


def merge(folder: Path, server: Postgres, sizes: list[int]) -> None:
    """Measure what a merge of 10,000 changed rows costs, by the size of the table."""
    print(f"{CHANGED:,} changed rows merged into a table\n")
    print(f"{'rows':>12}{'first s':>9}{'rows/s':>10}{'random s':>10}{'ratio':>7}{'recent s':>10}{'ratio':>7}")
    base: tuple[float, float] | None = None
    for rows in sizes:
        name = f"narrow_{rows}"
        server.execute(
            f"CREATE TABLE {name} (id int PRIMARY KEY, n int)",
            f"INSERT INTO {name} SELECT i, 0 FROM generate_series(1, {rows}) i",
        )
        home = folder / name
        declare(home, server, name)
        first = sum(built(home)[0].values())
        spread = merged(home, server, name, f"id % {rows // CHANGED} = 7")
        recent = merged(home, server, name, f"id > {rows - CHANGED}")
        base = base or (spread, recent)
        ratios = spread / base[0], recent / base[1]
        print(
            f"{rows:12,}{first:9.1f}{rows / first:10,.0f}{spread:10.2f}{ratios[0]:7.2f}{recent:10.2f}{ratios[1]:7.2f}",
            flush=True,
        )
        server.execute(f"DROP TABLE {name}")
        for (slot,) in server.ask("SELECT slot_name FROM pg_replication_slots"):
            server.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    print()


def merged(folder: Path, server: Postgres, name: str, where: str) -> float:
    """Change rows, and return how long the table takes for them, the least of two times."""
    took = []
    for _ in range(2):
        server.execute(f"UPDATE {name} SET n = n + 1 WHERE {where}")
        took.append(built(folder)[0][f"shop.{name}"])
    return min(took)


def main() -> None:
    """Run what was asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["backlog", "lag", "merge"], help="backlog, lag, merge")
    parser.add_argument("--rate", type=int, default=5000, help="changes per second, for the lag")
    parser.add_argument("--seconds", type=float, default=60, help="how long the lag is measured")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 3, 10], help="millions, for the merge")
    parser.add_argument("--folder", type=Path, help="where to work, in place of a temporary folder")
    parser.add_argument("--only-follow", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_follow:
        follow_on(given.folder)
        return
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="bench-cdc-") as name:
        folder = Path(name)
        for what in given.what:
            with running(OPTIONS) as server:
                if what == "backlog":
                    backlog(folder / what, server)
                elif what == "lag":
                    lag(folder / what, server, given.rate, given.seconds)
                else:
                    merge(folder / what, server, [millions * 1_000_000 for millions in given.rows])


if __name__ == "__main__":
    main()
