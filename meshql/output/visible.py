"""Text as a terminal shows it: how wide it is, cut, padded, and free of what a terminal would obey."""

from __future__ import annotations

import re

from wcwidth import wcswidth, wcwidth

__all__ = ["clipped", "padded", "visible", "width_of"]

UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls: escape sequences begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of the line
    "\u2028\u2029\ufeff\ufff9-\ufffb]"
)

NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

JOINERS = "\u200d\ufe0e\ufe0f"


def visible(text: str) -> str:
    r"""Return `text` with control characters shown as escapes such as `\n` or `\x1b`."""
    return text if text.isprintable() else UNSEEN.sub(_escape, text)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a `visible` text takes."""
    if text.isascii():
        return len(text)
    width = wcswidth(text)
    return width if width >= 0 else sum(max(wcwidth(c), 0) for c in text)


def clipped(text: str, width: int) -> str:
    """Return `text`, or as much of it as fits into `width` columns with … behind it."""
    if width_of(text) <= width:
        return text
    kept, used = 0, 0
    while (used := used + max(wcwidth(text[kept]), 0)) < width:
        kept += 1
    return text[:kept].rstrip(JOINERS) + "…"


def padded(text: str, width: int, *, right: bool) -> str:
    """Return `text` with spaces up to `width` columns; a longer one stays as it is."""
    fill = " " * (width - width_of(text))
    return fill + text if right else text + fill


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return NAMED.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
