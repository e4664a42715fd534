"""Small requests to services that speak JSON: catalogs and token endpoints."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from meshql.errors import StorageError, UnreachableError

__all__ = ["Answer", "place_of", "request", "request_once"]

TIMEOUT_SECONDS = 8.0

BUSY = frozenset({429, 502, 503, 504})
"""Answers after which the same request may do better."""

WAITS = (0.2, 0.8)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered; the body may hold secrets."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By their names in lower case."""

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
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    timeout: float = TIMEOUT_SECONDS,
    ca_file: str | None = None,
) -> Answer:
    """Send one request and return its answer, whatever its status; a GET is tried again while busy.

    Proxies are those of the environment. A redirect to another host is not followed: what shows who we are
    goes where it was meant to. `timeout` is in seconds; `ca_file` holds the certificates to trust instead of
    the system's. Raises UnreachableError when nothing answers in time.
    """
    for wait in (*WAITS, None):
        answer = request_once(method, url, headers, body, timeout=timeout, ca_file=ca_file)
        if answer.status not in BUSY or method != "GET" or wait is None:
            return answer
        time.sleep(wait)
    raise AssertionError


def request_once(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    timeout: float = TIMEOUT_SECONDS,
    ca_file: str | None = None,
) -> Answer:
    """Send one request as `request` does, and never again."""
    try:
        # Loading the system's certificates takes a tenth of a second.
        secure = [HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))] if _is_secure(url) else []
        asked = Request(url, data=body, headers=dict(headers or {}), method=method)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"{place_of(url)} cannot be asked: {error}", hint="check the URL") from None
    return _once(build_opener(_SameHost, *secure), asked, timeout)


def _is_secure(url: str) -> bool:
    return urlsplit(url).scheme.lower() == "https"


def place_of(url: str) -> str:
    """Return a URL without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _once(opener: OpenerDirector, asked: Request, timeout: float) -> Answer:
    try:
        with opener.open(asked, timeout=timeout) as response:
            return Answer(response.status, response.read(), _lowered(response.headers))
    except HTTPError as error:
        with error:
            return Answer(error.code, error.read(), _lowered(error.headers))
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise UnreachableError(
            f"{place_of(asked.full_url)} does not answer: {words}",
            hint="check the URL, the network and any proxy",
        ) from None


def _lowered(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _SameHost(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
