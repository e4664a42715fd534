"""The log of changes: what PostgreSQL committed, all of it and once, whatever happens to tables and builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from clouds.postgres import running

import meshql
from meshql.build.cdc import slots
from meshql.build.cdc.shapes import Shape, kind_of, shape_at
from meshql.build.run import build
from meshql.build.step import Request
from meshql.errors import BusyError, LocationError, MeshError, UsageError
from meshql.formats import batches


class Shop:
    """A catalog with a log of changes of some tables, and the server that they are in."""

    def __init__(self, folder, server, name):
        self.folder, self.server, self.name = folder, server, name
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
        self.mesh = None

    def sql(self, *statements):
        """Run statements in the source, each by itself."""
        with closing(self.server.connect(dbname=self.name)) as connection:
            for statement in statements:
                connection.execute(statement)

    def transaction(self, *statements):
        """Run statements in the source, all or none."""
        with closing(self.server.connect(dbname=self.name, autocommit=False)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def declare(self, *tables, products=(), connection=(), **log):
        """Write the catalog and open it."""
        catalog = {
            "meshql": 1,
            "connections": {
                "shop_db": {
                    "cloud": "postgres",
                    "host": self.server.host,
                    "port": self.server.port,
                    "database": self.name,
                    "insecure": True,
                    "auth": {
                        "method": "password",
                        "user": self.server.user,
                        "password": self.server.password,
                    },
                    **dict(connection),
                }
            },
            "products": [
                {
                    "name": "shop.changes",
                    "location": str(self.folder / "lake/changes/"),
                    "build": {"kind": "cdc", "from": "shop_db", "tables": list(tables), **log},
                },
                {"name": "meshql.runs", "location": str(self.folder / "lake/runs/"), "format": "delta"},
                *products,
            ],
        }
        (self.folder / "catalog.yaml").write_text(json.dumps(catalog))
        self.close()
        self.mesh = meshql.connect(self.folder / "catalog.yaml")

    def close(self):
        if self.mesh is not None:
            self.mesh.close()

    def build(self, *names, **request):
        """Build, and return the turn of the log; raises what a step raised."""
        run = build(self.mesh, names or ["shop.changes"], request=Request(**request))
        for error in run.errors:
            raise error
        return run.turns.get("shop.changes")

    def log(self):
        """All entries of the log, in order."""
        with self.mesh.sql(
            "SELECT table_name, op, lsn, seq, before, after, unchanged, _batch FROM shop.changes ORDER BY _batch, lsn, seq"
        ) as result:
            return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]

    def replayed(self, table):
        """The rows of a table as the log tells them, as texts."""
        state = batches.state(*self.mesh.store(self.mesh.find("shop.changes")))
        rows, last = {}, (0, -1)
        for entry in self.log():
            if entry["table_name"] != table:
                continue
            assert (entry["lsn"], entry["seq"]) > last or entry["op"] == "s", entry
            last = (entry["lsn"], entry["seq"])
            shape = shape_at(state, table, entry["_batch"])
            numbers = {c.name: c.number for c in shape.columns}
            before, after = ({numbers[n]: v for n, v in entry[m] or ()} for m in ("before", "after"))
            key = tuple((after or before).get(numbers[k]) for k in shape.key)
            match entry["op"]:
                case "s" | "t":
                    rows.clear()
                case "d":
                    del rows[key]
                case "c" | "r":
                    assert key not in rows
                    rows[key] = after
                case "u":
                    rows[key] = {
                        **{numbers[c]: rows[key][numbers[c]] for c in entry["unchanged"] or ()},
                        **after,
                    }
        return [tuple(row.get(c[1]) for c in self.kept(table)["columns"]) for row in rows.values()]

    def kept(self, table):
        """What the log keeps of a table."""
        return batches.state(*self.mesh.store(self.mesh.find("shop.changes"))).taken.kept[table]

    def source(self, table):
        """The rows of a table as the server has them, as texts."""
        columns = self.kept(table)["columns"]
        listed = ", ".join(
            f'to_json("{c[0]}"::text[])::text' if kind_of(c[2]).endswith("[]") else f'"{c[0]}"'
            for c in columns
        )
        with closing(self.server.connect(dbname=self.name)) as connection:
            connection.execute("SET datestyle = ISO; SET timezone = UTC; SET intervalstyle = postgres")
            with connection.cursor().copy(f"COPY (SELECT {listed} FROM {table}) TO STDOUT") as copy:
                return sorted(copy.rows(), key=repr)

    def check(self, *tables, built=True):
        """Compare tables with what the log makes of them, and with the products that are built of it."""
        run = build(self.mesh, ["shop.*"]) if built else None
        assert not run or not run.errors
        for table in tables:
            source = self.source(table)
            assert sorted(map(_plain, self.replayed(table)), key=repr) == sorted(
                map(_plain, source), key=repr
            )
            if built:
                assert self.product(table) == self.typed(table, source)

    def product(self, table):
        """The rows of a table's product."""
        columns = ", ".join(f'"{c.name}"::VARCHAR' for c in self.shape(table).columns)
        with self.mesh.sql(f"SELECT {columns} FROM shop.{table.removeprefix('public.')}") as result:
            return sorted(result.fetchall(), key=repr)

    def typed(self, table, rows):
        """Rows of texts as rows of the types that a product has."""
        shape = self.shape(table)
        texts = pa.table({c.name: [row[i] for row in rows] for i, c in enumerate(shape.columns)})
        texts = texts.cast(pa.schema([(name, pa.string()) for name in texts.column_names]))
        casts = ", ".join(f'CAST("{c.name}" AS {c.kind})::VARCHAR' for c in shape.columns)
        with closing(duckdb.connect()) as connection:
            connection.register("texts", texts)
            return sorted(connection.execute(f"SELECT {casts} FROM texts").fetchall(), key=repr)

    def shape(self, table):
        return Shape.parse(table, self.kept(table))


