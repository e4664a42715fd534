"""What a catalog says of change data capture: what is refused, and the products that a log brings along."""

from __future__ import annotations

import textwrap

import pytest

from meshql.catalog.derived import built_by
from meshql.catalog.load import check, load

CONNECTIONS = """
meshql: 1
connections:
  shop_db: {cloud: postgres, host: db, database: shop, auth: {method: password, user: u, password: "${PW}"}}
  other_db: {cloud: postgres, host: db, database: other, auth: {method: password, user: u, password: "${PW}"}}
  lake: {cloud: local}
products:
"""

LOG = "- {name: shop.changes, location: lake/changes/, build: {kind: cdc, from: shop_db, tables: %s}}\n"

TABLE = "- {name: shop.t, location: lake/t/, build: {kind: cdc, %s}}\n"


@pytest.fixture
def catalog(tmp_path):
    """Write products below the connections, and return the catalog's path."""

    def write(products):
        path = tmp_path / "catalog.yaml"
        path.write_text(CONNECTIONS + textwrap.indent(products, "  "))
        return path

    return write


def mistakes(path):
    return check(path, environ={"PW": "x"})


def products(path):
    return load(path, environ={"PW": "x"}).products


def test_a_log_brings_a_product_for_each_table_along(catalog):
    owned = (LOG % "[orders, sales.customers]").replace("build:", "team: {name: checkout}, build:")
    found = products(catalog(owned))
    log = found["shop.changes"]
    assert (log.format, log.build.tables) == ("parquet", ("public.orders", "sales.customers"))
    orders, customers = found["shop.orders"], found["shop.customers"]
    assert (orders.build.from_, orders.build.table) == ("shop.changes", "public.orders")
    assert customers.build.table == "sales.customers"
    assert {p.format for p in (orders, customers)} == {"delta"}
    assert orders.location == f"{log.location.rstrip('/')}_orders/"
    assert (orders.connection, orders.owner, orders.place) == (log.connection, "checkout", log.place)
    assert orders.description.purpose == "Rows of public.orders as they are, by the changes in shop.changes"
    assert built_by(orders) == "+shop.orders"
    assert built_by(log) == "shop.changes"
    assert "meshql.runs" in found


@pytest.mark.parametrize("table", ["orders", "public.orders"])
def test_a_declared_product_takes_the_place_of_the_one_that_a_table_brings(catalog, table):
    found = products(catalog(LOG % "orders" + TABLE % f"from: Shop.Changes, table: {table}, history: true"))
    assert "shop.orders" not in found
    assert found["shop.t"].build.table == "public.orders"
    assert found["shop.t"].build.history


def test_a_table_that_a_variable_hides_brings_nothing_along(catalog):
    path = catalog(LOG % "['${T}', orders]")
    assert [m.severity for m in mistakes(path)] == ["warning"]
    assert {n for n in products(path) if n.startswith("shop.")} == {"shop.changes", "shop.orders"}


