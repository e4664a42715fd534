"""What may be typed at the cursor, from the text alone: no catalog, no engine."""

from __future__ import annotations

import re

from meshql.shell.completion.place import Piece, Place, locate, statement_at
from meshql.shell.completion.rules import JOINED, RULES
from meshql.shell.completion.suggestions import (
    CommandArguments,
    Commands,
    JoinCondition,
    Joins,
    Paths,
    Request,
    Settings,
    Suggestion,
    Word,
)
from meshql.shell.completion.tokens import Token
from meshql.shell.completion.tree import (
    split_commas,
    word_of,
)

__all__ = ["suggest"]

COMMAND = re.compile(r"\s*([.\\]\S*)(\s+)?(.*)", re.DOTALL)

PATH_FUNCTIONS = re.compile(r"read_\w+|\w+_scan|glob|parquet_\w+|sniff_csv", re.IGNORECASE)


def suggest(text: str, cursor: int) -> Request:
    """Return the word at the cursor and what may stand in its place; nothing inside strings and comments.

    The text may be unfinished, hold several statements, or begin with a command of the shell.
    """
    piece = statement_at(text, cursor)
    if (command := _command(text, cursor, piece)) is not None:
        return command
    inside = piece.inside
    if inside is not None and inside.kind not in ("name", "keyword", "string"):
        return Request(Word("", cursor))
    place = locate(piece, cursor)
    if inside is not None and inside.kind == "string":
        return _in_string(text, cursor, place, inside)
    answers = (rule(place) for rule in RULES)
    found = next((answer for answer in answers if answer is not None), ())
    return Request(place.word, found, _types_lower(place.word, piece, found))


def _types_lower(word: Word, piece: Piece, found: tuple[Suggestion, ...]) -> bool:
    """Whether keywords are typed so: as the word itself, or where that names a table, as those before."""
    if word.text and not word.quoted and not isinstance(next(iter(found), None), (Joins, JoinCondition)):
        return word.text.islower()
    last = next((t for t in reversed(piece.tokens) if t.kind == "keyword" and t.end <= word.start), None)
    return last is not None and last.value.islower()


def _command(text: str, cursor: int, piece: Piece) -> Request | None:
    found = COMMAND.match(text, piece.start, cursor)
    if found is None or not (piece.tokens and piece.tokens[0].value[0] in ".\\"):
        return None
    if found[2] is None:
        return Request(Word(found[1], found.start(1)), (Commands(),))
    word = Word(found[3], found.start(3), chain=found.start(3))
    return Request(word, (CommandArguments(found[1], found[3], found.start(3)),))


# --- inside quotes --------------------------------------------------------------------------------


def _in_string(text: str, cursor: int, place: Place, token: Token) -> Request:
    start = token.start + 1
    if token.value[:1] != "'":
        return Request(Word("", cursor))
    word = Word(text[start:cursor], start, chain=start)
    function = _function(place)
    if function == "current_setting":
        return Request(word, (Settings(),))
    return Request(word, (Paths(),) if _wants_path(place, function) else ())


def _function(place: Place) -> str:
    """The function whose argument is being typed, a list of arguments included."""
    depth = len(place.path) - 1
    around = place.around
    if place.group.opener == "[" and depth > 1:
        parent = place.path[depth - 2].nodes
        around = parent[: next(i for i, node in enumerate(parent) if node is place.path[depth - 1])]
    return word_of(around[-1]) if around else ""


def _wants_path(place: Place, function: str) -> bool:
    if PATH_FUNCTIONS.fullmatch(function):
        return len(list(split_commas(place.before))) == 1 or place.group.opener == "["
    if place.last in JOINED or (place.first == "copy" and place.last == "to"):
        return True
    if place.last == "," and place.anchor in JOINED:
        return True
    return place.last in ("attach", "load", "directory", "database")
