"""What must hold inside a connection, and what its types alone cannot say."""

from __future__ import annotations

import re
from typing import get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from meshql.catalog import locations
from meshql.catalog.allowed import keys_of
from meshql.catalog.auth import Auth
from meshql.catalog.azure import AzurePlace, MisspelledError
from meshql.catalog.documents import ConnectionEntry
from meshql.catalog.mistakes import LONGEST_NAME, quoted
from meshql.catalog.nodes import Mapping, Scalar, Sequence
from meshql.catalog.references import complaint, is_only_references, secret_references
from meshql.catalog.scalars import plain_value

__all__ = ["AWS_REGION", "SECRET_KEYS", "check_connection", "variable"]

SECRET_KEYS = frozenset(
    key
    for key, info in keys_of(get_args(Auth)).items()
    if SecretStr in (info.annotation, *get_args(info.annotation))
)

AWS_REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
"""The region in the name of one of Amazon's servers."""

_URL = re.compile(r"https?://[^/\s]|\$\{", re.IGNORECASE)


def check_connection(entry: ConnectionEntry) -> None:
    """Note what is wrong inside one connection."""
    insecure = entry.data.get("insecure") is True
    for key in ("endpoint", "uri"):
        _check_url(entry, key, insecure=insecure)
    _check_names(entry)
    _check_include(entry)
    auth = entry.node.entries.get("auth")
    if isinstance(auth, Mapping):
        path = f"connections.{entry.name}"
        if not insecure:
            _check_secrets(entry, auth, f"{path}.auth")
        if entry.document.source.complete:
            _check_account(entry, auth, path)
            _check_method(entry, auth, f"{path}.auth")


def variable(*words: str) -> str:
    """Return the name of an environment variable for the secret that `words` name."""
    name = re.sub(r"\W", "_", "_".join(words))[:LONGEST_NAME].upper()
    return name if not name[:1].isdigit() else f"_{name}"


# --- addresses and names --------------------------------------------------------------------------


def _check_url(entry: ConnectionEntry, key: str, *, insecure: bool) -> None:
    value, node = entry.data.get(key), entry.node.entries.get(key)
    if not isinstance(value, str) or node is None:
        return
    source, path = entry.document.source, f"connections.{entry.name}.{key}"
    if not _URL.match(value):
        source.refuse(node.at, path, "expected a URL", "start it with https:// or http://")
    elif isinstance(node, Scalar) and _tells_secret(node.text) and not insecure:
        source.refuse(node.at, path, "holds a literal secret", "put it under `auth:`, as a reference")


def _tells_secret(url: str) -> bool:
    # A slash in a password should be written as %2F, and often is not.
    return locations.holds_secret(url) or re.search(r"://[^/:@\s]*:[^@\s]*@", url) is not None


def _check_names(entry: ConnectionEntry) -> None:
    """Note a URL where a bare name belongs."""
    source, path = entry.document.source, f"connections.{entry.name}"
    host, account = (entry.node.entries.get(key) for key in ("host", "account"))
    if isinstance(host, Scalar) and "://" in host.text:
        hint = "name the host alone; `port:`, `database:` and `auth:` say the rest"
        source.refuse(host.at, f"{path}.host", "expected a host's name, got a URL", hint)
    if isinstance(account, Scalar) and re.search(r"[/.]", account.text) and "${" not in account.text:
        named = _account_in(account.text)
        hint = f"write `account: {named}`" if named else "write the first part of its host's name"
        source.refuse(account.at, f"{path}.account", "expected an account's name, got an address", hint)


def _account_in(text: str) -> str | None:
    host = text.partition("://")[2] or text
    try:
        return AzurePlace.parse(f"https://{host.partition('/')[0]}/container").account
    except MisspelledError:
        return None


