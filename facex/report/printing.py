"""Lines and tables of the reports, safe for any name and encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from facex.report.wording import encodable, printable

if TYPE_CHECKING:
    from rich.console import Console

UNBOUNDED = 10_000
"""Columns that no table reaches."""


def make_table(*columns: str, right: Sequence[str] = ()) -> Any:
    """A table with these headers; those in `right` are of figures."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", no_wrap=column in right, overflow="fold"
        )
    return made


def add_row(table: Any, console: Console, *cells: str) -> None:
    """Add a row, whatever characters are in it."""
    from rich.text import Text

    convert = encodable(console.encoding)
    table.add_row(*(Text(convert(printable(cell))) for cell in cells))  # a Text: brackets in names are no markup


def write_line(console: Console, text: str, style: str | None = None) -> None:
    """Print a line, whatever characters are in it."""
    console.print(encodable(console.encoding)(printable(text)), style=style, markup=False)


def print_whole(table: Any, console: Console) -> None:
    """Print a table as wide as it must be: a name cut in two is of no use."""
    from rich.measure import Measurement

    table.width = Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).maximum
    console.print(table)


def write_fields(console: Console, fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values below each other, indented."""
    for name, value in fields:
        write_line(console, f"  {name:<18} {value}")
