"""The command line as a process: streams, files, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet
import pytest
import yaml

MESHQL = [sys.executable, "-m", "meshql"]


@pytest.fixture
def run(retail, tmp_path):
    """A function that runs meshql over the retail catalog, in an empty folder."""

    def run(*arguments, stdin="", code=0, catalog=retail.catalog, **environment):
        done = subprocess.run(
            [*MESHQL, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | {"MESHQL_CATALOG": str(catalog)} | environment,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


COUNT = "SELECT count(*) AS n FROM sales.orders"


def test_sql_comes_from_an_argument_a_file_or_stdin(run, tmp_path):
    (tmp_path / "report.sql").write_text(COUNT)
    expected = "n\n100000\n"
    assert run("query", "-c", COUNT, "-f", "csv").stdout == expected
    assert run("query", "report.sql", "-f", "csv").stdout == expected
    assert run("query", "-", "-f", "csv", stdin=COUNT).stdout == expected
    assert "give the SQL once" in run("query", code=2).stderr
    assert "give the SQL once" in run("query", "report.sql", "-c", COUNT, code=2).stderr
    missing = run("query", "reprot.sql", code=2)
    assert missing.stderr == "meshql: error: no file reprot.sql\n\nhint: did you mean report.sql?\n"


def test_parameters_are_bound_with_their_types(run):
    text = "SELECT typeof($a) AS a, typeof($b) AS b, $c AS c, typeof($d) AS d, typeof($e) AS e"
    values = ["a=5", "b=2.5", "c=007", "d=true", 'e="5"']
    found = run("query", "-c", text, "-f", "json", *(x for v in values for x in ("-p", v)))
    assert json.loads(found.stdout) == [
        {"a": "INTEGER", "b": "DOUBLE", "c": "007", "d": "BOOLEAN", "e": "VARCHAR"}
    ]
    assert "no value for parameter $x" in run("query", "-c", "SELECT $x", code=1).stderr
    unused = run("query", "-c", "SELECT $name", "-p", "nam=1", code=2)
    assert "did you mean name?" in unused.stderr
    assert "write --param name=value" in run("query", "-c", "SELECT 1", "-p", "oops", code=2).stderr


def test_several_statements_share_a_session(run):
    script = """
        CREATE TEMP TABLE web AS SELECT * FROM sales.orders WHERE channel = 'web';
        SELECT count(*) > 0 AS some FROM web;
        SELECT 'done' AS state
    """
    found = run("query", "-", "-f", "jsonl", stdin=script)
    assert [json.loads(line) for line in found.stdout.splitlines()] == [{"some": True}, {"state": "done"}]
    assert "CREATE: " in found.stderr
    assert run("query", "-", "-q", "-f", "jsonl", stdin=script).stderr == ""


def test_a_failing_statement_ends_the_script(run):
    found = run("query", "-", "-f", "csv", stdin="SELECT 1 AS x;\nSELECT nope;\nSELECT 2 AS y", code=1)
    assert found.stdout == "x\n1\n"
    assert "LINE 2: SELECT nope" in found.stderr


def test_a_file_tells_its_format_by_its_suffix(run, tmp_path):
    text = "SELECT channel, count(*) AS n FROM sales.orders GROUP BY ALL ORDER BY ALL"
    for name in ("o.csv", "o.parquet", "o.jsonl", "o.md"):
        found = run("query", "-c", text, "-o", name)
        assert found.stdout == ""
        assert f"4 rows written to {name}" in found.stderr
    assert pyarrow.parquet.read_table(tmp_path / "o.parquet").num_rows == 4
    assert (tmp_path / "o.csv").read_text().startswith("channel,n\n")
    wrong = run("query", "-c", text, "-o", "o.xlxs", code=2)
    assert "o.xlxs" in wrong.stderr
    assert "hint:" in wrong.stderr


def test_one_file_takes_one_result(run, tmp_path):
    script = "SELECT 1 AS x; SELECT 2 AS x"
    assert "o-{n}.csv" in run("query", "-c", script, "-o", "o.csv", code=2).stderr
    run("query", "-c", script, "-o", "o-{n}.csv")
    assert [(tmp_path / f"o-{n}.csv").read_text() for n in (1, 2)] == ["x\n1\n", "x\n2\n"]


def test_a_limit_is_never_silent(run):
    found = run("query", "-c", "FROM range(10) t(i)", "-n", "3", "-f", "csv")
    assert found.stdout == "i\n0\n1\n2\n"
    assert "only the first 3 rows" in found.stderr
    assert "only" not in run("query", "-c", "FROM range(3) t(i)", "-n", "3", "-f", "csv").stderr


def test_a_failing_query_leaves_no_file(run, tmp_path):
    text = "SELECT CASE WHEN i = 900000 THEN error('late') ELSE i END FROM range(1000000) t(i)"
    found = run("query", "-c", text, "-o", "o.csv", code=1)
    assert "late" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_exit_codes(run, tmp_path):
    dead = {
        "meshql": 1,
        "connections": {
            "c": {
                "cloud": "s3",
                "endpoint": "http://127.0.0.1:1",
                "url_style": "path",
                "auth": {"method": "anonymous"},
            }
        },
        "products": [{"name": "a.b", "connection": "c", "location": "s3://b/t/", "format": "delta"}],
    }
    (tmp_path / "dead.yaml").write_text(yaml.safe_dump(dead))
    run("query", "-c", "SELECT nope", code=1)
    run("query", "-c", "SELECT * FROM sales.order", code=2)
    run("query", "-c", COUNT, "--catalog", "nowhere", code=2)
    run("query", "--no-such-option", code=2)
    run("query", "-c", "FROM a.b", "--catalog", "dead.yaml", code=3)
    slow = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
    assert "not done within 1 s" in run("query", "-c", slow, "-t", "1", code=4).stderr


class Hanging(BaseHTTPRequestHandler):
    """A store that says what it has, and then never gives it."""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("Last-Modified", "Mon, 05 Jan 2026 14:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        self.server.released.wait(60)

    def log_message(self, *args):
        pass


@pytest.fixture
def hanging(tmp_path):
    """A catalog whose product a.b lies in a store that hangs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    server.released = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    product = {"name": "a.b", "connection": "c", "location": f"http://127.0.0.1:{server.server_port}/x.csv"}
    catalog = {
        "meshql": 1,
        "connections": {"c": {"cloud": "http"}},
        "products": [product | {"format": "csv"}],
    }
    (tmp_path / "hanging.yaml").write_text(yaml.safe_dump(catalog))
    yield tmp_path / "hanging.yaml"
    server.released.set()
    server.shutdown()


