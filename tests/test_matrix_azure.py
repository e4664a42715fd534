"""Azure's rows of clouds/matrix.py: each method of identity, in each reader, by the accounts' real host names.

Every method has an account of its own, which nobody but its identity may read, and all of them are read by
one process whose environment is full of the others' identities.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme
from clouds import matrix
from clouds.accounts import Accounts
from clouds.entra import CANARY, TENANT, Entra
from clouds.tls import Front, entra_host
from cryptography import x509
from deltalake import write_deltalake
from obstore.exceptions import PermissionDeniedError
from obstore.store import AzureStore

from meshql.demo.iceberg_tables import mirror_catalog

AZURE = matrix.methods("azure")

ROWS = {method: number for number, method in enumerate(AZURE, start=3)}
"""How many rows a method's tables hold, so that no table can be taken for another's."""

FORMATS = {
    "parquet": "parquet",
    "iceberg": "iceberg",
    "delta": "delta",
    "deltalake": "delta",
    "pyiceberg": "iceberg",
    # meshql has no format for it, and needs none to tell where it lies.
    "lance": "parquet",
}
"""What each reader's product is declared as."""

APPS = {
    method: f"33333333-bbbb-4bbb-8bbb-{number:012}"
    for number, method in enumerate(AZURE)
    if method.startswith(("service_principal", "workload_identity", "default", "token"))
}


def account(method):
    """The name of a method's storage account, connection and products."""
    return "of" + "".join(letter for letter in method if letter.isalnum())[:20]


def root(method):
    return f"lake@{account(method)}.dfs.core.windows.net"


def fill(method, store, folder):
    """Write a method's tables, a folder for each reader, and bring them into its account."""
    rows = pa.table({"x": range(ROWS[method])})
    lake = folder / root(method)
    (lake / "parquet").mkdir(parents=True)
    pq.write_table(rows, lake / "parquet" / "part-0.parquet")
    for reader in ("delta", "deltalake"):
        write_deltalake(str(lake / reader), rows)
    lance.write_dataset(rows, str(lake / "lance"))
    with mirror_catalog(folder, "abfss") as catalog:
        catalog.create_namespace(account(method))
        for reader in ("iceberg", "pyiceberg"):
            table = catalog.create_table(
                f"{account(method)}.{reader}", rows.schema, location=f"abfss://{root(method)}/{reader}"
            )
            table.append(rows)
    store.create_bucket("lake")
    store.upload("lake", lake)


def shown(request, identity):
    """How a request shows who it is, and who."""
    authorization = (request.header("Authorization") or "").partition(" ")[0].lower()
    return authorization or ("sas" if "sig=" in request.url else "none"), identity


