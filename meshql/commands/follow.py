"""`meshql build --follow`: what is followed, as it is at the moment, until somebody stops it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshql.commands.build import conclude, lineage_listeners, report_failures, watched
from meshql.commands.follow_table import Rates, status_lines, table
from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.query.supervise import supervise
from meshql.terminal import note, say, styled

if TYPE_CHECKING:
    from meshql.build.follow import Following
    from meshql.build.followed import Event, Followed
    from meshql.build.step import Request
    from meshql.build.turn import Run, Turn
    from meshql.mesh import Mesh

__all__ = ["follow_products"]

STATUS_EVERY_SECONDS = 30.0
"""How often lines tell how far everything is, where no table moves."""

DRAWN_EVERY_SECONDS = 0.25

ENDING = "ends after the commits under way; Ctrl-C again ends it at once"

EVENTS: dict[Event, str] = {
    "started": "followed from here on",
    "error": "cannot go on, and tries again",
    "recovered": "goes on",
    "failed": "failed",
    "ended": "has come to its end",
}


def follow_products(
    selectors: Sequence[str],
    config: Config,
    request: Request,
    *,
    every: float,
    jobs: int,
    wait: float,
    openlineage: str | None,
    format_: str,
) -> int:
    """Follow products until stopped, print what came of each, and return the exit code.

    A full request builds all of them anew before that; what fails then is the end of it.
    """
    with open_mesh(config) as mesh:
        if request.full:
            run = watched(mesh, selectors, request, jobs=jobs, wait=wait, openlineage=openlineage)
            if run.errors or run.failed_checks or run.cancelled.is_set():
                return conclude(run, format_)
        following = _followed(mesh, selectors, every=every, jobs=jobs, wait=wait, openlineage=openlineage)
    _summary(following, format_)
    return _exit_code(following)


def _followed(
    mesh: Mesh,
    selectors: Sequence[str],
    *,
    every: float,
    jobs: int,
    wait: float,
    openlineage: str | None,
) -> Following:
    from meshql.build.follow import follow

    display, listeners = _Display(), lineage_listeners(mesh, openlineage)

    def turned(run: Run, turn: Turn) -> None:
        for listener in listeners:
            listener(run, turn)

    with display:
        return supervise(
            lambda: follow(
                mesh,
                selectors,
                every=every,
                jobs=jobs,
                wait_seconds=wait,
                started=display.started,
                told=display.told,
                turned=turned,
            ),
            display.cancel,
            tick=display.tick,
            stop=display.stop,
        )


class _Display:
    """Shows what is followed on stderr: on a terminal as a table that moves, else a line now and then."""

    def __init__(self) -> None:
        self._following: Following | None = None
        self._stopped = False
        self._rates = Rates()
        self._live: Any = None
        self._lock = threading.Lock()
        self._began = self._shown_at = time.monotonic()

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, following: Following) -> None:
        """Begin to show what is followed; a stop that was asked for before that is passed on."""
        self._following = following
        if self._stopped:
            following.stop()

    def told(self, one: Followed, event: Event) -> None:
        """Say what happened to a product; on a terminal only what is not as it should be."""
        if event == "started" and self._live is not None:
            return
        error = one.problem or one.turn.error
        words = f": {error.message}" if error is not None and event in ("error", "failed") else ""
        if event == "failed" and error is None:
            words = f": {one.waits_for} is not there"
        with self._lock:
            say(f"{_clock()} {one.name}  {EVENTS[event]}{words}")

    def tick(self) -> None:
        """Draw the table as it is now, or say lines when that is due."""
        if self._following is None:
            return
        now = time.monotonic()
        self._rates.look(self._following, now)
        if now - self._shown_at < (DRAWN_EVERY_SECONDS if self._live is not None else STATUS_EVERY_SECONDS):
            return
        self._shown_at = now
        if self._live is None:
            with self._lock:
                for line in status_lines(self._following, self._rates):
                    say(f"{_clock()} {line}")
            return
        size, seconds = self._live.console.size, now - self._began
        ending = ENDING if self._stopped else "Ctrl-C ends it"
        drawn = table(self._following, self._rates, seconds, ending, size.width, size.height)
        self._live.update(drawn, refresh=True)

    def stop(self) -> None:
        """End it, once the commits under way are made."""
        self._stopped = True
        say(f"{_clock()} {ENDING}")
        if self._following is not None:
            self._following.stop()

    def cancel(self) -> None:
        """End it at once."""
        if self._following is not None:
            self._following.cancel()


def _clock() -> str:
    return f"{datetime.now(UTC):%H:%M:%S}"


def _summary(following: Following, format_: str) -> None:
    rows = [_row(one) for one in following.products.values()]
    if format_ == "json":
        print(json.dumps({"run": following.run.id, "runs": following.runs, "products": rows}, indent=2))
    else:
        print_rows(rows, format_)
    for one in following.products.values():
        for text in one.total.notes:
            note(f"{one.name}: {text}")
        if one.problem is not None:
            note(f"{one.name} was being tried again when it was stopped: {one.problem.message}")
    for text in following.notes:
        note(text)


def _row(one: Followed) -> dict[str, str | float | None]:
    counts, total = one.total.counts, one.total
    return {
        "product": one.name,
        "status": one.turn.status if one.done else "stopped",
        "commits": total.number,
        "in": counts.rows_in,
        "out": counts.rows_out,
        "quarantined": counts.rows_quarantined,
        "updated": counts.rows_updated,
        "rows": total.rows_total,
        "version": one.version or total.version,
    }


def _exit_code(following: Following) -> int:
    """Report what failed on stderr, and return the code of the first of it; 0 where it was only stopped."""
    products = following.products.values()
    errors = [one.turn.error for one in products if one.state == "failed" and one.turn.error is not None]
    code = report_failures(errors, [f"{one.name}: {check}" for one in products for check in one.broken])
    if not code:
        say(styled("stopped", "dim"))
    return code
