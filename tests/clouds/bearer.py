"""A store that knows its callers by OAuth token only, as Cloud Storage's XML API does."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

# moto serves nobody who does not seem to sign.
SIGNED = "AWS4-HMAC-SHA256 Credential=up/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"

REFUSED = b"<?xml version='1.0'?><Error><Code>AuthenticationRequired</Code></Error>"

FORWARDED = ("Range", "If-Match", "Content-Length")


class Front:
    """The address of the store, the tokens that it takes, and the requests that it was sent.

    `before` is called with the path of a request before it is answered.
    """

    def __init__(self, address, tokens):
        self.endpoint = address
        self.tokens = tokens
        self.requests = []
        self.refused = []
        self.before = lambda path: None

    def taken(self):
        """Return the requests since the last call, each its method, path and query, and forget them."""
        self.requests, found = [], self.requests
        return found


@contextmanager
def bearer_front(endpoint, *tokens):
    """Serve what the emulator at `endpoint` holds, to those who show one of `tokens`; gives a Front."""
    upstream = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            given = self.headers.get("Authorization", "")
            if given.removeprefix("Bearer ") not in front.tokens or not given.startswith("Bearer "):
                front.refused.append((self.command, self.path, given.partition(" ")[0]))
                return self.answer(401, {"Content-Type": "application/xml"}, REFUSED)
            path, mark, query = self.path.partition("?")
            front.requests.append((self.command, unquote(path), query))
            front.before(unquote(path))
            sent = {"Authorization": SIGNED, "Host": upstream}
            sent |= {name: self.headers[name] for name in FORWARDED if name in self.headers}
            connection = HTTPConnection(upstream, timeout=30)
            try:
                # moto knows no bucket whose name is percent-encoded.
                connection.request(self.command, quote(unquote(path)) + mark + query, headers=sent)
                response = connection.getresponse()
                return self.answer(response.status, dict(response.getheaders()), response.read())
            finally:
                connection.close()

        do_HEAD = do_GET

        def answer(self, status, headers, body):
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "content-length",
                    "connection",
                    "transfer-encoding",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            length = next((v for k, v in headers.items() if k.lower() == "content-length"), len(body))
            self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    front = Front(f"http://127.0.0.1:{server.server_port}", set(tokens))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
