"""A live PostgreSQL as a source: what the server gets, what comes back, and what its failures are called."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from contextlib import closing

import pyarrow as pa
import pytest
from deltalake import write_deltalake

import meshql
from meshql.catalog.load import load
from meshql.errors import CatalogError, CredentialsError, LocationError, StorageError, UnreachableError
from meshql.query import databases

CATALOG = """
meshql: 1
connections:
  shop:
    cloud: postgres
    host: {host}
    port: {port}
    database: {database}
    sslmode: {sslmode}
    auth: {{method: password, user: {user}, password: "${{SHOP_PASSWORD}}"}}
products:
  - {{name: sales.orders, connection: shop, location: {location}, format: postgres}}
"""


def catalog_of(folder, server, *, more="", password=None, **changes):
    values = {"host": server.host, "port": server.port, "user": server.user, "database": "postgres"}
    values |= {"sslmode": "prefer", "location": "sales.orders"} | changes
    (folder / "mesh.yaml").write_text(CATALOG.format(**values) + more)
    os.environ["SHOP_PASSWORD"] = server.password if password is None else password
    return folder


@pytest.fixture
def shop(postgres, monkeypatch):
    """The server, with 100,000 orders in schema sales."""
    monkeypatch.setenv("SHOP_PASSWORD", "")
    postgres.execute(
        "DROP SCHEMA IF EXISTS sales CASCADE",
        "CREATE SCHEMA sales",
        "CREATE TYPE sales.state AS ENUM ('open', 'paid')",
        "CREATE TABLE sales.orders (id int PRIMARY KEY, amount numeric(12,2), state sales.state, note text)",
        "INSERT INTO sales.orders SELECT i, i * 1.5, 'paid', 'n' || i FROM generate_series(1, 100000) i",
        "ANALYZE sales.orders",
    )
    return postgres


@pytest.fixture
def mesh(shop, tmp_path):
    with meshql.connect(catalog_of(tmp_path, shop)) as mesh:
        yield mesh


def rows(mesh, sql):
    with mesh.sql(sql) as result:
        return result.fetchall()


def copied(server, mesh, sql):
    """What the server was told to copy for a statement."""
    before = len(server.asked())
    found = rows(mesh, sql)
    return found, re.findall(r"COPY \((SELECT .*)\) TO STDOUT", server.asked()[before:])


def test_filters_columns_and_limits_reach_the_server(mesh, shop):
    found, sent = copied(shop, mesh, "SELECT amount FROM sales.orders WHERE id = 7 AND note > 'n'")
    assert [str(amount) for (amount,) in found] == ["10.50"]
    scan = sent[-1]
    assert "\"id\" = '7'" in scan
    assert '"note" > \'n\' COLLATE "C"' in scan
    assert '"state"' not in scan
    found, sent = copied(shop, mesh, "SELECT id FROM sales.orders LIMIT 2")
    assert len(found) == 2
    assert sent[-1].endswith("LIMIT 2")


def test_types_come_out_right(shop, tmp_path):
    shop.execute(
        """CREATE TABLE sales.kinds (n numeric(38,9), at timestamptz, ts timestamp, d date, u uuid, j jsonb,
            tags text[], grid int[][], raw bytea, state sales.state, flag bool, iv interval, far timestamptz)""",
        """INSERT INTO sales.kinds VALUES (12345678901234567890123456789.123456789,
            '2026-01-01 00:00:00+02', '2026-01-02 03:04:05.123456', '0044-03-15 BC',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, 2]}', ARRAY['x', NULL, 'y'],
            ARRAY[[1,2],[3,4]], '\\x0001ff', 'open', true, '1 mon 2 days', 'infinity')""",
    )
    with meshql.connect(catalog_of(tmp_path, shop, location="sales.kinds")) as mesh:
        session = mesh.session()
        (utc,) = session.parse("SET TimeZone = 'UTC'")
        session.run(utc).close()
        (text,) = session.parse("SELECT columns(*)::VARCHAR FROM sales.orders")
        assert session.run(text).fetchall() == [
            (
                "12345678901234567890123456789.123456789",
                "2025-12-31 22:00:00+00",
                "2026-01-02 03:04:05.123456",
                "0044-03-15 (BC)",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                '{"a": [1, 2]}',
                "[x, NULL, y]",
                "[[1, 2], [3, 4]]",
                "\\x00\\x01\\xFF",
                "open",
                "true",
                "1 month 2 days",
                "infinity",
            )
        ]
        types = {c.name: c.type for c in mesh.product("sales.orders").columns}
        session.close()
    assert types["n"] == "DECIMAL(38,9)"
    assert types["state"] == "ENUM('open', 'paid')"
    assert types["u"] == "UUID"
    assert types["at"] == "TIMESTAMP WITH TIME ZONE"


def test_statement_sees_one_moment_of_all_tables(mesh, shop):
    shop.execute("INSERT INTO sales.orders SELECT i, 0, 'open' FROM generate_series(100001, 400000) i")
    with mesh.sql("SELECT id FROM sales.orders") as result:
        batches = iter(result)
        first = next(batches)
        shop.execute("DELETE FROM sales.orders WHERE id > 10")
        assert len(first) + sum(len(batch) for batch in batches) == 400_000
    assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(10,)]


def test_two_products_of_a_connection_are_seen_at_the_same_moment(shop, tmp_path):
    more = "  - {name: sales.copy, connection: shop, location: sales.copy, format: postgres}\n"
    shop.execute(
        "CREATE TABLE sales.copy AS SELECT 0 AS n", "UPDATE sales.orders SET amount = 0 WHERE id = 1"
    )
    stop = threading.Event()

    def write():
        with closing(shop.connect()) as connection:
            while not stop.is_set():
                with connection.transaction():
                    connection.execute("UPDATE sales.copy SET n = n + 1")
                    connection.execute("UPDATE sales.orders SET amount = amount + 1 WHERE id = 1")

    writer = threading.Thread(target=write)
    with meshql.connect(catalog_of(tmp_path, shop, more=more)) as mesh:
        writer.start()
        try:
            query = "SELECT o.amount::INT, c.n FROM sales.orders o, sales.copy c WHERE o.id = 1"
            seen = [rows(mesh, query)[0] for _ in range(25)]
        finally:
            stop.set()
            writer.join()
    assert all(amount == n for amount, n in seen)
    assert len(set(seen)) > 1


def test_changed_columns_are_seen_by_the_next_statement(mesh, shop):
    assert len(rows(mesh, "FROM sales.orders WHERE id = 1")[0]) == 4
    shop.execute("ALTER TABLE sales.orders ADD COLUMN extra int DEFAULT 9")
    assert rows(mesh, "FROM sales.orders WHERE id = 1")[0][-1] == 9
    shop.execute("ALTER TABLE sales.orders DROP COLUMN note", "ALTER TYPE sales.state ADD VALUE 'lost'")
    shop.execute("UPDATE sales.orders SET state = 'lost' WHERE id = 1")
    assert rows(mesh, "SELECT state, extra FROM sales.orders WHERE id = 1") == [("lost", 9)]
    shop.execute("ALTER TABLE sales.orders ALTER COLUMN extra TYPE text")
    assert rows(mesh, "SELECT extra || '!' FROM sales.orders WHERE id = 1") == [("9!",)]


def test_table_made_anew_is_read(mesh, shop):
    assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(100_000,)]
    shop.execute("DROP TABLE sales.orders", "CREATE TABLE sales.orders AS SELECT 1 AS id")
    assert rows(mesh, "FROM sales.orders") == [(1,)]


def test_joins_with_a_delta_table(shop, tmp_path):
    write_deltalake(tmp_path / "lake", pa.table({"id": [1, 2, 3], "name": ["a", "b", "c"]}))
    more = "  - {name: crm.names, location: lake, format: delta}\n"
    with meshql.connect(catalog_of(tmp_path, shop, more=more)) as mesh:
        query = "SELECT n.name, o.amount::VARCHAR FROM sales.orders o JOIN crm.names n USING (id) ORDER BY 1"
        assert rows(mesh, query) == [("a", "1.50"), ("b", "3.00"), ("c", "4.50")]


def test_table_of_schema_public_needs_no_schema(postgres, shop, tmp_path):
    shop.execute("DROP TABLE IF EXISTS plain", "CREATE TABLE plain AS SELECT 5 AS n")
    with meshql.connect(catalog_of(tmp_path, shop, location="plain")) as mesh:
        assert rows(mesh, "FROM sales.orders") == [(5,)]
        assert mesh.check("sales.orders") == "live"


def test_receipt_and_plan_tell_of_the_table(shop, tmp_path):
    with meshql.connect(catalog_of(tmp_path, shop), receipts=True) as mesh:
        with mesh.sql("SELECT amount FROM sales.orders WHERE id < 11") as result:
            result.fetchall()
            (read,) = result.receipt.reads
        session = mesh.session()
        (planned,) = session.plan(session.parse("SELECT id FROM sales.orders WHERE id = 3")[0]).reads
        session.close()
    assert (read.product, read.version, read.cloud, read.rows) == ("sales.orders", "live", "postgres", 10)
    assert read.location == f"postgres://127.0.0.1:{shop.port}/postgres/sales.orders"
    assert (planned.scans, planned.bytes, planned.filters) == (1, None, ("id=3",))


def test_password_shows_nowhere(mesh, shop):
    rows(mesh, "SELECT count(*) FROM sales.orders")
    shown = "".join(
        str(rows(mesh, f"FROM {name}()"))
        for name in ("duckdb_secrets", "duckdb_databases", "duckdb_views", "duckdb_tables")
    )
    assert "postgres:shop" in shown
    assert shop.password not in shown


def test_nothing_can_be_written(mesh, shop):
    rows(mesh, "SELECT count(*) FROM sales.orders")
    with pytest.raises(meshql.MeshError, match="read-only"):
        rows(mesh, """CALL postgres_execute('postgres:shop', 'DELETE FROM sales.orders')""")
    with pytest.raises(meshql.MeshError, match="read-only"):
        rows(mesh, 'DELETE FROM "postgres:shop".sales.orders')
    assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(100_000,)]


@pytest.mark.parametrize(
    ("changes", "kind", "words", "hint"),
    [
        ({"password": "wrong-password"}, CredentialsError, "refused this user", "`auth`"),
        ({"database": "nosuch"}, LocationError, "no such database", "`database`"),
        ({"host": "nowhere.invalid"}, UnreachableError, "does not answer", "`host`"),
        ({"port": 1}, UnreachableError, "does not answer", "`port`"),
        ({"sslmode": "require"}, UnreachableError, "encryption", "`sslmode`"),
        ({"location": "sales.order"}, LocationError, "no table sales.order", "did you mean sales.orders"),
    ],
)
def test_failures_say_what_to_mend(shop, tmp_path, changes, kind, words, hint):
    with (
        meshql.connect(catalog_of(tmp_path, shop, **changes)) as mesh,
        pytest.raises(kind, match=words) as raised,
    ):
        rows(mesh, "FROM sales.orders")
    assert hint in raised.value.hint
    assert "sales.orders" in raised.value.message
    assert "wrong-password" not in str(raised.value)


def test_user_without_the_right_is_told_so(shop, tmp_path):
    shop.execute(
        "DROP ROLE IF EXISTS guest",
        "CREATE ROLE guest LOGIN PASSWORD 'guest-password'",
        "GRANT USAGE ON SCHEMA sales TO guest",
    )
    catalog = catalog_of(tmp_path, shop, user="guest", password="guest-password")
    with meshql.connect(catalog) as mesh, pytest.raises(CredentialsError, match="may not read") as raised:
        rows(mesh, "FROM sales.orders")
    assert raised.value.hint == "as its owner: GRANT SELECT ON sales.orders TO guest"


def test_unset_password_is_named(shop, tmp_path, monkeypatch):
    catalog = catalog_of(tmp_path, shop)
    monkeypatch.delenv("SHOP_PASSWORD")
    with meshql.connect(catalog) as mesh, pytest.raises(CredentialsError, match="SHOP_PASSWORD"):
        rows(mesh, "FROM sales.orders")


def test_server_that_never_answers_is_given_up(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(
        databases, "LIVELY", databases.LIVELY.replace("connect_timeout=5", "connect_timeout=2")
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        catalog = catalog_of(tmp_path, shop, port=silent.getsockname()[1])
        began = time.monotonic()
        with meshql.connect(catalog) as mesh, pytest.raises(UnreachableError):
            rows(mesh, "FROM sales.orders")
        assert time.monotonic() - began < 6


def test_server_that_hangs_once_connected_is_given_up_and_comes_back(mesh, shop, monkeypatch):
    rows(mesh, "SELECT count(*) FROM sales.orders")
    monkeypatch.setattr(databases, "PATIENCE_SECONDS", 1.0)
    with closing(shop.connect()) as own:
        mine = own.info.backend_pid
        pids = [
            r[0] for r in own.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'meshql'")
        ]
        assert pids
        assert mine not in pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"sales\.orders.*did not answer within 1 s"):
            rows(mesh, "SELECT count(*) FROM sales.orders")
        assert time.monotonic() - began < 4
        assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(100_000,)]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_server_that_closed_its_connections_is_asked_anew(mesh, shop):
    rows(mesh, "SELECT count(*) FROM sales.orders")
    shop.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meshql'")
    assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(100_000,)]


def test_connection_lost_in_midst_of_a_statement_is_a_storage_error(mesh, shop):
    with mesh.sql("SELECT repeat(note, 200) FROM sales.orders o") as result:
        batches = iter(result)
        next(batches)
        shop.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meshql'"
        )
        with pytest.raises(StorageError, match=r"sales\.orders"):
            for _ in batches:
                pass


@pytest.mark.parametrize(
    ("location", "form", "words"),
    [
        ("sales.orders", "delta", "what lies on cloud postgres is not of format delta"),
        ("/srv/orders", "postgres", "a location on cloud postgres is schema.table"),
        ("s3://b/orders", "postgres", "a location on cloud postgres is a table's name, not s3://"),
    ],
)
def test_location_and_format_have_to_fit(tmp_path, location, form, words):
    text = CATALOG.format(host="h", port=1, user="u", database="d", sslmode="prefer", location=location)
    (tmp_path / "mesh.yaml").write_text(text.replace("format: postgres", f"format: {form}"))
    with pytest.raises(CatalogError, match=words):
        load(tmp_path)


def test_format_postgres_lies_on_a_database_only(tmp_path):
    (tmp_path / "mesh.yaml").write_text(
        "meshql: 1\nproducts:\n  - {name: a.b, location: x, format: postgres}\n"
    )
    with pytest.raises(CatalogError, match="not for cloud local"):
        load(tmp_path)
