"""A retail company's data products: built as files on this disk once, then copied into the stores."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from meshql.demo.progress import Progress
from meshql.demo.stores import Cloud, Store

if TYPE_CHECKING:
    import duckdb
    from pyiceberg.catalog import Catalog

__all__ = ["BUCKETS", "ROWS", "VERSION", "build", "publish"]

ROWS = 1_000_000
"""How many orders the full data set has."""

VERSION = 1
"""Counted up whenever the files that `build` makes change."""

BUCKETS: Mapping[Cloud, str] = {"s3": "prod-bucket", "gcs": "analytics", "azure": "backup"}
"""Where each cloud's products lie."""

STAMP = ".meshql-demo"

WITHDRAWN = "product_id % 50 = 17"


def build(folder: Path, progress: Progress, *, rows: int = ROWS) -> Path:
    """Make the data set's files under `folder`, a tree `cloud/bucket/...`; returns the folder.

    Does nothing if they are there. They appear whole or not at all.
    """
    stamp = json.dumps({"version": VERSION, "rows": rows})
    if _read(folder / STAMP) == stamp:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        _build_all(new, rows, progress)
        (new / STAMP).write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    return folder


def publish(folder: Path, stores: Mapping[Cloud, Store], progress: Progress) -> dict[Cloud, int]:
    """Copy the files that `build` made into the stores; returns how many went to each.

    A store that has them already is left as it is. A copy that was cut short is made again.
    """
    stamp = (folder / STAMP).read_text()
    sent: dict[Cloud, int] = {}
    for cloud, store in stores.items():
        store.create_bucket(BUCKETS[cloud])
        if published(store, BUCKETS[cloud]) == stamp:
            sent[cloud] = 0
            continue
        with progress.step(f"publishing to {store.scheme}://{BUCKETS[cloud]}"):
            sent[cloud] = store.upload(BUCKETS[cloud], folder / cloud / BUCKETS[cloud])
            store.open(BUCKETS[cloud]).put(STAMP, stamp.encode())
    return sent


def published(store: Store, bucket: str) -> str | None:
    """Return the stamp of the data set that the bucket holds whole; None if it holds none."""
    from obstore.exceptions import BaseError

    with suppress(BaseError, FileNotFoundError):
        return bytes(store.open(bucket).get(STAMP).bytes()).decode()
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _build_all(folder: Path, rows: int, progress: Progress) -> None:
    import duckdb

    s3, gcs, azure = (folder / cloud / bucket for cloud, bucket in BUCKETS.items())
    with duckdb.connect() as tables:
        with progress.step(f"generating {rows:,} orders and what goes with them"):
            _generate(tables, rows)
        with progress.step("writing sales.orders (Delta)"):
            _orders(tables, s3 / "sales" / "orders")
        with progress.step("writing merchandising.products and logistics.shipments (Iceberg)"):
            _iceberg(tables, gcs)
        with progress.step("writing inventory.stock (Delta)"):
            _stock(tables, azure / "inventory" / "stock")
        with progress.step("writing the Parquet, CSV and JSON products"):
            _files(tables, s3, gcs, azure)


def _generate(tables: duckdb.DuckDBPyConnection, rows: int) -> None:
    script = files("meshql.demo").joinpath("retail.sql").read_text(encoding="utf-8")
    tables.execute("SET preserve_insertion_order = true")
    tables.execute(script.replace("$rows", str(rows)))


