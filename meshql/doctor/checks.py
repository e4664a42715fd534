"""The checks of a connection, each one step: credentials, network, clock, and each format's own reader."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from meshql.catalog.connections import (
    AzureConnection,
    GcsConnection,
    HttpConnection,
    LocalConnection,
    PostgresConnection,
    RemoteCatalog,
    S3Connection,
)
from meshql.catalog.model import Product
from meshql.doctor.case import Case, Skip
from meshql.doctor.network import proxy_of, reach
from meshql.doctor.permissions import new_signature
from meshql.doctor.stores import check_list, check_read, check_region
from meshql.errors import CredentialsError, StorageError
from meshql.identity.credentials import SharedAccessSignature
from meshql.identity.identify import expiry
from meshql.identity.shared_access import grant_of
from meshql.query.failure import failure
from meshql.sql import quote_identifier, quote_name

__all__ = ["Said", "Step", "method_of", "steps_of"]

WARNED_SECONDS = 60
FAILED_SECONDS = 300

SET_CLOCK = {
    "linux": "sudo timedatectl set-ntp true",
    "darwin": "sudo sntp -sS time.apple.com",
    "win32": "w32tm /resync",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a check saw; with a hint, it is a warning."""

    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A check that can be done, once those in `needs` did not fail."""

    name: str
    do: Callable[[Case], Said | str]
    needs: tuple[str, ...] = ()
    product: str | None = None


CREDENTIALS = "credentials"
NETWORK = "network"


def steps_of(case: Case) -> list[Step]:
    """Return the checks that make sense for a connection, in their order."""
    own = case.product.name if case.product else None
    steps = []
    if not isinstance(case.connection, LocalConnection | HttpConnection):
        steps.append(Step(CREDENTIALS, _credentials))
    if not isinstance(case.connection, LocalConnection) and not _is_homeless(case):
        steps.append(Step(NETWORK, _network))
    if not isinstance(case.connection, LocalConnection | PostgresConnection) and not _is_homeless(case):
        steps.append(Step("clock", _clock, (NETWORK,)))
    if isinstance(case.connection, RemoteCatalog) and case.connection.include:
        known = [s.name for s in steps if s.name != "clock"]
        steps.append(Step("list", _mounted, tuple(known)))
        steps.append(Step("read", _first_mounted, (*known, "list")))
    if case.product is None:
        return steps
    if isinstance(case.connection, S3Connection):
        steps.append(Step("region", check_region, (NETWORK,)))
    known = [s.name for s in steps if s.name != "clock"]
    if isinstance(case.connection, S3Connection | GcsConnection | AzureConnection | LocalConnection):
        steps.append(Step("list", check_list, tuple(known), own))
        known.append("list")
    if isinstance(
        case.connection, S3Connection | GcsConnection | AzureConnection | LocalConnection | HttpConnection
    ):
        steps.append(Step("read", check_read, tuple(known), own))
        known.append("read")
    for product in case.products:
        steps.append(Step(case.labels[product.name], _reader(product), tuple(known), product.name))
    return steps


def method_of(case: Case) -> str | None:
    """Return the name of the connection's auth method; None where there is nothing to show."""
    method = getattr(getattr(case.connection, "auth", None), "method", None)
    return None if method is None else str(method)


def _is_homeless(case: Case) -> bool:
    """Whether only a product would tell the address, and there is none."""
    return isinstance(case.connection, HttpConnection) and case.product is None


def _credentials(case: Case) -> str:
    """Get the credentials, and tell the method that gave them."""
    case.credentials = case.readers.broker.credentials(case.connection)
    now, ends = datetime.now(UTC), expiry(case.credentials)
    if ends is not None and ends <= now:
        raise CredentialsError(f"the credentials ended at {_moment(ends)}", hint=_renewal(case))
    if isinstance(case.credentials, SharedAccessSignature):
        starts = grant_of(case.credentials).starts_at
        if starts is not None and starts > now:
            raise CredentialsError(
                f"the shared access signature begins only at {_moment(starts)}", hint=new_signature(case)
            )
    auth = getattr(case.connection, "auth", None)
    return " ".join(filter(None, (method_of(case), getattr(auth, "profile", None))))


def _renewal(case: Case) -> str:
    if isinstance(case.credentials, SharedAccessSignature):
        return new_signature(case)
    return f"get fresh ones for `auth: {{method: {method_of(case)}}}` {case.fix}"


def _moment(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _network(case: Case) -> str:
    """Reach the server, and tell through which proxy."""
    endpoint = case.endpoint
    if endpoint is None:
        if case.credentials is None and isinstance(case.connection, AzureConnection):
            raise Skip("the credentials would tell the endpoint")
        raise StorageError(
            "nothing says where the store is", hint=f"correct the endpoint {case.fix}: https://HOST:PORT"
        )
    case.answer = reach(endpoint, timeout=case.left, fix=case.fix)
    proxy = proxy_of(endpoint)
    return f"{endpoint.place} through {proxy}" if proxy else endpoint.place


def _clock(case: Case) -> Said | str:
    """Compare this machine's clock with the server's."""
    ahead = case.answer.ahead if case.answer else None
    if ahead is None:
        raise Skip("the store does not tell the time")
    off = abs(ahead)
    if off < WARNED_SECONDS:
        return f"{off:.0f} s apart" if off >= 2 else "right"
    message = f"this machine's clock is {_span(off)} {'behind' if ahead > 0 else 'ahead of'} the store's"
    hint = SET_CLOCK.get(sys.platform, "set this machine's clock")
    if off < FAILED_SECONDS:
        return Said(message, hint)
    raise StorageError(message, hint=hint)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "")))


def _mounted(case: Case) -> Said | str:
    """Ask a remote catalog for its tables, and tell how many its `include` makes products."""
    connection = case.connection
    assert isinstance(connection, RemoteCatalog)
    case.mounted = case.readers.resolver.mounts.mounted(connection)
    count = len(case.mounted)
    if count:
        return f"{count:,} product{'' if count == 1 else 's'}, {case.mounted[0].name} first"
    return Said(
        f"no table matches include: [{', '.join(connection.include)}]",
        f"write globs over namespace.table {case.fix}; `include: ['*']` mounts all tables",
    )


def _first_mounted(case: Case) -> str:
    """Read the first of a remote catalog's tables as SQL would."""
    if not case.mounted:
        raise Skip("there is no table to read")
    return _reader(case.mounted[0])(case)


def _reader(product: Product) -> Callable[[Case], str]:
    """The check of a product's own reader: what SQL would do with the product, for one value."""

    def do(case: Case) -> str:
        engine, resolver = case.readers.engine, case.readers.resolver
        snapshot = resolver.snapshot(product)
        view = quote_name(product.domain, product.table)
        try:
            with engine.using([snapshot]):
                resolver.mount_one(snapshot)
                columns = engine.ask(f"DESCRIBE {view}")
                # All columns of a row can be as much as a whole row group.
                engine.ask(f"SELECT {quote_identifier(columns[0][0])} FROM {view} LIMIT 1")
        except Exception as error:
            raise failure(error, [snapshot]) from None
        finally:
            engine.release([snapshot])
        return f"{product.name} at version {snapshot.version}"

    return do
