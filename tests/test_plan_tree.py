"""Plans as trees: what is told of operators and scans, and how it is drawn."""

from __future__ import annotations

import re
import threading

import duckdb
import pytest
import yaml
from deltalake import write_deltalake

import meshql
from meshql.errors import DeadlineError, InterruptedQueryError, QueryError, UsageError
from meshql.output.visible import width_of
from meshql.query.profile import Operator, Scan
from meshql.shell.plan_tree import draw

THREE_CLOUDS = """
SELECT p.category, count(*) AS orders, sum(o.amount) AS revenue
FROM sales.orders o
JOIN merchandising.products p USING (product_id)
JOIN crm.customers c USING (customer_id)
WHERE o.year = 2025 AND o.month = 3
GROUP BY ALL ORDER BY revenue DESC LIMIT 5
"""

QUERIES = {
    "three clouds": THREE_CLOUDS,
    "window": "SELECT *, rank() OVER (PARTITION BY channel ORDER BY n DESC) FROM"
    " (SELECT channel, month, count(*) AS n FROM sales.orders GROUP BY ALL) ORDER BY ALL",
    "union": "SELECT count(*) FROM support.tickets UNION ALL SELECT count(*) FROM marketing.campaigns"
    " UNION ALL SELECT count(*) FROM web.sessions WHERE month = 2",
    "correlated": "SELECT country FROM crm.customers c WHERE NOT EXISTS"
    " (FROM sales.orders o WHERE o.customer_id = c.customer_id AND o.amount > 500)",
    "with": "WITH m AS MATERIALIZED (SELECT customer_id, sum(amount) AS s FROM sales.orders GROUP BY 1)"
    " SELECT * FROM m WHERE s > (SELECT 3 * avg(s) FROM m) ORDER BY 2 DESC LIMIT 3",
    "no files": "FROM sales.orders WHERE year = 1999",
    "left join": "SELECT * FROM merchandising.products p LEFT JOIN inventory.stock s"
    " ON p.product_id = s.product_id AND s.on_hand < 10",
    "no product": "SELECT * FROM range(10) t(i) JOIN (VALUES (1, 2)) v(a, b) ON i < a",
}


@pytest.fixture(scope="module")
def session(retail):
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        yield mesh.session()


@pytest.fixture
def local(tmp_path):
    """A function that opens a session over local tables: name to (folder or file, format)."""
    opened = []

    def make(receipts=True, **tables):
        products = [
            {"name": f"local.{name}", "location": str(tmp_path / location), "format": format_}
            for name, (location, format_) in tables.items()
        ]
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"meshql": 1, "products": products}))
        opened.append(meshql.connect(tmp_path / "catalog.yaml", receipts=receipts))
        return opened[-1].session()

    yield make
    for mesh in opened:
        mesh.close()


def explain(session, text, params=None, **options):
    (statement,) = session.parse(text)
    return session.explain(statement, params, **options)


def scans(operator):
    return {step.scan.product: step.scan for step in operator.walk() if step.scan}


def names(operator):
    return [step.name for step in operator.walk()]


def test_scans_tell_files_bytes_and_clouds(retail):
    with meshql.connect(retail.catalog, receipts=True) as mesh:
        found = scans(explain(mesh.session(), THREE_CLOUDS))
    orders = found["sales.orders"]
    assert (orders.format, orders.cloud, orders.files, orders.files_total) == ("delta", "s3", 1, 24)
    assert {s.cloud for s in found.values()} == {"s3", "gcs", "azure"}
    assert all(s.bytes > 0 and s.requests > 0 for s in found.values())


def test_operators_tell_rows_time_and_share(session):
    tree = explain(session, THREE_CLOUDS)
    steps = list(tree.walk())[1:]
    assert (tree.name, tree.rows) == ("result", 5)
    assert tree.seconds > 0
    assert names(tree)[1:3] == ["top 5", "group by"]
    assert names(tree).count("inner join") == 2
    assert sum(step.share for step in steps) == pytest.approx(1)
    assert sum(step.seconds for step in steps) > 0
    rows = {step.name: step.rows for step in steps if step.scan}
    (counted,) = session.run(
        *session.parse("SELECT count(*) FROM sales.orders WHERE year = 2025 AND month = 3")
    ).fetchall()[0]
    assert rows["sales.orders"] == counted


def test_details_are_conditions_aggregates_and_filters(session):
    details = {step.name: step.details for step in explain(session, THREE_CLOUDS).walk()}
    assert details["group by"] == ("category → count(*), sum(amount)",)
    assert details["inner join"] in {("on product_id",), ("on customer_id",)}
    assert details["sales.orders"][0] == "year=2025 AND month=3"
    assert details["top 5"] == ("by sum(o.amount) DESC",)


