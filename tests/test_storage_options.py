"""One identity, every reader: real tables in the emulators, read by the real libraries with these options."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import duckdb
import lance
import pyarrow
import pytest
import yaml
from clouds.google import STORAGE, google_services, google_storage
from deltalake import DeltaTable, write_deltalake
from pydantic import TypeAdapter
from pyiceberg.io import load_file_io
from pyiceberg.table import StaticTable

import meshql
from meshql.catalog.connections import Connection
from meshql.demo.iceberg_tables import mirror_catalog
from meshql.demo.stores import AZURITE_ACCOUNT, AZURITE_KEY
from meshql.errors import CredentialsError, LocationError, UsageError
from meshql.identity.broker import Broker
from meshql.identity.options import reader_uri, storage_options
from meshql.storage.location import Location
from meshql.storage.store import open_store

BUCKET = "readers"
ROWS = pyarrow.table({"x": [1, 2, 3], "y": ["a", "b", "c"]})
READERS = ("deltalake", "lance", "pyiceberg")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A function that makes a bucket's folder: the same rows in every format, as a cloud would name them."""
    folder = tmp_path_factory.mktemp("tables")

    def make(scheme):
        root = folder / scheme / BUCKET
        if not root.exists():
            root.mkdir(parents=True)
            write_deltalake(root / "delta", ROWS)
            lance.write_dataset(ROWS, str(root / "lance"))
            for name, form in (("x.parquet", "parquet"), ("x.csv", "csv"), ("x.jsonl", "json")):
                duckdb.sql(f"COPY (FROM ROWS) TO '{root / name}' (FORMAT {form})")
            with mirror_catalog(folder / scheme, scheme) as catalog:
                catalog.create_namespace("db")
                location = f"{scheme}://{BUCKET}/iceberg"
                catalog.create_table("db.iceberg", ROWS.schema, location=location).append(ROWS)
        return root

    return make


@pytest.fixture(scope="module")
def published(tables):
    """A function that brings the bucket into a store; its Iceberg table names the place as `scheme`://."""
    done = {}

    def publish(store, scheme):
        if store.endpoint not in done:
            root = done[store.endpoint] = tables(scheme)
            store.create_bucket(BUCKET)
            store.upload(BUCKET, root)
        metadata = max((done[store.endpoint] / "iceberg").glob("metadata/*.json"))
        return metadata.relative_to(done[store.endpoint]).as_posix()

    return publish


@pytest.fixture(scope="module")
def google():
    with google_services() as google:
        yield google


@pytest.fixture(scope="module")
def front(google, gcs):
    """Cloud Storage that takes access tokens, over the same buckets as `gcs`; one of them is public."""
    with google_storage(google, gcs.endpoint) as front:
        yield front


@pytest.fixture(scope="module")
def public(google, gcs):
    with google_storage(google, gcs.endpoint, public=[BUCKET]) as front:
        yield front


def connection(**given):
    return TypeAdapter(Connection).validate_python({"name": "lake", "insecure": True, **given})


def read(reader, declared, scheme, metadata):
    """All rows of the reader's table, by x."""
    credentials = Broker().credentials(declared)
    options = storage_options(declared, credentials, reader)
    name = {"deltalake": "delta", "lance": "lance", "pyiceberg": metadata}[reader]
    uri = reader_uri(declared, credentials, reader, f"{scheme}://{BUCKET}/{name}")
    if reader == "deltalake":
        rows = DeltaTable(uri, storage_options=options).to_pyarrow_table()
    elif reader == "lance":
        rows = lance.dataset(uri, storage_options=options).to_table()
    else:
        rows = StaticTable.from_metadata(uri, properties=options).scan().to_arrow()
    return rows.sort_by("x").to_pylist()


@pytest.mark.parametrize("reader", READERS)
def test_s3_keys(reader, s3, published):
    metadata = published(s3, "s3")
    auth = {"method": "keys", "key_id": s3.key_id, "secret": s3.secret}
    declared = connection(cloud="s3", endpoint=s3.endpoint, url_style="path", auth=auth)
    assert read(reader, declared, "s3", metadata) == ROWS.to_pylist()


@pytest.mark.parametrize("reader", READERS)
def test_gcs_hmac(reader, gcs, published):
    metadata = published(gcs, "gs")
    auth = {"method": "hmac", "key_id": gcs.key_id, "secret": gcs.secret}
    declared = connection(cloud="gcs", endpoint=gcs.endpoint, auth=auth)
    assert read(reader, declared, "gs", metadata) == ROWS.to_pylist()


