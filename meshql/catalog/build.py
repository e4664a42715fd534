"""The `build:` block of a product that is made here: from which sources, by which SQL, into which layer."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from meshql.catalog.base import AnyValue, Flag, Model, Scalar, Whole

__all__ = [
    "LAYER_FORMATS",
    "BronzeBuild",
    "Build",
    "CdcBuild",
    "Column",
    "Cursor",
    "FilesSource",
    "GoldBuild",
    "HttpSource",
    "Paging",
    "PythonSource",
    "Quarantine",
    "SilverBuild",
    "Source",
    "SqlSource",
    "in_batches",
    "qualified",
]

LAYER_FORMATS = {"bronze": "parquet", "silver": "delta", "gold": "iceberg", "cdc": "delta"}
"""The format that each kind of build writes; a log of changes is written as bronze is."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
"""One name, or a list of them."""

# --- bronze ---------------------------------------------------------------------------------------


class Cursor(Model):
    """What tells new rows of a source from those that were taken already: a column that only grows."""

    column: str = Field(description="Column whose highest value so far is where the next build goes on")
    param: str | None = Field(
        default=None, description="Parameter that the API takes the last value in; for http only"
    )
    start: Scalar = Field(default=None, description="Value to begin with")


class SourceBase(Model):
    """What every source has."""

    name: str | None = Field(
        default=None,
        description="What messages call it, and `_source` where that is no file's address; a source that is"
        " renamed is taken anew",
    )


class FilesSource(SourceBase):
    """Files that appear in a folder; each is taken once."""

    kind: Literal["files"]
    location: str = Field(min_length=1, description="A file, a folder or a glob: s3://landing/**/*.json")
    connection: str | None = Field(default=None, description="Where they lie, if not where the product does")
    format: Literal["csv", "json", "parquet"] | None = Field(
        default=None, description="Or else what the files' suffix says"
    )
    options: dict[str, AnyValue] = Field(default_factory=dict, description="Options of DuckDB's reader")
    overwritten: Literal["ignore", "append"] = Field(
        default="ignore",
        description="What a file that was taken already and has changed since means: nothing but a note, "
        "or rows to be taken anew",
    )
    bad_files: Literal["fail", "skip"] = Field(
        default="fail", description="Whether a file that cannot be read stops the build or is left out"
    )


class Paging(Model):
    """How an API hands out its records in pages."""

    style: Literal["none", "page", "offset", "cursor", "link"] = Field(
        default="none",
        description="page and offset count up; cursor sends what the last answer said; link follows the "
        "Link header, or the URL in the answer",
    )
    param: str | None = Field(default=None, description="Parameter that takes the page, offset or cursor")
    size_param: str | None = Field(default=None, description="Parameter that takes the size of a page")
    size: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Records in a page")
    first: Whole | None = Field(default=None, description="The first page's number: 1 unless given")
    next: str | None = Field(
        default=None, description="Where the answer holds the next cursor or URL: meta.next"
    )

    @model_validator(mode="after")
    def _complete(self) -> Paging:
        if self.style == "cursor" and self.next is None:
            raise PydanticCustomError("rule", "`next` is to say where the answer holds the next cursor")
        return self


class HttpSource(SourceBase):
    """An API that answers with JSON."""

    kind: Literal["http"]
    url: str = Field(min_length=1, description="URL of the API")
    connection: str | None = Field(
        default=None, description="Connection of cloud http that says who we are there"
    )
    records: str | None = Field(
        default=None, description="Where the answer holds the records: data.items; all of it unless given"
    )
    params: dict[str, Scalar] = Field(default_factory=dict, description="Parameters of the URL")
    paging: Paging = Paging()
    cursor: Cursor


class SqlSource(SourceBase):
    """Rows that SQL over other products gives."""

    kind: Literal["sql"]
    sql: str = Field(min_length=1, description="SELECT over products")
    cursor: Cursor


class PythonSource(SourceBase):
    """Rows that a function gives: an iterable of dicts, or anything that pyarrow takes for a table."""

    kind: Literal["python"]
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", description="Entry point: package.module:function"
    )
    options: dict[str, AnyValue] = Field(default_factory=dict, description="Arguments of the function")
    cursor: Cursor


Source = Annotated[FilesSource | HttpSource | SqlSource | PythonSource, Field(discriminator="kind")]


class BronzeBuild(Model):
    """Raw rows as they came, appended in batches: Parquet by the day of ingestion."""

    kind: Literal["bronze"]
    sources: tuple[Source, ...] = Field(min_length=1, description="Where the rows come from")

    @model_validator(mode="after")
    def _told_apart(self) -> BronzeBuild:
        called = Counter(_called(source) for source in self.sources if source.kind != "files")
        if again := [name for name, count in called.items() if count > 1]:
            raise PydanticCustomError(
                "rule", f"{called[again[0]]} sources are called {again[0]}: give each a `name` of its own"
            )
        return self


def _called(source: Source) -> str:
    match source:
        case HttpSource():
            return source.name or source.url.partition("?")[0]
        case PythonSource():
            return source.name or source.function
        case FilesSource():
            return source.name or source.location
    return source.name or "sql"


# --- silver ---------------------------------------------------------------------------------------


class Column(Model):
    """A column of a silver product."""

    sql: str = Field(description="Expression over the columns of `from`")
    type: str | None = Field(
        default=None, description="DuckDB type; a value that cannot be cast puts its row into quarantine"
    )


def _column(value: Any) -> Any:
    return {"sql": value} if isinstance(value, str) else value


Selected = Annotated[Column, BeforeValidator(_column, json_schema_input_type=str | Column)]
"""A column, or no more than its expression."""


