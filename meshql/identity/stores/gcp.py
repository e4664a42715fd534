"""Secrets of Google's Secret Manager, read as whoever application default credentials are."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from meshql.catalog.references import SecretReference
from meshql.errors import StorageError
from meshql.identity.stores.base import TIMEOUT_SECONDS, missing, needs, picked, refused, unreachable
from meshql.redact import quiet

__all__ = ["GcpSecretManager"]

WHERE = "Google Secret Manager"

SCOPE = "https://www.googleapis.com/auth/cloud-platform"

ENDPOINT = "https://secretmanager.googleapis.com/"

LOGIN_HINT = "gcloud auth application-default login, or export GOOGLE_APPLICATION_CREDENTIALS=..."


class GcpSecretManager:
    """Secret Manager, at the address that gcloud's own variable names where it is set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._endpoint = environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER") or ENDPOINT

    def get(self, reference: SecretReference) -> str:
        """Return PROJECT/NAME, newest version, or PROJECT/NAME/versions/N, or one key of its JSON."""
        needs("google.auth", "gcp", reference)
        needs("requests", "gcp", reference)
        project, name, *version = reference.path.split("/")
        path = f"projects/{project}/secrets/{name}/versions/{version[-1] if version else 'latest'}:access"
        status, body = self._ask(reference, f"{self._endpoint.rstrip('/')}/v1/{path}")
        if status != 200:
            raise _failure(reference, status)
        return picked(base64.b64decode(body["payload"]["data"]).decode(errors="replace"), reference)

    def _ask(self, reference: SecretReference, url: str) -> tuple[int, dict[str, Any]]:
        import google.auth
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.auth.transport.requests import AuthorizedSession
        from requests import RequestException

        quiet("google", "urllib3")
        found: StorageError
        try:
            credentials, _ = google.auth.default(scopes=[SCOPE])
            with AuthorizedSession(credentials) as session:
                answer = session.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
                return answer.status_code, answer.json() if answer.status_code == 200 else {}
        except (TransportError, RequestException):
            found = unreachable(reference, WHERE, "check the network and any proxy")
        except GoogleAuthError as error:
            found = refused(reference, WHERE, f"no identity: {type(error).__name__}", LOGIN_HINT)
        raise found


def _failure(reference: SecretReference, status: int) -> StorageError:
    if status == 404:
        return missing(reference, WHERE, "check project and name: gcloud secrets list --project ...")
    if status == 401:
        return refused(reference, WHERE, "HTTP 401", LOGIN_HINT)
    hint = "give this identity the role roles/secretmanager.secretAccessor on the secret"
    return refused(reference, WHERE, f"HTTP {status}", hint)
