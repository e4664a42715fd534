"""Secrets of Azure Key Vault, read as whoever the Azure SDK finds."""

from __future__ import annotations

from meshql.catalog.references import SecretReference
from meshql.errors import StorageError
from meshql.identity.stores.base import missing, needs, picked, refused, unreachable
from meshql.identity.stores.web import Answer, ask
from meshql.redact import learn, quiet

__all__ = ["AzureKeyVault"]

WHERE = "Azure Key Vault"

API_VERSION = "7.4"

SCOPE = "https://vault.azure.net/.default"


class AzureKeyVault:
    """The vaults of Azure's public cloud; `address` has {vault} where a vault's name goes."""

    def __init__(self, address: str = "https://{vault}.vault.azure.net") -> None:
        self._address = address

    def get(self, reference: SecretReference) -> str:
        """Return the current version of VAULT/NAME, or VAULT/NAME/VERSION, or one key of its JSON."""
        needs("azure.identity", "azure", reference)
        vault, _, name = reference.path.partition("/")
        url = f"{self._address.format(vault=vault)}/secrets/{name}?api-version={API_VERSION}"
        answer = ask(url, {"Authorization": f"Bearer {self._token(reference)}"})
        if answer.status != 200 or not isinstance(answer.body.get("value"), str):
            raise _failure(reference, answer)
        return picked(answer.body["value"], reference)

    def _token(self, reference: SecretReference) -> str:
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import DefaultAzureCredential

        quiet("azure", "msal", "urllib3")
        token = ""
        try:
            with DefaultAzureCredential() as credential:
                token = credential.get_token(SCOPE).token
        except ClientAuthenticationError:
            token = ""
        if not token:
            hint = "az login, or export AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            raise refused(reference, WHERE, "no identity: the Azure SDK finds none", hint)
        learn(token)
        return token


def _failure(reference: SecretReference, answer: Answer) -> StorageError:
    if answer.status == 0:
        return unreachable(reference, WHERE, "check the vault's name, the network and any proxy")
    if answer.status == 404:
        return missing(reference, WHERE, "check its name: az keyvault secret list --vault-name ...")
    hint = "give this identity the role Key Vault Secrets User on the vault, and open its firewall to it"
    return refused(reference, WHERE, f"HTTP {answer.status}", hint)
