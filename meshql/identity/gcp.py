"""Credentials from Google, by google-auth."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from meshql.catalog.auth import (
    GcsAdc,
    GcsAuth,
    GcsImpersonation,
    GcsServiceAccount,
    GcsSource,
    GcsWorkloadIdentity,
    Token,
)
from meshql.identity.credentials import BearerToken
from meshql.identity.declared import Declared
from meshql.identity.gcp_files import KEY, SCOPE, load_file, load_text
from meshql.identity.gcp_refusals import LOGIN, denial, is_denial, refusal
from meshql.identity.gcp_requests import Transport, tokeninfo

if TYPE_CHECKING:
    from google.auth.credentials import Credentials as Google

    from meshql.catalog.connections import Connection

__all__ = ["credentials", "identify"]

SERVICE = "service_account"

PROVIDER = "check the pool's provider: gcloud iam workload-identity-pools providers describe ..."

IAM_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS"
"""gcloud's own variable for another address of the IAM Credentials API: a regional or private one."""

RENEWALS = {
    "google.oauth2.service_account": KEY,
    "google.auth.identity_pool": PROVIDER,
    "google.auth.aws": PROVIDER,
    "google.auth.pluggable": PROVIDER,
    "google.auth.compute_engine.credentials": "gcloud compute instances set-service-account ...",
}
"""How to get other credentials, by the module of google-auth that holds them; or else by logging in."""


def credentials(auth: GcsAuth, declared: Declared) -> BearerToken:
    """Return a token for Cloud Storage by the method of `auth`, with the principal where it is known.

    Raises CredentialsError with what Google said, and UnreachableError when Google does not answer.
    """
    declared.needs("google.auth", "gcp")
    declared.needs("requests", "gcp")
    from google.auth.exceptions import GoogleAuthError

    transport = Transport(declared)
    if isinstance(auth, GcsImpersonation):
        source = _of(auth.source or GcsAdc(method="adc"), declared, transport)
        found = _impersonated(auth, source, declared)
    elif isinstance(auth, GcsAdc | GcsServiceAccount | GcsWorkloadIdentity):
        source = found = _of(auth, declared, transport)
    else:
        raise declared.error(f"auth method {auth.method} is not known")
    try:
        found.refresh(transport)
    except (GoogleAuthError, LookupError, TypeError, ValueError) as error:
        if is_denial(error):
            raise denial(error, _principal(found), _member(source, found), auth, declared) from None
        raise refusal(error, declared, transport.skew, _renewal(source)) from None
    if not found.token:
        raise declared.error("Google's identity service gave no token", hint=_renewal(source))
    return BearerToken(SecretStr(found.token), _expiry(found), _principal(found))


def identify(
    connection: Connection, credentials: BearerToken, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return the email of the principal behind `credentials`; None where Google does not tell.

    Google's tokeninfo service is asked unless the credentials know. $MESHQL_GOOGLE_TOKENINFO_URL is another
    address for it. A token that was given for a store of one's own is not sent to Google. Raises
    CredentialsError for a token that Google does not accept, and UnreachableError.
    """
    if credentials.principal:
        return credentials.principal
    return tokeninfo(connection, credentials.token, environ)


def _of(auth: GcsSource, declared: Declared, transport: Transport) -> Google:
    """The credentials of one method, before anything is asked for."""
    match auth:
        case GcsServiceAccount():
            return _service_account(auth, declared)
        case GcsWorkloadIdentity():
            return load_file(declared.path(auth.config_file, "config_file"), declared, "external_account")
        case Token():
            from google.oauth2.credentials import Credentials

            return Credentials(declared.secret(auth.token, "source.token").get_secret_value())
    return _default(declared, transport)


def _service_account(auth: GcsServiceAccount, declared: Declared) -> Google:
    if (auth.key_file is None) == (auth.key is None):
        raise declared.error(
            "auth method service_account needs either key_file or key",
            hint="add `key_file: PATH`, or the key's JSON by reference: `key: ${GCP_SA_KEY}`",
        )
    if auth.key is not None:
        return load_text(declared.secret(auth.key, "key").get_secret_value(), "auth.key", declared, SERVICE)
    return load_file(declared.path(auth.key_file or "", "key_file"), declared, SERVICE)


# google.auth.default() starts gcloud as a program and waits up to 12 seconds for a metadata server; and it
# reads no environment but the process's.
def _default(declared: Declared, transport: Transport) -> Google:
    explicit = declared.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    path = Path(explicit).expanduser() if explicit else _well_known(declared.environ)
    if explicit and not path.exists():
        raise declared.error(
            f"$GOOGLE_APPLICATION_CREDENTIALS names {path}, which does not exist",
            hint=f"unset GOOGLE_APPLICATION_CREDENTIALS && {LOGIN}",
        )
    if path.is_file():
        return load_file(path, declared)
    if transport.finds_metadata_server():
        from google.auth.compute_engine import Credentials

        universe = declared.environ.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "googleapis.com")
        return Credentials(scopes=[SCOPE], universe_domain=universe)
    raise declared.error(
        "there are no application default credentials: $GOOGLE_APPLICATION_CREDENTIALS is not set, "
        f"{path} does not exist, and this machine has no metadata server",
        hint=LOGIN,
    )


def _well_known(environ: Mapping[str, str]) -> Path:
    folder = environ.get("CLOUDSDK_CONFIG")
    if folder is None and os.name == "nt":
        folder = str(Path(environ.get("APPDATA", "~")) / "gcloud")
    return Path(folder or "~/.config/gcloud").expanduser() / "application_default_credentials.json"


def _impersonated(auth: GcsImpersonation, source: Google, declared: Declared) -> Google:
    from google.auth.impersonated_credentials import Credentials

    endpoint = declared.environ.get(IAM_ENDPOINT)
    path = f"v1/projects/-/serviceAccounts/{auth.service_account}:generateAccessToken"
    return Credentials(
        source,
        auth.service_account,
        [SCOPE],
        delegates=[_resource(account) for account in auth.delegates],
        lifetime=auth.duration,
        iam_endpoint_override=f"{endpoint.rstrip('/')}/{path}" if endpoint else None,
    )


def _resource(account: str) -> str:
    return account if account.startswith("projects/") else f"projects/-/serviceAccounts/{account}"


def _member(source: Google, found: Google) -> str | None:
    """Who impersonates, as IAM spells it; None where nobody knows."""
    if source is found:
        return None
    principal = _principal(source)
    if not principal:
        return None
    return f"{'serviceAccount' if principal.endswith('.gserviceaccount.com') else 'user'}:{principal}"


def _principal(found: Google) -> str | None:
    email = getattr(found, "service_account_email", None) or getattr(found, "account", None)
    return str(email) if email and email != "default" else None


def _renewal(found: Google) -> str:
    """How to get other credentials of the same kind."""
    return RENEWALS.get(type(found).__module__, LOGIN)


def _expiry(found: Google) -> datetime | None:
    expiry: datetime | None = found.expiry
    return expiry.replace(tzinfo=UTC) if expiry and expiry.tzinfo is None else expiry
