"""How long completion takes with 10,000 products of 20 columns each.

Run `pytest -s tests/benchmarks/test_completion_time.py` to see the figures. Nothing is asserted about time:
machines differ.
"""

from __future__ import annotations

import statistics
import threading
import time

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from meshql.catalog.connections import LocalConnection
from meshql.catalog.model import Catalog, Product
from meshql.catalog.tables import Element, Table
from meshql.shell.completion.completer import SqlCompleter
from meshql.shell.completion.engine import ask_alone, offered
from meshql.shell.completion.metadata import Metadata
from meshql.shell.completion.refresher import Refresher
from meshql.shell.highlight import SqlLexer

DOMAINS, TABLES, COLUMNS = 100, 100, 20

REPEATS = 40

ENTITIES = ["orders", "customers", "order_items", "sessions", "shipments", "invoices", "returns", "prices"]

TYPED = [
    "SELECT * FROM |",
    "SELECT * FROM dom|",
    "SELECT * FROM ord|",
    "SELECT * FROM oi|",
    "SELECT * FROM d5oi9|",
    "SELECT * FROM zzzz|",
    "SELECT * FROM domain_5.|",
    "SELECT * FROM domain_5.or|",
    "SELECT | FROM domain_5.orders_8",
    "SELECT co| FROM domain_5.orders_8 o",
    "SELECT o.| FROM domain_5.orders_8 o",
    "SELECT col|",
    "SELECT * FROM domain_5.orders_8 o JOIN |",
    "SELECT * FROM domain_5.orders_8 o JOIN domain_6.orders_8 p ON |",
    "SELECT * FROM domain_5.orders_8 WHERE column_1 = s|",
    "SET m|",
    "SEL|",
]


def product(domain, number):
    entity = ENTITIES[number % len(ENTITIES)]
    relationship = {"to": f"{ENTITIES[(number + 1) % len(ENTITIES)]}_{(number + 1) % TABLES}.id"}
    columns = [
        Element.model_construct(name=f"column_{i}_of_{entity}", logicalType="string")
        for i in range(COLUMNS - 2)
    ]
    key = Element.model_validate({"name": "id", "logicalType": "integer", "primaryKey": True})
    link = Element.model_validate(
        {"name": "other_id", "logicalType": "integer", "relationships": [relationship]}
    )
    name = f"domain_{domain}.{entity}_{number}"
    table = Table.model_construct(name=f"{entity}_{number}", properties=(key, link, *columns))
    return Product.model_construct(
        name=name, connection="here", location="x", format="delta", table_schema=(table,)
    )


@pytest.fixture(scope="module")
def catalog():
    products = [product(domain, number) for domain in range(DOMAINS) for number in range(TABLES)]
    return Catalog.model_construct(
        root=".",
        digest="",
        connections={"here": LocalConnection(cloud="local")},
        products={p.name: p for p in products},
    )


def milliseconds(function):
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1_000


def line(what, times):
    times = sorted(times)
    print(f"  {what:66} p50 {statistics.median(times):7.2f} ms   p95 {times[int(len(times) * 0.95)]:7.2f} ms")


def press(completer, marked):
    cursor = marked.index("|")
    document = Document(marked.replace("|", ""), cursor)
    return list(completer.get_completions(document, CompleteEvent(completion_requested=True)))


def test_time_of_a_completion(catalog):
    refresher = Refresher(lambda: catalog)
    print(f"\n{len(catalog.products):,} products of {COLUMNS} columns")
    print(f"  what the engine offers: {milliseconds(lambda: offered(ask_alone)):.0f} ms, in the background")
    print(
        f"  a snapshot of the catalog: {milliseconds(lambda: Metadata(catalog).prepared()):.0f} ms, in the background"
    )
    completer = SqlCompleter(refresher)
    line(
        "before the catalog is there: SELECT * FROM |",
        [milliseconds(lambda: press(completer, "SELECT * FROM |"))],
    )
    refresher.refresh()
    during = []
    while not refresher.wait(0):
        during.append(milliseconds(lambda: press(completer, "SELECT * FROM ord|")))
    line("while the snapshot is built: SELECT * FROM ord|", during)
    every = []
    for marked in TYPED:
        times = [milliseconds(lambda m=marked: press(completer, m)) for _ in range(REPEATS)]
        every.extend(times)
        line(f"{marked}  ({len(press(completer, marked))})", times)
    line("all", every)
    refresher.close()
    assert refresher.metadata.product("domain_5.orders_8")


def test_time_of_a_completion_while_stores_are_slow(catalog):
    gate = threading.Event()
    refresher = Refresher(lambda: catalog, columns_of=lambda name: gate.wait(60) and None)
    catalog.products["domain_0.bare"] = Product.model_construct(
        name="domain_0.bare", connection="here", location="x", format="delta"
    )
    catalog.__dict__.pop("_folded", None)
    refresher.refresh()
    refresher.wait()
    completer = SqlCompleter(refresher)
    times = [
        milliseconds(lambda: press(completer, "SELECT b.| FROM domain_0.bare b")) for _ in range(REPEATS)
    ]
    line("\n  columns that a store has not told yet", times)
    gate.set()
    refresher.close()
    del catalog.products["domain_0.bare"]
    catalog.__dict__.pop("_folded", None)


def test_time_of_a_colouring(catalog):
    lexer = SqlLexer(lambda: Metadata(catalog))
    print()
    for size in (200, 2_000, 20_000, 100_000):
        text = (
            "SELECT o.id, sum(x) AS total FROM domain_5.orders_8 o WHERE y = 'z' -- why\n" * (size // 70)
        )[:size]
        texts = [text + str(i) for i in range(REPEATS)]
        times = [milliseconds(lambda t=t: lexer.lex_document(Document(t))(0)) for t in texts]
        line(f"colours of {size:,} characters", times)
