"""Azure by its real host names: every identity and spelling read by every reader, through a TLS front."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clouds.accounts import Accounts
from clouds.entra import TENANT, Entra
from clouds.tls import Front, entra_host
from deltalake import write_deltalake
from obstore.store import AzureStore

from meshql.demo.iceberg_tables import mirror_catalog
from meshql.errors import UsageError
from meshql.query.extensions import Extensions

APP = "33333333-bbbb-4bbb-8bbb-333333333333"
SECRET = "CANARY-client~secret"

ACCOUNTS = ("managed", "principal", "keyed", "signed", "stringed", "open", "onelake")
"""One a method, so that what reaches its host tells who asked; each holds `lake`, with rows of its own."""

FORMATS = {"parquet": "files/", "delta": "table/", "iceberg": "ice/"}


@pytest.fixture(scope="module")
def entra():
    entra = Entra()
    entra.application(APP, secrets={SECRET})
    yield entra
    entra.close()


@pytest.fixture(scope="module")
def accounts(entra, azurite_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("accounts")
    accounts = Accounts(ACCOUNTS, folder, azurite_program, entra)
    for number, name in enumerate(ACCOUNTS, start=1):
        fill(accounts.store(name), name, number, folder / "data" / name)
    yield accounts
    accounts.close()


def fill(store, account, number, folder):
    """Write `number` rows in every format: into lake/, and as a lakehouse has them."""
    rows = pa.table({"id": range(number), "account": [account] * number})
    for prefix in ("", "sales.Lakehouse/Tables/"):
        (folder / prefix / "files").mkdir(parents=True)
        pq.write_table(rows, folder / prefix / "files" / "part-0.parquet")
        write_deltalake(str(folder / prefix / "table"), rows, partition_by=["account"])
    root = f"lake@{account}.dfs.core.windows.net"
    catalog = mirror_catalog(folder.parent / "ice", "abfss")
    catalog.create_namespace("n")
    catalog.create_table("n.t", rows.schema, location=f"abfss://{root}/ice").append(rows)
    store.create_bucket("lake")
    store.upload("lake", folder)
    store.upload("lake", folder.parent / "ice" / root)


@pytest.fixture(scope="module")
def front(entra, accounts, tmp_path_factory):
    front = Front(tmp_path_factory.mktemp("front"))
    front.route("login.microsoftonline.com", entra_host(entra))
    front.route("*.core.windows.net", accounts.host)
    front.route("*.fabric.microsoft.com", accounts.host)
    front.route("data.example.com", _web_server)
    yield front
    front.close()


def _web_server(request):
    content = b"id,account\n0,web\n"
    return 200, {"Content-Type": "text/csv", "Accept-Ranges": "none"}, content, None


@pytest.fixture(scope="module")
def environment(front, entra, accounts):
    """What a process needs to read all of them."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(("AZURE_", "IDENTITY_", "MSI_"))}
    return {
        **{k: v for k, v in kept.items() if not k.lower().endswith(("_proxy", "_ca_bundle"))},
        **front.environment,
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": entra.url,
        "LAKE_KEY": accounts.keys["keyed"],
        "LAKE_SAS": accounts.sas("signed"),
        "LAKE_STRING": accounts.connection_string("stringed"),
        "LAKE_SECRET": SECRET,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }


CONNECTIONS = {
    # Nothing but the location names the account: one identity for as many as it may read.
    "managed": {"cloud": "azure", "auth": {"method": "managed_identity"}},
    "principal": {
        "cloud": "azure",
        "account": "principal",
        "auth": {
            "method": "service_principal",
            "tenant_id": TENANT,
            "client_id": APP,
            "client_secret": "${LAKE_SECRET}",
        },
    },
    "keyed": {
        "cloud": "azure",
        "account": "keyed",
        "auth": {"method": "account_key", "key": "${LAKE_KEY}"},
    },
    "signed": {"cloud": "azure", "account": "signed", "auth": {"method": "sas", "sas": "${LAKE_SAS}"}},
    "stringed": {
        "cloud": "azure",
        "auth": {"method": "connection_string", "connection_string": "${LAKE_STRING}"},
    },
    "web": {"cloud": "http"},
}


