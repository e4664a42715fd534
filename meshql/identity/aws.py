"""Credentials from AWS, by botocore: profiles, roles of machines, and roles assumed through STS.

botocore finds profiles, endpoints, certificates and proxies in the process's own environment and in ~/.aws;
what meshql reads of the environment itself is that of the connection's `Declared`.
"""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from meshql.catalog.auth import (
    AwsDefault,
    S3AssumeRole,
    S3Auth,
    S3ContainerRole,
    S3Env,
    S3InstanceRole,
    S3Keys,
    S3Process,
    S3Profile,
    S3WebIdentity,
)
from meshql.catalog.connections import Connection
from meshql.errors import UnreachableError
from meshql.identity.aws_errors import address, masked, nothing_found, reworded
from meshql.identity.credentials import AccessKey
from meshql.identity.declared import Declared
from meshql.identity.keys import declared_keys, environment_keys
from meshql.identity.process import process_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.session import Session

__all__ = ["credentials", "identify", "sign"]

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 3, 5, 2
METADATA_SECONDS, METADATA_ATTEMPTS = 1, 2

NOT_OF_A_PROFILE = ("ec2-credentials-file", "boto-config", "container-role", "iam-role")
"""Sources that botocore falls back to when a profile holds no credentials, in its own names."""

AWS_HOST = re.compile(r"\.(?:amazonaws\.com(?:\.cn)?|api\.aws)\Z")
REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d+)\.")

CONTAINER_URIS = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


def credentials(auth: S3Auth | None, declared: Declared) -> AccessKey:
    """Return the keys that the method of `auth` gives now; None stands for the method default.

    They are asked for anew each time, and know when they end where AWS says so. Raises CredentialsError with
    what the method lacks, and UnreachableError when a service of AWS does not answer.
    """
    match auth:
        case S3Keys():
            return declared_keys(auth, declared)
        case S3Env():
            return environment_keys(declared)
        case S3Process():
            return process_keys(auth, declared)
    declared.needs("botocore", "aws")
    match auth:
        case None | AwsDefault():
            return _from_chain(None, declared)
        case S3Profile():
            return _from_chain(declared.text(auth.profile, "profile"), declared)
        case S3InstanceRole():
            return _of_instance(declared)
        case S3ContainerRole():
            return _of_container(declared)
        case S3WebIdentity():
            return _by_web_identity(auth, declared)
        case S3AssumeRole():
            return _by_role(auth, declared)
    raise declared.error(f"auth method {auth.method} is not known")


