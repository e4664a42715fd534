from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from meshql.catalog.connections import AzureConnection, GcsConnection, S3Connection
from meshql.catalog.model import Catalog, Product
from meshql.shell.completion.candidates import Command, Lookup, candidates, unknown_products
from meshql.shell.completion.completer import SqlCompleter
from meshql.shell.completion.context import suggest
from meshql.shell.completion.engine import ask_alone, offered
from meshql.shell.completion.fuzzy import Index, grade
from meshql.shell.completion.metadata import Column, Known, Metadata
from meshql.shell.completion.paths import listed
from meshql.shell.completion.refresher import Refresher
from meshql.shell.completion.tokens import read
from meshql.shell.completion.usage import Usage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def element(name, kind="string", **more):
    return {"name": name, "logicalType": kind, **more}


def product(name, fmt, connection, columns, **more):
    schema = (
        [{"name": name.partition(".")[2], "properties": columns, **more.pop("table", {})}] if columns else []
    )
    text = {"name": name, "format": fmt, "connection": connection, "location": "x", "schema": schema, **more}
    return Product.model_validate(text)


def points_to(*targets):
    return [{"type": "foreignKey", "to": target} for target in targets]


PRODUCTS = [
    product(
        "sales.orders",
        "delta",
        "aws",
        [
            element(
                "order_id",
                "integer",
                primaryKey=True,
                primaryKeyPosition=1,
                description="Number of the order",
            ),
            element("customer_id", "integer", relationships=points_to("customers.customer_id")),
            element("ordered_at", "timestamp"),
            element("amount", "number"),
            element("status"),
            element("group"),
            element("Ship To"),
            element("address", "object", properties=[element("city"), element("zip")]),
        ],
    ),
    product(
        "sales.returns",
        "delta",
        "aws",
        [element("return_id", "integer", primaryKey=True), element("order_id", "integer"), element("reason")],
        table={
            "relationships": [{"type": "foreignKey", "from": ["returns.order_id"], "to": ["orders.order_id"]}]
        },
        slaProperties=[{"property": "latency", "value": 24, "unit": "h"}],
    ),
    product(
        "sales.back_orders", "delta", "aws", [element("order_id", "integer"), element("expected_on", "date")]
    ),
    product(
        "crm.customers",
        "parquet",
        "backup",
        [
            element("customer_id", "integer", primaryKey=True),
            element("name"),
            element("email"),
            element("country"),
            element("status"),
        ],
    ),
    product("web.sessions", "iceberg", "analytics", []),
    product("web.old_sessions", "iceberg", "analytics", [element("id")], status="deprecated"),
    product("stock-eu.table", "csv", "analytics", [element("sku"), element("on_hand", "integer")]),
]

CONNECTIONS = {
    "aws": S3Connection.model_validate({"cloud": "s3", "auth": {"method": "env"}}),
    "analytics": GcsConnection.model_validate({"cloud": "gcs", "auth": {"method": "anonymous"}}),
    "backup": AzureConnection.model_validate(
        {"cloud": "azure", "account": "a", "auth": {"method": "anonymous"}}
    ),
}

CATALOG = Catalog(root=".", digest="", connections=CONNECTIONS, products={p.name: p for p in PRODUCTS})

KNOWN = {"sales.orders": Known(changed_at=NOW - timedelta(hours=2, minutes=5))}

COMMANDS = (
    Command(".describe", "What a product is", "product"),
    Command(".mode", "How rows are shown", "choice", ("table", "csv", "json", "jsonl")),
    Command(".read", "Run a file", "path"),
    Command(".explain", "Show the plan", "sql"),
    Command(".products", "List products"),
    Command(".quit", "Leave"),
    Command(r"\d", "What a product is", "product"),
    Command(r"\dt", "List products"),
)

FILES = {"": ["data/", "dates.csv", "orders.parquet"], "data/": ["2026/", "it's.parquet"]}


def files(typed):
    return FILES.get(typed[: typed.rfind("/") + 1], [])


@pytest.fixture(scope="module")
def metadata():
    return Metadata(CATALOG, offered(ask_alone), KNOWN, NOW).prepared()


@pytest.fixture
def lookup(metadata):
    return Lookup(metadata, Usage(), COMMANDS, files)


def at_cursor(text):
    cursor = text.index("|")
    return text[:cursor] + text[cursor + 1 :], cursor


def complete(marked, lookup):
    text, cursor = at_cursor(marked)
    return candidates(text, cursor, lookup)


def texts(marked, lookup):
    return [c.text for c in complete(marked, lookup)]


def accepted(marked, lookup, index=0):
    """The text after the first candidate was taken."""
    text, cursor = at_cursor(marked)
    found = candidates(text, cursor, lookup)[index]
    return text[: cursor + found.start_position] + found.text + text[cursor:]


ORDERS = ["order_id", "customer_id", "ordered_at", "amount", "status", '"group"', '"Ship To"', "address"]
CUSTOMERS = ["customer_id", "name", "email", "country", "status"]
LEFT, RIGHT = "sales.orders o", "crm.customers c"
EQUAL = "o.customer_id = c.customer_id"

