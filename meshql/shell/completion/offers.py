"""What each kind of suggestion stands for in a snapshot: products, columns, conditions, functions ..."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from meshql.shell.completion import suggestions as kinds
from meshql.shell.completion.fuzzy import Rank, grade
from meshql.shell.completion.joins import Pairs, common, conditions, partners, short_name
from meshql.shell.completion.metadata import Column, Metadata, columns_in
from meshql.shell.completion.scope import Table
from meshql.shell.completion.usage import Usage
from meshql.shell.completion.words import vocabulary
from meshql.sql import quote_identifier

__all__ = ["MOST", "Command", "Desk", "Lookup", "Offer", "offers"]

MOST = 200
"""Candidates that are offered at a time."""

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")

USUAL = vocabulary(
    "count sum avg min max coalesce round date_trunc lower upper strftime row_number rank lag lead list"
    " string_agg arg_max arg_min any_value approx_count_distinct median quantile_cont date_diff"
    " regexp_matches concat substring trim replace now unnest read_parquet read_csv read_json range"
)
"""Functions that come before their like, until use tells otherwise."""

LATER = 1_000


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the shell: its name with the dot, what it does, what it takes."""

    name: str
    summary: str = ""
    takes: Literal["nothing", "product", "path", "choice", "sql", "setting"] = "nothing"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lookup:
    """What candidates are drawn from; `paths` lists what a path may go on to."""

    metadata: Metadata = field(default_factory=Metadata)
    usage: Usage = field(default_factory=Usage)
    commands: Sequence[Command] = ()
    paths: Callable[[str], Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate before it is ranked: `key` is what is typed of it, `order` its place among its like.

    It stands in place of the word, or of what begins at `start`; `rank` is its match where that is known.
    """

    key: str
    text: str
    meta: str = ""
    order: int = 0
    start: int | None = None
    rank: Rank | None = None
    display: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """A word to complete, with what it is completed from; `following` is the character after the cursor."""

    lookup: Lookup
    word: kinds.Word
    lower: bool = False
    following: str = ""

    @property
    def metadata(self) -> Metadata:
        """The snapshot."""
        return self.lookup.metadata

    @property
    def typed(self) -> str:
        """The word with the names before it."""
        return ".".join((*self.word.owner, self.word.text))

    def name(self, name: str, *, after_dot: bool = False) -> str:
        """Return an identifier as it must be typed: quoted where SQL needs it or a quote is open."""
        reserved = not after_dot and name.lower() in self.metadata.engine.reserved
        quoted = self.word.quoted and not self.word.owner
        return quote_identifier(name) if quoted or reserved or not PLAIN.fullmatch(name) else name

    def last_name(self, name: str) -> str:
        """Return an identifier that stands in place of the word alone."""
        if self.word.quoted:
            return quote_identifier(name)
        return self.name(name, after_dot=bool(self.word.owner))

    def dotted(self, name: str) -> str:
        """Return `domain.product` as it must be typed."""
        first, *rest = name.split(".")
        return ".".join((self.name(first), *(self.name(part, after_dot=True) for part in rest)))


def offers(desk: Desk, suggestion: kinds.Suggestion) -> Iterator[Offer]:
    """Yield what a suggestion stands for, perhaps without a match to what is typed yet."""
    match suggestion:
        case kinds.Products():
            yield from _products(desk, suggestion)
        case kinds.Columns():
            yield from _columns(desk, suggestion)
        case kinds.UsingColumns():
            yield from _using(desk, suggestion)
        case kinds.JoinCondition():
            yield from _conditions(desk, suggestion)
        case kinds.Joins():
            yield from _joins(desk, suggestion)
        case kinds.Alias():
            alias = short_name(suggestion.table, suggestion.taken)
            yield Offer(alias, alias, suggestion.table)
        case kinds.Functions():
            yield from _functions(desk, suggestion)
        case kinds.Keywords():
            yield from _keywords(desk, suggestion)
        case kinds.Types():
            yield from (Offer(t, t.lower() if desk.lower else t, "type") for t in desk.metadata.engine.types)
        case kinds.Settings():
            for s in desk.metadata.engine.settings:
                yield Offer(s.name, s.name, " · ".join(filter(None, (s.value, s.note)))[:80])
        case kinds.Paths():
            yield from _paths(desk)
        case kinds.Commands():
            yield from _commands(desk)


# --- products -------------------------------------------------------------------------------------


def _products(desk: Desk, suggestion: kinds.Products) -> Iterator[Offer]:
    metadata, domain = desk.metadata, suggestion.domain.casefold()
    for name in (*suggestion.local, *metadata.engine.tables):
        if not domain and metadata.product(name) is None:
            yield Offer(name, desk.dotted(name), "with" if name in suggestion.local else "table")
    counts = desk.lookup.usage.counts
    if index := metadata.by_domain.get(domain):
        used = [name[len(domain) + 1 :] for name in counts if name.startswith(domain + ".")]
        for rank, table in index.search(desk.word.text, MOST, used):
            name = f"{suggestion.domain}.{table}"
            yield Offer(name, desk.last_name(table), _side(metadata, name), rank=rank, display=table)
    else:
        start = desk.word.chain if domain else None
        for rank, name in metadata.names.search(desk.typed, MOST, counts):
            yield Offer(name, desk.dotted(name), _side(metadata, name), start=start, rank=rank)


def _side(metadata: Metadata, name: str) -> str:
    product = metadata.product(name)
    return metadata.side(product) if product else ""


def _joins(desk: Desk, suggestion: kinds.Joins) -> Iterator[Offer]:
    taken = frozenset(t.alias.lower() for t in suggestion.tables)
    held = {t.name.casefold() for t in suggestion.tables}
    for table in suggestion.tables:
        for name, pairs in partners(desk.metadata, table):
            if name.casefold() not in held:
                alias = short_name(name, taken)
                condition = _condition(desk, table, pairs, alias)
                on = "on" if desk.lower else "ON"
                yield Offer(name, f"{desk.dotted(name)} {alias} {on} {condition}", "relationship")


# --- columns --------------------------------------------------------------------------------------


def _columns(desk: Desk, suggestion: kinds.Columns) -> Iterator[Offer]:
    if suggestion.owner:
        yield from _owned(desk, suggestion)
        return
    found = [(t, c) for t in suggestion.tables for c in columns_in(desk.metadata, t) or ()]
    shared = set() if suggestion.bare else _repeated(c.name.casefold() for _, c in found)
    several = len(suggestion.tables) > 1
    for order, (table, column) in enumerate(found):
        text = desk.last_name(column.name)
        if column.name.casefold() in shared and table.alias:
            text = f"{desk.name(table.alias)}.{desk.name(column.name, after_dot=True)}"
        yield Offer(column.name, text, _about(column, table.alias if several else ""), order)
    names = {c.name.casefold() for _, c in found}
    for name in suggestion.names:
        if name.casefold() not in names:
            yield Offer(name, desk.last_name(name), "alias", LATER)
    if desk.word.text and not suggestion.bare:
        yield from (
            Offer(t.alias, desk.last_name(t.alias), t.name, LATER) for t in suggestion.tables if t.alias
        )
    if not suggestion.tables and len(desk.word.text) > 1:
        for rank, name in desk.metadata.columns.search(desk.word.text, MOST, desk.lookup.usage.counts):
            yield Offer(name, desk.last_name(name), "column", rank=rank)


def _repeated(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def _about(column: Column, table: str = "") -> str:
    key = "key" if column.key else ""
    return " · ".join(filter(None, (table, column.type, key, column.note)))[:80]


def _owned(desk: Desk, suggestion: kinds.Columns) -> Iterator[Offer]:
    """The columns after `alias.`, or the fields after an object's name."""
    owner = suggestion.owner
    columns = _columns_of(desk.metadata, suggestion.tables, owner)
    if columns is None and not suggestion.tables and len(owner) == 1:
        yield from _products(desk, kinds.Products(owner[0]))
        return
    for order, column in enumerate(columns or ()):
        yield Offer(column.name, desk.last_name(column.name), _about(column), order)


def _columns_of(
    metadata: Metadata, tables: tuple[Table, ...], owner: tuple[str, ...]
) -> tuple[Column, ...] | None:
    for table in tables:
        if len(owner) == 1 and table.alias.lower() == owner[0].lower():
            return columns_in(metadata, table)
    said = ".".join(owner).lower()
    for table in tables:
        if table.name.lower() == said:
            return columns_in(metadata, table)
    if not tables:
        return metadata.columns_of(said) if len(owner) == 2 else None
    return _fields(metadata, tables, owner)


def _fields(
    metadata: Metadata, tables: tuple[Table, ...], owner: tuple[str, ...]
) -> tuple[Column, ...] | None:
    aliased = [t for t in tables if t.alias.lower() == owner[0].lower()]
    path = owner[1:] if aliased else owner
    columns = tuple(c for t in aliased or tables for c in columns_in(metadata, t) or ())
    for name in path:
        column = next((c for c in columns if c.name.lower() == name.lower()), None)
        if column is None:
            return None
        columns = column.fields
    return columns


def _using(desk: Desk, suggestion: kinds.UsingColumns) -> Iterator[Offer]:
    there = columns_in(desk.metadata, suggestion.right) or ()
    left = (columns_in(desk.metadata, t) or () for t in suggestion.left)
    names = dict.fromkeys(name for here in left for name in common(here, there))
    keys = {c.name.casefold() for c in there if c.key}
    for order, name in enumerate(names):
        is_key = name.casefold() in keys
        yield Offer(name, desk.last_name(name), "key" if is_key else "", order + LATER * (not is_key))


def _conditions(desk: Desk, suggestion: kinds.JoinCondition) -> Iterator[Offer]:
    right, order = suggestion.right, 0
    for table in suggestion.left:
        for pairs, why in conditions(desk.metadata, table, right):
            text = _condition(desk, table, pairs, right.alias)
            rank = grade(text, desk.typed)
            if rank is None or (desk.word.owner and rank[0]):
                continue
            yield Offer(text, text, why, order + LATER * (why == "same name"), desk.word.chain, rank)
            order += 1


def _condition(desk: Desk, left: Table, pairs: Pairs, right: str) -> str:
    def column(table: str, name: str) -> str:
        return f"{desk.name(table)}.{desk.name(name, after_dot=True)}"

    joint = " and " if desk.lower else " AND "
    return joint.join(f"{column(left.alias, a)} = {column(right, b)}" for a, b in pairs)


# --- the engine's words ---------------------------------------------------------------------------


def _functions(desk: Desk, suggestion: kinds.Functions) -> Iterator[Offer]:
    if not desk.word.text or desk.word.quoted:
        return
    tables = ("table", "table_macro")
    first = desk.word.text[0].casefold()
    for f in desk.metadata.engine.functions:
        if (f.kind in tables) is not (suggestion.kind == "table") or first not in f.name.casefold():
            continue
        call = "" if desk.following == "(" else "()" if f.bare else "("
        about = f"{f.kind} · {f.note}"[:80].rstrip(" ·")
        rank = grade(f.name, desk.word.text)
        if rank and suggestion.kind == "table":
            # Products come first, wherever in their names the word begins.
            rank = (rank[0] + 1, rank[1])
        order = 20 if f.name in USUAL else 100
        yield Offer(f.name, f.name + call, about, order, rank=rank, display=f"{f.name}()")


def _keywords(desk: Desk, suggestion: kinds.Keywords) -> Iterator[Offer]:
    if desk.word.quoted:
        return
    for order, word in enumerate(suggestion.expected):
        yield Offer(word, word.lower() if desk.lower else word, "keyword", order)
    if suggestion.more and len(desk.word.text) > 1:
        for word in desk.metadata.engine.keywords:
            if word.startswith(desk.word.text.upper()) and word not in suggestion.expected:
                yield Offer(word, word.lower() if desk.lower else word, "keyword", LATER)


# --- files and commands ---------------------------------------------------------------------------


def _paths(desk: Desk) -> Iterator[Offer]:
    folder, slash, name = desk.word.text.rpartition("/")
    start = desk.word.start + len(folder) + len(slash)
    listed = desk.lookup.paths
    for entry in listed(desk.word.text.replace("''", "'")) if listed else ():
        rank = grade(entry, name)
        if rank is not None:
            about = "folder" if entry.endswith("/") else "file"
            yield Offer(entry, entry.replace("'", "''"), about, start=start, rank=rank, display=entry)


def _commands(desk: Desk) -> Iterator[Offer]:
    typed = desk.word.text
    for order, command in enumerate(desk.lookup.commands):
        rank = grade(command.name[1:], typed[1:])
        if rank is not None and command.name[0] == typed[0]:
            yield Offer(command.name, command.name, command.summary, order, rank=rank)