class Quarantine(Model):
    """Where rows go that break a rule."""

    location: str = Field(min_length=1, description="Folder of the quarantine's table")


class SilverBuild(Model):
    """Cleaned and validated rows: Delta, with what breaks a rule in a quarantine product beside it."""

    model_config = ConfigDict(populate_by_name=False)

    kind: Literal["silver"]
    from_: str = Field(alias="from", description="The bronze product that it is made of")
    select: dict[str, Selected] = Field(
        default_factory=dict, description="Columns by name, each an expression; all of them unless given"
    )
    key: Names = Field(default=(), description="Columns that tell rows apart: of each key one row is kept")
    order: Names = Field(
        default=(), description="Which row of a key is kept: the first in this order, `updated_at DESC`"
    )
    partitions: Names = Field(default=(), description="Columns that the table is partitioned by")
    evolution: Literal["add", "refuse"] = Field(
        default="add", description="Whether new columns are added to the table or stop the build"
    )
    quarantine: Quarantine | None = Field(
        default=None, description="Or else the table's folder with _quarantine behind its name"
    )

    @model_validator(mode="after")
    def _ordered_by_key(self) -> SilverBuild:
        if self.order and not self.key:
            raise PydanticCustomError("rule", "`order` tells which row of a `key` is kept, and there is none")
        return self


# --- gold -----------------------------------------------------------------------------------------


class GoldBuild(Model):
    """Rows that SQL makes of other products: Iceberg."""

    kind: Literal["gold"]
    sql: str = Field(min_length=1, description="SELECT over products")
    partitions: Names = Field(
        default=(), description="Columns, or year(c), month(c), day(c), hour(c), bucket(n, c), truncate(n, c)"
    )
    whole: Flag = Field(default=False, description="Recompute all of it each time")


# --- change data capture ---------------------------------------------------------------------------


LONGEST_SLOT = 63


def qualified(table: str) -> str:
    """Return a table of a database as schema.table; the schema is public unless given."""
    return table if "." in table else f"public.{table}"


SourceTable = Annotated[str, AfterValidator(qualified)]

SourceTables = Annotated[
    tuple[SourceTable, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])
]


class CdcBuild(Model):
    """Changes of a database, followed as it commits them.

    With `tables`, `from` is a connection, and the product is the log of their changes: Parquet in batches of
    whole transactions. Each table becomes a product of its own, called as the table is, unless one is
    declared. Without, `from` is a product that holds changes, and this one is the rows as they are after
    them: Delta, by MERGE.
    """

    model_config = ConfigDict(populate_by_name=False)

    kind: Literal["cdc"]
    from_: str = Field(alias="from", description="A connection of cloud postgres, or a product of changes")
    tables: SourceTables = Field(default=(), description="Tables to follow: orders, or schema.table")
    slot: str | None = Field(
        default=None,
        pattern=rf"^[a-z0-9_]{{1,{LONGEST_SLOT}}}$",
        description="Replication slot; named after the product unless given",
    )
    publication: str | None = Field(
        default=None,
        min_length=1,
        description="A publication that is there already; meshql makes its own unless given",
    )
    table: SourceTable | None = Field(
        default=None, description="Which table's changes, where `from` is the log of a database"
    )
    history: Flag = Field(
        default=False, description="Keep every version of a row, with valid_from and valid_to"
    )
    types: dict[str, str] = Field(
        default_factory=dict, description="DuckDB types by column, where others than those found are wanted"
    )
    partitions: Names = Field(default=(), description="Columns that the table is partitioned by")
    operation: str | None = Field(
        default=None,
        description="Expression for what a change did: c r u d t, or insert, update, delete, truncate",
    )
    key: Names = Field(default=(), description="Columns that tell rows apart")
    order: Names = Field(default=(), description="Columns of `from` by which changes follow one another")
    at: str | None = Field(default=None, description="Expression for the time of a change, for `history`")
    select: dict[str, str] = Field(
        default_factory=dict,
        description="Columns by name, each an expression over `from`; all of its own unless given",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> CdcBuild:
        for_log, for_table = ("slot", "publication"), ("table", "history", "types", "partitions")
        for_changes = ("operation", "key", "order", "at", "select")
        if self.tables and (wrong := [k for k in (*for_table, *for_changes) if getattr(self, k)]):
            raise PydanticCustomError(
                "rule", f"`{wrong[0]}` is for the product of a table, and `tables` make this one the log"
            )
        if not self.tables and (wrong := [k for k in for_log if getattr(self, k)]):
            raise PydanticCustomError("rule", f"`{wrong[0]}` is for the log, which names its `tables`")
        if self.table and (wrong := [k for k in for_changes if getattr(self, k)]):
            raise PydanticCustomError("rule", f"the log of a database knows its own `{wrong[0]}`: remove it")
        if not self.tables and not self.table:
            if missing := [k for k in ("operation", "key", "order") if not getattr(self, k)]:
                raise PydanticCustomError(
                    "rule", f"add `{missing[0]}`; or `table` for a log, `tables` for a connection"
                )
            if self.history and not self.at:
                raise PydanticCustomError("rule", "`history` takes `at`: the time of a change")
        return self


Build = Annotated[BronzeBuild | SilverBuild | GoldBuild | CdcBuild, Field(discriminator="kind")]


def in_batches(build: Build | None) -> bool:
    """Whether what is built is Parquet in batches, with a log of them: bronze, and logs of changes."""
    return isinstance(build, BronzeBuild) or (isinstance(build, CdcBuild) and bool(build.tables))
