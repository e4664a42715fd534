"""The command line: arguments, exit codes and streams. What a command does stands in meshql.commands."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from types import TracebackType

import click

from meshql import __version__
from meshql.cli_build import build, cdc, check, lineage, maintain, runs
from meshql.cli_options import catalog_option, configuration, format_option
from meshql.config import FORMATS
from meshql.errors import MeshError, UsageError
from meshql.redact import redact

__all__ = ["cli", "main"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT, invoke_without_command=True)
@click.version_option(__version__, prog_name="meshql")
@catalog_option
@click.pass_context
def cli(context: click.Context, catalog: str | None) -> None:
    """SQL over data products that lie in several clouds.

    A catalog of YAML files names Delta, Iceberg and Parquet tables on S3, GCS and Azure; SQL says
    domain.product and joins them. `meshql demo` shows it on this machine. Without a command, the shell opens.

    Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 query failed, 2 usage or catalog,
    3 storage or credentials (worth a retry), 4 timeout, 5 contract failed, 6 budget or policy refused,
    130 interrupted.
    """
    if context.invoked_subcommand is None:
        from meshql.commands.shell import open_shell

        open_shell(configuration(catalog=catalog))


@cli.command()
@catalog_option
def shell(catalog: str | None) -> None:
    """Open the SQL shell; `meshql` alone does so, too."""
    from meshql.commands.shell import open_shell

    open_shell(configuration(catalog=catalog))


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
@click.option("--param-file", metavar="FILE", help="TOML or JSON with values; --param wins.")
@format_option(*FORMATS)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="File to write; its suffix tells the format. {n} stands for the result's number.",
)
@click.option("-n", "--limit", type=click.IntRange(min=0), help="At most this many rows of each result.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for all of it.")
@click.option(
    "--keep-going/--stop-on-error",
    help="Whether statements behind a failed one run; the exit code is that of the first failure. "
    "[default: --stop-on-error]",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be read of each product; run nothing.")
@click.option("--stats", is_flag=True, help="Say on stderr, as a line of JSON, what each statement read.")
@click.option("--echo", is_flag=True, help="Say each statement on stderr before it runs.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr; errors only.")
@catalog_option
def query(
    file: str | None,
    command: str | None,
    params: tuple[str, ...],
    param_file: str | None,
    format_: str | None,
    output: str | None,
    limit: int | None,
    timeout: float | None,
    catalog: str | None,
    **habits: bool,
) -> int:
    """Run the SQL of FILE, of stdin (-) or of -c, one statement after the other.

    Between statements, a line may hold a command: .mode .output .once .param .read .print .timer .expanded
    .set .products .domains .describe .schema .preview .explain .plan .doctor .quit

    \b
    meshql query report.sql
    meshql query -c 'SELECT * FROM sales.orders WHERE country = $c' -p c=DE -o orders.csv
    echo 'SELECT 1' | meshql query - --format json
    """
    if (file is None) == (command is None):
        raise UsageError(
            "give the SQL once", hint="meshql query FILE.sql, meshql query -, or meshql query -c SQL"
        )
    config = configuration(catalog=catalog, timeout=timeout)
    from meshql.commands import query as command_query
    from meshql.commands.script import Habits

    source = command_query.source(file, command)
    return command_query.run(
        source,
        config,
        Habits(**habits),
        params=params,
        param_file=param_file,
        format_=format_,
        output=output,
        limit=limit,
    )


@cli.command()
@format_option("table", "json")
@click.option("--path", is_flag=True, help="Print where the configuration file is looked for.")
def config(format_: str | None, path: bool) -> None:
    """Show every setting with its value, and where that came from.

    Settings stand in a TOML file, as `timeout = 60`. A variable such as MESHQL_TIMEOUT beats the file, and a
    flag beats both.
    """
    from meshql.commands import config as command_config

    if path:
        command_config.print_path()
    else:
        command_config.print_config(configuration(), format_ or "table")


@cli.command()
@click.argument("pattern", default="*", metavar="[GLOB]")
@format_option("table", "csv", "tsv", "json", "jsonl", "markdown")
@catalog_option
def products(pattern: str, format_: str | None, catalog: str | None) -> None:
    """List the catalog's products, or those whose name matches GLOB, such as 'sales.*'."""
    from meshql.commands.catalog import list_products

    list_products(pattern, format_ or "table", _catalog(catalog))


