"""Factors by hand, and that absorbing them rescales every channel by exactly what was asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from facex.calibration import equalize, rewrites
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def model(onnx_model):
    """stem -> depthwise -> branch of a 1x1 and a 3x3 -> concatenation -> head, every convolution with a bias."""
    random = np.random.default_rng(8)
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 1, 3, 3), "w3": (3, 4, 1, 1), "w4": (5, 4, 3, 3), "w5": (2, 8, 1, 1)}
    const = {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    const |= {f"b{name[1]}": random.normal(size=s[0]).astype(np.float32) for name, s in shapes.items()}
    nodes = [
        node("Conv", "image,w1,b1", "c1", pads=[1, 1, 1, 1]), node("LeakyRelu", "c1", "l1", alpha=0.1),
        node("Conv", "l1,w2,b2", "c2", pads=[1, 1, 1, 1], group=4), node("Relu", "c2", "r2"),
        node("Conv", "r2,w3,b3", "c3"), node("Conv", "r2,w4,b4", "c4", pads=[1, 1, 1, 1]),
        node("Concat", "c3,c4", "cat", axis=1), node("Conv", "cat,w5,b5", "y"),
    ]  # fmt: skip
    found = onnx_model(nodes, {"image": (1, 3, 8, 8)}, ["y"], const)
    rewrites.own_constants(found)
    return found


def test_tensors_after_the_activation_decide(model):
    graph = Graph(model)
    watching = equalize.watched(graph, Channels(graph))
    assert sorted(watching.values()) == [["c3"], ["c4"], ["l1"], ["r2"]]


def test_factors_worked_out_by_hand():
    magnitudes = {"a": np.array([1.0, 16.0, 4.0]), "b": np.array([4.0, 1.0, 1.0])}
    found = equalize.equalization(magnitudes, {"g": ["a", "b"]})
    # the larger of the two is 4, 16, 4; its roots 2, 4, 2 over their geometric mean 16 ** (1 / 3)
    np.testing.assert_allclose(found.factors["g"], np.array([2.0, 4.0, 2.0]) / 16 ** (1 / 3))
    assert found.spread_before["g"] == 4.0
    assert found.spread_after["g"] == pytest.approx(2.0)


def test_dead_channels_count_as_a_thousandth_and_dead_tensors_keep_one():
    found = equalize.equalization({"a": np.array([0.0, 1.0]), "b": np.zeros(3)}, {"g": ["a"], "h": ["b"]})
    np.testing.assert_allclose(found.factors["g"][1] / found.factors["g"][0], np.sqrt(1000))
    np.testing.assert_array_equal(found.factors["h"], np.ones(3))


@given(magnitudes=npst.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1e6)))
def test_factors_are_positive_of_mean_one_and_never_widen_the_spread(magnitudes):
    found = equalize.equalization({"a": magnitudes}, {"g": ["a"]})
    assert (found.factors["g"] > 0).all()
    assert np.isfinite(found.factors["g"]).all()
    np.testing.assert_allclose(np.log(found.factors["g"]).mean(), 0, atol=1e-9)
    assert found.spread_after["g"] <= found.spread_before["g"] * (1 + 1e-9)


def factors_for(model: Any, seed: int) -> dict[str, np.ndarray]:
    graph, random = Graph(model), np.random.default_rng(seed)
    return {
        group: np.exp(random.normal(size=graph.shapes[names[0]][1])) for group, names in Channels(graph).groups.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_every_tensor_is_divided_by_its_factors(model, run_showing, seed):
    names = ["c1", "l1", "c2", "r2", "c3", "c4", "cat", "y"]
    x = {"image": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    before = run_showing(model, x, names)
    factors = factors_for(model, seed)
    channels = Channels(Graph(model))
    by_tensor = {name: factors[group] for group, names in channels.groups.items() for name in names}
    by_tensor["cat"] = np.concatenate([by_tensor["c3"], by_tensor["c4"]])
    assert set(by_tensor) == set(names) - {"y"}
    for name, factor in by_tensor.items():
        np.testing.assert_array_equal(equalize.factor_of(channels, factors, name), factor)
    equalize.apply(model, factors)
    after = run_showing(model, x, names)
    for name in names:
        wanted = before[name] / by_tensor.get(name, np.ones(2))[None, :, None, None]
        np.testing.assert_allclose(after[name], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_factors_and_their_inverses_cancel(model):
    wanted = Graph(model).constants
    factors = factors_for(model, 1)
    equalize.apply(model, factors)
    assert not np.allclose(Graph(model).constants["c2_weight"], wanted["c2_weight"], rtol=0.1)
    equalize.apply(model, {group: 1 / factor for group, factor in factors.items()})
    for name, value in Graph(model).constants.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_rescaled_weight_is_the_double_product_written_out(groups):
    random = np.random.default_rng(groups)
    weight = random.normal(size=(12, 6 // groups, 2, 1))
    s_in, s_out = np.exp(random.normal(size=6)), np.exp(random.normal(size=12))
    found = equalize.rescaled(weight, s_in, s_out, groups)
    for o in range(12):
        first = o // (12 // groups) * (6 // groups)
        for i in range(6 // groups):
            np.testing.assert_allclose(found[o, i], weight[o, i] * s_in[first + i] / s_out[o], rtol=1e-12)
