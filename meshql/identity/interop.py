"""pyiceberg's file access where its own does not reach: Cloud Storage by S3's API, and Azure.

pyiceberg imports these by name, from the options that storage_options makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from obstore.fsspec import FsspecStore
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
from pyiceberg.io import ADLS_ACCOUNT_NAME, ADLS_TOKEN
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from meshql.errors import LocationError

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureCredential

__all__ = ["AZURE_ENDPOINT", "AzureFileIO", "InteropFileIO"]

AZURE_ENDPOINT = "meshql.azure-endpoint"
"""The property with the URL of an account that is read with a token, or anonymously."""


class InteropFileIO(PyArrowFileIO):
    """Reads gs:// with the s3.* properties: for HMAC keys, and for public buckets."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__(properties)
        by_scheme = self.fs_by_scheme

        def interoperable(scheme: str, netloc: str | None = None) -> FileSystem:
            return by_scheme("s3" if scheme in ("gs", "gcs") else scheme, netloc)

        self.fs_by_scheme = interoperable


class _Store(FsspecStore):
    # fsspec would keep every one for good, with the token in it.
    cachable = False


class AzureFileIO(PyArrowFileIO):
    """Reads the account of the adls.* properties, by URIs that name it as well, and with whatever identity.

    pyarrow takes neither tokens nor nobody: it would look around for an identity of its own.
    """

    @staticmethod
    def parse_location(location: str, properties: Properties = EMPTY_DICT) -> tuple[str, str, str]:
        """Return scheme, container and path; raises LocationError for a file in another account."""
        scheme, netloc, path = PyArrowFileIO.parse_location(location, properties)
        container, named, host = netloc.partition("@")
        account = properties.get(ADLS_ACCOUNT_NAME)
        if named and host.partition(".")[0] != account:
            raise LocationError(
                f"{location} does not lie in storage account {account}, whose credentials these are",
                hint="read the table through SQL, as a product of a connection to that account",
            )
        return scheme, container, path.replace(netloc, container, 1)

    def _initialize_azure_fs(self) -> FileSystem:
        endpoint = self.properties.get(AZURE_ENDPOINT)
        if endpoint is None:
            return super()._initialize_azure_fs()
        token = self.properties.get(ADLS_TOKEN)
        # What is not said here may stand in the environment, where another identity would count more.
        config: AzureConfig = {
            "account_name": self.properties[ADLS_ACCOUNT_NAME],
            "endpoint": endpoint,
            "use_emulator": False,
            "skip_signature": token is None,
        }
        store = _Store(
            "az",
            config=config,
            client_options={"allow_http": endpoint.startswith("http://")},
            credential_provider=_provider(token) if token else None,
        )
        return PyFileSystem(FSSpecHandler(store))


def _provider(token: str) -> Callable[[], AzureCredential]:
    return lambda: {"token": token, "expires_at": None}
