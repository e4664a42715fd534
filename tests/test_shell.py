"""The shell, driven in a real terminal of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
import threading
import time

import pexpect
import pyte
import pytest
import yaml

from meshql.errors import DeadlineError, UsageError
from meshql.shell.commands import run_command
from meshql.shell.history import holds_secret
from meshql.shell.shell import Shell

COLUMNS, LINES = 120, 40


# A terminal and signals, on a machine that does other work as well.
pytestmark = pytest.mark.flaky(reruns=2)


class Terminal:
    """A shell in a pseudo-terminal, and the screen that a person would see."""

    def __init__(self, catalog, state, **environment):
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.Stream(self.screen)
        self.raw = ""
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "meshql", "--catalog", str(catalog)],
            env=os.environ
            | {"MESHQL_STATE": str(state), "TERM": "xterm-256color", "PAGER": "cat"}
            | environment,
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            timeout=1,
        )

    def read(self, seconds=0.05):
        try:
            text = self.child.read_nonblocking(100_000, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return ""
        # prompt_toolkit asks where the cursor is, as terminals answer.
        if "\x1b[6n" in text:
            self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
        self.raw += text
        self._stream.feed(text)
        return text

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def wait(self, pattern, seconds=60):
        """Wait until the screen shows `pattern`."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.read()
            if found := re.search(pattern, self.text, re.MULTILINE):
                return found
        raise AssertionError(f"the screen never showed {pattern!r}:\n{self.text}")

    def settle(self, seconds=0.4):
        """Read until nothing more comes, for three seconds at most."""
        ends = time.monotonic() + 3
        while self.read(seconds) and time.monotonic() < ends:
            pass
        return self.text

    def type(self, text):
        self.child.send(text)
        self.settle(0.25)

    def run(self, line, pattern, seconds=30, *, error=False):
        """Clear the screen, type a line, press Enter, and wait for what the screen then shows.

        An error on it is one of the test's too, unless it is what the test expects.
        """
        self.screen.reset()
        self.child.send(line)
        self.settle(0.3)
        self.child.send("\r")
        found = self.wait(pattern, seconds)
        assert error or "error:" not in self.text, self.text
        return found

    def quiet(self, line):
        """Type a line that says nothing, and wait until the next prompt stands below it."""
        shown = re.escape(line[:60])
        self.run(line, rf"^meshql> {shown}[^\n]*(\n(?!meshql>)[^\n]*)*\nmeshql>$")

    def close(self):
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
        self.child.close(force=True)


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def opened(retail, state):
    """A function that opens shells."""
    terminals = []

    def open_shell(catalog=retail.catalog, **environment):
        terminals.append(Terminal(catalog, state, **environment))
        terminals[-1].wait("meshql>")
        return terminals[-1]

    yield open_shell
    for terminal in terminals:
        terminal.close()


def test_a_query_its_answer_and_what_it_took(opened):
    shell = opened()
    shell.run(
        "SELECT channel, count(*) AS n FROM sales.orders GROUP BY ALL ORDER BY ALL;",
        r"4 rows in \d+\.\d\d s · read 1 product: s3 [\d.]+ [kM]B · \d+ requests",
    )
    assert "│ channel     │     n │" in shell.text
    shell.run("SELECT max(n) AS most FROM _;", "1 row in")
    assert "most" in shell.text


def test_lines_are_read_until_a_semicolon(opened):
    shell = opened()
    shell.type("SELECT 40\r")
    assert "...>" in shell.text
    shell.type("-- not; here\r")
    shell.run("+ 2 AS answer;", "1 row in")
    assert re.search(r"│ +42 │", shell.text)


def test_alt_enter_is_a_new_line_even_behind_a_semicolon(opened):
    shell = opened()
    shell.type("SELECT 1 AS one;\x1b\r")
    shell.run("SELECT 2 AS two;", r"│ +2 │")
    assert "one" in shell.text


def test_completion_offers_products_with_their_side_text(opened):
    shell = opened()
    time.sleep(2)
    shell.type("SELECT * FROM sal")
    assert re.search(r"sales\.orders +delta · s3", shell.settle(1))
    shell.type("\t\r")
    assert "FROM sales.orders" in shell.text


