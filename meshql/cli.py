"""The command line: arguments, exit codes and streams. What a command does stands in meshql.commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from meshql import __version__
from meshql.errors import MeshError, UsageError

__all__ = ["cli", "main"]

FORMATS = ("table", "csv", "tsv", "json", "jsonl", "markdown", "vertical", "parquet", "arrow")

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

catalog_option = click.option(
    "-C",
    "--catalog",
    metavar="PATH",
    help="Folder or file of the catalog [default: $MESHQL_CATALOG, ./catalogs, the user's own].",
)


def format_option(*names: str) -> Callable[..., Any]:
    """An option that takes one of these output formats."""
    return click.option(
        "-f", "--format", "format_", type=click.Choice(names), help="How rows are written [default: table]."
    )


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="meshql")
def cli() -> None:
    """SQL over data products that lie in several clouds.

    A catalog of YAML files names Delta, Iceberg and Parquet tables on S3, GCS and Azure; SQL says
    domain.product and joins them. `meshql demo` shows it on this machine.

    Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 query failed, 2 usage or catalog,
    3 storage or credentials (worth a retry), 4 timeout, 5 contract failed, 6 budget or policy refused,
    130 interrupted.
    """


@cli.command()
@click.argument("file", required=False)
@click.option("-c", "--command", "command", metavar="SQL", help="SQL to run, in place of FILE.")
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of $NAME; numbers are numbers.",
)
@format_option(*FORMATS)
@click.option("-o", "--output", metavar="PATH", help="File to write; its suffix tells the format.")
@click.option("-n", "--limit", type=click.IntRange(min=0), help="At most this many rows of each result.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for all of it.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr; errors only.")
@catalog_option
def query(file: str | None, command: str | None, params: tuple[str, ...], **options: Any) -> None:
    """Run the SQL of FILE, of stdin (-) or of -c, one statement after the other.

    \b
    meshql query report.sql
    meshql query -c 'SELECT * FROM sales.orders WHERE country = $c' -p c=DE -o orders.csv
    echo 'SELECT 1' | meshql query - --format json
    """
    from meshql.commands import query as command_query

    if (file is None) == (command is None):
        raise UsageError(
            "give the SQL once", hint="meshql query FILE.sql, meshql query -, or meshql query -c SQL"
        )
    text = command if command is not None else command_query.read_text(str(file))
    command_query.run(text, params, **options)


@cli.command()
@click.argument("pattern", default="*", metavar="[GLOB]")
@format_option("table", "csv", "tsv", "json", "jsonl", "markdown")
@catalog_option
def products(pattern: str, format_: str | None, catalog: str | None) -> None:
    """List the catalog's products, or those whose name matches GLOB, such as 'sales.*'."""
    from meshql.commands.catalog import list_products

    list_products(pattern, format_ or "table", catalog)


@cli.command()
@click.argument("name")
@catalog_option
def describe(name: str, catalog: str | None) -> None:
    """Show a product: its columns, owner, location, version, files, rows, bytes and last change."""
    from meshql.commands.catalog import describe_product

    describe_product(name, catalog)


@cli.command()
@click.argument("path", required=False)
@catalog_option
def validate(path: str | None, catalog: str | None) -> None:
    """Check a catalog and list all of its mistakes, each with its place and its fix."""
    from meshql.commands.catalog import validate_catalog

    validate_catalog(path or catalog)


@cli.command()
def schema() -> None:
    """Print the JSON schema of catalog files, from which YAML editors complete keys."""
    from meshql.commands.catalog import print_schema

    print_schema()


@cli.command()
@click.option("--down", is_flag=True, help="Stop the demo's stores and remove everything it made.")
def demo(down: bool) -> None:
    """Start three emulated clouds on this machine, with a company's data, and join across them."""
    from meshql.commands import demo as command_demo

    if down:
        command_demo.down()
    else:
        command_demo.up()


@cli.command()
def version() -> None:
    """Print the versions of meshql, Python, DuckDB and its extensions."""
    from meshql.commands.version import print_versions

    print_versions()


def main() -> None:
    """Run the command line, and leave the process with the exit code that the outcome has."""
    try:
        cli.main(standalone_mode=False)
        code = 0
    except click.exceptions.Exit as left:
        code = left.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:
        # Whoever read stdout has gone: nothing is left to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MeshError as error:
        code = _failed(error)
    sys.exit(code)


def _failed(error: MeshError) -> int:
    from meshql.query.supervise import abandoned
    from meshql.terminal import report

    report(error)
    if abandoned(error):
        sys.stdout.flush()
        # Threads that hang on a store would hold up an ordinary exit.
        os._exit(error.exit_code)
    return error.exit_code
