"""An answer on the screen: a table that fits, or a record a row, then what it took."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING

from meshql.errors import UsageError
from meshql.output import write
from meshql.output.lines import vertical_blocks
from meshql.output.table import table_blocks, texts_of
from meshql.query.result import result_of
from meshql.shell.programs import run_program, words_of
from meshql.shell.target import rows_said
from meshql.terminal import coloured, say, size, styled

if TYPE_CHECKING:
    import pyarrow

    from meshql.query.receipt import Receipt
    from meshql.shell.state import Answer, Settings

__all__ = ["footer", "page_text", "read_line", "show_answer"]

PAGER = "less -SRXF"


def show_answer(answer: Answer, settings: Settings, *, interactive: bool) -> None:
    """Print an answer in the settings' mode, and a line about it on stderr."""
    if answer.changed:
        _show_change(answer, settings)
        return
    if answer.columns and answer.sql[:7].upper() == "EXPLAIN":
        page_text("\n".join(str(row).rstrip() for row in answer.table.columns[-1].to_pylist()), settings)
    elif settings.mode in {"table", "vertical"}:
        page_text(text_of(answer, settings), settings)
    else:
        held = result_of(answer.table, answer.columns)
        write(held, sys.stdout.buffer, settings.mode, null=settings.null)
    if interactive and settings.timing:
        say(styled(footer(answer, settings), "dim"))
    elif not answer.complete or _shown(answer, settings) < answer.table.num_rows:
        say(styled(_count(answer, settings), "dim"))


def _show_change(answer: Answer, settings: Settings) -> None:
    counts = answer.table.columns[0].to_pylist() if answer.table.num_columns else []
    done = rows_said(counts[0]) if counts and type(counts[0]) is int else None
    if settings.timing:
        say(styled(f"{done or 'done'} in {answer.seconds:.2f} s", "dim"))
    elif done:
        say(styled(done, "dim"))


def text_of(answer: Answer, settings: Settings) -> str:
    """Return the first rows of an answer as text for this terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = answer.table.slice(0, settings.row_limit) if settings.mode == "table" else answer.table
    if settings.expanded == "on" or settings.mode == "vertical":
        return _records(answer, rows, settings)
    may_turn = settings.expanded == "auto" and width is not None and _too_wide(answer.columns, width)
    if may_turn and _table(answer, rows, settings, None).index("\n") > (width or 0):
        return _records(answer, rows, settings)
    return _table(answer, rows, settings, width)


def _table(answer: Answer, rows: pyarrow.Table, settings: Settings, width: int | None) -> str:
    texts = texts_of(answer.columns, answer.types, rows)
    blocks = table_blocks(
        answer.columns,
        answer.types,
        iter([texts]),
        width=width,
        null=settings.null_shown,
        dim=coloured(sys.stdout),
        typed=settings.types,
    )
    return "".join(blocks).rstrip("\n")


def _records(answer: Answer, rows: pyarrow.Table, settings: Settings) -> str:
    """The rows as blocks of lines, with the types beside the names where they are wanted."""
    names = answer.columns
    if settings.types:
        names = tuple(f"{n} {t}" for n, t in zip(names, answer.types, strict=True))
    texts = texts_of(answer.columns, answer.types, rows)
    blocks = vertical_blocks(names, iter([texts]), null=settings.null_shown, dim=coloured(sys.stdout))
    return "".join(blocks).rstrip("\n")


def _too_wide(names: tuple[str, ...], width: int) -> bool:
    """Whether cutting the values would leave too little of each: then a record a row reads better."""
    return len(names) * 15 > width


def page_text(text: str, settings: Settings) -> None:
    """Print `text`, through the pager when it is taller than the terminal."""
    tall = text.count("\n") + 2 > shutil.get_terminal_size().lines
    paged = tall and settings.pager != "off" and sys.stdout.isatty() and sys.stdin.isatty()
    program = _pager(settings) if paged else []
    if not program or shutil.which(program[0]) is None:
        print(text, flush=True)
        return
    sys.stdout.flush()
    run_program(program, text=text, environment=os.environ | {"LESS": os.environ.get("LESS", "-SRXF")})


def _pager(settings: Settings) -> list[str]:
    """The pager's command line; none where it cannot be read, for the rows matter more."""
    try:
        return words_of(os.environ.get("PAGER") or PAGER if settings.pager == "auto" else settings.pager)
    except UsageError:
        return []


def footer(answer: Answer, settings: Settings) -> str:
    """Return the line below an answer: rows, time, and what was read from which cloud."""
    line = f"{_count(answer, settings)} in {answer.seconds:.2f} s"
    return line + (f" · {read_line(answer.receipt)}" if answer.receipt and answer.receipt.reads else "")


def _shown(answer: Answer, settings: Settings) -> int:
    rows: int = answer.table.num_rows
    return min(rows, settings.row_limit) if settings.mode == "table" else rows


def _count(answer: Answer, settings: Settings) -> str:
    rows, shown = answer.table.num_rows, _shown(answer, settings)
    if not answer.complete:
        return f"… {shown:,} of more than {rows:,} rows"
    return f"… {shown:,} of {rows:,} rows" if shown < rows else rows_said(rows)


def read_line(receipt: Receipt) -> str:
    """Return how many products a statement read, and how much from each cloud."""
    by_cloud = Counter[str]()
    for read in receipt.reads:
        by_cloud[read.cloud] += read.bytes
    products = len(receipt.reads)
    clouds = ", ".join(f"{cloud} {size(count)}" for cloud, count in by_cloud.items())
    requests = sum(r.requests for r in receipt.reads)
    return f"read {products} product{'' if products == 1 else 's'}: {clouds} · {requests:,} requests"
