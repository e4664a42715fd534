"""Twelve planted secrets, all that can go wrong, and a search of every byte that comes out of it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from urllib.parse import quote, quote_plus

import duckdb
import pytest
import yaml
from clouds.nasty import nasty

import meshql
from meshql.catalog.load import check, load
from meshql.errors import MeshError, PolicyError
from meshql.formats.registry import READERS
from meshql.identity.broker import Broker
from meshql.identity.declared import Declared
from meshql.query.failure import failure
from meshql.redact import redact
from meshql.shell.history import PrivateHistory
from meshql.storage.location import Location
from meshql.storage.refusals import storage_error
from meshql.storage.store import open_store

ACCOUNT_KEY = base64.b64encode(b"azure-account-key-of-sixty-four-bytes-2f4b1c9e7d6a5b4c3d2e1f0a9b").decode()
STRING_KEY = base64.b64encode(b"key-in-a-connection-string-of-sixty-four-bytes-9z8y7x6w5v4u3t2s1").decode()

CANARIES = {
    "CANARY_S3_KEY_ID": "AKIAZQ7XCANARY0KEYID",
    "CANARY_S3_SECRET": "s3Sec/Wq9+Lk2MnB7vCx4Zp1RtY8uHg5FdA0aaa1",
    "CANARY_S3_TOKEN": "FwoGZXIvYXdzEJr//////////wEaDCanary/Session+Token==",
    "CANARY_HMAC_SECRET": "gcsHm/Ac9+Kq2LwE7rTy4Ui1OpA8sDf5GhJ0bbb2",
    "CANARY_GCS_TOKEN": "ya29.canary-Bearer_token0cccccccccc3",
    "CANARY_STRING_KEY": STRING_KEY,
    "CANARY_ACCOUNT_KEY": ACCOUNT_KEY,
    "CANARY_SAS_SIGNATURE": "sasSig/Nm8+Bv3CxZ6lKj1HgF4dSaP9oIuYtReWq0ddd4=",
    "CANARY_CLIENT_SECRET": "spN~8Q~entra-client-secret.canary0eee5",
    "CANARY_PASSWORD": "pg P4ss'word&<canary>/0fff6",
    "CANARY_VAULT_TOKEN": "hvs.CAESICanaryVaultToken0ggg7",
    "CANARY_CATALOG_SECRET": "iceberg-rest:client+secret/canary0hhh8",
}


def encodings(value):
    """The value as it is, and as URLs, base64, hex and JSON would have it."""
    raw = value.encode()
    found = {value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]}
    found |= {raw.hex(), raw.hex().upper()}
    for before in (b"", b"u", b"u:"):
        found |= {base64.b64encode(before + raw + b":more").decode(), base64.b64encode(before + raw).decode()}
        found.add(base64.urlsafe_b64encode(before + raw).decode())
    return found


def spellings(value):
    """What of the encodings shows the value, whatever stands around it."""
    raw = value.encode()
    found = {value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]}
    found |= {raw.hex(), raw.hex().upper()}
    for before in range(3):
        # The ends of base64 depend on the neighbours.
        inner = base64.b64encode(b"x" * before + raw).decode()[4:-4]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


SPELLINGS = {name: spellings(value) for name, value in CANARIES.items()}


def leaks(text, *, but=()):
    """The names of the canaries that `text` holds in any spelling."""
    return [
        name for name, forms in SPELLINGS.items() if name not in but and any(form in text for form in forms)
    ]


def told(error):
    """All that an error and those behind it tell anybody who looks."""
    texts, links, seen = [], [error], set()
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        links += [link.__cause__, link.__context__]
        link_text = f"{link} {link!r} {link.args} {vars(link)}"
        texts += [link_text, "".join(traceback.format_exception(link, chain=False))]
    return "\n".join([*texts, "".join(traceback.format_exception(error))])


@pytest.fixture(scope="module")
def server():
    with nasty() as running:
        yield running


@pytest.fixture(scope="module")
def planted(server, tmp_path_factory):
    """The folder of a catalog whose connections hold the canaries, with the canaries in the environment."""
    folder = tmp_path_factory.mktemp("planted")
    string = (
        "DefaultEndpointsProtocol=http;AccountName=stringacct;"
        f"AccountKey={STRING_KEY};BlobEndpoint={server.url}/stringacct;"
    )
    sas = f"sv=2022-11-02&ss=b&srt=sco&sp=rl&sig={quote(CANARIES['CANARY_SAS_SIGNATURE'], safe='')}"
    environ = {
        **CANARIES,
        "CANARY_STRING": string,
        "CANARY_SAS": sas,
        "CANARY_BROKEN_KEY": "%%%" + CANARIES["CANARY_ACCOUNT_KEY"],
        "AWS_ACCESS_KEY_ID": CANARIES["CANARY_S3_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": CANARIES["CANARY_S3_SECRET"],
        "AWS_SESSION_TOKEN": CANARIES["CANARY_S3_TOKEN"],
        "VAULT_ADDR": server.url,
        "VAULT_TOKEN": CANARIES["CANARY_VAULT_TOKEN"],
        "AZURE_AUTHORITY_HOST": "https://127.0.0.1:9",
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    keys = {
        "method": "keys",
        "key_id": "${CANARY_S3_KEY_ID}",
        "secret": "${CANARY_S3_SECRET}",
        "session_token": "${CANARY_S3_TOKEN}",
    }
    at_server = {"endpoint": server.url}
    connections = {
        "s3": {"cloud": "s3", **at_server, "url_style": "path", "auth": dict(keys)},
        "s3_env": {"cloud": "s3", **at_server, "url_style": "path", "auth": {"method": "env"}},
        "s3_nowhere": {
            "cloud": "s3", "endpoint": "http://127.0.0.1:9", "url_style": "path", "auth": keys
        },
        "s3_vault": {
            "cloud": "s3",
            **at_server,
            "auth": {"method": "keys", "key_id": "${CANARY_S3_KEY_ID}", "secret": "${vault:kv/lake#secret}"},
        },
        "hmac": {
            "cloud": "gcs",
            **at_server,
            "auth": {"method": "hmac", "key_id": "${CANARY_S3_KEY_ID}", "secret": "${CANARY_HMAC_SECRET}"},
        },
        "bearer": {
            "cloud": "gcs", **at_server, "auth": {"method": "token", "token": "${CANARY_GCS_TOKEN}"}
        },
        "string": {
            "cloud": "azure", "auth": {"method": "connection_string", "connection_string": "${CANARY_STRING}"}
        },
        "account": {
            "cloud": "azure",
            "account": "keyacct",
            "endpoint": f"{server.url}/keyacct",
            "auth": {"method": "account_key", "key": "${CANARY_ACCOUNT_KEY}"},
        },
        "broken_key": {
            "cloud": "azure",
            "account": "keyacct",
            "endpoint": f"{server.url}/keyacct",
            "auth": {"method": "account_key", "key": "${CANARY_BROKEN_KEY}"},
        },
        "sas": {
            "cloud": "azure",
            "account": "sasacct",
            "endpoint": f"{server.url}/sasacct",
            "auth": {"method": "sas", "sas": "${CANARY_SAS}"},
        },
        "principal": {
            "cloud": "azure",
            "account": "spacct",
            "endpoint": f"{server.url}/spacct",
            "auth": {
                "method": "service_principal",
                "tenant_id": "00000000-0000-0000-0000-000000000001",
                "client_id": "00000000-0000-0000-0000-000000000002",
                "client_secret": "${CANARY_CLIENT_SECRET}",
            },
        },
        "pg": {
            "cloud": "postgres",
            "host": "127.0.0.1",
            "port": 9,
            "database": "d",
            "auth": {"method": "password", "user": "u", "password": "${CANARY_PASSWORD}"},
        },
        "rest": {
            "cloud": "iceberg_rest",
            "uri": f"{server.url}/rest",
            "auth": {
                "method": "oauth2", "client_id": "catalog-client", "client_secret": "${CANARY_CATALOG_SECRET}"
            },
        },
    }  # fmt: skip
    duckdb.sql("SELECT 42 AS x").write_parquet(str(folder / "fine.parquet"))
    products = [{"name": "local.fine", "location": str(folder / "fine.parquet"), "format": "parquet"}]
    for name, connection in connections.items():
        scheme = {"s3": "s3", "gcs": "gs", "azure": "az"}.get(connection["cloud"])
        products += [
            {
                "name": f"{name}.{format_}",
                "connection": name,
                "location": f"{scheme}://denied/{format_}/x.parquet".removesuffix(
                    "" if format_ == "parquet" else "/x.parquet"
                ),
                "format": format_,
            }
            for format_ in ("parquet", "delta", "iceberg")
            if scheme
        ]
    products += [
        {"name": f"s3.{word}", "connection": "s3", "location": f"s3://{word}/x.parquet", "format": "parquet"}
        for word in ("expired", "missing", "moved")
    ]
    if "postgres" in READERS:
        products.append({"name": "pg.t", "connection": "pg", "location": "public.t", "format": "postgres"})
    (folder / "catalog").mkdir()
    (folder / "catalog" / "c.yaml").write_text(
        yaml.safe_dump({"meshql": 1, "connections": connections, "products": products})
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="module")
def mesh(planted):
    """A mesh whose DuckDB holds the secrets of every connection that gives it some."""
    with meshql.connect(planted / "catalog") as opened:
        products = opened.products()
        opened._engine.load([(opened.catalog.connection_of(p), p) for p in products])
        opened._engine.ask("SET GLOBAL http_retries = 0")
        for name, scope in {
            "s3": "s3://trusted/",
            "hmac": "gs://hmac/",
            "bearer": "gs://bearer/",
            "string": "az://string/",
            "account": "az://account/",
            "sas": "az://sas/",
        }.items():
            opened._engine.trust(opened.catalog.connections[name], scope)
        yield opened


class Ears:
    """Listens to all loggers, whatever they say."""

    def __enter__(self):
        self.text = io.StringIO()
        self._handler = logging.StreamHandler(self.text)
        self._level = logging.getLogger().level
        logging.getLogger().addHandler(self._handler)
        logging.getLogger().setLevel(logging.DEBUG)
        return self.text

    def __exit__(self, *exc):
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger().setLevel(self._level)


def failing(mesh):
    """What fails, by name: products on every connection, and SQL of the user's own."""
    for product in mesh.products():
        if product.domain != "local":
            yield f"SELECT from {product.name}", lambda p=product: mesh.sql(f"FROM {p.name}").fetchall()
    shown = ("s3.parquet", "bearer.delta", "sas.parquet", "string.iceberg", "pg.t")
    for name in mesh.catalog.products.keys() & shown:
        yield f"describe {name}", lambda n=name: mesh.product(n)
        yield f"check {name}", lambda n=name: mesh.check(n)
        yield f"EXPLAIN {name}", lambda n=name: mesh.explain(f"FROM {n}")
        yield f"EXPLAIN ANALYZE {name}", lambda n=name: mesh.explain(f"FROM {n}", analyze=True)
    for uri in (
        "s3://trusted/x.parquet",
        "s3://trusted/*.parquet",
        "gs://hmac/x.parquet",
        "gs://bearer/x.parquet",
        "az://string/x.parquet",
        "az://account/x.parquet",
        "az://sas/x.parquet",
    ):
        yield f"read {uri}", lambda u=uri: mesh.sql(f"FROM read_parquet('{u}')").fetchall()
    for uri in ("s3://trusted/t", "gs://bearer/t", "az://sas/t"):
        yield f"scan {uri}", lambda u=uri: mesh.sql(f"FROM delta_scan('{u}')").fetchall()
    for name, connection in mesh.catalog.connections.items():
        if name in {"s3_vault", "principal", "rest"}:
            yield f"credentials of {name}", lambda c=connection: Broker().credentials(c)
    secret, token = CANARIES["CANARY_S3_SECRET"], CANARIES["CANARY_S3_TOKEN"]
    password = "pa55-typed"
    for typed in (
        f"CREATE SECRET a (TYPE s3, KEY_ID 'k' SECRET '{secret}')",
        f"CREATE SECRET a (TYPE s3, KEYID 'k', SECRET '{secret}')",
        f"CREATE SECRET a (TYPE s5, SECRET '{secret}', SESSION_TOKEN '{token}')",
        f"CREATE SECRET a (TYPE s3, SECRETT '{secret}')",
        f"ATTACH 'host=127.0.0.1 port=9 user=u password={password} dbname=d' AS p (TYPE postgres)",
        f"FROM read_parquet('http://u:{password}@127.0.0.1:9/x.parquet')",
        "FROM read_parquet('http://127.0.0.1:9/x.parquet?sig="
        + quote(CANARIES["CANARY_SAS_SIGNATURE"], safe="")
        + "')",
    ):
        yield f"typed {typed[:24]}", lambda t=typed: mesh.sql(t).fetchall()
    yield "getenv", lambda: mesh.sql("SELECT getenv('CANARY_S3_SECRET')").fetchall()
    yield "unredacted", lambda: mesh.sql("FROM duckdb_secrets(redact=false)").fetchall()
    yield "allow unredacted", lambda: mesh.sql("SET allow_unredacted_secrets=true").fetchall()


