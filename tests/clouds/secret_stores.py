"""Stubs of stores of secrets that have no emulator: they check what the real ones check of a request.

Vault: X-Vault-Token and X-Vault-Namespace, the mounts look-up, paths of both key-value versions.
Google: the token endpoint's grant and assertion (signature, audience, scope), then the bearer token and path.
Azure: App Service's managed identity (its secret header, the resource), then the bearer token, path, version.
"""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Stub(ThreadingHTTPServer):
    """Answers with what `respond(handler)` returns: a status and a JSON value. `requests` has the paths."""

    daemon_threads = True

    def __init__(self, respond):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.respond = respond
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def _answer(self):
        self.server.requests.append(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        self.form = parse_qs(self.rfile.read(length).decode())
        status, body = self.server.respond(self)
        raw = json.dumps(body).encode()
        self.send_response(status)
        if status in (301, 307):
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *args):
        pass


@contextmanager
def stub(respond):
    server = Stub(respond)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def vault(token, namespace, secrets, old_secrets):
    """A Vault with version 2 at kv/, version 1 at old/; secrets are by path below their mount."""

    def respond(request):
        given = (request.headers["X-Vault-Token"], request.headers["X-Vault-Namespace"])
        if given != (token, namespace):
            return 403, {"errors": ["permission denied"]}
        path = urlsplit(request.path).path.removeprefix("/v1/")
        if path.startswith("sys/internal/ui/mounts/"):
            mount = path.removeprefix("sys/internal/ui/mounts/").partition("/")[0] + "/"
            version = {"kv/": "2", "old/": "1"}.get(mount)
            if version is None:
                return 403, {"errors": ["preflight capability check returned 403"]}
            return 200, {"data": {"path": mount, "type": "kv", "options": {"version": version}}}
        if path.startswith("kv/data/") and (found := secrets.get(path[8:])) is not None:
            return 200, {"data": {"data": found, "metadata": {"version": 1}}}
        if path.startswith("old/") and (found := old_secrets.get(path[4:])) is not None:
            return 200, {"data": found}
        return 404, {"errors": []}

    return stub(respond)


def google(public_key, secrets, token="ya29.stub-access-token"):
    """Google's token endpoint and Secret Manager; secrets are by project/name/version."""
    from google.auth import jwt

    def respond(request):
        path = urlsplit(request.path).path
        if path == "/token":
            claims = jwt.decode(request.form["assertion"][0], certs=public_key, audience=None)
            good = (
                request.form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
                and claims["aud"].endswith("/token")
                and claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
            )
            if not good:
                return 400, {"error": "invalid_grant"}
            return 200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        if request.headers["Authorization"] != f"Bearer {token}":
            return 401, {"error": {"status": "UNAUTHENTICATED"}}
        words = path.removeprefix("/v1/").split("/")
        if words[::2] != ["projects", "secrets", "versions"] or not words[5].endswith(":access"):
            return 400, {"error": {"status": "INVALID_ARGUMENT"}}
        if words[3] == "forbidden":
            return 403, {"error": {"status": "PERMISSION_DENIED"}}
        found = secrets.get((words[1], words[3], words[5].removesuffix(":access")))
        if found is None:
            return 404, {"error": {"status": "NOT_FOUND"}}
        return 200, {"name": path, "payload": {"data": base64.b64encode(found.encode()).decode()}}

    return stub(respond)


def azure(header, secrets, token="eyJ0.stub.azure-token"):
    """An App Service's managed identity at /msi, and Key Vaults at /VAULT/; secrets by vault/name."""

    def respond(request):
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        if parts.path == "/msi":
            if request.headers["X-IDENTITY-HEADER"] != header:
                return 401, {"error": "invalid_client"}
            if query.get("resource") != ["https://vault.azure.net"]:
                return 400, {"error": "invalid_resource"}
            return 200, {"access_token": token, "expires_on": "4102444800", "token_type": "Bearer"}
        if request.headers["Authorization"] != f"Bearer {token}":
            return 401, {"error": {"code": "Unauthorized"}}
        if query.get("api-version") != ["7.4"]:
            return 400, {"error": {"code": "BadParameter"}}
        vault, _, name = parts.path.removeprefix("/").partition("/secrets/")
        if vault == "closed":
            return 403, {"error": {"code": "Forbidden", "innererror": {"code": "ForbiddenByFirewall"}}}
        if (found := secrets.get(f"{vault}/{name}")) is None:
            return 404, {"error": {"code": "SecretNotFound"}}
        return 200, {"value": found, "id": parts.path}

    return stub(respond)
