"""Plans: never less than what is read, and exact where DuckDB tells what it leaves out."""

from __future__ import annotations

import json

import pytest

import meshql
from meshql.errors import QueryError


@pytest.fixture(scope="module")
def mesh(retail):
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        yield mesh


@pytest.fixture
def plan(mesh):
    """A function that returns the plan of a statement."""

    def plan(text, params=None):
        session = mesh.session()
        try:
            (statement,) = session.parse(text)
            return session.plan(statement, params)
        finally:
            session.close()

    return plan


def files(plan):
    return {read.product: (read.files, read.files_total) for read in plan.reads}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT count(*) FROM sales.orders WHERE year = 2026 AND month = 3", {"sales.orders": (1, 24)}),
        ("SELECT order_id FROM sales.orders WHERE order_id < 10", {"sales.orders": (1, 24)}),
        ("FROM sales.orders", {"sales.orders": (24, 24)}),
        ("FROM inventory.stock WHERE warehouse = 'New York'", {"inventory.stock": (1, 5)}),
        ("FROM web.sessions WHERE month > 10", {"web.sessions": (2, 12)}),
        ("FROM web.sessions WHERE month > 13", {"web.sessions": (0, 12)}),
        (
            "FROM logistics.shipments WHERE shipped_at >= '2026-03-01' AND shipped_at < '2026-04-01'",
            {"logistics.shipments": (1, 25)},
        ),
        ("FROM logistics.shipments WHERE shipped_at < '2020-01-01'", {"logistics.shipments": (0, 25)}),
        ("FROM crm.customers WHERE country = 'DE'", {"crm.customers": (1, 1)}),
        ("FROM marketing.campaigns", {"marketing.campaigns": (1, 1)}),
        ("SELECT customer.language FROM support.tickets", {"support.tickets": (1, 1)}),
        ("FROM sales.orders WHERE 1 = 0", {"sales.orders": (0, 24)}),
        ("DESCRIBE sales.orders", {"sales.orders": (0, 24)}),
        ("EXPLAIN FROM sales.orders", {"sales.orders": (0, 24)}),
        ("EXPLAIN ANALYZE FROM sales.orders WHERE year = 2026 AND month = 3", {"sales.orders": (1, 24)}),
        ("SELECT 42", {}),
        ("SET threads = 1", {}),
    ],
)
def test_the_files_that_filters_leave(plan, text, expected):
    assert files(plan(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "FROM sales.orders WHERE year = 2026 AND month = 3",
        "FROM sales.orders WHERE year = 2025 OR month = 3",
        "SELECT sum(amount) FROM sales.orders WHERE ordered_at >= '2026-11-01'",
        "FROM inventory.stock WHERE warehouse IN ('Lisbon', 'Madrid') AND product_id < 100",
        "FROM web.sessions WHERE month IN (2, 3) AND device = 'phone'",
        "FROM logistics.shipments WHERE shipped_at >= '2026-03-01' AND carrier <> 'x'",
        "FROM sales.orders JOIN merchandising.products USING (product_id) WHERE month = 1",
        "SELECT count(*) FROM logistics.shipments JOIN merchandising.products ON order_id = product_id",
        "FROM sales.orders a JOIN sales.orders b USING (order_id) WHERE a.month = 1 AND b.month = 2",
    ],
)
def test_a_plan_never_promises_less_than_what_is_read(mesh, plan, text):
    planned = {read.product: read for read in plan(text).reads}
    with mesh.sql(text) as result:
        result.fetchall()
    for read in result.receipt.reads:
        assert planned[read.product].files >= read.files


def test_bytes_are_those_of_the_very_partition(plan, retail):
    folder = retail.folder / "s3" / "prod-bucket"
    (file,) = (folder / "sales" / "orders" / "year=2026" / "month=3").glob("*.parquet")
    found = plan("SELECT count(*) FROM sales.orders WHERE year = 2026 AND month = 3")
    assert found.bytes == file.stat().st_size
    (read,) = found.reads
    assert read.bytes_total > 10 * read.bytes
    (file,) = (folder / "web" / "sessions").glob("year=2026/month=2/*.parquet")
    assert plan("FROM web.sessions WHERE month = 2").bytes == file.stat().st_size


def test_what_reaches_the_scan(plan):
    (read,) = plan("SELECT order_id, amount FROM sales.orders WHERE month = $m", {"m": 3}).reads
    assert (read.columns, read.filters, read.scans) == (("order_id", "amount"), ("month=3",), 1)
    assert (read.cloud, read.region, read.format) == ("s3", "eu-west-1", "delta")
    assert read.rows > 0
    (read,) = plan("FROM sales.orders a JOIN sales.orders b USING (order_id) WHERE a.month = 1").reads
    assert read.scans == 2
    assert read.bytes > read.bytes_total


def test_a_scan_that_may_be_of_two_products_counts_for_both(plan):
    text = "SELECT count(*) FROM logistics.shipments, merchandising.products"
    assert files(plan(text)) == {"logistics.shipments": (25, 25), "merchandising.products": (1, 1)}
    told_apart = "SELECT carrier, brand FROM logistics.shipments, merchandising.products"
    assert [read.scans for read in plan(told_apart).reads] == [1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE x AS FROM sales.orders WHERE year = 2026 AND month = 3",
        "COPY (FROM sales.orders WHERE year = 2026 AND month = 3) TO 'never.csv'",
    ],
)
def test_what_writes_is_planned_and_not_done(plan, mesh, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files(plan(text)) == {"sales.orders": (1, 24)}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(QueryError):
        mesh.sql("FROM x")


def test_a_pivot_that_has_to_read_first_is_not_run(plan):
    found = plan("PIVOT sales.orders ON channel USING sum(amount)")
    assert found.bytes is None
    assert "PIVOT" in found.unplanned
    assert "24 of 24 files  bytes unknown" in found.text()
    listed = plan("PIVOT sales.orders ON channel IN ('web') USING sum(amount) GROUP BY country")
    assert listed.unplanned is None


def test_a_plan_is_text_and_json(plan):
    found = plan("FROM crm.customers JOIN sales.orders USING (customer_id) WHERE year = 2026 AND month = 3")
    lines = found.text().splitlines()
    assert [line.split()[0] for line in lines] == ["crm.customers", "sales.orders", "total"]
    assert len({line.index("at most") for line in lines}) == 1
    told = json.loads(found.json())
    assert told["bytes"] == sum(read["bytes"] for read in told["reads"])
    assert plan("SELECT 1").text() == "reads no product"


def test_temporary_tables_of_the_session_are_seen(mesh):
    session = mesh.session()
    (create,) = session.parse("CREATE TEMP TABLE few AS SELECT 1 AS order_id")
    session.run(create).close()
    (statement,) = session.parse("FROM sales.orders SEMI JOIN few USING (order_id)")
    assert files(session.plan(statement)) == {"sales.orders": (24, 24)}
    session.close()


def test_an_error_of_the_statement_has_its_line(plan):
    with pytest.raises(QueryError, match="LINE 2:   nope"):
        plan("SELECT\n  nope FROM sales.orders")
