"""What must hold for change data capture: in builds of kind cdc, and between logs and what they bring."""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Mapping as ByName
from dataclasses import dataclass, field
from typing import Any

from meshql.catalog.build import qualified
from meshql.catalog.derived import RUNS, quarantine_name
from meshql.catalog.documents import ConnectionEntry, ProductEntry
from meshql.catalog.mistakes import LONGEST_NAME, did_you_mean
from meshql.catalog.nodes import Mapping, Node, Sequence
from meshql.catalog.references import unset_variables

__all__ = ["check_cdc"]

DATABASES = ("postgres",)

PRODUCT_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
"""What the part of a product's name behind the dot may be."""

OF_CHANGES = ("operation", "key", "order")


@dataclass
class _Entry:
    """A product with a `build` of kind cdc, as its file has it."""

    product: ProductEntry
    build: dict[str, Any]
    node: Mapping

    def refuse(self, key: str, message: str, hint: str | None = None, *, at: Node | None = None) -> None:
        """Note an error at the value of one of the build's keys, or at a node inside it."""
        place = at or self.node.entries.get(key, self.node)
        path = f"products[{self.product.index}].build.{key}"
        self.product.document.source.refuse(place.at, path, message, hint)

    def refuse_all(self, message: str, hint: str | None = None) -> None:
        """Note an error at the build itself, in place of what its model says of it."""
        path = f"products[{self.product.index}].build"
        self.product.document.source.refuse(self.node.at, path, message, hint)

    @property
    def name(self) -> str:
        """The product's name; empty where it has none yet."""
        return _text(self.product.data.get("name"))

    @property
    def source(self) -> str | None:
        """What `from` names; None while that is not known."""
        found = _text(self.build.get("from"))
        return None if not found or unset_variables(found) else found

    @property
    def is_log(self) -> bool:
        """Whether it is the log of a database's changes."""
        return "tables" in self.build

    def tables(self) -> Iterator[tuple[str, Node]]:
        """Yield the tables that a log names, and where."""
        given, node = self.build.get("tables"), self.node.entries.get("tables", self.node)
        if isinstance(given, str):
            yield given, node
        elif isinstance(given, list) and isinstance(node, Sequence):
            yield from ((t, n) for t, n in zip(given, node.items, strict=False) if isinstance(t, str))


@dataclass
class _Declared:
    """What the catalog declares, by name and without case."""

    connections: ByName[str, ConnectionEntry]
    whole: bool
    products: dict[str, ProductEntry] = field(default_factory=dict)
    logs: dict[str, _Entry] = field(default_factory=dict)
    made: set[tuple[str, str]] = field(default_factory=set)
    """Logs and tables that a product is declared for."""


def check_cdc(
    products: list[ProductEntry], connections: ByName[str, ConnectionEntry], *, whole: bool
) -> None:
    """Note what is wrong with builds of kind cdc; `whole` says that everything that is declared is known."""
    entries = [e for product in products if (e := _entry(product))]
    known = _Declared(connections, whole)
    known.products = {_text(p.data.get("name")).casefold(): p for p in products}
    known.logs = {e.name.casefold(): e for e in entries if e.is_log}
    known.made = {
        (e.source.casefold(), qualified(_text(e.build.get("table"))))
        for e in entries
        if not e.is_log and e.source and e.build.get("table")
    }
    for entry in entries:
        if entry.is_log:
            _check_log(entry, known)
        else:
            _check_table(entry, known)
    _check_slots(list(known.logs.values()), known)
    if whole:
        _check_derived(list(known.logs.values()), known)


def _entry(product: ProductEntry) -> _Entry | None:
    build, node = product.data.get("build"), product.node.entries.get("build")
    if isinstance(build, dict) and build.get("kind") == "cdc" and isinstance(node, Mapping):
        return _Entry(product, build, node)
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# --- the log --------------------------------------------------------------------------------------


def _check_log(entry: _Entry, known: _Declared) -> None:
    _check_database(entry, known)
    if entry.build["tables"] in ([], (), ""):
        entry.refuse_all("`tables` names none", "name those to follow: tables: [orders, sales.customers]")
    seen = set[str]()
    for index, (table, node) in enumerate(entry.tables()):
        key = f"tables[{index}]" if isinstance(entry.build["tables"], list) else "tables"
        if unset_variables(table):
            continue
        if wrong := _wrong_table(table):
            entry.refuse(key, *wrong, at=node)
        elif qualified(table) in seen:
            entry.refuse(key, f"table `{qualified(table)}` is named twice", "remove one of them", at=node)
        seen.add(qualified(table))


def _check_database(entry: _Entry, known: _Declared) -> None:
    name = entry.source
    if name is None:
        return
    found = known.connections.get(name)
    databases = [n for n, c in known.connections.items() if c.data.get("cloud") in DATABASES]
    if found is None and name.casefold() in known.products:
        message = f"`{name[:LONGEST_NAME]}` is a product, and a log with `tables` is made of a database"
        entry.refuse("from", message, "name a connection with `cloud: postgres`, or remove `tables`")
    elif found is None and known.whole:
        hint = did_you_mean(name, databases) or "declare it under `connections:`, with `cloud: postgres`"
        entry.refuse("from", f"unknown connection `{name[:LONGEST_NAME]}`", hint)
    elif found is not None and name not in databases:
        cloud = found.data.get("cloud")
        message = f"changes are captured on cloud postgres, and `{name[:LONGEST_NAME]}` is on {cloud}"
        entry.refuse("from", message, did_you_mean(name, databases) or "name one with `cloud: postgres`")


