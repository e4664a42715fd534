"""Rules that tell what may stand at a place of a statement, the first that answers wins."""

from __future__ import annotations

from collections.abc import Callable

from meshql.shell.completion import words
from meshql.shell.completion.place import Place
from meshql.shell.completion.scope import Table, tables_of
from meshql.shell.completion.suggestions import (
    Alias,
    Columns,
    Functions,
    JoinCondition,
    Joins,
    Keywords,
    Products,
    Settings,
    Suggestion,
    Types,
    UsingColumns,
)
from meshql.shell.completion.tokens import Token
from meshql.shell.completion.tree import (
    Group,
    Node,
    dotted,
    find_last,
    is_cursor,
    is_name,
    split_commas,
    word_of,
)

__all__ = ["JOINED", "RULES", "Rule"]

Suggestions = tuple[Suggestion, ...]

Rule = Callable[[Place], "Suggestions | None"]
"""What fits at a place; None where the rule has nothing to say."""

TABLE_ANCHORS = words.vocabulary(
    "from join into update describe summarize show pivot unpivot truncate table view copy"
)

JOINED = frozenset({"from", "join"})

VALUE_ANCHORS = frozenset(words.CLAUSES_AFTER) | {"values", "returning"}

NAMING = frozenset({"select", "where", "having", "qualify", "group by", "order by"})
"""Clauses that may use the names that the select list gives."""

QUERY_OPENERS = frozenset({"in", "exists", "any", "all", "some", "as", "materialized", "lateral"})


def _no_word(place: Place) -> Suggestions | None:
    """A dot after anything but a name, such as that of a call's result, has no answer."""
    return () if place.last == "." else None


def _start(place: Place) -> Suggestions | None:
    if place.before:
        return None
    if place.group.is_query and len(place.path) == 1:
        again = len(place.path[0].nodes) > 1 and not is_cursor(place.path[0].nodes[0])
        return (Keywords(words.QUERIES) if again else Keywords(words.STATEMENTS, more=True),)
    if word_of(place.around[-1] if place.around else place.group) in QUERY_OPENERS:
        values = _values(place) if word_of(place.around[-1]) in ("in", "any", "all", "some") else ()
        return (*values, Keywords(words.QUERIES))
    return None


def _types(place: Place) -> Suggestions | None:
    if place.last == "::":
        return (Types(),)
    if place.last == "as" and place.around and word_of(place.around[-1]) in ("cast", "try_cast"):
        return (Types(),)
    if place.first == "create" and place.outer in ("table", "") and len(place.path) == 2:
        item = list(split_commas(place.before))[-1]
        if len(item) == 1 and is_name(item[0]):
            return (Types(),)
        return () if not item else None
    return None


def _settings(place: Place) -> Suggestions | None:
    if place.anchor == "set" and place.first == "set":
        rest = [w for node in place.since if (w := word_of(node)) not in ("global", "session", "local")]
        if rest and rest[0] == "variable":
            return ()
        return (Settings(),) if not rest else (Keywords(("TO",)),) if len(rest) == 1 else ()
    if place.anchor in ("reset", "pragma"):
        return (Settings(),) if not place.since else ()
    return None


def _column_lists(place: Place) -> Suggestions | None:
    """Brackets that hold names of columns: USING (, EXCLUDE (, INSERT INTO t (."""
    opener = word_of(place.around[-1]) if place.around else ""
    if place.anchor or (place.group.opener != "(" and place.last not in ("exclude", "rename")):
        in_star = place.last in ("exclude", "rename")
        return (_star_columns(place, place.before),) if in_star and not place.word.owner else None
    if opener == "using" and len(place.tables) > 1:
        left, right = _sides(place, place.around)
        return (UsingColumns(left, right),) if right else ()
    if opener in ("exclude", "rename", "replace", "columns"):
        columns = _star_columns(place, place.around)
        return (columns, Functions()) if opener == "replace" and not place.word.owner else (columns,)
    if place.outer == "into":
        name, _ = dotted(place.around, (find_last(place.around, "into") or 0) + 1)
        return (Columns((Table(".".join(name), name[-1]),), bare=True),) if name else ()
    if place.first == "copy" and place.around and _is_string(place.around[-1]):
        return (Keywords(words.COPY_OPTIONS),) if place.last in ("", ",") else ()
    return None


