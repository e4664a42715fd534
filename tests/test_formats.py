"""Where formats find the current version: hints, globs, names of metadata, numbers that grow."""

from __future__ import annotations

import json
import shutil

import duckdb
import pytest
import yaml

import meshql
from meshql.catalog.model import Product
from meshql.formats import iceberg
from meshql.identity.broker import Public
from meshql.storage.location import Location
from meshql.storage.store import open_store

BUCKET = "formats"


@pytest.fixture
def opened(tmp_path):
    """A function that opens a mesh of one product, t.t, on a store."""
    meshes = []

    def open_mesh(store, location, format_, **product):
        product = {"name": "t.t", "connection": "c", "location": location, "format": format_} | product
        catalog = {"meshql": 1, "connections": {"c": store.connection}, "products": [product]}
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        meshes.append(meshql.connect(tmp_path / "catalog.yaml"))
        return meshes[-1]

    yield open_mesh
    for mesh in meshes:
        mesh.close()


@pytest.mark.parametrize("cloud", ["s3", "gcs", "azure"])
@pytest.mark.parametrize(
    ("location", "rows"),
    [
        ("g/*.parquet", 2),
        ("g/**/*.parquet", 3),
        ("g/?.parquet", 1),
        ("g/[ab]*.parquet", 2),
        ("g", 3),
        ("g/", 3),
        ("g/a.parquet", 1),
        ("g/deep/c c=1.parquet", 1),
    ],
)
def test_files_folders_and_globs_on_every_cloud(opened, retail, tmp_path, cloud, location, rows):
    store = retail.stores[cloud]
    store.create_bucket(BUCKET)
    source = tmp_path / "up"
    (source / "g/deep").mkdir(parents=True)
    for name in ("a.parquet", "bb.parquet", "deep/c c=1.parquet", "_temporary.parquet"):
        duckdb.sql("SELECT 1 AS x").write_parquet(str(source / "g" / name))
    store.upload(BUCKET, source)
    expected = rows + 1 if location == "g/*.parquet" or location == "g/**/*.parquet" else rows
    mesh = opened(store, f"{store.scheme}://{BUCKET}/{location}", "parquet")
    assert mesh.sql("SELECT count(*) FROM t.t").fetchall() == [(expected,)]


def metadata_tree(tmp_path, names, hint=None):
    folder = tmp_path / "table" / "metadata"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    if hint is not None:
        (folder / "version-hint.text").write_text(hint)
    return tmp_path / "table"


def resolved(root, last=None):
    product = Product(name="t.t", location=str(root), format="iceberg")
    location = Location.parse(str(root))
    from meshql.catalog.connections import LocalConnection

    store = open_store(LocalConnection(cloud="local"), Public(), location)
    return iceberg.resolve(product, location, store, last)


@pytest.mark.parametrize(
    ("names", "hint", "expected"),
    [
        (["00000-a.metadata.json", "00001-b.metadata.json"], None, "00001-b"),
        (["00009-a.metadata.json", "00010-b.metadata.json"], None, "00010-b"),
        (["00099-a.metadata.json", "00100-0.metadata.json", "9f-m0.avro"], None, "00100-0"),
        (["v1.metadata.json", "v2.metadata.json"], "2", "v2"),
        (["v1.metadata.json", "v2.metadata.json", "v3.metadata.json"], "1", "v3"),
        (["v9.metadata.json", "v10.metadata.json"], "9", "v10"),
        (["v1.metadata.json"], "7", "v1"),
        (["00003-a.metadata.json", "00004-b.metadata.json"], "00003-a", "00004-b"),
        (["00003-a.metadata.json"], "00003-a", "00003-a"),
        (["v3.gz.metadata.json"], None, "v3"),
    ],
)
def test_the_newest_iceberg_metadata_is_found(tmp_path, names, hint, expected):
    assert resolved(metadata_tree(tmp_path, names, hint)).version == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["00009-a.metadata.json"], ["00009-a.metadata.json", "00010-b.metadata.json"], "00010-b"),
        (["00009-a.metadata.json"], [f"{i:05d}-x.metadata.json" for i in range(200)], "00199-x"),
        (["00009-a.metadata.json"], ["00150-x.metadata.json"], "00150-x"),
        (["v1.metadata.json"], ["v1.metadata.json", "v2.metadata.json", "v3.metadata.json"], "v3"),
    ],
)
def test_commits_since_the_last_look_are_all_seen(tmp_path, before, after, expected):
    root = metadata_tree(tmp_path, before)
    last = resolved(root)
    assert resolved(root, last) is last
    assert resolved(metadata_tree(tmp_path, after), last).version == expected


def test_an_iceberg_location_may_be_one_metadata_file(retail):
    gcs = retail.stores["gcs"]
    first = json.loads(
        next(
            (retail.folder / "gcs/analytics/merchandising/products/metadata").glob("00001-*.json")
        ).read_text()
    )
    assert first["current-snapshot-id"] != -1
    name = next((retail.folder / "gcs/analytics/merchandising/products/metadata").glob("00001-*.json")).name
    catalog = {
        "meshql": 1,
        "connections": {"c": gcs.connection},
        "products": [
            {
                "name": "t.old",
                "connection": "c",
                "location": f"gs://analytics/merchandising/products/metadata/{name}",
                "format": "iceberg",
            }
        ],
    }
    path = retail.folder.parent / "one.yaml"
    path.write_text(yaml.safe_dump(catalog))
    with meshql.connect(path) as mesh:
        assert mesh.sql("SELECT count(*) FROM t.old").fetchall() == [(2000,)]
