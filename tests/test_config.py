"""The configuration: one file, the environment and flags over it, and where each value came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from meshql import config, output
from meshql.config import config_path, load_config, setting_of
from meshql.errors import UsageError


@pytest.fixture
def written(tmp_path):
    """A function that writes the file and returns the environment that names it."""

    def write(text):
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        return {"MESHQL_CONFIG": str(tmp_path / "config.toml")}

    return write


def mistakes(environ):
    with pytest.raises(UsageError) as caught:
        load_config(environ)
    return caught.value.message.splitlines()


def test_without_anything_every_value_is_a_default(tmp_path):
    found = load_config({"HOME": str(tmp_path)})
    assert (found.format, found.null, found.row_limit, found.timeout) == ("table", None, 40, None)
    assert {origin for _, _, origin, _ in found.rows()} == {"default"}
    assert found.engine() == {}


def test_a_flag_beats_the_environment_which_beats_the_file(written):
    environ = written('timeout = 30\nthreads = 2\nformat = "csv"\n')
    environ |= {"MESHQL_THREADS": "3", "MESHQL_FORMAT": "json"}
    found = load_config(environ, {"format": "tsv"})
    assert (found.timeout, found.threads, found.format) == (30.0, 3, "tsv")
    assert found.origin("timeout") == "config.toml:1"
    assert found.origin("threads") == "environment MESHQL_THREADS"
    assert found.origin("format") == "--format"
    assert found.engine() == {"threads": "3"}


def test_an_empty_variable_is_none(written):
    assert load_config(written("threads = 2") | {"MESHQL_THREADS": ""}).threads == 2


@pytest.mark.parametrize(("text", "value"), [("1", True), ("on", True), ("No", False), ("false", False)])
def test_truths_of_the_environment(text, value, tmp_path):
    assert load_config({"HOME": str(tmp_path), "MESHQL_TIMING": text}).timing is value


def test_lines_are_those_of_the_file_whatever_stands_between(written):
    found = load_config(
        written(
            '# first\n\nprompt = """\n\nrow_limit = 5 # not a key\n"""  # end\n"null" = \'-\'\n  pager = "off"\n'
        )
    )
    assert found.prompt == "\nrow_limit = 5 # not a key\n"
    assert found.row_limit == 40
    origins = [found.origin(name) for name in ("prompt", "null", "pager")]
    assert origins == ["config.toml:3", "config.toml:7", "config.toml:8"]


def test_all_mistakes_are_told_at_once(written):
    environ = written(
        'formt = "csv"\nthreads = 0\ntiming = "yes"\nmemory_limit = "lots"\nediting_mode = "vim"\ntimeout = true\n'
    )
    path = environ["MESHQL_CONFIG"]
    assert mistakes(environ | {"MESHQL_ROW_LIMIT": "many"}) == [
        f"{path}:1: unknown setting formt: did you mean format?",
        f"{path}:2: threads = 0: expected a whole number of at least 1",
        f"{path}:3: timing = 'yes': expected true or false",
        f"{path}:4: memory_limit = 'lots': expected something like 4GB",
        f"{path}:5: editing_mode = 'vim': expected one of emacs, vi; did you mean vi?",
        f"{path}:6: timeout = true: expected a number",
        "environment MESHQL_ROW_LIMIT=many: expected a whole number",
    ]


def test_the_file_is_flat(written):
    environ = written("threads = 2\nshell.mode = 'csv'\n[query]\nthreads = 1\n")
    said = mistakes(environ)
    assert said[0].endswith("config.toml:2: unknown table shell: settings stand in no table")
    assert said[1].endswith("config.toml:3: unknown table [query]: settings stand in no table")


@pytest.mark.parametrize(
    ("text", "place"),
    [("threads = \n", ":1:11: "), ("threads = 1\nthreads = 2\n", ":2:"), ("x = [1,", ":1:")],
)
def test_bad_toml_is_told_with_its_place(written, text, place):
    (said,) = mistakes(written(text))
    assert f"config.toml{place}" in said


def test_a_file_that_a_variable_names_has_to_be_there(tmp_path):
    (said,) = mistakes({"MESHQL_CONFIG": str(tmp_path / "none.toml")})
    assert "$MESHQL_CONFIG names" in said
    assert config_path({"XDG_CONFIG_HOME": "/x"}).as_posix() == "/x/meshql/config.toml"


def test_a_catalog_in_the_file_is_found_from_the_file(written, tmp_path):
    assert load_config(written('catalog = "mine"')).catalog == str(tmp_path / "mine")
    assert load_config(written('catalog = "/absolute"')).catalog == "/absolute"


