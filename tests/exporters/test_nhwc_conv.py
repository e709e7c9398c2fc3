"""The lowered convolution over the whole space of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from onnx import helper

from facex.errors import UnsupportedOperatorError


@dataclass(frozen=True)
class Convolution:
    """One convolution: `multiplier` None is a full one, otherwise depthwise with that many outputs a channel."""

    c_in: int
    c_out: int
    multiplier: int | None
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    size: tuple[int, int]
    bias: bool
    seed: int

    def constants(self) -> dict[str, Any]:
        random = np.random.default_rng(self.seed)
        outputs = self.c_out if self.multiplier is None else self.c_in * self.multiplier
        inputs = self.c_in if self.multiplier is None else 1
        found = {"w": random.normal(size=(outputs, inputs, *self.kernel)).astype(np.float32)}
        return found | ({"b": random.normal(size=outputs).astype(np.float32)} if self.bias else {})

    def node(self) -> Any:
        return helper.make_node(
            "Conv",
            ["x", "w", *(["b"] if self.bias else [])],
            ["y"],
            name="/net/conv",
            group=1 if self.multiplier is None else self.c_in,
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
        )

    def image(self) -> np.ndarray:
        return np.random.default_rng(self.seed + 1).normal(size=(1, self.c_in, *self.size)).astype(np.float32)


def _pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


PADS = st.one_of(
    st.just((0, 0, 0, 0)),
    st.integers(1, 2).map(lambda p: (p, p, p, p)),
    st.tuples(*[st.integers(0, 2)] * 4),
)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    multiplier = draw(st.sampled_from([None, None, 1, 2, 3]))
    strides, dilations = draw(_pairs(1, 3)), draw(st.one_of(st.just((1, 1)), _pairs(1, 2)))
    if multiplier and strides != (1, 1):  # refused, which has its own test
        dilations = (1, 1)
    found = Convolution(
        c_in=draw(st.integers(1, 4)),
        c_out=draw(st.integers(1, 5)),
        multiplier=multiplier,
        kernel=draw(st.one_of(st.sampled_from([(1, 1), (3, 3), (2, 2), (5, 5)]), _pairs(1, 4))),
        strides=strides,
        dilations=dilations,
        pads=draw(PADS),
        size=draw(_pairs(1, 9)),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    for axis in (0, 1):
        reach = (found.kernel[axis] - 1) * found.dilations[axis] + 1
        assume(found.size[axis] + found.pads[axis] + found.pads[axis + 2] >= reach)
    return found


@settings(max_examples=200)
@given(convolution=convolutions())
def test_convolution_computes_what_onnxruntime_does(assert_lowered, convolution):
    event("depthwise" if convolution.multiplier else "full")
    assert_lowered([convolution.node()], convolution.image(), convolution.constants())


def _of(**changes: Any) -> Convolution:
    plain: dict[str, Any] = {
        "c_in": 4, "c_out": 4, "multiplier": None, "kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1),
        "pads": (1, 1, 1, 1), "size": (8, 8), "bias": True, "seed": 1,
    }  # fmt: skip
    return Convolution(**(plain | changes))


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (7, 8)])
@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (1, 1, 0, 0), (1, 0, 1, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("multiplier", [None, 1])
def test_where_a_strided_convolution_pads_is_kept(assert_lowered, multiplier, pads, size):
    """TensorFlow's SAME pads at the end, torch's padding=1 at the start: a shift by one pixel between them."""
    convolution = _of(multiplier=multiplier, strides=(2, 2), pads=pads, size=size)
    assert_lowered([convolution.node()], convolution.image(), convolution.constants())


def test_the_signs_of_one_pixel_say_where_the_padding_went(lowered):
    """Independent of onnxruntime: a 3x3 stride 2 kernel that picks its centre samples pixels 0, 2, 4."""
    convolution = _of(c_in=1, c_out=1, strides=(2, 2), size=(6, 6), bias=False)
    x = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
    weight = np.zeros((1, 1, 3, 3), np.float32)
    weight[0, 0, 1, 1] = 1
    np.testing.assert_array_equal(lowered([convolution.node()], x, {"w": weight})["y"][0, 0], x[0, 0, ::2, ::2])


def _refused(lowered: Any, node: Any, constants: dict[str, Any], channels: int = 4) -> str:
    with pytest.raises(UnsupportedOperatorError) as caught:
        lowered([node], np.zeros((1, channels, 8, 8), np.float32), constants)
    text = str(caught.value)
    assert "Conv" in text
    assert "'/net/conv'" in text
    return text


@pytest.mark.parametrize("strides", [(2, 2), (1, 2)])
def test_a_strided_and_dilated_depthwise_convolution_is_refused(lowered, strides):
    """TensorFlow computes it wrongly, without a word."""
    convolution = _of(strides=strides, dilations=(2, 2), multiplier=1)
    named = f"strides {list(strides)} with dilations [2, 2] of a depthwise convolution"
    assert named in _refused(lowered, convolution.node(), convolution.constants())


@pytest.mark.parametrize("group", [2, 4])
def test_grouped_convolutions_that_are_not_depthwise_are_refused(lowered, group):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="/net/conv", group=group)
    weight = np.zeros((8, 8 // group, 1, 1), np.float32)
    assert f"group={group} over 8 channels" in _refused(lowered, node, {"w": weight}, channels=8)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding_is_refused(lowered, mode):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="/net/conv", auto_pad=mode)
    assert f"auto_pad {mode}" in _refused(lowered, node, {"w": np.zeros((4, 4, 3, 3), np.float32)})


def test_a_weight_computed_at_run_time_is_refused(lowered):
    nodes = [helper.make_node("Neg", ["x"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"], name="/net/conv")]
    with pytest.raises(UnsupportedOperatorError, match=r"Conv '/net/conv': input 1 \('w'\) must be a constant"):
        lowered(nodes, np.zeros((1, 4, 4, 4), np.float32))