def test_a_deadline_holds_while_a_store_hangs(run, hanging):
    started = time.monotonic()
    run("query", "-c", "FROM a.b", "-t", "1", code=4, catalog=hanging)
    assert time.monotonic() - started < 8


def test_the_configured_deadline_holds_for_descriptions(run, hanging):
    started = time.monotonic()
    run("describe", "a.b", code=4, catalog=hanging, MESHQL_TIMEOUT="1")
    assert time.monotonic() - started < 8


def test_ctrl_c_holds_while_a_store_hangs(hanging):
    process = subprocess.Popen(
        [*MESHQL, "query", "-c", "FROM a.b", "-C", str(hanging)], stderr=subprocess.PIPE, text=True
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, "cancelled" in said) == (130, True), said
    assert time.monotonic() - started < 3


def test_ctrl_c_ends_with_130(retail):
    slow = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
    process = subprocess.Popen(
        [*MESHQL, "query", "-c", slow, "-C", str(retail.catalog)], stderr=subprocess.PIPE, text=True
    )
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "cancelled" in said
    assert "Traceback" not in said
    assert time.monotonic() - started < 4


def test_a_closed_pipe_ends_cleanly(retail):
    command = f"{sys.executable} -m meshql query -c 'FROM range(5000000)' -f csv | head -n 2"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        env=os.environ | {"MESHQL_CATALOG": str(retail.catalog)},
        timeout=60,
    )
    assert done.stdout == "range\n0\n"
    assert done.stderr == ""
    assert done.returncode == 0


def test_products_and_describe(run):
    listed = run("products", "s*", "-f", "csv").stdout.splitlines()
    assert [line.split(",")[0] for line in listed] == ["product", "sales.orders", "support.tickets"]
    assert "ana@example.com" in listed[1]
    found = run("describe", "sales.orders").stdout
    for word in ("ana@example.com", "s3://prod-bucket/sales/orders/", "delta", "100,000", "DECIMAL(12,2)"):
        assert word in found
    assert "did you mean sales.*?" in run("products", "salse.*", code=2).stderr
    unknown = run("describe", "sales.oders", code=2)
    assert "did you mean sales.orders?" in unknown.stderr


def test_validate_tells_a_good_catalog_from_a_bad_one(run, tmp_path):
    assert "8 products on 3 connections, no mistakes" in run("validate").stderr
    (tmp_path / "bad.yaml").write_text("meshql: 1\nproducts:\n- {name: a.b, location: x, format: detla}\n")
    found = run("validate", "bad.yaml", code=2)
    assert "bad.yaml:3:" in found.stdout
    assert "delta" in found.stdout


def test_schema_and_version(run):
    assert json.loads(run("schema").stdout)["properties"]["products"]
    assert "duckdb 1.5.5" in run("version").stdout
    assert run("--version").stdout.startswith("meshql, version ")


def test_help_is_quick_and_imports_no_engine():
    program = (
        "import sys; sys.argv = ['meshql', '--help']\n"
        "from meshql.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('duckdb', 'pyarrow', 'pydantic', 'obstore', 'yaml') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_no_secret_is_ever_shown(run, retail):
    secrets = [store.secret for store in retail.stores.values()]
    outputs = [
        run("describe", "crm.customers"),
        run("query", "-c", "EXPLAIN ANALYZE SELECT count(*) FROM crm.customers"),
        run("query", "-c", "FROM duckdb_secrets()"),
        run("query", "-c", "SELECT sql FROM duckdb_views() WHERE NOT internal; FROM duckdb_databases()"),
        run("products"),
        run("validate"),
    ]
    for done in outputs:
        assert not any(secret in done.stdout + done.stderr for secret in secrets)
