"""What is tried suits the input, and is applied as it says."""

from __future__ import annotations

import numpy as np
import pytest

from facex.exporters._foreign import Fed, to_integers
from facex.foreign import feeds
from facex.provenance import Feed
from facex.reference.detector import Detector
from facex.types import ChannelOrder

FLOATS = Fed(name="x", shape=(1, 3, 8, 8), dtype="float32")
BYTES = Fed(name="x", shape=(1, 8, 8, 3), dtype="uint8")
IMAGE = Fed(name="x", shape=(1, 3, 8, 8), dtype="float32", colours="RGB")
STEPS = Fed(name="x", shape=(1, 8, 8, 3), dtype="int8", scale=0.0078125, zero_point=-1)


def _keys(detector: Detector, fed: Fed) -> list[tuple[object, ...]]:
    return [(f.channel_order, f.mean, f.scale) for f in feeds.candidates(detector.contract, fed)]


@pytest.mark.parametrize("fed", [BYTES, IMAGE])
def test_bytes_can_be_fed_pixels_alone(detector: Detector, fed: Fed):
    assert _keys(detector, fed) == [(o, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) for o in (ChannelOrder.RGB, ChannelOrder.BGR)]


def test_floats_can_be_fed_everything_once(detector: Detector):
    keys = _keys(detector, FLOATS)
    assert len(keys) == len(set(keys))
    for order, mean in ((ChannelOrder.BGR, (104.0, 117.0, 123.0)), (ChannelOrder.RGB, (123.0, 117.0, 104.0))):
        assert (order, mean, (1.0, 1.0, 1.0)) in keys
    assert sum(order is ChannelOrder.BGR for order, *_ in keys) == len(keys) / 2


def test_feeds_are_the_arithmetic_that_they_name():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), dtype=np.uint8)
    feed = Feed(label="", channel_order=ChannelOrder.BGR, mean=(104.0, 117.0, 123.0), scale=(0.5, 1.0, 2.0))
    found = feeds.apply(feed, pixels, channels_last=False)
    assert found.shape == (1, 3, 4, 5)
    np.testing.assert_allclose(found[0, 0], (pixels[0, :, :, 2] - 104.0) * 0.5)
    np.testing.assert_allclose(found[0, 2], (pixels[0, :, :, 0] - 123.0) * 2.0)
    assert feed.in_words() == "BGR, minus (104, 117, 123), divided by (2, 1, 0.5)"


def test_integers_hold_the_nearest_step():
    values = np.array([-2.0, -0.5, 0.0, 0.999, 5.0], np.float32)
    found = to_integers(values, STEPS)
    assert found.dtype == np.int8
    assert found.tolist() == [-128, -65, -1, 127, 127]
    assert to_integers(np.float32([1.4, 300, -3]), BYTES).tolist() == [1, 255, 0]


def test_bytes_as_they_are_become_those_bytes(detector: Detector):
    (feed,) = {f for f in feeds.candidates(detector.contract, STEPS) if f.label == "bytes as they are"
               and f.channel_order is ChannelOrder.RGB}  # fmt: skip
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3) * 5
    found = to_integers(feeds.apply(feed, pixels, channels_last=True), STEPS)
    assert (found.astype(int) + 128 == pixels).all()
