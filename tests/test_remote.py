"""Tables of remote catalogs as products: found, read with what the catalog vends, and missed clearly."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from clouds.gateway import gateway
from clouds.iceberg_rest import IcebergRestCatalog
from clouds.unity import UnityCatalog
from deltalake import write_deltalake

import meshql
from meshql.catalog.load import load
from meshql.errors import (
    CatalogError,
    CredentialsError,
    LocationError,
    UnknownProductError,
    UnreachableError,
    UsageError,
)
from meshql.identity.credentials import AccessKey, BearerToken, SharedAccessSignature
from meshql.remote.vended import connection_for, credentials_in, plain_uri

ORDERS = pa.table({"id": [1, 2, 3], "amount": [1.5, 2.5, 3.0]})

OAUTH = 'auth: {method: oauth2, client_id: mesh, client_secret: "${LAKE_SECRET}"}'


@pytest.fixture(scope="module")
def door(s3):
    """The store's front door, which knows only whom the catalogs vended."""
    s3.create_bucket("remote")
    with gateway(s3.endpoint) as found:
        found.issue()
        yield found


@pytest.fixture(scope="module")
def lake(s3, door, tmp_path_factory):
    """An Iceberg REST catalog with sales.orders, sales.customers, sales.eu.returns and hr.people."""
    folder = tmp_path_factory.mktemp("lake")
    with closing(
        IcebergRestCatalog(
            folder,
            s3,
            "remote",
            vend=lambda: {"s3.access-key-id": door.issue(), "s3.endpoint": door.url},
        )
    ) as found:
        for space in (("sales",), ("sales", "eu"), ("hr",)):
            found.catalog.create_namespace(space)
        for name in ("sales.orders", "sales.customers", "sales.eu.returns", "hr.people"):
            found.catalog.create_table(name, ORDERS.schema).append(ORDERS)
        yield found


@pytest.fixture(scope="module")
def unity(s3, door):
    with closing(UnityCatalog()) as found:
        options = {
            "aws_endpoint_url": s3.endpoint,
            "aws_access_key_id": "a",
            "aws_secret_access_key": "b",
            "aws_allow_http": "true",
            "aws_region": "us-east-1",
        }
        write_deltalake("s3://remote/unity/events", ORDERS, storage_options=options)
        found.add("web.events", "s3://remote/unity/events")
        found.add("web.summary", None, form="DELTA", kind="VIEW")
        found.add("web.old", "s3://remote/unity/old", form="AVRO")
        key = door.issue()
        found.credentials = {
            "aws_temp_credentials": {"access_key_id": key, "secret_access_key": "s", "session_token": "t"}
        }
        yield found


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAKE_SECRET", "s3cret-of-mesh")


def rest(lake, include='["*"]', auth=OAUTH, more=""):
    return f"""
  lakehouse:
    cloud: iceberg_rest
    uri: {lake.url}
    warehouse: lake
    include: {include}
    {auth}
{more}"""


def catalog(folder, connections, products="[]"):
    (folder / "mesh.yaml").write_text(f"meshql: 1\nconnections:{connections}\nproducts: {products}\n")
    return folder


def rows(mesh, sql):
    with mesh.sql(sql) as result:
        return result.fetchall()


def test_tables_are_products_under_their_namespaces(lake, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        assert [p.name for p in mesh.products()] == [
            "hr.people",
            "sales.customers",
            "sales.orders",
            "sales_eu.returns",
        ]
        assert rows(
            mesh, "SELECT sum(amount) FROM sales.orders JOIN sales_eu.returns USING (id, amount)"
        ) == [(7.0,)]
        assert rows(mesh, "SELECT count(*) FROM HR.People") == [(3,)]


def test_include_chooses_and_domain_renames(lake, tmp_path):
    more = "    domain: shop"
    with meshql.connect(catalog(tmp_path, rest(lake, include='["sales.*ers"]', more=more))) as mesh:
        with lake.watched() as requests:
            assert [p.name for p in mesh.products()] == ["shop.customers", "shop.orders"]
        # Namespaces that nothing can be included of are not asked for tables.
        assert not any("/hr/" in path for _, path in requests)
        assert rows(mesh, "SELECT count(*) FROM shop.orders") == [(3,)]
        with pytest.raises(meshql.MeshError):
            rows(mesh, "SELECT count(*) FROM sales.orders")


def test_no_include_mounts_nothing_and_asks_nobody(lake, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake, include="[]"))) as mesh, lake.watched() as requests:
        assert mesh.products() == []
        with pytest.raises(meshql.MeshError):
            rows(mesh, "FROM sales.orders")
    assert requests == []


