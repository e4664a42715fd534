"""Secrets of AWS Secrets Manager, read as whoever the AWS SDK finds."""

from __future__ import annotations

import os
import re
from typing import Any

from meshql.catalog.references import SecretReference
from meshql.errors import CredentialsError, StorageError
from meshql.identity.stores.base import TIMEOUT_SECONDS, missing, needs, picked, refused, unreachable
from meshql.redact import quiet

__all__ = ["AwsSecretsManager"]

ARN = re.compile(r"arn:[a-z-]+:secretsmanager:([a-z0-9-]+):\d*:secret:.+")

WHERE = "AWS Secrets Manager"

LOGIN_HINT = "aws sso login, or export AWS_PROFILE=..., or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class AwsSecretsManager:
    """AWS Secrets Manager of the region in the ARN, or else of the SDK's region."""

    def get(self, reference: SecretReference) -> str:
        """Return the current version of a secret, or one key of its JSON."""
        needs("botocore", "aws", reference)
        return picked(self._text(reference), reference)

    def _text(self, reference: SecretReference) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        quiet("botocore", "urllib3")
        try:
            answer = self._client(reference).get_secret_value(SecretId=reference.path)
        except ClientError as error:
            found = _refusal(reference, str(error.response.get("Error", {}).get("Code", "")))
        except BotoCoreError as error:
            found = _failure(reference, type(error).__name__)
        else:
            if "SecretString" in answer:
                return str(answer["SecretString"])
            return bytes(answer["SecretBinary"]).decode(errors="replace")
        raise found

    def _client(self, reference: SecretReference) -> Any:
        from botocore.config import Config
        from botocore.session import Session

        region = ARN.fullmatch(reference.path)
        return Session().create_client(
            "secretsmanager",
            # The SDK for Python reads AWS_DEFAULT_REGION alone, those for other languages AWS_REGION.
            region[1] if region else os.environ.get("AWS_REGION"),
            config=Config(
                connect_timeout=TIMEOUT_SECONDS,
                read_timeout=TIMEOUT_SECONDS,
                retries={"max_attempts": 2, "mode": "standard"},
            ),
        )


def _refusal(reference: SecretReference, code: str) -> StorageError:
    if code == "ResourceNotFoundException":
        return missing(reference, WHERE, "check its name and $AWS_REGION: aws secretsmanager list-secrets")
    if "Expired" in code or code in {"UnrecognizedClientException", "InvalidSignatureException"}:
        return refused(reference, WHERE, code, LOGIN_HINT)
    return refused(
        reference, WHERE, code, "allow this identity secretsmanager:GetSecretValue on it, and kms:Decrypt"
    )


def _failure(reference: SecretReference, kind: str) -> StorageError:
    if kind == "NoRegionError":
        return CredentialsError(f"{reference}: no region is set", hint="export AWS_REGION=...")
    if "Credential" in kind or "Token" in kind or "SSO" in kind or "Profile" in kind:
        return refused(reference, WHERE, f"no identity: {kind}", LOGIN_HINT)
    return unreachable(reference, WHERE, "check the region, the network, any proxy, and $AWS_ENDPOINT_URL")
