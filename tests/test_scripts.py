"""Scripts as processes: statements, commands, files, streams, signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

# A terminal and signals, on a machine that does other work as well.
pytestmark = pytest.mark.flaky(reruns=2)

MESHQL = [sys.executable, "-m", "meshql"]

COUNTED = "SELECT count(*) AS n FROM sales.orders"

SLOW = "SELECT i, list_sum(range(i % 4000)) AS s FROM range(400000) t(i)"
"""Takes seconds, and gives its first rows long before its last."""


@pytest.fixture
def environment(retail):
    """The variables of a process that has the retail catalog and no configuration of the user's."""
    kept = {n: v for n, v in os.environ.items() if n not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}
    return kept | {"MESHQL_CATALOG": str(retail.catalog), "XDG_CONFIG_HOME": "/nonexistent"}


@pytest.fixture
def run(environment, tmp_path):
    """A function that runs `meshql query` in an empty folder."""

    def run(*arguments, stdin="", code=0, **variables):
        done = subprocess.run(
            [*MESHQL, "query", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment | variables,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def script(tmp_path):
    """A function that writes a file into the folder that meshql runs in."""

    def write(text, name="s.sql"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.fixture
def in_terminal(environment, tmp_path):
    """A function that runs `meshql query` in a terminal, and returns what it shows."""

    def run(*arguments, **variables):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*MESHQL, "query", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
            env=environment | variables,
        )
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            # Linux tells the end of a terminal so.
            pass
        os.close(ours)
        process.wait()
        return shown.decode()

    return run


def test_a_failed_statement_is_told_with_its_line(run, script):
    name = script("SELECT 1 AS x;\n\n-- why\nSELECT\n  nope;\nSELECT 2 AS y")
    done = run(name, "-f", "csv", code=1)
    assert done.stdout == "x\n1\n"
    assert done.stderr.startswith("meshql: error: s.sql:4: Binder Error")
    assert "LINE 5:   nope" in done.stderr
    assert "meshql: error: stdin:2: " in run("-", stdin="SELECT 1;\nSELECT nope", code=1).stderr
    assert "meshql: error: Binder Error" in run("-c", "SELECT nope", code=1).stderr


def test_nothing_runs_when_a_later_statement_does_not_parse(run, script):
    done = run(script("SELECT 1 AS x;\nSELEC 2;"), code=1)
    assert done.stdout == ""
    assert "s.sql:2: Parser Error" in done.stderr


def test_keep_going_runs_the_rest_and_ends_with_the_first_failures_code(run, script):
    text = "SELECT 1 AS x;\nFROM sales.oders;\nSELEC 2;\nSELECT nope;\nSELECT 2 AS x"
    done = run(script(text), "--keep-going", "-f", "csv", code=2)
    assert done.stdout == "x\n1\nx\n2\n"
    places = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("meshql: error:")]
    assert places == ["s.sql:2:", "s.sql:3:", "s.sql:4:"]
    assert "did you mean sales.orders?" in done.stderr
    assert run(script("SELECT nope; FROM sales.oders"), "--keep-going", code=1).stdout == ""
    assert run(script(text), "--stop-on-error", code=1).stdout == ""


def test_keep_going_does_not_outlive_the_timeout(run, script):
    slow = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
    done = run(script(f"{slow};\nSELECT 1 AS x"), "--keep-going", "-t", "1", code=4)
    assert done.stdout == ""


def test_a_comment_without_an_end_hides_nothing(run, script):
    done = run(script("SELECT 1;\n/* SELECT 2;"), code=1)
    assert "s.sql:2: the comment that begins here has no end" in done.stderr


def test_each_result_has_a_file_of_its_own(run, script, tmp_path):
    name = script("SELECT 1 AS x;\nCREATE TEMP TABLE t AS SELECT 2 AS x;\nFROM t;\nSELECT 3 AS x")
    done = run(name, "-o", "out-{n}.csv")
    assert [(tmp_path / f"out-{n}.csv").read_text() for n in (1, 2, 3)] == ["x\n1\n", "x\n2\n", "x\n3\n"]
    assert done.stderr.count("written to") == 3
    assert run(name, "-q", "-o", "out-{n}.csv").stderr == ""


def test_commands_between_statements(run, script, tmp_path):
    script(".print from there\nSELECT $day AS day;\n", "other.sql")
    text = """
.mode csv
.param set day 2026-01-01
.read other.sql
.output out-{n}.json
SELECT 1 AS x;
SELECT 2 AS x;
.output
.once once.jsonl
SELECT 3 AS x;
SELECT 4 AS x;
SELECT '
.mode json
' AS text, 5
  .5 AS half;
\\echo it isn't over
.quit
SELECT 6 AS x;
"""
    done = run(script(text.replace("5\n  .5", "0.5")), "-q")
    assert done.stdout == (
        'from there\nday\n2026-01-01\nx\n4\ntext,half\n"\n.mode json\n",0.5\nit isn\'t over\n'
    )
    assert done.stderr == ""
    assert (tmp_path / "out-2.json").read_text() == '[{"x":1}]\n'
    assert (tmp_path / "out-3.json").read_text() == '[{"x":2}]\n'
    assert (tmp_path / "once.jsonl").read_text() == '{"x":3}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (".moed csv", "did you mean .mode?"),
        (".xyzzy", "in scripts: .mode, .output"),
        (".mode cvs", "did you mean csv?"),
        (".once", "hint: .once FILE"),
        (".output x.xlxs", "no format has the suffix"),
        (".param day", "hint: .param set NAME VALUE"),
        (".read nowhere.sql", "no file nowhere.sql"),
        (".read s.sql", "reads itself"),
    ],
)
def test_a_command_that_is_wrong_says_how_it_is_right(run, script, line, said):
    done = run(script(f"SELECT 1 AS x;\n{line}\n"), code=2)
    assert "s.sql:2: " in done.stderr or said == "reads itself"
    assert said in done.stderr


