"""Builds of change capture killed at many points while others write, each resumed and compared with the source.

Run as a program: `python -m faults.cdc_kills FOLDER KILLS`. It prints one JSON document: what was killed where,
how many rows were lost and duplicated, and how many states came to be seen that no transaction had left (torn).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from clouds.postgres import Postgres, running
from faults.cdc_writers import PAUSE, SCHEMA
from faults.killing import Killer, die, forked, instrument

OPTIONS = "-c wal_level=logical -c max_wal_senders=20 -c max_replication_slots=20"

TABLES = ("accounts", "moves", "rates")

COLUMNS = {
    "accounts": "id, name, balance::text, {us}(seen_at){bigint}, active",
    "moves": 'id, account, amount::text, label, md5(note), {us}("at"){bigint}, checked',
    "rates": "code, rate::text",
}
"""What is compared: written so that both databases say the same."""

LOGGED = {
    "accounts": ("id", "name", "balance", "seen_at", "active"),
    "moves": ("id", "account", "amount", "label", "at", "checked"),
    "rates": ("code", "rate"),
}
"""What the newest entry of a row in the log has, the key first; long values may be in an older one."""

POINTS = (
    ("first", "publish", "after", 1),
    ("first", "make", "before", 1),
    ("first", "make", "during", 1),
    ("first", "make", "after", 1),
    ("first", "copy", "during", 1),
    ("first", "copy", "during", 2),
    ("first", "copy", "after", 3),
    ("first", "/_batches/", "before", 1),
    ("first", "/_batches/", "after", 1),
    ("first", "start", "before", 1),
    ("first", "delta write", "during", 1),
    ("first", "delta write", "after", 2),
    ("more", "start", "during", 1),
    ("more", "start", "after", 1),
    ("more", "take", "before", 3),
    ("more", "take", "after", 40),
    ("more", "take", "after", 101),
    ("more", "take", "after", 202),
    ("more", "/_ingested_on=", "before", 1),
    ("more", "/_ingested_on=", "during", 1),
    ("more", "/_ingested_on=", "after", 1),
    ("more", "/_batches/", "before", 1),
    ("more", "/_batches/", "during", 1),
    ("more", "/_batches/", "after", 1),
    ("more", "acknowledge", "before", 1),
    ("more", "acknowledge", "after", 1),
    ("more", "close", "before", 1),
    ("more", "close", "during", 1),
    ("more", "close", "after", 1),
    ("more", "released", "after", 1),
    ("more", "ask", "before", 5),
    ("more", "delta merge", "before", 1),
    ("more", "delta merge", "during", 1),
    ("more", "delta merge", "after", 1),
    ("more", "delta merge", "during", 2),
    ("more", "delta merge", "after", 2),
    ("more", "delta write", "during", 1),
    ("more", "random", "during", 1),
    ("more", "random", "during", 2),
    ("more", "random", "during", 3),
)
"""How far the lake was built before, at what call to die, at what moment of it, and at the how manieth."""


AGAIN = ("take", "/_ingested_on=", "/_batches/", "acknowledge", "delta merge", "ask")
"""Points that come again and again while changes are followed."""

LONGEST_SECONDS = 15.0
"""How long a point is waited for; the build is killed then, wherever it is."""


class Aimed(Killer):
    """Dies at the n-th point of a kind."""

    def __init__(self, kind: str, moment: str, nth: int, delay: float) -> None:
        super().__init__(None, moment, delay)
        self.kind, self.nth, self.left = kind, nth, nth

    def chosen(self, number: int, point: str) -> bool:
        """Whether this is the point to die at."""
        self.left -= self.kind in point
        return self.left == 0 and self.kind in point


def instrument_capture(killer: Killer) -> None:
    """Make points of what change capture does with the server, beside what it does to its stores."""
    from meshql.build.cdc import log, slots
    from meshql.build.cdc.capture import Capture
    from meshql.build.cdc.stream import Stream

    instrument(killer)
    killer.wrap(slots, "publish", lambda *a: "publish")
    killer.wrap(slots, "make", lambda *a, **k: "make")
    killer.wrap(slots, "released", lambda *a: "released")
    killer.wrap(log._Log, "_copy", lambda *a: "copy")
    killer.wrap(Stream, "_begin", lambda *a: "start")
    killer.wrap(Stream, "acknowledge", lambda *a: "acknowledge")
    killer.wrap(Stream, "close", lambda *a: "close")
    killer.wrap(Capture, "take", lambda *a: "take")


class Shop:
    """A lake that follows a server, and the server."""

    def __init__(self, home: Path, server: Postgres) -> None:
        self.home, self.server = home, server
        home.mkdir(parents=True, exist_ok=True)
        (home / "catalog.yaml").write_text(json.dumps(self.catalog()))

    def catalog(self) -> dict[str, Any]:
        """The catalog: a log of three tables, and one of them with its history."""
        server = self.server
        return {
            "meshql": 1,
            "connections": {
                "db": {
                    "cloud": "postgres",
                    "host": server.host,
                    "port": server.port,
                    "database": "postgres",
                    "insecure": True,
                    "auth": {"method": "password", "user": server.user, "password": server.password},
                }
            },
            "products": [
                {"name": "meshql.runs", "location": "lake/runs/", "format": "delta"},
                {
                    "name": "shop.changes",
                    "location": "lake/changes/",
                    "build": {"kind": "cdc", "from": "db", "tables": list(TABLES)},
                },
            ],
        }

    # --- in a child -------------------------------------------------------------------------------

    def build(self, killer: Killer | None = None, *, follow: bool = False) -> None:
        """Build to the end, or follow until killed; raises what a step raised."""
        from meshql.build.run import build
        from meshql.mesh import connect

        if killer is not None:
            instrument_capture(killer)
        with connect(self.home / "catalog.yaml") as mesh:
            if follow:
                from meshql.build.follow import follow as follow_on

                follow_on(mesh)
                return
            run = build(mesh)
            if run.errors:
                raise run.errors[0]

    def resume(self) -> None:
        """Write down what a killed build has left, build, and write down what there is then."""
        from meshql.mesh import connect

        with connect(self.home / "catalog.yaml") as mesh:
            seen = self.balances(mesh)
        self.build()
        with connect(self.home / "catalog.yaml") as mesh:
            said = {
                "balances": seen + self.balances(mesh),
                "rows": {table: self.rows(mesh, table) for table in TABLES},
                "logged": {table: self.logged(mesh, table) for table in TABLES},
                "twice": self.twice(mesh),
            }
        (self.home / "state.json").write_text(json.dumps(said))

    def balances(self, mesh: Any) -> list[str]:
        """What all accounts sum up to, in each version of the table that nobody has looked at."""
        from deltalake import DeltaTable

        from meshql.errors import LocationError

        try:
            with mesh.sql("SELECT coalesce(sum(balance), 0) FROM shop.accounts") as result:
                sums = [str(result.fetchall()[0][0])]
        except LocationError:
            return []
        note = self.home / "lake" / "looked"
        looked = int(note.read_text()) if note.exists() else -1
        folder = str(self.home / "lake" / "changes_accounts")
        newest = DeltaTable(folder).version()
        for version in range(looked + 1, newest + 1):
            column = DeltaTable(folder, version=version).to_pyarrow_table(columns=["balance"])["balance"]
            sums.append(str(sum(column.to_pylist())))
        note.write_text(str(newest))
        return sums

    def rows(self, mesh: Any, table: str) -> list[str]:
        """The rows of a table, as texts."""
        with mesh.sql(f"SELECT {_columns(table, ours=True)} FROM shop.{table}") as result:
            return [repr(tuple(row)) for row in result.fetchall()]

    def logged(self, mesh: Any, table: str) -> list[str]:
        """The rows of a table as the log tells them, as texts."""
        columns = LOGGED[table]
        values = ", ".join(f"""after['{column}']""" for column in columns)
        place, mine = "(_batch, lsn, seq)", f"FROM shop.changes WHERE table_name = 'public.{table}'"
        sql = (
            f"SELECT {values} FROM (SELECT * {mine} AND op NOT IN ('s', 't')"
            f" AND {place} > (SELECT max({place}) {mine} AND op IN ('s', 't'))"
            f" QUALIFY row_number() OVER (PARTITION BY coalesce(after, before)['{columns[0]}']"
            f" ORDER BY _batch DESC, lsn DESC, seq DESC) = 1) WHERE op <> 'd'"
        )
        with mesh.sql(sql) as result:
            return [repr(tuple(row)) for row in result.fetchall()]

    def twice(self, mesh: Any) -> int:
        """How many entries of the log are there twice, or in two batches what was one transaction."""
        sql = (
            "SELECT count(*) - count(DISTINCT (table_name, op IN ('s', 'r'), lsn, seq)) + ("
            " SELECT count(*) FROM (SELECT lsn FROM shop.changes WHERE op NOT IN ('s', 'r')"
            " GROUP BY lsn HAVING count(DISTINCT _batch) > 1)) FROM shop.changes"
        )
        with mesh.sql(sql) as result:
            return int(result.fetchall()[0][0])

    # --- outside ----------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the writers from writing for the block."""
        with closing(self.server.connect()) as session:
            session.execute("SELECT pg_advisory_lock(%s)", (PAUSE,))
            yield

    def source(self, table: str) -> list[str]:
        """The rows of a table as the server has them, as texts."""
        return [
            repr(tuple(row)) for row in self.server.ask(f"SELECT {_columns(table, ours=False)} FROM {table}")
        ]

    def copied(self, table: str) -> list[str]:
        """The rows of a table as the server writes them, as texts."""
        with (
            closing(self.server.connect()) as session,
            session.cursor().copy(f"COPY (SELECT {', '.join(LOGGED[table])} FROM {table}) TO STDOUT") as copy,
        ):
            return [repr(row) for row in copy.rows()]

    def compared(self) -> dict[str, int]:
        """Build to the end while nobody writes, and compare; returns figures."""
        with self.paused():
            self.done(self.resume)
            said = json.loads((self.home / "state.json").read_text())
            lost = doubled = 0
            pairs = [(said["rows"][table], self.source(table)) for table in TABLES]
            pairs += [(said["logged"][table], self.copied(table)) for table in TABLES]
            for mine, theirs in pairs:
                lost += (Counter(theirs) - Counter(mine)).total()
                doubled += (Counter(mine) - Counter(theirs)).total()
        torn = sum(float(s) != 0 for s in said["balances"])
        return {
            "torn": torn,
            "lost": lost,
            "duplicated": doubled + said["twice"],
            "versions": len(said["balances"]),
        }

    def done(self, work: Callable[[], object]) -> None:
        """Do it in a child that nobody kills."""
        log = self.home / "trace.txt"
        if code := forked(work, log):
            raise AssertionError(f"it ended with {code}: {log.read_text()[-3000:]}")

    def killed(self, killer: Aimed, seconds: float, *, follow: bool) -> str | None:
        """Build in a child that is killed, after so many seconds at the latest.

        Returns where that was; None for a build that came to its end before.
        """
        began = time.monotonic()

        def work() -> None:
            threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()
            self.build(killer, follow=follow)

        log = self.home / "trace.txt"
        log.unlink(missing_ok=True)
        code = forked(work, log)
        assert code in (0, -9), log.read_text()[-3000:]
        if code == 0:
            return None
        return "some time" if time.monotonic() - began >= seconds else killer.kind


