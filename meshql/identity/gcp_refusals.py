"""What Google's refusals mean, in words that hold no token."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from meshql.errors import CredentialsError

if TYPE_CHECKING:
    from meshql.catalog.auth import GcsAuth
    from meshql.identity.declared import Declared

__all__ = ["LOGIN", "answer_of", "denial", "is_denial", "refusal"]

LOGIN = "gcloud auth application-default login"

SKEW = timedelta(minutes=5)
"""Google takes no assertion from a clock that is further off."""

OPAQUE = re.compile(r"eyJ[\w.-]+|ya29\.[\w.-]+|\S*[\w+/=%~-]{32,}\S*")
"""Words that may be tokens, assertions or keys."""

FAULTS = {
    "Unable to retrieve Identity Pool subject token": "the address in the configuration has no token to show",
    "Unable to parse subject_token": "the configuration's token is not in the JSON that its format names",
    "Missing subject_token": "the configuration's token is empty",
    "Failed to retrieve": "the machine's metadata server has none",
    "Unable to retrieve AWS": "there are no AWS credentials to show to Google",
    "Unable to determine the AWS": "there is no AWS region to show to Google",
}
"""How google-auth's own messages begin, and what they mean."""


def refusal(error: Exception, declared: Declared, skew: timedelta, hint: str) -> CredentialsError:
    """Return the error that google-auth's `error` amounts to; `hint` is how to get other credentials.

    `skew` is how much this machine's clock is ahead of Google's.
    """
    code, description = _said(error)
    if code == "invalid_grant" and abs(skew) > SKEW:
        return declared.error(
            f"Google refused the credentials, for this machine's clock is {_apart(skew)}"
            f" ({_words(code, description)})",
            hint="sudo timedatectl set-ntp true",
        )
    if code is None:
        text = _text(error)
        meaning = next((f": {m}" for start, m in FAULTS.items() if text.startswith(start)), "")
        return declared.error(f"there is no token from Google{meaning}", hint=hint)
    return declared.error(f"Google refused the credentials ({_words(code, description)})", hint=hint)


def is_denial(error: Exception) -> bool:
    """Tell whether the IAM Credentials API refused an impersonation."""
    return bool(error.args) and str(error.args[0]).startswith("Unable to acquire impersonated")


def denial(
    error: Exception, target: str | None, member: str | None, auth: GcsAuth, declared: Declared
) -> CredentialsError:
    """Return the error for an impersonation of `target` by `member`, both None where unknown."""
    code, description = _said(error)
    delegates = getattr(auth, "delegates", ())
    who, account = member or "this identity", target or "the service account"
    return declared.error(
        f"{who} may not act as {account} ({_words(code, description)})",
        hint=_permit(code, description or "", [member or "MEMBER", *delegates], [*delegates, account]),
    )


def _permit(code: str | None, description: str, members: list[str], accounts: list[str]) -> str:
    if code == "UNAUTHENTICATED":
        return "the token of the impersonation's source has expired or is wrong: get a fresh one"
    if code == "INVALID_ARGUMENT":
        return "check `service_account`, `delegates` and `duration`: over 3600 needs a policy"
    if "disabled" in description or "has not been used" in description:
        return "gcloud services enable iamcredentials.googleapis.com"
    # Of a chain, Google does not say which link is missing.
    return "; ".join(
        f"gcloud iam service-accounts add-iam-policy-binding {account}"
        f" --member={member if ':' in member else f'serviceAccount:{member}'}"
        " --role=roles/iam.serviceAccountTokenCreator"
        for member, account in zip(members, accounts, strict=True)
    )


def _said(error: Exception) -> tuple[str | None, str | None]:
    """The error code and the description in the answer that google-auth's error carries."""
    for part in error.args:
        answer = answer_of(part)
        inner = answer.get("error")
        if isinstance(inner, dict):
            return _code(inner.get("status")), _safe(inner.get("message"))
        if inner is not None:
            return _code(inner), _safe(answer.get("error_description"))
    return None, None


def _text(error: Exception) -> str:
    """The first words of an error, or of the one that it wraps."""
    first = error.args[0] if error.args else ""
    return _text(first) if isinstance(first, Exception) else str(first)


def answer_of(text: object) -> dict[str, Any]:
    """Return the JSON object in an answer, {} for anything else."""
    if isinstance(text, dict):
        return text
    try:
        found = json.loads(text) if isinstance(text, str | bytes) else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _code(text: object) -> str | None:
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z_]{3,60}", text) else None


def _safe(text: object) -> str | None:
    if not isinstance(text, str) or not text.strip():
        return None
    kept = OPAQUE.sub("...", " ".join(text.split()))[:200]
    return kept if kept.endswith("...") else kept.removesuffix(".")


def _words(code: str | None, description: str | None) -> str:
    return ": ".join(part for part in (code, description) if part) or "no reason given"


def _apart(skew: timedelta) -> str:
    minutes = round(abs(skew).total_seconds() / 60)
    return f"{minutes} minutes {'fast' if skew > timedelta() else 'slow'}"
