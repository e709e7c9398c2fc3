"""The arithmetic of the integers, over the whole space of ranges, weights and biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from facex.calibration.graph import Graph
from facex.calibration.plan import (
    SMALLEST_SCALE,
    Affine,
    QuantizationPlan,
    affine,
    for_leaky_kernels,
    make_plan,
    quantize_bias,
    quantize_weight,
    without,
)

BOUND = st.floats(-1e6, 1e6, allow_nan=False, width=32)
HALF = 0.5 + 1e-4
"""Half a step, and what the rounding of the scale to float32 adds over 255 of them."""


@given(a=BOUND, b=BOUND)
@example(a=0.0, b=0.0)
@example(a=0.0, b=255.0)
@example(a=-1.0, b=1.0)
@example(a=3.0, b=4.0)
@example(a=-1e-12, b=1e-12)
def test_zero_is_on_the_grid_and_the_range_is_covered(a, b):
    low, high = min(a, b), max(a, b)
    grid = affine(low, high)
    assert isinstance(grid.zero_point, int)
    assert -128 <= grid.zero_point <= 127
    assert grid.scale > 0
    assert float(np.float32(grid.scale)) == grid.scale
    assert grid.low <= 0 <= grid.high
    assert grid.low <= min(low, 0) + HALF * grid.scale
    assert grid.high >= max(high, 0) - HALF * grid.scale


@given(a=BOUND, b=BOUND, where=st.floats(0, 1))
def test_quantizing_and_back_is_within_half_a_step(a, b, where):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    x = low + where * (high - low)
    grid = affine(low, high)
    q = np.clip(np.rint(x / grid.scale) + grid.zero_point, -128, 127)
    assert abs(grid.scale * (q - grid.zero_point) - x) <= HALF * grid.scale


@given(a=BOUND, b=BOUND)
def test_no_step_is_wasted(a, b):
    """The grid is at most one step wider than the range that it must hold."""
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(high - low > 255 * SMALLEST_SCALE)
    grid = affine(low, high)
    assert grid.high - grid.low <= (high - low) * (1 + 1e-6)


def test_grids_worked_out_by_hand():
    assert affine(0.0, 255.0) == Affine(scale=1.0, zero_point=-128)
    assert affine(-255.0, 0.0) == Affine(scale=1.0, zero_point=127)
    assert affine(2.0, 127.5) == Affine(scale=0.5, zero_point=-128)  # widened to hold zero
    assert affine(-12.8, 12.7) == Affine(scale=float(np.float32(0.1)), zero_point=0)


def test_a_tensor_that_is_always_zero_has_the_smallest_scale():
    grid = affine(0.0, 0.0)
    assert grid.scale == float(np.float32(SMALLEST_SCALE))
    assert grid.zero_point == -128


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def graph(onnx_model):
    nodes = [
        node("Conv", "image,w", "a"),
        node("Conv", "image,w", "b"),
        node("Concat", "a,b", "cat", axis=1),
        node("Conv", "cat,v", "h"),
    ]
    constants = {"w": np.ones((3, 3, 1, 1), np.float32), "v": np.ones((1, 6, 1, 1), np.float32)}
    return Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["h"], constants))


def test_a_plan_takes_the_union_of_shared_ranges_and_the_whole_range_of_pixels(graph):
    ranges = {"image": (20.0, 220.0), "a": (-1.0, 5.0), "b": (-3.0, 2.0), "cat": (-3.0, 5.0), "h": (-7.0, -2.0)}
    plan = make_plan(graph, ranges, "minmax")
    assert plan.method == "minmax"
    assert list(plan.activations) == graph.quantized_tensors()
    assert plan.activations["image"] == Affine(scale=1.0, zero_point=-128)
    assert plan.activations["a"] == plan.activations["b"] == plan.activations["cat"] == affine(-3.0, 5.0)
    assert plan.activations["h"] == affine(-7.0, 0.0)


@pytest.mark.parametrize(
    ("floats", "kept"),
    [
        (set(), {"image", "a", "b", "cat", "h"}),
        ({"a"}, {"image", "a", "b", "cat", "h"}),  # the concatenation still reads it as integers
        ({"a", "b"}, {"image", "a", "b", "cat", "h"}),
        ({"a", "b", "cat"}, {"image", "cat", "h"}),  # the last integer convolution reads `cat`
        ({"h"}, {"image", "a", "b", "cat"}),
        ({"cat", "h"}, {"image", "a", "b"}),
        ({"a", "b", "cat", "h"}, {"image"}),  # which stays uint8
    ],
)
def test_what_only_float_nodes_touch_loses_its_grid(graph, floats, kept):
    activations = {name: affine(-1.0, i + 1.0) for i, name in enumerate(graph.quantized_tensors())}
    plan = QuantizationPlan(activations=activations, method="mse")
    found = without(plan, graph, frozenset(floats))
    assert found == QuantizationPlan(
        activations={name: grid for name, grid in activations.items() if name in kept},
        method="mse",
        floats=frozenset(floats),
    )
    assert plan.floats == frozenset()


def test_leaving_out_step_by_step_is_leaving_out_at_once(graph):
    plan = QuantizationPlan(activations=dict.fromkeys(graph.quantized_tensors(), affine(-1.0, 1.0)), method="mse")
    stepwise = without(without(plan, graph, frozenset({"a", "b"})), graph, frozenset({"cat"}))
    assert stepwise == without(plan, graph, frozenset({"a", "b", "cat"}))


FLOATS = st.floats(-1e4, 1e4, width=32)
WEIGHTS = npst.arrays(np.float32, npst.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=FLOATS)


@given(weight=WEIGHTS, data=st.data())
def test_weights_are_within_half_a_step_and_use_the_whole_range(weight, data):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    quantized, scale = quantize_weight(weight, axis)
    assert (quantized.dtype, scale.dtype) == (np.int8, np.float32)
    assert quantized.shape == weight.shape
    assert scale.shape == (weight.shape[axis],)
    assert (scale > 0).all()
    for i, step in enumerate(scale):
        values = np.take(weight, i, axis).astype(np.float64)
        integers = np.take(quantized, i, axis).astype(np.int64)
        if np.abs(values).max() < 1e-30:
            continue  # below what a float32 scale can resolve
        assert np.abs(integers).max() == 127
        assert np.abs(integers * np.float64(step) - values).max() <= HALF * step
        assert (np.sign(integers) * np.sign(values) >= 0).all()


def test_a_channel_of_zeros_stays_zero():
    weight = np.zeros((2, 3), np.float32)
    weight[1] = [1, -2, 4]
    quantized, scale = quantize_weight(weight, 0)
    np.testing.assert_array_equal(quantized, [[0, 0, 0], [32, -64, 127]])
    assert np.isfinite(scale).all()
    assert scale[0] > 0
    assert scale[1] == np.float32(4) / np.float32(127)


@pytest.mark.parametrize("value", [1e-45, 1e-44, 1e-42, 1e-38])
def test_dead_channels_of_tiny_weights_do_not_overflow(value):
    weight = np.full((1, 4), value, np.float32)  # denormal: its scale would round to zero
    quantized, scale = quantize_weight(weight, 0)
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert np.abs(quantized * np.float64(scale[0]) - weight).max() <= 1e-30


@given(
    bias=npst.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32)),
    unit=st.floats(1e-4, 10),
    scales=npst.arrays(np.float32, 5, elements=st.floats(2**-13, 1, width=32)),
)
def test_biases_are_within_half_a_unit(bias, unit, scales):
    quantized = quantize_bias(bias, unit, scales)
    assert quantized.dtype == np.int32
    step = unit * scales.astype(np.float64)
    wanted = bias.astype(np.float64)
    inside = np.abs(wanted) < step * (2**31 - 1)
    assert (np.abs(quantized * step - wanted) <= 0.5000001 * step)[inside].all()


def test_biases_saturate_instead_of_wrapping():
    found = quantize_bias(np.array([1e9, -1e9, 0.0], np.float32), 1e-3, np.full(3, 1e-3, np.float32))
    np.testing.assert_array_equal(found, [2**31 - 1, -(2**31), 0])


def leaky_graph(onnx_model: Any, slope: float) -> Graph:
    """image -> conv -> leaky -> conv, and the first convolution's result a second time through a concatenation."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c1"]),
        helper.make_node("LeakyRelu", ["c1"], ["l1"], alpha=slope),
        helper.make_node("Conv", ["l1", "w"], ["c2"]),
        helper.make_node("Concat", ["c2", "l1"], ["joined"], axis=1),
        helper.make_node("LeakyRelu", ["joined"], ["l2"], alpha=slope),
        helper.make_node("Conv", ["l2", "v"], ["y"]),
    ]
    constants = {"w": np.ones((2, 2, 1, 1), np.float32), "v": np.ones((2, 4, 1, 1), np.float32)}
    return Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["y"], constants))


