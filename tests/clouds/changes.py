"""Logs of changes for tests, written as following a database writes them, and a model of their tables."""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import meshql
from clouds.batches import add_batch
from meshql.build.cdc import table
from meshql.build.cdc.shapes import Column, Shape
from meshql.build.run import definition_of
from meshql.build.step import Request, Step
from meshql.formats import batch_state, batches

TEXTS = pa.map_(pa.string(), pa.string())

SCHEMA = pa.schema(
    [
        ("table_name", pa.string()),
        ("op", pa.string()),
        ("lsn", pa.int64()),
        ("seq", pa.int64()),
        ("xid", pa.int64()),
        ("committed_at", pa.timestamp("us", "UTC")),
        ("before", TEXTS),
        ("after", TEXTS),
        ("unchanged", pa.list_(pa.string())),
        ("_ingested_at", pa.timestamp("us", "UTC")),
        ("_source", pa.string()),
        ("_batch", pa.int64()),
    ]
)

ROW = "STRUCT(id BIGINT, status VARCHAR, big VARCHAR)"

ENVELOPE = {"op": "VARCHAR", "before": ROW, "after": ROW, "source": "STRUCT(lsn BIGINT)", "ts_ms": "BIGINT"}

READ = f"format => 'newline_delimited', columns => {ENVELOPE}"

START = datetime(2026, 3, 1, tzinfo=UTC)


def shape(table="public.t", key=("id",), oid=1, **types):
    """A shape with these columns, numbered in order; a type may be (number, type)."""
    columns = []
    for at, (name, said) in enumerate(types.items(), start=1):
        number, type_ = said if isinstance(said, tuple) else (at, said)
        columns.append(Column(name, number, type_, 0, -1))
    return Shape(table, oid, tuple(columns), tuple(key), "d")


def change(op, lsn, seq, *, before=None, after=None, unchanged=None, table="public.t", at=None):
    """A row of a log."""
    return {
        "table_name": table,
        "op": op,
        "lsn": lsn,
        "seq": seq,
        "xid": lsn,
        "committed_at": at or START + timedelta(seconds=lsn),
        "before": None if before is None else list(before.items()),
        "after": None if after is None else list(after.items()),
        "unchanged": unchanged,
    }


def add_changes(mesh, name, rows, shapes=(), *, replaces=False, at=None):
    """Commit changes as the next batch of the log `name`, with the shapes that come up in it."""
    store, location = mesh.store(mesh.find(name))
    before = batches.state(store, location)
    number, now = before.number + 1, at or datetime.now(UTC)
    unique = uuid.uuid4().hex[:8]
    key = f"_ingested_on={now:%Y-%m-%d}/{number:09d}-{unique}-0.parquet"
    more = {"_ingested_at": now, "_source": "db", "_batch": number}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(pa.Table.from_pylist([row | more for row in rows], SCHEMA), path)
        described = duckdb.sql(f"DESCRIBE FROM '{path}'").fetchall()
        size = path.stat().st_size
        store.put(location.folder.key + key, path)
    columns = {c: t for c, t, *_ in described if c not in more}
    batch = batch_state.Batch(
        number=number,
        id=unique,
        at=now,
        commit=json.dumps({"run": "test", "at": now.isoformat(), "counts": {"rows_in": len(rows)}}),
        files=(batch_state.BatchFile(key, size, len(rows)),),
        columns=columns,
        schema=columns,
        taken=batch_state.Taken(kept={s.table: s.json() for s in shapes}),
        replaces=replaces,
    )
    assert batches.commit(store, location, batch)
    return number


LOG, TABLE = "raw.shop", "shop.t"


