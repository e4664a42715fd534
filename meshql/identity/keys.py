"""Access keys that stand in the catalog or in the environment: no cloud is asked for them."""

from __future__ import annotations

from pydantic import SecretStr

from meshql.catalog.auth import GcsHmac, S3Keys
from meshql.identity.credentials import AccessKey
from meshql.identity.declared import Declared

__all__ = ["declared_keys", "environment_keys"]


def declared_keys(auth: S3Keys | GcsHmac, declared: Declared) -> AccessKey:
    """Return the keys that `auth` refers to; raises CredentialsError for a variable that is not set."""
    key_id = declared.secret(auth.key_id, "key_id").get_secret_value()
    secret = declared.secret(auth.secret, "secret")
    token = getattr(auth, "session_token", None)
    return AccessKey(key_id, secret, token and declared.secret(token, "session_token"))


def environment_keys(declared: Declared) -> AccessKey:
    """Return the usual AWS_* keys of the environment; raises CredentialsError where they are not set."""
    environ = declared.environ
    missing = [n for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environ.get(n)]
    if missing:
        raise declared.unset(missing[0], "auth: {method: env}")
    token = environ.get("AWS_SESSION_TOKEN")
    return AccessKey(
        environ["AWS_ACCESS_KEY_ID"],
        SecretStr(environ["AWS_SECRET_ACCESS_KEY"]),
        SecretStr(token) if token else None,
    )
