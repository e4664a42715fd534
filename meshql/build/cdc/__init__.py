"""Change data capture: a live PostgreSQL followed into a log of changes, and logs into tables."""

from __future__ import annotations
