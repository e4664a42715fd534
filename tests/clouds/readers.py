"""The same rows as a table of every format, in any store, and how every reader of the matrix reads them."""

from __future__ import annotations

import lance
import pyarrow
import yaml
from deltalake import DeltaTable, write_deltalake
from pyarrow import parquet
from pyiceberg.table import StaticTable

from meshql.demo.iceberg_tables import mirror_catalog

BUCKET = "cells"
ROWS = pyarrow.table({"x": range(100)})
EXPECTED = (100, 4950)
"""How many rows there are, and the sum of x."""

PRODUCTS = {"deltalake": "lake.delta", "pyiceberg": "lake.iceberg", "lance": "lake.lance"}
"""What each reader besides DuckDB reads."""


def write_tables(folder, scheme):
    """Write the bucket into a folder, which is returned; its Iceberg table names the place as `scheme`://."""
    root = folder / BUCKET
    root.mkdir()
    parquet.write_table(ROWS, root / "rows.parquet")
    write_deltalake(root / "delta", ROWS)
    lance.write_dataset(ROWS, str(root / "lance"))
    with mirror_catalog(folder, scheme) as catalog:
        catalog.create_namespace("db")
        catalog.create_table("db.t", ROWS.schema, location=f"{scheme}://{BUCKET}/iceberg").append(ROWS)
    return root


def write_catalog(folder, scheme, connection):
    """Write a catalog of the tables, all on this connection, and return its file.

    meshql reads no Lance tables: a product of another format stands for the place of one.
    """
    places = {
        "parquet": ("rows.parquet", "parquet"),
        "iceberg": ("iceberg", "iceberg"),
        "delta": ("delta", "delta"),
        "lance": ("lance", "parquet"),
    }
    products = [
        {
            "name": f"lake.{name}",
            "location": f"{scheme}://{BUCKET}/{key}",
            "format": form,
            "connection": "lake",
        }
        for name, (key, form) in places.items()
    ]
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump({"meshql": 1, "connections": {"lake": connection}, "products": products}))
    return path


def put_tables(s3, root, region):
    """Put what `write_tables` wrote into a bucket of this region, with botocore's client."""
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": region})
    for file in root.rglob("*"):
        if file.is_file():
            s3.put_object(Bucket=BUCKET, Key=file.relative_to(root).as_posix(), Body=file.read_bytes())


def metadata_file(root):
    """Return the key, below the Iceberg table, of its current metadata file."""
    table = root / "iceberg"
    return max(table.glob("metadata/*.json")).relative_to(table).as_posix()


def by_sql(mesh, reader):
    """What DuckDB reads, through meshql's SQL."""
    return mesh.sql(f"SELECT count(*), sum(x)::BIGINT FROM lake.{reader}").fetchall()[0]


def by_library(reader, uri, options, metadata):
    """What another library reads with meshql's storage options."""
    if reader == "deltalake":
        rows = DeltaTable(uri, storage_options=options).to_pyarrow_table()
    elif reader == "lance":
        rows = lance.dataset(uri, storage_options=options).to_table()
    else:
        rows = StaticTable.from_metadata(f"{uri}/{metadata}", properties=options).scan().to_arrow()
    return rows.num_rows, sum(rows["x"].to_pylist())
