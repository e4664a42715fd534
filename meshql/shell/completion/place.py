"""Where in a statement the cursor stands: its word, its clause, the tables in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshql.shell.completion.scope import (
    NO_CTES,
    Ctes,
    Table,
    block,
    ctes_of,
    selected,
    tables_of,
    within_expression,
)
from meshql.shell.completion.suggestions import Word
from meshql.shell.completion.tokens import Token, read
from meshql.shell.completion.tree import Group, Node, grow, is_cursor, is_name, word_of
from meshql.shell.completion.words import vocabulary

__all__ = ["LIMIT", "Piece", "Place", "locate", "statement_at"]

LIMIT = 20_000
"""Characters; of a longer text only what surrounds the cursor is read."""

ANCHORS = vocabulary(
    "select from join on using where having qualify by limit offset into update set values returning"
    " describe summarize show pivot unpivot truncate table view copy pragma reset call use"
)
"""Words that decide what may stand after them, up to the next of them."""

BY = frozenset({"group", "order", "partition"})


@dataclass(frozen=True, slots=True)
class Piece:
    """The statement around the cursor: its tokens without comments, and the one that the cursor is in.

    `start` is where it begins; `inside` is the token that the cursor splits or ends, a comment too.
    """

    tokens: tuple[Token, ...]
    inside: Token | None
    start: int


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor's surroundings.

    `before` are the nodes of its bracket, and of its SELECT in there, up to it; `anchor` is the last word of
    them that decides what follows, such as "where" or "order by", and `since` what follows that. `around` are
    the nodes before the bracket itself and `outer` their anchor.
    """

    word: Word
    path: tuple[Group, ...]
    before: list[Node]
    anchor: str
    since: list[Node]
    around: list[Node]
    outer: str
    tables: tuple[Table, ...]
    ctes: Ctes
    names: tuple[str, ...]

    @property
    def last(self) -> str:
        """The word just before the cursor, else ''."""
        return word_of(self.before[-1]) if self.before else ""

    @property
    def first(self) -> str:
        """The statement's first word."""
        nodes = self.path[0].nodes
        return word_of(nodes[0]) if nodes else ""

    @property
    def group(self) -> Group:
        """The innermost bracket."""
        return self.path[-1]


# --- the word -------------------------------------------------------------------------------------


def statement_at(text: str, cursor: int) -> Piece:
    """Return the statement that the cursor stands in."""
    low, high = _window(text, cursor)
    tokens = _shifted(read(text[low:high]), low)
    if tokens and not tokens[-1].closed and tokens[-1].kind == "name" and tokens[-1].start < cursor:
        # What follows an open quote of a name is more likely the rest of the statement than its name.
        tokens = (*tokens[:-1], _cut(tokens[-1], cursor, text), *_shifted(read(text[cursor:high]), cursor))
    inside = next((t for t in tokens if _holds(t, cursor)), None)
    start, end = low, high
    for token in tokens:
        if token.value == ";" and token.kind == "operator":
            if token.end > cursor:
                end = token.start
                break
            start = token.end
    kept = tuple(t for t in tokens if start <= t.start < end and t.kind != "comment")
    return Piece(kept, inside, start)


