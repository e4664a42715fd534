"""Small servers that fail in ways no emulator does: wrong clocks, redirects, silence, refusals, proxies."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit


@contextmanager
def answering(status=200, *, headers=None, body=b"", ahead=None, tls=None, hangs=None):
    """A server that gives every request the same answer; its clock is `ahead`, a timedelta, of this one.

    Requests with the method `hangs` get none.

    Yields its address, and a list to which it appends the request lines that it sees.
    """
    seen, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            seen.append(self.requestline)
            if self.command == hangs:
                over.wait(60)
                return
            self.send_response_only(status)
            self.send_header(
                "Date", format_datetime(datetime.now(UTC) + ahead) if ahead else self.date_time_string()
            )
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = answer

        def log_message(self, *args):
            pass

    with _served(Handler, tls) as address:
        try:
            yield address, seen
        finally:
            over.set()


@contextmanager
def proxying():
    """A forward proxy for http addresses, and the request lines that it sees."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def forward(self):
            from http.client import HTTPConnection

            seen.append(self.requestline)
            target = urlsplit(self.path)
            onward = HTTPConnection(target.netloc, timeout=5)
            onward.request(self.command, self.path.partition(target.netloc)[2], headers=dict(self.headers))
            answer = onward.getresponse()
            body = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_HEAD = forward

        def log_message(self, *args):
            pass

    with _served(Handler, None) as address:
        yield address, seen


@contextmanager
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed():
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _served(handler, tls):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    # A client that does not take the certificate is no fault of the server's.
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def container_signature(store, container, permissions, ends, *, starts=None):
    """A shared access signature of a container, as Azure's service SAS of version 2020-10-02 is made."""
    said = {
        "sp": permissions,
        "st": f"{starts:%Y-%m-%dT%H:%M:%SZ}" if starts else "",
        "se": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        "spr": "https,http",
        "sv": "2020-10-02",
        "sr": "c",
    }
    resource = f"/blob/{store.key_id}/{container}"
    lines = [
        said["sp"],
        said["st"],
        said["se"],
        resource,
        "",
        "",
        said["spr"],
        said["sv"],
        said["sr"],
        *[""] * 6,
    ]
    key = base64.b64decode(store.secret)
    signed = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest()
    given = {name: value for name, value in said.items() if value}
    return "&".join(f"{k}={quote(v)}" for k, v in {**given, "sig": base64.b64encode(signed).decode()}.items())
