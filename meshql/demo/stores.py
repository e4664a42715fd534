"""An emulated object store as its users see it: address, keys, buckets."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from meshql.errors import StorageError

if TYPE_CHECKING:
    from obstore.store import AzureStore, S3Store

__all__ = ["AZURITE_ACCOUNT", "AZURITE_KEY", "Cloud", "Store"]

Cloud = Literal["s3", "gcs", "azure"]

AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

API_VERSION = "2021-12-02"


@dataclass(frozen=True)
class Store:
    """An emulated store. `cloud` is what its users take it for: a stand-in speaks S3 in Azure's place."""

    cloud: Cloud
    endpoint: str
    key_id: str
    secret: str
    stand_in: bool = False

    @classmethod
    def s3(cls, endpoint: str) -> Store:
        """Return the store at `endpoint` as Amazon S3."""
        return cls("s3", endpoint, "demo-s3-key", "demo-s3-secret")

    @classmethod
    def gcs(cls, endpoint: str) -> Store:
        """Return the store at `endpoint` as Cloud Storage's S3-interoperable API, with its own HMAC keys."""
        return cls("gcs", endpoint, "demo-gcs-hmac-key", "demo-gcs-hmac-secret")

    @classmethod
    def azure(cls, endpoint: str) -> Store:
        """Return the Azurite at `endpoint` as Azure Blob Storage: key_id is the account, secret its key."""
        return cls("azure", f"{endpoint}/{AZURITE_ACCOUNT}", AZURITE_ACCOUNT, AZURITE_KEY)

    @classmethod
    def azure_stand_in(cls, endpoint: str) -> Store:
        """Return an S3 emulator that holds what Azure would hold."""
        return cls("azure", endpoint, "demo-azure-key", "demo-azure-secret", stand_in=True)

    @property
    def scheme(self) -> str:
        """The URI scheme of its objects."""
        return "s3" if self.stand_in else {"s3": "s3", "gcs": "gs", "azure": "az"}[self.cloud]

    @property
    def connection_string(self) -> str:
        """The connection string of an Azure store."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.key_id};"
            f"AccountKey={self.secret};BlobEndpoint={self.endpoint};"
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the process that reads this store must have in its environment.

        DuckDB's delta extension takes Azurite's address from nowhere else.
        """
        if self.scheme != "az":
            return {}
        return {"AZURITE_BLOB_STORAGE_URL": self.endpoint.removesuffix(f"/{self.key_id}")}

    @property
    def connection(self) -> dict[str, Any]:
        """The connection block of a catalog that reaches this store."""
        keys = {"key_id": self.key_id, "secret": self.secret}
        if self.scheme == "az":
            auth = {"method": "connection_string", "connection_string": self.connection_string}
            return {"cloud": "azure", "insecure": True, "auth": auth}
        if self.scheme == "gs":
            auth = {"method": "hmac", **keys}
            return {"cloud": "gcs", "endpoint": self.endpoint, "insecure": True, "auth": auth}
        auth = {"method": "keys", **keys}
        reached = {"region": "us-east-1", "endpoint": self.endpoint, "url_style": "path"}
        return {"cloud": "s3", **reached, "insecure": True, "auth": auth}

    def secret_sql(self, name: str, scope: str) -> str:
        """Return the CREATE SECRET statement that gives DuckDB this store for URLs starting with `scope`."""
        if self.scheme == "az":
            given = f"TYPE azure, CONNECTION_STRING '{self.connection_string}'"
        else:
            host = urlsplit(self.endpoint).netloc
            kind = "gcs" if self.scheme == "gs" else "s3"
            given = (
                f"TYPE {kind}, KEY_ID '{self.key_id}', SECRET '{self.secret}', ENDPOINT '{host}', "
                "URL_STYLE 'path', USE_SSL false, REGION 'us-east-1'"
            )
        return f"CREATE SECRET {name} ({given}, SCOPE '{scope}')"

    def create_bucket(self, name: str) -> None:
        """Create the bucket or container `name`; does nothing if it is there."""
        address = urlsplit(self.endpoint)
        path, headers = f"{address.path}/{name}", {"Content-Length": "0"}
        if self.scheme == "az":
            path += "?restype=container"
            headers |= _shared_key(self, "PUT", name, ["restype:container"])
        connection = HTTPConnection(address.netloc, timeout=30)
        try:
            connection.request("PUT", path, headers=headers)
            response = connection.getresponse()
            told = response.read().decode(errors="replace")
        finally:
            connection.close()
        # 409: it is there already.
        if response.status not in (200, 201, 409):
            raise StorageError(f"cannot create {self.scheme}://{name}: {response.status} {told[:200]}")

    def open(self, bucket: str) -> S3Store | AzureStore:
        """Return the bucket as an obstore store."""
        from obstore.store import AzureStore, S3Store

        if self.scheme == "az":
            return AzureStore(
                container_name=bucket,
                account_name=self.key_id,
                account_key=self.secret,
                endpoint=self.endpoint,
                client_options={"allow_http": True},
            )
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=self.key_id,
            secret_access_key=self.secret,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def upload(self, bucket: str, folder: Path, *, at_once: int = 8) -> int:
        """Copy every file below `folder` into the bucket under its relative path; returns how many."""
        from concurrent.futures import ThreadPoolExecutor

        opened = self.open(bucket)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor(at_once) as pool:
            sent: Iterable[object] = pool.map(
                lambda path: opened.put(path.relative_to(folder).as_posix(), path.read_bytes()), files
            )
            return sum(1 for _ in sent)


def _shared_key(store: Store, verb: str, resource: str, parameters: list[str]) -> dict[str, str]:
    """Return the headers that sign an empty request, as Azure's Shared Key scheme wants them."""
    account = store.key_id
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": API_VERSION}
    named = [f"{key}:{value}" for key, value in sorted(headers.items())]
    # An emulator's paths begin with the account, which the scheme names once more.
    canonical = [f"/{account}/{account}/{resource}", *parameters]
    text = "\n".join([verb, *[""] * 11, *named, *canonical])
    digest = hmac.new(base64.b64decode(store.secret), text.encode(), hashlib.sha256).digest()
    return {**headers, "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}
