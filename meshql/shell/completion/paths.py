"""Files and folders that a path may go on to; the one part of completion that looks at the disk."""

from __future__ import annotations

import os
from itertools import islice

__all__ = ["listed"]

MOST = 1_000
"""Entries of a folder that are looked at."""


def listed(typed: str) -> list[str]:
    """Return what lies in the folder that `typed` names up to its last slash, folders with a slash after.

    Addresses of other machines and folders that cannot be read have nothing; hidden entries come only after
    a dot.
    """
    if "://" in typed:
        return []
    folder, slash, name = typed.rpartition("/")
    try:
        with os.scandir(os.path.expanduser(folder + slash) or ".") as entries:
            held = [entry.name + "/" * entry.is_dir() for entry in islice(entries, MOST)]
    except OSError:
        return []
    return sorted(entry for entry in held if name.startswith(".") or not entry.startswith("."))
