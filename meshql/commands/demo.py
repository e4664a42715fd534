"""`meshql demo`: three emulated clouds with a company's data, and one query across them."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING

from meshql.demo import session
from meshql.mesh import Mesh, connect
from meshql.query.supervise import supervise
from meshql.terminal import Steps, note, say, size

if TYPE_CHECKING:
    from meshql.query.receipt import Read, Receipt

__all__ = ["QUERY", "down", "up"]

QUERY = """\
WITH
    sale AS (SELECT 'AWS' AS cloud, * FROM sales.orders),               -- Delta on S3
    product AS (SELECT 'GCP' AS cloud, * FROM merchandising.products),  -- Iceberg on GCS
    customer AS (SELECT 'Azure' AS cloud, * FROM crm.customers)         -- Parquet on Azure
SELECT
    sale.cloud AS sales_cloud,
    product.cloud AS product_cloud,
    customer.cloud AS customer_cloud,
    count(*) AS transactions,
    sum(sale.amount) AS revenue
FROM sale
JOIN product ON sale.product_id = product.product_id
JOIN customer ON sale.customer_id = customer.customer_id
GROUP BY ALL"""


def up() -> None:
    """Bring the demo up, run the query across its clouds, and open the shell if on a terminal."""
    started = time.perf_counter()
    demo = session.up(Steps())
    for sentence in demo.notes:
        note(sentence)
    with connect(demo.catalog, receipts=True) as mesh:
        seconds = time.perf_counter() - started
        say(f"three clouds and {len(mesh.products())} products are up ({seconds:.1f} s)\n")
        supervise(lambda: _show_query(mesh), mesh.interrupt)
    print(f"\ncatalog: {demo.catalog}", flush=True)
    if sys.stdin.isatty() and sys.stdout.isatty():
        from meshql.config import load_config
        from meshql.shell.loop import run_shell
        from meshql.shell.state import Settings

        config = load_config()
        run_shell(
            demo.catalog,
            settings=Settings.of(config),
            engine_settings=config.engine(),
            keep_history=config.keep_history,
        )
    else:
        command = f"meshql --catalog {shlex.quote(str(demo.catalog))}"
        say(f"go on with: {command}\nmeshql demo --down removes it all")


def down() -> None:
    """Stop the demo's stores, remove what it made, and say what that was."""
    gone = session.down()
    for what in gone:
        say(f"removed {what}")
    if not gone:
        say("there is no demo to remove")


def _show_query(mesh: Mesh) -> None:
    print(f"{QUERY}\n")
    with mesh.sql(QUERY) as result:
        result.show()
        result.fetchall()
    if result.receipt:
        print("\n".join(["", *read_lines(result.receipt)]))


def read_lines(receipt: Receipt) -> list[str]:
    """Return one aligned line a product: where it lies, which version, and what was read of it."""
    cells = [_cells(read) for read in receipt.reads]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(read: Read) -> tuple[str, ...]:
    files = f"{read.files} of {read.files_total}" if read.files_total else str(read.files)
    return (
        read.product,
        " ".join(filter(None, (read.cloud, read.region))),
        f"{read.format} {read.version[:12]}",
        f"{files} file{'' if files == '1' else 's'}",
        f"{read.rows:,} rows",
        f"{size(read.bytes)} in {read.requests} requests",
    )
