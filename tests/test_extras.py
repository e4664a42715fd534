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


@pytest.fixture(scope="module")
def without_extra(tmp_path_factory):
    """A folder of installed packages in which those of the extra `build` are not."""
    folder = tmp_path_factory.mktemp("packages")
    for packages in map(Path, site.getsitepackages()):
        for package in packages.iterdir():
            if not package.name.startswith(BUILDING) and not (folder / package.name).exists():
                (folder / package.name).symlink_to(package)
    return os.pathsep.join([str(Path(meshql.__file__).parents[1]), str(folder)])


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
    # -S: no packages but those of PYTHONPATH.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "meshql", "-C", tmp_path / "catalog.yaml", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": without_extra, "NO_COLOR": "1"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert said in done.stderr
