from __future__ import annotations

import gc
import os
import pickle
import time
import traceback
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from meshql.catalog import nodes
from meshql.catalog.connections import GcsConnection, S3Connection
from meshql.catalog.contract import Description, QualityCheck, SlaProperty, Team, TeamMember
from meshql.catalog.load import check, load
from meshql.catalog.locate import find_catalog
from meshql.catalog.mistakes import InvalidCatalogError, Mistake
from meshql.catalog.model import Catalog, Place, Product
from meshql.catalog.references import expand, unset_variables
from meshql.catalog.tables import Element, Item, Table
from meshql.errors import CatalogError, UnknownProductError

RETAIL = Path(__file__).parent.parent / "catalogs" / "retail"

CLOUDS = """\
meshql: 1
connections:
  aws: {cloud: s3, auth: {method: env}}
  gcp: {cloud: gcs, auth: {method: anonymous}}
  az: {cloud: azure, account: a, auth: {method: anonymous}}
  web: {cloud: http}
  disk: {cloud: local}
"""


def product(**changes: str | None) -> str:
    """A catalog with one product, whose name is on line 9 and whose location is on line 11."""
    keys: dict[str, str | None] = {
        "name": "sales.orders",
        "connection": "aws",
        "location": "s3://b/orders/",
        "format": "delta",
    }
    lines = [f"{key}: {value}" for key, value in (keys | changes).items() if value is not None]
    return CLOUDS + "products:\n  - " + "\n    ".join(lines) + "\n"


def connection(text: str) -> str:
    return f"meshql: 1\nconnections:\n  c: {text}\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def said(mistakes: tuple[Mistake, ...], folder: Path) -> list[str]:
    return [str(mistake).replace(f"{folder}{os.sep}", "") for mistake in mistakes]


def mistakes_in(text: str, folder: Path, **environ: str) -> list[str]:
    """The mistakes as line:column key: message | hint."""
    found = check(write(folder, c=text), environ=environ)
    return [
        f"{m.place.line}:{m.place.column} {m.key}: {m.message}" + (f" | {m.hint}" if m.hint else "")
        for m in found
    ]


# --- what loads -----------------------------------------------------------------------------------


def test_retail_catalog_loads_without_any_variable() -> None:
    catalog = load(RETAIL, environ={})
    assert {"sales.orders", "catalog.products", "crm.customers", "web.sessions"} <= catalog.products.keys()
    assert [name for name, conn in catalog.connections.items() if conn.cloud == "s3"] == [
        "aws_prod",
        "aws_partner",
    ]
    assert catalog.domains == frozenset(
        {"sales", "catalog", "crm", "inventory", "marketing", "logistics", "web"}
    )


def test_every_retail_product_is_described_owned_typed_and_promised() -> None:
    for item in load(RETAIL, environ={}).products.values():
        assert item.description is not None
        assert item.description.purpose
        assert item.team is not None
        assert item.team.members[0].role == "owner"
        assert item.table_schema[0].properties
        assert item.slaProperties


def test_contract_blocks_keep_their_values() -> None:
    orders = load(RETAIL, environ={}).product("sales.orders")
    assert orders.description is not None
    assert orders.description.usage == "Revenue, margin and basket analysis; join customers by customer_id"
    assert orders.team is not None
    assert orders.team.members[0].dateIn == "2024-03-01"
    assert [p.name for p in orders.table_schema[0].properties if p.primaryKey] == ["order_id", "line"]
    assert orders.table_schema[0].quality[2].query == "SELECT count(*) FROM ${table} WHERE ordered_at > now()"
    assert (orders.slaProperties[0].value, orders.slaProperties[0].unit) == (4, "h")


def test_files_merge_and_know_their_places(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path, b=product())
    write(tmp_path / "deep" / "er", a="meshql: 1\nproducts:\n- {name: x.y, location: /d, format: csv}\n")
    catalog = load(tmp_path, environ={})
    assert catalog.files == ("b.yaml", "deep/er/a.yaml")
    assert catalog.root == str(tmp_path)
    assert list(catalog.products) == ["sales.orders", "x.y"]
    assert catalog.products["x.y"].place == Place(file=str(tmp_path / "deep/er/a.yaml"), line=3, column=3)
    aws = catalog.connections["aws"]
    assert (aws.name, str(aws.place)) == ("aws", f"{tmp_path / 'b.yaml'}:3:3")


