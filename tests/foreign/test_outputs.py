"""Outputs are recognised by their shapes and values, whatever form they come in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.foreign import outputs
from facex.foreign.outputs import Frame
from facex.reference import geometry
from facex.reference.detector import Detector
from facex.types import Size

Array = NDArray[np.float32]
LEAST_DB = 20.0


@pytest.fixture
def where(detector: Detector) -> Frame:
    """Priors of 96x160."""
    return outputs.frame(detector.contract, Size(height=96, width=160))


@pytest.fixture
def raw(where: Frame) -> dict[str, Array]:
    """loc, logits and landm of one picture, [1, N, w], none saturated."""
    random, count = np.random.default_rng(3), len(where.anchors)
    widths = {"loc": 4, "logits": 2, "landm": 10}
    return {name: random.normal(0, 1, (1, count, width)).astype(np.float32) for name, width in widths.items()}


def _recognised(values: list[Array], raw: dict[str, Array], where: Frame) -> list[str]:
    expected = outputs.truth(raw["loc"], raw["logits"], raw["landm"])
    candidates = outputs.readings([v.shape for v in values], where)
    chosen = outputs.choose(candidates, [values], where, expected, LEAST_DB).chosen
    for kind, found in outputs.raw(chosen, values, where).items():
        np.testing.assert_allclose(found, outputs.picked(chosen, expected)[kind][0], atol=2e-3)
    return [reading.meaning for reading in chosen]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def test_raw_tensors_in_any_order(raw: dict[str, Array], where: Frame):
    values = [raw["landm"], _softmax(raw["logits"]), raw["loc"]]
    assert _recognised(values, raw, where) == ["box offsets", "scores (background, face)", "landmark offsets"]


@pytest.mark.parametrize(
    ("form", "convert"),
    [
        ("boxes x1 y1 x2 y2 in pixels", lambda b: b),
        ("boxes x1 y1 x2 y2, 0-1", lambda b: b / (160, 96, 160, 96)),
        ("boxes y1 x1 y2 x2, 0-1", lambda b: (b / (160, 96, 160, 96))[:, [1, 0, 3, 2]]),
        ("boxes cx cy w h in pixels", lambda b: np.c_[(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]]),
    ],
)
def test_decoded_boxes(form: str, convert: Callable[[Array], Array], raw: dict[str, Array], where: Frame):
    boxes, points = geometry.decode(raw["loc"][0], raw["landm"][0], where.anchors, where.contract.variances)
    values = [
        np.asarray(convert(boxes), np.float32)[None],
        points.reshape(1, len(points), -1) / np.asarray([160, 96] * 5, np.float32),
        _softmax(raw["logits"])[..., 1],
    ]
    assert _recognised(values, raw, where) == [form, "scores", "landmarks x y, 0-1"]


def test_one_tensor_that_holds_all(raw: dict[str, Array], where: Frame):
    margin = raw["logits"][..., 1:] - raw["logits"][..., :1]
    joined = np.concatenate([raw["loc"], margin, raw["landm"]], axis=-1)
    assert _recognised([joined], raw, where) == [
        "box offsets, values 1-4", "logits, values 5-5", "landmark offsets, values 6-15",
    ]  # fmt: skip
    turned = np.ascontiguousarray(joined.transpose(0, 2, 1))
    assert all("values on the first axis" in meaning for meaning in _recognised([turned], raw, where))


def test_channels_first_maps_of_every_level(raw: dict[str, Array], where: Frame):
    values = []
    for (first, last), stride in zip(where.levels, where.contract.strides, strict=True):
        for name in ("logits", "loc", "landm"):
            rows, columns = 96 // stride, 160 // stride
            values.append(raw[name][:, first:last].reshape(1, rows, columns, -1).transpose(0, 3, 1, 2))
    meanings = _recognised(values, raw, where)
    assert len(meanings) == 9
    assert meanings[0] == "box offsets of level 1, values on the first axis"


def test_noise_is_not_recognised(raw: dict[str, Array], where: Frame):
    noise = [np.random.default_rng(8).normal(size=raw["loc"].shape).astype(np.float32)]
    assert _recognised(noise, raw, where) == []
    broken = [np.full_like(raw["loc"], np.nan)]
    assert _recognised(broken, raw, where) == []


def test_agreement_is_the_ratio_of_what_varies_to_noise():
    random = np.random.default_rng(4)
    signal, noise = random.normal(0, 2, (50, 400, 3)), random.normal(0, 0.2, (50, 400, 3))
    assert outputs.agreement_db(signal + 100, signal + 100 + noise) == pytest.approx(20, abs=0.1)
    assert outputs.agreement_db(signal, signal) == outputs.LIMIT_DB
    assert outputs.agreement_db(np.ones_like(signal), np.ones_like(signal)) == -outputs.LIMIT_DB
