"""Several Azure storage accounts behind their real host names: one Azurite behind a tls.Front.

Azurite knows an account by the host that a request was sent to, and checks shared keys and shared access
signatures itself. It takes no tokens over plain HTTP, so those are checked here, as Azure does, and the
request goes on signed with the account's key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from email.utils import formatdate
from urllib.parse import parse_qs, quote, urlsplit

from clouds.entra import Refused
from clouds.tls import Request, forward
from meshql.demo import emulators
from meshql.demo.stores import Store

VERSION = "2021-12-02"

HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
"""What a shared key signs besides x-ms-*, in this order."""


class Accounts:
    """Accounts by name in one Azurite; `entra` checks their tokens."""

    def __init__(self, names, folder, program, entra):
        self.keys = {name: _key(name) for name in names}
        self.entra = entra
        self.readers = None
        """Claims `appid` and `upn` that may read; None for everybody."""
        given = os.environ.get("AZURITE_ACCOUNTS")
        os.environ["AZURITE_ACCOUNTS"] = ";".join(f"{name}:{key}" for name, key in self.keys.items())
        try:
            self._server = emulators.start("accounts", "azurite", folder, program=program)
        finally:
            os.environ.pop("AZURITE_ACCOUNTS") if given is None else os.environ.update(AZURITE_ACCOUNTS=given)
        self.address = urlsplit(self._server.endpoint).netloc

    def close(self):
        emulators.stop(self._server)

    def store(self, name):
        """Return one account as the emulator's users see it, past the front."""
        return Store("azure", f"http://{self.address}/{name}", name, self.keys[name])

    def publish(self, account, container):
        """Let everybody read a container."""
        url = f"/{container}?restype=container&comp=acl"
        request = Request(
            "", "PUT", url, {"x-ms-version": VERSION, "x-ms-blob-public-access": "container"}, b""
        )
        headers = {**request.headers, "Host": f"{account}.blob.core.windows.net", "Content-Length": "0"}
        status, _, told = forward(self.address, request, self._signed(account, request, headers))
        assert status == 200, told

    def connection_string(self, name, suffix="core.windows.net"):
        """Return an account's connection string as Azure's portal shows it."""
        key = self.keys[name]
        return f"DefaultEndpointsProtocol=https;AccountName={name};AccountKey={key};EndpointSuffix={suffix}"

    def sas(self, name, *, expires="2099-01-01T00:00:00Z", allowed="rl"):
        """Return a shared access signature of the whole account."""
        signed = (name, allowed, "b", "sco", "", expires, "", "https,http", VERSION, "", "")
        text = "\n".join(signed)
        return (
            f"sv={VERSION}&ss=b&srt=sco&sp={allowed}&se={quote(expires)}&spr=https,http"
            f"&sig={quote(self._sign(name, text), safe='')}"
        )

    def host(self, request):
        """Answer for the hosts of all accounts: blob, dfs and OneLake's."""
        account = request.host.partition(".")[0]
        # Reads of the Data Lake API are those of the blob API; it is only listing that differs.
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        headers["Host"] = request.host.replace(".dfs.", ".blob.", 1)
        scheme, _, shown = (request.header("Authorization") or "").partition(" ")
        identity = shown.partition(":")[0] if scheme == "SharedKey" else None
        if account not in self.keys:
            return self._refusal(Refused(404, "ResourceNotFound", f"no account {account}"))
        if scheme == "Bearer":
            try:
                identity = self._reader(shown)
            except Refused as refused:
                return self._refusal(refused)
            headers = self._signed(account, request, headers)
        elif "sig=" in request.url:
            identity = account
        return (*forward(self.address, request, headers), identity)

    def _reader(self, token):
        claims = self.entra.checked(token)
        identity = claims.get("upn") or claims["appid"]
        if self.readers is not None and identity not in self.readers:
            raise Refused(403, "AuthorizationPermissionMismatch", "not authorized for this operation")
        return identity

    @staticmethod
    def _refusal(refused):
        text = f"<?xml version='1.0'?><Error><Code>{refused.error}</Code><Message>{refused.description}</Message></Error>"
        headers = {"Content-Type": "application/xml", "x-ms-error-code": refused.error}
        return refused.status, headers, text.encode(), None

    def _sign(self, account, text):
        digest = hmac.new(base64.b64decode(self.keys[account]), text.encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()

    def _signed(self, account, request, headers):
        """The headers of a request with a shared key in the place of the token.

        https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        kept = {k: v for k, v in headers.items() if k.lower() not in ("authorization", "date")}
        kept |= {"x-ms-date": formatdate(usegmt=True)}
        lower = {k.lower(): v for k, v in kept.items()}
        given = [lower.get(name, "") for name in HEADERS]
        given[HEADERS.index("content-length")] = str(len(request.body) or "")
        named = [f"{k}:{v}" for k, v in sorted(lower.items()) if k.startswith("x-ms-")]
        parts = urlsplit(request.url)
        asked = [
            f"{name.lower()}:{','.join(sorted(values))}"
            for name, values in sorted(parse_qs(parts.query, keep_blank_values=True).items())
        ]
        text = "\n".join([request.method, *given, *named, f"/{account}{parts.path}", *asked])
        return kept | {"Authorization": f"SharedKey {account}:{self._sign(account, text)}"}


def _key(name):
    return base64.b64encode(hashlib.sha512(name.encode()).digest()).decode()
