"""What is wrong in a catalog, where, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from meshql.catalog.base import Place
from meshql.errors import CatalogError, nearest

__all__ = ["InvalidCatalogError", "Mistake", "closest", "did_you_mean", "quoted"]

# Finding near names compares every pair of letters: a key that nobody typed by hand is not worth it.
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong (an error) or will be missed later (a warning), and the exact fix."""

    place: Place
    key: str
    message: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        said = f"{self.key}: {self.message}" if self.key else self.message
        line = f"{self.place}: {self.severity}: {said}"
        return f"{line}\n  hint: {self.hint}" if self.hint else line

    @property
    def order(self) -> tuple[str, int, int]:
        """What mistakes are sorted by: file, line, column."""
        return self.place.file, self.place.line, self.place.column


class InvalidCatalogError(CatalogError):
    """The catalog's files hold mistakes; `mistakes` has them all, warnings too."""

    def __init__(self, where: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        errors = [str(m) for m in mistakes if m.severity == "error"]
        count = "1 mistake" if len(errors) == 1 else f"{len(errors):,} mistakes"
        super().__init__("\n".join([f"catalog {where} has {count}", *errors]))


@lru_cache(maxsize=4096)
def _closest(name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(nearest(name, known, most=1))


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `name`, or None where none is near."""
    found = _closest(name, tuple(known)) if len(name) <= LONGEST_NAME else ()
    return found[0] if found else None


def quoted(names: Iterable[str], *, most: int = 12) -> str:
    """Write names as `a`, `b` or `c`; at most `most` of them."""
    ticked = [f"`{name}`" for name in names]
    if len(ticked) > most:
        return f"{', '.join(ticked[:most])} ... ({len(ticked) - most} more)"
    return " or ".join([", ".join(ticked[:-1]), ticked[-1]] if len(ticked) > 1 else ticked)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the hint for a name that is not `known`: the nearest, else all that are."""
    names = tuple(known)
    near = closest(name, names)
    if near:
        return f"did you mean `{near}`?"
    return f"known here: {quoted(names)}" if names else None
