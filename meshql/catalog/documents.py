"""The files of a catalog as documents: nodes with their places, and values with the variables filled in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Mapping as Environ
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshql.catalog.base import Place
from meshql.catalog.files import read_text, yaml_files
from meshql.catalog.mistakes import Mistake
from meshql.catalog.nodes import Mapping, Sequence, Source, compose
from meshql.catalog.values import Values

__all__ = ["ConnectionEntry", "Document", "ProductEntry", "read_documents"]

MASK = "\0"
"""Marks a masked key; no other key of a file can hold it."""


@dataclass
class ConnectionEntry:
    """A connection as its file has it, whatever that is worth."""

    document: Document
    name: str
    at: int
    node: Mapping
    data: dict[str, Any]


@dataclass
class ProductEntry:
    """A product as its file has it, whatever that is worth."""

    document: Document
    index: int
    node: Mapping
    data: dict[str, Any]

    def refuse(self, key: str, message: str, hint: str | None = None) -> None:
        """Note an error at the value of one of the product's keys."""
        at = self.node.entries.get(key, self.node)
        self.document.source.refuse(at.at, f"products[{self.index}].{key}", message, hint)


@dataclass
class Document:
    """One file: the text's nodes in `source`, and their values in `data`."""

    path: Path
    name: str
    source: Source
    raw: bytes = b""
    data: Any = None
    warnings: list[Mistake] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder that relative locations start at."""
        return Path(os.path.abspath(self.path)).parent

    def connections(self) -> Iterator[ConnectionEntry]:
        """Yield what is declared as connections and is at least a mapping."""
        nodes = self.source.root.entries.get("connections") if isinstance(self.source.root, Mapping) else None
        if isinstance(nodes, Mapping):
            for name, node in nodes.entries.items():
                if isinstance(node, Mapping):
                    yield ConnectionEntry(self, name, nodes.keys[name], node, self.data["connections"][name])

    def products(self) -> Iterator[ProductEntry]:
        """Yield what is declared as products and is at least a mapping."""
        nodes = self.source.root.entries.get("products") if isinstance(self.source.root, Mapping) else None
        if isinstance(nodes, Sequence):
            for index, node in enumerate(nodes.items):
                if isinstance(node, Mapping):
                    yield ProductEntry(self, index, node, self.data["products"][index])


def read_documents(root: Path, environ: Environ[str, str]) -> tuple[list[Document], list[Mistake]]:
    """Return a catalog's files as documents, with the mistakes that belong to no readable file."""
    files, refused = yaml_files(root)
    mistakes = [Mistake(Place(file=str(path), line=0, column=0), "", reason) for path, reason in refused]
    base = root if root.is_dir() else root.parent
    return [_read(path, path.relative_to(base).as_posix(), environ) for path in files], mistakes


def _read(path: Path, name: str, environ: Environ[str, str]) -> Document:
    source = Source(str(path))
    document = Document(path, name, source)
    document.raw, text = read_text(path, source)
    if text is None:
        return document
    compose(source, text)
    if source.root is None:
        return document
    if isinstance(source.root, Mapping):
        values = Values(source, environ)
        document.data = _masked(values.mapping(source.root))
        document.warnings = values.warnings()
    elif source.complete:
        source.give_up(0, "a catalog file is a mapping of keys", "start it with `meshql: 1`")
    return document


def _masked(data: dict[str, Any]) -> dict[str, Any]:
    """Rename keys that the model has as fields but that no file may set, so that they count as unknown."""
    connections, products = data.get("connections"), data.get("products")
    for entry in connections.values() if isinstance(connections, dict) else ():
        _mask(entry, "name", "place")
    for entry in products if isinstance(products, list) else ():
        _mask(entry, "place", "placed", "beside", "table_schema")
    return data


def _mask(entry: Any, *keys: str) -> None:
    for key in keys:
        if isinstance(entry, dict) and key in entry:
            entry[key + MASK] = entry.pop(key)