def test_the_search_finds_what_it_is_to_find():
    for name, value in CANARIES.items():
        around = f"user:{value}:more".encode()
        for text in (value, quote(value), base64.b64encode(around).decode(), around.hex()):
            assert leaks(f"... {text} ...") == [name]
    assert leaks("nothing of the kind") == []
    assert len(CANARIES) == 12


def test_no_error_tells_a_secret(mesh, server):
    with Ears() as heard:
        found, names = {}, []
        for name, fail in failing(mesh):
            names.append(name)
            try:
                fail()
            except MeshError as error:
                text = told(error)
            else:
                pytest.fail(f"{name} did not fail")
            if lost := leaks(text) + (["typed"] if "pa55-typed" in text else []):
                found[name] = lost
    assert found == {}
    assert leaks(heard.getvalue()) == []
    assert len(names) >= 40
    # The server did echo what is sent in clear, in every spelling.
    echoed = "\n".join(server.said)
    assert set(leaks(echoed)) >= {
        "CANARY_S3_KEY_ID", "CANARY_S3_TOKEN", "CANARY_GCS_TOKEN", "CANARY_SAS_SIGNATURE", "CANARY_VAULT_TOKEN"
    }  # fmt: skip


def hand_out(mesh):
    """Let a broker hand out every canary, as it does for statements."""
    broker = Broker()
    for name, connection in mesh.catalog.connections.items():
        if name in {"principal", "rest"}:
            Declared(connection, os.environ).secret(connection.auth.client_secret, "client_secret")
        elif name in {"s3_vault", "broken_key"}:
            with pytest.raises(MeshError):
                broker.credentials(connection)
        else:
            broker.credentials(connection)