def identify(connection: Connection, credentials: AccessKey) -> str:
    """Return who `credentials` belong to: the ARN that STS names.

    A store elsewhere than at AWS has no STS, and is asked nothing: the key's id is returned, masked. Raises
    CredentialsError for keys that AWS does not know, UnreachableError when it does not answer.
    """
    endpoint = getattr(connection, "endpoint", None)
    if endpoint and not AWS_HOST.search(urlsplit(endpoint).hostname or ""):
        return f"access key {masked(credentials.key_id)}"
    declared = Declared(connection, os.environ)
    declared.needs("botocore", "aws")
    with reworded(declared, f"ask STS who {masked(credentials.key_id)} is"):
        return str(_sts(declared, credentials).get_caller_identity()["Arn"])


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: AccessKey,
    region: str,
    service: str,
) -> dict[str, str]:
    """Return `headers` with those that sign the request as AWS (Signature Version 4) wants it.

    Send them all, and the body, as they are; a signature is good for five minutes.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    token = credentials.session_token
    signer = Credentials(
        credentials.key_id, credentials.secret.get_secret_value(), token and token.get_secret_value()
    )
    request = AWSRequest(method=method, url=url, data=body, headers=dict(headers))
    SigV4Auth(signer, service, region).add_auth(request)
    return {str(name): str(value) for name, value in request.headers.items()}


# --- what the SDK finds ---------------------------------------------------------------------------


def _from_chain(profile: str | None, declared: Declared) -> AccessKey:
    with reworded(declared, f"use profile {profile}" if profile else "find credentials", profile=profile):
        session = _session(declared, profile)
        if profile or "AWS_ACCESS_KEY_ID" not in os.environ:
            _refuse_codes(session, profile, declared)
        chain = session.get_component("credential_provider")
        # A profile without credentials is a mistake, not a wish for those of the machine.
        for method in NOT_OF_A_PROFILE if profile else ():
            chain.remove(method)
        found = chain.load_credentials()
        if found is None:
            raise nothing_found(declared, session, profile)
        return _access_key(found)


def _refuse_codes(session: Session, profile: str | None, declared: Declared) -> None:
    """Raise CredentialsError for a role that asks for an MFA code, which botocore reads from the terminal."""
    profiles = session.full_config.get("profiles", {})
    name, seen = profile or session.profile or "default", set[str]()
    while name in profiles and name not in seen:
        seen.add(name)
        if "mfa_serial" in profiles[name] and "role_arn" in profiles[name]:
            raise declared.error(
                f"profile {name} asks for an MFA code, which meshql does not prompt for",
                hint="export the credentials first and use `auth: {method: env}`: "
                f'eval "$(aws configure export-credentials --profile {name} --format env)"',
            )
        name = profiles[name].get("source_profile", "")


def _session(declared: Declared, profile: str | None = None) -> Session:
    from botocore.config import Config
    from botocore.session import Session

    session = Session(profile=profile)
    session.register_component("data_loader", _loader())
    session.set_default_client_config(
        Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        )
    )
    session.set_config_variable("sts_regional_endpoints", "regional")
    if session.get_config_variable("region") is None:
        session.set_config_variable("region", _region(declared.connection) or "us-east-1")
    return session


@cache
def _loader() -> Any:
    """Return the reader of botocore's data; it keeps what it parsed, most of a session's cost."""
    from botocore.loaders import create_loader

    return create_loader()


def _access_key(found: Any) -> AccessKey:
    frozen = found.get_frozen_credentials()
    # The SDK tells nobody else when they end; credentials without an end have no such attribute.
    return _key(frozen.access_key, frozen.secret_key, frozen.token, getattr(found, "_expiry_time", None))


def _key(key_id: str, secret: str, token: str | None, ends: datetime | None) -> AccessKey:
    return AccessKey(
        key_id, SecretStr(secret), SecretStr(token) if token else None, ends and ends.astimezone(UTC)
    )


# --- the machine's role ---------------------------------------------------------------------------


def _of_instance(declared: Declared) -> AccessKey:
    from botocore.credentials import InstanceMetadataProvider
    from botocore.utils import InstanceMetadataFetcher, resolve_imds_endpoint_mode

    if declared.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise declared.error(
            "AWS_EC2_METADATA_DISABLED switches the instance's role off",
            hint="unset AWS_EC2_METADATA_DISABLED",
        )
    with reworded(declared, "get the instance's role"):
        session = _session(declared)
        named = declared.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        fetcher = InstanceMetadataFetcher(
            timeout=METADATA_SECONDS,
            num_attempts=METADATA_ATTEMPTS,
            env=dict(declared.environ),
            config={
                "ec2_metadata_service_endpoint": named
                or session.get_config_variable("ec2_metadata_service_endpoint"),
                "ec2_metadata_service_endpoint_mode": resolve_imds_endpoint_mode(session),
                # Version 1 answers anybody who makes the machine send a GET.
                "ec2_metadata_v1_disabled": True,
            },
        )
        _must_answer(fetcher.get_base_url(), declared)
        found = InstanceMetadataProvider(iam_role_fetcher=fetcher).load()
        if found is None:
            raise declared.error(
                f"the metadata service at {address(fetcher.get_base_url())} gave no credentials of a role",
                hint="attach a role to the instance: "
                "aws ec2 associate-iam-instance-profile --instance-id ... --iam-instance-profile Name=...",
            )
        return _access_key(found)


def _must_answer(url: str, declared: Declared) -> None:
    """Raise UnreachableError where nobody listens; to the SDK that is the same as no role."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), METADATA_SECONDS).close()
    except OSError:
        raise UnreachableError(
            f"connection {declared.connection.name}: no instance metadata service answers at {address(url)}",
            hint="`method: instance_role` works on EC2 instances; elsewhere use profile, env or assume_role",
        ) from None


