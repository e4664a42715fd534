"""Azure's spellings of a location, the account behind them, and the URIs that DuckDB's readers get."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, TypeAdapter

from meshql.catalog.azure import AzurePlace, MisspelledError
from meshql.catalog.connections import AzureConnection
from meshql.catalog.load import check
from meshql.errors import CatalogError, CredentialsError
from meshql.identity.addresses import azure_account, azure_address
from meshql.identity.credentials import (
    AccountKey,
    BearerToken,
    Public,
    SharedAccessSignature,
    StorageConnectionString,
)
from meshql.identity.secrets import emulator_url, secret_sql
from meshql.storage.location import Location

PUBLIC = "contoso.blob.core.windows.net"
ONELAKE = "onelake.blob.fabric.microsoft.com"
AZURITE = "http://127.0.0.1:10000/devstoreaccount1"

KEY = AccountKey("contoso", SecretStr("a2V5"))
TOKEN = BearerToken(SecretStr("token"))
SAS = SharedAccessSignature(SecretStr("sv=1&sig=x"))


def connection(**given):
    block = {"cloud": "azure", "auth": {"method": "anonymous"}, **given}
    return TypeAdapter(AzureConnection).validate_python(block).model_copy(update={"name": "lake"})


def string(text):
    return StorageConnectionString(SecretStr(text))


@pytest.mark.parametrize(
    ("uri", "place", "canonical"),
    [
        ("az://lake/a/b", ("lake", "a/b", None), "az://lake/a/b"),
        ("az://lake", ("lake", "", None), "az://lake/"),
        (
            "abfss://lake@contoso.dfs.core.windows.net/a/b",
            ("lake", "a/b", PUBLIC),
            "abfss://lake@contoso.dfs.core.windows.net/a/b",
        ),
        (
            "ABFSS://lake@Contoso.dfs.Core.windows.net",
            ("lake", "", PUBLIC),
            "abfss://lake@contoso.dfs.core.windows.net/",
        ),
        (
            "https://contoso.blob.core.windows.net/lake/a%20b/c",
            ("lake", "a b/c", PUBLIC),
            "abfss://lake@contoso.dfs.core.windows.net/a b/c",
        ),
        (
            "https://contoso.dfs.core.windows.net/lake/a/",
            ("lake", "a/", PUBLIC),
            "abfss://lake@contoso.dfs.core.windows.net/a/",
        ),
        (
            "az://contoso.blob.core.windows.net/lake/a%20b",
            ("lake", "a%20b", PUBLIC),
            "abfss://lake@contoso.dfs.core.windows.net/a%20b",
        ),
        (
            "abfss://ws@onelake.dfs.fabric.microsoft.com/sales.Lakehouse/Tables/orders",
            ("ws", "sales.Lakehouse/Tables/orders", ONELAKE),
            "abfss://ws@onelake.dfs.fabric.microsoft.com/sales.Lakehouse/Tables/orders",
        ),
        (
            "https://onelake.blob.fabric.microsoft.com/ws/sales.Lakehouse/Files/a.parquet",
            ("ws", "sales.Lakehouse/Files/a.parquet", ONELAKE),
            "abfss://ws@onelake.dfs.fabric.microsoft.com/sales.Lakehouse/Files/a.parquet",
        ),
        (
            "abfss://lake@contoso.dfs.core.chinacloudapi.cn/a",
            ("lake", "a", "contoso.blob.core.chinacloudapi.cn"),
            "az://contoso.blob.core.chinacloudapi.cn/lake/a",
        ),
        (
            "https://contoso.z12.blob.storage.azure.net/lake/a",
            ("lake", "a", "contoso.z12.blob.storage.azure.net"),
            "az://contoso.z12.blob.storage.azure.net/lake/a",
        ),
    ],
)
def test_every_spelling_is_the_same_place(uri, place, canonical):
    found = AzurePlace.parse(uri)
    assert (found.container, found.key, found.host) == place
    assert str(found) == canonical
    assert AzurePlace.parse(canonical) == found
    location = Location.parse(uri, connection())
    assert (str(location), location.key) == (canonical, place[1])
    assert AzurePlace.parse(location.at("other")) == AzurePlace(place[0], "other", place[2])


@pytest.mark.parametrize(
    "uri",
    [
        "https://contoso.blob.core.windows.net.evil.example/lake/a",
        "https://evil.example/contoso.blob.core.windows.net/lake",
        "https://user@contoso.blob.core.windows.net/lake/a",
        "https://contoso.blob.core.windows.net:8443/lake/a",
        "https://contoso.table.core.windows.net/lake/a",
        "abfss://lake@evil.example/a",
        "abfss://lake@x@contoso.dfs.core.windows.net/a",
        "abfss://@contoso.dfs.core.windows.net/a",
        "abfss://lake/a",
        "az://evil.example/lake/a",
    ],
)
def test_what_is_no_place_on_azure(uri):
    with pytest.raises(MisspelledError):
        AzurePlace.parse(uri)
    with pytest.raises(CatalogError) as caught:
        Location.parse(uri, connection())
    assert caught.value.hint


def test_a_web_server_is_still_one():
    location = Location.parse("https://contoso.blob.core.windows.net/lake/a.csv")
    assert (location.scheme, location.bucket) == ("https", PUBLIC)


@pytest.mark.parametrize(
    ("given", "credentials", "host", "name", "endpoint"),
    [
        ({"account": "contoso"}, TOKEN, None, "contoso", f"https://{PUBLIC}"),
        ({}, TOKEN, PUBLIC, "contoso", f"https://{PUBLIC}"),
        ({"account": "onelake"}, TOKEN, None, "onelake", f"https://{ONELAKE}"),
        ({}, KEY, None, "contoso", f"https://{PUBLIC}"),
        (
            {"account": "contoso", "endpoint": "https://contoso.private.example/"},
            SAS,
            PUBLIC,
            "contoso",
            "https://contoso.private.example",
        ),
        ({"endpoint": AZURITE}, Public(), None, "devstoreaccount1", AZURITE),
        (
            {},
            string("AccountName=contoso;AccountKey=k;EndpointSuffix=core.usgovcloudapi.net"),
            None,
            "contoso",
            "https://contoso.blob.core.usgovcloudapi.net",
        ),
        (
            {},
            string(f"BlobEndpoint=https://{PUBLIC}/;SharedAccessSignature=sv=1"),
            None,
            "contoso",
            f"https://{PUBLIC}",
        ),
    ],
)
def test_the_account_behind_a_connection(given, credentials, host, name, endpoint):
    found = azure_account(connection(**given), credentials, host)
    assert (found.name, found.endpoint) == (name, endpoint)


@pytest.mark.parametrize(
    ("given", "credentials"),
    [
        ({"account": "other"}, TOKEN),
        ({}, AccountKey("other", SecretStr("k"))),
        ({}, string("AccountName=other;AccountKey=k")),
        ({"endpoint": "https://other.blob.core.windows.net"}, SAS),
    ],
)
def test_credentials_go_to_no_other_account(given, credentials):
    with pytest.raises(CredentialsError, match="its account is other, and the location's contoso"):
        azure_address(connection(**given), credentials, "lake", "a", "delta", PUBLIC)


def test_an_account_that_nothing_names():
    with pytest.raises(CredentialsError, match="nothing names the storage account"):
        azure_account(connection(), TOKEN)


GOV = {"account": "contoso", "endpoint": "https://contoso.blob.core.usgovcloudapi.net"}


@pytest.mark.parametrize(
    ("given", "credentials", "delta", "files"),
    [
        *(
            (
                {"account": "contoso"},
                credentials,
                "abfss://lake@contoso.dfs.core.windows.net/a/b",
                f"az://{PUBLIC}/lake/a/b",
            )
            for credentials in (KEY, TOKEN, SAS, Public(), string("AccountName=contoso;AccountKey=k"))
        ),
        (
            {"account": "onelake"},
            TOKEN,
            "abfss://lake@onelake.dfs.fabric.microsoft.com/a/b",
            f"az://{ONELAKE}/lake/a/b",
        ),
        (
            {},
            string(f"AccountName=devstoreaccount1;AccountKey=k;BlobEndpoint={AZURITE}"),
            "az://lake/a/b",
            "az://devstoreaccount1.blob.core.windows.net/lake/a/b",
        ),
        (GOV, KEY, "az://lake/a/b", "az://contoso.blob.core.usgovcloudapi.net/lake/a/b"),
        (GOV, SAS, "az://lake/a/b", "az://contoso.blob.core.usgovcloudapi.net/lake/a/b"),
    ],
)
def test_addresses(given, credentials, delta, files):
    declared = connection(**given)
    assert azure_address(declared, credentials, "lake", "a/b", "delta") == delta
    for form in ("parquet", "iceberg", "csv", "json"):
        assert azure_address(declared, credentials, "lake", "a/b", form) == files


def test_a_token_goes_to_no_host_that_its_reader_would_get_wrong():
    # delta-kernel would take it to the account of that name in the public cloud.
    with pytest.raises(CredentialsError, match="Delta cannot be read with a token"):
        azure_address(connection(**GOV), TOKEN, "lake", "a", "delta")
    assert azure_address(connection(**GOV), TOKEN, "lake", "a", "parquet").startswith(
        "az://contoso.blob.core.usgovcloudapi.net/"
    )
    with pytest.raises(CredentialsError, match=r"not to 127\.0\.0\.1:10000"):
        azure_address(connection(endpoint=AZURITE), TOKEN, "lake", "a", "parquet")


def test_secrets_name_the_account_of_the_location():
    scope = f"az://{PUBLIC}/lake/"
    assert "AccountName=contoso;SharedAccessSignature=sv=1&sig=x" in secret_sql("s", connection(), SAS, scope)
    assert "ACCOUNT_NAME 'contoso'" in secret_sql("s", connection(), TOKEN, scope)
    assert "CONNECTION_STRING" not in secret_sql("s", connection(), Public(), scope)
    given = string(f"BlobEndpoint=https://{PUBLIC};SharedAccessSignature=sv=1")
    assert "'AccountName=contoso;BlobEndpoint=" in secret_sql("s", connection(), given, "az://lake/")
    onelake = secret_sql("s", connection(account="onelake"), TOKEN, "az://lake/")
    assert "ENDPOINT 'blob.fabric.microsoft.com'" in onelake
    assert "ENDPOINT 'https://contoso.blob.core.usgovcloudapi.net'" in secret_sql(
        "s", connection(**GOV), KEY, "az://lake/"
    )


def test_emulators_are_told_from_accounts():
    assert emulator_url(connection(endpoint=AZURITE), Public()) == "http://127.0.0.1:10000"
    assert emulator_url(connection(account="contoso"), TOKEN) is None
    assert emulator_url(connection(), TOKEN) is None


CATALOG = """\
meshql: 1
connections:
  lake: {{cloud: azure, {connection}}}
