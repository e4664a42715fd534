"""`meshql version`."""

from __future__ import annotations

import platform
from importlib.metadata import distributions, version

__all__ = ["print_versions"]

PARTS = ("duckdb", "pyarrow", "obstore", "pydantic")


def print_versions() -> None:
    """Print one line a part: name and version."""
    print(f"meshql {version('meshql')}")
    print(f"python {platform.python_version()} on {platform.platform(terse=True)}")
    for part in PARTS:
        print(f"{part} {version(part)}")
    names = {d.name.lower().replace("_", "-"): d.version for d in distributions()}
    for name in sorted(n for n in names if n.startswith("duckdb-extension-")):
        print(f"{name} {names[name]}")
