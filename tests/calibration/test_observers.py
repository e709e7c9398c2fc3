"""What the observers see of a model and which ranges they choose, against NumPy and brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from facex.calibration import gates, observers
from facex.calibration.graph import Graph
from facex.calibration.observers import OBSERVERS, ChannelMagnitude, Halves, MeanSquaredError, MinMax, Percentile, watch
from facex.errors import EXIT_BACKEND, BackendError

ARRAYS = npst.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e6, 1e6, width=32))


@given(batches=st.lists(ARRAYS, min_size=1, max_size=5))
def test_minmax_is_the_extremes_of_everything_seen(batches):
    observer = MinMax()
    for batch in batches:
        observer.update(batch)
    everything = np.concatenate(batches)
    assert observer.range() == (float(everything.min()), float(everything.max()))


@pytest.mark.parametrize("value", [2.5, -0.3, 0.0, 1e-12])
@pytest.mark.parametrize("method", OBSERVERS)
def test_a_constant_is_held(method, value):
    """Ranges are widened to zero by the grids, so whether an observer does it already does not matter."""
    observer = OBSERVERS[method](None)
    observer.update(np.full((1, 3), value, np.float32))
    low, high = observer.range()
    assert low <= high
    assert min(low, 0) == pytest.approx(min(value, 0), rel=0.01, abs=1e-11)
    assert max(high, 0) == pytest.approx(max(value, 0), rel=0.01, abs=1e-11)


def long_tail(seed: int, size: int = 20000) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_t(2, size).astype(np.float32)


# Histograms


@given(batches=st.lists(ARRAYS, min_size=1, max_size=6))
def test_widening_step_by_step_counts_what_one_look_would(batches):
    """Bins merge in pairs: only a value on an edge, to float32 rounding, may fall to either side of it."""
    stepwise, once = Percentile(), Percentile()
    for batch in batches:
        stepwise.update(batch)
    once.update(np.concatenate(batches))
    assert stepwise._reach == once._reach
    assert stepwise._counts.sum() == once._counts.sum() == sum(map(len, batches))
    assert np.abs(np.cumsum(stepwise._counts - once._counts)).max() <= sum(map(len, batches)) * 0.25 + 1
    assert (stepwise._low, stepwise._high) == (once._low, once._high)


@pytest.mark.parametrize("method", OBSERVERS)
def test_growing_values_choose_the_range_of_all_at_once(method):
    stepwise, once = OBSERVERS[method](None), OBSERVERS[method](None)
    parts = [long_tail(i) * 10**i for i in range(4)]
    for part in parts:
        stepwise.update(part)
    once.update(np.concatenate(parts))
    np.testing.assert_allclose(stepwise.range(), once.range(), rtol=0.01)


@pytest.mark.parametrize("method", OBSERVERS)
@pytest.mark.parametrize("sizes", [(1.0, 100.0), (100.0, 1.0), (3.0, 3.0)])
def test_merged_observers_saw_what_both_saw(method, sizes):
    first, second, both = (OBSERVERS[method](leaky(0.1)) for _ in range(3))
    for i, (observer, size) in enumerate(zip((first, second), sizes, strict=True)):
        observer.update(long_tail(i) * np.float32(size))
        both.update(long_tail(i) * np.float32(size))
    alone = first.range(), second.range()
    merged = first.merged(second)
    assert merged.range() == both.range()
    assert (first.range(), second.range()) == alone  # they go on as they were


def test_the_percentile_is_numpy_s():
    values = long_tail(1, 200_000)
    observer = Percentile()
    for part in np.array_split(values, 7):
        observer.update(part)
    (low, high), ordered = observer.range(), np.sort(values)
    width = 2 * 2 ** np.ceil(np.log2(np.abs(values).max())) / observers.BINS
    rank = round(len(values) * observers.CLIPPED_SHARE)
    assert rank == 20
    assert ordered[rank - 2] - width <= low <= ordered[rank + 1] + width  # np.quantile lies between these two as well
    assert ordered[-rank - 2] - width <= high <= ordered[1 - rank] + width


def leaky(slope: float) -> Any:
    """A LeakyReLU; None, no activation, for slope 1."""
    return None if slope == 1 else lambda x: np.where(x > 0, x, slope * x)


def loss(values: np.ndarray, low: float, high: float, slope: float = 1.0) -> float:
    """Mean squared error of rounding to 256 steps over a range, after a LeakyReLU, in float64."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-128 - low / scale)
    kept = (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale

    def after(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, slope * x)

    return float(np.square(after(kept) - after(values.astype(np.float64))).mean())


def chosen(values: np.ndarray, slope: float = 1.0) -> tuple[float, float]:
    observer = MeanSquaredError(leaky(slope))
    observer.update(values)
    return observer.range()


@pytest.mark.parametrize("slope", [1.0, 0.1])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_least_error_of_a_long_tail_is_found(slope, shift):
    values = long_tail(2) + np.float32(shift)
    low, high = float(values.min()), float(values.max())
    found = loss(values, *chosen(values, slope), slope)
    assert found < 0.97 * loss(values, low, high, slope)
    best = min(
        loss(values, a * low, b * high, slope) for a in np.linspace(0.02, 1, 40) for b in np.linspace(0.1, 1, 40)
    )
    assert found <= 1.03 * best


def test_negative_outliers_are_clipped_where_the_activation_shrinks_them():
    random = np.random.default_rng(3)
    values = np.concatenate([random.normal(0, 1, 500_000), np.full(10, -20.0)]).astype(np.float32)
    shrunk, plain = chosen(values, 0.1), chosen(values, 1.0)
    assert shrunk[0] > -12
    assert plain[0] < -18
    assert loss(values, *shrunk, 0.1) < loss(values, *plain, 0.1)
    assert loss(values, *shrunk, 1.0) > loss(values, *plain, 1.0)


@given(values=ARRAYS, slope=st.sampled_from([1.0, 0.1, 0.0]))
def test_the_least_error_never_widens_a_range(values, slope):
    assume(np.abs(values).max() > 1e-3)
    low, high = chosen(values, slope)
    assert min(float(values.min()), 0.0) <= low <= 0 <= high <= max(float(values.max()), 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign_use_no_range_of_the_other(sign):
    low, high = chosen(sign * np.abs(long_tail(5)))
    assert (low if sign > 0 else high) == 0
    assert (high if sign > 0 else -low) > 2


# What matters to the result


def weighed(values: np.ndarray, importance: np.ndarray, slope: float = 1.0) -> tuple[float, float]:
    observer = MeanSquaredError(leaky(slope))
    observer.update(values)
    observer.weigh(torch.from_numpy(values), torch.from_numpy(importance))
    return observer.range()


def test_a_range_serves_the_values_that_matter():
    random = np.random.default_rng(4)
    values = np.concatenate([random.normal(0, 0.4, 20_000), random.uniform(-10, 10, 20)]).astype(np.float32)
    importance = (np.abs(values) < 1).astype(np.float32)
    low, high = weighed(values, importance)
    plain = chosen(values)
    assert high - low < 0.75 * (plain[1] - plain[0])
    assert low < -0.9
    assert high > 0.9
    counted = values[importance > 0]
    assert loss(counted, low, high) < 0.6 * loss(counted, *plain)


def test_importance_is_that_of_the_value_before_the_activation():
    """A gradient before a LeakyReLU holds the slope already; the error after it must not pay for it twice."""
    values = long_tail(6)
    after = np.ones_like(values)
    before = np.where(values < 0, np.float32(0.1**2), np.float32(1)) * after
    np.testing.assert_allclose(weighed(values, before, 0.1), chosen(values, 0.1), rtol=0.05)


@pytest.mark.parametrize("slope", [1.0, 0.1, 0.0])
def test_weighed_ranges_are_finite_and_within_what_was_seen(slope):
    values = long_tail(7)
    importance = np.where(values < 0, np.float32(slope**2), np.float32(1))
    low, high = weighed(values, importance, slope)
    assert values.min() <= low <= 0 < high <= values.max()
    assert loss(values, low, high, slope) <= 1.05 * loss(values, *chosen(values, slope), slope)


def test_merging_and_widening_keep_what_was_weighed():
    first, second, both = (MeanSquaredError() for _ in range(3))
    for i, (observer, size) in enumerate(((first, 1), (second, 50))):
        values = long_tail(i) * np.float32(size)
        importance = np.exp(-np.abs(values))
        for seen in (observer, both):
            seen.update(values)
            seen.weigh(torch.from_numpy(values), torch.from_numpy(importance))
    merged = first.merged(second)
    np.testing.assert_allclose(merged._importance.sum(), both._importance.sum())
    np.testing.assert_allclose(merged.range(), both.range(), rtol=0.02)


# Halves and channels


def test_halves_take_photographs_in_turn_and_choose_together():
    halves = Halves(MinMax(), MinMax())
    for i, value in enumerate([1.0, 10.0, 2.0, 20.0, 3.0]):
        halves.update(np.array([value, -i], np.float32))
    assert halves.of_halves() == ((-4.0, 3.0), (-3.0, 20.0))
    assert halves.together().range() == (-4.0, 20.0)


def test_one_photograph_is_enough_for_a_range():
    halves = Halves(MeanSquaredError(), MeanSquaredError())
    halves.update(long_tail(1))
    assert halves.together().range() == chosen(long_tail(1))


def test_a_channel_s_magnitude_leaves_single_outliers_out():
    random = np.random.default_rng(6)
    values = random.normal(size=(1, 3, 100, 50)).astype(np.float32)
    values[0, 1] *= 10
    values[0, 2, 0, :4] = -1000  # fewer than a thousandth of 5000
    observer = ChannelMagnitude()
    observer.update(values)
    ordered = np.sort(np.abs(values[0].reshape(3, -1)), axis=1)
    np.testing.assert_allclose(observer.magnitudes(), ordered[:, -5])
    assert observer.magnitudes()[2] < 10


def test_a_channel_s_magnitude_is_that_of_a_typical_photograph():
    observer = ChannelMagnitude()
    for i in range(11):
        observer.update(np.full((1, 2, 4, 4), i, np.float32) * np.array([1, -3], np.float32).reshape(1, 2, 1, 1))
    np.testing.assert_allclose(observer.magnitudes(), [9, 27])
    assert observer.magnitudes().dtype == np.float64


def test_observers_are_told_the_slope_that_alone_follows(onnx_model):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]), helper.make_node("LeakyRelu", ["a"], ["l"], alpha=0.25),
        helper.make_node("Conv", ["l", "v"], ["b"]), helper.make_node("LeakyRelu", ["b"], ["m"]),
        helper.make_node("Conv", ["m", "v"], ["c"]),  # read before its activation too
        helper.make_node("LeakyRelu", ["c"], ["n"], alpha=0.25),
        helper.make_node("Add", ["c", "n"], ["d"]), helper.make_node("Conv", ["d", "v"], ["y"]),
    ]  # fmt: skip
    const = {"w": np.ones((2, 3, 1, 1), np.float32), "v": np.ones((2, 2, 1, 1), np.float32)}
    graph = Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], const))
    found = observers.range_observers(graph, "mse")
    assert list(found) == graph.quantized_tensors()
    after = {name: halves._halves[0]._after for name, halves in found.items() if halves._halves[0]._after}
    assert {name: float(bent(np.array(-1.0))) for name, bent in after.items()} == {
        "a": -0.25,
        "b": pytest.approx(-0.01),
    }