products:
  - name: sales.orders
    connection: lake
    location: {location}
    format: delta
"""


@pytest.mark.parametrize(
    ("declared", "location", "message", "hint"),
    [
        (
            "auth: {method: connection_string, connection_string: '${STRING}'}",
            "abfss://c@contoso.dfs.core.windows.net/t",
            "account contoso is not that of the connection, other",
            "name a connection to account contoso, or write other here",
        ),
        (
            "auth: {method: managed_identity}",
            "az://c/t",
            "nothing names the storage account",
            "add `account: NAME` to the connection, or write abfss://c@ACCOUNT.dfs.core.windows.net/t",
        ),
        ("auth: {method: managed_identity}", "https://contoso.blob.core.windows.net/c/t", None, None),
        ("auth: {method: anonymous}", "abfss://c@contoso.dfs.core.windows.net/t", None, None),
        ("account: contoso, auth: {method: cli}", "https://contoso.dfs.core.windows.net/c/t", None, None),
        ("auth: {method: connection_string, connection_string: '${STRING}'}", "az://c/t", None, None),
        ("account: '${GONE}', auth: {method: cli}", "https://contoso.dfs.core.windows.net/c/t", None, None),
    ],
)
def test_accounts_are_compared_when_the_catalog_is_read(declared, location, message, hint, tmp_path):
    (tmp_path / "c.yaml").write_text(CATALOG.format(connection=declared, location=location))
    found = check(tmp_path, environ={"STRING": "AccountName=other;AccountKey=CANARY"})
    wrong = [m for m in found if m.key == "products[0].location"]
    if message is None:
        assert wrong == []
        return
    (mistake,) = wrong
    assert (mistake.message, mistake.hint) == (message, hint)
    assert (mistake.place.line, mistake.place.column) == (7, 15)
    assert "CANARY" not in str(mistake)
