"""What the model's values have in common: they are frozen, and they know no keys but their own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = ["Ambiguous", "AnyValue", "Flag", "Model", "Number", "Place", "Scalar", "Whole"]


class Model(BaseModel):
    """A frozen value that knows no keys but its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, defer_build=True, hide_input_in_errors=True
    )

    from_file: ClassVar[frozenset[str]] = frozenset()
    """Fields that come from where the value stands, and not from keys."""


class Place(Model):
    """Where something stands in the catalog's files: 1-based line and column; line 0 means the whole file."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Ambiguous(str):
    """Unquoted text that YAML 1.1 and YAML 1.2 read differently: no, on, 0123, 12:30, 1_000."""

    __slots__ = ()


def _unambiguous(value: Any) -> Any:
    if isinstance(value, Ambiguous):
        raise PydanticCustomError("ambiguous", "ambiguous")
    if isinstance(value, dict):
        return {key: _unambiguous(inner) for key, inner in value.items()}
    return [_unambiguous(inner) for inner in value] if isinstance(value, list) else value


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        raise PydanticCustomError("scalar_type", "expected text, a number, true or false")
    return _unambiguous(value)


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise PydanticCustomError("bool_type", "expected true or false")
    return value


def _whole(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PydanticCustomError("int_type", "expected a whole number")
    return value


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise PydanticCustomError("float_type", "expected a number")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
"""true or false, and neither `yes` nor 1."""

Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number, and not text that looks like one."""

Number = Annotated[float | int, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
"""A number, and not text that looks like one."""

Scalar = Annotated[str | int | float | bool | None, BeforeValidator(_scalar)]
"""Text, a number, true, false or nothing, as long as every YAML reader agrees which."""

AnyValue = Annotated[Any, BeforeValidator(_unambiguous)]
"""Any YAML value, as long as every YAML reader agrees what it is."""
