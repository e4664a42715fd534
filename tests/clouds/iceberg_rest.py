"""An Iceberg REST catalog over pyiceberg's SqlCatalog: config, namespaces, tables, vended credentials, OAuth 2."""

from __future__ import annotations

import json

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from clouds.service import Refused, Service

SEPARATOR = "\x1f"


class IcebergRestCatalog(Service):
    """The catalog `lake`, its files in a bucket of `store`; `catalog` is where tests make tables.

    `vend()` gives the key id and the endpoint that a client is handed with a table.
    """

    def __init__(self, folder, store, bucket, vend):
        super().__init__()
        self.vend = vend
        self.catalog = SqlCatalog(
            "lake",
            uri=f"sqlite:///{folder}/catalog.db",
            warehouse=f"s3://{bucket}/warehouse",
            **{
                "s3.endpoint": store.endpoint,
                "s3.access-key-id": store.key_id,
                "s3.secret-access-key": store.secret,
                "s3.region": "us-east-1",
            },
        )
        self.page = 2
        self.vends = True
        self.anonymous = False
        self.accepts = None
        self.extra = {}

    def answer(self, method, path, query, headers, body):
        if path[:1] != ["v1"]:
            raise Refused(404, "NotFoundException")
        if path[1:] == ["oauth", "tokens"] and method == "POST":
            return self.give_token(headers, body)
        if self.accepts:
            self.accepts(method, headers)
        elif not self.anonymous:
            self.check_bearer(headers)
        if path[1:] == ["config"]:
            if query.get("warehouse") != "lake":
                raise Refused(404, "NoSuchWarehouseException")
            return {"defaults": {}, "overrides": {"prefix": "wh/lake"}}
        if path[1:3] != ["wh", "lake"]:
            raise Refused(404, "NotFoundException", "wrong prefix")
        return self.resource(path[3:], query, headers)

    def resource(self, path, query, headers):
        try:
            match path:
                case ["namespaces"]:
                    parent = tuple(query["parent"].split(SEPARATOR)) if query.get("parent") else ()
                    found = sorted(
                        n for n in self.catalog.list_namespaces(parent) if len(n) == len(parent) + 1
                    )
                    return self.paged("namespaces", found, query)
                case ["namespaces", space, "tables"]:
                    names = sorted(self.catalog.list_tables(tuple(space.split(SEPARATOR))))
                    return self.paged(
                        "identifiers", [{"namespace": n[:-1], "name": n[-1]} for n in names], query
                    )
                case ["namespaces", space, "tables", name]:
                    return self.table((*space.split(SEPARATOR), name), headers)
        except (NoSuchNamespaceError, NoSuchTableError) as error:
            raise Refused(404, type(error).__name__.replace("Error", "Exception")) from None
        raise Refused(404, "NotFoundException")

    def paged(self, key, found, query):
        """A page, for who asks for pages as the specification wants it."""
        if "pageToken" not in query:
            return {key: found}
        begin = int(query["pageToken"] or 0)
        page = {key: found[begin : begin + self.page]}
        if begin + self.page < len(found):
            page["next-page-token"] = str(begin + self.page)
        return page

    def table(self, name, headers):
        table = self.catalog.load_table(name)
        answer = {
            "metadata-location": table.metadata_location,
            "metadata": json.loads(table.metadata.model_dump_json()),
            "config": {"client.region": "us-east-1", **self.extra},
        }
        if self.vends and headers.get("X-Iceberg-Access-Delegation") == "vended-credentials":
            answer["config"] |= {
                "s3.path-style-access": "true",
                "s3.secret-access-key": "vended-secret",
                "s3.session-token": "vended-token",
                **self.vend(),
            }
        return answer