@cli.command()
@click.argument("name")
@catalog_option
def describe(name: str, catalog: str | None) -> None:
    """Show a product: its columns, owner, location, version, files, rows, bytes and last change."""
    from meshql.commands.catalog import describe_product

    describe_product(name, configuration(catalog=catalog))


@cli.command()
@click.argument("names", nargs=-1, metavar="[CONNECTION|PRODUCT]...")
@format_option("table", "json")
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for each connection; all are examined at once. [default: 2.5]",
)
@catalog_option
def doctor(names: tuple[str, ...], format_: str | None, timeout: float | None, catalog: str | None) -> int:
    """Examine every connection, or those named: who we are there, until when, and what works.

    Checks: credentials, network, clock, region, list, read, and each format's own reader on one product; a
    product's name chooses that product. Each failure comes with the fix to type. Exit code 3 when a check
    failed.

    JSON is an array with an object a connection: connection, ok, cloud, method, identity, expires_at,
    endpoint, region, seconds, products, and checks: name, state (ok, warning, failed, skipped), seconds,
    message, hint, product.
    """
    from meshql.commands.doctor import examine

    return examine(names, configuration(catalog=catalog), format_ or "table", timeout=timeout)


@cli.command()
@click.argument("path", required=False)
@catalog_option
def validate(path: str | None, catalog: str | None) -> None:
    """Check a catalog and list all of its mistakes, each with its place and its fix."""
    from meshql.commands.catalog import validate_catalog

    validate_catalog(path or catalog or _catalog(catalog))


@cli.command()
def schema() -> None:
    """Print the JSON schema of catalog files, from which YAML editors complete keys."""
    from meshql.commands.catalog import print_schema

    print_schema()


@cli.command()
@click.option("--events", is_flag=True, help="Start only a server of user events, to build products from.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Where the events are served. [default: 8642]", metavar="N"
)
@click.option("--down", is_flag=True, help="Stop what the demo started and remove everything it made.")
def demo(down: bool, events: bool, port: int | None) -> None:
    """Start three emulated clouds on this machine, with a company's data, and join across them.

    With --events, start a small API of user events, which catalogs/medallion builds products from.
    """
    if port is not None and not events:
        raise UsageError("--port says where events are served", hint="meshql demo --events --port N")
    if events and not down:
        from meshql.commands.events import serve_events

        serve_events(port)
        return
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


for command in (build, cdc, check, lineage, maintain, runs):
    cli.add_command(command)


def _catalog(named: str | None) -> str:
    """The catalog that the option, the environment and the configuration lead to."""
    from meshql.commands.opening import catalog_of

    return str(catalog_of(configuration(catalog=named)))


def main() -> None:
    """Run the command line, and leave the process with the exit code that the outcome has."""
    _end_on_signals()
    sys.excepthook = _last_words
    threading.excepthook = lambda failed: _last_words(failed.exc_type, failed.exc_value, failed.exc_traceback)
    try:
        code = cli.main(standalone_mode=False) or 0
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


def _last_words(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    """Print the traceback of a mistake of meshql's own, with secrets masked."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, where))))


def _end_on_signals() -> None:
    """Let a request to end, and a terminal that closes, do as Ctrl-C does: no partial file is left."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _failed(error: MeshError) -> int:
    from meshql.output.files import discard_unfinished
    from meshql.query.supervise import abandoned
    from meshql.terminal import report

    report(error)
    if abandoned(error):
        sys.stdout.flush()
        discard_unfinished()
        # Threads that hang on a store would hold up an ordinary exit.
        os._exit(error.exit_code)
    return error.exit_code
