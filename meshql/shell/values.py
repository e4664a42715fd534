"""Values of parameters as people type them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from meshql.errors import UsageError

__all__ = ["value_of", "values_of"]


def values_of(given: Sequence[str]) -> dict[str, Any]:
    """Return the values of `name=value` arguments; raises UsageError for what is none."""
    params: dict[str, Any] = {}
    for argument in given:
        name, found, text = argument.partition("=")
        name = name.removeprefix("$")
        if not found or not name.isidentifier():
            raise UsageError(f"not a parameter: {argument}", hint="write --param name=value for $name")
        params[name] = value_of(text)
    return params


def value_of(text: str) -> Any:
    """Return what `text` says: a JSON number, true, false, null or quoted string, or else the text itself.

    Dates, and codes with leading zeros, stay as they are.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (list, dict)) else value
