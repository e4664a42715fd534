"""A wire to a server that can be cut, and that can fall silent without being cut."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LINGER_NOT = struct.pack("ii", 1, 0)
"""Closing a socket resets its connection, then."""


class Wire:
    """A TCP port that leads to another one of this machine."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections, on both sides."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in (end for pair in pairs for end in pair):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def silence(self, *, new: bool = False) -> None:
        """Pass nothing more on in the connections of the moment, nor with `new` in any; none is closed."""
        with self._lock:
            self._silent |= {end for pair in self._pairs for end in pair}
        if new:
            self._open.clear()

    def restore(self) -> None:
        """Let new connections pass; silent ones stay silent."""
        self._open.set()

    def close(self) -> None:
        """Let nobody in any more, and cut all connections."""
        self._listener.close()
        self._open.set()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.to))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._pairs.append((client, server))
                    if not self._open.is_set():
                        self._silent |= {client, server}
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while True:
                if not select.select([one], [], [], 0.05)[0] or one in self._silent:
                    if one in self._silent:
                        # What comes is left where it is: the sender notices nothing.
                        threading.Event().wait(0.05)
                    continue
                data = one.recv(1 << 16)
                if not data:
                    break
                self.passed += len(data)
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)


@contextmanager
def wired(port: int) -> Iterator[Wire]:
    """A wire to a port of this machine, for the block."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()
