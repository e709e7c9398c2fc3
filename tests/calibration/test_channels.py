"""Which tensors share factors; and that any factors for what is found leave a network's results as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from facex.calibration import equalize, rewrites
from facex.calibration.channels import Channels, Segment
from facex.calibration.graph import Graph

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def graph_of(onnx_model):
    """`graph_of(nodes)`: each convolution `Conv x,out` of 3 or `out` channels gets seeded weights of its own."""

    def build(*nodes: Any, outputs: tuple[str, ...] = ("y",), constants: dict[str, Any] | None = None) -> Graph:
        random = np.random.default_rng(3)
        const = {f"w{i}_{o}": random.normal(size=(o, i, 1, 1)).astype(np.float32) for i in range(1, 9) for o in (2, 4)}
        model = onnx_model(nodes, {"image": (1, 3, 4, 4)}, outputs, {**const, **(constants or {})})
        rewrites.own_constants(model)
        return Graph(model)

    return build


def groups(graph: Graph) -> set[frozenset[str]]:
    return {frozenset(names) for names in Channels(graph).groups.values()}


def test_a_chain_passes_its_factor_through_the_activation(graph_of):
    graph = graph_of(node("Conv", "image,w3_4", "a"), node("LeakyRelu", "a", "l"), node("Conv", "l,w4_2", "y"))
    channels = Channels(graph)
    ((group, names),) = channels.groups.items()
    assert names == ["a", "l"]
    assert channels.segments("l") == [Segment(group, 4)]
    assert channels.segments("image") == [Segment(None, 3)]
    assert channels.segments("y") == [Segment(None, 2)]  # a result of the trunk


def test_a_branch_and_an_addition_tie_everything_they_join(graph_of):
    graph = graph_of(
        node("Conv", "image,w3_4", "a"), node("Relu", "a", "r"), node("Conv", "r,w4_4", "b"),
        node("Resize", "b,,scales", "up", **NEAREST), node("Add", "up,r", "s"), node("Conv", "s,w4_2", "y"),
        constants={"scales": np.ones(4, np.float32)},
    )  # fmt: skip
    assert groups(graph) == {frozenset({"a", "r", "b", "up", "s"})}


def cut(name: str, axis: int, end: int) -> tuple[Any, dict[str, Any]]:
    """`name` cut along an axis, as `cut`, with the constants that say so."""
    constants = {"start": np.array([0]), "end": np.array([end]), "axis": np.array([axis])}
    return node("Slice", f"{name},start,end,axis", "cut"), constants


def test_a_cut_of_rows_passes_the_factor_on_and_one_of_channels_does_not(graph_of):
    for axis, weight, expected in ((2, "w4_2", {frozenset({"a", "cut"})}), (1, "w2_2", set())):
        slice_, constants = cut("a", axis, 2)
        graph = graph_of(
            node("Conv", "image,w3_4", "a"), slice_, node("Conv", f"cut,{weight}", "y"), constants=constants
        )
        assert groups(graph) == expected


def test_a_difference_ties_like_a_sum(graph_of):
    graph = graph_of(
        node("Conv", "image,w3_4", "a"), node("Conv", "image,w3_4", "b"), node("Sub", "a,b", "s"),
        node("Conv", "s,w4_2", "y"),
    )  # fmt: skip
    assert groups(graph) == {frozenset({"a", "b", "s"})}


def test_a_concatenation_keeps_the_factors_of_its_parts_in_order(graph_of):
    graph = graph_of(
        node("Conv", "image,w3_4", "a"), node("Conv", "image,w3_2", "b"), node("Concat", "b,a", "ba", axis=1),
        node("Concat", "ba,b", "bab", axis=1), node("Conv", "bab,w8_2", "y"),
    )  # fmt: skip
    channels = Channels(graph)
    assert groups(graph) == {frozenset({"a"}), frozenset({"b"})}
    (a,), (b,) = channels.segments("a"), channels.segments("b")
    assert channels.segments("bab") == [b, a, b]
    assert a.group != b.group


def test_the_part_of_a_concatenation_with_the_image_is_fixed(graph_of):
    graph = graph_of(
        node("Conv", "image,w3_4", "a"), node("Concat", "image,a", "cat", axis=1), node("Conv", "cat,w7_2", "y")
    )
    assert [s.group is None for s in Channels(graph).segments("cat")] == [True, False]


def test_a_constant_part_is_fixed(graph_of):
    graph = graph_of(
        node("Conv", "image,w3_4", "a"), node("Concat", "where,a", "cat", axis=1), node("Conv", "cat,w6_2", "y"),
        constants={"where": np.ones((1, 2, 4, 4), np.float32)},
    )  # fmt: skip
    channels = Channels(graph)
    assert channels.segments("cat") == [Segment(None, 2), *channels.segments("a")]


SQUEEZE = [
    node("Conv", "image,w3_4", "a"), node("Relu", "a", "r"), node("GlobalAveragePool", "r", "m"),
    node("Conv", "m,w4_2", "e"), node("Relu", "e", "er"), node("Conv", "er,w2_4", "c"), node("HardSigmoid", "c", "g"),
    node("Mul", "g,r", "p"), node("Conv", "p,w4_2", "y"),
]  # fmt: skip


def test_what_a_gate_is_multiplied_with_keeps_its_factor_and_the_gate_has_none(graph_of):
    graph = graph_of(*SQUEEZE)
    assert groups(graph) == {frozenset({"a", "r", "m", "p"}), frozenset({"e", "er"})}
    assert Channels(graph).segments("g") == [Segment(None, 4)]


def test_any_factors_around_a_gate_leave_the_results(graph_of, run_onnx):
    graph = graph_of(*SQUEEZE)
    feed = {"image": np.random.default_rng(6).normal(size=(1, 3, 4, 4)).astype(np.float32)}
    wanted = run_onnx(graph.model, feed)["y"]
    random = np.random.default_rng(7)
    factors = {
        group: np.exp(random.normal(size=graph.shapes[names[0]][1])) for group, names in Channels(graph).groups.items()
    }
    equalize.apply(graph.model, factors)
    np.testing.assert_allclose(run_onnx(graph.model, feed)["y"], wanted, rtol=1e-4, atol=1e-5)


FIXED = {
    "an activation of a concatenation": [
        node("Conv", "image,w3_4", "a"), node("Concat", "a,a", "cat", axis=1), node("LeakyRelu", "cat", "l"),
        node("Conv", "l,w8_2", "y"),
    ],
    "a concatenation that is added to": [
        node("Conv", "image,w3_2", "a"), node("Concat", "a,a", "cat", axis=1), node("Conv", "image,w3_4", "b"),
        node("Add", "cat,b", "s"), node("Conv", "s,w4_2", "y"),
    ],
    "a concatenation of a concatenation that is fixed": [
        node("Conv", "image,w3_2", "a"), node("Concat", "a,a", "cat", axis=1), node("Concat", "cat,cat", "all", axis=1),
        node("Relu", "all", "l"), node("Conv", "l,w8_2", "y"),
    ],
    "a concatenation down the image": [
        node("Conv", "image,w3_4", "a"), node("Concat", "a,a", "cat", axis=2), node("Conv", "cat,w4_2", "y"),
    ],
    "an operator that is not homogeneous": [
        node("Conv", "image,w3_4", "a"), node("Relu", "a", "r"), node("Sigmoid", "r", "g"), node("Conv", "g,w4_2", "y"),
    ],
    "an operator that nobody knows": [
        node("Conv", "image,w3_4", "a"), node("HardSwish", "a", "r"), node("Conv", "r,w4_2", "y"),
    ],
    "an offset": [node("Conv", "image,w3_4", "a"), node("Add", "a,one", "r"), node("Conv", "r,w4_2", "y")],
    "a product": [
        node("Conv", "image,w3_4", "a"), node("Conv", "image,w3_4", "b"), node("Mul", "a,b", "r"),
        node("Conv", "r,w4_2", "y"),
    ],
    "a sum over unlike channels": [
        node("Conv", "image,w3_4", "a"), node("Conv", "image,only", "b"), node("Add", "a,b", "s"),
        node("Conv", "s,w4_2", "y"),
    ],
    "what the caller reads as well": [
        node("Conv", "image,w3_4", "a"), node("Relu", "a", "x"), node("Conv", "x,w4_2", "y"), node("Exp", "x", "z"),
    ],
    "an activation of a constant": [
        node("Relu", "map", "r"), node("Conv", "r,w4_2", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", FIXED)
def test_what_does_not_pass_a_factor_on_keeps_one(graph_of, case):
    const = {
        "one": np.float32(1), "only": np.ones((1, 3, 1, 1), np.float32), "map": np.ones((1, 4, 4, 4), np.float32),
    }  # fmt: skip
    graph = graph_of(*FIXED[case], constants=const, outputs=("y", "z") if "caller" in case else ("y",))
    channels = Channels(graph)
    assert channels.groups == {}
    for name in ("a", "cat", "r", "x"):
        if name in graph.trunk_tensors:
            assert {segment.group for segment in channels.segments(name)} == {None}


def test_max_pooling_passes_factors_on(graph_of):
    graph = graph_of(
        node("Conv", "image,w3_4", "a"), node("MaxPool", "a", "p", kernel_shape=[2, 2]), node("Conv", "p,w4_2", "y")
    )
    assert groups(graph) == {frozenset({"a", "p"})}


def test_every_convolution_of_the_seeded_network_is_covered(seeded_model):
    model = seeded_model()
    rewrites.all_exact(model)
    graph = Graph(model)
    channels = Channels(graph)
    grouped = [name for names in channels.groups.values() for name in names]
    assert len(grouped) == len(set(grouped))
    for conv in (n for n in graph.trunk if n.op_type == "Conv"):
        name = conv.output[0]
        assert sum(s.channels for s in channels.segments(name)) == graph.shapes[name][1]
        assert (name in grouped) == (name not in graph.heads)


@st.composite
def networks(draw: st.DrawFn) -> list[Any]:
    """Up to ten operators over maps of 3 to 16 channels, then a convolution over whatever came last."""
    maps, nodes, counter = {"image": 3}, [], iter(range(1000))

    def add(operator: str, inputs: list[str], channels: int, **attributes: Any) -> None:
        name = f"t{next(counter)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        maps[name] = channels

    def convolve(x: str, out: int, depthwise: bool) -> None:
        out = maps[x] if depthwise else out
        name = f"k{next(counter)}_{out}_{1 if depthwise else maps[x]}"
        add("Conv", [x, name], out, group=maps[x] if depthwise else 1, pads=[1, 1, 1, 1])

    convolve("image", 4, depthwise=False)
    for _ in range(draw(st.integers(2, 10))):
        x = draw(st.sampled_from(sorted(maps)))
        like = [name for name in sorted(maps) if maps[name] == maps[x]]
        kind = draw(st.sampled_from(["conv", "conv", "depthwise", "leaky", "relu", "add", "sub", "concat", "other"]))
        if kind in {"conv", "depthwise"}:
            convolve(x, draw(st.integers(1, 6)), depthwise=kind == "depthwise")
        elif kind in {"leaky", "relu"}:
            add("LeakyRelu" if kind == "leaky" else "Relu", [x], maps[x])
        elif kind in {"add", "sub"}:
            add(kind.capitalize(), [x, draw(st.sampled_from(like))], maps[x])
        elif kind == "concat":
            other = draw(st.sampled_from(sorted(maps)))
            if maps[x] + maps[other] <= 16:
                add("Concat", [x, other], maps[x] + maps[other], axis=1)
        else:
            operator = draw(st.sampled_from(["Sigmoid", "Identity", "MaxPool", "Tanh"]))
            shape = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} if operator == "MaxPool" else {}
            add(operator, [x], maps[x], **shape)
    ends = [name for name in maps if not any(name in n.input for n in nodes)]
    for x in ends:
        convolve(x, 2, depthwise=False)
    return nodes


@settings(max_examples=80)
@given(nodes=networks(), seed=st.integers(0, 1000))
def test_any_factors_leave_any_network_as_it_was(onnx_model, run_onnx, nodes, seed):
    random = np.random.default_rng(seed)
    names = [n.input[1] for n in nodes if n.op_type == "Conv"]
    sizes = {name: tuple(map(int, name.split("_")[1:])) for name in names}
    const = {name: (random.normal(size=(*s, 3, 3)) / np.sqrt(9 * s[1])).astype(np.float32) for name, s in sizes.items()}
    ends = [n.output[0] for n in nodes if not any(n.output[0] in m.input for m in nodes)]
    model = onnx_model(nodes, {"image": (1, 3, 5, 5)}, ends, const)
    x = {"image": random.normal(size=(1, 3, 5, 5)).astype(np.float32)}
    wanted = run_onnx(model, x)
    rewrites.own_constants(model)
    graph = Graph(model)
    found = Channels(graph)
    factors = {group: np.exp(random.normal(size=graph.shapes[names[0]][1])) for group, names in found.groups.items()}
    for names in found.groups.values():
        assert len({graph.shapes[name][1] for name in names}) == 1
    equalize.apply(model, factors)
    onnx.checker.check_model(model, full_check=True)
    for name, value in run_onnx(model, x).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-4 * np.abs(wanted[name]).max() + 1e-6)
