"""Delta tables whose log the delta extension cannot fetch: read file by file, as it would read them."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import stat
import struct
import tempfile
import uuid
import zlib
from dataclasses import replace
from decimal import Decimal
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from clouds.bearer import bearer_front
from clouds.fixtures import plain_duckdb
from deltalake import DeltaTable, write_deltalake

import meshql
from meshql.catalog.connections import LocalConnection
from meshql.catalog.model import Product
from meshql.errors import CatalogError, CorruptError
from meshql.formats import delta
from meshql.identity.credentials import Public
from meshql.storage.location import Location
from meshql.storage.store import open_store


class Reading:
    """One table, read by its files and by delta_scan."""

    def __init__(self, con, root, copies):
        self.root, self.copies = root, copies
        self.location = replace(Location.parse(str(root)), native=False)
        self.product = Product(name="t.t", location=str(root), format="delta")
        self.con = con
        self.store = open_store(
            LocalConnection(cloud="local"), Public(), self.location, copies=lambda: copies
        )
        self.snapshot = None

    def resolve(self):
        self.snapshot = delta.resolve(self.product, self.location, self.store, self.snapshot)
        self.con.execute(self.snapshot.preflight).fetchall()
        return self.snapshot

    def ask(self, text):
        return self.con.execute(text).fetchall()

    def both(self, tail="", columns="*"):
        """The rows and types of a SELECT over the files and over delta_scan."""
        scan = f"delta_scan('{self.root}', version => {self.snapshot.version})"
        return tuple(self._shown(f"SELECT {columns} FROM {r} {tail}") for r in (self.snapshot.relation, scan))

    def _shown(self, text):
        types = [(n, str(t)) for n, t, *_ in self.ask(f"DESCRIBE {text}")]
        return types, sorted(map(repr, self.ask(f"SELECT COLUMNS(*)::VARCHAR FROM ({text})")))

    def same(self, *tails):
        """Both ways give the same rows, names and types, for each of these WHERE clauses and for none."""
        for tail in ("", *(f"WHERE {t}" for t in tails)):
            mine, natives = self.both(tail)
            assert mine == natives, tail
        return len(self.both()[0][1])

    def scans(self, tail, columns="count(*)"):
        """How many files a SELECT opens, and the filters within its scans."""
        self.con.execute("SET enable_profiling = 'no_output'")
        self.con.execute(f"SELECT {columns} FROM {self.snapshot.relation} {tail}").fetchall()
        profile = json.loads(self.con.get_profiling_information(format="json"))
        self.con.execute("PRAGMA disable_profiling")
        nodes, found = [profile], []
        while nodes:
            node = nodes.pop()
            nodes += node["children"]
            if node.get("operator_type") == "TABLE_SCAN":
                found.append(node["extra_info"])
        return sum(int(f["Total Files Read"]) for f in found), [f.get("Filters") for f in found]


@pytest.fixture(scope="module")
def con():
    """One DuckDB with extensions for all tests."""
    with plain_duckdb() as con:
        yield con


@pytest.fixture
def reading(con, tmp_path):
    """A function that begins to read a table."""
    con.execute("SET TimeZone = 'UTC'")
    copies = tmp_path / "copies"
    copies.mkdir()

    def begin(root):
        one = Reading(con, root, copies)
        one.resolve()
        return one

    return begin


def field(name, kind, physical=None, number=None):
    metadata = {}
    if physical:
        metadata = {"delta.columnMapping.physicalName": physical, "delta.columnMapping.id": number}
    return {"name": name, "type": kind, "nullable": True, "metadata": metadata}


def structure(*fields):
    return {"type": "struct", "fields": list(fields)}


def by_hand(root, fields, files=(), partitions=(), features=(), configuration=None, reader=None):
    """Write a table of one commit; `files` are paths, Arrow tables or SQL, and partition values."""
    reader = reader or (3 if features else 1)
    protocol = {"minReaderVersion": reader, "minWriterVersion": 7 if reader == 3 else 2}
    if reader == 3:
        protocol |= {"readerFeatures": list(features), "writerFeatures": list(features)}
    metadata = {
        "id": "1",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(structure(*fields)),
        "partitionColumns": list(partitions),
        "configuration": configuration or {},
        "createdTime": 0,
    }
    actions = [{"protocol": protocol}, {"metaData": metadata}]
    for path, content, values, *vector in files:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            with duckdb.connect() as con:
                con.execute(f"COPY ({content}) TO '{target}' (FORMAT parquet)")
        else:
            pq.write_table(content, target)
        add = {
            "path": quote(path, safe="/="),
            "partitionValues": values,
            "size": target.stat().st_size,
            "modificationTime": 0,
            "dataChange": True,
            "stats": json.dumps({"numRecords": pq.read_metadata(target).num_rows}),
        }
        actions.append({"add": add | ({"deletionVector": vector[0]} if vector else {})})
    log = root / "_delta_log"
    log.mkdir(parents=True, exist_ok=True)
    (log / f"{0:020d}.json").write_text("\n".join(map(json.dumps, actions)))
    return root


VALUES = ["a/b", "x=y", "sp ace", "ünï%2F", "100%", "it's", "NULL", "q?*[1]", "+", "", None]


def test_partition_values_of_every_type(reading, tmp_path):
    days = [dt.date(2026, 1, i + 1) for i in range(len(VALUES) - 1)]
    moments = [dt.datetime(2026, 3, 29, 1, i, 3, 4 * i) for i in range(len(VALUES) - 1)]
    table = pa.table(
        {
            "id": range(len(VALUES)),
            "s": VALUES,
            "d": [*days, None],
            "b": [i % 2 == 0 if i % 3 else None for i in range(len(VALUES))],
            "n": pa.array([None, *range(-3, len(VALUES) - 4)], pa.int16()),
            "dec": pa.array([None, *(Decimal(i) / 4 for i in range(len(VALUES) - 1))], pa.decimal128(10, 2)),
            "ts": pa.array([*moments, None], pa.timestamp("us", tz="UTC")),
            "ntz": pa.array([*moments, None], pa.timestamp("us")),
            "f": [i * 1.25 if i else None for i in range(len(VALUES))],
        }
    )
    write_deltalake(tmp_path / "t", table, partition_by=["s", "d", "b", "n", "dec", "ts", "ntz", "f"])
    one = reading(tmp_path / "t")
    one.con.execute("SET TimeZone = 'Asia/Tokyo'")
    count = one.same(
        "s = 'a/b'",
        "s = 'NULL'",
        "s IS NULL",
        "s > 'b' AND id > 2",
        "d = DATE '2026-01-03'",
        "b",
        "n < 2",
        "dec >= 1.25",
        "ts > TIMESTAMPTZ '2026-03-29 01:03:00+00'",
        "ntz = TIMESTAMP '2026-03-29 01:01:03.000004'",
        "f > 2 OR id = 3",
        "s IS NULL OR dec IS NULL",
        "upper(s) = 'X=Y'",
    )
    assert count == len(VALUES)


@pytest.mark.parametrize("value", VALUES)
def test_one_scan_tells_partitions_by_their_paths(reading, tmp_path, value):
    for i, v in enumerate(("other", value)):
        table = pa.table({"id": [i], "s": pa.array([v], pa.string())})
        write_deltalake(tmp_path / "t", table, mode="append", partition_by=["s"])
    one = reading(tmp_path / "t")
    one.same("s = 'other'", "s IS NULL", "s <> 'other'", "s IS NULL OR s <> 'other'")
    files, _ = one.scans("WHERE s = 'other'")
    assert files == 1
    assert one.snapshot.relation.count("read_parquet") == (2 if value == "" else 1)


def months(root, count=24, **options):
    table = pa.table(
        {
            "id": range(count * 10),
            "name": [f"n{i}" for i in range(count * 10)],
            "year": [2025 + i // 120 for i in range(count * 10)],
            "month": pa.array([i // 10 % 12 + 1 for i in range(count * 10)], pa.int32()),
        }
    )
    write_deltalake(root, table, partition_by=["year", "month"], **options)
    return root


@pytest.mark.parametrize("above", ["t", "year=1999/t", "month=7/t"])
def test_partitions_and_rows_are_pruned(reading, tmp_path, above):
    one = reading(months(tmp_path / above))
    one.same("year = 2026 AND month = 3", "year = 2026 AND id > 170", "month IN (1, 2) AND name < 'n2'")
    assert one.scans("WHERE year = 2026 AND month = 3")[0] == 1
    assert one.scans("WHERE month IN (1, 2) OR year IS NULL")[0] == 4
    files, filters = one.scans("WHERE year = 2026 AND month = 12 AND id > 235", "sum(id)")
    assert files == 1
    assert "id>235" in filters[0]
    estimate = one.ask(f"EXPLAIN SELECT id FROM {one.snapshot.relation}")[0][1]
    assert "240 rows" in estimate


def test_paths_that_tell_nothing_of_partitions(reading, tmp_path):
    files = [
        ("a1/x.parquet", "SELECT 1 AS id", {"p": "one", "q": "1"}),
        ("p=two/x.parquet", "SELECT 2 AS id", {"p": "three", "q": "2"}),
        ("p=three/q=2/y.parquet", "SELECT 3 AS id", {"p": "three", "q": None}),
        ("p=NULL/z z%20.parquet", "SELECT 4 AS id", {"p": None, "q": "3"}),
        ("ü/w.parquet", "SELECT 5 AS id", {"p": "it's", "q": "3"}),
    ]
    fields = [field("p", "string"), field("id", "integer"), field("q", "date")]
    files = [(path, sql, v | {"q": v["q"] and f"2026-01-0{v['q']}"}) for path, sql, v in files]
    one = reading(by_hand(tmp_path / "t", fields, files, ["p", "q"]))
    assert (
        one.same("p = 'three'", "p IS NULL", "q IS NULL", "q > DATE '2026-01-01' AND id < 5", "p = 'two'")
        == 5
    )
    assert one.scans("WHERE p = 'three'")[0] == 2
    assert one.scans("WHERE q = DATE '2026-01-02'")[0] == 1


def test_a_table_without_files_has_its_columns(reading, tmp_path):
    fields = [field("id", "long"), field("p", "string"), field("s", structure(field("a b", "date")))]
    one = reading(by_hand(tmp_path / "t", fields, partitions=["p"]))
    assert one.same("id = 1", "p = 'x'") == 0
    assert one.snapshot.files == 0


def test_a_table_with_nothing_but_partitions(reading, tmp_path):
    files = [(f"p={p}/f.parquet", f"SELECT 1 AS other FROM range({p})", {"p": str(p)}) for p in (2, 3)]
    one = reading(by_hand(tmp_path / "t", [field("p", "long")], files, ["p"]))
    assert one.same("p = 2", "p > 5") == 5


def test_schemas_that_grew(reading, tmp_path):
    root = tmp_path / "t"
    first = pa.table({"id": [1, 2], "s": [{"a": 1}, None], "l": [[{"x": 1}], []]})
    more = pa.table(
        {
            "id": [3],
            "s": [{"a": 2, "b": {"c": "deep"}}],
            "l": [[{"x": 2, "y": 2.5}]],
            "new": pa.array([dt.datetime(2026, 1, 1)], pa.timestamp("us", tz="UTC")),
            "m": pa.array([[("k", {"v": 1})]], pa.map_(pa.string(), pa.struct({"v": pa.int64()}))),
        }
    )
    write_deltalake(root, first)
    write_deltalake(root, more, mode="append", schema_mode="merge")
    one = reading(root)
    assert (
        one.same(
            "id > 1",
            "new IS NULL",
            "s.a = 2",
            "s.b.c = 'deep'",
            "s IS NULL",
            "len(l) = 0",
            "new > '2025-01-01'",
        )
        == 3
    )


def test_columns_with_names_of_the_scan(reading, tmp_path):
    row = "SELECT i AS id, 'mine' || i AS filename, i AS file_row_number, i AS file_index, i AS \"Odd Näme\" FROM range(3) t(i)"
    fields = [
        *(field(n, "long") for n in ("id", "file_row_number", "file_index", "Odd Näme")),
        field("filename", "string"),
    ]
    files = [(f"File=1/p={p}/f.parquet", row, {"p": p}) for p in "xy"]
    one = reading(by_hand(tmp_path / "t", [*fields, field("p", "string")], files, ["p"]))
    assert (
        one.same("filename = 'mine1'", "file_row_number = 2 AND p = 'x'", '"Odd Näme" > 0', "file_index = 1")
        == 6
    )
    assert one.scans("WHERE p = 'x' AND filename = 'mine1'")[0] == 1


def test_widened_types(reading, tmp_path):
    narrow = "SELECT i::INT AS a, i::SMALLINT AS b, i::FLOAT / 4 AS c, i::DECIMAL(8, 2) AS d, DATE '2026-01-01' + i::INT AS e, {'x': i::INT} AS s FROM range(5) t(i)"
    wide = "SELECT (i + 1099511627776)::BIGINT AS a, i::INT + 70000 AS b, i::DOUBLE / 3 AS c, i::DECIMAL(12, 4) AS d, TIMESTAMP '2026-02-01' + INTERVAL (i) HOUR AS e, {'x': i::BIGINT} AS s FROM range(5) t(i)"
    kinds = {
        "a": "long",
        "b": "integer",
        "c": "double",
        "d": "decimal(12,4)",
        "e": "timestamp_ntz",
        "s": structure(field("x", "long")),
    }
    fields = [field(*pair) for pair in kinds.items()]
    files = [("n.parquet", narrow, {}), ("w.parquet", wide, {})]
    one = reading(by_hand(tmp_path / "t", fields, files, features=["typeWidening", "timestampNtz"]))
    assert (
        one.same(
            "a > 1000000",
            "a < 3",
            "b >= 70000",
            "c < 0.5",
            "d = 2",
            "e > '2026-01-31'",
            "e < '2026-01-03'",
            "s.x = 2",
        )
        == 10
    )


def test_columns_mapped_by_name(reading, tmp_path):
    def inner(i):
        return structure(field("x", "integer", "c-x", i), field("y", "string", "c-y", i + 1))

    fields = [
        field("id", "long", "c-1", 1),
        field("renamed", "string", "was", 2),
        field("was", "long", "c-3", 3),
        field("s", inner(10), "c-s", 4),
        field("l", {"type": "array", "elementType": inner(20), "containsNull": True}, "c-l", 7),
        field(
            "m",
            {"type": "map", "keyType": "string", "valueType": inner(30), "valueContainsNull": True},
            "c-m",
            8,
        ),
        field("p", "string", "c-p", 9),
    ]
    old = "SELECT i AS \"c-1\", 'w' || i AS was, i AS dropped, {'c-x': i::INT} AS \"c-s\" FROM range(3) t(i)"
    new = """SELECT i + 10 AS "c-1", 'w' || i AS was, i * 2 AS "c-3",
        CASE WHEN i > 0 THEN {'c-y': 'y' || i, 'c-x': i::INT} END AS "c-s",
        [{'c-x': 1::INT, 'c-y': 'e'}, NULL] AS "c-l",
        MAP {'k': {'c-x': 1::INT, 'c-y': 'v'}, 'none': NULL} AS "c-m" FROM range(3) t(i)"""
    files = [("c-p=a/o.parquet", old, {"c-p": "a"}), ("c-p=b/n.parquet", new, {"c-p": "b"})]
    mapped = ["columnMapping"], {"delta.columnMapping.mode": "name"}
    plain = [(path, sql, {}) for path, sql, _ in files]
    one = reading(by_hand(tmp_path / "plain", fields[:-1], plain, [], *mapped))
    tails = ["id > 1", "renamed = 'w1'", "was IS NULL", "was = 2", "s.x = 1", "s.y = 'y1'", "s IS NULL"]
    assert one.same(*tails, "l[1].y = 'e'", "m['k'].x = 1", "m['none'] IS NULL") == 6
    # The delta extension has NULL for partition columns of such tables: duckdb-delta's issue 343.
    one = reading(by_hand(tmp_path / "split", fields, files, ["p"], *mapped))
    assert one.ask(f"SELECT p, min(id) FROM {one.snapshot.relation} GROUP BY p ORDER BY p") == [
        ("a", 0),
        ("b", 10),
    ]
    assert one.scans("WHERE p = 'a'")[0] == 1


def test_mapped_partition_columns_are_read_right_on_any_store(tmp_path):
    """The delta extension alone gives NULL for them, in silence."""
    fields = [field("id", "long", "c-1", 1), field("p", "string", "c-p", 2)]
    files = [(f"c-p={p}/f.parquet", 'SELECT 1 AS "c-1"', {"c-p": p}) for p in ("a", "b")]
    mode = {"delta.columnMapping.mode": "name"}
    by_hand(tmp_path / "mapped", fields, files, ["p"], ["columnMapping"], mode)
    write_deltalake(tmp_path / "plain", pa.table({"id": [1], "p": ["a"]}), partition_by=["p"])
    products = [
        {"name": f"local.{name}", "location": str(tmp_path / name), "format": "delta"}
        for name in ("mapped", "plain")
    ]
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"meshql": 1, "products": products}))
    with meshql.connect(tmp_path / "catalog.yaml") as mesh:
        query = "SELECT m.p, p.p FROM local.mapped m LEFT JOIN local.plain p USING (p) ORDER BY ALL"
        for _ in range(2):
            assert mesh.sql(query).fetchall() == [("a", "a"), ("b", None)]
        assert mesh._resolver.snapshot(mesh.catalog.product("local.plain")).log is None


def test_columns_mapped_by_id(reading, tmp_path):
    fields = [field("id", "long", "c-1", 1), field("v", "string", "c-2", 2), field("new", "long", "c-3", 3)]

    def ids(*pairs):
        return pa.schema([pa.field(n, t, metadata={"PARQUET:field_id": str(i)}) for n, t, i in pairs])

    old = pa.table(
        {"x": [1, 2], "c-3": ["a", "b"]}, schema=ids(("x", pa.int64(), 1), ("c-3", pa.string(), 2))
    )
    new = pa.table(
        {"c-2": ["c"], "c-1": [3], "c-3": [30]},
        schema=ids(("c-2", pa.string(), 2), ("c-1", pa.int64(), 1), ("c-3", pa.int64(), 3)),
    )
    files = [("o.parquet", old, {}), ("n.parquet", new, {})]
    one = reading(
        by_hand(tmp_path / "t", fields, files, [], ["columnMapping"], {"delta.columnMapping.mode": "id"})
    )
    assert one.ask(f"FROM {one.snapshot.relation} ORDER BY id") == [
        (1, "a", None),
        (2, "b", None),
        (3, "c", 30),
    ]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_timestamps_as_spark_writes_them(reading, tmp_path, zone):
    times = pa.array([dt.datetime(2026, 3, 29, 1, 30, i) for i in range(3)], pa.timestamp("us", tz="UTC"))
    table = pa.table({"ts": times, "n": times.cast(pa.timestamp("us"))})
    root = by_hand(
        tmp_path / "t",
        [field("ts", "timestamp"), field("n", "timestamp_ntz")],
        [("a.parquet", table, {})],
        [],
        ["timestampNtz"],
    )
    pq.write_table(table, root / "a.parquet", use_deprecated_int96_timestamps=True)
    one = reading(root)
    one.con.execute(f"SET TimeZone = '{zone}'")
    one.same("ts >= '2026-03-29 01:30:01+00'", "n = '2026-03-29 01:30:02'")


def rewritten(root):
    """A table of several versions: appends, a delete, an update, another schema."""
    months(root)
    table = DeltaTable(root)
    table.delete("year = 2025 and month = 2")
    table.update(predicate="id = 5", updates={"name": "'changed'"})
    write_deltalake(root, table.to_pyarrow_table().slice(0, 7), mode="append", partition_by=["year", "month"])
    return root


def checkpoint_parts(root, version):
    """Replace a checkpoint by one of two parts."""
    log = root / "_delta_log"
    whole = log / f"{version:020d}.checkpoint.parquet"
    table = pq.read_table(whole)
    for i, part in enumerate((table.slice(0, 9), table.slice(9))):
        pq.write_table(part, log / f"{version:020d}.checkpoint.{i + 1:010d}.{2:010d}.parquet")
    whole.unlink()
    (log / "_last_checkpoint").write_text(json.dumps({"version": version, "size": len(table), "parts": 2}))


def checkpoint_sidecars(root, version, suffix="json"):
    """Replace a checkpoint by one with sidecars, as the feature v2Checkpoint has them."""
    log = root / "_delta_log"
    whole = log / f"{version:020d}.checkpoint.parquet"
    table = pq.read_table(whole)
    rows = table.to_pylist()
    (log / "_sidecars").mkdir()
    content = table.select(["add", "remove"]).filter(pa.array([bool(r["add"] or r["remove"]) for r in rows]))
    sidecars = []
    for i, part in enumerate((content.slice(0, 9), content.slice(9))):
        path = log / "_sidecars" / f"{i}-side.parquet"
        pq.write_table(part, path)
        sidecars.append(
            {"path": path.name, "sizeInBytes": path.stat().st_size, "modificationTime": 0, "tags": {}}
        )
    metadata = next(r["metaData"] for r in rows if r["metaData"])
    metadata |= {
        "configuration": dict(metadata["configuration"]),
        "format": {"provider": "parquet", "options": {}},
    }
    features = {"readerFeatures": ["v2Checkpoint"], "writerFeatures": ["v2Checkpoint"]}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7} | features
    actions = [
        {"checkpointMetadata": {"version": version, "tags": {}}},
        {"protocol": protocol},
        {"metaData": metadata},
    ]
    actions += [{"sidecar": s} for s in sidecars]
    target = log / f"{version:020d}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.{suffix}"
    target.write_text("\n".join(map(json.dumps, actions)))
    whole.unlink()
    (log / "_last_checkpoint").unlink()


@pytest.mark.parametrize(
    "kind", ["none", "classic", "no hint", "parts", "half a newer", "sidecars", "wrong hint"]
)
def test_logs_with_checkpoints(reading, tmp_path, kind):
    root = rewritten(tmp_path / "t")
    log = root / "_delta_log"
    if kind != "none":
        DeltaTable(root, version=2).create_checkpoint()
        for version in range(3 if kind != "wrong hint" else 0):
            (log / f"{version:020d}.json").unlink()
    match kind:
        case "no hint":
            (log / "_last_checkpoint").unlink()
        case "parts":
            checkpoint_parts(root, 2)
        case "half a newer":
            shutil.copy(
                log / f"{2:020d}.checkpoint.parquet", log / f"{3:020d}.checkpoint.{1:010d}.{2:010d}.parquet"
            )
        case "sidecars":
            checkpoint_sidecars(root, 2)
        case "wrong hint":
            (log / "_last_checkpoint").write_text(json.dumps({"version": 700, "size": 1}))
    one = reading(root)
    assert one.snapshot.version == "3"
    assert one.same("year = 2026 AND month = 3", "name = 'changed'", "id < 7") == 237
    files = delta.contents(one.snapshot, one.store, one.ask)
    assert sorted(f.key for f in files) == sorted(
        str(row[0])[1:] for row in one.ask(f"FROM delta_list_files('{root}', version => 3)")
    )
    assert all(f.bytes == (tmp_path.__class__("/" + f.key)).stat().st_size for f in files)
    details = delta.details(one.snapshot, one.store, one.ask)
    assert (details.files, details.rows, details.bytes) == (len(files), 237, sum(f.bytes for f in files))


def test_new_commits_are_added_to_the_copy(reading, tmp_path):
    root = months(tmp_path / "t")
    one = reading(root)
    first = one.snapshot
    asked = []
    get = one.store.get
    one.store.get = lambda key: asked.append(key.rpartition("/")[2]) or get(key)
    assert one.resolve() is first
    assert asked == []
    DeltaTable(root).delete("year = 2025")
    DeltaTable(root).update(predicate="id = 130", updates={"name": "'x'"})
    second = one.resolve()
    assert asked == [f"{1:020d}.json", f"{2:020d}.json"]
    assert second.log.folder == first.log.folder
    assert one.same("month = 2") == 120
    # What was pinned before still is what it was.
    assert one.ask(f"SELECT count(*) FROM {first.relation}") == [(240,)]
    one.con.execute(first.preflight).fetchall()


def test_a_table_made_anew_is_copied_anew(reading, tmp_path):
    root = months(tmp_path / "t")
    one = reading(root)
    first = one.snapshot
    shutil.rmtree(root)
    write_deltalake(root, pa.table({"other": [1]}))
    write_deltalake(root, pa.table({"other": [2]}), mode="append")
    assert one.resolve().log.folder != first.log.folder
    assert one.same("other = 2") == 2


Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85(data):
    """Base85 as deletion vectors write it: by fours, big end first."""
    data += b"\0" * (-len(data) % 4)
    words = (int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data), 4))
    return "".join(Z85[word // 85**k % 85] for word in words for k in (4, 3, 2, 1, 0))


def bitmap(numbers, runs=False):
    """Numbers below 2**32 as a 64-bit Roaring bitmap, in lists and bits, or in runs."""
    highs = {}
    for n in sorted(numbers):
        highs.setdefault(n >> 16, []).append(n & 0xFFFF)
    count = len(highs)
    heads = b"".join(struct.pack("<HH", high, len(lows) - 1) for high, lows in highs.items())
    bodies = b"".join(_container(lows, runs) for lows in highs.values())
    if runs:
        flags = ((1 << count) - 1).to_bytes((count + 7) // 8, "little")
        inner = (
            struct.pack("<I", 12347 | count - 1 << 16)
            + flags
            + heads
            + b"\0" * (4 * count if count >= 4 else 0)
        )
    else:
        inner = struct.pack("<II", 12346, count) + heads + b"\0" * 4 * count
    return struct.pack("<iqI", 1681511377, 1, 0) + inner + bodies


def _container(lows, runs):
    if runs:
        known = set(lows)
        starts = [n for n in lows if n - 1 not in known]
        ends = [n for n in lows if n + 1 not in known]
        pairs = b"".join(struct.pack("<HH", a, b - a) for a, b in zip(starts, ends, strict=True))
        return struct.pack("<H", len(starts)) + pairs
    if len(lows) <= 4096:
        return struct.pack(f"<{len(lows)}H", *lows)
    return sum(1 << n for n in lows).to_bytes(8192, "little")


def vector(numbers, root=None, prefix="", runs=False):
    """The descriptor of a deletion vector, inline or in a file of the table."""
    data = bitmap(numbers, runs)
    said = {"sizeInBytes": len(data), "cardinality": len(numbers)}
    if root is None:
        return {"storageType": "i", "pathOrInlineDv": z85(data)} | said
    name = uuid.uuid4()
    path = root / prefix / f"deletion_vector_{name}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    framed = struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data))
    # Behind another vector.
    path.write_bytes(b"\x01" + struct.pack(">i", 0) + b"\0" * 4 + framed)
    return {"storageType": "u", "pathOrInlineDv": prefix + z85(name.bytes), "offset": 9} | said


DELETED = {
    "few": [0, 7, 65536, 99999],
    "bits": [n for n in range(100_000) if n % 3],
    "all": range(100_000),
    "none": [],
}


@pytest.mark.parametrize(
    ("numbers", "stored", "runs"),
    [
        ("few", "inline", False),
        ("few", "prefix", True),
        ("bits", "file", False),
        ("bits", "file", True),
        ("all", "inline", True),
        ("all", "prefix", False),
        ("none", "file", False),
    ],
)
def test_deletion_vectors(reading, tmp_path, numbers, stored, runs):
    root = tmp_path / "t"
    gone = list(DELETED[numbers])
    one = vector(gone, None if stored == "inline" else root, "ab" if stored == "prefix" else "", runs)
    row = "SELECT i AS id, 'r' || i % 7 AS file_row_number FROM range(100000) t(i)"
    files = [
        ("p=x/a.parquet", row, {"p": "x"}, one),
        ("p=y/b.parquet", "SELECT -1 AS id, NULL AS file_row_number FROM range(9)", {"p": "y"}),
        ("p=y/c.parquet", row, {"p": "y"}, vector([5])),
    ]
    fields = [field("id", "long"), field("file_row_number", "string"), field("p", "string")]
    read = reading(by_hand(root, fields, files, ["p"], ["deletionVectors"]))
    tails = [
        "",
        "WHERE id < 10",
        "WHERE p = 'x'",
        "WHERE id >= 65536 AND p = 'x'",
        "WHERE file_row_number = 'r5'",
    ]
    for tail in tails:
        mine, natives = read.both(
            tail, "count(*), sum(id), min(id), count(file_row_number), sum(hash(p, id)::INT128)"
        )
        assert mine == natives, tail
    assert read.ask(f"SELECT count(*) FROM {read.snapshot.relation}") == [(200008 - len(gone),)]
    assert delta.details(read.snapshot, read.store, read.ask).rows == 200008 - len(gone)
    assert read.scans("WHERE p = 'x' AND id = 65537")[0] == 2  # with the list of what is gone


@pytest.mark.parametrize("broken", ["checksum", "cut", "gone", "count", "outside"])
def test_deletion_vectors_that_cannot_be_read(reading, tmp_path, broken):
    root = tmp_path / "t"
    one = vector([1, 2], root)
    (path,) = root.glob("*.bin")
    match broken:
        case "checksum":
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "gone":
            path.unlink()
        case "count":
            one["cardinality"] = 3
        case "outside":
            one |= {"storageType": "p", "pathOrInlineDv": "gs://other/deletion_vector.bin"}
    with pytest.raises(CatalogError if broken == "outside" else CorruptError, match="deletion vector"):
        reading(
            by_hand(root, [field("id", "long")], [("a.parquet", ROW, {}, one)], features=["deletionVectors"])
        )
    assert not list((tmp_path / "copies").iterdir())


def test_rows_deleted_one_commit_after_the_other(reading, tmp_path):
    root = tmp_path / "t"
    row = "SELECT i AS id FROM range(10) t(i)"
    by_hand(root, [field("id", "long")], [("a.parquet", row, {})], features=["deletionVectors"])
    one = reading(root)
    (add,) = (
        json.loads(line)["add"]
        for line in (root / "_delta_log" / f"{0:020d}.json").read_text().splitlines()
        if "add" in json.loads(line)
    )
    before = add
    for version, gone in ((1, [3]), (2, [3, 4])):
        after = add | {"deletionVector": vector(gone, root)}
        remove = {k: v for k, v in before.items() if k in ("path", "deletionVector")} | {
            "deletionTimestamp": 0,
            "dataChange": True,
        }
        actions = [{"add": after}, {"remove": remove}]
        (root / "_delta_log" / f"{version:020d}.json").write_text("\n".join(map(json.dumps, actions)))
        one.resolve()
        assert one.same("id > 3") == 10 - len(gone)
        before = after


ROW = "SELECT 1::BIGINT AS id"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"features": ["variantType", "newThing"]}, "uses the Delta features newThing, variantType,"),
        ({"features": ["catalogManaged"]}, "uses the Delta feature catalogManaged,"),
        ({"reader": 4}, "asks for Delta reader version 4"),
        ({"fields": [field("v", "variant")]}, "column v is of type variant"),
        ({"fields": [field("s", structure(field("v", "interval")))]}, "column s is of type interval"),
        (
            {"fields": [field("id", "long"), field("p", "binary")], "partitions": ["p"]},
            "column p is a partition column",
        ),
        (
            {
                "fields": [field("s", structure(field("x", "long", "c-2", 2)), "c-1", 1)],
                "features": ["columnMapping"],
                "configuration": {"delta.columnMapping.mode": "id"},
            },
            "column s is nested in a table that maps columns by id",
        ),
    ],
)
def test_what_is_not_read_exactly_is_refused(reading, tmp_path, table, words):
    table = {"fields": [field("id", "long")]} | table
    with pytest.raises(CatalogError) as raised:
        reading(by_hand(tmp_path / "t", **table))
    assert words in str(raised.value)
    assert "cannot be read with an OAuth token" in str(raised.value)
    assert not list((tmp_path / "copies").iterdir())


@pytest.mark.parametrize(
    "path", ["gs://other/a.parquet", "/tmp/a.parquet", "../a.parquet", "x/../../a.parquet"]
)
def test_files_outside_the_table_are_refused(reading, tmp_path, path):
    root = by_hand(tmp_path / "t", [field("id", "long")], [("a.parquet", ROW, {})])
    log = root / "_delta_log" / f"{0:020d}.json"
    log.write_text(log.read_text().replace('"a.parquet"', json.dumps(path)))
    with pytest.raises(CatalogError, match="outside its folder"):
        reading(root)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (f"{1:020d}.json", b"", "is empty"),
        (f"{1:020d}.json", b"{not json", "not a part of a Delta log"),
        (f"{1:020d}.json", b'{"add": {"path": "x"}}', "version 1 of the Delta log holds what is no action"),
        (f"{2:020d}.json", b'{"txn": {"appId": "a", "version": 1}}', "commit 1 of the Delta log is missing"),
        (f"{1:020d}.checkpoint.parquet", b"PAR1 not really", "not a part of a Delta log"),
    ],
)
def test_logs_that_are_broken_are_not_read(reading, tmp_path, name, content, words):
    root = by_hand(tmp_path / "t", [field("id", "long")], [("a.parquet", ROW, {})])
    (root / "_delta_log" / name).write_bytes(content)
    with pytest.raises(CorruptError, match=words):
        reading(root)


def test_partition_values_that_are_none_of_their_type(reading, tmp_path):
    fields = [field("id", "long"), field("n", "integer")]
    with pytest.raises(CorruptError, match=r"n is no INTEGER: 1\.5"):
        reading(by_hand(tmp_path / "t", fields, [("n=1/a.parquet", ROW, {"n": "1.5"})], ["n"]))


def test_both_readers_have_to_agree(reading, tmp_path):
    root = months(tmp_path / "t")
    one = reading(root)
    commit = one.snapshot.log.folder / "_delta_log" / f"{0:020d}.json"
    lines = commit.read_text().splitlines()
    commit.write_text("\n".join(lines[:-1]))
    with pytest.raises(duckdb.Error, match="finds other files"):
        one.ask(one.snapshot.preflight)
    commit.write_text("\n".join(lines).replace('\\"name\\":\\"id\\"', '\\"name\\":\\"di\\"'))
    with pytest.raises(duckdb.Error, match="finds another schema"):
        one.ask(one.snapshot.preflight)


BUCKET = "by-files"


@pytest.fixture
def front(gcs):
    """The emulated Cloud Storage, for those who show a token."""
    gcs.create_bucket(BUCKET)
    with bearer_front(gcs.endpoint, "good") as front:
        yield front


@pytest.fixture
def published(gcs, tmp_path):
    """A function that copies a folder of this machine into the bucket."""
    return lambda folder: gcs.upload(BUCKET, folder)


@pytest.fixture
def mesh(front, tmp_path, monkeypatch):
    """A mesh of one product, sales.orders, on Cloud Storage with a token."""
    monkeypatch.setenv("GOOGLE_TOKEN", "good")
    auth = {"method": "token", "token": "${GOOGLE_TOKEN}"}
    connection = {"cloud": "gcs", "endpoint": front.endpoint, "auth": auth}
    names = {"sales.orders": "orders"}
    products = [
        {
            "name": name,
            "connection": "c",
            "location": f"gs://{BUCKET}/{tmp_path.name}/{key}",
            "format": "delta",
        }
        for name, key in names.items()
    ]
    (tmp_path / "catalog.yaml").write_text(
        yaml.safe_dump({"meshql": 1, "connections": {"c": connection}, "products": products})
    )
    with meshql.connect(tmp_path / "catalog.yaml", receipts=True) as mesh:
        yield mesh


@pytest.fixture
def orders(tmp_path, published):
    """The table's folder on this machine; call it to publish what was written there."""
    root = tmp_path / "up" / tmp_path.name / "orders"

    def publish():
        published(tmp_path / "up")
        return root

    months(root)
    publish()
    return publish


