"""`meshql lineage`: what a product is made of, and what is made of it."""

from __future__ import annotations

import json

from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.query.supervise import supervise

__all__ = ["print_lineage"]


def print_lineage(name: str, config: Config, format_: str) -> None:
    """Print a product's lineage as a tree, a Mermaid flowchart or JSON."""
    from meshql.build.lineage import lineage, mermaid, tree

    with open_mesh(config) as mesh:
        found = supervise(lambda: lineage(mesh, name), mesh.interrupt)
    if format_ == "json":
        print(json.dumps(found.json(), indent=2))
    else:
        print(mermaid(found) if format_ == "mermaid" else tree(found))
