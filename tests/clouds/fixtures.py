"""Session fixtures: an S3, a Cloud Storage and an Azure emulator, and the retail company's data in them.

Each emulator starts when the first test asks for it, on a port and in a folder of its own, and stops
when the session ends.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from meshql.demo import azurite, emulators
from meshql.demo import retail as retail_data
from meshql.demo.progress import Quiet
from meshql.demo.session import write_catalog
from meshql.demo.stores import Store
from meshql.errors import UnreachableError

EXTENSIONS = ("httpfs", "azure", "avro", "iceberg", "delta")

RETAIL_ROWS = 100_000


@dataclass(frozen=True)
class Retail:
    """The retail data set, published: the files it was copied from, the stores, the catalog's folder."""

    folder: Path
    stores: dict
    catalog: Path
    rows: int

    def duckdb_by_hand(self):
        """Return a plain DuckDB connection with extensions loaded and secrets for the stores."""
        con = plain_duckdb()
        for cloud, store in self.stores.items():
            con.execute(store.secret_sql(cloud, f"{store.scheme}://{retail_data.BUCKETS[cloud]}/"))
        return con

    def scan(self, product):
        """Return the table function that reads `product` in plain DuckDB."""
        sessions = "'s3://prod-bucket/web/sessions/*/*/*.parquet'"
        return {
            "sales.orders": "delta_scan('s3://prod-bucket/sales/orders')",
            "merchandising.products": f"iceberg_scan('{self.metadata('merchandising/products')}')",
            "crm.customers": "read_parquet('az://backup/crm/customers.parquet')",
            "logistics.shipments": f"iceberg_scan('{self.metadata('logistics/shipments')}')",
            "inventory.stock": "delta_scan('az://backup/inventory/stock')",
            "web.sessions": f"read_parquet({sessions}, hive_partitioning=true)",
            "marketing.campaigns": "read_csv('gs://analytics/marketing/campaigns.csv', delim=';')",
            "support.tickets": "read_json('az://backup/support/tickets.jsonl')",
        }[product]

    def metadata(self, table):
        """Return the location of the current metadata file of an Iceberg table."""
        folder = self.folder / "gcs" / "analytics"
        return (
            f"gs://analytics/{max((folder / table).glob('metadata/*.json')).relative_to(folder).as_posix()}"
        )


def link_or_copy(source, target):
    """Copy a file for `shutil.copytree`, without its bytes where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


session_azure: dict[str, str] = {}
"""What the environment says of the session's Azure emulator, from when it is up."""


def plain_duckdb():
    """Return a DuckDB connection with the extensions of the wheels loaded."""
    con = duckdb.connect()
    for name in EXTENSIONS:
        package = find_spec(f"duckdb_extension_{name}").submodule_search_locations[0]
        con.execute(f"LOAD '{package}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
    return con


@pytest.fixture(scope="session")
def stores_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def s3(stores_folder):
    """An emulated Amazon S3."""
    server = emulators.start("s3", "moto", stores_folder)
    yield Store.s3(server.endpoint)
    emulators.stop(server)


@pytest.fixture(scope="session")
def gcs(stores_folder):
    """An emulated Cloud Storage, with HMAC keys of its own."""
    server = emulators.start("gcs", "moto", stores_folder)
    yield Store.gcs(server.endpoint)
    emulators.stop(server)


@pytest.fixture(scope="session")
def azurite_program():
    """The command that runs Azurite, installed into the user's cache folder if need be."""
    try:
        return azurite.program()
    except UnreachableError as error:
        pytest.skip(f"NOTHING OF AZURE IS TESTED: {error}")


@pytest.fixture(scope="session")
def azure(stores_folder, azurite_program):
    """An emulated Azure Blob Storage; key_id is its account, secret the account's key."""
    server = emulators.start("azure", "azurite", stores_folder, program=azurite_program)
    store = Store.azure(server.endpoint)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        session_azure.update(store.environment)
        yield store
    session_azure.clear()
    emulators.stop(server)


@pytest.fixture(scope="session")
def retail(s3, gcs, azure, tmp_path_factory):
    """The retail company's data in the three clouds, with a tenth of the demo's orders."""
    folder = tmp_path_factory.mktemp("retail")
    built = retail_data.build(folder / "built", Quiet(), rows=RETAIL_ROWS)
    stores = {"s3": s3, "gcs": gcs, "azure": azure}
    retail_data.publish(built, stores, Quiet())
    return Retail(built, stores, write_catalog(folder / "catalog", stores), RETAIL_ROWS)
