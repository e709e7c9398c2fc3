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


def test_up_to_half_of_the_pictures_may_be_blank(tmp_path, draw_photograph):
    blank(tmp_path / "a.png")
    draw_photograph(3, 64, 48).save(tmp_path / "b.png")
    found = photographs.find(tmp_path, option="--calib")
    assert len(list(images.pixels(found, SIZE, FILL))) == 2
    blank(tmp_path / "c.png", noise=60.0)
    found = photographs.find(tmp_path, option="--calib")
    with pytest.raises(PhotographError, match="2 of 3 calibration photographs are blank"):
        list(images.pixels(found, SIZE, FILL))


def test_frames_hold_what_was_loaded_and_leave_the_judgement_to_the_caller(tmp_path, draw_photograph):
    blank(tmp_path / "a.png")
    draw_photograph(3, 64, 48).save(tmp_path / "b.png")
    blank(tmp_path / "c.png")
    found = photographs.find(tmp_path, option="--calib")
    frames = list(images.frames(found, SIZE, FILL))
    assert [frame.photograph for frame in frames] == found
    np.testing.assert_array_equal(frames[1].rgb, photographs.load(found[1].path))
    np.testing.assert_array_equal(frames[1].pixels[0], photographs.letterbox(frames[1].rgb, SIZE, FILL).pixels)


def test_each_photograph_is_decoded_once(tmp_path, draw_photograph, monkeypatch):
    for i in range(3):
        draw_photograph(i, 64, 48).save(tmp_path / f"{i}.jpg")
    decoded = []
    load = photographs.load
    monkeypatch.setattr(images, "load", lambda path: decoded.append(path.name) or load(path))
    list(images.pixels(photographs.find(tmp_path, option="--calib"), SIZE, FILL))
    assert decoded == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_damaged_picture_is_named(tmp_path, draw_photograph):
    draw_photograph(3, 64, 48).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than that")
    found = photographs.find(tmp_path, option="--calib")
    with pytest.raises(PhotographError, match=r"b\.jpg: cannot be decoded"):
        list(images.pixels(found, SIZE, FILL))
