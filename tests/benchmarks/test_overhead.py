"""What meshql costs over DuckDB written by hand: the same query across three clouds, cold and repeated.

Run `pytest -s tests/benchmarks` to see the ratios. Nothing is asserted about time: machines differ.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import textwrap
import time

import pytest

import meshql
from meshql.commands.demo import QUERY

PAIRS = 5
REPEATS = 15


def by_hand_text(retail):
    text = QUERY
    for product in ("sales.orders", "merchandising.products", "crm.customers"):
        text = text.replace(f"FROM {product}", f"FROM {retail.scan(product)}")
    return text


def seconds(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def program_by_hand(retail):
    """A script as somebody writes it: extensions, secrets, scans."""
    secrets = "\n".join(
        f"con.execute({store.secret_sql(cloud, f'{store.scheme}://{bucket}/')!r})"
        for (cloud, store), bucket in zip(
            retail.stores.items(), ("prod-bucket", "analytics", "backup"), strict=True
        )
    )
    return (
        textwrap.dedent("""
        from importlib.util import find_spec
        import duckdb
        con = duckdb.connect()
        for name in ("httpfs", "azure", "avro", "iceberg", "delta"):
            package = find_spec(f"duckdb_extension_{name}").submodule_search_locations[0]
            con.execute(f"LOAD '{package}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
    """)
        + f"{secrets}\nprint(con.execute({by_hand_text(retail)!r}).fetchall())"
    )


def program_meshql(retail):
    return (
        f"import meshql\nwith meshql.connect({str(retail.catalog)!r}) as mesh:\n"
        f"    print(mesh.sql({QUERY!r}).fetchall())"
    )


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def report(label, ours, theirs):
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"\n{label}: meshql {statistics.median(ours) * 1000:.0f} ms, by hand"
        f" {statistics.median(theirs) * 1000:.0f} ms, ratio {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f})"
    )


@pytest.mark.slow
def test_cold_a_new_process_each_time(retail):
    ours, theirs = program_meshql(retail), program_by_hand(retail)
    assert run(ours) == run(theirs)
    times = [(seconds(lambda: run(ours)), seconds(lambda: run(theirs))) for _ in range(PAIRS)]
    report("cold, whole process", *zip(*times, strict=True))


@pytest.mark.slow
def test_repeated_in_one_process(retail):
    text = by_hand_text(retail)
    con = retail.duckdb_by_hand()
    with meshql.connect(retail.catalog) as mesh:
        assert mesh.sql(QUERY).fetchall() == con.execute(text).fetchall()
        times = [
            (seconds(lambda: mesh.sql(QUERY).fetchall()), seconds(lambda: con.execute(text).fetchall()))
            for _ in range(REPEATS)
        ]
    report("repeated", *zip(*times, strict=True))
