"""What pydantic finds wrong, said in the catalog's own words and at its place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Sequence as Steps
from dataclasses import dataclass
from typing import Any, Literal, get_origin

from pydantic import SecretStr
from pydantic_core import ErrorDetails

from meshql.catalog.allowed import TAGS, choices_of, keys_of, types_at
from meshql.catalog.base import Model
from meshql.catalog.documents import MASK
from meshql.catalog.mistakes import LONGEST_NAME, Mistake, closest, did_you_mean, quoted
from meshql.catalog.nodes import Broken, Mapping, Node, Scalar, Sequence, Source, path_text
from meshql.catalog.scalars import plain_value

__all__ = ["Repair", "shown", "translate"]

_SECRET = re.compile(r"\.auth\b|secret|passw|token|credential|connection_string|signature", re.IGNORECASE)
_IN_URL = re.compile(r"//[^/@\s]*@|\?.*=.*", re.DOTALL)
_MOST_SHOWN = 60
_LONGEST_CHOICE = 20

# What people call the same things elsewhere.
_OTHER_WORDS = {
    **dict.fromkeys(("aws", "amazon", "minio", "r2"), "s3"),
    **dict.fromkeys(("gcp", "gs", "google"), "gcs"),
    **dict.fromkeys(("az", "adls", "abfss", "blob"), "azure"),
    **dict.fromkeys(("file", "disk"), "local"),
    **dict.fromkeys(("https", "web"), "http"),
    **dict.fromkeys(("deltalake", "delta_lake", "delta-lake"), "delta"),
    **dict.fromkeys(("ndjson", "jsonl"), "json"),
    **dict.fromkeys(("tsv", "txt"), "csv"),
}

Step = str | int


def shown(path: str, text: str) -> str:
    """Return `text` ticked, to follow a word in a message; nothing where it could be a secret."""
    if _SECRET.search(path) or _IN_URL.search(text):
        return ""
    cut = text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."
    return f" `{' '.join(cut.split())}`"


@dataclass(frozen=True)
class Repair:
    """A tag as it was probably meant: with it in place, what else is wrong shows."""

    path: tuple[Step, ...]
    remove: str
    key: str
    value: str


@dataclass(frozen=True)
class _Spot:
    """Where an error is: the node, its key, and the way to it."""

    node: Node
    key: int
    path: tuple[Step, ...]


def _untagged(loc: Steps[Step]) -> list[Step]:
    """Take the tags of unions out of a location: cloud, method and kind, and those of the contract."""
    steps = list(loc)
    if steps[:1] == ["connections"]:
        del steps[2:3]
        at = 2
        while steps[at : at + 1] in (["auth"], ["source"]):
            del steps[at + 1 : at + 2]
            at += 1
    if steps[:1] == ["products"] and steps[2:3] == ["build"]:
        del steps[3:4]
        if steps[3:4] == ["sources"]:
            del steps[5:6]
    return [step for step in steps if not (isinstance(step, str) and step.startswith(MASK))]


def _spot(root: Node, loc: Steps[Step]) -> _Spot:
    node, key = root, root.at
    path: list[Step] = []
    for found in _untagged(loc):
        step = found.removesuffix(MASK) if isinstance(found, str) else found
        if isinstance(node, Mapping) and step in node.entries:
            key, node = node.keys[str(step)], node.entries[str(step)]
            path.append(step)
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            key = node.at
            path.append(step)
    return _Spot(node, key, tuple(path))


def translate(source: Source, errors: Iterable[ErrorDetails]) -> tuple[list[Mistake], list[Repair]]:
    """Return the mistakes that pydantic's `errors` mean in `source`, and repairs that would show more."""
    translator = _Translator(source)
    ordered = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    for error in ordered:
        translator.take(error)
    return translator.mistakes, translator.repairs


