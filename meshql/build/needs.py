"""What building takes beyond what queries take."""

from __future__ import annotations

from importlib.util import find_spec

from meshql.errors import UsageError

__all__ = ["needs"]


def needs(module: str, extra: str = "build") -> None:
    """Raise UsageError, which names the extra to install, where a library is missing."""
    if find_spec(module) is None:
        raise UsageError(
            f"building takes the library {module}, which is not installed",
            hint=f"pip install 'meshql[{extra}]'",
        )