FIRST = [
    # statements
    ("sel|", ["select"]),
    ("SEL|", ["SELECT"]),
    ("|", ["SELECT", "FROM", "WITH", "DESCRIBE"]),
    ("desc|", ["describe"]),
    ("SELECT 1; SEL|", ["SELECT"]),
    ("select 1; |", ["SELECT"]),
    ("EXPLAIN |", ["ANALYZE", "SELECT"]),
    ("EXPLAIN ANALYZE |", ["SELECT", "FROM"]),
    ("INSERT |", ["INTO"]),
    ("SELECT 1 UNION ALL |", ["SELECT", "FROM"]),
    ("CREATE TABLE t AS |", ["SELECT", "FROM"]),
    ("CREATE OR |", ["REPLACE"]),
    # products
    ("SELECT * FROM sal|", ["sales.back_orders", "sales.orders", "sales.returns"]),
    ("SELECT * FROM ord|", ["sales.orders", "sales.back_orders"]),
    ("SELECT * FROM sales.|", ["back_orders", "orders", "returns"]),
    ("SELECT * FROM sales.o|", ["orders", "back_orders"]),
    ("SELECT * FROM SALES.O|", ["orders", "back_orders"]),
    ("SELECT * FROM sls|", ["sales.back_orders", "sales.orders", "sales.returns"]),
    ("SELECT * FROM sls.or|", ["sales.orders"]),
    ("SELECT * FROM cust|", ["crm.customers"]),
    ("SELECT * FROM a, cu|", ["crm.customers"]),
    ("FROM se|", ["web.sessions"]),
    ("SELECT * FROM st|", ['"stock-eu".table']),
    ('SELECT * FROM "stock-eu".|', ["table"]),
    ('SELECT * FROM "sales"."or|', ['"orders"', '"back_orders"']),
    ('SELECT * FROM "sales"."or|" o', ['"orders', '"back_orders']),
    ("SELECT * FROM sales.orders o JOIN cr|", [f"crm.customers c ON {EQUAL}", "crm.customers"]),
    ("DESCRIBE cu|", ["crm.customers"]),
    ("DESC cu|", ["crm.customers"]),
    ("SUMMARIZE sales.r|", ["returns"]),
    ("SHOW cu|", ["crm.customers"]),
    ("PIVOT cu|", ["crm.customers"]),
    ("COPY cu|", ["crm.customers"]),
    ("INSERT INTO cu|", ["crm.customers"]),
    ("UPDATE cu|", ["crm.customers"]),
    ("DELETE FROM cu|", ["crm.customers"]),
    ("DROP TABLE cu|", ["crm.customers"]),
    ("SELECT * FROM (|", ["crm.customers"]),
    ("SELECT * FROM sales.orders WHERE order_id IN (SELECT order_id FROM re|", ["sales.returns"]),
    ("SELECT sales.|", ["back_orders", "orders", "returns"]),
    # after a table
    ("SELECT * FROM sales.orders |", ["WHERE", "JOIN", "LEFT JOIN"]),
    ("FROM sales.orders |", ["WHERE", "SELECT", "JOIN"]),
    ("SELECT * FROM sales.orders o wh|", ["where"]),
    ("SELECT * FROM sales.orders o l|", ["left join", "limit"]),
    ("SELECT * FROM sales.orders o LEFT |", ["JOIN", "OUTER JOIN"]),
    ("SELECT * FROM sales.orders o JOIN crm.customers c |", ["ON", "USING"]),
    ("SELECT * FROM sales.orders AS |", ["o"]),
    ("SELECT * FROM sales.back_orders AS |", ["bo"]),
    ("SELECT * FROM sales.orders o, sales.orders AS |", ["o2"]),
    ("INSERT INTO sales.orders |", ["VALUES", "SELECT"]),
    ("UPDATE sales.orders |", ["SET"]),
    ("PIVOT sales.orders |", ["ON", "USING"]),
    ("COPY sales.orders |", ["TO", "FROM"]),
    ("COPY sales.orders TO 'x.parquet' |", ["(FORMAT parquet)"]),
    ("COPY (SELECT 1) TO 'x' (|", ["FORMAT", "HEADER"]),
    # columns
    ("SELECT | FROM sales.orders", ORDERS),
    ("SELECT o.| FROM sales.orders o", [*ORDERS[:5], "group", '"Ship To"', "address"]),
    ("SELECT o.cu| FROM sales.orders AS o", ["customer_id"]),
    ("SELECT O.CU| FROM sales.orders o", ["customer_id"]),
    ("SELECT orders.a| FROM sales.orders", ["amount", "address", "ordered_at"]),
    ("SELECT sales.orders.st| FROM sales.orders", ["status"]),
    ("SELECT order_id, am| FROM sales.orders", ["amount"]),
    ("SELECT sum(am| FROM sales.orders", ["amount"]),
    ("SELECT sum(| FROM sales.orders", ORDERS[:3]),
    ("SELECT sum(amount) + am|\nFROM sales.orders", ["amount"]),
    ("SELECT DISTINCT cu| FROM sales.orders", ["customer_id"]),
    ("FROM sales.orders SELECT cu|", ["customer_id"]),
    ("SELECT * FROM sales.orders WHERE am|", ["amount"]),
    ("SELECT * FROM sales.orders WHERE amount > 3 AND cu|", ["customer_id"]),
    ("SELECT * FROM sales.orders WHERE amount = |", ORDERS[:2]),
    ("SELECT * FROM sales.orders o WHERE o.|", ["order_id"]),
    ("SELECT * FROM sales.orders GROUP BY st|", ["status"]),
    ("SELECT * FROM sales.orders ORDER BY amount, cu|", ["customer_id"]),
    ("SELECT * FROM sales.orders QUALIFY row_number() OVER (PARTITION BY cu|", ["customer_id"]),
    ("SELECT row_number() OVER (| FROM sales.orders", ["PARTITION BY", "ORDER BY"]),
    ("SELECT extract(year FROM ord|) FROM sales.orders", ["order_id", "ordered_at"]),
    ("SELECT * FROM sales.orders WHERE status IS DISTINCT FROM am|", ["amount"]),
    ("SELECT CASE WHEN am| FROM sales.orders", ["amount"]),
    ("SELECT name| FROM sales.orders o JOIN crm.customers c ON true", ["name"]),
    ("SELECT cust| FROM sales.orders o, crm.customers c", ["o.customer_id", "c.customer_id"]),
    ("SELECT o.address.| FROM sales.orders o", ["city", "zip"]),
    ("SELECT address.z| FROM sales.orders o", ["zip"]),
    ('SELECT "na| FROM crm.customers', ['"name"']),
    ('SELECT "na|" FROM crm.customers', ['"name']),
    ('SELECT o."Sh| FROM sales.orders o', ['"Ship To"']),
    ("SELECT * EXCLUDE (| FROM sales.orders", ORDERS),
    ("SELECT * EXCLUDE (order_id, am| FROM sales.orders", ["amount"]),
    ("SELECT c.* EXCLUDE (| FROM sales.orders o, crm.customers c", CUSTOMERS),
    ("SELECT * REPLACE (am| FROM sales.orders", ["amount"]),
    ("INSERT INTO crm.customers (|", CUSTOMERS),
    ("INSERT INTO crm.customers (customer_id, na|", ["name"]),
    ("UPDATE crm.customers SET na|", ["name"]),
    ("UPDATE crm.customers SET name = 'x' WHERE em|", ["email"]),
    ("DELETE FROM crm.customers WHERE em|", ["email"]),
    ("PIVOT sales.orders ON st|", ["status"]),
    ("PIVOT sales.orders ON status USING sum(am|", ["amount"]),
    ("PIVOT sales.orders ON status USING sum(amount) GROUP BY cu|", ["customer_id"]),
    ("SELECT em|", ["email"]),
    ("SELECT * FROM sales.orders LIMIT 5; SELECT em| FROM crm.customers; SELECT 1", ["email"]),
    ("SELECT order_id FROM sales.orders UNION ALL SELECT em| FROM crm.customers", ["email"]),
    ("COPY (SELECT em| FROM crm.customers) TO 'x'", ["email"]),
    ("CREATE TABLE t AS SELECT em| FROM crm.customers", ["email"]),
    # names that the statement gives
    ("SELECT amount * 2 AS twice FROM sales.orders ORDER BY tw|", ["twice"]),
    ("SELECT count(*) n_rows, status FROM sales.orders GROUP BY ALL HAVING n_r|", ["n_rows"]),
    ("SELECT amount AS twice, tw| FROM sales.orders", ["twice"]),
    (
        "WITH r AS (SELECT order_id, amount * 2 AS twice FROM sales.orders) SELECT | FROM r",
        ["order_id", "twice"],
    ),
    ("WITH r(a, b) AS (SELECT 1, 2) SELECT r.| FROM r", ["a", "b"]),
    ("WITH r AS (SELECT * FROM crm.customers) SELECT r.| FROM r", CUSTOMERS),
    ("WITH r AS (SELECT 1 AS a), s AS (SELECT a AS b FROM r) SELECT s.| FROM s", ["b"]),
    ("WITH recent AS (SELECT 1) SELECT * FROM rec|", ["recent"]),
    ("WITH r AS (SELECT em| FROM crm.customers) SELECT 1", ["email"]),
    ("WITH r AS (|", ["SELECT", "FROM"]),
    ("WITH r AS (SELECT 1) |", ["SELECT", "FROM"]),
    ("WITH r |", ["AS"]),
    ("SELECT q.| FROM (SELECT order_id, sum(amount) total FROM sales.orders) q", ["order_id", "total"]),
    ("SELECT q.| FROM (SELECT o.*, c.name AS who FROM sales.orders o, crm.customers c) AS q", ["order_id"]),
    ("SELECT q.| FROM (FROM crm.customers) q", CUSTOMERS),
    ("SELECT v.| FROM (VALUES (1, 2)) v(a, b)", ["a", "b"]),
    ("SELECT * FROM (SELECT em| FROM crm.customers) q", ["email"]),
    (
        "SELECT * FROM sales.orders o WHERE EXISTS (SELECT 1 FROM crm.customers c WHERE o.cu|)",
        ["customer_id"],
    ),
    ("SELECT (SELECT em| FROM crm.customers) FROM sales.orders", ["email"]),
    # joins
    (f"SELECT * FROM {LEFT} JOIN {RIGHT} ON |", [EQUAL, "o.status = c.status"]),
    (f"SELECT * FROM {RIGHT} JOIN {LEFT} ON |", ["c.customer_id = o.customer_id", "c.status = o.status"]),
    (f"select * from {LEFT} join {RIGHT} on o.|", [EQUAL, "o.status = c.status", "order_id"]),
    (f"SELECT * FROM {LEFT} JOIN {RIGHT} ON c.|", CUSTOMERS),
    (f"SELECT * FROM {LEFT} JOIN {RIGHT} ON o.cu|", [EQUAL, "customer_id"]),
    (f"SELECT * FROM {LEFT} JOIN {RIGHT} ON {EQUAL} AND o.st|", ["o.status = c.status"]),
    (f"SELECT * FROM {LEFT} JOIN {RIGHT} ON {EQUAL} JOIN sales.returns r ON |", ["o.order_id = r.order_id"]),
    ("SELECT * FROM sales.orders JOIN crm.customers ON |", ["orders.customer_id = customers.customer_id"]),
    ("SELECT * FROM sales.back_orders b JOIN sales.orders o ON |", ["b.order_id = o.order_id"]),
    (f"SELECT * FROM {LEFT} JOIN {RIGHT} USING (|", ["customer_id", "status"]),
    ("SELECT * FROM sales.returns r JOIN |", ["sales.orders o ON r.order_id = o.order_id"]),
    ("SELECT * FROM crm.customers c JOIN sal|", ["sales.orders o ON c.customer_id = o.customer_id"]),
    ("select * from crm.customers o join sal|", ["sales.orders o2 on o.customer_id = o2.customer_id"]),
    # functions and keywords
    ("SELECT cou|", ["country", "count("]),
    ("SELECT sum| FROM sales.orders", ["sum("]),
    ("SELECT sum|(amount) FROM sales.orders", ["sum"]),
    ("SELECT now| FROM sales.orders", ["now()"]),
    ("SELECT date_tr|", ["date_trunc("]),
    ("SELECT * FROM read_par|", ["read_parquet("]),
    ("SELECT amount fr|", ["from"]),
    ("SELECT * |", ["FROM", "EXCLUDE", "REPLACE"]),
    ("SELECT o.* | FROM sales.orders o", ["FROM", "EXCLUDE", "REPLACE"]),
    ("SELECT * FROM sales.orders WHERE amount |", ["AND", "OR", "IN"]),
    ("SELECT * FROM sales.orders WHERE amount I|", ["IN", "ILIKE", "IS NULL"]),
    ("SELECT * FROM sales.orders WHERE amount IS |", ["NULL", "NOT NULL"]),
    ("SELECT * FROM sales.orders WHERE amount NOT |", ["IN", "LIKE"]),
    ("SELECT * FROM sales.orders WHERE NOT am|", ["amount"]),
    ("SELECT * FROM sales.orders GROUP |", ["BY", "BY ALL"]),
    ("SELECT * FROM sales.orders ORDER BY amount |", ["DESC", "ASC"]),
    ("SELECT * FROM sales.orders ORDER BY amount NULLS |", ["LAST", "FIRST"]),
    ("SELECT CASE WHEN amount > 3 |", ["WHEN", "THEN"]),
    ("SELECT amount::in|", ["int", "int1"]),
    ("SELECT CAST(amount AS VARC|", ["VARCHAR"]),
    ("CREATE TABLE t (a bigi|", ["bigint"]),
    ("SELECT * FROM sales.orders LIMIT 3 |", ["OFFSET"]),
    # settings
    ("SET memory_l|", ["memory_limit"]),
    ("SET GLOBAL memory_l|", ["memory_limit"]),
    ("RESET memory_l|", ["memory_limit"]),
    ("PRAGMA memory_l|", ["memory_limit"]),
    ("SELECT current_setting('memory_l|", ["memory_limit"]),
    ("SET memory_limit |", ["TO"]),
    # paths
    ("SELECT * FROM '|", ["data/", "dates.csv", "orders.parquet"]),
    ("SELECT * FROM 'ord|", ["orders.parquet"]),
    ("SELECT * FROM 'data/2|", ["2026/"]),
    ("SELECT * FROM 'data/it|", ["it''s.parquet"]),
    ("SELECT * FROM read_csv('da|", ["data/", "dates.csv"]),
    ("SELECT * FROM read_parquet(['a.parquet', 'ord|", ["orders.parquet"]),
    ("COPY sales.orders TO 'da|", ["data/", "dates.csv"]),
    ("COPY t FROM 'da|", ["data/", "dates.csv"]),
    # commands
    (".d|", [".describe"]),
    (".|", [".describe", ".mode", ".read"]),
    (r"\|", [r"\d", r"\dt"]),
    (".describe cu|", ["crm.customers"]),
    (".describe sales.o|", ["sales.orders", "sales.back_orders"]),
    (r"\d cu|", ["crm.customers"]),
    (".mode j|", ["json", "jsonl"]),
    (".desc cu|", ["crm.customers"]),
    (".read da|", ["data/", "dates.csv"]),
    (".read 'data/2|", ["2026/"]),
    (".explain SELECT em| FROM crm.customers", ["email"]),
]

