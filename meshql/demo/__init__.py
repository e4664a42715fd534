"""The demo: three emulated clouds on this machine, with a retail company's data in them."""

from __future__ import annotations
