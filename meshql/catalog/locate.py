"""Which catalog is meant when none, or only a variable, names one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from meshql.catalog.files import SUFFIXES
from meshql.errors import CatalogError
from meshql.folders import config_folder

__all__ = ["find_catalog"]

VARIABLE = "MESHQL_CATALOG"
FOLDER = "catalogs"


def find_catalog(
    explicit: str | None, environ: Mapping[str, str] | None = None, *, said_by: str = "--catalog"
) -> Path:
    """Return the catalog's folder or file: `explicit`, else $MESHQL_CATALOG, ./catalogs, or the user's own.

    `said_by` is who named the explicit one. A ./catalogs that only has catalogs in its folders is never
    guessed among. Raises CatalogError where there is no catalog, with the exact argument to give.
    """
    environ = os.environ if environ is None else environ
    if explicit:
        return _existing(explicit, said_by)
    if named := environ.get(VARIABLE):
        return _existing(named, f"${VARIABLE}")
    here = Path(FOLDER)
    if _yaml_in(here):
        return here
    if inside := _catalogs_in(here):
        names = ", ".join(inside)
        raise CatalogError(
            f"./{FOLDER} holds no catalog itself, but its folders do: {names}", hint=f"--catalog {inside[0]}"
        )
    own = config_folder(environ) / "catalog"
    if own.exists():
        return own
    hint = (
        f"name one with --catalog FOLDER or ${VARIABLE}, or write ./{FOLDER}/catalog.yaml; "
        "meshql demo shows one that works"
    )
    raise CatalogError(f"no catalog: neither ./{FOLDER} nor {own} has one", hint=hint)


def _existing(named: str, said_by: str) -> Path:
    path = Path(named).expanduser()
    if not path.exists():
        hint = "name a folder of YAML files or one YAML file"
        raise CatalogError(f"no catalog at {named}, which {said_by} names", hint=hint)
    return path


def _yaml_in(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in SUFFIXES for path in _visible(folder))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _catalogs_in(folder: Path) -> list[str]:
    """Name the folders right below `folder` that have YAML files, at whatever depth."""
    if not folder.is_dir():
        return []
    below = [path for path in _visible(folder) if path.is_dir()]
    return [path.as_posix() for path in below if any(_yaml_in(Path(inner)) for inner, _, _ in os.walk(path))]
