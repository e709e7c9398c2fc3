"""The trunk in torch against onnxruntime: the float model, and the QDQ model that is written from the same plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from facex.calibration import edit, qdq, rewrites
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph
from facex.calibration.heads import levels
from facex.calibration.plan import QuantizationPlan, affine, make_plan, without
from facex.calibration.reconstruct import head_loss
from facex.calibration.simulate import Simulation, _OnGrid, torch_threads
from facex.calibration.units import units
from facex.errors import UnsupportedOperatorError
from facex.types import Size

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


def copied(model: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.fixture(scope="module")
def small(onnx_model) -> Any:
    """Every operator that is known, with unequal pads, strides, dilations, groups and unequal resizing."""
    shapes = {
        "w1": (6, 3, 3, 2), "w2": (6, 1, 3, 3), "w3": (4, 6, 3, 3), "w4": (4, 6, 1, 1), "w5": (6, 8, 1, 1),
        "w6": (2, 6, 1, 1),
    }  # fmt: skip
    random = np.random.default_rng(12)
    const = {k: (random.normal(size=s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for k, s in shapes.items()}
    const |= {f"b{k[1]}": random.normal(size=s[0]).astype(np.float32) for k, s in shapes.items()}
    const["w1"] /= 50
    const["strip"] = np.broadcast_to(np.array([123, 117, 104], np.float32).reshape(1, 3, 1, 1), (1, 3, 1, 12))
    const["scales"] = np.array([1, 1, 2, 3], np.float32)
    nodes = [
        node("Concat", "strip,image", "wide", axis=2),
        node("Conv", "wide,w1,b1", "c1", pads=[0, 1, 2, 0], strides=[1, 2]), node("LeakyRelu", "c1", "l1", alpha=0.2),
        node("Conv", "l1,w2,b2", "c2", pads=[1, 1, 1, 1], group=6), node("Relu", "c2", "r2"),
        node("Conv", "r2,w3,b3", "c3", pads=[2, 2, 2, 2], dilations=[2, 2], strides=[2, 3]),
        node("Resize", "c3,,scales", "up", **NEAREST),
        node("Conv", "l1,w4,b4", "c4", pads=[0, 0, 1, 0]), node("Identity", "c4", "i"), node("Add", "up,i", "s"),
        node("Sub", "s,c4", "d"), node("Concat", "d,up", "cat", axis=1), node("Relu", "cat", "rc"),
        node("Conv", "rc,w5,b5", "c5"), node("LeakyRelu", "c5", "l5"), node("Conv", "l5,w6,b6", "h"),
        node("Exp", "h", "y"),
    ]  # fmt: skip
    model = onnx_model(nodes, {"image": (1, 3, 12, 12)}, ["y"], const)
    rewrites.own_constants(model)
    return model


@pytest.fixture(scope="module")
def gated(onnx_model) -> Any:
    """What MobileNetV2 and V3 and ResNet bring, with unequal padding of a pool over values below zero."""
    random = np.random.default_rng(15)
    shapes = {"w1": (4, 3, 3, 3), "w2": (2, 4, 1, 1), "w3": (4, 2, 1, 1), "w4": (4, 4, 1, 1), "w5": (2, 4, 1, 1)}
    const = {k: (random.normal(size=s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for k, s in shapes.items()}
    const["w1"] /= 40
    const |= {"zero": np.float32(0), "six": np.float32(6), "one": np.float32(-1)}
    nodes = [
        node("Conv", "image,w1", "c1", pads=[1] * 4), node("HardSwish", "c1", "s"),
        node("GlobalAveragePool", "s", "m"), node("Conv", "m,w2", "c2"), node("Relu", "c2", "r2"),
        node("Conv", "r2,w3", "c3"), node("HardSigmoid", "c3", "g", alpha=1 / 6), node("Mul", "g,s", "e"),
        node("MaxPool", "e", "p", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
        node("Conv", "p,w4", "c4"), node("Clip", "c4,zero,six", "r6"), node("Add", "r6,p", "a"),
        node("Relu", "a", "ra"), node("Clip", "ra,,six", "top"), node("Clip", "top,one", "low"),
        node("Conv", "low,w5", "h"), node("Exp", "h", "y"),
    ]  # fmt: skip
    model = onnx_model(nodes, {"image": (1, 3, 12, 12)}, ["y"], const)
    rewrites.own_constants(model)
    return model


def plan_of(model: Any, run_showing: Callable[..., Any]) -> QuantizationPlan:
    names = Graph(model).quantized_tensors()
    values = run_showing(model, {"image": pixels(1)}, names[1:])
    return make_plan(Graph(model), {k: (v.min() * 0.9, v.max() * 0.9) for k, v in values.items()}, "minmax")


def test_gates_and_pools_in_float_are_onnxruntime_s(gated, run_showing):
    assert_float_model(gated, plan_of(gated, run_showing), pixels(2), run_showing)


def test_gates_and_pools_on_integers_are_the_written_model_s_to_a_step(gated, run_showing, tmp_path):
    plan = plan_of(gated, run_showing)
    names = list(plan.activations)[1:]
    model = written(gated, plan, tmp_path / "qdq.onnx")
    wanted = run_showing(model, {"image": pixels(1)}, [f"{name}_dq" for name in names])
    found = simulated(Simulation(Graph(gated), plan), pixels(1))
    for name in names:
        steps = np.abs(found[name] - wanted[f"{name}_dq"]) / plan.activations[name].scale
        assert steps.max() < 1.01, name
        assert (steps < 0.01).mean() > 0.9, name


def test_what_is_not_kept_is_forgotten_and_changes_nothing(gated, run_showing):
    simulation = Simulation(Graph(gated), plan_of(gated, run_showing))
    every, some = simulated(simulation, pixels(2)), simulated(simulation, pixels(2), keep={"h", "s"})
    assert set(some) == {"h", "s"}
    for name, value in some.items():
        np.testing.assert_array_equal(value, every[name])


@pytest.fixture(scope="module")
def small_plan(small: Any, run_showing: Callable[..., Any]) -> QuantizationPlan:
    return plan_of(small, run_showing)


def pixels(seed: int, size: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 3, size, size)).astype(np.float32)


def simulated(simulation: Simulation, x: np.ndarray, **how: Any) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: value.numpy() for name, value in simulation(torch.from_numpy(x), **how).items()}


def assert_float_model(model: Any, plan: QuantizationPlan, x: np.ndarray, run_showing: Any) -> None:
    graph = Graph(model)
    names = [n.output[0] for n in graph.trunk]
    wanted = run_showing(model, {"image": x}, names)
    found = simulated(Simulation(graph, plan), x, quantized=False)
    assert set(found) == {"image", *names}
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5, atol=2e-5 * np.abs(wanted[name]).max())


def test_every_operator_in_float_is_onnxruntime_s(small, small_plan, run_showing):
    assert_float_model(small, small_plan, pixels(2), run_showing)


def test_the_seeded_network_in_float_is_onnxruntime_s(engine_model, run_showing, pictures, as_feed):
    model, plan = engine_model()
    assert_float_model(model, plan, as_feed(pictures[0])["image"], run_showing)


def written(model: Any, plan: QuantizationPlan, path: Path) -> Any:
    qdq.write(copied(model), plan, path)
    return onnx.load(str(path))


@pytest.mark.parametrize("seed", [1, 2])
def test_every_operator_on_integers_is_the_written_model_s_to_a_step(small, small_plan, run_showing, tmp_path, seed):
    names = list(small_plan.activations)[1:]
    model = written(small, small_plan, tmp_path / "qdq.onnx")
    wanted = run_showing(model, {"image": pixels(seed)}, [f"{name}_dq" for name in names])
    found = simulated(Simulation(Graph(small), small_plan), pixels(seed))
    for name in names:
        grid = small_plan.activations[name]
        steps = (found[name] - wanted[f"{name}_dq"]) / grid.scale
        assert np.abs(steps).max() < 1.01
        assert (np.abs(steps) < 0.01).mean() > 0.97, name
        on_grid = found[name] / grid.scale
        np.testing.assert_allclose(on_grid, np.rint(on_grid), atol=1e-4)
        assert grid.low - 1e-4 <= found[name].min() <= found[name].max() <= grid.high + 1e-4


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def assert_like_written(
    model: Any, plan: QuantizationPlan, simulation: Simulation, x: np.ndarray, run_showing: Any, path: Path
) -> None:
    """Every node gives what it gives in the written model, each fed with the written model's convolutions.

    Left alone, a seeded network amplifies the last bits of every sum; then the heads still resemble one another more
    than those of the float model.
    """
    graph, quantized = Graph(model), written(model, plan, path)
    convolutions = {n.output[0]: n for n in graph.trunk if n.op_type == "Conv"}
    grids = [name for name in plan.activations if name != "image"]
    wanted = run_showing(quantized, {"image": x}, [*convolutions, *(f"{name}_dq" for name in grids)])
    written_constants = Graph(quantized).constants

    def fed(name: str, result: torch.Tensor) -> torch.Tensor:
        units = written_constants[f"{name}_bias_scale"][None, :, None, None]  # an integer bias is half of one away
        allowed = 0.51 * units + 2e-5 * np.abs(wanted[name]).max()
        outside = np.abs(result.numpy() - wanted[name]) > allowed
        assert outside.mean() < 0.01, name  # where one of the inputs was on the edge between two steps
        return torch.from_numpy(wanted[name])

    found = simulated(simulation, x, adjust=fed)
    for name in grids:
        steps = np.abs(found[name] - wanted[f"{name}_dq"]) / plan.activations[name].scale
        assert steps.max() < 3.01, name  # an edge between two steps may be several of a finer grid after it
        assert (steps > 0.01).mean() < 0.01, name
    alone = simulated(simulation, x)
    floats = run_showing(model, {"image": x}, graph.heads)
    for name in graph.heads:
        assert relative(alone[name], wanted[f"{name}_dq"]) < relative(floats[name], wanted[f"{name}_dq"]), name


def test_the_seeded_network_on_integers_is_the_written_model_s(engine_model, run_showing, pictures, as_feed, tmp_path):
    model, plan = engine_model()
    simulation = Simulation(Graph(model), plan)
    assert_like_written(model, plan, simulation, as_feed(pictures[1])["image"], run_showing, tmp_path / "qdq.onnx")


def test_what_the_plan_leaves_in_float_is_simulated_in_float(small, small_plan, run_showing, tmp_path):
    floats = frozenset({"c4", "i", "c5", "l5"})
    plan = without(small_plan, Graph(small), floats)
    assert set(small_plan.activations) - set(plan.activations) == {"c5"}
    model = written(small, plan, tmp_path / "qdq.onnx")
    wanted = run_showing(model, {"image": pixels(3)}, ["l5_dq", "h_dq", "s_dq"])
    found = simulated(Simulation(Graph(small), plan), pixels(3))
    assert relative(found["l5"], wanted["l5_dq"]) < 0.01
    assert relative(found["s"], wanted["s_dq"]) < 0.01
    assert np.abs(found["h"] - wanted["h_dq"]).max() < 2.01 * plan.activations["h"].scale


@pytest.mark.parametrize("size", [(96, 96), (64, 160), (40, 72), (136, 120), (8, 8)])
def test_crops_of_any_size_are_the_network_of_that_size(
    engine_model, detector, pivot_of, run_showing, pictures, as_feed, size
):
    """The network traced at another size, unrewritten: strips beside the image and resizing follow the crop."""
    model, plan = engine_model()
    other = pivot_of(detector, Size(height=size[0], width=size[1]))
    x = as_feed(pictures[2][: size[0], : size[1]])["image"]
    found = simulated(Simulation(Graph(model), plan), x, quantized=False)
    wanted = run_showing(other, {"image": x}, Graph(other).heads)
    assert set(wanted) == set(Graph(model).heads)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("size", [(136, 120), (104, 104), (56, 24), (8, 16)])
def test_crops_of_a_model_that_cuts_its_maps(detector, pivot_of, run_showing, pictures, as_feed, size):
    """A crop of another size needs other cuts, or none."""
    model = pivot_of(detector, Size(height=136, width=120))
    rewrites.all_exact(model)
    graph = Graph(model)
    assert [n.op_type for n in graph.trunk].count("Slice") == 3  # 9 x 8 of 5 x 4, 17 x 15 of 9 x 8
    plan = make_plan(graph, dict.fromkeys(graph.quantized_tensors(), (-1.0, 1.0)), "minmax")
    other = pivot_of(detector, Size(height=size[0], width=size[1]))
    x = as_feed(pictures[2][: size[0], : size[1]])["image"]
    found = simulated(Simulation(graph, plan), x, quantized=False)
    for name, value in run_showing(other, {"image": x}, Graph(other).heads).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


CUTS = {
    "rows": {"starts": [0], "ends": [3], "axes": [2]},
    "rows and columns": {"starts": [1, 0], "ends": [9, -1], "axes": [2, 3], "steps": [1, 2]},
    "the first axes": {"starts": [0, 0, 1], "ends": [1, 9, 3]},
    "backwards": {"starts": [11], "ends": [-13], "axes": [3], "steps": [-1]},
}


@pytest.mark.parametrize("what", CUTS)
def test_a_cut_is_onnxruntime_s_and_keeps_its_grid(onnx_model, run_showing, tmp_path, what):
    given = {name: np.array(value, np.int64) for name, value in CUTS[what].items()}
    weight = np.random.default_rng(1).normal(size=(2, 3, 1, 1)).astype(np.float32) / 100
    nodes = [node("Conv", "image,w", "c"), node("Slice", ",".join(["c", *given]), "s"), node("Conv", "s,v", "h")]
    constants = {"w": weight, "v": np.ones((1, 2, 1, 1), np.float32), **given}
    model = onnx_model(nodes, {"image": (1, 3, 12, 12)}, ["h"], constants)
    rewrites.own_constants(model)
    graph, plan = Graph(model), plan_of(model, run_showing)
    assert {"c", "s"} in graph.shared_ranges()
    assert_float_model(model, plan, pixels(2), run_showing)
    wanted = run_showing(written(model, plan, tmp_path / "qdq.onnx"), {"image": pixels(2)}, ["c_dq", "s_dq"])
    found = simulated(Simulation(graph, plan), pixels(2))
    for name in ("c", "s"):
        assert np.abs(found[name] - wanted[f"{name}_dq"]).max() < 1.01 * plan.activations["s"].scale


def test_batches_are_their_images_one_by_one(engine_model, pictures, as_feed):
    model, plan = engine_model()
    simulation = Simulation(Graph(model), plan)
    x = as_feed(np.stack(pictures[:3])[:, :64, :64])["image"]
    together = simulated(simulation, x, quantized=False)
    for i in range(3):
        alone = simulated(simulation, x[i : i + 1], quantized=False)
        for name in Graph(model).heads:
            np.testing.assert_allclose(together[name][i : i + 1], alone[name], rtol=1e-3, atol=1e-4)


def test_only_what_is_asked_is_rounded(engine_model, pictures, as_feed):
    model, plan = engine_model()
    graph = Graph(model)
    simulation, x = Simulation(graph, plan), as_feed(pictures[0][:96, :96])["image"]
    floats = simulated(simulation, x, quantized=False)
    none = simulated(simulation, x, only=frozenset())
    found = units(graph)
    unit = found[len(found) // 2]
    one = simulated(simulation, x, only=unit.outputs)
    every, plain = simulated(simulation, x, only=frozenset(graph.trunk_tensors)), simulated(simulation, x)
    order = [n.output[0] for n in graph.trunk]
    for name in order:
        np.testing.assert_array_equal(none[name], floats[name])
        np.testing.assert_array_equal(every[name], plain[name])
    for name in order[: order.index(unit.name)]:
        np.testing.assert_array_equal(one[name], floats[name])
    rounded = [name for name in order if name in unit.outputs and name in plan.activations]
    assert rounded
    for name in rounded:
        steps = one[name] / plan.activations[name].scale
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert any(not np.array_equal(one[name], floats[name]) for name in graph.heads)


def moved(simulation: Simulation, graph: Graph, seed: int) -> None:
    """Everything that can be learned, somewhere else; the image's grid stays."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in simulation.weight.values():
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
        for bias in simulation.bias.values():
            bias.add_(0.01 * torch.randn_like(bias))
        for factor in simulation.log_factor.values():
            factor.copy_(0.3 * torch.randn_like(factor))
        image = simulation._grid_of["image"]
        for parameter, size in ((simulation.log_scale, 0.1), (simulation.zero, 2.0)):
            kept = parameter[image].clone()
            parameter.add_(size * torch.randn_like(parameter))
            parameter[image] = kept


