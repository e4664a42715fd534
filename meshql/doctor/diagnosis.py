"""What was found out about a connection, as plain values and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["Check", "Diagnosis", "State", "diagnoses_json"]

State = Literal["ok", "warning", "failed", "skipped"]
"""A check is skipped when one that it stands on failed, or when there is nothing to look at."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `message` is what was seen, `hint` the fix to type.

    `name` is credentials, network, clock, region, list, read, a format, or the name of a product that was
    asked for. `product` is the one that list, read and a reader's check looked at.
    """

    name: str
    state: State
    seconds: float
    message: str | None = None
    hint: str | None = None
    product: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it did not fail."""
        return self.state != "failed"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A connection, who we are there, and its checks in the order they were done.

    `expires_at` is an aware instant, None where nobody says; `products` are those that use the connection.
    """

    connection: str
    cloud: str
    method: str | None
    identity: str | None
    expires_at: datetime | None
    endpoint: str | None
    region: str | None
    seconds: float
    checks: tuple[Check, ...]
    products: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok for check in self.checks)

    def check(self, name: str) -> Check | None:
        """Return the check of this name, or None where it makes no sense for the connection."""
        return next((c for c in self.checks if c.name == name), None)


def diagnoses_json(diagnoses: Iterable[Diagnosis]) -> str:
    """Return an array with an object a connection: the fields of Diagnosis, and `ok`."""
    return json.dumps([_plain(d) for d in diagnoses], indent=2, ensure_ascii=False)


def _plain(found: Diagnosis) -> dict[str, Any]:
    fields = asdict(found)
    checks = [c | {"seconds": round(c["seconds"], 3)} for c in fields.pop("checks")]
    ends = found.expires_at and found.expires_at.astimezone(UTC).isoformat(timespec="seconds")
    order = {"connection": found.connection, "ok": found.ok}
    return order | fields | {"expires_at": ends, "seconds": round(found.seconds, 3), "checks": checks}
