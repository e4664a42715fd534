"""`meshql runs`: what builds did, from the log of runs."""

from __future__ import annotations

from typing import Any

from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import UsageError, nearest
from meshql.query.supervise import supervise
from meshql.sql import quote_literal
from meshql.terminal import note

__all__ = ["list_runs"]

ENDS = ("failed", "blocked", "cancelled", "killed", "recovered")


def list_runs(name: str | None, config: Config, *, most: int, format_: str) -> None:
    """Print the newest runs; or the steps of one run, or of one product, by its name."""
    with open_mesh(config) as mesh:
        from meshql.build.runs import RunLog

        log = RunLog(mesh)
        rows = supervise(lambda: _rows(log, mesh.catalog.products, name, most), mesh.interrupt)
    if rows:
        print_rows(rows, format_)
    else:
        note("nothing was built yet: meshql build")


def _rows(log: Any, products: Any, name: str | None, most: int) -> list[dict[str, Any]]:
    if name is None:
        return [_run(steps) for steps in list(_by_run(log.rows()).values())[-most:]][::-1]
    column = "product" if name in products else "run"
    found = log.rows(f"{column} = {quote_literal(name)}")
    if not found and column == "run" and (known := {row["run"] for row in log.rows()}):
        close = nearest(name, [*known, *products])
        raise UsageError(
            f"no run and no product is called {name}",
            hint=f"did you mean {' or '.join(close)}?" if close else "meshql runs lists them",
        )
    steps = [_step(row, by_product=column == "run") for row in found]
    return steps if column == "run" else steps[-most:][::-1]


def _by_run(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    return found


def _run(steps: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = min(s["started_at"] for s in steps), max(s["ended_at"] for s in steps)
    bad = [s for s in steps if s["status"] in ENDS or s["failed_checks"]]
    return {
        "run": steps[0]["run"],
        "started": first.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round((last - first).total_seconds(), 1),
        "steps": len(steps),
        "built": sum(s["status"] == "built" for s in steps),
        "rows_out": sum(s["rows_out"] or 0 for s in steps),
        "quarantined": sum(s["rows_quarantined"] or 0 for s in steps),
        "failures": ", ".join(f"{s['product']} {_ended(s)}" for s in bad) or None,
    }


def _ended(step: dict[str, Any]) -> str:
    return step["status"] if step["status"] in ENDS else "broke its contract"


def _step(row: dict[str, Any], *, by_product: bool) -> dict[str, Any]:
    return {
        **({"product": row["product"]} if by_product else {"run": row["run"]}),
        "status": row["status"],
        "started": row["started_at"].strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(row["seconds"], 1),
        "in": row["rows_in"],
        "out": row["rows_out"],
        "quarantined": row["rows_quarantined"],
        "duplicate": row["rows_duplicate"],
        "rows": row["rows_total"],
        "version": row["version"],
        "error": (row["error"] or "").partition("\n")[0] or None,
    }
