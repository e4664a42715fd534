"""The words for DuckDB's operators: what each is called, what it does, and what is not worth telling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshql.formats.delta_files import said

__all__ = [
    "Node",
    "children_of",
    "columns_of",
    "counts_rows",
    "cte_names",
    "described",
    "is_scan",
    "only_renames",
]

Node = Mapping[str, Any]
"""An operator as DuckDB's profile or plan has it in JSON."""

NAMES = {
    "PROJECTION": "compute",
    "FILTER": "filter",
    "ORDER_BY": "order by",
    "LIMIT": "limit",
    "STREAMING_LIMIT": "limit",
    "LIMIT_PERCENT": "limit",
    "STREAMING_SAMPLE": "sample",
    "RESERVOIR_SAMPLE": "sample",
    "WINDOW": "window",
    "STREAMING_WINDOW": "window",
    "UNION": "union all",
    "UNNEST": "unnest",
    "INOUT_FUNCTION": "table function",
    "CROSS_PRODUCT": "cross product",
    "COLUMN_DATA_SCAN": "values",
    "DUMMY_SCAN": "one row",
    "EMPTY_RESULT": "no rows",
    "DELIM_SCAN": "values of the outer query",
    "CTE": "with",
    "REC_CTE": "with recursive",
    "RECURSIVE_CTE": "with recursive",
    "CREATE_TABLE": "create table",
    "CREATE_TABLE_AS": "create table",
    "BATCH_CREATE_TABLE_AS": "create table",
    "COPY_TO_FILE": "copy to file",
    "BATCH_COPY_TO_FILE": "copy to file",
    "BATCH_INSERT": "insert",
}

AGGREGATES = frozenset(
    {"HASH_GROUP_BY", "PERFECT_HASH_GROUP_BY", "PARTITIONED_AGGREGATE"}
    | {"UNGROUPED_AGGREGATE", "SIMPLE_AGGREGATE"}
)

JOIN_METHODS = {
    "NESTED_LOOP_JOIN": " by nested loops",
    "BLOCKWISE_NL_JOIN": " by nested loops",
    "PIECEWISE_MERGE_JOIN": " by merging",
    "IE_JOIN": " by inequalities",
}

JOINS = frozenset(
    {"HASH_JOIN", "ASOF_JOIN", "POSITIONAL_JOIN", "LEFT_DELIM_JOIN", "RIGHT_DELIM_JOIN"} | JOIN_METHODS.keys()
)

SAME = re.compile(r"(.+?) (?:=|IS NOT DISTINCT FROM) (.+)", re.DOTALL)

REFERENCE = re.compile(r"#(\d+)")

COLUMN = re.compile(r'\(?"?([^\W\d]\w*)"?(?=$|\s*[<>=!]| IN | IS )')

RENAMED = re.compile(r"""[\w.]+|"(?:[^"]|"")*"|'(?:[^']|'')*'|…""")

GUARD = "More than one row returned by a subquery"
"""In what DuckDB computes from a scalar subquery, to raise an error where it has two rows."""

WORDING = (
    (re.compile(r"__internal_(?:de)?compress_\w+\(((?:[^()]|\([^()]*\))*)\)"), r"\1"),
    (re.compile(r"\bcount_star\(\)"), "count(*)"),
    (re.compile(r'"(\w+)"\('), r"\1("),
    (re.compile(r"\bunnamed_subquery\d*\."), ""),
    (re.compile(r"\bmemory\.(?:main\.)?"), ""),
    (re.compile(r"\s+"), " "),
)


def children_of(node: Node) -> list[Node]:
    """Return the operators below; the guard of a scalar subquery and placeholders are passed over."""
    below = list(node.get("children", ()))
    if _is_guard(node) and below and _kind(below[0]) == "UNGROUPED_AGGREGATE":
        below = list(below[0]["children"])
    real = [child for child in below if _kind(child) != "DUMMY_SCAN"]
    return real if len(below) > 1 else below


def _kind(node: Node) -> str:
    """Return DuckDB's name of the operator."""
    return str(node.get("operator_name") or node.get("name") or "").strip()


def is_scan(node: Node) -> bool:
    """Whether the operator reads a table or calls a table function."""
    info = _info(node)
    return node.get("operator_type") == "TABLE_SCAN" or "Function" in info or "Table" in info


def _is_guard(node: Node) -> bool:
    """Whether all that the operator does is to see that a scalar subquery has one row."""
    return _kind(node) == "PROJECTION" and GUARD in str(_info(node).get("Projections"))


def only_renames(node: Node) -> bool:
    """Whether the operator computes nothing: names, constants, and values packed for the next operator."""
    if _kind(node) != "PROJECTION" or _is_guard(node):
        return False
    below = {text for child in children_of(node) for text in _outputs(child) or ()}
    return all(RENAMED.fullmatch(text) or text in below for text in _expressions(node))


