"""What a product is made of, and what is made of it: with the versions of the last build."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshql.build.graph import Graph, graph_of
from meshql.build.runs import RunLog
from meshql.catalog.build import CdcBuild
from meshql.catalog.model import Product
from meshql.errors import StorageError
from meshql.mesh import Mesh

__all__ = ["Lineage", "Node", "lineage", "made_of", "mermaid", "tree"]


@dataclass(frozen=True, slots=True)
class Node:
    """A product in a lineage. `version` is the one that was built last, None for one never built here."""

    name: str
    kind: str
    owner: str | None
    version: str | None
    built_at: str | None
    rows: int | None


@dataclass(frozen=True, slots=True)
class Lineage:
    """The products around one, and which version of which each was made of."""

    name: str
    nodes: dict[str, Node]
    edges: tuple[tuple[str, str, str | None], ...]
    """From, to, and the version of `from` that `to` was made of."""

    def json(self) -> dict[str, Any]:
        """Return it as a document."""
        return {
            "product": self.name,
            "nodes": [{name: getattr(n, name) for name in Node.__slots__} for n in self.nodes.values()],
            "edges": [{"from": a, "to": b, "version": version} for a, b, version in self.edges],
        }


def lineage(mesh: Mesh, name: str) -> Lineage:
    """Return the lineage of a product, upstream and downstream; raises UnknownProductError."""
    product = mesh.find(name)
    start = product.beside or product.name
    graph, last = graph_of(mesh), RunLog(mesh).last_built()
    around = {start} | graph.downstream(start) | _above(graph, start)
    edges = tuple(
        (parent, child, dict(last.get(child, {}).get("inputs") or {}).get(parent))
        for child in [*graph.products]
        if child in around
        for parent in graph.inputs[child]
        if parent in around
    )
    return Lineage(start, {n: _node(mesh, n, last.get(n, {})) for n in _ordered(graph, around)}, edges)


def made_of(mesh: Mesh, name: str) -> dict[str, str]:
    """Return what the log of runs and the graph say of how a product came to be, in words by title.

    Empty for a product that is not built here and that nothing is made of. A log that cannot be read leaves
    out what it would tell.
    """
    product = mesh.find(name)
    if not any(p.build for p in mesh.catalog.products.values()):
        return {}
    graph = graph_of(mesh)
    said: dict[str, str] = {}
    if product.build is not None:
        said = {"kind": product.build.kind, **_last_build(mesh, product.name)}
        said.setdefault("made of", ", ".join(graph.inputs[product.name]) or _sources(product))
    if product.beside:
        said["made with"] = product.beside
    if feeds := graph.children(product.name):
        said["feeds"] = ", ".join(feeds)
    return said


def _sources(product: Product) -> str:
    """What a product is made of that is no product itself."""
    if isinstance(product.build, CdcBuild):
        return f"{', '.join(product.build.tables)} of {product.build.from_}"
    return "sources"


def _last_build(mesh: Mesh, name: str) -> dict[str, str]:
    try:
        row = RunLog(mesh).last_built().get(name)
    except StorageError:
        return {}
    if row is None:
        return {"built": "never"}
    made = ", ".join(f"{parent} {version}" for parent, version in dict(row["inputs"] or {}).items())
    built = f"{row['ended_at']:%Y-%m-%d %H:%M:%S %Z} by run {row['run']}"
    return {"built": built} | ({"made of": made} if made else {})


def _above(graph: Graph, name: str) -> set[str]:
    built = graph.upstream(name)
    return built | {i for n in (*built, name) for i in graph.inputs.get(n, ())}


def _ordered(graph: Graph, names: set[str]) -> list[str]:
    return sorted(names - graph.products.keys()) + [n for n in graph.products if n in names]


def _node(mesh: Mesh, name: str, row: dict[str, Any]) -> Node:
    product = mesh.find(name)
    ended = row.get("ended_at")
    return Node(
        name=product.name,
        kind=product.build.kind if product.build else product.format,
        owner=product.owner,
        version=row.get("version"),
        built_at=ended.strftime("%Y-%m-%d %H:%M") if ended else None,
        rows=row.get("rows_total"),
    )


def tree(found: Lineage) -> str:
    """Return what a product is made of as a tree of lines, and below it what is made of it."""
    lines = [_label(found, found.name, None), *_branches(found, found.name, "", set())]
    fed = [b for a, b, _ in found.edges if a == found.name]
    return "\n".join([*lines, *([f"feeds {', '.join(fed)}"] if fed else [])])


def _branches(found: Lineage, name: str, indent: str, above: set[str]) -> Iterator[str]:
    made_of = [(a, version) for a, b, version in found.edges if b == name and a not in above]
    for index, (parent, version) in enumerate(made_of):
        last = index == len(made_of) - 1
        yield f"{indent}{'└─ ' if last else '├─ '}{_label(found, parent, version)}"
        yield from _branches(found, parent, indent + ("   " if last else "│  "), above | {name})


def _label(found: Lineage, name: str, read: str | None) -> str:
    node = found.nodes[name]
    version = read or node.version
    words = [
        node.kind,
        f"version {version}" if version else None,
        f"{node.rows:,} rows" if node.rows is not None and read in (None, node.version) else None,
        f"built {node.built_at}" if node.built_at and read in (None, node.version) else None,
        f"now at {node.version}" if read and node.version and read != node.version else None,
        node.owner,
    ]
    return f"{name}  {' · '.join(w for w in words if w)}"


def mermaid(found: Lineage) -> str:
    """Return the lineage as a Mermaid flowchart, which Markdown pages draw."""
    ids = {name: f"n{index}" for index, name in enumerate(found.nodes)}
    lines = ["flowchart LR"]
    for name, node in found.nodes.items():
        version = f"<br/>{node.kind} {node.version}" if node.version else f"<br/>{node.kind}"
        lines.append(f'    {ids[name]}["{name}{version}"]')
    for a, b, read in found.edges:
        arrow = f"-->|{read}|" if read else "-->"
        lines.append(f"    {ids[a]} {arrow} {ids[b]}")
    lines.append(f"    style {ids[found.name]} stroke-width:3px")
    return "\n".join(lines)
