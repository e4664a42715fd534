"""The Iceberg REST protocol: https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from meshql.catalog.connections import IcebergRestConnection
from meshql.errors import CorruptError
from meshql.identity.broker import Broker
from meshql.remote.client import Entry, Loaded, Remote, included, may_include
from meshql.remote.vended import connection_for, credentials_in

__all__ = ["IcebergRest"]

SEPARATOR = "\x1f"

DELEGATION = {"X-Iceberg-Access-Delegation": "vended-credentials"}

PAGE = "500"

OUTSIDE = ("write.data.path", "write.object-storage.path", "write.folder-storage.path")
"""Properties of a table that lead its files out of its location."""


class IcebergRest(Remote):
    """A catalog that speaks the protocol; threads may share it."""

    def __init__(self, connection: IcebergRestConnection, broker: Broker) -> None:
        super().__init__(connection, broker)
        self.connection: IcebergRestConnection = connection
        self.base = self.base.removesuffix("/v1") + "/v1"
        self._lock = threading.Lock()
        self._config: dict[str, str] | None = None

    def entries(self) -> list[Entry]:
        """Return the tables that the connection's `include` lets in, namespaces asked side by side."""
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="meshql-catalog") as pool:
            level = [n for n in self._namespaces(()) if may_include(self.connection, ".".join(n))]
            found: list[Entry] = []
            while level:
                inner = pool.map(self._namespaces, level)
                for tables in pool.map(self._tables, level):
                    found += tables
                level = [n for names in inner for n in names if may_include(self.connection, ".".join(n))]
        return [entry for entry in found if included(self.connection, entry.location)]

    def load(self, location: str, name: str, *, anew: bool = False) -> Loaded:  # noqa: ARG002
        """Return the current state of `namespace.table`; `name` is for the connection to its store.

        Its credentials are always new ones.

        Raises LocationError where there is no such table.
        """
        *namespace, table = location.split(".")
        path = f"/namespaces/{_namespace(namespace)}/tables/{quote(table, safe='')}"
        answer = self.get(self._prefix() + path, {"snapshots": "refs"}, DELEGATION)
        uri, metadata = answer.get("metadata-location"), answer.get("metadata")
        if not isinstance(uri, str) or not isinstance(metadata, dict):
            raise CorruptError(f"catalog {self.connection.name} gave no metadata of {location}")
        root = str(metadata.get("location") or uri.rpartition("/metadata/")[0])
        config = self._defaults() | _texts(answer.get("config")) | _storage(answer, root)
        return Loaded(
            uri=uri,
            root=root.rstrip("/") + "/",
            outside=_outside(root.rstrip("/") + "/", uri, metadata),
            format="iceberg",
            connection=connection_for(uri, config, name),
            credentials=credentials_in(uri, config),
        )

    def _prefix(self) -> str:
        prefix = self._defaults().get("prefix", "").strip("/")
        return f"/{prefix}" if prefix else ""

    def _defaults(self) -> dict[str, str]:
        """What the catalog wants its clients to know, asked for once."""
        with self._lock:
            if self._config is None:
                warehouse = self.connection.warehouse
                answer = self.get("/config", {"warehouse": warehouse} if warehouse else {})
                self._config = _texts(answer.get("defaults")) | _texts(answer.get("overrides"))
            return self._config

    def _namespaces(self, parent: tuple[str, ...]) -> list[tuple[str, ...]]:
        query = {"parent": SEPARATOR.join(parent)} if parent else {}
        found = self._pages(f"{self._prefix()}/namespaces", "namespaces", query)
        return [tuple(n) for n in found if isinstance(n, list) and len(n) == len(parent) + 1]

    def _tables(self, namespace: tuple[str, ...]) -> list[Entry]:
        path = f"{self._prefix()}/namespaces/{_namespace(namespace)}/tables"
        return [
            Entry(namespace, str(found["name"]), "iceberg") for found in self._pages(path, "identifiers", {})
        ]

    def _pages(self, path: str, key: str, query: Mapping[str, str]) -> list[Any]:
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            answer = self.get(path, {**query, "pageSize": PAGE, "pageToken": token})
            found += answer.get(key) or []
            token = answer.get("next-page-token") or None
        return found


def _namespace(parts: list[str] | tuple[str, ...]) -> str:
    return quote(SEPARATOR.join(parts), safe="")


def _texts(config: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in config.items() if v is not None} if isinstance(config, dict) else {}


def _storage(answer: Mapping[str, Any], root: str) -> dict[str, str]:
    """The credentials whose prefix fits the table best."""
    given = [c for c in answer.get("storage-credentials") or () if root.startswith(str(c.get("prefix", "")))]
    best = max(given, key=lambda c: len(str(c.get("prefix", ""))), default=None)
    return _texts(best.get("config")) if best else {}


def _outside(folder: str, uri: str, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders besides the table's own that its files lie in."""
    properties = metadata.get("properties") or {}
    paths = [uri.rpartition("/")[0], *(str(properties[key]) for key in OUTSIDE if key in properties)]
    folders = dict.fromkeys(path.rstrip("/") + "/" for path in paths)
    return tuple(path for path in folders if not path.startswith(folder))