NOTHING = [
    "WITH r AS (SELECT * EXCLUDE (email) FROM crm.customers) SELECT r.em|ail FROM r",
    "SELECT 'from sal|",
    "SELECT 'from sal|' FROM sales.orders",
    "SELECT * FROM sales.orders WHERE status = 'o|'",
    "SELECT * FROM sales.orders WHERE status = 'it''s o|",
    "SELECT $$ from sal|",
    "SELECT $tag$ from sal| $tag$",
    "SELECT e'\\' from sal|",
    "SELECT 1 -- from sal|",
    "SELECT 1 -- from sal|\nFROM sales.orders",
    "--|",
    "SELECT /* from sal| */ 1",
    "SELECT /* from sal|",
    "SELECT /* a /* b */ from sal|",
    "SELECT 12|",
    "SELECT 1.5|",
    "SELECT $par|",
    "SELECT order_id AS | FROM sales.orders",
    "SELECT * FROM sales.orders LIMIT |",
    "SELECT x.| FROM sales.orders o",
    "SELECT f(1).| FROM sales.orders",
    "SELECT * FROM nowhere.x|yz",
    "SELECT o.nowhere.| FROM sales.orders o",
    "DESCRIBE sales.orders |",
    "CREATE TABLE |",
    "SET VARIABLE |",
    "SET memory_limit = |",
    "ATTACH |",
    ".quit |",
    ".nosuch |",
    "SELECT t.| FROM read_csv('x') t",
]