def test_one_file_is_a_catalog_and_yml_counts(tmp_path: Path) -> None:
    (tmp_path / "one.yml").write_text(product(), encoding="utf-8")
    assert load(tmp_path, environ={}).files == ("one.yml",)
    assert load(str(tmp_path / "one.yml"), environ={}).files == ("one.yml",)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git", a="broken: [")
    (tmp_path / ".b.yaml").write_text("broken: [", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("broken: [", encoding="utf-8")
    assert load(write(tmp_path, c=product()), environ={}).files == ("c.yaml",)


def test_links_inside_the_folder_are_read_once(tmp_path: Path) -> None:
    write(tmp_path, c=product())
    (tmp_path / "again.yaml").symlink_to(tmp_path / "c.yaml")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert load(tmp_path, environ={}).files == ("again.yaml",)


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    write(outside, c=product())
    write(inside, d="meshql: 1\n")
    (inside / "a.yaml").symlink_to(outside / "c.yaml")
    (inside / "folder").symlink_to(outside)
    assert said(check(inside, environ={}), inside) == [
        "a.yaml: error: a link that leads out of the catalog's folder",
        "folder: error: a link that leads out of the catalog's folder",
    ]


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + product().replace("\n", "\r\n").encode())
    assert str(load(tmp_path, environ={}).products["sales.orders"].place).endswith("c.yaml:9:5")


def test_digest_changes_with_names_and_bytes_only(tmp_path: Path) -> None:
    write(tmp_path, c=product())
    first = load(tmp_path, environ={}).digest
    assert len(first) == 64
    assert load(tmp_path, environ={"X": "y"}).digest == first
    write(tmp_path, c=product() + "# x\n")
    second = load(tmp_path, environ={}).digest
    (tmp_path / "c.yaml").rename(tmp_path / "d.yaml")
    assert len({first, second, load(tmp_path, environ={}).digest}) == 3


def test_products_are_found_whatever_the_case(tmp_path: Path) -> None:
    catalog = load(write(tmp_path, c=product(name="Sales.Orders")), environ={})
    assert catalog.product("SALES.orders").name == "Sales.Orders"
    assert catalog.find("sales", "ORDERS") is catalog.products["Sales.Orders"]
    with pytest.raises(UnknownProductError, match=r"did you mean Sales\.Orders"):
        catalog.product("sales.order")


def test_products_match_a_glob_by_name(tmp_path: Path) -> None:
    text = product(name="Sales.orders") + "  - {name: crm.orders, location: /x, format: csv}\n"
    catalog = load(write(tmp_path, c=text), environ={})
    assert [found.name for found in catalog.matching("sales.*")] == ["Sales.orders"]
    assert [found.name for found in catalog.matching("*.ORDERS")] == ["Sales.orders", "crm.orders"]


def test_product_without_connection_lies_on_this_machine(tmp_path: Path) -> None:
    catalog = load(write(tmp_path, c=product(connection=None, location="/data")), environ={})
    assert catalog.connection_of(catalog.product("sales.orders")).cloud == "local"


def test_unset_variable_as_connection_is_an_error_when_it_is_used(tmp_path: Path) -> None:
    catalog = load(write(tmp_path, c=product(connection="${WHERE}")), environ={})
    with pytest.raises(CatalogError, match="environment variable WHERE is not set") as caught:
        catalog.connection_of(catalog.product("sales.orders"))
    assert caught.value.hint == "export WHERE=..."


def test_catalog_survives_pickling(tmp_path: Path) -> None:
    catalog = load(write(tmp_path, c=product()), environ={})
    copy = pickle.loads(pickle.dumps(catalog))
    assert isinstance(copy, Catalog)
    assert copy.find("SALES", "ORDERS") == catalog.product("sales.orders")


def test_values_are_frozen(tmp_path: Path) -> None:
    item = load(write(tmp_path, c=product()), environ={}).product("sales.orders")
    with pytest.raises(ValidationError):
        item.location = "s3://other/"  # type: ignore[misc]


def test_collector_is_on_again_after_loading_and_after_an_error(tmp_path: Path) -> None:
    check(write(tmp_path, c=product()), environ={})
    check(write(tmp_path, c="x: ["), environ={})
    assert gc.isenabled()


# --- locations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("data/orders", "{folder}/data/orders"),
        ("./data/orders/", "{folder}/data/orders/"),
        ("data/*.csv", "{folder}/data/*.csv"),
        ("/data//orders", "/data/orders"),
        ("file:///data/my%20orders", "/data/my orders"),
        ("file://localhost/data/orders/", "/data/orders/"),
        ("${DATA}/orders", "${DATA}/orders"),
        ("${HERE:-data}/orders", "{folder}/data/orders"),
    ],
)
def test_local_locations_become_absolute(written: str, expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    write(tmp_path, clouds=CLOUDS)
    rows = f"meshql: 1\nproducts:\n  - {{name: a.b, connection: disk, location: '{written}', format: csv}}\n"
    write(folder, c=rows)
    found = load(tmp_path, environ={}).product("a.b").location
    assert found == expected.replace("{folder}", str(folder))


GOOD_LOCATIONS = [
    ("delta", "aws", "s3://b/orders"),
    ("delta", "az", "az://container/orders/"),
    ("iceberg", "gcp", "gs://b/warehouse/products"),
    ("iceberg", "aws", "s3://b/t/metadata/00001-abc.metadata.json"),
    ("iceberg", "aws", "s3://b/t/metadata/v3.metadata.json"),
    ("parquet", "aws", "s3://b/file.parquet"),
    ("parquet", "aws", "s3://b/folder/"),
    ("parquet", "aws", "s3://b/**/part-[0-9]?.parquet"),
    ("parquet", "aws", "s3://b/year=2026/month=*/*.parquet"),
    ("csv", "web", "https://example.com/a.csv.gz"),
    ("csv", "web", "https://example.com/download?file=a.csv"),
    ("csv", "disk", "file:///data/a.tsv"),
    ("json", "disk", "/data/*.ndjson"),
    ("delta", "aws", "s3://${BUCKET}/orders"),
    ("delta", "aws", "${ORDERS}"),
    ("delta", "az", "az://b/v1..v2/orders"),
]


@pytest.mark.parametrize(("form", "conn", "location"), GOOD_LOCATIONS)
def test_fitting_locations_are_kept_as_they_stand(
    form: str, conn: str, location: str, tmp_path: Path
) -> None:
    text = product(format=form, connection=conn, location=f"'{location}'")
    found = load(write(tmp_path, c=text), environ={}).product("sales.orders").location
    assert found == location.removeprefix("file://")


# --- variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected", "unset"),
    [
        ("a-${X}-b", "a-x-b", []),
        ("${X}${X}", "xx", []),
        ("${NO}", "${NO}", ["NO"]),
        ("${NO:-other}", "other", []),
        ("${X:-other}", "x", []),
        ("${EMPTY:-other}", "other", []),
        ("${EMPTY}", "", []),
        ("${NO:-}", "", []),
        ("${NO:-s3://b/a:b-c}", "s3://b/a:b-c", []),
        ("$${X}", "${X}", []),
        ("$X and $ and $$", "$X and $ and $$", []),
        ("${RECURSIVE}", "${X}", []),
    ],
)
def test_expansion(written: str, expected: str, unset: list[str]) -> None:
    environ = {"X": "x", "EMPTY": "", "RECURSIVE": "${X}"}
    assert expand(written, environ) == (expected, unset)


def test_unset_variables_are_named_once_each() -> None:
    assert unset_variables("${A}/${B}/${A}/$C") == ["A", "B"]
    assert unset_variables("plain") == []


def test_unset_variable_stays_in_the_text_and_is_a_warning(tmp_path: Path) -> None:
    text = product(location="s3://${BUCKET}/x").replace(
        "{method: env}", "{method: keys, key_id: '${K}', secret: '${K}'}"
    )
    catalog = load(write(tmp_path, c=text), environ={})
    assert catalog.product("sales.orders").location == "s3://${BUCKET}/x"
    aws = catalog.connections["aws"]
    assert isinstance(aws, S3Connection)
    assert unset_variables(aws.auth.key_id.get_secret_value()) == ["K"]  # type: ignore[union-attr]
    assert catalog.warnings == check(tmp_path, environ={})
    assert said(catalog.warnings, tmp_path) == [
        "c.yaml:3:49: warning: connections.aws.auth.key_id: environment variable K is not set\n"
        "  hint: export K=...",
        "c.yaml:11:15: warning: products[0].location: environment variable BUCKET is not set\n"
        "  hint: export BUCKET=...",
    ]


def test_variables_come_from_the_process_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET", "from-process")
    write(tmp_path, c=product(location="s3://${BUCKET}/x"))
    assert load(tmp_path).product("sales.orders").location == "s3://from-process/x"
    assert load(tmp_path, environ={"BUCKET": "given"}).product("sales.orders").location == "s3://given/x"


def test_variables_are_checked_like_text_once_they_are_set(tmp_path: Path) -> None:
    assert mistakes_in(product(location="${ORDERS}"), tmp_path, ORDERS="gs://b/x") == [
        "11:15 products[0].location: a location on cloud s3 is s3://, not gs:// | connections of cloud gcs: `gcp`"
    ]


def test_placeholders_of_quality_queries_are_left_alone(tmp_path: Path) -> None:
    query = "SELECT count(*) FROM ${table} WHERE ${column} IS NULL"
    text = product(quality=f"[{{type: sql, query: '{query}', mustBe: 0}}]")
    catalog = load(write(tmp_path, c=text), environ={"table": "oops"})
    assert catalog.product("sales.orders").quality[0].query == query
    assert catalog.warnings == ()


# --- what YAML readers disagree about -------------------------------------------------------------


