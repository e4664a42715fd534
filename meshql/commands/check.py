"""`meshql check`: what contracts promise, checked; results for people, programs and CI servers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import ContractError, MeshError, StorageError
from meshql.terminal import note, say

if TYPE_CHECKING:
    from meshql.build.quality import CheckResult, State

__all__ = ["check_products", "results_json"]

SUMMED: dict[State, str] = {
    "passed": "passed",
    "failed": "failed",
    "warning": "warnings",
    "error": "errors",
    "skipped": "skipped",
}

STATES: tuple[State, ...] = ("passed", "failed", "warning", "error", "skipped")

SUFFIXES = {".xml": "junit", ".json": "json"}


def check_products(
    names: Sequence[str], config: Config, format_: str | None, output: str | None, *, examples: int = 0
) -> None:
    """Check products and write the results; raises ContractError when a check of severity error failed.

    Raises the error of a check that could not be made, where none failed.
    """
    from meshql.build.quality import check
    from meshql.query.supervise import supervise

    chosen = format_ or SUFFIXES.get(Path(output).suffix.lower() if output else "", "table")
    with open_mesh(config) as mesh:
        results = supervise(
            lambda: check(mesh, names, examples=examples), mesh.interrupt, timeout=config.timeout
        )
    if not results:
        note("no product of the catalog promises anything: declare `quality`, `schema` or `slaProperties`")
    if output:
        from meshql.output.files import opened

        with opened(Path(output)) as (file, _):
            _write(results, chosen, cast("BinaryIO", file))
    else:
        sys.stdout.flush()
        _write(results, chosen, None)
    for result in results:
        if result.state == "error":
            note(f"{result.product}: {result.check}: {result.message}")
            if result.hint:
                say(f"  {result.hint}")
    say(_summary(results))
    _raise_worst(results)


def results_json(results: Sequence[CheckResult]) -> str:
    """Return an array with an object a check: the fields of CheckResult but `error`."""
    return json.dumps([_plain(result) for result in results], indent=2, ensure_ascii=False)


def _plain(result: CheckResult) -> dict[str, Any]:
    found = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "error"}
    return found | {"seconds": round(result.seconds, 3)}


def _write(results: Sequence[CheckResult], format_: str, file: BinaryIO | None) -> None:
    if format_ == "table":
        _write_tables(results, file)
        return
    if format_ == "json":
        text = results_json(results) + "\n"
    else:
        from meshql.build.junit import junit_xml

        text = junit_xml(results)
    if file is None:
        print(text, end="")
    else:
        file.write(text.encode())


def _write_tables(results: Sequence[CheckResult], file: BinaryIO | None) -> None:
    if results:
        print_rows([_row(result) for result in results], "table", null="", file=file)
    for result in results:
        if result.examples:
            title = f"\n{result.product}: {result.check}\n"
            if file is None:
                print(title, end="", flush=True)
            else:
                file.write(title.encode())
            print_rows([_texts(row) for row in result.examples], "table", file=file)


def _row(result: CheckResult) -> dict[str, str | None]:
    return {
        "product": result.product,
        "check": result.check,
        "severity": result.severity,
        "state": result.state,
        "measured": _first_line(result.message or result.measured),
        "demanded": result.demanded,
        "rows failed": None if result.rows_failed is None else f"{result.rows_failed:,}",
    }


def _first_line(text: str | None) -> str | None:
    return text.strip().partition("\n")[0] if text else None


def _texts(row: dict[str, Any]) -> dict[str, str | None]:
    return {
        name: value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in row.items()
    }


def _summary(results: Sequence[CheckResult]) -> str:
    states = Counter(result.state for result in results)
    words = [f"{states[state]:,} {state}{_plural(state, states[state])}" for state in STATES if states[state]]
    products = len({result.product for result in results})
    checked = f"{len(results):,} check{'' if len(results) == 1 else 's'}"
    of = f"{products:,} product{'' if products == 1 else 's'}"
    return f"{checked} of {of}: {', '.join(words) or 'none'}"


def _plural(state: State, count: int) -> str:
    return "s" if state in ("warning", "error") and count != 1 else ""


def _raise_worst(results: Sequence[CheckResult]) -> None:
    failed = [r for r in results if r.state == "failed"]
    if failed:
        named = ", ".join(dict.fromkeys(r.product for r in failed))
        raise ContractError(f"{len(failed):,} of {len(results):,} checks failed: {named}")
    errors = [r.error for r in results if r.error is not None]
    for kind in (StorageError, MeshError):
        if found := next((e for e in errors if isinstance(e, kind)), None):
            raise found