def test_other_domains_ask_nobody(lake, tmp_path):
    with (
        meshql.connect(catalog(tmp_path, rest(lake, include='["sales.*"]'))) as mesh,
        lake.watched() as requests,
    ):
        assert (
            rows(mesh, "SELECT 1 AS n UNION ALL SELECT count(*) FROM information_schema.tables") is not None
        )
        with pytest.raises(UnknownProductError):
            mesh.product("other.table")
    assert requests == []


def test_files_are_read_with_vended_credentials_only(lake, door, tmp_path):
    before = len(door.requests)
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        rows(mesh, "SELECT count(*), sum(amount) FROM sales.orders")
    mine = door.requests[before:]
    assert mine
    assert {r.status for r in mine} <= {200, 206}
    assert all(r.identity and r.identity in door.identities for r in mine)
    assert any(r.headers.get("x-amz-security-token") == "vended-token" for r in mine)


def test_unchanged_table_costs_one_request_to_the_catalog_and_none_to_the_store(lake, door, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        rows(mesh, "SELECT count(*) FROM sales.orders")
        before = len(door.requests)
        with lake.watched() as requests:
            assert mesh.check("sales.orders")
        assert [path for _, path in requests] == ["/v1/wh/lake/namespaces/sales/tables/orders"]
        assert len(door.requests) == before


def test_next_statement_sees_the_next_version(lake, tmp_path):
    table = lake.catalog.create_table("sales.growing", ORDERS.schema)
    try:
        table.append(ORDERS)
        with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
            assert rows(mesh, "SELECT count(*) FROM sales.growing") == [(3,)]
            first = mesh.check("sales.growing")
            table.append(ORDERS)
            assert rows(mesh, "SELECT count(*) FROM sales.growing") == [(6,)]
            assert mesh.check("sales.growing") != first
    finally:
        lake.catalog.drop_table("sales.growing")


def test_table_made_after_the_listing_is_found(lake, tmp_path, monkeypatch):
    from meshql.remote import listing

    monkeypatch.setattr(listing, "RETRY_SECONDS", 0.0)
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        mesh.products()
        lake.catalog.create_table("sales.late", ORDERS.schema).append(ORDERS)
        try:
            assert rows(mesh, "SELECT count(*) FROM sales.late") == [(3,)]
        finally:
            lake.catalog.drop_table("sales.late")
        with pytest.raises(LocationError, match=r"sales\.late.*NoSuchTable"):
            rows(mesh, "SELECT count(*) FROM sales.late")


def test_receipt_names_the_cloud_that_was_read(lake, tmp_path):
    with (
        meshql.connect(catalog(tmp_path, rest(lake)), receipts=True) as mesh,
        mesh.sql("SELECT sum(amount) FROM sales.orders") as result,
    ):
        result.fetchall()
        (read,) = result.receipt.reads
    assert (read.cloud, read.region, read.format, read.rows) == ("s3", "us-east-1", "iceberg", 3)
    assert read.location.startswith("s3://remote/warehouse/")
    assert read.requests > 0


def test_description_tells_rows_and_place(lake, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        found = mesh.product("sales.orders")
    assert (found.rows, found.files, found.connection.cloud) == (3, 1, "s3")
    assert [c.name for c in found.columns] == ["id", "amount"]


def test_declared_product_may_point_to_a_remote_table(lake, tmp_path):
    product = "[{name: my.orders, connection: lakehouse, location: sales.orders, format: iceberg}]"
    with meshql.connect(catalog(tmp_path, rest(lake, include="[]"), product)) as mesh:
        assert rows(mesh, "SELECT sum(id) FROM my.orders") == [(6,)]


def test_storage_reads_what_the_catalog_vends_nothing_for(lake, s3, tmp_path):
    lake.vends = False
    store = f"""
  files:
    cloud: s3
    endpoint: {s3.endpoint}
    url_style: path
    insecure: true
    auth: {{method: keys, key_id: own, secret: own}}"""
    try:
        with (
            meshql.connect(catalog(tmp_path, rest(lake))) as mesh,
            pytest.raises(CredentialsError, match="gives no credentials") as raised,
        ):
            rows(mesh, "FROM sales.orders")
        assert "`storage:`" in raised.value.hint
        with meshql.connect(catalog(tmp_path, rest(lake, more="    storage: files") + store)) as mesh:
            assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(3,)]
    finally:
        lake.vends = True


def test_unknown_storage_is_refused(lake, tmp_path):
    with pytest.raises(CatalogError, match="unknown connection `nowhere`"):
        load(catalog(tmp_path, rest(lake, more="    storage: nowhere")))


def test_refused_vended_credentials_are_fetched_anew(lake, door, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        rows(mesh, "SELECT count(*) FROM hr.people")
        for identity in list(door.identities):
            if identity in door.seen():
                door.revoke(identity)
        lake.catalog.load_table("hr.people").append(ORDERS)
        assert rows(mesh, "SELECT count(*) FROM hr.people") == [(6,)]


def test_token_is_renewed_when_it_ends(lake, tmp_path):
    given, lake.token_seconds = lake.tokens_given, 5
    try:
        with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
            rows(mesh, "SELECT count(*) FROM sales.orders")
            assert lake.tokens_given == given + 1
            time.sleep(3.5)
            rows(mesh, "SELECT count(*) FROM sales.orders")
            assert lake.tokens_given == given + 2
            lake.token_seconds = 3600
            time.sleep(3.5)
            rows(mesh, "SELECT count(*) FROM sales.orders")
            lake.tokens.clear()
            # One that was revoked shows only when it is refused.
            rows(mesh, "SELECT count(*) FROM sales.orders")
    finally:
        lake.token_seconds = 3600
    assert lake.tokens_given == given + 4


def test_static_token_and_no_identity(lake, tmp_path, monkeypatch):
    lake.tokens["static"] = time.time() + 60
    monkeypatch.setenv("LAKE_TOKEN", "static")
    auth = 'auth: {method: token, token: "${LAKE_TOKEN}"}'
    with meshql.connect(catalog(tmp_path, rest(lake, auth=auth))) as mesh:
        assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(3,)]
    anonymous = catalog(tmp_path, rest(lake, auth="auth: {method: anonymous}", more="    domain: sales"))
    with meshql.connect(anonymous) as mesh, pytest.raises(CredentialsError, match="refused this identity"):
        rows(mesh, "FROM sales.orders")


def test_requests_are_signed_for_aws(lake, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAGLUE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "glue-secret")
    seen = []
    lake.accepts = lambda method, headers: seen.append(headers.get("Authorization") or "")
    try:
        auth = "auth: {method: sigv4, service: glue, region: eu-west-1, source: {method: env}}"
        with meshql.connect(catalog(tmp_path, rest(lake, auth=auth))) as mesh:
            assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(3,)]
    finally:
        lake.accepts = None
    assert seen
    assert all(
        re.match(r"AWS4-HMAC-SHA256 Credential=AKIAGLUE/\d{8}/eu-west-1/glue/aws4_request", s) for s in seen
    )


