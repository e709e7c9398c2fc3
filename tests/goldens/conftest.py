"""A folder of goldens of the seeded detector."""

from __future__ import annotations

from pathlib import Path

import pytest

from facex.goldens import format as goldens
from facex.goldens.format import Tolerances
from facex.goldens.record import record
from facex.progress import Clock
from facex.reference import photographs
from facex.reference.detector import Detector
from facex.types import Artifact, Head, Precision, Size

SIZE = Size(height=160, width=160)


@pytest.fixture(scope="session")
def goldens_dir(detector: Detector, photo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`goldens.json`, which names two files that are not there, and the pictures; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("goldens")
    found = photographs.find(photo_dir, option="--goldens")
    recorded = record(found, detector, SIZE, folder, threads=1, clock=Clock())
    models = [
        goldens.recorded(_artifact(precision, i), 5, Tolerances(score=0.02 + i / 100, box=0.03, landmark=0.04))
        for i, precision in enumerate((Precision.W8A8, Precision.FP32))
    ]
    plain = {
        "schema_version": goldens.SCHEMA_VERSION,
        "facex": "0.1.0",
        "checkpoint": {"name": detector.path.name, "sha256": detector.sha256},
        "contract": goldens.as_plain(detector.contract),
        **goldens.settings(detector.contract),
        "models": models,
        "goldens": goldens.set_to_plain(recorded),
    }
    (folder / goldens.STANDALONE).write_text(goldens.to_text(plain))
    return folder


def _artifact(precision: Precision, digit: int) -> Artifact:
    return Artifact(
        path=f"model_160x160_{precision}.onnx",
        target="onnx",
        precision=precision,
        head=Head.DECODED,
        size=SIZE,
        size_bytes=1000,
        sha256=str(digit) * 64,
        inputs=(),
        outputs=(),
        integer_mac_fraction=0.0,
        minimum_runtime="ONNX opset 17",
        runtime=None,
        promoted=True,
    )
