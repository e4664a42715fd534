"""Everything that goes wrong below us ends in one clear error that names the product."""

from __future__ import annotations

import shutil
import socket
import time
from contextlib import contextmanager
from urllib.request import Request, urlopen

import duckdb
import pytest
import yaml

import meshql
from meshql.demo import emulators
from meshql.demo.stores import Store
from meshql.errors import (
    CatalogError,
    CorruptError,
    CredentialsError,
    DeadlineError,
    LocationError,
    MeshError,
    QueryError,
    UnknownProductError,
    UnreachableError,
)

BUCKET = "faults"


@pytest.fixture(scope="module")
def healthy(retail):
    """The retail tables' files, to break copies of."""
    return retail.folder


@pytest.fixture
def broken(retail, tmp_path):
    """A function that makes a catalog of one healthy product and one that is as its arguments say."""
    opened = []

    def make(location, format_, store, **changes):
        connection = {**store.connection, **changes}
        products = [
            {"name": "web.broken", "connection": "shaky", "location": location, "format": format_},
            {"name": "web.fine", "location": str(tmp_path / "fine.parquet"), "format": "parquet"},
        ]
        duckdb.sql("SELECT 42 AS x").write_parquet(str(tmp_path / "fine.parquet"))
        file = tmp_path / "catalog.yaml"
        file.write_text(
            yaml.safe_dump({"meshql": 1, "connections": {"shaky": connection}, "products": products})
        )
        opened.append(meshql.connect(file))
        return opened[-1]

    yield make
    for mesh in opened:
        mesh.close()


@contextmanager
def fails(kind, *words):
    """The block raises `kind`, whose text has the product's name and these words, and a hint."""
    with pytest.raises(kind) as caught:
        yield caught
    text = str(caught.value)
    assert "web.broken" in text, text
    for word in words:
        assert word in text, text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 4, text


def put_folder(store, source, prefix, tmp_path):
    store.create_bucket(BUCKET)
    staged = tmp_path / "staged"
    shutil.copytree(source, staged / prefix)
    store.upload(BUCKET, staged)
    return store.open(BUCKET)


def query(mesh):
    return mesh.sql("SELECT count(*) FROM web.broken").fetchall()


@pytest.mark.parametrize("format_", ["delta", "iceberg", "parquet", "csv"])
@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
def test_a_bucket_that_does_not_exist(broken, retail, cloud, format_):
    store = retail.stores[cloud]
    mesh = broken(f"{store.scheme}://no-such-bucket/table/", format_, store)
    with fails(LocationError, "does not exist", "no-such-bucket", "hint:"):
        query(mesh)


@pytest.mark.parametrize("format_", ["delta", "iceberg", "parquet", "json"])
@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
def test_a_location_with_nothing_in_it(broken, retail, cloud, format_):
    store = retail.stores[cloud]
    store.create_bucket(BUCKET)
    mesh = broken(f"{store.scheme}://{BUCKET}/nothing/here/", format_, store)
    with fails(LocationError, f"{BUCKET}/nothing/here", "hint:"):
        query(mesh)


@pytest.mark.parametrize("format_", ["delta", "parquet"])
def test_wrong_keys_on_azure(broken, azure, format_):
    wrong = azure.connection_string.replace("AccountKey=E", "AccountKey=F")
    auth = {"method": "connection_string", "connection_string": wrong}
    mesh = broken("az://backup/crm/", format_, azure, auth=auth)
    with fails(CredentialsError, "refused", "hint:") as caught:
        query(mesh)
    assert wrong not in str(caught.value)


def test_wrong_keys_on_s3(broken, tmp_path):
    server = emulators.start("locked", "moto", tmp_path)
    try:
        store = Store.s3(server.endpoint)
        store.create_bucket(BUCKET)
        # From the next request on, moto checks signatures against the keys it knows: none.
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(f"{server.endpoint}/moto-api/reset-auth", b"0", headers, method="POST")).close()
        mesh = broken(f"s3://{BUCKET}/table/", "delta", store)
        with fails(CredentialsError, "refused", "InvalidAccessKeyId", "hint:") as caught:
            query(mesh)
        assert store.secret not in str(caught.value)
    finally:
        emulators.stop(server)


