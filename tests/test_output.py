"""Results written out: bytes of every format, streams that stop, files that are whole or absent."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
import unicodedata
from pathlib import Path

import duckdb
import pyarrow
import pyarrow.ipc
import pytest
from wcwidth import wcswidth

from meshql.catalog.model import Catalog
from meshql.errors import QueryError, StorageError, UsageError
from meshql.mesh import Mesh
from meshql.output import FORMATS, format_of, write
from meshql.output.files import discard_unfinished
from meshql.output.table import html_table, text_table
from meshql.output.visible import clipped, visible, width_of

GOLDEN = Path(__file__).parent / "golden"

FILES = [
    "x.csv",
    "x.tsv",
    "x.json",
    "x.jsonl",
    "x.md",
    "x.txt",
    "x.parquet",
    "x.arrow",
    "x.arrows",
    "x.csv.gz",
    "x.json.zst",
]

STREAMED = ["table", "csv", "tsv", "json", "jsonl", "markdown", "vertical", "arrow"]

PROGRAM = """
import sys
from meshql.catalog.model import Catalog
from meshql.mesh import Mesh
from meshql.output import write
mesh = Mesh(Catalog(root=".", digest=""), settings={"arrow_lossless_conversion": "true"})
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(Catalog(root=".", digest=""), settings={"arrow_lossless_conversion": "true"}) as mesh:
        yield mesh


@pytest.fixture
def types(mesh):
    """A result with rows of every type, from a session whose time zone is Berlin's."""
    session = mesh.session()
    script = "SET TimeZone = 'Europe/Berlin';" + (GOLDEN / "types.sql").read_text("utf-8")
    for statement in session.parse(script):
        result = session.run(statement)
    yield result
    session.close()


def out(result, format_name, **options):
    stream = io.BytesIO()
    written = write(result, stream, format_name, **options)
    return stream.getvalue(), written


def text(mesh, sql, format_name, **options):
    return out(mesh.sql(sql), format_name, **options)[0].decode()


def check_golden(name, data):
    path = GOLDEN / name
    if os.environ.get("WRITE_GOLDEN"):
        path.write_bytes(data)
    assert data == path.read_bytes()


class Batches:
    """What `write` reads of a Result, one batch after the other, with a last word."""

    columns = ("a", "b")
    types = ("BIGINT", "VARCHAR")
    schema = pyarrow.schema([("a", pyarrow.int64()), ("b", pyarrow.string())])

    def __init__(self, count, *, rows=10, end=None, log=None):
        self.count, self.rows, self.end = count, rows, end
        self.log = [] if log is None else log

    def __iter__(self):
        for number in range(self.count):
            self.log.append(f"batch {number}")
            values = [list(range(self.rows)), [f"value {number}"] * self.rows]
            yield pyarrow.RecordBatch.from_arrays([pyarrow.array(v) for v in values], schema=self.schema)
        if self.end:
            raise self.end

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.log.append("closed")


# Bytes


@pytest.mark.parametrize("format_name", [f for f in FORMATS if f not in {"parquet", "arrow"}])
def test_every_type_has_its_bytes(types, format_name):
    data, written = out(types, format_name)
    check_golden(f"types.{format_name}", data)
    assert (written.rows, written.truncated, written.closed) == (3, False, False)


