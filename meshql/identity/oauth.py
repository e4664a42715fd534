"""Tokens of OAuth 2 client credentials (RFC 6749, section 4.4)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from meshql.catalog.auth import ClientCredentials
from meshql.catalog.connections import IcebergRestConnection, UnityConnection
from meshql.errors import StorageError
from meshql.identity.credentials import BearerToken
from meshql.identity.declared import Declared
from meshql.identity.http import Answer, place_of, request

__all__ = ["client_credentials"]

SCOPES = {"iceberg_rest": "catalog", "unity": "all-apis"}
"""What is asked for where the connection names no scope."""


def client_credentials(auth: ClientCredentials, declared: Declared) -> BearerToken:
    """Return a token that the connection's token endpoint gives for its client, with its end.

    Raises CredentialsError where the endpoint refuses the client, UnreachableError where it does not answer.
    """
    url = declared.text(auth.token_uri or _own_endpoint(declared), "token_uri")
    cloud = declared.connection.cloud
    form = {
        "grant_type": "client_credentials",
        "client_id": declared.text(auth.client_id, "client_id"),
        "client_secret": declared.secret(auth.client_secret, "client_secret").get_secret_value(),
        "scope": declared.text(auth.scope or SCOPES.get(cloud, ""), "scope"),
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    answer = request("POST", url, headers, urlencode(form).encode())
    if not answer.ok:
        if answer.status >= 500:
            raise StorageError(f"the token endpoint failed with HTTP {answer.status}: {place_of(url)}")
        raise declared.error(
            f"the token endpoint refused the client ({_reason(answer)}): {place_of(url)}",
            hint="check auth.client_id, auth.client_secret and auth.scope of the connection",
        )
    said = answer.json(place_of(url))
    token = said.get("access_token")
    if not isinstance(token, str) or not token:
        raise declared.error(f"the token endpoint gave no token: {place_of(url)}")
    seconds = said.get("expires_in")
    ends = datetime.now(UTC) + timedelta(seconds=float(seconds)) if seconds is not None else None
    return BearerToken(SecretStr(token), ends)


def _own_endpoint(declared: Declared) -> str:
    match declared.connection:
        case IcebergRestConnection(uri=uri):
            return f"{uri.rstrip('/').removesuffix('/v1')}/v1/oauth/tokens"
        case UnityConnection(uri=uri):
            parts = urlsplit(uri)
            return f"{parts.scheme}://{parts.netloc}/oidc/v1/token"
    raise declared.error("auth method oauth2 needs token_uri", hint="add `token_uri:` below auth")


def _reason(answer: Answer) -> str:
    """The error's code, which RFC 6749 fixes; its description may repeat what was sent."""
    try:
        code = json.loads(answer.body).get("error")
    except (ValueError, AttributeError):
        code = None
    known = isinstance(code, str) and code.replace("_", "").isalnum() and len(code) < 40
    return f"HTTP {answer.status} {code}" if known else f"HTTP {answer.status}"