def test_what_was_learned_is_written_as_it_was_simulated(engine_model, run_showing, pictures, as_feed, tmp_path):
    model, plan = engine_model()
    graph = Graph(model)
    with torch.random.fork_rng(devices=[]):
        simulation = Simulation(graph, plan)
        moved(simulation, graph, 3)
    learned = simulation.learned()
    assert set(learned.grids) == set(plan.activations)
    assert learned.grids["image"] == plan.activations["image"]
    assert set(learned.factors) == set(Channels(graph).groups)
    edit.set_constants(model, learned.constants)
    changed = dataclasses.replace(plan, activations=learned.grids)
    x = as_feed(pictures[3])["image"]
    assert_like_written(model, changed, simulation, x, run_showing, tmp_path / "qdq.onnx")


def test_learned_factors_alone_change_no_float_result(engine_model, pictures, as_feed):
    model, plan = engine_model()
    graph = Graph(model)
    x = as_feed(pictures[0][:96, :96])["image"]
    simulation = Simulation(graph, plan)
    before = simulated(simulation, x, quantized=False)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for factor in simulation.log_factor.values():
            factor.copy_(torch.randn(factor.shape, generator=random))
    after = simulated(simulation, x, quantized=False)
    for name in graph.heads:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-4 * np.abs(before[name]).max())
    inner = next(iter(Channels(graph).groups.values()))[0]
    assert relative(after[inner], before[inner]) > 0.2


