"""References in a catalog's text: `${VAR}`, `${VAR:-default}`, and `${store:address}` for secrets.

`$${` stands for a literal `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshql.errors import nearest

__all__ = [
    "ONLY_REFERENCES",
    "STORES",
    "SecretReference",
    "anchored",
    "complaint",
    "expand",
    "filled",
    "is_only_references",
    "malformed",
    "secret_references",
    "unset_variables",
]

STORES = {
    "file": "PATH",
    "keyring": "SERVICE/USER",
    "aws_secrets_manager": "NAME_OR_ARN#JSON_KEY",
    "gcp_secret_manager": "PROJECT/NAME#JSON_KEY",
    "azure_key_vault": "VAULT/NAME#JSON_KEY",
    "vault": "PATH#FIELD",
}
"""Where secrets are kept, and how the address of one is written."""

# What an address has to have; the rest is for the store to judge.
_ADDRESSES = {
    "file": r"[^\s].*",
    "keyring": r".+/[^/]+",
    "aws_secrets_manager": r"[^#\s]+(#[^#]+)?",
    "gcp_secret_manager": r"[^#/\s]+/[^#/\s]+(/versions/(\d+|latest))?(#[^#]+)?",
    "azure_key_vault": r"[A-Za-z0-9-]+/[A-Za-z0-9-]+(/[0-9a-f]+)?(#[^#]+)?",
    "vault": r"[^#\s/][^#\s]*#[^#]+",
}

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(
    rf"\$\$\{{"
    rf"|\$\{{(?P<variable>{_NAME})(?::-(?P<default>[^{{}}]*))?\}}"
    rf"|\$\{{(?P<store>{_NAME}):(?P<address>[^{{}}]+)\}}"
)

ONLY_REFERENCES = rf"^(\$\{{({_NAME}|({'|'.join(STORES)}):[^-{{}}][^{{}}]*)\}})+$"
"""A secret's text, as a regular expression that JSON schema knows too: no default, nothing in clear."""

_BARE = re.compile(ONLY_REFERENCES.removesuffix("$") + r"\Z")


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is kept: `${store:address}`."""

    store: str
    address: str

    def __str__(self) -> str:
        return f"${{{self.store}:{self.address}}}"

    @property
    def field(self) -> str | None:
        """The part behind the #: which of the values that the store keeps under one name."""
        return self.address.partition("#")[2] or None

    @property
    def path(self) -> str:
        """The part in front of the #."""
        return self.address.partition("#")[0]


def expand(text: str, environ: Mapping[str, str], *, secret: bool = False) -> tuple[str, list[str]]:
    """Return `text` with its variables replaced, and the names that are not set.

    As in a POSIX shell, `${VAR:-x}` is x when VAR is unset or empty. A reference without a default to a
    variable that is not set stays as it stands. References to stores stay, too: they are looked up when the
    `secret` is used, by `filled`, so there a literal `${` stays written as `$${`.
    """
    unset: list[str] = []

    def replace(found: re.Match[str]) -> str:
        name, default = found["variable"], found["default"]
        if name is None:
            return found[0] if secret or found["store"] else "${"
        if default is not None:
            return literal(environ.get(name) or str(default))
        if name not in environ:
            unset.append(name)
            return found[0]
        return literal(environ[name])

    def literal(value: str) -> str:
        return value.replace("${", "$${") if secret else value

    return _REFERENCE.sub(replace, text), unset


def filled(text: str, look_up: Callable[[SecretReference], str]) -> str:
    """Return a secret's expanded `text` as what it stands for; `look_up` asks the stores."""

    def replace(found: re.Match[str]) -> str:
        if found["store"]:
            return look_up(SecretReference(found["store"], found["address"]))
        return found[0] if found["variable"] else "${"

    return _REFERENCE.sub(replace, text)


def unset_variables(text: str) -> list[str]:
    """Return the names of the variables that an expanded `text` still refers to, since they were not set.

    A value in which this finds names must not be used: raise an error that says to export them.
    """
    found = (match["variable"] for match in _REFERENCE.finditer(text))
    return list(dict.fromkeys(name for name in found if name))


def secret_references(text: str) -> list[SecretReference]:
    """Return the references to stores in `text`, whether there is such a store or not."""
    found = _REFERENCE.finditer(text)
    return [SecretReference(match["store"], match["address"]) for match in found if match["store"]]


def is_only_references(text: str) -> bool:
    """Return whether `text` is nothing but references without a default."""
    return _BARE.match(text) is not None


def malformed(text: str) -> bool:
    """Return whether `text` has a `${` that starts no reference: `${`, `${1}`, `${A-b}`, `${A:-${B}}`."""
    return "${" in _REFERENCE.sub(" ", text)


def complaint(reference: SecretReference) -> tuple[str, str] | None:
    """Return what is wrong with a reference to a store, and its fix; None where nothing is."""
    form = STORES.get(reference.store)
    if form is None:
        return _no_store(reference)
    if re.fullmatch(_ADDRESSES[reference.store], reference.address):
        return None
    written = f"${{{reference.store}:{form}}}"
    return "this names no secret of its store", f"write it as {written}" + (
        "" if form.endswith("PATH") or "#JSON_KEY" not in form else "; without #... for all of its text"
    )


def _no_store(reference: SecretReference) -> tuple[str, str]:
    if reference.store.casefold() in {"env", "environ", "environment", "var"}:
        name = reference.address if re.fullmatch(_NAME, reference.address) else "VAR"
        return "the environment needs no store's name", f"write ${{{name}}}"
    near = nearest(reference.store, STORES, most=1)
    known = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(STORES)}"
    return f"no store of secrets is called `{reference.store[:64]}`", known


def anchored(text: str, folder: Path) -> str:
    """Return `text` with the paths of its `${file:...}` written out from the root, starting at `folder`."""

    def replace(found: re.Match[str]) -> str:
        if found["store"] != "file":
            return found[0]
        path = os.path.abspath(folder / os.path.expanduser(found["address"]))
        return str(SecretReference("file", path))

    return _REFERENCE.sub(replace, text)