def _check_include(entry: ConnectionEntry) -> None:
    globs = entry.node.entries.get("include")
    for i, glob in enumerate(globs.items if isinstance(globs, Sequence) else ()):
        # A pattern may match the dot, too.
        if isinstance(glob, Scalar) and glob.text and not re.search(r"[.*?\[]|\$\{", glob.text):
            message, hint = f"`{glob.text[:LONGEST_NAME]}` matches no namespace.table", f"write {glob.text}.*"
            entry.document.source.refuse(glob.at, f"connections.{entry.name}.include[{i}]", message, hint)


# --- identities -----------------------------------------------------------------------------------


def _check_secrets(entry: ConnectionEntry, auth: Mapping, path: str) -> None:
    for key in auth.entries.keys() & SECRET_KEYS:
        node = auth.entries.get(key)
        if isinstance(node, Scalar) and _is_literal(node):
            name = variable(entry.name, key)
            hint = f"export {name}=... and write ${{{name}}}"
            entry.document.source.refuse(node.at, f"{path}.{key}", "holds a literal secret", hint)
    source = auth.entries.get("source")
    if isinstance(source, Mapping):
        _check_secrets(entry, source, f"{path}.source")


def _is_literal(node: Scalar) -> bool:
    if any(map(complaint, secret_references(node.text))):
        # What is wrong with its references was told when it was read.
        return False
    return not is_only_references(node.text) and bool(node.text or not node.plain)


def _check_account(entry: ConnectionEntry, auth: Mapping, path: str) -> None:
    if entry.data.get("cloud") != "azure" or _method(auth) != "account_key" or entry.data.get("account"):
        return
    message = "missing key `account`: method account_key does not tell the storage account"
    entry.document.source.refuse(entry.node.at, path, message, "add `account:` with its name")


def _check_method(entry: ConnectionEntry, auth: Mapping, path: str) -> None:
    """Note what a method lacks or has twice, and so for the identity behind it."""
    match (entry.data.get("cloud"), _method(auth)):
        case ("gcs", "service_account"):
            _check_one_of(entry, auth, path, "key_file", "key")
        case ("azure", "service_principal"):
            _check_one_of(entry, auth, path, "client_secret", "certificate_file")
            if _has(auth, "certificate_password") and not _has(auth, "certificate_file"):
                at, key = auth.entries["certificate_password"].at, f"{path}.certificate_password"
                entry.document.source.refuse(at, key, "opens no certificate", "add `certificate_file:`")
        case ("iceberg_rest", "sigv4") if not _has(auth, "region"):
            _check_region(entry, auth, path)
    source = auth.entries.get("source")
    if isinstance(source, Mapping):
        _check_method(entry, source, f"{path}.source")


def _method(auth: Mapping) -> str | None:
    method = auth.entries.get("method")
    return method.text if isinstance(method, Scalar) else None


def _has(auth: Mapping, key: str) -> bool:
    node = auth.entries.get(key)
    return node is not None and not (
        isinstance(node, Scalar) and node.plain and plain_value(node.text) is None
    )


def _check_one_of(entry: ConnectionEntry, auth: Mapping, path: str, *keys: str) -> None:
    given = [key for key in keys if _has(auth, key)]
    method, source = _method(auth), entry.document.source
    if not given and not auth.partial:
        message = f"method {method} needs {quoted(keys)}"
        source.refuse(auth.at, path, message, " or ".join(f"add `{key}:`" for key in keys))
    elif len(given) > 1:
        message = f"method {method} takes either {quoted(keys)}"
        source.refuse(auth.entries[given[-1]].at, f"{path}.{given[-1]}", message, "remove one of them")


def _check_region(entry: ConnectionEntry, auth: Mapping, path: str) -> None:
    uri = entry.data.get("uri")
    if isinstance(uri, str) and "${" not in uri and not AWS_REGION.search(urlsplit(uri).netloc):
        message = "missing key `region`: the URL names no AWS region to sign for"
        entry.document.source.refuse(auth.at, path, message, "add `region:`")
