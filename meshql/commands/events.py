"""`meshql demo --events`: an API of user events, to build products from."""

from __future__ import annotations

from meshql.demo import session
from meshql.demo.events import ADVANCE
from meshql.terminal import say

__all__ = ["serve_events"]


def serve_events(port: int | None) -> None:
    """Start the server of events, print its URL, and say how more events come about."""
    server = session.serve_events(port)
    print(f"{server.endpoint}/events", flush=True)
    say(
        f"curl -X POST {server.endpoint}/advance lets {ADVANCE:,} more events happen\n"
        "meshql demo --down ends it"
    )