class Cloud:
    """Token services, accounts and the front before them, and what was read through it."""

    def __init__(self, folder, azurite_program):
        self.folder = folder
        self.entra = Entra()
        self.accounts = Accounts([account(m) for m in AZURE], folder, azurite_program, self.entra)
        for method in AZURE:
            fill(method, self.accounts.store(account(method)), folder / "data")
        self.accounts.publish(account("anonymous"), "lake")
        self.register()
        self.identities = {
            **{method: ("sharedkey", account(method)) for method in ("connection_string", "account_key")},
            "sas": ("sas", account("sas")),
            **{method: ("bearer", client) for method, client in APPS.items()},
            "managed_identity": ("bearer", self.entra.identities[None]),
            "cli": ("bearer", "ana@contoso.com"),
            "anonymous": ("none", None),
        }
        self.front = Front(folder)
        self.front.route("login.microsoftonline.com", entra_host(self.entra))
        self.front.route("*.core.windows.net", self.answer)
        self.seen = []

    def close(self):
        self.front.close()
        self.accounts.close()
        self.entra.close()

    def answer(self, request):
        """Answer for all accounts, each of them open to the identity of its method alone."""
        status, headers, body, identity = self.accounts.host(request)
        owner = next(m for m in AZURE if request.host.startswith(f"{account(m)}."))
        if shown(request, identity) != self.identities[owner]:
            return 403, {}, b"<Error><Code>AuthorizationPermissionMismatch</Code></Error>", identity
        return status, headers, body, identity

    def register(self):
        """Let Entra ID know the applications, by secret, certificate or subject."""
        self.entra.application(APPS["service_principal"], secrets={f"{CANARY}-principal"})
        self.entra.application(APPS["default"], secrets={f"{CANARY}-default"})
        subject = "system:serviceaccount:lake:reader"
        self.entra.application(APPS["workload_identity"], subjects={subject})
        (self.folder / "subject-token").write_text(self.entra.cluster_token(subject))
        issued = trustme.CA().issue_cert("reader.example.com", key_type=trustme.KeyType.RSA)
        issued.private_key_and_cert_chain_pem.write_to_path(self.folder / "certificate.pem")
        certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        self.entra.application(APPS["service_principal, with a certificate"], certificates=[certificate])

    def connection(self, method):
        """A method's connection. Where the method does not name the account, only the location does."""
        declared = {"cloud": "azure", "auth": {"method": method.partition(",")[0]}}
        client = {"tenant_id": TENANT, "client_id": APPS.get(method)}
        declared["auth"] |= {
            "connection_string": {"connection_string": "${LAKE_STRING}"},
            "account_key": {"key": "${LAKE_KEY}"},
            "sas": {"sas": "${LAKE_SAS}"},
            "service_principal": {**client, "client_secret": "${LAKE_SECRET}"},
            "service_principal, with a certificate": {
                **client,
                "certificate_file": str(self.folder / "certificate.pem"),
            },
            "workload_identity": {**client, "token_file": str(self.folder / "subject-token")},
            "token": {"token": "${LAKE_TOKEN}"},
        }.get(method, {})
        return declared | ({"account": account(method)} if method == "account_key" else {})

    @property
    def environment(self):
        """What a process needs for all methods but default, which finds the machine's identity in it."""
        others = ("AZURE_", "IDENTITY_", "MSI_", "AZURITE_")
        kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(others)}
        return {
            **{k: v for k, v in kept.items() if not k.lower().endswith(("_proxy", "_ca_bundle"))},
            **self.front.environment,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.entra.url,
            "LAKE_STRING": self.accounts.connection_string(account("connection_string")),
            "LAKE_KEY": self.accounts.keys[account("account_key")],
            "LAKE_SAS": self.accounts.sas(account("sas")),
            "LAKE_SECRET": f"{CANARY}-principal",
            "LAKE_TOKEN": self.entra.issue(appid=APPS["token"]),
            "PATH": f"{self.entra.install_az(self.folder / 'bin')}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }

    @property
    def crowd(self):
        """What the environment of a process holds besides: the application that default is to find."""
        return {
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": APPS["default"],
            "AZURE_CLIENT_SECRET": f"{CANARY}-default",
            "AZURE_STORAGE_SAS_TOKEN": "sv=ambient&sig=ambient",
            "AZURE_STORAGE_ACCOUNT_NAME": "ambient",
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURE_SKIP_SIGNATURE": "true",
        }

    def catalog(self):
        """Write the catalog: a product `method.reader` for every cell."""
        products = [
            {
                "name": f"{account(method)}.{reader}",
                "connection": account(method),
                "location": f"abfss://{root(method)}/{reader}/",
                "format": FORMATS[reader],
            }
            for method in AZURE
            for reader in matrix.READERS
        ]
        connections = {account(method): self.connection(method) for method in AZURE}
        file = self.folder / "catalog.yaml"
        file.write_text(json.dumps({"meshql": 1, "connections": connections, "products": products}))
        return file

    def read(self, names, environment):
        """What a process of its own finds in these products: rows and their sum, or the error."""
        ice = {m: self.folder / "data" / root(m) / "pyiceberg" for m in AZURE}
        metadata = {
            account(m): max(p.glob("metadata/*.json")).relative_to(p).as_posix() for m, p in ice.items()
        }
        before = len(self.front.seen)
        done = subprocess.run(
            [sys.executable, "-c", READ, str(self.catalog()), json.dumps(metadata), *names],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
        self.seen += self.front.seen[before:]
        return json.loads(done.stdout)


READ = """
import json, sys
import lance, meshql, pyarrow.compute
from deltalake import DeltaTable
from pyiceberg.table import StaticTable

def rows(mesh, method, reader):
    name = f"{method}.{reader}"
    if reader not in ("deltalake", "pyiceberg", "lance"):
        return mesh.sql(f"SELECT count(*), sum(x) FROM {name}").fetchall()[0]
    uri, options = mesh.storage_options(name, reader)
    if reader == "deltalake":
        found = DeltaTable(uri, storage_options=options).to_pyarrow_table()
    elif reader == "lance":
        found = lance.dataset(uri, storage_options=options).to_table()
    else:
        found = StaticTable.from_metadata(uri + metadata[method], properties=options).scan().to_arrow()
    return found.num_rows, pyarrow.compute.sum(found["x"]).as_py()

_, catalog, metadata, *names = sys.argv
metadata, told = json.loads(metadata), {}
with meshql.connect(catalog) as mesh:
    for product in names:
        try:
            told[product] = [int(value) for value in rows(mesh, *product.split("."))]
        except Exception as error:
            told[product] = [type(error).__name__, str(error), getattr(error, "hint", None)]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def cloud(azurite_program, tmp_path_factory):
    cloud = Cloud(tmp_path_factory.mktemp("matrix"), azurite_program)
    yield cloud
    cloud.close()


@pytest.fixture(scope="module")
def told(cloud):
    """What every reader of every method found, by product."""
    names = [f"{account(method)}.{reader}" for method in AZURE for reader in matrix.READERS]
    return cloud.read(names, cloud.environment | cloud.crowd)


def seen(cloud, method, reader):
    """How requests for a reader's folder showed who they were."""
    blob = f"{account(method)}.blob.core.windows.net"
    hosts = (blob, blob.replace(".blob.", ".dfs."))
    asked = (s for s in cloud.seen if s.host in hosts and s.path.startswith(f"/lake/{reader}/"))
    return {(s.scheme, s.identity) for s in asked}


@pytest.mark.parametrize(
    ("method", "reader"),
    [pytest.param(*cell[:2], id="-".join(cell[:2])) for cell in matrix.tested("azure")],
)
def test_cell(method, reader, told, cloud):
    product = f"{account(method)}.{reader}"
    found = told[product]
    if (method, reader) == ("sas", "lance"):
        kind, message, hint = found
        assert kind == "UsageError"
        assert "Lance would mix $AZURE_CLIENT_SECRET" in message
        assert hint == "unset AZURE_CLIENT_SECRET"
        found = cloud.read([product], cloud.environment)[product]
    assert found == [ROWS[method], sum(range(ROWS[method]))]
    assert seen(cloud, method, reader) == {cloud.identities[method]}


@pytest.mark.parametrize("method", AZURE)
@pytest.mark.usefixtures("told")
def test_an_account_saw_its_own_identity_only(method, cloud):
    asked = {(s.scheme, s.identity) for s in cloud.seen if s.host.startswith(f"{account(method)}.")}
    assert asked == {cloud.identities[method]}


def test_an_account_refuses_other_identities(cloud):
    """The cells would be worth nothing if the accounts took anybody."""
    for method in AZURE:
        store = AzureStore(
            "lake",
            config={
                "account_name": account(method),
                "endpoint": f"https://{account(method)}.blob.core.windows.net",
                "token": cloud.entra.issue(appid=APPS["token"]),
            },
            client_options={"proxy_url": cloud.front.url, "allow_invalid_certificates": True},
            retry_config={"max_retries": 0},
        )
        if method == "token":
            assert store.head("parquet/part-0.parquet")["size"]
        else:
            with pytest.raises(PermissionDeniedError):
                store.head("parquet/part-0.parquet")
