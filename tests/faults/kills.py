"""Builds killed at many points, each resumed, and their tables compared with those of an undisturbed build.

Run as a program: `python -m faults.kills FOLDER POINTS`. It prints one JSON document: what was killed where,
and how many rows were torn, lost and duplicated.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

from faults.killing import MOMENTS, Killer, forked, instrument

CATALOG = """
meshql: 1
products:
  - {name: meshql.runs, location: lake/runs/, format: delta}
  - name: web.raw
    location: lake/raw/
    build:
      kind: bronze
      sources: [{kind: files, location: "landing/*.json", format: json}]
  - name: web.events
    location: lake/events/
    build:
      kind: silver
      from: web.raw
      select: {id: id, ts: {sql: ts, type: TIMESTAMP}, kind: kind, value: {sql: value, type: "DECIMAL(10,2)"}, day: "CAST(ts AS DATE)"}
      key: id
      order: ts DESC
      partitions: [kind]
    schema:
      - name: events
        properties:
          - {name: value, logicalTypeOptions: {minimum: 0}, logicalType: number}
  - name: web.daily
    location: lake/daily/
    build:
      kind: gold
      sql: SELECT day, kind, count(*) AS n, sum(value)::DECIMAL(18,2) AS total FROM web.events GROUP BY day, kind
      partitions: [day]
"""

ROWS = 400

COMMITS = ("/_batches/", "delta ", "metadata/v", "version-hint")
"""What is in the words for points at which others begin to see something else."""


def rows(wave: int) -> list[dict[str, object]]:
    """The rows of a wave: some replace rows of the one before, some are bad, some come twice."""
    chance = random.Random(wave)
    found = []
    for number in range(ROWS):
        bad = number % 40 == 7
        identity = chance.randrange(ROWS * (wave + 1))
        found.append(
            {
                "id": identity,
                "ts": f"2026-01-{1 + identity % 9:02d} {wave + 1:02d}:{number % 60:02d}:{number // 60:02d}",
                "kind": ("click", "view", "buy")[identity % 3],
                "value": "none" if bad else -1 if number % 50 == 9 else identity / 4,
            }
        )
    return found


def land(home: Path, wave: int) -> None:
    """Put the files of a wave where the bronze product looks for them."""
    landing = home / "landing"
    landing.mkdir(parents=True, exist_ok=True)
    half = ROWS // 2
    for part, some in enumerate((rows(wave)[:half], rows(wave)[half:])):
        (landing / f"wave-{wave}-{part}.json").write_text("\n".join(map(json.dumps, some)))


def build(home: Path, killer: Killer | None = None) -> None:
    """Build everything in this process; raises when a step fails."""
    from meshql.build.run import build as run_build
    from meshql.mesh import connect

    if killer is not None:
        instrument(killer)
    with connect(home / "catalog.yaml") as mesh:
        run = run_build(mesh, jobs=1)
        if run.errors:
            raise run.errors[0]
    if killer is not None:
        (home / "points.json").write_text(json.dumps(killer.seen))


STATE = {
    "web.raw": "SELECT id, ts, kind, value FROM web.raw",
    "web.events": "SELECT id, ts, kind, value, day FROM web.events",
    "web.events_quarantine": """SELECT _row->>'id', _row->>'ts', _row->>'value', _reasons FROM web.events_quarantine""",
    "web.daily": "SELECT * FROM web.daily",
}


def resume(home: Path) -> None:
    """Write down what a killed build has left, build, and write down what there is then."""
    look(home, "killed.json")
    build(home)
    look(home, "state.json")


def look(home: Path, file: str) -> None:
    """Write down the rows of every product; of one that is not there yet, none."""
    from meshql.errors import LocationError
    from meshql.mesh import connect

    found: dict[str, list[str]] = {}
    with connect(home / "catalog.yaml") as mesh:
        for name, sql in STATE.items():
            try:
                with mesh.sql(sql) as result:
                    found[name] = sorted(str(row) for row in result.fetchall())
            except LocationError:
                found[name] = []
        with mesh.sql(
            "SELECT coalesce(sum(rows_in), 0), coalesce(sum(rows_out), 0), coalesce(sum(rows_quarantined), 0),"
            " coalesce(sum(rows_duplicate), 0) FROM meshql.runs WHERE kind = 'silver'"
        ) as result:
            found["counted"] = [str(int(n)) for n in result.fetchall()[0]]
    (home / file).write_text(json.dumps(found))


def looked(home: Path) -> dict[str, list[str]]:
    """Look in a forked child, and return what it saw."""
    log = home / "trace.txt"
    if code := forked(lambda: look(home, "state.json"), log):
        raise AssertionError(f"reading ended with {code}: {log.read_text()[-2000:]}")
    return said(home, "state.json")


def said(home: Path, name: str) -> dict[str, list[str]]:
    """Return what was written down."""
    found: dict[str, list[str]] = json.loads((home / name).read_text())
    return found


def built(home: Path, killer: Killer | None = None) -> int:
    """Build in a forked child, and return how it ended."""
    return forked(lambda: build(home, killer), home / "trace.txt")


def prepared(home: Path, saved: Path) -> None:
    """Make a lake with one wave built and another landed, and save a copy of it."""
    home.mkdir(parents=True)
    (home / "catalog.yaml").write_text(CATALOG)
    land(home, 0)
    assert built(home) == 0, (home / "trace.txt").read_text()
    land(home, 1)
    shutil.copytree(home, saved)


def restore(saved: Path, home: Path) -> None:
    """Bring the saved lake back to its own place: Iceberg's metadata names files by their full paths."""
    shutil.rmtree(home)
    shutil.copytree(saved, home)