@pytest.mark.parametrize("word", ["no", "NO", "on", "2024-01-31", "12:30", "1_000", "0123"])
def test_text_is_text_where_text_is_expected(word: str, tmp_path: Path) -> None:
    catalog = load(
        write(tmp_path, c=connection(f"{{cloud: gcs, region: {word}, auth: {{method: anonymous}}}}")),
        environ={},
    )
    found = catalog.connections["c"]
    assert isinstance(found, GcsConnection)
    assert found.region == word


@pytest.mark.parametrize("word", ["no", "Yes", "on", "y", "0123", "1_000", "12:30:45", "0x1F", ".inf"])
def test_words_that_yaml_readers_read_differently_are_refused_where_any_value_goes(
    word: str, tmp_path: Path
) -> None:
    text = product(format="csv", location="s3://b/x.csv", options=f"{{value: {word}}}")
    assert mistakes_in(text, tmp_path) == [
        f"13:22 products[0].options.value: YAML readers do not agree whether `{word}` is text, a number or a"
        f' truth value | quote it, as in "{word}", if it is text; else write true, false or a plain number'
    ]


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("False", False), ("~", None), ("-7", -7), ("1.50", 1.5), ("1e3", 1000.0), ('"no"', "no"),
     ("2024-01-31", "2024-01-31"), ("'12'", "12"), ("1.2.3", "1.2.3"), ("9" * 60, int("9" * 60))],
)  # fmt: skip
def test_plain_values(word: str, value: object, tmp_path: Path) -> None:
    text = product(customProperties=f"[{{property: p, value: {word}}}]")
    found = load(write(tmp_path, c=text), environ={}).product("sales.orders").customProperties[0].value
    assert found == value
    assert type(found) is type(value)


# --- mistakes -------------------------------------------------------------------------------------

