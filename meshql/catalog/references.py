"""`${VAR}` and `${VAR:-default}` in a catalog's text; `$${` stands for a literal `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["expand", "is_only_references", "malformed", "unset_variables"]

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{({_NAME})(?::-([^{{}}]*))?\}}")
_BARE = re.compile(rf"(?:\$\{{{_NAME}\}})+\Z")


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return `text` with its references replaced, and the names that are not set.

    As in a POSIX shell, `${VAR:-x}` is x when VAR is unset or empty. A reference without a default to a
    variable that is not set stays as it stands.
    """
    unset: list[str] = []

    def replace(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if name is None:
            return "${"
        if default is not None:
            return environ.get(name) or str(default)
        if name not in environ:
            unset.append(name)
        return environ.get(name, found[0])

    return _REFERENCE.sub(replace, text), unset


def unset_variables(text: str) -> list[str]:
    """Return the names of the variables that an expanded `text` still refers to, since they were not set.

    A value in which this finds names must not be used: raise an error that says to export them.
    """
    return list(dict.fromkeys(found[1] for found in _REFERENCE.finditer(text) if found[1]))


def is_only_references(text: str) -> bool:
    """Return whether `text` is nothing but references without a default."""
    return _BARE.match(text) is not None


def malformed(text: str) -> bool:
    """Return whether `text` has a `${` that starts no reference: `${`, `${1}`, `${A-b}`, `${A:-${B}}`."""
    return "${" in _REFERENCE.sub(" ", text)
