"""Products that are made here: bronze, silver and gold, built by steps and published into the catalog."""

from __future__ import annotations
