"""Hard gates as integers can compute them: onnxruntime's results before and after, and what is left of the graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from facex.calibration import gates, rewrites
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph

HARD = {"alpha": 1 / 6, "beta": 0.5}


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


def squeeze(x: str, output: str) -> list[Any]:
    """Squeeze and excitation of a tensor of 4 channels."""
    return [
        node("GlobalAveragePool", x, f"{output}_p"), node("Conv", f"{output}_p,w4_2", f"{output}_1"),
        node("Relu", f"{output}_1", f"{output}_r"), node("Conv", f"{output}_r,w2_4", f"{output}_2"),
        node("HardSigmoid", f"{output}_2", f"{output}_g", **HARD), node("Mul", f"{output}_g,{x}", output),
    ]  # fmt: skip


SWISH = [node("Conv", "image,w3_4", "a"), node("HardSwish", "a", "s")]
GRAPHS: dict[str, tuple[list[Any], dict[str, int]]] = {
    "a swish": ([*SWISH, node("Conv", "s,w4_2", "y")], {"Conv": 2, "Add": 1, "Clip": 1, "Mul": 1}),
    "a swish of an older opset": (
        [node("Conv", "image,w3_4", "a"), node("HardSigmoid", "a", "g", **HARD), node("Mul", "a,g", "s"),
         node("Conv", "s,w4_2", "y")],
        {"Conv": 2, "Add": 1, "Clip": 1, "Mul": 1},
    ),
    "squeeze and excitation": (
        [node("Conv", "image,w3_4", "a"), node("Relu", "a", "r"), *squeeze("r", "e"), node("Conv", "e,w4_2", "y")],
        {"Conv": 4, "Relu": 2, "GlobalAveragePool": 1, "Clip": 1, "Mul": 1},
    ),
    "excitation of a swish": (
        [*SWISH, *squeeze("s", "e"), node("Conv", "e,w4_2", "y")],
        {"Conv": 4, "Relu": 1, "GlobalAveragePool": 1, "Add": 1, "Clip": 2, "Mul": 2},
    ),
    "a residual beside a swish": (  # an addition reads it: the sixth stays
        [*SWISH, node("Conv", "s,w4_4", "b"), node("Add", "b,s", "c"), node("Conv", "c,w4_2", "y")],
        {"Conv": 3, "Add": 2, "Clip": 1, "Mul": 2},
    ),
    "a swish times its own mean": (  # a factor would enter squared
        [*SWISH, node("GlobalAveragePool", "s", "m"), node("Mul", "s,m", "p"), node("Conv", "p,w4_2", "y")],
        {"Conv": 2, "Add": 1, "Clip": 1, "Mul": 3, "GlobalAveragePool": 1},
    ),
    "a swish that is a result": ([*SWISH, node("Conv", "s,w4_2", "h"), node("Add", "h,h", "y")], {}),
    "another slope": (
        [node("Conv", "image,w3_4", "a"), node("HardSigmoid", "a", "g"), node("Conv", "g,w4_2", "y")],
        {"Conv": 2, "HardSigmoid": 1},
    ),
}  # fmt: skip


@pytest.fixture
def before(onnx_model):
    def build(nodes: list[Any], outputs: tuple[str, ...] = ("y",)) -> Any:
        random = np.random.default_rng(3)
        const = {f"w{i}_{o}": random.normal(size=(o, i, 1, 1)).astype(np.float32) for i in (2, 3, 4) for o in (2, 4)}
        model = onnx_model(nodes, {"image": (1, 3, 5, 6)}, outputs, const)
        rewrites.own_constants(model)
        return model

    return build


@pytest.mark.parametrize("finest", [0, 2], ids=["coarse", "fine"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_results_stay_and_only_what_kernels_have_is_left(before, run_onnx, monkeypatch, name, finest):
    monkeypatch.setattr(gates, "FINEST_STRIDE", finest)
    nodes, left = GRAPHS[name]
    model = before(nodes, ("y", "s") if "result" in name else ("y",))
    after = ModelProto()
    after.CopyFrom(model)
    changed = gates.integer_gates(after)
    assert changed == (name != "another slope") + (name == "excitation of a swish")
    feed = {"image": np.random.default_rng(8).normal(0, 4, (1, 3, 5, 6)).astype(np.float32)}
    wanted, found = run_onnx(model, feed), run_onnx(after, feed)
    for output, values in wanted.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=2e-5)
    kinds = Counter(n.op_type for n in after.graph.node)
    assert not changed or not {"HardSwish", "HardSigmoid"} & set(kinds)
    if finest and "Add" in left and "Clip" in left:  # a second convolution in place of the sum
        left = Counter(left) + Counter({"Conv": 1}) - Counter({"Add": 1})
    assert not left or kinds == left


def test_a_mean_over_rows_and_columns_is_that_of_the_channels(before, run_onnx):
    nodes = [
        node("Conv", "image,w3_4", "a"), node("ReduceMean", "a", "m", axes=[-1, 2]),
        node("ReduceMean", "a", "other", axes=[1]), node("Mul", "m,other", "y"),
    ]  # fmt: skip
    model = before(nodes)
    feed = {"image": np.random.default_rng(8).normal(size=(1, 3, 5, 6)).astype(np.float32)}
    wanted = run_onnx(model, feed)["y"]
    assert gates.means_of_channels(model) == 1
    assert Counter(n.op_type for n in model.graph.node) == {
        "Conv": 1,
        "GlobalAveragePool": 1,
        "ReduceMean": 1,
        "Mul": 1,
    }
    np.testing.assert_allclose(run_onnx(model, feed)["y"], wanted, rtol=1e-5, atol=1e-6)


def test_channels_before_a_fine_swish_can_be_scaled_against_each_other(before):
    model = before([*SWISH, node("Conv", "s,w4_2", "y")])
    gates.integer_gates(model)
    graph = Graph(model)
    assert gates.is_gated(graph, "a")
    assert not gates.gates_itself(graph, "a")
    assert list(Channels(graph).groups.values()) == [["a", "s"]]


def test_the_sum_goes_into_the_bias_only_where_nothing_else_reads_it(before, monkeypatch):
    monkeypatch.setattr(gates, "FINEST_STRIDE", 0)
    nodes = [*SWISH, *squeeze("s", "e"), node("Conv", "e,w4_2", "y")]
    model = before(nodes)
    bias = Graph(model).constants[Graph(model).producer["e_2"].input[2]]
    gates.integer_gates(model)
    graph = Graph(model)
    assert graph.fused_into_relu(graph.producer["e_g_gate_sum"])
    np.testing.assert_allclose(graph.constants[graph.producer["e_g_gate_sum"].input[2]], bias + 3)
    assert gates.gates_itself(graph, "a")
    assert not gates.gates_itself(graph, "e_g")
