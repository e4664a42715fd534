from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from meshql.catalog.load import check
from meshql.catalog.schema import json_schema, json_schema_text

CATALOGS = Path(__file__).parent.parent / "catalogs"
FILES = sorted(CATALOGS.rglob("*.yaml"))
VALIDATOR = Draft202012Validator(json_schema())


class Yaml12(yaml.SafeLoader):
    """Reads dates as text, as editors do."""


Yaml12.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if not resolver[0].endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def wrong_paths(text: str) -> list[str]:
    return sorted(error.json_path for error in VALIDATOR.iter_errors(yaml.load(text, Yaml12)))


def catalog(connection: str = "{cloud: local}", product: str = "") -> str:
    fields = f"name: sales.orders, connection: c, location: /data/orders, format: delta, {product}"
    return f"meshql: 1\nconnections:\n  c: {connection}\nproducts:\n  - {{{fields}}}\n"


def test_schema_is_itself_valid_and_of_the_dialect_it_says() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


def test_checked_in_schema_is_the_generated_one() -> None:
    assert (CATALOGS / "meshql.schema.json").read_text(encoding="utf-8") == json_schema_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CATALOGS).as_posix())
def test_example_catalogs_fit_the_schema_and_name_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert wrong_paths(text) == []
    comment, _, target = text.splitlines()[0].partition("$schema=")
    assert comment == "# yaml-language-server: "
    assert (path.parent / target).resolve() == (CATALOGS / "meshql.schema.json").resolve()


def test_every_object_refuses_unknown_keys() -> None:
    open_ones = [
        name
        for name, definition in json_schema()["$defs"].items()
        if definition["type"] == "object" and definition["additionalProperties"] is not False
    ]
    assert open_ones == []


def test_clouds_and_methods_are_told_apart_by_constants() -> None:
    definitions = json_schema()["$defs"]
    choices = json_schema()["properties"]["connections"]["additionalProperties"]["oneOf"]
    names = [choice["$ref"].rpartition("/")[2] for choice in choices]
    assert [definitions[name]["properties"]["cloud"]["const"] for name in names] == [
        "s3",
        "gcs",
        "azure",
        "local",
        "http",
        "postgres",
        "iceberg_rest",
        "unity",
    ]
    methods = [
        definitions[choice["$ref"].rpartition("/")[2]]["properties"]["method"]["const"]
        for choice in definitions["S3Connection"]["properties"]["auth"]["oneOf"]
    ]
    assert methods == [
        "keys",
        "env",
        "default",
        "profile",
        "process",
        "instance_role",
        "container_role",
        "web_identity",
        "assume_role",
        "anonymous",
    ]


def test_keys_that_the_file_cannot_set_are_not_offered() -> None:
    definitions = json_schema()["$defs"]
    assert "place" not in definitions["Product"]["properties"]
    assert not {"name", "place"} & definitions["S3Connection"]["properties"].keys()
    assert "Place" not in definitions


def test_important_keys_are_described() -> None:
    properties = json_schema()["$defs"]["Product"]["properties"]
    assert properties["name"]["description"] == "domain.product: what SQL says"
    assert all(properties[key].get("description") for key in ("connection", "location", "options", "quality"))


KEYS = "{cloud: s3, auth: {method: keys, key_id: '%s', secret: '${B}'}%s}"

AGREED: list[tuple[str, str, bool]] = [
    ("plain", catalog(), True),
    ("unknown top key", catalog() + "conections: {}\n", False),
    ("unknown product key", catalog(product="formt: x"), False),
    ("no version", "products: []\n", False),
    ("version 2", "meshql: 2\n", False),
    ("nothing below connections", "meshql: 1\nconnections:\nproducts:\n", True),
    ("unknown format", catalog(product="tags: []").replace("delta", "detla"), False),
    ("reference as format", catalog().replace("delta", "'${F:-delta}'"), False),
    ("reference as location", catalog().replace("/data/orders", "'${D:-/data}/orders'"), True),
    ("reference as name", catalog().replace("sales.orders", "'${D:-sales}.orders'"), False),
    ("reference as truth value", catalog("{cloud: local, insecure: '${I:-true}'}"), False),
    ("name without domain", catalog().replace("sales.orders", "orders"), False),
    (
        "connection name with a blank",
        catalog().replace("  c:", "  c d:").replace("connection: c,", ""),
        False,
    ),
    ("unknown cloud", catalog("{cloud: s4}"), False),
    ("auth of another cloud", catalog("{cloud: gcs, auth: {method: env}}"), False),
    ("key of another cloud", catalog("{cloud: local, account: a}"), False),
    ("keys by reference", catalog(KEYS % ("${A}", "")).replace("/data", "s3://b"), True),
    ("literal key", catalog(KEYS % ("abc", "")).replace("/data", "s3://b"), False),
    ("default as key", catalog(KEYS % ("${A:-abc}", "")).replace("/data", "s3://b"), False),
    ("literal key, insecure", catalog(KEYS % ("abc", ", insecure: true")).replace("/data", "s3://b"), True),
    ("text for a list", catalog(product="tags: a"), False),
    ("number for text", catalog(product="version: 1.10"), False),
    ("text for a mapping", catalog(product="description: hello"), False),
    ("unknown sla key", catalog(product="slaProperties: [{property: a, valeu: 1}]"), False),
    ("sla", catalog(product="slaProperties: [{property: a, value: 1, unit: h}]"), True),
    (
        "unknown logical type",
        catalog(product="schema: [{name: o, properties: [{name: a, logicalType: x}]}]"),
        False,
    ),
    (
        "text for a truth value",
        catalog(product="schema: [{name: o, properties: [{name: a, unique: 'yes'}]}]"),
        False,
    ),
    ("own property", catalog(product="customProperties: [{property: a, value: {b: [1]}}]"), True),
]


@pytest.mark.parametrize(("text", "good"), [case[1:] for case in AGREED], ids=[case[0] for case in AGREED])
def test_schema_and_load_agree(text: str, good: bool, tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text, encoding="utf-8")
    errors = [mistake for mistake in check(path, environ={"A": "a", "B": "b"}) if mistake.severity == "error"]
    assert (wrong_paths(text) == []) is good
    assert (errors == []) is good


def test_schema_names_the_place_of_a_mistake() -> None:
    assert wrong_paths(catalog(product="tags: a")) == ["$.products[0].tags"]


def test_generating_it_imports_no_engine() -> None:
    code = (
        "import sys, meshql.catalog.load, meshql.catalog.locate, meshql.catalog.schema;"
        "print([m for m in ('duckdb', 'pyarrow', 'obstore', 'click', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_text_is_json_that_ends_in_a_newline() -> None:
    parsed: dict[str, Any] = json.loads(json_schema_text())
    assert parsed == json_schema()
    assert json_schema_text().endswith("}\n")
