"""One statement as a tree of brackets, with the cursor's place in it marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meshql.shell.completion.tokens import Token
from meshql.shell.completion.words import vocabulary

__all__ = ["Group", "Node", "dotted", "find_last", "grow", "is_cursor", "is_name", "split_commas", "word_of"]

CLOSERS = {"(": ")", "[": "]", "{": "}"}

QUERY_WORDS = frozenset({"select", "from", "with", "values", "pivot", "unpivot", "table", "describe"})

AFTER_BRACKETS = vocabulary("from where group having qualify order limit union except intersect join")
"""Words before which a bracket that is still open is meant to close."""


@dataclass(slots=True)
class Group:
    """What stands between two brackets; at the root, the whole statement. A missing closer ends the text."""

    opener: str = ""
    start: int = -1
    nodes: list[Token | Group] = field(default_factory=list)

    @property
    def is_query(self) -> bool:
        """Whether a SELECT of its own stands in it."""
        first = word_of(self.nodes[0]) if self.nodes else ""
        return not self.opener or (self.opener == "(" and first in QUERY_WORDS)


Node = Token | Group


def grow(tokens: Sequence[Token]) -> list[Group]:
    """Return the groups around the cursor's mark, the whole statement first.

    Without a mark, only the statement. Closers that close nothing are left out; a bracket that is open after
    the cursor ends before the next clause: `sum(| FROM t`.
    """
    root = Group()
    path, around = [root], [root]
    marked = False
    left_open = _left_open(tokens)
    for token in tokens:
        if marked and token.word in AFTER_BRACKETS:
            while len(path) > 1 and path[-1].start in left_open and not path[-1].is_query:
                path.pop()
        marked = marked or is_cursor(token)
        if token.value in CLOSERS and token.kind == "operator":
            group = Group(token.value, token.start)
            path[-1].nodes.append(group)
            path.append(group)
        elif token.value in (")", "]", "}") and token.kind == "operator":
            _close(path, token.value)
        else:
            path[-1].nodes.append(token)
            if is_cursor(token):
                around = list(path)
    return around


def _left_open(tokens: Sequence[Token]) -> frozenset[int]:
    """Where the brackets begin that nothing closes."""
    stack: list[Token] = []
    for token in tokens:
        if token.kind != "operator":
            continue
        if token.value in CLOSERS:
            stack.append(token)
        elif stack and token.value == CLOSERS[stack[-1].value]:
            stack.pop()
    return frozenset(token.start for token in stack)


def _close(path: list[Group], closer: str) -> None:
    for i in range(len(path) - 1, 0, -1):
        if CLOSERS[path[i].opener] == closer:
            del path[i:]
            return


def is_cursor(node: Node) -> bool:
    """Whether this is the cursor's mark."""
    return isinstance(node, Token) and node.kind == "cursor"


def word_of(node: Node) -> str:
    """The lower-case word or the operator that this node is, else ''; a quoted name is none."""
    if isinstance(node, Group):
        return ""
    return node.value if node.kind == "operator" else node.word


def is_name(node: Node) -> bool:
    """Whether the node can name something: an identifier, or a keyword that stands where one would."""
    return isinstance(node, Token) and node.kind in ("name", "keyword")


def split_commas(nodes: Iterable[Node]) -> Iterator[list[Node]]:
    """Yield the pieces between the commas of one level; at least one, which may be empty."""
    piece: list[Node] = []
    for node in nodes:
        if word_of(node) == ",":
            yield piece
            piece = []
        else:
            piece.append(node)
    yield piece


def dotted(nodes: Sequence[Node], start: int) -> tuple[tuple[str, ...], int]:
    """Return the parts of the dotted name that begins at `start`, and the index after it."""
    parts: list[str] = []
    at = start
    while at < len(nodes) and is_name(nodes[at]):
        token = nodes[at]
        assert isinstance(token, Token)
        parts.append(token.value)
        at += 1
        if at + 1 >= len(nodes) or word_of(nodes[at]) != "." or not is_name(nodes[at + 1]):
            break
        at += 1
    return tuple(parts), at


def find_last(nodes: Sequence[Node], word: str) -> int | None:
    """Return the last index of this word."""
    return next((i for i in range(len(nodes) - 1, -1, -1) if word_of(nodes[i]) == word), None)
