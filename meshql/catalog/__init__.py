"""What is declared: values read from YAML, with no engine and no network."""

from __future__ import annotations
