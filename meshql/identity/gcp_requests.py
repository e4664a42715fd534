"""Requests to Google's identity services, given up soon."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from pydantic import SecretStr

from meshql.errors import CredentialsError, UnreachableError
from meshql.identity.gcp_refusals import answer_of

if TYPE_CHECKING:
    from google.auth.transport import Response

    from meshql.catalog.connections import Connection
    from meshql.identity.declared import Declared

__all__ = ["Transport", "tokeninfo"]

CONNECT_SECONDS, READ_SECONDS, PROBE_SECONDS = 3.0, 5.0, 1.0

TOKENINFO = "https://oauth2.googleapis.com/tokeninfo"
TOKENINFO_URL = "MESHQL_GOOGLE_TOKENINFO_URL"

BUSY = frozenset({408, 429, 500, 502, 503, 504})


class Transport:
    """What google-auth sends its requests through.

    A server that does not answer raises UnreachableError at once, one that is out of order when it is asked
    the second time: google-auth would try up to five times, with pauses.
    """

    def __init__(self, declared: Declared) -> None:
        from google.auth.transport.requests import Request

        self._declared = declared
        self._request = Request()
        self._busy = 0
        self.skew = timedelta()
        """How much this machine's clock is ahead of the last server's."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Response:
        """Send one request; `timeout` is what google-auth would wait, and counts only when it is shorter."""
        from google.auth.exceptions import TransportError

        waits = (min(CONNECT_SECONDS, timeout or CONNECT_SECONDS), min(READ_SECONDS, timeout or READ_SECONDS))
        try:
            response: Response = self._request(url, method, body, headers, timeout=waits, **options)
        except TransportError as error:
            raise _unreachable(f"connection {self._declared.connection.name}", url, error.__cause__) from None
        self._note(url, response)
        return response

    def _note(self, url: str, response: Response) -> None:
        if date := response.headers.get("date"):
            self.skew = datetime.now(UTC) - parsedate_to_datetime(date)
        self._busy += response.status in BUSY
        if response.status in BUSY and self._busy > 1:
            raise UnreachableError(
                f"connection {self._declared.connection.name}: {_host(url)} is out of order: "
                f"HTTP {response.status}",
                hint="try again in a minute; https://status.cloud.google.com tells more",
            )

    def finds_metadata_server(self) -> bool:
        """Tell within a second or two whether this machine has Google's metadata server."""
        environ = self._declared.environ
        if environ.get("NO_GCE_CHECK") == "true":
            return False
        named = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT")
        host = named or environ.get("GCE_METADATA_IP") or "169.254.169.254"
        try:
            answer = self(f"http://{host}/", headers={"Metadata-Flavor": "Google"}, timeout=PROBE_SECONDS)
        except UnreachableError:
            return False
        return answer.status == 200 and bool(answer.headers.get("metadata-flavor") == "Google")


def tokeninfo(connection: Connection, token: SecretStr, environ: Mapping[str, str]) -> str | None:
    """Return the email behind a token, by Google's tokeninfo service; None where it does not tell."""
    url = environ.get(TOKENINFO_URL) or TOKENINFO
    endpoint = getattr(connection, "endpoint", None)
    if endpoint and not _is_google(endpoint) and url == TOKENINFO:
        return None
    body = urlencode({"access_token": token.get_secret_value()}).encode()
    try:
        with urlopen(Request(url, data=body), timeout=READ_SECONDS) as answer:
            email = answer_of(answer.read()).get("email")
    except HTTPError as error:
        if error.code in BUSY:
            raise _unreachable(f"connection {connection.name}", url, error) from None
        raise CredentialsError(
            f"connection {connection.name}: Google does not accept the token: it has expired or was revoked",
            hint="get a fresh one: gcloud auth print-access-token",
        ) from None
    except (OSError, HTTPException) as error:
        raise _unreachable(f"connection {connection.name}", url, error) from None
    return str(email) if email else None


def _unreachable(who: str, url: str, cause: BaseException | None) -> UnreachableError:
    name = type(cause).__name__
    why = "no answer in time" if "Timeout" in name else "its certificate is not trusted"
    if "Timeout" not in name and "SSL" not in name:
        why = "the proxy refused" if "Proxy" in name else "no connection"
    return UnreachableError(
        f"{who}: {_host(url)} does not answer: {why}",
        hint="check the network, and HTTPS_PROXY if set",
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _is_google(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host == "googleapis.com" or host.endswith(".googleapis.com")
