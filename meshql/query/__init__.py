"""The way of a query, a file a step."""

from __future__ import annotations
