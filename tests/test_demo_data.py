"""The retail data set, read with plain DuckDB and the formats' own libraries."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from clouds.fixtures import plain_duckdb

from meshql.catalog.load import check, load
from meshql.demo import retail as retail_data
from meshql.demo.progress import Quiet

PRODUCTS = {
    "sales.orders": 100_000,
    "merchandising.products": 1_960,
    "crm.customers": 5_000,
    "inventory.stock": 10_000,
    "web.sessions": 30_000,
    "marketing.campaigns": 48,
    "support.tickets": 500,
}

SEED_QUERY = """
    SELECT count(*), sum(amount) FROM {orders} AS sales
    JOIN {products} USING (product_id) JOIN {customers} USING (customer_id)
"""


@pytest.fixture(scope="module")
def con(retail):
    with retail.duckdb_by_hand() as con:
        yield con


def rows(con, sql):
    return con.sql(sql).fetchall()


@pytest.mark.parametrize(("product", "expected"), PRODUCTS.items())
def test_row_counts(retail, con, product, expected):
    assert rows(con, f"SELECT count(*) FROM {retail.scan(product)}") == [(expected,)]


def test_orders_have_one_file_a_month_and_a_commit_a_quarter(retail, con):
    from deltalake import DeltaTable

    table = DeltaTable(retail.folder / "s3/prod-bucket/sales/orders")
    assert len(table.file_uris()) == 24
    assert table.version() == 7
    assert table.metadata().partition_columns == ["year", "month"]
    kinds = rows(con, f"SELECT column_name, column_type FROM (DESCRIBE FROM {retail.scan('sales.orders')})")
    assert kinds == [
        ("order_id", "BIGINT"),
        ("ordered_at", "TIMESTAMP"),
        ("order_date", "DATE"),
        ("customer_id", "BIGINT"),
        ("product_id", "BIGINT"),
        ("quantity", "INTEGER"),
        ("unit_price", "DECIMAL(10,2)"),
        ("amount", "DECIMAL(12,2)"),
        ("channel", "VARCHAR"),
        ("country", "VARCHAR"),
        ("year", "INTEGER"),
        ("month", "INTEGER"),
    ]


def test_orders_hold_together(retail, con):
    wrong = f"""
        SELECT count(*) FROM {retail.scan("sales.orders")} AS o
        LEFT JOIN {retail.scan("crm.customers")} AS c USING (customer_id)
        WHERE c.customer_id IS NULL OR signed_up_on > order_date OR o.country <> c.country
           OR amount <> quantity * unit_price OR ordered_at::DATE <> order_date
           OR year <> year(order_date) OR month <> month(order_date)"""
    assert rows(con, wrong) == [(0,)]


def test_products_have_two_snapshots_and_row_level_deletes(retail, con):
    metadata = retail.metadata("merchandising/products")
    snapshots = rows(
        con, f"SELECT sequence_number, operation FROM iceberg_snapshots('{metadata}') ORDER BY 1"
    )
    assert snapshots == [(1, "append"), (2, "delete")]
    files = rows(con, f"SELECT content, record_count FROM iceberg_metadata('{metadata}') ORDER BY 2")
    assert files == [("POSITION_DELETES", 40), ("EXISTING", 2000)]
    withdrawn = f"SELECT count(*) FROM {retail.scan('merchandising.products')} WHERE product_id % 50 = 17"
    assert rows(con, withdrawn) == [(0,)]


def test_products_before_the_deletes(retail, con):
    metadata = retail.metadata("merchandising/products")
    first = rows(con, f"SELECT snapshot_id FROM iceberg_snapshots('{metadata}') ORDER BY sequence_number")[0][
        0
    ]
    assert rows(con, f"SELECT count(*) FROM iceberg_scan('{metadata}', snapshot_from_id={first})") == [
        (2000,)
    ]


def test_products_are_read_alike_by_pyiceberg(retail, con):
    from pyiceberg.table import StaticTable

    gcs = retail.stores["gcs"]
    access = {"s3.endpoint": gcs.endpoint, "s3.access-key-id": gcs.key_id, "s3.secret-access-key": gcs.secret}
    # To pyiceberg gs:// is Google's own API: the interoperable one is reached as S3.
    table = StaticTable.from_metadata(
        retail.metadata("merchandising/products"),
        {**access, "s3.region": "us-east-1", "py-io-impl": f"{__name__}.InteroperableIO"},
    )
    theirs = table.scan().to_arrow()
    ours = con.sql(f"FROM {retail.scan('merchandising.products')}").to_arrow_table()
    assert theirs.sort_by("product_id").to_pylist() == ours.sort_by("product_id").to_pylist()
    assert len(table.snapshots()) == 2


def test_products_at_their_root(retail, con):
    version = retail.metadata("merchandising/products").rpartition("/")[2].removesuffix(".metadata.json")
    root = "gs://analytics/merchandising/products"
    scan = f"iceberg_scan('{root}', allow_moved_paths=true, version='{version}')"
    assert rows(con, f"SELECT count(*) FROM {scan}") == [(1960,)]


def test_shipments_skip_months(retail, con):
    scan = retail.scan("logistics.shipments")
    total, low, high = rows(con, f"SELECT count(*), min(shipped_at), max(shipped_at) FROM {scan}")[0]
    assert total > 17_000
    assert (low.year, high.year) == (2025, 2027)
    plan = rows(con, f"EXPLAIN ANALYZE SELECT count(status) FROM {scan} WHERE shipped_at < '2025-02-01'")[0][
        1
    ]
    assert "Total Files Read: 1" in plan


def test_shipments_at_their_root(retail, con):
    plain = "iceberg_scan('gs://analytics/logistics/shipments')"
    assert rows(con, f"SELECT count(*) FROM {plain}") == rows(
        con, f"SELECT count(*) FROM {retail.scan('logistics.shipments')}"
    )


def test_stock_was_counted_again(retail, con):
    before = "delta_scan('az://backup/inventory/stock', version => 0)"
    low = "WHERE warehouse = 'Lisbon' AND on_hand BETWEEN 1 AND 9"
    assert rows(con, f"SELECT count(*) > 0 FROM {before} {low}") == [(True,)]
    assert rows(con, f"SELECT count(*) FROM {retail.scan('inventory.stock')} {low}") == [(0,)]


def test_clouds_join(retail, con):
    query = SEED_QUERY.format(
        orders=retail.scan("sales.orders"),
        products=retail.scan("merchandising.products"),
        customers=retail.scan("crm.customers"),
    )
    assert rows(con, query) == [(98_051, Decimal("23718323.00"))]


@pytest.mark.parametrize("product", [*PRODUCTS, "logistics.shipments"])
def test_contracts_name_the_columns_that_there_are(retail, con, product):
    (table,) = load(retail.catalog).product(product).table_schema
    columns = rows(con, f"SELECT column_name FROM (DESCRIBE FROM {retail.scan(product)})")
    assert sorted(element.name for element in table.properties) == sorted(name for (name,) in columns)


def test_the_catalogs_are_clean(retail):
    repository = Path(__file__).parent.parent / "catalogs" / "demo"
    assert check(repository) == check(retail.catalog) == ()
    assert load(repository).products.keys() == load(retail.catalog).products.keys()
    assert repository.resolve().parent.name == "demo"


def test_build_is_done_once_and_whole(tmp_path):
    folder = tmp_path / "built"
    retail_data.build(folder, Quiet(), rows=2_000)
    first = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    retail_data.build(folder, Quiet(), rows=2_000)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == first
    retail_data.build(folder, Quiet(), rows=3_000)
    assert not first.keys() & {path for path in folder.rglob("*.parquet") if "part-00000-" in path.name}
    assert [path.name for path in tmp_path.iterdir()] == ["built"]


def test_publish_copies_only_what_a_store_lacks(retail):
    assert set(retail_data.publish(retail.folder, retail.stores, Quiet()).values()) == {0}


@pytest.mark.slow
def test_the_full_data_set(tmp_path):
    """The numbers that the README shows."""
    folder = retail_data.build(tmp_path / "built", Quiet())
    metadata = max((folder / "gcs/analytics/merchandising/products/metadata").glob("*.json")).name
    with plain_duckdb() as con:
        query = SEED_QUERY.format(
            orders=f"delta_scan('{folder}/s3/prod-bucket/sales/orders')",
            products=f"iceberg_scan('{folder}/gcs/analytics/merchandising/products', allow_moved_paths=true, "
            f"version='{metadata.removesuffix('.metadata.json')}')",
            customers=f"read_parquet('{folder}/azure/backup/crm/customers.parquet')",
        )
        assert rows(con, query) == [(979_959, Decimal("237811507.20"))]


def __getattr__(name):
    # pyiceberg imports its FileIO by name; only the test that needs it should import pyiceberg.
    if name != "InteroperableIO":
        raise AttributeError(name)
    from pyiceberg.io.pyarrow import PyArrowFileIO

    class InteroperableIO(PyArrowFileIO):
        @staticmethod
        def parse_location(location, properties=None):
            return PyArrowFileIO.parse_location(location.replace("gs://", "s3://", 1), properties)

    return InteroperableIO
