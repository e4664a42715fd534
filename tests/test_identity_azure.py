from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from clouds.entra import TENANT, Entra
from clouds.tls import Front, entra_host
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from pydantic import SecretStr, TypeAdapter

from meshql.catalog.connections import AzureConnection
from meshql.catalog.load import load
from meshql.errors import CredentialsError, UnreachableError
from meshql.identity.azure import identify
from meshql.identity.broker import Broker
from meshql.identity.credentials import AccountKey, BearerToken

APP = "33333333-bbbb-4bbb-8bbb-333333333333"
SECRET = "CANARY-client~secret"

# Whatever of the machine's own environment would lead to another identity.
OTHERS = (
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_TOKEN_CREDENTIALS",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)


@pytest.fixture(scope="module")
def entra():
    entra = Entra()
    yield entra
    entra.close()


@pytest.fixture(scope="module")
def front(entra, tmp_path_factory):
    front = Front(tmp_path_factory.mktemp("front"))
    front.route("login.microsoftonline.com", entra_host(entra))
    front.route("login.private.example", entra_host(entra))
    yield front
    front.close()


@pytest.fixture
def through(front, monkeypatch):
    """This process, with nothing of Azure in its environment, going through the front."""
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in front.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def connection(**auth):
    block = {"cloud": "azure", "account": "contoso", "auth": auth}
    return TypeAdapter(AzureConnection).validate_python(block).model_copy(update={"name": "lake"})


def token(**auth):
    """What the broker finds, with the environment of this process."""
    return Broker().credentials(connection(**auth))


def refusal(kind=CredentialsError, **auth):
    """Message and hint of the error for a connection with `auth`, which hold no secret."""
    with pytest.raises(kind) as caught:
        token(**auth)
    said = f"{caught.value!r} {caught.value}"
    assert "CANARY" not in said
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def accepted(entra, found):
    """The claims of a token that the stub gave, which ends when it says."""
    assert isinstance(found, BearerToken)
    claims = entra.checked(found.token.get_secret_value())
    ends = datetime.fromtimestamp(claims["exp"], UTC)
    assert abs((found.expires_at - ends).total_seconds()) <= 3
    assert found.expires_at.tzinfo is not None
    return claims


def principal(**more):
    return {"method": "service_principal", "tenant_id": TENANT, "client_id": APP, **more}


# --- service principal ----------------------------------------------------------------------------


def test_service_principal_with_aSecretStr(entra, through):
    entra.application(APP, secrets={SECRET})
    assert accepted(entra, token(**principal(client_secret=SECRET)))["appid"] == APP


def test_a_reference_to_nothing(through):
    message, hint = refusal(**principal(client_secret="${LAKE_SECRET_GONE}"))
    assert message == (
        "connection lake: auth.client_secret needs environment variable LAKE_SECRET_GONE, which is not set"
    )
    assert hint == "export LAKE_SECRET_GONE=..."


def test_errors_of_entra_id_are_reworded(entra, through):
    entra.application(APP, secrets={SECRET}, expired_secrets={"CANARY-old"})
    assert refusal(**principal(client_secret="CANARY-wrong")) == (
        f"connection lake: Entra ID refused the client secret of application {APP} (AADSTS7000215)",
        f"give the secret's value, not its id; a new one: az ad app credential reset --id {APP}",
    )
    assert refusal(**principal(client_secret="CANARY-old")) == (
        f"connection lake: the client secret of application {APP} has expired (AADSTS7000222)",
        f"make a new one: az ad app credential reset --id {APP}",
    )
    unknown = principal(client_secret=SECRET) | {"client_id": "44444444-bbbb-4bbb-8bbb-444444444444"}
    message, hint = refusal(**unknown)
    assert message == (
        "connection lake: Entra ID knows no application 44444444-bbbb-4bbb-8bbb-444444444444 "
        f"in tenant {TENANT} (AADSTS700016)"
    )
    assert hint.startswith("check client_id and tenant_id")
    message, _ = refusal(**principal(client_secret=SECRET) | {"tenant_id": "nowhere.example.com"})
    assert message == "connection lake: Entra ID knows no tenant nowhere.example.com (AADSTS90002)"


def test_a_certificate_lies_beside_the_catalog(tmp_path):
    (tmp_path / "mesh.yaml").write_text(
        "meshql: 1\nconnections:\n  lake: {cloud: azure, account: a, auth: {method: service_principal,"
        " tenant_id: t, client_id: c, certificate_file: keys/c.pem}}\n"
    )
    with pytest.raises(CredentialsError) as raised:
        Broker({}).credentials(load(tmp_path).connections["lake"])
    assert f"{tmp_path / 'keys' / 'c.pem'} cannot be read" in raised.value.message


def test_an_account_key_that_is_none(tmp_path):
    (tmp_path / "mesh.yaml").write_text(
        "meshql: 1\nconnections:\n  lake: {cloud: azure, account: acme, auth: {method: account_key,"
        " key: '${KEY}'}}\n"
    )
    with pytest.raises(CredentialsError) as raised:
        Broker({}).credentials(load(tmp_path, environ={"KEY": "CANARY!"}).connections["lake"])
    assert "auth.key is no account key, which is base64" in raised.value.message
    assert raised.value.hint == "az storage account keys list --account-name acme"
    assert "CANARY" not in str(raised.value)


def test_a_service_principal_with_neither(through):
    message, hint = refusal(**principal())
    assert message == "connection lake: a service principal needs its secret or its certificate"
    assert "certificate_file" in hint


def test_names_that_cannot_be_right(through):
    message, _ = refusal(**principal(client_secret=SECRET) | {"tenant_id": "no tenant/at all"})
    assert message == "connection lake: tenant_id or client_id cannot be right"


def certificate():
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lake reader")])
    now = int(time.time())
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - 60, UTC))
        .not_valid_after(datetime.fromtimestamp(now + 3600, UTC))
        .sign(key, hashes.SHA256())
    )
    return key, built


