"""The command line as a process, in a folder whose catalog is catalog.yaml."""

from __future__ import annotations

import os
import subprocess
import sys


def meshql_in(folder, command, *arguments, code=0):
    """Run a command, see that it ends with `code` and shows no traceback, and return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "meshql", command, "-C", "catalog.yaml", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done
