"""Text that needs no widths settled: Markdown tables, and one line a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meshql.output.table import is_number
from meshql.output.visible import padded, visible, width_of

if TYPE_CHECKING:
    from meshql.output.encode import Texts

__all__ = ["markdown_blocks", "vertical_blocks"]

MAYBE_MARKUP = re.compile(r"[\\`*|<~_\]&\n\r]")

MARKUP = re.compile(
    r"[\\`*|<~]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is no markup
    r"|\](?=[(\[:])"
    r"|&(?=#?\w+;)"
)


def markdown_blocks(
    columns: Sequence[str], types: Sequence[str], texts: Iterator[Texts], *, null: str
) -> Iterator[str]:
    """Yield a table of GitHub's Markdown; markup in the data is escaped, and a newline becomes `<br>`."""
    rules = ["---:" if is_number(kind) else "---" for kind in types]
    yield _markdown_row([_markdown(name) for name in columns]) + _markdown_row(rules)
    for part in texts:
        rows = zip(*([_markdown(null if t is None else t) for t in column] for column in part), strict=True)
        yield "".join(map(_markdown_row, rows))


def vertical_blocks(
    columns: Sequence[str], texts: Iterator[Texts], *, null: str, dim: bool = False
) -> Iterator[str]:
    """Yield each row as a numbered block of lines, one line a value; `dim` sets NULL off from text."""
    nothing = f"\x1b[2m{visible(null)}\x1b[0m" if dim and null else visible(null)
    names = [visible(name) for name in columns]
    width = max(map(width_of, names))
    labels = [padded(name, width, right=False) + "  " for name in names]
    row = 0
    for part in texts:
        block = []
        for values in zip(*part, strict=True):
            row += 1
            block.append(f"{'' if row == 1 else chr(10)}── row {row} ──\n")
            block.extend(
                _line(label, nothing if v is None else visible(v))
                for label, v in zip(labels, values, strict=True)
            )
        yield "".join(block)
    if not row:
        yield "(0 rows)\n"


def _line(label: str, value: str) -> str:
    return f"{label}{value}\n" if value else f"{label.rstrip()}\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _markdown(text: str) -> str:
    if not MAYBE_MARKUP.search(text):
        return visible(text)
    escaped = MARKUP.sub(r"\\\g<0>", text.replace("\r\n", "\n"))
    return "<br>".join(visible(line) for line in escaped.split("\n"))
