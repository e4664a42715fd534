"""What a connection declares, with its references replaced by what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from meshql.catalog.connections import Connection
from meshql.catalog.references import SecretReference, filled, unset_variables
from meshql.errors import CredentialsError, StorageError
from meshql.identity.masks import mask
from meshql.identity.stores.registry import store_of

__all__ = ["Declared"]


@dataclass(frozen=True)
class Declared:
    """A connection, and the environment in which its references mean something.

    `kept` has the secrets that stores were asked for, and is for whoever wants each asked for once.
    """

    connection: Connection
    environ: Mapping[str, str] = field(repr=False)
    kept: dict[SecretReference, SecretStr] = field(default_factory=dict, repr=False)

    def secret(self, value: SecretStr, key: str) -> SecretStr:
        """Return the secret that `auth.<key>` refers to; stores are asked for it now.

        Raises CredentialsError where a variable is unset or a store does not tell, UnreachableError where one
        does not answer.
        """
        written = value.get_secret_value()
        missing = unset_variables(written)
        if missing:
            raise self.unset(missing[0], f"auth.{key}")
        text = filled(written, lambda reference: self._looked_up(reference, key).get_secret_value())
        mask(text, self.connection, identifier=key == "key_id")
        return SecretStr(text)

    def text(self, value: str, key: str) -> str:
        """Return text that is no secret, such as a path; raises CredentialsError for an unset variable."""
        missing = unset_variables(value)
        if missing:
            raise self.unset(missing[0], f"auth.{key}")
        return value

    def _looked_up(self, reference: SecretReference, key: str) -> SecretStr:
        if reference not in self.kept:
            try:
                found = store_of(reference, self.environ).get(reference)
            except StorageError as error:
                words = f"connection {self.connection.name}: auth.{key}: {error.message}{self.place}"
                raise type(error)(words, hint=error.hint) from None
            if not found:
                raise self.error(f"auth.{key}: {reference} is empty{self.place}", "store a value there")
            self.kept[reference] = SecretStr(found)
        return self.kept[reference]

    def path(self, value: str, key: str) -> Path:
        """Return the path that `auth.<key>` names; a relative one starts where the connection is declared."""
        path = Path(self.text(value, key)).expanduser()
        return Path(self.connection.place.file).parent / path if self.connection.place else path

    def unset(self, variable: str, key: str) -> CredentialsError:
        """Return the error for an environment variable that `key` of the connection needs."""
        return self.error(
            f"{key} needs environment variable {variable}, which is not set{self.place}",
            hint=f"export {variable}=...",
        )

    def error(self, message: str, hint: str | None = None) -> CredentialsError:
        """Return an error that names the connection."""
        return CredentialsError(f"connection {self.connection.name}: {message}", hint=hint)

    def needs(self, module: str, extra: str) -> None:
        """Raise CredentialsError with the extra to install unless `module` is there."""
        package = module.partition(".")[0]
        if find_spec(package) is None or find_spec(module) is None:
            method = getattr(getattr(self.connection, "auth", None), "method", "")
            raise self.error(
                f"auth method {method} needs {module}, which is not installed",
                hint=f"pip install 'meshql[{extra}]'",
            )

    @property
    def place(self) -> str:
        """Where the connection stands in the catalog's files, in brackets behind a blank; or nothing."""
        return f" ({self.connection.place})" if self.connection.place else ""
