"""Writers that keep a PostgreSQL busy as an application does, each transaction leaving the books in balance.

Run as a program: `python -m faults.cdc_writers PORT SEED WRITERS`. It ends when its input does. Whoever holds
the advisory lock PAUSE keeps transactions from beginning.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise

import psycopg
from clouds.postgres import PASSWORD, USER

PAUSE = 4711

SCHEMA = (
    "CREATE TABLE accounts (id int PRIMARY KEY, name text, balance numeric(14,2) NOT NULL, seen_at timestamptz,"
    " active bool)",
    "CREATE TABLE moves (id bigint PRIMARY KEY, account int, amount numeric, label text, note text,"
    " at timestamptz, checked bool)",
    "ALTER TABLE moves ALTER note SET STORAGE EXTERNAL",
    "CREATE TABLE rates (code text PRIMARY KEY, rate numeric(10,4))",
    "CREATE SEQUENCE ids START 1000",
    "INSERT INTO accounts SELECT i, 'account ' || i, 0, now(), true FROM generate_series(1, 150) i",
    "INSERT INTO moves SELECT i, i, 0, NULL, repeat(md5(i::text), 100), now(), NULL FROM generate_series(1, 500) i",
    "INSERT INTO rates VALUES ('EUR', 1), ('USD', 1.08)",
)

KEPT = 3000
"""How many moves there are at most: older ones are deleted."""


class Writer:
    """One session with its own chance."""

    def __init__(self, session: psycopg.Connection, seed: int) -> None:
        self.session = session
        self.chance = random.Random(seed)

    def one(self) -> None:
        """Do one transaction, or undo it."""
        kinds = (self.transfer, self.transfer, self.transfer, self.open, self.close, self.rename, self.amend)
        rare = (self.clean, self.rates, self.passing, self.parts, self.many)
        kind = self.chance.choice(kinds if self.chance.random() < 0.85 else rare)
        try:
            with self.session.transaction(force_rollback=self.chance.random() < 0.05):
                self.session.execute("SELECT pg_advisory_xact_lock_shared(%s)", (PAUSE,))
                self.session.execute("SET LOCAL lock_timeout = '2s'")
                kind()
        except (
            psycopg.errors.DeadlockDetected,
            psycopg.errors.LockNotAvailable,
            psycopg.errors.UniqueViolation,
        ):
            pass

    def some(self, number: int) -> list[int]:
        """Choose accounts, which nobody else changes then."""
        rows = self.session.execute(
            "SELECT id FROM accounts ORDER BY hashint4(id # %s) LIMIT %s FOR UPDATE",
            (self.chance.randrange(1 << 30), number),
        ).fetchall()
        if len(rows) < number:
            # Somebody has just deleted one.
            raise psycopg.errors.LockNotAvailable
        return [row[0] for row in rows]

    def pay(self, account: int, amount: int) -> None:
        """Add cents to an account, and write that down."""
        self.session.execute(
            "WITH paid AS (UPDATE accounts SET balance = balance + %(amount)s / 100.0, seen_at = clock_timestamp()"
            " WHERE id = %(account)s RETURNING id)"
            " INSERT INTO moves SELECT nextval('ids'), id, %(amount)s / 100.0, %(label)s, %(note)s,"
            " clock_timestamp(), %(checked)s FROM paid",
            {
                "account": account,
                "amount": amount,
                "label": self.chance.choice([None, "", "tab\tand\nline", "ü\\N"]),
                "note": "x" * 3000 if self.chance.random() < 0.1 else None,
                "checked": self.chance.choice([None, True, False]),
            },
        )

    def transfer(self) -> None:
        accounts = self.some(self.chance.randrange(2, 5))
        for _ in range(self.chance.randrange(1, 4)):
            amount = self.chance.randrange(1, 10_000)
            for giver, taker in pairwise(accounts):
                self.pay(giver, -amount)
                self.pay(taker, amount)

    def open(self) -> None:
        (giver,) = self.some(1)
        (number,) = self.session.execute("SELECT nextval('ids')").fetchone()
        self.session.execute(
            "INSERT INTO accounts VALUES (%s, %s, 0, NULL, NULL)", (number, f"opened {number}")
        )
        self.pay(number, 500)
        self.pay(giver, -500)

    def close(self) -> None:
        gone, heir = self.some(2)
        (count,) = self.session.execute("SELECT count(*) FROM accounts").fetchone()
        if count < 100:
            return
        self.session.execute(
            "WITH gone AS (DELETE FROM accounts WHERE id = %s RETURNING balance)"
            " UPDATE accounts SET balance = accounts.balance + gone.balance FROM gone WHERE id = %s",
            (gone, heir),
        )

    def rename(self) -> None:
        """Give an account another number, and now and then its old one back."""
        (old,) = self.some(1)
        self.session.execute("UPDATE accounts SET id = nextval('ids') WHERE id = %s", (old,))
        if self.chance.random() < 0.3:
            self.session.execute("INSERT INTO accounts VALUES (%s, 'again', 0, now(), false)", (old,))

    def amend(self) -> None:
        """Change moves, mostly without their long values."""
        self.session.execute(
            "UPDATE moves SET checked = NOT checked, amount = amount * 1.01, label = NULL"
            " WHERE id IN (SELECT id FROM moves ORDER BY hashint8(id # %s) LIMIT 3)",
            (self.chance.randrange(1 << 30),),
        )
        if self.chance.random() < 0.1:
            self.session.execute(
                "UPDATE moves SET note = NULL WHERE id %% 97 = %s", (self.chance.randrange(97),)
            )

    def clean(self) -> None:
        self.session.execute(
            "DELETE FROM moves WHERE id IN (SELECT id FROM moves ORDER BY id DESC OFFSET %s LIMIT 200)",
            (KEPT,),
        )

    def rates(self) -> None:
        if self.chance.random() < 0.5:
            self.session.execute("TRUNCATE rates")
        for code in self.chance.sample(["EUR", "USD", "CHF", "JPY", "SEK"], 3):
            self.session.execute(
                "INSERT INTO rates VALUES (%s, %s) ON CONFLICT (code) DO UPDATE SET rate = excluded.rate",
                (code, self.chance.randrange(1, 99_999) / 10_000),
            )

    def passing(self) -> None:
        """Insert and delete within a transaction."""
        self.session.execute("INSERT INTO accounts VALUES (0, 'passing', 0, NULL, NULL)")
        self.session.execute("UPDATE accounts SET name = 'gone soon' WHERE id = 0")
        self.session.execute("DELETE FROM accounts WHERE id = 0")

    def parts(self) -> None:
        """Undo a part of a transaction."""
        giver, taker = self.some(2)
        self.pay(giver, -77)
        with self.session.transaction(force_rollback=True):
            self.pay(giver, -1_000_000)
        self.pay(taker, 77)

    def many(self) -> None:
        """Change every account at once, and keys of moves: seldom beside a long value, which is not told."""
        self.session.execute("UPDATE accounts SET seen_at = clock_timestamp()")
        self.session.execute(
            "UPDATE moves SET id = -id WHERE id %% 50 = %s AND (note IS NULL OR %s)",
            (self.chance.randrange(50), self.chance.random() < 0.05),
        )


def write(port: int, seed: int, ended: threading.Event) -> None:
    """Do one transaction after the other, until the end or a mistake."""
    with closing(
        psycopg.connect(
            host="127.0.0.1", port=port, dbname="postgres", user=USER, password=PASSWORD, autocommit=True
        )
    ) as session:
        writer = Writer(session, seed)
        while not ended.is_set():
            writer.one()
            time.sleep(0.004)


def _failed(writing: Future[None]) -> None:
    """End the process where a writer has failed: a test without writers shows nothing."""
    if error := writing.exception():
        print(f"a writer failed: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    port, seed, writers = map(int, sys.argv[1:])
    ended = threading.Event()
    with ThreadPoolExecutor(writers) as pool:
        for n in range(writers):
            pool.submit(write, port, seed + n, ended).add_done_callback(_failed)
        sys.stdin.read()
        ended.set()


if __name__ == "__main__":
    main()
