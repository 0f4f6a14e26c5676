"""What a person sees while the stack starts: a line for each step, with a spinner while it lasts and its time after."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class StatusLines:
    """Shows steps and remembers how long each took, in seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step that is under way while the block runs. One that raises is marked as failed."""
        started = time.monotonic()
        try:
            with self._console.status(f"{name} …"):
                yield
        except BaseException:
            self._console.print(f"[red]✗[/red] {name}")
            raise
        self.seconds[name] = time.monotonic() - started
        self._console.print(f"[green]✓[/green] {name} [dim]{self.seconds[name]:.1f} s[/dim]")
