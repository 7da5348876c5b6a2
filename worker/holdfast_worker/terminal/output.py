"""Writing answers to stdout: JSON as it came, tables and colour for people, plain text for pipes."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click

from holdfast_worker.terminal.text import escaped, json_for_terminal

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["COLOURS", "Cell", "say", "terminal", "write_facts", "write_json", "write_table"]

#: A text, or a text with a colour for terminals.
Cell = str | tuple[str, str]

#: What states look like to people; meaning never hangs on the colour alone.
COLOURS: Final = {
    "queued": "cyan",
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "dead_letter": "red",
    "cancelled": "yellow",
    "refused": "red",
    "unchanged": "bright_black",
    "changed": "green",
    "pause": "yellow",
    "resume": "green",
    "stale": "bold red",
    "slow": "yellow",
    "parked": "cyan",
    "progressing": "green",
    "missing": "red",
    "gone": "bright_black",
}


def say(text: str) -> None:
    """One line of words, to stderr."""
    click.echo(escaped(text), err=True)


def terminal(*, stderr: bool = False) -> "Console":
    """The terminal for people; without colour and weight where NO_COLOR is set (https://no-color.org)."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))
    return Console(stderr=stderr, highlight=False, color_system=None if plain else "auto")


def write_json(body: bytes) -> None:
    """An answer's body, unchanged in what it means; byte for byte unless stdout is a terminal."""
    if sys.stdout.isatty():
        click.echo(json_for_terminal(body.decode("utf-8", "replace")))
    else:
        click.echo(body.rstrip(b"\n"))


def write_facts(facts: Iterable[tuple[str, Cell]]) -> None:
    """Names and values, one pair a line."""
    pairs = [(name, *_split(value)) for name, value in facts]
    width = max((len(name) for name, _, _ in pairs), default=0) + 2
    if not sys.stdout.isatty():
        for name, value, _ in pairs:
            click.echo(f"{name + ':':<{width}}{value}".rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value, style in pairs:
        grid.add_row(Text(name, "bold"), Text(value, style))
    terminal().print(grid)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table; in a pipe aligned columns under a heading in capitals, as kubectl writes them."""
    cells = [[_split(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _write_columns([list(columns), *([value or "-" for value, _ in row] for row in cells)])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        # The first column is what is copied from a table: it stays in one piece on a narrow terminal too.
        table.add_column(column.capitalize().replace("_", " "), overflow="fold", no_wrap=number == 0)
    for row in cells:
        table.add_row(*(Text(value, style) for value, style in row))
    terminal().print(table)


def _write_columns(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{value:<{width}}" for value, width in zip(line, widths, strict=True)).rstrip())


def _split(cell: Cell) -> tuple[str, str]:
    value, style = cell if isinstance(cell, tuple) else (cell, "")
    return escaped(value), style
