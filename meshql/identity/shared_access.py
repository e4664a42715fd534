"""What a shared access signature says of itself: until when, for what, where."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs

from meshql.identity.credentials import SharedAccessSignature

__all__ = ["Grant", "grant_of"]

WHOLE_ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a signature permits; None where it does not say, as with a stored access policy."""

    starts_at: datetime | None
    expires_at: datetime | None
    permissions: str | None
    scope: str

    @property
    def lists(self) -> bool:
        """Whether blobs may be listed."""
        return self._permits("l") and self.scope != "blob"

    @property
    def reads(self) -> bool:
        """Whether blobs may be read."""
        return self._permits("r")

    def _permits(self, letter: str) -> bool:
        return self.permissions is None or letter in self.permissions


SCOPES = {"c": "container", "b": "blob", "d": "directory", "bs": "snapshot", "bv": "version"}


def grant_of(credentials: SharedAccessSignature) -> Grant:
    """Return what the signature's own text says; the store may still know better."""
    said = parse_qs(credentials.sas.get_secret_value())
    resource = said.get("sr", [""])[0]
    return Grant(
        starts_at=_instant(said.get("st")),
        expires_at=_instant(said.get("se")),
        permissions=said.get("sp", [None])[0],
        scope=SCOPES.get(resource, resource) if resource else WHOLE_ACCOUNT,
    )


def _instant(values: list[str] | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(values[0]) if values else None
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None
