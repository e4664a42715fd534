"""YAML text to nodes that know their place. Only plain YAML: no anchors, aliases, tags or merge keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from meshql.catalog.base import Place
from meshql.catalog.mistakes import LONGEST_NAME, Mistake

__all__ = ["Broken", "Mapping", "Node", "Scalar", "Sequence", "Source", "compose", "end_of", "path_text"]

DEEPEST = 64
MOST_MISTAKES = 500

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# A place is one number, line and column: catalogs of 10,000 products have a million of them.
_COLUMN_BITS = 21


def _at(mark: Any) -> int:
    return (int(mark.line) << _COLUMN_BITS) + int(mark.column)


def end_of(text: str) -> int:
    """Return the place right behind `text`, which starts a file."""
    return (text.count("\n") << _COLUMN_BITS) + len(text) - (text.rfind("\n") + 1)


@dataclass(slots=True)
class Scalar:
    """One word or text; `plain` says that it stands without quotes."""

    at: int
    text: str
    plain: bool


@dataclass(slots=True)
class Mapping:
    """Nodes by key, in the file's order; of a key given twice, the first. `keys` has the keys' places.

    `partial` says that some keys were refused: none of the others can be called missing.
    """

    at: int
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    partial: bool = False


@dataclass(slots=True)
class Sequence:
    """A list of nodes."""

    at: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Broken:
    """What was refused when it was read: nothing more is to be said about it."""

    at: int


Node = Scalar | Mapping | Sequence | Broken


@dataclass
class Source:
    """A file of the catalog: its tree of nodes, and the mistakes found in it so far."""

    file: str
    root: Node | None = None
    complete: bool = True
    mistakes: list[Mistake] = field(default_factory=list)

    def place(self, at: int) -> Place:
        """Return the place that a node or key has."""
        line, column = at >> _COLUMN_BITS, at & ((1 << _COLUMN_BITS) - 1)
        return Place(file=self.file, line=line + 1, column=column + 1)

    def refuse(self, at: int, key: str, message: str, hint: str | None = None) -> None:
        """Note an error."""
        self.mistakes.append(Mistake(self.place(at), key, message, hint))

    def give_up(self, at: int, message: str, hint: str | None = None) -> None:
        """Note an error that leaves the rest of the file unread."""
        self.complete = False
        self.refuse(at, "", message, hint)


def path_text(steps: Iterable[str | int]) -> str:
    """Write the way to a value as products[3].auth.key_id; overlong keys are cut."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{step[:LONGEST_NAME]}" for step in steps]
    return "".join(parts).removeprefix(".")


class _Stop(Exception):
    """Reading this file further makes no sense."""


@dataclass(slots=True)
class _Frame:
    """A collection that is still open; `key` waits for its value, which is dropped if `drop`."""

    node: Mapping | Sequence
    label: str | int | None
    key: str | None = None
    drop: bool = False
    flow: bool = False


