"""How the listing commands print a table. Knows the terminal; knows no column."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

UNBOUNDED = 10_000
"""Columns: wider than any row."""


def print_table(table: "Table") -> None:
    """One whole line for each row, however narrow the terminal: ids are copied, lines are searched. Cells are shown as
    they are, whatever brackets and colons a customer's text has."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    needed = console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum
    Console(markup=False, emoji=False, width=max(console.width, needed)).print(table)
