"""Calibration pixels are those of inference."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facex.calibration import images
from facex.errors import EXIT_INPUT, PhotographError
from facex.reference import photographs
from facex.types import Size

SIZE = Size(height=96, width=128)
FILL = (123.0, 117.0, 104.0)


def test_pixels_are_letterboxed_as_for_inference(photo_dir):
    found = photographs.find(photo_dir, option="--calib")
    batches = list(images.pixels(found, SIZE, FILL))
    assert len(batches) == len(found) == 6
    for photograph, batch in zip(found, batches, strict=True):
        assert (batch.shape, batch.dtype) == ((1, 96, 128, 3), np.uint8)
        wanted = photographs.letterbox(photographs.load(photograph.path), SIZE, FILL)
        np.testing.assert_array_equal(batch[0], wanted.pixels)


def blank(path, grey=128, noise=0.0):
    values = np.random.default_rng(1).normal(grey, noise, (48, 64, 3)) if noise else np.full((48, 64, 3), grey)
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(path)


def test_blank_pictures_alone_are_refused(tmp_path):
    for i, grey in enumerate((0, 128, 255)):
        blank(tmp_path / f"{i}.png", grey)
    blank(tmp_path / "noise.png", noise=1.0)
    found = photographs.find(tmp_path, option="--calib")
    with pytest.raises(PhotographError, match="all 4 calibration photographs are blank") as caught:
        list(images.pixels(found, SIZE, FILL))
    assert caught.value.exit_code == EXIT_INPUT
    assert str(tmp_path) in str(caught.value)


def test_one_real_picture_among_blanks_is_enough(tmp_path, draw_photograph):
    blank(tmp_path / "a.png")
    draw_photograph(3, 64, 48).save(tmp_path / "b.png")
    found = photographs.find(tmp_path, option="--calib")
    assert len(list(images.pixels(found, SIZE, FILL))) == 2


def test_a_damaged_picture_is_named(tmp_path, draw_photograph):
    draw_photograph(3, 64, 48).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than that")
    found = photographs.find(tmp_path, option="--calib")
    with pytest.raises(PhotographError, match=r"b\.jpg: cannot be decoded"):
        list(images.pixels(found, SIZE, FILL))
