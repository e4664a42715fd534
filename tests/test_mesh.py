"""The Python API: results, sessions, threads, memory, and which snapshot a statement sees."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pandas
import polars
import pyarrow
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

import meshql
from meshql.catalog.load import load
from meshql.errors import QueryError, StorageError, UnknownProductError


@pytest.fixture(scope="module")
def mesh(retail):
    with meshql.connect(retail.catalog) as mesh:
        yield mesh


@pytest.fixture
def local(tmp_path):
    """A function that opens a mesh over local tables: name to (folder or file, format)."""
    opened = []

    def make(**tables):
        products = [
            {"name": f"local.{name}", "location": str(tmp_path / location), "format": format_}
            for name, (location, format_) in tables.items()
        ]
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"meshql": 1, "products": products}))
        opened.append(meshql.connect(tmp_path / "catalog.yaml"))
        return opened[-1]

    yield make
    for mesh in opened:
        mesh.close()


def numbers(n):
    return duckdb.sql(f"SELECT i AS x FROM range({n}) t(i)").to_arrow_table()


TEXT = "SELECT channel, count(*) AS n FROM sales.orders GROUP BY ALL ORDER BY ALL"


def test_a_result_is_arrow_pandas_polars_batches_or_rows(mesh):
    table = mesh.sql(TEXT).arrow()
    assert isinstance(table, pyarrow.Table)
    assert table.column_names == ["channel", "n"]
    assert isinstance(mesh.sql(TEXT).df(), pandas.DataFrame)
    assert mesh.sql(TEXT).df().n.sum() == 100_000
    assert isinstance(mesh.sql(TEXT).pl(), polars.DataFrame)
    assert pyarrow.table(mesh.sql(TEXT)).equals(table)
    assert polars.DataFrame(mesh.sql(TEXT)).height == table.num_rows
    assert pyarrow.Table.from_batches(list(mesh.sql(TEXT))).equals(table)
    assert mesh.sql(TEXT).fetchall() == [tuple(row.values()) for row in table.to_pylist()]
    assert mesh.sql(TEXT).columns == ("channel", "n")
    assert mesh.sql(TEXT).types == ("VARCHAR", "BIGINT")


def test_looking_at_a_result_does_not_consume_it(mesh, capsys):
    result = mesh.sql("SELECT * FROM merchandising.products")
    result.show(5)
    shown = capsys.readouterr().out
    assert "product_id" in shown
    assert "the first 5 rows; more follow" in shown
    assert "<table" in result._repr_html_()
    assert result.arrow().num_rows == mesh.sql("FROM merchandising.products").arrow().num_rows


def test_a_closed_result_and_a_closed_mesh_say_so(retail):
    mesh = meshql.connect(retail.catalog)
    with mesh.sql("FROM crm.customers") as result:
        next(iter(result))
    with pytest.raises(QueryError, match="the result is closed"):
        result.arrow()
    result.close()
    mesh.close()
    mesh.close()
    with pytest.raises(QueryError, match="the mesh is closed"):
        mesh.sql("SELECT 1")


def test_a_new_statement_of_a_session_closes_the_last_result(mesh):
    session = mesh.session()
    first, second = (session.run(s) for s in session.parse("FROM range(1000000); SELECT 1"))
    assert second.fetchall() == [(1,)]
    with pytest.raises(QueryError, match="the result is closed"):
        first.arrow()


def test_results_of_one_mesh_are_open_side_by_side(mesh):
    first, second = (mesh.sql("SELECT order_id FROM sales.orders ORDER BY 1") for _ in range(2))
    ahead = [next(iter(first)), next(iter(second))]
    rows = sum(b.num_rows for b in first) + sum(b.num_rows for b in second)
    assert rows + sum(b.num_rows for b in ahead) == 200_000


def test_eight_threads_get_right_answers(mesh):
    text = (
        "SELECT count(*), sum(o.amount), max(p.name), min(c.name) FROM sales.orders o"
        " JOIN merchandising.products p USING (product_id) JOIN crm.customers c USING (customer_id)"
        " WHERE o.month = $month"
    )
    expected = {month: mesh.sql(text, {"month": month}).fetchall() for month in range(1, 13)}
    with ThreadPoolExecutor(8) as pool:
        months = [1 + i % 12 for i in range(64)]
        found = list(pool.map(lambda month: (month, mesh.sql(text, {"month": month}).fetchall()), months))
    assert len({str(rows) for rows in expected.values()}) == 12
    assert all(rows == expected[month] for month, rows in found)


def test_eight_threads_mount_the_same_products_at_once(retail):
    with meshql.connect(retail.catalog) as mesh, ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: str(mesh.sql(TEXT).fetchall()), range(8)))
    assert len(found) == 1


def test_a_statement_sees_one_version_and_the_next_one_the_newest(local, tmp_path):
    folder = tmp_path / "delta"
    write_deltalake(folder, numbers(10))
    mesh = local(t=("delta", "delta"))
    result = mesh.sql("SELECT count(*) FROM local.t UNION ALL SELECT count(*) FROM local.t")
    write_deltalake(folder, numbers(5), mode="append")
    assert result.fetchall() == [(10,), (10,)]
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(15,)]
    assert mesh.product("local.t").version == "1"


def test_versions_change_under_reading_threads(local, tmp_path):
    folder = tmp_path / "delta"
    write_deltalake(folder, numbers(1))
    mesh = local(t=("delta", "delta"))

    def read(_):
        return mesh.sql("SELECT (SELECT count(*) FROM local.t), (SELECT count(*) FROM local.t)").fetchall()[0]

    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(read, i) for i in range(60)]
        for _ in range(15):
            write_deltalake(folder, numbers(1), mode="append")
        counts = [job.result() for job in reads]
    assert all(a == b for a, b in counts)
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(16,)]


def test_files_that_come_and_go_are_seen(local, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    numbers_file = duckdb.sql("SELECT 1 AS x")
    numbers_file.write_parquet(str(folder / "a.parquet"))
    (folder / "_SUCCESS").touch()
    mesh = local(t=("files", "parquet"), g=("files/*.parquet", "parquet"))
    for name in ("local.t", "local.g"):
        assert mesh.sql(f"SELECT count(*) FROM {name}").fetchall() == [(1,)]
    numbers_file.write_parquet(str(folder / "b.parquet"))
    for name in ("local.t", "local.g"):
        assert mesh.sql(f"SELECT count(*) FROM {name}").fetchall() == [(2,)]
    (folder / "a.parquet").unlink()
    for name in ("local.t", "local.g"):
        assert mesh.sql(f"SELECT count(*) FROM {name}").fetchall() == [(1,)]


def test_a_view_over_a_product_follows_it(local, tmp_path):
    folder = tmp_path / "delta"
    write_deltalake(folder, numbers(3))
    mesh = local(t=("delta", "delta"))
    mesh.sql("CREATE VIEW v AS SELECT x FROM local.t")
    assert mesh.sql("SELECT count(*) FROM v").fetchall() == [(3,)]
    write_deltalake(folder, numbers(4), mode="append")
    assert mesh.sql("SELECT count(*) FROM v").fetchall() == [(7,)]


def test_a_delta_log_that_goes_back_is_told_once(local, tmp_path):
    folder = tmp_path / "delta"
    for rows in (1, 1, 1):
        write_deltalake(folder, numbers(rows), mode="append")
    mesh = local(t=("delta", "delta"))
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(3,)]
    (folder / "_delta_log" / f"{2:020d}.json").unlink()
    with pytest.raises(StorageError, match=r"local\.t: the Delta log went back from version 2 to 1"):
        mesh.sql("SELECT count(*) FROM local.t")
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(2,)]


def test_a_delta_table_with_a_checkpoint_and_a_clean_log(local, tmp_path):
    folder = tmp_path / "delta"
    for _ in range(4):
        write_deltalake(folder, numbers(2), mode="append")
    DeltaTable(folder).create_checkpoint()
    for version in range(3):
        (folder / "_delta_log" / f"{version:020d}.json").unlink()
    write_deltalake(folder, numbers(2), mode="append")
    mesh = local(t=("delta", "delta"))
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(10,)]
    found = mesh.product("local.t")
    assert (found.version, found.files, found.rows) == ("4", 5, 10)


@pytest.mark.parametrize(
    ("name", "version", "files", "rows"),
    [
        ("sales.orders", None, 24, 100_000),
        ("merchandising.products", None, None, None),
        ("crm.customers", None, 1, None),
        ("marketing.campaigns", None, 1, None),
    ],
)
def test_a_description_agrees_with_the_data(mesh, name, version, files, rows):
    found = mesh.product(name)
    (counted,) = mesh.sql(f"SELECT count(*) FROM {name}").fetchall()[0]
    assert found.rows in (counted, None)
    assert (found.rows is None) == (found.product.format in {"csv", "json"})
    assert rows in (None, found.rows)
    assert files in (None, found.files)
    assert found.bytes > 0
    assert found.changed_at is not None
    assert [c.name for c in found.columns] == list(mesh.sql(f"FROM {name} LIMIT 0").columns)
    assert any(c.description for c in found.columns)


def test_products_are_listed_by_glob(mesh):
    assert [p.name for p in mesh.products("S*")] == ["sales.orders", "support.tickets"]
    assert len(mesh.products()) == 8


def test_a_receipt_says_what_was_read_from_where(retail):
    text = (
        "SELECT count(*) FROM sales.orders o JOIN merchandising.products p USING (product_id)"
        " JOIN crm.customers c USING (customer_id) WHERE o.year = 2025 AND o.month = 3"
    )
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        result = mesh.sql(text)
        assert result.receipt is None
        result.fetchall()
    reads = {r.product: r for r in result.receipt.reads}
    assert {r.cloud for r in reads.values()} == {"s3", "gcs", "azure"}
    assert (reads["sales.orders"].files, reads["sales.orders"].files_total) == (1, 24)
    assert all(r.bytes > 0 and r.requests > 0 for r in reads.values()), reads
    assert result.receipt.rows == 1
    assert '"product": "crm.customers"' in result.receipt.json()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_fifty_million_rows_stream_in_under_500_mb(tmp_path):
    program = """
        import re, sys, meshql
        with meshql.connect(sys.argv[1]) as mesh:
            rows = sum(b.num_rows for b in mesh.sql("SELECT x, x * 2 AS y, hash(x) AS z FROM local.big"))
        # Not getrusage: a process that a large one starts begins with that one's peak.
        print(rows, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
    """
    duckdb.sql("SELECT range AS x FROM range(50000000)").write_parquet(str(tmp_path / "big.parquet"))
    (tmp_path / "c.yaml").write_text(
        "meshql: 1\nproducts:\n- {name: local.big, location: big.parquet, format: parquet}\n"
    )
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "c.yaml")]
    rows, megabytes = map(
        int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert rows == 50_000_000
    assert megabytes < 500


def test_the_package_imports_no_engine():
    program = "import sys, meshql; print([m for m in ('duckdb', 'pyarrow', 'pydantic', 'obstore') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_a_catalog_that_changes_is_adopted(local, tmp_path):
    write_deltalake(tmp_path / "one", numbers(1))
    write_deltalake(tmp_path / "two", numbers(2))
    mesh = local(t=("one", "delta"), gone=("one", "delta"))
    assert mesh.sql(
        "SELECT (SELECT count(*) FROM local.t), (SELECT count(*) FROM local.gone)"
    ).fetchall() == [(1, 1)]
    text = (tmp_path / "catalog.yaml").read_text()
    (tmp_path / "catalog.yaml").write_text(text.replace("/one", "/two").replace("local.gone", "local.new"))
    mesh.reload(load(tmp_path / "catalog.yaml"))
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(2,)]
    assert mesh.sql("SELECT count(*) FROM local.new").fetchall() == [(2,)]
    with pytest.raises(UnknownProductError):
        mesh.sql("SELECT count(*) FROM local.gone")


def test_a_temporary_view_over_a_product_follows_it(local, tmp_path):
    write_deltalake(tmp_path / "delta", numbers(3))
    mesh = local(t=("delta", "delta"))
    session = mesh.session()
    create, count = session.parse("CREATE TEMP VIEW v AS FROM local.t; SELECT count(*) FROM v")
    session.run(create)
    assert session.run(count).fetchall() == [(3,)]
    write_deltalake(tmp_path / "delta", numbers(1), mode="append")
    assert session.run(count).fetchall() == [(4,)]


def test_a_table_made_anew_at_the_same_version_is_another_one(local, tmp_path):
    write_deltalake(tmp_path / "delta", numbers(3))
    mesh = local(t=("delta", "delta"))
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(3,)]
    shutil.rmtree(tmp_path / "delta")
    write_deltalake(tmp_path / "delta", numbers(5))
    assert mesh.sql("SELECT count(*) FROM local.t").fetchall() == [(5,)]


@pytest.mark.slow
def test_ctrl_c_in_python_leaves_the_mesh_usable(tmp_path):
    program = """
        import os, signal, sys, threading, time, meshql
        slow = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
        late = f"SELECT 1 AS x UNION ALL ({slow})"
        with meshql.connect(sys.argv[1]) as mesh:
            for text in (slow, late):
                threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
                started = time.monotonic()
                try:
                    mesh.sql(text).fetchall()
                except (KeyboardInterrupt, meshql.MeshError) as error:
                    print(type(error).__name__, time.monotonic() - started < 3)
                print(mesh.sql("SELECT 7").fetchall())
    """
    (tmp_path / "c.yaml").write_text("meshql: 1\n")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "c.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "KeyboardInterrupt True\n[(7,)]\n" * 2, done.stdout + done.stderr
