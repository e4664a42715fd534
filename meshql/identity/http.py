"""Small requests to services that speak JSON: catalogs and token endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from meshql.errors import StorageError, UnreachableError

__all__ = ["Answer", "place_of", "request"]

TIMEOUT_SECONDS = 8.0

BUSY = frozenset({429, 502, 503, 504})
"""Answers after which the same request may do better."""

WAITS = (0.2, 0.8)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered; the body may hold secrets."""

    status: int
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether it did what it was asked."""
        return 200 <= self.status < 300

    def json(self, place: str) -> dict[str, Any]:
        """Return the body as an object; raises StorageError where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise StorageError(f"the answer is not JSON: {place}", hint="check the URL: is it the API's?")
        return found


def request(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Send one request and return its answer, whatever its status; a GET is tried again while busy.

    Proxies are those of the environment. A redirect to another host is not followed: what shows who we are
    goes where it was meant to. Raises UnreachableError when nothing answers in eight seconds.
    """
    for wait in (*WAITS, None):
        answer = _once(method, url, headers or {}, body)
        if answer.status not in BUSY or method != "GET" or wait is None:
            return answer
        time.sleep(wait)
    raise AssertionError


def place_of(url: str) -> str:
    """Return a URL without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _once(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
    asked = Request(url, data=body, headers=dict(headers), method=method)
    try:
        with build_opener(_SameHost).open(asked, timeout=TIMEOUT_SECONDS) as response:
            return Answer(response.status, response.read())
    except HTTPError as error:
        with error:
            return Answer(error.code, error.read())
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise UnreachableError(
            f"{place_of(url)} does not answer: {words}", hint="check the URL, the network and any proxy"
        ) from None


class _SameHost(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
