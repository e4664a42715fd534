"""How a location becomes rows: one file a format."""

from __future__ import annotations
