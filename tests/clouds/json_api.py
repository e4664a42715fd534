"""A small real API that speaks JSON: events in pages, incremental, and as unreliable as it is told to be."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit


class JsonApi:
    """Serves `records`, in the order that they stand in.

    `/plain` gives all of them as a list; `/page`, `/offset`, `/cursor` and `/link` give pages of `size`, the
    records below data.items. `since` cuts by `column`: from that value on, or behind it unless `inclusive`.
    `faults` are used up one a request: a status, "reset", "truncated", "short" (a body that is cut, with a
    length that fits), or (status, headers).
    """

    def __init__(self, records=(), *, size=10, inclusive=True, token=None, column="id"):
        self.records = list(records)
        self.size, self.inclusive, self.token, self.column = size, inclusive, token, column
        self.faults = []
        self.requests = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                api.handle(self)

            do_HEAD = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def handle(self, http):
        parts = urlsplit(http.path)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        self.requests.append((parts.path, query))
        fault = self.faults.pop(0) if self.faults else None
        if fault == "reset":
            http.close_connection = True
            http.connection.close()
            return
        if isinstance(fault, int | tuple):
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self._send(http, status, {"error": "not now"}, headers)
            return
        if self.token and http.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(http, 401, {"error": "who are you?"}, {})
            return
        said, headers = self.answer(parts.path, query)
        self._send(http, 200, said, headers, fault)

    def answer(self, path, query):
        chosen = [r for r in self.records if self._wanted(r, query.get("since"))]
        if path == "/plain":
            return chosen, {}
        start = {
            "/page": lambda: (int(query["page"]) - 1) * self.size,
            "/offset": lambda: int(query["offset"]),
            "/cursor": lambda: int(query.get("cursor", "0")),
            "/link": lambda: int(query.get("at", "0")),
        }[path]()
        stop = start + self.size
        more = stop < len(chosen)
        said, headers = {"data": {"items": chosen[start:stop]}, "meta": {}}, {}
        if path == "/cursor":
            said["meta"]["next"] = str(stop) if more else None
        if path == "/link" and more:
            target = f"/link?{urlencode({**query, 'at': stop})}"
            headers["Link"] = f'<{self.url}/link>; rel="first", <{target}>; rel="next"'
        return said, headers

    def _wanted(self, record, since):
        if since is None:
            return True
        value = record[self.column]
        since = type(value)(since)
        return value >= since if self.inclusive else value > since

    def _send(self, http, status, said, headers, fault=None):
        content = json.dumps(said).encode()
        length = len(content)
        if fault == "truncated":
            content = content[: length // 2]
            http.close_connection = True
        if fault == "short":
            content = content[: length // 2]
            length = len(content)
        first, last = found if (found := _range(http, length)) and status == 200 else (0, length - 1)
        if found and status == 200:
            status, content, length = 206, content[first : last + 1], last + 1 - first
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(json.dumps(said).encode())}"}
        http.send_response(status)
        http.send_header("Accept-Ranges", "bytes")
        http.send_header("Last-Modified", formatdate(0, usegmt=True))
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(length))
        for name, value in headers.items():
            http.send_header(name, value)
        http.end_headers()
        if http.command == "GET":
            http.wfile.write(content)


def _range(http, length):
    said = http.headers.get("Range", "")
    if not said.startswith("bytes="):
        return None
    first, _, last = said.removeprefix("bytes=").partition("-")
    return int(first), min(int(last or length), length - 1)


def http_date(moment):
    """A time as HTTP headers have it."""
    return formatdate(moment, usegmt=True)


@contextmanager
def json_api(records=(), **options):
    """Run an API for as long as the block does."""
    api = JsonApi(records, **options)
    try:
        yield api
    finally:
        api.close()
