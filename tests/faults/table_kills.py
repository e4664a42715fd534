"""Builds of a table of changes killed at many points, each resumed, and its rows compared with their source's.

Run as a program: `python -m faults.table_kills FOLDER POINTS`. It prints one JSON document: how many builds were
killed, and after how many of them the rows were torn, or wrong in the end.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

from clouds.changes import LOG, TABLE, Lake, Model
from faults.killing import MOMENTS, Killer, forked, instrument

COLUMNS = "id, name, big, n::VARCHAR"


def prepared(home: Path, history: bool) -> dict[str, list[str]]:
    """Make a lake with some batches built and others landed; return the rows before and after these."""
    home.mkdir(parents=True)
    model = Model(5)
    waves = [[model.batch(12), model.batch(6)]]
    before = wanted(model)
    waves.append([model.batch(9), model.batch(9)])

    def made() -> None:
        lake = Lake(home)
        lake.declare(history=history)
        for number, wave in enumerate(waves):
            for rows in wave:
                lake.land(rows, model.shape)
            if number == 0:
                lake.build()
        lake.close()

    assert forked(made, home / "trace") == 0, (home / "trace").read_text()
    return {"before": before, "after": wanted(model)}


def wanted(model: Model) -> list[str]:
    """The rows that the table is to have."""
    rows = ((int(r["id"]), r["name"], r["big"], r["n"]) for r in model.rows.values())
    return sorted(map(str, rows))


def build(home: Path, history: bool, killer: Killer | None) -> None:
    """Build in this process, and write down what there is then."""
    lake = Lake(home)
    lake.declare(history=history)
    if killer is not None:
        instrument(killer)
    lake.build()
    (home / "points.json").write_text(json.dumps(killer.seen if killer else []))
    look(home, history, "end.json")


def look(home: Path, history: bool, file: str) -> None:
    """Write down the rows that are valid, and how many changes commits say were taken."""
    lake = Lake(home)
    lake.declare(history=history)
    valid = "WHERE valid_to IS NULL" if history else ""
    rows = sorted(map(str, lake.rows(f"SELECT {COLUMNS} FROM {TABLE} {valid}")))
    total = [str(row) for row in lake.rows(f"SELECT count(*) FROM {TABLE}")]
    (home / file).write_text(json.dumps({"rows": rows, "all": total}))


def done(work: object, home: Path) -> None:
    """Run `work` in a child that has to end well."""
    assert forked(work, home / "trace") == 0, (home / "trace").read_text()  # type: ignore[arg-type]


def kill_all(folder: Path, most: int, *, history: bool) -> dict[str, int]:
    """Kill a build at `most` points, and return the figures."""
    home, saved = folder / "home", folder / "saved"
    states = prepared(home, history)
    shutil.copytree(home, saved)
    done(lambda: build(home, history, Killer(None, "before", 0)), home)
    points = json.loads((home / "points.json").read_text())
    end = json.loads((home / "end.json").read_text())
    assert end["rows"] == states["after"]
    deciding = [(i, moment) for i, p in enumerate(points) if p.startswith("delta") for moment in MOMENTS]
    others = [i for i, p in enumerate(points) if not p.startswith("delta")]
    left = max(most - len(deciding), 0)
    spread = [(others[n * len(others) // left], MOMENTS[n % 3]) for n in range(left)]
    figures = {"points": len(points), "deciding": len(deciding), "killed": 0, "torn": 0, "wrong": 0}
    chance = random.Random(5)
    for at, moment in (*deciding[:most], *spread):
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        delay = chance.random() * 0.03
        code = forked(lambda: build(home, history, Killer(at, moment, delay)), home / "trace")  # noqa: B023
        assert code == -9, f"{points[at]} {moment}: {code}, {(home / 'trace').read_text()}"
        figures["killed"] += 1
        done(lambda: look(home, history, "seen.json"), home)
        seen = json.loads((home / "seen.json").read_text())["rows"]
        figures["torn"] += seen not in states.values()
        done(lambda: build(home, history, None), home)
        figures["wrong"] += json.loads((home / "end.json").read_text()) != end
    shutil.rmtree(folder)
    return figures


if __name__ == "__main__":
    root = Path(sys.argv[1])
    print(json.dumps([kill_all(root / LOG, int(sys.argv[2]), history=history) for history in (False, True)]))
