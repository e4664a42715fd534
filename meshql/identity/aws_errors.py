"""What botocore and AWS say, turned into errors that name the connection and the fix.

Their own words may hold tokens, and what programs printed: only words that cannot are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshql.errors import CredentialsError, MeshError, UnreachableError, nearest
from meshql.identity.declared import Declared

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError
    from botocore.session import Session

__all__ = ["address", "masked", "nothing_found", "reworded"]

MEANINGS: dict[str, tuple[str, str]] = {
    "ExpiredToken": ("the credentials have expired", "get fresh ones and run it again"),
    "ExpiredTokenException": ("the credentials or the token have expired", "get fresh ones"),
    "InvalidClientTokenId": ("AWS does not know the access key", "check the keys, and that they are active"),
    "UnrecognizedClientException": ("AWS does not know the access key", "check the keys"),
    "SignatureDoesNotMatch": (
        "the secret does not belong to the access key, or this machine's clock is wrong",
        "check the keys and the clock",
    ),
    "RequestExpired": ("this machine's clock is wrong", "set the clock"),
    "InvalidIdentityToken": (
        "AWS does not accept the token",
        "check that the role's identity provider knows its issuer and audience",
    ),
    "IDPRejectedClaim": ("the identity provider refused the token", "get a fresh token"),
    "RegionDisabledException": (
        "STS is switched off in this region",
        "set the connection's `region` to another, or activate it in the account's settings",
    ),
    "ValidationError": (
        "AWS refused a value as malformed",
        "check auth's role_arn, session_name, external_id and duration",
    ),
    "ForbiddenException": (
        "this SSO login may not take the profile's role",
        "check the profile's sso_account_id and sso_role_name",
    ),
}

SAFE = frozenset(
    {
        "ConfigNotFound",
        "ConfigParseError",
        "InfiniteLoopConfigError",
        "InvalidConfigError",
        "InvalidIMDSEndpointModeError",
        "InvalidRegionError",
        "MissingDependencyException",
        "NoRegionError",
        "PartialCredentialsError",
        "UnknownCredentialError",
    }
)
"""Exceptions of botocore whose words hold names and paths only."""


@contextmanager
def reworded(declared: Declared, doing: str, *, profile: str | None = None) -> Iterator[None]:
    """Turn what botocore raises inside into a CredentialsError or UnreachableError that names what was done.

    `doing` ends the sentence "cannot ..."; `profile` is the one that was asked for, if any.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(error, declared, doing) from None
    except BotoCoreError as error:
        raise _failed(error, declared, doing, profile) from None
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        raise declared.error(f"cannot {doing}: {error.strerror or type(error).__name__}{file}") from None
    except RuntimeError:
        raise declared.error(
            f"cannot {doing}: what it gives has expired already", hint="log in again, and check the clock"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise declared.error(
            f"cannot {doing}: the answer, or a setting, is malformed ({type(error).__name__})",
            hint="check the settings in ~/.aws/config and the AWS_* variables",
        ) from None


def nothing_found(declared: Declared, session: Session, profile: str | None) -> CredentialsError:
    """Return the error for a profile, or a machine, that has no credentials."""
    if profile:
        return declared.error(
            f"profile {profile} holds no credentials", hint=f"aws configure --profile {profile}"
        )
    files = " and ".join(session.get_config_variable(f) for f in ("credentials_file", "config_file"))
    return declared.error(
        "no AWS credentials found: tried AWS_ACCESS_KEY_ID, "
        f"profile {session.profile or 'default'} of {files}, "
        "AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_*_URI and the instance's role",
        hint="aws configure, aws sso login, or export AWS_PROFILE=...; for public data `method: anonymous`",
    )


def masked(key_id: str) -> str:
    """Return an access key's id as people may see it: its first and last four characters."""
    return f"{key_id[:4]}…{key_id[-4:]}" if len(key_id) >= 12 else f"{key_id[:2]}…"


def address(url: str) -> str:
    """Return the URL without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refused(error: ClientError, declared: Declared, doing: str) -> MeshError:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or code.startswith("Throttl"):
        return UnreachableError(
            f"connection {declared.connection.name}: cannot {doing}: AWS is busy ({code})",
            hint="run it again in a while",
        )
    if code in ("AccessDenied", "AccessDeniedException"):
        return _denied(message, declared, doing, error.operation_name)
    if "DurationSeconds" in message:
        return declared.error(
            f"cannot {doing}: the role does not live that long ({code})",
            hint="set auth.duration to 3600, the most for a chain of roles, or raise the role's maximum",
        )
    meaning, hint = MEANINGS.get(code, ("AWS refused it", "check the connection's `auth`"))
    return declared.error(f"cannot {doing}: {meaning} ({code})", hint=hint)


def _denied(message: str, declared: Declared, doing: str, operation: str) -> CredentialsError:
    who = re.search(r"User: (arn:\S+) is not authorized", message)
    said = f"{who[1]} is not allowed to" if who else "it is not allowed"
    if operation not in ("AssumeRole", "AssumeRoleWithWebIdentity"):
        return declared.error(f"cannot {doing}: {said} (AccessDenied)", hint="ask for the permission")
    trusted = who[1] if who else "this identity"
    external = (
        "and that its sts:ExternalId is the connection's external_id"
        if getattr(getattr(declared.connection, "auth", None), "external_id", None)
        else "and set auth.external_id where it asks for an sts:ExternalId"
    )
    return declared.error(
        f"cannot {doing}: {said} (AccessDenied)",
        hint=f"check that the role's trust policy lets {trusted} call sts:{operation}, {external}",
    )


def _failed(error: BotoCoreError, declared: Declared, doing: str, profile: str | None) -> MeshError:
    from botocore.exceptions import (
        ConnectionError as NoConnection,
    )
    from botocore.exceptions import (
        CredentialRetrievalError,
        HTTPClientError,
        LoginError,
        MetadataRetrievalError,
        ProfileNotFound,
        SSOError,
        TokenRetrievalError,
    )

    match error:
        case ProfileNotFound():
            return _no_profile(str(error.kwargs.get("profile")), declared)
        case SSOError() | TokenRetrievalError():
            return declared.error(
                f"cannot {doing}: there is no valid SSO login", hint=_login("aws sso login", profile)
            )
        case LoginError():
            return declared.error(
                f"cannot {doing}: there is no valid login", hint=_login("aws login", profile)
            )
        case HTTPClientError() | NoConnection():
            return _unreachable(error, declared, doing)
        case CredentialRetrievalError():
            return _not_given(error, declared, doing, profile)
        case MetadataRetrievalError():
            return declared.error(
                f"cannot {doing}: the metadata service gave no session token",
                hint="in a container, let its answer take one hop more: "
                "aws ec2 modify-instance-metadata-options --instance-id ... --http-put-response-hop-limit 2",
            )
    kind = type(error).__name__
    words = str(error).splitlines()[0].rstrip(".") if kind in SAFE else kind
    return declared.error(
        f"cannot {doing}: {words}", hint="check the connection's `auth`, and the settings in ~/.aws/config"
    )


def _no_profile(name: str, declared: Declared) -> CredentialsError:
    from botocore.session import Session

    session = Session()
    known = sorted(session.full_config.get("profiles", {}))
    close = nearest(name, known)
    files = " or ".join(session.get_config_variable(f) for f in ("config_file", "credentials_file"))
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = f"profiles there: {', '.join(known)}" if known else f"aws configure --profile {name}"
    return declared.error(f"there is no profile {name} in {files}", hint=hint)


def _login(command: str, profile: str | None) -> str:
    return f"{command} --profile {profile}" if profile else command


def _unreachable(error: BotoCoreError, declared: Declared, doing: str) -> MeshError:
    from botocore.exceptions import ProxyConnectionError, SSLError

    endpoint = str(error.kwargs.get("endpoint_url") or error.kwargs.get("proxy_url") or "")
    where = f" at {address(endpoint)}" if endpoint else ""
    begun = f"connection {declared.connection.name}: cannot {doing}:"
    if isinstance(error, SSLError):
        return UnreachableError(
            f"{begun} no trusted certificate{where}",
            hint="export AWS_CA_BUNDLE=... with your proxy's or store's certificate",
        )
    if isinstance(error, ProxyConnectionError):
        return UnreachableError(f"{begun} the proxy does not answer{where}", hint="check HTTPS_PROXY")
    return UnreachableError(
        f"{begun} nobody answers{where}",
        hint="check the network, HTTPS_PROXY, AWS_ENDPOINT_URL_STS and the connection's `region`",
    )


def _not_given(
    error: CredentialRetrievalError, declared: Declared, doing: str, profile: str | None
) -> MeshError:
    provider, words = str(error.kwargs.get("provider")), str(error.kwargs.get("error_msg"))
    if provider == "custom-process":
        return declared.error(
            f"cannot {doing}: its credential_process failed",
            hint=f"run it by hand: {_login('aws sts get-caller-identity', profile)}",
        )
    status = re.search(r"non 200 response (\d{3})", words)
    if status:
        return declared.error(
            f"cannot {doing}: the endpoint of the container's credentials said HTTP {status[1]}",
            hint="check AWS_CONTAINER_CREDENTIALS_*_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN(_FILE)",
        )
    if provider == "container-role" and "Received error" in words:
        return UnreachableError(
            f"connection {declared.connection.name}: cannot {doing}: its endpoint does not answer",
            hint="check AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or AWS_CONTAINER_CREDENTIALS_FULL_URI",
        )
    return declared.error(f"cannot {doing}: {provider} gave none", hint="check its settings in ~/.aws/config")