def _star_columns(place: Place, nodes: list[Node]) -> Columns:
    """The columns of the star before these nodes' last word: all of them, or of `alias.*`."""
    star = find_last(nodes, "*") or 0
    owner = nodes[star - 2] if star > 1 and word_of(nodes[star - 1]) == "." else None
    held = place.tables
    if isinstance(owner, Token):
        held = tuple(t for t in held if t.alias.lower() == owner.value.lower())
    return Columns(held, bare=True)


def _is_string(node: Node) -> bool:
    return isinstance(node, Token) and node.kind == "string"


def _sides(place: Place, nodes: list[Node]) -> tuple[tuple[Table, ...], Table | None]:
    """The tables of a join up to here: those on the left, and the one being joined."""
    found = tables_of(nodes, place.ctes)
    return found[:-1], found[-1] if found else None


def _conditions(place: Place) -> Suggestions | None:
    """ON, with conditions that join; on its own in a PIVOT."""
    if place.anchor != "on" or _has_comma(place) or not _expects_value(place.since):
        return None
    left, right = _sides(place, place.before)
    if right is None or not left or place.last not in ("on", "and"):
        return None
    return (JoinCondition(left, right), *_values(place))


def _has_comma(place: Place) -> bool:
    return any(word_of(node) == "," for node in place.since)


def _following(place: Place) -> Suggestions | None:
    last = place.last
    if place.word.owner:
        return None
    if last == "not" and not _expects_value(place.before[:-1]):
        return (Keywords(words.NEGATED),)
    if last == "as" and place.first == "create" and place.anchor in ("table", "view"):
        return (Keywords(words.QUERIES),)
    if last in ("or", "replace", "recursive") and place.first in ("create", "with") and not place.anchor:
        return (Keywords(words.FOLLOWING["create"] if last == "replace" else ("REPLACE",) * (last == "or")),)
    if last in ("all", "name", "analyze") and not place.anchor:
        return (Keywords(words.QUERIES),)
    if place.first in ("attach", "load", "install", "detach"):
        return ()
    if last == "case" or (last in words.FOLLOWING and last not in ("left", "right", "to")):
        return None if last == "case" else (Keywords(words.FOLLOWING[last]),)
    if last in ("left", "right") and place.anchor in (*JOINED, "on"):
        return (Keywords(words.FOLLOWING[last]),)
    return () if last == "to" else None


def _tables(place: Place) -> Suggestions | None:
    """Where a table stands, and what may follow it."""
    anchor, since = place.anchor, place.since
    if anchor == "on" and _has_comma(place) and tables_of(place.before, {})[1:]:
        anchor, since = "from", list(split_commas(since))[-1]
    elif anchor == "using" and place.first == "delete":
        anchor = "from"
    elif not anchor and place.group.opener == "(" and place.outer in JOINED and not place.since:
        if _after_table_word(place.around):
            return (*_table_names(place), Keywords(words.QUERIES))
        return None
    if anchor not in TABLE_ANCHORS or (anchor == "from" and _in_call(place)):
        return None
    item = list(split_commas(since))[-1]
    if anchor in ("table", "view") and place.first == "create":
        return (Keywords(("AS",)),) if item else ()
    if not item or word_of(item[-1]) in ("only", "lateral"):
        return _table_names(place)
    if place.word.owner:
        return ()
    if word_of(item[-1]) == "as":
        return _alias(place, item)
    return _after_table(place, anchor, item)


def _in_call(place: Place) -> bool:
    """Whether FROM is that of a function's arguments: extract(year FROM ...)."""
    return bool(place.group.opener) and not place.group.is_query


def _after_table_word(nodes: list[Node]) -> bool:
    return bool(nodes) and (word_of(nodes[-1]) in (*JOINED, ",", "lateral"))


def _table_names(place: Place) -> Suggestions:
    if place.word.owner:
        return (Products(".".join(place.word.owner)),)
    found: list[Suggestion] = []
    if place.anchor == "join" and (left := tables_of(place.before, place.ctes)):
        found.append(Joins(left))
    found.append(Products(local=tuple(place.ctes)))
    if place.anchor in (*JOINED, "on", ""):
        found.append(Functions("table"))
    return tuple(found)


def _alias(place: Place, item: list[Node]) -> Suggestions:
    name = ".".join(dotted(item, 0)[0])
    return (Alias(name, frozenset(t.alias.lower() for t in place.tables)),) if name else ()


