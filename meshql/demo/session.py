"""The demo as a whole: up with its stores, data and catalog, and down without a trace."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from meshql.demo import azurite, emulators, events
from meshql.demo.lock import locked
from meshql.demo.progress import Progress
from meshql.demo.stores import Cloud, Store
from meshql.errors import MeshError, UsageError
from meshql.folders import cache_folder, state_folder

__all__ = ["Demo", "down", "serve_events", "stop_stores", "stores", "up", "write_catalog"]

PARTS = ("moto", "flask", "deltalake", "pyiceberg", "sqlalchemy")
"""What the `demo` extra brings: moto's server needs Flask, pyiceberg's SQL catalog SQLAlchemy."""

STAND_IN = "azure-stand-in"
EVENTS = "web"
"""The name of the server of user events, which are the web's."""


@dataclass(frozen=True)
class Demo:
    """A demo that is up. `notes` are sentences for its user, such as which store stands in for another."""

    folder: Path
    catalog: Path
    stores: Mapping[Cloud, Store]
    notes: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What the repository's catalogs/demo and DuckDB read from the environment, for these stores."""
        return _values(self.stores) | self.stores["azure"].environment


def up(progress: Progress, *, rows: int | None = None) -> Demo:
    """Start what is not running, build and publish what is not there, and write the catalog.

    Raises UsageError without the `demo` extra.
    """
    from meshql.demo import retail

    _require_extra()
    _bypass_proxy()
    folder = demo_folder()
    with locked(_lock_file(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        running, notes = stores(folder / "stores", progress)
        built = retail.build(folder / "retail", progress, rows=rows or retail.ROWS)
        retail.publish(built, running, progress)
        catalog = write_catalog(folder / "catalog", running)
    return Demo(folder, catalog, running, notes)


def down() -> list[str]:
    """Stop the demo's stores and remove all it made; returns what was stopped and removed, in words.

    Does nothing when there is no demo.
    """
    folder = demo_folder()
    with locked(_lock_file(folder)):
        gone = stop_stores(folder / "stores")
        made = [folder / "stores", folder / "catalog", *folder.glob("retail*")]
        for path in [path for path in made if path.exists()]:
            shutil.rmtree(path)
            gone.append(str(path))
        gone += azurite.remove()
    for parent in (folder, folder.parent, cache_folder()):
        # Only an empty folder goes.
        with suppress(OSError):
            parent.rmdir()
    return gone


def serve_events(port: int | None = None) -> emulators.Server:
    """Return the server of user events, answering: the running one, or one started on `port`.

    It runs beside the demo, needs no part of it and goes with `down`. Raises UsageError where something else
    is at the port.
    """
    folder = demo_folder() / "stores"
    with locked(_lock_file(demo_folder())):
        known = emulators.running(EVENTS, "events", folder)
        if known and port in (None, known.port):
            return known
        port = port or events.PORT
        if (hanging := emulators.find(EVENTS, folder)) and hanging.port == port:
            emulators.stop(hanging)
        if emulators.taken(port):
            raise UsageError(
                f"port {port} of {emulators.HOST} is taken",
                hint=f"meshql demo --events --port {port + 1}, and export "
                f"EVENTS_URL=http://{emulators.HOST}:{port + 1}/events",
            )
        folder.mkdir(parents=True, exist_ok=True)
        return emulators.start(EVENTS, "events", folder, port=port)


def stores(folder: Path, progress: Progress) -> tuple[dict[Cloud, Store], tuple[str, ...]]:
    """Return the three stores kept in `folder`, answering, and notes about them.

    Those that run already are taken as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        s3, gcs = (pool.submit(emulators.start, name, "moto", folder) for name in ("s3", "gcs"))
        azurite_or_reason = _azurite_program(folder, progress)
        with progress.step("starting the emulated stores"):
            azure, notes = _azure(folder, azurite_or_reason)
            found: dict[Cloud, Store] = {
                "s3": Store.s3(s3.result().endpoint),
                "gcs": Store.gcs(gcs.result().endpoint),
                "azure": azure,
            }
    return found, notes


def stop_stores(folder: Path) -> list[str]:
    """Stop every emulator that was started in `folder`; returns those that were running, in words."""
    known = [emulators.find(name, folder) for name in ("s3", "gcs", "azure", STAND_IN, EVENTS)]
    return [
        f"{server.kind} ({server.name}) on port {server.port}"
        for server in known
        if server and emulators.stop(server)
    ]


def write_catalog(folder: Path, running: Mapping[Cloud, Store]) -> Path:
    """Write the demo's catalog, with the addresses of these stores in place of variables."""
    values = _values(running)
    folder.mkdir(parents=True, exist_ok=True)
    for source in files("meshql.demo").joinpath("catalog").iterdir():
        if not source.name.endswith(".yaml"):
            continue
        # The line that names the schema is for the repository's folders.
        text = source.read_text(encoding="utf-8").partition("\n")[2]
        if running["azure"].stand_in:
            text = _without_azure(text, running["azure"])
        text = re.sub(r"\$\{(MESHQL_DEMO_\w+)(:-[^}]*)?\}", lambda found: values[found[1]], text)
        (folder / source.name).write_text(text, encoding="utf-8")
    return folder


def _azurite_program(folder: Path, progress: Progress) -> tuple[str, ...] | str:
    """Return what runs Azurite, () if it runs already, or the reason why nothing does."""
    if emulators.running("azure", "azurite", folder):
        return ()
    # A machine that cannot reach npm would wait for it at every start.
    if (known := _reason_file(folder)).exists():
        return known.read_text()
    try:
        if azurite.installed():
            return azurite.program()
        with progress.step("installing Azurite with npm, once"):
            return azurite.program()
    except MeshError as error:
        return error.message


def _azure(folder: Path, program: tuple[str, ...] | str) -> tuple[Store, tuple[str, ...]]:
    """Return Azurite, or what stands in for it with a note that says why."""
    if not isinstance(program, str):
        try:
            return Store.azure(emulators.start("azure", "azurite", folder, program=program).endpoint), ()
        except MeshError as error:
            program = error.message
    _reason_file(folder).write_text(program)
    server = emulators.start(STAND_IN, "moto", folder)
    note = (
        f"Azure is played by another S3 emulator, since {program}; "
        "meshql demo --down and a new start try Azurite again"
    )
    return Store.azure_stand_in(server.endpoint), (note,)


def _reason_file(folder: Path) -> Path:
    return folder / f"{STAND_IN}.txt"


def _values(running: Mapping[Cloud, Store]) -> dict[str, str]:
    s3, gcs, azure = running["s3"], running["gcs"], running["azure"]
    return {
        "MESHQL_DEMO_S3_ENDPOINT": s3.endpoint,
        "MESHQL_DEMO_S3_KEY_ID": s3.key_id,
        "MESHQL_DEMO_S3_SECRET": s3.secret,
        "MESHQL_DEMO_GCS_ENDPOINT": gcs.endpoint,
        "MESHQL_DEMO_GCS_KEY_ID": gcs.key_id,
        "MESHQL_DEMO_GCS_SECRET": gcs.secret,
        "MESHQL_DEMO_AZURE_CONNECTION_STRING": azure.connection_string,
    }


def _without_azure(text: str, store: Store) -> str:
    """Return a catalog file's text with its Azure connection and locations on an S3 store."""
    block = (
        f"    cloud: s3\n    endpoint: {store.endpoint}\n    url_style: path\n    insecure: true\n"
        f"    auth: {{method: keys, key_id: {store.key_id}, secret: {store.secret}}}\n"
    )
    text = re.sub(r"    cloud: azure\n(?:    .*\n)*", lambda _: block, text)
    return text.replace("location: az://", "location: s3://")


def _require_extra() -> None:
    missing = [name for name in PARTS if find_spec(name) is None]
    if missing:
        raise UsageError(f"the demo needs {', '.join(missing)}", hint="pip install 'meshql[demo]'")


def _bypass_proxy() -> None:
    """Keep this process from asking a proxy for the stores of this machine."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name, "")
        if emulators.HOST not in hosts.split(",") and hosts != "*":
            os.environ[name] = f"{hosts},{emulators.HOST}".strip(",")


def demo_folder() -> Path:
    """Return the folder of everything that the demo makes, but for Azurite itself."""
    return state_folder() / "demo"


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
