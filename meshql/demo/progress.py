"""How the demo tells its caller what it is doing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["Progress", "Quiet"]


class Progress(Protocol):
    """Something that shows what is going on, a step at a time: one ends before the next begins."""

    def step(self, name: str) -> AbstractContextManager[object]:
        """Return a context that lasts as long as the step called `name` does."""


class Quiet:
    """A Progress that shows nothing."""

    def step(self, name: str) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        del name
        return nullcontext()
