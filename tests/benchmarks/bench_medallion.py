"""The medallion example at size: its layers built by meshql, and by a script as somebody writes it by hand.

    python tests/benchmarks/bench_medallion.py                # 10 million events
    python tests/benchmarks/bench_medallion.py --rows 100000

Both get the same landing files and 512 MB for DuckDB, and do the same work: Parquet with columns of ingestion,
Delta by year and month with rules, quarantine and one row for each id, Iceberg by day of the hour. The script
knows the tables and starts from nothing; it has no watermarks, no second build and no recovery. Their tables
are compared; nothing is asserted about time, since machines differ. Memory is VmHWM, the process's own peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

MEMORY = "512MB"
ROWS_IN_FILE = 500_000
LAYERS = ("bronze", "silver", "gold")
PRODUCTS = {"web.events_raw": "bronze", "web.events": "silver", "web.events_hourly": "gold"}

CATALOG = """\
meshql: 1
products:
  - name: web.events_raw
    location: lake/bronze/events/
    build:
      kind: bronze
      sources:
        - {kind: files, location: "landing/*.parquet"}
  - name: web.events
    location: lake/silver/events/
    schema:
      - name: events
        properties:
          - {name: timestamp, required: true}
          - {name: user_id, required: true}
          - name: event_type
            quality:
              - {metric: invalidValues, arguments: {validValues: [click, view, purchase]}, mustBe: 0}
          - {name: value, logicalType: number, logicalTypeOptions: {minimum: 0}}
    build:
      kind: silver
      from: web.events_raw
      select:
        id: {sql: id, type: BIGINT}
        timestamp: {sql: timestamp, type: TIMESTAMP}
        user_id: lower(trim(user_id))
        event_type: event_type
        value: {sql: value, type: "DECIMAL(10,2)"}
        year: year(timestamp)
        month: month(timestamp)
      key: id
      order: timestamp DESC
      partitions: [year, month]
  - name: web.events_hourly
    location: lake/gold/events_hourly/
    build:
      kind: gold
      partitions: day(hour)
      sql: |
        SELECT
            date_trunc('hour', timestamp) AS hour,
            event_type,
            count(DISTINCT user_id) AS unique_users,
            count(*) AS total_events,
            sum(value) AS total_value,
            round(avg(value), 2) AS avg_value,
            min(value) AS min_value,
            max(value) AS max_value
        FROM web.events
        GROUP BY ALL
"""

SILVER = "SELECT count(*), sum(value), count(DISTINCT user_id), epoch_us(min(timestamp)), epoch_us(max(timestamp)), sum(id) FROM "
GOLD = (
    "SELECT count(*), sum(total_events), sum(total_value), sum(unique_users), round(avg(avg_value), 6) FROM "
)
QUARANTINE = "SELECT count(*) FROM "


def land(folder: Path, rows: int) -> None:
    """Write the events of 2024 as files: one in 50 comes again, corrected, and about one in 50 is bad."""
    import duckdb

    (folder / "landing").mkdir(parents=True)
    con = duckdb.connect()
    apart = 366 * 86_400_000_000 // rows
    for first in range(0, rows, ROWS_IN_FILE):
        last = min(first + ROWS_IN_FILE, rows)
        con.execute(f"""
            COPY (
                SELECT
                    CASE WHEN i % 50 = 49 THEN i - 7 ELSE i END AS id,
                    CASE WHEN i % 500 <> 111 THEN TIMESTAMP '2024-01-01' + to_microseconds(i * {apart}) END
                        AS timestamp,
                    CASE
                        WHEN i % 150 = 13 THEN NULL
                        WHEN i % 3 = 0 THEN '  USER_' || hash(i) % 50000 || ' '
                        ELSE 'user_' || hash(i) % 50000
                    END AS user_id,
                    CASE
                        WHEN i % 250 = 83 THEN 'hover'
                        ELSE ['view', 'click', 'purchase'][(hash(i, 1) % 3)::INTEGER + 1]
                    END AS event_type,
                    CASE WHEN i % 100 = 57 THEN -1 ELSE hash(i, 2) % 10000 / 100 END AS value,
                    '{{"page": "/product/' || hash(i, 3) % 500 || '"}}' AS raw_data
                FROM range({first}, {last}) t(i)
            ) TO '{folder}/landing/{first:09d}.parquet' (FORMAT parquet)
        """)


# --- by hand --------------------------------------------------------------------------------------


def by_hand(folder: Path) -> dict[str, float]:
    """Build the three layers as a script does; returns seconds by layer."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": str(folder / "spill")})
    con.execute("SET preserve_insertion_order = false")
    _load(con, "delta")
    took = {}
    for layer, work in (("bronze", _bronze), ("silver", _silver), ("gold", _gold)):
        started = time.perf_counter()
        work(con, folder)
        took[layer] = time.perf_counter() - started
    return took


