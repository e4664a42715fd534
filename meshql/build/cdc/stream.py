"""The stream of changes: PostgreSQL's streaming replication protocol over a session of psycopg's.

psycopg has no call for it, but its wrapper of libpq has what it takes. Source: PostgreSQL's documentation,
"Streaming Replication Protocol".
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshql.build.cdc.pgoutput import EPOCH_MICROSECONDS, lsn_text
from meshql.build.cdc.server import Server, called
from meshql.errors import UnreachableError

if TYPE_CHECKING:
    import psycopg

__all__ = ["Stream"]

WAIT_SECONDS = 0.1
"""How long nothing may come before the reader hears of it."""

STATUS_SECONDS = 10.0
"""How often the server is told that we are there; it gives us up after 60 seconds."""

QUIET_SECONDS = 40.0
"""How long the server may leave us without the answer that we have asked for, before it is taken for gone."""

CLOSE_SECONDS = 3.0

_DATA, _KEEPALIVE = ord("w"), ord("k")
_keepalive = struct.Struct(">qqB").unpack_from


class Stream:
    """Changes from a slot, as the server sends them; a context manager.

    `sent` is up to where the server has sent everything, and `clock` how many microseconds its clock is ahead
    of ours, both as of its last answer to a status.
    """

    def __init__(self, server: Server, product: str, slot: str, publication: str, start: int) -> None:
        self._server = server
        self._session: psycopg.Connection[Any] = server.connect(called(product), replication=True)
        self._durable = start
        self._told = time.monotonic()
        self._asked: float | None = None
        self.sent = 0
        self.clock = 0
        try:
            self._begin(slot, publication, start)
        except BaseException:
            self._session.close()
            raise

    def _begin(self, slot: str, publication: str, start: int) -> None:
        from psycopg import pq

        name = publication.replace('"', '""').replace("'", "''")
        command = (
            f"START_REPLICATION SLOT {slot} LOGICAL {lsn_text(start)}"
            f" (proto_version '1', publication_names '\"{name}\"')"
        )
        with self._server.asking():
            self._link.send_query(command.encode())
            result = self._result(QUIET_SECONDS)
            if result is None or result.status != pq.ExecStatus.COPY_BOTH:
                self._raise(result)
        self.ask_position()

    @property
    def _link(self) -> psycopg.pq.abc.PGconn:
        return self._session.pgconn

    def _result(self, seconds: float) -> psycopg.pq.abc.PGresult | None:
        ends = time.monotonic() + seconds
        self._link.flush()
        while self._link.is_busy():
            if time.monotonic() > ends:
                raise self._silent()
            select.select([self._link.socket], [], [], WAIT_SECONDS)
            self._link.consume_input()
            self._link.flush()
        return self._link.get_result()

    def _raise(self, result: psycopg.pq.abc.PGresult | None) -> None:
        from psycopg import errors

        if result is not None and result.error_message:
            with self._server.asking():
                raise errors.error_from_result(result)
        raise UnreachableError(f"the database ended the stream of changes: {self._server.place}")

    def messages(self, check: Callable[[], None]) -> Iterator[bytes | None]:
        """Yield messages of pgoutput as they come, and None each time there is none for a moment.

        `check` is called then, too, and may raise. Raises a StorageError where the server ends the stream or
        has not spoken for too long.
        """
        with self._server.asking():
            while True:
                length, data = self._link.get_copy_data(1)
                if length > 0:
                    message = self._taken(bytes(data))
                    if message is not None:
                        yield message
                elif length == 0:
                    if time.monotonic() - self._told >= STATUS_SECONDS:
                        self._tell(answer=True)
                    if not self._waited():
                        if self._asked and time.monotonic() - self._asked > QUIET_SECONDS:
                            raise self._silent()
                        check()
                        yield None
                else:
                    self._raise(self._result(CLOSE_SECONDS))

    def _taken(self, data: bytes) -> bytes | None:
        """Note what the server says beside the data, and return the message, if there is one."""
        if data[0] == _DATA:
            return data[25:]
        if data[0] == _KEEPALIVE:
            sent, at, wants_answer = _keepalive(data, 1)
            self.sent = max(self.sent, sent)
            self.clock = at + EPOCH_MICROSECONDS - time.time_ns() // 1000
            if wants_answer:
                self._tell()
        return None

    def _waited(self) -> bool:
        """Wait for data, and take in all that is there; False when there was none."""
        socket = self._link.socket
        if not select.select([socket], [], [], WAIT_SECONDS)[0]:
            return False
        self._asked = None
        # Small reads cost more than they bring: what came meanwhile is taken along.
        time.sleep(0.001)
        for _ in range(64):
            self._link.consume_input()
            if not select.select([socket], [], [], 0)[0]:
                break
        return True

    def _silent(self) -> UnreachableError:
        return UnreachableError(
            f"the database has not answered for {QUIET_SECONDS:g} s: {self._server.place}",
            hint="check the network to it",
        )

    @property
    def durable(self) -> int:
        """What was acknowledged last."""
        return self._durable

    def ask_position(self) -> None:
        """Have the server say up to where it has sent everything, which `sent` tells once it has."""
        self._tell(answer=True)

    def acknowledge(self, position: int) -> None:
        """Tell the server that all before `position` is durable: it need not keep it for us any more."""
        self._durable = max(self._durable, position)
        self._tell()

    def _tell(self, *, answer: bool = False) -> None:
        now = time.time_ns() // 1000 - EPOCH_MICROSECONDS
        position = self._durable
        status = struct.pack(">cqqqqB", b"r", position, position, position, now, answer)
        with self._server.asking():
            self._link.put_copy_data(status)
            self._link.flush()
        self._told = time.monotonic()
        if answer:
            self._asked = self._asked or self._told

    def close(self) -> None:
        """End the stream; what was acknowledged last has then reached the server, and the slot is free."""
        import psycopg

        ends = time.monotonic() + CLOSE_SECONDS
        with suppress(psycopg.Error, OSError, UnreachableError):
            self._link.put_copy_end()
            self._link.flush()
            # The server ends its side once it has read ours.
            while time.monotonic() < ends:
                length, _ = self._link.get_copy_data(1)
                if length < 0:
                    self._result(CLOSE_SECONDS)
                    break
                if length == 0:
                    select.select([self._link.socket], [], [], WAIT_SECONDS)
                    self._link.consume_input()
        self._session.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