def test_a_plan_that_did_not_run_has_estimates_only(session):
    tree = explain(session, THREE_CLOUDS, analyze=False)
    steps = list(tree.walk())
    assert tree.name == "plan"
    assert {step.rows for step in steps} == {step.seconds for step in steps} == {None}
    assert any(step.estimated_rows for step in steps)
    found = scans(tree)
    assert set(found) == {"sales.orders", "merchandising.products", "crm.customers"}
    assert (found["sales.orders"].files, found["sales.orders"].files_total) == (1, 24)
    assert {s.bytes for s in found.values()} == {None}
    assert "not run: rows are estimates" in draw(tree, 100)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("analyze", [True, False])
def test_trees_fit_and_hold_no_internal_names(session, query, analyze):
    tree = explain(session, QUERIES[query], analyze=analyze)
    for width in (40, 60, 80, 100, 160):
        plain = draw(tree, width)
        assert max(map(width_of, plain.split("\n"))) <= width
        assert "\x1b" not in plain
        assert re.sub(r"\x1b\[\d+m", "", draw(tree, width, colour=True)) == plain
    assert not re.search(r"~[0-9a-f]{8}|_scan|__internal|SCAN|read_parquet|#\d", draw(tree, 300))


def test_a_scan_is_one_line_where_there_is_room(session):
    lines = draw(explain(session, THREE_CLOUDS), 140).split("\n")
    (line,) = (one for one in lines if "sales.orders" in one)
    assert re.search(r"[├└]─ sales\.orders  delta@7 s3 eu-west-1  1 of 24 files  (\d[\d.]* kB|cached) ", line)
    assert "year=2025 AND month=3" in lines[lines.index(line) + 1]
    assert re.search(r"5 rows in .+ · (.+ kB in )?\d+ requests", lines[-1])


def test_a_product_read_twice_counts_its_bytes_once(session):
    tree = explain(session, "FROM inventory.stock a JOIN inventory.stock b USING (product_id)")
    told = [step.scan.bytes for step in tree.walk() if step.scan]
    assert len(told) == 2
    assert told.count(None) == 1


def test_with_queries_keep_their_names(session):
    told = names(explain(session, QUERIES["with"]))
    assert "with m" in told
    assert "rows of m" in told


def test_scans_of_a_plan_are_told_apart_by_files_and_columns(local, tmp_path):
    for name, column in (("a", "x"), ("b", "y"), ("c", "y")):
        duckdb.sql(f"SELECT range AS {column} FROM range(5)").write_parquet(str(tmp_path / f"{name}.parquet"))
    session = local(**{n: (f"{n}.parquet", "parquet") for n in "abc"})
    tree = explain(session, "FROM local.a, local.b WHERE x = y", analyze=False)
    assert set(scans(tree)) == {"local.a", "local.b"}
    by_filter = explain(session, "SELECT 1 FROM local.a, local.b WHERE x > 2 AND y > 1", analyze=False)
    assert set(scans(by_filter)) == {"local.a", "local.b"}
    alike = explain(session, "SELECT b.y FROM local.b JOIN local.c USING (y)", analyze=False)
    assert set(scans(alike)) == {"local.b or local.c"}
    assert set(scans(explain(session, "SELECT b.y FROM local.b JOIN local.c USING (y)"))) == {
        "local.b",
        "local.c",
    }


def test_what_takes_long_is_not_folded_away(session):
    tree = explain(session, "SELECT max(h) FROM (SELECT sha256(range::VARCHAR) AS h FROM range(200000))")
    (compute,) = (step for step in tree.walk() if step.name == "compute")
    assert compute.details[0].startswith("h")
    assert compute.share > 0.5


@pytest.mark.parametrize("receipts", [True, False])
def test_each_statement_sees_the_newest_version(local, tmp_path, receipts):
    table = duckdb.sql("SELECT range AS x FROM range(10)").to_arrow_table()
    write_deltalake(tmp_path / "t", table)
    session = local(receipts, t=("t", "delta"))
    before = explain(session, "FROM local.t")
    write_deltalake(tmp_path / "t", table, mode="append")
    after = explain(session, "FROM local.t")
    assert [(t.rows, scans(t)["local.t"].version) for t in (before, after)] == [(10, "0"), (20, "1")]
    assert "local.t  delta@1  2 files" in draw(after, 100)