@pytest.mark.parametrize("name", CANARIES)
def test_every_secret_is_masked_in_the_words_of_engine_and_stores(name, mesh):
    hand_out(mesh)
    for form in encodings(CANARIES[name]):
        for words in (f"IO Error: the server said: {form}.", f"Parser Error: x='{form}' LINE 1: {form}"):
            original = duckdb.IOException(words)
            assert leaks(str(original)) == [name]
            assert leaks(told(failure(original, [])) + told(original)) == []
            assert leaks(told(storage_error(words, f"https://h/{form}"))) == []


SHOWING = [
    "FROM duckdb_settings()",
    "SELECT current_setting('s3_secret_access_key'), current_setting('s3_session_token')",
    "SELECT current_setting('s3_access_key_id')",
    "FROM which_secret('s3://trusted/x', 's3')",
    "FROM duckdb_views()",
    "FROM duckdb_databases()",
    "PRAGMA database_list",
    "FROM duckdb_variables()",
    "FROM duckdb_functions()",
    "SELECT sql FROM sqlite_master",
    "EXPLAIN FROM local.fine",
    "EXPLAIN ANALYZE FROM local.fine",
    "FROM pragma_user_agent()",
    "FROM duckdb_external_file_cache()",
]


@pytest.mark.parametrize("text", SHOWING)
def test_no_function_of_duckdb_tells_a_secret(text, mesh):
    assert leaks(str(mesh.sql(text).fetchall())) == []


