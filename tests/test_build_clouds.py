"""All layers on the emulated clouds: where each lies in another one, and where the stores fail."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clouds.gateway import gateway
from faults.kills import CATALOG, ROWS, STATE, land

from meshql.build.run import build
from meshql.mesh import connect


def places(stores):
    """Put each product of the example into a bucket of its own store; `stores` are by product."""
    said = yaml.safe_load(CATALOG)
    said["connections"] = {name: store.connection for name, (store, _) in stores.items()}
    for product in said["products"]:
        layer = {"meshql.runs": "runs", "web.raw": "raw", "web.events": "events", "web.daily": "daily"}[
            product["name"]
        ]
        if layer in stores:
            store, bucket = stores[layer]
            store.create_bucket(bucket)
            product |= {"connection": layer, "location": f"{store.scheme}://{bucket}/{layer}/"}
    raw = next(p for p in said["products"] if p["name"] == "web.raw")
    said["connections"]["landing"] = {"cloud": "local"}
    raw["build"]["sources"][0]["connection"] = "landing"
    return said


@pytest.fixture
def local(tmp_path_factory):
    """What the tables hold when nothing is in a cloud and nothing fails."""
    home = tmp_path_factory.mktemp("local")
    (home / "catalog.yaml").write_text(CATALOG)
    land(home, 0)
    with connect(home / "catalog.yaml") as mesh:
        build(mesh)
        land(home, 1)
        build(mesh)
        return state(mesh)


def state(mesh):
    found = {}
    for name, sql in STATE.items():
        with mesh.sql(sql) as result:
            found[name] = sorted(map(str, result.fetchall()))
    return found


def counted(mesh):
    with mesh.sql(
        "SELECT sum(rows_in), sum(rows_out), sum(rows_quarantined), sum(rows_duplicate)"
        " FROM meshql.runs WHERE kind = 'silver'"
    ) as result:
        return tuple(map(int, result.fetchall()[0]))


def test_bronze_silver_and_gold_in_three_clouds(s3, gcs, azure, tmp_path, local):
    stores = {
        "raw": (s3, "raw3"),
        "events": (azure, "events3"),
        "daily": (gcs, "daily3"),
        "runs": (s3, "raw3"),
    }
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(places(stores)))
    for wave in range(2):
        land(tmp_path, wave)
        with connect(tmp_path / "catalog.yaml") as mesh:
            run = build(mesh)
            assert run.errors == []
            assert run.notes == []
    with connect(tmp_path / "catalog.yaml") as mesh:
        assert state(mesh) == local
        took, out, refused, twice = counted(mesh)
        assert took == 2 * ROWS == out + refused + twice
        assert {t.status for t in build(mesh).turns.values()} == {"unchanged"}


def test_silver_in_azure_over_many_commits(azure, tmp_path):
    stores = {"events": (azure, "commits"), "runs": (azure, "commits")}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(places(stores)))
    for wave in range(4):
        land(tmp_path, wave)
        with connect(tmp_path / "catalog.yaml") as mesh:
            assert build(mesh).errors == []
    with connect(tmp_path / "catalog.yaml") as mesh:
        took, out, refused, twice = counted(mesh)
        assert took == 4 * ROWS == out + refused + twice
        with mesh.sql("SELECT count(*) FROM web.events") as result:
            assert result.fetchall() == [(out,)]


class Faults:
    """One request in so many fails, in one of three ways; no two in a row of the same object."""

    def __init__(self, seed, share):
        self.chance = random.Random(seed)
        self.share = share
        self.count = 0

    def __call__(self, request):
        if self.chance.random() >= self.share:
            return None
        self.count += 1
        ways = ["503", "reset", "lost"] if request.method == "PUT" else ["503", "reset"]
        return self.chance.choice(ways)


@pytest.mark.slow
def test_stores_that_fail_and_lose_answers_lose_and_double_no_row(s3, tmp_path, local):
    bucket = "faulty"
    with gateway(s3.endpoint) as door:
        through = type(s3)(s3.cloud, door.url, s3.key_id, s3.secret)
        stores = dict.fromkeys(("raw", "events", "daily", "runs"), (through, bucket))
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(places(stores)))
        door.fault = faults = Faults(7, 0.1)
        for wave in range(2):
            land(tmp_path, wave)
            failed = 0
            while (ended := built(tmp_path))[0]:
                failed += 1
                assert failed < 12, ended
                assert ended[0] == 3, ended
    assert faults.count > 5
    stores = dict.fromkeys(("raw", "events", "daily", "runs"), (s3, bucket))
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(places(stores)))
    with connect(tmp_path / "catalog.yaml") as mesh:
        build(mesh)
        assert state(mesh) == local
        took, out, refused, twice = counted(mesh)
        assert took == 2 * ROWS == out + refused + twice


def built(home: Path):
    """Build in a process of its own; returns its exit code and what it said.

    In this process delta-rs would hold Python's lock while it waits for the gateway, which needs it.
    """
    done = subprocess.run(
        [sys.executable, "-m", "meshql", "-C", home / "catalog.yaml", "build"], capture_output=True, text=True
    )
    return done.returncode, done.stderr
