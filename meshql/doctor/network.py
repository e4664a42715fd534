"""Whether a server can be reached at all: name, port, TLS, an answer, its clock; and through which proxy."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass

from meshql.doctor.endpoints import Endpoint
from meshql.errors import UnreachableError

__all__ = ["Answer", "Proxy", "ask", "proxy_of", "reach"]

PROXY_REFUSES = 407


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a request without a signature, and by how many seconds its clock is ahead."""

    status: int
    headers: Mapping[str, str]
    ahead: float | None


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy that the environment names for an address, and the variable that does."""

    variable: str
    host: str
    port: int
    login: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy itself wants to see."""
        return {"Proxy-Authorization": f"Basic {self.login}"} if self.login else {}

    def __str__(self) -> str:
        return f"proxy {self.host}:{self.port} ({self.variable})"


def proxy_of(endpoint: Endpoint) -> Proxy | None:
    """Return the proxy through which `endpoint` is reached; None where it is reached directly."""
    proxies = {name.lower(): value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    for name in (f"{endpoint.scheme}_proxy", "all_proxy"):
        url = proxies.get(name)
        if not url or endpoint.scheme not in ("http", "https"):
            continue
        if proxy_bypass(endpoint.host):
            return None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        variable = name.upper() if name.upper() in os.environ else name
        return Proxy(variable, parts.hostname or "", parts.port or 80, _login(parts))
    return None


def _login(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return base64.b64encode(text.encode()).decode()


def reach(endpoint: Endpoint, *, timeout: float, fix: str) -> Answer | None:
    """Connect to the server, and return what it says to a first request; None where it speaks no HTTP.

    `timeout` is in seconds for each step; `fix` names the place in the catalog that leads there. Raises
    UnreachableError with what went wrong, and at which step.
    """
    if endpoint.scheme == "postgres":
        _connect(endpoint, timeout, fix)
        return None
    return ask(endpoint, endpoint.path or "/", timeout=timeout, fix=fix)


def ask(endpoint: Endpoint, path: str, *, timeout: float, fix: str) -> Answer:
    """Send HEAD for a path of the server, unsigned, and return what it answers; raises UnreachableError."""
    proxy = proxy_of(endpoint)
    try:
        opened = _through(proxy, endpoint, timeout) if proxy else _directly(endpoint, timeout)
        target = path if proxy is None or endpoint.scheme == "https" else f"http://{endpoint.place}{path}"
        opened.connect()
    except Exception as error:
        raise _unconnected(error, endpoint, proxy, timeout, fix) from None
    try:
        before = time.time()
        told = proxy.headers if proxy and endpoint.scheme == "http" else {}
        opened.request("HEAD", target, headers={"User-Agent": "meshql-doctor", **told})
        answer = opened.getresponse()
        if answer.status == PROXY_REFUSES:
            raise OSError("407 proxy authentication required")
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, _ahead(headers.get("date"), before, time.time()))
    except (OSError, HTTPException) as error:
        if proxy is not None:
            raise _unconnected(error, endpoint, proxy, timeout, fix) from None
        raise _unanswered(error, endpoint, timeout, fix) from None
    finally:
        opened.close()


def _directly(endpoint: Endpoint, timeout: float) -> HTTPConnection:
    if endpoint.scheme == "https":
        return HTTPSConnection(endpoint.host, endpoint.port, timeout=timeout, context=_tls())
    return HTTPConnection(endpoint.host, endpoint.port, timeout=timeout)


def _through(proxy: Proxy, endpoint: Endpoint, timeout: float) -> HTTPConnection:
    if endpoint.scheme == "http":
        return HTTPConnection(proxy.host, proxy.port, timeout=timeout)
    opened = HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=_tls())
    opened.set_tunnel(endpoint.host, endpoint.port, proxy.headers)
    return opened


@cache
def _tls() -> ssl.SSLContext:
    """Loading the authorities takes a while, and they are the same for all."""
    return ssl.create_default_context()


def _connect(endpoint: Endpoint, timeout: float, fix: str) -> None:
    try:
        if endpoint.host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as opened:
                opened.settimeout(timeout)
                opened.connect(str(Path(endpoint.host) / f".s.PGSQL.{endpoint.port}"))
        else:
            socket.create_connection((endpoint.host, endpoint.port), timeout).close()
    except OSError as error:
        raise _unconnected(error, endpoint, None, timeout, fix) from None


def _ahead(date: str | None, before: float, after: float) -> float | None:
    """By how many seconds the server's clock is ahead of ours, to a second or so."""
    try:
        told = parsedate_to_datetime(date) if date else None
    except ValueError:
        return None
    if told is None:
        return None
    # The header leaves out fractions of a second.
    return told.timestamp() + 0.5 - datetime.fromtimestamp((before + after) / 2, UTC).timestamp()


def _unconnected(
    error: BaseException, endpoint: Endpoint, proxy: Proxy | None, timeout: float, fix: str
) -> UnreachableError:
    if proxy is not None and not isinstance(error, ssl.SSLError):
        said = _why(error, timeout)
        return UnreachableError(
            f"{proxy} does not lead to {endpoint.place}: {said}",
            hint=f"correct {proxy.variable}, or go around the proxy: export NO_PROXY={endpoint.host}",
        )
    match error:
        case ssl.SSLCertVerificationError():
            return UnreachableError(
                f"the certificate of {endpoint.place} is not trusted: {error.verify_message}",
                hint="export SSL_CERT_FILE=/path/to/its-authority.pem",
            )
        case ssl.SSLError():
            return UnreachableError(
                f"{endpoint.place} does not speak TLS", hint=f"set {endpoint.with_other_scheme} {fix}"
            )
        case socket.gaierror():
            return UnreachableError(
                f"there is no address for {endpoint.host}",
                hint=f"correct {endpoint.setting} {fix}, or this machine's DNS"
                if endpoint.value
                else "correct this machine's DNS, or name a proxy: export HTTPS_PROXY=http://HOST:PORT",
            )
        case TimeoutError():
            return UnreachableError(
                f"{endpoint.place} does not answer: {_why(error, timeout)}",
                hint=f"open the firewall or VPN to {endpoint.place}, or name a proxy: "
                f"export {'HTTP' if endpoint.scheme == 'http' else 'HTTPS'}_PROXY=http://HOST:PORT",
            )
    return UnreachableError(
        f"{endpoint.place} does not answer: {_why(error, timeout)}",
        hint=f"start the server, or correct {endpoint.setting} {fix}",
    )


def _unanswered(error: BaseException, endpoint: Endpoint, timeout: float, fix: str) -> UnreachableError:
    if isinstance(error, TimeoutError):
        return UnreachableError(
            f"{endpoint.place} takes connections, and answers nothing: {_why(error, timeout)}",
            hint=f"restart the server, or correct {endpoint.setting} {fix}",
        )
    other = f"set {endpoint.with_other_scheme} {fix}" if endpoint.scheme == "http" else None
    return UnreachableError(
        f"{endpoint.place} does not answer as HTTP",
        hint=other or f"correct {endpoint.setting} {fix}",
    )


def _why(error: BaseException, timeout: float) -> str:
    """The operating system's reason, without addresses that proxies carry."""
    match error:
        case TimeoutError():
            return f"nothing within {timeout:.1f} s"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError():
            return "connection reset"
        case socket.gaierror():
            return "its name has no address"
        case OSError() if error.errno:
            return os.strerror(error.errno).lower()
        case OSError():
            # A proxy's own words: `Tunnel connection failed: 407 Proxy Authentication Required`.
            return str(error).lower()
    return type(error).__name__
