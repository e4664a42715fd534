"""`python -m meshql`: the command line."""

from __future__ import annotations

from meshql.cli import main

main()
