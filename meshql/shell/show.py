"""An answer on the screen: a table that fits, or a record a row, then what it took."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from meshql.output import write
from meshql.output.lines import vertical_blocks
from meshql.output.table import table_blocks, texts_of
from meshql.query.result import result_of
from meshql.terminal import coloured, say, size, styled

if TYPE_CHECKING:
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
        write(result_of(answer.table, answer.columns), sys.stdout.buffer, settings.mode)
    if interactive and settings.timing:
        say(styled(footer(answer, settings), "dim"))


def _show_change(answer: Answer, settings: Settings) -> None:
    counts = answer.table.columns[0].to_pylist() if answer.table.num_columns else []
    done = f"{counts[0]:,} rows" if counts and type(counts[0]) is int else "done"
    if settings.timing:
        say(styled(f"{done} in {answer.seconds:.2f} s", "dim"))


def text_of(answer: Answer, settings: Settings) -> str:
    """Return the first rows of an answer as text for this terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = answer.table.slice(0, settings.row_limit) if settings.mode == "table" else answer.table
    texts = texts_of(answer.columns, answer.types, rows)
    names = tuple(
        f"{n} {t}" if settings.types else n for n, t in zip(answer.columns, answer.types, strict=True)
    )
    dim = coloured(sys.stdout)
    if settings.expanded == "on" or settings.mode == "vertical":
        return "".join(vertical_blocks(names, iter([texts]), null=settings.null)).rstrip("\n")
    if settings.expanded == "auto" and width is not None:
        wide = "".join(table_blocks(names, answer.types, iter([texts]), width=None, null=settings.null))
        if wide.index("\n") > width and _too_wide(names, width):
            return "".join(vertical_blocks(names, iter([texts]), null=settings.null)).rstrip("\n")
    blocks = table_blocks(names, answer.types, iter([texts]), width=width, null=settings.null, dim=dim)
    return "".join(blocks).rstrip("\n")


def _too_wide(names: tuple[str, ...], width: int) -> bool:
    """Whether cutting the values would leave too little of each: then a record a row reads better."""
    return len(names) * 15 > width


def page_text(text: str, settings: Settings) -> None:
    """Print `text`, through the pager when it is taller than the terminal."""
    tall = text.count("\n") + 2 > shutil.get_terminal_size().lines
    paged = tall and settings.pager != "off" and sys.stdout.isatty() and sys.stdin.isatty()
    command = os.environ.get("PAGER") or PAGER if settings.pager == "auto" else settings.pager
    program = shlex.split(command)
    if not paged or shutil.which(program[0]) is None:
        print(text, flush=True)
        return
    environment = os.environ | {"LESS": os.environ.get("LESS", "-SRXF")}
    subprocess.run(program, input=text.encode(), env=environment, check=False)


def footer(answer: Answer, settings: Settings) -> str:
    """Return the line below an answer: rows, time, and what was read from which cloud."""
    rows = answer.table.num_rows
    shown = min(rows, settings.row_limit) if settings.mode == "table" else rows
    if not answer.complete:
        count = f"… {shown:,} of more than {rows:,} rows"
    elif shown < rows:
        count = f"… {shown:,} of {rows:,} rows"
    else:
        count = f"{rows:,} row{'' if rows == 1 else 's'}"
    line = f"{count} in {answer.seconds:.2f} s"
    return line + (f" · {read_line(answer.receipt)}" if answer.receipt and answer.receipt.reads else "")


def read_line(receipt: Receipt) -> str:
    """Return how many products a statement read, and how much from each cloud."""
    by_cloud = Counter[str]()
    for read in receipt.reads:
        by_cloud[read.cloud] += read.bytes
    products = len(receipt.reads)
    clouds = ", ".join(f"{cloud} {size(count)}" for cloud, count in by_cloud.items())
    requests = sum(r.requests for r in receipt.reads)
    return f"read {products} product{'' if products == 1 else 's'}: {clouds} · {requests:,} requests"
