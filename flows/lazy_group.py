"""A group of commands, each imported only when it is called: none should wait for what the others need."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from flows.vocabulary import suggestion


class LazyGroup(click.Group):
    """Commands by name, with where they are and a line about each.

    Parameters
    ----------
    table : mapping of name to (str, str)
        "module:attribute" of the command, and its line in the help.
    adapt : callable, optional
        What each command goes through once it is imported; a group within this one has the same.
    """

    def __init__(
        self,
        *arguments: Any,
        table: Mapping[str, tuple[str, str]],
        adapt: Callable[[click.Command], click.Command] = lambda command: command,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._table = table
        self.adapt = adapt

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command, imported; None if there is none of this name."""
        if name not in self._table:
            return None
        module, attribute = self._table[name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, LazyGroup):
            command.adapt = self.adapt
        return self.adapt(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table's lines, for which nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As any group does; a name that there is none of is refused with the one that it resembles."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            ctx.fail(f"there is no command '{args[0]}'{suggestion(args[0], list(self._table))}; see {ctx.command_path} --help")
        return super().resolve_command(ctx, args)
