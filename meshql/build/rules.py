"""A product's contract as SQL: rules that each row keeps, and rules that the table keeps as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshql.build.rule import (
    ROW,
    NotRun,
    RowRule,
    Rule,
    Rules,
    Severity,
    TableRule,
    demand,
    in_words,
    none_allowed,
    unit_of,
)
from meshql.build.sql_checks import refused_pattern, sql_rule
from meshql.catalog.contract import QualityCheck
from meshql.catalog.model import Catalog, Product
from meshql.catalog.tables import Item, LogicalTypeOptions, Table
from meshql.sql import quote_identifier, quote_literal, quote_name

__all__ = ["ROW", "NotRun", "RowRule", "Rule", "Rules", "Severity", "TableRule", "referred", "rules_of"]

EXACT_IN_DOUBLE = 2**53


def rules_of(product: Product, catalog: Catalog) -> Rules:
    """Return what the contract of `product` demands of its rows; nothing is read for it.

    Names of rules that would be the same are numbered, in the contract's order.
    """
    found = list(_Reader(product, catalog).rules())
    seen = Counter[str]()
    named: list[Rule] = []
    for rule in found:
        seen[rule.name] += 1
        again = seen[rule.name]
        named.append(rule if again == 1 else replace(rule, name=f"{rule.name} ({again})"))
    return Rules(
        tuple(r for r in named if isinstance(r, RowRule)),
        tuple(r for r in named if isinstance(r, TableRule)),
        tuple(r for r in named if isinstance(r, NotRun)),
    )


def referred(catalog: Catalog, product: Product) -> list[str]:
    """Return the names of the other products that the contract of `product` reads, sorted."""
    return sorted(rules_of(product, catalog).products)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column, or a field inside one: its name for people, its SQL, and where the contract has it."""

    name: str
    sql: str
    place: str
    parent: str = ""

    @property
    def missing(self) -> str:
        """A predicate for rows in which it has no value; a field of an object that is NULL does not count."""
        return f"{self.sql} IS NULL" + (f" AND {self.parent} IS NOT NULL" if self.parent else "")

    def field(self, name: str, place: str) -> _Column:
        return _Column(f"{self.name}.{name}", f"{self.sql}.{quote_identifier(name)}", place, self.sql)


