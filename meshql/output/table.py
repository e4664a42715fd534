"""Tables for people: in a terminal or a text file, and in a notebook."""

from __future__ import annotations

import html
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshql.output.visible import clipped, padded, visible, width_of

if TYPE_CHECKING:
    import pyarrow

    from meshql.output.encode import Texts

__all__ = ["Layout", "html_table", "is_number", "table_blocks", "terminal_width", "text_table", "texts_of"]

NUMBERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "BIGNUM"}
    | {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)

NARROWEST = 6
"""Columns are left out rather than cut to less than this."""

WIDEST = 1000
"""Where nothing is cut, longer cells stick out of their row rather than widen every other."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Widths, settled once, and the lines that they give."""

    names: tuple[str, ...]
    right: tuple[bool, ...]
    widths: tuple[int, ...]
    hidden: int
    cut: bool
    null: str
    dim: bool = False
    box: bool = True
    types: tuple[str, ...] = ()

    @classmethod
    def settle(
        cls,
        names: Sequence[str],
        types: Sequence[str],
        texts: Texts,
        *,
        width: int | None,
        null: str,
        dim: bool = False,
        typed: bool = False,
    ) -> Layout:
        """Make the layout that holds `texts` within `width` columns of a terminal; None is no limit."""
        shown = [visible(name) for name in names]
        below = tuple(visible(t) for t in types) if typed else ()
        heads = zip(shown, below, strict=True) if typed else ((name,) for name in shown)
        natural = [
            max((width_of(t) for t in (*head, *(_shown(c, null) for c in column))), default=0)
            for head, column in zip(heads, texts, strict=True)
        ]
        widths = _fitted(natural, width) if width is not None else [min(w, WIDEST) for w in natural]
        right = tuple(map(is_number, types[: len(widths)]))
        hidden, cut = len(names) - len(widths), width is not None
        return cls(tuple(shown), right, tuple(widths), hidden, cut, null, dim, types=below)

    def head(self) -> str:
        """The upper border, the names, their types where these are wanted, and the line below them."""
        names = "".join(self._rows([[name] for name in self.names]))
        types = "".join(self._rows([[kind] for kind in self.types], faint=self.dim)) if self.types else ""
        return f"{self._border('┌┬┐')}{names}{types}{self._border('├┼┤')}"

    def rows(self, texts: Texts) -> str:
        """The lines of these rows."""
        return "".join(self._rows(texts))

    def foot(self) -> str:
        """The lower border, and how many columns there was no room for."""
        border = self._border("└┴┘")
        if not self.hidden:
            return border
        return f"{border}({len(self.widths)} of {len(self.names)} columns shown)\n"

    def _rows(self, columns: Sequence[Sequence[str | None]], *, faint: bool = False) -> Iterator[str]:
        cells = [
            [self._cell(t, width, right, faint=faint) for t in column]
            for column, width, right in zip(columns, self.widths, self.right, strict=False)
        ]
        if not self.box:
            return (
                f"{'  '.join(row).rstrip()}{'  …' if self.hidden else ''}\n"
                for row in zip(*cells, strict=True)
            )
        end = " │ … │\n" if self.hidden else " │\n"
        return (f"│ {' │ '.join(row)}{end}" for row in zip(*cells, strict=True))

    def _cell(self, text: str | None, width: int, right: bool, *, faint: bool) -> str:
        shown = _shown(text, self.null)
        cell = padded(clipped(shown, width) if self.cut else shown, width, right=right)
        return f"\x1b[2m{cell}\x1b[0m" if faint or (text is None and self.dim) else cell

    def _border(self, corners: str) -> str:
        if not self.box:
            return "  ".join("-" * w for w in self.widths) + "\n" if corners == "├┼┤" else ""
        left, middle, right = tuple(corners)
        widths = [*self.widths, *([1] if self.hidden else [])]
        return left + middle.join("─" * (w + 2) for w in widths) + right + "\n"


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is, or None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def text_table(
    columns: Sequence[str],
    types: Sequence[str],
    table: pyarrow.Table,
    *,
    width: int | None = None,
    null: str = "NULL",
) -> str:
    """Return the rows drawn as a table, without a newline at the end.

    Numbers stand right. Characters that would move the cursor or hide text are shown as escapes. With
    `width`, long values are cut with … and columns that find no room are counted below the table.
    """
    texts = texts_of(columns, types, table)
    return "".join(table_blocks(columns, types, iter([texts]), width=width, null=null)).rstrip("\n")


