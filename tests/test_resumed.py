"""A run that is stopped while it learns goes on where it was, in a process of its own."""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex import manifest, workspace

pytestmark = pytest.mark.slow  # each is whole processes

FILE = "seeded_160x160_w8a8.onnx"
SMALL = {"batch": 4, "side": 96, "pool": 16}

# The real command line with a small schedule that saves often, made to wait in the middle of learning.
WAITING = f"""
import functools, signal, time
from facex import cli
from facex.calibration import reconstruct, schedule

schedule.Schedule = functools.partial(schedule.Schedule, **{SMALL})
reconstruct.SAVE_EVERY = 2
step = reconstruct._Learning._step

def wait(self, number):
    if number == 5:
        print("waiting", flush=True)
        time.sleep(300)
    step(self, number)

reconstruct._Learning._step = wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent may have switched off
cli.main()
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule for runs in this process."""
    from facex.calibration import schedule

    monkeypatch.setattr(schedule, "Schedule", functools.partial(schedule.Schedule, **SMALL))


@pytest.fixture
def line(seeded_checkpoint: Path, calib_dir: Path) -> list[str]:
    """An export that learns for eight steps, without photographs for parity."""
    options = ["--target", "onnx", "--size", "160x160", "--int8", "--calib", str(calib_dir), "--int8-steps", "8"]
    return ["export", str(seeded_checkpoint), *options, "--threads", "1"]


@pytest.fixture
def stopped(start_waiting: Callable[..., subprocess.Popen[str]], line: list[str]) -> Callable[[signal.Signals], int]:
    """`stopped(signal)`: start the export into `out`, stop it after five steps, give its exit code."""

    def stop(number: signal.Signals) -> int:
        process = start_waiting(WAITING, *line, "--out", "out")
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode

    return stop


def states(out: Path) -> list[Path]:
    return sorted((out / workspace.FOLDER).glob(f"{workspace.STATE_PREFIX}*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)], ids=["SIGTERM", "SIGKILL"])
def test_the_next_run_goes_on_and_ends_at_the_same_bytes(
    stopped: Callable[[signal.Signals], int],
    run_facex: Callable[..., Any],
    small: None,
    line: list[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / FILE).write_bytes(b"of an earlier run")
    assert stopped(number) == code
    (state,) = states(out)
    assert state.suffix == ".pt"
    assert (out / FILE).read_bytes() == b"of an earlier run"
    assert {path.name for path in out.iterdir()} == {FILE, workspace.FOLDER}

    resumed = run_facex(*line, "--out", "out")
    assert resumed.code == 0
    assert "going on after step 4 of 8, where an interrupted run was" in resumed.err.splitlines()
    assert not (out / workspace.FOLDER).exists(), "nothing is left to go on with"

    whole = run_facex(*line, "--out", "whole")
    assert whole.code == 0
    assert "going on" not in whole.err
    assert (out / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    first, second = (manifest.load(folder / "manifest.json") for folder in (out, tmp_path / "whole"))
    assert first.calibration == second.calibration


def test_a_state_of_another_seed_is_left_alone_until_the_run_succeeds(
    stopped: Callable[[signal.Signals], int],
    run_facex: Callable[..., Any],
    small: None,
    line: list[str],
    tmp_path: Path,
) -> None:
    stopped(signal.SIGKILL)
    (state,) = states(tmp_path / "out")
    ran = run_facex(*line, "--seed", 1, "--out", "out")
    assert ran.code == 0
    assert "going on" not in ran.err
    assert not state.exists()
