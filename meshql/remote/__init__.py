"""Catalogs of others, whose tables become products."""

from __future__ import annotations
