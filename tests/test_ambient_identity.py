"""Nobody else's identity: what the environment of the process holds is never sent with a connection's own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import lance
import pytest
from clouds.google import serving
from deltalake import DeltaTable
from pydantic import TypeAdapter
from pyiceberg.table import StaticTable

from meshql.catalog.connections import Connection
from meshql.errors import CredentialsError, UsageError
from meshql.identity.broker import Broker
from meshql.identity.options import reader_uri, storage_options
from meshql.storage.location import Location
from meshql.storage.store import open_store

READERS = ("deltalake", "lance", "pyiceberg")


def connection(**given):
    return TypeAdapter(Connection).validate_python({"name": "lake", "insecure": True, **given})


@pytest.fixture
def listener():
    """A store that refuses everything, and keeps the headers of what it was asked."""
    heard = []

    class Refuser(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append({key.lower(): value for key, value in self.headers.items()} | {"path": self.path})
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *arguments):
            pass

    with serving(Refuser) as url:
        yield url, heard


AMBIENT = {
    "AWS_ACCESS_KEY_ID": "ambient",
    "AWS_SECRET_ACCESS_KEY": "ambient",
    "AZURE_STORAGE_ACCOUNT_NAME": "ambient",
    "AZURE_STORAGE_SAS_TOKEN": "sv=ambient&sig=ambient",
    "AZURE_STORAGE_USE_EMULATOR": "true",
    "AZURE_SKIP_SIGNATURE": "true",
    "AWS_SKIP_SIGNATURE": "true",
    "GOOGLE_SKIP_SIGNATURE": "true",
}
MORE_AMBIENT = AMBIENT | {
    "AWS_SESSION_TOKEN": "ambient",
    "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"ambient").decode(),
    "AZURE_STORAGE_TOKEN": "ambient",
    "AZURE_CLIENT_ID": "ambient",
    "AZURE_TENANT_ID": "ambient",
    "AZURE_CLIENT_SECRET": "ambient",
}


def sent(reader, declared, listener, monkeypatch, scheme):
    """The headers that a store got from a reader, in a process whose environment holds somebody else's keys."""
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)
    credentials = Broker().credentials(declared)
    options = storage_options(declared, credentials, reader)
    uri = reader_uri(declared, credentials, reader, f"{scheme}://b/x")
    ask = {
        "deltalake": lambda: DeltaTable(uri, storage_options=options),
        "lance": lambda: lance.dataset(uri, storage_options=options),
        "pyiceberg": lambda: StaticTable.from_metadata(f"{uri}/v1.metadata.json", properties=options),
    }
    with pytest.raises(Exception):  # noqa: B017 - each library has its own, and the listener refuses all
        ask[reader]()
    assert listener[1]
    return listener[1]


@pytest.mark.parametrize("reader", READERS)
def test_no_ambient_identity_is_sent_with_s3_keys(reader, listener, monkeypatch):
    auth = {"method": "keys", "key_id": "mine", "secret": "secret"}
    declared = connection(cloud="s3", endpoint=listener[0], url_style="path", auth=auth)
    for headers in sent(reader, declared, listener, monkeypatch, "s3"):
        assert "Credential=mine/" in headers["authorization"]
        assert "x-amz-security-token" not in headers


