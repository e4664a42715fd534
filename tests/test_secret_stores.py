"""Secrets by reference: how they are written, where they are looked up, and when."""

from __future__ import annotations

import importlib.util
import json
import os

import boto3
import pytest
from clouds import secret_stores
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshql.catalog.load import check, load
from meshql.catalog.references import SecretReference, is_only_references
from meshql.catalog.schema import json_schema
from meshql.demo import emulators
from meshql.errors import CredentialsError, UnreachableError
from meshql.identity.broker import Broker
from meshql.identity.stores.aws import AwsSecretsManager
from meshql.identity.stores.azure import AzureKeyVault
from meshql.identity.stores.file import FileStore
from meshql.identity.stores.gcp import GcpSecretManager
from meshql.identity.stores.system_keyring import KeyringStore
from meshql.identity.stores.vault import VaultStore

VALUE = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


def reference(text):
    store, _, address = text.partition(":")
    return SecretReference(store, address)


def fails(store, text, kind=CredentialsError):
    """The message and hint with which a store refuses a reference; never a value."""
    with pytest.raises(kind) as caught:
        store.get(reference(text))
    assert VALUE not in str(caught.value)
    assert f"${{{text}}}" in caught.value.message
    return f"{caught.value.message} | {caught.value.hint}"


# --- as the catalog writes them -------------------------------------------------------------------


def catalog(tmp_path, auth, extra=""):
    path = tmp_path / "catalog.yaml"
    path.write_text(f"meshql: 1\nconnections:\n  c: {{cloud: s3, {extra}auth: {{{auth}}}}}\n")
    return path


def said(path, **environ):
    return [
        f"{m.place.line}:{m.place.column} {m.key}: {m.message} | {m.hint}"
        for m in check(path, environ=environ)
    ]


@pytest.mark.parametrize(
    "written",
    [
        "${file:/run/secrets/key}",
        "${file:../key file}",
        "${keyring:meshql/alice}",
        "${aws_secrets_manager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:lake-AbCdEf#secret}",
        "${gcp_secret_manager:project/name/versions/3#key}",
        "${azure_key_vault:vault/name}",
        "${vault:secret/lake/reader#secret}",
        "${A}${file:/b}",
    ],
)
def test_reference_is_no_literal_secret_for_the_check_and_for_the_schema(written, tmp_path):
    import re

    assert is_only_references(written)
    pattern = json_schema()["$defs"]["S3Connection"]["else"]["properties"]["auth"]["properties"]["secret"]
    assert re.search(pattern["pattern"], written)
    assert said(catalog(tmp_path, f"method: keys, key_id: '${{K}}', secret: '{written}'"), K="k", A="a") == []


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${env:KEY}", "the environment needs no store's name | write ${KEY}"),
        ("${vualt:a/b#c}", "no store of secrets is called `vualt` | did you mean `vault`?"),
        (
            "${lastpass:a}",
            "no store of secrets is called `lastpass` | known are file, keyring, aws_secrets_manager,"
            " gcp_secret_manager, azure_key_vault, vault",
        ),
        (
            "${vault:secret/lake}",
            "this names no secret of its store | write it as ${vault:PATH#FIELD}",
        ),
        (
            "${keyring:meshql}",
            "this names no secret of its store | write it as ${keyring:SERVICE/USER}",
        ),
        (
            "${gcp_secret_manager:name}",
            "this names no secret of its store | write it as ${gcp_secret_manager:PROJECT/NAME#JSON_KEY};"
            " without #... for all of its text",
        ),
    ],
)
def test_reference_that_names_no_secret_is_a_mistake_with_its_place(written, message, tmp_path):
    path = catalog(tmp_path, f"method: keys, key_id: '${{K}}', secret: '{written}'")
    assert said(path, K="k") == [f"3:63 connections.c.auth.secret: {message}"]


def test_secret_with_something_in_clear_around_the_reference_is_a_literal_secret(tmp_path):
    path = catalog(tmp_path, "method: keys, key_id: '${K}', secret: 'abc${file:/x}'")
    assert ["holds a literal secret" in line for line in said(path, K="k")] == [True]


def test_store_is_refused_where_no_secret_stands(tmp_path):
    path = catalog(tmp_path, "method: env", extra="region: '${vault:a/b#c}', ")
    assert said(path) == [
        "3:26 connections.c.region: a store of secrets is only for secrets, and this is none"
        " | write the value out, or ${NAME} for an environment variable"
    ]