def spellings(account):
    """The spellings in which a location on this account may name its container."""
    abfss = {"abfss": f"abfss://lake@{account}.dfs.core.windows.net/"}
    if account == "managed":
        return {**abfss, "https": f"https://{account}.blob.core.windows.net/lake/"}
    return {**abfss, "az": "az://lake/"}


def products():
    """Name -> connection, location, format, rows."""
    found = {}
    for number, account in enumerate(ACCOUNTS, start=1):
        if account in ("open", "onelake"):
            continue
        roots = spellings(account)
        for spelling, root in roots.items():
            for form, folder in FORMATS.items():
                found[f"{account}.{spelling}_{form}"] = (account, root + folder, form, number)
    lakehouse = {
        "abfss": "abfss://lake@onelake.dfs.fabric.microsoft.com/sales.Lakehouse/Tables/",
        "https": "https://onelake.blob.fabric.microsoft.com/lake/sales.Lakehouse/Tables/",
    }
    for spelling, root in lakehouse.items():
        for form in ("parquet", "delta"):
            found[f"onelake.{spelling}_{form}"] = ("managed", root + FORMATS[form], form, len(ACCOUNTS))
    found["web.csv"] = ("web", "https://data.example.com/a.csv", "csv", 1)
    return found


def catalog(folder, found, connections=CONNECTIONS):
    folder.mkdir(exist_ok=True)
    listed = [
        {"name": name, "connection": connection, "location": location, "format": form}
        for name, (connection, location, form, _) in found.items()
    ]
    (folder / "c.yaml").write_text(json.dumps({"meshql": 1, "connections": connections, "products": listed}))
    return folder


READ = """
import json, sys
import meshql
from meshql.errors import MeshError
_, folder, once, *names = sys.argv
found = {}
with meshql.connect(folder) as mesh:
    if once:
        parts = [f"SELECT '{name}', count(*), min(account) FROM {name}" for name in names]
        found = {name: values for name, *values in mesh.sql(" UNION ALL ".join(parts)).fetchall()}
    else:
        for name in names:
            try:
                found[name] = mesh.sql(f"SELECT count(*), min(account) FROM {name}").fetchall()[0]
            except MeshError as error:
                found[name] = [type(error).__name__, error.message, error.hint]
print(json.dumps(found))
"""


def read(folder, names, environment, *, once=False):
    """What a process of its own finds in these products: rows and account, or the error.

    With `once`, one statement reads them all.
    """
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder), "once" * once, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CANARY" not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_identity_spelling_and_format(front, entra, accounts, environment, tmp_path):
    found = products()
    before = len(front.seen)
    told = read(catalog(tmp_path / "c", found), list(found), environment, once=True)
    assert told == {name: [rows, name.partition(".")[0]] for name, (*_, rows) in found.items()}
    seen = {s.host: set() for s in front.seen[before:]}
    for s in front.seen[before:]:
        seen[s.host].add((s.scheme, s.identity))
    machine = entra.identities[None]
    # Each host was shown its own identity and no other, whichever reader asked.
    assert seen == {
        "managed.blob.core.windows.net": {("bearer", machine)},
        "onelake.blob.fabric.microsoft.com": {("bearer", machine)},
        "principal.blob.core.windows.net": {("bearer", APP)},
        "keyed.blob.core.windows.net": {("sharedkey", "keyed")},
        "signed.blob.core.windows.net": {("sas", "signed")},
        "stringed.blob.core.windows.net": {("sharedkey", "stringed")},
        "login.microsoftonline.com": {("none", None)},
        "data.example.com": {("none", None)},
    }


