"""Emulators, and the server of events, as background processes that outlive the command which started them.

Each has a state file (its command, pid and port). A pid counts as ours only while the process behind
it runs the very command that was started, which holds the emulator's own folder.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Literal

from meshql.demo import events
from meshql.errors import UnreachableError

__all__ = ["HOST", "Kind", "Server", "answers", "find", "is_ours", "running", "start", "stop", "taken"]

HOST = "127.0.0.1"

Kind = Literal["moto", "azurite", "events"]

_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Server:
    """An emulator process."""

    name: str
    kind: Kind
    folder: str
    pid: int
    port: int
    command: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        """The URL at which it answers."""
        return f"http://{HOST}:{self.port}"


def find(name: str, folder: Path) -> Server | None:
    """Return the emulator `name` that was last started in `folder`, running or not; None if there is none."""
    try:
        state = json.loads(_state_file(name, folder).read_text())
        return Server(**{**state, "command": tuple(state["command"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def running(name: str, kind: Kind, folder: Path) -> Server | None:
    """Return the emulator `name` of `folder` if it runs and answers."""
    server = find(name, folder)
    if server and server.kind == kind and is_ours(server) and answers(kind, server.port):
        return server
    return None


def start(
    name: str, kind: Kind, folder: Path, *, program: Sequence[str] = (), port: int | None = None
) -> Server:
    """Return the emulator `name` of `folder`, answering: the running one, or a new one.

    `program` is what runs Azurite (node and its script). A process of ours that hangs is replaced, and
    the port of an earlier start is taken again when it is free; `port` is taken and no other. Raises
    UnreachableError, with the end of the emulator's log, when it does not come up.
    """
    if (found := running(name, kind, folder)) and port in (None, found.port):
        return found
    if earlier := find(name, folder):
        stop(earlier)
    (folder / name).mkdir(parents=True, exist_ok=True)
    wanted = earlier.port if earlier else 0
    for last in (False, False, True):
        server = _spawn(name, kind, folder, port or _free_port(wanted), program)
        if _comes_up(server):
            return server
        stop(server)
        if last or port:
            break
        wanted = 0
    raise UnreachableError(
        f"the {kind} emulator for {name} did not start: {_end_of_log(server)}",
        hint=f"its log is {_log_file(name, folder)}",
    )


def stop(server: Server, *, seconds: float = 3) -> bool:
    """End the emulator and forget it; returns whether it was running.

    A process that took over its pid is left alone.
    """
    running = is_ours(server)
    if running:
        _end(server, signal.SIGTERM)
        if not _gone(server, seconds):
            _end(server, getattr(signal, "SIGKILL", signal.SIGTERM))
            _gone(server, seconds)
    if running and (child := _children.pop(server.pid, None)):
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
    if (known := find(server.name, Path(server.folder))) and known.pid == server.pid:
        _state_file(server.name, Path(server.folder)).unlink(missing_ok=True)
    return running


def is_ours(server: Server) -> bool:
    """Tell whether the process behind the server's pid is the one that was started."""
    # A child keeps its pid until it is waited for; just after it starts it has no command line yet.
    if (child := _children.get(server.pid)) and child.args == list(server.command):
        return child.poll() is None
    # An interpreter may replace its own path when it starts: what follows it stays.
    return _command_line(server.pid).endswith(_joined(server.command[1:]))


def answers(kind: Kind, port: int, *, seconds: float = 2) -> bool:
    """Tell whether an emulator of this kind answers at the port."""
    connection = HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request("GET", "/moto-api/")
        response = connection.getresponse()
        banner = response.getheader("Server") or ""
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    if kind != "moto":
        return banner.startswith({"azurite": "Azurite-Blob", "events": "meshql-events"}[kind])
    return response.status == 200 and banner.startswith("Werkzeug")


def taken(port: int) -> bool:
    """Tell whether anything listens at the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _spawn(name: str, kind: Kind, folder: Path, port: int, program: Sequence[str]) -> Server:
    command = _command(kind, folder / name, port, program)
    with _log_file(name, folder).open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder / name, **_detached()
        )
    _children[child.pid] = child
    server = Server(name, kind, str(folder), child.pid, port, tuple(command))
    _remember(server)
    return server


def _command(kind: Kind, folder: Path, port: int, program: Sequence[str]) -> list[str]:
    # Python keeps -X options that it does not know: the folder marks the process as ours.
    marked = [sys.executable, "-X", f"meshql={folder}"]
    if kind == "moto":
        return [*marked, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    if kind == "events":
        # As a file: it runs whether or not meshql is installed, and starts before meshql's imports would end.
        return [*marked, "-P", events.__file__, "--port", str(port), "--keep", str(folder / "available")]
    quiet = ["--silent", "--skipApiVersionCheck", "--loose", "--disableTelemetry"]
    return [*program, *quiet, "--blobHost", HOST, "--blobPort", str(port), "-l", str(folder)]


def _detached() -> dict[str, Any]:
    """Return the options of Popen that keep the process alive when its starter and its terminal end."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _comes_up(server: Server, *, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_ours(server):
            return False
        if answers(server.kind, server.port):
            return True
        time.sleep(0.05)
    return False


def _free_port(wanted: int = 0) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UnreachableError(f"no port of {HOST} is free")


def _command_line(pid: int) -> str:
    """Return the command line of a process; '' when there is no such process."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").replace("\0", " ")
        except OSError:
            return ""
    ask = (
        ["powershell", "-NoProfile", f"(Get-CimInstance Win32_Process -Filter 'ProcessId={pid}').CommandLine"]
        if sys.platform == "win32"
        else ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    )
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _joined(arguments: Sequence[str]) -> str:
    return subprocess.list2cmdline(arguments) if sys.platform == "win32" else " ".join(arguments)


def _end(server: Server, how: int) -> None:
    with suppress(OSError):
        os.kill(server.pid, how)


def _gone(server: Server, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_ours(server):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _remember(server: Server) -> None:
    path = _state_file(server.name, Path(server.folder))
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(server)))
    new.replace(path)


def _state_file(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"


def _log_file(name: str, folder: Path) -> Path:
    return folder / f"{name}.log"


def _end_of_log(server: Server) -> str:
    try:
        lines = _log_file(server.name, Path(server.folder)).read_text(errors="replace").split("\n")
    except OSError:
        return "it left no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
