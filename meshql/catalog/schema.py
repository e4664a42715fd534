"""The JSON schema of a catalog file, from which YAML editors complete and check keys."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from meshql.catalog.connection_checks import SECRET_KEYS
from meshql.catalog.model import CatalogFile
from meshql.catalog.references import ONLY_REFERENCES

__all__ = ["json_schema", "json_schema_text"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FROM_FILE = ("name", "place")


class _Generator(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes up: editors would show them instead of descriptions."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a catalog file, generated from the model."""
    schema = CatalogFile.model_json_schema(by_alias=True, schema_generator=_Generator)
    definitions = schema.pop("$defs")
    for name in ("Place", "Placed"):
        definitions.pop(name)
    for definition in definitions.values():
        _hide_fields(definition)
        _refuse_literal_secrets(definition)
    _let_build_tell(definitions["Product"])
    return {
        "$schema": DIALECT,
        **_plainer(schema),
        "title": "meshql catalog file",
        "$defs": {name: _plainer(definition) for name, definition in definitions.items()},
    }


def json_schema_text() -> str:
    """Return the JSON schema as the text of a file."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _hide_fields(definition: dict[str, Any]) -> None:
    """Take out the fields that come from where a value stands in the file."""
    properties = definition.get("properties", {})
    if "place" in properties:
        for key in ("place", "placed", "beside") if "location" in properties else FROM_FILE:
            properties.pop(key)


def _let_build_tell(product: dict[str, Any]) -> None:
    """A product needs a `format` only where no `build` tells it."""
    product["required"].remove("format")
    product["anyOf"] = [{"required": ["format"]}, {"required": ["build"]}]


def _refuse_literal_secrets(definition: dict[str, Any]) -> None:
    if {"auth", "insecure"} <= definition.get("properties", {}).keys():
        keys = {key: {"pattern": ONLY_REFERENCES} for key in sorted(SECRET_KEYS)}
        definition["if"] = {"properties": {"insecure": {"const": True}}, "required": ["insecure"]}
        definition["else"] = {"properties": {"auth": {"properties": keys}}}


def _plainer(node: Any) -> Any:
    """Say the same in the shorter words that editors understand best."""
    if isinstance(node, list):
        return [_plainer(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    node = {key: _plainer(inner) for key, inner in node.items() if key != "discriminator"}
    if "default" in node and node["default"] in (None, [], {}):
        node.pop("default")
    if "patternProperties" in node:
        ((pattern, value),) = node.pop("patternProperties").items()
        node |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    return _nullable(node)


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    """Turn a choice between one type and null into a type that may be null."""
    choices = node.get("anyOf", [])
    if len(choices) != 2 or choices[1] != {"type": "null"} or not isinstance(choices[0].get("type"), str):
        return node
    first, rest = choices[0], {key: value for key, value in node.items() if key != "anyOf"}
    both = {**first, **rest, "type": [first["type"], "null"]}
    return both | ({"enum": [*first["enum"], None]} if "enum" in first else {})