WITHOUT = [
    ("SELECT * FROM |", "order_id"),
    ("SELECT * FROM sales.|", "crm.customers"),
    ("SELECT | FROM sales.orders", "email"),
    ("SELECT o.| FROM sales.orders o, crm.customers c", "email"),
    ("SELECT * FROM crm.customers WHERE | ORDER BY 1", "amount"),
    ("SELECT order_id FROM sales.orders UNION SELECT | FROM crm.customers", "amount"),
    ("WITH r AS (SELECT order_id FROM sales.orders) SELECT | FROM r", "amount"),
    ("SELECT | FROM (SELECT order_id FROM sales.orders) q", "amount"),
    ("SELECT * FROM sales.orders o, (SELECT | FROM crm.customers) c", "o.amount"),
    ("WITH r AS (SELECT | FROM crm.customers) SELECT * FROM sales.orders", "amount"),
    ("SELECT * EXCLUDE (| FROM sales.orders", "count("),
    ("INSERT INTO crm.customers (|", "order_id"),
    ("SELECT * FROM sales.orders WHERE amount |", "status"),
    ("SELECT * FROM sales.orders o w|", "sales.orders"),
    ("SELECT * FROM sales.orders WHERE s|", "sales.orders"),
    ("SELECT am| FROM crm.customers; SELECT * FROM sales.orders", "amount"),
    ("SELECT * FROM sales.orders o JOIN crm.customers c ON c.|", EQUAL),
    ("SET mem|", "sales.orders"),
    ("SELECT * FROM sales.orders WHERE c|", "CHECKPOINT"),
]

