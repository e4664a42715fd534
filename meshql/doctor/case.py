"""What the checks of one connection know and share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from meshql.catalog.connections import Connection
from meshql.catalog.model import Product
from meshql.catalog.references import unset_variables
from meshql.doctor.endpoints import Endpoint, endpoint_of
from meshql.doctor.network import Answer
from meshql.errors import CatalogError
from meshql.identity.broker import Broker
from meshql.identity.credentials import Credentials
from meshql.identity.identify import own_words
from meshql.query.engine import Engine
from meshql.query.resolve import Resolver
from meshql.storage.location import Location

__all__ = ["Case", "Readers", "Skip"]

MARGIN_SECONDS = 0.3
"""What a step leaves of the time given, so that its own words are heard and not the deadline's."""


class Skip(Exception):
    """There is nothing that the check could look at."""


@dataclass(frozen=True, slots=True)
class Readers:
    """The engine that products are read with, beside that of any mesh."""

    broker: Broker
    engine: Engine
    resolver: Resolver


@dataclass(slots=True)
class Case:
    """A connection under examination; `products` are those whose readers are tried.

    `used_by` are the names of all products that use the connection, and `labels` what the check of a product
    is called.
    """

    connection: Connection
    products: tuple[Product, ...]
    used_by: tuple[str, ...]
    labels: dict[str, str]
    readers: Readers
    ends: float
    credentials: Credentials | None = None
    identity: str | None = None
    answer: Answer | None = None
    denied: set[str] = field(default_factory=set)
    """Checks that failed because the identity may not do what they do."""
    found: str | None = None
    """Key of an object that a listing showed."""
    mounted: list[Product] = field(default_factory=list)
    """What a remote catalog listed."""

    @property
    def product(self) -> Product | None:
        """The product on which listing and reading are tried."""
        return self.products[0] if self.products else None

    @property
    def location(self) -> Location:
        """Where that product lies."""
        if self.product is None:
            raise Skip("no product uses it")
        if missing := unset_variables(self.product.location):
            raise CatalogError(
                f"{self.product.name}: its location needs environment variable {missing[0]}, "
                "which is not set",
                hint=f"export {missing[0]}=...",
            )
        return Location.parse(self.product.location)

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the connection leads, as far as that is known by now."""
        return endpoint_of(self.connection, self.credentials, self.product)

    @property
    def fix(self) -> str:
        """Where the catalog is to be corrected."""
        place = f" ({self.connection.place})" if self.connection.place else ""
        return f"in connection {self.connection.name}{place}"

    @property
    def who(self) -> str:
        """Who we are, for sentences."""
        own = own_words(self.credentials) if self.credentials else None
        return self.identity or own or f"connection {self.connection.name}"

    @property
    def left(self) -> float:
        """Seconds that a step may take."""
        return max(self.ends - time.monotonic() - MARGIN_SECONDS, 0.1)
