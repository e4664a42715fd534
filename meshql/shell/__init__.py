"""The interactive shell: typing, commands and what is shown."""

from __future__ import annotations
