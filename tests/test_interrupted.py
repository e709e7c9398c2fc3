"""A run that is interrupted or killed, in a process of its own."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from facex import manifest, workspace

pytestmark = pytest.mark.slow  # each is whole processes

Content = Callable[[Path], dict[str, bytes | None]]

# The real command line, made to wait where everything is built and nothing is promoted yet.
WAITING = """
import signal, sys, time
from facex import cli
from facex.device_bench import host

def wait(*_, **__):
    print("waiting", flush=True)
    time.sleep(300)

host.measure = wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent may have switched off
cli.main()
"""


@pytest.fixture
def out(tmp_path: Path, exported: Path) -> Path:
    """An `--out` with the files of an earlier run."""
    return shutil.copytree(exported, tmp_path / "out")


@pytest.fixture
def line(seeded_checkpoint: Path, photo_dir: Path) -> list[str]:
    options = ["--target", "onnx", "--size", "160x160", "--images", str(photo_dir)]
    return ["export", str(seeded_checkpoint), *options, "--out", "out"]


@pytest.fixture
def waiting(
    start_waiting: Callable[..., subprocess.Popen[str]], line: list[str]
) -> Callable[[], subprocess.Popen[str]]:
    """`waiting()` starts an export and returns when it is about to be judged."""
    return functools.partial(start_waiting, WAITING, *line)


@pytest.mark.parametrize(
    ("number", "fresh"),
    [(signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["SIGINT new folder", "SIGTERM old folder"],
)
def test_an_interrupt_leaves_only_what_was_there(
    waiting: Callable[[], subprocess.Popen[str]],
    tmp_path: Path,
    out: Path,
    content: Content,
    number: signal.Signals,
    fresh: bool,
) -> None:
    if fresh:
        shutil.rmtree(out)
    before = content(tmp_path)
    process = waiting()
    assert content(tmp_path) != before
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted; nothing was changed"
    assert "Traceback" not in err
    assert content(tmp_path) == before


def test_a_killed_run_leaves_the_work_folder_alone_and_the_next_one_succeeds(
    waiting: Callable[[], subprocess.Popen[str]],
    run_facex: Callable[..., object],
    line: list[str],
    tmp_path: Path,
    out: Path,
    content: Content,
) -> None:
    before = content(out)
    process = waiting()
    process.kill()
    process.communicate()
    left = content(out)
    assert {path: data for path, data in left.items() if not path.startswith(workspace.FOLDER)} == before
    assert len(left) > len(before)
    assert run_facex(*line).code == 0
    assert not (out / workspace.FOLDER).exists()
    assert [a.path for a in manifest.load(out / "manifest.json").artifacts] == ["seeded_160x160_fp32.onnx"]
