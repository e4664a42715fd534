"""Unity Catalog's API: https://docs.unitycatalog.io and https://docs.databricks.com/api/workspace/tables"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from meshql.catalog.connections import UnityConnection
from meshql.errors import CatalogError, CorruptError, StorageError
from meshql.identity.broker import Broker
from meshql.identity.credentials import AccessKey, BearerToken, Credentials, SharedAccessSignature
from meshql.remote.client import Entry, Loaded, Remote, included, instant, may_include
from meshql.remote.vended import connection_for, fallback_end

__all__ = ["Unity"]

ROOT = "/api/2.1/unity-catalog"

FORMATS = {"DELTA": "delta", "PARQUET": "parquet", "CSV": "csv", "JSON": "json", "ICEBERG": "iceberg"}

TABLES = frozenset({"MANAGED", "EXTERNAL", "EXTERNAL_SHALLOW_CLONE", "MANAGED_SHALLOW_CLONE"})

PAGE = "100"

MARGIN = timedelta(minutes=5)


class Unity(Remote):
    """One catalog of a Unity Catalog server; threads may share it."""

    def __init__(self, connection: UnityConnection, broker: Broker) -> None:
        super().__init__(connection, broker)
        self.connection: UnityConnection = connection
        self.base = self.base.removesuffix(ROOT) + ROOT
        self._kept: dict[str, Credentials] = {}

    def entries(self) -> list[Entry]:
        """Return the tables that the connection's `include` lets in, schemas asked side by side."""
        schemas = [str(s["name"]) for s in self._pages("/schemas", "schemas", {})]
        wanted = [s for s in schemas if may_include(self.connection, s) and s != "information_schema"]
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="meshql-catalog") as pool:
            found = [entry for tables in pool.map(self._tables, wanted) for entry in tables]
        return [entry for entry in found if included(self.connection, entry.location)]

    def load(self, location: str, name: str, *, anew: bool = False) -> Loaded:
        """Return where `schema.table` lies now; `name` is for the connection to its store.

        Credentials are those of an earlier time while they live for a while yet, unless wanted `anew`.

        Raises LocationError where there is no such table, CatalogError for a view or a format that cannot be
        read.
        """
        full = f"{self.connection.catalog}.{location}"
        table = self.get(f"/tables/{quote(full, safe='')}")
        if refused := _refused(table):
            hint = "tables of Delta, Iceberg, Parquet, CSV and JSON can be read"
            raise CatalogError(f"{full} {refused}", hint=hint)
        root = table.get("storage_location")
        if not isinstance(root, str) or not root:
            raise CorruptError(f"catalog {self.connection.name} does not say where {full} lies")
        metadata = table.get("metadata_location") if table["data_source_format"] == "ICEBERG" else None
        return Loaded(
            uri=str(metadata or root),
            root=root.rstrip("/") + "/",
            format=FORMATS[str(table["data_source_format"])],
            connection=connection_for(root, {}, name),
            credentials=self._credentials(table, anew) if _is_remote(root) else None,
        )

    def _credentials(self, table: Mapping[str, Any], anew: bool) -> Credentials | None:
        table_id = str(table.get("table_id"))
        kept = self._kept.get(table_id)
        if kept and not anew and kept.expires_at and kept.expires_at - datetime.now(UTC) > MARGIN:
            return kept
        try:
            found = self._vended(table_id)
        except StorageError:
            if self.connection.storage is None:
                raise
            # A server that vends nothing refuses to be asked; `storage` is for that.
            return None
        if found:
            self._kept[table_id] = found
        return found

    def _vended(self, table_id: str) -> Credentials | None:
        answer = self.post("/temporary-table-credentials", {"table_id": table_id, "operation": "READ"})
        ends = instant(answer.get("expiration_time")) or fallback_end()
        if keys := answer.get("aws_temp_credentials"):
            token = keys.get("session_token")
            return AccessKey(
                str(keys["access_key_id"]),
                SecretStr(str(keys["secret_access_key"])),
                SecretStr(str(token)) if token else None,
                ends,
            )
        if sas := (answer.get("azure_user_delegation_sas") or {}).get("sas_token"):
            return SharedAccessSignature(SecretStr(str(sas).removeprefix("?")), ends)
        if token := (answer.get("gcp_oauth_token") or {}).get("oauth_token"):
            return BearerToken(SecretStr(str(token)), ends)
        return None

    def _tables(self, schema: str) -> list[Entry]:
        found = self._pages("/tables", "tables", {"schema_name": schema})
        return [
            Entry((schema,), str(t["name"]), FORMATS.get(str(t.get("data_source_format")), ""), _refused(t))
            for t in found
        ]

    def _pages(self, path: str, key: str, query: Mapping[str, str]) -> list[Any]:
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = {"catalog_name": self.connection.catalog, **query, "max_results": PAGE}
            answer = self.get(path, page | ({"page_token": token} if token else {}))
            found += answer.get(key) or []
            token = answer.get("next_page_token") or None
        return found


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file:")


def _refused(table: Mapping[str, Any]) -> str | None:
    """Why a table cannot be read, in words that go behind its name; None for one that can."""
    kind = str(table.get("table_type", ""))
    if kind not in TABLES:
        return (
            f"is a {kind.replace('_', ' ').lower() or 'thing of no known type'}, and not a table with files"
        )
    form = str(table.get("data_source_format"))
    return None if form in FORMATS else f"is of format {form}, which cannot be read"