@pytest.mark.parametrize("reader", ["deltalake", "lance"])
@pytest.mark.parametrize(
    ("variable", "cloud", "auth", "where"),
    [
        ("AWS_SESSION_TOKEN", "s3", {"method": "keys", "key_id": "k", "secret": "s"}, {}),
        ("AWS_ENDPOINT_URL", "s3", {"method": "anonymous"}, {}),
        ("AWS_SESSION_TOKEN", "gcs", {"method": "hmac", "key_id": "k", "secret": "s"}, {}),
        ("AZURE_STORAGE_TOKEN", "azure", {"method": "account_key", "key": "a2V5"}, {"account": "lake"}),
        ("AZURE_STORAGE_ACCOUNT_KEY", "azure", {"method": "sas", "sas": "sig=x"}, {"account": "lake"}),
        (
            "AZURE_FABRIC_TOKEN_SERVICE_URL",
            "azure",
            {"method": "account_key", "key": "a2V5"},
            {"account": "lake"},
        ),
    ],
)
def test_mixtures_with_the_environment_are_refused(reader, variable, cloud, auth, where):
    declared = connection(cloud=cloud, auth=auth, **where)
    credentials = Broker().credentials(declared)
    with pytest.raises(UsageError, match=f"would mix .{variable} of the environment") as caught:
        storage_options(declared, credentials, reader, environ={variable: "CANARY"})
    assert caught.value.hint == f"unset {variable}"
    assert "CANARY" not in str(caught.value)
    assert storage_options(declared, credentials, reader, environ={})


@pytest.mark.parametrize(
    "variable", ["AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"]
)
def test_lance_would_rather_be_an_application_than_use_a_signature(variable):
    declared = connection(cloud="azure", account="lake", auth={"method": "sas", "sas": "sig=x"})
    credentials = Broker().credentials(declared)
    with pytest.raises(UsageError, match=f"Lance would mix .{variable} of the environment") as caught:
        storage_options(declared, credentials, "lance", environ={variable: "CANARY"})
    assert caught.value.hint == f"unset {variable}"
    assert storage_options(declared, credentials, "deltalake", environ={variable: "CANARY"})


OWN = {
    "s3": ({"method": "keys", "key_id": "mine", "secret": "s"}, "Credential=mine/"),
    "gcs": ({"method": "hmac", "key_id": "mine", "secret": "s"}, "Credential=mine/"),
    "gcs_token": ({"method": "token", "token": "mine"}, "Bearer mine"),
    "azure_key": ({"method": "account_key", "key": "bWluZQ=="}, "SharedKey lake:"),
    "azure_sas": ({"method": "sas", "sas": "sv=1&sig=mine"}, None),
    "azure_token": ({"method": "token", "token": "mine"}, "Bearer mine"),
    "s3_anonymous": ({"method": "anonymous"}, None),
    "gcs_anonymous": ({"method": "anonymous"}, None),
    "azure_anonymous": ({"method": "anonymous"}, None),
}


def own(kind, listener):
    cloud = kind.partition("_")[0]
    where = {"endpoint": listener[0]}
    if cloud == "s3":
        where["url_style"] = "path"
    elif cloud == "azure":
        where = {"account": "lake", "endpoint": f"{listener[0]}/lake"}
    return {"name": "lake", "insecure": True, "cloud": cloud, "auth": OWN[kind][0], **where}


def only_mine(heard, kind):
    for headers in heard:
        assert (OWN[kind][1] or "nothing") in headers.get("authorization", "nothing")
        assert "x-amz-security-token" not in headers
        assert "ambient" not in str(headers)
        assert ("sig=mine" in headers["path"]) == (kind == "azure_sas")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [kind for kind in OWN if kind.startswith("azure")])
def test_no_ambient_identity_is_sent_to_azure(reader, kind, listener, monkeypatch):
    declared = TypeAdapter(Connection).validate_python(own(kind, listener))
    only_mine(sent(reader, declared, listener, monkeypatch, "az"), kind)


@pytest.mark.parametrize("kind", OWN)
def test_stores_send_the_declared_identity_only(kind, listener, monkeypatch):
    for name, value in MORE_AMBIENT.items():
        monkeypatch.setenv(name, value)
    declared = TypeAdapter(Connection).validate_python(own(kind, listener))
    scheme = {"s3": "s3", "gcs": "gs", "azure": "az"}[declared.cloud]
    store = open_store(declared, Broker().credentials(declared), Location(scheme, "b", ""))
    with pytest.raises(CredentialsError):
        store.head("x")
    assert listener[1]
    only_mine(listener[1], kind)


