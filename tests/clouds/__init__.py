"""Emulated clouds for the tests: real servers, started once a run."""

from __future__ import annotations