def pem(key, built, password):
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    return key.private_bytes(pem, form, how) + built.public_bytes(pem)


def test_service_principal_with_a_certificate(entra, through, tmp_path):
    key, built = certificate()
    entra.application(APP, certificates=[built])
    plain, locked, packed = tmp_path / "plain.pem", tmp_path / "locked.pem", tmp_path / "packed.pfx"
    plain.write_bytes(pem(key, built, None))
    locked.write_bytes(pem(key, built, b"CANARY-pass"))
    sealed = serialization.BestAvailableEncryption(b"CANARY-pass")
    packed.write_bytes(pkcs12.serialize_key_and_certificates(b"lake", key, built, None, sealed))
    assert accepted(entra, token(**principal(certificate_file=str(plain))))["appid"] == APP
    for file in (locked, packed):
        found = token(**principal(certificate_file=str(file), certificate_password="CANARY-pass"))
        assert accepted(entra, found)["appid"] == APP
        for password in ({}, {"certificate_password": "CANARY-other"}):
            message, hint = refusal(**principal(certificate_file=str(file), **password))
            assert message == f"connection lake: the certificate {file} cannot be read with this password"
            assert "certificate_password" in hint


def test_certificates_that_do_not_do(entra, through, tmp_path):
    _, registered = certificate()
    entra.application(APP, certificates=[registered])
    key, other = certificate()
    (tmp_path / "other.pem").write_bytes(pem(key, other, None))
    message, _ = refusal(**principal(certificate_file=str(tmp_path / "other.pem")))
    assert message == (
        f"connection lake: Entra ID does not accept the certificate of application {APP} (AADSTS700027)"
    )
    # The registered certificate, with somebody else's key: its thumbprint alone is no proof.
    forged = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + registered.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "forged.pem").write_bytes(forged)
    assert refusal(**principal(certificate_file=str(tmp_path / "forged.pem")))[0] == message
    gone = tmp_path / "gone.pem"
    message, _ = refusal(**principal(certificate_file=str(gone)))
    assert message == f"connection lake: {gone} cannot be read: No such file or directory"


# --- machines -------------------------------------------------------------------------------------


def test_managed_identity_of_a_machine(entra, through):
    # HTTP_PROXY leads to the front, which knows no such host: the metadata service is asked directly.
    through.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.url)
    through.setenv("NO_PROXY", "")
    found = token(method="managed_identity")
    assert accepted(entra, found)["appid"] == entra.identities[None]
    told = identify(connection(method="managed_identity"), found)
    assert told == f"application {entra.identities[None]} of vm7 in tenant {TENANT}"


def test_managed_identity_assigned_by_a_user(entra, through):
    through.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.url)
    entra.identities[APP] = APP
    assert accepted(entra, token(method="managed_identity", client_id=APP))["appid"] == APP
    other = "55555555-bbbb-4bbb-8bbb-555555555555"
    message, hint = refusal(method="managed_identity", client_id=other)
    assert message == f"connection lake: this machine has no managed identity {other}"
    assert hint == "check client_id, and that the identity is assigned to the machine"