def test_observers_are_told_of_a_hard_swish_in_either_form(onnx_model):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]), helper.make_node("HardSwish", ["a"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["b"]), helper.make_node("Add", ["b", "three"], ["t"]),
        helper.make_node("Clip", ["t", "zero", "six"], ["g"]), helper.make_node("Mul", ["g", "b"], ["p"]),
        helper.make_node("Conv", ["p", "v"], ["y"]),
    ]  # fmt: skip
    const = {"w": np.ones((2, 3, 1, 1), np.float32), "v": np.ones((2, 2, 1, 1), np.float32)}
    const |= {name: np.float32(value) for name, value in (("zero", 0), ("three", 3), ("six", 6))}
    found = observers.range_observers(Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], const)), "mse")
    x = np.linspace(-6, 6, 25)
    told = {name: halves._halves[0]._after for name, halves in found.items() if halves._halves[0]._after}
    assert set(told) == {"a", "b"}
    for bent in told.values():
        np.testing.assert_allclose(bent(x), np.where(x < -3, 0, np.where(x > 3, x, x * (x + 3) / 6)), atol=1e-12)


def test_what_a_hard_swish_drops_takes_no_range():
    """Far below -3 everything comes out as zero."""
    values = np.random.default_rng(5).normal(0, 1, (1, 4, 50, 50)).astype(np.float32)
    values[0, 0, :10] = -40
    low, high = MeanSquaredError(gates.hard_swish), MeanSquaredError(None)
    for observer in (low, high):
        observer.update(values)
    assert low.range()[0] > -5
    assert high.range()[0] < -30


