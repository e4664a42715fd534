"""A store's front door: it asks every request who sent it, keeps a record, and hands it on to an emulator.

The emulators let everybody in. The gateway does what a real store does first: it finds the identity in the
request (the access key id of a SigV4 signature, a bearer token, an Azure account's shared key or signature) and
refuses those that it did not issue, that have expired, or that were revoked, in the store's own words.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

IDENTITY = re.compile(r"Credential=([^/]+)/|^Bearer (\S+)|^SharedKey ([^:]+):")

UPSTREAM = (
    "AWS4-HMAC-SHA256 Credential=gateway/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)
"""What moto lets in, which looks at no signature."""

ISSUE = "/issue/"
"""GET /issue/3 gives credentials that live for three seconds, in the words of AWS's credential_process."""

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "server", "date", "keep-alive"}


@dataclass(frozen=True)
class Request:
    """A request that came to the gateway."""

    identity: str | None
    method: str
    path: str
    headers: dict[str, str]
    status: int


@dataclass
class Gateway:
    """An HTTP server before the store at `upstream`, a URL's host and port.

    `identities` holds who is let in, and until when in seconds since the epoch; None never ends. Without any,
    everybody is. Azure's requests are handed on as they are, since Azurite does check signatures.
    """

    upstream: str
    azure: bool = False
    identities: dict[str, float | None] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    delay: float = 0.0
    before: Callable[[Request], None] | None = None
    fault: Callable[[Request], str | None] | None = None
    """Says what goes wrong with a request: `503`, `reset`, or `lost`, which is done and not answered."""
    port: int = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def issue(self, seconds: float | None = None) -> str:
        """Return a new identity that lives for `seconds`."""
        name = f"key{secrets.token_hex(8)}"
        self.identities[name] = time.time() + seconds if seconds is not None else None
        return name

    def revoke(self, identity: str) -> None:
        """Refuse this identity from now on."""
        self.identities[identity] = 0.0

    def seen(self) -> set[str | None]:
        """Return who sent requests."""
        return {request.identity for request in self.requests}

    def refusal(self, identity: str | None) -> tuple[int, str] | None:
        """Return the status and the code with which an identity is turned away."""
        if not self.identities:
            return None
        if identity not in self.identities:
            return 403, "InvalidAccessKeyId"
        ends = self.identities[identity]
        return (400, "ExpiredToken") if ends is not None and time.time() > ends else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_any(self) -> None:
        if self.path.startswith(ISSUE):
            return self.issue(float(self.path.removeprefix(ISSUE)))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        identity = self.identity()
        request = Request(identity, self.command, self.path, dict(self.headers.items()), 0)
        if self.gateway.before:
            self.gateway.before(request)
        if self.gateway.fault and (wrong := self.gateway.fault(request)):
            return self.fail(wrong, body)
        refusal = self.gateway.refusal(identity)
        if self.gateway.delay:
            time.sleep(self.gateway.delay)
        if refusal:
            status, code = refusal
            self.answer(status, {"Content-Type": "application/xml"}, _error(code))
        else:
            status = self.forward(body)
        self.gateway.requests.append(
            Request(identity, self.command, self.path, dict(self.headers.items()), status)
        )

    def fail(self, wrong: str, body: bytes) -> None:
        if wrong == "503":
            return self.answer(503, {"Content-Type": "application/xml"}, _error("SlowDown"))
        if wrong == "lost":
            self.forward(body, answered=False)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def issue(self, seconds: float) -> None:
        identity = self.gateway.issue(seconds)
        ends = datetime.fromtimestamp(self.gateway.identities[identity] or 0, UTC).isoformat()
        told = {"AccessKeyId": identity, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": ends}
        self.answer(200, {}, json.dumps({"Version": 1, **told}).encode())

    def identity(self) -> str | None:
        found = IDENTITY.search(self.headers.get("Authorization") or "")
        if found:
            return next(group for group in found.groups() if group)
        signature = parse_qs(urlsplit(self.path).query).get("sig")
        return signature[0] if signature else None

    def forward(self, body: bytes, answered: bool = True) -> int:
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "authorization")}
        kept["Authorization"] = self.headers.get("Authorization", "") if self.gateway.azure else UPSTREAM
        if not kept["Authorization"]:
            del kept["Authorization"]
        connection = HTTPConnection(self.gateway.upstream, timeout=30)
        try:
            connection.request(self.command, self.path, body or None, kept)
            response = connection.getresponse()
            content = response.read()
            if answered:
                self.answer(response.status, dict(response.getheaders()), content)
        finally:
            connection.close()
        return response.status

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = {k.lower(): v for k, v in headers.items()}.get("content-length")
        head = self.command == "HEAD"
        self.send_header("Content-Length", length if head and length else str(len(content)))
        self.end_headers()
        if not head:
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>refused</Message></Error>'.encode()


@contextmanager
def gateway(upstream: str, *, azure: bool = False) -> Iterator[Gateway]:
    """Run a gateway before the store at the URL `upstream`."""
    found = Gateway(urlsplit(upstream).netloc, azure=azure)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"gateway": found}))
    server.daemon_threads = True
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
