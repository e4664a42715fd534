from __future__ import annotations

import time

import pytest
from prompt_toolkit.document import Document
from prompt_toolkit.styles import Style

from meshql.catalog.connections import LocalConnection
from meshql.catalog.model import Catalog, Product
from meshql.shell.completion.metadata import Metadata
from meshql.shell.highlight import LIMIT, STYLES, SqlLexer

ORDERS = Product(name="sales.orders", location="x", format="delta")
METADATA = Metadata(
    Catalog(
        root=".", digest="", connections={"l": LocalConnection(cloud="local")}, products={ORDERS.name: ORDERS}
    )
)


def lines(text, cursor=None, metadata=METADATA):
    lexer = SqlLexer(lambda: metadata)
    document = Document(text, len(text) if cursor is None else cursor)
    line = lexer.lex_document(document)
    return [line(i) for i in range(text.count("\n") + 1)]


def styled(text, cursor=None):
    """The pieces that have a style, each with its short name."""
    pieces = [piece for line in lines(text, cursor) for piece in line if piece[0]]
    return [(style.removeprefix("class:sql."), part) for style, part, *_ in pieces]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT a", [("keyword", "SELECT")]),
        ("sum(a)", [("function", "sum"), ("operator", "("), ("operator", ")")]),
        ("left(a)", [("function", "left"), ("operator", "("), ("operator", ")")]),
        ("1.5e3", [("number", "1.5e3")]),
        ("'it''s'", [("string", "'it''s'")]),
        ("$$a b$$", [("string", "$$a b$$")]),
        ("a -- b", [("comment", "-- b")]),
        ("a /* b */ c", [("comment", "/* b */")]),
        ("$x ?", [("parameter", "$x"), ("parameter", "?")]),
        ("sales.orders", [("product", "sales"), ("product", "."), ("product", "orders")]),
        ('"SALES".orders', [("product", '"SALES"'), ("product", "."), ("product", "orders")]),
        ("sales.nothing", [("operator", ".")]),
        ("x.sales.orders", [("operator", "."), ("operator", ".")]),
        ("'open", [("string", "'open")]),
        ("/* open", [("comment", "/* open")]),
        ('"open', [("open", '"open')]),
        (".describe sales.orders", [("command", ".describe")]),
        (r"\d", [("command", r"\d")]),
        (".5 + 1", [("number", ".5"), ("operator", "+"), ("number", "1")]),
        ("'é' é 1", [("string", "'é'"), ("number", "1")]),
        ("", []),
    ],
)
def test_styles(text, expected):
    assert styled(text)[: len(expected)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1,\n  'a\nb' -- c\n\nFROM sales.orders;\n",
        "/* a\n\nb */ x\n",
        "SELECT '\n\n",
        '\n"a\n',
        ".read x\nSELECT",
        "SELECT é, '…' FROM \"ü\"\r\n",
        "a\0b\tc",
        "\ud800 'x'",
    ],
)
def test_no_character_is_lost(text):
    assert "\n".join("".join(part for _, part, *_ in line) for line in lines(text)) == text


def test_a_string_over_lines_is_one():
    assert [line[-1][0] for line in lines("'a\nb\nc'")] == ["class:sql.string"] * 3


def test_lines_beyond_the_text_are_empty():
    assert SqlLexer(lambda: METADATA).lex_document(Document("a"))(5) == []


def test_every_class_has_a_style():
    found = {
        style
        for text in ("SELECT sum(a), 1, 'x', $y FROM sales.orders -- c", '"a', ".x")
        for style, _ in styled(text)
    }
    assert found == {name.removeprefix("sql.") for name in STYLES}
    Style.from_dict(STYLES)


def test_products_are_coloured_once_the_catalog_is_there():
    snapshot = [Metadata()]
    lexer = SqlLexer(lambda: snapshot[0])
    document = Document("FROM sales.orders")
    assert "class:sql.product" not in dict(lexer.lex_document(document)(0))
    before = lexer.invalidation_hash()
    snapshot[0] = METADATA
    assert lexer.invalidation_hash() != before
    assert "class:sql.product" in dict(lexer.lex_document(document)(0))


def test_a_text_is_read_once(monkeypatch):
    lexer = SqlLexer(lambda: METADATA)
    lexer.lex_document(Document("SELECT 1", 3))
    monkeypatch.setattr("meshql.shell.highlight.read", None)
    assert lexer.lex_document(Document("SELECT 1", 5))(0)


def test_a_long_text_is_coloured_around_the_cursor():
    text = "SELECT 1;\n" * 10_000
    cursor = len(text) // 2
    started = time.perf_counter()
    found = lines(text, cursor)
    assert time.perf_counter() - started < 10
    row = text.count("\n", 0, cursor)
    assert found[row][0] == ("class:sql.keyword", "SELECT")
    assert found[0] == [("", "SELECT 1;")]
    assert sum(1 for line in found if len(line) > 1) <= 2 * LIMIT / 10
    assert "\n".join("".join(part for _, part, *_ in line) for line in found) == text