def described(node: Node, ctes: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return what people call the operator, and details of it, the most telling first.

    `ctes` are the names of the plan's WITH queries, as `cte_names` gives them.
    """
    kind, info = _kind(node), _info(node)
    if kind in JOINS:
        return _join(node)
    if kind in AGGREGATES:
        return _aggregate(node)
    if _is_guard(node):
        return "scalar subquery", ()
    if is_scan(node):
        return _table(node), _all(_filters(node), _narrowing(node))
    match kind:
        case "TOP_N":
            return f"top {info.get('Top', '')}", _all(f"by {_order(node)}")
        case "ORDER_BY":
            return NAMES[kind], _all(_order(node))
        case "PROJECTION":
            texts = _expressions(node)
            computed = [text for text in texts if not RENAMED.fullmatch(text)]
            return NAMES[kind], _all(", ".join(computed or texts))
        case "CTE" | "REC_CTE" | "RECURSIVE_CTE":
            return f"{NAMES[kind]} {info.get('CTE Name', '')}", ()
        case "CTE_SCAN" | "REC_CTE_SCAN" | "RECURSIVE_CTE_SCAN":
            return f"rows of {ctes.get(str(info.get('CTE Index')), 'with')}", ()
    told = [" AND ".join(_texts(node, key)) for key in info if key in {"Expression", "Projections"}]
    return NAMES.get(kind, kind.replace("_", " ").lower()), _all(*told)


def columns_of(info: Mapping[str, Any]) -> set[str]:
    """Return the columns that a scan with this `extra_info` hands on or filters by."""
    found = {name for key in ("Projections", "Filters") for name in _listed(info.get(key))}
    return {match[1] for name in found if (match := COLUMN.match(name))}


def cte_names(nodes: Iterable[Node]) -> dict[str, str]:
    """Return the names of WITH queries, by the index under which a plan refers to them."""
    infos = (_info(node) for node in nodes)
    return {
        str(i["Table Index"]): str(i["CTE Name"]) for i in infos if "CTE Name" in i and "Table Index" in i
    }


def counts_rows(node: Node) -> bool:
    """Whether the operator's count of rows is its own: some leave it to operators below them."""
    kind = _kind(node)
    return not kind.endswith(("DELIM_JOIN", "DELIM_SCAN")) and kind != "CTE"


def _info(node: Node) -> Mapping[str, Any]:
    return node.get("extra_info") or {}


def _filters(node: Node) -> str:
    """The filters that a scan applies while it reads."""
    given = [*_texts(node, "Filters"), *_texts(node, "File Filters")]
    texts = dict.fromkeys(_bare(t) for t in given if not t.startswith("optional:"))
    return " AND ".join(t for t in texts if not any(t != o and t in o.split(" AND ") for o in texts))


def _narrowing(node: Node) -> str:
    """The columns by which a join or a top N narrowed a scan while it ran."""
    found = re.findall(r'(?:^|AND )(?:optional: )?"?([\w.]+)"?', str(_info(node).get("Dynamic Filters", "")))
    return f"narrowed by {', '.join(dict.fromkeys(found))}" if found else ""


def _all(*texts: str) -> tuple[str, ...]:
    return tuple(text for text in texts if text)


def _join(node: Node) -> tuple[str, tuple[str, ...]]:
    kind = _kind(node)
    sides = str(_info(node).get("Join Type", "")).removeprefix("RIGHT_").lower()
    name = " ".join(filter(None, (sides, "asof" if kind == "ASOF_JOIN" else "", "join")))
    conditions = " AND ".join(_condition(text) for text in _texts(node, "Conditions"))
    if kind.endswith("DELIM_JOIN"):
        return "correlated subquery", _all(f"{name} on {conditions}")
    return name + JOIN_METHODS.get(kind, ""), _all(f"on {conditions}" if conditions else "")


def _condition(text: str) -> str:
    """A condition; one that compares columns of the same name is that name, as in USING."""
    found = SAME.fullmatch(text)
    if not found:
        return text
    return found[1] if found[1] == found[2] else f"{found[1]} = {found[2]}"


def _aggregate(node: Node) -> tuple[str, tuple[str, ...]]:
    groups, aggregates = ", ".join(_texts(node, "Groups")), ", ".join(_texts(node, "Aggregates"))
    if not groups:
        return "aggregate", _all(aggregates)
    return ("group by", (f"{groups} → {aggregates}",)) if aggregates else ("distinct", (groups,))


def _table(node: Node) -> str:
    info = _info(node)
    table = str(info.get("Table", "")).removeprefix("memory.").removeprefix("temp.").removeprefix("main.")
    return table or f"{str(info.get('Function') or _kind(node)).lower()}()"


def _order(node: Node) -> str:
    return ", ".join(text.removesuffix(" ASC") for text in _texts(node, "Order By"))


def _expressions(node: Node) -> list[str]:
    return _texts(node, "Projections")


def _outputs(node: Node) -> list[str] | None:
    """The columns that an operator hands on, where their order is known."""
    kind = _kind(node)
    if kind == "PROJECTION":
        return _expressions(node)
    if kind in AGGREGATES:
        return [*_texts(node, "Groups"), *_texts(node, "Aggregates")]
    return None


def _texts(node: Node, key: str) -> list[str]:
    """The texts under a key, references to columns of the operator below replaced by their names."""
    texts = [said(text) for text in _listed(_info(node).get(key))]
    if not any("#" in text for text in texts):
        return [_worded(text) for text in texts]
    below = children_of(node)
    names = _outputs(below[0]) if len(below) == 1 else None
    return [_worded(REFERENCE.sub(lambda found: _named(names, int(found[1])), text)) for text in texts]


def _listed(given: str | Sequence[str] | None) -> Sequence[str]:
    """What DuckDB writes as a text where it is one, and as a list where there are several."""
    return ([given] if given else []) if isinstance(given, str) else given or []


def _named(names: Sequence[str] | None, index: int) -> str:
    return names[index] if names is not None and index < len(names) else "…"


def _worded(text: str) -> str:
    for pattern, words in WORDING:
        text = pattern.sub(words, text)
    return _bare(text.strip())


def _bare(text: str) -> str:
    """`text` without the parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]