def _load(con, name):
    from importlib.util import find_spec

    import duckdb

    package = find_spec(f"duckdb_extension_{name}").submodule_search_locations[0]
    con.execute(f"LOAD '{package}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")


def _bronze(con, folder):
    today = folder / "hand" / "bronze" / f"_ingested_on={datetime.now(UTC).date()}"
    today.mkdir(parents=True)
    con.execute(f"""
        COPY (
            SELECT * EXCLUDE filename, now() AS _ingested_at, filename AS _source, 1::BIGINT AS _batch
            FROM read_parquet('{folder}/landing/*.parquet', filename = true)
        ) TO '{today}/000000001.parquet' (FORMAT parquet, COMPRESSION zstd)
    """)


def _silver(con, folder):
    from deltalake import write_deltalake

    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW judged AS
        SELECT
            *,
            list_filter([
                CASE WHEN timestamp IS NULL THEN 'timestamp must not be null' END,
                CASE WHEN user_id IS NULL THEN 'user_id must not be null' END,
                CASE WHEN event_type NOT IN ('click', 'view', 'purchase') THEN 'event_type is unknown' END,
                CASE WHEN try_cast(value AS DECIMAL(10, 2)) IS NULL AND value IS NOT NULL
                    THEN 'value is no number' END,
                CASE WHEN value < 0 THEN 'value must be at least 0' END
            ], lambda reason: reason IS NOT NULL) AS reasons
        FROM read_parquet('{folder}/hand/bronze/*/*.parquet', hive_partitioning = false)
    """)
    bad = con.sql("SELECT * FROM judged WHERE len(reasons) > 0")
    write_deltalake(str(folder / "hand" / "quarantine"), bad.to_arrow_reader(100_000))
    # A window over all rows does not fit: only ids that came twice need one, and a stream of it would hang.
    con.execute("""
        CREATE OR REPLACE TEMP TABLE twice AS
        SELECT id FROM judged WHERE len(reasons) = 0 GROUP BY id HAVING count(*) > 1
    """)
    columns = """
        id,
        timestamp,
        lower(trim(user_id)) AS user_id,
        event_type,
        CAST(value AS DECIMAL(10, 2)) AS value,
        CAST(year(timestamp) AS INTEGER) AS year,
        CAST(month(timestamp) AS INTEGER) AS month,
        _batch,
        _ingested_at
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE newest AS
        SELECT {columns} FROM judged SEMI JOIN twice USING (id) WHERE len(reasons) = 0
        QUALIFY row_number() OVER (PARTITION BY id ORDER BY timestamp DESC) = 1
    """)
    good = con.sql(f"""
        SELECT {columns} FROM judged ANTI JOIN twice USING (id) WHERE len(reasons) = 0
        UNION ALL
        FROM newest
    """)
    silver = str(folder / "hand" / "silver")
    write_deltalake(silver, good.to_arrow_reader(100_000), partition_by=["year", "month"])


def _gold(con, folder):
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.transforms import DayTransform

    gold = folder / "hand" / "gold"
    gold.mkdir()
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE hourly AS
        SELECT
            date_trunc('hour', timestamp) AS hour,
            event_type,
            count(DISTINCT user_id) AS unique_users,
            count(*) AS total_events,
            sum(value) AS total_value,
            round(avg(value), 2) AS avg_value,
            min(value) AS min_value,
            max(value) AS max_value
        FROM delta_scan('{folder}/hand/silver')
        GROUP BY ALL
    """)
    con.execute(
        f"COPY (SELECT *, hour::DATE AS day FROM hourly) TO '{gold}/data' (FORMAT parquet, PARTITION_BY day)"
    )
    catalog = SqlCatalog("hand", uri=f"sqlite:///{gold}/catalog.db", warehouse=f"file://{gold}")
    catalog.create_namespace("web")
    table = catalog.create_table("web.events_hourly", con.sql("FROM hourly LIMIT 0").to_arrow_table().schema)
    with table.update_spec() as spec:
        spec.add_field("hour", DayTransform(), "hour_day")
    table.add_files([str(file) for file in sorted((gold / "data").rglob("*.parquet"))])
    (folder / "hand" / "gold.json").write_text(json.dumps(table.metadata_location))


