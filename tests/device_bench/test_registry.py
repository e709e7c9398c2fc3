"""The room's registry, and that listing it or naming this machine loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facex import device_bench


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
        "import sys, facex.device_bench, facex.device_bench.host, facex.device_bench.budget\n"
        "heavy = {'numpy', 'torch', 'tensorflow', 'onnxruntime', 'rich', 'click'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
