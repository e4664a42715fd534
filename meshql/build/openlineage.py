"""Events of the OpenLineage standard, sent as steps begin and end: to a URL, or as lines of a file.

The events are those of https://openlineage.io/spec/2-0-2/OpenLineage.json with facets of the same site.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from meshql import __version__
from meshql.build.turn import Run, Turn
from meshql.catalog.build import CdcBuild, GoldBuild
from meshql.catalog.connections import PostgresConnection
from meshql.catalog.model import Product
from meshql.errors import MeshError
from meshql.mesh import Mesh
from meshql.redact import redact

__all__ = ["Emitter", "sender"]

PRODUCER = f"https://pypi.org/project/meshql/{__version__}"
EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
SECONDS = 5.0

NAMES = uuid.UUID("8f1f6d34-6c29-5f0b-9d1c-3c2f4e0c7a55")
"""The namespace of the ids that are made of names."""

Event = dict[str, Any]


def sender(target: str) -> Callable[[Event], None]:
    """Return what sends events to a URL (with $OPENLINEAGE_API_KEY, if set), or appends them to a file."""
    if target.startswith(("http://", "https://")):
        return lambda event: _post(target, event)
    lock = threading.Lock()

    def write(event: Event) -> None:
        with lock, Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    return write


def _post(url: str, event: Event) -> None:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    path = url if "/api/" in url else f"{url.rstrip('/')}/api/v1/lineage"
    with urlopen(HttpRequest(path, json.dumps(event).encode(), headers), timeout=SECONDS):
        pass


class Emitter:
    """Tells of each step of a run; what cannot be sent is noted in the run, and never fails the build."""

    def __init__(self, mesh: Mesh, send: Callable[[Event], None], namespace: str = "meshql") -> None:
        self._mesh = mesh
        self._send = send
        self._namespace = namespace

    def told(self, run: Run, turn: Turn) -> None:
        """Send the event that a turn's beginning or end is."""
        kinds = {"running": "START", "built": "COMPLETE", "unchanged": "COMPLETE", "cancelled": "ABORT"}
        kind = kinds.get(turn.status, "FAIL")
        if turn.status == "blocked":
            return
        try:
            self._send(self._event(run, turn, kind))
        except (URLError, OSError, MeshError) as error:
            run.notes.append(redact(f"an OpenLineage event of {turn.name} was not sent: {error}"))

    def _event(self, run: Run, turn: Turn, kind: str) -> Event:
        inputs = run.graph.inputs[turn.name]
        versions = turn.outcome.commits[-1].inputs if turn.outcome.commits else {}
        return {
            "eventType": kind,
            "eventTime": datetime.now(UTC).isoformat(),
            "producer": PRODUCER,
            "schemaURL": EVENT,
            "run": {"runId": str(_id(run.id, turn.name)), "facets": self._run_facets(run, turn)},
            "job": {
                "namespace": self._namespace,
                "name": turn.name,
                "facets": _job_facets(turn.product, run),
            },
            "inputs": [
                *(self._dataset(self._mesh.find(name), versions.get(name)) for name in inputs),
                *self._tables(turn.product),
            ],
            "outputs": [self._output(turn, kind)],
        }

    def _run_facets(self, run: Run, turn: Turn) -> Event:
        parent = {
            "run": {"runId": str(_id(run.id, ""))},
            "job": {"namespace": self._namespace, "name": "meshql build"},
        }
        facets = {"parent": _facet("1-2-0/ParentRunFacet.json#/$defs/ParentRunFacet", **parent)}
        if turn.error:
            facets["errorMessage"] = _facet(
                "1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
                message=turn.error.message,
                programmingLanguage="SQL",
            )
        return facets

    def _output(self, turn: Turn, kind: str) -> Event:
        dataset = self._dataset(turn.product, turn.outcome.version)
        if kind == "COMPLETE":
            counts = turn.outcome.counts
            dataset["facets"]["schema"] = self._schema(turn.product)
            dataset["outputFacets"] = {
                "outputStatistics": _facet(
                    "1-0-2/OutputStatisticsOutputDatasetFacet.json#/$defs/OutputStatisticsOutputDatasetFacet",
                    rowCount=counts.rows_out,
                    size=counts.bytes,
                    fileCount=counts.files,
                )
            }
        return dataset

    def _dataset(self, product: Product, version: str | None) -> Event:
        store, location = self._mesh.store(product)
        namespace = f"{location.scheme}://{location.bucket}" if location.scheme else "file"
        facets = {
            "dataSource": _facet(
                "1-0-1/DatasourceDatasetFacet.json#/$defs/DatasourceDatasetFacet",
                name=store.place,
                uri=location.plain,
            ),
            "symlinks": _facet(
                "1-0-1/SymlinksDatasetFacet.json#/$defs/SymlinksDatasetFacet",
                identifiers=[{"namespace": self._namespace, "name": product.name, "type": "TABLE"}],
            ),
        }
        if version:
            facets["version"] = _facet(
                "1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
                datasetVersion=version,
            )
        name = location.key.rstrip("/") if location.scheme else f"/{location.key.rstrip('/')}"
        return {"namespace": namespace, "name": name, "facets": facets}

    def _tables(self, product: Product) -> list[Event]:
        """The tables of a database whose changes a product is the log of."""
        if not isinstance(product.build, CdcBuild):
            return []
        found = self._mesh.catalog.connections.get(product.build.from_)
        if not isinstance(found, PostgresConnection):
            return []
        namespace = f"postgres://{found.host}:{found.port}"
        names = [f"{found.database}.{table}" for table in product.build.tables]
        return [{"namespace": namespace, "name": name, "facets": {}} for name in names]

    def _schema(self, product: Product) -> Event:
        columns = self._mesh.product(product.name).columns
        return _facet(
            "1-2-0/SchemaDatasetFacet.json#/$defs/SchemaDatasetFacet",
            fields=[{"name": c.name, "type": c.type} for c in columns],
        )


def _job_facets(product: Product, run: Run) -> Event:
    assert product.build is not None
    facets = {
        "jobType": _facet(
            "2-0-4/JobTypeJobFacet.json#/$defs/JobTypeJobFacet",
            processingType="STREAMING" if run.request.follow else "BATCH",
            integration="MESHQL",
            jobType=product.build.kind.upper(),
        )
    }
    if isinstance(product.build, GoldBuild):
        facets["sql"] = _facet("1-1-0/SQLJobFacet.json#/$defs/SQLJobFacet", query=product.build.sql)
    if product.owner:
        owners = [{"name": product.owner, "type": "OWNER"}]
        facets["ownership"] = _facet("1-0-1/OwnershipJobFacet.json#/$defs/OwnershipJobFacet", owners=owners)
    return facets


def _facet(schema: str, **said: Any) -> Event:
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/{schema}", **said}


def _id(run: str, name: str) -> uuid.UUID:
    return uuid.uuid5(NAMES, f"{run}/{name}")