def _window(text: str, cursor: int) -> tuple[int, int]:
    if len(text) <= LIMIT:
        return 0, len(text)
    low = max(text.rfind(";\n", 0, cursor) + 1, cursor - LIMIT // 2)
    end = text.find(";", cursor)
    return low, min(end if end >= 0 else len(text), cursor + LIMIT // 2)


def _shifted(tokens: tuple[Token, ...], by: int) -> tuple[Token, ...]:
    return tuple(t._replace(start=t.start + by, end=t.end + by) for t in tokens) if by else tokens


def _cut(token: Token, cursor: int, text: str) -> Token:
    return token._replace(end=cursor, value=text[token.start + 1 : cursor])


def _holds(token: Token, cursor: int) -> bool:
    """Whether typing at the cursor changes this token."""
    if token.kind == "operator":
        return token.value[0] == "$" and token.start < cursor <= token.end
    open_end = not token.closed or token.value.startswith("--") or token.kind not in ("string", "comment")
    return token.start < cursor < token.end + open_end


def _word_at(piece: Piece, cursor: int) -> tuple[Word, tuple[Token, ...], tuple[Token, ...]]:
    """The word that is typed, and the statement's tokens before and after it and its owners."""
    inside = piece.inside
    before = [t for t in piece.tokens if t.end <= cursor and t is not inside]
    after = tuple(t for t in piece.tokens if t.start >= cursor and t is not inside)
    start = inside.start if inside else cursor
    typed = _typed(inside, cursor) if inside else ""
    owner: list[str] = []
    chain = start
    while len(before) > 1 and before[-1].value == "." and is_name(before[-2]):
        owner.insert(0, before[-2].value)
        chain = before[-2].start
        del before[-2:]
    quoted = inside is not None and inside.quoted
    return Word(typed, start, tuple(owner), chain, quoted), tuple(before), after


def _typed(token: Token, cursor: int) -> str:
    length = cursor - token.start - token.quoted
    return token.value[:length]


# --- the clause -----------------------------------------------------------------------------------


def locate(piece: Piece, cursor: int) -> Place:
    """Return the place that the cursor has in this statement."""
    word, before, after = _word_at(piece, cursor)
    path = grow((*before, Token("cursor", cursor, cursor, ""), *after))
    ctes, tables, names = _in_sight(path)
    nodes = path[-1].nodes
    here = _block_before(nodes, _index(path, len(path) - 1))
    anchor, since = _anchor(here)
    around: list[Node] = []
    outer = ""
    if len(path) > 1:
        around = _block_before(path[-2].nodes, _index(path, len(path) - 2))
        outer, _ = _anchor(around)
    return Place(word, tuple(path), here, anchor, since, around, outer, tables, ctes, names)


def _index(path: Sequence[Group], depth: int) -> int:
    """The index, in the group of this depth, of what holds the cursor."""
    nodes = path[depth].nodes
    inner = path[depth + 1] if depth + 1 < len(path) else None
    return next(i for i, node in enumerate(nodes) if (node is inner if inner else is_cursor(node)))


def _block_before(nodes: Sequence[Node], index: int) -> list[Node]:
    part = block(nodes, index)
    holder = nodes[index]
    return part[: next(i for i, node in enumerate(part) if node is holder)]


def _anchor(nodes: list[Node]) -> tuple[str, list[Node]]:
    for i in range(len(nodes) - 1, -1, -1):
        word = word_of(nodes[i])
        previous = word_of(nodes[i - 1]) if i else ""
        if word == "desc" and (i == 0 or previous in ("explain", "analyze")):
            return "describe", nodes[i + 1 :]
        if word not in ANCHORS or within_expression(nodes, i) or previous == ".":
            continue
        if word != "by":
            return word, nodes[i + 1 :]
        if previous in BY:
            return f"{previous} by", nodes[i + 1 :]
    return "", nodes


def _in_sight(path: Sequence[Group]) -> tuple[Ctes, tuple[Table, ...], tuple[str, ...]]:
    """The common table expressions and tables that the cursor's SELECT can name, and its own columns."""
    ctes = NO_CTES
    outer: tuple[Table, ...] = ()
    here: tuple[Table, ...] = ()
    names: tuple[str, ...] = ()
    for depth, group in enumerate(path):
        if not group.is_query:
            continue
        index = _index(path, depth)
        nodes = block(group.nodes, index)
        ctes = ctes_of(group.nodes, ctes, index)
        here = (*tables_of(nodes, ctes), *outer)
        names = tuple(p for p in selected(nodes, ctes) if isinstance(p, str))
        outer = here if _sees_outside(group.nodes[:index]) else ()
    return ctes, here, names


def _sees_outside(before: list[Node]) -> bool:
    """Whether a subquery after these nodes can name their tables: not in FROM, not in WITH."""
    if before and word_of(before[-1]) in ("as", "materialized"):
        return False
    return _anchor(before)[0] not in ("from", "join", "using")