def _wrong_table(table: str) -> tuple[str, str] | None:
    if any(sign in table for sign in "*?[%"):
        return f"`{table[:LONGEST_NAME]}` is a pattern, and tables are named one by one", (
            "list them: [orders, sales.customers]"
        )
    if '"' in table:
        return f"`{table[:LONGEST_NAME]}` has quotes", "write the name as the database keeps it, without them"
    parts = table.split(".")
    if len(parts) > 2 or not all(part and part == part.strip() for part in parts):
        return f"`{table[:LONGEST_NAME]}` names no table", "write orders, or schema.table"
    return None


def _check_slots(logs: list[_Entry], known: _Declared) -> None:
    """Note logs that would share a slot: each server keeps one of each name, whatever the database."""
    first: dict[tuple[str, str, str], _Entry] = {}
    for log in logs:
        slot, found = _text(log.build.get("slot")), known.connections.get(log.source or "")
        # Those that nobody named are told apart by where their logs lie.
        if found is None or not slot or unset_variables(slot):
            continue
        server = (_text(found.data.get("host")), str(found.data.get("port", 5432)))
        other = first.setdefault((*server, slot), log)
        if other is not log:
            message = f"slot `{slot}` is that of product `{other.name[:LONGEST_NAME]}` on the same server"
            log.refuse("slot", message, f"give it one of its own: `slot: {slot[:60]}_2`")


# --- tables ---------------------------------------------------------------------------------------


def _check_table(entry: _Entry, known: _Declared) -> None:
    name = entry.source
    if name is None:
        return
    product, table = known.products.get(name.casefold()), _text(entry.build.get("table"))
    log = known.logs.get(name.casefold())
    if product is None and name in known.connections:
        wanted = f"[{table}]" if table else "[orders, sales.customers]"
        message = f"`{name[:LONGEST_NAME]}` is a connection, and a table is made of a product of changes"
        entry.refuse_all(message, f"for the log of its changes, add `tables: {wanted}`")
    elif log is not None:
        _check_table_of(entry, log, table)
    elif product is not None and table:
        message = f"product `{name[:LONGEST_NAME]}` is no log of a database, and `table` is one of a log's"
        entry.refuse("table", message, f"remove it, and give {', '.join(f'`{k}`' for k in OF_CHANGES)}")


def _check_table_of(entry: _Entry, log: _Entry, table: str) -> None:
    followed = [qualified(t) for t, _ in log.tables() if not unset_variables(t)]
    if not table and not any(entry.build.get(key) for key in OF_CHANGES):
        message = f"`{log.name[:LONGEST_NAME]}` is the log of a database: which of its tables?"
        entry.refuse_all(message, f"add `table: {followed[0] if followed else 'orders'}`")
    elif table and not unset_variables(table) and qualified(table) not in followed and followed:
        message = f"`{log.name[:LONGEST_NAME]}` does not follow a table `{qualified(table)[:LONGEST_NAME]}`"
        entry.refuse("table", message, did_you_mean(qualified(table), followed))


def _check_derived(logs: list[_Entry], known: _Declared) -> None:
    """Note tables whose product cannot be called as they are."""
    taken = dict.fromkeys((RUNS, *_quarantines(known)), "meshql has a product of this name")
    taken |= {name: f"product `{name}` is declared already" for name in known.products}
    seen = set[tuple[str, str]]()
    for log in logs:
        domain = log.name.partition(".")[0]
        for index, (table, node) in enumerate(log.tables()):
            full = qualified(table)
            last = full.rpartition(".")[2]
            name = f"{domain}.{last}".casefold()
            this = (log.name.casefold(), full)
            if unset_variables(table) or _wrong_table(table) or this in known.made | seen:
                continue
            seen.add(this)
            if not PRODUCT_TABLE.fullmatch(last):
                _refuse_derived(log, index, node, full, "a product cannot be called as it is")
            elif name in taken:
                _refuse_derived(log, index, node, full, taken[name])
            taken.setdefault(name, f"product `{name}` is that of `{full}` of `{log.name}`")


def _quarantines(known: _Declared) -> Iterator[str]:
    for name, product in known.products.items():
        build = product.data.get("build")
        if isinstance(build, dict) and build.get("kind") == "silver":
            yield quarantine_name(name)


def _refuse_derived(log: _Entry, index: int, node: Node, table: str, why: str) -> None:
    domain = log.name.partition(".")[0]
    name = f"{domain}.{re.sub(r'[^A-Za-z0-9_-]', '_', table)}"
    build = f"{{kind: cdc, from: {log.name}, table: {_spelled(table)}}}"
    hint = f"declare a product for it, as `{name}`, with `build: {build}`"
    key = f"tables[{index}]" if isinstance(log.build["tables"], list) else "tables"
    log.refuse(key, f"`{table[:LONGEST_NAME]}` brings no product along: {why}", hint, at=node)


def _spelled(table: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w.-]*", table)
    return table if plain else f"'{table}'"