def test_list_of_duckdbs_secrets_tells_key_ids_only(mesh):
    shown = str(mesh.sql("FROM duckdb_secrets()").fetchall())
    assert "s3://trusted/" in shown
    assert leaks(shown, but=("CANARY_S3_KEY_ID",)) == []


@pytest.mark.parametrize("receipts", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "FROM duckdb_logs",
        "FROM duckdb_logs_parsed('HTTP')",
        "CALL enable_logging()",
        "CALL enable_logging('QueryLog')",
        "CALL enable_logging('HTTP', storage='stdout')",
        "SET enable_logging = true",
        "SET GLOBAL enabled_log_types = 'QueryLog'",
        "SET GLOBAL logging_storage = 'stdout'",
        "SET GLOBAL log_query_path = '/tmp/queries.log'",
        "SET enable_http_logging = true",
        "SET http_logging_output = '/tmp/http.log'",
        "FROM query('FROM duckdb_logs')",
        "FROM query_table('duckdb_logs')",
        "CREATE MACRO peep() AS TABLE FROM duckdb_logs",
    ],
)
def test_log_of_requests_and_statements_is_refused(text, receipts, planted):
    with meshql.connect(planted / "catalog", receipts=receipts) as mesh, pytest.raises(PolicyError):
        mesh.sql(text)


