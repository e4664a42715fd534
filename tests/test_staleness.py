"""No statement answers from an old version of a product, however it comes to read it."""

from __future__ import annotations

import gc
import shutil
import threading
import time

import duckdb
import pytest
import yaml
from deltalake import write_deltalake

import meshql
from meshql.catalog.load import load
from meshql.errors import LocationError, MeshError, PolicyError, QueryError


def numbers(n):
    return duckdb.sql(f"SELECT i AS x FROM range({n}) t(i)").to_arrow_table()


@pytest.fixture
def table(tmp_path):
    """A Delta table of three rows, local.t."""
    write_deltalake(tmp_path / "t", numbers(3))
    product = {"name": "local.t", "location": str(tmp_path / "t"), "format": "delta"}
    other = {"name": "local.other", "location": str(tmp_path / "t"), "format": "delta"}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"meshql": 1, "products": [product, other]}))
    return tmp_path / "t"


@pytest.fixture
def mesh(table):
    with meshql.connect(table.parent / "catalog.yaml") as mesh:
        yield mesh


def run(session, text, params=None):
    rows = None
    for statement in session.parse(text):
        rows = session.run(statement, params).fetchall()
    return rows


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ("CREATE VIEW v AS FROM local.t", "CREATE TABLE b AS FROM v; SELECT count(*) FROM b"),
        ("CREATE VIEW v AS FROM local.t", "CREATE TEMP TABLE b AS FROM v; SELECT count(*) FROM b"),
        ("CREATE VIEW v AS FROM local.t; CREATE VIEW w AS FROM v", "SELECT count(*) FROM w"),
        ("CREATE VIEW Totals AS FROM local.t", "SELECT count(*) FROM totals"),
        ("CREATE VIEW v AS FROM local.t", "SELECT count(*) FROM memory.v"),
        ("CREATE TEMP VIEW v AS FROM local.t", "SELECT count(*) FROM v"),
        ("CREATE MACRO n() AS (SELECT count(*) FROM local.t)", "SELECT n()"),
        ("CREATE MACRO tt() AS TABLE FROM local.t", "SELECT count(*) FROM tt()"),
        ("PREPARE p AS SELECT count(*) FROM local.t", "EXECUTE p"),
        ("FROM local.t; USE local", "SELECT count(*) FROM t"),
        ("FROM local.t; SET VARIABLE n = 'local.t'", "SELECT count(*) FROM query_table(getvariable('n'))"),
        ("FROM local.t", "SELECT count(*) FROM query('SELECT * FROM local.t')"),
    ],
)
def test_names_made_earlier_lead_to_the_newest_version(mesh, table, before, then):
    session = mesh.session()
    run(session, before)
    run(session, "SELECT count(*) FROM local.t" if "USE" not in before else "SELECT count(*) FROM t")
    write_deltalake(table, numbers(4), mode="append")
    assert run(session, then) == [(7,)]


@pytest.mark.parametrize(
    "text", ["CREATE TABLE b AS FROM local.t", "COPY local.t TO '/dev/null'", "EXPLAIN ANALYZE FROM local.t"]
)
def test_a_product_that_is_gone_is_not_answered_from_its_old_view(mesh, table, text):
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(3,)]
    shutil.rmtree(table)
    with pytest.raises(LocationError, match=r"local\.t"):
        mesh.sql(text)


def test_two_sessions_read_a_product_while_one_is_in_a_transaction(mesh, table):
    one = mesh.session()
    assert run(one, "BEGIN; SELECT count(*) FROM local.t") == [(3,)]
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(3,)]
    write_deltalake(table, numbers(4), mode="append")
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(7,)]
    assert run(one, "SELECT count(*) FROM local.t") == [(3,)]
    assert run(one, "COMMIT; SELECT count(*) FROM local.t") == [(7,)]


def test_a_product_first_read_in_the_midst_of_a_transaction_says_so(mesh):
    session = mesh.session()
    run(session, "BEGIN; CREATE TABLE k (x INTEGER); FROM duckdb_views()")
    with pytest.raises(QueryError, match="in the midst of a transaction"):
        run(session, "FROM local.other")
    run(session, "ROLLBACK")
    assert run(session, "SELECT count(*) FROM local.other") == [(3,)]


