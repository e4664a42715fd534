"""The tokens of a text that is still being typed, from DuckDB's own tokenizer.

DuckDB's tokenizer gives starts only, leaves comments out and stops at a quote that is still open; here each
token has its end, comments are tokens, and what is open is the last token and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import duckdb

__all__ = ["Kind", "Token", "read"]

Kind = Literal["name", "keyword", "string", "number", "operator", "comment", "cursor"]

KINDS: dict[int, Kind] = {
    int(duckdb.token_type.identifier): "name",
    int(duckdb.token_type.keyword): "keyword",
    int(duckdb.token_type.string_const): "string",
    int(duckdb.token_type.numeric_const): "number",
    int(duckdb.token_type.operator): "operator",
    int(duckdb.token_type.comment): "comment",
}

LEXEME = re.compile(
    r"""
    [eE]'(?:[^'\\]|\\.|'')*'
  | [bBxX]?'(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*
  | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
  | "(?:[^"]|"")*"
  | \$\w*
  | \d[\w.]*(?:(?<=[eE])[+-]\d+)?
  | (?:[\w$]|[^\x00-\x7f\s])+
  | \.\d\w*
  | (?:(?!--|/\*)[^\s\w'"$])+
    """,
    re.VERBOSE | re.DOTALL,
)

OPENINGS = re.compile(
    r"""(?P<line>--[^\n]*) | (?P<block>/\*) | (?P<name>") | (?P<string>[A-Za-z]?'|\$\w*\$)""", re.VERBOSE
)

COMMENT_EDGE = re.compile(r"/\*|\*/")


class Token(NamedTuple):
    """A piece of the text: `value` is its text, an identifier's without its quotes."""

    kind: Kind
    start: int
    end: int
    value: str
    closed: bool = True
    quoted: bool = False

    @property
    def word(self) -> str:
        """The value in lower case where SQL reads it as a word, else ''."""
        return self.value.lower() if self.kind in ("keyword", "name") and not self.quoted else ""


@lru_cache(maxsize=8)
def read(text: str) -> tuple[Token, ...]:
    """Return the tokens of `text`, comments included; the last one may be unclosed.

    Characters that DuckDB cannot read are stepped over.
    """
    return tuple(_read(text))


def _read(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        for token in _run(text, at):
            yield token
            at = token.end
            if not token.closed:
                return
        # The tokenizer stopped: at the text's end, or before a character it has no rule for.
        at = max(at, _gap_end(text, at))
        if text.startswith('""', at):
            yield Token("name", at, at + 2, "", quoted=True)
            at += 2
        else:
            at += 1


def _run(text: str, offset: int) -> Iterator[Token]:
    """The tokens from `offset` on, as far as the tokenizer gets."""
    starts = _with_parameters(text, _starts(text, offset))
    at = offset
    for i, (start, kind) in enumerate(starts):
        yield from _comments(text, at, start)
        limit = starts[i + 1][0] if i + 1 < len(starts) else len(text)
        token = _token(text, start, limit, kind)
        yield token
        at = token.end
    yield from _comments(text, at, len(text))
    yield from _opening(text, _gap_end(text, at))


def _starts(text: str, offset: int) -> list[tuple[int, Kind]]:
    piece = text[offset:] if offset else text
    try:
        found = [(start, KINDS[int(kind)]) for start, kind in duckdb.tokenize(piece)]
    except (duckdb.Error, TypeError, UnicodeError):
        return []
    if piece.isascii():
        return [(start + offset, kind) for start, kind in found] if offset else found
    return _in_characters(piece, offset, found)


def _with_parameters(text: str, starts: list[tuple[int, Kind]]) -> list[tuple[int, Kind]]:
    """The starts without those of names right after a dollar sign: `$name` is one token."""
    if "$" not in text:
        return starts
    dollars = {start + 1 for start, kind in starts if kind == "operator" and text[start] == "$"}
    return [(start, kind) for start, kind in starts if start not in dollars or kind == "operator"]


def _in_characters(piece: str, offset: int, found: list[tuple[int, Kind]]) -> list[tuple[int, Kind]]:
    raw = piece.encode()
    at, characters, counted = 0, offset, []
    for start, kind in found:
        characters += len(raw[at:start].decode(errors="replace"))
        at = start
        counted.append((characters, kind))
    return counted


def _token(text: str, start: int, limit: int, kind: Kind) -> Token:
    match = LEXEME.match(text, start, limit)
    end = match.end() if match else start + max(1, len(text[start:limit].rstrip()))
    value = text[start:end]
    if value[0] == '"':
        return Token("name", start, end, value[1:-1].replace('""', '"'), quoted=True)
    if kind == "keyword" and not (value[0].isalpha() or value[0] == "_"):
        kind = "operator"
    return Token(kind, start, end, value)


def _comments(text: str, start: int, end: int) -> Iterator[Token]:
    """The closed comments between two tokens."""
    while start < end:
        opening = OPENINGS.search(text, start, end)
        if opening is None or opening.lastgroup not in ("line", "block"):
            return
        stop = opening.end() if opening.lastgroup == "line" else _block_end(text, opening.start())
        if stop is None:
            return
        yield Token("comment", opening.start(), stop, text[opening.start() : stop])
        start = stop


def _block_end(text: str, start: int) -> int | None:
    """Where the comment that starts here ends; comments nest."""
    depth = 0
    for edge in COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return None


def _gap_end(text: str, at: int) -> int:
    """The first position from `at` on that is neither space nor closed comment."""
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text.startswith("--", at):
            at = text.find("\n", at) % (len(text) + 1)
        elif text.startswith("/*", at) and (end := _block_end(text, at)):
            at = end
        else:
            break
    return at


def _opening(text: str, at: int) -> Iterator[Token]:
    """What is still open at the text's end, if it opens here."""
    opening = OPENINGS.match(text, at)
    if opening is None or opening.lastgroup == "line" or text.startswith('""', at):
        return
    kind: Kind = {"block": "comment", "name": "name", "string": "string"}[str(opening.lastgroup)]  # type: ignore[assignment]
    value = text[opening.end() :] if kind == "name" else text[at:]
    yield Token(kind, at, len(text), value, closed=False, quoted=kind == "name")
