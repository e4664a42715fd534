"""SQL over data products that lie in several clouds."""

from __future__ import annotations