def test_log_is_refused_by_a_name_that_is_a_value(mesh):
    with pytest.raises(PolicyError):
        mesh.sql("FROM query_table($t)", {"t": "duckdb_logs"})


def test_columns_and_values_may_be_called_like_settings_of_the_log(mesh):
    sql = "SELECT logging_level FROM (VALUES ('logging_mode')) AS t(logging_level) WHERE logging_level = $v"
    assert mesh.sql(sql, {"v": "logging_mode"}).fetchall() == [("logging_mode",)]


def test_no_object_shows_a_secret(mesh):
    objects = [mesh, mesh.catalog, mesh._engine, mesh._resolver, mesh.sql("FROM local.fine")]
    broker = Broker()
    for name, connection in mesh.catalog.connections.items():
        objects += [connection, connection.model_dump(), connection.model_dump_json(), connection.auth]
        if name in {"s3_vault", "principal", "rest", "broken_key"}:
            continue
        credentials = broker.credentials(connection)
        objects += [credentials, Declared(connection, os.environ)]
        if name != "pg":
            scheme = {"s3": "s3", "gcs": "gs", "azure": "az"}[connection.cloud]
            store = open_store(connection, credentials, Location.parse(f"{scheme}://b/k"))
            objects += [store, store._store]
            with pytest.raises(TypeError):
                pickle.dumps(store)
    objects.append(broker)
    for shown in objects:
        # The process's environment is there for everybody to see, and holds what it holds.
        inside = {k: v for k, v in getattr(shown, "__dict__", {}).items() if v is not os.environ}
        assert leaks(f"{shown!r} {shown} {inside!r} {inside}") == [], type(shown)
    for closed in (mesh, broker):
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(closed)