def test_every_type_reads_back_from_parquet(types, tmp_path):
    path = tmp_path / "types.parquet"
    write(types, path)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'Europe/Berlin'")
        schema = db.sql(f"DESCRIBE FROM '{path}'").fetchall()
        cells = db.sql(f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM '{path}'").fetchall()
    read = [[name, kind, *(row[i] for row in cells)] for i, (name, kind, *_) in enumerate(schema)]
    check_golden("types.parquet.json", _lines(read))


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("x.arrow", pyarrow.ipc.open_file),
        ("x.feather", pyarrow.ipc.open_file),
        ("x.arrows", pyarrow.ipc.open_stream),
    ],
)
def test_every_type_reads_back_from_arrow(types, tmp_path, name, reader):
    write(types, tmp_path / name)
    table = reader(pyarrow.memory_map(str(tmp_path / name))).read_all()
    read = [
        [field.name, str(field.type), *map(str, _storage(column).to_pylist())]
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    check_golden("types.arrow.json", _lines(read))


def _storage(column):
    """Integers for times: Python has none that hold infinity."""
    kind = column.type
    if pyarrow.types.is_timestamp(kind):
        return column.cast(pyarrow.int64())
    return column.cast(pyarrow.int32()) if pyarrow.types.is_date(kind) else column


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("format_name", ["csv", "tsv", "json", "jsonl", "markdown", "table"])
def test_a_file_holds_the_bytes_of_the_stream(types, tmp_path, format_name):
    write(types, tmp_path / "file", format_name)
    assert (tmp_path / "file").read_bytes() == (GOLDEN / f"types.{format_name}").read_bytes()


@pytest.mark.parametrize(
    ("format_name", "expected"),
    [
        ("table", "┌───┬───┐\n│ a │ b │\n├───┼───┤\n└───┴───┘\n(0 rows)\n"),
        ("csv", "a,b\n"),
        ("tsv", "a\tb\n"),
        ("json", "[]\n"),
        ("jsonl", ""),
        ("markdown", "| a | b |\n| ---: | --- |\n"),
        ("vertical", "(0 rows)\n"),
    ],
)
def test_no_rows(mesh, format_name, expected):
    assert text(mesh, "SELECT 1 AS a, 'x' AS b WHERE false", format_name) == expected


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_no_rows_in_binary(mesh, tmp_path, name):
    write(mesh.sql("SELECT 1::HUGEINT AS a, 'x' AS a WHERE false"), tmp_path / name)
    if name == "x.parquet":
        kinds = duckdb.sql(
            f"SELECT column_name, column_type FROM (DESCRIBE FROM '{tmp_path / name}')"
        ).fetchall()
        assert kinds == [("a", "DECIMAL(38,0)"), ("a_1", "VARCHAR")]
    else:
        table = pyarrow.ipc.open_file(tmp_path / name).read_all()
        assert (table.num_rows, table.schema.names) == (0, ["a", "a_1"])


@pytest.mark.parametrize(
    ("format_name", "expected"),
    [
        ("table", "┌───┬───┬───┐\n│ a │ a │ A │\n├───┼───┼───┤\n│ 1 │ 2 │ 3 │\n└───┴───┴───┘\n"),
        ("csv", "a,a,A\n1,2,3\n"),
        ("tsv", "a\ta\tA\n1\t2\t3\n"),
        ("json", '[{"a":1,"a_1":2,"A_2":3}]\n'),
        ("jsonl", '{"a":1,"a_1":2,"A_2":3}\n'),
        ("markdown", "| a | a | A |\n| ---: | ---: | ---: |\n| 1 | 2 | 3 |\n"),
        ("vertical", "── row 1 ──\na  1\na  2\nA  3\n"),
    ],
)
def test_names_that_stand_twice(mesh, format_name, expected):
    assert text(mesh, "SELECT 1 AS a, 2 AS a, 3 AS A", format_name) == expected


def test_a_number_behind_a_name_is_not_taken_yet(mesh):
    assert text(mesh, "SELECT 1 AS a, 2 AS a_1, 3 AS a", "jsonl") == '{"a":1,"a_1":2,"a_2":3}\n'


def test_odd_names(mesh):
    sql = """SELECT 1 AS " ", 2 AS "it's ""x"", y", 3 AS "select", 4 AS "new
line" """
    assert text(mesh, sql, "csv") == ' ,"it\'s ""x"", y",select,"new\nline"\n1,2,3,4\n'
    assert json.loads(text(mesh, sql, "json")) == [{" ": 1, 'it\'s "x", y': 2, "select": 3, "new\nline": 4}]
    assert "│ new\\nline │" in text(mesh, sql, "table")
    assert text(mesh, sql, "vertical").splitlines()[1] == " " * 13 + "1"


def test_null_and_the_empty_text_differ(mesh):
    sql = "SELECT * FROM (VALUES (NULL, 1), ('', 2), ('NULL', 3)) AS t(v, n)"
    assert text(mesh, sql, "csv") == 'v,n\n,1\n"",2\nNULL,3\n'
    assert text(mesh, sql, "csv", null="NULL") == 'v,n\nNULL,1\n,2\n"NULL",3\n'
    assert "∅" in text(mesh, sql, "table", null="∅")


def test_json_keeps_numbers_exact(mesh):
    sql = "SELECT 170141183460469231731687303715884105727::HUGEINT h, 0.10::DECIMAL(38,2) d, 'inf'::DOUBLE i"
    expected = '{"h":170141183460469231731687303715884105727,"d":0.10,"i":Infinity}\n'
    assert text(mesh, sql, "jsonl") == expected


def test_json_columns_stay_json_without_lossless_arrow():
    with Mesh(Catalog(root=".", digest=""), settings={"arrow_lossless_conversion": "false"}) as mesh:
        sql = """SELECT '{"a": [1]}'::JSON AS j, ['{"b": 1}'::JSON] AS l, 1::HUGEINT AS h"""
        assert text(mesh, sql, "jsonl") == '{"j":{"a":[1]},"l":[{"b":1}],"h":1}\n'


@pytest.mark.parametrize("value", ["'10'::BIT", "['12:00:00+01'::TIMETZ]", "{'u': 1::UHUGEINT}"])
def test_what_arrow_would_lose_is_an_error(value):
    with Mesh(Catalog(root=".", digest=""), settings={"arrow_lossless_conversion": "false"}) as mesh:
        with pytest.raises(QueryError, match="column v: Arrow has no"):
            text(mesh, f"SELECT {value} AS v", "table")
        assert text(mesh, f"SELECT CAST({value} AS VARCHAR) AS v", "csv").startswith("v\n")


def test_a_number_too_long_for_parquet_says_what_to_do(mesh, tmp_path):
    sql = "SELECT 170141183460469231731687303715884105727::HUGEINT AS h"
    with pytest.raises(QueryError, match="cast the column to VARCHAR"):
        write(mesh.sql(sql), tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_many_rows_keep_their_order(mesh, tmp_path):
    for name in ["x.parquet", "x.csv.gz", "x.csv.zst", "x.jsonl.gz", "x.json.zst"]:
        written = write(mesh.sql("SELECT i, 'v' || i AS v FROM range(450000) AS r(i)"), tmp_path / name)
        assert written.rows == 450_000
        rows = duckdb.sql(f"SELECT i, v FROM '{tmp_path / name}'").fetchnumpy()
        assert rows["i"].tolist() == list(range(450_000))
        assert rows["v"][-1] == "v449999"


def test_json_of_several_batches_is_one_array(mesh):
    data = text(mesh, "SELECT E'new\\nline' AS v, i FROM range(250000) AS r(i)", "json")
    rows = json.loads(data)
    assert [rows[0], len(rows)] == [{"v": "new\nline", "i": 0}, 250_000]
    assert data.count("\n") == 250_000


# Text for people


def test_columns_align_whatever_their_width(mesh):
    sql = "SELECT unnest(['a', '日本語', '👩‍👩‍👧', 'e\u0301', '🇩🇪', '❤️', NULL]) AS \"名\", 1.5 AS n"
    lines = text(mesh, sql, "table").splitlines()
    assert len({wcswidth(line) for line in lines}) == 1


@pytest.mark.parametrize("format_name", ["table", "vertical", "markdown"])
def test_nothing_in_the_data_moves_the_cursor(mesh, format_name):
    codes = [*range(1, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x202E, 0x2028, 0x2066, 0x2069, 0xFEFF]
    sql = f"SELECT chr(code) || 'x' AS v FROM (SELECT unnest({codes}) AS code)"
    shown = text(mesh, sql, format_name)
    kinds = {unicodedata.category(c) for c in shown.replace("\n", "")}
    assert kinds.isdisjoint({"Cc", "Cf", "Zl", "Zp"})
    rows = [line for line in shown.splitlines() if "x" in line]
    assert len(rows) == len(codes)


def test_escapes_are_visible():
    assert visible("a\x1b[31m\n\t\r\x85\u202e") == r"a\x1b[31m\n\t\r\x85\u202e"
    assert visible("👩‍👩‍👧 日本") == "👩‍👩‍👧 日本"


@pytest.mark.parametrize("width", [20, 33, 47, 80, 200])
def test_a_table_fits_its_terminal(mesh, width):
    sql = "SELECT 1 AS id, repeat('日本', 30) AS wide, repeat('x', 70) AS long, 'short' AS s, 12345678 AS n"
    lines = text(mesh, sql, "table", width=width).splitlines()
    assert max(wcswidth(line) for line in lines if not line.startswith("(")) <= width
    assert "…" in lines[3]


def test_columns_without_room_are_counted(mesh):
    columns = ", ".join(f"'value {i}' AS name_{i}" for i in range(30))
    lines = text(mesh, f"SELECT {columns}", "table", width=80).splitlines()
    assert lines[-1] == "(8 of 30 columns shown)"
    assert all(line.endswith(end) for line, end in zip(lines[1:4:2], ["│ … │"] * 2, strict=True))


def test_nothing_is_cut_without_a_width(mesh):
    assert "x" * 5000 in text(mesh, "SELECT repeat('x', 5000) AS v UNION ALL SELECT 'y'", "table")


def test_a_cell_behind_the_first_ten_thousand_rows_is_whole_or_visibly_cut(mesh):
    sql = "SELECT CASE WHEN i = 19000 THEN repeat('x', 50) ELSE 'y' END AS v FROM range(20000) AS r(i)"
    assert "│ " + "x" * 50 + " │" in text(mesh, sql, "table")
    assert "│ … │" in text(mesh, sql, "table", width=80)


def test_clipped_counts_columns_of_the_terminal():
    assert clipped("日本語", 6) == "日本語"
    assert clipped("日本語", 5) == "日本…"
    assert clipped("日本語", 4) == "日…"
    assert clipped("abc", 1) == "…"
    assert width_of(clipped("👩‍👩‍👧" * 5, 7)) <= 7


@pytest.mark.parametrize("format_name", ["table", "vertical", "markdown", "csv", "tsv"])
def test_no_line_ends_in_spaces(mesh, format_name):
    sql = "SELECT '' AS a, 'x' AS bb, NULL AS c UNION ALL SELECT 'long', '', 1"
    assert not [li for li in text(mesh, sql, format_name).splitlines() if li.endswith(" ")]


def test_markdown_escapes_markup(mesh):
    sql = r"SELECT unnest(['a|b', E'x\\y', '*b* _i_ a_b', '[t](u) [1, 2]', '<i>', '&lt; & b', E'1\n2'])"
    rows = text(mesh, sql + " AS v", "markdown").splitlines()[2:]
    assert [row[2:-2] for row in rows] == [
        r"a\|b",
        r"x\\y",
        r"\*b\* \_i\_ a_b",
        r"[t\](u) [1, 2]",
        r"\<i>",
        r"\&lt; & b",
        "1<br>2",
    ]


def test_html_is_escaped_and_says_how_many_rows(mesh):
    result = mesh.sql("""SELECT '<b>"' AS "<n>", NULL AS z, E'\\x1b' AS e FROM range(3)""")
    table, more = result.head(2)
    shown = html_table(result.columns, result.types, table, more=more)
    assert "<caption>the first 2 rows; more follow</caption>" in shown
    assert "&lt;n&gt;</th>" in shown
    assert "&lt;b&gt;&quot;</td>" in shown
    assert "<i>NULL</i>" in shown
    assert "\x1b" not in shown
    assert "<caption>1 row</caption>" in html_table(result.columns, result.types, table.slice(0, 1))


def test_a_table_of_an_arrow_table(mesh):
    result = mesh.sql("SELECT 1 AS a, 'x' AS a")
    table, _ = result.head(5)
    expected = "┌───┬───┐\n│ a │ a │\n├───┼───┤\n│ 1 │ x │\n└───┴───┘"
    assert text_table(result.columns, result.types, table) == expected


# Limits


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(("limit", "rows"), [(None, 3), (0, 0), (2, 2), (3, 3), (4, 3)])
def test_a_limit_says_whether_there_was_more(mesh, format_name, limit, rows):
    _, written = out(mesh.sql("FROM range(3)"), format_name, limit=limit)
    assert (written.rows, written.truncated) == (rows, rows < 3)


def test_a_limit_between_batches(mesh):
    for limit, truncated in [(100_000, True), (200_000, False), (150_000, True)]:
        data, written = out(mesh.sql("FROM range(200000)"), "csv", limit=limit)
        assert (written.rows, written.truncated) == (limit, truncated)
        assert data.count(b"\n") == limit + 1


def test_a_limit_ends_the_query(mesh):
    assert out(mesh.sql("FROM range(1000000000000)"), "csv", limit=1)[0] == b"range\n0\n"


# Streams


@pytest.mark.parametrize("format_name", STREAMED)
def test_rows_flow_before_the_query_ends(format_name):
    log = []

    class Stream(io.BytesIO):
        def write(self, data):
            log.append("bytes")
            return super().write(data)

    write(Batches(3, log=log), Stream(), format_name)
    assert log.index("bytes") < log.index("batch 1")
    assert "bytes" in log[log.index("batch 1") : log.index("batch 2")]
    assert log[-1] == "closed"


@pytest.mark.parametrize("format_name", STREAMED)
def test_a_reader_that_goes_away_ends_the_query(format_name):
    program = PROGRAM + textwrap.dedent(f"""
        result = mesh.sql("SELECT i, 'value ' || i AS v FROM range(1000000000000) AS r(i)")
        print(write(result, sys.stdout.buffer, {format_name!r}).closed, file=sys.stderr)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout.read(20)
        run.stdout.close()
        assert run.stderr.read() == b"True\n"
        assert run.wait(60) == 0


def test_a_full_disk_is_a_storage_error(mesh):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(StorageError, match="No space left"):
        write(mesh.sql("FROM range(10)"), "/dev/full", "csv")


def test_a_device_stays_a_device(mesh):
    write(mesh.sql("FROM range(10)"), "/dev/null", "csv")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path, format_name):
    program = PROGRAM + textwrap.dedent(f"""
        import resource
        sql = "SELECT i, i * 1.5 AS x, 'customer ' || i AS name, i % 7 AS k, now() AS t FROM range({{}}) AS r(i)"
        for rows in (500_000, 5_000_000):
            write(mesh.sql(sql.format(rows)), "x", {format_name!r})
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """)
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True)
    few, many = map(int, ran.stdout.split())
    assert many - few < 100_000


# Files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), QueryError("no more")])
def test_what_fails_leaves_no_file(tmp_path, name, error):
    (tmp_path / name).write_text("before")
    with pytest.raises(type(error)) as raised:
        write(Batches(3, end=error), tmp_path / name)
    assert raised.value is error
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "before"


@pytest.mark.parametrize("name", FILES)
def test_a_query_that_fails_half_way_leaves_no_file(tmp_path, name):
    sql = "SELECT CASE WHEN i = 250000 THEN error('half way') ELSE i END AS v FROM range(300000) AS r(i)"
    # On several threads DuckDB now and then says of such a query only that it was interrupted.
    settings = {"threads": "1", "arrow_lossless_conversion": "true"}
    with (
        Mesh(Catalog(root=".", digest=""), settings=settings) as mesh,
        pytest.raises(QueryError, match="half way"),
    ):
        write(mesh.sql(sql), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_ctrl_c_leaves_no_file(tmp_path, name):
    program = PROGRAM + textwrap.dedent(f"""
        write(mesh.sql("SELECT i, 'value ' || i AS v FROM range(1000000000000) AS r(i)"), {name!r})
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "out").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path / "out", env=environment, stderr=subprocess.PIPE
    )
    while not any(p.stat().st_size for p in (tmp_path / "out").iterdir()):
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert said.rstrip().endswith(b"KeyboardInterrupt")
    assert [*(tmp_path / "out").iterdir(), *(tmp_path / "tmp").iterdir()] == []


def test_a_process_that_leaves_at_once_can_clean_up(tmp_path):
    class Hanging(Batches):
        def __iter__(self):
            yield from super().__iter__()
            seen.extend(p.suffix for p in tmp_path.iterdir())
            discard_unfinished()
            seen.extend(p.suffix for p in tmp_path.iterdir())
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        write(Hanging(1), tmp_path / "x.csv")
    assert seen == [".partial"]


def test_a_file_that_is_replaced_keeps_its_mode_and_its_links(mesh, tmp_path):
    (tmp_path / "real.csv").touch()
    (tmp_path / "real.csv").chmod(0o640)
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(mesh.sql("SELECT 1 AS a"), tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "a\n1\n"
    assert stat.S_IMODE((tmp_path / "real.csv").stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_any_other(mesh, tmp_path):
    (tmp_path / "other").touch()
    write(mesh.sql("SELECT 1 AS a"), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_paths_that_cannot_be_written(mesh, tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        write(mesh.sql("SELECT 1"), tmp_path, "csv")
    with pytest.raises(UsageError, match="there is no folder"):
        write(mesh.sql("SELECT 1"), tmp_path / "no" / "x.csv")


def test_compression_follows_the_suffix(mesh, tmp_path):
    write(mesh.sql("SELECT 1 AS a"), tmp_path / "x.out.gz", "jsonl")
    assert gzip.decompress((tmp_path / "x.out.gz").read_bytes()) == b'{"a":1}\n'


def test_parquet_goes_to_a_stream_too(mesh):
    data, _ = out(mesh.sql("FROM range(10)"), "parquet")
    assert data[:4] == data[-4:] == b"PAR1"


# Names of formats


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("a.b.CSV", "csv"),
        ("a.tsv.gz", "tsv"),
        ("a.ndjson", "jsonl"),
        ("a.jsonl.zst", "jsonl"),
        ("a.json", "json"),
        ("a.md", "markdown"),
        ("a.txt", "table"),
        ("folder.csv/a.parquet", "parquet"),
        ("a.arrow", "arrow"),
        ("a.arrows", "arrow"),
        ("a.feather", "arrow"),
    ],
)
def test_suffixes(name, expected):
    assert format_of(name) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.parqet", "did you mean .parquet"),
        ("a", "known are .csv .tsv"),
        ("a.gz", "known are"),
        (".csv", "known are"),
        ("a.xlsx", "--format"),
        ("a.parquet.gz", "name it a.parquet"),
    ],
)
def test_unknown_suffixes(name, said):
    with pytest.raises(UsageError) as raised:
        format_of(name)
    assert said in str(raised.value)


def test_unknown_formats(mesh):
    with pytest.raises(UsageError, match=r"unknown format jsn\nhint: did you mean json"):
        write(mesh.sql("SELECT 1"), io.BytesIO(), "jsn")


def test_importing_output_imports_no_engine():
    program = "import sys, meshql.output; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert {"duckdb", "pyarrow", "wcwidth"}.isdisjoint(loaded.split())
