"""A statement's plan as a tree: what each operator does, how many rows it gave, how long it took."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from meshql.catalog.model import Catalog
from meshql.errors import QueryError, UsageError
from meshql.formats.snapshot import Snapshot
from meshql.query.plan_words import (
    Node,
    children_of,
    columns_of,
    counts_rows,
    cte_names,
    described,
    is_scan,
    only_renames,
)
from meshql.query.scans import Traffic, files_of, scanned
from meshql.sql import Statement

__all__ = ["Operator", "Scan", "Sources", "measured", "planned", "planning", "refuse_explain"]


COUNTS = frozenset({"Total Files Read", "Scanning Files"})

LONG_SHARE, LONG_SECONDS = 0.01, 0.001
"""An operator that takes longer computes something, whatever it looks like."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A product that an operator reads, and what that took.

    `product` is "a or b" where the plan does not tell which. `files` and `files_total` are None where the
    scan does not tell them. `bytes` and `requests` are None in a plan that did not run, and in every scan of
    a product but its first, which accounts for all of them.
    """

    product: str
    format: str
    version: str
    cloud: str
    region: str | None
    files: int | None = None
    files_total: int | None = None
    bytes: int | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a plan, and the steps that it takes its rows from.

    `details` are conditions, expressions and filters, the most telling first. `seconds` are those of all
    threads together, and `share` is their part of the whole plan's; `rows` are counted. All three are None
    in a plan that did not run, which has `estimated_rows` only. The root is the statement itself: its
    `seconds` are those that went by, with the look for the products' versions.
    """

    name: str
    details: tuple[str, ...] = ()
    rows: int | None = None
    estimated_rows: int | None = None
    seconds: float | None = None
    share: float | None = None
    scan: Scan | None = None
    children: tuple[Operator, ...] = ()

    def walk(self) -> Iterator[Operator]:
        """Yield this operator and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True)
class Sources:
    """The snapshots that a statement was pinned to, and what tells scans of them apart.

    `columns` gives the names of a snapshot's columns; it is asked only where nothing else tells.
    """

    snapshots: Sequence[Snapshot]
    catalog: Catalog
    columns: Callable[[Snapshot], frozenset[str]]
    traffic: dict[str, Traffic] | None = None
    _told: set[str] = field(default_factory=set)

    def scan(self, node: Node) -> Scan | None:
        """Return the scan of a product that `node` is, or None."""
        info = node.get("extra_info") or {}
        candidates = scanned(info, self.snapshots)
        if len(candidates) > 1:
            candidates = self._having(candidates, info) or candidates
        if not candidates:
            return None
        if len(candidates) > 1:
            names = " or ".join(s.product.name for s in candidates)
            return Scan(names, candidates[0].product.format, version="", cloud="", region=None)
        return self._accounted(candidates[0], node)

    def _accounted(self, snapshot: Snapshot, node: Node) -> Scan:
        info = node.get("extra_info") or {}
        connection = self.catalog.connection_of(snapshot.product)
        opened, total = files_of(info)
        # A scan that a LIMIT ended has not counted its files yet.
        told = opened or not node.get("operator_cardinality")
        scan = Scan(
            product=snapshot.product.name,
            format=snapshot.product.format,
            version=snapshot.version,
            cloud=connection.cloud,
            region=getattr(connection, "region", None),
            files=opened if told and COUNTS & info.keys() else None,
            files_total=total or snapshot.files,
        )
        if self.traffic is None or snapshot.key in self._told:
            return scan
        self._told.add(snapshot.key)
        fetched = self.traffic.get(snapshot.key, Traffic())
        return replace(scan, bytes=fetched.bytes, requests=fetched.requests)

    def _having(self, candidates: Sequence[Snapshot], info: Mapping[str, Any]) -> list[Snapshot]:
        """Those of the candidates that have as many files and all of the columns."""
        _, total = files_of(info)
        wanted = columns_of(info)
        return [s for s in candidates if (total is None or s.files == total) and wanted <= self.columns(s)]


def planning(statement: Statement) -> Statement:
    """Return the statement that asks for the plan of `statement`, with errors at the lines of the text."""
    text = f"EXPLAIN (FORMAT json)\n{statement.text}"
    return replace(statement, text=text, line=statement.line - 1, kind="EXPLAIN")


def refuse_explain(statement: Statement) -> None:
    """Raise UsageError for a statement that explains another one."""
    if statement.kind == "EXPLAIN":
        raise UsageError(
            "the statement is an EXPLAIN already",
            hint="give the statement itself, or run the EXPLAIN as it is",
        )


def measured(profile: str, sources: Sources, *, rows: int, seconds: float) -> Operator:
    """Return the tree of a statement that ran, from DuckDB's profile of it in JSON."""
    root = json.loads(profile)
    nodes = list(_nodes(root))
    builder = _Builder(sources, cte_names(nodes), sum(map(_timing, nodes)))
    children = tuple(builder.operator(child) for child in root.get("children", ()))
    return Operator("result", rows=rows, seconds=seconds, children=children)


def planned(rows: Sequence[Sequence[Any]], sources: Sources) -> Operator:
    """Return the tree of a statement that did not run, from the rows that `planning` gave.

    Raises QueryError for a statement that DuckDB plans only when it runs it.
    """
    if not rows:
        raise QueryError(
            "DuckDB plans this statement only when it runs it",
            hint="in a PIVOT, list the values: PIVOT ... ON column IN ('a', 'b')",
        )
    roots = json.loads(rows[0][-1])
    builder = _Builder(sources, cte_names(node for root in roots for node in _nodes(root)), None)
    return Operator("plan", children=tuple(builder.operator(root) for root in roots))


@dataclass(frozen=True, slots=True)
class _Builder:
    """Makes operators of nodes; `total` is all their seconds together, and None where nothing ran."""

    sources: Sources
    ctes: Mapping[str, str]
    total: float | None

    def operator(self, node: Node) -> Operator:
        """The operator of a node; what only renames is folded into the one below."""
        seconds = 0.0
        while self._folds(node):
            seconds += _timing(node)
            node = children_of(node)[0]
        seconds += _timing(node) + sum(_timing(child) for child in _passed_over(node))
        scan = self.sources.scan(node) if is_scan(node) else None
        name, details = described(node, self.ctes)
        estimate = (node.get("extra_info") or {}).get("Estimated Cardinality")
        return Operator(
            name=scan.product if scan else name,
            details=details,
            rows=node.get("operator_cardinality") if counts_rows(node) else None,
            estimated_rows=int(estimate) if estimate is not None else None,
            seconds=None if self.total is None else seconds,
            share=None if self.total is None else seconds / (self.total or 1.0),
            scan=scan,
            children=tuple(self.operator(child) for child in children_of(node)),
        )

    def _folds(self, node: Node) -> bool:
        """Whether there is nothing to tell of a node; DuckDB shows what is computed AS a name as the name."""
        seconds = _timing(node)
        long = self.total is not None and seconds > max(self.total * LONG_SHARE, LONG_SECONDS)
        return only_renames(node) and not long and len(children_of(node)) == 1


def _passed_over(node: Node) -> list[Node]:
    """The operators directly below that `children_of` leaves out."""
    kept = children_of(node)
    return [child for child in node.get("children", ()) if not any(child is k for k in kept)]


def _timing(node: Node) -> float:
    return float(node.get("operator_timing") or 0.0)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("children", ()):
        yield from _nodes(child)
