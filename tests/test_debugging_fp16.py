"""`facex debug-fp16` on a Core ML file of the seeded detector in single precision, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex.debugging_fp16 import Audited
from facex.exporters._mil.halves import LARGEST, Seen
from facex.report import listing

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def exported_packages(seeded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import facex

    out = tmp_path_factory.mktemp("packages")
    found = facex.export(seeded_checkpoint, targets=["coreml"], precisions=["fp32", "fp16"], sizes=["160x160"], out=out)
    return {str(a.precision): out / a.path for a in found.artifacts}


@pytest.mark.slow
def test_its_table_and_its_json_show_the_same_the_most_endangered_first(
    run_facex: Run, exported_packages, photo_dir, tmp_path
):
    line = ("debug-fp16", exported_packages["fp32"], "--images", photo_dir, "--photographs", 2)
    ran = run_facex(*line, "--top", 5)
    assert ran.code == 0
    assert "2 of 6 photographs, evenly spaced" in ran.out
    assert "nothing is at risk in half precision" in ran.out
    found = json.loads(run_facex(*line, "--json").out)
    assert (found["photographs"], found["photographs_available"], found["fp32_ops"]) == (2, 6, [])
    danger = [max(v["largest"] / (LARGEST if v["constant"] else LARGEST / 4), v["error"] * 512)
              for v in found["values"]]  # fmt: skip
    assert danger == pytest.approx(sorted(danger, reverse=True), rel=1e-3)  # JSON is rounded
    table = ran.out.split("─\n")[1].splitlines()[:5]
    assert [row.split()[0] for row in table] == [v["name"] for v in found["values"][:5]]
    (image,) = [v for v in found["values"] if v["operator"] == "sub" and not v["constant"]]
    assert 123 <= image["largest"] <= 255  # pixels without their mean


@pytest.mark.slow
def test_a_file_in_half_precision_hides_its_range_and_is_refused(run_facex: Run, exported_packages, photo_dir):
    ran = run_facex("debug-fp16", exported_packages["fp16"], "--images", photo_dir, "--photographs", 1)
    assert ran.code == 2
    assert "half precision already" in ran.error
    assert "--precision fp32" in ran.error


def test_other_targets_are_refused(run_facex: Run, exported: Path, photo_dir: Path) -> None:
    ran = run_facex("debug-fp16", exported / "seeded_160x160_fp32.onnx", "--images", photo_dir)
    assert ran.code == 2
    assert "onnx files do not compute in half precision" in ran.error
    assert "--target coreml --precision fp32" in ran.error


def test_photographs_are_needed(run_facex: Run, exported: Path) -> None:
    ran = run_facex("debug-fp16", exported / "seeded_160x160_fp32.onnx")
    assert ran.code == 2
    assert "--images" in ran.error


def _seen(name: str, largest: float) -> Seen:
    return Seen(
        name=name, operator="conv", operations=(name,), constant=False, largest=largest, beyond_fraction=0.125,
        subnormal_fraction=0.25, lost_fraction=0.0625, error=0.0005,
    )  # fmt: skip


def test_the_table_says_why_and_that_there_is_more() -> None:
    from rich.console import Console

    seen = (_seen("fine", 1.0), _seen("large", 99999.0), _seen("larger", float("inf")))
    stream = io.StringIO()
    found = Audited(artifact="a.mlpackage", photographs=3, available=3, seen=seen)
    listing.audited(found, 2, Console(file=stream, width=100, soft_wrap=True, highlight=False))
    shown = stream.getvalue().splitlines()
    rows = [line.split() for line in shown if " conv " in line and "at risk" not in line]
    assert rows == [
        ["larger", "conv", "inf", "12.500%", "25.000%", "6.250%", "0.050%"],
        ["large", "conv", "1e+05", "12.500%", "25.000%", "6.250%", "0.050%"],
    ]
    assert "2 of 3 values, the most endangered first (--top; --json lists all)" in shown
    risks = [line for line in shown if line.startswith("at risk: ")]
    assert [risk.split(":")[1] for risk in risks] == [" conv larger", " conv large"]
    assert found.plain()["fp32_ops"] == ["large", "larger"]
