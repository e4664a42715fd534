"""What access tokens say of themselves."""

from __future__ import annotations

import base64
import json
from typing import Any

from pydantic import SecretStr

__all__ = ["claims_of"]


def claims_of(token: SecretStr) -> dict[str, Any]:
    """Return the claims of a JSON Web Token, unverified (RFC 7519); nothing for a token that is none."""
    parts = token.get_secret_value().split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