def test_a_statement_that_writes_is_measured_too(local, tmp_path):
    duckdb.sql("SELECT range AS x FROM range(10)").write_parquet(str(tmp_path / "t.parquet"))
    session = local(t=("t.parquet", "parquet"))
    tree = explain(session, "CREATE TEMP TABLE copied AS SELECT x + 1 AS y FROM local.t")
    assert names(tree) == ["result", "create table", "local.t"]
    result = session.run(*session.parse("CREATE TEMP TABLE again AS FROM local.t"))
    assert [(r.product, r.files, r.rows) for r in result.receipt.reads] == [("local.t", 1, 10)]


def test_parameters_are_bound(session):
    text = "SELECT count(*) FROM sales.orders WHERE year = $year AND month = $month"
    for analyze in (True, False):
        tree = explain(session, text, {"year": 2025, "month": 3}, analyze=analyze)
        assert scans(tree)["sales.orders"].files == 1
    with pytest.raises(QueryError, match=r"no value for parameter \$month"):
        explain(session, text, {"year": 2025})


def test_a_statement_without_operators_says_so(session):
    assert "nothing was scanned" in draw(explain(session, "SET threads = 2"), 80)


def test_a_plan_of_a_pivot_takes_its_values(session):
    pivot = "PIVOT (SELECT channel, month, amount FROM sales.orders WHERE year = 2025) ON channel {} USING sum(amount)"
    assert scans(explain(session, pivot.format("")))["sales.orders"].files == 12
    with pytest.raises(QueryError, match="only when it runs it"):
        explain(session, pivot.format(""), analyze=False)
    tree = explain(session, pivot.format("IN ('web', 'app')"), analyze=False)
    assert scans(tree)["sales.orders"].files == 12


def test_a_scan_that_a_limit_ended_counts_no_files(session):
    (scan,) = scans(explain(session, "FROM sales.orders LIMIT 3")).values()
    assert scan.files != 0


def test_an_explain_is_refused(session):
    with pytest.raises(UsageError, match="an EXPLAIN already"):
        explain(session, "EXPLAIN SELECT 1")


def test_errors_name_the_line_of_the_text(session):
    _, statement = session.parse("SELECT 1;\n\nSELECT\n  nothing FROM crm.customers")
    for analyze in (True, False):
        with pytest.raises(QueryError, match="LINE 4:   nothing"):
            session.explain(statement, analyze=analyze)


def test_the_deadline_and_an_interrupt_end_it(session):
    endless = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    with pytest.raises(DeadlineError):
        explain(session, endless, timeout=0.2)
    timer = threading.Timer(0.3, session.interrupt)
    timer.start()
    with pytest.raises(InterruptedQueryError):
        explain(session, endless)
    timer.join()
    assert explain(session, "SELECT 1").rows == 1


def test_text_cannot_move_the_cursor(session):
    tree = explain(
        session, "SELECT 1 + range AS \"a\" FROM range(3) WHERE range <> 7 AND range::VARCHAR <> '\x1b[2J'"
    )
    assert "\x1b" not in draw(tree, 100)
    assert "\\x1b[2J" in draw(tree, 200)


def test_a_deep_tree_keeps_its_numbers():
    tree = Operator("leaf", rows=7, seconds=0.5, share=0.5)
    for _ in range(60):
        tree = Operator("filter", ("a > 1",), rows=9, seconds=0.0, share=0.0, children=(tree,))
    lines = draw(tree, 80).split("\n")
    assert max(map(width_of, lines)) <= 80
    (leaf,) = (line for line in lines if "leaf" in line)
    assert re.search(r"…[ └─]+leaf +7 +500 ms$", leaf)


def test_a_tree_is_drawn_like_this():
    orders = Scan("sales.orders", "delta", "7", "s3", "eu-west-1", 1, 24, 36_000, 5)
    customers = Scan("crm.customers", "parquet", "ad30963dc59c", "azure", None, 1, 1, 0, 2)
    tree = Operator(
        "result",
        rows=12,
        seconds=0.25,
        children=(
            Operator(
                "inner join",
                ("on customer_id",),
                rows=31_480,
                seconds=0.012,
                share=0.25,
                children=(
                    Operator("sales.orders", ("year=2025",), 32_110, None, 0.036, 0.75, orders),
                    Operator("crm.customers", (), 50_000, None, 0.000_01, 0.0, customers),
                ),
            ),
        ),
    )
    assert draw(tree, 100) == (
        "                                                                         rows    time  share\n"
        "inner join  on customer_id                                             31,480   12 ms  ██        25%\n"
        "├─ sales.orders  delta@7 s3 eu-west-1  1 of 24 files  36.0 kB          32,110   36 ms  ██████    75%\n"
        "│     year=2025\n"
        "└─ crm.customers  parquet azure  1 of 1 file  cached                   50,000   10 µs\n"
        "\n"
        "12 rows in 250 ms · 36.0 kB in 7 requests · times add up over threads"
    )