BROKEN = [
    "meshql: 1\nconnections:\n  c: {cloud: s3, auth: {method: keys, key_id: 'X', secret: 'X'}}\n",
    "meshql: 1\nconnections:\n  c: {cloud: s3, auth: {method: keys, key_id: 'X', secret: 'X}}\n",
    "meshql: 1\nconnections:\n  c: {cloud: s3, auth: 'X'}\n",
    "meshql: 1\nconnections:\n  c: {cloud: s3, auth: {method: 'X'}}\n",
    "meshql: 1\nconnections:\n  c: {cloud: s3, auth: {method: keys, key_id: ['X'], secret: {a: 'X'}}}\n",
    "meshql: 1\nconnections:\n  c: {cloud: s3, endpoint: 'https://u:X@h', auth: {method: env}}\n",
    "meshql: 1\nconnections:\n  c: {cloud: azure, auth: {method: sas, sas: 'X${env:A}'}}\n",
    "meshql: 1\nconnections:\n  c:\n    cloud: s3\n    auth: {method: keys\n     secret: 'X'\n",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_no_mistake_in_a_catalog_tells_the_secret_beside_it(text, tmp_path):
    secret = "jK3-literal/secret+0iii9"
    path = tmp_path / "c.yaml"
    path.write_text(text.replace("X", secret))
    assert check(path)
    with pytest.raises(MeshError) as caught:
        load(path)
    assert secret not in told(caught.value) + str(check(path))


def test_history_keeps_no_secret(tmp_path):
    history = PrivateHistory(tmp_path / "history")
    history.store_string("SELECT 1")
    history.store_string(f"CREATE SECRET a (TYPE s3, SECRET '{CANARIES['CANARY_S3_SECRET']}')")
    history.store_string(f"ATTACH 'postgres://u:{CANARIES['CANARY_CATALOG_SECRET']}@h/d'")
    history.store_string(f".param set token {CANARIES['CANARY_GCS_TOKEN']}")
    history.store_string(f"FROM read_csv('https://h/x?sig={CANARIES['CANARY_SAS_SIGNATURE']}')")
    kept = (tmp_path / "history").read_text()
    assert "SELECT 1" in kept
    assert leaks(kept) == []


def meshql_says(planted, *arguments, stdin=""):
    done = subprocess.run(
        [sys.executable, "-m", "meshql", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=planted,
        env={**os.environ, "MESHQL_CATALOG": str(planted / "catalog"), "FORCE_COLOR": "1"},
        timeout=120,
    )
    return done.stdout + done.stderr


SCRIPT = f"""
.products
.explain FROM s3.parquet
.explain FROM local.fine
.describe bearer.delta
.preview string.parquet
.plan FROM sas.parquet
.doctor s3.*
FROM duckdb_settings();
CREATE SECRET a (TYPE s3, KEY_ID 'k', SECRET '{CANARIES["CANARY_S3_SECRET"]}');
CREATE SECRET a (TYPE s3, KEY_ID 'k' SECRET '{CANARIES["CANARY_S3_SECRET"]}');
FROM read_parquet('s3://denied/x.parquet');
FROM s3.parquet; FROM hmac.parquet; FROM account.parquet; FROM s3_vault.parquet; FROM pg.t;
"""


def test_command_line_says_no_secret(planted):
    said = meshql_says(planted, "query", "-", "--stats", "--echo", "--keep-going", stdin=SCRIPT)
    assert "meshql: error:" in said
    assert '"statement"' in said
    assert leaks(said) == []
    assert "Traceback" not in said
    for arguments in (["config"], ["validate"], ["describe", "s3.parquet"]):
        said = meshql_says(planted, *arguments)
        assert said
        assert leaks(said) == []
    for file in planted.rglob("*"):
        if file.is_file():
            assert leaks(file.read_text(errors="replace")) == [], file


def test_traceback_of_a_mistake_of_our_own_is_masked(planted):
    code = (
        "import os, sys, meshql.cli as cli\n"
        "from meshql.redact import learn\n"
        "def bug(**_):\n"
        "    learn(os.environ['CANARY_PASSWORD'])\n"
        "    raise ValueError(os.environ['CANARY_PASSWORD'])\n"
        "cli.cli.main = bug\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ValueError: ***" in done.stderr
    assert leaks(done.stdout + done.stderr) == []


def test_masking_leaves_other_words_alone():
    assert redact("the store refused these credentials") == "the store refused these credentials"