@given(before=st.floats(1e-4, 10), ratio=st.floats(0.2, 2.0), zero=st.integers(-128, 127))
def test_a_leaky_kernel_s_two_factors_are_nearly_whole(onnx_model, before, ratio, zero):
    graph = leaky_graph(onnx_model, 0.1)
    grids = dict.fromkeys(graph.quantized_tensors(), affine(-1, 1))
    grids |= {"c1": Affine(scale=before, zero_point=zero), "l1": Affine(scale=before / ratio, zero_point=-100)}
    plan = for_leaky_kernels(QuantizationPlan(activations=grids, method="x"), graph)
    found = plan.activations["c1"]
    factor = 256 * found.scale / plan.activations["l1"].scale
    assert abs(factor - round(factor)) < 1e-3
    assert abs(0.1 * factor / round(0.1 * factor) - 1) < 0.5 / (25.6 * ratio)
    if ratio > 0.6:  # a multiple of ten is within reach, and with it the slope is exact
        assert round(factor) % 10 == 0
    assert found.zero_point == zero
    assert before * 0.98 - 0.011 * before / ratio < found.scale < before * 1.05 + 0.011 * before / ratio
    others = {name: grid for name, grid in plan.activations.items() if name != "c1"}
    assert others == {name: grid for name, grid in grids.items() if name != "c1"}  # `joined` shares its grid