def test_an_endpoint_where_nobody_listens(broken, s3):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        mesh = broken(f"s3://{BUCKET}/table/", "delta", s3, endpoint=endpoint)
        started = time.monotonic()
        with fails(UnreachableError, "does not answer", endpoint, "hint:"):
            query(mesh)
    assert time.monotonic() - started < 15


@pytest.mark.slow
def test_an_endpoint_that_never_answers(broken, s3):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        mesh = broken(f"s3://{BUCKET}/table/", "delta", s3, endpoint=endpoint)
        started = time.monotonic()
        with fails(UnreachableError, "does not answer", endpoint, "hint:"):
            query(mesh)
    assert time.monotonic() - started < 15


def test_delta_files_that_are_gone(broken, healthy, s3, tmp_path):
    bucket = put_folder(s3, healthy / "s3/prod-bucket/sales/orders", "delta-gone", tmp_path)
    for chunk in bucket.list("delta-gone"):
        bucket.delete([o["path"] for o in chunk if o["path"].endswith(".parquet")])
    mesh = broken(f"s3://{BUCKET}/delta-gone/", "delta", s3)
    with fails(LocationError, "hint:"):
        mesh.sql("SELECT sum(amount) FROM web.broken").fetchall()


def test_a_delta_log_whose_last_commit_is_empty(broken, healthy, s3, tmp_path):
    bucket = put_folder(s3, healthy / "s3/prod-bucket/sales/orders", "delta-empty", tmp_path)
    log = [o["path"] for o in bucket.list("delta-empty/_delta_log").collect() if o["path"].endswith(".json")]
    bucket.put(max(log), b"")
    with fails(CorruptError, "is empty"):
        query(broken(f"s3://{BUCKET}/delta-empty/", "delta", s3))


def test_a_file_that_is_gone(broken, azure):
    azure.create_bucket(BUCKET)
    with fails(LocationError, "gone.parquet", "hint:"):
        query(broken(f"az://{BUCKET}/gone.parquet", "parquet", azure))


