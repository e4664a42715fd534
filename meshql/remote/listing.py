"""What remote catalogs list, remembered for some minutes, and in a file for the next start."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from meshql.errors import MeshError
from meshql.folders import cache_folder
from meshql.remote.client import Entry
from meshql.remote.iceberg_rest import IcebergRest
from meshql.remote.unity import Unity

__all__ = ["FRESH_SECONDS", "Listing"]

FRESH_SECONDS = 300.0

RETRY_SECONDS = 30.0
"""For so long a catalog that failed is not asked again on the chance that it has a name."""


@dataclass(frozen=True, slots=True)
class _Known:
    entries: tuple[Entry, ...]
    at: float
    """Seconds since 1970, by the clock that the file's reader has too."""


class Listing:
    """The tables of one remote catalog, as it last listed them; threads may share it."""

    def __init__(self, api: IcebergRest | Unity, folder: Path | None = None) -> None:
        self.api = api
        self.failure: MeshError | None = None
        """Why the catalog could not be asked the last time."""
        connection = api.connection
        identity = json.dumps([connection.name, connection.model_dump(mode="json")], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
        self._file = (folder or cache_folder() / "catalogs") / f"{digest}.json"
        self._known: _Known | None = None
        self._failed_at = 0.0
        self._lock = threading.Lock()

    def known(self) -> tuple[Entry, ...]:
        """Return what was listed last, in this process or an earlier one, without asking anybody."""
        if self._known is None:
            self._known = self._read()
        return self._known.entries if self._known else ()

    def entries(self, *, within: float = FRESH_SECONDS) -> tuple[Entry, ...]:
        """Return what the catalog lists, asked for within the last `within` seconds.

        Raises a StorageError where it cannot be asked.
        """
        with self._lock:
            self.known()
            if self._known is None or not 0 <= time.time() - self._known.at <= within:
                self._known = self._asked()
            return self._known.entries

    def guessed(self) -> tuple[Entry, ...]:
        """Return what `entries` does; but what is known, where the catalog failed a moment ago."""
        if self.failure and time.time() - self._failed_at < RETRY_SECONDS:
            return self.known()
        try:
            return self.entries(within=RETRY_SECONDS)
        except MeshError:
            return self.known()

    def _asked(self) -> _Known:
        try:
            found = _Known(tuple(self.api.entries()), time.time())
        except MeshError as error:
            self.failure, self._failed_at = error, time.time()
            raise
        self.failure = None
        self._write(found)
        return found

    def _read(self) -> _Known | None:
        try:
            said = json.loads(self._file.read_text())
            entries = tuple(Entry(**{**e, "namespace": tuple(e["namespace"])}) for e in said["entries"])
            return _Known(entries, float(said["at"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _write(self, known: _Known) -> None:
        text = json.dumps({"at": known.at, "entries": [asdict(e) for e in known.entries]})
        # What cannot be kept is asked for again.
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = self._file.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            made.write_text(text)
            made.replace(self._file)
