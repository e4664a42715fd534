"""Bronze products for tests: catalogs of one, builds of it, and batches made by hand."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import yaml

import meshql
from meshql.build import bronze
from meshql.build.step import Request, Step
from meshql.formats import batch_state, batches

NAME = "bronze.events"


class Bronze:
    """A catalog in `folder` with the product bronze.events, of these sources."""

    def __init__(self, folder, *sources, connections=None, products=(), **product):
        self.folder = folder
        said = {
            "meshql": 1,
            "connections": connections or {},
            "products": [
                {"name": NAME, "location": "lake/events/", **product},
                *products,
            ],
        }
        said["products"][0]["build"] = {"kind": "bronze", "sources": list(sources)}
        (folder / "catalog.yaml").write_text(yaml.safe_dump(said))

    def step(self, mesh, scratch, **request):
        return Step(mesh, mesh.find(NAME), "run-1", Request(**request), Path(scratch), "digest")

    def build(self, **request):
        """Build it, in a mesh of its own; returns the outcome."""
        with meshql.connect(self.folder) as mesh:
            return self.built(mesh, **request)

    def built(self, mesh, **request):
        scratch = tempfile.mkdtemp(dir=self.folder)
        try:
            return bronze.build(self.step(mesh, scratch, **request))
        finally:
            shutil.rmtree(scratch)

    def pending(self, **request):
        with meshql.connect(self.folder) as mesh, TemporaryDirectory() as scratch:
            return bronze.pending(self.step(mesh, scratch, **request)).words

    def commits(self):
        with meshql.connect(self.folder) as mesh, TemporaryDirectory() as scratch:
            return bronze.commits(self.step(mesh, scratch))

    def rows(self, sql):
        """Run SQL, in a mesh of its own."""
        with meshql.connect(self.folder) as mesh:
            return mesh.sql(sql).fetchall()

    def state(self):
        with meshql.connect(self.folder) as mesh:
            return batches.state(*mesh.store(mesh.find(NAME)))


def add_batch(mesh, name, sql, *, replaces=False, source="test"):
    """Commit the rows of `sql` as the next batch of the bronze product `name`; returns its number."""
    store, location = mesh.store(mesh.find(name))
    before = batches.state(store, location)
    number, at = before.number + 1, datetime.now(UTC)
    unique = uuid.uuid4().hex[:8]
    key = f"_ingested_on={at:%Y-%m-%d}/{number:09d}-{unique}-0.parquet"
    con = duckdb.connect()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        con.execute(
            f"COPY (SELECT *, '{at.isoformat()}'::TIMESTAMPTZ AS _ingested_at, '{source}' AS _source,"
            f" {number}::BIGINT AS _batch FROM ({sql})) TO '{path}' (FORMAT parquet)"
        )
        columns = {c: t for c, t, *_ in con.execute(f"DESCRIBE {sql}").fetchall()}
        rows = con.execute(f"SELECT count(*) FROM '{path}'").fetchone()[0]
        size = path.stat().st_size
        store.put(location.folder.key + key, path)
    known = {} if replaces or not before.batches else dict(before.batches[-1].schema)
    said = {"run": "test", "at": at.isoformat(), "counts": {"rows_in": rows, "rows_out": rows}}
    batch = batch_state.Batch(
        number=number,
        id=unique,
        at=at,
        commit=json.dumps(said),
        files=(batch_state.BatchFile(key, size, rows),),
        columns=columns,
        schema=known | columns,
        replaces=replaces,
    )
    assert batches.commit(store, location, batch)
    return number
