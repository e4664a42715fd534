"""The prompt: reads what is typed and hands it to the shell."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from meshql import __version__
from meshql.catalog.model import Catalog
from meshql.errors import CatalogError, InterruptedQueryError, MeshError
from meshql.folders import state_folder
from meshql.mesh import Mesh
from meshql.shell.commands import BY_NAME, COMMANDS, Command, run_command
from meshql.shell.completion.candidates import Command as Offered
from meshql.shell.completion.completer import SqlCompleter
from meshql.shell.completion.refresher import Refresher
from meshql.shell.completion.usage import Usage
from meshql.shell.doing import SHOWN_FORMATS
from meshql.shell.highlight import STYLES, SqlLexer
from meshql.shell.history import PrivateHistory
from meshql.shell.script import is_bare, is_command, is_open
from meshql.shell.shell import Shell
from meshql.shell.state import Settings
from meshql.shell.watcher import CatalogWatcher
from meshql.terminal import coloured, note, report, say, styled

__all__ = ["run_shell"]

TAKEN: dict[str, Literal["product", "path", "sql"]] = {
    "NAME": "product",
    "GLOB": "product",
    "FILE": "path",
    "SQL": "sql",
}
"""What completion offers for the argument that a command's help names so."""


def run_shell(
    catalog: Path,
    *,
    settings: Settings | None = None,
    engine_settings: Mapping[str, str] | None = None,
    keep_history: bool = True,
) -> None:
    """Run the shell on this terminal until the user leaves.

    The catalog loads in the background: the prompt is there at once.
    """
    shell = Shell(catalog, run_command=run_command, settings=settings, engine_settings=engine_settings)
    loop = _Loop(shell, keep_history=keep_history)
    try:
        loop.run()
    finally:
        loop.close()
    if shell.left_work:
        sys.stdout.flush()
        # A thread that hangs on a store would hold up an ordinary exit.
        os._exit(0)