def totals_by_hand(folder: Path) -> dict[str, list]:
    """What the script's tables hold, in a few figures."""
    import duckdb

    con = duckdb.connect()
    for name in ("delta", "avro", "iceberg"):
        _load(con, name)
    gold = json.loads((folder / "hand" / "gold.json").read_text())
    asked = {
        "silver": f"{SILVER}delta_scan('{folder}/hand/silver')",
        "quarantine": f"{QUARANTINE}delta_scan('{folder}/hand/quarantine')",
        "gold": f"{GOLD}iceberg_scan('{gold}')",
    }
    return {name: [str(value) for value in con.execute(sql).fetchone()] for name, sql in asked.items()}


# --- meshql ---------------------------------------------------------------------------------------

# The whole command line in one process, which says its own peak as it ends.
COMMAND = """
import atexit, sys
from pathlib import Path
from meshql.cli import main
status = Path("/proc/self/status")
peak = lambda: next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
atexit.register(lambda: print(peak(), file=sys.stderr))
main()
"""


def meshql(folder: Path, *arguments: str) -> tuple[str, str]:
    """What `meshql ARGUMENTS` prints to stdout and stderr, with the memory and the state of the benchmark."""
    environ = os.environ | {"MESHQL_MEMORY_LIMIT": MEMORY, "MESHQL_STATE": str(folder / "state")}
    command = [sys.executable, "-c", COMMAND, "-C", str(folder / "catalog.yaml"), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"meshql {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def by_meshql(folder: Path) -> dict[str, float]:
    """Build the three layers with `meshql build`; returns seconds by layer, and the peak in MB."""
    (folder / "catalog.yaml").write_text(CATALOG)
    out, err = meshql(folder, "build", "--format", "json")
    steps = {PRODUCTS[step["product"]]: step for step in json.loads(out)["steps"]}
    silver = steps["silver"]
    assert silver["in"] == silver["out"] + silver["quarantined"] + silver["duplicate"], silver
    return {layer: steps[layer]["seconds"] for layer in LAYERS} | {"peak": megabytes(err)}


def totals_by_meshql(folder: Path) -> dict[str, list]:
    """What meshql's tables hold, in the same few figures."""
    asked = {
        "silver": f"{SILVER}web.events",
        "quarantine": f"{QUARANTINE}web.events_quarantine",
        "gold": f"{GOLD}web.events_hourly",
    }
    found = {}
    for name, sql in asked.items():
        out, _ = meshql(folder, "query", "-c", sql, "--format", "jsonl")
        found[name] = [str(value) for value in json.loads(out).values()]
    return found


# --- both -----------------------------------------------------------------------------------------


def megabytes(status: str) -> float:
    """The peak that a process's status tells."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def measured_by_hand(folder: Path) -> dict[str, float]:
    """Run the script in a process of its own; returns seconds by layer, and the peak in MB."""
    command = [sys.executable, __file__, "--folder", str(folder), "--only-by-hand"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def report(rows: int, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Print rows/s by layer and the ratios."""
    print(f"{rows:,} events, DuckDB's memory_limit {MEMORY}\n")
    print(f"{'':8}{'meshql s':>10}{'rows/s':>12}{'by hand s':>11}{'rows/s':>12}{'ratio':>7}")
    whole = [sum(side[layer] for layer in LAYERS) for side in (ours, theirs)]
    for name, a, b in [*((layer, ours[layer], theirs[layer]) for layer in LAYERS), ("all", *whole)]:
        print(f"{name:8}{a:10.1f}{rows / a:12,.0f}{b:11.1f}{rows / b:12,.0f}{a / b:7.2f}")
    print(f"{'peak MB':8}{ours['peak']:10.0f}{'':12}{theirs['peak']:11.0f}")


def main() -> None:
    """Run both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to work, in place of a temporary folder")
    parser.add_argument("--only-by-hand", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_by_hand:
        took = by_hand(given.folder)
        print(json.dumps(took | {"peak": megabytes(Path("/proc/self/status").read_text())}))
        return
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="bench-medallion-") as name:
        folder = Path(name)
        land(folder, given.rows)
        theirs = measured_by_hand(folder)
        ours = by_meshql(folder)
        report(given.rows, ours, theirs)
        found, wanted = totals_by_meshql(folder), totals_by_hand(folder)
        assert found == wanted, f"the tables differ:\n{found}\n{wanted}"
        print("\nboth built the same tables")


if __name__ == "__main__":
    main()
