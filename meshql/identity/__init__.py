"""Who we are at each cloud: connections turned into credentials for every reader."""

from __future__ import annotations
