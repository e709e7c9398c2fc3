"""Crops of rendered photographs."""

from __future__ import annotations

import numpy as np
import pytest

from facex.demo import examples

MARKS = np.array([[60, 40], [100, 44], [82, 66], [64, 84], [98, 88]], np.float32)
BOX = np.array([[44, 20, 116, 104]], np.float32)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


@pytest.fixture
def photo() -> examples.Example:
    """A grey picture with a coloured spot at every landmark."""
    pixels = np.full((150, 200, 3), 128, np.uint8)
    for (x, y), colour in zip(MARKS.astype(int), COLOURS, strict=True):
        pixels[y - 4 : y + 5, x - 4 : x + 5] = colour
    return examples.Example(pixels=pixels, boxes=BOX, landmarks=MARKS[None], counts=np.array([True]))


def _spots(example: examples.Example, pixels: np.ndarray) -> int:
    """How many landmarks that lie in the picture are at the spot of their colour."""
    side = pixels.shape[0]
    order = COLOURS if example.landmarks[0, 0, 0] < example.landmarks[0, 1, 0] else None
    found = 0
    for i, (x, y) in enumerate(example.landmarks[0]):
        if 3 <= x < side - 3 and 3 <= y < side - 3:
            colour = pixels[int(y), int(x)].astype(int)
            assert order is not None
            assert np.abs(colour - order[i]).max() < 90, (i, colour)
            found += 1
    return found


def test_the_truth_moves_with_the_pixels(photo: examples.Example) -> None:
    rng, seen = np.random.default_rng(0), 0
    for _ in range(60):
        cut = examples.crop(rng, photo, 96)
        assert cut.pixels.shape == (96, 96, 3)
        if len(cut.boxes) and cut.counts[0]:
            # in a mirror the first landmark is the other eye
            mirrored = _is_mirrored(cut)
            seen += _spots(examples.flip(cut), cut.pixels[:, ::-1]) if mirrored else _spots(cut, cut.pixels)
            assert cut.boxes.min() >= 0
            assert cut.boxes.max() <= 96
    assert seen > 60


def _is_mirrored(cut: examples.Example) -> bool:
    """The right eye is lower in the picture, the left one in its mirror."""
    return bool(cut.landmarks[0, 0, 1] > cut.landmarks[0, 1, 1])


def test_a_mirror_swaps_the_sides(photo: examples.Example) -> None:
    other = examples.flip(photo)
    assert other.boxes.tolist() == [[200 - 116, 20, 200 - 44, 104]]
    assert other.landmarks[0].tolist() == [[100, 44], [140, 40], [118, 66], [102, 88], [136, 84]]
    assert np.array_equal(other.pixels[:, ::-1], photo.pixels)
    back = examples.flip(other)
    assert np.array_equal(back.boxes, photo.boxes)
    assert np.array_equal(back.landmarks, photo.landmarks)


def test_a_face_of_which_too_little_is_left_does_not_count(photo: examples.Example) -> None:
    rng = np.random.default_rng(1)
    for _ in range(80):
        cut = examples.crop(rng, photo, 64)
        for box, counts in zip(cut.boxes, cut.counts, strict=True):
            if counts:
                assert box[3] - box[1] >= examples.MIN_FACE_PX
                assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(72 / 84, rel=0.67)


def test_a_photograph_without_faces_gives_crops_without() -> None:
    empty = examples.Example(
        pixels=np.zeros((80, 90, 3), np.uint8), boxes=np.zeros((0, 4), np.float32),
        landmarks=np.zeros((0, 5, 2), np.float32), counts=np.zeros(0, bool),
    )  # fmt: skip
    cut = examples.crop(np.random.default_rng(0), empty, 64)
    assert cut.boxes.shape == (0, 4)
    assert cut.landmarks.shape == (0, 5, 2)


def test_recolouring_keeps_shapes_and_changes_colours(photo: examples.Example) -> None:
    rng = np.random.default_rng(0)
    changed = [examples.recolour(rng, photo.pixels) for _ in range(30)]
    assert all(c.shape == photo.pixels.shape and c.dtype == np.uint8 for c in changed)
    greys = [float(c[:10].mean()) for c in changed]
    assert np.std(greys) > 10
    assert 90 < np.mean(greys) < 166
    assert any(np.ptp(c[40, 60]) == 0 for c in changed)  # sometimes without colour


def test_only_faces_that_can_be_seen_count() -> None:
    boxes = np.array([[0, 0, 20, 20], [0, 0, 20, 20], [0, 0, 3, 4]], np.float32)
    assert examples.usable(np.float32([0.9, 0.1, 1.0]), boxes).tolist() == [True, False, False]
