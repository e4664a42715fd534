"""What a contract promises, checked on a product as it is now: its rules, and how fresh it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from meshql.build.freshness import Freshness, last_change, promises
from meshql.build.rule import ROW, RowRule, Rules, Severity, TableRule
from meshql.build.rules import rules_of
from meshql.catalog.model import Product
from meshql.errors import LocationError, MeshError, QueryError, StorageError, UnknownProductError, UsageError
from meshql.formats.snapshot import Ask
from meshql.mesh import Mesh
from meshql.sql import quote_identifier, quote_name

__all__ = ["CheckResult", "State", "check", "checked_products", "run"]

State = Literal["passed", "failed", "warning", "error", "skipped"]
"""A broken rule has failed, or is a warning where its severity is less than error; one that could not be
asked about is an error."""

AT_ONCE = 4
"""Products that are checked at the same time."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one rule, or one promise of freshness, of a product.

    `measured` and `demanded` are words; `value` is what was measured as a number, of freshness the age in
    seconds. `rows_failed` is None where no rows are to blame, `rows` is how many the table had. `message`
    says why a check is an error or was skipped. `examples` are rows that break the rule. `seconds` is this
    check's share of the time that was spent on its product.
    """

    product: str
    check: str
    state: State
    severity: Severity = "error"
    measured: str | None = None
    demanded: str | None = None
    value: float | int | str | None = None
    rows_failed: int | None = None
    rows: int | None = None
    seconds: float = 0.0
    message: str | None = None
    hint: str | None = None
    examples: tuple[dict[str, Any], ...] = ()
    error: MeshError | None = None

    @property
    def words(self) -> str:
        """What was found, in one line."""
        if self.message:
            return self.message
        return f"{self.demanded}: {self.measured}" if self.measured else str(self.demanded)


# --- several products -----------------------------------------------------------------------------


def check(
    mesh: Mesh,
    names: str | Sequence[str] = (),
    *,
    examples: int = 0,
    now: datetime | None = None,
    done: Callable[[str, Sequence[CheckResult]], object] = lambda name, results: None,
) -> list[CheckResult]:
    """Run what the contracts of products promise, several products at once, and return what became of it.

    `names` are products or globs; none means every declared product that promises something. A product that
    cannot be read is one result of state error, and the others go on. `examples` is how many rows to give
    for each broken rule, `now` what freshness is measured against; `done` is told of each product as it is
    done. Raises UnknownProductError for a name that is none.
    """
    products = checked_products(mesh, names)
    moment = now or datetime.now(UTC)

    def one(product: Product) -> list[CheckResult]:
        results = _checked(mesh, product, examples, moment)
        done(product.name, results)
        return results

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="meshql-check") as pool:
        return [result for results in pool.map(one, products) for result in results]


def checked_products(mesh: Mesh, names: str | Sequence[str] = ()) -> list[Product]:
    """Return the products that `names` stand for, in order; raises UnknownProductError for a wrong one."""
    named = [names] if isinstance(names, str) else names
    if not named:
        declared = mesh.catalog.products.values()
        return sorted((p for p in declared if _promises(p, mesh)), key=lambda p: p.name)
    found = dict[str, Product]()
    for name in named:
        if any(c in name for c in "*?["):
            matching = mesh.products(name)
            if not matching:
                raise UnknownProductError.from_names(name, mesh.catalog.products)
            found |= {p.name: p for p in matching}
        else:
            product = mesh.find(name)
            found[product.name] = product
    return [found[name] for name in sorted(found)]


def _promises(product: Product, mesh: Mesh) -> bool:
    rules = rules_of(product, mesh.catalog)
    return bool(rules.rows or rules.table or rules.not_run) or any(promises(product))


def _checked(mesh: Mesh, product: Product, examples: int, now: datetime) -> list[CheckResult]:
    """The results of one product, from one version of it; a store that fails is asked twice."""
    started = time.perf_counter()
    rules = rules_of(product, mesh.catalog)
    fresh = list(promises(product))
    if not (rules.rows or rules.table or rules.not_run or fresh):
        why = "the contract has neither rules nor a promise of freshness"
        return [CheckResult(product.name, "contract", "skipped", message=why)]
    try:
        try:
            results = _read_and_run(mesh, product, rules, fresh, examples, now)
        except LocationError:
            raise
        except StorageError:
            results = _read_and_run(mesh, product, rules, fresh, examples, now)
    except MeshError as error:
        results = [_unread(product.name, "read", error)]
    share = (time.perf_counter() - started) / len(results)
    return [replace(result, seconds=share) for result in results]


def _read_and_run(
    mesh: Mesh,
    product: Product,
    rules: Rules,
    fresh: Sequence[Freshness | tuple[str, UsageError]],
    examples: int,
    now: datetime,
) -> list[CheckResult]:
    others, unread = _others(mesh, rules)
    asked: tuple[RowRule | TableRule, ...] = (*rules.rows, *rules.table)
    lost = [(rule, name) for rule in asked if (name := next((n for n in rule.products if n in unread), None))]
    gone = {rule.name for rule, _ in lost}
    readable = Rules(
        tuple(r for r in rules.rows if r.name not in gone),
        tuple(r for r in rules.table if r.name not in gone),
        rules.not_run,
    )
    with mesh.reading([product, *others]) as reading:
        changed = lambda: last_change(mesh, reading.snapshots[product.name])  # noqa: E731
        found = run(readable, reading.ask, product, fresh=fresh, changed=changed, examples=examples, now=now)
    return found + [_unread(product.name, rule.name, unread[name], rule.severity) for rule, name in lost]


def _others(mesh: Mesh, rules: Rules) -> tuple[list[Product], dict[str, MeshError]]:
    """The other products that rules read, and the errors of those that cannot be had."""
    others, unread = [], dict[str, MeshError]()
    for name in sorted(rules.products):
        try:
            other = mesh.find(name)
            if mesh.snapshot(other) is None:
                raise LocationError(f"{name}: there is nothing at its location")
            others.append(other)
        except MeshError as error:
            unread[name] = error
    return others, unread


# --- one product ----------------------------------------------------------------------------------


def run(
    rules: Rules,
    ask: Ask,
    product: Product,
    *,
    fresh: Sequence[Freshness | tuple[str, UsageError]] = (),
    changed: Callable[[], datetime] | None = None,
    examples: int = 0,
    now: datetime | None = None,
) -> list[CheckResult]:
    """Run rules on the relation that `product` is called by, and return a result for each, in their order.

    `ask` runs SQL; all rules about rows, and all of freshness, are one scan. A rule that DuckDB refuses is a
    result of state error; what a store says is raised. `changed` tells when the table last changed.
    """
    core = _Run(rules, ask, product, fresh, changed, examples, now or datetime.now(UTC))
    return [*core.of_rows(), *core.of_table(), *core.of_freshness(), *core.not_run()]


class _Run:
    """The checks of one product."""

    def __init__(
        self,
        rules: Rules,
        ask: Ask,
        product: Product,
        fresh: Sequence[Freshness | tuple[str, UsageError]],
        changed: Callable[[], datetime] | None,
        examples: int,
        now: datetime,
    ) -> None:
        self.rules = rules
        self.ask = ask
        self.name = product.name
        self.relation = quote_name(product.domain, product.table)
        self.fresh = fresh
        self.changed = changed
        self.examples = examples
        self.now = now
        self.columns = [str(row[0]) for row in ask(f"DESCRIBE {self.relation}")]
        self.rows = 0
        self.values: dict[str, Any] = {}
        """What each aggregate gave: a number, or the error that DuckDB refused it with."""

    def of_rows(self) -> Iterator[CheckResult]:
        """Measure all that one scan tells, and yield the results of rules about rows."""
        self._measure()
        for rule in self.rules.rows:
            yield self._row_result(rule)

    def _measure(self) -> None:
        wanted = [f"count_if({rule.bad})" for rule in self.rules.rows if not self._lacks(rule)]
        for promise in self.fresh:
            if isinstance(promise, Freshness) and promise.column:
                try:
                    wanted.append(promise.expression(self.columns, self._type))
                except (UsageError, QueryError) as error:
                    self.values[promise.name] = error
        if not wanted:
            return
        try:
            self._scan(wanted)
        except QueryError:
            # One of them is wrong, and DuckDB does not say which.
            for aggregate in wanted:
                try:
                    self._scan([aggregate])
                except QueryError as error:
                    self.values[aggregate] = error

    def _scan(self, aggregates: Sequence[str]) -> None:
        row = self.ask(f"SELECT count(*), {', '.join(aggregates)} FROM {self.relation} AS {ROW}")[0]
        self.rows = int(row[0])
        self.values |= dict(zip(aggregates, row[1:], strict=True))

    def _type(self, sql: str) -> str:
        return str(self.ask(f"DESCRIBE SELECT {sql} FROM {self.relation} AS {ROW}")[0][1])

    def _lacks(self, rule: RowRule | TableRule) -> str | None:
        """The column that a rule is about and that the table does not have."""
        known = {c.casefold() for c in self.columns}
        unique = rule.unique if isinstance(rule, TableRule) else ()
        for column in unique or (rule.column,):
            if column and not known & {column.casefold(), column.partition(".")[0].casefold()}:
                return column
        return None

    def _row_result(self, rule: RowRule) -> CheckResult:
        if result := self._unfit(rule):
            return result
        failed = self.values[f"count_if({rule.bad})"]
        if isinstance(failed, MeshError):
            return self._refused(rule, failed)
        where = f"SELECT to_json({ROW}) FROM {self.relation} AS {ROW} WHERE {rule.bad}"
        return CheckResult(
            self.name,
            rule.name,
            _state(rule, kept=not failed),
            rule.severity,
            measured=f"{failed:,} of {self.rows:,} rows" if failed else f"{self.rows:,} rows",
            demanded=rule.reason,
            value=failed,
            rows_failed=failed,
            rows=self.rows,
            examples=self._examples(where) if failed else (),
        )

    def of_table(self) -> Iterator[CheckResult]:
        """Yield the results of rules about the table, each a query of its own."""
        for rule in self.rules.table:
            yield self._table_result(rule)

    def _table_result(self, rule: TableRule) -> CheckResult:
        if result := self._unfit(rule):
            return result
        try:
            rows = self.ask(rule.query)
        except QueryError as error:
            return self._refused(rule, error)
        if len(rows) != 1 or len(rows[0]) != 1:
            wrong = f"the query gave {len(rows):,} rows, and one value is needed"
            return self._refused(rule, QueryError(wrong))
        value = rows[0][0]
        kept = rule.holds(value)
        return CheckResult(
            self.name,
            rule.name,
            _state(rule, kept=kept),
            rule.severity,
            measured=_shown(value, rule.unit),
            demanded=rule.reason,
            value=_plain(value),
            rows_failed=int(value) if rule.unique and isinstance(value, int) else None,
            examples=() if kept or not rule.unique else self._examples(self._doubles(rule.unique)),
        )

    def _doubles(self, columns: Sequence[str]) -> str:
        names = ", ".join(map(quote_identifier, columns))
        return (
            f"SELECT to_json(d) FROM (SELECT {names}, count(*) AS times FROM {self.relation} "
            f"GROUP BY {names} HAVING count(*) > 1 AND count(({names})) > 0) AS d"
        )

    def of_freshness(self) -> Iterator[CheckResult]:
        """Yield the results of promises of freshness."""
        for promise in self.fresh:
            if isinstance(promise, tuple):
                yield _unread(self.name, promise[0], promise[1])
                continue
            try:
                newest = self._newest(promise)
            except (UsageError, QueryError) as error:
                yield _unread(self.name, promise.name, error)
                continue
            yield CheckResult(
                self.name,
                promise.name,
                "passed" if promise.kept(newest, self.now) else "failed",
                measured=promise.measured(newest, self.now),
                demanded=promise.demanded,
                value=None if newest is None else round((self.now - newest).total_seconds(), 3),
            )

    def _newest(self, promise: Freshness) -> datetime | None:
        if promise.column is None:
            if self.changed is None:
                raise UsageError(f"{self.name}: nothing tells when it last changed")
            return self.changed()
        found = self.values.get(promise.name)
        if found is None:
            found = self.values[promise.expression(self.columns, self._type)]
        if isinstance(found, MeshError):
            raise found
        try:
            return None if found is None else EPOCH + timedelta(microseconds=found)
        except OverflowError:
            raise UsageError(f"{promise.name}: the newest value is no moment of any calendar") from None

    def not_run(self) -> Iterator[CheckResult]:
        """Yield a result for each rule that SQL cannot decide."""
        for rule in self.rules.not_run:
            yield CheckResult(self.name, rule.name, "skipped", rule.severity, message=rule.reason)

    def _unfit(self, rule: RowRule | TableRule) -> CheckResult | None:
        column = self._lacks(rule)
        if column is None:
            return None
        return CheckResult(
            self.name,
            rule.name,
            _state(rule, kept=False),
            rule.severity,
            measured=f"the table has no column {column}",
            demanded=rule.reason,
        )

    def _refused(self, rule: RowRule | TableRule, error: MeshError) -> CheckResult:
        return replace(_unread(self.name, rule.name, error, rule.severity), demanded=rule.reason)

    def _examples(self, sql: str) -> tuple[dict[str, Any], ...]:
        if not self.examples:
            return ()
        return tuple(json.loads(row[0]) for row in self.ask(f"{sql} LIMIT {self.examples}"))


def _state(rule: RowRule | TableRule, *, kept: bool) -> State:
    if kept:
        return "passed"
    return "failed" if rule.severity == "error" else "warning"


def _unread(product: str, name: str, error: MeshError, severity: Severity = "error") -> CheckResult:
    return CheckResult(product, name, "error", severity, message=error.message, hint=error.hint, error=error)


def _shown(value: Any, unit: str) -> str:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return f"{value:,.3f}".rstrip("0").rstrip(".") + " percent" if unit == "percent" else f"{value:,}"
    return "nothing" if value is None else str(value)


def _plain(value: Any) -> float | int | str | None:
    """A value that JSON has; moments become text."""
    if isinstance(value, Decimal):
        return float(value)
    return value if value is None or isinstance(value, int | float | str) else str(value)