def _orders(tables: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write the orders a quarter a commit, a file a month."""
    from deltalake import WriterProperties, write_deltalake

    for year, quarter in [(year, quarter) for year in (2025, 2026) for quarter in (1, 2, 3, 4)]:
        part = tables.sql(
            f"SELECT * FROM orders WHERE year = {year} AND (month + 2) // 3 = {quarter} ORDER BY order_id"
        )
        write_deltalake(
            folder,
            part.to_arrow_table(),
            mode="append",
            partition_by=["year", "month"],
            name="orders",
            description="One row per order line",
            writer_properties=WriterProperties(compression="ZSTD"),
        )


def _stock(tables: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write the stock, then the recount of one warehouse as a second commit."""
    from deltalake import DeltaTable, WriterProperties, write_deltalake

    zstd = WriterProperties(compression="ZSTD")
    stock = tables.sql("SELECT * FROM stock ORDER BY warehouse, product_id").to_arrow_table()
    write_deltalake(folder, stock, partition_by=["warehouse"], name="stock", writer_properties=zstd)
    DeltaTable(folder).update(
        predicate="warehouse = 'Lisbon' and on_hand < 10", updates={"on_hand": "0"}, writer_properties=zstd
    )


def _iceberg(tables: duckdb.DuckDBPyConnection, bucket: Path) -> None:
    from meshql.demo.iceberg_tables import mirror_catalog

    bucket.mkdir(parents=True)
    with mirror_catalog(bucket.parent, "gs") as catalog:
        _products(tables, catalog, f"gs://{bucket.name}/merchandising/products")
        _shipments(
            tables, catalog, bucket / "logistics" / "shipments", f"gs://{bucket.name}/logistics/shipments"
        )


def _products(tables: duckdb.DuckDBPyConnection, catalog: Catalog, location: str) -> None:
    """Write the products, then take some off the shelves in a second snapshot."""
    from meshql.demo.iceberg_tables import delete_rows

    products = tables.sql("SELECT * FROM products ORDER BY product_id").to_arrow_table()
    catalog.create_namespace("merchandising")
    table = catalog.create_table("merchandising.products", schema=products.schema, location=location)
    table.append(products)
    withdrawn = tables.sql(f"SELECT product_id - 1 FROM products WHERE {WITHDRAWN}").fetchall()
    delete_rows(table, [position for (position,) in withdrawn])


def _shipments(tables: duckdb.DuckDBPyConnection, catalog: Catalog, folder: Path, location: str) -> None:
    """Write the shipments by the month they left, a snapshot a year, and the hint at the current one."""
    from pyiceberg.transforms import MonthTransform

    data = folder / "data"
    data.mkdir(parents=True)
    tables.execute(f"""
        COPY (SELECT *, strftime(shipped_at, '%Y-%m') AS shipped_month FROM shipments ORDER BY shipment_id)
        TO '{_quoted(data)}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (shipped_month),
                             FILENAME_PATTERN 'shipments-{{i}}')""")
    catalog.create_namespace("logistics")
    schema = tables.sql("SELECT * FROM shipments LIMIT 0").to_arrow_table().schema
    table = catalog.create_table("logistics.shipments", schema=schema, location=location)
    with table.update_spec() as spec:
        spec.add_field("shipped_at", MonthTransform(), "shipped_month")
    names = sorted(f"{location}/data/{path.relative_to(data).as_posix()}" for path in data.rglob("*.parquet"))
    for year in ("2025", "202[67]"):
        table.add_files([name for name in names if re.search(f"shipped_month={year}-", name)])
    current = table.metadata_location.rpartition("/")[2].removesuffix(".metadata.json")
    (folder / "metadata" / "version-hint.text").write_text(current)


def _files(tables: duckdb.DuckDBPyConnection, s3: Path, gcs: Path, azure: Path) -> None:
    parquet = "FORMAT parquet, COMPRESSION zstd"
    copies = {
        s3 / "web" / "sessions": (
            "sessions",
            f"{parquet}, PARTITION_BY (year, month), FILENAME_PATTERN 'part-{{i}}'",
        ),
        gcs / "marketing" / "campaigns.csv": ("campaigns", "FORMAT csv, HEADER, DELIMITER ';'"),
        azure / "crm" / "customers.parquet": ("customers", f"{parquet}, ROW_GROUP_SIZE 20480"),
        azure / "support" / "tickets.jsonl": ("tickets", "FORMAT json"),
    }
    for path, (table, options) in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.execute(f"COPY (FROM {table} ORDER BY 1) TO '{_quoted(path)}' ({options})")


def _quoted(path: Path) -> str:
    """Return the path as the inside of an SQL string."""
    return path.as_posix().replace("'", "''")
