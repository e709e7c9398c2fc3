"""Levelled weights: of like size on both sides of every group, and the same function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from facex.calibration import edit, equalize, level, rewrites


def _node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def model(onnx_model: Callable[..., Any]) -> Any:
    """A stem, a depthwise convolution, two branches, a concatenation, a head; channels of very different size."""
    random = np.random.default_rng(8)
    shapes = {"w1": (6, 3, 3, 3), "w2": (6, 1, 3, 3), "w3": (3, 6, 1, 1), "w4": (5, 6, 3, 3), "w5": (2, 8, 1, 1)}
    const = {}
    for name, shape in shapes.items():
        spread = np.exp(random.normal(0, 1.2, (shape[0], 1, 1, 1)))
        const[name] = (random.normal(size=shape) * spread).astype(np.float32)
        const[f"b{name[1]}"] = random.normal(size=shape[0]).astype(np.float32)
    nodes = [
        _node("Conv", "image,w1,b1", "c1", pads=[1, 1, 1, 1]), _node("LeakyRelu", "c1", "l1", alpha=0.1),
        _node("Conv", "l1,w2,b2", "c2", pads=[1, 1, 1, 1], group=6), _node("Relu", "c2", "r2"),
        _node("Conv", "r2,w3,b3", "c3"), _node("Conv", "r2,w4,b4", "c4", pads=[1, 1, 1, 1]),
        _node("Concat", "c3,c4", "cat", axis=1), _node("Conv", "cat,w5,b5", "y"),
    ]  # fmt: skip
    found = onnx_model(nodes, {"image": (1, 3, 8, 8)}, ["y"], const)
    rewrites.own_constants(found)
    return found


def _weights(model: Any) -> list[np.ndarray]:
    constants = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer}
    return [constants[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]


def _rms(weight: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.square(weight).mean(axis=axes))


def test_a_levelled_model_computes_the_same(model: Any, run_onnx: Callable[..., Any]) -> None:
    image = np.random.default_rng(2).normal(size=(1, 3, 8, 8)).astype(np.float32)
    wanted = run_onnx(model, {"image": image})["y"]
    before = _weights(model)
    equalize.apply(model, level.factors(model))
    assert max(np.abs(a - b).max() for a, b in zip(_weights(model), before, strict=True)) > 0.1
    np.testing.assert_allclose(run_onnx(model, {"image": image})["y"], wanted, rtol=1e-4, atol=1e-4)


def test_what_makes_a_channel_and_what_uses_it_end_up_of_like_size(model: Any) -> None:
    equalize.apply(model, level.factors(model))
    stem, depthwise, narrow, wide, head = _weights(model)
    spread = [np.log(_rms(stem, (1, 2, 3)) / _rms(depthwise, (1, 2, 3)))]
    used = (np.log(_rms(narrow, (0, 2, 3))) + np.log(_rms(wide, (0, 2, 3)))) / 2
    spread.append(np.log(_rms(depthwise, (1, 2, 3))) - used)
    spread.append(np.log(_rms(narrow, (1, 2, 3)) / _rms(head[:, :3], (0, 2, 3))))
    spread.append(np.log(_rms(wide, (1, 2, 3)) / _rms(head[:, 3:], (0, 2, 3))))
    for ratio in spread:  # equal but for one number a tensor
        np.testing.assert_allclose(ratio, ratio.mean(), atol=0.01)


def test_a_dead_channel_gets_no_wild_factor(model: Any) -> None:
    constants = {i.name: numpy_helper.to_array(i).copy() for i in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    constants[first][2] = 0
    edit.set_constants(model, {first: constants[first]})
    for factor in level.factors(model).values():
        assert np.isfinite(factor).all()
        assert factor.min() >= 1 / level.MOST - 1e-9
        assert factor.max() <= level.MOST + 1e-9