KINDS = [
    ("|", "Keywords"),
    ("SELECT | FROM t", "Columns Functions Keywords"),
    ("SELECT t.| FROM t", "Columns"),
    ("SELECT * FROM |", "Products Functions"),
    ("SELECT * FROM d.|", "Products"),
    ("SELECT * FROM t JOIN |", "Joins Products Functions"),
    ("SELECT * FROM t AS |", "Alias"),
    ("SELECT * FROM a JOIN b ON |", "JoinCondition Columns Functions Keywords"),
    ("SELECT * FROM a JOIN b USING (|", "UsingColumns"),
    ("SELECT * FROM a JOIN b ON a.x = b.x, |", "Products Functions"),
    ("SELECT a::|", "Types"),
    ("SELECT TRY_CAST(a AS |", "Types"),
    ("SET |", "Settings"),
    ("SET SESSION |", "Settings"),
    ("SELECT current_setting('|')", "Settings"),
    ("SELECT * FROM '|'", "Paths"),
    ("ATTACH '|'", "Paths"),
    ("SELECT read_text('|')", "Paths"),
    (".he|", "Commands"),
    (".help |", "CommandArguments"),
    ("SELECT 1;\n.he|", "Commands"),
    ("SELECT * FROM t WHERE x IN (|", "Columns Functions Keywords Keywords"),
    ("DELETE FROM a USING |", "Products"),
    ("SELECT array_agg(x ORDER BY | FROM t", "Columns Functions Keywords"),
    ("SELECT count(*) FILTER (WHERE | FROM t", "Columns Functions Keywords"),
    ("SELECT [x, | FROM t", "Columns Functions Keywords"),
    ("SELECT {'a': | FROM t", "Columns Functions Keywords"),
    ("GRANT |", "Keywords"),
]


@pytest.mark.parametrize(("marked", "expected"), FIRST)
def test_offered_first(marked, expected, lookup):
    assert texts(marked, lookup)[: len(expected)] == expected


@pytest.mark.parametrize("marked", NOTHING)
def test_nothing_to_offer(marked, lookup):
    assert texts(marked, lookup) == []