def test_a_file_never_takes_a_second_result(run, script, tmp_path):
    done = run(script(".output one.csv\nSELECT 1 AS x;\nSELECT 2 AS x;\n"), code=2)
    assert "s.sql:3: one.csv holds a result already" in done.stderr
    assert "one-{n}.csv" in done.stderr
    assert (tmp_path / "one.csv").read_text() == "x\n1\n"


def test_parameters_from_a_file(run, script):
    text = "SELECT $country AS c, $since::DATE AS d, $n + 1 AS n"
    toml = script('country = "DE"\nsince = 2026-01-01\nn = 1\nunused = 3\n', "p.toml")
    found = run("-c", text, "--param-file", toml, "-p", "n=41", "-f", "csv")
    assert found.stdout == "c,d,n\nDE,2026-01-01,42\n"
    given = script('{"country": "PT", "since": "2026-02-01", "n": 2}', "p.json")
    assert run("-c", text, "--param-file", given, "-f", "csv").stdout == "c,d,n\nPT,2026-02-01,3\n"
    for name, content, said in [
        ("bad.toml", "n = = 1", "bad.toml: "),
        ("nested.toml", "[n]\nx = 1", "n holds further names"),
        ("list.json", "[1]", "not an object"),
        ("p.yaml", "n: 1", "TOML or JSON"),
    ]:
        assert said in run("-c", text, "--param-file", script(content, name), code=2).stderr
    assert "did you mean p.toml?" in run("-c", text, "--param-file", "q.toml", code=2).stderr


def test_stats_are_a_line_of_json_for_each_statement(run, script):
    text = (
        "SELECT count(*) AS n FROM sales.orders WHERE year = 2026 AND month = 3;\n"
        "CREATE TEMP TABLE t AS SELECT 1 AS x;\nSELECT nope;\nSELEC 1;\nFROM range(9)"
    )
    done = run(script(text), "--stats", "--keep-going", "-n", "5", "-q", "-f", "csv", code=1)
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    places = [(t["statement"], t["line"], t["kind"], t["file"]) for t in told]
    kinds = ["SELECT", "CREATE", "SELECT", "INVALID", "SELECT"]
    assert places == [(n, n, kind, "s.sql") for n, kind in enumerate(kinds, 1)]
    (read,) = told[0]["reads"]
    assert (read["product"], read["files"], read["files_total"], told[0]["rows"]) == (
        "sales.orders",
        1,
        24,
        1,
    )
    assert read["bytes"] > 0
    assert "nope" in told[2]["error"]
    assert "Parser Error" in told[3]["error"]
    assert told[4]["reads"] is None
    assert all(t["seconds"] >= 0 for t in told)
    assert "{" not in run("-c", COUNTED).stderr


def test_echo_and_timer_speak_on_stderr(run, script):
    done = run(script(".timer on\nSELECT 1\n  AS x;\n"), "--echo", "-f", "csv")
    assert done.stdout == "x\n1\n"
    lines = done.stderr.splitlines()
    assert lines[:3] == [".timer on", "SELECT 1", "  AS x"]
    assert lines[3].startswith("time: ")


def test_text_is_plain_where_no_terminal_is(run, tmp_path):
    done = run("-c", "SELECT 1 AS a, 'x' AS name")
    assert done.stdout == "a  name\n-  ----\n1  x\n"
    run("-c", "SELECT 1 AS a", "-o", "o.txt")
    assert (tmp_path / "o.txt").read_text() == "a\n-\n1\n"
    assert "\x1b" not in run("-c", "SELECT nope", code=1).stderr
    assert "\x1b[31m" in run("-c", "SELECT nope", code=1, FORCE_COLOR="1").stderr
    assert "\x1b" not in run("-c", "SELECT nope", code=1, FORCE_COLOR="1", NO_COLOR="1").stderr


def test_a_terminal_has_boxes_and_colour_unless_it_is_asked_to_stay_plain(in_terminal):
    both = ("-c", "SELECT 1 AS a; SELECT nope")
    shown = in_terminal(*both, TERM="xterm")
    assert "┌───┐" in shown
    assert "\x1b[31m" in shown
    without_colour = in_terminal(*both, TERM="xterm", NO_COLOR="1")
    assert "┌───┐" in without_colour
    assert "\x1b" not in without_colour
    dumb = in_terminal(*both, TERM="dumb")
    assert "a\r\n-\r\n1\r\n" in dumb
    assert "\x1b" not in dumb


