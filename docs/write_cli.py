"""Write docs/cli.md from the commands' --help: `make docs`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from facex.cli import cli

WIDTH = 100
PAGE = Path(__file__).with_name("cli.md")
PREAMBLE = """\
# Command line

Written by `make docs` from `--help` of each command; do not edit. The default of `--threads` is 2, or 1 on a machine
with one core.
"""


def page() -> str:
    """The whole page."""
    with _two_threads():
        root = click.Context(cli, info_name="facex", **{**cli.context_settings, "terminal_width": WIDTH})
        sections = list(_sections(cli, root))
    return "\n".join([PREAMBLE, *(f"## {title}\n\n```text\n{text}\n```\n" for title, text in sections)])


def _sections(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """The help of a command, and of those below it where it is a group."""
    yield context.command_path, _help(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.commands[name]
            yield from _sections(below, click.Context(below, info_name=name, parent=context))


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


@contextlib.contextmanager
def _two_threads() -> Iterator[None]:
    """The default of --threads depends on the machine; the page must not."""
    options = [p for command in cli.commands.values() for p in command.params if p.name == "threads"]
    before = [option.default for option in options]
    for option in options:
        option.default = 2
    try:
        yield
    finally:
        for option, default in zip(options, before, strict=True):
            option.default = default


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
