"""Progress on stderr: a bar in a terminal, one line per stage in a log."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any


class TerminalProgress:
    """See `facex.progress.Progress`. Used as a context manager.

    It writes to a copy of file descriptor 2, because native libraries are silenced by redirecting the original.
    """

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TerminalProgress:
        """Start drawing, if there is someone to look."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
        if self._console.is_terminal:
            text, count = TextColumn("{task.description}"), MofNCompleteColumn()
            times = TimeElapsedColumn(), TimeRemainingColumn()
            columns = SpinnerColumn(), text, BarColumn(), count, *times
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._stream.close()

    def start(self, task: str, total: int | None = None) -> None:
        """Show a new stage."""
        if self._bar is None:
            self._console.print(f"{task} …", markup=False)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(task, total=total)

    def advance(self) -> None:
        """Move the bar by one."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)
