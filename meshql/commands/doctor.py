"""`meshql doctor`: every connection examined, and the fix for what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import StorageError

__all__ = ["examine"]


def examine(names: Sequence[str], config: Config, format_: str, *, timeout: float | None) -> int:
    """Print what is found out about connections, and return the exit code: 3 when a check failed."""
    from meshql.doctor.diagnosis import diagnoses_json
    from meshql.doctor.examine import hanging
    from meshql.doctor.table import diagnoses_text
    from meshql.output.table import terminal_width
    from meshql.terminal import coloured

    with open_mesh(config) as mesh:
        found = mesh.doctor(names, timeout=timeout)
    if format_ == "json":
        print(diagnoses_json(found))
    else:
        print(diagnoses_text(found, width=terminal_width(), colour=coloured(sys.stdout)))
    code = 0 if all(d.ok for d in found) else StorageError.exit_code
    if hanging():
        sys.stdout.flush()
        # Threads that hang on a store would hold up an ordinary exit.
        os._exit(code)
    return code
