"""Every place where SQL allows a table takes a product's name, and gives what DuckDB by hand gives."""

from __future__ import annotations

import pytest

import meshql
from meshql.errors import QueryError

PRODUCTS = (
    "sales.orders",
    "merchandising.products",
    "crm.customers",
    "logistics.shipments",
    "inventory.stock",
    "web.sessions",
    "marketing.campaigns",
    "support.tickets",
)

SELECTS = {
    "plain": "SELECT count(*), sum(amount) FROM {sales.orders}",
    "from first": "FROM {crm.customers} SELECT count(*), min(name)",
    "alias": "SELECT o.channel, count(*) FROM {sales.orders} AS o GROUP BY ALL",
    "join": """SELECT c.segment, sum(o.amount) FROM {sales.orders} o
               JOIN {crm.customers} c ON c.customer_id = o.customer_id GROUP BY ALL""",
    "three clouds": """SELECT p.category, c.country, count(*), sum(o.amount) FROM {sales.orders} o
                       JOIN {merchandising.products} p USING (product_id)
                       JOIN {crm.customers} c USING (customer_id) GROUP BY ALL""",
    "subquery": "SELECT count(*) FROM {sales.orders} WHERE customer_id IN"
    " (SELECT customer_id FROM {crm.customers} WHERE segment = 'corporate')",
    "scalar subquery": "SELECT (SELECT max(amount) FROM {sales.orders}) FROM range(2)",
    "correlated": "SELECT count(*) FROM {crm.customers} c WHERE EXISTS"
    " (FROM {sales.orders} o WHERE o.customer_id = c.customer_id AND o.amount > 900)",
    "cte": "WITH big AS (FROM {sales.orders} WHERE amount > 500) SELECT count(*) FROM big",
    "cte of the domain's name": "WITH sales AS (SELECT channel AS orders FROM {sales.orders})"
    " SELECT sales.orders, count(*) FROM sales GROUP BY ALL",
    "recursive": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3)"
    " SELECT i, (SELECT count(*) FROM {crm.customers}) FROM n",
    "union": "SELECT 'o' k, count(*) FROM {sales.orders} UNION ALL SELECT 'c', count(*) FROM {crm.customers}",
    "except": "SELECT customer_id FROM {crm.customers} EXCEPT SELECT customer_id FROM {sales.orders}",
    "self join": "SELECT count(*) FROM {merchandising.products} a JOIN {merchandising.products} b USING (product_id)",
    "lateral": "SELECT count(*) FROM {merchandising.products} p, LATERAL (SELECT p.product_id + 1 AS n)",
    "window": "SELECT channel, n FROM (SELECT channel, row_number() OVER (PARTITION BY channel) n"
    " FROM {sales.orders}) WHERE n <= 2",
    "qualify": "SELECT channel FROM {sales.orders} QUALIFY row_number() OVER (PARTITION BY channel) = 1",
    "pivot": "PIVOT (SELECT year, channel, amount FROM {sales.orders}) ON channel USING sum(amount) GROUP BY year",
    "pivot with values": "PIVOT (SELECT year, channel, amount FROM {sales.orders})"
    " ON channel IN ('web', 'store') USING sum(amount) GROUP BY year",
    "unpivot": "SELECT name, sum(value) FROM (UNPIVOT (SELECT on_hand, reserved FROM {inventory.stock})"
    " ON on_hand, reserved INTO NAME name VALUE value) GROUP BY ALL",
    "describe": "DESCRIBE SELECT * FROM {logistics.shipments}",
    "summarize": "SELECT column_name, min, max, count FROM (SUMMARIZE SELECT * FROM {merchandising.products})",
    "describe in from": "SELECT column_name FROM (DESCRIBE SELECT * FROM {web.sessions})",
    "hive partitions": "SELECT year, month, count(*) FROM {web.sessions} GROUP BY ALL",
    "csv": "SELECT * FROM {marketing.campaigns}",
    "json": "SELECT count(*), min(ticket_id) FROM {support.tickets}",
    "row-level deletes": "SELECT count(*), sum(product_id) FROM {merchandising.products}",
    "in a function": "SELECT list_sum(list(amount)) FROM {sales.orders} WHERE month = 3",
}


@pytest.fixture(scope="module")
def mesh(retail):
    with meshql.connect(retail.catalog) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def by_hand(retail):
    return retail.duckdb_by_hand()


def filled(text, name_of):
    for product in PRODUCTS:
        text = text.replace("{" + product + "}", name_of(product))
    return text


def sorted_rows(rows):
    return sorted(rows, key=repr)


@pytest.mark.parametrize("case", SELECTS)
def test_a_name_works_wherever_a_table_does(mesh, by_hand, retail, case):
    expected = by_hand.execute(filled(SELECTS[case], retail.scan)).fetchall()
    for quoted in (str, lambda name: '"{}"."{}"'.format(*name.split("."))):
        assert sorted_rows(mesh.sql(filled(SELECTS[case], quoted)).fetchall()) == sorted_rows(expected)
    assert expected


def test_describe_and_summarize_take_the_bare_name(mesh, by_hand, retail):
    scan = retail.scan("crm.customers")
    assert (
        mesh.sql("DESCRIBE crm.customers").fetchall() == by_hand.execute(f"DESCRIBE FROM {scan}").fetchall()
    )
    assert [r[0] for r in mesh.sql("SUMMARIZE crm.customers").fetchall()] == [
        r[0] for r in by_hand.execute(f"SUMMARIZE FROM {scan}").fetchall()
    ]
    assert (
        len(mesh.sql("TABLE crm.customers").fetchall())
        == by_hand.execute(f"FROM {scan}").arrow().read_all().num_rows
    )


