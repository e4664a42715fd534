"""Building: the chosen products in the order of their graph, side by side where it allows."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from meshql.build.graph import graph_of
from meshql.build.needs import needs
from meshql.build.runner import Runner, definition_of, layer_of, scratch_prefix
from meshql.build.runs import RunLog
from meshql.build.step import Request, Step
from meshql.build.turn import Run, Turn
from meshql.errors import UsageError
from meshql.mesh import Mesh

__all__ = ["begun", "build", "plan", "run_name", "sweep"]

EVERYTHING_NEW = Request()


def build(
    mesh: Mesh,
    selectors: Sequence[str] = (),
    *,
    request: Request = EVERYTHING_NEW,
    jobs: int = 4,
    wait_seconds: float = 0.0,
    started: Callable[[Run], None] = lambda run: None,
    told: Callable[[Run, Turn], None] = lambda run, turn: None,
) -> Run:
    """Build the products that selectors mean, all for none, and return what became of each.

    `jobs` steps run side by side. `wait_seconds` is how long a product that somebody else builds is waited
    for. `started` is given the run before its first step, `told` each turn as it begins and ends. Raises
    UsageError for a selector that means nothing; what a step raises is in its turn.
    """
    run, log = begun(mesh, selectors, request)
    started(run)
    sweep()
    runner = Runner(mesh, run, log, wait_seconds, told)
    with ThreadPoolExecutor(max_workers=max(jobs, 1), thread_name_prefix="meshql-build") as pool:
        try:
            runner.all_in(pool)
        except BaseException:
            run.cancelled.set()
            mesh.interrupt()
            raise
    return run


def plan(mesh: Mesh, selectors: Sequence[str] = (), *, request: Request = EVERYTHING_NEW) -> dict[str, str]:
    """Return what building would do now, in words by product; nothing is written."""
    run, _ = begun(mesh, selectors, request)
    words: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as folder:
        for turn in run.turns.values():
            step = Step(mesh, turn.product, run.id, request, Path(folder), definition_of(turn.product))
            said = layer_of(turn.product).pending(step).words
            after = [p for p in run.graph.parents(turn.name) if words.get(p)]
            words[turn.name] = said or (f"after {', '.join(after)}" if after else "")
    return words


def begun(mesh: Mesh, selectors: Sequence[str], request: Request) -> tuple[Run, RunLog]:
    """Return a run of the products that selectors mean, and the log that it is told to."""
    graph, log = graph_of(mesh), RunLog(mesh)
    needs("deltalake")
    needs("pyiceberg")
    if not graph.products:
        raise UsageError("no product of this catalog is built here", hint="give one a `build:` block")
    last = log.last_built() if any("changed" in s for s in selectors) else {}
    chosen = graph.select(
        selectors,
        lambda name: last.get(name, {}).get("definition") != definition_of(graph.products[name]),
    )
    return Run(run_name(), request, graph, {n: Turn(graph.products[n]) for n in chosen}), log


def run_name() -> str:
    """Return a name that no other run has, and that tells when it began."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def sweep() -> None:
    """Remove what builds that were killed left in the folder for temporary files."""
    for folder in Path(tempfile.gettempdir()).glob("meshql-build-*-*"):
        pid = folder.name.split("-")[2]
        with suppress(OSError, ValueError):
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
