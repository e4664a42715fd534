"""`meshql build`: a table that moves while products are built, and a summary."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import ContractError, InterruptedQueryError, MeshError, UsageError
from meshql.query.supervise import supervise
from meshql.terminal import note, say, size, styled

if TYPE_CHECKING:
    from rich.console import RenderableType

    from meshql.build.step import Request
    from meshql.build.turn import Run, Turn
    from meshql.mesh import Mesh

    Listener = Callable[[Run, Turn], None]

__all__ = ["build_products", "conclude", "lineage_listeners", "report_failures", "request_of", "watched"]

SIGNS = {
    "waiting": ("·", "dim"),
    "running": ("▸", "cyan"),
    "built": ("✓", "green"),
    "unchanged": ("=", "dim"),
    "failed": ("✗", "red"),
    "blocked": ("–", "yellow"),
    "cancelled": ("–", "yellow"),
}


def request_of(full: bool, since: str | None, until: str | None) -> Request:
    """Return what a build was asked for; raises UsageError for dates that are none."""
    from meshql.build.step import Request

    given = Request(full, since=_instant("--from", since), until=_instant("--to", until))
    if full and given.backfill:
        raise UsageError("--full builds everything, and --from and --to a part", hint="give one of them")
    if given.since and given.until and given.since >= given.until:
        raise UsageError(
            f"--from {since} is not before --to {until}", hint="--to is where it stops, excluded"
        )
    return given


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text}: no date", hint=f"{option} 2026-01-31, or {option} 2026-01-31T12:00:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def build_products(
    selectors: Sequence[str],
    config: Config,
    request: Request,
    *,
    dry_run: bool,
    jobs: int,
    wait: float,
    openlineage: str | None,
    format_: str,
) -> int:
    """Build products, or tell what building them would do, and return the exit code."""
    from meshql.build.run import plan

    with open_mesh(config) as mesh:
        if dry_run:
            words = supervise(lambda: plan(mesh, selectors, request=request), mesh.interrupt)
            print_rows([{"product": n, "to do": w or "nothing"} for n, w in words.items()], format_)
            return 0
        run = watched(mesh, selectors, request, jobs=jobs, wait=wait, openlineage=openlineage)
    return conclude(run, format_)


def watched(
    mesh: Mesh,
    selectors: Sequence[str],
    request: Request,
    *,
    jobs: int,
    wait: float,
    openlineage: str | None,
) -> Run:
    """Build products while their progress is shown on stderr."""
    from meshql.build.run import build

    display = _Display()
    listeners: list[Listener] = [lambda _, turn: display.told(turn), *lineage_listeners(mesh, openlineage)]

    def told(run: Run, turn: Turn) -> None:
        for listener in listeners:
            listener(run, turn)

    with display:
        return supervise(
            lambda: build(
                mesh,
                selectors,
                request=request,
                jobs=jobs,
                wait_seconds=wait,
                started=display.started,
                told=told,
            ),
            lambda: _cancel(display, mesh),
            tick=display.tick,
        )


def lineage_listeners(mesh: Mesh, openlineage: str | None) -> list[Listener]:
    """Return what is to be told of each turn: OpenLineage's receiver, if there is one."""
    from meshql.build.openlineage import Emitter, sender

    target = openlineage or os.environ.get("OPENLINEAGE_URL")
    return [Emitter(mesh, sender(target)).told] if target else []


def _cancel(display: _Display, mesh: Mesh) -> None:
    if display.run is not None:
        display.run.cancelled.set()
    mesh.interrupt()


