"""What lives from one line of the shell, or of a script, to the next."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from meshql.config import Config

if TYPE_CHECKING:
    import pyarrow

    from meshql.query.receipt import Receipt

__all__ = ["Answer", "Front", "Settings"]


@dataclass(slots=True)
class Settings:
    """What .set changes; the configuration gives the first values."""

    mode: str = "table"
    row_limit: int = 40
    null: str = "NULL"
    timing: bool = True
    types: bool = False
    expanded: str = "auto"
    pager: str = "auto"
    editing_mode: str = "emacs"
    timeout: float | None = None
    complete_while_typing: bool = True
    prompt: str = "meshql> "
    keep_history: bool = True

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Return what the configuration says."""
        names = {f.name for f in fields(cls)} & {f.name for f in fields(config)}
        given = {name: getattr(config, name) for name in names}
        return cls(**given | {"null": config.null or "NULL"})


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

    def read(self, file: str) -> None:
        """Run what another file says."""

    def show_rows(self, rows: list[dict[str, str | None]]) -> None:
        """Print rows of text."""