def fetched(front, ending):
    """The keys that end so and were asked for since the last look."""
    return sorted({path for _, path, _ in front.taken() if path.endswith(ending)})


def march(number):
    month = pa.array([3], pa.int32())
    return pa.table({"id": [number], "name": ["new"], "year": [2026], "month": month})


MARCH = "SELECT count(*), sum(id) FROM sales.orders WHERE year = 2026 AND month = 3"


def test_delta_on_cloud_storage_with_a_token(mesh, front, orders):
    result = mesh.sql(MARCH)
    assert result.fetchall() == [(10, 1445)]
    assert (result.receipt.reads[0].files, result.receipt.reads[0].files_total) == (1, 24)
    (read,) = fetched(front, ".parquet")
    assert "/year=2026/month=3/" in read
    assert mesh.sql(MARCH).fetchall() == [(10, 1445)]
    assert len([path for _, path, query in front.taken() if "_delta_log" in path + query]) == 1
    write_deltalake(orders(), march(1000), mode="append")
    orders()
    assert mesh.sql(MARCH).fetchall() == [(11, 2445)]
    assert [path.rpartition("/")[2] for path in fetched(front, ".json")] == [f"{1:020d}.json"]
    assert front.refused == []


def test_a_statement_keeps_its_version_while_a_commit_lands(mesh, front, orders):
    landed = []

    def land(path):
        if path.endswith(".parquet") and not landed:
            landed.append(path)
            DeltaTable(orders()).delete("year = 2025")
            orders()

    front.before = land
    twice = "SELECT (SELECT count(*) FROM sales.orders), (SELECT count(DISTINCT year) FROM sales.orders)"
    assert mesh.sql(twice).fetchall() == [(240, 2)]
    assert landed
    assert mesh.sql(twice).fetchall() == [(120, 1)]


