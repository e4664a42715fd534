"""How rows of bronze become rows of silver, as SQL: expressions, casts, and the reasons to refuse a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from meshql.build.column_types import stored
from meshql.build.rules import ROW, RowRule
from meshql.catalog.build import SilverBuild
from meshql.catalog.build_checks import ROW_FIELDS
from meshql.errors import MeshError, QueryError, UsageError
from meshql.formats.batch_state import ROW_COLUMNS
from meshql.query.reading import Reading
from meshql.redact import scrub
from meshql.sql import quote_identifier, quote_literal

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["JSON", "REASONS", "Made", "Shape", "broken", "shape_of"]

REASONS = "__reasons"
"""The column of a staged row that lists why it is refused; NULL where it is not."""

JSON = "__row"
"""The column of a staged row that holds, where it is refused, all of the row that it was."""

RAW = "__raw"


@dataclass(frozen=True, slots=True)
class Made:
    """A column of silver: how its value comes from a row of bronze.

    `first` is evaluated over bronze; `value` over that, as `{}`, is the expression's value. `kind` is the
    type that the table holds, after `casts` one after the other. `may_fail` says that `first` is NULL where
    the expression fails.
    """

    name: str
    first: str
    value: str
    casts: tuple[str, ...]
    kind: str
    may_fail: bool
    json: bool
    asked: str | None

    def cast(self, at: str) -> str:
        """Return the SQL of the column, of what `first` gave."""
        found = self.value.format(at)
        for cast in self.casts:
            found = f"TRY_CAST({found} AS {cast})"
        return found

    def fails(self, at: str) -> str | None:
        """Return a predicate for rows in which it cannot be had; None where it always can."""
        value, column = self.value.format(at), quote_identifier(self.name)
        tests = [f"{at} IS NULL"] if self.may_fail else []
        if self.casts:
            null = f" AND json_type({value}) <> 'NULL'" if self.json else ""
            tests.append(f"({value} IS NOT NULL AND {column} IS NULL{null})")
        return " OR ".join(tests) or None

    @property
    def reason(self) -> str:
        """Why a row is refused in which it fails."""
        return f"{self.name} is no {self.asked or self.kind}" if self.casts else f"{self.name} failed"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a silver product's rows are to be: their columns, what refuses them, what is only counted."""

    columns: tuple[Made, ...]
    key: tuple[str, ...]
    refusing: tuple[tuple[RowRule, str], ...]
    counted: tuple[tuple[RowRule, str], ...]

    @property
    def names(self) -> list[str]:
        """All columns of the table."""
        return [*(c.name for c in self.columns), *ROW_COLUMNS]

    @property
    def kinds(self) -> dict[str, str]:
        """All columns of the table with their types."""
        return {c.name: c.kind for c in self.columns} | dict(ROW_COLUMNS)

    def counter(self, index: int) -> str:
        """Return the column of a staged row that says whether it breaks the counted rule of this index."""
        return f"__counted{index}"

    def sql(self, relation: str) -> str:
        """Return the SELECT that makes staged rows of those of a relation of bronze."""
        own = ", ".join(map(quote_identifier, ROW_COLUMNS))
        first = ", ".join(f"({c.first}) AS __first{i}" for i, c in enumerate(self.columns))
        made = ", ".join(
            f"{c.cast(f'__first{i}')} AS {quote_identifier(c.name)}" for i, c in enumerate(self.columns)
        )
        kept = ", ".join(f"__first{i}" for i in range(len(self.columns)))
        judged = "".join(f", {sql} AS __rule{i}" for i, (_, sql) in enumerate(self.refusing))
        counted = "".join(f", {sql} AS {self.counter(i)}" for i, (_, sql) in enumerate(self.counted))
        names = ", ".join(map(quote_identifier, self.names))
        flags = "".join(f", {broken(self.counter(i))} AS {self.counter(i)}" for i in range(len(self.counted)))
        text = f"SELECT {first}, bronze AS {RAW}, {own} FROM {relation} AS bronze"
        text = f"SELECT {made}, {kept}, {RAW}, {own} FROM ({text})"
        text = f"SELECT *{judged}{counted} FROM ({text}) AS {ROW}"
        text = f"SELECT *, {self._reasons()} AS {REASONS} FROM ({text})"
        row = f"CASE WHEN {REASONS} IS NOT NULL THEN to_json({RAW})::VARCHAR END AS {JSON}"
        return f"SELECT {names}{flags}, {REASONS}, {row} FROM ({text})"

    def _reasons(self) -> str:
        """The list of reasons to refuse a row; NULL without any, which most rows are: they cost no list."""
        found = list(self._tests())
        if not found:
            return "NULL::VARCHAR[]"
        any_ = " OR ".join(f"({test})" for test, _ in found)
        each = ", ".join(f"CASE WHEN {test} THEN {quote_literal(why)} END" for test, why in found)
        return f"CASE WHEN {any_} THEN list_filter([{each}], lambda x: x IS NOT NULL) END"

    def _tests(self) -> Iterator[tuple[str, str]]:
        failing: dict[str, str] = {}
        for i, column in enumerate(self.columns):
            if test := column.fails(f"__first{i}"):
                failing[column.name.casefold()] = test
                yield test, column.reason
        required = {r.column.casefold() for r, _ in self.refusing if r.column and _is_required(r)}
        for name in self.key:
            if name.casefold() not in required:
                test = f"{quote_identifier(name)} IS NULL"
                known = failing.get(name.casefold())
                yield (
                    (f"{test} AND NOT coalesce({known}, false)" if known else test),
                    f"{name} must not be null",
                )
        for i, (rule, _) in enumerate(self.refusing):
            known = failing.get((rule.column or "").partition(".")[0].casefold())
            # Of a value that could not be had, that alone is told.
            unless = f" AND NOT coalesce({known}, false)" if known else ""
            yield f"{broken(f'__rule{i}')}{unless}", rule.reason