def _plain(row):
    return tuple(json.dumps(json.loads(v)) if v and v.startswith("[") else v for v in row)


@pytest.fixture
def shop(tmp_path, decoding, request):
    name = request.node.name.replace("[", "_").replace("]", "")[:50].lower()
    found = Shop(tmp_path, decoding, name)
    yield found
    found.close()
    for (slot,) in decoding.ask("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [name]):
        decoding.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    decoding.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


ORDERS = (
    "CREATE TABLE orders (id int PRIMARY KEY, name text, amount numeric(10,2), at timestamptz DEFAULT now())"
)


def test_snapshot_and_changes(shop):
    shop.sql(ORDERS, "INSERT INTO orders SELECT i, 'n' || i, i / 4.0 FROM generate_series(1, 1000) i")
    shop.declare("orders")
    turn = shop.build()
    assert turn.outcome.counts.rows_out == 1001
    shop.check("public.orders")
    assert shop.build().status == "unchanged"
    shop.sql("UPDATE orders SET amount = amount + 1 WHERE id <= 10", "DELETE FROM orders WHERE id > 990")
    shop.transaction(
        "INSERT INTO orders VALUES (2000, NULL, NULL, NULL)", "DELETE FROM orders WHERE id = 2000"
    )
    shop.transaction(
        "UPDATE orders SET id = 3000 WHERE id = 1", "UPDATE orders SET name = 'x' WHERE id = 3000"
    )
    turn = shop.build()
    assert turn.outcome.counts.rows_out == 10 + 10 + 2 + 2 + 1
    shop.check("public.orders")
    assert shop.build().status == "unchanged"


def test_transactions_are_whole_and_rollbacks_are_nothing(shop):
    shop.sql(ORDERS, "CREATE TABLE lines (id int, n int, PRIMARY KEY (id, n))")
    shop.declare("orders", "public.lines")
    shop.build()
    shop.transaction("INSERT INTO orders VALUES (1, 'a', 1)", "INSERT INTO lines VALUES (1, 1), (1, 2)")
    shop.transaction(
        "INSERT INTO orders VALUES (2, 'b', 1)",
        "SAVEPOINT s",
        "INSERT INTO orders VALUES (3, 'c', 1)",
        "ROLLBACK TO s",
        "DELETE FROM lines WHERE n = 2",
    )
    with closing(shop.server.connect(dbname=shop.name, autocommit=False)) as connection:
        connection.execute("INSERT INTO orders VALUES (4, 'd', 1)")
        connection.rollback()
    shop.build()
    shop.check("public.orders", "public.lines")
    entries = [e for e in shop.log() if e["op"] not in "sr"]
    assert [(e["table_name"], e["op"]) for e in entries] == [
        ("public.orders", "c"),
        ("public.lines", "c"),
        ("public.lines", "c"),
        ("public.orders", "c"),
        ("public.lines", "d"),
    ]
    assert len({e["lsn"] for e in entries}) == 2
    assert [e["seq"] for e in entries] == [1, 2, 3, 1, 2]


TYPES = {
    "flag boolean": ["true", "false", "NULL"],
    "small smallint": ["-32768"],
    "big bigint": ["9223372036854775807", "NULL"],
    "real4 real": ["'NaN'", "1.1e-30", "'-Infinity'"],
    "real8 double precision": ["0.1", "1e300"],
    "exact numeric(12,3)": ["123456789.123", "'NaN'"],
    "free numeric": ["1e-20", "'Infinity'", "123456789012345678901234567890123456789012"],
    "day date": ["'2026-01-31'", "'0044-03-15 BC'", "'infinity'"],
    "naive timestamp": ["'2026-01-31 12:34:56.789012'", "'-infinity'"],
    "zoned timestamptz": ["'2026-01-31 12:34:56+05:30'"],
    "clock time": ["'23:59:59.999999'"],
    "span interval": ["'1 year 2 days 03:04:05'"],
    "ident uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "doc json": ["""'{"a": [1, null], "b": "x\\u0041"}'"""],
    "docb jsonb": ["""'{"a": [1, null]}'"""],
    "raw bytea": [r"'\x00ff10'", r"'\x'"],
    "words text": ["''", "E'a\\tb\\nc\\\\d\\\\N'", "'é漢𝄞'", "'\\N'"],
    "fixed char(5)": ["'ab'"],
    "mood mood": ["'sad'"],
    "moods mood[]": ["ARRAY['sad', NULL, 'so so']::mood[]"],
    "ints int[]": ["'{1,NULL,3}'", "'{}'", "'{{1,2},{3,4}}'", "'[0:1]={5,6}'"],
    "texts text[]": ["""ARRAY['a,b', '', NULL, 'NULL', 'q"u\\o', '{}']"""],
    "times timestamptz[]": ["ARRAY['2026-01-31 12:34:56+05:30'::timestamptz]"],
    "raws bytea[]": [r"ARRAY['\x00ff'::bytea, NULL]"],
    "boxes box[]": ["ARRAY[box '((0,0),(1,1))', box '((2,2),(3,3))']"],
    "net inet": ["'10.0.0.1/8'"],
    "limited pos": ["7"],
    "limiteds pos[]": ["ARRAY[1, 2]::pos[]"],
    "twice int GENERATED ALWAYS AS (small * 2) STORED": [],
}


def test_types_are_told_alike_by_the_snapshot_and_by_changes(shop):
    rows = []
    for column, values in TYPES.items():
        rows += [f"INSERT INTO everything ({column.split()[0]}) VALUES ({value})" for value in values]
    shop.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy')",
        "CREATE DOMAIN pos AS int CHECK (VALUE > 0)",
        f"CREATE TABLE everything (id serial PRIMARY KEY, {', '.join(TYPES)})",
        *rows,
    )
    shop.declare("everything")
    shop.build()
    shop.check("public.everything", built=False)
    shop.sql(*rows, "UPDATE everything SET id = id + 1000 WHERE id < 10")
    shop.build()
    shop.check("public.everything", built=False)
    assert "twice" not in [c[0] for c in shop.kept("public.everything")["columns"]]


STORED = {
    "flag boolean": ("true", True),
    "big bigint": ("-9223372036854775808", -9223372036854775808),
    "real8 double precision": ("0.1", 0.1),
    "exact numeric(12,3)": ("123456789.123", Decimal("123456789.123")),
    "free numeric": ("1e-20", "0.00000000000000000001"),
    "day date": ("'2026-01-31'", date(2026, 1, 31)),
    "naive timestamp": ("'2026-01-31 12:34:56.789012'", datetime(2026, 1, 31, 12, 34, 56, 789012)),
    "clock time": ("'23:59:59.999999'", "23:59:59.999999"),
    "ident uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "doc json": ("""'{"a": [1, null]}'""", '{"a": [1, null]}'),
    "raw bytea": (r"'\x00ff10'", b"\x00\xff\x10"),
    "words text": ("E'a\\tb\\nc\\\\d é'", "a\tb\nc\\d é"),
    "mood mood": ("'sad'", "sad"),
    "moods mood[]": ("ARRAY['sad', NULL, 'so so']::mood[]", ["sad", None, "so so"]),
    "ints int[]": ("'{1,NULL,3}'", [1, None, 3]),
    "texts text[]": ("""ARRAY['a,b', '', NULL, 'NULL', '{}']""", ["a,b", "", None, "NULL", "{}"]),
    "raws bytea[]": (r"ARRAY['\x00ff'::bytea, NULL]", [b"\x00\xff", None]),
}


def test_types_arrive_in_the_product(shop):
    names = ", ".join(column.split()[0] for column in STORED)
    insert = f"({names}) VALUES ({', '.join(value for value, _ in STORED.values())})"
    shop.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy')",
        f"CREATE TABLE stored (id serial PRIMARY KEY, seen timestamptz, {', '.join(STORED)})",
        f"INSERT INTO stored {insert}",
        "INSERT INTO stored (id) VALUES (100)",
    )
    shop.declare("stored")
    shop.build("shop.*")
    shop.sql(
        f"INSERT INTO stored {insert}", "UPDATE stored SET seen = '2026-01-31 12:34:56+05:30' WHERE id < 3"
    )
    shop.build("shop.*")
    with shop.mesh.sql(f"SELECT epoch(seen), {names} FROM shop.stored ORDER BY id") as result:
        rows = result.fetchall()
    wanted = (1769843096.0, *(value for _, value in STORED.values()))
    assert rows == [wanted, wanted, (None,) * len(wanted)]


LONG = "CREATE TABLE notes (id int PRIMARY KEY, n int, body text, more text)"
FILLED = [
    "ALTER TABLE notes ALTER body SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL",
    "INSERT INTO notes SELECT i, i, repeat(i::text, 5000), repeat('m', 5000) FROM generate_series(1, 20) i",
]


def test_long_values_that_are_not_repeated(shop):
    identities = {"plain": "DEFAULT", "whole": "FULL", "indexed": "USING INDEX indexed_n"}
    for name, identity in identities.items():
        shop.sql(
            LONG.replace("notes", name),
            f"CREATE UNIQUE INDEX {name}_n ON {name} (n)",
            f"ALTER TABLE {name} ALTER n SET NOT NULL",
            f"ALTER TABLE {name} REPLICA IDENTITY {identity}",
            *(statement.replace("notes", name) for statement in FILLED),
        )
    shop.declare(*identities)
    shop.build()
    for name in identities:
        shop.sql(
            f"UPDATE {name} SET n = n + 100",
            f"UPDATE {name} SET more = 'short' WHERE id = 3",
            f"UPDATE {name} SET body = NULL WHERE id = 4",
            f"DELETE FROM {name} WHERE id = 5",
            f"UPDATE {name} SET id = 77 WHERE id = 7",
        )
    shop.build()
    shop.check(*(f"public.{name}" for name in identities))
    assert shop.build().status == "unchanged"
    entries = shop.log()
    assert {e["table_name"] for e in entries if e["unchanged"]} == {"public.plain"}
    # What the log cannot tell was read again: a key that changed beside a long value that did not.
    again = [e["table_name"] for e in entries if e["op"] == "s"]
    assert Counter(again) == {"public.plain": 2, "public.whole": 1, "public.indexed": 2}


def test_long_keys(shop):
    shop.sql("CREATE TABLE pages (url text PRIMARY KEY, n int, body text)")
    shop.sql("ALTER TABLE pages ALTER url SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL")
    shop.sql(
        "INSERT INTO pages SELECT repeat(i::text, 2100), i, repeat('b', 4000) FROM generate_series(1, 5) i"
    )
    shop.declare("pages")
    shop.build()
    shop.sql(
        "UPDATE pages SET n = n + 1",
        "DELETE FROM pages WHERE n = 3",
        "UPDATE pages SET body = 'x' WHERE n = 4",
    )
    shop.build()
    shop.check("public.pages")


def test_truncate(shop):
    shop.sql(ORDERS, "CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1), (2)")
    shop.sql("INSERT INTO other VALUES (1)")
    shop.declare("orders", "other")
    shop.build()
    shop.transaction(
        "INSERT INTO orders VALUES (3)", "TRUNCATE orders, other", "INSERT INTO orders VALUES (4)"
    )
    shop.build()
    shop.check("public.orders", "public.other")
    assert [e["op"] for e in shop.log() if e["table_name"] == "public.other"] == ["s", "r", "t"]
    assert shop.build().status == "unchanged"
    assert [e["op"] for e in shop.log()].count("s") == 2


CHANGES = {
    "added": ("ALTER TABLE orders ADD extra int", False),
    "added_with_default": ("ALTER TABLE orders ADD extra int DEFAULT 5", True),
    "added_and_computed": ("ALTER TABLE orders ADD extra float8 DEFAULT random()", True),
    "dropped": ("ALTER TABLE orders DROP amount", False),
    "renamed": ("ALTER TABLE orders RENAME name TO label", False),
    "last_renamed": ("ALTER TABLE orders RENAME at TO ordered_at", False),
    "key_renamed": ("ALTER TABLE orders RENAME id TO order_id", False),
    "widened": ("ALTER TABLE orders ALTER amount TYPE numeric(20,4)", True),
    "other_values": ("ALTER TABLE orders ALTER amount TYPE numeric(10,2) USING amount * 2", True),
    "longer": ("ALTER TABLE orders ALTER name TYPE varchar(900)", False),
    "other_key": ("ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (name)", True),
    "made_anew": ("DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY, name text)", True),
}


@pytest.mark.parametrize("when", ["quiet", "busy"])
def test_columns_that_change(shop, when):
    for table in CHANGES:
        shop.sql(
            ORDERS.replace("orders", table).replace("name text", "name varchar(800)"),
            f"INSERT INTO {table} VALUES (1, 'a', 1), (2, 'b', 2)",
        )
    shop.declare(*CHANGES)
    shop.build()
    for table, (ddl, _) in CHANGES.items():
        shop.sql(f"INSERT INTO {table} VALUES (3, 'c', 3)", *ddl.replace("orders", table).split("; "))
        if when == "busy":
            with closing(shop.server.connect(dbname=shop.name)) as connection:
                found = connection.execute(f"SELECT * FROM {table} LIMIT 0").description
                names = ", ".join(column.name for column in found[:2])
                connection.execute(f"INSERT INTO {table} ({names}) VALUES (9, 'z')")
    shop.build()
    shop.check(*(f"public.{table}" for table in CHANGES))
    again = Counter(e["table_name"] for e in shop.log() if e["op"] == "s")
    assert again == {f"public.{table}": 1 + read_anew for table, (_, read_anew) in CHANGES.items()}
    assert shop.build().status == "unchanged"


def test_columns_that_change_between_and_within_transactions(shop):
    shop.sql(ORDERS, "CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1, 'a', 1)")
    shop.declare("orders", "other")
    shop.build()
    shop.sql("INSERT INTO orders VALUES (2, 'b', 2)", "ALTER TABLE orders RENAME name TO label")
    shop.transaction("INSERT INTO other VALUES (1)", "UPDATE orders SET label = 'A' WHERE id = 1")
    shop.sql("ALTER TABLE orders ADD extra int", "INSERT INTO orders VALUES (3, 'c', 3, NULL, 4)")
    shop.build()
    shop.check("public.orders", "public.other")
    shop.transaction(
        "INSERT INTO other VALUES (2)",
        "INSERT INTO orders VALUES (4, 'd', 3)",
        "ALTER TABLE orders DROP label",
        "INSERT INTO orders VALUES (5, 3)",
    )
    shop.build()
    shop.check("public.orders", "public.other")
    assert shop.build().status == "unchanged"


def test_an_enum_whose_label_is_renamed(shop):
    shop.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')", "CREATE TABLE people (id int PRIMARY KEY, mood mood)"
    )
    shop.sql("INSERT INTO people VALUES (1, 'sad'), (2, 'happy')")
    shop.declare("people")
    shop.build()
    shop.sql("ALTER TYPE mood ADD VALUE 'so so'", "INSERT INTO people VALUES (3, 'so so')")
    shop.build()
    assert [e["op"] for e in shop.log()].count("s") == 1
    shop.sql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    shop.build()
    shop.check("public.people")


def test_partitioned_tables(shop):
    shop.sql(
        "CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "INSERT INTO events SELECT i, '2026-01-01' FROM generate_series(1, 10) i",
    )
    shop.declare("events")
    shop.build()
    shop.sql(
        "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "INSERT INTO events SELECT i, '2026-02-01' FROM generate_series(1, 10) i",
        "UPDATE events SET day = '2026-02-02' WHERE id = 3 AND day = '2026-01-01'",
        "DELETE FROM events WHERE id = 4",
    )
    shop.build()
    shop.check("public.events")
    assert [e["op"] for e in shop.log()].count("s") == 1
    for ddl in (
        "CREATE TABLE old (id int, day date, PRIMARY KEY (id, day)); INSERT INTO old VALUES (1, '2025-12-31');"
        " ALTER TABLE events ATTACH PARTITION old FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        "TRUNCATE events_1",
        "ALTER TABLE events DETACH PARTITION events_2",
    ):
        shop.sql(*ddl.split("; "))
        shop.build()
        shop.check("public.events")
    assert [e["op"] for e in shop.log()].count("s") == 4
    shop.sql("TRUNCATE events")
    shop.build()
    shop.check("public.events")


def test_tables_that_inherit_are_tables_of_their_own(shop):
    shop.sql(
        ORDERS, "CREATE TABLE sub (PRIMARY KEY (id)) INHERITS (orders)", "INSERT INTO sub VALUES (1, 'x')"
    )
    shop.sql("INSERT INTO orders VALUES (2, 'y')")
    shop.declare("orders")
    shop.build()
    shop.sql("INSERT INTO sub VALUES (3, 'z')", "INSERT INTO orders VALUES (4, 'y')")
    shop.build()
    assert [row[0] for row in shop.replayed("public.orders")] == ["2", "4"]


def test_a_transaction_larger_than_memory_may_be(shop, monkeypatch):
    monkeypatch.setattr("meshql.build.cdc.capture.ROWS_IN_PART", 100)
    shop.sql(ORDERS, "CREATE TABLE other (id int PRIMARY KEY)")
    shop.declare("orders", "other")
    shop.build()
    shop.sql("INSERT INTO other VALUES (1)")
    shop.transaction(
        "INSERT INTO orders SELECT i, 'n', 1 FROM generate_series(1, 950) i",
        "INSERT INTO other VALUES (2)",
        "DELETE FROM orders WHERE id % 2 = 0",
    )
    shop.sql("INSERT INTO other VALUES (3)")
    shop.build()
    shop.check("public.orders", "public.other")
    by_batch = {}
    for entry in shop.log():
        by_batch.setdefault(entry["lsn"], set()).add(entry["_batch"])
    assert all(len(batches) == 1 for batches in by_batch.values())


def test_a_table_that_is_added_later(shop):
    shop.sql(ORDERS, "CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1)")
    shop.declare("orders")
    shop.build()
    shop.sql("INSERT INTO orders VALUES (1)", "INSERT INTO other VALUES (2)")
    shop.declare("orders", "other")
    with pytest.raises(
        UsageError, match=r"the log shop.changes has no table public.other; it has public.orders"
    ):
        shop.build("shop.other")
    shop.build()
    shop.sql("INSERT INTO other VALUES (3)")
    shop.build()
    shop.check("public.orders", "public.other")


def test_writers_during_the_snapshot_are_in_it_or_behind_it(shop):
    shop.sql(ORDERS, "INSERT INTO orders SELECT i, 'n', 1 FROM generate_series(1, 3000) i")
    shop.declare("orders")
    done = threading.Event()

    def write():
        with closing(shop.server.connect(dbname=shop.name)) as connection:
            number = 100_000
            while not done.is_set():
                number += 1
                time.sleep(0.002)
                connection.execute(f"INSERT INTO orders VALUES ({number}, 'w', 1)")
                connection.execute(f"UPDATE orders SET amount = amount + 1 WHERE id = {number % 3000 + 1}")
                connection.execute(f"DELETE FROM orders WHERE id = {number - 50}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            shop.build()
    finally:
        done.set()
        writer.join()
    shop.build()
    shop.check("public.orders")


REFUSED = {
    "missing": ("order", "there is no table public.order", "did you mean public.orders"),
    "view": ("seen", "public.seen is a view", "the tables that it is made of"),
    "unlogged": ("fast", "is not logged", 'ALTER TABLE "public"."fast" SET LOGGED'),
    "keyless": ("bare", "has no primary key", 'ALTER TABLE "public"."bare" REPLICA IDENTITY FULL'),
    "nothing": ("mute", "REPLICA IDENTITY NOTHING", 'ALTER TABLE "public"."mute" REPLICA IDENTITY DEFAULT'),
}


def test_tables_that_cannot_be_followed(shop):
    shop.sql(
        ORDERS,
        "CREATE VIEW seen AS SELECT * FROM orders",
        "CREATE UNLOGGED TABLE fast (id int PRIMARY KEY)",
        "CREATE TABLE bare (id int)",
        "CREATE TABLE mute (id int PRIMARY KEY)",
        "ALTER TABLE mute REPLICA IDENTITY NOTHING",
    )
    for table, message, hint in REFUSED.values():
        shop.declare("orders", table)
        with pytest.raises(MeshError, match=re.escape(message)) as caught:
            shop.build()
        assert hint in caught.value.hint
    slots_made = "SELECT count(*) FROM pg_replication_slots WHERE database = %s"
    assert shop.server.ask(slots_made, [shop.name]) == [(0,)]


def test_a_table_without_a_key_is_told_whole(shop):
    shop.sql(
        "CREATE TABLE bare (id int)", "ALTER TABLE bare REPLICA IDENTITY FULL", "INSERT INTO bare VALUES (1)"
    )
    shop.declare("bare")
    shop.build()
    shop.sql("INSERT INTO bare VALUES (1), (NULL)", "DELETE FROM bare WHERE id IS NULL")
    shop.build()
    assert [(e["op"], e["after"]) for e in shop.log()][1:] == [
        ("r", [("id", "1")]),
        ("c", [("id", "1")]),
        ("c", [("id", None)]),
        ("d", None),
    ]


def slot_of(shop):
    ((name,),) = shop.server.ask(
        "SELECT slot_name FROM pg_replication_slots WHERE database = %s", [shop.name]
    )
    return name


def lost(shop, match):
    """A build is refused with what to do, and that helps."""
    with pytest.raises(LocationError, match=match) as caught:
        shop.build()
    assert "meshql build shop.changes --full" in caught.value.hint
    shop.build(full=True)
    shop.check("public.orders")
    assert shop.build().status == "unchanged"


def test_a_slot_that_somebody_dropped(shop):
    shop.sql(ORDERS)
    shop.declare("orders")
    shop.build()
    shop.sql("INSERT INTO orders VALUES (1)")
    shop.server.execute(f"SELECT pg_drop_replication_slot('{slot_of(shop)}')")
    lost(shop, "is gone: changes since the last build are lost")


def test_a_slot_that_somebody_else_read(shop):
    shop.sql(ORDERS)
    shop.declare("orders")
    shop.build()
    shop.sql("INSERT INTO orders VALUES (1)", "INSERT INTO orders VALUES (2)")
    shop.sql(f"SELECT pg_replication_slot_advance('{slot_of(shop)}', pg_current_wal_lsn())")
    lost(shop, "somebody else has read the slot")


def test_a_publication_that_somebody_changed(shop):
    shop.sql(ORDERS, "CREATE TABLE other (id int PRIMARY KEY)")
    shop.declare("orders", "other")
    shop.build()
    name = slot_of(shop)
    shop.sql(f"ALTER PUBLICATION {name} DROP TABLE orders", "INSERT INTO orders VALUES (1)")
    shop.sql(f"ALTER PUBLICATION {name} ADD TABLE orders", "INSERT INTO orders VALUES (2)")
    shop.build()
    shop.check("public.orders", "public.other")
    shop.sql(f"ALTER PUBLICATION {name} DROP TABLE orders", "INSERT INTO orders VALUES (3)")
    shop.build()
    shop.check("public.orders", "public.other")


def test_a_publication_of_ones_own(shop):
    shop.sql(ORDERS, "CREATE PUBLICATION mine FOR TABLE orders WHERE (id > 5)")
    shop.declare("orders", publication="mine", slot="my_slot")
    with pytest.raises(UsageError, match=r"leaves rows of public\.orders out"):
        shop.build()
    shop.sql("ALTER PUBLICATION mine SET TABLE orders", "ALTER PUBLICATION mine SET (publish = 'insert')")
    with pytest.raises(UsageError, match="leaves some kinds of changes out"):
        shop.build()
    shop.sql("ALTER PUBLICATION mine SET (publish = 'insert, update, delete, truncate')")
    shop.sql(
        "SELECT pg_create_logical_replication_slot('my_slot', 'pgoutput')", "INSERT INTO orders VALUES (1)"
    )
    shop.build()
    shop.sql("INSERT INTO orders VALUES (2)")
    shop.build()
    shop.check("public.orders")
    assert slot_of(shop) == "my_slot"


def test_another_database_at_the_same_address(shop):
    shop.sql(ORDERS)
    shop.declare("orders")
    shop.build()
    with running("-c wal_level=logical") as other:
        other.execute(f'CREATE DATABASE "{shop.name}"')
        with closing(other.connect(dbname=shop.name)) as connection:
            connection.execute(ORDERS)
            connection.execute("INSERT INTO orders VALUES (7, 'other', 7)")
        shop.declare("orders", connection={"port": other.port})
        with pytest.raises(LocationError, match="is another one than the log is of"):
            shop.build()
        shop.build(full=True)
        assert [row[:2] for row in shop.replayed("public.orders")] == [("7", "other")]
        assert shop.build().status == "unchanged"


def test_a_server_that_tells_no_changes(shop, postgres):
    postgres.execute(f'CREATE DATABASE "{shop.name}"')
    shop.declare("orders", connection={"port": postgres.port})
    with pytest.raises(UsageError, match="has wal_level replica") as caught:
        shop.build()
    assert "ALTER SYSTEM SET wal_level = 'logical'" in caught.value.hint


def test_a_user_who_may_not(shop):
    shop.sql(ORDERS, "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'pw'")
    shop.declare("orders", connection={"auth": {"method": "password", "user": "reader", "password": "pw"}})
    with pytest.raises(UsageError, match="reader may not follow changes") as caught:
        shop.build()
    assert "ALTER ROLE reader REPLICATION" in caught.value.hint
    shop.sql("ALTER ROLE reader REPLICATION")
    with pytest.raises(UsageError, match=r"reader may not read public\.orders"):
        shop.build()
    shop.sql("GRANT SELECT ON orders TO reader")
    with pytest.raises(UsageError, match="may not make its publication") as caught:
        shop.build()
    assert "CREATE PUBLICATION" in caught.value.hint


def test_the_server_lets_go_of_what_is_durable_and_of_nothing_else(shop, monkeypatch):
    shop.sql(ORDERS)
    shop.declare("orders")
    shop.build()
    query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE database = %s"
    before = shop.server.ask(query, [shop.name])
    shop.sql("INSERT INTO orders VALUES (1)")
    commit = batches.commit
    monkeypatch.setattr(
        batches, "commit", lambda *a: (_ for _ in ()).throw(LocationError("the store failed"))
    )
    with pytest.raises(LocationError, match="the store failed"):
        shop.build()
    assert shop.server.ask(query, [shop.name]) == before
    monkeypatch.setattr(batches, "commit", commit)
    shop.build()
    assert shop.server.ask(query, [shop.name]) > before
    shop.check("public.orders")


def test_following(shop, monkeypatch):
    monkeypatch.setattr("meshql.build.cdc.source.LOOK_SECONDS", 1.0)
    shop.sql(ORDERS)
    shop.declare("orders")
    runs, seen = [], []
    told = threading.Thread(
        target=lambda: build(shop.mesh, ["shop.changes"], request=Request(follow=True), started=runs.append)
    )
    told.start()
    wait(lambda: runs and runs[0].turns["shop.changes"].progress.stream)
    for number in range(5):
        shop.sql(f"INSERT INTO orders VALUES ({number})")
        began = time.monotonic()
        wait(lambda n=number: any(e["after"] and ("id", str(n)) in e["after"] for e in shop.log()))
        seen.append(time.monotonic() - began)
    shop.sql("ALTER TABLE orders ADD extra int DEFAULT 7")
    wait(lambda: ("extra", "7") in (shop.log()[-1]["after"] or []), seconds=30)
    stream = runs[0].turns["shop.changes"].progress.stream
    runs[0].cancelled.set()
    told.join(10)
    assert not told.is_alive()
    assert runs[0].turns["shop.changes"].status == "built"
    assert stream.inserts == 5
    assert stream.committed_at
    assert min(seen) < 3
    shop.check("public.orders")
    # Nobody reads the slot any more, and what is durable is acknowledged.
    assert shop.build().status == "unchanged"


def wait(condition, seconds=15):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.05)


def test_status_and_dropping(shop, monkeypatch):
    shop.sql(ORDERS)
    shop.declare("orders")
    log = shop.mesh.find("shop.changes")
    before = slots.status(shop.mesh, log)
    assert (before.exists, before.warning, before.lag_seconds) == (False, None, None)
    assert slots.drop(shop.mesh, log) is False
    shop.build()
    shop.sql("INSERT INTO orders SELECT i, 'n', 1 FROM generate_series(1, 1000) i")
    status = slots.status(shop.mesh, log)
    assert (status.exists, status.active, status.state) == (True, False, "reserved")
    assert status.lag_bytes > 50_000
    assert status.retained_bytes >= status.lag_bytes
    assert status.safe_bytes is None
    assert 0 <= status.lag_seconds < 60
    assert status.tables == ("public.orders",)
    assert status.warning is None
    monkeypatch.setattr(slots, "WARN_BYTES", 1000)
    status = slots.status(shop.mesh, log)
    assert "nothing limits it: it may fill the disk" in status.warning
    assert "meshql cdc drop-slot shop.changes" in status.hint
    assert any("may fill the disk" in note for note in shop.build().outcome.notes)
    assert slots.drop(shop.mesh, log) is True
    status = slots.status(shop.mesh, log)
    assert "is gone, and changes since are lost" in status.warning
    assert shop.server.ask("SELECT count(*) FROM pg_replication_slots WHERE database = %s", [shop.name]) == [
        (0,)
    ]
    with closing(shop.server.connect(dbname=shop.name)) as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    lost(shop, "is gone")


def test_a_slot_in_use_is_not_dropped(shop):
    shop.sql(ORDERS)
    shop.declare("orders", slot="taken")
    shop.build()
    log = shop.mesh.find("shop.changes")
    with closing(
        shop.server.connect(dbname=shop.name, replication="database", application_name="other")
    ) as reader:
        publication = slots.names_of(shop.mesh, log)[1]
        reader.pgconn.send_query(
            f"START_REPLICATION SLOT taken LOGICAL 0/0 (proto_version '1', publication_names '{publication}')".encode()
        )
        wait(lambda: slots.status(shop.mesh, log).active)
        for attempt in (shop.build, lambda: slots.drop(shop.mesh, log)):
            with pytest.raises(BusyError, match=r"taken is in use by session \d+ \(other\)") as caught:
                attempt()
            assert "pg_terminate_backend" in caught.value.hint
    wait(lambda: not slots.status(shop.mesh, log).active)
    shop.build()


def command(shop, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "meshql", "-C", shop.folder / "catalog.yaml", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_follows_until_it_is_terminated(shop):
    shop.sql(ORDERS)
    shop.declare(
        "orders",
        products=[
            {
                "name": "shop.total",
                "location": str(shop.folder / "lake/total/"),
                "build": {"kind": "gold", "sql": "SELECT count(*) AS orders FROM shop.orders"},
            }
        ],
    )
    process = command(shop, "build", "--follow", "-f", "json")

    def total():
        try:
            with shop.mesh.sql("SELECT orders FROM shop.total") as result:
                return result.fetchall()[0][0]
        except LocationError:
            return None

    try:
        wait(lambda: total() == 0, seconds=40)
        shop.sql("INSERT INTO orders SELECT i, 'n', 1 FROM generate_series(1, 100) i")
        wait(lambda: total() == 100)
        shop.sql("DELETE FROM orders WHERE id <= 10")
        wait(lambda: total() == 90)
    finally:
        process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "shop.changes  followed from here on" in err
    products = {row["product"]: row for row in json.loads(out)["products"]}
    assert products["shop.orders"]["rows"] == 90
    assert {row["status"] for row in products.values()} == {"stopped"}
    with shop.mesh.sql("SELECT product, count(*), sum(rows_in) FROM meshql.runs GROUP BY ALL") as result:
        logged = {product: (rows, taken) for product, rows, taken in result.fetchall()}
    assert logged["shop.orders"] == (1, 110)
    shop.check("public.orders")


def test_the_commands_about_slots(shop):
    shop.sql(ORDERS)
    shop.declare("orders")
    shop.build()
    started = [
        command(shop, "cdc", "status", "-f", "json"),
        command(shop, "cdc", "drop-slot", "shop.changes"),
    ]
    (status, _), (_, refused) = (process.communicate(timeout=60) for process in started)
    (row,) = json.loads(status)
    assert (row["product"], row["state"], row["tables"]) == (
        "shop.changes",
        "waiting, reserved",
        "public.orders",
    )
    assert "hint: add --yes" in refused
    assert [process.returncode for process in started] == [0, 2]
    dropping = command(shop, "cdc", "drop-slot", "shop.changes", "--yes")
    out, err = dropping.communicate(timeout=60)
    assert (dropping.returncode, out) == (0, "")
    assert re.search(
        r"dropped the slot meshql_shop_changes_\w{8}: .*its next build reads all tables anew", err
    )
    status = command(shop, "cdc", "status")
    out, err = status.communicate(timeout=60)
    assert "no slot" in out
    assert "is gone, and changes since are lost" in err
    assert "hint: meshql build shop.changes --full" in err
    shop.declare("orders", connection={"port": 1})
    status = command(shop, "cdc", "status")
    out, err = status.communicate(timeout=60)
    assert (status.returncode, "cannot be asked" in out, "does not answer" in err) == (3, True, True)
