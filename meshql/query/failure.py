"""What DuckDB and the stores say, turned into errors that name the product and the fix."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from meshql.catalog.derived import built_by
from meshql.catalog.model import Product
from meshql.errors import (
    CatalogError,
    CorruptError,
    InterruptedQueryError,
    LocationError,
    MeshError,
    QueryError,
    StorageError,
    UsageError,
)
from meshql.formats.postgres import database_error, is_database_error
from meshql.formats.snapshot import Snapshot
from meshql.redact import scrub
from meshql.sql import quote_name
from meshql.storage.refusals import storage_error

__all__ = ["failure", "mount_failure", "named"]

CORRUPT = re.compile(
    r"No magic bytes|too small to be a Parquet|Invalid Parquet|Corrupt|corrupt|footer|thrift|Thrift"
    r"|Snappy decompression|ZSTD|Avro|avro|Malformed JSON|not a valid",
)

OF_THE_SQL = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.ParserException,
)

READERS = re.compile(
    r"No magic bytes|too small to be a Parquet|Avro|avro|Cannot read file|Snappy|ZSTD|thrift"
)

URL = re.compile(r"https?://[^\s\"'<>]+")

QUOTED_PATH = re.compile(r"[\"'](/|\w+://)")

STORAGE = re.compile(
    r"^(IO|HTTP) Error|HTTP (GET|HEAD|PUT|POST) error|\(HTTP \d{3}|Could not connect|Timeout was reached"
    r"|DeltaKernel|Kernel error|AzureBlobStorageFileSystem|No files found that match",
)


def named(error: MeshError, product: Product) -> MeshError:
    """Return `error` with the product's name in front, unless it names it already.

    What is built here and is not there yet has its hint: how to build it.
    """
    target = built_by(product) if isinstance(error, LocationError) else None
    if target is not None:
        error.hint = f"meshql build {target}".rstrip()
    if product.name not in error.message:
        error.message = f"{product.name}: {error.message}"
        error.args = (error.message,)
    return error


def failure(error: BaseException, snapshots: Sequence[Snapshot]) -> MeshError:
    """Return the error that `error`, met while reading `snapshots`, amounts to for a user.

    DuckDB's own words are kept where the SQL is at fault. Storage is at fault when a reader says so; the
    product is then the one whose location the words hold, or the only one there is. Secrets in `error` itself
    are masked, too: it stays reachable as the context of what is raised.
    """
    scrub(error)
    if isinstance(error, StorageError) and len(snapshots) == 1:
        return named(error, snapshots[0].product)
    if isinstance(error, MeshError):
        return error
    text = str(error)
    if isinstance(error, duckdb.InterruptException) or text == "Query interrupted":
        return InterruptedQueryError("the query was cancelled")
    if isinstance(error, UnicodeDecodeError):
        # DuckDB's words for a file that another version replaced hold raw bytes of it.
        return _with_product(
            StorageError("a file changed while it was read", hint="run it again"), "", snapshots
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryError(text, hint="raise memory_limit, or select fewer columns and rows")
    if "http_proxy" in text and "parse" in text:
        # DuckDB's words hold the whole address, password and all.
        return UsageError(
            "DuckDB takes no login in the address of a proxy that HTTP_PROXY names",
            hint='export http_proxy="$HTTP_PROXY"; unset HTTP_PROXY',
        )
    if is_database_error(text):
        return _of_database(text, snapshots)
    if isinstance(error, OF_THE_SQL):
        return QueryError(text.rstrip())
    if CORRUPT.search(text) and _names_file(text, snapshots):
        return _with_product(CorruptError(_first_line(text)), text, snapshots)
    if STORAGE.search(text):
        return _with_product(storage_error(text, _uri(text)), text, snapshots)
    return QueryError(text.rstrip())


def mount_failure(error: BaseException, snapshot: Snapshot) -> MeshError:
    """Return the error that `error`, met while a product's view was made, amounts to.

    No SQL of the user's runs then: it is the product's files, or its reader options, that are wrong.
    """
    found = failure(error, [snapshot])
    if not isinstance(found, QueryError) or isinstance(error, duckdb.OutOfMemoryException):
        return found
    words = _first_line(str(error))
    if isinstance(error, duckdb.BinderException):
        candidates = re.search(r"Candidates:\s*(.+)", str(error))
        hint = f"options that DuckDB's reader takes: {candidates[1]}" if candidates else None
        return named(CatalogError(words, hint=hint), snapshot.product)
    return named(CorruptError(words), snapshot.product)


def _with_product(error: StorageError, text: str, snapshots: Sequence[Snapshot]) -> MeshError:
    urls = URL.findall(text)
    at_fault = [
        s
        for s in snapshots
        if str(s.location).rstrip("/") in text or any(s.location.holds(url) for url in urls)
    ]
    if not at_fault and len(snapshots) == 1 and not QUOTED_PATH.search(text):
        at_fault = list(snapshots)
    if at_fault:
        return named(error, at_fault[0].product)
    # A path that the SQL itself names is no product's fault.
    return QueryError(text.rstrip()) if re.search(r"[\"']/", text) else error


def _of_database(text: str, snapshots: Sequence[Snapshot]) -> MeshError:
    """The error of the product whose server said so; one of the SQL's own, where there is no such product."""
    live = [s for s in snapshots if s.shares]
    named_in = [s for s in live if quote_name(*s.location.key.split(".", 1)) in text]
    at_fault = named_in or live
    if not at_fault:
        return QueryError(text.rstrip())
    error = database_error(text, at_fault[0].location.bucket)
    return named(error, at_fault[0].product) if len(at_fault) == 1 else error


def _names_file(text: str, snapshots: Sequence[Snapshot]) -> bool:
    """Whether a reader's words name a file of a product, or say what only a reader of files says."""
    return any(str(s.location).rstrip("/") in text for s in snapshots) or bool(READERS.search(text))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _uri(text: str) -> str:
    found = re.search(r"[\"']((?:s3|gs|az|https?|/)[^\"']*)[\"']", text)
    return found[1] if found else _first_line(text)