def test_rows_flow_before_the_query_ends(environment):
    process = subprocess.Popen(
        [*MESHQL, "query", "-c", SLOW, "-f", "csv"], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout.readline() == b"i,s\n"
    assert process.stdout.readline() == b"0,\n"
    first = time.monotonic()
    process.stdout.read()
    assert process.wait() == 0
    assert time.monotonic() - first > 0.5


@pytest.mark.parametrize("format_", ["csv", "json", "table"])
def test_a_reader_that_goes_away_ends_the_script_cleanly(environment, format_, tmp_path):
    script = "FROM range(5000000); COPY (SELECT 1 AS x) TO 'after.csv'"
    command = f'{sys.executable} -m meshql query -c "{script}" -f {format_} | head -n 1'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["o.csv", "o.parquet"])
def test_an_interrupted_script_leaves_no_file(environment, tmp_path, ending, name):
    text = SLOW.replace("400000", "40000000")
    process = subprocess.Popen(
        [*MESHQL, "query", "-c", text, "-o", name],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".meshql-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(ending)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "cancelled" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_and_runs_nothing(run, script, tmp_path):
    text = """
CREATE TABLE march AS SELECT * FROM sales.orders WHERE year = $year AND month = 3;
COPY (FROM web.sessions WHERE month = 2) TO 'out.csv';
SELECT 1;
.print not printed
.output out.parquet
SELECT count(*) FROM march;
"""
    done = run(script(text), "--dry-run", "-p", "year=2026", "-o", "out-{n}.csv")
    march, copy, one, after = done.stdout.split("\n\n")
    assert march.splitlines()[0] == "s.sql:2: CREATE"
    assert march.splitlines()[1].startswith("sales.orders  s3 eu-west-1  delta ")
    assert "1 of 24 files  at most " in march.splitlines()[1]
    assert march.splitlines()[2].split()[:5] == ["total", "1", "of", "24", "files"]
    assert "1 of 12 files" in copy
    assert one == "s.sql:4: SELECT\nreads no product"
    assert "not planned, since what earlier statements make is not there" in after
    assert [path.name for path in tmp_path.iterdir()] == ["s.sql"]
    assert "unknown product" in run("-c", "FROM sales.oders", "--dry-run", code=2).stderr
    assert "nope" in run("-c", "SELECT nope FROM sales.orders", "--dry-run", code=1).stderr
    told = json.loads(run("-c", COUNTED, "--dry-run", "-f", "json").stdout)
    assert (told["reads"][0]["files"], told["reads"][0]["files_total"]) == (24, 24)
    assert told["bytes"] == told["reads"][0]["bytes_total"]


RETURNING = "CREATE TEMP TABLE t (x INTEGER);\nINSERT INTO t VALUES (7) RETURNING x;\n"


def test_rows_of_any_statement_are_written(run, script, tmp_path):
    prepared = "PREPARE p AS SELECT 8 AS x;\nEXECUTE p;\nINSERT INTO t VALUES (9);\n"
    done = run(script(RETURNING + prepared), "-f", "csv")
    assert done.stdout == "x\n7\nx\n8\n"
    assert "INSERT: 1 row\n" in done.stderr
    done = run(script(RETURNING + prepared), "-o", "o-{n}.csv")
    assert [(tmp_path / f"o-{n}.csv").read_text() for n in (1, 2)] == ["x\n7\n", "x\n8\n"]
    assert "1 row written to o-1.csv" in done.stderr


def test_a_command_that_nobody_knows_stops_the_script_before_it_begins(run, script):
    assert run(script("SELECT 1 AS x;\n.moed csv\n"), code=2).stdout == ""
    assert "x\n1\n" in run(script("SELECT 1 AS x;\n.moed csv\n"), "--keep-going", "-f", "csv", code=2).stdout


def test_scripts_look_at_the_catalog_as_the_shell_does(run, script):
    text = """
.products sales.*
\\d sales.orders
.schema sales.orders
.preview crm.customers 2
.domains
.doctor sales.orders
.plan SELECT $year, count(*) FROM sales.orders WHERE year = $year
SELECT 1 AS one;
.explain
.set null -
\\x on
SELECT NULL AS nothing;
.mode parquet
"""
    done = run(script(text), "-q", "-p", "year=2026")
    for said in ("ana@example.com", "CREATE TABLE sales.orders (", "sales.orders ✓", "12 of 24 files"):
        assert said in done.stdout
    assert "── row 1 ──\nnothing  -\n" in done.stdout
    places = [done.stdout.index(s) for s in ("CREATE TABLE", "sales.orders ✓", "12 of 24", "one\n")]
    assert places == sorted(places)
    dry = run(script(text), "--dry-run", "-p", "year=2026").stdout
    assert "CREATE TABLE" not in dry


def test_null_is_dim_in_a_terminal(in_terminal):
    shown = in_terminal("-c", "SELECT NULL AS a, 'NULL' AS b", TERM="xterm")
    assert shown.count("\x1b[2mNULL\x1b[0m") == 1
