"""`meshql doctor` tells what is wrong with a connection, and the fix to type."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.request import Request, urlopen

import boto3
import duckdb
import pytest
import trustme
import yaml
from clouds.odd_servers import answering, closed, container_signature, proxying, silent
from deltalake import write_deltalake

import meshql
from meshql.demo import emulators
from meshql.demo.stores import Store
from meshql.doctor.diagnosis import Check, Diagnosis
from meshql.doctor.table import diagnoses_text
from meshql.errors import CredentialsError, LocationError, UsageError
from meshql.storage.refusals import storage_error

BUCKET = "doctor"

ROWS = "SELECT range AS x FROM range(10)"

PATIENT = 60
"""Seconds for tests that time nothing: the machine may be busy."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a Delta table and a Parquet file."""
    folder = tmp_path_factory.mktemp("files")
    write_deltalake(str(folder / "orders"), duckdb.sql(ROWS).to_arrow_table())
    duckdb.sql(ROWS).write_parquet(str(folder / "people.parquet"))
    return folder


@pytest.fixture(scope="module")
def s3_store(s3, files):
    s3.create_bucket(BUCKET)
    s3.upload(BUCKET, files)
    return s3


@pytest.fixture(scope="module")
def azure_store(azure, files):
    azure.create_bucket(BUCKET)
    azure.upload(BUCKET, files)
    return azure


