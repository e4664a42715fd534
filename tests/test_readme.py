"""The README's screens are what the commands print."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from clouds.fixtures import link_or_copy
from clouds.matrix import table

README = Path(__file__).parent.parent / "README.md"


def block(name):
    """The fenced block behind the comment <!-- name -->."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"README.md has no block {name}"
    return found[1]


def comparable(text):
    """Without what differs from build to build: ids, digests, and how a store's answers were cut up."""
    text = re.sub(r"iceberg \d{5}-\w{6}", "iceberg #", text)
    text = re.sub(r"parquet [0-9a-f]{12}", "parquet #", text)
    return re.sub(r"[\d.]+ [kM]?B in \d+ requests", "bytes", text)


@pytest.mark.slow
def test_the_demo_prints_what_the_readme_shows(azurite_program, tmp_path):
    state, cache = tmp_path / "state", tmp_path / "cache"
    # `--down` removes the installed Azurite, which other tests need: this one has its own.
    home = Path(azurite_program[1]).parents[5]
    shutil.copytree(home, cache / "meshql" / home.name, copy_function=link_or_copy, symlinks=True)
    environment = os.environ | {"MESHQL_STATE": str(state), "XDG_CACHE_HOME": str(cache)}
    environment.pop("AZURITE_BLOB_STORAGE_URL", None)
    demo = [sys.executable, "-m", "meshql", "demo"]
    try:
        done = subprocess.run(demo, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        shown = block("demo").removeprefix("$ meshql demo\n").rstrip()
        assert comparable(done.stdout).startswith(comparable(shown)), done.stdout
        assert "three clouds and 8 products are up" in done.stderr
    finally:
        down = subprocess.run([*demo, "--down"], env=environment, capture_output=True, text=True, timeout=60)
    assert down.returncode == 0, down.stderr
    assert "removed moto" in down.stderr
    assert not state.exists() or list(state.iterdir()) == []
    assert not list((cache / "meshql").glob("azurite*"))


def tables(text):
    """Without what differs from build to build: runs, times, sizes, and how wide those make a table."""
    text = re.sub(r"\d{8}T\d{6}-\w{6}", "RUN", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "TIME", text)
    lines = [re.split(r" {2,}", re.sub(r"-{2,}", "--", line)) for line in text.splitlines()]
    dropped = set()
    for line in lines:
        if "seconds" in line:
            dropped = {line.index(name) for name in ("bytes", "seconds") if name in line}
        elif line[0].startswith("$ "):
            dropped = set()
        line[:] = [cell for index, cell in enumerate(line) if index not in dropped]
    return lines


@pytest.mark.slow
def test_the_example_builds_as_the_readme_shows(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {
        "MESHQL_STATE": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MESHQL_LAKE": str(tmp_path / "lake"),
        "EVENTS_URL": f"http://127.0.0.1:{port}/events",
        "NO_PROXY": "127.0.0.1",
    }

    def output(line):
        words = shlex.split(line.removeprefix("$ ").replace("8642", port))
        if words[0] == "curl":
            asked = urllib.request.Request(words[-1], method="POST")
            return urllib.request.urlopen(asked, timeout=20).read().decode() + "\n"
        more = ["--port", port] if "--events" in words else []
        command = [sys.executable, "-m", *words, *more]
        folder = README.parent
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = block("build")
    try:
        printed = "".join(
            f"{line}\n{output(line)}" for line in shown.splitlines() if line.startswith("$ ")
        ).replace(port, "8642")
    finally:
        down = [sys.executable, "-m", "meshql", "demo", "--down"]
        subprocess.run(down, env=environment, capture_output=True, timeout=60, check=True)
    assert tables(printed) == tables(shown)


@pytest.mark.slow
def test_the_changes_of_a_database_are_followed_as_the_readme_shows(decoding, tmp_path):
    decoding.execute("CREATE DATABASE shop_of_the_readme")
    shutil.copytree(
        README.parent / "catalogs" / "cdc", tmp_path / "cdc", ignore=shutil.ignore_patterns("lake")
    )
    catalog = tmp_path / "cdc" / "shop.yaml"
    catalog.write_text(catalog.read_text().replace("port: 5432", f"port: {decoding.port}"))
    environment = os.environ | {
        "MESHQL_STATE": str(tmp_path / "state"),
        "MESHQL_LAKE": str(tmp_path / "lake"),
        "PGHOST": decoding.host,
        "PGUSER": decoding.user,
        "PGPASSWORD": decoding.password,
        "PGDATABASE": "shop_of_the_readme",
    }

    def output(line):
        words = shlex.split(line.removeprefix("$ ").replace("catalogs/cdc", str(tmp_path / "cdc")))
        if words[0] == "psql":
            with closing(decoding.connect(dbname="shop_of_the_readme")) as connection:
                connection.execute(Path(words[-1]).read_text())
            return ""
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return re.sub(r"meshql_shop_changes_\w{8}", "meshql_shop_changes_7a72ab03", done.stdout)

    shown = block("cdc")
    printed = "".join(f"{line}\n{output(line)}" for line in shown.splitlines() if line.startswith("$ "))
    assert columns(printed) == columns(shown)


def columns(text):
    """Without what differs from time to time: amounts of the server's log, and when there was a batch."""
    text = re.sub(r"[\d.]+ k?B", "SIZE", re.sub(r"\d+ s ago", "AGO", text))
    return tables(text)


def test_validate_prints_what_the_readme_shows(tmp_path):
    (tmp_path / "broken.yaml").write_text(
        "meshql: 1\nconnections:\n  aws_prod:\n    cloud: s3\n    regoin: eu-west-1\n    auth: {method: env}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "meshql", "validate", "broken.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == block("validate").removeprefix("$ meshql validate broken.yaml\n")
    assert done.returncode == 2


def test_the_catalogs_of_the_readme_are_valid(tmp_path, monkeypatch):
    from meshql.catalog.load import check

    texts = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(texts) > 1
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yaml").write_text(text)
        for name in re.findall(r"\$\{(\w+)\}", text):
            monkeypatch.setenv(name, "set")
        assert check(tmp_path / f"{number}.yaml") == ()


def test_the_python_of_the_readme_runs(retail, capsys):
    program = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    exec(program.replace("catalogs/demo", str(retail.catalog)), {})
    shown = capsys.readouterr().out
    assert "revenue" in shown
    assert "Scanning Files: 2/24" in shown


def test_every_command_is_in_the_readme_and_has_help():
    from meshql.cli import cli

    text = README.read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert command.help
        assert re.search(rf"^\| `{name}\b", text, re.MULTILINE), f"{name} is not in the README's table"


def test_the_table_of_methods_and_readers_is_the_tested_one():
    assert table() in README.read_text(encoding="utf-8")
