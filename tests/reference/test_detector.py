"""How a contract is settled, which sizes are possible, and what the reference session returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facex.errors import EXIT_INPUT, CheckpointError, UsageError
from facex.reference import detector as detectors
from facex.reference import geometry
from facex.reference.detector import Detector, ReferenceSession
from facex.types import ChannelOrder, Contract, ContractOptions, Head, Size

SIZE = Size(height=96, width=64)


def load(path: Path, **options: Any) -> Detector:
    return detectors.load(path, ContractOptions(**options))


def assert_usage_error(path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(UsageError) as caught:
        load(path, **options)
    text = str(caught.value)
    assert caught.value.exit_code == EXIT_INPUT
    assert len(text.splitlines()) == 1
    assert all(word in text for word in words), text


# --- contract


def test_default_contract_is_the_published_one(detector: Detector) -> None:
    assert detector.contract == Contract(
        family="retinaface",
        backbone="mobilenetv1-0.25",
        activation_slope=0.1,
        pyramid_slope=0.1,
        strides=(8, 16, 32),
        min_sizes=((16, 32), (64, 128), (256, 512)),
        variances=(0.1, 0.2),
        landmarks=5,
        channel_order=ChannelOrder.BGR,
        mean=(104, 117, 123),
        scale=(1, 1, 1),
    )


OPTIONS: dict[str, Any] = {
    "activation_slope": 0.0,
    "pyramid_slope": 0.05,
    "min_sizes": ((10.0, 20.0), (32.0, 64.0), (128.0, 256.0)),
    "variances": (0.2, 0.3),
    "channel_order": ChannelOrder.RGB,
    "mean": (127.5, 127.5, 127.5),
    "scale": (0.5, 0.25, 2.0),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_stated_is_not_assumed(seeded_checkpoint: Path, name: str) -> None:
    detector = load(seeded_checkpoint, **{name: OPTIONS[name]})
    assert getattr(detector.contract, name) == OPTIONS[name]
    settled = {name, "pyramid_slope"} if name == "activation_slope" else {name}  # one option speaks of both
    assert set(detector.assumed) == set(OPTIONS) - settled
    default = load(seeded_checkpoint).contract
    assert dataclasses.replace(detector.contract, **{n: getattr(default, n) for n in settled}) == default


def test_assumed_lists_everything_unstated(seeded_checkpoint: Path) -> None:
    assert set(load(seeded_checkpoint).assumed) == set(OPTIONS)
    assert load(seeded_checkpoint, **OPTIONS).assumed == ()
    assert "landmarks" not in load(seeded_checkpoint, landmarks=5).assumed


@pytest.mark.parametrize("landmarks", [5, 10])
def test_landmarks_follow_from_the_shapes(
    seeded_state: Callable[..., dict[str, Tensor]], tmp_path: Path, landmarks: int
) -> None:
    torch.save(seeded_state(landmarks=landmarks), tmp_path / "a.pth")
    assert load(tmp_path / "a.pth").contract.landmarks == landmarks
    assert load(tmp_path / "a.pth", landmarks=landmarks).contract.landmarks == landmarks
    wrong = 15 - landmarks
    assert_usage_error(tmp_path / "a.pth", f"--landmarks {wrong}", f"have {landmarks} points", landmarks=wrong)


@pytest.mark.parametrize(
    ("min_sizes", "counts"),
    [
        (((16.0,), (64.0, 128.0), (256.0, 512.0)), "[1, 2, 2]"),
        (((16.0, 32.0), (64.0, 128.0)), "[2, 2]"),
        (((16.0, 32.0), (64.0, 128.0), (256.0, 512.0), (600.0, 700.0)), "[2, 2, 2, 2]"),
        (((16.0, 32.0, 48.0), (64.0, 128.0), (256.0,)), "[3, 2, 1]"),
        ((), "[]"),
    ],
)
def test_anchors_of_the_wrong_count(
    seeded_checkpoint: Path, min_sizes: tuple[tuple[float, ...], ...], counts: str
) -> None:
    assert_usage_error(seeded_checkpoint, "--anchors", counts, "[2, 2, 2]", min_sizes=min_sizes)


def test_a_bad_checkpoint_comes_before_a_bad_option(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load(tmp_path / "absent.pth", landmarks=7)


# --- sizes


@pytest.mark.parametrize("height", [8, 240, 640, 4096])
@pytest.mark.parametrize("width", [8, 136, 4096])
def test_possible_sizes(detector: Detector, height: int, width: int) -> None:
    detectors.check_size(Size(height=height, width=width), detector.contract)


@pytest.mark.parametrize(
    ("side", "hint"),
    [
        (0, "8 to 4096"), (1, "8 or 16"), (7, "8 or 16"), (9, "8 or 16"), (244, "240 or 248"), (641, "640 or 648"),
        (-8, "8 to 4096"), (-1, "8 to 4096"), (4095, "8 to 4096"), (4097, "8 to 4096"),
        (4104, "8 to 4096"), (5000, "8 to 4096"), (10**9, "8 to 4096"),
    ],
)  # fmt: skip
def test_impossible_sizes(detector: Detector, side: int, hint: str) -> None:
    for size in (Size(height=side, width=320), Size(height=320, width=side)):
        with pytest.raises(UsageError) as caught:
            detectors.check_size(size, detector.contract)
        assert f"--size {size}: {side} is not" in str(caught.value)
        assert caught.value.hint == f"use {hint}"


# --- session


@pytest.fixture
def image(draw_photograph: Callable[..., Any]) -> np.ndarray[Any, Any]:
    return np.asarray(draw_photograph(21, SIZE.width, SIZE.height))[None]


def test_outputs_are_named_shaped_and_float32(detector: Detector, image: np.ndarray[Any, Any]) -> None:
    n = 2 * (12 * 8 + 6 * 4 + 3 * 2)
    shapes = {
        Head.RAW: {"loc": (1, n, 4), "conf": (1, n, 2), "landm": (1, n, 10)},
        Head.DECODED: {"boxes": (1, n, 4), "scores": (1, n), "landmarks": (1, n, 10)},
    }
    for head, expected in shapes.items():
        session = ReferenceSession(detector, SIZE, head, threads=1)
        outputs = session({"image": image})
        assert {name: value.shape for name, value in outputs.items()} == expected
        assert all(value.dtype == np.float32 for value in outputs.values())
        assert session.runtime == f"torch {torch.__version__}"


def test_raw_scores_are_probabilities(detector: Detector, image: np.ndarray[Any, Any]) -> None:
    conf = ReferenceSession(detector, SIZE, Head.RAW, threads=1)({"image": image})["conf"]
    np.testing.assert_allclose(conf.sum(axis=2), 1, atol=1e-6)
    assert conf.min() >= 0


def test_an_app_that_decodes_the_raw_head_gets_the_decoded_one(detector: Detector, image: np.ndarray[Any, Any]) -> None:
    results = []
    for head in (Head.DECODED, Head.RAW):
        outputs = ReferenceSession(detector, SIZE, head, threads=1)({"image": image})
        results.append(detectors.decoded(outputs, head, detector.contract, SIZE))
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def test_boxes_and_points_lie_around_their_priors(detector: Detector, image: np.ndarray[Any, Any]) -> None:
    outputs = ReferenceSession(detector, SIZE, Head.DECODED, threads=1)({"image": image})
    anchors = geometry.priors(detector.contract, SIZE)
    raw = ReferenceSession(detector, SIZE, Head.RAW, threads=1)({"image": image})
    boxes, loc = outputs["boxes"][0].astype(float), raw["loc"][0]
    for row in (0, 77, 200, len(anchors) - 1):
        x, y, side, _ = anchors[row].astype(float)
        centre_x, width = x + loc[row, 0] * 0.1 * side, side * np.exp(loc[row, 2] * 0.2)
        centre_y, height = y + loc[row, 1] * 0.1 * side, side * np.exp(loc[row, 3] * 0.2)
        expected = [
            centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2,
        ]  # fmt: skip
        np.testing.assert_allclose(boxes[row], expected, atol=1e-3)
        nose = outputs["landmarks"][0, row, 4:6]
        offset = raw["landm"][0, row, 4:6] * 0.1 * side
        np.testing.assert_allclose(nose, [x + offset[0], y + offset[1]], atol=1e-3)


def test_invoke_runs_the_network_on_the_last_input(detector: Detector, image: np.ndarray[Any, Any]) -> None:
    session = ReferenceSession(detector, SIZE, Head.RAW, threads=1)
    seen = []
    handle = detector.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        session({"image": image})
        session.invoke()
    finally:
        handle.remove()
    first, again = seen
    np.testing.assert_array_equal(first.numpy(), again.numpy())


def test_the_channel_order_is_the_contracts(
    detector: Detector, seeded_checkpoint: Path, image: np.ndarray[Any, Any]
) -> None:
    bgr = ReferenceSession(detector, SIZE, Head.RAW, threads=1)
    rgb = ReferenceSession(load(seeded_checkpoint, channel_order=ChannelOrder.RGB), SIZE, Head.RAW, threads=1)
    expected = bgr({"image": image})["loc"]
    np.testing.assert_array_equal(rgb({"image": image[..., ::-1]})["loc"], expected)
    assert np.abs(rgb({"image": image})["loc"] - expected).max() > 0.05


@pytest.mark.parametrize(("mean", "undone"), [((100.0, 107.0, 133.0), True), ((133.0, 107.0, 100.0), False)])
def test_the_mean_is_in_the_networks_order(
    detector: Detector,
    seeded_checkpoint: Path,
    image: np.ndarray[Any, Any],
    mean: tuple[float, float, float],
    undone: bool,
) -> None:
    pixels = np.clip(image, 10, 245)
    tint_rgb = np.array([10, -10, -4])  # the means are BGR
    tinted = (pixels.astype(int) + tint_rgb).astype(np.uint8)
    shifted = load(seeded_checkpoint, mean=mean)
    expected = ReferenceSession(detector, SIZE, Head.RAW, threads=1)({"image": pixels})["loc"]
    actual = ReferenceSession(shifted, SIZE, Head.RAW, threads=1)({"image": tinted})["loc"]
    assert np.allclose(actual, expected, atol=1e-5) is undone


def test_the_activation_is_the_contracts(
    detector: Detector, seeded_checkpoint: Path, image: np.ndarray[Any, Any]
) -> None:
    relu = load(seeded_checkpoint, activation_slope=0.0)
    a, b = (ReferenceSession(d, SIZE, Head.RAW, threads=1)({"image": image})["loc"] for d in (detector, relu))
    assert np.abs(a - b).max() > 1e-3