class _Reader:
    """Goes through one product's contract."""

    def __init__(self, product: Product, catalog: Catalog) -> None:
        self.product = product
        self.catalog = catalog
        self.relation = quote_name(product.domain, product.table)

    def rules(self) -> Iterable[Rule]:
        tables = self.product.table_schema
        named = [t for t in tables if self.product.table in (t.name, t.physicalName)]
        table = next(iter(named or (tables if len(tables) == 1 else ())), None)
        if table is not None:
            yield from self._of_table(table, f"schema[{tables.index(table)}]")
        for index, check in enumerate(self.product.quality):
            yield from self._of_check(check, None, f"quality[{index}]")

    def _of_table(self, table: Table, place: str) -> Iterable[Rule]:
        for index, element in enumerate(table.properties):
            name = element.physicalName or element.name
            column = _Column(name, f"{ROW}.{quote_identifier(name)}", f"{place}.properties[{index}]")
            yield from self._of_item(element, column)
        yield from self._primary_key(table, place)
        for index, relationship in enumerate(table.relationships):
            at = f"{place}.relationships[{index}]"
            columns = [name.rpartition(".")[2] for name in _several(relationship.from_)]
            yield self._relationship(columns, _several(relationship.to), at)
        for index, check in enumerate(table.quality):
            yield from self._of_check(check, None, f"{place}.quality[{index}]")

    def _primary_key(self, table: Table, place: str) -> Iterable[Rule]:
        keys = [e for e in table.properties if e.primaryKey]
        keys.sort(key=lambda e: e.primaryKeyPosition or 0)
        if keys:
            names = [e.physicalName or e.name for e in keys]
            yield self._unique(names, "primaryKey", f"{place}.properties")

    def _of_item(self, item: Item, column: _Column) -> Iterable[Rule]:
        if item.required or item.primaryKey:
            kind = "required" if item.required else "primaryKey"
            yield self._row(column, kind, column.missing, "must not be null", f"{column.place}.{kind}")
        if item.unique and column.parent:
            yield self._not_run(column, "unique", "unique is not run on fields of objects")
        elif item.unique:
            yield self._unique([column.name], "unique", f"{column.place}.unique")
        if item.enum:
            values = [e.value for e in item.enum]
            yield self._accepted(column, "enum", values, "error", f"{column.place}.enum")
        if item.logicalTypeOptions is not None:
            yield from self._of_options(item.logicalTypeOptions, column)
        for index, relationship in enumerate(item.relationships):
            at = f"{column.place}.relationships[{index}]"
            yield self._relationship([column.name], _several(relationship.to), at)
        for index, check in enumerate(item.quality):
            yield from self._of_check(check, column, f"{column.place}.quality[{index}]")
        for index, inner in enumerate(item.properties):
            name = inner.physicalName or inner.name
            yield from self._of_item(inner, column.field(name, f"{column.place}.properties[{index}]"))
        yield from self._of_parts(item, column)

    def _of_parts(self, item: Item, column: _Column) -> Iterable[Rule]:
        """Say of rules about a list's items, or a map's keys and values, that they are not run."""
        parts = [("items", item.items)]
        parts += [("map.key", item.map.key), ("map.value", item.map.value)] if item.map else []
        for name, part in parts:
            below = _Column(f"{column.name}.{name}", "NULL", f"{column.place}.{name}")
            for rule in self._of_item(part, below) if part is not None else ():
                why = "rules inside lists and maps are not run"
                yield NotRun(rule.name, rule.column, rule.severity, why, rule.place)

    # --- what columns say -------------------------------------------------------------------------

    def _of_options(self, options: LogicalTypeOptions, column: _Column) -> Iterable[Rule]:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            bound = getattr(options, key)
            if bound is not None:
                yield self._bound(column, key, bound)
        if options.multipleOf is not None:
            many = f"TRY_CAST({column.sql} AS DOUBLE) / {options.multipleOf!r}"
            bad = f"{column.sql} IS NOT NULL AND (abs({many} - round({many})) < 1e-9) IS NOT TRUE"
            yield self._option(column, "multipleOf", bad, f"must be a multiple of {options.multipleOf}")
        sizes = [("minLength", "length", ">="), ("maxLength", "length", "<=")]
        sizes += [("minItems", "len", ">="), ("maxItems", "len", "<=")]
        for key, measure, sign in sizes:
            bound = getattr(options, key)
            if bound is not None:
                words = "items" if measure == "len" else "characters"
                most = "at least" if sign == ">=" else "at most"
                bad = f"NOT ({measure}({column.sql}) {sign} {bound})"
                yield self._option(column, key, bad, f"must have {most} {bound} {words}")
        if options.uniqueItems:
            bad = (
                f"len(list_distinct({column.sql})) < len(list_filter({column.sql}, lambda x: x IS NOT NULL))"
            )
            yield self._option(column, "uniqueItems", bad, "must not have an item twice")
        if options.pattern is not None:
            yield self._pattern(column, options.pattern, "error", f"{column.place}.logicalTypeOptions")
        for name in options.required or ():
            inner = column.field(name, f"{column.place}.logicalTypeOptions.required")
            yield self._row(inner, "required", inner.missing, "must not be null", inner.place)
        for key in ("minProperties", "maxProperties"):
            if getattr(options, key) is not None:
                yield self._not_run(column, key, f"{key} is not run: objects have fixed fields here")

    def _bound(self, column: _Column, key: str, bound: Any) -> RowRule:
        sign = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}[key]
        words = {">=": "at least", "<=": "at most", ">": "greater than", "<": "less than"}[sign]
        # A text literal takes the column's type; a number would have DuckDB refuse a column of text.
        number = isinstance(bound, int | float)
        value = f"TRY_CAST({column.sql} AS DOUBLE)" if number else column.sql
        kept = f"{value} {sign} {bound!r}" if number else f"{value} {sign} {quote_literal(str(bound))}"
        bad = f"{column.sql} IS NOT NULL AND ({kept}) IS NOT TRUE"
        return self._option(column, key, bad, f"must be {words} {bound}")

    def _option(self, column: _Column, key: str, bad: str, words: str) -> RowRule:
        return self._row(column, key, bad, words, f"{column.place}.logicalTypeOptions.{key}")

    def _accepted(
        self, column: _Column, name: str, values: Sequence[Any], severity: Severity, place: str
    ) -> RowRule:
        listed = ", ".join("null" if v is None else str(v) for v in values)
        words = f"must be one of {listed if len(listed) < 200 else listed[:200] + ' ...'}"
        return self._row(column, name, _unlisted(column, values), words, place, severity)

    def _pattern(self, column: _Column, pattern: str, severity: Severity, place: str) -> Rule:
        if why := refused_pattern(pattern):
            return self._not_run(column, "pattern", f"not run, DuckDB refuses the pattern: {why}", severity)
        bad = f"NOT regexp_matches({column.sql}::VARCHAR, {quote_literal(pattern)})"
        return self._row(column, "pattern", bad, f"must match {pattern}", f"{place}.pattern", severity)

    def _relationship(self, columns: Sequence[str], to: Sequence[str], place: str) -> Rule:
        name = ",".join(columns) + ".relationship"
        ends = [self._end(end) for end in to]
        targets = {target.name: target for target, _ in ends if target is not None}
        if len(targets) != 1 or any(target is None for target, _ in ends) or len(ends) != len(columns):
            why = f"not run, no product of the catalog for {', '.join(to)}: name it domain.product.column"
            return NotRun(name, columns[0], "error", why, place)
        target = next(iter(targets.values()))
        mine = [f"{ROW}.{quote_name(*c.split('.'))}" for c in columns]
        same = " AND ".join(
            f"_other.{quote_identifier(there)} = {here}" for here, (_, there) in zip(mine, ends, strict=True)
        )
        there = quote_name(target.domain, target.table)
        given = " AND ".join(f"{here} IS NOT NULL" for here in mine)
        bad = f"{given} AND NOT EXISTS (SELECT 1 FROM {there} AS _other WHERE {same})"
        words = f"{', '.join(columns)} must be in {', '.join(to)}"
        if target.name == self.product.name:
            # Rows that are about to come may point to each other: only the whole table tells.
            count = f"SELECT count(*) FROM {self.relation} AS {ROW} WHERE {bad}"
            return TableRule(name, columns[0], "error", count, "mustBe", 0, "rows", words, place)
        return RowRule(name, columns[0], "error", bad, words, place, (target.name,))

    def _end(self, end: str) -> tuple[Product | None, str]:
        table, _, column = end.rpartition(".")
        domain, dot, name = table.rpartition(".")
        return self.catalog.find(domain if dot else self.product.domain, name), column

    # --- what checks say --------------------------------------------------------------------------

    def _of_check(self, check: QualityCheck, column: _Column | None, place: str) -> Iterable[Rule]:
        severity = _severity(check)
        name = _name(check, column)
        if check.kind in ("text", "custom"):
            by = f" by {check.engine}" if check.engine else ""
            why = "text is for people" if check.kind == "text" else f"custom checks are run elsewhere{by}"
            yield NotRun(name, _called(column), severity, why, place)
        elif check.kind == "sql":
            yield sql_rule(check, self.product, self.catalog, _called(column), name, severity, place)
        elif check.metric is not None:
            yield self._metric(check, column, name, severity, place)
        elif _deprecated(check):
            why = f"not run, the key `rule` is deprecated: write metric instead of rule {_deprecated(check)}"
            yield NotRun(name, _called(column), severity, why, place)

    def _metric(
        self, check: QualityCheck, column: _Column | None, name: str, severity: Severity, place: str
    ) -> Rule:
        arguments = check.arguments or {}
        if check.metric == "rowCount":
            return self._measured(check, column, name, severity, place, "count(*)", "rowCount")
        if check.metric == "duplicateValues":
            listed = arguments.get("properties") or ([column.name] if column else None)
            if not isinstance(listed, list) or not listed:
                return NotRun(
                    name, None, severity, "not run, it names no columns: arguments.properties", place
                )
            return self._duplicates(check, [str(c) for c in listed], name, severity, place)
        if column is None:
            why = f"not run, {check.metric} belongs to a column"
            return NotRun(name, None, severity, why, place)
        if check.metric == "invalidValues":
            return self._invalid(check, column, name, severity, place)
        bad, words = column.missing, "must not be null"
        if check.metric == "missingValues" and "missingValues" in arguments:
            listed = _several(arguments["missingValues"])
            bad = f"({bad} OR {_in(column.sql, [v for v in listed if v is not None])})"
            words = "must not be missing"
        return self._marked(check, column, name, severity, place, bad, words)

    def _invalid(
        self, check: QualityCheck, column: _Column, name: str, severity: Severity, place: str
    ) -> Rule:
        arguments = check.arguments or {}
        if "validValues" in arguments:
            rule: Rule = self._accepted(column, name, _several(arguments["validValues"]), severity, place)
        elif "pattern" in arguments:
            rule = self._pattern(column, str(arguments["pattern"]), severity, place)
        else:
            why = "not run, invalidValues takes arguments.validValues or arguments.pattern"
            return NotRun(name, column.name, severity, why, place)
        if isinstance(rule, RowRule):
            return self._marked(check, column, name, severity, place, rule.bad, rule.reason, whole=True)
        return replace(rule, name=name, place=place)

    def _marked(
        self,
        check: QualityCheck,
        column: _Column,
        name: str,
        severity: Severity,
        place: str,
        bad: str,
        words: str,
        *,
        whole: bool = False,
    ) -> Rule:
        """A rule about rows that `bad` marks: about each of them where none may be, or about their number."""
        if none_allowed(check):
            return RowRule(
                name, column.name, severity, bad, words if whole else f"{column.name} {words}", place
            )
        return self._measured(check, column, name, severity, place, f"count_if({bad})", str(check.metric))

    def _measured(
        self,
        check: QualityCheck,
        column: _Column | None,
        name: str,
        severity: Severity,
        place: str,
        measure: str,
        what: str,
    ) -> TableRule:
        unit = unit_of(check)
        if unit == "percent":
            measure = f"coalesce(100.0 * ({measure}) / nullif(count(*), 0), 0)"
        operator, bound = demand(check)
        words = f"{column.name + ' ' if column else ''}{what} {in_words(check)}"
        query = f"SELECT {measure} FROM {self.relation} AS {ROW}"
        return TableRule(name, _called(column), severity, query, operator, bound, unit, words, place)

    def _duplicates(
        self, check: QualityCheck, columns: Sequence[str], name: str, severity: Severity, place: str
    ) -> TableRule:
        named = [f"{ROW}.{quote_identifier(c)}" for c in columns]
        given = " AND ".join(f"{c} IS NOT NULL" for c in named)
        grouped = (
            f"SELECT count(*) AS n FROM {self.relation} AS {ROW} WHERE {given} GROUP BY {', '.join(named)}"
        )
        measure = "coalesce(sum(n - 1), 0)::BIGINT"
        unit = unit_of(check)
        if unit == "percent":
            measure = "coalesce(100.0 * sum(n - 1) / sum(n), 0)"
        operator, bound = demand(check)
        words = f"duplicates of {', '.join(columns)} {in_words(check)}"
        query = f"SELECT {measure} FROM ({grouped})"
        unique = tuple(columns) if none_allowed(check) else ()
        return TableRule(
            name, columns[0], severity, query, operator, bound, unit, words, place, unique=unique
        )

    def _unique(self, columns: Sequence[str], kind: str, place: str) -> TableRule:
        check = QualityCheck.model_validate({"metric": "duplicateValues", "mustBe": 0})
        rule = self._duplicates(check, columns, f"{','.join(columns)}.{kind}", "error", place)
        return replace(rule, reason=f"{', '.join(columns)} must be unique")

    def _row(
        self,
        column: _Column,
        kind: str,
        bad: str,
        words: str,
        place: str,
        severity: Severity = "error",
    ) -> RowRule:
        return RowRule(f"{column.name}.{kind}", column.name, severity, bad, f"{column.name} {words}", place)

    def _not_run(self, column: _Column, kind: str, why: str, severity: Severity = "error") -> NotRun:
        return NotRun(f"{column.name}.{kind}", column.name, severity, why, column.place)


