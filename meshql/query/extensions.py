"""DuckDB's extensions, loaded from the wheels they are installed as.

Networks with a proxy, or with an authority of their own behind TLS, are told to meshql by the usual
variables, meant for every reader alike: HTTPS_PROXY, HTTP_PROXY, NO_PROXY and SSL_CERT_FILE. The stores'
own listing and delta-kernel heed all of them, httpfs and azure the proxies; of the certificates they are
told here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import duckdb

from meshql.errors import UsageError
from meshql.sql import quote_literal

__all__ = ["Extensions"]

NEEDS = {"iceberg": ("avro",)}
"""Extensions that want others to be there when they are loaded."""

EXTRAS = {"postgres_scanner": "postgres"}
"""Extensions that are no part of every installation, and the extra that has them."""

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


def _network(name: str) -> Iterator[str]:
    """The settings under which an extension trusts what the other readers trust."""
    trusted = os.environ.get("SSL_CERT_FILE")
    if trusted and not Path(trusted).is_file():
        raise UsageError(
            f"$SSL_CERT_FILE names no file: {trusted}", hint="unset SSL_CERT_FILE, or correct it"
        )
    if name == "httpfs" and trusted:
        yield f"SET GLOBAL ca_cert_file = {quote_literal(trusted)}"
    if name == "azure" and sys.platform == "linux":
        # Its default looks for certificates only where some distributions have them, and then trusts none.
        yield "SET GLOBAL azure_transport_option_type = 'curl'"
        if trusted:
            os.environ["CURL_CA_INFO"] = trusted


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
            for statement in (*AFTER_LOADING.get(name, ()), *_network(name)):
                cursor.execute(statement)
        except duckdb.Error as error:
            raise UsageError(
                f"DuckDB's extension {name} cannot be loaded: {str(error).splitlines()[0]}",
                hint=f"pip install {_wheel(name)}",
            ) from None


def _wheel(name: str) -> str:
    """What pip installs for an extension."""
    extra = EXTRAS.get(name)
    if extra:
        return f"'meshql[{extra}]'"
    return f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"


def _wheel_file(name: str) -> Path | None:
    spec = find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}"
    file = folder / f"{name}.duckdb_extension"
    return file if file.is_file() else None
