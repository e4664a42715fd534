"""What must hold between the parts of a catalog, and what its types alone cannot say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from meshql.catalog import locations
from meshql.catalog.base import Place
from meshql.catalog.build_checks import check_build
from meshql.catalog.cdc_checks import check_cdc
from meshql.catalog.connection_checks import check_connection, variable
from meshql.catalog.connections import SCHEMES
from meshql.catalog.documents import ConnectionEntry, Document, ProductEntry
from meshql.catalog.mistakes import LONGEST_NAME, did_you_mean, quoted
from meshql.catalog.model import Format
from meshql.catalog.nodes import Scalar
from meshql.catalog.references import unset_variables

__all__ = ["check_documents"]

RESERVED_DOMAINS = frozenset({"information_schema", "main", "memory", "pg_catalog", "system", "temp"})
READER_FORMATS = ("parquet", "csv", "json")
STORES = ("s3", "gcs", "azure", "local")


def check_documents(documents: list[Document]) -> None:
    """Note what is wrong between and inside the documents; makes local locations absolute."""
    whole = all(document.source.complete for document in documents)
    known = _Connections(documents, whole=whole)
    names: dict[str, Place] = {}
    products = [product for document in documents for product in document.products()]
    for product in products:
        _check_name(product, names)
        check_build(product, known.entries, whole=whole)
        _check_location(product, known)
        _check_options(product)
    check_cdc(products, known.entries, whole=whole)


class _Connections:
    """The connections of all files, by name."""

    def __init__(self, documents: Iterable[Document], *, whole: bool) -> None:
        self.whole = whole
        self.entries: dict[str, ConnectionEntry] = {}
        self.by_cloud: dict[str, list[str]] = {}
        places: dict[str, Place] = {}
        for document in documents:
            for entry in document.connections():
                check_connection(entry)
                self.add(entry, places)
        if whole:
            for entry in self.entries.values():
                self.check_storage(entry)

    def add(self, entry: ConnectionEntry, places: dict[str, Place]) -> None:
        source = entry.document.source
        first = places.setdefault(entry.name.casefold(), source.place(entry.at))
        if first != source.place(entry.at):
            path = f"connections.{entry.name[:LONGEST_NAME]}"
            source.refuse(entry.at, path, f"declared twice, first at {first}", "rename one of them")
            return
        self.entries[entry.name] = entry
        self.by_cloud.setdefault(str(entry.data.get("cloud")), []).append(entry.name)

    def check_storage(self, entry: ConnectionEntry) -> None:
        """Note a `storage` that is no connection to files."""
        name, node = entry.data.get("storage"), entry.node.entries.get("storage")
        if not isinstance(name, str) or node is None or unset_variables(name):
            return
        held = self.entries.get(name)
        source, path = entry.document.source, f"connections.{entry.name[:LONGEST_NAME]}.storage"
        if held is None:
            hint = did_you_mean(name, self.entries) or "declare it under `connections:`"
            source.refuse(node.at, path, f"unknown connection `{name[:LONGEST_NAME]}`", hint)
        elif held.data.get("cloud") not in STORES:
            source.refuse(
                node.at, path, f"connection `{name}` holds no files", f"one of cloud {quoted(STORES)}"
            )

    def cloud_of(self, product: ProductEntry) -> str | None:
        """Return the cloud that a product lies on; None, after noting the mistake, where that is unknown."""
        name = product.data.get("connection")
        if name is None:
            return "local"
        if not isinstance(name, str) or unset_variables(name):
            return None
        entry = self.entries.get(name)
        if entry is None:
            if self.whole:
                self.refuse_unknown(product, name)
            return None
        cloud = entry.data.get("cloud")
        return cloud if isinstance(cloud, str) and cloud in SCHEMES else None

    def insecure(self, product: ProductEntry) -> bool:
        """Return whether a product's connection allows literal keys."""
        entry = self.entries.get(str(product.data.get("connection")))
        return entry is not None and entry.data.get("insecure") is True

    def account_complaint(self, product: ProductEntry, location: str) -> locations.Complaint | None:
        """Return what is wrong between a location on Azure and its connection's account, if something is."""
        entry = self.entries.get(str(product.data.get("connection")))
        return locations.account_complaint(location, entry.data) if entry else None

    def refuse_unknown(self, product: ProductEntry, name: str) -> None:
        hint = did_you_mean(name, self.entries) or "declare it under `connections:`"
        product.refuse("connection", f"unknown connection `{name[:LONGEST_NAME]}`", hint)


# --- products -------------------------------------------------------------------------------------


def _check_name(product: ProductEntry, names: dict[str, Place]) -> None:
    name = product.data.get("name")
    node = product.node.entries.get("name")
    if not isinstance(name, str) or node is None:
        return
    domain = name.partition(".")[0]
    if "." in name and domain.casefold() in RESERVED_DOMAINS:
        product.refuse("name", f"domain `{domain}` is reserved by DuckDB", f"rename it, e.g. `{domain}_data`")
    here = product.document.source.place(node.at)
    first = names.setdefault(name.casefold(), here)
    if first != here:
        message = f"product `{name[:LONGEST_NAME]}` is declared twice, first at {first}"
        product.refuse("name", message, "rename one of them; SQL does not tell upper from lower case")


def _check_location(product: ProductEntry, known: _Connections) -> None:
    cloud = known.cloud_of(product)
    location = product.data.get("location")
    if not isinstance(location, str) or not location:
        return
    _check_signature(product, known)
    local = (None, *SCHEMES["local"])
    if product.data.get("connection") is None and locations.scheme_of(location) not in local:
        _refuse_unconnected(product, location, known)
        cloud = None
    for message, hint in locations.complaints(location, cloud, known.by_cloud):
        product.refuse("location", message, hint)
    if cloud == "azure" and (wrong := known.account_complaint(product, location)):
        product.refuse("location", *wrong)
    form = product.data.get("format")
    if isinstance(form, str) and (found := locations.format_complaint(location, form, cloud)):
        product.refuse("location", *found)
    if isinstance(form, str) and (found := locations.wrong_format(form, cloud)):
        product.refuse("format", *found)
    if cloud == "local":
        product.data["location"] = locations.absolute(location, product.document.folder)


def _check_signature(product: ProductEntry, known: _Connections) -> None:
    node = product.node.entries.get("location")
    if isinstance(node, Scalar) and locations.holds_secret(node.text) and not known.insecure(product):
        name = variable(str(product.data.get("name")), "url")
        hint = f"export {name}=... and write ${{{name}}}"
        product.refuse("location", "holds a literal secret", hint)


def _refuse_unconnected(product: ProductEntry, location: str, known: _Connections) -> None:
    scheme = str(locations.scheme_of(location))
    homes = known.by_cloud.get(locations.cloud_of(scheme) or "", [])
    hint = f"add `connection:` with {quoted(homes)}" if homes else "declare a connection and name it"
    product.refuse("location", f"a location on {scheme}:// needs a connection", hint)


def _check_options(product: ProductEntry) -> None:
    form = product.data.get("format")
    if product.data.get("options") and form in get_args(Format) and form not in READER_FORMATS:
        hint = f"remove them; they are for {quoted(READER_FORMATS)}"
        product.refuse("options", f"format {form} has no reader options", hint)