def _severity(check: QualityCheck) -> Severity:
    said = (check.severity or "").strip().casefold()
    if said in ("warning", "warn"):
        return "warning"
    return "info" if said == "info" else "error"


def _name(check: QualityCheck, column: _Column | None) -> str:
    if check.name:
        return check.name
    kind = check.metric or _deprecated(check) or check.kind
    return f"{column.name}.{kind}" if column else kind


def _called(column: _Column | None) -> str | None:
    return column.name if column else None


def _deprecated(check: QualityCheck) -> str | None:
    """What the key `rule` says, without pydantic's warning."""
    said: str | None = vars(check)["rule"]
    return said


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _unlisted(column: _Column, values: Sequence[Any]) -> str:
    """A predicate for values that are none of `values`; NULL is the business of `required`."""
    return f"{column.sql} IS NOT NULL AND NOT {_in(column.sql, [v for v in values if v is not None])}"


def _in(sql: str, values: Sequence[Any]) -> str:
    """A predicate, never NULL, for a column of any type that holds one of `values`."""
    texts = [quote_literal(str(v).lower() if isinstance(v, bool) else str(v)) for v in values]
    numbers = [
        repr(v)
        for v in values
        if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < EXACT_IN_DOUBLE
    ]
    tests = [f"{sql}::VARCHAR IN ({', '.join(texts)})"] if texts else []
    tests += [f"TRY_CAST({sql} AS DOUBLE) IN ({', '.join(numbers)})"] if numbers else []
    return f"coalesce({' OR '.join(tests) or 'false'}, false)"