def test_ctrl_c_clears_the_line_and_ctrl_d_leaves(opened):
    shell = opened()
    shell.type("SELECT nonsense")
    shell.type("\x03")
    shell.run("SELECT 7 AS seven;", r"│ +7 │")
    shell.child.send("\x04")
    shell.child.expect(pexpect.EOF, timeout=10)
    shell.child.close()
    assert shell.child.exitstatus == 0


def test_ctrl_c_cancels_a_query_within_a_second(opened):
    shell = opened()
    shell.run("SELECT 1;", "1 row in")
    shell.type("SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5;")
    shell.child.send("\r")
    shell.wait(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] \d\.\d s", 10)
    started = time.monotonic()
    shell.child.send("\x03")
    shell.wait("cancelled", 5)
    assert time.monotonic() - started < 2
    shell.run("SELECT 7 AS seven;", r"│ +7 │")


@pytest.mark.slow
def test_ctrl_c_works_while_a_store_hangs(opened, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        catalog = {
            "meshql": 1,
            "connections": {"c": {"cloud": "http"}},
            "products": [
                {
                    "name": "a.b",
                    "connection": "c",
                    "location": f"http://127.0.0.1:{silent.getsockname()[1]}/x.csv",
                    "format": "csv",
                }
            ],
        }
        (tmp_path / "silent.yaml").write_text(yaml.safe_dump(catalog))
        shell = opened(tmp_path / "silent.yaml")
        shell.type("FROM a.b;\r")
        shell.wait(r"\d\.\d s", 10)
        started = time.monotonic()
        shell.child.send("\x03")
        shell.wait("cancelled", 5)
        assert time.monotonic() - started < 3
        shell.run("SELECT 7 AS seven;", r"│ +7 │")
        shell.child.send("\x04")
        shell.child.expect(pexpect.EOF, timeout=10)


def test_rows_beyond_the_limit_are_told(opened):
    shell = opened()
    shell.quiet(".set row_limit 3")
    shell.run("FROM range(12345) t(i);", r"… 3 of 12,345 rows in")


def test_wide_results_become_records(opened):
    shell = opened()
    wide = ", ".join(f"{i} AS a_column_{i}" for i in range(12))
    shell.run(f"SELECT {wide};", r"a_column_11 +│? *11")
    assert "columns shown" not in shell.text


def test_an_error_leaves_the_shell_alive(opened):
    shell = opened(EDITOR="false")
    shell.run("SELECT * FROM sales.order;", "did you mean sales.orders", error=True)
    shell.run("SELECT nope FROM sales.orders;", "Candidate bindings", error=True)
    shell.run(".descirbe x", r"did you mean \.describe", error=True)
    shell.run(".edit", "the editor failed", error=True)
    shell.run(".run 'x", "close the quote", error=True)
    shell.run(".set pager '", "close the quote", error=True)
    shell.run(".set row_limit nan", "expected a whole number", error=True)
    shell.run(".watch nan", "not a positive number", error=True)
    shell.run("SELECT 7 AS seven;", r"│ +7 │")


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (".help", r"\.describe NAME"),
        (".help watch", "Repeats the last query"),
        (".products s*", r"support\.tickets"),
        ("\\dt", r"web\.sessions"),
        ("\\dn", r"│ sales +│"),
        (".describe sales.orders", r"rows +100,000"),
        ("\\d crm.customers", "email"),
        (".schema sales.orders", r"CREATE TABLE sales\.orders"),
        (".preview crm.customers 3", "3 rows in"),
        (".set", "row_limit"),
        (".print hello", "^hello"),
        (".doctor sales.*", r"✓ .* s3 .*sales\.orders ✓"),
        (".bookmarks", "no bookmarks yet"),
        (".expanded", "expanded is on"),
        ("\\timing", "timer is off"),
        ("help", r"\.describe NAME"),
        ("SHOW TABLES;", r"\.products lists the products"),
    ],
)
def test_commands(opened, line, pattern):
    opened().run(line, pattern)


