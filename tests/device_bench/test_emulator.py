"""The emulated machine as a child process: what it is given, what comes back, and every way in which it fails."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facex.device_bench import emulator
from facex.device_bench.emulator import Answer, Machine
from facex.errors import EXIT_MISSING_EXTRA, BackendError, MissingSetupError, UsageError

FAKE = '''
"""An interpreter that runs no script: it answers as its first argument says."""
import json, os, signal, sys, time
import numpy as np

mode, script, site, model, request, answer, trace = sys.argv[1:]
images = np.load(request)["images"]
assert script.endswith("_emulated_run.py") and os.path.isabs(model) and "PATH" not in os.environ
if mode == "crash":
    print("loading\\n  Illegal thing in libLiteRt.so \\n", file=sys.stderr)
    sys.exit(3)
if mode == "silent":
    sys.exit(1)
if mode == "signal":
    os.kill(os.getpid(), signal.SIGSEGV)
if mode == "hang":
    time.sleep(60)
for image in images:
    print("done", flush=True)
if mode == "nothing":
    sys.exit(0)
if mode == "garbage":
    open(answer, "w").write("no archive")
    sys.exit(0)
found = {"output.sums": images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)}
if mode == "short":
    found["output.sums"] = found["output.sums"][1:]
if mode == "empty":
    found = {}
if trace == "1":
    listed = [["CONV_2D", "a", True, []], ["EXP", "b", False, [0]]]
    found |= {"operators": np.array(json.dumps(listed)), "faithful": np.array(True)}
    found["digests"] = np.zeros((len(images), 1 if mode == "ragged" else 2), np.uint64)
machine = "riscv64" if mode == "elsewhere" else "aarch64"
np.savez(answer, runtime=np.array("fake 1"), machine=np.array(machine), **found)
'''
IMAGES = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)

Ask = Callable[..., Answer]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """`ask(mode, trace=False)` runs three pictures on a machine that behaves so."""
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE, encoding="utf-8")

    def run(mode: str, *, trace: bool = False, on_picture: Callable[[], None] | None = None) -> Answer:
        line = (sys.executable, str(fake), mode)
        machine = Machine(name="a phone", line=line, site=tmp_path, machine="aarch64", environment={})
        return emulator.run(machine, Path("m.tflite"), IMAGES, macs=1000, trace=trace, on_picture=on_picture)

    return run


def test_outputs_come_back_picture_by_picture(ask: Ask) -> None:
    seen: list[int] = []
    answer = ask("good", on_picture=lambda: seen.append(1))
    assert (answer.runtime, answer.trace, len(seen)) == ("fake 1", None, 3)
    np.testing.assert_array_equal(answer.outputs["sums"], [66.0, 210.0, 354.0])


def test_a_trace_comes_back_with_its_graph(ask: Ask) -> None:
    trace = ask("good", trace=True).trace
    assert trace is not None
    assert [(o.kind, o.name, o.integer, o.sources) for o in trace.operators] == [
        ("CONV_2D", "a", True, ()),
        ("EXP", "b", False, (0,)),
    ]
    assert trace.digests.shape == (3, 2)
    assert trace.faithful


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("crash", r"a phone: failed with exit code 3: Illegal thing in libLiteRt\.so$"),
        ("silent", "a phone: failed with exit code 1: it said nothing"),
        ("signal", "a phone: was ended by signal 11"),
        ("nothing", "ended well, but its answer cannot be read"),
        ("garbage", "ended well, but its answer cannot be read"),
        ("short", "another number of pictures than 3"),
        ("empty", "another number of pictures than 3"),
        ("elsewhere", "of the kind riscv64, not aarch64"),
        ("ragged", "cannot be read: digests are"),
    ],
)
def test_a_machine_that_fails_is_an_error_with_its_last_words(ask: Ask, mode: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        ask(mode, trace=mode == "ragged")


def test_a_machine_that_hangs_is_stopped(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "START_S", 0.4)
    monkeypatch.setattr(emulator, "PICTURE_S", 0.0)
    started = time.monotonic()
    with pytest.raises(BackendError, match="gave no answer in 0 s and was stopped"):
        ask("hang")
    assert time.monotonic() - started < 30


def test_a_machine_is_waited_for_as_long_as_the_work_takes(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(emulator, "_execute", lambda machine, line, timeout_s, on_picture: waited.append(timeout_s))
    for trace in (False, True):
        with pytest.raises(BackendError, match="cannot be read"):
            ask("good", trace=trace)
    work = [seconds - emulator.START_S for seconds in waited]
    assert work[1] == pytest.approx(2 * work[0])
    assert work[0] == pytest.approx(3 * (emulator.PICTURE_S + 1000 / emulator.MACS_PER_S))


def test_a_picture_that_is_not_wanted_any_more_ends_the_machine(ask: Ask) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask("good", on_picture=interrupt)


def test_an_emulator_that_cannot_be_started(tmp_path: Path) -> None:
    machine = Machine(name="a phone", line=(str(tmp_path / "qemu"),), site=None, machine="aarch64", environment={})
    with pytest.raises(BackendError, match="qemu cannot be started: No such file"):
        emulator.probe(machine)


def test_a_probe_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "interpreter.py").write_text("raise RuntimeError('no such instruction')\n")
    line = (sys.executable, "-I", "-S", "-B")
    machine = Machine(name="a phone", line=line, site=tmp_path, machine="aarch64", environment={})
    with pytest.raises(BackendError, match="exit code 1: RuntimeError: no such instruction"):
        emulator.probe(machine)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a finished preparation, its files empty."""
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    folder = emulator.folder()
    names = {key: key for key in ("emulator", "system", "python", "site", "host_site")}
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    (folder / emulator.READY).write_text(json.dumps(names), encoding="utf-8")
    return folder


def test_a_finished_preparation_is_found(prepared: Path) -> None:
    found = emulator.find()
    assert found.arm64.line[:5] == (
        *(str(prepared / "emulator"), "-cpu", emulator.CPU),
        *("-L", str(prepared / "system")),
    )
    assert found.arm64.line[5] == str(prepared / "python")
    assert (found.arm64.site, found.x86_64.site) == (prepared / "site", prepared / "host_site")
    assert found.x86_64.line[0] == sys.executable


def test_what_is_not_set_up_exits_with_5_and_tells_the_command(prepared: Path) -> None:
    (prepared / "python").unlink()
    with pytest.raises(MissingSetupError, match="python is gone — facex doctor --setup-arm64"):
        emulator.find()
    for text in ("{", "{}", "[]"):
        (prepared / emulator.READY).write_text(text, encoding="utf-8")
        with pytest.raises(MissingSetupError, match="damaged"):
            emulator.find()
    (prepared / emulator.READY).unlink()
    with pytest.raises(MissingSetupError, match="has not been set up") as caught:
        emulator.find()
    assert caught.value.exit_code == EXIT_MISSING_EXTRA


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_an_arm64_machine_needs_no_emulation(prepared: Path, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UsageError, match="is ARM64 itself"):
        emulator.find()
