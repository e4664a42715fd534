"""The command line of what is built here: build, runs, lineage, check, maintain, cdc."""

from __future__ import annotations

import click

from meshql.cli_options import catalog_option, configuration, format_option
from meshql.errors import UsageError

__all__ = ["build", "cdc", "check", "lineage", "maintain", "runs"]


@click.command()
@click.argument("selectors", nargs=-1, metavar="[SELECTOR]...")
@click.option("--full", is_flag=True, help="Build all of it again, from the first row.")
@click.option("--from", "since", metavar="DATE", help="Build again from this day or instant on.")
@click.option("--to", "until", metavar="DATE", help="Build again up to this day or instant, excluded.")
@click.option("--dry-run", is_flag=True, help="Tell what there is to do; write nothing.")
@click.option("--follow", is_flag=True, help="Go on until stopped: build what changes as it does.")
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    help="Seconds until --follow looks again at files and APIs. [default: 10]",
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), default=4, help="Steps at a time. [default: 4]")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds to wait for a product that another build is at. [default: 0]",
)
@click.option(
    "--openlineage",
    metavar="FILE|URL",
    help="Where OpenLineage events go. [default: $OPENLINEAGE_URL, or nowhere]",
)
@format_option("table", "json", "csv", "markdown")
@catalog_option
def build(
    selectors: tuple[str, ...],
    full: bool,
    since: str | None,
    until: str | None,
    dry_run: bool,
    follow: bool,
    every: float,
    jobs: int,
    wait: float,
    openlineage: str | None,
    format_: str | None,
    catalog: str | None,
) -> int:
    """Build products: bronze, silver and gold, each after those that it is made of.

    What was built before stays; only what is new is read. A build that was killed goes on where it ended. A
    SELECTOR is a name, a glob, or `changed`: those whose definition is another one than that of their last
    build. +NAME takes what NAME is made of along, NAME+ what is made of it; none means all.

    \b
    meshql build
    meshql build +web.events_hourly
    meshql build 'web.*' --from 2026-11-01 --to 2026-11-08
    meshql build --follow

    With --follow, all of them are built side by side until Ctrl-C or SIGTERM: the changes of a database as it
    commits them, files and APIs each time they are looked at, and everything else as soon as what it is made
    of has changed. A store or server that fails is tried again for as long as it takes. --full goes first.
    """
    from meshql.commands.build import build_products, request_of

    request, config = request_of(full, since, until), configuration(catalog=catalog)
    if follow:
        from meshql.commands.follow import follow_products

        if dry_run or request.backfill:
            given = "--dry-run" if dry_run else "an interval by --from and --to"
            raise UsageError(
                f"--follow goes on until it is stopped, and {given} comes to an end", hint="give one of both"
            )
        return follow_products(
            selectors,
            config,
            request,
            every=every,
            jobs=jobs,
            wait=wait,
            openlineage=openlineage,
            format_=format_ or "table",
        )
    return build_products(
        selectors,
        config,
        request,
        dry_run=dry_run,
        jobs=jobs,
        wait=wait,
        openlineage=openlineage,
        format_=format_ or "table",
    )


@click.command()
@click.argument("name", required=False, metavar="[RUN|PRODUCT]")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    help="At most this many, newest first. [default: 20]",
)
@format_option("table", "json", "csv", "tsv", "jsonl", "markdown")
@catalog_option
def runs(name: str | None, limit: int, format_: str | None, catalog: str | None) -> None:
    """List the builds of this catalog, or the steps of one RUN or of one PRODUCT.

    All of it is a product as well: SELECT * FROM meshql.runs
    """
    from meshql.commands.runs import list_runs

    list_runs(name, configuration(catalog=catalog), most=limit, format_=format_ or "table")


@click.command()
@click.argument("name")
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(("tree", "mermaid", "json")),
    default="tree",
    help="How it is drawn [default: tree].",
)
@catalog_option
def lineage(name: str, format_: str, catalog: str | None) -> None:
    """Show what a product is made of, at which versions, and what is made of it."""
    from meshql.commands.lineage import print_lineage

    print_lineage(name, configuration(catalog=catalog), format_)