def test_wrong_secret_is_refused_without_showing_it(lake, tmp_path, monkeypatch):
    monkeypatch.setenv("LAKE_SECRET", "wrong-secret-value")
    with (
        meshql.connect(catalog(tmp_path, rest(lake, more="    domain: sales"))) as mesh,
        pytest.raises(CredentialsError, match=r"refused the client .*invalid_client") as raised,
    ):
        rows(mesh, "FROM sales.orders")
    assert "wrong-secret-value" not in str(raised.value)


def test_unknown_table_has_the_nearest_names(lake, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        for ask in (lambda: rows(mesh, "FROM sales.order"), lambda: mesh.product("sales.order")):
            with pytest.raises(UnknownProductError) as raised:
                ask()
            assert "sales.orders" in raised.value.hint


def test_same_table_of_two_namespaces_is_an_error_that_names_both(lake, tmp_path):
    lake.catalog.create_table("hr.orders", ORDERS.schema).append(ORDERS)
    try:
        with meshql.connect(catalog(tmp_path, rest(lake, more="    domain: all"))) as mesh:
            with pytest.raises(
                CatalogError, match=r"hr\.orders and sales\.orders|sales\.orders and hr\.orders"
            ):
                rows(mesh, 'FROM "all".orders')
            assert rows(mesh, 'SELECT count(*) FROM "all".customers') == [(3,)]
    finally:
        lake.catalog.drop_table("hr.orders")


def silent_server():
    import socket

    found = socket.socket()
    found.bind(("127.0.0.1", 0))
    found.listen()
    return found


def test_catalog_that_does_not_answer_breaks_nothing_else(lake, tmp_path, monkeypatch):
    monkeypatch.setattr("meshql.identity.http.TIMEOUT_SECONDS", 0.5)
    write_deltalake(tmp_path / "lake", ORDERS)
    with silent_server() as silent:
        dead = f"""
  dead:
    cloud: iceberg_rest
    uri: http://127.0.0.1:{silent.getsockname()[1]}
    include: ["*"]
    auth: {{method: anonymous}}"""
        product = "[{name: own.orders, location: lake, format: delta}]"
        with meshql.connect(catalog(tmp_path, rest(lake) + dead, product)) as mesh:
            failures = {}
            names = mesh.discover(failures).products
            assert {"own.orders", "sales.orders"} <= set(names)
            assert isinstance(failures["dead"], UnreachableError)
            assert rows(mesh, "SELECT count(*) FROM own.orders o JOIN sales.orders USING (id)") == [(3,)]
            began = time.monotonic()
            with pytest.raises(UnreachableError, match="does not answer"):
                rows(mesh, "FROM dead.table_of_it")
            assert time.monotonic() - began < 3


def test_command_lists_what_it_can_and_says_what_it_could_not_ask(lake, tmp_path):
    dead = """
  dead:
    cloud: iceberg_rest
    uri: http://127.0.0.1:1
    include: ["*"]
    auth: {method: anonymous}"""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "meshql",
            "--catalog",
            catalog(tmp_path, rest(lake) + dead),
            "products",
            "--format",
            "csv",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "sales.orders,iceberg,iceberg_rest,lakehouse" in done.stdout
    assert "catalog dead could not be asked" in done.stderr


def test_names_are_there_at_once_at_the_next_start(lake, tmp_path):
    folder = catalog(tmp_path, rest(lake))
    with meshql.connect(folder) as mesh:
        mesh.products()
    with meshql.connect(folder) as mesh, lake.watched() as requests:
        assert "sales.orders" in mesh.listed.products
        assert requests == []
        assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(3,)]
    assert not any(path.endswith("/namespaces") for _, path in requests)
    kept = "".join(f.read_text() for f in (tmp_path / "cache").rglob("*.json"))
    assert "orders" in kept
    assert "s3cret" not in kept