def test_learned_weights_round_to_themselves(engine_model):
    from facex.calibration.plan import quantize_weight

    model, plan = engine_model()
    graph = Graph(model)
    learned = Simulation(graph, plan).learned()
    for conv in (n for n in graph.trunk if n.op_type == "Conv"):
        weight = learned.constants[conv.input[1]]
        integers, scale = quantize_weight(weight, 0)
        np.testing.assert_allclose(integers * scale[:, None, None, None], weight, rtol=1e-6)
        before, _ = quantize_weight(graph.constants[conv.input[1]], 0)
        np.testing.assert_array_equal(integers, before)
        np.testing.assert_array_equal(learned.constants[conv.input[2]], graph.constants[conv.input[2]])


def backward(graph: Graph, plan: QuantizationPlan, x: torch.Tensor) -> Simulation:
    """A simulation with the gradients of its head's error."""
    simulation = Simulation(graph, plan)
    with torch.no_grad():
        expected = simulation(x, quantized=False)
    head_loss(levels(graph), simulation(x), expected).backward()
    return simulation


def test_gradients_reach_everything_but_the_image_s_grid(engine_model, pictures, as_feed):
    """A zero point has a gradient where values are clipped: first those of convolutions, then all others."""
    model, plan = engine_model()
    graph = Graph(model)
    x = torch.from_numpy(as_feed(np.stack(pictures[:2])[:, 32:128, 32:128])["image"])
    still = []
    for clipped in (True, False):
        ranges = {
            name: (share * grid.low, share * grid.high)
            for name, grid in plan.activations.items()
            for share in [0.4 if clipped == (graph.producer.get(name, graph.trunk[0]).op_type == "Conv") else 1.0]
        }
        simulation = backward(graph, make_plan(graph, ranges, "mse"), x)
        for table in (simulation.weight, simulation.bias, simulation.log_factor):
            for key, parameter in table.items():
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all(), key
                assert parameter.grad.abs().max() > 0, key
        image = simulation._grid_of["image"]
        assert simulation.log_scale.grad.eq(0).nonzero().flatten().tolist() == [image]
        still.append(set(simulation.zero.grad.eq(0).nonzero().flatten().tolist()))
    assert still[0] & still[1] == {image}


