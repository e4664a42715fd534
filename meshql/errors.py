"""Every error that meshql raises on purpose.

    MeshError
    ├── QueryError            1   the SQL is wrong, or the engine refused it
    ├── UsageError            2   an argument or option is wrong
    │   └── CatalogError      2   the catalog's files are wrong
    │       └── UnknownProductError
    ├── StorageError          3   a store did not give what it should; worth a retry
    │   ├── LocationError         the location holds no such bucket, table or file
    │   ├── CredentialsError      the store refused who we are, or we have no identity
    │   ├── UnreachableError      the store did not answer
    │   ├── ExistsError           what was to be made new is there already
    │   ├── BusyError             another build is at it
    │   └── CorruptError          what the store gave is not what its format says
    ├── DeadlineError         4   the time given was not enough
    ├── ContractError         5   the data breaks its contract
    ├── PolicyError           6   a budget or policy refused it
    └── InterruptedQueryError 130 somebody cancelled it

The number is the exit code of the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from meshql.redact import redact

__all__ = [
    "BusyError",
    "CatalogError",
    "ContractError",
    "CorruptError",
    "CredentialsError",
    "DeadlineError",
    "ExistsError",
    "InterruptedQueryError",
    "LocationError",
    "MeshError",
    "PolicyError",
    "QueryError",
    "StorageError",
    "UnknownProductError",
    "UnreachableError",
    "UsageError",
    "nearest",
]


class MeshError(Exception):
    """What failed, with its value and place; `hint` is the exact fix. Secrets in them are masked."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        # What others say is quoted all over: here is the one place that all of it passes.
        self.message = redact(message)
        self.hint = hint and redact(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class QueryError(MeshError):
    """The SQL is wrong, or the engine refused to run it."""


class UsageError(MeshError):
    """An argument, an option or a file given by the user is wrong."""

    exit_code = 2


class CatalogError(UsageError):
    """The catalog cannot be read as it stands."""


class UnknownProductError(CatalogError):
    """No product of the catalog has this name."""

    @classmethod
    def from_names(cls, name: str, known: Iterable[str]) -> UnknownProductError:
        """Build the error for `name`, with the nearest of the `known` names in its hint."""
        close = nearest(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "meshql products lists them all"
        return cls(f"unknown product {name}", hint=hint)


class StorageError(MeshError):
    """A store did not give what a query needs; `code` is what the store calls it, where it said so."""

    exit_code = 3
    code: str | None = None


class LocationError(StorageError):
    """There is no such bucket, table or file."""


class CredentialsError(StorageError):
    """The store refused the identity, or there is none to show."""


class UnreachableError(StorageError):
    """The store did not answer, or not in time."""


class ExistsError(StorageError):
    """An object that was to be made new is there already: another writer was first."""


class BusyError(StorageError):
    """Another build is making the product at the moment."""


class CorruptError(StorageError):
    """The bytes are there, but they are not what the format promises."""


class DeadlineError(MeshError):
    """The time given to a statement ran out."""

    exit_code = 4


class ContractError(MeshError):
    """The data breaks the contract of its product."""

    exit_code = 5


class PolicyError(MeshError):
    """A budget or a policy refused the statement."""

    exit_code = 6


class InterruptedQueryError(MeshError):
    """Somebody cancelled the statement."""

    exit_code = 130


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the known names closest to `name`, best first, compared without case; at most `most`."""
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=most, cutoff=0.6)
    return [by_folded[c] for c in close]