REFUSED = {
    "table twice": (
        LOG % "[orders, public.orders]",
        "build.tables[1]",
        "table `public.orders` is named twice",
        "remove one of them",
    ),
    "pattern": (LOG % "['sales.*']", "build.tables[0]", "`sales.*` is a pattern", "list them"),
    "quotes": (LOG % "['\"Orders\"']", "build.tables[0]", "has quotes", "without them"),
    "three parts": (
        LOG % "db.sales.orders",
        "build.tables",
        "`db.sales.orders` names no table",
        "schema.table",
    ),
    "no table": (LOG % "[]", "build", "`tables` names none", "tables: [orders, sales.customers]"),
    "one name in two schemas": (
        LOG % "[orders, archive.orders]",
        "build.tables[1]",
        "`archive.orders` brings no product along: product `shop.orders` is that of `public.orders`",
        "declare a product for it, as `shop.archive_orders`, with"
        " `build: {kind: cdc, from: shop.changes, table: archive.orders}`",
    ),
    "name of another product": (
        LOG % "[t]" + "- {name: shop.T, location: t/, format: delta}",
        "build.tables",
        "product `shop.t` is declared already",
        "as `shop.public_t`",
    ),
    "name of a quarantine": (
        LOG % "[o_quarantine]" + "- {name: shop.o, location: o/, build: {kind: silver, from: shop.changes}}",
        "build.tables",
        "meshql has a product of this name",
        "as `shop.public_o_quarantine`",
    ),
    "no name of a product": (
        LOG % "['Two Words']",
        "build.tables",
        "a product cannot be called as it is",
        "table: 'public.Two Words'",
    ),
    "unknown connection": (
        (LOG % "orders").replace("shop_db", "shopdb"),
        "build.from",
        "unknown connection `shopdb`",
        "did you mean `shop_db`?",
    ),
    "another cloud": (
        (LOG % "orders").replace("shop_db", "lake"),
        "build.from",
        "changes are captured on cloud postgres, and `lake` is on local",
        "`shop_db`",
    ),
    "a product in place of a connection": (
        (LOG % "orders").replace("shop_db", "a.b") + "- {name: a.b, location: x/, format: delta}",
        "build.from",
        "`a.b` is a product",
        "or remove `tables`",
    ),
    "a connection in place of a product": (
        TABLE % "from: shop_db, table: orders",
        "build",
        "`shop_db` is a connection",
        "add `tables: [orders]`",
    ),
    "which table": (
        LOG % "orders" + TABLE % "from: shop.changes",
        "build",
        "`shop.changes` is the log of a database: which of its tables?",
        "add `table: public.orders`",
    ),
    "a table that the log has not": (
        LOG % "orders" + TABLE % "from: shop.changes, table: order",
        "build.table",
        "does not follow a table `public.order`",
        "did you mean `public.orders`?",
    ),
    "a table of no log": (
        TABLE % "from: a.b, table: orders" + "- {name: a.b, location: x/, format: delta}",
        "build.table",
        "product `a.b` is no log of a database",
        "`operation`, `key`, `order`",
    ),
    "one slot for two logs": (
        (LOG % "orders").replace("cdc,", "cdc, slot: shared,")
        + "- {name: b.c, location: c/, build: {kind: cdc, from: other_db, slot: shared, tables: x}}",
        "build.slot",
        "slot `shared` is that of product `shop.changes` on the same server",
        "`slot: shared_2`",
    ),
    "format of a log": (
        (LOG % "orders").replace("location", "format: delta, location"),
        "format",
        "a log of changes is written as parquet, not as delta",
        "remove the key",
    ),
    "format of a table": (
        (TABLE % "from: a.b, operation: op, key: id, order: ts").replace(
            "location", "format: parquet, location"
        )
        + "- {name: a.b, location: x/, format: delta}",
        "format",
        "cdc is written as delta, not as parquet",
        "remove the key",
    ),
    "a file as place": (
        (LOG % "orders").replace("lake/changes/", "lake/changes.parquet"),
        "location",
        "lies in a folder, not in a file",
        "name the folder",
    ),
}


@pytest.mark.parametrize(("text", "key", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_where_and_how_it_is_put_right(catalog, text, key, message, hint):
    (found,) = mistakes(catalog(text))
    assert found.key.partition("].")[2].startswith(key)
    assert message in found.message
    assert hint in found.hint
    assert found.place.line >= 8
    assert found.place.column > 1


def test_logs_on_two_servers_may_have_slots_of_one_name(catalog):
    text = (LOG % "orders").replace("cdc,", "cdc, slot: s,")
    text += "- {name: b.c, location: c/, build: {kind: cdc, from: other_db, slot: s, tables: x}}"
    path = catalog(text)
    path.write_text(
        path.read_text().replace("host: db, database: other", "host: db, port: 5433, database: other")
    )
    assert mistakes(path) == ()