def test_source_of_an_assumed_role_takes_references_too(tmp_path):
    (tmp_path / "key").write_text("k\n")
    path = catalog(
        tmp_path,
        "method: assume_role, role_arn: 'arn:aws:iam::123456789012:role/r',"
        " source: {method: keys, key_id: '${file:key}', secret: '${vault:a/b#c}'}",
    )
    assert said(path) == []
    source = load(path).connections["c"].auth.source
    assert source.key_id.get_secret_value() == f"${{file:{tmp_path}/key}}"


def test_variable_called_like_a_store_has_its_default(tmp_path):
    path = catalog(tmp_path, "method: env", extra="region: '${file:-eu-west-1}', ")
    assert load(path, environ={}).connections["c"].region == "eu-west-1"


def test_value_of_a_variable_is_never_read_as_a_reference(tmp_path):
    (tmp_path / "other").write_text("other")
    given = "a${HOME}b${file:other}$${c}"
    path = catalog(tmp_path, "method: keys, key_id: '${K}', secret: '${S}'")
    connection = load(path, environ={"K": "k", "S": given}).connections["c"]
    assert Broker({}).credentials(connection).secret.get_secret_value() == given


# --- when they are looked up ----------------------------------------------------------------------


def test_file_is_read_at_first_use_and_kept_until_forgotten(tmp_path, monkeypatch):
    path = catalog(tmp_path, "method: keys, key_id: '${file:id}', secret: '${file:secret}'")
    connection = load(path).connections["c"]
    (tmp_path / "id").write_text("AKIDEXAMPLE\n")
    (tmp_path / "secret").write_text(VALUE + "\r\n")
    monkeypatch.chdir("/")
    broker = Broker({})
    first = broker.credentials(connection)
    assert (first.key_id, first.secret.get_secret_value()) == ("AKIDEXAMPLE", VALUE)
    (tmp_path / "secret").write_text("rotated")
    assert broker.credentials(connection) is first
    broker.forget(connection)
    assert broker.credentials(connection).secret.get_secret_value() == "rotated"


def test_error_names_connection_key_reference_and_place(tmp_path):
    path = catalog(tmp_path, "method: keys, key_id: '${file:id}', secret: '${file:secret}'")
    with pytest.raises(CredentialsError) as caught:
        Broker({}).credentials(load(path).connections["c"])
    assert str(caught.value) == (
        f"connection c: auth.key_id: ${{file:{tmp_path}/id}}: there is no such file ({path}:3:3)\n"
        "hint: check the path, and that the secret is mounted"
    )


def test_empty_secret_is_refused(tmp_path):
    path = catalog(tmp_path, "method: keys, key_id: '${file:id}', secret: '${file:id}'")
    (tmp_path / "id").write_text("\n")
    with pytest.raises(CredentialsError, match="is empty"):
        Broker({}).credentials(load(path).connections["c"])


# --- files and keyrings ---------------------------------------------------------------------------


def test_file_errors(tmp_path):
    store = FileStore()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"x" * 1_000_001)
    assert "there is no such file" in fails(store, f"file:{tmp_path}/none")
    assert "Is a directory" in fails(store, f"file:{tmp_path}")
    assert "no UTF-8 text" in fails(store, f"file:{tmp_path}/binary")
    assert "larger than 1 MB" in fails(store, f"file:{tmp_path}/large")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission(tmp_path):
    (tmp_path / "closed").write_text(VALUE)
    (tmp_path / "closed").chmod(0)
    assert "may not read the file" in fails(FileStore(), f"file:{tmp_path}/closed")


@pytest.fixture
def keyring_file(tmp_path, monkeypatch):
    """A real keyring that keeps its passwords in a file of its own."""
    import keyring
    from keyrings.alt.file import PlaintextKeyring

    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "keyring.cfg")
    before = keyring.get_keyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_keyring(keyring_file):
    keyring_file.set_password("lake/eu", "alice", VALUE)
    assert KeyringStore().get(reference("keyring:lake/eu/alice")) == VALUE
    assert fails(KeyringStore(), "keyring:lake/eu/bob").endswith("| keyring set lake/eu bob")


def test_keyring_that_is_not_set_up(keyring_file):
    import keyring
    from keyring.backends.fail import Keyring

    keyring.set_keyring(Keyring())
    assert "refused to tell it (none is set up)" in fails(KeyringStore(), "keyring:lake/alice")