@pytest.mark.parametrize("zero", [-128.0, 3.4, 200.0])
def test_rounding_and_its_gradients_are_those_of_the_plain_formula(zero):
    """y = s (clamp(round(x/s) + z) - z) with straight-through rounding, left to autograd in float64."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4, 50, generator=random) * 100
    gradient = torch.randn(4, 50, generator=random)

    def straight(v: torch.Tensor) -> torch.Tensor:
        return v + (v.round() - v).detach()

    results = []
    for kind in (torch.float32, torch.float64):
        value, scale, z = (v.clone().to(kind).requires_grad_() for v in (x, torch.tensor(0.37), torch.tensor(zero)))
        if kind is torch.float32:
            y = _OnGrid.apply(value, scale, z)
        else:
            whole = z + (z.round().clamp(-128, 127) - z).detach()
            q = straight(value / scale)
            low, high = -128 - whole, 127 - whole
            y = scale * torch.where(q < low, low, torch.where(q > high, high, q))
        y.backward(gradient.to(kind))
        results.append([y.detach(), value.grad, scale.grad, z.grad])
    assert (results[0][1] == 0).any()
    assert (results[0][1] != 0).any()
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-3)


def test_a_bias_shifts_in_the_unit_of_the_result(small, small_plan):
    simulation = Simulation(Graph(small), small_plan)
    with torch.no_grad():
        for factor in simulation.log_factor.values():
            factor.uniform_(-1, 1)
    before = simulated(simulation, pixels(4), quantized=False)["c3"]
    by = torch.tensor([0.5, -1.0, 2.0, 0.0])
    simulation.shift_bias("c3", by)
    after = simulated(simulation, pixels(4), quantized=False)["c3"]
    np.testing.assert_allclose(after - before, np.broadcast_to(by.reshape(1, 4, 1, 1), before.shape), atol=1e-5)


def test_results_of_convolutions_can_be_adjusted_before_they_are_rounded(small, small_plan):
    simulation, seen = Simulation(Graph(small), small_plan), []

    def adjust(name: str, result: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return result + 1 if name == "c5" else result

    plain, changed = (simulated(simulation, pixels(5), adjust=a) for a in (None, adjust))
    assert seen == [n.output[0] for n in small.graph.node if n.op_type == "Conv"]
    grid = small_plan.activations["c5"]
    inside = (plain["c5"] > grid.low + 1) & (plain["c5"] < grid.high - 2)
    assert inside.mean() > 0.3
    assert np.abs(changed["c5"] - plain["c5"] - 1)[inside].max() <= 1.01 * grid.scale


def test_an_operator_that_cannot_be_learned_through_is_refused_by_name(onnx_model):
    nodes = [node("Conv", "image,w,b", "a"), node("Sigmoid", "a", "g"), node("Conv", "g,v,b2", "y")]
    const = {"w": np.ones((4, 3, 1, 1), "f4"), "v": np.ones((2, 4, 1, 1), "f4")}
    const |= {"b": np.ones(4, "f4"), "b2": np.ones(2, "f4")}
    graph = Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], const))
    plan = QuantizationPlan(activations=dict.fromkeys(graph.quantized_tensors(), affine(-1, 1)), method="minmax")
    with pytest.raises(UnsupportedOperatorError, match="does not know Sigmoid") as caught:
        Simulation(graph, plan)
    assert "fast" in str(caught.value.hint)


def test_threads_are_given_back_even_after_an_error():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(ValueError, match="x"), torch_threads(before + 2):
        raise ValueError("x")
    assert torch.get_num_threads() == before
