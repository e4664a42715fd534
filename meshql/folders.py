"""Where this platform keeps what a program writes: configuration, state, cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["cache_folder", "config_folder", "state_folder"]


def config_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of what a user writes: `meshql` below $XDG_CONFIG_HOME or the platform's place."""
    return _platform("XDG_CONFIG_HOME", ".config", "Library/Application Support", "APPDATA", environ)


def state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of what meshql remembers: $MESHQL_STATE, else `meshql` in the platform's place."""
    if given := (os.environ if environ is None else environ).get("MESHQL_STATE"):
        return Path(given).expanduser().absolute()
    return _platform("XDG_STATE_HOME", ".local/state", "Library/Application Support", "LOCALAPPDATA", environ)


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder for what can be made again: `meshql` in the platform's place."""
    return _platform("XDG_CACHE_HOME", ".cache", "Library/Caches", "LOCALAPPDATA", environ)


def _platform(variable: str, unix: str, mac: str, windows: str, environ: Mapping[str, str] | None) -> Path:
    environ = os.environ if environ is None else environ
    if (given := environ.get(variable)) and Path(given).is_absolute():
        return Path(given) / "meshql"
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "win32":
        parts = {"APPDATA": "AppData/Roaming", "LOCALAPPDATA": "AppData/Local"}
        return Path(environ.get(windows) or home / parts[windows]) / "meshql"
    return home / (mac if sys.platform == "darwin" else unix) / "meshql"
