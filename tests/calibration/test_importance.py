"""The estimate of how much a value matters, against the whole Jacobian of a small detector's head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from facex.calibration import importance, rewrites
from facex.calibration.graph import Graph
from facex.calibration.heads import levels
from facex.calibration.plan import QuantizationPlan, affine
from facex.calibration.simulate import Simulation


@pytest.fixture(scope="module")
def graph(onnx_model):
    """image -> conv leaky -> three heads of two priors, on a map of 3x4 cells."""
    random = np.random.default_rng(1)
    sizes = {"loc": 4, "conf": 2, "landm": 10}
    const = {"w": random.normal(size=(5, 3, 1, 1)).astype(np.float32) / 100}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("LeakyRelu", ["c"], ["l"], alpha=0.1)
    ]  # fmt: skip
    for name, size in sizes.items():
        const[f"w_{name}"] = random.normal(size=(2 * size, 5, 3, 3)).astype(np.float32) / 5
        nodes.append(helper.make_node("Conv", ["l", f"w_{name}"], [f"h_{name}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Identity", [f"h_{name}"], [name]))
    model = onnx_model(nodes, {"image": (1, 3, 3, 4)}, list(sizes), const)
    rewrites.own_constants(model)
    return Graph(model)


class Noted:
    """Stands for an observer."""

    def __init__(self) -> None:
        self.total = 0.0

    def weigh(self, _values: Any, found: torch.Tensor) -> None:
        self.total = self.total + found.double()


def exact(simulation: Simulation, graph: Graph, crop: torch.Tensor, name: str) -> np.ndarray:
    """The diagonal of J^T J, row of the weighted head by row."""
    values = simulation(crop.clone().requires_grad_(), quantized=False)
    (level,) = levels(graph)
    total = torch.zeros(values[name].shape, dtype=torch.float64)
    for weight, value in level.weighted(values):
        for row in (value * weight.sqrt()).reshape(-1):
            (gradient,) = torch.autograd.grad(row, values[name], retain_graph=True)
            total += gradient.double().square()
    return total.numpy()


@pytest.mark.slow
def test_random_signs_estimate_the_squared_influence_on_the_head(graph):
    plan = QuantizationPlan(activations=dict.fromkeys(graph.quantized_tensors(), affine(-1, 1)), method="mse")
    simulation = Simulation(graph, plan)
    crop = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (1, 3, 3, 4)).astype(np.float32))
    noted = {"c": Noted(), "l": Noted()}
    rounds, done = 600, []
    for seed in range(rounds):
        importance.weigh(graph, simulation, noted, crop, seed=seed, on_crop=lambda: done.append(1))
    assert len(done) == rounds
    for name, observer in noted.items():
        wanted, found = exact(simulation, graph, crop, name), observer.total.numpy() / rounds
        assert found.sum() == pytest.approx(wanted.sum(), rel=0.05)
        assert np.corrcoef(found.reshape(-1), wanted.reshape(-1))[0, 1] > 0.97
        assert np.abs(found / wanted - 1).mean() < 0.1
    assert all(parameter.requires_grad for parameter in simulation.parameters())


def test_a_seed_is_repeated_to_the_bit(graph):
    plan = QuantizationPlan(activations=dict.fromkeys(graph.quantized_tensors(), affine(-1, 1)), method="mse")
    crops = torch.rand(importance.BATCH, 3, 3, 4, generator=torch.Generator().manual_seed(1)) * 255
    totals = []
    for seed in (3, 3, 4):
        noted = {"l": Noted()}
        importance.weigh(graph, Simulation(graph, plan), noted, crops, seed=seed)
        totals.append(noted["l"].total.numpy())
    np.testing.assert_array_equal(totals[0], totals[1])
    assert not np.array_equal(totals[0], totals[2])