@pytest.mark.parametrize(("marked", "alien"), WITHOUT)
def test_not_offered(marked, alien, lookup):
    found = texts(marked, lookup)
    assert found
    assert alien not in found


@pytest.mark.parametrize(("marked", "expected"), KINDS)
def test_kinds(marked, expected):
    text, cursor = at_cursor(marked)
    assert [type(s).__name__ for s in suggest(text, cursor).suggestions] == expected.split()


def test_the_table_is_long_enough():
    assert len(FIRST) + len(NOTHING) + len(WITHOUT) + len(KINDS) >= 200


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("SELECT * FROM ord|", "SELECT * FROM sales.orders"),
        ("SELECT * FROM sales.or| o", "SELECT * FROM sales.orders o"),
        ("SELECT * FROM sls.or| o", "SELECT * FROM sales.orders o"),
        ('SELECT * FROM "sales"."or|" o', 'SELECT * FROM "sales"."orders" o'),
        ('SELECT "sh|" FROM sales.orders', 'SELECT "Ship To" FROM sales.orders'),
        (f"SELECT * FROM {LEFT} JOIN {RIGHT} ON o.cu|", f"SELECT * FROM {LEFT} JOIN {RIGHT} ON {EQUAL}"),
        ("SELECT * FROM 'data/2|'", "SELECT * FROM 'data/2026/'"),
        (".describe ord|", ".describe sales.orders"),
        (".explain FROM ord|", ".explain FROM sales.orders"),
        ("SELECT concat('é', em| FROM crm.customers", "SELECT concat('é', email FROM crm.customers"),
        ("-- ü\nSELECT * FROM ord| -- é", "-- ü\nSELECT * FROM sales.orders -- é"),
    ],
)
def test_a_candidate_takes_the_place_of_what_is_typed(marked, expected, lookup):
    assert accepted(marked, lookup) == expected


def test_every_cut_of_a_statement_can_be_completed(lookup):
    text = (
        "WITH r AS (SELECT o.order_id, sum(amount) AS total FROM sales.orders o /* c */ GROUP BY ALL)\n"
        "SELECT r.*, \"c\".name, 'it''s' -- why\nFROM r JOIN crm.customers c ON (r.order_id = c.customer_id)\n"
        "WHERE c.email LIKE $1 AND r.total::INT > [1, 2][1] ORDER BY 1; COPY t TO 'x' (FORMAT csv)"
    )
    for cut in range(len(text) + 1):
        candidates(text[:cut], cut, lookup)
        candidates(text, cut, lookup)
        candidates(text[cut:], 0, lookup)


# --- side text ------------------------------------------------------------------------------------


def side(marked, text, lookup):
    return next(c.meta for c in complete(marked, lookup) if c.text == text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sales.orders", "delta · s3 · 2 h ago"),
        ("sales.returns", "delta · s3 · within 24 h"),
        ("sales.back_orders", "delta · s3"),
        ("crm.customers", "parquet · azure"),
        ("web.sessions", "iceberg · gcs"),
        ("web.old_sessions", "iceberg · gcs · deprecated"),
    ],
)
def test_products_tell_format_cloud_and_freshness(name, expected, lookup):
    assert side("SELECT * FROM |", name, lookup) == expected


def test_columns_tell_type_and_contract(lookup):
    assert side("SELECT | FROM sales.orders", "order_id", lookup) == "integer · key · Number of the order"
    marked = "SELECT | FROM sales.orders o, crm.customers c"
    assert side(marked, "email", lookup) == "c · string"


def test_a_condition_tells_why(lookup):
    found = {c.text: c.meta for c in complete(f"SELECT * FROM {LEFT} JOIN {RIGHT} ON |", lookup)}
    assert found[EQUAL] == "relationship"
    assert found["o.status = c.status"] == "same name"


def test_a_reference_means_its_own_domain_first(lookup):
    rival = product("old.orders", "delta", "aws", [element("order_id", "integer")])
    held = {**CATALOG.products, rival.name: rival}
    catalog = Catalog(root=".", digest="", connections=CONNECTIONS, products=held)
    found = texts("SELECT * FROM sales.returns r JOIN |", Lookup(Metadata(catalog)))
    assert [t for t in found if " ON " in t] == ["sales.orders o ON r.order_id = o.order_id"]
    found = texts("SELECT * FROM old.orders o JOIN |", Lookup(Metadata(catalog)))
    assert [t for t in found if " ON " in t] == []


def test_secrets_are_not_shown(lookup):
    found = complete("SET http_proxy_pass|", lookup)
    assert found
    assert all("·" not in c.meta for c in found)


# --- matching -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("sales.orders", "SAL", 0),
        ("sales.orders", "ord", 1),
        ("sales.back_orders", "ord", 1),
        ("GROUP BY", "by", 1),
        ("sales.orders", "slo", 2),
        ("sales.orders", "rs", 2),
        ("sales.orders", "e", None),
        ("sales.orders", "x", None),
        ("a^b]c", "^]", 2),
        ("sales.orders", "", 0),
    ],
)
def test_grades(name, typed, expected):
    rank = grade(name, typed)
    assert (rank and rank[0]) == expected
    assert {n: r[0] for r, n in Index([name, "zzz"]).search(typed, 9) if n == name} == (
        {} if expected is None else {name: expected}
    )


