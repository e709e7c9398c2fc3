"""What the rows of files that choose faces promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facex.parity.rows import malformed
from facex.types import Selection

ROWS, FACES = 6, 3
SELECTION = Selection(max_faces=ROWS)
Outputs = dict[str, Any]


def sound() -> Outputs:
    boxes = np.zeros((1, ROWS, 4), np.float32)
    boxes[0, :FACES] = np.arange(FACES)[:, None] * 100 + np.asarray([0, 0, 50, 50])
    scores = np.zeros((1, ROWS), np.float32)
    scores[0, :FACES] = [0.9, 0.7, 0.5]
    landmarks = np.zeros((1, ROWS, 4), np.float32)
    landmarks[0, :FACES] = 7
    return {"boxes": boxes, "scores": scores, "landmarks": landmarks, "count": np.asarray([FACES], np.int32)}


def changed(name: str, row: int, value: float | tuple[float, ...]) -> Callable[[Outputs], None]:
    def change(outputs: Outputs) -> None:
        outputs[name][0, row] = value

    return change


def counted(value: float) -> Callable[[Outputs], None]:
    def change(outputs: Outputs) -> None:
        outputs["count"] = np.asarray([value])

    return change


def test_sound_rows() -> None:
    assert malformed(sound(), SELECTION) == 0
    nothing = {name: np.zeros_like(value) for name, value in sound().items()}
    assert malformed(nothing, SELECTION) == 0


def test_scores_that_are_too_high_to_tell_apart_may_come_in_any_order() -> None:
    outputs = sound()
    outputs["scores"][0, :2] = [0.999991, 1]
    assert malformed(outputs, SELECTION) == 0


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (changed("scores", 2, 0.49), 1),
        (changed("scores", 1, 0.95), 1),
        (changed("scores", 0, np.nan), 1),
        (changed("landmarks", 1, np.inf), 1),
        (changed("boxes", 2, (110, 100, 150, 150)), 1),  # 0.8 of the second box
        (changed("boxes", 5, (0, 0, 1, 0)), 1),
        (changed("landmarks", 4, np.nan), 1),
        (counted(4), 1),
        (counted(2), 1),
        (counted(-1), ROWS),
        (counted(ROWS + 1), ROWS),
        (counted(1.5), ROWS),
        (counted(np.nan), ROWS),
    ],
)
def test_rows_that_are_not_sound(change: Callable[[Outputs], None], rows: int) -> None:
    outputs = sound()
    change(outputs)
    assert malformed(outputs, SELECTION) == rows


def test_a_wider_limit_allows_what_a_narrow_one_forbids() -> None:
    outputs = sound()
    outputs["boxes"][0, 2] = (110, 100, 150, 150)
    assert malformed(outputs, Selection(max_faces=ROWS, nms_iou=0.85)) == 0
    assert malformed(outputs, Selection(max_faces=ROWS, nms_iou=0.75)) == 1