def test_managed_identity_of_app_service(entra, through):
    through.setenv("IDENTITY_ENDPOINT", f"{entra.url}/msi/token")
    through.setenv("IDENTITY_HEADER", entra.identity_header)
    assert accepted(entra, token(method="managed_identity"))["appid"] == entra.identities[None]
    entra.identities[APP] = APP
    assert accepted(entra, token(method="managed_identity", client_id=APP))["appid"] == APP
    through.setenv("IDENTITY_HEADER", "CANARY-wrong")
    message, _ = refusal(method="managed_identity")
    assert message == "connection lake: this machine has no managed identity"


def test_no_machine_with_an_identity(through):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        through.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://user:CANARY@{host}")
        began = time.monotonic()
        message, hint = refusal(UnreachableError, method="managed_identity")
    assert message == f"connection lake: no managed identity service answers at {host}"
    assert "method: cli" in hint
    assert time.monotonic() - began < 8


def test_workload_identity(entra, through, tmp_path):
    entra.application(APP, subjects={"system:serviceaccount:lake:reader"})
    file = tmp_path / "token"
    file.write_text(entra.cluster_token("system:serviceaccount:lake:reader"))
    given = {"tenant_id": TENANT, "client_id": APP, "token_file": str(file)}
    assert accepted(entra, token(method="workload_identity", **given))["appid"] == APP
    through.setenv("AZURE_TENANT_ID", TENANT)
    through.setenv("AZURE_CLIENT_ID", APP)
    through.setenv("AZURE_FEDERATED_TOKEN_FILE", str(file))
    assert accepted(entra, token(method="workload_identity"))["appid"] == APP


def test_workload_identity_without_what_it_needs(entra, through, tmp_path):
    entra.application(APP, subjects={"system:serviceaccount:lake:reader"})
    given = {"method": "workload_identity", "tenant_id": TENANT, "client_id": APP}
    assert refusal(**given) == (
        "connection lake: auth method workload_identity without token_file needs environment variable "
        "AZURE_FEDERATED_TOKEN_FILE, which is not set",
        "export AZURE_FEDERATED_TOKEN_FILE=...",
    )
    file = tmp_path / "token"
    message, _ = refusal(**given, token_file=str(file))
    assert message == f"connection lake: the token file {file} cannot be read: No such file or directory"
    file.write_text(entra.cluster_token("system:serviceaccount:lake:intruder"))
    message, hint = refusal(**given, token_file=str(file))
    assert message == (
        f"connection lake: application {APP} trusts no such token: issuer, subject or audience differ "
        "(AADSTS700213)"
    )
    assert hint == f"compare them: az ad app federated-credential list --id {APP}"
    file.write_text(entra.cluster_token("system:serviceaccount:lake:reader", life=-10))
    assert refusal(**given, token_file=str(file))[0].endswith("(AADSTS700024)")


# --- people ---------------------------------------------------------------------------------------


def test_cli(entra, through, tmp_path):
    through.setenv("PATH", str(entra.install_az(tmp_path / "bin")))
    found = token(method="cli", tenant_id=TENANT)
    assert accepted(entra, found)["upn"] == "ana@contoso.com"
    assert identify(connection(method="cli"), found) == f"ana@contoso.com in tenant {TENANT}"
    assert entra.requests[-1][2] == {"tenant": TENANT}


def test_nobody_logged_in(entra, through, tmp_path):
    through.setenv("PATH", str(entra.install_az(tmp_path / "bin")))
    through.setattr(entra, "logged_in", False)
    assert refusal(method="cli") == ("connection lake: nobody is logged in to the Azure CLI", "az login")
    assert refusal(method="cli", tenant_id=TENANT)[1] == f"az login --tenant {TENANT}"
    through.setenv("PATH", str(tmp_path))
    message, hint = refusal(method="cli")
    assert (message, hint) == ("connection lake: there is no Azure CLI on PATH", "install it, then: az login")


def test_an_az_that_breaks(through, tmp_path):
    program = tmp_path / "az"
    program.write_text('#!/bin/sh\necho "accessToken: CANARY"; echo boom CANARY >&2; exit 3\n')
    program.chmod(0o755)
    through.setenv("PATH", str(tmp_path))
    message, hint = refusal(method="cli")
    assert message == "connection lake: the Azure CLI gives no token"
    assert hint.endswith("az account get-access-token --scope https://storage.azure.com/.default")