def test_matches_come_by_grade_then_tightness(lookup):
    names = ["sales.orders", "old.sales", "s.a_l", "some.areal"]
    found = sorted(Index(names).search("sal", 10))
    assert [n for _, n in found] == ["sales.orders", "old.sales", "s.a_l", "some.areal"]


def test_what_is_used_comes_first(metadata):
    usage = Usage()
    lookup = Lookup(metadata, usage, COMMANDS, files)
    assert texts("SELECT * FROM sal|", lookup)[0] == "sales.back_orders"
    usage.add("SELECT r.reason FROM sales.returns r", 'SELECT 1 FROM "sales".returns')
    assert texts("SELECT * FROM sal|", lookup)[0] == "sales.returns"
    assert texts("SELECT * FROM sales.|", lookup)[0] == "returns"
    assert texts("SELECT | FROM sales.returns", lookup)[0] == "reason"


def test_use_does_not_outweigh_a_better_match(metadata):
    usage = Usage()
    usage.add(*["SELECT * FROM sales.returns"] * 50)
    assert texts("SELECT * FROM cr|", Lookup(metadata, usage))[0] == "crm.customers"


def test_usage_counts_whole_names_and_their_last_word():
    usage = Usage()
    usage.add("SELECT o.amount FROM sales.orders o -- crm.customers")
    assert usage.of("sales.orders") == usage.of("ORDERS") == usage.of("amount") == 1
    assert usage.of("crm.customers") == usage.of("sales") == 0


def test_many_matches_are_cut(lookup):
    assert len(complete("SELECT a| FROM sales.orders", lookup)) <= 200


def test_a_used_name_is_offered_among_many():
    catalog = Catalog(root=".", digest="", products={f"d.t{i:04}": PRODUCTS[4] for i in range(1_000)})
    usage = Usage()
    usage.add("FROM d.t0999")
    assert texts("FROM d|", Lookup(Metadata(catalog), usage))[0] == "d.t0999"


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b", [("name", "a"), ("operator", "."), ("name", "b")]),
        ('"a""b" "', [("name", 'a"b'), ("name", "")]),
        ("é 'ü' x", [("name", "é"), ("string", "'ü'"), ("name", "x")]),
        ("1.5e-3 $x ?", [("number", "1.5e-3"), ("operator", "$x"), ("operator", "?")]),
        ("a -- b\nc", [("name", "a"), ("comment", "-- b"), ("name", "c")]),
        ("a /* b /* c */ */ d", [("name", "a"), ("comment", "/* b /* c */ */"), ("name", "d")]),
        ("a /* b", [("name", "a"), ("comment", "/* b")]),
        ("a $$ b", [("name", "a"), ("string", "$$ b")]),
        ('a "" b', [("name", "a"), ("name", ""), ("name", "b")]),
        ("a\0b", [("name", "a"), ("name", "b")]),
        ("\ud800 a", [("name", "a")]),
        ("x::int", [("name", "x"), ("operator", "::"), ("keyword", "int")]),
    ],
)
def test_tokens(text, expected):
    assert [(t.kind, t.value) for t in read(text)] == expected


def test_only_the_surroundings_of_a_long_text_are_read(lookup):
    text = "SELECT 1;\n" * 20_000
    started = time.perf_counter()
    found = candidates(text + "SELECT em FROM crm.customers" + ";\n" + text, len(text) + 9, lookup)
    assert found[0].text == "email"
    assert time.perf_counter() - started < 5


# --- snapshots ------------------------------------------------------------------------------------


def press(completer, marked, *, asked=True):
    text, cursor = at_cursor(marked)
    event = CompleteEvent(completion_requested=asked, text_inserted=not asked)
    return [c.text for c in completer.get_completions(Document(text, cursor), event)]


@pytest.fixture
def refreshers():
    made = []

    def make(*args, **options):
        made.append(Refresher(*args, **options))
        return made[-1]

    yield make
    for refresher in made:
        refresher.close()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_the_prompt_is_there_before_the_catalog(refreshers):
    gate = threading.Event()

    def slow():
        gate.wait(20)
        return CATALOG

    refresher = refreshers(slow)
    completer = SqlCompleter(refresher)
    refresher.refresh()
    assert press(completer, "SELECT * FROM |") == []
    assert press(completer, "SEL|") == ["SELECT"]
    gate.set()
    assert refresher.wait(20)
    assert "sales.orders" in press(completer, "SELECT * FROM |")


def test_a_snapshot_is_swapped_in_whole(refreshers):
    refresher = refreshers(lambda: CATALOG)
    before = refresher.metadata
    refresher.refresh()
    refresher.wait(20)
    assert before.product("sales.orders") is None
    assert refresher.metadata.product("Sales.Orders").name == "sales.orders"
    assert "columns" in refresher.metadata.__dict__


def test_a_refresh_while_one_runs_runs_once_more(refreshers):
    gate, builds = threading.Event(), []

    def catalog():
        builds.append(1)
        gate.wait(20)
        return CATALOG

    refresher = refreshers(catalog)
    for _ in range(5):
        refresher.refresh()
    until(lambda: builds)
    refresher.refresh()
    gate.set()
    assert refresher.wait(20)
    assert len(builds) == 2


