"""Completion for prompt_toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from meshql.shell.completion import suggestions as kinds
from meshql.shell.completion.candidates import Command, Lookup, candidates, unknown_products
from meshql.shell.completion.context import suggest
from meshql.shell.completion.paths import listed
from meshql.shell.completion.refresher import Refresher
from meshql.shell.completion.usage import Usage

__all__ = ["SqlCompleter"]

UNASKED = (
    kinds.Products,
    kinds.JoinCondition,
    kinds.UsingColumns,
    kinds.Settings,
    kinds.Types,
    kinds.Paths,
    kinds.Commands,
    kinds.CommandArguments,
)
"""What a menu opens for before a letter is typed; for the rest it waits for a letter or Tab."""


class SqlCompleter(Completer):
    """Offers what the refresher's snapshot of now holds; the network is never waited for.

    Columns that are not known yet are asked for in the background and are there at a later keystroke.
    """

    def __init__(
        self,
        refresher: Refresher,
        *,
        commands: Sequence[Command] = (),
        usage: Usage | None = None,
        paths: Callable[[str], Sequence[str]] = listed,
    ) -> None:
        self.usage = usage or Usage()
        """Feed it every statement that ran: `usage.add(text)`."""
        self._refresher = refresher
        self._commands = tuple(commands)
        self._paths = paths

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Yield what may be typed at the cursor, best first."""
        metadata = self._refresher.metadata
        request = suggest(document.text, document.cursor_position)
        self._refresher.want(unknown_products(request, metadata))
        if not (complete_event.completion_requested or _opens(request)):
            return
        lookup = Lookup(metadata, self.usage, self._commands, self._paths)
        for found in candidates(document.text, document.cursor_position, lookup, request):
            yield Completion(found.text, found.start_position, display=found.display, display_meta=found.meta)


def _opens(request: kinds.Request) -> bool:
    first = next(iter(request.suggestions), None)
    return bool(request.word.text or request.word.owner) or isinstance(first, UNASKED)
