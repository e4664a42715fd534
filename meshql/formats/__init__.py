"""How a location becomes rows: one file a format, with the same verbs."""

from __future__ import annotations
