"""After a correction no convolution is off on average, on the crops that it was corrected on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facex.calibration.correct import correct_biases
from facex.calibration.graph import Graph
from facex.calibration.heads import levels
from facex.calibration.simulate import Simulation


@pytest.fixture
def crops(pictures, as_feed):
    return torch.from_numpy(as_feed(np.stack(pictures[:4])[:, 32:128, 32:128])["image"])


def errors(simulation: Simulation, expected: dict[str, torch.Tensor], crops: torch.Tensor) -> dict[str, np.ndarray]:
    """What rounding does to the result of every convolution, before that result is rounded."""
    found = {}

    def noted(name: str, result: torch.Tensor) -> torch.Tensor:
        found[name] = (result - expected[name]).numpy()
        return result

    with torch.no_grad():
        simulation(crops, adjust=noted)
    return found


def test_mean_errors_vanish_in_every_channel_of_the_trunk(engine_model, crops):
    model, plan = engine_model()
    graph = Graph(model)
    simulation = Simulation(graph, plan)
    with torch.no_grad():
        for factor in simulation.log_factor.values():  # biases are kept in another unit than results
            factor.uniform_(-0.5, 0.5)
        expected = simulation(crops, quantized=False)
    before = errors(simulation, expected, crops)
    correct_biases(simulation, levels(graph), crops)
    after = errors(simulation, expected, crops)
    for name in set(before) - set(graph.heads):
        means = [np.abs(side[name].mean(axis=(0, 2, 3))).max() for side in (before, after)]
        size = float(expected[name].abs().mean())
        assert means[1] < max(0.02 * size, 0.5 * means[0]), name  # what a last bit before it may change
    total = [sum(np.abs(side[name].mean(axis=(0, 2, 3))).sum() for name in side) for side in (before, after)]
    assert total[1] < 0.2 * total[0]


def test_mean_errors_of_boxes_vanish_where_faces_are(engine_model, crops, best_of_rivals):
    model, plan = engine_model()
    graph = Graph(model)
    simulation = Simulation(graph, plan)
    with torch.no_grad():
        expected = simulation(crops, quantized=False)
    before = errors(simulation, expected, crops)
    correct_biases(simulation, levels(graph), crops)
    after = errors(simulation, expected, crops)
    total = [0.0, 0.0]
    for level in levels(graph):
        pairs = expected[level.margin].double().numpy()
        margin = pairs[:, 1::2] - pairs[:, 0::2]  # [B, priors, h, w]
        faces = best_of_rivals(margin) / (1 + np.exp(-margin)) + 0.002
        for tensor, size in ((level.box, 4), (level.landmarks, 10)):
            weight = faces.repeat(size, axis=1)
            for i, side in enumerate((before, after)):
                means = (side[tensor] * weight).sum(axis=(0, 2, 3)) / weight.sum(axis=(0, 2, 3))
                total[i] += np.abs(means).sum()
    assert total[1] < 0.3 * total[0]  # what a last bit before the head may change


def test_only_the_head_is_held_while_the_rest_is_looked_at(engine_model, crops, monkeypatch):
    """Every tensor of 48 crops of a large network would be gigabytes."""
    model, plan = engine_model()
    graph = Graph(model)
    simulation = Simulation(graph, plan)
    returned: list[set[str]] = []
    forward = simulation.forward

    def counted(*given, **named):
        values = forward(*given, **named)
        returned.append(set(values))
        return values

    monkeypatch.setattr(simulation, "forward", counted)
    correct_biases(simulation, levels(graph), crops)
    assert returned == [set(graph.heads)] * 2
