"""The files of a catalog: which ones belong to it, and their bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from meshql.catalog.nodes import Source, end_of

__all__ = ["LARGEST_FILE", "SUFFIXES", "digest_of", "read_text", "yaml_files"]

LARGEST_FILE = 1024 * 1024
SUFFIXES = (".yaml", ".yml")


def yaml_files(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the YAML files below `root`, sorted, and what is refused, with the reason.

    Hidden files and folders are left out. A file that is reached in two ways counts once.
    """
    if not root.is_dir():
        return [root], []
    top = Path(os.path.realpath(root))
    found: dict[str, Path] = {}
    refused: list[tuple[Path, str]] = []
    for path in sorted(_walk(root, refused), key=lambda path: path.relative_to(root).as_posix()):
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(top):
            refused.append((path, "a link that leads out of the catalog's folder"))
        elif not os.path.isdir(real):
            found.setdefault(real, path)
    return list(found.values()), refused


def _walk(root: Path, refused: list[tuple[Path, str]]) -> Iterator[Path]:
    """Yield the YAML files below `root`, and folders that are links; notes folders that cannot be read."""

    def unreadable(error: OSError) -> None:
        refused.append((Path(error.filename), f"cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(folder)
        yield from (here / name for name in folders if os.path.islink(here / name))
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield here / name


def read_text(path: Path, source: Source) -> tuple[bytes, str | None]:
    """Return a file's bytes and its text; where it cannot be read, the text is None and `source` says why."""
    try:
        raw = _read(path, source)
    except OSError as error:
        source.give_up(0, f"cannot be read: {error.strerror or type(error).__name__}")
        return b"", None
    if raw is None:
        return b"", None
    try:
        return raw, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before, wrong = raw[: error.start].decode("utf-8", "replace"), raw[error.start]
        source.give_up(end_of(before), f"not UTF-8: byte 0x{wrong:02x}", "save the file as UTF-8")
        return raw, None


def _read(path: Path, source: Source) -> bytes | None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        source.give_up(0, "not a regular file")
        return None
    if status.st_size <= LARGEST_FILE:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        if len(raw) <= LARGEST_FILE:
            return raw
    size = f"{max(status.st_size, LARGEST_FILE + 1):,} bytes"
    hint = "split it: all files of the folder are read as one catalog"
    source.give_up(0, f"larger than 1 MiB: {size}", hint)
    return None


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the sha256 over names and bytes, in which no byte can pass from one file to the next."""
    total = hashlib.sha256()
    for name, raw in files:
        encoded = name.encode("utf-8", "surrogateescape")
        total.update(f"{len(encoded)}:{len(raw)}:".encode() + encoded + raw)
    return total.hexdigest()
