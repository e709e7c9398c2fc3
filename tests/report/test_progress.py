"""Progress: a line a stage in a log, a bar in a terminal."""

from __future__ import annotations

import os

import pytest

from facex.exporters._quiet import quiet
from facex.progress import Clock, Silent
from facex.report.progress import TerminalProgress


def test_a_log_gets_a_line_a_stage(capfd: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress:
        progress.start("calibrating [1/2]", 100)
        progress.advance()
        progress.warn("[few] photographs")
        progress.start("writing")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "calibrating [1/2] …\nwarning: [few] photographs\nwriting …\n"


def test_progress_is_seen_while_converters_are_silenced(capfd: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress, quiet():
        progress.start("writing")
        os.write(1, b"noise of a converter")
        os.write(2, b"noise of a converter")
    assert capfd.readouterr() == ("", "writing …\n")


def test_python_streams_are_silenced_too(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("noise of a converter")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with TerminalProgress() as progress:
        for task in ("calibrating", "writing"):
            progress.start(task, 2)
            progress.advance()
        progress._bar.refresh()
    out, err = capfd.readouterr()
    assert out == ""
    assert "writing" in err
    assert "1/2" in err
    assert "\x1b[" in err


def test_the_clock_names_times_and_shows_stages() -> None:
    class Said(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[tuple[str, int | None]] = []

        def start(self, task: str, total: int | None = None) -> None:
            self.said.append((task, total))

    progress = Said()
    clock = Clock(progress)
    for _ in range(2):
        with clock("parity", "comparing", 6):
            pass
    assert progress.said == [("comparing", 6)] * 2
    assert list(clock.timings_s) == ["parity"]
    assert clock.timings_s["parity"] > 0


def test_silence_keeps_warnings() -> None:
    silent = Silent()
    silent.start("writing", 3)
    silent.advance()
    silent.warn("few photographs")
    assert silent.warnings == ["few photographs"]
