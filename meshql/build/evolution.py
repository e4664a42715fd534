"""How the columns of a silver table change from one build to the next, and which changes are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshql.build.column_types import apart, widens
from meshql.build.silver_rows import Shape
from meshql.catalog.build import SilverBuild
from meshql.catalog.model import Product
from meshql.errors import UsageError
from meshql.query.reading import Reading
from meshql.sql import quote_identifier

__all__ = ["Columns", "evolved"]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table to be, in order, and what of them differs from before."""

    kinds: Mapping[str, str]
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def rewrites(self) -> bool:
        """Whether it takes more than columns that are added."""
        return bool(self.widened or any(apart(self.kinds[name]) for name in self.new))


def evolved(product: Product, how: SilverBuild, shape: Shape, reading: Reading, table: str) -> Columns:
    """Compare the table's columns with those that rows of `shape` have."""
    had = reading.cursor.sql(table)
    made = ", ".join(f"NULL::{kind} AS {quote_identifier(name)}" for name, kind in shape.kinds.items())
    wanted = dict(zip(shape.kinds, reading.cursor.sql(f"SELECT {made}").types, strict=True))
    folded = {name.casefold(): (name, kind) for name, kind in wanted.items()}
    again = f"meshql build {product.name} --full"
    kinds, widened = dict[str, str](), list[str]()
    changes = list[str]()
    for name, old in zip(had.columns, had.types, strict=True):
        if name.casefold() not in folded:
            raise UsageError(f"{product.name}: the column {name} is not made any more", hint=again)
        _, new = folded.pop(name.casefold())
        kinds[name] = str(new)
        if str(new) == str(old):
            continue
        if widens(new, old):
            kinds[name] = str(old)
            continue
        said = f"{name}: {old} becomes {new}"
        if not widens(old, new):
            raise UsageError(f"{product.name}: the type of {said}, which may lose values", hint=again)
        widened.append(name)
        changes.append(said)
    added = [name for name, _ in folded.values()]
    kinds |= {name: shape.kinds[name] for name in added}
    changes += [f"{name} is new: {shape.kinds[name]}" for name in added]
    if changes and how.evolution == "refuse":
        raise UsageError(
            f"{product.name}: {changes[0]}, and `evolution: refuse` keeps the table as it is",
            hint=f"evolution: add, or {again}",
        )
    return Columns(kinds, tuple(had.columns), tuple(added), tuple(widened), tuple(changes))