def _after_table(place: Place, anchor: str, item: list[Node]) -> Suggestions:
    if place.first == "copy" and place.anchor != "join":
        if "to" in map(word_of, item) or _is_string(item[-1]):
            return (Keywords(words.COPY_SHAPES if _is_string(item[-1]) else ()),)
        return (Keywords(("TO", "FROM")),)
    if anchor in ("describe", "summarize", "show", "truncate", "table", "view"):
        return ()
    if anchor == "into":
        return (Keywords(("VALUES", "SELECT", "FROM", "BY NAME", "DEFAULT VALUES", "RETURNING")),)
    if anchor == "update":
        return (Keywords(("SET", "AS")),)
    if anchor in ("pivot", "unpivot"):
        return (Keywords(("ON", "USING", "GROUP BY", "ORDER BY")),)
    first = ("ON", "USING") if anchor == "join" else ()
    select = () if "select" in map(word_of, place.before) else ("SELECT",)
    where, *rest = words.AFTER_TABLE
    return (Keywords((*first, where, *select, *rest)),)


def _naming(place: Place) -> Suggestions | None:
    """After AS in a select list a new name is typed."""
    return () if place.last == "as" and place.anchor in ("select", "using", "returning") else None


def _query_start(place: Place) -> Suggestions | None:
    """After the last common table expression, or between one's name and its body."""
    if place.anchor or not place.before or word_of(place.before[0]) != "with":
        return None
    if isinstance(place.before[-1], Group):
        return (Keywords((*words.QUERIES[:2], "INSERT INTO", "AS")),)
    return (Keywords(("AS", "AS MATERIALIZED")),) if is_name(place.before[-1]) else ()


def _value_or_operator(place: Place) -> Suggestions | None:
    """Inside an expression: a value, or what may follow one."""
    inherited = not place.anchor and len(place.path) > 1
    anchor = place.outer if inherited else place.anchor
    if not (inherited or anchor in VALUE_ANCHORS or (anchor == "from" and _in_call(place))):
        return None
    if place.since and word_of(place.since[-1]) == "*" and _is_star(place.since):
        return (Keywords(words.AFTER_STAR),)
    if place.word.owner or _expects_value(place.since):
        return _window(place) + _values(place)
    if _case_is_open(place.since):
        return (Keywords((*words.CASE_WORDS, *words.OPERATORS)),)
    if inherited:
        return (Keywords(words.IN_FUNCTION),)
    return (Keywords(words.CLAUSES_AFTER.get(anchor, ())),)


def _window(place: Place) -> Suggestions:
    opened = bool(place.around) and word_of(place.around[-1]) == "over" and not place.before
    return (Keywords(words.OVER_WORDS),) if opened else ()


def _values(place: Place) -> Suggestions:
    if place.word.owner:
        return (Columns(place.tables, place.word.owner, bare=True),)
    if place.anchor in ("limit", "offset"):
        return ()
    names = place.names if (place.anchor or place.outer) in NAMING else ()
    bare = place.anchor == "set"
    distinct = ("DISTINCT",) if place.last == "select" else ()
    keywords = Keywords((*distinct, *words.OPERAND_WORDS))
    return (Columns(place.tables, names=names, bare=bare), Functions(), keywords)


def _expects_value(nodes: list[Node]) -> bool:
    """Whether a value, and not an operator, comes after these nodes."""
    if not nodes:
        return True
    last = nodes[-1]
    if isinstance(last, Group):
        return len(nodes) > 1 and word_of(nodes[-2]) == "on"
    if last.kind == "operator":
        return not (last.value[0] in "$?" or (last.value == "*" and _is_star(nodes)))
    return last.word in words.OPERAND_AFTER


def _is_star(nodes: list[Node]) -> bool:
    """Whether the `*` at the end is all columns rather than a product."""
    return len(nodes) == 1 or word_of(nodes[-2]) in (",", ".", "distinct", "all", "select")


def _case_is_open(nodes: list[Node]) -> bool:
    found = [word_of(node) for node in nodes]
    return found.count("case") > found.count("end")


def _unknown(place: Place) -> Suggestions | None:
    """Statements that have no rule of their own."""
    return () if place.word.owner else (Keywords((), more=True),)


RULES: tuple[Rule, ...] = (
    _no_word,
    _start,
    _types,
    _settings,
    _column_lists,
    _conditions,
    _following,
    _tables,
    _naming,
    _query_start,
    _value_or_operator,
    _unknown,
)