class _Composer:
    """Builds nodes from events with a stack of its own, so that depth costs no recursion."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.stack: list[_Frame] = []
        self.documents = 0

    def feed(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            at = _at(event.start_mark)
            if event.anchor is None and event.tag is None:
                self.attach(Scalar(at, event.value, event.implicit[0]))
            else:
                self.check_properties(event, at)
                self.attach(Broken(at))
        elif kind is yaml.MappingStartEvent:
            self.open(event, Mapping(_at(event.start_mark)))
        elif kind is yaml.SequenceStartEvent:
            self.open(event, Sequence(_at(event.start_mark)))
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self.stack.pop()
        elif kind is yaml.AliasEvent:
            at = _at(event.start_mark)
            self.refuse(
                at, "aliases are not read", "write the value out; text that starts with * needs quotes"
            )
            self.attach(Broken(at))
        elif kind is yaml.DocumentStartEvent:
            self.start_document(_at(event.start_mark))

    def open(self, event: Any, node: Mapping | Sequence) -> None:
        if event.anchor is not None or event.tag is not None:
            self.check_properties(event, node.at)
        if len(self.stack) >= DEEPEST:
            self.source.give_up(
                node.at, f"nested deeper than {DEEPEST} levels", "remove brackets or indentation"
            )
            raise _Stop
        self.stack.append(_Frame(node, self.attach(node), flow=event.flow_style))

    def check_properties(self, event: Any, at: int) -> None:
        if event.anchor is not None:
            hint = "write the value out wherever it is needed; text that starts with & needs quotes"
            self.refuse(at, "anchors are not read", hint)
        if event.tag is not None:
            self.refuse(at, "tags are not read", "remove it; text that starts with ! needs quotes")

    def start_document(self, at: int) -> None:
        self.documents += 1
        if self.documents > 1:
            hint = "put what follows --- into a file of its own"
            self.source.give_up(at, "a second YAML document starts here", hint)
            raise _Stop

    def attach(self, node: Node) -> str | int | None:
        """Hang a node into the open collection; returns the key or index that it got."""
        if not self.stack:
            self.source.root = node
            return None
        frame = self.stack[-1]
        parent = frame.node
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return len(parent.items) - 1
        key = frame.key
        if key is None:
            self.take_key(frame, parent, node)
            return None
        frame.key = None
        if not frame.drop:
            parent.entries[key] = node
        return key

    def take_key(self, frame: _Frame, parent: Mapping, node: Node) -> None:
        frame.drop = True
        if not isinstance(node, Scalar):
            frame.key = "?"
            parent.partial = True
            if not isinstance(node, Broken):
                hint = "write `key: value`; a value in { } needs quotes"
                self.refuse(node.at, "a key must be plain text", hint)
            return
        frame.key = key = node.text
        if key == "<<" and node.plain:
            parent.partial = True
            self.refuse(node.at, "merge keys are not read", "write the keys out")
        elif key in parent.keys:
            first = self.source.place(parent.keys[key])
            self.refuse(
                node.at, f"duplicate key `{key[:LONGEST_NAME]}`, first at {first}", "keep one of them"
            )
        else:
            frame.drop = False
            parent.keys[key] = node.at

    def refuse(self, at: int, message: str, hint: str) -> None:
        self.source.refuse(at, self.path(), message, hint)
        if len(self.source.mistakes) >= MOST_MISTAKES:
            self.source.give_up(at, "too many mistakes: the rest of this file is unread")
            raise _Stop

    def path(self) -> str:
        """Say where we are, as in products[3].auth."""
        steps = [frame.label for frame in self.stack[1:]]
        if self.stack:
            steps.append(self.stack[-1].key)
        return path_text(step for step in steps if step is not None)


# YAML refuses these too, but says neither line nor column.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")

_SYNTAX_HINTS = (
    ("mapping values are not allowed", "quote the value if it holds `: `, or check the indentation"),
    ("could not find expected ':'", "write `key: value`, or check the indentation"),
    ("tab character", "indent with spaces, not tabs"),
    ("cannot start any token", "indent with spaces, not tabs, and quote text that starts with @, ` or %"),
    ("unexpected end of stream", "close the quote or bracket that is opened here"),
    ("did not find expected", "check the indentation, and the brackets and quotes before this place"),
)


def compose(source: Source, text: str) -> None:
    """Read `text` into `source`: its tree and its mistakes. Whatever the text holds, it does not raise."""
    if found := _CONTROL.search(text):
        source.give_up(end_of(text[: found.start()]), f"control character U+{ord(found[0]):04X}", "remove it")
        return
    composer = _Composer(source)
    try:
        for event in yaml.parse(text, Loader=LOADER):
            composer.feed(event)
    except _Stop:
        return
    except yaml.MarkedYAMLError as error:
        brackets = [frame.node.at for frame in composer.stack if frame.flow]
        _syntax_error(source, error, brackets[-1] if brackets else None)
    if source.root is None and source.complete:
        source.give_up(0, "the file is empty", "start it with `meshql: 1`")


def _syntax_error(source: Source, error: yaml.MarkedYAMLError, bracket: int | None) -> None:
    problem = error.problem or "unreadable"
    at = _at(error.problem_mark) if error.problem_mark else 0
    # What is not closed is noticed far below it: where it was opened is of more use.
    if "end of stream" in problem and error.context_mark:
        at = _at(error.context_mark)
    elif "while parsing a flow" in (error.context or "") and bracket is not None:
        at = bracket
    hint = next((hint for part, hint in _SYNTAX_HINTS if part in problem), None)
    said = f"{error.context}: {problem}" if error.context else problem
    source.give_up(at, f"not YAML: {said}", hint)
