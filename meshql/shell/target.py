"""Where results go that leave for files: one file a result, numbered where that is asked for."""

from __future__ import annotations

from pathlib import Path

from meshql.errors import UsageError

__all__ = ["NUMBER", "Targets", "file_named", "numbered", "rows_said"]

NUMBER = "{n}"


class Targets:
    """Names the file of each result in turn, and no file twice."""

    def __init__(self) -> None:
        self._results = 0
        self._taken: set[Path] = set()

    def count(self) -> None:
        """Count a result, wherever it goes."""
        self._results += 1

    def claim(self, target: str) -> str:
        """Return the file for the result counted last; raises UsageError for one that has a result."""
        name = target.replace(NUMBER, str(self._results))
        if Path(name).absolute() in self._taken:
            raise UsageError(f"{name} holds a result already", hint=f"number the files: {numbered(name)}")
        return name

    def fill(self, name: str) -> None:
        """Remember that a file holds a result now."""
        self._taken.add(Path(name).absolute())


def numbered(output: str) -> str:
    """Return a name for one file a result: `out-{n}.csv`."""
    path = Path(output)
    return str(path.with_stem(f"{path.stem}-{NUMBER}"))


def file_named(argument: str) -> str:
    """Return the path that a command's argument names, without its quotes and with ~ in full."""
    bare = argument.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
        bare = bare[1:-1]
    return str(Path(bare).expanduser()) if bare.startswith("~") else bare


def rows_said(count: int) -> str:
    """Return a number of rows for people: `1 row`."""
    return f"{count:,} row{'' if count == 1 else 's'}"