def table_blocks(
    columns: Sequence[str],
    types: Sequence[str],
    texts: Iterator[Texts],
    *,
    width: int | None,
    null: str,
    dim: bool = False,
    box: bool = True,
    typed: bool = False,
) -> Iterator[str]:
    """Yield the lines of a table, many at once; the first of `texts` settles the widths.

    `dim` sets NULL off from the text that reads so, for terminals that take colour. Without `box` there are
    no borders, and a line of dashes below the names. `typed` puts the types below them.
    """
    nothing: Texts = [[] for _ in columns]
    first = next(texts, nothing)
    layout = Layout.settle(columns, types, first, width=width, null=null, dim=dim, typed=typed)
    layout = replace(layout, box=box)
    yield layout.head() + layout.rows(first)
    for more in texts:
        yield layout.rows(more)
    yield layout.foot()
    if not first[0]:
        yield "(0 rows)\n"


def html_table(
    columns: Sequence[str], types: Sequence[str], table: pyarrow.Table, *, more: bool = False
) -> str:
    """Return the rows as an HTML table for notebooks; `more` says in the caption that others follow."""
    texts = texts_of(columns, types, table)
    aligned = [' style="text-align:right"' if is_number(t) else ' style="text-align:left"' for t in types]
    heads = (
        f'<th title="{html.escape(kind)}"{style}>{html.escape(visible(name))}</th>'
        for name, kind, style in zip(columns, types, aligned, strict=True)
    )
    rows = (
        "<tr>" + "".join(f"<td{s}>{_html_cell(t)}</td>" for t, s in zip(row, aligned, strict=True)) + "</tr>"
        for row in zip(*texts, strict=True)
    )
    count = f"{table.num_rows:,} row{'' if table.num_rows == 1 else 's'}"
    caption = f"the first {count}; more follow" if more else count
    body = "\n".join(rows)
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{''.join(heads)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def is_number(kind: str) -> bool:
    """Whether values of this DuckDB type are compared by their last digit, and stand right."""
    return kind in NUMBERS or (kind.startswith("DECIMAL(") and not kind.endswith("]"))


def texts_of(columns: Sequence[str], types: Sequence[str], table: pyarrow.Table) -> Texts:
    from meshql.output.encode import Encoder

    with Encoder(columns, types, table.schema) as encoder:
        parts = [encoder.texts(batch) for batch in table.to_batches() if batch.num_rows]
    return [[text for part in parts for text in part[i]] for i in range(len(columns))]


def _html_cell(text: str | None) -> str:
    return "<i>NULL</i>" if text is None else html.escape(visible(text))


def _shown(text: str | None, null: str) -> str:
    return null if text is None else visible(text)


def _fitted(natural: Sequence[int], width: int) -> list[int]:
    """Cut the widest columns until all fit; when even the narrowest do not, the last ones are left out."""
    room = width - 1
    if sum(min(w, NARROWEST) + 3 for w in natural) > room:
        kept = 1
        while sum(min(w, NARROWEST) + 3 for w in natural[: kept + 1]) + 4 <= room:
            kept += 1
        natural, room = natural[:kept], room - 4
    level = max(natural, default=0)
    while level > NARROWEST and sum(min(w, level) + 3 for w in natural) > room:
        level -= 1
    return [min(w, level) for w in natural]
