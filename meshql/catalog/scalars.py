"""What unquoted YAML text means: as YAML 1.2 has it, and editors. `no` is text, and so is a date."""

from __future__ import annotations

import re
from typing import Any

from meshql.catalog.base import Ambiguous

__all__ = ["plain_value"]

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_DECIMAL = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?\Z")
_TRAP = re.compile(
    r"(?:y|n|yes|no|on|off)\Z"  # YAML 1.1: true and false
    r"|[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?\Z"  # octal, or with digit groups
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z"  # base 60
    r"|[-+]?0[xob][0-9a-f_]+\Z"
    r"|[-+]?\.(?:inf|nan)\Z",
    re.IGNORECASE,
)
_LONGEST_WORD = 64


def plain_value(text: str) -> Any:
    """Return what unquoted `text` means: nothing, a truth value, a number, else text."""
    if text in _WORDS:
        return _WORDS[text]
    # Nearly all values start with a letter, and hardly any of them is a trap.
    if len(text) > _LONGEST_WORD or (text[0].isalpha() and text[0] not in "yYnNoO"):
        return text
    if _WHOLE.match(text):
        return int(text)
    if _DECIMAL.match(text):
        return float(text)
    return Ambiguous(text) if _TRAP.match(text) else text
