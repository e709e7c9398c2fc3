"""Where crops are drawn, and how they are varied."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facex.calibration.reconstruct import crops
from facex.calibration.schedule import Schedule


def numbered(height: int, width: int) -> np.ndarray:
    """A photograph whose pixels say where they are: row, column, and row xor column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, y ^ x], axis=-1).astype(np.uint8)


def places(found: torch.Tensor) -> list[tuple[int, int, bool]]:
    """Top, left and whether mirrored, of crops of a numbered photograph, which must be contiguous."""
    result = []
    for crop in found.numpy().astype(int):
        mirrored = crop[0, 0, 1] > crop[0, -1, 1]
        straight = crop[:, ::-1] if mirrored else crop
        top, left = straight[0, 0, :2]
        side = len(crop)
        np.testing.assert_array_equal(straight, numbered(256, 256)[top : top + side, left : left + side])
        result.append((int(top), int(left), bool(mirrored)))
    return result


def drawn(photograph: np.ndarray, faces: np.ndarray, **how: Any) -> torch.Tensor:
    schedule = Schedule(**{"pool": 200, "side": 64, "halved": 0.0, **how})
    return crops([photograph], [faces], schedule, np.random.default_rng(5))


NONE = np.zeros((0, 4), np.float32)


def test_crops_are_squares_of_the_photograph_from_everywhere_half_of_them_mirrored():
    found = drawn(numbered(160, 200), NONE)
    assert found.shape == (200, 64, 64, 3)
    assert found.dtype == torch.uint8
    tops, lefts, mirrored = zip(*places(found), strict=True)
    assert (min(tops), min(lefts)) < (4, 6)
    assert max(tops) in range(90, 97)
    assert max(lefts) in range(128, 137)
    assert 70 < sum(mirrored) < 130


def test_crops_near_faces_hold_the_face():
    face = np.array([[120, 30, 140, 60]], np.float32)
    where = places(drawn(numbered(160, 200), face, near_faces=1.0))
    inside = [top <= 45 < top + 64 and left <= 130 < left + 64 for top, left, _ in where]
    assert sum(inside) > 0.9 * len(inside)
    away = places(drawn(numbered(160, 200), face, near_faces=0.0))
    assert sum(top <= 45 < top + 64 and left <= 130 < left + 64 for top, left, _ in away) < 0.6 * len(away)


def test_faces_at_the_edge_are_cropped_within_the_photograph():
    face = np.array([[-20, -20, 4, 4], [190, 150, 230, 190]], np.float32)
    where = places(drawn(numbered(160, 200), face, near_faces=1.0))
    assert all(0 <= top <= 96 and 0 <= left <= 136 for top, left, _ in where)


def test_crops_are_no_larger_than_the_photograph():
    assert drawn(numbered(48, 160), NONE, side=192, pool=3).shape == (3, 48, 48, 3)


def test_halved_crops_show_twice_as_much_at_half_the_size():
    rows = np.repeat(np.arange(0, 240, 2, dtype=np.uint8), 2)  # pairs of equal rows: the mean of 2x2 is exact
    photograph = np.broadcast_to(rows[:, None, None], (240, 200, 3)).copy()
    spans = [int(np.ptp(crop[:, 0, 0].numpy().astype(int))) for crop in drawn(photograph, NONE, halved=1.0)]
    assert set(spans) <= {125, 126, 127}
    plain = [int(np.ptp(crop[:, 0, 0].numpy().astype(int))) for crop in drawn(photograph, NONE)]
    assert set(plain) <= {62, 64}
    small = np.zeros((120, 200, 3), np.uint8)  # no room for twice the side
    assert drawn(small, NONE, halved=1.0).shape == (200, 64, 64, 3)
