"""The tables that can be named at a place of a statement, and what is known of their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from meshql.shell.completion.tree import Group, Node, dotted, is_cursor, is_name, split_commas, word_of
from meshql.shell.completion.words import vocabulary

__all__ = [
    "NO_CTES",
    "Ctes",
    "Star",
    "Table",
    "block",
    "ctes_of",
    "selected",
    "tables_of",
    "within_expression",
]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a FROM clause: its dotted name, empty for a subquery, and the name it goes by.

    `parts` are its columns where the text tells them; None where only the catalog can.
    """

    name: str
    alias: str
    parts: tuple[str | Star, ...] | None = None


@dataclass(frozen=True, slots=True)
class Star:
    """All columns of some tables, but for those left out."""

    tables: tuple[Table, ...]
    without: frozenset[str] = frozenset()


Ctes = Mapping[str, tuple["str | Star", ...]]
"""The columns of the common table expressions in sight, by lower-case name."""

NO_CTES: Ctes = {}

SET_OPERATIONS = frozenset({"union", "intersect", "except"})

JOIN_WORDS = vocabulary(
    "join inner left right full outer cross natural asof positional semi anti lateral on using"
)

CLAUSE_WORDS = vocabulary(
    "select from where group having qualify window order limit offset union intersect except returning set"
    " values pivot unpivot into tablesample sample at when"
)

ENDS_OF_SOURCES = CLAUSE_WORDS - {"tablesample", "sample", "at"}

LISTS = frozenset({"from", "join"})
"""Words that several tables may follow."""

SINGLES = frozenset({"update", "pivot", "unpivot", "pivot_wider", "pivot_longer"})
"""Words that one table follows."""


def block(nodes: Sequence[Node], index: int) -> list[Node]:
    """Return the one SELECT, of those that UNION and its like connect, which holds the node at `index`."""
    edges = [i for i, node in enumerate(nodes) if word_of(node) in SET_OPERATIONS]
    start = max((i + 1 for i in edges if i < index), default=0)
    end = min((i for i in edges if i > index), default=len(nodes))
    return list(nodes[start:end])


def ctes_of(nodes: Sequence[Node], outer: Ctes, cursor: int | None = None) -> Ctes:
    """Return `outer` and the common table expressions that this level declares.

    The one that holds the cursor, at this index, is left out: it cannot read itself.
    """
    found = dict(outer)
    at = next((i for i, node in enumerate(nodes) if word_of(node) == "with"), len(nodes)) + 1
    if at < len(nodes) and word_of(nodes[at]) == "recursive":
        at += 1
    while at < len(nodes) and is_name(nodes[at]):
        name, body, at = _cte(nodes, at)
        if body is None:
            break
        if cursor is None or nodes[cursor] is not body[1]:
            found[name.lower()] = body[0] or selected(body[1].nodes, found)
        if at >= len(nodes) or word_of(nodes[at]) != ",":
            break
        at += 1
    return found


def _cte(nodes: Sequence[Node], at: int) -> tuple[str, tuple[tuple[str, ...], Group] | None, int]:
    """A common table expression's name, its listed columns with its body, and the index after it."""
    (name, *_), at = dotted(nodes, at)
    listed: tuple[str, ...] = ()
    while at < len(nodes):
        node = nodes[at]
        at += 1
        if not isinstance(node, Group):
            if word_of(node) in ("as", "not", "materialized"):
                continue
            return name, None, at
        if word_of(nodes[at - 2]) in ("as", "materialized"):
            return name, (listed, node), at
        listed = _names(node)
    return name, None, at


def _names(group: Group) -> tuple[str, ...]:
    return tuple(parts[0] for piece in split_commas(group.nodes) if (parts := dotted(piece, 0)[0]))


# --- FROM -----------------------------------------------------------------------------------------


def tables_of(nodes: Sequence[Node], ctes: Ctes) -> tuple[Table, ...]:
    """Return the tables that one SELECT reads, in the order of its text."""
    found: list[Table] = []
    at = 0
    while at < len(nodes):
        word, at = word_of(nodes[at]), at + 1
        if word in LISTS and not within_expression(nodes, at - 1):
            tables, at = _sources(nodes, at, ctes)
            found.extend(tables)
        elif word in SINGLES and at < len(nodes):
            tables, at = _source(nodes, at, ctes)
            found.extend(tables)
    return tuple(found)


def within_expression(nodes: Sequence[Node], at: int) -> bool:
    """Whether the FROM at this index is that of IS DISTINCT FROM."""
    return at > 1 and word_of(nodes[at - 1]) == "distinct" and word_of(nodes[at - 2]) in ("is", "not")


