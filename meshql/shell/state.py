"""What lives from one line of the shell, or of a script, to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from meshql.config import Config

if TYPE_CHECKING:
    import pyarrow

    from meshql.mesh import Mesh
    from meshql.query.receipt import Receipt
    from meshql.query.session import Session
    from meshql.sql import Statement

__all__ = ["Answer", "Front", "Settings"]

T = TypeVar("T")


@dataclass(slots=True)
class Settings:
    """What .set changes; the configuration gives the first values."""

    mode: str = "table"
    row_limit: int = 40
    null: str | None = None
    timing: bool = True
    types: bool = False
    expanded: str = "auto"
    pager: str = "auto"
    editing_mode: str = "emacs"
    timeout: float | None = None
    complete_while_typing: bool = True
    prompt: str = "meshql> "

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Return what the configuration says."""
        names = {f.name for f in fields(cls)} & {f.name for f in fields(config)}
        return cls(**{name: getattr(config, name) for name in names})

    @property
    def null_shown(self) -> str:
        """What stands for NULL in text for people."""
        return "NULL" if self.null is None else self.null


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a statement, `table` at most; `complete` says whether these are all."""

    sql: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    table: pyarrow.Table
    complete: bool
    seconds: float
    receipt: Receipt | None
    changed: bool = False


class Front(Protocol):
    """What the commands that scripts have too may change: the shell's state, or a script's.

    `output`, and `once` for the next result only, name a file, which takes `file_format` or what its suffix
    says. Nothing is printed while it is `silent`.
    """

    settings: Settings
    params: dict[str, Any]
    output: str | None
    file_format: str | None
    once: str | None
    silent: bool
    leaving: bool
    last_sql: str | None

    @property
    def formats(self) -> Sequence[str]:
        """The formats of results that go to no file."""

    @property
    def mesh(self) -> Mesh:
        """The mesh."""

    @property
    def session(self) -> Session:
        """The session that statements run in."""

    @property
    def width(self) -> int:
        """The columns of the terminal."""

    @property
    def colour(self) -> bool:
        """Whether what goes to stdout may be coloured."""

    def values_of(self, statement: Statement) -> dict[str, Any]:
        """Return the values that this statement's parameters have."""

    def supervised(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, unless it is given up."""

    def deliver(self, statement: Statement) -> None:
        """Run one statement; its rows go where results go."""

    def read(self, file: str) -> None:
        """Run what another file says."""

    def show_rows(self, rows: list[dict[str, str | None]]) -> None:
        """Print rows of text."""