def _of_container(declared: Declared) -> AccessKey:
    from botocore.credentials import ContainerProvider
    from botocore.utils import ContainerMetadataFetcher

    if not any(declared.environ.get(name) for name in CONTAINER_URIS):
        raise declared.error(
            f"neither {CONTAINER_URIS[0]} nor {CONTAINER_URIS[1]} is set: this is no ECS task or EKS pod",
            hint="give the task a role (taskRoleArn) or the pod an identity, or use another method",
        )
    with reworded(declared, "get the container's role"):
        fetcher = ContainerMetadataFetcher(sleep=lambda seconds: None)
        fetcher.RETRY_ATTEMPTS = METADATA_ATTEMPTS
        set_ones = {name: value for name, value in declared.environ.items() if value}
        return _access_key(ContainerProvider(environ=set_ones, fetcher=fetcher).load())


# --- STS ------------------------------------------------------------------------------------------


def _by_web_identity(auth: S3WebIdentity, declared: Declared) -> AccessKey:
    role = _or_variable(auth.role_arn, "role_arn", "AWS_ROLE_ARN", declared)
    path = (
        str(declared.path(auth.token_file, "token_file"))
        if auth.token_file
        else _or_variable(None, "token_file", "AWS_WEB_IDENTITY_TOKEN_FILE", declared)
    )
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            token = file.read().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise declared.error(
            f"cannot read the web identity token at {path}: {reason}",
            hint="set auth.token_file to the file that the platform mounts",
        ) from None
    if not token:
        raise declared.error(f"the web identity token at {path} is empty", hint="get a fresh token")
    with reworded(declared, f"assume role {role} with the token of {path}"):
        answer = _sts(declared, None).assume_role_with_web_identity(
            RoleArn=role,
            RoleSessionName=declared.text(auth.session_name, "session_name"),
            WebIdentityToken=token,
        )
        return _issued(answer)


def _by_role(auth: S3AssumeRole, declared: Declared) -> AccessKey:
    role = declared.text(auth.role_arn, "role_arn")
    given: dict[str, Any] = {
        "RoleArn": role,
        "RoleSessionName": declared.text(auth.session_name, "session_name"),
        "DurationSeconds": auth.duration,
    }
    if auth.external_id is not None:
        given["ExternalId"] = declared.text(auth.external_id, "external_id")
    source = credentials(auth.source, declared)
    with reworded(declared, f"assume role {role} as {masked(source.key_id)}"):
        return _issued(_sts(declared, source).assume_role(**given))


def _or_variable(value: str | None, key: str, variable: str, declared: Declared) -> str:
    if value is not None:
        return declared.text(value, key)
    if not declared.environ.get(variable):
        raise declared.unset(variable, f"auth: {{method: web_identity}} without {key}")
    return declared.environ[variable]


def _sts(declared: Declared, credentials: AccessKey | None) -> Any:
    """Return a client of the STS of the connection's region; an unsigned one without credentials."""
    from botocore import UNSIGNED
    from botocore.config import Config

    session = _session(declared)
    region = _region(declared.connection) or session.get_config_variable("region")
    if credentials is None:
        return session.create_client("sts", region, config=Config(signature_version=UNSIGNED))
    token = credentials.session_token
    return session.create_client(
        "sts",
        region,
        aws_access_key_id=credentials.key_id,
        aws_secret_access_key=credentials.secret.get_secret_value(),
        aws_session_token=token and token.get_secret_value(),
    )


def _issued(answer: Any) -> AccessKey:
    issued = answer["Credentials"]
    return _key(
        issued["AccessKeyId"], issued["SecretAccessKey"], issued["SessionToken"], issued["Expiration"]
    )


def _region(connection: Connection) -> str | None:
    auth = getattr(connection, "auth", None)
    declared = getattr(auth, "region", None) or getattr(connection, "region", None)
    if declared:
        return str(declared)
    host = urlsplit(getattr(connection, "uri", "")).hostname or ""
    named = REGION.search(host) if AWS_HOST.search(host) else None
    return named[1] if named else None
