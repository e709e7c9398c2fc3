"""Units cover the trunk once; closures are what can run in float together; a ruined grid is the most sensitive."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper

from facex.calibration.graph import Graph
from facex.calibration.plan import affine
from facex.calibration.units import closure, sensitivities, units

pytestmark = pytest.mark.slow


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def graph(onnx_model):
    """strip + image -> a leaky -> {b relu, c} -> sum -> relu, concat with the leaky one -> head."""
    nodes = [
        node("Concat", "image,strip", "wide", axis=3),
        node("Conv", "wide,wa", "a", strides=[2, 2]), node("LeakyRelu", "a", "l"),
        node("Conv", "l,wb", "b", pads=[1, 1, 1, 1], group=4), node("Relu", "b", "rb"),
        node("Conv", "l,wc", "c"), node("Add", "rb,c", "s"), node("Relu", "s", "rs"),
        node("Concat", "rs,l", "cat", axis=1), node("Conv", "cat,wh", "h"), node("Exp", "h", "y"),
    ]  # fmt: skip
    shapes = {"wa": (4, 3, 1, 1), "wb": (4, 1, 3, 3), "wc": (4, 4, 1, 1), "wh": (2, 8, 1, 1)}
    const = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    const["strip"] = np.ones((1, 3, 8, 2), np.float32)
    return Graph(onnx_model(nodes, {"image": (1, 3, 8, 8)}, ["y"], const))


def test_units_are_convolutions_with_what_follows(graph):
    assert [(u.name, u.outputs) for u in units(graph)] == [
        ("a", frozenset({"a", "l"})),
        ("b", frozenset({"b", "rb", "s", "rs", "cat"})),
        ("c", frozenset({"c"})),
        ("h", frozenset({"h"})),
    ]


def test_macs_of_units_worked_out_by_hand(graph):
    assert {u.name: u.macs for u in units(graph)} == {
        "a": 4 * 5 * (4 * 3), "b": 4 * 5 * (4 * 9), "c": 4 * 5 * (4 * 4), "h": 4 * 5 * (2 * 8)
    }  # fmt: skip


def test_units_of_the_seeded_network_cover_all_but_the_strips_once(engine_model):
    model, _ = engine_model()
    graph = Graph(model)
    found = units(graph)
    outputs = list(itertools.chain.from_iterable(u.outputs for u in found))
    assert len(outputs) == len(set(outputs))
    left = graph.trunk_tensors - set(outputs)
    assert left
    assert {graph.producer[name].op_type for name in left} == {"Concat"}
    assert all(name in u.outputs for u in found for name in [u.name])
    order = [n.output[0] for n in graph.trunk if n.op_type == "Conv"]
    chain, single = found[0], found[1:]
    assert chain.convolutions == set(order[:4]), "three LeakyReLUs are split, between four convolutions"
    assert [u.convolutions for u in single] == [{name} for name in order[4:]]
    assert [u.name for u in found] == [order[0], *order[4:]]


def test_a_split_costs_nothing_in_float(engine_model, seeded_model):
    model, _ = engine_model()
    assert sum(u.macs for u in units(Graph(model))) == sum(u.macs for u in units(Graph(seeded_model())))


def test_macs_of_the_seeded_network_are_those_that_torch_counts(detector, seeded_model):
    """By hooks on the network that the model was traced from: outputs times weights a filter."""
    import torch
    from torch import nn

    counted = []

    def count(module: nn.Conv2d, _inputs: Any, output: torch.Tensor) -> None:
        counted.append(output[0].numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in detector.network.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            detector.network(torch.zeros(1, 3, 160, 160))
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(u.macs for u in units(Graph(seeded_model()))) == sum(counted)


@pytest.mark.parametrize(
    ("asked", "floats"),
    [
        ([], set()),
        (["a"], {"a", "l"}),  # the sum and the concatenation have integer inputs
        (["b"], {"b", "rb"}),
        (["b", "c"], {"b", "rb", "c", "s", "rs"}),
        (["a", "b", "c"], {"a", "l", "b", "rb", "c", "s", "rs", "cat"}),
        (["h"], {"h"}),
        (["a", "b", "c", "h"], {"a", "l", "b", "rb", "c", "s", "rs", "cat", "h"}),  # not the strips
    ],
)
def test_what_runs_in_float_with_some_convolutions(graph, asked, floats):
    assert closure(graph, asked) == floats


def test_closures_only_grow(engine_model):
    model, _ = engine_model()
    graph = Graph(model)
    names = [u.name for u in units(graph)]
    random = np.random.default_rng(2)
    for _ in range(20):
        more = set(random.choice(names, random.integers(1, len(names)), replace=False))
        less = set(list(more)[::2])
        assert closure(graph, less) <= closure(graph, more)
        convolutions = {n.output[0] for n in graph.trunk if n.op_type == "Conv"}
        asked = set().union(*(u.convolutions for u in units(graph) if u.name in more))
        assert closure(graph, more) & convolutions == asked


def test_every_sensitivity_is_a_unit_s_and_rounding_always_costs(engine_model, pictures, as_feed):
    model, plan = engine_model()
    graph = Graph(model)
    crops = as_feed(np.stack(pictures[:2])[:, 32:128, 32:128])["image"]
    found = sensitivities(graph, plan, crops, threads=1)
    assert list(found) == [u.name for u in units(graph)]
    assert all(np.isfinite(value) and value > 0 for value in found.values())


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_ruined_grid_is_the_most_sensitive(engine_model, pictures, as_feed, place):
    model, plan = engine_model()
    graph = Graph(model)
    found = units(graph)
    victim = found[int(place * len(found))]
    (ruined, *_) = (name for name in plan.activations if name in victim.outputs)
    grid = plan.activations[ruined]
    bad = {**plan.activations, ruined: affine(grid.low * 200, grid.high * 200)}
    shared = next(group for group in graph.shared_ranges() if ruined in group)
    bad |= dict.fromkeys(shared, bad[ruined])
    crops = as_feed(np.stack(pictures[:2])[:, 32:128, 32:128])["image"]
    losses = sensitivities(graph, dataclasses.replace(plan, activations=bad), crops, threads=1)
    units_hit = {u.name for u in found if u.outputs & shared}
    assert max(losses, key=losses.__getitem__) in units_hit


@pytest.mark.slow
def test_threads_are_as_before(engine_model, pictures, as_feed):
    import torch

    model, plan = engine_model()
    before = torch.get_num_threads()
    sensitivities(Graph(model), plan, as_feed(pictures[0][:64, :64])["image"], threads=before + 1)
    assert torch.get_num_threads() == before