# --- default --------------------------------------------------------------------------------------


def test_default_takes_the_environment(entra, through, tmp_path):
    entra.application(APP, secrets={SECRET})
    through.setenv("AZURE_TENANT_ID", TENANT)
    through.setenv("AZURE_CLIENT_ID", APP)
    through.setenv("AZURE_CLIENT_SECRET", SECRET)
    assert accepted(entra, token(method="default"))["appid"] == APP
    through.setenv("AZURE_CLIENT_SECRET", "CANARY-wrong")
    message, _ = refusal(method="default")
    assert (
        message == f"connection lake: Entra ID refused the client secret of application {APP} (AADSTS7000215)"
    )


def test_default_takes_the_machine_and_then_the_cli(entra, through, tmp_path):
    through.setenv("PATH", str(entra.install_az(tmp_path / "bin")))
    through.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.url)
    assert accepted(entra, token(method="default"))["appid"] == entra.identities[None]
    through.delenv("AZURE_POD_IDENTITY_AUTHORITY_HOST")
    # What stands for a machine that is none: an IMDS at a port where nobody listens.
    through.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    assert accepted(entra, token(method="default"))["upn"] == "ana@contoso.com"


def test_default_finds_nobody(through, tmp_path, caplog, capfd):
    through.setenv("PATH", str(tmp_path))
    through.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    with caplog.at_level(logging.DEBUG):
        message, hint = refusal(method="default")
    assert message == (
        "connection lake: no Azure identity was found in the environment, on this machine or in the Azure CLI"
    )
    assert hint == "az login"
    assert [r.name for r in caplog.records if r.name.startswith(("azure", "msal"))] == []
    assert capfd.readouterr().err == ""


# --- authorities ----------------------------------------------------------------------------------


def test_another_authority(entra, front, through):
    entra.application(APP, secrets={SECRET})
    through.setenv("AZURE_AUTHORITY_HOST", "https://login.private.example")
    before = len(front.seen)
    assert accepted(entra, token(**principal(client_secret=SECRET)))["appid"] == APP
    # Nobody asks the public cloud whether it knows the private one.
    assert {seen.host for seen in front.seen[before:]} == {"login.private.example"}


def test_authorities_that_do_not_do(through):
    through.setenv("AZURE_AUTHORITY_HOST", "http://user:CANARY@login.private.example")
    message, hint = refusal(**principal(client_secret=SECRET))
    assert message == "connection lake: $AZURE_AUTHORITY_HOST is not an https URL: login.private.example"
    assert hint == "export AZURE_AUTHORITY_HOST=https://login.microsoftonline.com"


def test_an_authority_that_is_not_trusted(through, tmp_path):
    through.delenv("SSL_CERT_FILE")
    message, hint = refusal(UnreachableError, **principal(client_secret=SECRET))
    assert message == ("connection lake: login.microsoftonline.com shows a certificate that is not trusted")
    assert hint.startswith("export SSL_CERT_FILE=")


def test_an_authority_that_does_not_answer(through):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        through.setenv("AZURE_AUTHORITY_HOST", f"https://127.0.0.1:{closed.getsockname()[1]}")
        message, hint = refusal(UnreachableError, **principal(client_secret=SECRET))
        assert message == f"connection lake: 127.0.0.1:{closed.getsockname()[1]} does not answer"
    assert "HTTPS_PROXY" in hint


# --- who it is ------------------------------------------------------------------------------------


def test_identify(entra):
    declared = connection(method="managed_identity")
    user = BearerToken(SecretStr(entra.issue(upn="ana@contoso.com", appid="az")))
    assert identify(declared, BearerToken(token=SecretStr("no.jwt.at-all"))) is None
    assert identify(declared, BearerToken(token=SecretStr("opaque"))) is None
    assert identify(declared, AccountKey("contoso", SecretStr("key"))) is None
    assert identify(declared, user) == f"ana@contoso.com in tenant {TENANT}"
    bare = BearerToken(SecretStr(entra.issue(oid="o1")))
    assert identify(declared, bare) == f"object o1 in tenant {TENANT}"


def test_nothing_of_azure_is_imported_before_it_is_needed():
    code = "import meshql.identity.azure, meshql.identity.broker, sys; print([m for m in sys.modules if m.split('.')[0] in ('azure', 'msal', 'requests')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