def test_a_catalog_that_breaks_leaves_the_last_snapshot(refreshers):
    answers = [CATALOG]
    refresher = refreshers(lambda: answers.pop())
    for _ in range(2):
        refresher.refresh()
        assert refresher.wait(20)
    assert refresher.metadata.product("sales.orders")


def test_unknown_columns_come_later_and_never_delay(refreshers):
    gate, asked = threading.Event(), []

    def columns_of(name):
        asked.append(name)
        gate.wait(20)
        return [("session_id", "UUID"), ("started_at", "TIMESTAMP")]

    refresher = refreshers(lambda: CATALOG, columns_of=columns_of)
    refresher.refresh()
    refresher.wait(20)
    completer = SqlCompleter(refresher)
    started = time.perf_counter()
    assert press(completer, "SELECT s.| FROM web.sessions s") == []
    assert press(completer, "SELECT s.| FROM web.sessions s") == []
    assert time.perf_counter() - started < 5
    gate.set()
    until(lambda: press(completer, "SELECT s.| FROM web.sessions s") == ["session_id", "started_at"])
    assert asked == ["web.sessions"]


def test_a_refresh_asks_the_stores_anew(refreshers):
    answers = [[("a", "INT"), ("b", "INT")], [("a", "INT")]]
    refresher = refreshers(lambda: CATALOG, columns_of=lambda name: answers.pop())
    refresher.refresh()
    refresher.wait(20)
    refresher.want(["web.sessions"])
    until(lambda: refresher.metadata.columns_of("web.sessions") == (Column("a", "INT"),))
    refresher.refresh()
    until(lambda: len(refresher.metadata.columns_of("web.sessions")) == 2)


def test_an_engine_that_cannot_be_asked_leaves_what_it_offered(refreshers):
    def ask(query):
        raise duckdb.Error("gone")

    refresher = refreshers(lambda: CATALOG, ask=ask)
    refresher.refresh()
    refresher.wait(20)
    assert press(SqlCompleter(refresher), "SELECT date_tr|") == ["date_trunc("]


def test_columns_that_are_not_to_be_had_are_asked_once(refreshers):
    asked = []

    def columns_of(name):
        asked.append(name)
        raise OSError("no network")

    refresher = refreshers(lambda: CATALOG, columns_of=columns_of)
    refresher.refresh()
    refresher.wait(20)
    for _ in range(3):
        refresher.want(["web.sessions"])
    until(lambda: asked)
    refresher.want(["web.sessions", "WEB.SESSIONS"])
    assert asked == ["web.sessions"]


def test_what_was_learned_outlives_a_refresh(refreshers):
    changes = []
    refresher = refreshers(lambda: CATALOG, on_change=lambda: changes.append(1))
    refresher.learn("crm.customers", [("customer_id", "BIGINT"), ("added", "DATE")])
    refresher.refresh()
    refresher.wait(20)
    refresher.learn("crm.customers", changed_at=datetime.now(UTC) - timedelta(days=3))
    columns = refresher.metadata.columns_of("crm.customers")
    assert columns == (Column("customer_id", "BIGINT", key=True), Column("added", "DATE"))
    assert refresher.metadata.side(CATALOG.product("crm.customers")) == "parquet · azure · 3 d ago"
    assert len(changes) == 3


def test_tables_of_the_session_are_offered(refreshers):
    with duckdb.connect() as connection:
        connection.execute("CREATE TEMP TABLE mine AS SELECT 1 AS a, 2 AS b")
        refresher = refreshers(lambda: CATALOG, ask=lambda query: connection.execute(query).fetchall())
        refresher.refresh()
        refresher.wait(20)
    completer = SqlCompleter(refresher)
    assert press(completer, "SELECT * FROM mi|")[0] == "mine"
    assert press(completer, "SELECT | FROM mine")[:2] == ["a", "b"]


def test_unknown_products_are_those_in_sight(metadata):
    text = "SELECT  FROM web.sessions, sales.orders, nowhere.x, (SELECT * FROM web.sessions) q"
    assert unknown_products(suggest(text, 7), metadata) == ["web.sessions"]


def test_a_menu_opens_by_itself_only_where_it_helps(refreshers):
    refresher = refreshers(lambda: CATALOG)
    refresher.refresh()
    refresher.wait(20)
    completer = SqlCompleter(refresher, commands=COMMANDS)
    assert press(completer, "SELECT * FROM |", asked=False)
    assert press(completer, "SELECT o.| FROM sales.orders o", asked=False)
    assert press(completer, "SELECT * FROM sales.orders |", asked=False) == []
    assert press(completer, "|", asked=False) == []
    assert press(completer, "SELECT * FROM sales.orders |", asked=True)


def test_paths_are_listed(tmp_path):
    (tmp_path / "a.parquet").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "sub").mkdir()
    assert listed(f"{tmp_path}/") == ["a.parquet", "sub/"]
    assert listed(f"{tmp_path}/.") == [".hidden", "a.parquet", "sub/"]
    assert listed(f"{tmp_path}/none/") == []
    assert listed("s3://bucket/") == []
