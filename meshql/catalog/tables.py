"""A data contract's tables and columns, as ODCS 3.2 spells and types them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from meshql.catalog.base import AnyValue, Flag, Model, Number, Scalar, Whole
from meshql.catalog.contract import AuthoritativeDefinition, CustomProperty, Described, QualityCheck, StableId

__all__ = [
    "Context",
    "Element",
    "EnumValue",
    "Item",
    "LogicalType",
    "LogicalTypeOptions",
    "MapTypes",
    "Relationship",
    "Synonym",
    "Table",
    "TableRelationship",
]

LogicalType = Literal[
    "string", "date", "timestamp", "time", "number", "integer", "object", "array", "boolean", "map"
]


class EnumValue(Described):
    """A value that a column may hold."""

    value: Scalar
    label: str | None = None


class Synonym(Model):
    """Another name for the same thing."""

    id: StableId | None = None
    synonym: str
    description: str | None = None
    locale: str | None = None
    source: str | None = None
    status: str | None = None
    customProperties: tuple[CustomProperty, ...] = ()


# No key of a file can be one of these: pydantic puts them into the location of an error.
ONE, SEVERAL = "\0one", "\0several"


def _form(value: Any) -> str:
    return ONE if isinstance(value, str) else SEVERAL


Reference = Annotated[
    Annotated[str, Tag(ONE)] | Annotated[tuple[str, ...], Tag(SEVERAL)], Discriminator(_form)
]


class Relationship(Model):
    """What a column points to: a foreign key."""

    type: Literal["foreignKey"] = "foreignKey"
    to: Reference = Field(description="table.column, or a list of them")
    customProperties: tuple[CustomProperty, ...] = ()


class TableRelationship(Relationship):
    """What columns of a table point to: a foreign key of one or more columns."""

    model_config = ConfigDict(populate_by_name=False)

    from_: Reference = Field(alias="from", description="table.column, or a list of them")

    @model_validator(mode="after")
    def _paired(self) -> TableRelationship:
        ends = [1 if isinstance(end, str) else len(end) for end in (self.from_, self.to)]
        if ends[0] != ends[1] or isinstance(self.from_, str) != isinstance(self.to, str):
            raise PydanticCustomError("rule", "expected as many columns in `from` as in `to`")
        return self


class LogicalTypeOptions(Model):
    """What more is known of a logical type; which keys apply depends on the type."""

    minLength: Annotated[Whole, Field(ge=0)] | None = None
    maxLength: Annotated[Whole, Field(ge=0)] | None = None
    pattern: str | None = None
    format: str | None = None
    minimum: Scalar = None
    maximum: Scalar = None
    exclusiveMinimum: Scalar = None
    exclusiveMaximum: Scalar = None
    multipleOf: Number | None = None
    timezone: Flag | None = None
    defaultTimezone: str | None = None
    minProperties: Annotated[Whole, Field(ge=0)] | None = None
    maxProperties: Annotated[Whole, Field(ge=0)] | None = None
    required: tuple[str, ...] | None = None
    minItems: Annotated[Whole, Field(ge=0)] | None = None
    maxItems: Annotated[Whole, Field(ge=0)] | None = None
    uniqueItems: Flag | None = None


_BOUNDS = ("format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "date": _BOUNDS,
    "timestamp": (*_BOUNDS, "timezone", "defaultTimezone"),
    "time": (*_BOUNDS, "timezone", "defaultTimezone"),
    "integer": (*_BOUNDS, "multipleOf"),
    "number": (*_BOUNDS, "multipleOf"),
    "object": ("minProperties", "maxProperties", "required"),
    "array": ("minItems", "maxItems", "uniqueItems"),
}


class SchemaElement(Described):
    """What tables and columns have in common."""

    name: str | None = None
    physicalName: str | None = None
    physicalType: str | None = Field(
        default=None, description="The store's own type: table, VARCHAR(2), DOUBLE ..."
    )
    businessName: str | None = None
    synonyms: tuple[Synonym, ...] = ()
    quality: tuple[QualityCheck, ...] = ()


class Item(SchemaElement):
    """A schema property that needs no name: an array's items, a map's keys or values."""

    logicalType: LogicalType | None = Field(default=None, description="The type, whatever the store")
    logicalTypeOptions: LogicalTypeOptions | None = None
    required: Flag = Field(default=False, description="Whether it is never null")
    unique: Flag = False
    primaryKey: Flag = False
    primaryKeyPosition: Whole | None = Field(
        default=None, description="Its position in the primary key, from 1"
    )
    partitioned: Flag = False
    partitionKeyPosition: Whole | None = Field(
        default=None, description="Its position in the partition key, from 1"
    )
    semanticType: Literal["column", "measure", "dimension"] = "column"
    classification: str | None = Field(default=None, description="public, restricted, confidential ...")
    criticalDataElement: Flag = False
    encryptedName: str | None = None
    transformSourceObjects: tuple[str, ...] = ()
    transformLogic: str | None = None
    transformDescription: str | None = None
    examples: tuple[AnyValue, ...] = ()
    enum: tuple[EnumValue, ...] = ()
    relationships: tuple[Relationship, ...] = ()
    properties: tuple[Element, ...] = Field(default=(), description="The fields of an object")
    items: Item | None = Field(default=None, description="The items of an array")
    map: MapTypes | None = Field(default=None, description="The keys and values of a map")

    @field_validator("logicalTypeOptions")
    @classmethod
    def _options_apply(
        cls, value: LogicalTypeOptions | None, info: ValidationInfo
    ) -> LogicalTypeOptions | None:
        kind = info.data.get("logicalType")
        known = _OPTIONS_OF.get(str(kind), ())
        alien = sorted(value.model_fields_set.difference(known)) if value and kind else []
        if alien:
            raise PydanticCustomError("rule", f"logicalType {kind} has no option `{alien[0]}`")
        return value

    @field_validator("properties", "items", "map")
    @classmethod
    def _nesting_applies(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = {"properties": "object", "items": "array", "map": "map"}[str(info.field_name)]
        kind = info.data.get("logicalType", wanted)
        if value and kind not in (None, wanted):
            raise PydanticCustomError("rule", f"`{info.field_name}` is for logicalType {wanted}, not {kind}")
        return value


class Element(Item):
    """ODCS schema property: a column, or a field inside one."""

    name: str = Field(description="Name of the column")


class MapTypes(Model):
    """What a map's keys and values are."""

    key: Item
    value: Item


