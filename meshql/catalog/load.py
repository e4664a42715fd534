"""YAML files to a catalog, or to everything that is wrong in them with its place."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from meshql.catalog.base import Place
from meshql.catalog.checks import check_documents
from meshql.catalog.connections import Connection
from meshql.catalog.derived import derived_products
from meshql.catalog.documents import Document, read_documents
from meshql.catalog.files import SUFFIXES, digest_of
from meshql.catalog.mistakes import InvalidCatalogError, Mistake
from meshql.catalog.model import Catalog, CatalogFile, Product
from meshql.catalog.nodes import MOST_MISTAKES
from meshql.catalog.wording import Repair, translate

__all__ = ["check", "load"]

# Every repair of a tag may show one more tag that is wrong: the cloud, then the method.
_MOST_REPAIRS = 4


def load(path: Path | str, *, environ: Mapping[str, str] | None = None) -> Catalog:
    """Return the catalog in a folder of YAML files, or in one file.

    Variables come from `environ`, or else from the process. One that is not set and has no default leaves
    its `${VAR}` in the text and a warning in the catalog: see `unset_variables`. Raises InvalidCatalogError
    with all mistakes of all files.
    """
    catalog, mistakes = _read(Path(path), os.environ if environ is None else environ)
    if catalog is None:
        raise InvalidCatalogError(str(path), mistakes)
    return catalog


def check(path: Path | str, *, environ: Mapping[str, str] | None = None) -> tuple[Mistake, ...]:
    """Return all errors and warnings of a catalog by file, line and column; none when it is clean."""
    return _read(Path(path), os.environ if environ is None else environ)[1]


def _read(root: Path, environ: Mapping[str, str]) -> tuple[Catalog | None, tuple[Mistake, ...]]:
    if not root.exists():
        return None, (
            _about(root, "no such file or folder", "name an existing one, as in --catalog catalogs/demo"),
        )
    with _collector_paused():
        return _read_existing(root, environ)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector still: what is read is all kept, and scanning it takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_existing(root: Path, environ: Mapping[str, str]) -> tuple[Catalog | None, tuple[Mistake, ...]]:
    documents, mistakes = read_documents(root, environ)
    if not documents and not mistakes:
        hint = f"add a file that ends in {' or '.join(SUFFIXES)}"
        return None, (_about(root, "no YAML files in this folder", hint),)
    check_documents(documents)
    files = [_validate(document) for document in documents]
    mistakes += [mistake for document in documents for mistake in document.source.mistakes]
    warnings = [warning for document in documents for warning in document.warnings]
    ordered = tuple(sorted(dict.fromkeys(mistakes + warnings), key=lambda mistake: mistake.order))
    if mistakes:
        return None, ordered
    return _catalog(root, documents, [file for file in files if file], ordered, environ), ordered


def _about(root: Path, message: str, hint: str) -> Mistake:
    return Mistake(Place(file=str(root), line=0, column=0), "", message, hint)


def _catalog(
    root: Path,
    documents: list[Document],
    files: list[CatalogFile],
    warnings: tuple[Mistake, ...],
    environ: Mapping[str, str],
) -> Catalog:
    connections: dict[str, Connection] = {}
    products: dict[str, Product] = {}
    for file in files:
        connections |= file.connections or {}
        products |= {product.name: product for product in file.products or ()}
    absolute = os.path.abspath(root)
    return Catalog(
        root=absolute,
        digest=digest_of((document.name, document.raw) for document in documents),
        files=tuple(document.name for document in documents),
        warnings=warnings,
        connections=connections,
        products=derived_products(absolute, products, environ),
    )


def _validate(document: Document) -> CatalogFile | None:
    """Return a document as the model has it; notes what is wrong and returns None where it does not fit."""
    if document.data is None or not document.source.complete:
        # Of what was cut short, anything could be called missing.
        return None
    for entry in document.connections():
        entry.data |= {"name": entry.name, "place": document.source.place(entry.at)}
    for product in document.products():
        product.data["place"] = document.source.place(product.node.at)
    return _validated(document, document.data)


def _validated(document: Document, data: Any) -> CatalogFile | None:
    for _ in range(_MOST_REPAIRS):
        try:
            # Text that pydantic refuses could be a secret: its own messages go nowhere.
            return CatalogFile.model_validate(data)
        except ValidationError as error:
            repairs = _note(document, error.errors(include_url=False, include_input=False))
        if not repairs:
            break
        for repair in repairs:
            _apply(repair, data)
    return None


def _note(document: Document, errors: list[ErrorDetails]) -> list[Repair]:
    source = document.source
    mistakes, repairs = translate(source, errors[:MOST_MISTAKES])
    refused = {(mistake.place, mistake.key) for mistake in source.mistakes}
    source.mistakes += [mistake for mistake in mistakes if (mistake.place, mistake.key) not in refused]
    if len(errors) > MOST_MISTAKES:
        source.give_up(0, f"{len(errors) - MOST_MISTAKES:,} more mistakes in this file are not shown")
    return repairs


def _apply(repair: Repair, data: Any) -> None:
    for step in repair.path:
        data = data[step]
    data.pop(repair.remove)
    data[repair.key] = repair.value