def test_parameters_bookmarks_and_modes(opened):
    shell = opened()
    shell.quiet(".param set least 990")
    shell.run("SELECT count(*) > 0 AS some FROM sales.orders WHERE amount > $least;", "true")
    shell.run(".save big", "kept")
    shell.quiet(".mode csv")
    shell.run(".run big least=1000000", "^false")
    shell.run(".bookmarks", "big")
    shell.run(".mode cvs", "did you mean csv", error=True)


def test_output_and_read(opened, tmp_path):
    shell = opened()
    shell.quiet(f".once '{tmp_path}/one.csv'")
    shell.run("SELECT 1 AS x;", "1 row written")
    assert (tmp_path / "one.csv").read_text() == "x\n1\n"
    (tmp_path / "script.sql").write_text(".print begun\nSELECT 2\n  AS two;\n.print ended\n")
    shell.run(f".read {tmp_path}/script.sql", "^ended")
    assert "two" in shell.text


def test_history_is_private_and_holds_no_secrets(opened, state):
    shell = opened()
    shell.run("SELECT 1 AS kept;", "1 row in")
    shell.run(" SELECT 2 AS hidden;", "1 row in")
    shell.run("SELECT {'secret': 'sesame'} AS x;", "1 row in")
    shell.quiet(".param set db_password sesame")
    shell.settle(1)
    history = state / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    text = history.read_text()
    assert "kept" in text
    assert "hidden" not in text
    assert "sesame" not in text
    shell.child.send("\x04")
    shell.child.expect(pexpect.EOF, timeout=10)
    again = opened()
    again.run(".history kept", "SELECT 1 AS kept")


def test_the_catalog_is_reloaded_when_it_is_saved(opened, retail, tmp_path):
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    (tmp_path / "x.csv").write_text("a\n1\n")
    text = f"meshql: 1\nproducts:\n- {{name: local.x, location: {tmp_path}/x.csv, format: csv}}\n"
    (catalog / "c.yaml").write_text(text)
    shell = opened(catalog)
    shell.run("FROM local.x;", "1 row in")
    (catalog / "c.yaml").write_text(text + text.splitlines()[-1].replace("local.x,", "local.y,") + "\n")
    shell.wait("the catalog has changed: 2 products", 5)
    shell.run("FROM local.y;", "1 row in")
    (catalog / "c.yaml").write_text(text + "nonsense: true\n")
    shell.wait("the last good one stays", 5)
    shell.wait(r"c\.yaml:4:1", 5)
    shell.run("FROM local.y;", "1 row in")


