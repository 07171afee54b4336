"""What a person sees while something long is running.

`Display` says nothing and is the default of library calls; the command line passes a `Console` one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Update = Callable[..., None]


class Display:
    """A display that shows nothing."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Update]:
        """Yield `update(done, total, note="")` for one piece of work."""
        yield lambda done, total, note="": None

    def say(self, text: str) -> None:
        """Show a line."""


class ConsoleDisplay(Display):
    """A progress bar with time left on a terminal; a line every few seconds elsewhere.

    console: where to write. every_seconds: pause between lines where there is no terminal.
    """

    def __init__(self, console: Console, every_seconds: float = 10.0) -> None:
        self.console = console
        self.every_seconds = every_seconds

    def say(self, text: str) -> None:
        """Show a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Update]:
        """Show one piece of work; yields `update(done, total, note="")`."""
        started = time.monotonic()
        with self._bar(title) if self.console.is_terminal else self._lines(title) as update:
            yield update
        self.say(f"{title}: done in {_duration(time.monotonic() - started)}")

    @contextmanager
    def _bar(self, title: str) -> Iterator[Update]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            Remaining(compact=True, elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[note]}"),
        ]
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, note="")

            def update(done: int, total: int, note: str = "") -> None:
                fields: Any = {"note": note} if note else {}
                progress.update(task, completed=done, total=total, **fields)

            yield update

    @contextmanager
    def _lines(self, title: str) -> Iterator[Update]:
        started = time.monotonic()
        shown = started

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < self.every_seconds or done == 0:
                return
            shown = now
            left = (now - started) * (total - done) / done
            self.say(
                f"{title}: {done}/{total}, {_duration(left)} left{'  ' + note if note else ''}"
            )

        yield update


def terminal_display() -> Display:
    """Return the display of a terminal, or of a log where there is none."""
    from rich.console import Console

    return ConsoleDisplay(Console(stderr=True))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