def test_a_tensor_of_one_value_a_channel_keeps_its_extremes(onnx_model):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]), helper.make_node("GlobalAveragePool", ["a"], ["m"]),
        helper.make_node("Conv", ["m", "v"], ["y"]),
    ]  # fmt: skip
    const = {"w": np.ones((2, 3, 1, 1), np.float32), "v": np.ones((2, 2, 1, 1), np.float32)}
    found = observers.range_observers(Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], const)), "mse")
    kinds = {name: type(halves._halves[0]) for name, halves in found.items()}
    assert kinds == {"image": MeanSquaredError, "a": MeanSquaredError, "m": MinMax, "y": MinMax}


# The model


@pytest.fixture
def model(onnx_model) -> Any:
    """image -> conv 1x1 -> relu -> conv 1x1 -> y; no tensor but y is an output."""
    random = np.random.default_rng(6)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"]),
    ]
    constants = {
        "w": random.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "v": random.normal(size=(2, 4, 1, 1)).astype(np.float32),
    }
    return onnx_model(nodes, {"image": (1, 3, 5, 7)}, ["y"], constants)


def photographs(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(9)
    return [random.integers(0, 256, (5, 7, 3)).astype(np.uint8) for _ in range(count)]


def ranges_of(model: Any, names: list[str], pixels: list[np.ndarray], **how: Any) -> dict[str, tuple[float, float]]:
    watching = {name: MinMax() for name in names}
    watch(model, watching, iter(pixels), threads=1, **how)
    return {name: observer.range() for name, observer in watching.items()}


def test_ranges_of_inputs_hidden_tensors_and_outputs(model):
    images, seen = photographs(4), []
    found = ranges_of(model, ["image", "a", "r", "y"], images, on_photograph=lambda: seen.append(1))
    assert len(seen) == 4
    const = {name: value.astype(np.float64)[..., 0, 0] for name, value in Graph(model).constants.items()}
    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float64)
    a = np.einsum("oi,nihw->nohw", const["w"], pixels)
    r = np.maximum(a, 0)
    wanted: dict[str, Any] = {"image": pixels, "a": a, "r": r, "y": np.einsum("oi,nihw->nohw", const["v"], r)}
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], (values.min(), values.max()), rtol=1e-5, atol=1e-3)
    assert found["a"][0] < 0  # the negative side that a fused ReLU would hide
    assert found["r"][0] == 0


def test_the_model_is_left_as_it_was(model):
    before = model.SerializeToString()
    ranges_of(model, ["a", "r"], photographs(1))
    assert model.SerializeToString() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_that_is_not_finite_is_an_error_that_names_the_tensor(model, value):
    bad = onnx.ModelProto()
    bad.CopyFrom(model)
    weight = Graph(model).constants["w"].copy()
    weight[1, 0] = value
    (stored,) = (t for t in bad.graph.initializer if t.name == "w")
    stored.CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    with pytest.raises(BackendError, match="tensor 'a' takes values that are not finite") as caught:
        ranges_of(bad, ["image", "a"], photographs(2))
    assert caught.value.exit_code == EXIT_BACKEND


def test_a_network_that_overflows_is_an_error_that_names_the_tensor(onnx_model: Callable[..., Any]):
    nodes = [helper.make_node("Exp", ["image"], ["e"]), helper.make_node("Relu", ["image"], ["y"])]
    model = onnx_model(nodes, {"image": (1, 3, 5, 7)}, ["y"])
    with pytest.raises(BackendError, match="tensor 'e' takes values that are not finite"):
        ranges_of(model, ["image", "e"], photographs(1))
