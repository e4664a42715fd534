"""User events as an API sends them: a small server whose feed is the same each time, and grows when told to.

`GET /events?since=N&limit=M` answers `{"data": [...], "meta": {"next": N}}` with the records whose sequence
is greater than N, in its order, and with what to ask for next. `POST /advance?events=N` lets N more events
happen.

The feed is as untidy as real ones: some records break the rules of a clean table, some come twice, and some
events are sent again, corrected, with a later timestamp. It runs as a program of its own, on the standard
library alone.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socketserver
import sys
import threading
from bisect import bisect_right
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["ADVANCE", "AVAILABLE", "PORT", "Feed", "records", "serve"]

PORT = 8642
AVAILABLE = 10_000
"""Events that have happened when the server first starts."""

ADVANCE = 2_500
"""Events that happen when it is told to go on."""

BEGIN = datetime(2024, 1, 1)
APART = timedelta(minutes=6)
RESENT_EACH, CORRECTED_EACH = 90, 40
CORRECTED_AFTER = 707
"""How many events later one is corrected: about three days."""

PAGE, LARGEST_PAGE = 1_000, 10_000

Record = dict[str, Any]


def records(event: int) -> tuple[Record, ...]:
    """Return what is sent when event number `event` happens, which is the last of them; numbers begin at 1.

    Before it come a correction of an earlier event, or a record that was sent already. `sequence` counts
    all that was sent.
    """
    sent = [_event(event)]
    if event % RESENT_EACH == 0:
        sent.insert(0, _event(event - 1))
    if event % CORRECTED_EACH == 0 and event > CORRECTED_AFTER:
        sent.insert(0, _correction(event - CORRECTED_AFTER, seen=event))
    first = _sent_by(event - 1) + 1
    return tuple({"sequence": first + index, **record} for index, record in enumerate(sent))


def _sent_by(event: int) -> int:
    """How many records have been sent when event number `event` has happened."""
    corrections = max(event // CORRECTED_EACH - CORRECTED_AFTER // CORRECTED_EACH, 0)
    return event + event // RESENT_EACH + corrections


def _event(number: int) -> Record:
    return _right(number) | _mistakes(number)


def _right(number: int) -> Record:
    chance = random.Random(number)
    user = f"user_{chance.randrange(100)}"
    return {
        "id": number,
        "timestamp": _moment(number),
        "user_id": f"  {user.upper()} " if number % 3 == 0 else user,
        "event_type": chance.choices(("view", "click", "purchase"), (6, 3, 1))[0],
        "value": chance.randrange(10_000) / 100,
        "raw_data": json.dumps({"page": f"/product/{chance.randrange(500)}", "device": "phone"}),
    }


def _mistakes(number: int) -> Record:
    """Return what is wrong with an event's record; some have two mistakes."""
    wrong: Record = {}
    if number % 100 == 13:
        wrong["value"] = -1.0
    if number % 150 == 13:
        wrong["user_id"] = None
    if number % 200 == 57:
        wrong["value"] = "n/a"
    if number % 250 == 83:
        wrong["event_type"] = "hover"
    if number % 500 == 111:
        wrong["timestamp"] = None
    return wrong


def _correction(number: int, *, seen: int) -> Record:
    """Return event `number` as it is sent once more just before event `seen`; one in ten is wrong itself."""
    value = -1.0 if seen % 400 == 0 else number * 7 % 10_000 / 100
    return _right(number) | {"timestamp": _moment(seen, before=1), "value": value}


def _moment(event: int, *, before: int = 0) -> str:
    return (BEGIN + event * APART - timedelta(seconds=before)).isoformat()


class Feed:
    """The records up to the newest event, in the order in which they were sent.

    `keep` is a file that remembers how many events have happened from one start to the next.
    """

    def __init__(self, available: int = AVAILABLE, keep: Path | None = None) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self.available = int(keep.read_text()) if keep and keep.exists() else available

    def advance(self, events: int = ADVANCE) -> int:
        """Let more events happen; returns how many have by now."""
        with self._lock:
            self.available += events
            if self._keep:
                self._keep.write_text(str(self.available))
            return self.available

    def page(self, since: int = 0, limit: int = PAGE) -> dict[str, Any]:
        """Return at most `limit` records behind sequence `since`, as the API answers.

        `next` is null behind the last record.
        """
        available = self.available
        first = bisect_right(range(available + 1), since, key=_sent_by)
        behind = (r for event in range(first, available + 1) for r in records(event) if r["sequence"] > since)
        found = list(islice(behind, limit))
        more = found and found[-1]["sequence"] < _sent_by(available)
        return {"data": found, "meta": {"next": found[-1]["sequence"] if more else None}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "meshql-events"
    # Headers and body go out apart: waiting for the first's receipt would cost 40 ms a page.
    disable_nagle_algorithm = True

    def __init__(self, feed: Feed, *args: Any, **kwargs: Any) -> None:
        self.feed = feed
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        path, said = self._asked()
        if path == "/":
            self._answer(HTTPStatus.OK, {"available": self.feed.available})
        elif path == "/events":
            try:
                limit = min(max(int(said.get("limit", PAGE)), 1), LARGEST_PAGE)
                page = self.feed.page(int(said.get("since", 0)), limit)
            except ValueError:
                self._refuse("since and limit are numbers")
            else:
                self._answer(HTTPStatus.OK, page)
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is /events, and POST /advance"})

    def do_POST(self) -> None:
        path, said = self._asked()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        events = said.get("events", str(ADVANCE))
        if path != "/advance":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is /events, and POST /advance"})
        elif not events.isdecimal():
            self._refuse("events is how many more of them happen")
        else:
            self._answer(HTTPStatus.OK, {"available": self.feed.advance(int(events))})

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        return url.path, {name: values[-1] for name, values in parse_qs(url.query).items()}

    def _refuse(self, reason: str) -> None:
        self._answer(HTTPStatus.BAD_REQUEST, {"error": reason})

    def _answer(self, status: HTTPStatus, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests: the log is for what goes wrong."""


class _Server(ThreadingHTTPServer):
    # On Windows the option would let two servers share a port.
    allow_reuse_address = sys.platform != "win32"

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's full name that a slow resolver would draw out."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


def serve(feed: Feed, port: int = PORT) -> ThreadingHTTPServer:
    """Return a server of this machine's own for the feed, bound to `port` (0: any free one).

    The caller runs its serve_forever. Raises OSError where the port is taken.
    """
    return _Server(("127.0.0.1", port), partial(_Handler, feed))


def main() -> None:
    """Serve until somebody ends the process."""
    parser = argparse.ArgumentParser(description="Serves user events as JSON.")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--events", type=int, default=AVAILABLE, help="how many have happened at first")
    parser.add_argument("--keep", type=Path, help="file that remembers how many have happened")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server = serve(Feed(given.events, given.keep), given.port)
    except OSError as error:
        sys.exit(f"port {given.port}: {error.strerror}")
    with server:
        server.serve_forever()


if __name__ == "__main__":
    main()
