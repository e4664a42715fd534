"""Asking an API: page after page, with patience for one that is busy."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from meshql.build.step import Step
from meshql.catalog.build import HttpSource
from meshql.errors import (
    CorruptError,
    CredentialsError,
    LocationError,
    StorageError,
    UnreachableError,
    UsageError,
)
from meshql.identity.credentials import BearerToken
from meshql.identity.http import Answer, place_of, request_once

__all__ = ["Pages"]

TIMEOUT_SECONDS = 30.0

TRIES = 6
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 120.0
"""Who asks for more patience than this is told to the user instead."""

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

NEXT = re.compile(r'<([^>]*)>[^,]*;\s*rel="?([^",;]*\bnext\b[^",;]*)"?', re.IGNORECASE)

WORDS = 200
"""So much of an answer is quoted."""


class Pages:
    """The records of an API, from one value of its cursor on."""

    def __init__(self, declared: HttpSource, step: Step) -> None:
        self._declared, self._step = declared, step
        self._place = place_of(declared.url)
        self._credentials = step.mesh.identity(declared.connection) if declared.connection else None

    def records(self, since: str | None) -> Iterator[list[dict[str, Any]]]:
        """Yield the records of each page.

        Raises UnreachableError where nothing answers however often it is asked, CredentialsError where the
        API refuses who we are, CorruptError for answers that are not what the catalog says.
        """
        paging = self._declared.paging
        params = {k: _text(v) for k, v in self._declared.params.items() if v is not None}
        if since is not None and self._declared.cursor.param:
            params[self._declared.cursor.param] = since
        if paging.size is not None and paging.style != "none":
            params[paging.size_param or "limit"] = str(paging.size)
        url: str | None = _with(self._declared.url, params)
        seen = set[str]()
        counted = 0
        page = paging.first if paging.first is not None else 1
        while url is not None:
            if paging.style in ("page", "offset"):
                value = page if paging.style == "page" else counted
                url = _with(url, {paging.param or paging.style: str(value)})
            if url in seen:
                raise self._corrupt(
                    "names a page as the next one that it gave already", "check the source's `paging`"
                )
            seen.add(url)
            answer = self._answer(url)
            found = self._parsed(answer)
            records = self._records(found)
            yield records
            counted, page = counted + len(records), page + 1
            url = self._next(url, answer, found, records)

    def _next(self, url: str, answer: Answer, found: Any, records: list[dict[str, Any]]) -> str | None:
        """The next page's URL; None where this was the last."""
        paging = self._declared.paging
        match paging.style:
            case "page" | "offset":
                # Without records, or with fewer than asked for, there are no more.
                return url if records and len(records) >= (paging.size or 1) else None
            case "cursor":
                value = _at(found, paging.next or "next")
                return (
                    None if value in (None, "", False) else _with(url, {paging.param or "cursor": str(value)})
                )
            case "link":
                link = _at(found, paging.next) if paging.next else _linked(answer)
                return self._followed(url, str(link)) if link else None
        return None

    def _followed(self, url: str, link: str) -> str:
        target = urljoin(url, link)
        here, there = urlsplit(url), urlsplit(target)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            # It would be shown who we are.
            raise self._corrupt(
                f"goes on at another host: {place_of(target)}", "declare that host's URL as the source"
            )
        return target

    # --- one page ---------------------------------------------------------------------------------

    def _answer(self, url: str) -> Answer:
        """Ask until there is a whole answer, or patience ends."""
        failed: StorageError | None = None
        for attempt in range(TRIES):
            self._step.check()
            wait = FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.7, 1.3)
            try:
                answer = self._asked(url)
            except UnreachableError as error:
                failed = error
            else:
                if answer.status not in BUSY and (not answer.ok or _is_json(answer)):
                    return self._accepted(answer, url)
                failed = self._busy(answer)
                wait = max(wait, self._told_to_wait(answer))
            if attempt < TRIES - 1:
                self._pause(wait)
        assert failed is not None
        raise failed

    def _pause(self, seconds: float) -> None:
        if self._step.cancelled.wait(seconds):
            self._step.check()

    def _asked(self, url: str) -> Answer:
        headers = {"Accept": "application/json", "User-Agent": "meshql"}
        if isinstance(self._credentials, BearerToken):
            headers["Authorization"] = f"Bearer {self._credentials.token.get_secret_value()}"
        try:
            return request_once("GET", url, headers, timeout=TIMEOUT_SECONDS)
        except UnreachableError as error:
            raise UnreachableError(f"{self._step.product.name}: {error.message}", hint=error.hint) from None

    def _busy(self, answer: Answer) -> StorageError:
        if answer.ok:
            return self._corrupt(
                "gives an answer that is not JSON", "check the source's `url`: is it the API's?"
            )
        return UnreachableError(
            f"{self._step.product.name}: {self._place} keeps answering HTTP {answer.status}{_words(answer)}",
            hint="try again later",
        )

    def _told_to_wait(self, answer: Answer) -> float:
        """The seconds that the API asks to wait; raises where they are too many."""
        said = answer.headers.get("retry-after", "").strip()
        if not said:
            return 0.0
        seconds = float(said) if said.isdigit() else _seconds_until(said)
        if seconds > LONGEST_WAIT_SECONDS:
            raise UnreachableError(
                f"{self._step.product.name}: {self._place} asks to wait for {seconds:,.0f} seconds"
                f" (HTTP {answer.status})",
                hint=f"run it again after {time.strftime('%H:%M:%S', time.localtime(time.time() + seconds))}",
            )
        return seconds

    def _accepted(self, answer: Answer, url: str) -> Answer:
        if answer.ok:
            return answer
        name, said = self._step.product.name, f"HTTP {answer.status}{_words(answer)}"
        if answer.status == 401 and self._credentials is not None and self._renewed():
            return self._answer(url)
        if answer.status in (401, 403):
            hint = f"check the `auth` of connection {self._declared.connection}"
            if self._declared.connection is None:
                hint = "name a connection with `cloud: http` and `auth: {method: token, token: ${API_TOKEN}}`"
            raise CredentialsError(f"{name}: {self._place} refuses who we are: {said}", hint=hint)
        if answer.status in (404, 410):
            raise LocationError(
                f"{name}: there is nothing at {self._place}: {said}", hint="check the source's `url`"
            )
        if 300 <= answer.status < 400:
            to = place_of(urljoin(url, answer.headers.get("location", "")))
            raise LocationError(
                f"{name}: {self._place} sends us to {to}", hint="put that into the source's `url`"
            )
        raise UsageError(
            f"{name}: {self._place} refuses the request: {said}", hint="check `params`, `paging` and `cursor`"
        )

    def _renewed(self) -> bool:
        assert self._credentials is not None
        assert self._declared.connection is not None
        refused = self._credentials
        self._credentials = self._step.mesh.identity(self._declared.connection, refused)
        return self._credentials != refused

    def _parsed(self, answer: Answer) -> Any:
        return json.loads(answer.body)

    def _records(self, found: Any) -> list[dict[str, Any]]:
        path = self._declared.records
        records = _at(found, path) if path else found
        if records is None and path and _has(found, path):
            return []
        if not isinstance(records, list):
            lists = [k for k, v in found.items() if isinstance(v, list)] if isinstance(found, dict) else []
            hint = (
                f"`records: {lists[0]}`?"
                if lists
                else "say where the answer holds them: `records: data.items`"
            )
            raise self._corrupt(f"gives no list of records{f' in {path}' if path else ''}", hint)
        if odd := next((r for r in records if not isinstance(r, dict)), None):
            raise self._corrupt(
                f"gives a record that is no object: {json.dumps(odd)[:40]}", "check `records`"
            )
        return records

    def _corrupt(self, what: str, hint: str) -> CorruptError:
        return CorruptError(f"{self._step.product.name}: {self._place} {what}", hint=hint)


def _is_json(answer: Answer) -> bool:
    try:
        json.loads(answer.body)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with(url: str, params: Mapping[str, str]) -> str:
    """The URL with these parameters, in place of what it says of them."""
    parts = urlsplit(url)
    kept = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k not in params]
    return urlunsplit(parts._replace(query=urlencode([*kept, *params.items()])))


def _at(found: Any, path: str) -> Any:
    """What lies at a path such as data.items; None where nothing does."""
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _has(found: Any, path: str) -> bool:
    folder, _, last = path.rpartition(".")
    inside = _at(found, folder) if folder else found
    return isinstance(inside, dict) and last in inside


def _linked(answer: Answer) -> str | None:
    found = NEXT.search(answer.headers.get("link", ""))
    return found[1] if found else None


def _seconds_until(date: str) -> float:
    try:
        return max(0.0, (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _words(answer: Answer) -> str:
    """The beginning of what an answer says, where it is text."""
    text = " ".join(answer.body.decode(errors="replace").split())[:WORDS]
    return f": {text}" if text.isprintable() and text else ""
