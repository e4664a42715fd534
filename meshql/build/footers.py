"""What the footers of Parquet files say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from meshql.query.reading import Reading
from meshql.sql import quote_literal

__all__ = ["Shape", "columns_of", "shapes"]

Shape = tuple[tuple[Any, ...], ...]
"""All that a footer says of a file's columns, and of what is inside them: name, number of children, types."""


def shapes(reading: Reading, uris: Sequence[str]) -> list[Shape]:
    """Return the shape of each file; files of the same one can be written into one, and no value is cast."""
    said = "name, num_children, type, type_length, converted_type, scale, precision, field_id, logical_type"
    listed = ", ".join(map(quote_literal, uris))
    rows = reading.ask(f"SELECT file_name, {said} FROM parquet_schema([{listed}])")
    return [tuple(row[1:] for row in together) for _, together in groupby(rows, lambda row: row[0])]


def columns_of(shape: Shape) -> list[str]:
    """Return the names of a file's columns, without what is inside them."""
    found, left = [], 0
    for name, children, *_ in shape[1:]:
        if left == 0:
            found.append(str(name))
            left = 1
        left += int(children or 0) - 1
    return found
