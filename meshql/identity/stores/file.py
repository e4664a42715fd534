"""Secrets in files, as Docker, Kubernetes and systemd mount them."""

from __future__ import annotations

from pathlib import Path

from meshql.catalog.references import SecretReference
from meshql.errors import CredentialsError

__all__ = ["FileStore"]

LARGEST = 1_000_000


class FileStore:
    """The content of a file, without the newline at its end."""

    def get(self, reference: SecretReference) -> str:
        """Return the file's text; raises CredentialsError for one that cannot be read as text."""
        path = Path(reference.address)
        try:
            with path.open("rb") as file:
                raw = file.read(LARGEST + 1)
        except FileNotFoundError:
            raise CredentialsError(
                f"{reference}: there is no such file", hint="check the path, and that the secret is mounted"
            ) from None
        except PermissionError:
            raise CredentialsError(
                f"{reference}: this user may not read the file", hint=f"chmod u+r {path}, as its owner"
            ) from None
        except OSError as error:
            raise CredentialsError(
                f"{reference} cannot be read: {error.strerror}",
                hint="name a file that holds the secret alone",
            ) from None
        if len(raw) > LARGEST:
            raise CredentialsError(
                f"{reference} is larger than 1 MB", hint="name a file that holds the secret alone"
            )
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = None
        # The error above holds the bytes: it is left before anything is raised.
        if text is None:
            raise CredentialsError(f"{reference} is no UTF-8 text", hint="name a file of text")
        return text.removesuffix("\n").removesuffix("\r")