def broken(at: str) -> str:
    """Return a predicate, never NULL, for a row's rule as it was judged: broken, or impossible to decide."""
    return f"({at} IS NULL OR {at}.v IS TRUE)"


def _is_required(rule: RowRule) -> bool:
    return rule.name.rpartition(".")[2] in ("required", "primaryKey") and "." not in str(rule.column)


def shape_of(
    name: str,
    build: SilverBuild,
    schema: Mapping[str, str],
    rules: Sequence[RowRule],
    reading: Reading,
) -> Shape:
    """Return what rows of the product `name` are to be, made of bronze rows with the columns `schema`.

    Nothing is read, but everything is bound: raises QueryError or UsageError, naming the column or the rule
    that does not fit, before a row is touched.
    """
    columns = tuple(_columns(name, build, schema, reading))
    _refuse_doubles(name, columns)
    kinds = {c.name: c.kind for c in columns} | dict(ROW_COLUMNS)
    known = {column.casefold(): column for column in kinds}
    for key in ("key", "partitions"):
        for column in getattr(build, key):
            if column.casefold() not in known:
                raise UsageError(
                    f"{name}: {key} names the column {column}, which is not there",
                    hint=f"one of {', '.join(kinds)}",
                )
    judged = [(rule, _judged(name, rule, kinds, reading)) for rule in rules]
    return Shape(
        columns,
        tuple(known[k.casefold()] for k in build.key),
        tuple(pair for pair in judged if pair[0].severity == "error"),
        tuple(pair for pair in judged if pair[0].severity != "error"),
    )