def test_vi_keys_and_the_editor(opened, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho 'SELECT 99 AS edited;' > $1\n")
    editor.chmod(0o755)
    shell = opened(EDITOR=str(editor))
    shell.run(".edit", r"│ +99 │")
    shell.quiet(".set editing_mode vi")
    shell.type("SELECT 12 AS x;\x1b")
    shell.settle(1)
    shell.type("0wr7")
    shell.run("", r"│ +72 │")


def test_watch_repeats_until_ctrl_c(opened):
    shell = opened()
    shell.run("SELECT 5 AS five;", "1 row in")
    shell.type(".watch 0.3\r")
    time.sleep(1.5)
    shell.settle()
    assert len(re.findall("every 0.3 s", shell.raw)) >= 3
    shell.type("\x03")
    shell.run("SELECT 7 AS seven;", r"│ +7 │")


def test_plain_terminals_get_no_colour(opened):
    shell = opened(NO_COLOR="1")
    shell.run("SELECT NULL AS nothing;", "1 row in")
    assert not re.search(r"\x1b\[(?:[\d;]*;)?(?:3[1-7]|9[0-7])m", shell.raw)


def test_the_prompt_is_there_before_a_big_catalog_is_loaded(retail, state, tmp_path):
    lines = ["meshql: 1", "products:"]
    lines += [f"- {{name: d{i % 100}.p{i}, location: /tmp/{i}.csv, format: csv}}" for i in range(10_000)]
    (tmp_path / "big.yaml").write_text("\n".join(lines))
    started = time.monotonic()
    shell = Terminal(tmp_path / "big.yaml", state)
    try:
        shell.wait("meshql>", 10)
        print(f"\nprompt after {time.monotonic() - started:.2f} s with 10,000 products")
        shell.run("SELECT count(*) AS n FROM range(3);", "1 row in")
    finally:
        shell.close()


def test_a_command_inside_a_statement_is_told(opened):
    shell = opened()
    shell.type("SELECT 1\r")
    shell.type(".help\r")
    assert "a statement is open: end it with ; or press Ctrl-C" in shell.text
    shell.type("\x03")
    shell.type("quit\r")
    shell.child.expect(pexpect.EOF, timeout=10)


def test_ctrl_c_in_the_pager_leaves_the_terminal_to_it(opened, tmp_path):
    pager = tmp_path / "pager"
    pager.write_text(
        "#!/bin/sh\ncat > /dev/null\ntrap 'echo in the pager' INT\n"
        "echo paging\nsleep 30\nread line < /dev/tty\necho left\n"
    )
    pager.chmod(0o755)
    shell = opened(PAGER=str(pager))
    shell.quiet(".set row_limit 500")
    shell.run("FROM range(300);", "^paging")
    shell.child.send("\x03")
    shell.wait("in the pager", 5)
    shell.child.send("\r")
    shell.wait("^left", 5)
    shell.run("SELECT 7 AS seven;", r"│ +7 │")


def test_watch_never_waits_in_the_pager(opened):
    shell = opened(PAGER="less")
    shell.quiet(".set row_limit 500")
    shell.quiet(".set pager off")
    shell.run("FROM range(60);", "60 rows in")
    shell.quiet(".set pager less")
    shell.type(".watch 0.3\r")
    time.sleep(1.5)
    shell.settle()
    assert len(re.findall("every 0.3 s", shell.raw)) >= 3
    shell.type("\x03")
    shell.run("SELECT 7 AS seven;", r"│ +7 │")


@pytest.fixture
def quick(retail, tmp_path, monkeypatch):
    """A shell without its terminal."""
    monkeypatch.setenv("MESHQL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    shell = Shell(retail.catalog, run_command=run_command)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CREATE TEMP TABLE t (a INTEGER); INSERT INTO t VALUES (41) RETURNING a + 1 AS b;", "42"),
        ("PREPARE p AS SELECT 42 AS b; EXECUTE p;", "42"),
        ("EXPLAIN SELECT 1;", "PROJECTION"),
        ("CALL pragma_version();", "v1.5.5"),
    ],
)
def test_rows_are_shown_whatever_statement_gives_them(quick, capsys, text, shown):
    quick.run_text(text)
    assert shown in capsys.readouterr().out
    assert quick.answer.sql == text.rstrip(";").rpartition("; ")[2]


def test_a_change_is_counted(quick, capsys):
    quick.run_text("CREATE TEMP TABLE t (a INTEGER); INSERT INTO t VALUES (1);")
    shown = capsys.readouterr()
    assert (shown.out, quick.answer) == ("", None)
    assert "1 row in" in shown.err


def test_a_hidden_timer_hides_no_truncation(quick, capsys):
    quick.run_text(".timer off\n.set row_limit 3\nFROM range(12345);\nSELECT 1;")
    assert capsys.readouterr().err == "… 3 of 12,345 rows\n"


def test_what_is_kept_of_a_long_answer_is_told(quick, capsys, monkeypatch):
    quick.take(quick.ask(quick.session.parse("FROM range(10)")[0], keep=5))
    assert "_ holds the first 5 rows" in capsys.readouterr().err


def test_an_output_takes_no_second_result(quick, tmp_path):
    quick.run_text('.output "one.csv"\nSELECT 1 AS x;')
    with pytest.raises(UsageError, match="holds a result already"):
        quick.run_text("SELECT 2 AS x;")
    assert (tmp_path / "one.csv").read_text() == "x\n1\n"
    quick.run_text(".output one.csv\nSELECT 3 AS x;")
    assert (tmp_path / "one.csv").read_text() == "x\n3\n"
    quick.run_text(".output o-{n}.csv\nSELECT 1 AS x;\nCREATE TEMP TABLE t (a INTEGER);\n")
    quick.run_text("INSERT INTO t VALUES (2) RETURNING a AS x;")
    assert [(tmp_path / f"o-{n}.csv").read_text() for n in (1, 2)] == ["x\n1\n", "x\n2\n"]


