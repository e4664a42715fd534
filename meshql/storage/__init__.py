"""Objects of a store: listed, looked at and read, on every cloud alike."""

from __future__ import annotations
