"""How often names were used, so that the usual ones come first."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from meshql.shell.completion.tokens import Token, read

__all__ = ["Usage"]


class Usage:
    """Counts of the names in the statements that ran; threads may share it."""

    def __init__(self) -> None:
        self.counts: Mapping[str, int] = {}
        """By lower-case name: dotted names, and the last word of each."""
        self._lock = threading.Lock()

    def add(self, *statements: str) -> None:
        """Count the names of statements."""
        with self._lock:
            counts = dict(self.counts)
            for text in statements:
                for name in _names(read(text)):
                    counts[name] = counts.get(name, 0) + 1
            self.counts = counts

    def of(self, name: str) -> int:
        """Return how often a name was used, in whatever case."""
        return self.counts.get(name.lower(), 0)


def _names(tokens: tuple[Token, ...]) -> list[str]:
    found: list[str] = []
    chain: list[str] = []
    dot = False
    for token in tokens:
        if token.value == "." and chain and not dot:
            dot = True
            continue
        if not dot or token.kind not in ("name", "keyword"):
            found.extend(_spoken(chain))
            chain = []
        if token.kind in ("name", "keyword"):
            chain.append(token.value.lower())
        dot = False
    return found + _spoken(chain)


def _spoken(chain: list[str]) -> list[str]:
    if len(chain) < 2:
        return chain
    return [".".join(chain), chain[-1]]
