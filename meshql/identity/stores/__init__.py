"""Where secrets are kept: one small interface over files, keyrings and the clouds' secret managers."""

from __future__ import annotations
