"""A data contract's description, team, service levels and quality, as ODCS 3.2 spells and types them."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from meshql.catalog.base import AnyValue, Model, Number, Scalar

__all__ = [
    "AuthoritativeDefinition",
    "CustomProperty",
    "Described",
    "Description",
    "QualityCheck",
    "SlaProperty",
    "StableId",
    "Team",
    "TeamMember",
]

StableId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", description="Stable id, for references")]


def _iso_date(value: str) -> str:
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("rule", "expected a date such as 2026-01-31") from None
    return value


IsoDate = Annotated[str, AfterValidator(_iso_date), Field(json_schema_extra={"format": "date"})]

# --- what any block may carry ---------------------------------------------------------------------


class CustomProperty(Model):
    """A property of one's own: a key and a value of any kind."""

    id: StableId | None = None
    property: str = Field(description="Name of the property, in camel case")
    value: AnyValue = Field(description="Its value, of any kind")
    description: str | None = None


class AuthoritativeDefinition(Model):
    """A link to where more is told."""

    id: StableId | None = None
    url: str = Field(description="URL of the authority")
    type: str = Field(
        description="businessDefinition, transformationImplementation, videoTutorial, tutorial ..."
    )
    description: str | None = None


class Described(Model):
    """What most blocks may carry."""

    id: StableId | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    customProperties: tuple[CustomProperty, ...] = ()
    authoritativeDefinitions: tuple[AuthoritativeDefinition, ...] = ()


class Description(Model):
    """What the rows are, what they are for, and what they are not for."""

    purpose: str | None = Field(default=None, description="Why this product exists")
    usage: str | None = Field(default=None, description="What it is meant to be used for")
    limitations: str | None = Field(
        default=None, description="What it must not be used for, or does not hold"
    )
    authoritativeDefinitions: tuple[AuthoritativeDefinition, ...] = ()
    customProperties: tuple[CustomProperty, ...] = ()


class TeamMember(Described):
    """Somebody of the team."""

    username: str = Field(description="User name or e-mail address")
    name: str | None = None
    role: str | None = Field(default=None, description="owner, data steward ...")
    dateIn: IsoDate | None = None
    dateOut: IsoDate | None = None
    replacedByUsername: str | None = None


class Team(Described):
    """Who answers for the product."""

    name: str | None = None
    members: tuple[TeamMember, ...] = ()


class SlaProperty(Model):
    """One promise: latency, retention, frequency, availability ..."""

    id: StableId | None = None
    property: str = Field(description="What is promised: latency, retention, frequency, availability ...")
    value: Scalar = Field(description="How much of it")
    valueExt: Scalar = None
    unit: str | None = Field(default=None, description="d, day, days; h; y, yr, years ...")
    element: str | None = Field(default=None, description="The column it is measured on: orders.ordered_at")
    driver: str | None = Field(default=None, description="regulatory, analytics or operational")
    description: str | None = None
    scheduler: str | None = None
    schedule: str | None = None


# --- quality --------------------------------------------------------------------------------------

OPERATORS = (
    "mustBe",
    "mustNotBe",
    "mustBeGreaterThan",
    "mustBeGreaterOrEqualTo",
    "mustBeLessThan",
    "mustBeLessOrEqualTo",
    "mustBeBetween",
    "mustNotBeBetween",
)

_DEMANDS: dict[str, tuple[str, ...]] = {
    "library": ("metric",),
    "sql": ("query",),
    "custom": ("engine", "implementation"),
    "text": (),
}


def _rising(value: Any) -> Any:
    numbers = (
        isinstance(value, list | tuple) and len(value) == 2 and all(type(n) in (int, float) for n in value)
    )
    if not numbers or value[0] >= value[1]:
        raise PydanticCustomError("rule", "expected two numbers, the smaller one first")
    return value


Range = Annotated[tuple[Number, Number], BeforeValidator(_rising)]


class QualityCheck(Described):
    """One rule that the rows must keep."""

    name: str | None = None
    type: Literal["text", "library", "sql", "custom"] | None = Field(
        default=None, description="library, unless said"
    )
    dimension: (
        Literal[
            "accuracy", "completeness", "conformity", "consistency", "coverage", "timeliness", "uniqueness"
        ]
        | None
    ) = None
    metric: Literal["nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount"] | None = (
        Field(default=None, description="What a library check measures")
    )
    rule: str | None = Field(
        default=None, description="Deprecated by the standard: write metric", deprecated=True
    )
    arguments: dict[str, AnyValue] | None = Field(default=None, description="Arguments of the metric")
    query: str | None = Field(
        default=None, description="SQL of a sql check; ${table} and ${column} stand for its place"
    )
    engine: str | None = Field(
        default=None, description="soda, great-expectations, dbt ...: what runs a custom check"
    )
    implementation: AnyValue = Field(default=None, description="What the engine is given")
    mustBe: AnyValue = None
    mustNotBe: AnyValue = None
    mustBeGreaterThan: Number | None = None
    mustBeGreaterOrEqualTo: Number | None = None
    mustBeLessThan: Number | None = None
    mustBeLessOrEqualTo: Number | None = None
    mustBeBetween: Range | None = None
    mustNotBeBetween: Range | None = None
    severity: str | None = Field(default=None, description="info, warning or error")
    businessImpact: str | None = Field(default=None, description="operational, regulatory ...")
    method: str | None = None
    unit: str | None = Field(default=None, description="rows or percent")
    scheduler: str | None = None
    schedule: str | None = None

    @property
    def kind(self) -> str:
        """The check's type, with the standard's default filled in."""
        return self.type or "library"

    @model_validator(mode="after")
    def _complete(self) -> QualityCheck:
        given = self.model_fields_set
        if self.type is None and not given & {"metric", *OPERATORS}:
            return self
        lacking = [key for key in _DEMANDS[self.kind] if getattr(self, key) is None]
        if lacking:
            raise PydanticCustomError("rule", f"a {self.kind} check needs the key `{lacking[0]}`")
        if self.kind in ("library", "sql") and len(given.intersection(OPERATORS)) != 1:
            raise PydanticCustomError(
                "rule", f"a {self.kind} check needs exactly one of {', '.join(OPERATORS)}"
            )
        return self
