"""What a rule of a contract is, once it is SQL: about each row, about the table, or not to be run."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

from meshql.catalog.contract import OPERATORS, QualityCheck

__all__ = [
    "ROW",
    "NotRun",
    "RowRule",
    "Rule",
    "Rules",
    "Severity",
    "TableRule",
    "Unit",
    "demand",
    "in_words",
    "none_allowed",
    "unit_of",
]

Severity = Literal["info", "warning", "error"]

Unit = Literal["rows", "percent"]

ROW = "_row"
"""What predicates of row rules call the row: evaluate them over `relation AS _row`."""

ORDERED = {
    "mustBeGreaterThan": operator.gt,
    "mustBeGreaterOrEqualTo": operator.ge,
    "mustBeLessThan": operator.lt,
    "mustBeLessOrEqualTo": operator.le,
}

COMPARISONS = {
    "mustBe": "must be {}",
    "mustNotBe": "must not be {}",
    "mustBeGreaterThan": "must be greater than {}",
    "mustBeGreaterOrEqualTo": "must be at least {}",
    "mustBeLessThan": "must be less than {}",
    "mustBeLessOrEqualTo": "must be at most {}",
    "mustBeBetween": "must be between {}",
    "mustNotBeBetween": "must not be between {}",
}


@dataclass(frozen=True, slots=True)
class RowRule:
    """A rule that a row keeps or breaks by itself.

    `bad` is true for a row that breaks it, over a relation that is called ROW; `products` are those that it
    reads besides. `name` is the same in every run and unique in its product; `place` is where the contract
    says it.
    """

    name: str
    column: str | None
    severity: Severity
    bad: str
    reason: str
    place: str
    products: tuple[str, ...] = ()

    def query(self, relation: str) -> str:
        """Return the SQL that counts the rows of `relation` that break it."""
        return f"SELECT count(*) FROM {relation} AS {ROW} WHERE {self.bad}"


@dataclass(frozen=True, slots=True)
class TableRule:
    """A rule about a number that SQL makes of the whole table.

    `query` reads the product by its name and gives one value, of which `operator` and `bound` tell whether
    it is right. `unique` are the columns whose values it demands to be unique, where that is all it does.
    """

    name: str
    column: str | None
    severity: Severity
    query: str
    operator: str
    bound: Any
    unit: Unit
    reason: str
    place: str
    products: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Tell whether a value that `query` gave is as it must be; NULL keeps no rule but `mustBe: null`."""
        if value is None:
            return self.operator == "mustBe" and self.bound is None
        if self.bound is None:
            return self.operator == "mustNotBe"
        if self.operator in ("mustBe", "mustNotBe"):
            same = value == self.bound or str(value) == str(self.bound)
            return bool(same) == (self.operator == "mustBe")
        number = float(value)
        if self.operator.endswith("Between"):
            low, high = self.bound
            return bool(low <= number <= high) == (self.operator == "mustBeBetween")
        return bool(ORDERED[self.operator](number, self.bound))


@dataclass(frozen=True, slots=True)
class NotRun:
    """A rule of the contract that SQL cannot decide, and why."""

    name: str
    column: str | None
    severity: Severity
    reason: str
    place: str


Rule = RowRule | TableRule | NotRun


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a product, in the order of its contract."""

    rows: tuple[RowRule, ...] = ()
    table: tuple[TableRule, ...] = ()
    not_run: tuple[NotRun, ...] = ()

    @property
    def products(self) -> frozenset[str]:
        """Names of the other products that the rules read."""
        rules: tuple[RowRule | TableRule, ...] = (*self.rows, *self.table)
        return frozenset(p for rule in rules for p in rule.products)


def demand(check: QualityCheck) -> tuple[str, Any]:
    """Return the operator of a check, and what it compares with."""
    sign = next(o for o in OPERATORS if o in check.model_fields_set)
    return sign, getattr(check, sign)


def in_words(check: QualityCheck) -> str:
    """Return what a check demands of its number: must be at most 5 percent."""
    sign, bound = demand(check)
    said = " and ".join(map(str, bound)) if isinstance(bound, list | tuple) else str(bound)
    return COMPARISONS[sign].format(said) + (" percent" if check.unit == "percent" else "")


def none_allowed(check: QualityCheck) -> bool:
    """Tell whether a check of a count allows for nothing at all."""
    sign, bound = demand(check)
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return False
    if sign == "mustBeLessThan":
        return check.unit != "percent" and 0 < bound <= 1
    return sign in ("mustBe", "mustBeLessOrEqualTo") and bound == 0


def unit_of(check: QualityCheck) -> Unit:
    """Return what a check counts in; rows, unless it says percent."""
    return "percent" if check.unit == "percent" else "rows"