BROKEN: list[tuple[str, str, list[str]]] = [
    # the text of a file
    ("empty", "", ["1:1 : the file is empty | start it with `meshql: 1`"]),
    ("only a comment", "# x\n", ["1:1 : the file is empty | start it with `meshql: 1`"]),
    ("a list", "- a\n", ["1:1 : a catalog file is a mapping of keys | start it with `meshql: 1`"]),
    ("no version", "products: []\n", ["1:1 : missing key `meshql` | start the file with `meshql: 1`"]),
    (
        "another version",
        "meshql: 2\n",
        ["1:9 meshql: expected `1`, got the number `2` | write `meshql: 1`, the version that this program reads"],
    ),
    (
        "open quote",
        "meshql: 1\nproducts:\n  - name: 'x\n",
        [
            "3:11 : not YAML: while scanning a quoted scalar: found unexpected end of stream"
            " | close the quote or bracket that is opened here"
        ],
    ),
    (
        "tab",
        "meshql: 1\nproducts:\n\t- a\n",
        [
            "3:1 : not YAML: while scanning for the next token: found character that cannot start any token"
            " | indent with spaces, not tabs, and quote text that starts with @, ` or %"
        ],
    ),
    (
        "colon in a value",
        "meshql: 1\nname: a: b\n",
        [
            "2:8 : not YAML: mapping values are not allowed in this context"
            " | quote the value if it holds `: `, or check the indentation"
        ],
    ),
    ("control character", "meshql: 1\n# \x07\n", ["2:3 : control character U+0007 | remove it"]),
    (
        "second document",
        "meshql: 1\n---\nmeshql: 1\n",
        ["2:1 : a second YAML document starts here | put what follows --- into a file of its own"],
    ),
    (
        "deep nesting",
        "meshql: " + "[" * 10_000,
        ["1:72 : nested deeper than 64 levels | remove brackets or indentation"],
    ),
    (
        "duplicate keys",
        "meshql: 1\nproducts: []\nproducts: []\n",
        ["3:1 products: duplicate key `products`, first at {file}:2:1 | keep one of them"],
    ),
    (
        "duplicate key of a connection",
        connection("{cloud: local, cloud: http}"),
        ["3:21 connections.c.cloud: duplicate key `cloud`, first at {file}:3:7 | keep one of them"],
    ),
    (
        "anchor and alias",
        "meshql: 1\nproducts: &all []\nconnections: *all\n",
        [
            "2:11 products: anchors are not read"
            " | write the value out wherever it is needed; text that starts with & needs quotes",
            "3:14 connections: aliases are not read | write the value out; text that starts with * needs quotes",
        ],
    ),
    (
        "tags",
        "meshql: !!int 1\nproducts: !mine []\n",
        [
            "1:9 meshql: tags are not read | remove it; text that starts with ! needs quotes",
            "2:11 products: tags are not read | remove it; text that starts with ! needs quotes",
        ],
    ),
    (
        "merge key",
        connection("{<<: {cloud: local}}"),
        ["3:7 connections.c.<<: merge keys are not read | write the keys out"],
    ),
    (
        "mapping as key",
        "meshql: 1\nproducts: {{a: b}: c}\n",
        [
            "2:11 products: expected a list, got a mapping | start each entry with a dash: `- `",
            "2:12 products.?: a key must be plain text | write `key: value`; a value in { } needs quotes",
        ],
    ),
    # keys
    (
        "unknown top key",
        "meshql: 1\nconections: {}\n",
        ["2:1 conections: unknown key `conections` | did you mean `connections`?"],
    ),
    (
        "unknown key near a needed one",
        product(location=None, locaton="s3://b/x"),
        ["12:5 products[0].locaton: unknown key `locaton` | did you mean `location`?"],
    ),
    (
        "unknown key near none",
        connection("{cloud: local, xyz: 1}"),
        ["3:21 connections.c.xyz: unknown key `xyz` | known here: `description`, `insecure` or `cloud`"],
    ),
    (
        "missing key",
        product(location=None),
        [
            "9:5 products[0]: missing key `location`"
            " | add `location:` (URI of the table's folder, a file or a glob)"
        ],
    ),
    (
        "fields that are no keys",
        product(place="x", table_schema="[]").replace("{cloud: local}", "{cloud: local, name: x}"),
        [
            "7:24 connections.disk.name: unknown key `name` | known here: `description`, `insecure` or `cloud`",
            "13:5 products[0].place: unknown key `place` | known here: `name`, `connection`, `location`,"
            " `format`, `options`, `status`, `version`, `tags`, `description`, `team`, `schema`, `quality`"
            " ... (5 more)",
            "14:5 products[0].table_schema: unknown key `table_schema` | did you mean `schema`?",
        ],
    ),
    (
        "unquoted comma",
        product(description="{purpose: orders, in USD}"),
        [
            "13:36 products[0].description.in USD: unknown key `in USD`"
            " | quote the text before it, if the comma is part of that text"
        ],
    ),
    # connections
    (
        "cloud by another name",
        connection("{cloud: aws, regoin: x, auth: {method: env}}"),
        [
            "3:14 connections.c.cloud: expected `s3`, `gcs`, `azure`, `local`, `http`, `postgres`, `iceberg_rest` or `unity`, got `aws`"
            " | did you mean `s3`?",
            "3:19 connections.c.regoin: unknown key `regoin` | did you mean `region`?",
        ],
    ),
    (
        "mistyped cloud key, and what is wrong below it",
        connection("{clod: s3, auth: {method: kys, key_d: x}}"),
        [
            "3:7 connections.c.clod: unknown key `clod` | did you mean `cloud`?",
            "3:23 connections.c.auth: missing key `secret`"
            " | add `secret:` (Secret access key, as a reference: ${AWS_SECRET_ACCESS_KEY})",
            "3:32 connections.c.auth.method: expected `keys`, `env`, `default`, `profile`, `process`, `instance_role`, `container_role`, `web_identity`, `assume_role` or `anonymous`, got `kys` | did you mean `keys`?",
            "3:37 connections.c.auth.key_d: unknown key `key_d` | did you mean `key_id`?",
        ],
    ),
    (
        "no cloud",
        connection("{region: x}"),
        ["3:6 connections.c: missing key `cloud` | add `cloud:` with `s3`, `gcs`, `azure`, `local`, `http`, `postgres`, `iceberg_rest` or `unity`"],
    ),
    (
        "method of another cloud",
        connection("{cloud: gcs, auth: {method: env}}"),
        ["3:34 connections.c.auth.method: expected `hmac`, `adc`, `service_account`, `workload_identity`, `token`, `impersonation` or `anonymous`, got something else"],
    ),
    (
        "truth value of YAML 1.1",
        connection("{cloud: local, insecure: yes}"),
        ["3:31 connections.c.insecure: expected true or false, got text `yes` | write true"],
    ),
    (
        "choice",
        connection("{cloud: s3, url_style: pth, auth: {method: env}}"),
        ["3:29 connections.c.url_style: expected `vhost` or `path`, got `pth` | did you mean `path`?"],
    ),
    (
        "reference where text is not free",
        connection("{cloud: s3, url_style: '${STYLE:-path}', auth: {method: env}}"),
        [
            "3:29 connections.c.url_style: this cannot be a reference to a variable"
            " | references are only for text: write the value out"
        ],
    ),
    (
        "endpoint without scheme",
        connection("{cloud: s3, endpoint: 'localhost:9000', auth: {method: env}}"),
        ["3:28 connections.c.endpoint: expected a URL | start it with https:// or http://"],
    ),
    (
        "account key without account",
        connection("{cloud: azure, auth: {method: account_key, key: '${KEY}'}}"),
        [
            "3:6 connections.c: missing key `account`: method account_key does not tell the storage account"
            " | add `account:` with its name"
        ],
    ),
    (
        "connections as a list",
        "meshql: 1\nconnections: [a]\n",
        [
            "2:14 connections: expected a mapping, got a list"
            " | remove the dashes: each entry's name is its key"
        ],
    ),
    (
        "connection's name",
        "meshql: 1\nconnections:\n  my aws: {cloud: local}\n",
        ["3:3 connections.my aws: expected a name of letters, digits, _ and -"],
    ),
    (
        "number as auth",
        connection("{cloud: gcs, auth: 010}"),
        ["3:25 connections.c.auth: expected a mapping, got text | write `method:` with `hmac`, `adc`, `service_account`, `workload_identity`, `token`, `impersonation` or `anonymous` below `auth:`"],
    ),
    (
        "key that is called like a method",
        connection("{cloud: s3, s3: x, auth: {method: keys, key_id: '${KEY}', secret: '${KEY}', keys: x}}"),
        [
            "3:18 connections.c.s3: unknown key `s3` | known here: `description`, `insecure`, `cloud`, `region`,"
            " `endpoint`, `url_style`, `requester_pays` or `auth`",
            "3:82 connections.c.auth.keys: unknown key `keys` | did you mean `key_id`?",
        ],
    ),
    # products
    (
        "list as cloud",
        product().replace("{cloud: local}", "{cloud: [local]}").replace("connection: aws", "connection: disk"),
        ["7:17 connections.disk.cloud: expected `s3`, `gcs`, `azure`, `local`, `http`, `postgres`, `iceberg_rest` or `unity`, got a list"],
    ),
    (
        "unknown connection",
        product(connection="awss"),
        ["10:17 products[0].connection: unknown connection `awss` | did you mean `aws`?"],
    ),
    (
        "no domain",
        product(name="Big Orders"),
        [
            "9:11 products[0].name: expected domain.product in letters, digits, _ and -, got `Big Orders`"
            " | put its domain first: `sales.big_orders`"
        ],
    ),
    (
        "name with a blank",
        product(name="sales.Big Orders"),
        [
            "9:11 products[0].name: expected domain.product in letters, digits, _ and -, got `sales.Big Orders`"
            " | for instance `sales.big_orders`"
        ],
    ),
    (
        "reserved domain",
        product(name="Main.orders"),
        ["9:11 products[0].name: domain `Main` is reserved by DuckDB | rename it, e.g. `Main_data`"],
    ),
    (
        "format",
        product(format="detla"),
        [
            "12:13 products[0].format: expected `delta`, `iceberg`, `parquet`, `csv`, `json` or `postgres`, got `detla`"
            " | did you mean `delta`?"
        ],
    ),
    (
        "number for text",
        product(version="1.10"),
        ['13:14 products[0].version: expected text, got the number `1.10` | quote it: "1.10"'],
    ),
    (
        "octal",
        product(schema="[{name: o, properties: [{name: a, primaryKeyPosition: 010}]}]"),
        [
            "13:67 products[0].schema[0].properties[0].primaryKeyPosition: expected a whole number,"
            " got text `010` | write 10"
        ],
    ),
    (
        "text for a list",
        product(tags="gold"),
        ["13:11 products[0].tags: expected a list, got text `gold` | start each entry with a dash: `- `"],
    ),
    (
        "text for a mapping",
        product(description="All orders"),
        [
            "13:18 products[0].description: expected a mapping, got text `All orders` | write `purpose`,"
            " `usage`, `limitations`, `authoritativeDefinitions` or `customProperties` below `description:`"
        ],
    ),
    (
        "old form of team",
        product(team="[{username: ana}]"),
        ["13:11 products[0].team: expected a mapping, got a list | remove the dash: its keys follow directly"],
    ),
    (
        "products as a mapping",
        "meshql: 1\nproducts: {a.b: {}}\n",
        ["2:11 products: expected a list, got a mapping | start each entry with a dash: `- `"],
    ),
    (
        "a product that is none",
        "meshql: 1\nproducts: [null]\n",
        [
            "2:12 products[0]: expected a mapping, got nothing | write `name`, `connection`, `location`,"
            " `format`, `options`, `status` ... (11 more) for it"
        ],
    ),
    (
        "unknown key of an SLA",
        product(slaProperties="[{property: latency, valeu: 4}]"),
        ["13:41 products[0].slaProperties[0].valeu: unknown key `valeu` | did you mean `value`?"],
    ),
    (
        "quality checks",
        product(quality="[{metric: rowCount}, {type: sql, mustBe: 0}, {metric: rowcount, mustBe: 0}]"),
        [
            "13:15 products[0].quality[0]: a library check needs exactly one of mustBe, mustNotBe,"
            " mustBeGreaterThan, mustBeGreaterOrEqualTo, mustBeLessThan, mustBeLessOrEqualTo, mustBeBetween,"
            " mustNotBeBetween",
            "13:35 products[0].quality[1]: a sql check needs the key `query`",
            "13:68 products[0].quality[2].metric: expected `nullValues`, `missingValues`, `invalidValues`,"
            " `duplicateValues` or `rowCount`, got `rowcount` | did you mean `rowCount`?",
        ],
    ),
    (
        "range the wrong way round",
        product(quality="[{metric: rowCount, mustBeBetween: [10, 1]}]"),
        ["13:49 products[0].quality[0].mustBeBetween: expected two numbers, the smaller one first"],
    ),
    (
        "options of another logical type",
        product(schema="[{name: o, properties: [{name: a, logicalType: date, logicalTypeOptions: {minLength: 1}}]}]"),
        [
            "13:86 products[0].schema[0].properties[0].logicalTypeOptions:"
            " logicalType date has no option `minLength`"
        ],
    ),
    (
        "fields below text",
        product(schema="[{name: o, properties: [{name: a, logicalType: string, properties: [{name: b}]}]}]"),
        [
            "13:80 products[0].schema[0].properties[0].properties:"
            " `properties` is for logicalType object, not string"
        ],
    ),
    (
        "date",
        product(team="{members: [{username: a, dateIn: 31.01.2026}]}"),
        ["13:44 products[0].team.members[0].dateIn: expected a date such as 2026-01-31"],
    ),
    (
        "broken reference",
        product(description="{purpose: 'costs ${5}'}"),
        [
            "13:28 products[0].description.purpose: `${` starts no reference to a variable"
            " | write ${NAME} or ${NAME:-default}; $${ stands for a literal ${"
        ],
    ),
    (
        "nested reference",
        product(location="'s3://${A:-${B}}/x'"),
        [
            "11:15 products[0].location: `${` starts no reference to a variable"
            " | write ${NAME} or ${NAME:-default}; $${ stands for a literal ${",
            "11:15 products[0].location: environment variable B is not set | export B=...",
        ],
    ),
    (
        "options of a table format",
        product(options="{header: true}"),
        [
            "13:14 products[0].options: format delta has no reader options"
            " | remove them; they are for `parquet`, `csv` or `json`"
        ],
    ),
    (
        "service principal without a secret",
        connection("{cloud: azure, account: a, auth: {method: service_principal, tenant_id: t, client_id: c}}"),
        [
            "3:39 connections.c.auth: method service_principal needs `client_secret` or `certificate_file`"
            " | add `client_secret:` or add `certificate_file:`"
        ],
    ),
    (
        "service principal with both",
        connection(
            "{cloud: azure, account: a, auth: {method: service_principal, tenant_id: t, client_id: c,"
            " client_secret: '${KEY}', certificate_file: c.pem}}"
        ),
        [
            "3:138 connections.c.auth.certificate_file: method service_principal takes either"
            " `client_secret` or `certificate_file` | remove one of them"
        ],
    ),
    (
        "password of no certificate",
        connection(
            "{cloud: azure, account: a, auth: {method: service_principal, tenant_id: t, client_id: c,"
            " client_secret: '${KEY}', certificate_password: '${KEY}'}}"
        ),
        [
            "3:142 connections.c.auth.certificate_password: opens no certificate | add `certificate_file:`"
        ],
    ),
    (
        "service account without a key, behind another",
        connection(
            "{cloud: gcs, auth: {method: impersonation, service_account: r@p, source: {method: service_account,"
            " key: }}}"
        ),
        [
            "3:79 connections.c.auth.source: method service_account needs `key_file` or `key`"
            " | add `key_file:` or add `key:`"
        ],
    ),
    (
        "include without a table",
        connection(
            "{cloud: iceberg_rest, uri: 'https://h', include: [finance, '*', hr.*], auth: {method: anonymous}}"
        ),
        ["3:56 connections.c.include[0]: `finance` matches no namespace.table | write finance.*"],
    ),
    (
        "no region to sign for",
        connection("{cloud: iceberg_rest, uri: 'https://h/iceberg', auth: {method: sigv4}}"),
        [
            "3:60 connections.c.auth: missing key `region`: the URL names no AWS region to sign for"
            " | add `region:`"
        ],
    ),
    (
        "uri without a scheme",
        connection("{cloud: unity, uri: h/api, catalog: main, auth: {method: anonymous}}"),
        ["3:26 connections.c.uri: expected a URL | start it with https:// or http://"],
    ),
    (
        "URL for a host",
        connection("{cloud: postgres, host: 'postgres://u:CANARY@h/d', database: d, auth: {method: default}}"),
        [
            "3:30 connections.c.host: expected a host's name, got a URL"
            " | name the host alone; `port:`, `database:` and `auth:` say the rest"
        ],
    ),
    (
        "URL for an account",
        connection("{cloud: azure, account: 'https://acme.blob.core.windows.net/', auth: {method: default}}"),
        [
            "3:30 connections.c.account: expected an account's name, got an address | write `account: acme`"
        ],
    ),
    (
        "duration below the least",
        connection("{cloud: s3, auth: {method: assume_role, role_arn: r, duration: 60}}"),
        ["3:69 connections.c.auth.duration: expected at least 900"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_mistake_has_its_place_what_is_expected_and_the_fix(
    text: str, expected: list[str], tmp_path: Path
) -> None:
    check(write(tmp_path, warm=product()), environ={})
    (tmp_path / "warm.yaml").unlink()
    began = time.perf_counter()
    found = mistakes_in(text, tmp_path, KEY="k")
    assert time.perf_counter() - began < 0.1
    assert found == [line.replace("{file}", str(tmp_path / "c.yaml")) for line in expected]


BAD_LOCATIONS: list[tuple[dict[str, str | None], str, str | None]] = [
    ({"location": "gs://b/x"}, "a location on cloud s3 is s3://, not gs://", "connections of cloud gcs: `gcp`"),
    ({"location": "s3a://b/x"}, "a location on cloud s3 is s3://, not s3a://", "write s3://b/x"),
    ({"location": "data/x"}, "a location on cloud s3 is s3://, not a path", "connections of cloud local: `disk`"),
    ({"location": "ftp://h/x"}, "a location on cloud s3 is s3://, not ftp://", "write s3://..."),
    *(
        ({"connection": "az", "location": given}, f"a location on cloud azure is az://, abfss:// or https://, not {scheme}://", f"write {right}")
        for given, scheme, right in (
            ("abfs://files@acc.dfs.core.windows.net/a/b", "abfs", "abfss://files@acc.dfs.core.windows.net/a/b"),
            ("wasbs://files@acc.blob.core.windows.net/a/b", "wasbs", "abfss://files@acc.dfs.core.windows.net/a/b"),
            ("abfs://files/a/b", "abfs", "az://files/a/b"),
            ("azure://files/a/b", "azure", "az://files/a/b"),
            ("adl://store.azuredatalakestore.net/a/b", "adl", "az://container/a/b"),
        )
    ),
    (
        {"connection": "az", "location": "https://data.example.com/files/a"},
        "data.example.com is no host of a storage account",
        "a connection with `cloud: http` reads from any web server; write az://container/path",
    ),
    (
        {"connection": "az", "location": "https://a.blob.core.windows.net.example.com/files/a"},
        "a.blob.core.windows.net.example.com is no host of a storage account",
        "a connection with `cloud: http` reads from any web server; write az://container/path",
    ),
    (
        {"connection": "az", "location": "https://a.blob.core.windows.net/"},
        "the location names no container",
        "write https://a.blob.core.windows.net/container/path",
    ),
    (
        {"connection": "az", "location": "abfss://files/a"},
        "an abfss:// location names container and account",
        "write abfss://files@ACCOUNT.dfs.core.windows.net/a, or az://files/a",
    ),
    (
        {"connection": "az", "location": "abfss://files@a.example.com/x"},
        "a.example.com is no host of a storage account",
        "write abfss://container@account.dfs.core.windows.net/path",
    ),
    *(
        ({"connection": "az", "location": given}, "account other is not that of the connection, a", "name a connection to account other, or write a here")
        for given in (
            "abfss://files@other.dfs.core.windows.net/x",
            "https://other.blob.core.windows.net/files/x",
            "az://other.blob.core.windows.net/files/x",
        )
    ),
    ({"connection": "gcp", "location": "gcs://b/x"}, "a location on cloud gcs is gs://, not gcs://", "write gs://b/x"),
    (
        {"connection": "disk", "location": "s3://b/x"},
        "a location on cloud local is a path or file://, not s3://",
        "connections of cloud s3: `aws`",
    ),
    ({"connection": None}, "a location on s3:// needs a connection", "add `connection:` with `aws`"),
    ({"location": "s3:///x"}, "the location names no bucket", "write s3://bucket/path"),
    ({"location": "s3://*/x", "format": "csv"}, "a bucket's name cannot be a pattern", "put * and ? behind the first /"),
    ({"location": '" s3://b/x"'}, "a location has no blanks around it and no line breaks", "remove them"),
    ({"connection": "disk", "location": "~/x"}, "`~` is not expanded", "write ${HOME} instead"),
    (
        {"connection": "disk", "location": "file://data/x"},
        "a file:// location names this machine and a path from the root",
        "write file:///path",
    ),
    *(
        ({"location": f"s3://b/{up}/x"}, "`..` leaves the folder of the product", "write the folder out from its root")
        for up in ("..", "%2e%2e", "%2E.", ".%2e", "%252e%252e")
    ),
    ({"connection": None, "location": "../x"}, "`..` leaves the folder of the product", "write the folder out from its root"),
    (
        {"connection": None, "location": "a\\..\\b"},
        "`..` leaves the folder of the product",
        "write the folder out from its root",
    ),
    (
        {"location": "s3://b/x/*.parquet"},
        "format delta is a table, and its location cannot be a pattern",
        "name the table's folder; patterns are for parquet, csv and json",
    ),
    (
        {"location": "s3://b/x/part.parquet"},
        "format delta is a table, not a .parquet file",
        "name the table's folder, or write `format: parquet`",
    ),
    ({"location": "s3://b/x/_delta_log/"}, "`_delta_log` is a folder inside the table", "name the folder above it"),
    (
        {"location": "s3://b/x/metadata", "format": "iceberg"},
        "`metadata` is a folder inside the table",
        "name the folder above it",
    ),
    (
        {"location": "s3://b/x.json", "format": "iceberg"},
        "format iceberg is a table, not a .json file",
        "name the table's folder, or write `format: json`",
    ),
    ({"location": "s3://b/x.csv.gz", "format": "parquet"}, "format parquet does not fit a .csv file", "write `format: csv`"),
    ({"location": "s3://b/x.orc", "format": "parquet"}, "format parquet does not fit a .orc file", "convert it to Parquet"),
    (
        {"connection": "web", "location": "https://h/*.csv", "format": "csv"},
        "a web server lists no files, so format csv cannot be read like this",
        "name one file",
    ),
    (
        {"connection": "web", "location": "https://h/t/"},
        "a web server lists no files, so format delta cannot be read like this",
        "name one file",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message", "hint"), BAD_LOCATIONS)
def test_location_that_does_not_fit(
    changes: dict[str, str | None], message: str, hint: str | None, tmp_path: Path
) -> None:
    (found,) = check(write(tmp_path, c=product(**changes)), environ={})
    assert (found.key, found.message, found.hint) == ("products[0].location", message, hint)
    line = 11 if changes.get("connection", "aws") else 10
    assert (found.place.line, found.place.column) == (line, 15)


def test_names_declared_twice_name_both_places(tmp_path: Path) -> None:
    write(tmp_path, a=product(), b=product(name="Sales.ORDERS").replace("  aws:", "  AWS:"))
    lines = said(check(tmp_path, environ={}), tmp_path)
    assert [line for line in lines if "connections.AWS" in line or "Sales.ORDERS" in line] == [
        "b.yaml:3:3: error: connections.AWS: declared twice, first at a.yaml:3:3\n  hint: rename one of them",
        "b.yaml:9:11: error: products[0].name: product `Sales.ORDERS` is declared twice, first at a.yaml:9:11\n"
        "  hint: rename one of them; SQL does not tell upper from lower case",
    ]


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=connection("{cloud: s3, regoin: x, auth: {method: env}}"),
        b="meshql: 1\nproducts: [",
        c="meshql: 1\nproducts:\n  - {name: main.x, location: /d, format: csvv}\n",
    )
    with pytest.raises(InvalidCatalogError) as caught:
        load(tmp_path, environ={})
    assert isinstance(caught.value, CatalogError)
    assert caught.value.exit_code == 2
    assert caught.value.mistakes == check(tmp_path, environ={})
    assert str(caught.value).replace(f"{tmp_path}{os.sep}", "").splitlines() == [
        f"catalog {tmp_path} has 4 mistakes",
        "a.yaml:3:18: error: connections.c.regoin: unknown key `regoin`",
        "  hint: did you mean `region`?",
        "b.yaml:2:11: error: not YAML: while parsing a flow node: did not find expected node content",
        "  hint: check the indentation, and the brackets and quotes before this place",
        "c.yaml:3:12: error: products[0].name: domain `main` is reserved by DuckDB",
        "  hint: rename it, e.g. `main_data`",
        "c.yaml:3:42: error: products[0].format: expected `delta`, `iceberg`, `parquet`, `csv`, `json` or `postgres`, got `csvv`",
        "  hint: did you mean `csv`?",
    ]


def test_connections_of_an_unreadable_file_are_not_called_unknown(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="meshql: 1\nconnections: {aws: [",
        b=product(connection="other").replace(CLOUDS, "meshql: 1\n"),
    )
    assert [mistake.key for mistake in check(tmp_path, environ={})] == [""]


def test_warnings_alone_do_not_fail_and_errors_alone_are_listed(tmp_path: Path) -> None:
    write(tmp_path, c=product(location="s3://${BUCKET}/x", formt="x"))
    with pytest.raises(InvalidCatalogError, match="has 1 mistake\n") as caught:
        load(tmp_path, environ={})
    assert "BUCKET" not in str(caught.value)
    assert [mistake.severity for mistake in caught.value.mistakes] == ["warning", "error"]


def test_thousands_of_mistakes_are_cut_and_counted(tmp_path: Path) -> None:
    rows = "".join(f"  - {{name: a.t{i}, location: /d, format: csv, colour{i}: x}}\n" for i in range(800))
    found = check(write(tmp_path, c="meshql: 1\nproducts:\n" + rows), environ={})
    assert len(found) == 501
    assert found[0].message == "300 more mistakes in this file are not shown"


# --- secrets --------------------------------------------------------------------------------------

CANARY = "wJalrXUtnFEMIcanary"

LEAKS = [
    "{cloud: s3, auth: {method: keys, key_id: CANARY, secret: '${S}'}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: 'CANARY'}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: '${S:-CANARY}'}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: 'CANARY${S}'}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: '${CANARY'}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: [CANARY]}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: {CANARY: CANARY}}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: *CANARY}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: &CANARY x}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: !CANARY x}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secrt: CANARY}}",
    "{cloud: s3, auth: {method: CANARY}}",
    "{cloud: s3, auth: CANARY}",
    "{cloud: s3, auth: [CANARY]}",
    "{cloud: s3, secret: CANARY, auth: {method: env}}",
    "{cloud: s3, endpoint: 'https://user:CANARY@host', auth: {method: env}}",
    "{cloud: gcs, auth: {method: hmac, key_id: CANARY, secret: CANARY}}",
    "{cloud: azure, auth: {method: connection_string, connection_string: 'AccountName=a;AccountKey=CANARY'}}",
    "{cloud: azure, account: a, auth: {method: account_key, key: CANARY}}",
    "{cloud: azure, account: [CANARY], auth: {method: account_key, key: '${K}'}}",
    "{cloud: s4, auth: {method: keys, key_id: CANARY, secret: CANARY}}",
    "{auth: {secret: CANARY}}",
    "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: 'CANARY",
]


@pytest.mark.parametrize("text", LEAKS)
def test_secrets_are_refused_and_never_shown(text: str, tmp_path: Path) -> None:
    write(tmp_path, c=connection(text.replace("CANARY", CANARY)))
    found = check(tmp_path, environ={"K": "k"})
    assert [mistake for mistake in found if mistake.severity == "error"]
    try:
        load(tmp_path, environ={"K": "k"})
    except InvalidCatalogError as error:
        everything = (
            "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(found)
        )
    assert CANARY not in everything


@pytest.mark.parametrize("text", ["CANARY", "'${S:-CANARY}'", "12345678", "'a ${S}'", "''"])
def test_literal_secret_says_what_to_export(text: str, tmp_path: Path) -> None:
    keys = f"{{cloud: s3, auth: {{method: keys, key_id: '${{K}}', secret: {text}}}}}"
    (found,) = check(write(tmp_path, c=connection(keys)), environ={"K": "k", "S": "s"})
    assert str(found) == (
        f"{tmp_path / 'c.yaml'}:3:63: error: connections.c.auth.secret: holds a literal secret\n"
        "  hint: export C_SECRET=... and write ${C_SECRET}"
    )


def test_signed_url_is_a_literal_secret_unless_it_is_a_reference(tmp_path: Path) -> None:
    url = f"https://host/a.csv?sig={CANARY}"
    text = product(connection="web", format="csv", location=url)
    assert mistakes_in(text, tmp_path) == [
        "11:15 products[0].location: holds a literal secret"
        " | export SALES_ORDERS_URL=... and write ${SALES_ORDERS_URL}"
    ]
    assert mistakes_in(text.replace(url, "${URL}"), tmp_path, URL=url) == []


def test_insecure_connections_may_hold_an_emulators_keys(tmp_path: Path) -> None:
    keys = "{cloud: s3, insecure: true, auth: {method: keys, key_id: '${K:-minio}', secret: minio123}}"
    found = load(write(tmp_path, c=connection(keys)), environ={}).connections["c"]
    assert isinstance(found, S3Connection)
    assert found.auth.method == "keys"
    assert (found.auth.key_id.get_secret_value(), found.auth.secret.get_secret_value()) == (
        "minio",
        "minio123",
    )


def test_insecure_itself_must_be_a_plain_true(tmp_path: Path) -> None:
    keys = "{cloud: s3, insecure: '${I:-true}', auth: {method: keys, key_id: a, secret: b}}"
    assert [line.partition(" | ")[0] for line in mistakes_in(connection(keys), tmp_path)] == [
        "3:28 connections.c.insecure: this cannot be a reference to a variable",
        "3:71 connections.c.auth.key_id: holds a literal secret",
        "3:82 connections.c.auth.secret: holds a literal secret",
    ]


def test_secrets_do_not_show_in_what_is_loaded(tmp_path: Path) -> None:
    keys = "{cloud: s3, auth: {method: keys, key_id: '${K}', secret: '${S}'}}"
    catalog = load(write(tmp_path, c=connection(keys)), environ={"K": CANARY, "S": CANARY})
    found = catalog.connections["c"]
    assert isinstance(found, S3Connection)
    assert found.auth.method == "keys"
    assert found.auth.secret.get_secret_value() == CANARY
    assert CANARY not in repr(catalog) + str(found) + found.model_dump_json()


def test_model_built_in_code_does_not_show_its_input_in_errors() -> None:
    with pytest.raises(ValidationError) as caught:
        S3Connection.model_validate(
            {"cloud": "s3", "auth": {"method": "keys", "key_id": [CANARY], "secret": 1}}
        )
    assert CANARY not in str(caught.value)


# --- files that cannot be read --------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    (found,) = check(tmp_path / "nowhere")
    assert str(found) == (
        f"{tmp_path / 'nowhere'}: error: no such file or folder\n"
        "  hint: name an existing one, as in --catalog catalogs/demo"
    )
    with pytest.raises(InvalidCatalogError, match="no such file or folder"):
        load(tmp_path / "nowhere")


def test_folder_without_yaml(tmp_path: Path) -> None:
    (found,) = check(tmp_path)
    assert (found.message, found.hint) == (
        "no YAML files in this folder",
        "add a file that ends in .yaml or .yml",
    )


def test_not_utf8_names_the_byte(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes("meshql: 1\n# ü ".encode() + b"\xfc\n")
    assert said(check(tmp_path), tmp_path) == [
        "c.yaml:2:5: error: not UTF-8: byte 0xfc\n  hint: save the file as UTF-8"
    ]


def test_file_over_one_mebibyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"meshql: 1\n" + b"#" * (1024 * 1024 - 10))
    assert check(path) == ()
    with path.open("ab") as file:
        file.truncate(20 * 1024**3)
    began = time.perf_counter()
    (found,) = check(path)
    assert time.perf_counter() - began < 0.1
    assert found.message == "larger than 1 MiB: 21,474,836,480 bytes"
    assert found.hint == "split it: all files of the folder are read as one catalog"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    assert said(check(tmp_path), tmp_path) == ["c.yaml:1:1: error: not a regular file"]


def test_dangling_link_says_why(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").symlink_to(tmp_path / "gone.yaml")
    assert said(check(tmp_path), tmp_path) == ["c.yaml:1:1: error: cannot be read: No such file or directory"]


HOSTILE = {
    "brackets": "a: " + "[" * 10_000,
    "braces": "{a: " * 10_000,
    "dashes": "- " * 10_000,
    "indentation": "".join(" " * depth + f"k{depth}:\n" for depth in range(1_000)),
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "aliases": "a: &a x\nb: [" + "*a, " * 200_000 + "]\n",
    "long key": "meshql: 1\n" + "k" * 1_000_000 + ": 1\n",
    "long key of a product": "meshql: 1\nproducts:\n- {? " + "format" * 1_000 + " : 1}\n",
    "long text": "meshql: 1\nproducts: '" + "${" * 400_000 + "'\n",
    "long number": "meshql: " + "1" * 900_000 + "\n",
    "long name": "meshql: 1\nproducts: [{name: " + "a." * 400_000 + ", location: /x, format: csv}]\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_quickly(name: str, tmp_path: Path) -> None:
    check(write(tmp_path, c=product()), environ={})
    write(tmp_path, c=HOSTILE[name])
    began = time.perf_counter()
    found = check(tmp_path, environ={})
    assert time.perf_counter() - began < 0.5
    assert found
    assert max(len(str(mistake)) for mistake in found) < 1_000


def test_slower_parser_without_the_c_library_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [text for name, text, _ in BROKEN if "not YAML" not in str(_)]
    fast = [mistakes_in(text, tmp_path) for text in cases]
    monkeypatch.setattr(nodes, "LOADER", yaml.SafeLoader)
    assert [mistakes_in(text, tmp_path) for text in cases] == fast


def test_ten_thousand_products_load_in_seconds(tmp_path: Path) -> None:
    for part in range(10):
        rows = "".join(
            f"  - name: domain{part}.product_{row}\n    connection: aws\n    location: s3://b/{part}/{row}/\n"
            f"    format: delta\n    description: {{purpose: Rows, usage: Reports}}\n"
            for row in range(1_000)
        )
        head = CLOUDS if part == 0 else "meshql: 1\n"
        write(tmp_path, **{f"part{part}": f"{head}products:\n{rows}"})
    began = time.perf_counter()
    assert len(load(tmp_path, environ={}).products) == 10_000
    assert time.perf_counter() - began < 15


# --- which catalog --------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_explicit_catalog_wins_over_all_others(here: Path) -> None:
    for name in ("one", "two", "catalogs"):
        (here / name).mkdir()
        write(here / name, c=product())
    environ = {"MESHQL_CATALOG": "two"}
    assert find_catalog("one", environ) == Path("one")
    assert find_catalog(None, environ) == Path("two")
    assert find_catalog(None, {"MESHQL_CATALOG": ""}) == Path("catalogs")


def test_users_own_catalog_comes_last(here: Path) -> None:
    own = here / "config" / "meshql" / "catalog"
    own.mkdir(parents=True)
    assert find_catalog(None, {"XDG_CONFIG_HOME": str(here / "config")}) == own


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", ".config"), ("darwin", "Library/Application Support"), ("win32", "AppData/Roaming")],
)
def test_users_folder_is_the_platforms(
    platform: str, folder: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    own = here / folder / "meshql" / "catalog"
    own.mkdir(parents=True)
    assert find_catalog(None, {"HOME": str(here)}) == own


@pytest.mark.parametrize("names", [["demo"], ["demo", "retail"]])
def test_catalogs_in_folders_are_named_and_not_guessed(names: list[str], here: Path) -> None:
    for name in names:
        (here / "catalogs" / name / "deep").mkdir(parents=True)
        write(here / "catalogs" / name / "deep", c=product())
    (here / "catalogs" / "notes").mkdir()
    with pytest.raises(CatalogError) as caught:
        find_catalog(None, {"HOME": str(here)})
    listed = ", ".join(f"catalogs/{name}" for name in names)
    assert caught.value.message == f"./catalogs holds no catalog itself, but its folders do: {listed}"
    assert caught.value.hint == "--catalog catalogs/demo"


def test_named_catalog_that_is_not_there(here: Path) -> None:
    with pytest.raises(CatalogError, match="no catalog at nowhere, which --catalog names"):
        find_catalog("nowhere", {})
    with pytest.raises(CatalogError, match=r"no catalog at gone, which \$MESHQL_CATALOG names"):
        find_catalog(None, {"MESHQL_CATALOG": "gone"})


def test_no_catalog_at_all_says_what_to_do(here: Path) -> None:
    with pytest.raises(
        CatalogError, match=r"no catalog: neither \./catalogs nor .*meshql.catalog has one"
    ) as caught:
        find_catalog(None, {"HOME": str(here)})
    assert caught.value.hint == (
        "name one with --catalog FOLDER or $MESHQL_CATALOG, or write ./catalogs/catalog.yaml; "
        "meshql demo shows one that works"
    )


# --- the contract's spelling ----------------------------------------------------------------------

ODCS = {
    Description: "purpose usage limitations authoritativeDefinitions customProperties",
    Team: "id name description members tags customProperties authoritativeDefinitions",
    TeamMember: "id username name description role dateIn dateOut replacedByUsername tags customProperties"
    " authoritativeDefinitions",
    SlaProperty: "id property value valueExt unit element driver description scheduler schedule",
    Table: "id name physicalName physicalType description businessName synonyms authoritativeDefinitions tags"
    " customProperties logicalType dataGranularityDescription properties relationships quality context",
    Item: "id name physicalType description businessName synonyms authoritativeDefinitions tags customProperties"
    " primaryKey primaryKeyPosition logicalType logicalTypeOptions physicalName required unique semanticType"
    " partitioned partitionKeyPosition classification encryptedName transformSourceObjects transformLogic"
    " transformDescription examples enum criticalDataElement relationships quality properties items map",
    QualityCheck: "id authoritativeDefinitions businessImpact customProperties description dimension method name"
    " schedule scheduler severity tags type unit metric rule arguments query engine implementation mustBe mustNotBe"
    " mustBeGreaterThan mustBeGreaterOrEqualTo mustBeLessThan mustBeLessOrEqualTo mustBeBetween mustNotBeBetween",
}


@pytest.mark.parametrize("model", ODCS, ids=lambda model: model.__name__)
def test_blocks_have_the_keys_of_odcs(model: type[Description]) -> None:
    assert {info.alias or name for name, info in model.model_fields.items()} == set(ODCS[model].split())


def test_nested_elements_are_typed() -> None:
    element = Element.model_validate(
        {
            "name": "tags",
            "logicalType": "map",
            "map": {
                "key": {"logicalType": "string"},
                "value": {"logicalType": "array", "items": {"logicalType": "date"}},
            },
        }
    )
    assert element.map is not None
    assert element.map.value.items is not None
    assert element.map.value.items.logicalType == "date"


def test_composite_relationships_pair_their_columns() -> None:
    text = {"name": "t", "relationships": [{"from": ["t.a", "t.b"], "to": ["u.a", "u.b"]}]}
    assert Table.model_validate(text).relationships[0].from_ == ("t.a", "t.b")
    with pytest.raises(ValidationError, match="as many columns"):
        Table.model_validate({"name": "t", "relationships": [{"from": ["t.a", "t.b"], "to": ["u.a"]}]})


def test_product_can_be_built_in_code() -> None:
    item = Product(name="a.b", location="/x", format="csv")
    assert (item.domain, item.table, item.options) == ("a", "b", {})