def test_a_column_may_be_qualified_with_the_whole_name(mesh):
    (row,) = mesh.sql("SELECT count(sales.orders.amount) FROM sales.orders").fetchall()
    assert row == (100_000,)


def test_names_have_no_case(mesh):
    assert mesh.sql('SELECT count(*) FROM SALES."Orders"').fetchall() == [(100_000,)]


def test_pivot_over_values_not_listed(mesh, by_hand, retail):
    expected = by_hand.execute(f"PIVOT {retail.scan('sales.orders')} ON channel USING count(*) GROUP BY year")
    found = mesh.sql("PIVOT sales.orders ON channel USING count(*) GROUP BY year")
    assert list(found.columns) == [d[0] for d in expected.description]
    assert sorted_rows(found.fetchall()) == sorted_rows(expected.fetchall())


def test_explain_and_explain_analyze(mesh):
    assert "DELTA_SCAN" in mesh.explain("SELECT count(*) FROM sales.orders")
    assert "Total Time" in mesh.explain("SELECT count(*) FROM crm.customers", analyze=True)


def test_copy_of_a_select_to_a_local_file(mesh, tmp_path):
    target = tmp_path / "web.csv"
    (row,) = mesh.sql(f"COPY (SELECT * FROM sales.orders WHERE month = 2) TO '{target}'").fetchall()
    assert len(target.read_text().splitlines()) == row[0] + 1 > 1


def test_copy_of_a_product_to_a_local_file(mesh, tmp_path):
    target = tmp_path / "campaigns.parquet"
    mesh.sql(f"COPY marketing.campaigns TO '{target}'")
    (row,) = mesh.sql(f"SELECT count(*) FROM '{target}'").fetchall()
    assert row == mesh.sql("SELECT count(*) FROM marketing.campaigns").fetchall()[0]


def test_a_session_keeps_tables_views_and_variables(mesh):
    session = mesh.session()
    text = """
        CREATE TEMP TABLE by_month AS SELECT month, sum(amount) AS amount FROM sales.orders GROUP BY month;
        INSERT INTO by_month SELECT 13, sum(amount) FROM sales.orders;
        CREATE TEMP VIEW customers AS FROM crm.customers WHERE segment = 'corporate';
        SET VARIABLE top = 3;
        SELECT count(*), (SELECT count(*) FROM customers) FROM by_month WHERE month > getvariable('top')
    """
    *_, last = [session.run(s) for s in session.parse(text)]
    corporate = mesh.sql("SELECT count(*) FROM crm.customers WHERE segment = 'corporate'").fetchall()[0][0]
    assert last.fetchall() == [(10, corporate)]


def test_a_users_transaction_holds(mesh):
    session = mesh.session()
    script = "BEGIN; CREATE TABLE kept AS FROM marketing.campaigns; ROLLBACK; FROM marketing.campaigns"
    for statement in session.parse(script):
        result = session.run(statement)
    assert result.fetchall()
    with pytest.raises(QueryError, match="kept"):
        mesh.sql("FROM kept")


def test_parameters_are_bound_never_pasted(mesh):
    text = "SELECT count(*) FROM sales.orders WHERE channel = $channel AND amount > $least"
    (row,) = mesh.sql(text, {"channel": "web", "least": 100}).fetchall()
    assert row[0] > 0
    assert mesh.sql(text, {"channel": "web' OR true --", "least": 0}).fetchall() == [(0,)]
    assert mesh.sql("SELECT ? + ?", [1, 2]).fetchall() == [(3,)]
    with pytest.raises(QueryError, match=r"no value for parameter \$least") as caught:
        mesh.sql(text, {"channel": "web"})
    assert "--param least=" in caught.value.hint


def test_sql_takes_one_statement(mesh):
    with pytest.raises(QueryError, match="holds 2"):
        mesh.sql("SELECT 1; SELECT 2")


def scans(plan):
    return [line for line in plan.splitlines() if "Files" in line or "Filter" in line]


def test_a_partition_filter_skips_delta_files(mesh):
    plan = mesh.explain("SELECT sum(amount) FROM sales.orders WHERE year = 2025 AND month = 3", analyze=True)
    assert "Scanning Files: 1/24" in plan, plan


def test_a_date_filter_skips_iceberg_files(retail):
    text = "SELECT count(*) FROM logistics.shipments"
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        few = mesh.sql(f"{text} WHERE shipped_at >= '2025-06-01' AND shipped_at < '2025-07-01'")
        assert few.fetchall()[0][0] > 0
        every = mesh.sql(f"{text} WHERE cost >= 0")
        every.fetchall()
    assert 0 < few.receipt.reads[0].files < every.receipt.reads[0].files


def test_only_the_columns_named_are_read(retail):
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        narrow = mesh.sql("SELECT sum(quantity) FROM sales.orders")
        narrow.fetchall()
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        wide = mesh.sql("SELECT * FROM sales.orders")
        wide.fetchall()
    assert narrow.receipt.reads[0].bytes < wide.receipt.reads[0].bytes / 2
    plan = "\n".join(mesh_line for mesh_line in [narrow.receipt.json()])
    assert "sales.orders" in plan
