"""A small catalog of products on disk, and gold products of it, built one run after the other."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
import yaml
from deltalake import write_deltalake
from pyiceberg.table import StaticTable

import meshql
from meshql.build import gold
from meshql.build.step import Request, Step
from meshql.catalog.load import load

__all__ = ["DAILY", "DAY", "House", "door", "house", "orders", "path", "some_orders"]

DAY = date(2026, 1, 1)

DAILY = "SELECT day, region, count(*) AS n, sum(amount) AS total FROM sales.orders GROUP BY ALL"


def orders(rows):
    """Rows of orders: id, day, region, amount, stamp."""
    rows = list(rows)
    return pa.table(
        {
            "id": pa.array([r[0] for r in rows], pa.int64()),
            "day": pa.array([r[1] for r in rows], pa.date32()),
            "region": pa.array([r[2] for r in rows], pa.string()),
            "amount": pa.array([r[3] for r in rows], pa.int32()),
            "stamp": pa.array(
                [r[1] and datetime(r[1].year, r[1].month, r[1].day, r[0] % 24, tzinfo=UTC) for r in rows],
                pa.timestamp("us", "UTC"),
            ),
        }
    )


def some_orders(first, last, days=10):
    regions = ("eu", "us", "it's", None)
    return orders((i, DAY + timedelta(days=i % days), regions[i % 4], i % 7) for i in range(first, last))


class House:
    """A catalog of products in a folder; `build` builds one of them as a run of its own."""

    def __init__(self, folder, door, connections=None):
        self.folder = folder
        self.door = door
        self.connections = connections or {}
        self.products = {}
        self.runs = 0
        self._declared = ""
        (folder / "scratch").mkdir()

    def add(self, name, location=None, **given):
        place = location or str(self.folder / name)
        self.products[name] = {"name": name, "location": place, **given}
        return place

    def gold(self, sql, partitions=(), name="gold.out", location=None, connection=None, **given):
        build = {"kind": "gold", "sql": sql, "partitions": list(partitions), **given}
        return self.add(name, location, build=build, **({"connection": connection} if connection else {}))

    @property
    def mesh(self):
        declared = {"meshql": 1, "products": list(self.products.values())}
        text = yaml.safe_dump(declared | ({"connections": self.connections} if self.connections else {}))
        if self._declared != text:
            self._declared = text
            (self.folder / "catalog.yaml").write_text(text)
            self.door.reload(load(self.folder / "catalog.yaml"))
        return self.door

    def step(self, name="gold.out", run=None, **request):
        self.runs += 1
        mesh = self.mesh
        return Step(
            mesh, mesh.find(name), run or f"run-{self.runs}", Request(**request), self.folder / "scratch"
        )

    def build(self, name="gold.out", run=None, **request):
        return gold.build(self.step(name, run, **request))

    def pending(self, name="gold.out", **request):
        return gold.pending(self.step(name, **request)).words

    def commits(self, name="gold.out"):
        return gold.commits(self.step(name))

    def ask(self, sql):
        return self.mesh.sql(sql).fetchall()

    def same(self, sql, name="gold.out"):
        """Whether the product holds exactly the rows that its SQL gives."""
        other = f"(FROM {name} EXCEPT ALL ({sql})) UNION ALL (({sql}) EXCEPT ALL FROM {name})"
        return self.ask(f"SELECT count(*) FROM ({other})") == [(0,)]

    def metadata(self, name="gold.out"):
        """pyiceberg's own view of the newest version, by nothing but the hint and the files."""
        folder = self.folder / name / "metadata"
        version = (folder / "version-hint.text").read_text()
        return StaticTable.from_metadata(f"file://{folder}/v{version}.metadata.json")


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """A mesh that takes one catalog after the other: loading DuckDB's extensions takes a second."""
    catalog = tmp_path_factory.mktemp("door") / "catalog.yaml"
    catalog.write_text("meshql: 1")
    with meshql.connect(catalog) as mesh:
        yield mesh


@pytest.fixture
def house(tmp_path, door):
    house = House(tmp_path, door)
    write_deltalake(house.add("sales.orders", format="delta"), some_orders(0, 1000), partition_by=["day"])
    return house


@pytest.fixture
def path(house):
    return house.products["sales.orders"]["location"]
