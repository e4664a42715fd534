"""One request to a store of secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshql.errors import UnreachableError
from meshql.identity.http import request
from meshql.identity.stores.base import TIMEOUT_SECONDS

__all__ = ["Answer", "ask"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of a response, and its JSON object; status 0 where nobody answered."""

    status: int
    body: dict[str, Any]


def ask(url: str, headers: Mapping[str, str], *, ca_file: str | None = None) -> Answer:
    """Return the answer to a GET; raises nothing for a refusal, or where nobody answers."""
    try:
        answer = request("GET", url, headers, timeout=TIMEOUT_SECONDS, ca_file=ca_file)
    except UnreachableError:
        return Answer(0, {})
    return Answer(answer.status, _object(answer.body))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
