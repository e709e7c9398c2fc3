"""Decoding inside the file against `reference.geometry`, on random raw maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from facex.exporters import _rewrites
from facex.reference import geometry
from facex.reference.families import LevelOutput
from facex.types import ChannelOrder, Contract, Size


def contract(min_sizes: tuple[tuple[float, ...], ...], landmarks: int = 5, **changes: Any) -> Contract:
    return Contract(
        **{
            "family": "retinaface", "backbone": "any", "activation_slope": 0.1, "strides": (8, 16, 32),
            "min_sizes": min_sizes, "variances": (0.1, 0.2), "landmarks": landmarks, "channel_order": ChannelOrder.BGR,
            "mean": (104.0, 117.0, 123.0), "scale": (1.0, 1.0, 1.0),
        } | changes,
    )  # fmt: skip


CONTRACTS = {
    "classic": contract(((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))),
    "small": contract(((10.0, 20.0), (40.0, 80.0), (160.0, 320.0))),
    "not powers of two": contract(((7.3, 19.9), (51.7, 99.0), (201.1, 433.3)), variances=(0.13, 0.21)),
    "uneven counts": contract(((9.0,), (33.0, 47.0), (100.0, 200.0, 300.0))),
    "ten points": contract(((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)), landmarks=10),
    "one point": contract(((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)), landmarks=1),
    "two levels": contract(((24.0, 48.0), (96.0, 192.0)), strides=(16, 32)),
}
SIZES = [Size(height=64, width=64), Size(height=96, width=160), Size(height=640, width=320)]


def random_maps(told: Contract, size: Size, spread: float = 2.0) -> list[LevelOutput]:
    generator = torch.Generator().manual_seed(13)
    levels = []
    for stride, sides in zip(told.strides, told.min_sizes, strict=True):
        cells = (size.height // stride, size.width // stride)
        conf, loc, landm = (
            torch.randn(1, len(sides) * width, *cells, generator=generator) * spread
            for width in (2, 4, 2 * told.landmarks)
        )
        levels.append(LevelOutput(conf=conf, loc=loc, landm=landm))
    return levels


def flat(levels: list[LevelOutput], part: str, width: int) -> np.ndarray:
    """Prior by prior with plain loops: level, row, column, anchor."""
    rows = []
    for level in levels:
        maps = getattr(level, part)[0].numpy()
        anchors = maps.shape[0] // width
        for y in range(maps.shape[1]):
            for x in range(maps.shape[2]):
                rows += [maps[a * width : (a + 1) * width, y, x] for a in range(anchors)]
    return np.stack(rows)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CONTRACTS)
def test_decoder_is_the_reference_decoding(name, size):
    told = CONTRACTS[name]
    levels = random_maps(told, size)
    boxes, landmarks = _rewrites.Decoder(told, size)(levels)
    loc, landm = flat(levels, "loc", 4), flat(levels, "landm", 2 * told.landmarks)
    wanted_boxes, wanted_points = geometry.decode(loc, landm, geometry.priors(told, size), told.variances)
    # float32 steps by 6e-5 px near 1000 px
    np.testing.assert_allclose(boxes[0].numpy(), wanted_boxes, rtol=2e-6, atol=3e-4)
    np.testing.assert_allclose(landmarks[0].numpy().reshape(wanted_points.shape), wanted_points, rtol=2e-6, atol=3e-4)


@pytest.mark.parametrize("name", CONTRACTS)
def test_face_margin_is_softmax(name):
    told = CONTRACTS[name]
    levels = random_maps(told, SIZES[1], spread=6.0)
    logits = flat(levels, "conf", 2).astype(np.float64)
    wanted = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    found = torch.sigmoid(_rewrites.FaceMargin(told)(levels))[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CONTRACTS)
def test_constants_in_half_precision_still_decode(name):
    """Centres are exact in half precision, sizes by their split logarithm; what remains is the step of the factors."""
    told, size = CONTRACTS[name], SIZES[2]
    levels = random_maps(told, size)
    decoder = _rewrites.Decoder(told, size)
    wanted, _ = decoder(levels)
    for buffer in decoder.buffers():
        buffer.copy_(buffer.half().float())
    found, _ = decoder(levels)
    side = (wanted[0, :, 2:] - wanted[0, :, :2]).numpy() + geometry.priors(told, size)[:, 2:]
    error_px = (found - wanted)[0].abs().numpy().reshape(len(side), 2, 2).max(axis=1)
    assert (error_px / side).max() < 1e-3  # of the face: half a step of float16 is 2.4e-4, times offsets up to 8
    zeros = [LevelOutput(*map(torch.zeros_like, level[:3])) for level in levels]
    plain, _ = decoder(zeros)
    priors = geometry.priors(told, size)
    corners = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(plain[0].numpy(), corners, rtol=2e-6, atol=2e-3)


def test_huge_offsets_overflow_as_the_reference_does():
    told, size = CONTRACTS["classic"], SIZES[0]
    levels = random_maps(told, size, spread=2000.0)
    with np.errstate(over="ignore", invalid="ignore"):
        loc = flat(levels, "loc", 4)
        wanted, _ = geometry.decode(loc, flat(levels, "landm", 10), geometry.priors(told, size), told.variances)
    found, _ = _rewrites.Decoder(told, size)(levels)
    assert not np.isfinite(wanted).all()
    # on the brink one of the two may overflow a hair before the other
    brink = np.abs(loc[:, 2:] * told.variances[1] - math.log(np.finfo(np.float32).max)).min(axis=1) < 10
    assert (np.isfinite(found[0].numpy()) == np.isfinite(wanted))[~brink].all()
