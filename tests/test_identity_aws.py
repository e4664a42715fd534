"""AWS identities: every method's credentials, and data read with them; what is said when there are none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pyarrow
import pytest
import yaml
from clouds.aws_services import Account, Front, InstanceMetadata, Issuer, arn
from clouds.aws_settings import (
    World,
    chain,
    config,
    container_role,
    default_of_environment,
    default_of_instance,
    default_of_profile,
    instance_role,
    keys,
    machine_of,
    pod_identity,
    process,
    profile_of_keys,
    profile_of_process,
    profile_of_role,
    profile_of_sso,
    role,
    role_of_default,
    role_with_external_id,
    sso_login,
    web_identity,
    web_identity_of_environment,
    without_aws,
)
from pyarrow import parquet

import meshql
from meshql.catalog.load import load
from meshql.demo import emulators
from meshql.errors import CredentialsError, LocationError, UnreachableError
from meshql.identity import aws
from meshql.identity.broker import Broker
from meshql.identity.declared import Declared

ROWS = 1234
COUNT = "SELECT count(*), sum(x)::BIGINT FROM shop.sales"
SUM = (ROWS, ROWS * (ROWS - 1) // 2)


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """An account in a moto that checks signatures and policies, with one product in two buckets."""
    folder = tmp_path_factory.mktemp("account")
    server = emulators.start("identity", "moto", folder)
    parquet.write_table(pyarrow.table({"x": range(ROWS)}), folder / "sales.parquet")

    def put(s3):
        for bucket in ("shop", "paid"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
            s3.put_object(Bucket=bucket, Key="sales/1.parquet", Body=(folder / "sales.parquet").read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        without_aws(patch, folder)
        yield Account.create(server.endpoint, put)
    emulators.stop(server)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and an environment without AWS variables."""
    without_aws(monkeypatch, tmp_path)
    (tmp_path / ".aws").mkdir()
    return tmp_path


@pytest.fixture
def front(account, home, monkeypatch):
    """The account's S3 and STS; every client of STS reaches it."""
    with Front(account.moto, account.sts, Issuer()) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
        yield front


@pytest.fixture(scope="module")
def issued(account):
    """Credentials of role reader."""
    return account.issue()


@pytest.fixture
def machine(issued):
    """What machines offer: services that give credentials of role reader, by name."""
    with machine_of(issued) as services:
        yield services


@pytest.fixture
def declare(home):
    """A function that writes a catalog with one S3 connection, `lake`, and returns its file."""

    def write(auth, *, bucket="shop", **connection):
        auth = auth if isinstance(auth, dict) else {"method": auth}
        lake = {"cloud": "s3", "region": "eu-west-1", "insecure": True, "auth": auth, **connection}
        sales = {"name": "shop.sales", "location": f"s3://{bucket}/sales/*.parquet", "connection": "lake"}
        path = home / "catalog.yaml"
        path.write_text(
            yaml.safe_dump(
                {"meshql": 1, "connections": {"lake": lake}, "products": [sales | {"format": "parquet"}]}
            )
        )
        return path

    return write


@pytest.fixture
def lake(declare):
    """A function that returns connection `lake` with this auth."""
    return lambda auth, **connection: load(declare(auth, **connection)).connections["lake"]


@pytest.fixture
def found(lake):
    """A function that returns the credentials of an auth."""
    return lambda auth, **connection: Broker().credentials(lake(auth, **connection))


def read(path):
    with meshql.connect(path) as mesh:
        return mesh.sql(COUNT).fetchall()[0]


# --- every method: where its keys come from, and data read with them ------------------------------


TEMPORARY = [
    profile_of_process,
    profile_of_role,
    profile_of_sso,
    default_of_profile,
    default_of_instance,
    process,
    instance_role,
    container_role,
    pod_identity,
    web_identity,
    web_identity_of_environment,
    role,
    role_with_external_id,
    role_of_default,
    chain,
]
LASTING = [keys, profile_of_keys, default_of_environment]


@pytest.fixture
def world(account, front, machine, home, monkeypatch):
    return World(account=account, front=front, machine=machine, home=home, monkeypatch=monkeypatch)


