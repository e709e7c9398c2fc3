"""The room's registry, and that listing it or naming this machine loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facex import device_bench
from facex.errors import UsageError
from facex.types import HOST, Delegate, DeviceOptions


def test_names_are_the_device_modules() -> None:
    folder = Path(device_bench.__file__).parent
    files = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}
    assert device_bench.names() == sorted(files - {"budget", "emulator", "emulator_setup"})
    assert "host" in device_bench.names()


def test_a_new_file_is_a_new_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("toaster", "_shared", "budget"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('listing imports nothing')\n")
    monkeypatch.setattr(device_bench, "__path__", [str(tmp_path)])
    assert device_bench.names() == ["toaster"]


def test_importing_the_room_loads_nothing_heavy() -> None:
    program = (
        "import sys, facex.device_bench, facex.device_bench.budget\n"
        "for name in facex.device_bench.names(): facex.device_bench.find(name)\n"
        "heavy = {'numpy', 'torch', 'tensorflow', 'onnxruntime', 'rich', 'click'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_word_may_have_an_argument() -> None:
    for word, argument in (("adb", ""), ("adb:ABC", "ABC"), ("adb:10.0.0.2:5555", "10.0.0.2:5555")):
        found = device_bench.find(word)
        assert (found[0].__name__, found[1]) == ("facex.device_bench.adb", argument)


def test_a_phone_of_the_table_is_a_word_of_its_own() -> None:
    assert "pixel-4" in device_bench.phones()
    assert not {*device_bench.phones()} & {*device_bench.names()}
    for word in ("pixel-4", "estimate:pixel-4"):
        device, argument = device_bench.find(word)
        assert (device.__name__, argument) == ("facex.device_bench.estimate", "pixel-4")
        assert device_bench.budgeted(word) == "pixel-4"
    assert device_bench.budgeted("adb:ABC") == "adb"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pixel", "--device pixel: unknown — choose from adb, apple, estimate, host, pixel-1"),
        ("", "--device : unknown"),
        ("_phone", "--device _phone: unknown"),
        ("adb:", "--device adb:: names nothing after the colon"),
        ("host:1", "--device host:1: takes no argument"),
    ],
)
def test_a_wrong_word_is_refused(word: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        device_bench.find(word)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", [name for name in device_bench.names() if name != HOST])
def test_every_device_beside_the_host_says_what_it_needs(name: str) -> None:
    device, _ = device_bench.find(name)
    assert device.TARGETS
    assert callable(device.measure)
    device_bench.refuse_unknown(name, device, DeviceOptions(threads=7, warmup=0, runs=1))


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [
        ("host", {"delegate": Delegate.GPU}, "--delegate"),
        ("host", {"cpu_mask": "f0"}, "--cpu-mask"),
        ("apple", {"profile": True}, "--profile"),
        ("apple", {"cpu_mask": "f0"}, "--cpu-mask"),
        ("apple", {"benchmark_model": Path("m")}, "--benchmark-model"),
    ],
)
def test_options_of_another_device_are_refused(name: str, options: dict[str, object], option: str) -> None:
    device, _ = device_bench.find(name)
    with pytest.raises(UsageError, match=f"{option}: --device {name} does not know this option"):
        device_bench.refuse_unknown(name, device, DeviceOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["host", "pixel-4", "adb", "adb:ABC123"])
def test_budgets_may_be_set_for_devices_that_nothing_measures_here(word: str) -> None:
    assert device_bench.known(word)


@pytest.mark.parametrize("word", ["", "hots", "pixel-40", "Pixel-4", "budget", ":adb"])
def test_a_device_that_nobody_knows(word: str) -> None:
    assert not device_bench.known(word)


@pytest.mark.parametrize("name", [name for name in device_bench.names() if name != "host"])
def test_several_numbers_of_threads_are_for_the_host(name: str) -> None:
    device, _ = device_bench.find(name)
    with pytest.raises(UsageError, match=f"--threads: --device {name} takes one number of threads"):
        device_bench.refuse_unknown(name, device, DeviceOptions(threads=1, also_threads=(2,)))
    host, _ = device_bench.find("host")
    device_bench.refuse_unknown("host", host, DeviceOptions(threads=1, also_threads=(2,), profile=True))
