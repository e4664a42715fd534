"""Secrets of HashiCorp Vault and OpenBao: key-value engines of version 2 and 1, and others that are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from meshql.catalog.references import SecretReference
from meshql.errors import CredentialsError, StorageError
from meshql.identity.stores.base import field_of, missing, refused, unreachable
from meshql.identity.stores.web import Answer, ask
from meshql.redact import learn

__all__ = ["VaultStore"]


class VaultStore:
    """The Vault at $VAULT_ADDR, as the holder of $VAULT_TOKEN or ~/.vault-token, in $VAULT_NAMESPACE."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, reference: SecretReference) -> str:
        """Return one field of the secret at a path as `vault kv get` takes it: mount/name#field."""
        mount, version = self._mount(reference)
        path = reference.path
        if version == "2":
            path = f"{mount}data/{path.removeprefix(mount)}"
        answer = self._ask(reference, path)
        if answer.status != 200:
            raise self._failure(reference, answer)
        values = answer.body.get("data")
        if version == "2" and isinstance(values, dict):
            values = values.get("data")
        if not isinstance(values, dict):
            raise CredentialsError(f"{reference}: nothing is kept at this path", hint=_look(reference))
        return field_of(values, reference)

    def _mount(self, reference: SecretReference) -> tuple[str, str]:
        """Return the path of the engine that keeps a secret, and its version, as the vault program asks."""
        answer = self._ask(reference, f"sys/internal/ui/mounts/{reference.path}")
        if answer.status == 404:
            return "", "1"
        if answer.status != 200:
            raise self._failure(reference, answer)
        data = answer.body.get("data") or {}
        return str(data.get("path", "")), str((data.get("options") or {}).get("version", "1"))

    def _ask(self, reference: SecretReference, path: str) -> Answer:
        address = self._environ.get("VAULT_ADDR", "")
        if not address.startswith(("http://", "https://")):
            raise CredentialsError(
                f"{reference} needs the address of Vault in VAULT_ADDR",
                hint="export VAULT_ADDR=https://vault.example.com:8200",
            )
        headers = {"X-Vault-Token": self._token(reference), "X-Vault-Request": "true"}
        if namespace := self._environ.get("VAULT_NAMESPACE"):
            headers["X-Vault-Namespace"] = namespace
        url = f"{address.rstrip('/')}/v1/{quote(path)}"
        return ask(url, headers, ca_file=self._environ.get("VAULT_CACERT"))

    def _token(self, reference: SecretReference) -> str:
        home = self._environ.get("HOME") or os.path.expanduser("~")
        token = self._environ.get("VAULT_TOKEN", "")
        if not token:
            try:
                token = (Path(home) / ".vault-token").read_text().strip()
            except OSError:
                token = ""
        if not token:
            raise CredentialsError(
                f"{reference} needs a token of Vault", hint="vault login, or export VAULT_TOKEN=..."
            )
        learn(token)
        return token

    def _failure(self, reference: SecretReference, answer: Answer) -> StorageError:
        where = "Vault"
        if answer.status == 0:
            return unreachable(reference, where, "check $VAULT_ADDR, $VAULT_CACERT and any proxy")
        if answer.status == 404:
            return missing(reference, where, _look(reference))
        said = f"HTTP {answer.status}"
        if answer.status == 503:
            return refused(reference, where, f"{said}: sealed", "vault operator unseal")
        if 300 <= answer.status < 400:
            hint = "set VAULT_ADDR to the node that it redirects to"
            return refused(reference, where, f"{said}: a redirect", hint)
        hint = "vault login; check $VAULT_NAMESPACE, and that a policy lets this token read the path"
        return refused(reference, where, said, hint)


def _look(reference: SecretReference) -> str:
    mount, _, name = reference.path.partition("/")
    if name.startswith("data/"):
        return f"write it without data/: ${{vault:{mount}/{name[5:]}#{reference.field}}}"
    return f"vault kv get {reference.path}"
