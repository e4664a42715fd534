"""The result as a page: complete, escaped, self-contained, and sortable in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import stat
import subprocess
import webbrowser
from html.parser import HTMLParser

import duckdb
import pytest

from meshql.query.receipt import Read, Receipt
from meshql.shell.page import open_page, page

EVIL = "</td></script><script>alert(1)</script>\"'&"

RECEIPT = Receipt(
    sql="",
    catalog="",
    reads=(
        Read("sales.orders", "delta", "7", "s3", "eu-west-1", "s3://prod/orders/", 1, 24, 100, 36_000, 5),
        Read("crm.customers", "parquet", "ad30", "azure", None, f"az://{EVIL}", 1, None, 50, 0, 2),
    ),
    rows=3,
    seconds=0.25,
)


def made(sql, *, text=None, receipt=None, more=False):
    relation = duckdb.sql(sql)
    return page(
        relation.columns,
        [str(t) for t in relation.types],
        relation.to_arrow_table(),
        sql=text or sql,
        receipt=receipt,
        more=more,
    )


class Reader(HTMLParser):
    """Collects elements, the cells of the answer, and tags left open."""

    VOID = frozenset({"meta", "input", "rect", "line", "circle", "polyline"})

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.rows = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_cells_are_as_duckdb_writes_them():
    html = made("SELECT 12.50::DECIMAL(9,2) AS n, DATE '2026-01-02' AS d, [1, 2] AS l, NULL AS x")
    reader = Reader(html)
    assert reader.open == []
    assert reader.rows == [["n", "d", "l", "x"], ["12.50", "2026-01-02", "[1, 2]", "NULL"]]
    assert '<td class="n">12.50</td>' in html
    assert '<td class="null n">NULL</td>' in html
    assert '<th title="DECIMAL(9,2)" aria-sort="none" class="n">' in html


def test_everything_is_escaped():
    name = EVIL.replace('"', '""')
    literal = EVIL.replace("'", "''")
    sql = f"""SELECT '{literal}' AS "{name}", 2 AS "{name}2" UNION ALL SELECT 'b', 3"""
    html = made(sql, receipt=RECEIPT)
    reader = Reader(html)
    assert "<svg" in html
    assert [tag for tag, _ in reader.elements].count("script") == 1
    assert "<script>alert" not in html
    assert reader.rows[0] == [EVIL, f"{EVIL}2"]
    assert reader.rows[1] == [EVIL, "2"]


def test_control_characters_are_shown():
    assert "a\\x1b[31m\\u202eb" in made("SELECT 'a\x1b[31m\u202eb' AS t")


def test_it_needs_no_network_and_runs_its_own_script_only():
    html = made("SELECT 1 AS n", receipt=RECEIPT)
    assert not re.search(r"https?://", html)
    for _, attributes in Reader(html).elements:
        assert not attributes.keys() & {"src", "href", "onclick", "onload"}
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_it_tells_what_was_read_from_where():
    html = made("SELECT 1 AS n", receipt=RECEIPT)
    assert "<h1>sales.orders, crm.customers</h1>" in html
    assert "1 row in 0.25 s · 36.0 kB read from Amazon S3, Azure Blob Storage" in html
    rows = Reader(html).rows
    assert rows[3] == [
        "sales.orderss3://prod/orders/", "Amazon S3 eu-west-1", "Delta 7", "1 of 24", "100", "36.0 kB", "5",
    ]  # fmt: skip
    assert rows[4][3:] == ["1", "50", "0 B", "2"]
    assert "What was read" not in made("SELECT 1 AS n")


def test_the_sql_is_there_with_its_lines():
    html = made("SELECT 1 AS n", text="-- why\nSELECT 'x' AS t,\n\t1.5 AS n")
    assert '<span class="comment">-- why</span>\n<span class="keyword">SELECT</span>' in html
    assert '<span class="string">&#x27;x&#x27;</span>' in html


@pytest.mark.parametrize(
    ("sql", "shape"),
    [
        ("SELECT * FROM (VALUES ('a', 1), ('b', 2)) t(t, n)", "<rect"),
        ("SELECT DATE '2026-01-01' + i::INT AS d, i * i AS n FROM range(9) t(i)", "<polyline"),
        ("SELECT 2020 + i AS year, i * i AS n FROM range(9) t(i)", "<polyline"),
        ("SELECT * FROM (VALUES ('a', 1), ('a', 2)) t(t, n)", None),
        ("SELECT i AS n FROM range(100) t(i)", None),
        ("SELECT 'a' AS t, 1 AS n", None),
        ("SELECT i AS id, 'a' || i AS name, 'b' AS city, 'c' AS land, i AS n FROM range(9) t(i)", None),
        ("SELECT 1 AS n WHERE false", None),
        ("SELECT 'a' AS t UNION ALL SELECT 'b'", None),
    ],
)
def test_a_chart_is_there_where_the_shape_fits(sql, shape):
    html = made(sql)
    assert ("<svg" in html) == (shape is not None)
    assert shape is None or shape in html
    assert Reader(html).open == []


def test_series_of_other_scales_have_charts_of_their_own():
    assert made("SELECT * FROM (VALUES ('a', 1, 2), ('b', 2, 3)) t(t, n, m)").count("<svg") == 1
    assert made("SELECT * FROM (VALUES ('a', 1, 2e6), ('b', 2, 3e6)) t(t, n, m)").count("<svg") == 2


def test_rows_that_are_left_out_are_told():
    html = made("SELECT i AS n FROM range(10050) t(i)")
    assert "the first 10,000 rows" in html
    assert "10,050 rows" in html
    assert len(Reader(html).rows) == 10_001
    assert "more than 3 rows" in made("SELECT i AS n FROM range(3) t(i)", more=True)
    assert "The result has no rows." in made("SELECT 1 AS n WHERE false")


def test_the_file_is_private_and_is_opened_where_there_is_a_screen(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    path = open_page("<p>ü")
    assert path.read_text(encoding="utf-8") == "<p>ü"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    path = open_page("x")
    assert opened == [path.as_uri()]


def test_a_browser_that_fails_leaves_the_file(monkeypatch, tmp_path):
    def fail(url):
        raise webbrowser.Error("none")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(webbrowser, "open", fail)
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_page("x").exists()


DRIVE = """{
const heads = document.querySelectorAll("#answer th button");
const cells = (n) => Array.from(document.querySelectorAll("#answer tbody tr:not([hidden])"), (r) => r.cells[n].textContent).join(",");
const told = [];
for (let i = 0; i < 3; i++) { heads[0].click(); told.push(cells(0)); }
heads[1].click(); told.push(cells(1));
const filter = document.getElementById("filter");
filter.value = "x1"; filter.dispatchEvent(new Event("input")); told.push(cells(1));
told.push(document.getElementById("count").textContent);
document.title = told.join("|");
}"""


def test_a_browser_sorts_and_filters(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("NO BROWSER: nothing sorts or filters the page in this run")
    html = made("SELECT * FROM (VALUES (9, 'x10'), (NULL, 'x9'), (-1.5, 'b'), (10, 'x1')) t(n, t)")
    digest = base64.b64encode(hashlib.sha256(DRIVE.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{digest}' ")
    html = html.replace("</body>", f"<script>{DRIVE}</script></body>")
    (tmp_path / "page.html").write_text(html)
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --dump-dom"
    found = subprocess.run(
        [browser, *options.split(), f"--user-data-dir={tmp_path}/user", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", found.stdout)
    assert title, found.stderr
    assert title[1].split("|") == [
        "-1.5,9.0,10.0,NULL",
        "10.0,9.0,-1.5,NULL",
        "9.0,NULL,-1.5,10.0",
        "b,x1,x9,x10",
        "x1,x10",
        "2 of 4 rows",
    ]
