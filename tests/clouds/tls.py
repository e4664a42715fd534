"""A TLS front: a proxy that answers for real host names, with certificates of an authority of its own.

Readers are sent through it by the usual variables alone (`Front.environment`), so what is tested is what a
network with a TLS-inspecting proxy needs. Each host has a handler; the front notes who asked what of whom.
"""

from __future__ import annotations

import fnmatch
import json
import ssl
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import trustme


@dataclass(frozen=True)
class Request:
    """One request as its host would get it; `url` is path and query."""

    host: str
    method: str
    url: str
    headers: dict
    body: bytes

    @property
    def path(self):
        return urlsplit(self.url).path

    def header(self, name):
        return next((v for k, v in self.headers.items() if k.lower() == name.lower()), None)


@dataclass(frozen=True)
class Seen:
    """What the front remembers of a request. `identity` is whom its handler found behind it."""

    host: str
    method: str
    path: str
    scheme: str
    identity: str | None
    status: int


class Front:
    """The proxy. `route` first; hosts without a route are refused with 502."""

    def __init__(self, folder):
        self.authority = trustme.CA()
        self.ca_file = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(self.ca_file)
        self.seen = []
        self._routes = []
        self._contexts = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self):
        """What a process needs in its environment, before it starts, to go through the front."""
        return {
            "HTTP_PROXY": self.url,
            "HTTPS_PROXY": self.url,
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(self.ca_file),
        }

    def route(self, pattern, handler):
        """Let `handler(Request) -> (status, headers, body, identity)` answer for hosts like `pattern`."""
        self._routes.append((pattern, handler))

    def answer(self, request):
        """Return status, headers and body, and note the request."""
        found = next((h for p, h in self._routes if fnmatch.fnmatch(request.host, p)), None)
        if found is None:
            status, headers, body, identity = 502, {}, f"no such host: {request.host}".encode(), None
        else:
            status, headers, body, identity = found(request)
        scheme = (request.header("Authorization") or "").partition(" ")[0]
        if not scheme and "sig=" in request.url:
            scheme = "sas"
        self.seen.append(
            Seen(request.host, request.method, request.path, scheme.lower() or "none", identity, status)
        )
        return status, headers, body

    def context(self, host):
        """Return the TLS context with a certificate for `host`."""
        with self._lock:
            if host not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.set_alpn_protocols(["http/1.1"])
                self.authority.issue_cert(host).configure_cert(context)
                self._contexts[host] = context
            return self._contexts[host]


def entra_host(entra):
    """Return the handler that lets an `entra.Entra` answer."""

    def handler(request):
        status, told = entra.answer(request.method, request.url, request.headers, request.body)
        return status, {"Content-Type": "application/json"}, json.dumps(told).encode(), None

    return handler


def forward(address, request, headers):
    """Send a request on to `host:port` and return status, headers and body."""
    connection = HTTPConnection(address, timeout=30)
    try:
        connection.putrequest(request.method, request.url, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if request.body and not any(name.lower() == "content-length" for name in headers):
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body or None)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


# What concerns one connection only, and is not handed on.
HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length"})


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: Front

    def _handle(self, host, url):
        length = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "")
        body = self._chunks() if chunked else self.rfile.read(length)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP - {"content-length"}}
        status, answered, content = self.front.answer(Request(host, self.command, url, headers, body))
        self.send_response_only(status)
        given = {k.lower() for k in answered}
        for name, value in answered.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        # The answer to HEAD tells the length of what GET would send.
        length = answered.get("Content-Length") or answered.get("content-length")
        if self.command == "HEAD" and length:
            self.send_header("Content-Length", length)
        elif status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(content)))
        if "date" not in given:
            self.send_header("Date", self.date_time_string())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args):
        pass


def _proxy(front):
    class Proxy(_Exchange):
        def do_CONNECT(self):
            host = self.path.rpartition(":")[0]
            self.send_response_only(200)
            self.end_headers()
            try:
                tunnel = front.context(host).wrap_socket(self.connection, server_side=True)
            except (ssl.SSLError, OSError):
                # Who does not trust the authority hangs up.
                self.close_connection = True
                return
            try:
                _inside(front, host)(tunnel, self.client_address, self.server)
            except OSError:
                pass
            finally:
                self.close_connection = True
                tunnel.close()

        def do_GET(self):
            parts = urlsplit(self.path)
            self._handle(parts.hostname or "", parts._replace(scheme="", netloc="").geturl())

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    Proxy.front = front
    return Proxy


def _inside(front, host):
    class Inside(_Exchange):
        def do_GET(self):
            self._handle(host, self.path)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    Inside.front = front
    return Inside