def _columns(table: str, *, ours: bool) -> str:
    us, bigint = ("epoch_us", "") if ours else ("(extract(epoch FROM ", ") * 1000000)::bigint")
    return COLUMNS[table].format(us=us, bigint=bigint)


@contextmanager
def writing(server: Postgres, seed: int, writers: int = 2) -> Iterator[None]:
    """Have transactions come for the block."""
    command = [sys.executable, "-m", "faults.cdc_writers", str(server.port), str(seed), str(writers)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
        assert process.poll() is None, "the writers ended by themselves"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def cases(most: int, chance: random.Random) -> Iterator[tuple[str, Aimed, float, bool]]:
    """What to kill, spread over all points, half of it following."""
    step = max(len(POINTS) / most, 1)
    for number in range(most):
        lap, place = divmod(int(number * step), len(POINTS))
        far, kind, moment, nth = POINTS[place]
        # What is built once is followed the next time.
        follow = (number + lap) % 2 == 1
        if follow and kind in AGAIN:
            nth += chance.randrange(2 + 3 * lap)
        seconds = chance.uniform(0.2, 4 + 4 * lap) if kind == "random" else LONGEST_SECONDS
        yield far, Aimed(kind, moment, nth, chance.random() * 0.05), seconds, follow


def kill_all(folder: Path, most: int) -> dict[str, Any]:
    """Kill builds at `most` points, and return the figures."""
    import_all()
    chance = random.Random(11)
    figures = dict.fromkeys(("killed", "torn", "lost", "duplicated", "versions"), 0)
    found = []
    with running(OPTIONS) as server:
        server.execute(*SCHEMA)
        shop = Shop(folder / "home", server)
        with writing(server, seed=7):
            shop.compared()
            for far, killer, seconds, follow in cases(most, chance):
                if far == "first":
                    shutil.rmtree(folder / "home" / "lake")
                began = time.monotonic()
                while not (point := shop.killed(killer, seconds, follow=follow)):
                    # This time there were fewer points; if there is none at all, it is the time that ends it.
                    killer.left = killer.nth = max(killer.nth // 2, 1)
                    seconds /= 4
                middle = time.monotonic()
                case = {"point": point, "moment": killer.moment, "follow": follow, **shop.compared()}
                case |= {"seconds": [round(middle - began, 1), round(time.monotonic() - middle, 1)]}
                found.append(case)
                figures["killed"] += 1
                for figure in ("torn", "lost", "duplicated", "versions"):
                    figures[figure] += case[figure]
                if os.environ.get("VERBOSE"):
                    print(case, file=sys.stderr, flush=True)
    return {**figures, "cases": found}


def import_all() -> None:
    """Import what builds take, so that a child need not."""
    import deltalake  # noqa: F401
    import duckdb  # noqa: F401
    import psycopg  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import meshql.build.run
    import meshql.mesh  # noqa: F401


if __name__ == "__main__":
    print(json.dumps(kill_all(Path(sys.argv[1]), int(sys.argv[2]))))
