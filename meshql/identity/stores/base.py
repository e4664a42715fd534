"""What stores of secrets have in common: how one is asked, what its text holds, how it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from meshql.catalog.references import SecretReference
from meshql.errors import CredentialsError, StorageError, UnreachableError

__all__ = [
    "TIMEOUT_SECONDS",
    "SecretStore",
    "field_of",
    "missing",
    "needs",
    "picked",
    "refused",
    "unreachable",
]

TIMEOUT_SECONDS = 5.0
"""For one request to a store; a secret is a few bytes."""


class SecretStore(Protocol):
    """A place that keeps secrets by name."""

    def get(self, reference: SecretReference) -> str:
        """Return the secret; raises CredentialsError where it cannot be had, UnreachableError, too.

        No message holds the secret, or any other value that the store keeps.
        """


def picked(text: str, reference: SecretReference) -> str:
    """Return what a reference with a #KEY means of a JSON `text`; without one, all of the text."""
    if reference.field is None:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CredentialsError(
            f"{reference} names a JSON key, and the secret is no JSON object",
            hint=f"write it without #{reference.field}, or store the secret as JSON",
        )
    return field_of(found, reference)


def field_of(values: Mapping[str, Any], reference: SecretReference) -> str:
    """Return the value that the #KEY of a reference names; the error for a missing one tells the names."""
    value = values.get(reference.field or "")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = ", ".join(sorted(map(str, values))[:12]) or "none at all"
    if value is None:
        raise CredentialsError(
            f"{reference}: the secret has no key {reference.field}", hint=f"it has: {names}"
        )
    raise CredentialsError(
        f"{reference}: key {reference.field} is no text", hint=f"name one that is; there are: {names}"
    )


def needs(module: str, extra: str, reference: SecretReference) -> None:
    """Raise CredentialsError with the extra to install unless `module` is there."""
    package = module.partition(".")[0]
    if find_spec(package) is None or find_spec(module) is None:
        raise CredentialsError(
            f"{reference} needs {module}, which is not installed", hint=f"pip install 'meshql[{extra}]'"
        )


def missing(reference: SecretReference, where: str, hint: str) -> StorageError:
    """Return the error for a secret that is not there."""
    return CredentialsError(f"{reference}: there is no such secret in {where}", hint=hint)


def refused(reference: SecretReference, where: str, said: str, hint: str) -> StorageError:
    """Return the error for a store that does not let us read; `said` is a code or word of its own."""
    return CredentialsError(f"{reference}: {where} refused to tell it ({said})", hint=hint)


def unreachable(reference: SecretReference, where: str, hint: str) -> StorageError:
    """Return the error for a store that does not answer."""
    return UnreachableError(f"{reference}: {where} does not answer", hint=hint)
