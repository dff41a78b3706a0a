"""The main help page: one line per command, under headings, in the order of the flow.

Unlike click's own page it never truncates a line, and it fits in 50 lines of 80 characters. On a terminal with fewer
lines, the commands under a heading share a line, so that the page fits without scrolling.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import click


@dataclass(frozen=True)
class Heading:
    """A group of commands, each with a one-line description."""

    title: str
    commands: Mapping[str, str]


class Overview(click.Group):
    """A group of commands under headings.

    Attributes:
        headings: the commands to list, in order.
        aliases: alternative names of commands, not listed.
        options: options of the group itself, in one line.
        look_further: called with the arguments if the first one is not a known command; may add commands.
    """

    headings: tuple[Heading, ...] = ()
    aliases: Mapping[str, str] = {}
    options = ""
    look_further: Callable[[Sequence[str]], None] = staticmethod(lambda arguments: None)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(chain.from_iterable(heading.commands for heading in self.headings))

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.aliases.get(arguments[0], arguments[0]) not in self.commands:
            self.look_further(arguments)
        return super().resolve_command(context, [self.aliases.get(arguments[0], arguments[0]), *arguments[1:]])

    def format_help(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(context, formatter)
        self.format_help_text(context, formatter)
        before = formatter.getvalue()
        lines, columns = _terminal_size()
        page = ["", *self._list(), "", f"Options: {self.options}"]
        # One line is reserved for the shell prompt.
        if len(before.splitlines()) + len(page) >= lines:
            page = ["", *self._names(columns), "", f"Options: {self.options}"]
            page.append(f"`{context.command_path} COMMAND --help` describes a command.")
        formatter.write("\n".join(page) + "\n")

    def _list(self) -> list[str]:
        width = max(map(len, self.commands))
        page = []
        for heading in self.headings:
            page.append(f"{heading.title}:")
            page += [f"  {name:<{width}}  {text}" for name, text in heading.commands.items()]
        return page

    def _names(self, columns: int) -> list[str]:
        width = max(len(heading.title) for heading in self.headings) + 2
        page = []
        for heading in self.headings:
            names = textwrap.wrap(" ".join(heading.commands), columns - width, break_on_hyphens=False)
            page += [f"{title:<{width}}{line}" for title, line in zip([f"{heading.title}:", *[""] * len(names)], names)]
        return page


def _terminal_size() -> tuple[int, int]:
    """(lines, columns) of the terminal; unlimited lines if the output is not a terminal."""
    size = shutil.get_terminal_size()
    return (size.lines if sys.stdout.isatty() else sys.maxsize), size.columns