@pytest.fixture(scope="module")
def locked(tmp_path_factory, files):
    """An S3 emulator that checks signatures and policies, with a user's keys, by what the user may do."""
    server = emulators.start("locked", "moto", tmp_path_factory.mktemp("locked"))
    store = Store.s3(server.endpoint)
    store.create_bucket(BUCKET)
    store.upload(BUCKET, files)
    iam = boto3.client(
        "iam",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )
    keys = {}
    for name, actions in {"all": ["s3:*"], "reader": ["s3:GetObject"], "lister": ["s3:ListBucket"]}.items():
        iam.create_user(UserName=name)
        allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = {"key_id": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
    headers = {"Content-Type": "text/plain"}
    urlopen(Request(f"{server.endpoint}/moto-api/reset-auth", b"0", headers, method="POST")).close()
    yield server.endpoint, keys
    emulators.stop(server)


@pytest.fixture
def catalog(tmp_path):
    """A function that writes a catalog of these connections, with `x.NAME` as product of connection NAME."""

    def write(connections, products=None):
        if products is None:
            products = {name: (default(c), "parquet") for name, c in connections.items() if default(c)}
        listed = [
            {
                "name": f"x.{name}",
                "connection": name.partition("-")[0],
                "location": location,
                "format": format_,
            }
            for name, (location, format_) in products.items()
        ]
        file = tmp_path / "catalog.yaml"
        file.write_text(
            yaml.safe_dump({"meshql": 1, "connections": connections, "products": listed}, sort_keys=False)
        )
        return file

    def default(connection):
        scheme = {"s3": "s3", "gcs": "gs", "azure": "az"}.get(connection["cloud"])
        return scheme and f"{scheme}://{BUCKET}/people.parquet"

    return write


@pytest.fixture
def examine(catalog):
    """A function that examines one connection, called `c`, and returns what was found."""

    def run(connection, location=None, format_="parquet", *, timeout=PATIENT, unused=False):
        products = {"c": (location, format_)} if location else ({} if unused else None)
        with meshql.connect(catalog({"c": connection}, products)) as mesh:
            (found,) = mesh.doctor(timeout=timeout)
        return found

    return run


def s3_at(endpoint, **changes):
    auth = {"method": "keys", "key_id": "AKIAIOSFODNN7EXAMPLE", "secret": "s3cretCanary"}
    base = {"cloud": "s3", "endpoint": endpoint, "url_style": "path", "insecure": True, "auth": auth}
    return base | changes


def failure(found, name):
    """The one check that failed, which is this one."""
    failed = [c for c in found.checks if c.state == "failed"]
    assert [c.name for c in failed] == [name], found.checks
    assert not found.ok
    return failed[0]


def states(found):
    return {c.name: c.state for c in found.checks}


AT = r" in connection c \(\S*catalog\.yaml:3:3\)"


# --- what works -----------------------------------------------------------------------------------


def test_all_is_well_on_s3(catalog, s3_store):
    products = {"c": (f"s3://{BUCKET}/orders", "delta"), "c-p": (f"s3://{BUCKET}/people.parquet", "parquet")}
    with meshql.connect(catalog({"c": s3_store.connection}, products)) as mesh:
        (found,) = mesh.doctor(timeout=PATIENT)
    assert states(found) == dict.fromkeys(
        ["credentials", "network", "clock", "region", "list", "read", "delta", "parquet"], "ok"
    )
    assert (found.connection, found.cloud, found.method, found.identity) == ("c", "s3", "keys", "demo…-key")
    assert (found.endpoint, found.region, found.expires_at) == (s3_store.endpoint, "us-east-1", None)
    assert found.products == ("x.c", "x.c-p")
    assert found.check("delta").message == "x.c at version 0"
    assert all(c.seconds >= 0 for c in found.checks)


def test_all_is_well_on_azure(examine, azure_store):
    found = examine(azure_store.connection, f"az://{BUCKET}/orders/", "delta")
    assert found.ok, found.checks
    assert found.identity == "devstoreaccount1"
    assert found.endpoint == azure_store.endpoint


def test_a_signature_tells_its_end_and_what_it_permits(examine, azure_store):
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    found = examine(sas(azure_store, container_signature(azure_store, BUCKET, "rl", ends)))
    assert found.ok, found.checks
    assert found.expires_at == ends
    assert found.identity == "rl on the container"


def test_a_token_tells_who_and_until_when(examine):
    claims = base64.urlsafe_b64encode(json.dumps({"email": "ana@example.com", "exp": 4102444800}).encode())
    token = f"e30.{claims.decode().rstrip('=')}.c2ln"
    with answering(403) as (address, _):
        auth = {"method": "token", "token": token}
        found = examine({"cloud": "gcs", "endpoint": address, "insecure": True, "auth": auth})
    assert found.identity == "ana@example.com"
    assert found.expires_at == datetime(2100, 1, 1, tzinfo=UTC)
    assert [c.name for c in found.checks if not c.ok] == ["list", "read"]
    assert found.check("list").hint == (
        f"gcloud storage buckets add-iam-policy-binding gs://{BUCKET} "
        "--member=user:ana@example.com --role=roles/storage.objectViewer (has storage.objects.list)"
    )


def test_a_connection_that_no_product_uses(examine, s3):
    found = examine(s3.connection, unused=True)
    assert states(found) == {"credentials": "ok", "network": "ok", "clock": "ok"}
    assert found.products == ()


def test_local_files_and_http(catalog, files):
    body = (files / "people.parquet").read_bytes()
    with answering(200, body=body) as (address, _):
        connections = {"disk": {"cloud": "local"}, "web": {"cloud": "http"}}
        products = {
            "disk": (str(files / "orders"), "delta"),
            "web": (f"{address}/people.parquet", "parquet"),
        }
        with meshql.connect(catalog(connections, products)) as mesh:
            disk, web = mesh.doctor(timeout=PATIENT)
    assert states(disk) == {"list": "ok", "read": "ok", "delta": "ok"}
    assert states(web) == {"network": "ok", "clock": "ok", "read": "ok", "parquet": "ok"}


# --- names ----------------------------------------------------------------------------------------


def test_names_of_connections_products_and_globs(catalog, files):
    connections = {"disk": {"cloud": "local"}, "spare": {"cloud": "local"}}
    products = {
        "disk": (str(files / "orders"), "delta"),
        "disk-p": (str(files / "people.parquet"), "parquet"),
    }
    with meshql.connect(catalog(connections, products)) as mesh:
        (found,) = mesh.doctor("X.disk-p", timeout=PATIENT)
        assert states(found) == {"list": "ok", "read": "ok", "x.disk-p": "ok"}
        assert found.check("read").message.endswith("/people.parquet")
        assert [d.connection for d in mesh.doctor(["sp*"], timeout=PATIENT)] == ["spare"]
        (found,) = mesh.doctor(["x.*"], timeout=PATIENT)
        assert {"x.disk", "x.disk-p"} < set(states(found))
        with pytest.raises(UsageError, match="no connection or product is named dsk") as caught:
            mesh.doctor(["dsk"])
        assert caught.value.hint == "did you mean disk or x.disk?"


# --- credentials ----------------------------------------------------------------------------------


def test_a_variable_that_is_not_set(examine, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    auth = {"method": "keys", "key_id": "${NO_SUCH_KEY}", "secret": "${NO_SUCH_KEY}"}
    with answering(200) as (address, _):
        found = examine(s3_at(address, auth=auth))
    assert failure(found, "credentials").hint == "export NO_SUCH_KEY=..."
    assert states(found)["network"] == "ok"
    assert states(found)["list"] == states(found)["parquet"] == "skipped"


def sas(store, text):
    auth = {"method": "sas", "sas": text}
    return {
        "cloud": "azure",
        "account": store.key_id,
        "endpoint": store.endpoint,
        "insecure": True,
        "auth": auth,
    }


NEW_SIGNATURE = f"az storage container generate-sas --account-name devstoreaccount1 --name {BUCKET} --permissions rl --expiry DATE"


def test_signatures_that_ended_or_have_not_begun(examine, azure_store):
    now = datetime.now(UTC)
    ended = examine(sas(azure_store, container_signature(azure_store, BUCKET, "rl", now - timedelta(days=1))))
    check = failure(ended, "credentials")
    assert check.hint == NEW_SIGNATURE
    assert f"ended at {now - timedelta(days=1):%Y-%m-%d}" in check.message
    later = container_signature(
        azure_store, BUCKET, "rl", now + timedelta(days=2), starts=now + timedelta(days=1)
    )
    check = failure(examine(sas(azure_store, later)), "credentials")
    assert (check.hint, "begins only at" in check.message) == (NEW_SIGNATURE, True)


def test_signatures_that_permit_too_little(examine, azure_store):
    ends = datetime.now(UTC) + timedelta(hours=1)
    found = examine(sas(azure_store, container_signature(azure_store, BUCKET, "r", ends)))
    check = failure(found, "list")
    assert (check.hint, check.message) == (
        NEW_SIGNATURE,
        "the shared access signature permits r, and not l (list)",
    )
    # The file is named by the location: nothing has to be listed to read it.
    assert states(found)["read"] == states(found)["parquet"] == "ok"
    found = examine(sas(azure_store, container_signature(azure_store, BUCKET, "l", ends)))
    check = failure(found, "read")
    assert (check.hint, check.message) == (
        NEW_SIGNATURE,
        "the shared access signature permits l, and not r (read)",
    )
    assert states(found)["parquet"] == "skipped"


def test_a_signature_that_the_store_refuses(examine, azure_store):
    ends = datetime.now(UTC) + timedelta(hours=1)
    text = container_signature(azure_store, "other", "rl", ends)
    check = failure(examine(sas(azure_store, text)), "list")
    assert (
        check.hint == "check the connection's `auth`, and that this identity may list and read the location"
    )


@pytest.mark.parametrize(
    ("who", "check", "hint"),
    [
        ({"key_id": "AKIANOBODYKNOWSTHIS0"}, "list", "check the key id behind the connection's `auth`, and"),
        ({"secret": "wrong"}, "list", "check the secret behind the connection's `auth` for blanks"),
        ("reader", "list", f"allow s3:ListBucket on arn:aws:s3:::{BUCKET}, or, where its readers pay, set"),
        ("lister", "read", f"allow s3:GetObject on arn:aws:s3:::{BUCKET}/*, or, where its readers pay, set"),
    ],
    ids=["key id", "secret", "list", "read"],
)
def test_what_s3_refuses(examine, locked, who, check, hint):
    endpoint, keys = locked
    given = keys[who] if isinstance(who, str) else keys["all"] | who
    found = examine(s3_at(endpoint, auth={"method": "keys", **given}))
    failed = failure(found, check)
    assert failed.hint.startswith(hint)
    assert given["secret"] not in str(found)
    if who == "reader":
        assert re.fullmatch(rf".* set `requester_pays: true`{AT}", failed.hint)
        assert failed.message.startswith(
            f"{given['key_id'][:4]}…{given['key_id'][-4:]} may not list s3://{BUCKET}"
        )
        assert states(found)["read"] == "ok"


# --- the way there --------------------------------------------------------------------------------


def test_a_port_where_nobody_listens(examine):
    address = closed()
    check = failure(examine(s3_at(address)), "network")
    assert check.message == f"{address[7:]} does not answer: connection refused"
    assert re.fullmatch(rf"start the server, or correct `endpoint: {address}`{AT}", check.hint)


def test_a_name_without_address(examine):
    check = failure(examine(s3_at("https://store.invalid")), "network")
    assert check.message == "there is no address for store.invalid"
    assert re.fullmatch(rf"correct `endpoint: https://store.invalid`{AT}, or this machine's DNS", check.hint)


def test_tls_and_none(examine):
    with answering() as (address, _):
        check = failure(examine(s3_at(address.replace("http:", "https:"))), "network")
        assert re.fullmatch(rf"set `endpoint: {address}`{AT}", check.hint)
    authority = trustme.CA()
    with answering(tls=authority.issue_cert("127.0.0.1")) as (address, _):
        check = failure(examine(s3_at(address)), "network")
        assert check.hint == "export SSL_CERT_FILE=/path/to/its-authority.pem"
        check = failure(examine(s3_at(address.replace("https:", "http:"))), "network")
        assert re.fullmatch(rf"set `endpoint: {address}`{AT}", check.hint)


def test_a_store_that_takes_connections_and_answers_nothing(examine):
    with silent() as address:
        found = examine(s3_at(address), timeout=1)
    check = failure(found, "network")
    assert check.message.startswith(f"{address[7:]} takes connections, and answers nothing: nothing within")
    assert re.fullmatch(rf"restart the server, or correct `endpoint: {address}`{AT}", check.hint)
    assert states(found)["list"] == "skipped"


def test_proxies(examine, s3_store, monkeypatch):
    connection = s3_store.connection
    host, port = re.fullmatch(r"http://(.*):(\d+)", s3_store.endpoint).groups()
    monkeypatch.setenv("HTTP_PROXY", f"http://ana:pr0xyCanary@{closed()[7:]}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = examine(connection)
    check = failure(found, "network")
    assert check.hint == f"correct HTTP_PROXY, or go around the proxy: export NO_PROXY={host}"
    assert re.fullmatch(
        rf"proxy 127.0.0.1:\d+ \(HTTP_PROXY\) does not lead to {host}:{port}: connection refused",
        check.message,
    )
    assert "pr0xyCanary" not in str(found)
    monkeypatch.setenv("NO_PROXY", host)
    found = examine(connection)
    assert failure(found, "parquet").hint == 'export http_proxy="$HTTP_PROXY"; unset HTTP_PROXY'
    assert "pr0xyCanary" not in str(found)
    monkeypatch.setenv("HTTP_PROXY", closed())
    assert examine(connection).ok
    monkeypatch.delenv("NO_PROXY")
    with proxying() as (proxy, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        found = examine(connection, unused=True)
        assert found.check("network").message == f"{host}:{port} through proxy {proxy[7:]} (HTTP_PROXY)"
        assert seen[0].startswith(f"HEAD {s3_store.endpoint}/")


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "state", "message"),
    [
        (timedelta(hours=1), "failed", "this machine's clock is 1 h behind the store's"),
        (timedelta(minutes=-7), "failed", "this machine's clock is 7 min ahead of the store's"),
        (timedelta(minutes=2), "warning", "this machine's clock is 2 min behind the store's"),
        (timedelta(seconds=5), "ok", None),
    ],
)
def test_clocks(examine, ahead, state, message):
    with answering(403, ahead=ahead) as (address, _):
        check = examine(s3_at(address), unused=True).check("clock")
    assert check.state == state
    if message:
        assert check.message == message
        assert check.hint == "sudo timedatectl set-ntp true"


# --- the bucket -----------------------------------------------------------------------------------


def test_a_bucket_of_another_region(examine):
    with answering(301, headers={"x-amz-bucket-region": "eu-west-1"}) as (address, seen):
        found = examine(s3_at(address))
    check = failure(found, "region")
    assert check.message == f"bucket {BUCKET} lies in eu-west-1, and the connection says us-east-1"
    assert re.fullmatch(rf"set `region: eu-west-1`{AT}", check.hint)
    assert seen[1] == f"HEAD /{BUCKET} HTTP/1.1"
    assert states(found)["list"] == "skipped"


def test_a_bucket_that_is_not_there(examine, s3_store, azure_store):
    for store in (s3_store, azure_store):
        check = failure(examine(store.connection, f"{store.scheme}://no-such-bucket/t/"), "list")
        assert check.hint == "check the location's bucket and the connection's endpoint and region"


def test_the_wrong_style_of_urls(examine, s3_store):
    check = failure(examine(s3_store.connection | {"url_style": "vhost"}), "list")
    assert re.fullmatch(rf"set `url_style: path`{AT}", check.hint)
    host = s3_store.endpoint[7:]
    assert check.message == f"the bucket does not answer at {BUCKET}.{host}, and does at {host}/{BUCKET}"


def test_a_query_with_the_wrong_style_of_urls(catalog, s3_store):
    with (
        meshql.connect(catalog({"c": s3_store.connection | {"url_style": "vhost"}})) as mesh,
        pytest.raises(LocationError, match=f"there is no {BUCKET}.127.0.0.1") as caught,
    ):
        mesh.sql("FROM x.c")
    assert caught.value.hint == "set the connection's `url_style: path`"


def test_a_folder_that_is_not_there(examine, tmp_path):
    check = failure(examine({"cloud": "local"}, str(tmp_path / "gone/"), "delta"), "list")
    assert (check.message, check.hint) == (
        f"there is no folder {tmp_path}/gone",
        "check the `location` of x.c",
    )


def test_a_reader_says_what_is_wrong_with_its_product(catalog, s3_store):
    products = {"c": (f"s3://{BUCKET}/people.parquet", "parquet"), "c-d": (f"s3://{BUCKET}/people", "delta")}
    with meshql.connect(catalog({"c": s3_store.connection}, products)) as mesh:
        (found,) = mesh.doctor(timeout=PATIENT)
    check = failure(found, "delta")
    assert check.message == f"x.c-d: no Delta table at s3://{BUCKET}/people/"
    assert check.hint == "check the product's `location`: it has to be the folder that holds _delta_log"
    assert check.product == "x.c-d"
    assert states(found)["parquet"] == "ok"


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ("<Code>RequestTimeTooSkewed</Code>", CredentialsError, "sudo timedatectl set-ntp true"),
        ("<Code>AllAccessDisabled</Code>", CredentialsError, "ask the bucket's owner"),
        ("<Code>AccountIsDisabled</Code>", CredentialsError, "enable its subscription"),
        (
            "<Code>KeyBasedAuthenticationNotPermitted</Code>",
            CredentialsError,
            "--allow-shared-key-access true",
        ),
        ("<Code>AuthorizationPermissionMismatch</Code>", CredentialsError, "'Storage Blob Data Reader'"),
        (
            "<Code>AuthorizationFailure</Code><Message>This request is not authorized to perform this operation.",
            CredentialsError,
            "az storage account network-rule add",
        ),
        ("<Code>PublicAccessNotPermitted</Code>", CredentialsError, "auth: {method: default}"),
        ("<Code>UserProjectMissing</Code>", CredentialsError, "--no-requester-pays"),
        (
            "<Code>AccessDenied</Code><Message>this is a Requester Pays bucket",
            CredentialsError,
            "requester_pays: true",
        ),
        ("<Code>AccountProblem</Code>", CredentialsError, "gcloud billing projects link"),
        ("Server returned 401 Unauthorized: Invalid Credentials", CredentialsError, "get a fresh one"),
        (
            "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region>",
            LocationError,
            "set the connection's `region: eu-west-3`",
        ),
    ],
)
def test_the_words_of_stores(said, kind, hint):
    error = storage_error(said, "s3://bucket")
    assert type(error) is kind
    assert hint in error.hint