def test_what_is_told_of_a_table_read_by_its_files(mesh, front, orders):
    orders()
    told = mesh.product("sales.orders")
    assert (told.files, told.rows, told.version) == (24, 240, "0")
    assert told.bytes > 24 * 100
    assert [(c.name, c.type) for c in told.columns][2:] == [("year", "BIGINT"), ("month", "INTEGER")]
    session = mesh.session()
    (statement,) = session.parse(MARCH + " AND id > 5")
    front.taken()
    (planned,) = session.plan(statement).reads
    assert (planned.files, planned.files_total, planned.scans) == (1, 24, 1)
    assert 0 < planned.bytes < planned.bytes_total / 12
    assert sorted(planned.filters[0].split(" AND ")) == ["(month = 3)", "(year = 2026)", "id>5"]
    assert fetched(front, ".parquet") == []
    root = session.explain(statement)
    scan = next(node.scan for node in root.walk() if node.scan)
    assert (scan.product, scan.files, scan.files_total) == ("sales.orders", 1, 24)


def test_what_is_told_of_a_table_read_partition_by_partition(mesh, published, tmp_path):
    files = [(f"{i}.parquet", f"SELECT {i} AS id", {"p": str(i % 4)}) for i in range(9)]
    by_hand(
        tmp_path / "up" / tmp_path.name / "orders",
        [field("id", "integer"), field("p", "string")],
        files,
        ["p"],
    )
    published(tmp_path / "up")
    session = mesh.session()
    for where, most, files in (("p = '1'", 3, 2), ("p IN ('0', '2')", 6, 5), ("id >= 0", 9, 9)):
        (statement,) = session.parse(f"SELECT count(*), any_value(p) FROM sales.orders WHERE {where}")
        (planned,) = session.plan(statement).reads
        assert (planned.files, planned.files_total) == (most, 9)
        result = session.run(statement)
        assert result.fetchall()[0][0] == files
        (read,) = result.receipt.reads
        assert (read.files, read.files_total, read.rows) == (files, 9, files)