def test_reload_asks_the_new_catalog(lake, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        assert rows(mesh, "SELECT count(*) FROM sales.orders") == [(3,)]
        mesh.reload(load(catalog(tmp_path, rest(lake, include='["hr.*"]'))))
        with pytest.raises(meshql.MeshError, match="orders"):
            rows(mesh, "SELECT count(*) FROM sales.orders")


def test_reload_forgets_what_was_vended_to_somebody_else(lake, door, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
        before = len(rows(mesh, "SELECT * FROM hr.people"))
        vended_before = door.seen()
        other = OAUTH.replace("client_id: mesh", "client_id: mesh, scope: other")
        mesh.reload(load(catalog(tmp_path, rest(lake, auth=other))))
        door.requests.clear()
        lake.catalog.load_table("hr.people").append(ORDERS)
        assert len(rows(mesh, "SELECT * FROM hr.people")) == before + 3
    assert door.seen()
    assert not door.seen() & vended_before


def test_many_threads_share_one_listing(lake, tmp_path):
    with meshql.connect(catalog(tmp_path, rest(lake))) as mesh, lake.watched() as requests:
        found = []
        work = [
            threading.Thread(target=lambda: found.append(rows(mesh, "SELECT count(*) FROM sales.orders")))
            for _ in range(4)
        ]
        [t.start() for t in work]
        [t.join() for t in work]
    assert found == [[(3,)]] * 4
    assert sum(path.endswith("/tables/orders") for _, path in requests) <= 5
    assert sum(path.endswith("/sales/tables") for _, path in requests) <= 2


def test_files_outside_the_table_are_read_too(lake, tmp_path):
    places = {
        "write.data.path": "s3://remote/elsewhere/files",
        "write.metadata.path": "s3://remote/elsewhere/meta",
    }
    table = lake.catalog.create_table("hr.spread", ORDERS.schema, properties=places)
    try:
        table.append(ORDERS)
        assert lake.catalog.load_table("hr.spread").metadata_location.startswith("s3://remote/elsewhere/meta")
        with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
            assert rows(mesh, "SELECT sum(id) FROM hr.spread") == [(6,)]
            assert rows(mesh, "SELECT count(*) FROM hr.spread JOIN sales.orders USING (id)") == [(3,)]
    finally:
        lake.catalog.drop_table("hr.spread")


def test_tables_with_files_outside_are_read_as_themselves(lake, door, tmp_path):
    """Each is given credentials of its own, and its files lie beside those of the other."""
    names = ("hr.first", "hr.second")
    for name in names:
        places = {"write.data.path": f"s3://remote/aside/{name}"}
        lake.catalog.create_table(name, ORDERS.schema, properties=places).append(ORDERS)
    before = len(door.requests)
    try:
        with meshql.connect(catalog(tmp_path, rest(lake))) as mesh:
            assert rows(mesh, "SELECT count(*) FROM hr.first JOIN hr.second USING (id)") == [(3,)]
            assert rows(mesh, "SELECT count(*) FROM hr.second JOIN hr.first USING (id)") == [(3,)]
    finally:
        for name in names:
            lake.catalog.drop_table(name)
    asked = [(r.identity, r.path) for r in door.requests[before:]]
    identities = [{who for who, path in asked if f"/aside/{name}/" in path} for name in names]
    assert [len(found) for found in identities] == [1, 1]
    assert identities[0] != identities[1]


def test_two_identities_for_one_table_are_kept_apart(lake, s3, door, tmp_path):
    other = f"""
  again:
    cloud: iceberg_rest
    uri: {lake.url}
    warehouse: lake
    domain: again
    include: ["sales.orders"]
    {OAUTH}"""
    before = len(door.requests)
    with meshql.connect(catalog(tmp_path, rest(lake) + other)) as mesh:
        assert rows(mesh, "SELECT count(*) FROM sales.orders a JOIN again.orders b USING (id, amount)") == [
            (3,)
        ]
    assert len({r.identity for r in door.requests[before:]}) == 2


CONFIGS = [
    (
        "gs://bucket/t/metadata/1.metadata.json",
        {"gcs.oauth2.token": "ya29", "gcs.oauth2.token-expires-at": "1900000000000"},
        ("gcs", "gs://bucket/t/metadata/1.metadata.json", BearerToken),
    ),
    (
        "abfss://files@acc.dfs.core.windows.net/t/metadata/1.metadata.json",
        {
            "adls.sas-token.acc.dfs.core.windows.net": "?sv=1&sig=x",
            "adls.sas-token-expires-at-ms.acc.dfs.core.windows.net": "1900000000000",
        },
        ("azure", "az://files/t/metadata/1.metadata.json", SharedAccessSignature),
    ),
    (
        "s3a://bucket/t/metadata/1.metadata.json",
        {
            "s3.access-key-id": "k",
            "s3.secret-access-key": "s",
            "s3.session-token": "t",
            "s3.session-token-expires-at-ms": "1900000000000",
        },
        ("s3", "s3://bucket/t/metadata/1.metadata.json", AccessKey),
    ),
]


@pytest.mark.parametrize(("uri", "config", "expected"), CONFIGS)
def test_every_cloud_has_its_vended_credentials(uri, config, expected):
    found = credentials_in(uri, config)
    connection = connection_for(uri, config, "lakehouse: t")
    assert (connection.cloud, plain_uri(uri), type(found)) == expected
    assert found.expires_at == datetime.fromtimestamp(1_900_000_000, UTC)
    assert getattr(connection, "account", "acc") == "acc"
    # Without an end, they are taken to be short-lived, and never to last.
    short = credentials_in(uri, {k: v for k, v in config.items() if "expires" not in k})
    assert short.expires_at < datetime.now(UTC) + timedelta(minutes=16)
    assert credentials_in(uri, {}) is None


def test_store_of_no_known_kind_is_named():
    with pytest.raises(LocationError, match="hdfs://"):
        connection_for("hdfs://name/t/1.metadata.json", {}, "x")


# --- Unity ----------------------------------------------------------------------------------------


def unity_connection(unity, door, more=""):
    return f"""
  uc:
    cloud: unity
    uri: {unity.url}
    catalog: main
    include: ["web.*"]
    storage: region
    auth: {{method: oauth2, client_id: mesh, client_secret: "${{LAKE_SECRET}}"}}
{more}
  region:
    cloud: s3
    endpoint: {door.url}
    url_style: path
    auth: {{method: anonymous}}"""


def test_unity_tables_are_products_read_with_temporary_credentials(unity, door, tmp_path):
    before = len(door.requests)
    key = unity.credentials["aws_temp_credentials"]["access_key_id"]
    with meshql.connect(catalog(tmp_path, unity_connection(unity, door))) as mesh:
        assert [(p.name, p.format) for p in mesh.products()] == [("web.events", "delta")]
        assert rows(mesh, "SELECT sum(id) FROM web.events") == [(6,)]
        with unity.watched() as requests:
            mesh.check("web.events")
    assert requests == [("GET", "/api/2.1/unity-catalog/tables/main.web.events")]
    assert {r.identity for r in door.requests[before:]} == {key}


def test_unity_views_and_unknown_formats_are_refused_by_name(unity, door, tmp_path):
    with meshql.connect(catalog(tmp_path, unity_connection(unity, door))) as mesh:
        with pytest.raises(CatalogError, match=r"web\.summary is a view"):
            rows(mesh, "FROM web.summary")
        with pytest.raises(CatalogError, match=r"web\.old is of format AVRO"):
            rows(mesh, "FROM web.old")


def test_unity_declared_with_the_wrong_format_is_told_the_right_one(unity, door, tmp_path):
    product = "[{name: a.b, connection: uc, location: web.events, format: parquet}]"
    with (
        meshql.connect(catalog(tmp_path, unity_connection(unity, door), product)) as mesh,
        pytest.raises(CatalogError, match="as delta") as raised,
    ):
        rows(mesh, "FROM a.b")
    assert raised.value.hint == "write `format: delta`"


# --- meshql doctor --------------------------------------------------------------------------------


def examined(folder, connections, *names):
    with meshql.connect(catalog(folder, connections)) as mesh:
        (found,) = mesh.doctor(names, timeout=60)
    return found


def test_doctor_lists_and_reads_what_a_catalog_mounts(lake, tmp_path):
    found = examined(tmp_path, rest(lake))
    assert found.ok, found.checks
    assert found.check("list").message == "4 products, hr.people first"
    assert found.check("read").message.startswith("hr.people at version 0000")


def test_doctor_takes_the_name_of_a_mounted_product(lake, tmp_path):
    found = examined(tmp_path, rest(lake), "sales.orders")
    assert found.check("sales.orders").state == "ok"
    with (
        meshql.connect(catalog(tmp_path, rest(lake))) as mesh,
        pytest.raises(UsageError, match=r"named sales\.ordrs") as raised,
    ):
        mesh.doctor("sales.ordrs")
    assert "sales.orders" in raised.value.hint


def test_doctor_warns_of_an_include_that_matches_nothing(lake, tmp_path):
    found = examined(tmp_path, rest(lake, include='["finance.*"]'))
    assert found.ok
    assert (found.check("list").state, found.check("read").state) == ("warning", "skipped")
    assert found.check("list").message == "no table matches include: [finance.*]"
    assert "in connection lakehouse" in found.check("list").hint


def test_doctor_tells_that_a_catalog_refuses_the_token(unity, tmp_path):
    auth = f"cloud: unity, uri: '{unity.url}', catalog: main, include: ['*'], insecure: true"
    connections = f"\n  dbx: {{{auth}, auth: {{method: token, token: CANARY}}}}"
    found = examined(tmp_path, connections)
    assert not found.ok
    assert "refused this identity" in found.check("list").message
    assert found.check("read").state == "skipped"
    with meshql.connect(tmp_path) as mesh, pytest.raises(UsageError) as raised:
        mesh.doctor("web.events")
    assert raised.value.hint.endswith("meshql doctor dbx")


def test_doctor_tells_of_a_warehouse_that_is_not_there(lake, tmp_path):
    found = examined(tmp_path, rest(lake).replace("warehouse: lake", "warehouse: lakee"))
    assert not found.ok
    assert found.check("list").hint == "check `uri` of connection lakehouse, and its `warehouse`"
