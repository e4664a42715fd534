"""A small HTTP service of the tests' own: routes, bearer tokens, and every request remembered."""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, kind, message=""):
        super().__init__(kind)
        self.status, self.kind, self.message = status, kind, message


class TokenRefused(Refused):
    """An error of a token endpoint, in RFC 6749's form."""


class Service:
    """Answers with what `answer(method, path, query, headers, body)` returns, as JSON."""

    def __init__(self):
        self.requests = []
        self.tokens = {}
        self.client = ("mesh", "s3cret-of-mesh")
        self.token_seconds = 3600
        self.tokens_given = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                service.handle(self)

            do_POST = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def handle(self, http):
        length = int(http.headers.get("Content-Length") or 0)
        body = http.rfile.read(length)
        parts = urlsplit(http.path)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        path = [unquote(p) for p in parts.path.strip("/").split("/")]
        self.requests.append((http.command, parts.path))
        try:
            status, said = 200, self.answer(http.command, path, query, http.headers, body)
        except Refused as refused:
            status = refused.status
            said = self.error(refused)
            if isinstance(refused, TokenRefused):
                said = {"error": refused.kind, "error_description": refused.message}
        content = json.dumps(said, default=str).encode()
        http.send_response(status)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content)

    def error(self, refused):
        return {"error": {"type": refused.kind, "code": refused.status, "message": refused.message}}

    def give_token(self, headers, body):
        """What an OAuth 2 token endpoint does for client credentials."""
        if headers.get("Content-Type") != "application/x-www-form-urlencoded":
            raise TokenRefused(400, "invalid_request")
        form = {k: v[0] for k, v in parse_qs(body.decode()).items()}
        if form.get("grant_type") != "client_credentials":
            raise TokenRefused(400, "unsupported_grant_type")
        if (form.get("client_id"), form.get("client_secret")) != self.client:
            raise TokenRefused(401, "invalid_client", f"no client {form}")
        token = secrets.token_urlsafe(20)
        self.tokens[token] = time.time() + self.token_seconds
        self.tokens_given += 1
        return {"access_token": token, "token_type": "bearer", "expires_in": self.token_seconds}

    def check_bearer(self, headers):
        scheme, _, token = (headers.get("Authorization") or "").partition(" ")
        if scheme != "Bearer" or self.tokens.get(token, 0) < time.time():
            raise Refused(401, "NotAuthorizedException", f"no such token {token}")

    @contextmanager
    def watched(self):
        """Collects the requests made inside."""
        before = len(self.requests)
        seen = []
        yield seen
        seen += self.requests[before:]