class Lake:
    """A catalog of a log and of the table of one of its tables, in a folder of this machine."""

    def __init__(self, folder):
        self.folder = folder
        self.mesh = None
        self.declare()

    def declare(self, **build):
        """Write the catalog and open it anew."""
        self.say({"from": LOG, "table": "public.t"} | build, {"from": "db", "tables": ["public.t"]})

    def say(self, build, log, others=(), **product):
        log = {"name": LOG, "location": "lake/log/", "build": {"kind": "cdc"} | log}
        runs = {"name": "meshql.runs", "location": "lake/runs/", "format": "delta"}
        other = {"name": "shop.other", "location": "other.parquet", "format": "parquet"}
        said = {"name": TABLE, "location": "lake/t/", "build": {"kind": "cdc"} | build, **product}
        database = {
            "cloud": "postgres",
            "host": "127.0.0.1",
            "database": "shop",
            "auth": {"method": "default"},
        }
        connections = {"db": database}
        catalog = {"meshql": 1, "connections": connections, "products": [log, said, other, runs, *others]}
        (self.folder / "c.yaml").write_text(json.dumps(catalog))
        self.close()
        self.mesh = meshql.connect(self.folder / "c.yaml")

    def tell(self, columns=None, **build):
        """Have the table made of the bronze product of changes, which `topic` fills."""
        files = {"kind": "files", "location": "landing/*.json", "options": {"columns": columns or ENVELOPE}}
        log = {"kind": "bronze", "sources": [files]}
        self.say({"from": LOG} | build, log)

    def topic(self, *changes, **more):
        """Add a batch of changes in JSON to the bronze product."""
        path = self.folder / "topic.json"
        path.write_text("\n".join(map(json.dumps, changes)))
        return add_batch(self.mesh, LOG, f"SELECT * FROM read_json('{path}', {READ})", **more)

    def close(self):
        if self.mesh is not None:
            self.mesh.close()

    def land(self, rows, *shapes, **more):
        """Add a batch to the log."""
        return add_changes(self.mesh, LOG, rows, shapes, **more)

    def step(self, **request):
        product = self.mesh.find(TABLE)
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return Step(self.mesh, product, "run-1", Request(**request), scratch, definition_of(product))

    def build(self, **request):
        """Build the table; all changes must be counted."""
        outcome = table.build(self.step(**request))
        for commit in outcome.commits:
            counts = commit.counts
            assert counts.rows_in == counts.rows_out + counts.rows_duplicate
        return outcome

    def rows(self, sql=f"SELECT * FROM {TABLE} ORDER BY ALL"):
        with self.mesh.sql(sql) as result:
            return result.fetchall()


class Model:
    """A table that random transactions change, and what a log says of them.

    `states` are its rows after each transaction, by LSN.
    """

    def __init__(self, seed, keys=12):
        self.chance = random.Random(seed)
        self.keys = keys
        self.rows: dict[int, dict[str, str | None]] = {}
        self.lsn = 0
        self.states: dict[int, dict[int, dict[str, str | None]]] = {}
        self.shape = shape(id="integer", name="text", big="text", n="numeric(10,2)")

    def _row(self, key):
        chance = self.chance
        return {
            "id": str(key),
            "name": chance.choice([None, "", "a'b", "NULL", "x\ny", f"n{chance.randrange(99)}"]),
            "big": chance.choice([None, f"big-{chance.randrange(9999)}"]),
            "n": chance.choice([None, f"{chance.randrange(9999) / 100:.2f}"]),
        }

    def batch(self, transactions, *, again=0.03, truncates=0.02):
        """The changes of some transactions, or a snapshot."""
        found = []
        for _ in range(transactions):
            self.lsn += self.chance.randrange(1, 5)
            said = []
            if self.chance.random() < again:
                self._snapshot(said)
            else:
                for _ in range(self.chance.choice([1, 1, 1, 2, 3, 6])):
                    self._step(said, truncates)
            # A server's clock may be set back.
            at = START + timedelta(seconds=self.lsn - (200 if self.chance.random() < 0.05 else 0))
            for seq, one in enumerate(said, start=1):
                found.append(change(lsn=self.lsn, seq=seq, at=at, **one))
            self.states[self.lsn] = {k: dict(row) for k, row in self.rows.items()}
        return found

    def _snapshot(self, said):
        said.append({"op": "s"})
        if self.chance.random() < 0.7:
            # Changes that the log has missed.
            for _ in range(3):
                self._step([], 0)
        said.extend({"op": "r", "after": dict(row)} for row in self.rows.values())

    def _step(self, said, truncates):
        chance = self.chance
        if chance.random() < truncates:
            self.rows.clear()
            said.append({"op": "t"})
            return
        key = chance.randrange(self.keys)
        row = self.rows.get(key)
        if row is None:
            self.rows[key] = self._row(key)
            said.append({"op": "c", "after": dict(self.rows[key])})
        elif chance.random() < 0.25:
            del self.rows[key]
            said.append({"op": "d", "before": {"id": str(key)}})
        elif chance.random() < 0.15 and (free := [k for k in range(self.keys) if k not in self.rows]):
            other = chance.choice(free)
            self.rows[other] = self.rows.pop(key) | {"id": str(other)}
            said.append({"op": "d", "before": {"id": str(key)}})
            said.append({"op": "c", "after": dict(self.rows[other])})
        else:
            self._update(said, row, key)

    def _update(self, said, row, key):
        new = self._row(key)
        same = [c for c in ("big", "name") if self.chance.random() < 0.4]
        new |= {c: row[c] for c in same}
        row.update(new)
        after = {c: v for c, v in new.items() if c not in same}
        said.append({"op": "u", "after": after, "unchanged": same or None})
