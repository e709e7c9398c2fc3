from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facex.report.page import overlays, thumbnails
from facex.sightings import Sightings


def test_a_photograph_is_made_small_and_keeps_its_aspect(draw_photograph: Callable[..., Any]) -> None:
    pixels = np.asarray(draw_photograph(1, 1500, 900))
    path = Path("a.jpg")
    found = thumbnails.made([path], lambda _: pixels)[path]
    image = Image.open(io.BytesIO(found.webp))
    assert image.size == (found.width, found.height) == (512, 307)
    assert found.scale == pytest.approx(512 / 1500)
    shrunk = np.asarray(Image.fromarray(pixels).resize(image.size), np.float64)
    assert np.abs(np.asarray(image, np.float64) - shrunk).mean() < 10


def test_a_small_photograph_stays_as_it_is() -> None:
    path = Path("a.jpg")
    found = thumbnails.made([path], lambda _: np.zeros((40, 60, 3), np.uint8))[path]
    assert (found.width, found.height, found.scale) == (60, 40, 1.0)


def test_all_of_them_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3)).astype(np.uint8)
    paths = [Path(f"{i}.jpg") for i in range(4)]
    large = thumbnails.made(paths, lambda _: noise)
    total = sum(len(thumbnail.webp) for thumbnail in large.values())
    monkeypatch.setattr(thumbnails, "TOTAL_BYTES", total // 2)
    small = thumbnails.made(paths, lambda _: noise)
    assert sum(len(thumbnail.webp) for thumbnail in small.values()) <= total // 2
    assert {thumbnail.width for thumbnail in small.values()} < {416, 320, 200}
    assert list(small) == paths


def test_the_worst_of_every_run_come_first(sightings: Callable[..., Sightings]) -> None:
    a, b, c, d = (Path(f"{name}.jpg") for name in "abcd")
    seen = {"one": sightings([a, b], 5, 0), "two": sightings([c, a, d], 5, 1)}
    assert thumbnails.chosen(seen) == (a, c, b, d)
    alike = {"one": sightings([a, b], 5, 0, differing=False)}
    assert thumbnails.chosen(alike) == (a,)
    assert thumbnails.chosen({}) == ()


def test_faces_are_where_they_are_in_the_photograph(sightings: Callable[..., Sightings]) -> None:
    """A box of the network's input, brought to the thumbnail by hand."""
    path = Path("a.jpg")
    (scene,) = sightings([path], 5, 0).scenes
    thumbnail = thumbnails.made([path], lambda _: np.zeros((512, 1024, 3), np.uint8))[path]
    left, right = overlays.sides(scene, thumbnail)
    assert (len(left.lost), len(left.extra), len(right.lost), len(right.extra)) == (3, 0, 3, 2)
    x1, y1, x2, y2 = scene.reference.boxes[scene.lost[0]] / scene.scale * 0.5
    path_text = left.lost[0].path
    numbers = [float(n) for n in path_text.replace("M", " ").replace("H", " ").replace("V", " ").rstrip("Z").split()]
    assert numbers == pytest.approx([x1, y1, x2, y2, x1], abs=0.06)
    assert left.boxes.count("M") == len(scene.reference) - 3
    assert right.boxes.count("M") == len(scene.candidate) - 2


def test_words_stay_inside_the_picture(sightings: Callable[..., Sightings]) -> None:
    path = Path("a.jpg")
    (scene,) = sightings([path], 5, 0).scenes
    boxes = scene.reference.boxes.copy()
    boxes[scene.lost[0]] = (630, 100, 640, 120)
    scene = dataclasses.replace(scene, reference=dataclasses.replace(scene.reference, boxes=boxes), scale=0.625)
    thumbnail = thumbnails.made([path], lambda _: np.zeros((512, 1024, 3), np.uint8))[path]
    left, _ = overlays.sides(scene, thumbnail)
    at_the_edge = left.lost[0]
    assert float(at_the_edge.path[1:].split()[0]) > 500
    assert float(at_the_edge.x) + 7 * len(at_the_edge.word) < thumbnail.width