def _sources(nodes: Sequence[Node], at: int, ctes: Ctes) -> tuple[list[Table], int]:
    found: list[Table] = []
    expected = True
    while at < len(nodes) and (word := word_of(nodes[at])) not in ENDS_OF_SOURCES:
        if word in (",", "join"):
            expected, at = True, at + 1
        elif expected and word not in ("lateral", "only"):
            tables, at = _source(nodes, at, ctes)
            found.extend(tables)
            expected = False
        else:
            at += 1
    return found, at


def _source(nodes: Sequence[Node], at: int, ctes: Ctes) -> tuple[list[Table], int]:
    """The table that begins at `at`, with its alias; several for a join in brackets."""
    node = nodes[at]
    if isinstance(node, Group):
        if not node.is_query:
            inner, _ = _sources(node.nodes, 0, ctes)
            if len(inner) != 1:
                return inner, at + 1
            return _aliased(inner[0], nodes, at + 1)
        inside = ctes_of(node.nodes, ctes)
        return _aliased(Table("", "", selected(node.nodes, inside)), nodes, at + 1)
    if node.kind == "string":
        return _aliased(Table("", "", ()), nodes, at + 1)
    parts, after = dotted(nodes, at)
    if not parts:
        return [], at + 1
    if after < len(nodes) and isinstance(nodes[after], Group):
        return _aliased(Table("", parts[-1], ()), nodes, after + 1)
    name = ".".join(parts)
    return _aliased(Table(name, parts[-1], ctes.get(name.lower())), nodes, after)


def _aliased(table: Table, nodes: Sequence[Node], at: int) -> tuple[list[Table], int]:
    if at < len(nodes) and word_of(nodes[at]) == "as":
        at += 1
    if at >= len(nodes) or not is_name(nodes[at]) or word_of(nodes[at]) in CLAUSE_WORDS | JOIN_WORDS:
        return [table] if table.name or table.alias or table.parts else [], at
    alias, at = dotted(nodes, at)[0][0], at + 1
    if at < len(nodes) and isinstance(listed := nodes[at], Group):
        return [Table(table.name, alias, _names(listed))], at + 1
    return [replace(table, alias=alias)], at


# --- the columns of a query -----------------------------------------------------------------------


def selected(nodes: Sequence[Node], ctes: Ctes) -> tuple[str | Star, ...]:
    """Return the columns that a query gives, as far as its text names them.

    Expressions without an alias, and the one that is being typed, are left out.
    """
    ctes = ctes_of(nodes, ctes)
    first = block(nodes, _main(nodes))
    start = next((i for i, node in enumerate(first) if word_of(node) == "select"), None)
    tables = tables_of(first, ctes)
    if start is None:
        return (Star(tables),) if tables else ()
    ends = (i for i in range(start + 1, len(first)) if word_of(first[i]) in CLAUSE_WORDS)
    end = next((i for i in ends if not within_expression(first, i)), len(first))
    items = split_commas(first[start + 1 : end])
    return tuple(part for item in items if not any(map(is_cursor, item)) for part in _item(item, tables))


def _main(nodes: Sequence[Node]) -> int:
    """The index of the first word of the main query, after WITH."""
    return next((i for i, node in enumerate(nodes) if word_of(node) in ("select", "from", "values")), 0)


def _item(item: list[Node], tables: tuple[Table, ...]) -> Iterator[str | Star]:
    if item and word_of(item[0]) in ("distinct", "all"):
        item = item[1:]
        if item and word_of(item[0]) == "on":
            item = item[2:]
    star = next((i for i, node in enumerate(item) if word_of(node) == "*"), None)
    if star == 0 or (star == 2 and word_of(item[1]) == "."):
        owner = dotted(item, 0)[0][0].lower() if star else ""
        held = tuple(t for t in tables if not owner or t.alias.lower() == owner)
        yield Star(held, _left_out(item[star + 1 :]))
    elif len(item) > 2 and is_name(item[0]) and word_of(item[1]) == ":":
        yield dotted(item, 0)[0][0]
    elif item and is_name(item[-1]) and (len(item) == 1 or word_of(item[-2]) not in ("::", ":")):
        last = dotted(item, len(item) - 1)[0][0]
        if word_of(item[-1]) not in ("null", "true", "false", "end"):
            yield last


def _left_out(nodes: Sequence[Node]) -> frozenset[str]:
    if len(nodes) < 2 or word_of(nodes[0]) != "exclude":
        return frozenset()
    listed = nodes[1]
    names = _names(listed) if isinstance(listed, Group) else dotted(nodes, 1)[0][-1:]
    return frozenset(name.lower() for name in names)