def _columns(name: str, build: SilverBuild, schema: Mapping[str, str], reading: Reading) -> Iterator[Made]:
    bronze = nothing(schema, "bronze")
    own = (column for column in schema if column not in ROW_COLUMNS)
    selected: dict[str, tuple[str, str | None]] = {column: (quote_identifier(column), None) for column in own}
    if build.select:
        selected = {column: (made.sql, made.type) for column, made in build.select.items()}
    for column, (sql, asked) in selected.items():
        place = f"{name}: select.{column}"
        if column.casefold() in ROW_FIELDS:
            raise UsageError(f"{place}: every row has {column} anyway", hint="remove it from `select`")
        yield _made(place, column, sql, asked, bronze, reading)


def _made(place: str, column: str, sql: str, asked: str | None, bronze: str, reading: Reading) -> Made:
    kind = _bound(place, f"SELECT ({sql}) AS v FROM {bronze}", reading)
    plain = _is_column(sql, reading)
    trying = f"TRY(struct_pack(v := ({sql})))"
    may_fail = not plain and _binds(f"SELECT {trying} FROM {bronze}", reading)
    wanted = _bound(place, f"SELECT CAST(NULL AS {asked}) AS v", reading) if asked else kind
    held = stored(wanted)
    if held is None:
        raise UsageError(
            f"{place}: a Delta table holds no {wanted}",
            hint=f"{column}: {{sql: ..., type: VARCHAR}}",
        )
    casts = [asked] if asked and wanted != kind else []
    if held != str(wanted):
        casts.append(held)
    return Made(
        column,
        trying if may_fail else sql,
        "{}.v" if may_fail else "{}",
        tuple(casts),
        held,
        may_fail,
        str(kind) == "JSON",
        asked,
    )


def nothing(schema: Mapping[str, str], alias: str) -> str:
    """Return a relation with these columns and no rows, to bind expressions against."""
    columns = ", ".join(f"CAST(NULL AS {kind}) AS {quote_identifier(name)}" for name, kind in schema.items())
    return f"(SELECT {columns} WHERE false) AS {alias}"


def _bound(place: str, sql: str, reading: Reading) -> DuckDBPyType:
    """The type of a query's only column; raises QueryError with DuckDB's words for what does not fit."""
    try:
        return reading.cursor.sql(sql).types[0]
    except duckdb.Error as error:
        found = reading.failure(error)
        raise QueryError(f"{place}: {_words(found)}", hint=found.hint) from None


def _words(error: MeshError) -> str:
    """DuckDB's words, without the query that they quote: it is none that a user wrote."""
    return error.message.split("\n\nLINE ")[0].strip()


def _binds(sql: str, reading: Reading) -> bool:
    try:
        _ = reading.cursor.sql(sql).types
    except duckdb.BinderException as error:
        scrub(error)
        return False
    return True


def _is_column(sql: str, reading: Reading) -> bool:
    """Whether an expression is nothing but a column."""
    rows = reading.ask(f"SELECT json_serialize_sql({quote_literal(f'SELECT {sql}')})")
    tree = json.loads(rows[0][0])
    if tree["error"]:
        return False
    listed = tree["statements"][0]["node"].get("select_list") or [{}]
    return len(listed) == 1 and listed[0].get("type") == "COLUMN_REF"


def _judged(name: str, rule: RowRule, kinds: Mapping[str, str], reading: Reading) -> str:
    """The SQL that judges rows by a rule: a struct of its predicate, NULL where that cannot be decided."""
    rows = nothing(kinds, ROW)
    trying = f"TRY(struct_pack(v := ({rule.bad})))"
    if _binds(f"SELECT {trying} FROM {rows}", reading):
        return trying
    _bound(f"{name}: the rule {rule.name} does not fit", f"SELECT ({rule.bad}) AS v FROM {rows}", reading)
    return f"struct_pack(v := ({rule.bad}))"


def _refuse_doubles(name: str, columns: Sequence[Made]) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        other = seen.setdefault(column.name.casefold(), column.name)
        if other is not column.name:
            raise UsageError(
                f"{name}: SQL does not tell the columns {other} and {column.name} apart",
                hint="rename one of them below `select:`",
            )
