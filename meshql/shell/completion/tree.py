"""One statement as a tree of brackets, with the cursor's place in it marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meshql.shell.completion.tokens import Token

__all__ = ["Group", "Node", "dotted", "find_last", "grow", "is_cursor", "is_name", "split_commas", "word_of"]

CLOSERS = {"(": ")", "[": "]", "{": "}"}

QUERY_WORDS = frozenset({"select", "from", "with", "values", "pivot", "unpivot", "table", "describe"})


@dataclass(slots=True)
class Group:
    """What stands between two brackets; at the root, the whole statement. A missing closer ends the text."""

    opener: str = ""
    nodes: list[Token | Group] = field(default_factory=list)

    @property
    def is_query(self) -> bool:
        """Whether a SELECT of its own stands in it."""
        first = word_of(self.nodes[0]) if self.nodes else ""
        return not self.opener or (self.opener == "(" and first in QUERY_WORDS)

    def cursor(self) -> int | None:
        """The index of the node that holds the cursor, if one does."""
        for i, node in enumerate(self.nodes):
            if node.cursor() is not None if isinstance(node, Group) else is_cursor(node):
                return i
        return None


Node = Token | Group


def grow(tokens: Iterable[Token]) -> list[Group]:
    """Return the groups around the cursor's mark, the whole statement first.

    Without a mark, only the statement. Closers that close nothing are left out.
    """
    root = Group()
    path, around = [root], [root]
    for token in tokens:
        if token.value in CLOSERS and token.kind == "operator":
            group = Group(token.value)
            path[-1].nodes.append(group)
            path.append(group)
        elif token.value in (")", "]", "}") and token.kind == "operator":
            _close(path, token.value)
        else:
            path[-1].nodes.append(token)
            if is_cursor(token):
                around = list(path)
    return around


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


def find_last(nodes: Sequence[Node], wanted: Callable[[int], bool]) -> int | None:
    """Return the last index for which `wanted` holds."""
    return next((i for i in range(len(nodes) - 1, -1, -1) if wanted(i)), None)
