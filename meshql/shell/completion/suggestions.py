"""What kinds of things fit at the cursor: small values that the text alone decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meshql.shell.completion.scope import Table

__all__ = [
    "Alias",
    "Columns",
    "CommandArguments",
    "Commands",
    "Functions",
    "JoinCondition",
    "Joins",
    "Keywords",
    "Paths",
    "Products",
    "Request",
    "Settings",
    "Suggestion",
    "Types",
    "UsingColumns",
    "Word",
]


@dataclass(frozen=True, slots=True)
class Word:
    """What is typed up to the cursor.

    `start` is where `text` begins in the whole text, at its opening quote if `quoted`; `owner` are the names
    before it, each followed by a dot, and `chain` is where the first of them begins.
    """

    text: str
    start: int
    owner: tuple[str, ...] = ()
    chain: int = 0
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Products:
    """Products and other tables; only those of `domain` if it is given."""

    domain: str = ""
    local: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of `tables`, or of the one that `owner` names; with no tables, of anything in the catalog."""

    tables: tuple[Table, ...]
    owner: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    bare: bool = False


@dataclass(frozen=True, slots=True)
class UsingColumns:
    """Columns that the right table has in common with one on the left."""

    left: tuple[Table, ...]
    right: Table


@dataclass(frozen=True, slots=True)
class JoinCondition:
    """Conditions that join the right table to one on the left."""

    left: tuple[Table, ...]
    right: Table


@dataclass(frozen=True, slots=True)
class Joins:
    """Whole joins: a product, an alias and the condition."""

    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Alias:
    """Short names for a table that are still free."""

    table: str
    taken: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Functions:
    """Functions that give a value, or those that stand in FROM."""

    kind: Literal["value", "table"] = "value"


@dataclass(frozen=True, slots=True)
class Keywords:
    """Keywords that fit, the likely ones first; `more` lets every other one follow what is typed."""

    expected: tuple[str, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Types:
    """Types to cast to."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine's settings."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Files and folders of this machine."""


@dataclass(frozen=True, slots=True)
class Commands:
    """The shell's own commands."""


@dataclass(frozen=True, slots=True)
class CommandArguments:
    """What may follow a command; `text` is all that does so far, and begins at `start`."""

    command: str
    text: str
    start: int


Suggestion = (
    Products
    | Columns
    | UsingColumns
    | JoinCondition
    | Joins
    | Alias
    | Functions
    | Keywords
    | Types
    | Settings
    | Paths
    | Commands
    | CommandArguments
)


@dataclass(frozen=True, slots=True)
class Request:
    """The word at the cursor, what may stand there, and whether keywords are typed in lower case."""

    word: Word
    suggestions: tuple[Suggestion, ...] = ()
    lower: bool = False