class _Display:
    """Shows a run on stderr: on a terminal as a table that moves, else as a line for each step that ends."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._lock = threading.Lock()
        self._live: Any = None

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, run: Run) -> None:
        """Begin to show a run."""
        self.run = run

    def told(self, turn: Turn) -> None:
        """Say a line about a step that ended, where no table moves."""
        if self._live is None and turn.done:
            with self._lock:
                say(_line(turn))

    def tick(self) -> None:
        """Draw the table as it is now."""
        if self._live is not None and self.run is not None:
            self._live.update(_table(self.run), refresh=True)


def _line(turn: Turn) -> str:
    sign, style = SIGNS[turn.status]
    counts = turn.outcome.counts
    said = [
        f"{counts.rows_out:,} rows" if turn.status == "built" else turn.status,
        f"{counts.rows_quarantined:,} quarantined" if counts.rows_quarantined else "",
        size(counts.bytes) if counts.bytes else "",
        f"{turn.seconds:.1f} s" if turn.began else "",
        f"since {turn.blocked_by} failed" if turn.blocked_by else "",
    ]
    return (
        f"{styled(sign, style) if style != 'dim' else sign} {turn.name}  {' · '.join(s for s in said if s)}"
    )


def _table(run: Run) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name, justify in (("", "left"), ("step", "left"), ("kind", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in ("rows", "bytes", "seconds"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for turn in run.turns.values():
        sign, style = SIGNS[turn.status]
        done = turn.outcome.counts if turn.done else None
        rows = done.rows_out if done else turn.progress.rows
        read = done.bytes if done else turn.progress.bytes
        assert turn.product.build is not None
        table.add_row(
            Text(sign, style),
            Text(turn.name, "bold" if turn.status == "running" else ""),
            Text(turn.product.build.kind, "dim"),
            f"{rows:,}" if rows else "",
            size(read) if read else "",
            f"{turn.seconds:.1f}" if turn.began else "",
            Text(_doing(turn), "red" if turn.error else "dim"),
        )
    return table


def _doing(turn: Turn) -> str:
    if turn.error:
        return turn.error.message.splitlines()[0]
    if turn.blocked_by:
        return f"{turn.blocked_by} failed"
    if turn.status == "running":
        stream = turn.progress.stream
        return f"{turn.progress.doing} · {size(stream.lag_bytes)} behind" if stream else turn.progress.doing
    return "" if turn.status == "built" else str(turn.status)


def conclude(run: Run, format_: str) -> int:
    """Print what became of each product, report what failed, and return the exit code."""
    _summary(run, format_)
    return _exit_code(run)


def _summary(run: Run, format_: str) -> None:
    rows = [_row(turn) for turn in run.turns.values()]
    if format_ == "json":
        print(json.dumps({"run": run.id, "steps": rows}, indent=2, default=str))
    else:
        print_rows([{k: v for k, v in row.items() if k not in LONG} for row in rows], format_)
    for turn in run.turns.values():
        for text in turn.outcome.notes:
            note(f"{turn.name}: {text}")
    for text in run.notes:
        note(text)


LONG = ("changes", "notes", "failed_checks", "error", "hint")


def _row(turn: Turn) -> dict[str, Any]:
    counts, outcome = turn.outcome.counts, turn.outcome
    return {
        "product": turn.name,
        "status": turn.status,
        "in": counts.rows_in,
        "out": counts.rows_out,
        "quarantined": counts.rows_quarantined,
        "duplicate": counts.rows_duplicate,
        "updated": counts.rows_updated,
        "rows": outcome.rows_total,
        "bytes": counts.bytes,
        "version": outcome.version,
        "seconds": round(turn.seconds, 1),
        "changes": [c for commit in outcome.commits for c in commit.changes],
        "notes": list(outcome.notes),
        "failed_checks": list(outcome.failed),
        "error": turn.error.message if turn.error else None,
        "hint": turn.error.hint if turn.error else None,
    }


def _exit_code(run: Run) -> int:
    """Report what failed on stderr, and return the code of the first of it."""
    cancelled = run.cancelled.is_set()
    found = report_failures(run.errors, [] if cancelled else run.failed_checks)
    if not cancelled:
        return found
    from meshql.terminal import report

    report(InterruptedQueryError("the build was cancelled", hint="run it again: it goes on from there"))
    return InterruptedQueryError.exit_code


def report_failures(errors: Sequence[MeshError], failed_checks: Sequence[str]) -> int:
    """Report errors, or without any the checks that failed, and return the exit code that they mean."""
    from meshql.terminal import report

    for error in errors:
        report(error)
    if errors:
        return errors[0].exit_code
    if failed_checks:
        checks = "\n  ".join(failed_checks)
        report(ContractError(f"what was built breaks its contract:\n  {checks}"))
        return ContractError.exit_code
    return 0
