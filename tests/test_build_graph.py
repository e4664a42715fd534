from __future__ import annotations

import textwrap

import pytest

from meshql.build.graph import graph_of
from meshql.errors import CatalogError, UnknownProductError, UsageError
from meshql.mesh import connect

CATALOG = """
meshql: 1
products:
  - {name: crm.customers, location: crm.parquet, format: parquet}
  - name: raw.orders
    location: lake/raw/
    build: {kind: bronze, sources: [{kind: files, location: "in/*.csv"}]}
  - name: raw.copied
    location: lake/copied/
    build:
      kind: bronze
      sources: [{kind: sql, sql: "SELECT * FROM crm.customers", cursor: {column: id}}]
  - name: sales.orders
    location: lake/orders/
    build: {kind: silver, from: raw.orders}
  - name: sales.daily
    location: lake/daily/
    build: {kind: gold, sql: "SELECT day, count(*) n FROM sales.orders JOIN crm.customers USING (id) GROUP BY day"}
  - name: sales.refused
    location: lake/refused/
    build: {kind: gold, sql: "SELECT count(*) n FROM sales.orders_quarantine"}
  - name: sales.yearly
    location: lake/yearly/
    build: {kind: gold, sql: "WITH d AS (SELECT * FROM sales.daily) SELECT year(day) y, sum(n) n FROM d GROUP BY ALL"}
"""


@pytest.fixture
def catalog(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CATALOG)
    return path


@pytest.fixture
def graph(catalog):
    with connect(catalog) as mesh:
        yield graph_of(mesh)


def test_inputs_are_read_from_sql_and_sources(graph):
    assert graph.inputs == {
        "raw.orders": (),
        "raw.copied": ("crm.customers",),
        "sales.orders": ("raw.orders",),
        "sales.daily": ("sales.orders", "crm.customers"),
        "sales.refused": ("sales.orders",),
        "sales.yearly": ("sales.daily",),
    }
    order = list(graph.products)
    for name, parents in graph.inputs.items():
        assert all(order.index(p) < order.index(name) for p in parents if p in graph.products)


@pytest.mark.parametrize(
    ("selectors", "meant"),
    [
        ([], {"raw.orders", "raw.copied", "sales.orders", "sales.daily", "sales.refused", "sales.yearly"}),
        (["sales.daily"], {"sales.daily"}),
        (["SALES.daily"], {"sales.daily"}),
        (["raw.*"], {"raw.orders", "raw.copied"}),
        (["+sales.daily"], {"raw.orders", "sales.orders", "sales.daily"}),
        (["sales.daily+"], {"sales.daily", "sales.yearly"}),
        (["+sales.orders+"], {"raw.orders", "sales.orders", "sales.daily", "sales.refused", "sales.yearly"}),
        (["raw.copied", "sales.yearly"], {"raw.copied", "sales.yearly"}),
        (["changed"], {"sales.daily"}),
        (["changed+"], {"sales.daily", "sales.yearly"}),
    ],
)
def test_a_selector_means_products_in_the_order_to_build_them(graph, selectors, meant):
    chosen = graph.select(selectors, lambda name: name == "sales.daily")
    assert set(chosen) == meant
    assert chosen == [name for name in graph.products if name in meant]


def test_a_selector_that_means_nothing_is_an_error(graph):
    with pytest.raises(UnknownProductError) as wrong:
        graph.select(["sales.dayly"], lambda name: False)
    assert wrong.value.hint.startswith("did you mean sales.daily")
    with pytest.raises(UsageError, match=r"no product that is built here matches crm\.\*"):
        graph.select(["crm.*"], lambda name: False)


def broken(tmp_path, build):
    path = tmp_path / "c.yaml"
    path.write_text("meshql: 1\nproducts:\n" + textwrap.indent(textwrap.dedent(build), "  "))
    with connect(path) as mesh, pytest.raises(CatalogError) as wrong:
        graph_of(mesh)
    return str(wrong.value)


def test_products_made_of_one_another_are_refused(tmp_path):
    said = broken(
        tmp_path,
        """
        - {name: a.x, location: l/x/, build: {kind: gold, sql: FROM a.y}}
        - {name: a.y, location: l/y/, build: {kind: gold, sql: FROM a.x}}
        """,
    )
    assert "made of one another" in said
    assert "a.x" in said
    assert "a.y" in said


def test_sql_that_does_not_parse_names_its_product(tmp_path):
    said = broken(tmp_path, "- {name: a.x, location: l/x/, build: {kind: gold, sql: SELEC 1}}")
    assert "a.x: its SQL does not parse" in said


def test_an_unknown_input_names_its_product_and_the_nearest(tmp_path):
    said = broken(
        tmp_path,
        """
        - {name: a.raw, location: l/r/, build: {kind: bronze, sources: [{kind: files, location: in/}]}}
        - {name: a.x, location: l/x/, build: {kind: silver, from: a.rwa}}
        """,
    )
    assert said == "a.x: its build is from unknown product a.rwa\nhint: did you mean a.raw?"


def test_rows_that_refer_to_a_product_are_built_after_it(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        textwrap.dedent(
            """
            meshql: 1
            products:
              - {name: r.a, location: l/ra/, build: {kind: bronze, sources: [{kind: files, location: a/}]}}
              - name: s.orders
                location: l/so/
                build: {kind: silver, from: r.a}
                schema: [{name: orders, properties: [{name: c, relationships: [{to: s.zcustomers.id}]}]}]
              - {name: s.zcustomers, location: l/sc/, build: {kind: silver, from: r.a}}
            """
        )
    )
    with connect(path) as mesh:
        graph = graph_of(mesh)
    assert list(graph.products) == ["r.a", "s.zcustomers", "s.orders"]
    assert graph.inputs["s.orders"] == ("r.a",)
