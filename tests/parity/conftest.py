"""Builders of detections and of ground truth, as fixtures to call."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex.types import Detections


def _detections(
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float] | None = None,
    landmarks: Any = None,
) -> Detections:
    box = np.asarray(boxes, np.float32).reshape(-1, 4)
    if landmarks is None:  # two points a face: the corners of its box
        landmarks = box.reshape(-1, 2, 2)
    return Detections(
        boxes=box,
        scores=np.full(len(box), 0.9, np.float32) if scores is None else np.asarray(scores, np.float32),
        landmarks=np.asarray(landmarks, np.float32),
    )


@pytest.fixture(scope="session")
def detections() -> Callable[..., Detections]:
    """`detections(boxes, scores=0.9 each, landmarks=the corners)` gives `Detections`."""
    return _detections


@pytest.fixture
def gt_file(tmp_path: Path) -> Callable[[Any], Path]:
    """`gt_file(images)` writes `{"images": images}`; text is written as it is."""

    def write(images: Any) -> Path:
        path = tmp_path / "gt.json"
        text = images if isinstance(images, str) else json.dumps({"images": images})
        path.write_text(text, encoding="utf-8")
        return path

    return write