def test_formats_are_those_of_the_output():
    assert config.FORMATS == output.FORMATS


@pytest.fixture
def run(tmp_path):
    """A function that runs meshql with a configuration file."""

    def run(*arguments, text="", code=0, **environment):
        (tmp_path / "config.toml").write_text(text)
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("MESHQL_")}
        done = subprocess.run(
            [sys.executable, "-m", "meshql", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=inherited | {"MESHQL_CONFIG": str(tmp_path / "config.toml")} | environment,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    return run


def test_config_shows_every_value_and_its_origin(run, tmp_path):
    rows = json.loads(run("config", "-f", "json", text="threads = 2\n", MESHQL_TIMEOUT="5").stdout)
    by_name = {row["name"]: row for row in rows}
    assert (by_name["threads"]["value"], by_name["threads"]["origin"]) == (2, "config.toml:1")
    assert (by_name["timeout"]["value"], by_name["timeout"]["origin"]) == (5.0, "environment MESHQL_TIMEOUT")
    assert by_name["format"]["origin"] == "default"
    assert all(row["description"] for row in rows)
    table = run("config", text="threads = 2\n").stdout
    assert all(name in table for name in by_name)
    assert run("config", "--path").stdout == f"{tmp_path / 'config.toml'}\n"
    assert run("config", "--path", text="broken = [").returncode == 0
    assert "config.toml:1" in run("config", text="broken = 1", code=2).stderr


def test_config_shows_the_catalog_that_is_found(run, tmp_path):
    def told():
        rows = json.loads(run("config", "-f", "json", XDG_CONFIG_HOME=str(tmp_path / "none")).stdout)
        return next((r["value"], r["origin"]) for r in rows if r["name"] == "catalog")

    assert told() == (None, "default")
    missing = run("products", code=2, XDG_CONFIG_HOME=str(tmp_path / "none"))
    assert "meshql demo" in missing.stderr
    (tmp_path / "catalogs").mkdir()
    (tmp_path / "catalogs" / "c.yaml").write_text(CATALOG)
    assert told() == ("catalogs", "./catalogs")


@pytest.mark.parametrize(
    ("name", "text"),
    [("row_limit", "nan"), ("row_limit", "0"), ("timeout", "inf"), ("mode", "arrow"), ("timing", "maybe")],
)
def test_a_setting_takes_only_what_the_file_could_hold(name, text):
    with pytest.raises(UsageError, match=f"{name} = {text}: expected"):
        setting_of(name, text)


CATALOG = "meshql: 1\nproducts:\n  - {name: a.b, location: b.csv, format: csv}\n"


def test_a_query_obeys_the_configuration(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(CATALOG)
    text = 'catalog = "mine.yaml"\nformat = "csv"\nnull = "-"\nmemory_limit = "1GB"\nthreads = 1\n'
    settings = "SELECT NULL AS n, current_setting('threads') AS t, current_setting('memory_limit') AS m"
    assert run("query", "-c", settings, text=text).stdout == "n,t,m\n-,1,953.6 MiB\n"
    assert run("query", "-c", "SELECT 1 AS x", "-f", "json", text=text).stdout == '[{"x":1}]\n'
    assert run("query", "-c", "SELECT 1 AS x", text=text, MESHQL_FORMAT="jsonl").stdout == '{"x":1}\n'
    run("query", "-c", "SELECT 1 AS x", "-o", "x.json", text=text)
    assert (tmp_path / "x.json").read_text() == '[{"x":1}]\n'
    slow = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
    assert "not done within 1 s" in run("query", "-c", slow, text=f"{text}timeout = 1", code=4).stderr
    assert run("products", "-f", "csv", text=text).stdout.splitlines()[1].startswith("a.b,")


def test_the_catalog_is_named_by_flag_environment_or_file_in_this_order(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(CATALOG)
    one = ("query", "-c", "SELECT 1 AS x", "-f", "csv")
    text = 'catalog = "nowhere"'
    assert "which config.toml:1 names" in run(*one, text=text, code=2).stderr
    assert "which $MESHQL_CATALOG names" in run(*one, text=text, code=2, MESHQL_CATALOG="void").stderr
    assert run(*one, text=text, MESHQL_CATALOG="mine.yaml").stdout == "x\n1\n"
    assert run(*one, "-C", "mine.yaml", text=text, MESHQL_CATALOG="void").stdout == "x\n1\n"
    assert run("-C", "mine.yaml", *one, text=text).stdout == "x\n1\n"
    assert "which --catalog names" in run(*one, "-C", "void", text=text, code=2).stderr