@pytest.mark.parametrize("method", TEMPORARY + LASTING, ids=lambda m: m.__name__)
def test_a_method_reads_data_in_every_reader(method, world, declare, found):
    auth = method(world)
    assert read(declare(auth, endpoint=world.front.endpoint, url_style="path")) == SUM
    reads = world.front.reads
    readers = {asked.headers.get("user-agent", "").partition("/")[0] for asked in reads}
    assert {"object_store", "duckdb"} <= readers
    assert len({asked.key_id for asked in reads}) == 1
    if method in LASTING:
        assert reads[0].key_id == world.account.key_id
    else:
        assert all("x-amz-security-token" in asked.headers for asked in reads)
        assert reads[0].key_id != world.account.key_id
        left = found(auth).expires_at - datetime.now(UTC)
        assert timedelta(minutes=14) < left <= timedelta(hours=8)


def test_a_role_lives_as_long_as_is_asked_for(world, found):
    left = found(role(world, duration=900)).expires_at - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)


def test_keys_have_no_end(world, found):
    assert [found(method(world)).expires_at for method in LASTING] == [None, None, None]


def test_a_chain_assumes_the_second_role_with_the_keys_of_the_first(world, found):
    given = found(chain(world))
    (first_call, first), (second_call, second) = world.front.calls
    assert (first_call, second_call) == ("AssumeRole", "AssumeRole")
    assert (first.form["RoleArn"], second.form["RoleArn"]) == (arn("first"), arn("reader"))
    assert first.key_id == world.account.key_id
    assert "x-amz-security-token" in second.signed
    assert len({first.key_id, second.key_id, given.key_id}) == 3


def test_what_a_role_is_asked_for_with(world, found):
    found(role(world, "partner", external_id="tenant-42", session_name="nightly", duration=1800))
    (_, asked), *_ = world.front.calls
    told = {name: asked.form[name] for name in ("ExternalId", "RoleSessionName", "DurationSeconds")}
    assert told == {"ExternalId": "tenant-42", "RoleSessionName": "nightly", "DurationSeconds": "1800"}
    assert asked.scope[1] == "eu-west-1"


def test_a_web_identity_call_is_not_signed_and_looks_for_no_other_identity(world, found):
    instance_role(world)
    found(web_identity(world))
    [(action, asked)] = world.front.calls
    assert action == "AssumeRoleWithWebIdentity"
    assert "authorization" not in asked.headers
    assert not world.machine["imds"].asked


def test_an_instance_is_asked_with_version_2_only(world, found):
    found(instance_role(world))
    put, *gets = world.machine["imds"].asked
    assert put.method == "PUT"
    assert [asked.headers["x-aws-ec2-metadata-token"] for asked in gets] == [InstanceMetadata.TOKEN] * 2


def test_profiles_are_read_anew_each_time(world, lake):
    connection = lake(profile_of_keys(world))
    declared = Declared(connection, os.environ)
    assert aws.credentials(connection.auth, declared).key_id == world.account.key_id
    config(world.home, "[plain]\naws_access_key_id=AKIANEW\naws_secret_access_key=new", "credentials")
    assert aws.credentials(connection.auth, declared).key_id == "AKIANEW"


def test_a_mapping_stands_for_the_environment(world, lake):
    auth = web_identity(world)
    environ = {"AWS_ROLE_ARN": auth["role_arn"], "AWS_WEB_IDENTITY_TOKEN_FILE": auth["token_file"]}
    assert Broker(environ).credentials(lake("web_identity")).session_token
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": world.machine["container"].endpoint + "/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-secret",
    }
    assert Broker(environ).credentials(lake("container_role")).session_token
    environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": world.machine["imds"].endpoint}
    assert Broker(environ).credentials(lake("instance_role")).session_token


def test_a_role_that_may_not_read_is_refused_by_the_store(world, declare):
    path = declare(role(world, "powerless"), endpoint=world.front.endpoint, url_style="path")
    with pytest.raises(CredentialsError, match=r"shop\.sales: the store refused these credentials"):
        read(path)


RELATIVE = """
import os, sys
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
sys.path.insert(0, "tests")
from clouds import aws_services
from meshql.catalog.load import load
from meshql.identity.broker import Broker

class Here(ThreadingHTTPServer):
    def __init__(self, address, handler):
        super().__init__(("169.254.170.2", 80), handler)

aws_services.ThreadingHTTPServer = Here
ends = datetime.now(UTC) + timedelta(hours=1)
issued = {"AccessKeyId": "ASIARELATIVE", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": ends}
with aws_services.ContainerCredentials(None, issued) as service:
    given = Broker().credentials(load(sys.argv[1]).connections["lake"])
    print(given.key_id, service.asked[0].path)
"""


