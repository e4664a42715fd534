"""Names that match what is typed: those that begin with it, then words inside, then its letters in order."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from heapq import nsmallest
from itertools import islice

__all__ = ["Index", "Rank", "grade"]

Rank = tuple[int, int]
"""How well a name matches, the smallest best: its grade, then how far the letters lie apart."""

PREFIX, WORD_START, LETTERS = 0, 1, 2

LAST = "\U0010ffff"


def grade(name: str, typed: str) -> Rank | None:
    """Return how well `name` matches the letters `typed`, None if it does not; case is ignored.

    One letter has to begin the name or a word of it: anything else holds it somewhere.
    """
    key, typed = name.casefold(), typed.casefold()
    if key.startswith(typed):
        return PREFIX, 0
    words, letters = _patterns(typed)
    if found := words.search(key):
        return WORD_START, int(found[0][0] != ".")
    if len(typed) > 1 and (found := letters.match(key)):
        return LETTERS, found.end() - found.end(1)
    return None


@lru_cache(maxsize=16)
def _patterns(typed: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    words = re.compile(r"[._ ]" + re.escape(typed))
    first, *rest = map(re.escape, typed or " ")
    # Each gap leaves out the letter that ends it, so a line is read once however it fails.
    letters = rf"^([^\n{first}]*+){first}" + "".join(rf"[^\n{c}]*+{c}" for c in rest)
    return words, re.compile(letters, re.MULTILINE)


class Index:
    """Many names, found without a look at each."""

    def __init__(self, names: Iterable[str]) -> None:
        pairs = sorted((name.casefold(), name) for name in names)
        self._keys = [key for key, _ in pairs]
        self.names = tuple(name for _, name in pairs)
        """All of them, sorted."""
        self._text = "\n".join(self._keys)
        self._starts: list[int] = []
        at = 0
        for key in self._keys:
            self._starts.append(at)
            at += len(key) + 1

    def search(self, typed: str, limit: int, favoured: Collection[str] = ()) -> list[tuple[Rank, str]]:
        """Return at most `limit` matches of a grade, all of the `favoured` names that match among them."""
        typed = typed.casefold()
        low, high = self._span(typed)
        found = {self.names[i]: (PREFIX, 0) for i in range(low, min(high, low + limit))}
        for name in favoured:
            at = bisect_left(self._keys, name.casefold())
            if at < len(self._keys) and self._keys[at] == name.casefold() and (rank := grade(name, typed)):
                found[self.names[at]] = rank
        for grade_of in (self._words, self._letters):
            # Letters are looked for only where words are too few: they cost a look at every name.
            if typed and len(found) < limit:
                for name, rank in grade_of(typed, limit):
                    found.setdefault(name, rank)
        return [(rank, name) for name, rank in found.items()]

    def _span(self, typed: str) -> tuple[int, int]:
        return bisect_left(self._keys, typed), bisect_left(self._keys, typed + LAST)

    def _words(self, typed: str, limit: int) -> Iterator[tuple[str, Rank]]:
        words, _ = _patterns(typed)
        for match in islice(words.finditer(self._text), limit):
            yield self._line(match.start()), (WORD_START, int(match[0][0] != "."))

    def _letters(self, typed: str, limit: int) -> Iterator[tuple[str, Rank]]:
        if len(typed) > 1:
            _, letters = _patterns(typed)
            spans = ((m.end() - m.end(1), m.start()) for m in letters.finditer(self._text))
            for span, start in nsmallest(limit, spans):
                yield self._line(start), (LETTERS, span)

    def _line(self, position: int) -> str:
        """The name whose line of the text this position is in."""
        return self.names[bisect_left(self._starts, position + 1) - 1]