def test_what_a_store_does_not_tell_is_no_news_where_all_is_well():
    checks = (Check("region", "skipped", 0, "the store does not tell"), Check("list", "ok", 0))
    found = Diagnosis("c", "s3", "keys", None, None, None, None, 0, checks, ("x.c",))
    assert diagnoses_text([found]) == "✓ c  s3  keys  list ✓ 0.00 s"
    failed = replace(found, checks=(*checks, Check("read", "failed", 0)))
    assert diagnoses_text([failed]).startswith("✗ c  s3  keys  region – list ✓ read ✗ 0.00 s")


# --- the command ----------------------------------------------------------------------------------


def run(file, *arguments, **environment):
    command = [sys.executable, "-m", "meshql", "doctor", "-C", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


def test_the_command(catalog, files):
    connections = {"good": {"cloud": "local"}, "bad": s3_at(closed())}
    file = catalog(
        connections, {"good": (str(files / "orders"), "delta"), "bad": ("s3://doctor/x/", "parquet")}
    )
    done = run(file, "-t", "20")
    assert done.returncode == 3, done.stderr
    first, second, *told = done.stdout.splitlines()
    assert re.fullmatch(r"✓ good  local +list ✓ read ✓ delta ✓ [\d.]+ s", first)
    assert re.fullmatch(
        r"✗ bad   s3 +keys  AKIA…MPLE  network ✗ clock – region – list – read – parquet – [\d.]+ s", second
    )
    assert told[0].startswith("    network: 127.0.0.1:")
    assert told[1].startswith("    hint: start the server")
    assert told[2] == "1 of 2 connections failed"
    assert "s3cretCanary" not in done.stdout + done.stderr
    coloured = run(file, "good", "-t", "20", FORCE_COLOR="1", NO_COLOR="")
    assert coloured.returncode == 0
    assert coloured.stdout.startswith("\x1b[32m✓\x1b[0m good")
    assert "\x1b" not in run(file, "good", "-t", "20", NO_COLOR="1", FORCE_COLOR="1").stdout


def test_json_and_unknown_names(catalog, files):
    file = catalog({"good": {"cloud": "local"}}, {"good": (str(files / "orders"), "delta")})
    done = run(file, "--format", "json", "-t", "20")
    (told,) = json.loads(done.stdout)
    assert list(told) == [
        "connection", "ok", "cloud", "method", "identity", "expires_at", "endpoint", "region", "seconds",
        "products", "checks",
    ]  # fmt: skip
    assert [list(c) for c in told["checks"]] == [
        ["name", "state", "seconds", "message", "hint", "product"]
    ] * 3
    assert told["ok"] is True
    unknown = run(file, "goood")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no connection or product is named goood" in unknown.stderr
    assert "did you mean good or x.good?" in unknown.stderr


def test_a_check_that_hangs_is_given_up(catalog):
    """The store answers who asks without a body, and says nothing to a listing."""
    with answering(200, hangs="GET") as (address, _):
        file = catalog({"c": s3_at(address)})
        started = time.perf_counter()
        done = run(file, "-t", "1.5")
        seconds = time.perf_counter() - started
    assert done.returncode == 3, done.stderr
    assert "list ✗ read – parquet –" in done.stdout
    assert "    list: no answer within 1.5 s\n" in done.stdout
    assert "    hint: give it more time: meshql doctor --timeout 6 c\n" in done.stdout
    assert seconds < 8


def test_twenty_connections_of_which_several_hang_take_three_seconds(catalog, s3_store, files):
    with ExitStack() as stack:
        hanging = {f"hang{i}": s3_at(stack.enter_context(silent())) for i in range(6)}
        refused = {f"shut{i}": s3_at(closed()) for i in range(4)}
        well = {f"well{i}": s3_store.connection for i in range(10)}
        products = dict.fromkeys(hanging | refused, (f"s3://{BUCKET}/people.parquet", "parquet"))
        # DuckDB chooses credentials by address: one connection alone reads the bucket's files.
        products |= {"well0": (f"s3://{BUCKET}/people.parquet", "parquet")}
        with meshql.connect(catalog(hanging | refused | well, products)) as mesh:
            started = time.perf_counter()
            found = mesh.doctor()
            seconds = time.perf_counter() - started
    assert seconds < 3
    assert len(found) == 20
    for one in found:
        assert one.ok == one.connection.startswith("well"), one.checks
        if one.connection.startswith("hang"):
            assert "answers nothing" in failure(one, "network").message