def elsewhere(*arguments):
    """What `read` returns in a process of its own: pyarrow's Cloud Storage lets no other thread run, and so
    no server of this process answer."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(read, *arguments).result(timeout=60)


@pytest.mark.parametrize(("reader", "run"), [("lance", read), ("pyiceberg", elsewhere)])
def test_gcs_token(reader, run, google, gcs, front, published):
    metadata = published(gcs, "gs")
    token, _ = google.issue("reader", [f"{STORAGE}read_only"])
    declared = connection(cloud="gcs", endpoint=front.url, auth={"method": "token", "token": token})
    front.requests.clear()
    assert run(reader, declared, "gs", metadata) == ROWS.to_pylist()
    assert {authorization for *_, authorization in front.requests} == {f"Bearer {token}"}


def test_gcs_token_is_refused_for_delta_rs_which_would_look_for_another_identity(front):
    declared = connection(cloud="gcs", endpoint=front.url, auth={"method": "token", "token": "CANARY"})
    with pytest.raises(UsageError, match="delta-rs has no option for a bearer token") as caught:
        storage_options(declared, Broker().credentials(declared), "deltalake")
    assert "Lance, pyiceberg and DuckDB take the token" in caught.value.hint
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_gcs_anonymous(reader, gcs, public, published, monkeypatch):
    metadata = published(gcs, "gs")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ambient")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient")
    declared = connection(cloud="gcs", endpoint=public.url, auth={"method": "anonymous"})
    public.requests.clear()
    assert read(reader, declared, "gs", metadata) == ROWS.to_pylist()
    assert {authorization for *_, authorization in public.requests} == {None}


def shared_access_signature():
    """A signature of the whole account for reading and listing, as the Azure portal makes one."""
    fields = {
        "sv": "2021-12-02",
        "ss": "b",
        "srt": "sco",
        "sp": "rl",
        "st": (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "se": (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "spr": "https,http",
    }
    order = (
        fields["sp"],
        fields["ss"],
        fields["srt"],
        fields["st"],
        fields["se"],
        "",
        fields["spr"],
        fields["sv"],
        "",
        "",
    )
    text = "\n".join([AZURITE_ACCOUNT, *order])
    digest = hmac.new(base64.b64decode(AZURITE_KEY), text.encode(), hashlib.sha256).digest()
    return urlencode(fields | {"sig": base64.b64encode(digest).decode()})


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("method", ["connection_string", "account_key", "sas"])
def test_azure(reader, method, azure, published):
    metadata = published(azure, "abfs")
    given = {
        "connection_string": {"connection_string": azure.connection_string},
        "account_key": {"key": azure.secret},
        "sas": {"sas": f"?{shared_access_signature()}"},
    }
    where = {} if method == "connection_string" else {"account": azure.key_id, "endpoint": azure.endpoint}
    declared = connection(cloud="azure", auth={"method": method, **given[method]}, **where)
    assert read(reader, declared, "az", metadata) == ROWS.to_pylist()


# --- through meshql -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "served"), [("token", "front"), ("service_account", "front"), ("anonymous", "public")]
)
def test_products_are_read_with_a_token_or_publicly(auth, served, google, gcs, published, tmp_path, request):
    published(gcs, "gs")
    front = request.getfixturevalue(served)
    ways = {
        "token": {"method": "token", "token": google.issue("reader", [f"{STORAGE}read_only"])[0]},
        "service_account": {"method": "service_account", "key_file": "key.json"},
        "anonymous": {"method": "anonymous"},
    }
    (tmp_path / "key.json").write_text(json.dumps(google.service_account("reader@p.iam.gserviceaccount.com")))
    locations = {
        "parquet": ("x.parquet", "parquet"),
        "csv": ("x.csv", "csv"),
        "json": ("x.jsonl", "json"),
        "iceberg": ("iceberg", "iceberg"),
    }
    lake = {"cloud": "gcs", "endpoint": front.url, "insecure": True, "auth": ways[auth]}
    products = [
        {"name": f"lake.t_{name}", "connection": "lake", "location": f"gs://{BUCKET}/{where}", "format": form}
        for name, (where, form) in locations.items()
    ]
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({"meshql": 1, "connections": {"lake": lake}, "products": products}))
    front.requests.clear()
    expected = [tuple(row.values()) for row in ROWS.to_pylist()]
    with meshql.connect(catalog) as mesh:
        for name in locations:
            assert mesh.sql(f"SELECT x, y FROM lake.t_{name} ORDER BY x").fetchall() == expected
    shown = {(authorization or "nobody").partition(" ")[0] for *_, authorization in front.requests}
    assert shown == {"nobody" if auth == "anonymous" else "Bearer"}


def test_a_store_lists_looks_and_reads_with_a_token(google, gcs, front, published):
    published(gcs, "gs")
    good, bare = google.issue("reader", [f"{STORAGE}read_only"])[0], google.issue("reader", ["email"])[0]

    def store(token):
        declared = connection(cloud="gcs", endpoint=front.url, auth={"method": "token", "token": token})
        return open_store(declared, Broker().credentials(declared), Location("gs", BUCKET, ""))

    listed = store(good).objects("iceberg/metadata/")
    assert listed
    assert all(o.key.startswith("iceberg/metadata/") for o in listed)
    assert store(good).objects("iceberg/metadata/", after=listed[-2].key) == listed[-1:]
    assert store(good).head("x.csv").size == len(store(good).get("x.csv"))
    assert store(good).get("x.csv").startswith(b"x,y")
    assert store(good).head("nothing") is None
    for token in ("ya29.none", bare):
        with pytest.raises(CredentialsError) as caught:
            store(token).head("x.csv")
        assert token not in str(caught.value)


def test_azure_account_may_stand_in_the_location():
    declared = connection(cloud="azure", auth={"method": "sas", "sas": "sv=1&sig=x"})
    credentials = Broker().credentials(declared)
    uri = "abfss://tables@lake.dfs.core.windows.net/orders"
    options = storage_options(declared, credentials, "deltalake", uri)
    assert options["azure_storage_account_name"] == "lake"
    assert options["azure_storage_endpoint"] == "https://lake.blob.core.windows.net"
    assert reader_uri(declared, credentials, "deltalake", uri) == "az://tables/orders"
    options = storage_options(declared, credentials, "pyiceberg", uri)
    assert options["adls.blob-storage-authority"] == ".blob.core.windows.net"
    assert options["adls.dfs-storage-authority"] == ".dfs.core.windows.net"
    assert reader_uri(declared, credentials, "pyiceberg", uri) == "abfs://tables/orders"


def test_bucket_stands_in_the_host_of_a_store_of_that_style():
    declared = connection(cloud="s3", endpoint="https://minio.example.com", auth={"method": "anonymous"})
    options = storage_options(declared, Broker().credentials(declared), "lance", "s3://tables/orders")
    assert options["aws_endpoint"] == "https://tables.minio.example.com"
    with pytest.raises(UsageError, match="needs the bucket's name"):
        storage_options(declared, Broker().credentials(declared), "lance")


def test_pyiceberg_takes_no_identity_to_another_azure_account():
    declared = connection(cloud="azure", account="lake", auth={"method": "token", "token": "CANARY"})
    options = storage_options(declared, Broker().credentials(declared), "pyiceberg")
    io = load_file_io(options)
    assert io.new_input("abfss://t@lake.dfs.core.windows.net/a/t@b")._path == "t/a/t@b"
    assert io.new_input("abfs://t/a/b")._path == "t/a/b"
    with pytest.raises(LocationError) as caught:
        io.new_input("abfss://t@other.dfs.core.windows.net/a/b")
    assert caught.value.message == (
        "abfss://t@other.dfs.core.windows.net/a/b does not lie in storage account lake, whose credentials these are"
    )
    assert caught.value.hint == "read the table through SQL, as a product of a connection to that account"


def test_what_no_other_reader_reads_is_refused():
    declared = connection(cloud="postgres", host="h", database="d", auth={"method": "default"})
    with pytest.raises(UsageError, match="delta-rs reads files, and this is a table of a database"):
        storage_options(declared, Broker().credentials(declared), "deltalake")
    declared = connection(cloud="s3", auth={"method": "anonymous"})
    with pytest.raises(UsageError, match="unknown reader pandas") as caught:
        storage_options(declared, Broker().credentials(declared), "pandas")
    assert caught.value.hint == "known: deltalake, lance, pyiceberg"