def excess(some: list[str], others: list[str]) -> int:
    """How many of `some` are not among `others`, counted with their multiplicity."""
    return (Counter(some) - Counter(others)).total()


def chosen(points: list[str], most: int) -> list[tuple[int, str]]:
    """The points to kill at: each commit before, during and after it, and others spread over the build."""
    deciding = [i for i, point in enumerate(points) if any(mark in point for mark in COMMITS)]
    cases = [(i, moment) for i in deciding for moment in MOMENTS]
    others = [i for i in range(len(points)) if i not in deciding]
    left = max(most - len(cases), 0)
    spread = [(others[n * len(others) // left], MOMENTS[n % 3]) for n in range(left)]
    step = max(len(cases) / most, 1)
    return sorted([*(cases[int(n * step)] for n in range(min(most, len(cases)))), *spread])


def kill_all(folder: Path, most: int) -> dict[str, object]:
    """Kill a build at `most` points, spread over all of it, and return the figures."""
    home, saved = folder / "home", folder / "saved"
    prepared(home, saved)
    before = looked(home)
    assert built(home, Killer(None, "before", 0)) == 0, (home / "trace.txt").read_text()
    points = json.loads((home / "points.json").read_text())
    after = looked(home)
    figures = {"torn": 0, "lost": 0, "duplicated": 0, "miscounted": 0}
    cases = []
    chance = random.Random(5)
    for at, moment in chosen(points, most):
        while True:
            restore(saved, home)
            code = built(home, Killer(at, moment, chance.random() * 0.03))
            if code or at == 0:
                break
            # This time there were fewer points.
            at -= 1
        assert code == -9, f"{points[at]} {moment}: {code}, {(home / 'trace.txt').read_text()}"
        log = home / "trace.txt"
        assert forked(lambda: resume(home), log) == 0, f"{points[at]} {moment}: {log.read_text()}"
        seen, end = said(home, "killed.json"), said(home, "state.json")
        torn = sum(not_a_state(seen[name], before[name], after[name]) for name in STATE)
        case = {
            "point": points[at],
            "moment": moment,
            "torn": torn,
            "lost": sum(excess(after[name], end[name]) for name in STATE),
            "duplicated": sum(excess(end[name], after[name]) for name in STATE),
            "miscounted": int(end["counted"] != after["counted"]),
        }
        cases.append(case)
        for figure in figures:
            figures[figure] += int(case[figure])
    return {"points": len(points), "killed": len(cases), **figures, "cases": cases}


def not_a_state(seen: list[str], *states: list[str]) -> bool:
    """Whether rows are those of none of the states that readers may see."""
    return seen not in states


if __name__ == "__main__":
    print(json.dumps(kill_all(Path(sys.argv[1]), int(sys.argv[2]))))