def test_copies_are_private_and_go_with_the_mesh(mesh, orders, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    mesh.sql(MARCH).fetchall()
    (folder,) = (tmp_path / "tmp").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("*.json"))
    assert not [path for path in folder.rglob("*") if path.is_file() and b"good" in path.read_bytes()]
    mesh.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_keys_of_every_kind_on_cloud_storage(mesh, front, published, tmp_path):
    root = tmp_path / "up" / tmp_path.name / "orders"
    write_deltalake(root, pa.table({"id": range(len(VALUES)), "s": VALUES}), partition_by=["s"])
    published(tmp_path / "up")
    rows = mesh.sql("SELECT id, s FROM sales.orders ORDER BY id").fetchall()
    assert rows == [(i, value or None) for i, value in enumerate(VALUES)]
    for i, value in enumerate(VALUES[:-2]):
        fetched(front, ".parquet")
        assert mesh.sql("SELECT id FROM sales.orders WHERE s = $s", {"s": value}).fetchall() == [(i,)]
        assert len(fetched(front, ".parquet")) == 1


def test_a_table_that_is_refused_names_its_product(mesh, published, tmp_path):
    root = tmp_path / "up" / tmp_path.name / "orders"
    by_hand(root, [field("id", "long")], features=["rowTracking"])
    published(tmp_path / "up")
    with pytest.raises(CatalogError) as raised:
        mesh.sql("FROM sales.orders")
    assert raised.value.message.startswith("sales.orders: the table uses the Delta feature rowTracking")
    assert "hmac" in raised.value.hint
