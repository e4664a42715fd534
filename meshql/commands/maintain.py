"""`meshql maintain`: the tables that are built here cared for, and what was done told."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import InterruptedQueryError
from meshql.terminal import note, say, size

if TYPE_CHECKING:
    from meshql.build.maintain import Care

__all__ = ["maintain_products"]


def maintain_products(
    selectors: Sequence[str],
    config: Config,
    older_than: str,
    *,
    dry_run: bool = False,
    keep_runs: int = 10,
    format_: str = "table",
) -> None:
    """Care for products and print what was done for each; raises the error of the first that failed."""
    from meshql.build.freshness import length_of
    from meshql.build.maintain import Given, maintain
    from meshql.query.supervise import supervise

    given = Given(length_of(older_than), dry_run, keep_runs)
    cancelled = threading.Event()
    done: list[Care] = []
    with open_mesh(config) as mesh:

        def stop() -> None:
            cancelled.set()
            mesh.interrupt()

        try:
            supervise(
                lambda: maintain(mesh, selectors, given, told=done.append, cancelled=cancelled),
                stop,
                timeout=config.timeout,
            )
        finally:
            if done:
                print_rows([_row(care) for care in done], format_, null="")
    _tell(done, dry_run=dry_run)


def _row(care: Care) -> dict[str, str | float | None]:
    return {
        "product": care.product,
        "kind": care.kind,
        "files before": care.files_before,
        "files after": care.files_after,
        "removed": care.removed,
        "bytes freed": care.freed,
        "seconds": round(care.seconds, 3),
        "done": "; ".join(care.done) or (care.error and "failed") or "nothing to do",
    }


def _tell(done: Sequence[Care], *, dry_run: bool) -> None:
    if not done:
        note("no product of this catalog is built here: there is nothing to care for")
        return
    for care in done:
        if care.error is not None:
            note(f"{care.product}: {care.error.message}")
    freed = sum(care.freed for care in done)
    products = f"{len(done):,} product{'' if len(done) == 1 else 's'}"
    say(f"{products}: {size(freed)} {'would be freed' if dry_run else 'freed'}")
    for care in done:
        if care.error is not None and not isinstance(care.error, InterruptedQueryError):
            raise care.error
