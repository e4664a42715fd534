"""Where bronze rows come from: files, APIs, SQL and Python functions."""

from __future__ import annotations
