"""The formats of output, and the suffixes that ask for them."""

from __future__ import annotations

from pathlib import Path

from meshql.errors import UsageError, nearest

__all__ = ["BINARY", "FORMATS", "compression_of", "format_of", "known_format"]

FORMATS = ("table", "csv", "tsv", "json", "jsonl", "markdown", "vertical", "parquet", "arrow")

BINARY = frozenset({"parquet", "arrow"})
"""Formats that no terminal can show, and that compress their own pages."""

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".md": "markdown",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".txt": "table",
}

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def format_of(path: str | Path) -> str:
    """Return the format that a file's suffix asks for, as in `x.csv`, `x.csv.gz` or `x.jsonl.zst`.

    Raises UsageError for a suffix that stands for none, and for Parquet or Arrow compressed as a whole.
    """
    name = Path(path).name
    compression = Path(name).suffix.casefold()
    bare = name.removesuffix(Path(name).suffix) if compression in COMPRESSIONS else name
    suffix = Path(bare).suffix.casefold()
    if suffix not in SUFFIXES:
        raise UsageError(f"no format has the suffix of {name}", hint=_suggestion(suffix))
    if bare != name and SUFFIXES[suffix] in BINARY:
        raise UsageError(f"{name}: {SUFFIXES[suffix]} is not compressed as a whole", hint=f"name it {bare}")
    return SUFFIXES[suffix]


def compression_of(path: str | Path, format_name: str) -> str | None:
    """Return how the suffix of `path` asks for its text to be compressed, `gzip` or `zstd`, or None."""
    return None if format_name in BINARY else COMPRESSIONS.get(Path(path).suffix.casefold())


def known_format(name: str) -> str:
    """Return `name` when it is a format; raises UsageError, with the nearest, when it is none."""
    if name in FORMATS:
        return name
    close = nearest(name, FORMATS)
    hint = f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(FORMATS)}"
    raise UsageError(f"unknown format {name}", hint=hint)


def _suggestion(suffix: str) -> str:
    close = nearest(suffix, SUFFIXES, most=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}known are {' '.join(SUFFIXES)}, or choose one with --format"
