"""Colours for SQL while it is typed, from DuckDB's own tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer

from meshql.shell.completion.metadata import Metadata
from meshql.shell.completion.tokens import Token, read

__all__ = ["LIMIT", "STYLES", "SqlLexer"]

LIMIT = 10_000
"""Characters around the cursor that are coloured; longer texts are left plain beyond them."""

STYLES = {
    "sql.keyword": "bold ansiblue",
    "sql.string": "ansigreen",
    "sql.number": "ansicyan",
    "sql.comment": "italic ansibrightblack",
    "sql.operator": "",
    "sql.parameter": "ansimagenta",
    "sql.function": "ansiyellow",
    "sql.product": "bold ansimagenta",
    "sql.command": "bold ansicyan",
    "sql.open": "ansired",
}
"""A style for each class of the lexer, to build a prompt_toolkit Style from."""

COMMAND = re.compile(r"\s*[.\\][A-Za-z?]\S*")


class SqlLexer(Lexer):
    """Colours a text; products are those of the snapshot that `metadata` returns."""

    def __init__(self, metadata: Callable[[], Metadata] = Metadata) -> None:
        self._metadata = metadata
        self._last: tuple[str, int, object, list[StyleAndTextTuples]] = ("", 0, None, [[]])

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """Return the styled text of each line by its number."""
        low, high = _window(document)
        catalog = self._metadata().catalog
        if self._last[:2] != (document.text, low) or self._last[2] is not catalog:
            lines = self._lines(document.text, low, high)
            self._last = (document.text, low, catalog, lines)
        lines = self._last[3]
        return lambda number: lines[number] if number < len(lines) else []

    def invalidation_hash(self) -> object:
        """Return a value that changes with the catalog."""
        return id(self._metadata().catalog)

    def _lines(self, text: str, low: int, high: int) -> list[StyleAndTextTuples]:
        lines: list[StyleAndTextTuples] = [[]]
        for style, piece in self._pieces(text, low, high):
            first, *rest = piece.split("\n")
            if first:
                lines[-1].append((style, first))
            lines.extend([(style, part)] if part else [] for part in rest)
        return lines

    def _pieces(self, text: str, low: int, high: int) -> Iterator[tuple[str, str]]:
        command = COMMAND.match(text) if not low else None
        if command:
            yield "class:sql.command", command[0]
            low = command.end()
        else:
            yield "", text[:low]
        at = low
        tokens = [t for t in read(text[low:high]) if t.end > t.start]
        for token, style in zip(tokens, _styles(tokens, self._metadata()), strict=True):
            yield "", text[at : low + token.start]
            yield style, text[low + token.start : low + token.end]
            at = low + token.end
        yield "", text[at:]


def _window(document: Document) -> tuple[int, int]:
    text, cursor = document.text, document.cursor_position
    if len(text) <= LIMIT:
        return 0, len(text)
    # Steps of half a window, so that moving the cursor does not colour everything anew.
    middle = cursor - cursor % (LIMIT // 2)
    low = text.rfind("\n", 0, max(0, middle - LIMIT // 2)) + 1
    return low, low + LIMIT + LIMIT // 2


def _styles(tokens: list[Token], metadata: Metadata) -> list[str]:
    styles = [_style(token, tokens[i + 1] if i + 1 < len(tokens) else None) for i, token in enumerate(tokens)]
    for i in range(len(tokens) - 2):
        domain, dot, table = tokens[i : i + 3]
        names = domain.kind in ("name", "keyword") and table.kind in ("name", "keyword")
        after_dot = i > 0 and tokens[i - 1].value == "."
        if dot.value == "." and names and not after_dot and metadata.product(f"{domain.value}.{table.value}"):
            styles[i : i + 3] = ["class:sql.product"] * 3
    return styles


def _style(token: Token, following: Token | None) -> str:
    if not token.closed and token.kind != "comment":
        return "class:sql.open" if token.kind == "name" else "class:sql.string"
    if token.kind == "operator":
        return "class:sql.parameter" if token.value[0] in "$?" else "class:sql.operator"
    call = following is not None and following.value == "(" and following.start == token.end
    if call and token.kind in ("name", "keyword"):
        return "class:sql.function"
    return "" if token.kind == "name" else f"class:sql.{token.kind}"
