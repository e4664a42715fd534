"""What could be typed next: read from the text alone, then looked up in a snapshot of the catalog."""

from __future__ import annotations
