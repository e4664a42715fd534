"""Nodes to values in dicts, lists and scalars, with the variables of the environment filled in."""

from __future__ import annotations

import os
from collections.abc import Mapping as Environ
from pathlib import Path
from typing import Any

from meshql.catalog.allowed import takes_references, takes_secret
from meshql.catalog.base import Place
from meshql.catalog.mistakes import Mistake
from meshql.catalog.nodes import Mapping, Node, Scalar, Sequence, Source, path_text
from meshql.catalog.references import anchored, complaint, expand, malformed, secret_references
from meshql.catalog.scalars import plain_value

__all__ = ["Values"]

# SQL has ${table} and ${column} of its own: they are no variables of the environment.
VERBATIM = frozenset({"quality", "transformLogic"})


class Values:
    """Reads the values of one source; `unset` then has the first use of every variable that is not set."""

    def __init__(self, source: Source, environ: Environ[str, str]) -> None:
        self.source = source
        self.folder = Path(os.path.abspath(source.file)).parent
        self.environ = environ
        self.path: list[str | int] = []
        self.verbatim = False
        self.unset: dict[str, tuple[Place, str]] = {}

    def of(self, node: Node) -> Any:
        """Return a node's value; None for what was refused before."""
        if type(node) is Scalar:
            return self.scalar(node)
        if type(node) is Mapping:
            return self.mapping(node)
        return self.sequence(node) if type(node) is Sequence else None

    def scalar(self, node: Scalar) -> Any:
        text = node.text
        if "${" in text and not self.verbatim:
            return self.expanded(node)
        return plain_value(text) if node.plain else text

    def mapping(self, node: Mapping) -> dict[str, Any]:
        path, value = self.path, {}
        path.append("")
        for key, child in node.entries.items():
            path[-1] = key
            if key in VERBATIM and not self.verbatim:
                self.verbatim = True
                value[key] = self.of(child)
                self.verbatim = False
            else:
                value[key] = self.of(child)
        path.pop()
        return value

    def sequence(self, node: Sequence) -> list[Any]:
        path, value = self.path, []
        path.append(0)
        for index, child in enumerate(node.items):
            path[-1] = index
            value.append(self.of(child))
        path.pop()
        return value

    def expanded(self, node: Scalar) -> str:
        path = tuple(self.path)
        if found := self.complaint(node.text, path):
            self.source.refuse(node.at, path_text(path), *found)
        secret = takes_secret(path) is True
        text = anchored(node.text, self.folder) if secret else node.text
        text, unset = expand(text, self.environ, secret=secret)
        for name in unset:
            if name not in self.unset:
                self.unset[name] = self.source.place(node.at), path_text(path)
        return text

    def complaint(self, text: str, path: tuple[str | int, ...]) -> tuple[str, str] | None:
        """Return what is wrong with the references of a text, and its fix."""
        stores = secret_references(text)
        if malformed(text):
            return (
                "`${` starts no reference to a variable",
                "write ${NAME} or ${NAME:-default}; $${ stands for a literal ${",
            )
        if not takes_references(path):
            return (
                "this cannot be a reference to a variable",
                "references are only for text: write the value out",
            )
        if wrong := next(filter(None, map(complaint, stores)), None):
            return wrong
        if stores and takes_secret(path) is False:
            return (
                "a store of secrets is only for secrets, and this is none",
                "write the value out, or ${NAME} for an environment variable",
            )
        if any(s.store == "file" for s in stores) and {"{", "}"} & set(str(self.folder)):
            return "a file's path cannot hold { or }, and this folder's does", "rename the folder"
        return None

    def warnings(self) -> list[Mistake]:
        """Return a warning for every variable that is not set, at its first use."""
        return [
            Mistake(place, path, f"environment variable {name} is not set", f"export {name}=...", "warning")
            for name, (place, path) in self.unset.items()
        ]