class _Translator:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: list[Mistake] = []
        self.repairs: list[Repair] = []
        # Keys that an unknown key near by was probably meant to be: they are not missing too.
        self.meant: set[tuple[tuple[Step, ...], str]] = set()

    def take(self, error: ErrorDetails) -> None:
        assert self.source.root is not None
        spot = _spot(self.source.root, error["loc"])
        if isinstance(spot.node, Broken):
            return
        kind = error["type"]
        if kind == "extra_forbidden":
            self.unknown_key(spot, error)
        elif kind == "missing":
            self.missing_key(spot, error)
        elif kind in ("union_tag_invalid", "union_tag_not_found") and isinstance(spot.node, Mapping):
            self.wrong_tag(spot, spot.node, error)
        else:
            self.wrong_value(spot, error)

    def note(self, at: int, path: Steps[Step], message: str, hint: str | None) -> None:
        self.source_mistake(Mistake(self.source.place(at), path_text(path), message, hint))

    def source_mistake(self, mistake: Mistake) -> None:
        if mistake not in self.mistakes:
            self.mistakes.append(mistake)

    def unknown_key(self, spot: _Spot, error: ErrorDetails) -> None:
        name = str(spot.path[-1])
        known = keys_of(types_at(error["loc"][:-1]))
        if near := closest(name, known):
            self.meant.add((spot.path[:-1], near))
        hint = did_you_mean(name, known)
        if " " in name and isinstance(spot.node, Scalar) and not spot.node.text:
            hint = "quote the text before it, if the comma is part of that text"
        self.note(spot.key, spot.path, f"unknown key `{name[:LONGEST_NAME]}`", hint)

    def missing_key(self, spot: _Spot, error: ErrorDetails) -> None:
        name = str(error["loc"][-1])
        partial = isinstance(spot.node, Mapping) and spot.node.partial
        if partial or (spot.path, name) in self.meant:
            return
        info = keys_of(types_at(error["loc"][:-1])).get(name)
        told = f" ({info.description})" if info and info.description else ""
        hint = "start the file with `meshql: 1`" if name == "meshql" else f"add `{name}:`{told}"
        self.note(spot.node.at, spot.path, f"missing key `{name}`", hint)

    def wrong_tag(self, spot: _Spot, mapping: Mapping, error: ErrorDetails) -> None:
        context = error["ctx"]
        key = str(context["discriminator"]).strip("'")
        choices = choices_of(types_at(error["loc"]), key)
        tag = mapping.entries.get(key)
        if isinstance(tag, Broken):
            return
        if tag is not None:
            path = (*spot.path, key)
            self.note(tag.at, path, *_not_a_choice(choices, tag, path_text(path)))
            near = _meant(tag.text, choices) if isinstance(tag, Scalar) else None
            if near:
                self.repairs.append(Repair(spot.path, key, key, near))
            return
        self.no_tag(spot, mapping, key, choices)

    def no_tag(self, spot: _Spot, mapping: Mapping, key: str, choices: tuple[str, ...]) -> None:
        typed = next((k for k in mapping.entries if closest(k, (key,))), None)
        if typed is None:
            if mapping.partial:
                return
            self.note(mapping.at, spot.path, f"missing key `{key}`", f"add `{key}:` with {quoted(choices)}")
            return
        where, value = mapping.keys[typed], mapping.entries[typed]
        message = f"unknown key `{typed[:LONGEST_NAME]}`"
        self.note(where, (*spot.path, typed), message, f"did you mean `{key}`?")
        if isinstance(value, Scalar) and value.text in choices:
            self.repairs.append(Repair(spot.path, typed, key, value.text))

    def wrong_value(self, spot: _Spot, error: ErrorDetails) -> None:
        path = path_text(spot.path)
        if error["type"] == "string_pattern_mismatch":
            self.note(spot.key if error["loc"][-1] == "[key]" else spot.node.at, spot.path, *_misnamed(spot))
        elif error["type"] == "ambiguous":
            self.note(spot.node.at, spot.path, *_ambiguous(spot.node, path))
        elif error["type"] in _BY_MESSAGE or error["type"] not in _BY_TYPE:
            self.note(spot.node.at, spot.path, _lowered(error["msg"]), None)
        else:
            self.note(spot.node.at, spot.path, *_mismatch(types_at(error["loc"]), spot.node, path))


_BY_MESSAGE = {"rule", "scalar_type"}
_BY_TYPE = {
    "union_tag_invalid",
    "union_tag_not_found",
    "string_type",
    "bool_type",
    "int_type",
    "float_type",
    "literal_error",
    "model_type",
    "model_attributes_type",
    "dict_type",
    "tuple_type",
    "dict_attributes_type",
}


def _lowered(message: str) -> str:
    for theirs, ours in _PHRASES.items():
        message = message.replace(theirs, ours)
    return message


_PHRASES = {
    "Input should be greater than or equal to": "expected at least",
    "Input should be less than or equal to": "expected at most",
    "Input should be": "expected",
    "String should have": "expected text of",
}


def _misnamed(spot: _Spot) -> tuple[str, str | None]:
    rule = "letters, digits, _ and -"
    if spot.path[:1] != ("products",) or spot.path[-1] != "name":
        return f"expected a name of {rule}", None
    text = spot.node.text[:LONGEST_NAME] if isinstance(spot.node, Scalar) else ""
    message = f"expected domain.product in {rule}, got{shown('', text)}"
    if "${" in text:
        return message, "a product's name cannot hold references: write it out"
    words = [re.sub(r"\W+", "_", part.strip()).strip("_").lower() for part in text.split(".", 1)]
    if len(words) == 1:
        return message, f"put its domain first: `sales.{words[0] or 'orders'}`"
    return message, f"for instance `{'.'.join(word if word[:1].isalpha() else f'_{word}' for word in words)}`"