def test_a_task_of_ecs_asks_the_address_that_amazon_gave_it(home, declare):
    """In a network of its own, where the address of the tasks' endpoint is this machine's."""
    if sys.platform != "linux" or not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare and ip")
    asking = [sys.executable, "-c", RELATIVE, str(declare("container_role"))]
    network = "ip link set lo up && ip address add 169.254.170.2/32 dev lo"
    ran = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{network} || exit 77; exec "$@"', "sh", *asking],
        env={**os.environ, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v1/credentials"},
        capture_output=True,
        text=True,
    )
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip(f"no network of its own: {ran.stderr}")
    assert ran.stdout.split() == ["ASIARELATIVE", "/v1/credentials"], ran.stderr


def test_a_command_reads_with_an_sso_login(world, declare):
    path = declare(profile_of_sso(world), endpoint=world.front.endpoint, url_style="path")
    command = [
        sys.executable,
        "-m",
        "meshql",
        "--catalog",
        str(path),
        "query",
        "--format",
        "csv",
        "-c",
        COUNT,
    ]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout.splitlines()[1:] == [f"{SUM[0]},{SUM[1]}"], ran.stderr
    assert {asked.key_id for asked in world.front.reads} == {world.machine["sso"].credentials["AccessKeyId"]}
    shutil.rmtree(world.home / ".aws" / "sso")
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 3
    assert "hint: aws sso login --profile sso" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- what is said when there are none -------------------------------------------------------------


def refusal(found, auth, kind=CredentialsError, **connection):
    with pytest.raises(kind) as caught:
        found(auth, **connection)
    assert caught.value.message.startswith("connection lake: ")
    return caught.value


def test_a_profile_that_is_not_there_has_a_near_one(home, found):
    config(home, "[profile production]\nregion=eu-west-1\n[profile dev]\n")
    error = refusal(found, {"method": "profile", "profile": "prodution"})
    assert "there is no profile prodution in" in error.message
    assert error.hint == "did you mean production?"
    error = refusal(found, {"method": "profile", "profile": "qqq"})
    assert error.hint == "profiles there: dev, production"


def test_a_profile_without_credentials_is_not_the_machine(world, found):
    instance_role(world)
    container_role(world)
    config(world.home, "[profile empty]\nregion=eu-west-1\n")
    error = refusal(found, {"method": "profile", "profile": "empty"})
    assert error.message == "connection lake: profile empty holds no credentials"
    assert not world.machine["imds"].asked
    assert not world.machine["container"].asked


def test_the_default_chain_says_what_it_tried(home, found):
    error = refusal(found, "default")
    for tried in ("AWS_ACCESS_KEY_ID", "profile default of ~/.aws/credentials and ~/.aws/config", "instance"):
        assert tried in error.message
    assert "aws configure" in error.hint


def test_an_sso_login_that_ended(world, found):
    sso_login(world.home, world.machine["sso"], world.monkeypatch, ends=timedelta(hours=-1))
    error = refusal(found, {"method": "profile", "profile": "sso"})
    assert error.message == "connection lake: cannot use profile sso: there is no valid SSO login"
    assert error.hint == "aws sso login --profile sso"


def test_an_sso_login_that_the_portal_forgot(world, found):
    sso_login(world.home, world.machine["sso"], world.monkeypatch)
    world.machine["sso"].token = "another"
    error = refusal(found, {"method": "profile", "profile": "sso"})
    assert error.hint == "aws sso login --profile sso"


def test_nobody_logged_in_to_sso(world, found):
    sso_login(world.home, world.machine["sso"], world.monkeypatch)
    shutil.rmtree(world.home / ".aws" / "sso")
    error = refusal(found, {"method": "profile", "profile": "sso"})
    assert error.hint == "aws sso login --profile sso"


def test_an_sso_role_that_is_not_ours(world, found):
    sso_login(world.home, world.machine["sso"], world.monkeypatch)
    world.machine["sso"].role = "administrator"
    assert "sso_role_name" in refusal(found, {"method": "profile", "profile": "sso"}).hint


