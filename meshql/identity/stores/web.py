"""One request to a store of secrets, by the standard library: short, and never sent elsewhere."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from meshql.identity.stores.base import TIMEOUT_SECONDS

__all__ = ["Answer", "ask"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of a response, and its JSON object; status 0 where nobody answered."""

    status: int
    body: dict[str, Any]


class _NoRedirects(HTTPRedirectHandler):
    """A redirected request would carry its token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(url: str, headers: Mapping[str, str], *, ca_file: str | None = None) -> Answer:
    """Return the answer to a GET; raises nothing for a refusal, or where nobody answers."""
    secure = HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))
    opener = build_opener(_NoRedirects, secure)
    try:
        with opener.open(Request(url, headers=dict(headers)), timeout=TIMEOUT_SECONDS) as response:
            return Answer(response.status, _object(response.read()))
    except HTTPError as error:
        return Answer(error.code, _object(error.read()))
    except (URLError, OSError, ValueError):
        return Answer(0, {})


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
