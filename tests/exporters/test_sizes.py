"""Files for an input that only the finest level divides: both finer maps have an odd number of rows and of columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from facex import exporters
from facex.calibration import engine
from facex.calibration.schedule import Schedule
from facex.device_bench import _work
from facex.exporters import Job, _kernels
from facex.progress import Clock
from facex.reference import photographs
from facex.reference.detector import ReferenceSession
from facex.types import Effort, ExportOptions, FileFacts, Head, Precision, Size

SIZE = Size(height=40, width=72)
CELLS = [(5, 9), (3, 5), (2, 3)]
LEAST_DB = {Precision.FP32: 80.0, Precision.FP16: 35.0, Precision.W8A8: 3.0}
"""Of every output beside the reference's; what 8 bits leave of seeded weights is compared with their plan as well."""


@pytest.fixture(scope="module")
def plan(detector: Any, pivot: Any, calib_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The QDQ model, as the engine makes it of four pictures."""
    folder = tmp_path_factory.mktemp("plan")
    setting = engine.Setting(
        contract=detector.contract, size=SIZE, head=Head.DECODED, effort=Effort.FAST, seed=0, threads=1,
        schedule=Schedule(steps=8, batch=4, side=96, pool=16),
    )  # fmt: skip
    given = pivot(size=SIZE)
    seen = engine.read(given, photographs.find(calib_dir, option="--calib"), setting, Clock())
    engine.calibrate(given, seen, setting, states=folder, clock=Clock()).write(folder / "qdq.onnx")
    return folder / "qdq.onnx"


@pytest.fixture(scope="module")
def export(
    detector: Any, pivot: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Precision], tuple[Path, FileFacts]]:
    """`export(target, precision)` gives a verified file and what it says of itself; written once."""
    folder, written = tmp_path_factory.mktemp("files"), {}

    def made(target: str, precision: Precision) -> tuple[Path, FileFacts]:
        if (target, precision) not in written:
            info, module = exporters.info(target), exporters.load(target)
            job = Job(
                path=folder / f"net_{SIZE}_{precision}{info.suffix}", precision=precision, head=Head.DECODED,
                size=SIZE, detector=detector, pivot=pivot(size=SIZE),
                qdq=request.getfixturevalue("plan") if precision is Precision.W8A8 else None,
                options=exporters.settled(ExportOptions(opset=17, deployment_target=None), info, precision),
            )  # fmt: skip
            module.export(job)
            facts = module.describe(job.path)
            exporters.verify(job, info, facts)
            written[target, precision] = job.path, facts
        return written[target, precision]

    return made


@pytest.fixture(scope="module")
def image(draw_photograph: Any) -> np.ndarray:
    return np.asarray(draw_photograph(44, SIZE.width, SIZE.height))[None]


def snr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    noise = np.square(found - wanted.astype(np.float64)).sum()
    return 10 * math.log10(np.square(wanted.astype(np.float64)).sum() / max(noise, 1e-30))


def quick(target: str, precision: Precision) -> bool:
    return target == "onnx" and precision is not Precision.W8A8


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        pytest.param(target, precision, marks=[] if quick(target, precision) else [pytest.mark.slow])
        for target in exporters.names()
        for precision in LEAST_DB
    ],
)
def test_a_file_is_the_reference(export, detector, image, target, precision):
    path, facts = export(target, precision)
    assert {t.name: t.shape for t in facts.outputs}["scores"] == (1, 2 * sum(h * w for h, w in CELLS))
    found = exporters.load(target).open_session(path, threads=1)({"image": image})
    wanted = ReferenceSession(detector, SIZE, Head.DECODED, threads=1)({"image": image})
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        assert snr_db(found[name], value) > LEAST_DB[precision], name


@pytest.mark.slow
@pytest.mark.parametrize("target", exporters.names())
def test_cut_maps_stay_on_integers(export, plan, run_onnx, image, target):
    """No cut has a grid of its own, so that nothing is quantized anew, and the file is what its plan says."""
    path, facts = export(target, Precision.W8A8)
    assert facts.integer_mac_fraction == 1.0
    assert facts.float_islands == ()
    assert facts.quantization is not None
    assert (facts.quantization.requantizations, facts.quantization.unasked_floats) == ((), 0)
    found = exporters.load(target).open_session(path, threads=1)({"image": image})
    planned = run_onnx(plan, {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}, optimized=True)
    for name, value in planned.items():
        assert snr_db(found[name], value) > (20 if target == "coreml" else 25), name  # Core ML's floats are half


@pytest.mark.slow
@pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
def test_every_cut_passes_its_integers_on(one_step, export, plan, image, delegate):
    path, facts = export("tflite", Precision.W8A8)
    report = one_step.Files(path, plan).compare(image, delegate=delegate)
    assert report.disagreements == []
    cuts = [c for c in report.comparisons if c.operator == "STRIDED_SLICE"]
    trunk = [n for n in onnx.load(str(plan)).graph.node if n.op_type == "Slice" and n.name.startswith("/network/")]
    assert len(cuts) == len(trunk) == 4  # rows and columns, twice
    assert facts.operators["STRIDED_SLICE"] == 4 + 2  # the decoder's
    assert {c.worst for c in cuts} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.W8A8])
def test_xnnpack_takes_the_cuts(export, precision):
    known = _kernels.measure(export("tflite", precision)[0]).reference_kernels
    assert known is not None
    assert "STRIDED_SLICE" not in {kernel.operator for kernel in known}


@pytest.mark.slow
def test_estimates_count_the_work_of_the_cut_maps(export):
    """The operators of the TFLite file against the shapes of the ONNX graph."""
    (tflite, counted), (_, facts) = export("tflite", Precision.FP32), export("onnx", Precision.FP32)
    work = _work.of_tflite(tflite)
    assert work.mmacs == pytest.approx(facts.macs / 1e6)
    moved = {name: count for name, count in counted.operators.items() if name not in _work.FREE}
    assert moved["STRIDED_SLICE"] == 6
    assert work.operators == sum(moved.values())