def test_containers_of_one_name_in_two_accounts(environment, tmp_path):
    found = {
        name: product
        for name, product in products().items()
        if name in ("keyed.az_parquet", "stringed.az_parquet", "signed.az_delta", "principal.az_delta")
    }
    folder = catalog(tmp_path / "c", found)
    statement = " UNION ALL ".join(f"SELECT account, count(*) AS n FROM {name} GROUP BY 1" for name in found)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "meshql",
            "--catalog",
            str(folder),
            "query",
            "-c",
            statement,
            "--format",
            "csv",
        ],
        # Proxies are heeded for https alone, too.
        env={k: v for k, v in environment.items() if k != "HTTP_PROXY"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {f"{product[0]},{product[3]}" for product in found.values()}
    assert set(done.stdout.split()[1:]) == expected


def test_refusals_say_what_to_do(front, entra, accounts, environment, tmp_path, monkeypatch):
    found = {
        f"a.{name}": (name, f"abfss://lake@{account}.dfs.core.windows.net/{FORMATS[form]}", form, 0)
        for name, account, form in (
            ("wrong", "principal", "delta"),
            ("barred", "managed", "delta"),
            ("barred_files", "managed", "parquet"),
        )
    }
    connections = {
        "wrong": CONNECTIONS["principal"]
        | {"auth": CONNECTIONS["principal"]["auth"] | {"client_secret": "${WRONG}"}},
        "barred": CONNECTIONS["managed"],
        "barred_files": CONNECTIONS["managed"],
    }
    monkeypatch.setattr(accounts, "readers", {APP})
    folder = catalog(tmp_path / "c", found, connections)
    told = read(folder, list(found), {**environment, "WRONG": "CANARY-wrong"})
    kind, message, hint = told["a.wrong"]
    assert kind == "CredentialsError"
    assert message == (
        f"a.wrong: connection wrong: Entra ID refused the client secret of application {APP} (AADSTS7000215)"
    )
    assert hint.startswith("give the secret's value, not its id")
    for name in ("a.barred", "a.barred_files"):
        kind, message, hint = told[name]
        assert kind == "CredentialsError"
        assert message == (
            f"{name}: this identity lacks a permission: abfss://lake@managed.dfs.core.windows.net "
            "(the store said AuthorizationPermissionMismatch)"
        )
        assert "Storage Blob Data Reader" in hint


def test_anonymous_readers_of_a_public_container(front, accounts, environment, tmp_path):
    accounts.publish("open", "lake")
    connections = {"open": {"cloud": "azure", "account": "open", "auth": {"method": "anonymous"}}}
    found = {
        f"open.{form}": ("open", f"az://lake/{FORMATS[form]}", form, 6)
        for form in ("parquet", "delta", "iceberg")
    }
    before = len(front.seen)
    told = read(catalog(tmp_path / "c", found, connections), list(found), environment, once=True)
    assert told == {name: [6, "open"] for name in found}
    assert {(s.host, s.scheme) for s in front.seen[before:]} == {("open.blob.core.windows.net", "none")}


def test_an_authority_that_is_not_trusted(environment, tmp_path, front):
    found = {"keyed.t": ("keyed", "az://lake/files/", "parquet", 3)}
    without = {k: v for k, v in environment.items() if k != "SSL_CERT_FILE"}
    assert read(catalog(tmp_path / "c", found), list(found), without)["keyed.t"] == [
        "UnreachableError",
        "keyed.t: the store's certificate is not trusted: az://lake",
        "export SSL_CERT_FILE=... with the certificates of your network's authority",
    ]


def test_a_certificate_file_that_is_not_there(tmp_path, monkeypatch):
    gone = tmp_path / "gone.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(gone))
    with duckdb.connect() as connection:
        extensions = Extensions(connection)
        with pytest.raises(UsageError, match=f"SSL_CERT_FILE names no file: {gone}"):
            extensions.load(["httpfs"])
        extensions.close()


def test_the_front_checks_what_azure_checks(front, entra, accounts, tmp_path):
    """The stub would be worth nothing if it took any token, key or signature."""
    spoilt = entra.issue(appid=APP)[:-8] + "AAAAAAAA"
    expired = entra.issue(appid=APP, exp=1)
    other = entra.issue(appid=APP, aud="https://graph.microsoft.com")
    env = {"proxy_url": front.url, "allow_http": False}
    for given in (
        {"token": spoilt},
        {"token": expired},
        {"token": other},
        {"account_key": accounts.keys["signed"]},
        {"sas_key": accounts.sas("keyed").replace("sp=rl", "sp=rwl")},
        {"sas_key": accounts.sas("keyed", expires="2020-01-01T00:00:00Z")},
    ):
        store = AzureStore(
            "lake",
            config={"account_name": "keyed", **given},
            client_options={**env, "allow_invalid_certificates": True},
            retry_config={"max_retries": 0},
        )
        with pytest.raises(Exception, match=r"40[13] |Unauthor|InvalidAuth|AuthenticationFailed"):
            list(store.list())
