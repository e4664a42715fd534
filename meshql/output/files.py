"""Files that are there whole or not at all, and what is temporary on the way to them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from meshql.errors import UsageError

__all__ = ["compressed", "discard_unfinished", "let_go", "opened", "temporary_folder"]

_unfinished: set[Path] = set()


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Path | None]]:
    """Open a file that takes its name at the end of the block, unless the block raises.

    Yields the file, and the path that it has meanwhile; that is None for a device or a named pipe, which
    is opened as it is. Raises UsageError for a path that cannot be written.
    """
    final = path.resolve()
    if final.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if final.exists() and not final.is_file():
        with _open(path, final, "wb") as file:
            yield file, None
        return
    partial = final.with_name(f".meshql-{secrets.token_hex(4)}.partial")
    with _temporary(partial), _open(path, partial, "xb") as file:
        yield file, partial
        file.close()
        if final.exists():
            shutil.copymode(final, partial)
        os.replace(partial, final)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that only this user can read, for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="meshql-"))
    with _temporary(folder):
        yield folder


@contextmanager
def compressed(file: IO[bytes], compression: str | None) -> Iterator[IO[bytes]]:
    """Yield a stream that compresses into `file` with `gzip` or `zstd`; None yields the file itself."""
    if compression is None:
        yield file
        return
    import pyarrow

    with pyarrow.CompressedOutputStream(file, compression) as stream:
        yield stream


def let_go(stream: IO[bytes]) -> None:
    """Send what is buffered for a reader that went away to nowhere: flushing it at exit would fail again."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def discard_unfinished() -> None:
    """Remove what the output under way keeps on disk; for a process that leaves without unwinding."""
    for path in list(_unfinished):
        _remove(path)


@contextmanager
def _temporary(path: Path) -> Iterator[None]:
    _unfinished.add(path)
    try:
        yield
    finally:
        _remove(path)
        _unfinished.discard(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _open(path: Path, actual: Path, mode: str) -> IO[bytes]:
    try:
        return cast("IO[bytes]", actual.open(mode))
    except FileNotFoundError:
        raise UsageError(f"cannot write {path}: there is no folder {actual.parent}") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
