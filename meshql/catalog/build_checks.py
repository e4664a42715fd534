"""What must hold inside a `build:` block and between it and its product."""

from __future__ import annotations

from collections.abc import Mapping as ByName
from typing import Any

from meshql.catalog import locations
from meshql.catalog.build import LAYER_FORMATS
from meshql.catalog.documents import ConnectionEntry, ProductEntry
from meshql.catalog.mistakes import LONGEST_NAME, did_you_mean, quoted
from meshql.catalog.nodes import Mapping, Node, Sequence
from meshql.catalog.references import unset_variables

__all__ = ["check_build"]

WRITABLE = ("s3", "gcs", "azure", "local")

ROW_FIELDS = frozenset({"_batch", "_ingested_at", "_source"})
"""What bronze adds to each row."""


def check_build(product: ProductEntry, connections: ByName[str, ConnectionEntry], *, whole: bool) -> None:
    """Note what is wrong with a product's `build`, and fill in the format that it writes.

    Local locations of sources become absolute. `whole` says that all `connections` are known.
    """
    build, node = product.data.get("build"), product.node.entries.get("build")
    if not isinstance(build, dict) or not isinstance(node, Mapping):
        return
    kind = str(build.get("kind"))
    if kind not in LAYER_FORMATS:
        # The kind is the mistake, not the format that it would tell.
        product.data.setdefault("format", "parquet")
        return
    logged = kind == "cdc" and "tables" in build
    _check_format(product, kind, LAYER_FORMATS["bronze" if logged else kind])
    _check_place(product, connections)
    if kind == "bronze":
        _check_sources(product, build, node, connections, whole=whole)
    elif kind == "silver":
        _check_columns(product, build, node)


def _check_format(product: ProductEntry, kind: str, wanted: str) -> None:
    said = product.data.setdefault("format", wanted)
    if said != wanted and isinstance(said, str):
        what = "a log of changes" if kind == "cdc" and wanted == LAYER_FORMATS["bronze"] else kind
        product.refuse("format", f"{what} is written as {wanted}, not as {said}", "remove the key")


def _check_place(product: ProductEntry, connections: ByName[str, ConnectionEntry]) -> None:
    location = product.data.get("location")
    named = connections.get(str(product.data.get("connection")))
    cloud = named.data.get("cloud") if named else "local"
    if named and cloud not in WRITABLE:
        product.refuse("connection", f"nothing can be built on cloud {cloud}", f"one of {quoted(WRITABLE)}")
    elif isinstance(location, str) and any(sign in location for sign in "*?["):
        product.refuse("location", "what is built lies in a folder, not under a pattern", "name the folder")
    elif isinstance(location, str) and location.lower().endswith((".parquet", ".json", ".csv")):
        product.refuse("location", "what is built lies in a folder, not in a file", "name the folder")


def _check_sources(
    product: ProductEntry,
    build: dict[str, Any],
    node: Mapping,
    connections: ByName[str, ConnectionEntry],
    *,
    whole: bool,
) -> None:
    sources, nodes = build.get("sources"), node.entries.get("sources")
    if not isinstance(sources, list) or not isinstance(nodes, Sequence):
        return
    for index, (source, at) in enumerate(zip(sources, nodes.items, strict=False)):
        if isinstance(source, dict) and isinstance(at, Mapping):
            place = _Place(product, f"sources[{index}]", at)
            _check_source(place, source, connections, whole=whole)


class _Place:
    """A block below a product's `build:`, to note mistakes in."""

    def __init__(self, product: ProductEntry, path: str, node: Mapping) -> None:
        self.product = product
        self.path = path
        self.node = node

    def refuse(self, key: str, message: str, hint: str | None = None) -> None:
        """Note an error at the value of one of the block's keys."""
        at: Node = self.node.entries.get(key, self.node)
        path = f"products[{self.product.index}].build.{self.path}.{key}"
        self.product.document.source.refuse(at.at, path, message, hint)


def _check_source(
    place: _Place, source: dict[str, Any], connections: ByName[str, ConnectionEntry], *, whole: bool
) -> None:
    name = source.get("connection")
    cloud: Any = None
    if isinstance(name, str) and not unset_variables(name):
        entry = connections.get(name)
        if entry is None and whole:
            hint = did_you_mean(name, connections) or "declare it under `connections:`"
            place.refuse("connection", f"unknown connection `{name[:LONGEST_NAME]}`", hint)
        cloud = entry.data.get("cloud") if entry else None
    kind = source.get("kind")
    if kind == "http" and cloud not in (None, "http"):
        place.refuse("connection", f"an API is on cloud http, not on {cloud}", "name one with `cloud: http`")
    location = source.get("location")
    if kind != "files" or not isinstance(location, str):
        return
    if name is None:
        entry = connections.get(str(place.product.data.get("connection")))
        cloud = entry.data.get("cloud") if entry else "local"
        if locations.scheme_of(location) in ("", "file"):
            # A path beside a bucket is one of this machine.
            cloud = "local"
    if isinstance(cloud, str):
        for complaint in locations.complaints(location, cloud, {}):
            place.refuse("location", *complaint)
    if cloud == "local" and locations.scheme_of(location) in ("", "file"):
        source["location"] = locations.absolute(location, place.product.document.folder)


def _check_columns(product: ProductEntry, build: dict[str, Any], node: Mapping) -> None:
    """Note keys and partitions that `select` does not give."""
    select = build.get("select")
    if not isinstance(select, dict) or not select:
        return
    known = {str(name).casefold() for name in select} | ROW_FIELDS
    for key in ("key", "partitions"):
        given = build.get(key)
        for name in [given] if isinstance(given, str) else given or ():
            if isinstance(name, str) and name.casefold() not in known:
                at = node.entries.get(key, node)
                hint = did_you_mean(name, map(str, select)) or f"add `{name}:` below `select:`"
                path = f"products[{product.index}].build.{key}"
                message = f"no column `{name[:LONGEST_NAME]}` in select"
                product.document.source.refuse(at.at, path, message, hint)
