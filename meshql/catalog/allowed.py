"""What the model allows at a place: its types, keys and choices, for messages that name them."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from meshql.catalog.base import Model
from meshql.catalog.model import CatalogFile

TAGS = ("cloud", "method", "kind")
"""Keys that tell the members of a union apart."""

__all__ = ["TAGS", "choices_of", "keys_of", "takes_references", "takes_secret", "types_at"]


def _plain(annotation: Any) -> Iterator[Any]:
    """Yield what an annotation allows, without Annotated, unions and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _plain(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for choice in get_args(annotation):
            yield from _plain(choice)
    elif annotation is not type(None):
        yield annotation


@lru_cache(maxsize=256)
def _spelled(model: type[Model]) -> dict[str, FieldInfo]:
    return {
        info.alias or name: info for name, info in model.model_fields.items() if name not in model.from_file
    }


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)


def _under(kind: Any, step: str | int) -> Iterator[Any]:
    """Yield the types of what stands under `step` in a value of type `kind`."""
    origin = get_origin(kind)
    if origin is tuple and isinstance(step, int):
        yield from _plain(get_args(kind)[0])
    elif origin is dict:
        yield from _plain(get_args(kind)[1])
    elif _is_model(kind) and step in _spelled(kind):
        yield from _plain(_spelled(kind)[str(step)].annotation)


def _has_tag(kind: Any, step: str | int) -> bool:
    """Return whether `kind` is the member of a tagged union that `step` selects."""
    return _is_model(kind) and any(
        get_origin(info.annotation) is Literal and step in get_args(info.annotation)
        for key, info in _spelled(kind).items()
        if key in TAGS
    )


def types_at(loc: Sequence[str | int]) -> list[Any]:
    """Return the types that the model allows at one of pydantic's locations, tags of unions included."""
    kinds: list[Any] = [CatalogFile]
    for step in loc:
        tagged = [kind for kind in kinds if _has_tag(kind, step)]
        kinds = tagged or [found for kind in kinds for found in _under(kind, step)] or kinds
    return kinds


def takes_references(path: tuple[str | int, ...]) -> bool:
    """Return whether the value at a path is free text: no choice, number, truth value, name or id."""
    if path[-1] == "id" or (path[0] == "products" and path[2:] == ("name",)):
        return False
    # All products are alike: one answer serves for the same path in each of them.
    return _takes_text(tuple(0 if isinstance(step, int) else step for step in path))


@lru_cache(maxsize=1024)
def _takes_text(path: tuple[str | int, ...]) -> bool:
    kinds = types_at(path)
    return any(kind in (str, SecretStr, Any) or _is_model(kind) for kind in kinds)


@lru_cache(maxsize=1024)
def takes_secret(path: tuple[str | int, ...]) -> bool | None:
    """Return whether the value at a path is a secret; None for a key that the model does not know."""
    kinds = types_at(path)
    return None if any(_is_model(kind) for kind in kinds) else SecretStr in kinds


def keys_of(kinds: Iterable[Any]) -> dict[str, FieldInfo]:
    """Return the keys that mappings of these types may have, with what is known of each."""
    return {key: info for kind in kinds if _is_model(kind) for key, info in _spelled(kind).items()}


def choices_of(kinds: Iterable[Any], key: str) -> tuple[str, ...]:
    """Return the tags that tell these types apart by `key`."""
    found = [_spelled(kind)[key].annotation for kind in kinds if _is_model(kind) and key in _spelled(kind)]
    return tuple(str(choice) for annotation in found for choice in get_args(annotation))
