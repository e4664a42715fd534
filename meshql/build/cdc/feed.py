"""What a table of changes is fed with: rows of one form, whatever source they come from.

A staged row is a change: what it did, its place among the others, its time, which columns it does not tell,
and the values of the table's columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshql.build.column_types import apart
from meshql.build.takes import Take
from meshql.catalog.model import Product
from meshql.errors import QueryError, UsageError
from meshql.formats.batch_state import State
from meshql.query.reading import Reading

__all__ = [
    "AT",
    "BAD",
    "LSN",
    "OP",
    "OPERATIONS",
    "ORDER",
    "RANK",
    "SEQ",
    "UNCHANGED",
    "VALID_FROM",
    "VALID_TO",
    "Behind",
    "Evolution",
    "Feed",
    "Source",
    "refuse_doubles",
]

OP, LSN, SEQ, AT, UNCHANGED, BAD, ORDER = "__op", "__lsn", "__seq", "__at", "__unchanged", "__bad", "__order"
"""Columns of a staged row besides the table's own. OP is s, r, c, u, d or t as in a log of changes, and NULL
where it cannot be told; LSN is the same for the changes of one transaction; ORDER is what a product of
changes is ordered by, NULL for a log; BAD says that a value cannot be made."""

OPERATIONS = ("s", "r", "c", "u", "d", "t")

RANK = f"({LSN}::HUGEINT * 9223372036854775808 + {SEQ})"
"""A staged row's place among all."""

VALID_FROM, VALID_TO = "valid_from", "valid_to"
"""The columns that a table with all versions of its rows has besides theirs."""


@dataclass(frozen=True, slots=True)
class Evolution:
    """How a table's columns come to be those of the rows: by name, the column that it was so far, or None.

    `retyped` are columns of another type than before. `changes` says it in words.
    """

    olds: Mapping[str, str | None]
    changes: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()
    dropped: bool = False

    @property
    def new(self) -> list[str]:
        """Columns that were not there."""
        return [name for name, old in self.olds.items() if old is None]

    def rewrites(self, kinds: Mapping[str, str]) -> bool:
        """Whether it takes more than columns that are added."""
        moved = any(old is not None and old != name for name, old in self.olds.items())
        there = {old.casefold() for old in self.olds.values() if old is not None}
        back = any(name.casefold() in there for name in self.new)
        alone = any(apart(kinds[name]) for name in self.new)
        return bool(self.dropped or moved or alone or back or self.retyped)


@dataclass(frozen=True, slots=True)
class Feed:
    """Changes to stage: `sql` selects them; `kinds` are the table's columns with the types it holds them as.

    `culprit` selects, of the first value that cannot be made, the column, the value and the row's key, as
    texts. `late` is a predicate for staged rows that come
    before one that was taken already.
    """

    kinds: Mapping[str, str]
    key: tuple[str, ...]
    sql: str
    culprit: str
    evolution: Evolution | None = None
    late: str = ""
    keyless: str = ""
    """What to do where rows change that have no key."""
    keyed: str = "let `select` give the key of deletes too: coalesce(after.id, before.id)"
    """What to do where a change has no key."""
    logged: bool = True
    """Whether it is a database's log: changes of one LSN are one transaction, and follow one another."""


@dataclass(frozen=True, slots=True)
class Behind:
    """How far a table is: the last batch that it has taken, its last commit's watermark, its name in SQL."""

    batch: int
    watermark: str
    table: str


class Source(Protocol):
    """Where changes come from."""

    product: Product

    @property
    def state(self) -> State | None:
        """What the log of batches says, where it is one."""

    @property
    def layout(self) -> str:
        """What must not change without all rows being made again."""

    def split(self, takes: Iterable[Take]) -> Iterable[Take]:
        """Return the takes, cut where one commit cannot go on."""

    def counting(self, take: Take, reading: Reading) -> str:
        """Return a query for how many changes a take has."""

    def feed(self, take: Take, reading: Reading, behind: Behind | None) -> Feed:
        """Return what a take feeds to a table that is `behind`; None where all of it is replaced, or new."""

    def watermark(self, lsn: int, order: Sequence[str], reading: Reading) -> str:
        """Return how far a commit has read, in words, given the LSN and ORDER of the last staged row."""

    def unknown(self, take: Take, reading: Reading) -> QueryError:
        """Return the error that a take holds changes of no known kind."""


OWN_NAMES = re.compile(
    r"__(op|lsn|seq|at|unchanged|bad|order|gone|r|did|rank|us|past|was|before|from|to|n|moment|next|ended)"
    r"|__at_(lsn|rank|us)|__of\d+|had .*|file_row_number",
    re.IGNORECASE,
)
"""Names of columns on the way that a table's own must not have."""


def refuse_doubles(product: str, names: Iterable[str], *, history: bool) -> None:
    """Raise UsageError for columns that cannot be told apart, also from those that meshql adds."""
    seen = dict.fromkeys((VALID_FROM, VALID_TO), "") if history else dict[str, str]()
    for name in names:
        if OWN_NAMES.fullmatch(name):
            raise UsageError(
                f"{product}: no column can be called {name}: meshql uses that name on the way",
                hint="rename it in the source, or below `select:`",
            )
        other = seen.setdefault(name.casefold(), name)
        if other is name:
            continue
        if not other:
            raise UsageError(
                f"{product}: the source has a column {name}, and with `history` that name says when a version"
                " of a row was valid",
                hint="rename the source's column, or remove `history`",
            )
        raise UsageError(
            f"{product}: SQL does not tell the columns {other} and {name} apart",
            hint="rename one of them in the source",
        )
