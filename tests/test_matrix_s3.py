"""Amazon S3: every method in every reader, cell by cell, against a store that lets nobody else in."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from clouds import aws_settings, matrix
from clouds.aws_services import Account, Front, Issuer
from clouds.gateway import gateway
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

ROWS = {
    "keys": (aws_settings.keys, "analyst"),
    "env": (aws_settings.environment, "analyst"),
    "profile": (aws_settings.profile_of_keys, "analyst"),
    "profile, with SSO": (aws_settings.profile_of_sso, "reader"),
    "process": (aws_settings.process, "reader"),
    "web_identity": (aws_settings.web_identity, "reader"),
    "assume_role": (aws_settings.role, "reader"),
    "container_role": (aws_settings.container_role, "reader"),
    "instance_role": (aws_settings.instance_role, "reader"),
    "default": (aws_settings.default_of_instance, "reader"),
}
"""Of each row, how its method is set up, and the user or role that the store then lets in alone."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"), "s3")


@pytest.fixture(scope="module")
def account(tables, tmp_path_factory):
    """An account in a moto that checks signatures and policies, with the tables in a bucket."""
    folder = tmp_path_factory.mktemp("account")
    server = emulators.start("matrix", "moto", folder)

    with pytest.MonkeyPatch.context() as patch:
        aws_settings.without_aws(patch, folder)
        yield Account.create(server.endpoint, lambda s3: put_tables(s3, tables, "eu-west-1"))
    emulators.stop(server)


@pytest.fixture(scope="module")
def front(account):
    """The account's S3 and STS."""
    with Front(account.moto, account.sts, Issuer()) as front:
        front.owners = account.owners
        yield front


@pytest.fixture(scope="module")
def machine(account):
    with aws_settings.machine_of(account.issue()) as services:
        yield services


@pytest.fixture(scope="module")
def public(s3, tables):
    """A store that lets in those without an identity, and nobody else."""
    s3.create_bucket(BUCKET)
    s3.upload(BUCKET, tables)
    with gateway(s3.endpoint) as public:
        public.identities[None] = None
        yield public


@dataclass
class Row:
    """A mesh whose connection uses a row's method; `readers` tells who asked the store since `forget`."""

    mesh: meshql.Mesh
    admitted: str | None
    forget: object
    readers: object


@pytest.fixture(scope="module")
def row(request, account, front, machine, public, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / ".aws").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        aws_settings.without_aws(patch, home)
        patch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
        world = aws_settings.World(
            account=account, front=front, machine=machine, home=home, monkeypatch=patch
        )
        if request.param == "anonymous":
            aws_settings.environment(world)
            auth, endpoint = "anonymous", public.url
            given = None, public.requests.clear, public.seen
        else:
            setting, front.admits = ROWS[request.param]
            auth, endpoint = setting(world), front.endpoint
            given = front.admits, front.asked.clear, lambda: front.readers
        auth = auth if isinstance(auth, dict) else {"method": auth}
        lake = {"cloud": "s3", "region": "eu-west-1", "url_style": "path", "insecure": True}
        catalog = write_catalog(home, "s3", lake | {"endpoint": endpoint, "auth": auth})
        with meshql.connect(catalog) as mesh:
            yield Row(mesh, *given)


@contextmanager
def somebody_else(home):
    """What another identity leaves in the environment: keys that the store does not know."""
    with pytest.MonkeyPatch.context() as patch:
        aws_settings.without_aws(patch, home)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODYELSE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "else")
        yield


CELLS = [(method, reader) for method, reader, _ in matrix.tested("s3")]


@pytest.mark.parametrize(("row", "reader"), CELLS, ids=map("-".join, CELLS), indirect=["row"])
def test_cell(row, reader, tables, tmp_path):
    if reader in PRODUCTS:
        uri, options = row.mesh.storage_options(PRODUCTS[reader], reader)
        row.forget()
        with somebody_else(tmp_path):
            assert by_library(reader, uri, options, metadata_file(tables)) == EXPECTED
    else:
        row.forget()
        assert by_sql(row.mesh, reader) == EXPECTED
    assert row.readers() == {row.admitted}
