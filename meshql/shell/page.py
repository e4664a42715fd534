"""A result as a page for the browser: one file, which needs no network and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from meshql.errors import UsageError
from meshql.output.table import is_number, texts_of
from meshql.output.visible import visible
from meshql.shell.chart import Chart, chart_of
from meshql.shell.completion.tokens import read
from meshql.shell.svg import svg
from meshql.terminal import size

if TYPE_CHECKING:
    import pyarrow

    from meshql.query.receipt import Read, Receipt

__all__ = ["open_page", "page"]

MOST_ROWS = 10_000
"""Rows of a page; browsers get slow at more."""

MOST_CHARTED = 5_000

SHORT = ("DATE", "TIME", "BOOLEAN", "UUID", "INTERVAL")
"""Types whose values are not broken into lines."""

COLOURED = frozenset({"keyword", "string", "number", "comment"})

FORMATS = {"delta": "Delta", "iceberg": "Iceberg", "parquet": "Parquet", "csv": "CSV", "json": "JSON"}

CLOUDS = {
    "s3": "Amazon S3",
    "gcs": "Google Cloud Storage",
    "azure": "Azure Blob Storage",
    "local": "local files",
}


def page(
    columns: Sequence[str],
    types: Sequence[str],
    table: pyarrow.Table,
    *,
    sql: str,
    receipt: Receipt | None = None,
    more: bool = False,
) -> str:
    """Return an HTML page with the SQL, the rows as a table to sort and filter, a chart, and what was read.

    It holds the first 10,000 rows, and says so where there are others; `more` says that `table` is not all of
    the result. The chart is there where the rows have the shape of one.
    """
    chart = _fitting(types, table)
    title = escape(visible(chart.title if chart else _title(receipt)))
    script = files("meshql.shell").joinpath("page.js").read_text(encoding="utf-8")
    style = files("meshql.shell").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sections = [
        f'<header><h1>{title}</h1>\n<p class="facts">{escape(_facts(table, receipt, more))}</p></header>',
        f'<section class="card">\n{svg(chart)}\n</section>' if chart else "",
        _answer(columns, types, table, more),
        _reads(receipt),
        f'<section class="card"><h2>SQL</h2>\n<pre>{_sql(sql)}</pre></section>',
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def open_page(html: str) -> Path:
    """Write a page to a temporary file that only this user can read, show it, and return its path.

    Where there is no screen, or no browser, the file is all there is.
    """
    descriptor, name = tempfile.mkstemp(prefix="meshql-", suffix=".html")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.write(html)
    path = Path(name)
    if _has_screen():
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(path.as_uri())
    return path


def _has_screen() -> bool:
    """Whether a browser would open in a window: one of the terminal's own would take the shell's place."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in {"darwin", "win32"} or any(os.environ.get(name) for name in screens)


def _fitting(types: Sequence[str], table: pyarrow.Table) -> Chart | None:
    """The chart of rows that are one point each and not much else; others would not tell anything."""
    if not 1 < table.num_rows <= MOST_CHARTED or sum(not is_number(kind) for kind in types) > 2:
        return None
    try:
        chart = chart_of(table)
    except UsageError:
        return None
    once = len(set(chart.x)) == len(chart.x) > 1
    named = chart.x_name in table.column_names
    crowded = chart.kind == "line" and not chart.timed and len(chart.x) > 200
    return chart if chart.kind != "hist" and once and named and not chart.note and not crowded else None


def _title(receipt: Receipt | None) -> str:
    names = [r.product for r in receipt.reads] if receipt else []
    return ", ".join(names) or "Result"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _facts(table: pyarrow.Table, receipt: Receipt | None, more: bool) -> str:
    facts = [f"more than {_counted(table.num_rows, 'row')}" if more else _counted(table.num_rows, "row")]
    if receipt:
        facts[0] += f" in {receipt.seconds:.2f} s"
    if receipt and receipt.reads:
        clouds = ", ".join(dict.fromkeys(CLOUDS.get(r.cloud, r.cloud) for r in receipt.reads))
        facts.append(f"{size(sum(r.bytes for r in receipt.reads))} read from {clouds}")
    return " · ".join(facts)


def _answer(columns: Sequence[str], types: Sequence[str], table: pyarrow.Table, more: bool) -> str:
    shown = table.slice(0, MOST_ROWS)
    count = _counted(shown.num_rows, "row")
    if more or shown.num_rows < table.num_rows:
        count = f"the first {count}"
    styles = ["n" if is_number(kind) else "s" if kind.startswith(SHORT) else "" for kind in types]
    heads = "".join(
        f'<th title="{escape(kind)}" aria-sort="none"{_class(style)}>'
        f'<button type="button">{escape(visible(name))}</button></th>'
        for name, kind, style in zip(columns, types, styles, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(_cell(text, style) for text, style in zip(row, styles, strict=True)) + "</tr>"
        for row in zip(*texts_of(columns, types, shown), strict=True)
    )
    none = "" if shown.num_rows else '\n<p class="none">The result has no rows.</p>'
    return (
        f'<section class="card flush">\n<div class="bar"><h2 id="count">{count}</h2>'
        '<input id="filter" type="search" placeholder="Filter" aria-label="Filter the rows"></div>\n'
        f'<div class="scroll rows"><table id="answer">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>{none}\n</section>"
    )


def _cell(text: str | None, style: str) -> str:
    if text is None:
        return f"<td{_class(f'null {style}'.strip())}>NULL</td>"
    return f"<td{_class(style)}>{escape(visible(text))}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _reads(receipt: Receipt | None) -> str:
    if receipt is None or not receipt.reads:
        return ""
    heads = "".join(f"<th>{name}</th>" for name in ("Product", "Cloud", "Version"))
    heads += "".join(f'<th class="n">{name}</th>' for name in ("Files", "Rows", "Bytes", "Requests"))
    rows = "\n".join(f"<tr>{''.join(_read(read))}</tr>" for read in receipt.reads)
    return (
        '<section class="card flush">\n<div class="bar"><h2>What was read</h2></div>\n<div class="scroll">'
        f'<table class="plain">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n'
        "</section>"
    )


def _read(read: Read) -> Iterator[str]:
    cloud = " ".join(filter(None, (CLOUDS.get(read.cloud, read.cloud), read.region)))
    total = "" if read.files_total is None else f" of {read.files_total:,}"
    yield f'<td><b>{escape(read.product)}</b><div class="place">{escape(visible(read.location))}</div></td>'
    yield f"<td>{escape(cloud)}</td>"
    version = escape(visible(read.version[:12]))
    yield f'<td>{escape(FORMATS.get(read.format, read.format))} <span class="soft">{version}</span></td>'
    for text in (f"{read.files:,}{total}", f"{read.rows:,}", size(read.bytes), f"{read.requests:,}"):
        yield f'<td class="n">{text}</td>'


def _sql(text: str) -> str:
    parts, at = [], 0
    for token in read(text):
        parts.append(_escaped(text[at : token.start]))
        piece = _escaped(text[token.start : token.end])
        parts.append(f'<span class="{token.kind}">{piece}</span>' if token.kind in COLOURED else piece)
        at = token.end
    return "".join([*parts, _escaped(text[at:])])


def _escaped(text: str) -> str:
    """The text for HTML, its lines kept."""
    return "\n".join(escape(visible(line.replace("\t", "    "))) for line in text.split("\n"))