@click.command()
@click.argument("names", nargs=-1, metavar="[PRODUCT|GLOB]...")
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(["table", "json", "junit"]),
    help="How results are written [default: table, or what the suffix of --output tells].",
)
@click.option("-o", "--output", metavar="FILE", help="File to write, there whole or not at all.")
@click.option(
    "--examples", type=click.IntRange(min=0), default=0, help="Rows to show of each broken rule. [default: 0]"
)
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for all of it.")
@catalog_option
def check(
    names: tuple[str, ...],
    format_: str | None,
    output: str | None,
    examples: int,
    timeout: float | None,
    catalog: str | None,
) -> None:
    """Check what contracts promise, of all products that promise something or of those named.

    Rules: required, unique, enum, options of types, relationships, and `quality`; freshness: `latency` or
    `freshness` among `slaProperties`. Products that are built elsewhere are checked just the same. Exit code
    5 when a check of severity error failed, else 3 when a product could not be read; warnings leave it 0.

    JSON is an array with an object a check: product, check, state (passed, failed, warning, error, skipped),
    severity, measured, demanded, value, rows_failed, rows, seconds, message, hint, examples.

    \b
    meshql check
    meshql check 'silver.*' --examples 3
    meshql check -o report.xml
    """
    from meshql.commands.check import check_products

    check_products(names, configuration(catalog=catalog, timeout=timeout), format_, output, examples=examples)


@click.command()
@click.argument("selectors", nargs=-1, metavar="[PRODUCT|GLOB]...")
@click.option(
    "--older-than",
    default="7d",
    metavar="AGE",
    help="What nobody needs is removed at this age: 12h, 7d; 1h at least. [default: 7d]",
)
@click.option("--dry-run", is_flag=True, help="Tell what there is to do; write and remove nothing.")
@click.option(
    "--keep-runs",
    type=click.IntRange(min=1),
    default=10,
    help="Runs whose version of a gold product stays readable, however old. [default: 10]",
)
@format_option("table", "json", "csv", "tsv", "jsonl", "markdown")
@catalog_option
def maintain(
    selectors: tuple[str, ...],
    older_than: str,
    dry_run: bool,
    keep_runs: int,
    format_: str | None,
    catalog: str | None,
) -> None:
    """Care for tables that are built here: write small files into large ones, remove what nobody needs.

    Statements and builds may go on meanwhile: what they began to read stays for as long as --older-than
    says, and no row is new to whoever takes what is new. Bronze: files of batches, and their log. Silver,
    quarantines and the log of runs: Delta compaction, checkpoint, vacuum. Gold: Iceberg compaction, expired
    snapshots, files that no snapshot names.

    \b
    meshql maintain --dry-run
    meshql maintain 'web.*' --older-than 2d
    """
    from meshql.commands.maintain import maintain_products

    maintain_products(
        selectors,
        configuration(catalog=catalog),
        older_than,
        dry_run=dry_run,
        keep_runs=keep_runs,
        format_=format_ or "table",
    )


@click.group()
def cdc() -> None:
    """Look after the slots in which databases keep the changes that were not read yet."""


@cdc.command()
@click.argument("names", nargs=-1, metavar="[PRODUCT]...")
@format_option("table", "json", "csv", "tsv", "jsonl", "markdown")
@catalog_option
def status(names: tuple[str, ...], format_: str | None, catalog: str | None) -> int:
    """Show how logs of changes stand with their servers: all of them, or those named.

    Lag is what the server has written that is not durable in the log, retained what it keeps on its disk for
    the slot, left how much more it writes until it gives the slot up: empty where nothing limits it. What
    needs somebody is said on stderr. Exit code 3 where a server could not be asked. JSON, CSV and TSV have
    lag_bytes, retained_bytes, safe_bytes, last_batch_seconds, confirmed and tables.
    """
    from meshql.commands.cdc import print_status

    return print_status(names, configuration(catalog=catalog), format_ or "table")


@cdc.command("drop-slot")
@click.argument("name", metavar="PRODUCT")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@catalog_option
def drop_slot(name: str, yes: bool, catalog: str | None) -> None:
    """Drop a log's replication slot, and the publication that meshql made for it.

    Do so for a log that nobody builds any more: a slot that nobody reads fills the server's disk. What was
    not read yet is lost, and the log's next build has to read all tables anew (`--full`).
    """
    from meshql.commands.cdc import drop_slot as drop

    drop(name, configuration(catalog=catalog), yes=yes)
