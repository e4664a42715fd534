"""Stores of secrets by the name that a reference has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meshql.catalog.references import SecretReference
from meshql.identity.stores.base import SecretStore

__all__ = ["store_of"]


def store_of(reference: SecretReference, environ: Mapping[str, str]) -> SecretStore:
    """Return the store that a reference names; `environ` tells where a Vault is, SDKs ask the process."""
    return _STORES[reference.store](environ)


def _file(environ: Mapping[str, str]) -> SecretStore:  # noqa: ARG001
    from meshql.identity.stores.file import FileStore

    return FileStore()


def _keyring(environ: Mapping[str, str]) -> SecretStore:  # noqa: ARG001
    from meshql.identity.stores.system_keyring import KeyringStore

    return KeyringStore()


def _aws(environ: Mapping[str, str]) -> SecretStore:  # noqa: ARG001
    from meshql.identity.stores.aws import AwsSecretsManager

    return AwsSecretsManager()


def _gcp(environ: Mapping[str, str]) -> SecretStore:
    from meshql.identity.stores.gcp import GcpSecretManager

    return GcpSecretManager(environ)


def _azure(environ: Mapping[str, str]) -> SecretStore:  # noqa: ARG001
    from meshql.identity.stores.azure import AzureKeyVault

    return AzureKeyVault()


def _vault(environ: Mapping[str, str]) -> SecretStore:
    from meshql.identity.stores.vault import VaultStore

    return VaultStore(environ)


_STORES: dict[str, Callable[[Mapping[str, str]], SecretStore]] = {
    "file": _file,
    "keyring": _keyring,
    "aws_secrets_manager": _aws,
    "gcp_secret_manager": _gcp,
    "azure_key_vault": _azure,
    "vault": _vault,
}
