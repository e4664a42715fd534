"""What was typed, kept for the next session: privately, and without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory

__all__ = ["PrivateHistory", "holds_secret"]

NAMED = r"\w*(secret|passw(or)?d|token|api_?key|access_?key|account_?key|key_?id|connection_string)\w*"
"""Names of what is secret, with whatever stands around them: s3_secret_access_key."""

SECRET = re.compile(
    rf"""
    \bCREATE\s+(OR\s+REPLACE\s+)?(PERSISTENT\s+|TEMPORARY\s+|TEMP\s+)?SECRET\b
    | \b{NAMED}['"]?\s*(=|:=|=>|:|\bTO\b)\s*\S
    | \b{NAMED}\s+['"$]\S
    | ^\s*\.param\s+set\s+\$?{NAMED}\s+\S
    | \b(AKIA|ASIA)[0-9A-Z]{{16}}\b
    | \bAccountKey=
    | \bX-Amz-Signature=|[?&]sig=
    | ://[^/\s:@]+:[^\s@'"]+@
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def holds_secret(text: str) -> bool:
    """Whether `text` looks as if it held a secret; a false alarm costs a line of history only."""
    return bool(SECRET.search(text))


class PrivateHistory(FileHistory):
    """A history file that only its owner can read.

    Lines that hold a secret or start with a space stay out of it, as in a POSIX shell.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
        super().__init__(path)

    def store_string(self, string: str) -> None:
        """Keep `string`, unless it is private."""
        if not string.startswith(" ") and not holds_secret(string):
            super().store_string(string)

    def append_string(self, string: str) -> None:
        """Add `string` to what the arrow keys bring back, in this session at least."""
        if not string.startswith(" "):
            super().append_string(string)

    def matching(self, words: str, most: int) -> Iterable[str]:
        """Return the last `most` lines that hold `words`, oldest first."""
        found = [line for line in self.load_history_strings() if words.casefold() in line.casefold()]
        return reversed(found[:most])
