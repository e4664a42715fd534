"""From what fits to what is offered: looked up in a snapshot, ranked by match, kind and use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from meshql.shell.completion import suggestions as kinds
from meshql.shell.completion.context import suggest
from meshql.shell.completion.fuzzy import grade
from meshql.shell.completion.metadata import Metadata
from meshql.shell.completion.offers import MOST, Command, Desk, Lookup, Offer, offers
from meshql.shell.completion.scope import Table

__all__ = ["MOST", "Candidate", "Command", "Lookup", "candidates", "unknown_products"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text to put in place of what stands from `start_position`, counted from the cursor, up to it."""

    text: str
    start_position: int
    display: str
    meta: str = ""


def candidates(
    text: str, cursor: int, lookup: Lookup, request: kinds.Request | None = None
) -> list[Candidate]:
    """Return what may be typed at the cursor, best first, at most MOST of them.

    `request` is what `suggest` said of the same text and cursor, if it was asked already.
    """
    request = request or suggest(text, cursor)
    following = text[cursor : cursor + 1]
    desk = Desk(lookup, request.word, request.lower, following)
    wanted = request.suggestions
    if wanted and isinstance(wanted[0], kinds.CommandArguments):
        command = _command(lookup, wanted[0].command)
        if command is not None and command.takes == "sql":
            return candidates(text[wanted[0].start :], cursor - wanted[0].start, lookup)
        desk, wanted = _argument(desk, command)
    return [_candidate(desk, offer, cursor) for offer in _distinct(_ranked(desk, wanted))]


def unknown_products(request: kinds.Request, metadata: Metadata) -> list[str]:
    """Return the products in sight whose columns nothing tells yet."""
    names = {table.name for s in request.suggestions for table in _tables(s)}
    return sorted(n for n in names if metadata.product(n) and metadata.columns_of(n) is None)


def _tables(suggestion: kinds.Suggestion) -> Iterator[Table]:
    match suggestion:
        case kinds.Columns() | kinds.Joins():
            held: tuple[Table, ...] = suggestion.tables
        case kinds.JoinCondition() | kinds.UsingColumns():
            held = (*suggestion.left, suggestion.right)
        case _:
            return
    stack = list(held)
    while stack:
        table = stack.pop()
        yield table
        stack.extend(t for part in table.parts or () if not isinstance(part, str) for t in part.tables)


def _ranked(desk: Desk, wanted: Iterable[kinds.Suggestion]) -> Iterator[Offer]:
    found: list[tuple[tuple[int, int, int, int, int, str], Offer]] = []
    place, last = 0, None
    for suggestion in wanted:
        # Functions and the keywords beside them are one kind: nobody types NULL after all of n's functions.
        if not (isinstance(suggestion, kinds.Keywords) and isinstance(last, kinds.Functions)):
            place += 1
        last = suggestion
        for offer in offers(desk, suggestion):
            rank = offer.rank or grade(offer.key, desk.word.text)
            if rank is not None:
                use = desk.lookup.usage.of(offer.key)
                found.append(((rank[0], place, -use, rank[1], offer.order, offer.key), offer))
    found.sort(key=lambda pair: pair[0])
    return (offer for _, offer in found)


def _distinct(ranked: Iterable[Offer]) -> list[Offer]:
    kept: dict[str, Offer] = {}
    for offer in ranked:
        kept.setdefault(offer.text, offer)
        if len(kept) == MOST:
            break
    return list(kept.values())


def _candidate(desk: Desk, offer: Offer, cursor: int) -> Candidate:
    text = offer.text
    if desk.word.quoted and desk.following == '"':
        text = text.removesuffix('"')
    start = desk.word.start if offer.start is None else offer.start
    return Candidate(text, start - cursor, offer.display or offer.text, offer.meta)


def _command(lookup: Lookup, typed: str) -> Command | None:
    """The command of this name, or the only one that begins so."""
    exact = [c for c in lookup.commands if c.name == typed]
    begun = [c for c in lookup.commands if c.name.startswith(typed)]
    return exact[0] if exact else begun[0] if len(begun) == 1 else None


def _argument(desk: Desk, command: Command | None) -> tuple[Desk, tuple[kinds.Suggestion, ...]]:
    """The last word of a command's arguments, and what it may be."""
    takes = command.takes if command else "nothing"
    typed = desk.word.text
    gap = re.match(r"['\"]?", typed) if takes == "path" else re.match(r"(?:.*\s)?", typed, re.DOTALL)
    skipped = gap.end() if gap else 0
    start = desk.word.start + skipped
    desk = replace(desk, word=kinds.Word(typed[skipped:], start, chain=start))
    match takes:
        case "product":
            return desk, (kinds.Products(),)
        case "path":
            return desk, (kinds.Paths(),)
        case "setting":
            return desk, (kinds.Settings(),)
        case "choice" if command:
            return replace(desk, lower=False), (kinds.Keywords(command.choices),)
    return desk, ()