def test_a_role_of_a_profile_that_wants_a_code(home, found):
    config(
        home,
        "[profile mfa]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=base\nmfa_serial=arn:aws:iam::1:mfa/me\n[profile base]\naws_access_key_id=a\naws_secret_access_key=b\n",
    )
    error = refusal(found, {"method": "profile", "profile": "mfa"})
    assert "profile mfa asks for an MFA code" in error.message
    assert "aws configure export-credentials --profile mfa" in error.hint


def test_keys_of_the_environment_come_before_a_profile_that_wants_a_code(world, found):
    config(
        world.home,
        "[profile mfa]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=base\nmfa_serial=arn:x\n[profile base]\naws_access_key_id=a\naws_secret_access_key=b\n",
    )
    world.monkeypatch.setenv("AWS_PROFILE", "mfa")
    assert "profile mfa asks for an MFA code" in refusal(found, "default").message
    assert found(default_of_environment(world)).key_id == world.account.key_id


def test_profiles_that_are_broken(home, found):
    config(
        home,
        "[profile half]\naws_access_key_id=AKIAHALF\n[profile loop]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=other\n[profile other]\nrole_arn=arn:aws:iam::1:role/s\nsource_profile=loop\n",
    )
    assert (
        "missing: aws_secret_access_key" in refusal(found, {"method": "profile", "profile": "half"}).message
    )
    assert "Infinite loop" in refusal(found, {"method": "profile", "profile": "loop"}).message
    config(home, "[profile broken\n")
    assert "Unable to parse config file" in refusal(found, {"method": "profile", "profile": "x"}).message


def test_a_role_whose_trust_policy_asks_for_an_external_id(world, found):
    error = refusal(found, role(world, "partner"))
    assert f"cannot assume role {arn('partner')} as {world.account.key_id[:4]}…" in error.message
    assert "user/analyst is not allowed to (AccessDenied)" in error.message
    assert "trust policy lets arn:aws:iam::123456789012:user/analyst call sts:AssumeRole" in error.hint
    assert "set auth.external_id" in error.hint
    error = refusal(found, role(world, "partner", external_id="another"))
    assert "its sts:ExternalId is the connection's external_id" in error.hint
    assert "another" not in str(error)


def test_keys_that_aws_does_not_know(world, found):
    source = {"method": "keys", "key_id": "AKIAUNKNOWN000000", "secret": "s3cr3t-canary"}
    error = refusal(found, role(world, source=source))
    assert "AWS does not know the access key (InvalidClientTokenId)" in error.message
    source = {"method": "keys", "key_id": world.account.key_id, "secret": "s3cr3t-canary"}
    error = refusal(found, role(world, source=source))
    assert "the secret does not belong to the access key" in error.message
    assert "canary" not in str(error)


def test_a_web_identity_token_that_is_not_good(world, found):
    auth, file = web_identity(world), world.home / "oidc"
    file.write_text(world.front.issuer.token(lives=-60))
    error = refusal(found, auth)
    assert "expired (ExpiredTokenException)" in error.message
    assert file.read_text() not in str(error)
    file.write_text(world.front.issuer.token(audience="vault"))
    error = refusal(found, auth)
    assert "AWS does not accept the token (InvalidIdentityToken)" in error.message
    assert file.read_text() not in str(error)
    file.write_text("")
    assert "is empty" in refusal(found, auth).message
    file.unlink()
    assert f"cannot read the web identity token at {file}: No such file" in refusal(found, auth).message


def test_a_web_identity_needs_a_role_and_a_token(home, found):
    assert refusal(found, "web_identity").hint == "export AWS_ROLE_ARN=..."


