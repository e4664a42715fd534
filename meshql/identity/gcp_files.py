"""Google's JSON files of credentials: keys, logins and federated identities."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshql.errors import CredentialsError
from meshql.identity.declared import Declared
from meshql.identity.gcp_refusals import LOGIN
from meshql.identity.masks import mask

if TYPE_CHECKING:
    from google.auth.credentials import Credentials as Google

__all__ = ["KEY", "SCOPE", "load_file", "load_text"]

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
"""What tokens are asked for: reading objects, and writing where IAM lets the identity write.

Tables are published with the same identity that reads them; IAM is what keeps a reader from writing.
"""

KEY = "gcloud iam service-accounts keys create KEY.json --iam-account=ACCOUNT"

CLASSES = {
    "service_account": ("google.oauth2.service_account", "from_service_account_info"),
    "authorized_user": ("google.oauth2.credentials", "from_authorized_user_info"),
    "external_account_authorized_user": ("google.auth.external_account_authorized_user", "from_info"),
}
"""Kinds of credential files: the module of their class, and its method that takes their content."""

TOKEN_HOST = "CLOUDSDK_AUTH_TOKEN_HOST"
"""gcloud's own variable for another token endpoint; google-auth does not take the one in a login's file."""

FIELDS = {
    "service_account": ("client_email", "private_key", "token_uri"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
    "external_account_authorized_user": ("client_id", "client_secret", "refresh_token", "token_url"),
    "impersonated_service_account": ("source_credentials", "service_account_impersonation_url"),
    "external_account": ("audience", "subject_token_type", "token_url", "credential_source"),
}
"""What each kind cannot do without."""


def load_file(path: Path, declared: Declared, only: str | None = None) -> Google:
    """Return the credentials in a JSON file of Google's; `only` is the one type that will do.

    Raises CredentialsError for a file that is not there or holds something else. Nothing is sent.
    """
    return load_text(_read(path, declared), str(path), declared, only)


def load_text(text: str, place: str, declared: Declared, only: str | None = None) -> Google:
    """Return the credentials in a JSON text of Google's; `place` is what errors call it."""
    return _from_info(_content(text, place, declared), place, declared, only)


def _read(path: Path, declared: Declared) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise declared.error(
            f"{path} does not exist{declared.place}",
            hint=f"put the file there, or log in instead with auth: {{method: adc}}: {LOGIN}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise declared.error(f"{path} cannot be read: {said}", hint=f"ls -l {path}") from None


def _content(text: str, place: str, declared: Declared) -> dict[str, Any]:
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if isinstance(info, dict):
        return info
    raise declared.error(
        f"{place} is not the JSON of Google credentials",
        hint="it has to be the whole content of the JSON file that Google gave out",
    )


def _from_info(info: dict[str, Any], place: str, declared: Declared, only: str | None) -> Google:
    kind = info.get("type")
    if kind not in FIELDS or (only and kind != only):
        wanted = only or " or ".join(FIELDS)
        raise declared.error(
            f"{place} holds credentials of type {_name(kind)}, not {wanted}", hint=_method_for(kind, place)
        )
    for secret in ("private_key", "client_secret", "refresh_token"):
        mask(str(info.get(secret) or ""), declared.connection)
    renewal = KEY if kind == "service_account" else LOGIN
    missing = [field for field in FIELDS[kind] if not info.get(field)]
    if missing:
        raise declared.error(
            f"{place} has no {missing[0]}, which credentials of type {kind} need", hint=renewal
        )
    try:
        return _made(info, kind, place, declared)
    except CredentialsError:
        raise
    except Exception:
        # The library's words may hold what is in the file.
        part = "its private_key is no key" if kind == "service_account" else "google-auth cannot use it"
        raise declared.error(f"{place} is malformed: {part}", hint=renewal) from None


def _made(info: dict[str, Any], kind: str, place: str, declared: Declared) -> Google:
    if kind == "external_account":
        return _external(info, declared)
    if kind == "impersonated_service_account":
        return _impersonated(info, place, declared)
    module, method = CLASSES[kind]
    found = getattr(import_module(module).Credentials, method)(info)
    if kind == "service_account":
        found = found.with_scopes([SCOPE])
    elif host := declared.environ.get(TOKEN_HOST):
        found = found.with_token_uri(host)
    made: Google = found
    return made


def _impersonated(info: dict[str, Any], place: str, declared: Declared) -> Google:
    """What gcloud auth application-default login --impersonate-service-account leaves."""
    from google.auth.impersonated_credentials import Credentials

    source = _from_info(info["source_credentials"], f"source_credentials of {place}", declared, None)
    url = info["service_account_impersonation_url"]
    target = url.rpartition("/")[2].removesuffix(":generateAccessToken")
    delegates = info.get("delegates") or []
    return Credentials(source, target, [SCOPE], delegates=delegates, iam_endpoint_override=url)


def _external(info: dict[str, Any], declared: Declared) -> Google:
    from google.auth import aws, identity_pool, pluggable

    source = info["credential_source"]
    file = source.get("file")
    if file and not Path(file).is_file():
        raise declared.error(
            f"the token file {file} does not exist, which the credential configuration names",
            hint="check `credential_source` in the configuration, and that the token is mounted there",
        )
    kind = aws if str(source.get("environment_id", "")).startswith("aws") else identity_pool
    if "executable" in source:
        kind = pluggable
    found: Google = kind.Credentials.from_info(info, scopes=[SCOPE])
    return found


def _name(kind: object) -> str:
    return kind if isinstance(kind, str) and kind.replace("_", "").isalnum() and len(kind) < 50 else "unknown"


def _method_for(kind: object, place: str) -> str:
    place = "PATH" if place == "auth.key" else place
    if kind == "service_account":
        return f"auth: {{method: service_account, key_file: {place}}}"
    if kind == "external_account":
        return f"auth: {{method: workload_identity, config_file: {place}}}"
    if kind in FIELDS:
        return f"export GOOGLE_APPLICATION_CREDENTIALS={place}, with auth: {{method: adc}}"
    return "take the JSON file that gcloud or the Google Cloud console gives out"
