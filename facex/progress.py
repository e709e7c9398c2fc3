"""Where long work tells what it is doing, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from facex.errors import stage


class Progress(Protocol):
    """What a run calls; the terminal implements it."""

    def start(self, task: str, total: int | None = None) -> None:
        """A stage begins; `total` counts its steps, where they can be counted."""
        ...

    def advance(self) -> None:
        """One step of the stage is done."""
        ...

    def warn(self, text: str) -> None:
        """Something the user should know and that does not stop the run."""
        ...

    def say(self, text: str) -> None:
        """A result on the way that is worth a line."""
        ...


class Silent:
    """Progress for callers that want none; warnings are kept for the caller to read."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, task: str, total: int | None = None) -> None:
        """Nothing to show."""

    def advance(self) -> None:
        """Nothing to show."""

    def warn(self, text: str) -> None:
        """Keep it."""
        self.warnings.append(text)

    def say(self, text: str) -> None:
        """Nothing to show."""


class Clock:
    """Names, shows and times the stages of a run.

    Attributes:
        progress: where stages are shown.
        timings_s: seconds by stage, summed over its runs.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress: Progress = progress or Silent()
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str, task: str, total: int | None = None, *, named: bool = True) -> Iterator[None]:
        """Time the block as `name`, show it as `task`, and name it on every error that leaves it, if `named`."""
        self.progress.start(task, total)
        started = time.perf_counter()
        with stage(name if named else ""):
            yield
        self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - started
