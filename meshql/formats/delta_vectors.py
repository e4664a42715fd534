"""Deletion vectors of Delta tables: which rows of which files are gone, as a Parquet file of this machine.

The bitmaps are those of the Delta Transaction Protocol and of the Roaring format that it names:
https://github.com/RoaringBitmap/RoaringFormatSpec
"""

from __future__ import annotations

import base64
import os
import struct
import tempfile
import uuid
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshql.errors import CatalogError, CorruptError
from meshql.formats.delta_log import DataFile, Log, put
from meshql.storage.location import Location
from meshql.storage.store import Store

__all__ = ["FILE", "ROW", "written"]

FILE, ROW = "deleted from", "deleted row"
"""The columns of what is written: a file's URI, and the number of a row in it, from 0."""

MAGIC = 1681511377
WITHOUT_RUNS, WITH_RUNS = 12346, 12347
FEW = 4096
"""A container of at most so many rows lists them."""

ENCODED_UUID = 20

Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
TO_B85 = bytes.maketrans(Z85, B85)


def written(log: Log, root: Location, store: Store) -> Path | None:
    """Return the file with the rows that are gone at the log's version; None where no file has such rows.

    Raises CatalogError for vectors outside the table, CorruptError for those that cannot be read.
    """
    files = [file for file in log.files.values() if file.vector]
    if not files:
        return None
    path = log.folder / f"deleted-{log.version}.parquet"
    if not path.exists():
        _write(path, {root.at(root.key + f.path): _rows(f, log, root, store) for f in files})
    return path


def _write(path: Path, rows: Mapping[str, array[int]]) -> None:
    import pyarrow
    from pyarrow import parquet

    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        schema = pyarrow.schema([(FILE, pyarrow.string()), (ROW, pyarrow.int64())])
        with parquet.ParquetWriter(file, schema) as writer:
            for uri, numbers in rows.items():
                values = pyarrow.Array.from_buffers(
                    pyarrow.int64(), len(numbers), [None, pyarrow.py_buffer(numbers)]
                )
                names = pyarrow.repeat(pyarrow.scalar(uri), len(numbers))
                writer.write_table(pyarrow.table([names, values], schema=schema))
    os.replace(file.name, path)


def _rows(file: DataFile, log: Log, root: Location, store: Store) -> array[int]:
    """The numbers of the rows of a file that are gone."""
    vector = file.vector or {}
    try:
        rows = array("q", _numbers(_bitmap(vector, log, root, store)))
    except (IndexError, KeyError, TypeError, ValueError, struct.error):
        rows = None
    if rows is None or len(rows) != vector.get("cardinality"):
        raise CorruptError(f"the deletion vector cannot be read: {root.at(root.key + file.path)}")
    return rows


def _bitmap(vector: Mapping[str, Any], log: Log, root: Location, store: Store) -> bytes:
    kind, text, size = vector["storageType"], vector["pathOrInlineDv"], int(vector["sizeInBytes"])
    if kind == "i":
        return _decoded(text)[:size]
    if kind != "u":
        raise CatalogError("the table names deletion vectors outside its folder, which cannot be read here")
    name = uuid.UUID(bytes=_decoded(text[-ENCODED_UUID:]))
    folder = text[:-ENCODED_UUID]
    content = _copied(f"{folder}{'/' if folder else ''}deletion_vector_{name}.bin", log, root, store)
    # Behind the byte that tells the format's version.
    start = int(vector.get("offset") or 1)
    (said,) = struct.unpack_from(">i", content, start)
    bitmap = content[start + 4 : start + 4 + size]
    (checksum,) = struct.unpack_from(">I", content, start + 4 + size)
    if said != size or checksum != zlib.crc32(bitmap):
        raise ValueError(said)
    return bitmap


def _copied(path: str, log: Log, root: Location, store: Store) -> bytes:
    """The content of a file of the table, which is put beside the log: the delta extension reads it too."""
    copy = log.folder / path
    if not copy.resolve().is_relative_to(log.folder.resolve()):
        raise ValueError(path)
    if not copy.exists():
        content = store.get(root.key + path)
        if content is None:
            raise CorruptError(f"a deletion vector is gone: {root.at(root.key + path)}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        put(log.folder, copy, content)
    return copy.read_bytes()


def _decoded(text: str) -> bytes:
    return base64.b85decode(text.encode("ascii").translate(TO_B85))


def _numbers(bitmap: bytes) -> Iterator[int]:
    """The numbers in a bitmap of 64-bit numbers."""
    magic, count = struct.unpack_from("<iq", bitmap)
    if magic != MAGIC:
        raise ValueError(magic)
    at = 12
    for _ in range(count):
        (high,) = struct.unpack_from("<I", bitmap, at)
        numbers, at = _numbers32(bitmap, at + 4)
        yield from (high << 32 | low for low in numbers)


def _numbers32(data: bytes, at: int) -> tuple[list[int], int]:
    """The numbers in the bitmap of 32-bit numbers that begins at `at`, and where it ends."""
    (cookie,) = struct.unpack_from("<I", data, at)
    runs = b""
    if cookie & 0xFFFF == WITH_RUNS:
        count, at = (cookie >> 16) + 1, at + 4
        runs, at = data[at : at + (count + 7) // 8], at + (count + 7) // 8
    elif cookie == WITHOUT_RUNS:
        (count,) = struct.unpack_from("<I", data, at + 4)
        at += 8
    else:
        raise ValueError(cookie)
    heads = [struct.unpack_from("<HH", data, at + 4 * i) for i in range(count)]
    at += 4 * count
    if not runs or count >= 4:
        at += 4 * count
    numbers: list[int] = []
    for i, (high, fewer) in enumerate(heads):
        is_run = bool(runs) and bool(runs[i // 8] >> i % 8 & 1)
        lows, at = _container(data, at, fewer + 1, is_run)
        numbers += (high << 16 | low for low in lows)
    return numbers, at


def _container(data: bytes, at: int, count: int, is_run: bool) -> tuple[list[int], int]:
    """The 16-bit numbers in a container of `count`, and where it ends."""
    if is_run:
        (length,) = struct.unpack_from("<H", data, at)
        pairs = [struct.unpack_from("<HH", data, at + 2 + 4 * i) for i in range(length)]
        return [start + i for start, more in pairs for i in range(more + 1)], at + 2 + 4 * length
    if count <= FEW:
        return list(struct.unpack_from(f"<{count}H", data, at)), at + 2 * count
    bits = struct.unpack_from("<1024Q", data, at)
    return [64 * i + b for i, word in enumerate(bits) if word for b in range(64) if word >> b & 1], at + 8192