def test_a_home_is_found_in_file_names(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    quick.run_text(
        ".once '~/home.csv'\nSELECT NULL AS x;\n.set null -\n.once ~/home-2.csv\nSELECT NULL AS x;"
    )
    assert (tmp_path / "home.csv").read_text() == "x\n\n"
    assert (tmp_path / "home-2.csv").read_text() == "x\n-\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (".edit nofile.sql", "cannot read nofile.sql"),
        (".run 'x", "close the quote"),
        (".set pager '", "close the quote"),
        (".set row_limit nan", "expected a whole number"),
        (".set row_limit 0", "at least 1"),
        (".set timeout nan", "expected a number"),
        (".set timeout inf", "expected a number"),
        (".set expanded maybe", "expected one of auto, on, off"),
        (".set editing_mode vim", "did you mean vi?"),
        (".set keep_history off", "unknown setting"),
        (".set mode parquet", "unknown format parquet"),
    ],
)
def test_what_a_command_cannot_take_is_a_usage_error(quick, monkeypatch, line, said):
    monkeypatch.setenv("EDITOR", "true")
    with pytest.raises(UsageError) as caught:
        quick.run_text(line)
    assert said in str(caught.value)


def test_settings_are_what_the_configuration_takes(quick):
    quick.run_text(".set timeout 5\n.set timing off\n.set null ''\n.set types yes\n.set prompt '> '")
    held = quick.settings
    assert (held.timeout, held.timing, held.null, held.types, held.prompt) == (5.0, False, "", True, "> ")
    quick.run_text(".set timeout off\n.set null off")
    assert (held.timeout, held.null) == (None, None)


def test_types_stand_below_the_names(quick, capsys):
    quick.run_text(".types on\nSELECT 1 AS a, 'x' AS b;")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["│       a │ b       │", "│ INTEGER │ VARCHAR │"]


def test_null_is_dim_in_records_too(quick, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    quick.run_text(".mode vertical\nSELECT NULL AS a, 'NULL' AS b;")
    assert capsys.readouterr().out.count("\x1b[2mNULL\x1b[0m") == 1


def test_bookmarks_keep_no_more_than_they_need(quick):
    quick.run_text(".param set password x\n.param set least 1\nSELECT $least AS x;\n.save one")
    assert quick.bookmarks.get("one").params == {"least": 1}
    quick.last_sql = "SET s3_secret_access_key = 'abc'"
    with pytest.raises(UsageError, match="holds a secret"):
        quick.run_text(".save two")


def test_a_store_that_hangs_costs_neither_the_catalog_nor_the_last_answer(quick, capsys):
    quick.run_text("SELECT 5 AS five;")
    before = quick.mesh
    quick.settings.timeout = 0.2
    released = threading.Event()
    with pytest.raises(DeadlineError):
        quick.supervised(lambda: released.wait(10))
    released.set()
    quick.settings.timeout = None
    assert quick.mesh is not before
    assert quick.mesh.catalog is before.catalog
    quick.run_text("FROM _;")
    assert "five" in capsys.readouterr().out
    before.close()


@pytest.mark.parametrize(
    "line",
    [
        "SET s3_secret_access_key='abc';",
        "SET s3_session_token = 'abc';",
        "SET azure_storage_connection_string TO 'abc';",
        "SELECT MAP {'secret': 'abc'};",
        ".param set db_password x",
        "CREATE SECRET s (TYPE s3, PROVIDER credential_chain);",
        "CREATE OR REPLACE PERSISTENT SECRET s (TYPE s3);",
        "ATTACH 'host=h passwd=x' AS p (TYPE postgres);",
        "FROM 'https://u:p@h/x.csv';",
        "SELECT 'AKIAIOSFODNN7EXAMPLE';",
        "FROM 'https://h/x?sv=1&sig=abc';",
    ],
)
def test_secrets_are_known(line):
    assert holds_secret(line)


@pytest.mark.parametrize(
    "line",
    ["SELECT 1;", "SELECT token_count FROM t;", "SELECT password\nFROM users;", "FROM 'https://h/x.csv';"],
)
def test_innocents_are_kept(line):
    assert not holds_secret(line)