class _Loop:
    """The prompt, and what works behind it: completion, and the look at the catalog's files."""

    def __init__(self, shell: Shell, *, keep_history: bool) -> None:
        self._shell = shell
        self._discovered: Mesh | None = None
        self._refresher = Refresher(self._catalog, columns_of=self._columns_of)
        self._usage = Usage()
        self._watcher = CatalogWatcher(shell.catalog, self._changed, self._broken)
        if keep_history:
            shell.history = PrivateHistory(state_folder() / "history")
        shell.refreshed = self._refresher.refresh
        self._prompt: PromptSession[str] = self._session()

    def run(self) -> None:
        """Read and run until the user leaves."""
        say(f"meshql {__version__} · {self._shell.catalog} · .help lists commands, Ctrl-D leaves")
        self._refresher.refresh()
        self._watcher.start()
        while not self._shell.leaving:
            try:
                text = self._read()
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            if text.strip():
                self._do(text)

    def close(self) -> None:
        """Let everything go."""
        self._watcher.stop()
        self._refresher.close()
        self._shell.close()

    def _read(self) -> str:
        vi = self._shell.settings.editing_mode == "vi"
        self._prompt.editing_mode = EditingMode.VI if vi else EditingMode.EMACS
        self._prompt.completer = SqlCompleter(
            self._refresher, commands=_commands(self._bookmarks()), usage=self._usage
        )
        # What other threads say meanwhile appears above the prompt.
        with patch_stdout(raw=True):
            return self._prompt.prompt(self._shell.settings.prompt)

    def _bookmarks(self) -> Iterable[str]:
        """The names of the bookmarks; none from a file that cannot be read, which .bookmarks tells."""
        try:
            return sorted(self._shell.bookmarks.all())
        except (MeshError, OSError):
            return ()

    def _do(self, text: str) -> None:
        try:
            self._shell.run_text(f".{text.strip()}" if is_bare(text) else text)
        except InterruptedQueryError:
            say(styled("cancelled", "yellow"))
        except KeyboardInterrupt:
            say(styled("cancelled", "yellow"))
        except MeshError as error:
            report(error)
        except Exception as error:
            # A mistake of meshql's own must not cost the session and its tables.
            report(MeshError(f"internal error: {type(error).__name__}: {error}"))
        self._usage.add(text)

    def _catalog(self) -> Catalog:
        """The catalog, for completion; the first to ask opens the mesh."""
        mesh = self._shell.mesh
        if mesh is not self._discovered and mesh.mounts_catalogs:
            self._discovered = mesh
            threading.Thread(target=self._discover, name="meshql-discover", daemon=True).start()
        return mesh.listed

    def _discover(self) -> None:
        """Have remote catalogs asked what they have; completion offers what they listed last until then."""
        self._shell.mesh.discover()
        self._refresher.refresh()

    def _columns_of(self, name: str) -> list[tuple[str, str]]:
        found = self._shell.mesh.product(name)
        self._refresher.learn(name, changed_at=found.changed_at)
        return [(c.name, c.type) for c in found.columns]

    def _changed(self, catalog: Catalog) -> None:
        self._shell.mesh.reload(catalog)
        self._discovered = None
        self._refresher.refresh()
        note(f"the catalog has changed: {len(catalog.products):,} products")

    def _broken(self, error: CatalogError) -> None:
        note("the catalog as saved is broken, so the last good one stays")
        report(error)

    def _session(self) -> PromptSession[str]:
        shell = self._shell
        return PromptSession(
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "...> ".rjust(width),
            history=shell.history,
            auto_suggest=AutoSuggestFromHistory(),
            complete_while_typing=Condition(lambda: shell.settings.complete_while_typing),
            complete_in_thread=True,
            lexer=SqlLexer(lambda: self._refresher.metadata),
            style=Style.from_dict(STYLES),
            color_depth=None if coloured(sys.stdout) else ColorDepth.DEPTH_1_BIT,
            key_bindings=_keys(),
            enable_open_in_editor=True,
            include_default_pygments_style=False,
        )


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @Condition
    def done() -> bool:
        """Whether Enter runs what is typed: a command, or SQL that a semicolon ends."""
        from prompt_toolkit.application import get_app

        buffer = get_app().current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            return False
        text = buffer.text
        return not text.strip() or is_command(text) or is_bare(text) or not is_open(text)

    @keys.add("enter", filter=done)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @Condition
    def choosing() -> bool:
        """Whether an entry of the completion menu is chosen."""
        from prompt_toolkit.application import get_app

        state = get_app().current_buffer.complete_state
        return state is not None and state.current_completion is not None

    @keys.add("enter", filter=choosing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    @Condition
    def stray() -> bool:
        """Whether the line that ends is a command which has become part of a statement."""
        from prompt_toolkit.application import get_app

        document = get_app().current_buffer.document
        words = document.current_line.split()
        return document.cursor_position_row > 0 and bool(words) and words[0] in BY_NAME

    @keys.add("enter", filter=~done & ~choosing & stray)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")
        note("a statement is open: end it with ; or press Ctrl-C")

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _commands(bookmarks: Iterable[str]) -> list[Offered]:
    """The commands as completion offers them, psql's names for them too."""
    kept = tuple(bookmarks)
    return [_offered(name, c, kept) for c in COMMANDS.values() for name in (c.name, *c.twins)]


def _offered(name: str, command: Command, bookmarks: tuple[str, ...]) -> Offered:
    takes = command.takes.strip("[]")
    if takes.startswith("BOOKMARK"):
        return Offered(name, command.does, "choice", bookmarks)
    if command.name == ".mode":
        return Offered(name, command.does, "choice", tuple(SHOWN_FORMATS))
    if command.name == ".set":
        return Offered(name, command.does, "choice", tuple(f.name for f in fields(Settings)))
    if "|" in takes and takes.islower():
        return Offered(name, command.does, "choice", tuple(takes.split("|")))
    return Offered(name, command.does, TAKEN.get(takes.partition(" ")[0], "nothing"))
