"""Rows of text that a command prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import BinaryIO

__all__ = ["print_rows"]


def print_rows(
    rows: Sequence[Mapping[str, str | float | None]],
    format_: str,
    *,
    null: str | None = None,
    file: BinaryIO | None = None,
) -> None:
    """Print rows, one at least, in a format, or write them to `file`.

    A table has borders on a terminal only.
    """
    from meshql.output import write
    from meshql.output.table import terminal_width
    from meshql.query.result import result_of_rows
    from meshql.terminal import coloured

    if file is not None:
        write(result_of_rows(rows), file, format_, null=null, box=False)
        return
    width = terminal_width()
    box = width is not None and os.environ.get("TERM") != "dumb"
    dim = box and coloured(sys.stdout)
    sys.stdout.flush()
    write(result_of_rows(rows), sys.stdout.buffer, format_, width=width, null=null, box=box, dim=dim)