class Question(Model):
    """A question worth asking, with its answer when it is verified."""

    id: str | None = None
    question: str
    answer: str | None = None
    authoritativeDefinitions: tuple[AuthoritativeDefinition, ...] = ()
    tags: tuple[str, ...] = ()
    customProperties: tuple[CustomProperty, ...] = ()


class Constraint(Model):
    """What must not be done with the rows."""

    id: str | None = None
    constraint: str
    authoritativeDefinitions: tuple[AuthoritativeDefinition, ...] = ()
    tags: tuple[str, ...] = ()
    customProperties: tuple[CustomProperty, ...] = ()


class Context(Model):
    """Guidance for programs that write queries."""

    instructions: str | None = None
    verifiedStatements: tuple[Question, ...] = ()
    constraints: tuple[Constraint, ...] = ()


GuidanceOrText = Annotated[Annotated[str, Tag(ONE)] | Annotated[Context, Tag(SEVERAL)], Discriminator(_form)]


class Table(SchemaElement):
    """ODCS schema object: the table that a product is."""

    name: str = Field(description="Name of the table")
    logicalType: Literal["object"] | None = None
    dataGranularityDescription: str | None = Field(default=None, description="What one row is")
    properties: tuple[Element, ...] = Field(default=(), description="The columns")
    relationships: tuple[TableRelationship, ...] = ()
    context: GuidanceOrText | None = None


Item.model_rebuild()
Element.model_rebuild()