PROGRAMS = {
    "fails": ("import sys; print('canary'); print('canary', file=sys.stderr); sys.exit(3)", "exit code 3"),
    "prose": ("print('my canary')", "no JSON object"),
    "version": ('print(\'{"Version": 2, "SecretAccessKey": "canary"}\')', "Version is not 1"),
    "half": ('print(\'{"Version": 1, "SecretAccessKey": "canary"}\')', "no AccessKeyId"),
    "time": (
        'print(\'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "canary", "Expiration": "soon"}\')',
        "no ISO 8601 time",
    ),
    "ended": (
        'print(\'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "canary", "Expiration": "2020-01-01T00:00:00Z"}\')',
        "ended at 2020-01-01 00:00:00 UTC",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_gives_none(name, home, found):
    text, said = PROGRAMS[name]
    (home / "tool.py").write_text(text)
    command = f"{sys.executable} {home / 'tool.py'} --token canary"
    error = refusal(found, {"method": "process", "command": command})
    assert said in error.message
    assert "canary" not in str(error)
    config(home, f"[profile tool]\ncredential_process = {command}\n")
    assert "canary" not in str(refusal(found, {"method": "profile", "profile": "tool"}))


def test_a_program_that_is_not_there(home, found):
    error = refusal(found, {"method": "process", "command": "no-such-tool --token canary"})
    assert "cannot run program no-such-tool: No such file" in error.message
    assert "check its quotes" in refusal(found, {"method": "process", "command": "'tool"}).hint
    config(home, "[profile tool]\ncredential_process = no-such-tool --token canary\n")
    error = refusal(found, {"method": "profile", "profile": "tool"})
    assert "cannot use profile tool: No such file or directory: no-such-tool" in error.message
    assert "canary" not in str(error)


def test_an_instance_without_a_role(world, found):
    auth = instance_role(world)
    world.machine["imds"].role = ""
    error = refusal(found, auth)
    assert f"the metadata service at {world.machine['imds'].endpoint} gave no credentials" in error.message
    assert "associate-iam-instance-profile" in error.hint


def test_an_instance_that_gives_no_token_is_not_asked_with_version_1(world, found):
    auth = instance_role(world)
    world.machine["imds"].gives_tokens = False
    assert "hop-limit 2" in refusal(found, auth).hint
    assert {asked.method for asked in world.machine["imds"].asked} == {"PUT"}


def test_no_instance(home, found, monkeypatch):
    assert refusal(found, "instance_role").hint == "unset AWS_EC2_METADATA_DISABLED"
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    # Of a network that is for documentation: packets get no answer.
    for nowhere in (closed(), "http://192.0.2.1"):
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", nowhere)
        begun = time.monotonic()
        error = refusal(found, "instance_role", UnreachableError)
        assert time.monotonic() - begun < 3
        assert f"no instance metadata service answers at {nowhere}" in error.message


def test_no_container(world, found):
    assert "this is no ECS task or EKS pod" in refusal(found, "container_role").message
    auth = container_role(world)
    world.monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "canary")
    error = refusal(found, auth)
    assert "HTTP 403" in error.message
    assert "canary" not in str(error)
    world.monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(world.home / "none"))
    assert f"No such file or directory: {world.home / 'none'}" in refusal(found, auth).message
    world.monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    world.monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", closed() + "/v1/credentials")
    assert "does not answer" in refusal(found, auth, UnreachableError).message
    world.monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/")
    assert "malformed" in refusal(found, auth).message


def closed():
    """Return a URL of this machine at which nobody listens."""
    return f"http://127.0.0.1:{emulators._free_port()}"


def test_sts_that_does_not_answer(world, found):
    nowhere = closed()
    world.monkeypatch.setenv("AWS_ENDPOINT_URL_STS", nowhere)
    error = refusal(found, role(world), UnreachableError)
    assert f"nobody answers at {nowhere}" in error.message
    assert "AWS_ENDPOINT_URL_STS" in error.hint


def test_a_proxy_that_does_not_answer(world, found):
    nowhere = closed()
    world.monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    world.monkeypatch.setenv("HTTPS_PROXY", nowhere.replace("//", "//me:canary@"))
    error = refusal(found, role(world), UnreachableError)
    assert f"the proxy does not answer at {nowhere}" in error.message
    assert "canary" not in str(error)


def test_sts_is_asked_through_the_proxy(world, found):
    world.monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://sts.test")
    world.monkeypatch.setenv("HTTP_PROXY", world.front.endpoint)
    assert found(role(world)).session_token
    assert [asked.host for _, asked in world.front.calls] == ["sts.test"]


# --- who, and signatures --------------------------------------------------------------------------


def test_who_a_connection_is(world, lake):
    connection = lake(role(world, session_name="nightly"))
    given = Broker().credentials(connection)
    assert aws.identify(connection, given) == "arn:aws:sts::123456789012:assumed-role/reader/nightly"