@pytest.mark.parametrize("cloud", ["s3", "azure"])
@pytest.mark.parametrize("content", [b"not parquet at all", b"PAR1" + b"\0" * 64 + b"PAR1", b""])
def test_a_corrupt_parquet_footer(broken, retail, cloud, content):
    store = retail.stores[cloud]
    store.create_bucket(BUCKET)
    store.open(BUCKET).put("corrupt.parquet", content)
    with fails(CorruptError, "corrupt.parquet"):
        query(broken(f"{store.scheme}://{BUCKET}/corrupt.parquet", "parquet", store))


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage", "empty"])
@pytest.mark.parametrize("part", ["manifest", "manifest list", "metadata"])
def test_a_broken_iceberg_table(broken, healthy, gcs, tmp_path, part, damage):
    source = healthy / "gcs/analytics/merchandising/products"
    prefix = f"iceberg-{part.replace(' ', '-')}-{damage}"
    bucket = put_folder(gcs, source, prefix, tmp_path)
    names = [o["path"] for o in bucket.list(f"{prefix}/metadata").collect()]
    lists = [n for n in names if n.rpartition("/")[2].startswith("snap-")]
    chosen = {
        "manifest": [n for n in names if n.endswith(".avro") and n not in lists],
        "manifest list": lists,
        "metadata": [n for n in names if n.endswith(".metadata.json")],
    }[part]
    for name in chosen:
        content = bytes(bucket.get(name).bytes())
        if damage == "gone":
            bucket.delete(name)
        else:
            bucket.put(
                name, {"cut": content[: len(content) // 2], "garbage": b"\x07" * 300, "empty": b""}[damage]
            )
    with fails((CorruptError, LocationError)):
        query(broken(f"gs://{BUCKET}/{prefix}/", "iceberg", gcs))


def test_a_missing_column_keeps_duckdbs_candidates(retail):
    with meshql.connect(retail.catalog) as mesh, pytest.raises(QueryError) as caught:
        mesh.sql("SELECT amuont FROM sales.orders")
    assert 'Candidate bindings: "amount"' in str(caught.value)


def test_an_unknown_product_names_the_nearest(retail):
    with meshql.connect(retail.catalog) as mesh:
        with pytest.raises(UnknownProductError) as caught:
            mesh.sql("SELECT * FROM sales.order")
        assert str(caught.value) == "unknown product sales.order\nhint: did you mean sales.orders?"
        with pytest.raises(UnknownProductError, match=r"sales\.orders"):
            mesh.product("sale.orders")
        with pytest.raises(QueryError) as caught:
            mesh.sql("SELECT * FROM orders")
        assert "did you mean sales.orders?" in caught.value.hint


def test_a_statement_that_does_not_name_the_broken_product_is_not_disturbed(broken, s3):
    mesh = broken("s3://no-such-bucket/table/", "delta", s3)
    started = time.monotonic()
    assert mesh.sql("SELECT x FROM web.fine").fetchall() == [(42,)]
    assert mesh.sql("WITH web AS (SELECT 1 AS broken) SELECT web.broken FROM web").fetchall() == [(1,)]
    mesh.sql("CREATE TABLE t AS WITH web AS (SELECT 1 AS broken) SELECT web.broken FROM web")
    assert time.monotonic() - started < 5
    with fails(LocationError):
        query(mesh)


def test_the_error_of_a_broken_product_reaches_every_kind_of_statement(broken, s3):
    mesh = broken("s3://no-such-bucket/table/", "delta", s3)
    for text in (
        "DESCRIBE web.broken",
        "EXPLAIN FROM web.broken",
        "CREATE TABLE t AS FROM web.broken",
        "COPY (FROM web.broken) TO '/dev/null'",
        "PIVOT web.broken ON x USING count(*)",
    ):
        with fails(LocationError):
            mesh.sql(text)


def test_a_reader_option_that_does_not_exist(broken, tmp_path):
    (tmp_path / "catalog.yaml").write_text(
        "meshql: 1\nproducts:\n- {name: web.broken, location: x.csv, format: csv, options: {delimeter: ';'}}\n"
    )
    (tmp_path / "x.csv").write_text("a;b\n1;2\n")
    with meshql.connect(tmp_path) as mesh, fails(CatalogError, "delimeter", "delim"):
        query(mesh)


def test_a_variable_that_is_not_set(broken, s3, monkeypatch):
    monkeypatch.delenv("MESHQL_TEST_SECRET", raising=False)
    auth = {"method": "keys", "key_id": "k", "secret": "${MESHQL_TEST_SECRET}"}
    mesh = broken("s3://bucket/table/", "delta", s3, auth=auth)
    with fails(CredentialsError, "MESHQL_TEST_SECRET", "not set", "hint: export MESHQL_TEST_SECRET="):
        query(mesh)
    assert mesh.sql("SELECT x FROM web.fine").fetchall() == [(42,)]


def test_a_query_past_its_deadline(retail):
    slow = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE a.range % 7 = b.range % 5"
    with meshql.connect(retail.catalog) as mesh:
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"0\.5 s"):
            mesh.sql(slow, timeout=0.5).fetchall()
        assert time.monotonic() - started < 5
        assert mesh.sql("SELECT 1").fetchall() == [(1,)]


def test_a_catalog_that_is_not_there(tmp_path):
    with pytest.raises(CatalogError, match="nowhere"):
        meshql.connect(tmp_path / "nowhere")


def test_every_error_tells_its_exit_code():
    codes = {kind.__name__: kind.exit_code for kind in all_kinds(MeshError)}
    assert codes["QueryError"] == 1
    assert codes["CatalogError"] == codes["UnknownProductError"] == 2
    assert codes["UnreachableError"] == codes["CorruptError"] == codes["CredentialsError"] == 3
    assert codes["DeadlineError"] == 4


def all_kinds(kind):
    return [kind, *(k for child in kind.__subclasses__() for k in all_kinds(child))]


def test_a_product_that_is_well_is_not_blamed_for_another(tmp_path):
    duckdb.sql("SELECT 1 AS x").write_parquet(str(tmp_path / "well.parquet"))
    products = [
        {
            "name": f"t.{name}",
            "connection": "here",
            "location": f"{tmp_path}/{name}.parquet",
            "format": "parquet",
        }
        for name in ("well", "gone")
    ]
    document = {"meshql": 1, "connections": {"here": {"cloud": "local"}}, "products": products}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(document))
    with meshql.connect(tmp_path) as mesh, pytest.raises(LocationError, match=r"^t\.gone: no parquet file"):
        mesh.sql("SELECT * FROM t.well, t.gone")