@pytest.mark.parametrize(
    ("store", "text", "module", "extra"),
    [
        (KeyringStore(), "keyring:a/b", "keyring", "keyring"),
        (AwsSecretsManager(), "aws_secrets_manager:a", "botocore", "aws"),
        (GcpSecretManager({}), "gcp_secret_manager:a/b", "google.auth", "gcp"),
        (AzureKeyVault(), "azure_key_vault:a/b", "azure.identity", "azure"),
    ],
)
def test_missing_extra_has_the_line_to_type(store, text, module, extra, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "meshql.identity.stores.base.find_spec",
        lambda name: None if name == module.partition(".")[0] else found(name),
    )
    assert fails(store, text).endswith(
        f"needs {module}, which is not installed | pip install 'meshql[{extra}]'"
    )


# --- AWS Secrets Manager, emulated by moto --------------------------------------------------------


@pytest.fixture(scope="module")
def secrets_manager(tmp_path_factory):
    server = emulators.start("s3", "moto", tmp_path_factory.mktemp("secrets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.endpoint)
        patch.setenv("AWS_REGION", "eu-west-1")
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "who")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "asks")
        yield boto3.client("secretsmanager")
    emulators.stop(server)


def test_aws_secrets_manager(secrets_manager):
    store = AwsSecretsManager()
    text = json.dumps({"key_id": "AKID", "secret": VALUE, "port": 5432, "nested": {}})
    arn = secrets_manager.create_secret(Name="lake/reader", SecretString=text)["ARN"]
    secrets_manager.create_secret(Name="plain", SecretString=VALUE)
    secrets_manager.create_secret(Name="bytes", SecretBinary=VALUE.encode())
    assert store.get(reference("aws_secrets_manager:plain")) == VALUE
    assert store.get(reference("aws_secrets_manager:bytes")) == VALUE
    assert store.get(reference(f"aws_secrets_manager:{arn}#secret")) == VALUE
    assert store.get(reference("aws_secrets_manager:lake/reader#port")) == "5432"
    assert fails(store, "aws_secrets_manager:lake/reader#token").endswith(
        "the secret has no key token | it has: key_id, nested, port, secret"
    )
    assert "is no text" in fails(store, "aws_secrets_manager:lake/reader#nested")
    assert "is no JSON object" in fails(store, "aws_secrets_manager:plain#secret")
    assert "there is no such secret in AWS Secrets Manager" in fails(store, "aws_secrets_manager:none")


def test_aws_secrets_manager_that_cannot_be_asked(secrets_manager, monkeypatch):
    store = AwsSecretsManager()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:9")
    assert "does not answer" in fails(store, "aws_secrets_manager:plain", UnreachableError)
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    assert fails(store, "aws_secrets_manager:plain").endswith("no region is set | export AWS_REGION=...")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert "no identity: NoCredentialsError" in fails(store, "aws_secrets_manager:plain")


def test_answers_of_the_secrets_manager_are_in_no_debug_log(secrets_manager, caplog):
    secrets_manager.create_secret(Name="logged", SecretString=VALUE)
    with caplog.at_level("DEBUG"):
        assert AwsSecretsManager().get(reference("aws_secrets_manager:logged")) == VALUE
    assert VALUE not in caplog.text


# --- stores that only a stub stands for -----------------------------------------------------------


def test_vault_of_both_versions():
    """A stub of Vault, which checks token, namespace and paths."""
    with secret_stores.vault(
        "hvs.stub-token", "team/a", {"lake/reader": {"secret": VALUE}}, {"lake": {"secret": VALUE + "1"}}
    ) as server:
        environ = {
            "VAULT_ADDR": server.url + "/",
            "VAULT_TOKEN": "hvs.stub-token",
            "VAULT_NAMESPACE": "team/a",
            "HOME": "/nowhere",
        }
        store = VaultStore(environ)
        assert store.get(reference("vault:kv/lake/reader#secret")) == VALUE
        assert store.get(reference("vault:old/lake#secret")) == VALUE + "1"
        assert fails(store, "vault:kv/lake/reader#key").endswith("has no key key | it has: secret")
        assert fails(store, "vault:kv/none#key").endswith("| vault kv get kv/none")
        assert fails(store, "vault:kv/data/lake/reader#secret").endswith(
            "write it without data/: ${vault:kv/lake/reader#secret}"
        )
        for change in ({"VAULT_TOKEN": "hvs.other"}, {"VAULT_NAMESPACE": "team/b"}):
            assert "(HTTP 403)" in fails(VaultStore(environ | change), "vault:kv/lake/reader#secret")
    assert "does not answer" in fails(store, "vault:kv/lake/reader#secret", UnreachableError)