def _ambiguous(node: Node, path: str) -> tuple[str, str]:
    text = node.text if isinstance(node, Scalar) and node.plain else ""
    said = shown(path, text) if text else " a value inside"
    return (
        f"YAML readers do not agree whether{said} is text, a number or a truth value",
        f'quote it, as in "{text or "no"}", if it is text; else write true, false or a plain number',
    )


def _meant(word: str, choices: Iterable[str]) -> str | None:
    known = tuple(choices)
    other = _OTHER_WORDS.get(word.lower())
    return other if other in known else closest(word, known)


def _not_a_choice(choices: tuple[str, ...], node: Node, path: str) -> tuple[str, str | None]:
    message = f"expected {quoted(choices)}"
    if not isinstance(node, Scalar):
        return f"{message}, got {_got(node, path)}", None
    if "${" in node.text:
        return message, "references are only for text: write the value out"
    if path == "meshql":
        return f"{message}, got {_got(node, path)}", "write `meshql: 1`, the version that this program reads"
    near = _meant(node.text, choices)
    # What is near none of the choices may be anything, a key pasted into the wrong line too.
    if near is None and (".auth" in path or len(node.text) > _LONGEST_CHOICE):
        return f"{message}, got something else", None
    said = f" `{node.text}`" if node.text else " nothing"
    return f"{message}, got{said}", f"did you mean `{near}`?" if near else None


def _got(node: Node, path: str) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    assert isinstance(node, Scalar)
    value = plain_value(node.text) if node.plain else node.text
    if value is None:
        return "nothing"
    kind = "text" if isinstance(value, str) else "the number" if not isinstance(value, bool) else "the word"
    return kind + shown(path, node.text)


def _expected(kinds: list[Any]) -> str:
    names: dict[str, None] = {}
    for kind in kinds:
        names[_kind_name(kind)] = None
    return " or ".join(names)


def _kind_name(kind: Any) -> str:
    simple = {str: "text", SecretStr: "text", bool: "true or false", int: "a whole number", float: "a number"}
    if kind in simple:
        return simple[kind]
    if get_origin(kind) is tuple:
        return "a list"
    return "a mapping"


def _mismatch(kinds: list[Any], node: Node, path: str) -> tuple[str, str | None]:
    literals = [kind for kind in kinds if get_origin(kind) is Literal]
    if literals:
        return _not_a_choice(tuple(str(choice) for choice in literals[0].__args__), node, path)
    return f"expected {_expected(kinds)}, got {_got(node, path)}", _how_to_write(kinds, node, path)


def _how_to_write(kinds: list[Any], node: Node, path: str) -> str | None:
    key = path.rpartition(".")[2]
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Model)]
    if models and isinstance(node, Sequence):
        return "remove the dash: its keys follow directly" if len(node.items) == 1 else None
    if len(models) > 1:
        # What else there is to write depends on which of them is meant.
        tag = next(t for t in TAGS if choices_of(models, t))
        return f"write `{tag}:` with {quoted(choices_of(models, tag))} below `{key}:`"
    if models:
        where = f"below `{key}:`" if not key.endswith("]") else "for it"
        return f"write {quoted(keys_of(models), most=6)} {where}"
    if any(get_origin(kind) is tuple for kind in kinds):
        return "start each entry with a dash: `- `"
    if isinstance(node, Sequence) and any(get_origin(kind) is dict for kind in kinds):
        return "remove the dashes: each entry's name is its key"
    return None if not isinstance(node, Scalar) else _scalar_hint(kinds, node, path)


def _scalar_hint(kinds: list[Any], node: Scalar, path: str) -> str | None:
    if "${" in node.text:
        return "references are only for text: write the value out"
    if bool in kinds:
        word = node.text.lower()
        meant = {"yes": "true", "on": "true", "y": "true", "1": "true", "true": "true"}
        return (
            f"write {meant.get(word, 'false')}" if word in {*meant, "no", "off", "n", "0", "false"} else None
        )
    if int in kinds or float in kinds:
        return f"write {node.text.lstrip('0') or 0}" if node.text.isdigit() else None
    if str in kinds and node.plain and isinstance(plain_value(node.text), bool | int | float):
        return f'quote it: "{node.text}"' if shown(path, node.text) else "quote it"
    return None