def test_a_reload_while_a_result_is_open(table):
    with meshql.connect(table.parent / "catalog.yaml", receipts=True) as mesh:
        result = mesh.sql("FROM local.t")
        text = (table.parent / "catalog.yaml").read_text()
        (table.parent / "catalog.yaml").write_text(text.replace("local.t", "local.s"))
        mesh.reload(load(table.parent / "catalog.yaml"))
        assert len(result.fetchall()) == 3
        assert result.receipt.reads[0].product == "local.t"
        assert len(mesh.sql("FROM local.s").fetchall()) == 3


def test_results_dropped_unread_are_let_go(mesh):
    for _ in range(20):
        mesh.sql("FROM local.t")
        mesh.session().close()
    gc.collect()
    assert len(mesh._running) == 0
    assert not mesh._engine._in_use


def test_closing_a_mesh_cancels_what_runs(table):
    mesh = meshql.connect(table.parent / "catalog.yaml")
    errors = []

    def work():
        try:
            mesh.sql("SELECT count(*) FROM range(40000000000) a, local.t").fetchall()
        except (MeshError, duckdb.Error) as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(1.5)
    started = time.monotonic()
    mesh.close()
    thread.join(20)
    assert time.monotonic() - started < 10
    assert errors


def test_the_log_of_requests_is_not_for_sql(table):
    with meshql.connect(table.parent / "catalog.yaml", receipts=True) as mesh:
        mesh.sql("FROM local.t").fetchall()
        for text in ("FROM duckdb_logs", "SELECT * FROM duckdb_logs_parsed('HTTP')", "CALL enable_logging()"):
            with pytest.raises(PolicyError):
                mesh.sql(text)


def test_a_checkpoint_at_the_newest_version_costs_no_new_look(mesh, table):
    from deltalake import DeltaTable

    DeltaTable(table).create_checkpoint()
    product = mesh.catalog.product("local.t")
    first = mesh._resolver.snapshot(product)
    assert mesh._resolver.snapshot(product) is first


def test_a_file_whose_name_reads_as_a_glob(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    duckdb.sql("SELECT 1 AS x").write_parquet(str(folder / "data1.parquet"))
    (folder / "x.parquet").write_bytes((folder / "data1.parquet").read_bytes())
    duckdb.sql("SELECT 100 AS x").write_parquet(str(folder / "y.parquet"))
    (folder / "y.parquet").rename(folder / "data[1].parquet")
    (folder / "x.parquet").unlink()
    product = {"name": "t.t", "location": str(folder), "format": "parquet"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"meshql": 1, "products": [product]}))
    with meshql.connect(tmp_path / "c.yaml") as mesh:
        assert mesh.sql("SELECT sum(x), count(*) FROM t.t").fetchall() == [(101, 2)]


@pytest.mark.parametrize(
    "text",
    [
        "COPY (FROM local.t) TO '/nope/x.csv'",
        "FROM local.t, read_csv('/nope/missing.csv')",
        "SELECT CAST('corrupted' AS INTEGER) FROM local.t",
        "SELECT error('footer missing in order ' || x) FROM local.t",
    ],
)
def test_what_the_sql_did_is_not_blamed_on_the_product(mesh, text):
    with pytest.raises(QueryError) as caught:
        mesh.sql(text).fetchall()
    assert "local.t:" not in caught.value.message
    assert caught.value.exit_code == 1


def test_transactions_begin_where_views_were_made_over_products(mesh):
    session = mesh.session()
    run(session, "CREATE VIEW v AS FROM local.t; FROM v")
    assert run(session, "BEGIN; CREATE TABLE k AS FROM v; ROLLBACK; SELECT count(*) FROM v") == [(3,)]


def test_a_broken_product_behind_a_view_is_not_blamed_for_other_mistakes(mesh, table):
    mesh.sql("CREATE VIEW v AS FROM local.t")
    shutil.rmtree(table)
    with pytest.raises(LocationError, match=r"local\.t"):
        mesh.sql("SELECT count(*) FROM v")
    with pytest.raises(QueryError, match="nope"):
        mesh.sql("SELECT nope FROM range(3)")
    assert mesh.sql("SELECT 1").fetchall() == [(1,)]
