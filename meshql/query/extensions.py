"""DuckDB's extensions, loaded from the wheels they are installed as."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import duckdb

from meshql.errors import UsageError
from meshql.sql import quote_literal

__all__ = ["Extensions"]

NEEDS = {"iceberg": ("avro",)}
"""Extensions that want others to be there when they are loaded."""

AFTER_LOADING = {
    "httpfs": (
        # httpfs copies AWS_* of the environment into settings that any SQL can read.
        "RESET GLOBAL s3_access_key_id",
        "RESET GLOBAL s3_secret_access_key",
        "RESET GLOBAL s3_session_token",
        "SET GLOBAL http_timeout = 10",
        "SET GLOBAL http_retries = 5",
        "SET GLOBAL http_retry_wait_ms = 100",
        "SET GLOBAL http_retry_backoff = 2",
    ),
}


class Extensions:
    """Loads each extension once into one DuckDB instance, side by side, however many threads ask for it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._loading: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        # DuckDB checks the signature of a whole file while it loads it: that is worth a thread each.
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="meshql-load")

    def load(self, names: Iterable[str]) -> None:
        """Load the extensions of these names; raises UsageError when one cannot be had."""
        with self._lock:
            jobs = [self._submitted(name) for name in names]
        for job in jobs:
            job.result()

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submitted(self, name: str) -> Future[None]:
        if name not in self._loading:
            needed = [self._submitted(other) for other in NEEDS.get(name, ())]
            self._loading[name] = self._pool.submit(self._load_behind, name, needed)
        return self._loading[name]

    def _load_behind(self, name: str, needed: Iterable[Future[None]]) -> None:
        try:
            for job in needed:
                job.result()
            self._load(name)
        except BaseException:
            # What failed may be mended by the time it is wanted again.
            self._loading.pop(name, None)
            raise

    def _load(self, name: str) -> None:
        cursor = self._connection.cursor()
        file = _wheel_file(name)
        try:
            if file is None:
                cursor.execute(f"INSTALL {name}")
            cursor.execute(f"LOAD {quote_literal(str(file)) if file else name}")
            for statement in AFTER_LOADING.get(name, ()):
                cursor.execute(statement)
        except duckdb.Error as error:
            raise UsageError(
                f"DuckDB's extension {name} cannot be loaded: {str(error).splitlines()[0]}",
                hint=f"pip install duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}",
            ) from None


def _wheel_file(name: str) -> Path | None:
    spec = find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}"
    file = folder / f"{name}.duckdb_extension"
    return file if file.is_file() else None
