"""A stub of Unity Catalog's documented API: schemas, tables, temporary credentials, by bearer token."""

from __future__ import annotations

import json
import time

from clouds.service import Refused, Service


class UnityCatalog(Service):
    """Catalog `main`; `tables` maps schema.table to what the API says of it."""

    def __init__(self):
        super().__init__()
        self.tables = {}
        self.credentials = {}
        self.page = 1

    def add(self, name, location, form="DELTA", kind="EXTERNAL", **more):
        """Register a table at a location."""
        schema, table = name.split(".")
        self.tables[name] = {
            "catalog_name": "main",
            "schema_name": schema,
            "name": table,
            "full_name": f"main.{name}",
            "table_type": kind,
            "data_source_format": form,
            "storage_location": location,
            "table_id": f"id-of-{name}",
            **more,
        }

    def error(self, refused):
        return {"error_code": refused.kind, "message": refused.message}

    def answer(self, method, path, query, headers, body):
        if path == ["oidc", "v1", "token"] and method == "POST":
            return self.give_token(headers, body)
        if path[:3] != ["api", "2.1", "unity-catalog"]:
            raise Refused(404, "ENDPOINT_NOT_FOUND")
        self.check_bearer(headers)
        match method, path[3:]:
            case "GET", ["schemas"]:
                self.known(query)
                names = sorted({t["schema_name"] for t in self.tables.values()})
                return self.paged("schemas", [{"name": n, "catalog_name": "main"} for n in names], query)
            case "GET", ["tables"]:
                self.known(query)
                found = [t for t in self.tables.values() if t["schema_name"] == query.get("schema_name")]
                return self.paged("tables", found, query)
            case "GET", ["tables", full]:
                catalog, _, name = full.partition(".")
                if catalog != "main" or name not in self.tables:
                    raise Refused(404, "TABLE_DOES_NOT_EXIST")
                return self.tables[name]
            case "POST", ["temporary-table-credentials"]:
                asked = json.loads(body)
                if asked.get("operation") != "READ":
                    raise Refused(400, "INVALID_PARAMETER_VALUE")
                if not any(t["table_id"] == asked.get("table_id") for t in self.tables.values()):
                    raise Refused(404, "TABLE_DOES_NOT_EXIST")
                if not self.credentials:
                    raise Refused(403, "PERMISSION_DENIED", "external access is off")
                return {**self.credentials, "expiration_time": int((time.time() + 3600) * 1000)}
        raise Refused(404, "ENDPOINT_NOT_FOUND")

    def known(self, query):
        if query.get("catalog_name") != "main":
            raise Refused(404, "CATALOG_DOES_NOT_EXIST")

    def paged(self, key, found, query):
        begin = int(query.get("page_token") or 0)
        page = {key: found[begin : begin + self.page]}
        if begin + self.page < len(found):
            page["next_page_token"] = str(begin + self.page)
        return page
