"""Secrets of the system's keyring: Keychain, Secret Service, KWallet, Windows' Credential Locker."""

from __future__ import annotations

import shlex

from meshql.catalog.references import SecretReference
from meshql.identity.stores.base import missing, needs, refused

__all__ = ["KeyringStore"]


class KeyringStore:
    """The keyring that the keyring library finds, or $PYTHON_KEYRING_BACKEND names."""

    def get(self, reference: SecretReference) -> str:
        """Return the password of SERVICE/USER; raises CredentialsError without one."""
        needs("keyring", "keyring", reference)
        import keyring
        from keyring.errors import KeyringError, KeyringLocked, NoKeyringError

        service, _, user = reference.address.rpartition("/")
        where = "the system's keyring"
        found: str | None = None
        said = ""
        try:
            found = keyring.get_password(service, user)
        except NoKeyringError:
            said = "none is set up"
        except KeyringLocked:
            said = "it is locked"
        except KeyringError as error:
            said = type(error).__name__
        if said:
            hint = "unlock it, or name a backend: export PYTHON_KEYRING_BACKEND=..."
            raise refused(reference, where, said, hint)
        if found is None:
            hint = f"keyring set {shlex.quote(service)} {shlex.quote(user)}"
            raise missing(reference, where, hint)
        return found