def test_a_store_elsewhere_is_not_asked_who(world, lake):
    connection = lake(keys(world), endpoint="https://minio.example.com:9000")
    key_id = world.account.key_id
    assert (
        aws.identify(connection, Broker().credentials(connection)) == f"access key {key_id[:4]}…{key_id[-4:]}"
    )
    assert not world.front.asked


def test_an_endpoint_of_aws_is_asked_who(world, lake):
    connection = lake(keys(world), endpoint="https://s3.dualstack.eu-west-1.amazonaws.com")
    assert aws.identify(connection, Broker().credentials(connection)).endswith(":user/analyst")


def test_nobody_knows_who(world, lake):
    connection = lake({"method": "keys", "key_id": "AKIAUNKNOWN000000", "secret": "canary"})
    with pytest.raises(
        CredentialsError, match="cannot ask STS who AKIA…0000 is: AWS does not know"
    ) as caught:
        aws.identify(connection, Broker().credentials(connection))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("method", [keys, role], ids=lambda m: m.__name__)
def test_a_request_that_was_signed_is_accepted(method, world, found):
    given = found(method(world))
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    signed = aws.sign("POST", world.front.endpoint + "/", headers, body, given, "eu-west-1", "sts")
    assert post(world.front.endpoint, signed, body)[0] == 200
    status, said = post(world.front.endpoint, signed, body + b"&More=1")
    assert (status, "SignatureDoesNotMatch" in said) == (403, True)


def post(endpoint, headers, body):
    connection = HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    connection.request("POST", "/", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


# --- S3 itself ------------------------------------------------------------------------------------


def test_both_readers_pay_for_what_they_ask(world, declare):
    world.front.requester_pays = {"paid"}
    given = {"bucket": "paid", "endpoint": world.front.endpoint, "url_style": "path"}
    with pytest.raises(CredentialsError):
        read(declare(keys(world), **given))
    world.front.asked.clear()
    assert read(declare(keys(world), requester_pays=True, **given)) == SUM
    readers = {asked.headers["user-agent"].partition("/")[0] for asked in world.front.reads}
    assert readers == {"object_store", "duckdb"}


def test_a_bucket_of_another_region(world, declare):
    path = declare(keys(world), endpoint=world.front.endpoint, url_style="path", region="us-east-2")
    with pytest.raises(LocationError, match="the bucket lies in another region") as caught:
        read(path)
    assert caught.value.hint == "set the connection's `region: eu-west-1`"


def test_a_bucket_in_the_path_and_in_the_hosts_name(world, declare, monkeypatch):
    endpoint = world.front.endpoint
    assert read(declare(keys(world), endpoint=endpoint, url_style="path")) == SUM
    assert {asked.host for asked in world.front.reads} == {urlsplit(endpoint).netloc}
    assert {asked.path.split("/")[1] for asked in world.front.reads} == {"shop"}
    world.front.asked.clear()
    # A proxy stands for the name servers that know the store's buckets.
    script = "import sys, meshql; print(meshql.connect(sys.argv[1]).sql(sys.argv[2]).fetchall())"
    path = declare(keys(world), endpoint="http://s3.test", url_style="vhost")
    ran = subprocess.run(
        [sys.executable, "-c", script, path, COUNT],
        env={**os.environ, "http_proxy": endpoint, "HTTP_PROXY": endpoint},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == str([SUM]), ran.stderr
    assert {asked.host for asked in world.front.reads} == {"shop.s3.test"}
    assert {asked.path for asked in world.front.reads} == {"/", "/sales/1.parquet"}


# --- what is imported -----------------------------------------------------------------------------

IMPORTED = """
import sys
from meshql.catalog.load import load
from meshql.identity.broker import Broker
Broker().credentials(load(sys.argv[1]).connections["lake"])
print([name for name in ("boto3", "botocore") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("auth", "imported"),
    [
        ("anonymous", []),
        ("env", []),
        ({"method": "keys", "key_id": "a", "secret": "b"}, []),
        ("default", ["botocore"]),
    ],
    ids=str,
)
def test_botocore_is_imported_for_its_own_methods_only(auth, imported, home, declare):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED, str(declare(auth))],
        env={**os.environ, **keys},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == str(imported), ran.stderr
