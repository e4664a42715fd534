"""A server that answers every request with an error whose body and headers echo all that it was sent.

Stores, proxies and token services in the field do that, each with a part of it.
"""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
from xml.sax.saxutils import escape

STATUS = {
    "expired": (400, "ExpiredToken"),
    "missing": (404, "NoSuchKey"),
    "moved": (301, "PermanentRedirect"),
}


class _Handler(BaseHTTPRequestHandler):
    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        sent = f"{self.path} {unquote(self.path)} {dict(self.headers)} {body} {unquote(body)}"
        sent += base64.b64encode(sent.encode()).decode() + sent.encode().hex() + json.dumps(sent)
        status, code = next((v for k, v in STATUS.items() if k in self.path), (403, "AccessDenied"))
        raw = f"<Error><Code>{code}</Code><Message>{escape(sent)}</Message></Error>".encode()
        self.server.said.append(sent)
        self.send_response(status, code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("X-Echo", str(self.headers.get("Authorization")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *args):
        pass


@contextmanager
def nasty():
    """Run the server; it has `url`, and in `said` what it echoed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.said = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
