"""SQL over data products that lie in several clouds.

import meshql

with meshql.connect("catalogs/demo") as mesh:
    mesh.sql("SELECT * FROM sales.orders LIMIT 5").show()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshql.errors import MeshError

if TYPE_CHECKING:
    from meshql.mesh import Mesh, connect
    from meshql.query.result import Result

__all__ = ["Mesh", "MeshError", "Result", "__version__", "connect"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the engine's names when they are first used: the command line's help needs none of them."""
    if name in {"Mesh", "connect"}:
        from meshql import mesh

        return getattr(mesh, name)
    if name == "Result":
        from meshql.query.result import Result

        return Result
    raise AttributeError(f"module 'meshql' has no attribute {name!r}")
