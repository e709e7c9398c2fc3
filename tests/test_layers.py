"""Imports point downwards, and the light modules stay light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import facex

HEAVY = {"torch", "tensorflow", "onnx", "onnxruntime", "onnxsim", "coremltools", "numpy", "PIL", "rich", "jsonschema"}
HEAVY |= {"matplotlib", "jinja2", "markupsafe"}
LIGHT = [
    *("facex", "facex.cli", "facex.config", "facex.doctor", "facex.pipeline", "facex.recipe", "facex.types"),
    *("facex.errors", "facex.manifest", "facex.workspace", "facex.progress", "facex.exporters", "facex.device_bench"),
    *("facex.cli_options", "facex.cache", "facex.download", "facex.weights", "facex.auditing", "facex.debugging_fp16"),
    *("facex.report.terminal", "facex.report.listing", "facex.report.progress", "facex.checking", "facex.examination"),
    "facex.comparing",
    *("facex.architectures", "facex.device_bench.emulator", "facex.device_bench.emulator_setup"),
    *("facex.bundling", "facex.bundles", "facex.goldens", "facex.report.goldens", "facex.report.bundles"),
    *("facex.diffing", "facex.regression", "facex.launching", "facex.report.changes"),
    *("facex.showing", "facex.sightings", "facex.report.outcome", "facex.report.page.exhibits"),
]


@pytest.fixture(scope="module")
def root() -> Path:
    """The folder of `pyproject.toml`."""
    found = Path(facex.__file__).parent.parent
    assert (found / "pyproject.toml").is_file()
    return found


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contract of a folder's `pyproject.toml`, held against the package beside it."""
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_rooms_import_downwards_only(root: Path) -> None:
    done = _lint(root)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("errors.py", "from facex import types"),
        ("types.py", "import facex.pipeline"),
        ("reference/geometry.py", "from facex.exporters import names"),
        ("parity/match.py", "def late():\n    from facex.device_bench import host"),
        ("pipeline.py", "from facex import checking"),
        ("helpers.py", '"""A module in no layer."""'),
    ],
)
def test_an_import_upwards_would_be_seen(root: Path, tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(root / "facex", tmp_path / "facex", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    with (tmp_path / "facex" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = _lint(tmp_path)
    assert done.returncode == 1
    assert module.split("/")[0].removesuffix(".py") in done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()
