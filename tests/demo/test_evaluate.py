"""What is measured on rendered photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facex.demo import evaluate
from facex.types import Detections

POINTS = [[12.0, 12.0], [18.0, 12.0], [15.0, 15.0], [12.0, 18.0], [18.0, 18.0]]
FACE: dict[str, Any] = {"bbox": [10.0, 10.0, 10.0, 10.0], "landmarks": POINTS}


def _found(*boxes: list[float], off: float = 0.0) -> Detections:
    n = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(n, 0.9, np.float32),
        landmarks=np.array([POINTS] * n, np.float32).reshape(-1, 5, 2) * 2 + np.float32(off),
    )


def test_errors_are_distances_over_the_side_of_the_box() -> None:
    # the photograph is enlarged twice: the face is 20 px wide, and all points are off by 3 px to the right and down
    errors, stray = evaluate._matched(_found([20, 20, 40, 40], off=3.0), [FACE], 2.0)
    assert errors == [pytest.approx(3 * np.sqrt(2) / 20)]
    assert stray == 0


def test_a_face_that_is_not_found_has_no_error() -> None:
    errors, stray = evaluate._matched(_found([30, 30, 50, 50], [100, 0, 120, 20]), [FACE], 2.0)
    assert errors == [None]
    assert stray == 2


def test_without_detections_nothing_is_found_and_without_faces_everything_is_stray() -> None:
    assert evaluate._matched(_found(), [FACE, FACE], 2.0) == ([None, None], 0)
    assert evaluate._matched(_found([20, 20, 40, 40]), [], 2.0) == ([], 1)