DUCKDB = """
    import json
    import sys
    from clouds.fixtures import plain_duckdb
    from pydantic import TypeAdapter
    from meshql.catalog.connections import Connection
    from meshql.identity.broker import Broker
    from meshql.identity.secrets import secret_sql

    con = plain_duckdb()
    for scope, given in json.loads(sys.argv[1]).items():
        declared = TypeAdapter(Connection).validate_python(given)
        con.execute(secret_sql(scope, declared, Broker().credentials(declared), scope))
        for scan in (f"read_parquet('{scope}x.parquet')", f"delta_scan('{scope}d')"):
            try:
                con.execute(f"FROM {scan}")
            except Exception:
                pass
"""


def test_duckdb_sends_the_declared_identity_only(listener):
    kinds = [kind for kind in OWN if not kind.startswith("azure")]
    given = {f"{'s3' if kind.startswith('s3') else 'gs'}://{kind}/": own(kind, listener) for kind in kinds}
    # DuckDB looks at the environment when it loads httpfs.
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DUCKDB), json.dumps(given)],
        env=os.environ
        | MORE_AMBIENT
        | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    for kind in kinds:
        heard = [h for h in listener[1] if h["path"].startswith(f"/{kind}/")]
        assert {"x.parquet", "d/_delta_log/_last_checkpoint"} <= {
            h["path"].removeprefix(f"/{kind}/") for h in heard
        }
        # The delta extension knows no tokens of Cloud Storage, and shows nothing.
        only_mine([h for h in heard if kind != "gcs_token" or "_delta_log" not in h["path"]], kind)


@pytest.mark.parametrize("reader", READERS)
def test_session_tokens_are_sent_with_s3_keys(reader, listener, monkeypatch):
    auth = {"method": "keys", "key_id": "mine", "secret": "secret", "session_token": "session"}
    declared = connection(cloud="s3", endpoint=listener[0], url_style="path", auth=auth)
    for headers in sent(reader, declared, listener, monkeypatch, "s3"):
        assert headers["x-amz-security-token"] == "session"


@pytest.mark.parametrize("reader", READERS)
def test_no_identity_is_sent_to_s3_anonymously(reader, listener, monkeypatch):
    declared = connection(cloud="s3", endpoint=listener[0], url_style="path", auth={"method": "anonymous"})
    for headers in sent(reader, declared, listener, monkeypatch, "s3"):
        assert "authorization" not in headers
        assert "x-amz-security-token" not in headers


@pytest.mark.parametrize("reader", ["deltalake", "lance"])
def test_requester_pays(reader, listener, monkeypatch):
    auth = {"method": "keys", "key_id": "mine", "secret": "secret"}
    declared = connection(cloud="s3", endpoint=listener[0], url_style="path", requester_pays=True, auth=auth)
    for headers in sent(reader, declared, listener, monkeypatch, "s3"):
        assert headers["x-amz-request-payer"] == "requester"
    with pytest.raises(UsageError, match="requester pays"):
        storage_options(declared, Broker().credentials(declared), "pyiceberg")


@pytest.mark.parametrize("reader", ["deltalake", "lance"])
def test_azure_tokens_are_sent(reader, listener, monkeypatch):
    auth = {"method": "token", "token": "mine"}
    declared = connection(cloud="azure", account="lake", endpoint=f"{listener[0]}/lake", auth=auth)
    for headers in sent(reader, declared, listener, monkeypatch, "az"):
        assert headers["authorization"] == "Bearer mine"
        assert "ambient" not in headers["path"]


@pytest.mark.parametrize("reader", ["deltalake", "lance"])
def test_no_identity_is_sent_to_azure_anonymously(reader, listener, monkeypatch):
    declared = connection(
        cloud="azure", account="lake", endpoint=f"{listener[0]}/lake", auth={"method": "anonymous"}
    )
    for headers in sent(reader, declared, listener, monkeypatch, "az"):
        assert "authorization" not in headers
        assert "ambient" not in headers["path"]
