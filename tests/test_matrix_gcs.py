"""Cloud Storage: every method in every reader, cell by cell, against a store that lets nobody else in."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from clouds import aws_settings, matrix
from clouds.aws_services import Account, Front, Issuer
from clouds.google import STORAGE, google_services, google_storage
from clouds.readers import (
    BUCKET,
    EXPECTED,
    PRODUCTS,
    by_library,
    by_sql,
    metadata_file,
    put_tables,
    write_catalog,
    write_tables,
)

import meshql
from meshql.demo import emulators
from meshql.errors import UsageError

READER = "reader@project.iam.gserviceaccount.com"
ROBOT = "robot@project.iam.gserviceaccount.com"
OTHER = "other@project.iam.gserviceaccount.com"
ANA = "ana@example.com"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"), "gs")


@pytest.fixture(scope="module")
def google():
    with google_services() as google:
        yield google


@pytest.fixture(scope="module")
def stores(google, gcs, tables, tmp_path_factory):
    """The bucket as those with HMAC keys see it, those with tokens, and everybody; by the kind of method."""
    folder = tmp_path_factory.mktemp("account")
    server = emulators.start("matrix", "moto", folder)
    gcs.create_bucket(BUCKET)
    gcs.upload(BUCKET, tables)
    with pytest.MonkeyPatch.context() as patch:
        aws_settings.without_aws(patch, folder)
        account = Account.create(server.endpoint, lambda s3: put_tables(s3, tables, "eu-west-1"))
    with (
        Front(account.moto, account.sts, Issuer()) as interoperable,
        google_storage(google, gcs.endpoint) as front,
        google_storage(google, gcs.endpoint, public=[BUCKET]) as public,
    ):
        interoperable.owners, interoperable.admits, interoperable.region = account.owners, "analyst", "auto"
        yield {"account": account, "hmac": interoperable, "token": front, "anonymous": public}
    emulators.stop(server)


@pytest.fixture(scope="module")
def elsewhere():
    """A process of its own: pyarrow's Cloud Storage lets no other thread run, and so no server of this
    process answer."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(int)
        yield pool


# --- every method ---------------------------------------------------------------------------------


@dataclass
class World:
    """What a method's setting may use."""

    google: object
    home: object
    patch: pytest.MonkeyPatch

    def file(self, content):
        path = self.home / "google.json"
        path.write_text(json.dumps(content))
        return str(path)


def adc(w):
    w.patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", w.file(w.google.login(ANA)))
    return {"method": "adc"}, ANA


def service_account(w):
    return {"method": "service_account", "key_file": w.file(w.google.service_account(READER))}, READER


def workload_identity(w):
    (w.home / "token").write_text("a-ci-token")
    config = w.google.provider("a-ci-token", "principal://ci", {"file": str(w.home / "token")})
    return {"method": "workload_identity", "config_file": w.file(config)}, "principal://ci"


def impersonation(w):
    adc(w)
    w.google.creators.add((ANA, ROBOT))
    return {"method": "impersonation", "service_account": ROBOT}, ROBOT


def token(w):
    given, _ = w.google.issue("somebody", [f"{STORAGE}read_only"])
    return {"method": "token", "token": given}, "somebody"


TOKENS = {
    "adc": adc,
    "service_account": service_account,
    "workload_identity": workload_identity,
    "impersonation": impersonation,
    "token": token,
}


@dataclass
class Row:
    """A mesh whose connection uses a row's method; `readers` tells who asked the store since `forget`."""

    mesh: meshql.Mesh
    admitted: str | None
    forget: object
    readers: object


@pytest.fixture(scope="module")
def row(request, google, stores, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        aws_settings.without_aws(patch, home)
        patch.setenv("CLOUDSDK_CONFIG", str(home))
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("CLOUDSDK_AUTH_TOKEN_HOST", f"{google.url}/token")
        patch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", f"{google.url}/")
        patch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        lake, given = opened(request.param, World(google, home, patch), stores)
        catalog = write_catalog(home, "gs", {"cloud": "gcs", "insecure": True, **lake})
        with meshql.connect(catalog) as mesh:
            yield Row(mesh, *given)


def opened(method, world, stores):
    """What is declared of a row's connection, and the rest of its Row."""
    store = stores[method if method in stores else "token"]
    if method == "hmac":
        auth = aws_settings.keys_of(stores["account"]) | {"method": "hmac"}
        return {"endpoint": store.endpoint, "auth": auth}, (
            "analyst",
            store.asked.clear,
            lambda: store.readers,
        )
    auth, admitted = TOKENS[method](world) if method in TOKENS else ({"method": method}, None)
    world.google.readers = {admitted}
    return {"endpoint": store.url, "auth": auth}, (
        admitted,
        store.requests.clear,
        lambda: {principal(world.google, authorization) for *_, authorization in store.requests},
    )


def principal(google, authorization):
    grant = google.grant(authorization)
    return grant.principal if grant else authorization


# --- every cell -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(google, tmp_path_factory):
    """The key file of a service account that the store refuses."""
    path = tmp_path_factory.mktemp("other") / "key.json"
    path.write_text(json.dumps(google.service_account(OTHER)))
    return path


@contextmanager
def somebody_else(key_file):
    """What another identity leaves in the environment; the store refuses it."""
    with pytest.MonkeyPatch.context() as patch:
        aws_settings.without_aws(patch, key_file.parent)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODYELSE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "else")
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
        yield


CELLS = [(method, reader) for method, reader, kind in matrix.tested("gcs") if kind != "-"]
REFUSED = [(method, reader) for method, reader, kind in matrix.tested("gcs") if kind == "-"]


@pytest.mark.parametrize(("row", "reader"), CELLS, ids=map("-".join, CELLS), indirect=["row"])
def test_cell(row, reader, tables, elsewhere, other):
    if reader in PRODUCTS:
        uri, options = row.mesh.storage_options(PRODUCTS[reader], reader)
        row.forget()
        with somebody_else(other):
            arguments = reader, uri, options, metadata_file(tables)
            if reader == "pyiceberg":
                assert elsewhere.submit(by_library, *arguments).result(timeout=60) == EXPECTED
            else:
                assert by_library(*arguments) == EXPECTED
    else:
        row.forget()
        assert by_sql(row.mesh, reader) == EXPECTED
    assert row.readers() == {row.admitted}


@pytest.mark.parametrize(("row", "reader"), REFUSED, ids=map("-".join, REFUSED), indirect=["row"])
def test_refused_cell(row, reader):
    row.forget()
    with pytest.raises(UsageError, match="delta-rs has no option for a bearer token") as caught:
        row.mesh.storage_options(PRODUCTS[reader], reader)
    assert caught.value.hint == "auth: {method: hmac, ...}; Lance, pyiceberg and DuckDB take the token"
    assert row.readers() == set()
