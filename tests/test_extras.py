"""What a command says where the libraries that it takes are not installed."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
from faults.kills import CATALOG, land

import meshql

BUILDING = ("deltalake", "pyiceberg", "rich")


def without(tmp_path_factory, names):
    """A path on which installed packages are found, but for those whose names begin so."""
    folder = tmp_path_factory.mktemp("packages")
    for packages in map(Path, site.getsitepackages()):
        for package in packages.iterdir():
            if not package.name.startswith(names) and not (folder / package.name).exists():
                (folder / package.name).symlink_to(package)
    return os.pathsep.join([str(Path(meshql.__file__).parents[1]), str(folder)])


def run(packages, catalog, *arguments):
    """Run a command that finds no packages but those."""
    # -S: nothing but what PYTHONPATH names.
    return subprocess.run(
        [sys.executable, "-S", "-m", "meshql", "-C", catalog, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": packages, "NO_COLOR": "1"},
        timeout=60,
    )


@pytest.fixture(scope="module")
def without_extra(tmp_path_factory):
    """What is installed without the extra `build`."""
    return without(tmp_path_factory, BUILDING)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["build"], 2, "pip install 'meshql[build]'"),
        (["build", "--dry-run"], 2, "pip install 'meshql[build]'"),
        (["maintain"], 2, "pip install 'meshql[build]'"),
        (["runs"], 0, "nothing was built yet"),
        (["lineage", "web.events"], 0, ""),
        (["describe", "web.events"], 3, "meshql build web.events"),
        (["query", "-c", "FROM meshql.runs"], 3, "hint: meshql build"),
        (["query", "-c", "FROM web.events_quarantine"], 3, "hint: meshql build web.events"),
        (["check", "web.events"], 3, "meshql build web.events"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_without_the_extra_a_command_works_or_names_it(without_extra, tmp_path, arguments, code, said):
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    land(tmp_path, 0)
    done = run(without_extra, tmp_path / "catalog.yaml", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert said in done.stderr


FOLLOWED = """
meshql: 1
connections:
  shop_db: {cloud: postgres, host: 127.0.0.1, port: 1, database: shop, auth: {method: default}}
products:
  - {name: shop.changes, location: lake/changes/, build: {kind: cdc, from: shop_db, tables: [orders]}}
"""


@pytest.mark.parametrize(
    "arguments", [["build"], ["build", "--dry-run"], ["build", "--follow"], ["cdc", "status"]]
)
def test_following_a_database_names_its_extra(tmp_path_factory, tmp_path, arguments):
    packages = without(tmp_path_factory, ("psycopg",))
    (tmp_path / "catalog.yaml").write_text(FOLLOWED)
    done = run(packages, tmp_path / "catalog.yaml", *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install 'meshql[cdc]'" in done.stderr