def test_token_of_vault_is_found_where_its_login_leaves_it(tmp_path):
    """A stub of Vault, which checks token, namespace and paths."""
    (tmp_path / ".vault-token").write_text("hvs.from-file\n")
    with secret_stores.vault("hvs.from-file", None, {"a": {"b": VALUE}}, {}) as server:
        environ = {"VAULT_ADDR": server.url, "HOME": str(tmp_path)}
        assert VaultStore(environ).get(reference("vault:kv/a#b")) == VALUE
    assert fails(VaultStore({}), "vault:kv/a#b").endswith(
        "| export VAULT_ADDR=https://vault.example.com:8200"
    )
    without = {"VAULT_ADDR": "http://127.0.0.1:9", "HOME": "/nowhere"}
    assert "vault login" in fails(VaultStore(without), "vault:kv/a#b")


def test_token_of_vault_is_never_sent_where_a_redirect_leads():
    with secret_stores.stub(lambda request: (307, {})) as server:
        store = VaultStore({"VAULT_ADDR": server.url, "VAULT_TOKEN": "hvs.stub-token"})
        assert "HTTP 307: a redirect" in fails(store, "vault:kv/a#b")


def test_gcp_secret_manager(tmp_path, monkeypatch):
    """A stub of Google's token endpoint and Secret Manager."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secrets = {
        ("p", "plain", "latest"): VALUE,
        ("p", "plain", "2"): "older",
        ("p", "json", "latest"): json.dumps({"k": VALUE}),
    }
    with secret_stores.google(public, secrets) as server:
        account = {
            "type": "service_account",
            "client_email": "reader@p.iam.gserviceaccount.com",
            "private_key": private,
            "private_key_id": "1",
            "token_uri": f"{server.url}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        store = GcpSecretManager({"CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": server.url})
        assert store.get(reference("gcp_secret_manager:p/plain")) == VALUE
        assert store.get(reference("gcp_secret_manager:p/plain/versions/2")) == "older"
        assert store.get(reference("gcp_secret_manager:p/json#k")) == VALUE
        assert "gcloud secrets list" in fails(store, "gcp_secret_manager:p/none")
        assert "roles/secretmanager.secretAccessor" in fails(store, "gcp_secret_manager:p/forbidden")
    assert "does not answer" in fails(store, "gcp_secret_manager:p/plain", UnreachableError)
    (tmp_path / "account.json").unlink()
    assert "gcloud auth application-default login" in fails(store, "gcp_secret_manager:p/plain")


def test_azure_key_vault(monkeypatch):
    """A stub of App Service's managed identity and of Key Vault."""
    secrets = {"lake/reader": VALUE, "lake/reader/0123abcd": "older", "lake/json": json.dumps({"k": VALUE})}
    with secret_stores.azure("stub-header", secrets) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/msi")
        monkeypatch.setenv("IDENTITY_HEADER", "stub-header")
        store = AzureKeyVault(server.url + "/{vault}")
        assert store.get(reference("azure_key_vault:lake/reader")) == VALUE
        assert store.get(reference("azure_key_vault:lake/reader/0123abcd")) == "older"
        assert store.get(reference("azure_key_vault:lake/json#k")) == VALUE
        assert "az keyvault secret list" in fails(store, "azure_key_vault:lake/none")
        assert "Key Vault Secrets User" in fails(store, "azure_key_vault:closed/reader")
        nowhere = AzureKeyVault("http://127.0.0.1:9/{vault}")
        assert "does not answer" in fails(nowhere, "azure_key_vault:lake/reader", UnreachableError)
        monkeypatch.setenv("IDENTITY_HEADER", "other")
        monkeypatch.setenv("PATH", "/nowhere")
        assert "az login" in fails(store, "azure_key_vault:lake/reader")


def test_vault_with_certificates_that_are_not_there():
    environ = {"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "t", "VAULT_CACERT": "/no/such/file.pem"}
    told = fails(VaultStore(environ), "vault:secret/a#b", UnreachableError)
    assert told.endswith("check $VAULT_ADDR, $VAULT_CACERT and any proxy")
