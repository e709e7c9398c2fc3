"""Every rewrite changes the graph as its docstring says, and nothing else: float results before against after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

from facex.calibration import edit, equalize, rewrites
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph, attribute

MEAN = np.array([123.25, 117.0, 104.5], np.float32).reshape(1, 3, 1, 1)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """He-initialised convolutions `w…` and biases `b…`, seeded by the shapes."""
    random = np.random.default_rng(sum(sum(s) for s in shapes.values()))
    return {
        name: (random.normal(size=s) * np.sqrt(2 / np.prod(s[1:]))).astype(np.float32) for name, s in shapes.items()
    }


def copied(model: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def operators(model: Any) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


@pytest.fixture
def assert_same(run_onnx: Callable[..., Any]) -> Callable[..., None]:
    """`assert_same(before, after, x)`: the outputs agree to float32 rounding, and are not all alike."""

    def check(before: Any, after: Any, x: np.ndarray, rtol: float = 2e-6) -> None:
        onnx.checker.check_model(after, full_check=True)
        wanted, found = run_onnx(before, {"image": x}), run_onnx(after, {"image": x})
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert np.unique(value).size > 10
            np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol * np.abs(value).max())

    return check


# relu_before_concat


def concatenation(onnx_model: Callable[..., Any], *more: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
    nodes = [
        node("Conv", "image,w1", "a"), node("Conv", "image,w2", "b"), node("Concat", "a,b", "cat", axis=1),
        node("Relu", "cat", "r"), *more, node("Conv", "r,w3", "y"),
    ]  # fmt: skip
    const = weights(w1=(4, 3, 1, 1), w2=(5, 3, 3, 3), w3=(2, 9, 1, 1))
    nodes[1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    return onnx_model(nodes, {"image": (1, 3, 6, 7)}, outputs, const)


def test_relus_move_before_their_concatenation(onnx_model, assert_same):
    before = concatenation(onnx_model)
    after = copied(before)
    assert rewrites.relu_before_concat(after) == 1
    graph = Graph(after)
    assert [n.op_type for n in graph.nodes] == ["Conv", "Conv", "Relu", "Relu", "Concat", "Conv"]
    assert all(graph.fused_into_relu(graph.producer[name]) for name in ("a", "b"))
    assert attribute(graph.producer["r"], "axis", 0) == 1
    assert_same(before, after, pixels(1, 3, 6, 7) - 128)


@pytest.mark.parametrize("reader", [node("LeakyRelu", "cat", "z", alpha=0.3), node("Relu", "cat", "z")])
def test_a_concatenation_with_two_readers_stays(onnx_model, assert_same, reader):
    before = concatenation(onnx_model, reader, outputs=("y", "z"))
    after = copied(before)
    assert rewrites.relu_before_concat(after) == 0
    assert after == before


def test_a_concatenation_that_the_caller_gets_stays(onnx_model):
    model = concatenation(onnx_model, outputs=("y", "cat"))
    assert rewrites.relu_before_concat(model) == 0


def test_a_branch_that_others_read_keeps_its_negative_values(onnx_model, assert_same):
    before = concatenation(onnx_model, node("LeakyRelu", "a", "z", alpha=0.5), outputs=("y", "z"))
    after = copied(before)
    assert rewrites.relu_before_concat(after) == 1
    assert_same(before, after, pixels(1, 3, 6, 7) - 128)


def test_a_concatenation_of_one_tensor_twice_and_of_a_concatenation(onnx_model, assert_same):
    nodes = [
        node("Conv", "image,w1", "a"), node("Concat", "a,a", "twice", axis=1), node("Relu", "twice", "r1"),
        node("Concat", "r1,a", "both", axis=-3), node("Relu", "both", "r2"), node("Conv", "r2,w2", "y"),
    ]  # fmt: skip
    before = onnx_model(nodes, {"image": (1, 3, 5, 5)}, ["y"], weights(w1=(4, 3, 1, 1), w2=(2, 12, 1, 1)))
    after = copied(before)
    assert rewrites.relu_before_concat(after) == 2
    assert_same(before, after, pixels(1, 3, 5, 5) - 128)


# lossless_image


def stem(onnx_model: Callable[..., Any], height: int, width: int, kernel: tuple[int, int], **how: Any) -> Any:
    const = weights(w=(6, 3, *kernel), v=(2, 6, 1, 1), b=(6,)) | {"mean": MEAN}
    nodes = [
        node("Sub", "image,mean", "s"), node("Conv", "s,w,b", "c", **how), node("LeakyRelu", "c", "l", alpha=0.1),
        node("Conv", "l,v", "y"),
    ]  # fmt: skip
    return onnx_model(nodes, {"image": (1, 3, height, width)}, ["y", "c"], const)


STEMS = {
    "3x3 stride 2, even": (16, 12, (3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "3x3 stride 2, odd": (15, 13, (3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "7x7 stride 2 pad 3, even": (16, 18, (7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "7x7 stride 2 pad 3, odd": (15, 17, (7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "3x3 stride 1": (9, 8, (3, 3), {"pads": [1, 1, 1, 1]}),
    "1x1 no pads": (9, 8, (1, 1), {}),
    "3x3 no pads": (9, 8, (3, 3), {}),
    "4x2 unequal pads": (12, 9, (4, 2), {"pads": [2, 0, 1, 1], "strides": [1, 3]}),
    "3x3 dilated": (12, 11, (3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2], "strides": [2, 2]}),
    "5x5 stride 3": (17, 16, (5, 5), {"pads": [2, 2, 2, 2], "strides": [3, 3]}),
    "2x2 stride 2, last row unread": (9, 9, (2, 2), {"strides": [2, 2]}),
}


def convolved(x: np.ndarray, conv: Any, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The convolution of a zero-padded float64 image, window by window."""
    top, left, bottom, right = attribute(conv, "pads", [0, 0, 0, 0])
    dilation, stride = attribute(conv, "dilations", [1, 1]), attribute(conv, "strides", [1, 1])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    windows = sliding_window_view(padded, reach, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    windows = windows[..., :: dilation[0], :: dilation[1]]
    result: np.ndarray = np.einsum("nihwyx,oiyx->nohw", windows, w.astype(np.float64)) + b[None, :, None, None]
    return result


@pytest.mark.parametrize("case", STEMS)
def test_the_image_enters_the_convolution_whole(onnx_model, run_onnx, case):
    height, width, kernel, how = STEMS[case]
    before = stem(onnx_model, height, width, kernel, **how)
    after = copied(before)
    assert rewrites.lossless_image(after) == 1
    assert operators(after)["Sub"] == 0
    onnx.checker.check_model(after, full_check=True)
    const, x = Graph(before).constants, pixels(1, 3, height, width)
    conv = Graph(before).producer["c"]
    wanted = convolved(x.astype(np.float64) - MEAN, conv, const["w"], const["b"])
    found = run_onnx(after, {"image": x})["c"]
    assert found.shape == wanted.shape  # border rows and columns included
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(const["w"]).sum(axis=(1, 2, 3)).max() * 255)


@pytest.mark.parametrize(("case", "strips"), [("3x3 stride 2, even", 2), ("3x3 stride 1", 4), ("1x1 no pads", 0)])
def test_only_strips_that_are_read_are_added(onnx_model, case, strips):
    height, width, kernel, how = STEMS[case]
    model = stem(onnx_model, height, width, kernel, **how)
    rewrites.lossless_image(model)
    assert operators(model)["Concat"] == strips
    graph = Graph(model)
    assert attribute(graph.producer["c"], "pads", None) == [0, 0, 0, 0]
    for concat in (n for n in graph.nodes if n.op_type == "Concat"):
        (strip,) = (graph.constants[name] for name in concat.input if name in graph.constants)
        np.testing.assert_array_equal(strip, np.broadcast_to(MEAN, strip.shape))


def test_a_scalar_mean_is_every_channel_s(onnx_model, assert_same):
    const = weights(w=(4, 3, 3, 3), b=(4,)) | {"mean": np.float32(127.5)}
    nodes = [node("Sub", "image,mean", "s"), node("Conv", "s,w,b", "y", pads=[1, 1, 1, 1])]
    before = onnx_model(nodes, {"image": (1, 3, 6, 6)}, ["y"], const)
    after = copied(before)
    assert rewrites.lossless_image(after) == 1
    assert_same(before, after, pixels(1, 3, 6, 6), rtol=1e-5)


def test_an_image_that_two_convolutions_read_after_one_subtraction_stays(onnx_model):
    const = weights(w=(4, 3, 3, 3), v=(4, 3, 1, 1), b=(4,)) | {"mean": MEAN}
    nodes = [node("Sub", "image,mean", "s"), node("Conv", "s,w,b", "a"), node("Conv", "s,v,b", "y")]
    model = onnx_model(nodes, {"image": (1, 3, 6, 6)}, ["a", "y"], const)
    before = copied(model)
    assert rewrites.lossless_image(model) == 0
    assert model == before


def test_two_subtractions_with_convolutions_of_unlike_pads_get_strips_of_their_own(onnx_model, assert_same):
    const = weights(w=(4, 3, 3, 3), v=(4, 3, 5, 5), b=(4,)) | {"mean": MEAN, "other": MEAN - 20}
    nodes = [
        node("Sub", "image,mean", "s"), node("Conv", "s,w,b", "a", pads=[1, 1, 1, 1]),
        node("Sub", "image,other", "t"), node("Conv", "t,v,b", "y", pads=[2, 2, 2, 2]),
    ]  # fmt: skip
    before = onnx_model(nodes, {"image": (1, 3, 6, 6)}, ["a", "y"], const)
    after = copied(before)
    assert rewrites.lossless_image(after) == 2
    assert_same(before, after, pixels(1, 3, 6, 6), rtol=1e-5)


UNCHANGED = {
    "no subtraction": [node("Conv", "image,w,b", "y")],
    "from a constant": [node("Sub", "mean,image", "s"), node("Conv", "s,w,b", "y")],
    "no convolution": [node("Sub", "image,mean", "s"), node("Relu", "s", "r"), node("Conv", "r,w,b", "y")],
    "a convolution in groups": [node("Sub", "image,mean", "s"), node("Conv", "s,g,b3", "y", group=3)],
    "a mean for every pixel": [node("Sub", "image,map", "s"), node("Conv", "s,w,b", "y")],
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_other_beginnings_stay(onnx_model, case):
    const = weights(w=(4, 3, 1, 1), g=(3, 1, 1, 1), b=(4,), b3=(3,))
    const |= {"mean": MEAN, "map": np.broadcast_to(MEAN, (1, 3, 6, 6))}
    model = onnx_model(UNCHANGED[case], {"image": (1, 3, 6, 6)}, ["y"], const)
    before = copied(model)
    assert rewrites.lossless_image(model) == 0
    assert model == before


# split_leaky_relus


def chain(onnx_model: Callable[..., Any], *, stride: int = 1, multiplier: int = 1, **leaky: Any) -> Any:
    """stem -> depthwise -> pointwise, each with a LeakyReLU, then a head."""
    n = 4 * multiplier
    const = weights(
        w1=(4, 3, 3, 3), b1=(4,), w2=(n, 1, 3, 3), b2=(n,), w3=(6, n, 1, 1), b3=(6,), w4=(2, 6, 1, 1), b4=(2,)
    )
    nodes = [
        node("Conv", "image,w1,b1", "c1", pads=[1, 1, 1, 1], strides=[2, 2]), node("LeakyRelu", "c1", "l1", **leaky),
        node("Conv", "l1,w2,b2", "c2", pads=[1, 1, 1, 1], strides=[stride, stride], group=4),
        node("LeakyRelu", "c2", "l2", **leaky),
        node("Conv", "l2,w3,b3", "c3"), node("LeakyRelu", "c3", "l3", **leaky), node("Conv", "l3,w4,b4", "y"),
    ]  # fmt: skip
    return onnx_model(nodes, {"image": (1, 3, 16, 12)}, ["y"], const)


def centred(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def test_a_depthwise_chain_on_the_finest_map_is_split_whole(onnx_model, assert_same):
    before = chain(onnx_model, alpha=0.1)
    after = copied(before)
    assert rewrites.split_leaky_relus(after) == 3
    assert operators(after) == {"Conv": 4, "Relu": 3}  # each convolution subtracts the halves that it reads
    assert not [n for n in after.graph.node for a in n.attribute if a.name == "group" and a.i != 1]
    graph = Graph(after)
    assert all(graph.fused_into_relu(graph.producer[n.input[0]]) for n in graph.nodes if n.op_type == "Relu")
    assert_same(before, after, centred(1, 3, 16, 12))


@pytest.mark.parametrize(
    ("how", "split", "left"),
    [
        ({"stride": 2}, 1, 2),  # what follows the depthwise convolution is on a coarser map
        ({"multiplier": 2}, 3, 0),  # two filters a channel
        ({"alpha": 0.3}, 3, 0),
        ({}, 3, 0),  # the slope that ONNX assumes
    ],
)
def test_chains_of_every_shape_stay_exact(onnx_model, assert_same, how, split, left):
    before = chain(onnx_model, **how)
    after = copied(before)
    assert rewrites.split_leaky_relus(after) == split
    assert operators(after)["LeakyRelu"] == left
    assert_same(before, after, centred(1, 3, 16, 12))


@pytest.mark.parametrize(("finest", "split"), [(1, 0), (2, 1), (4, 3)])
def test_the_stride_says_what_is_fine(onnx_model, assert_same, finest, split):
    before = chain(onnx_model, stride=2, alpha=0.1)
    after = copied(before)
    assert rewrites.split_leaky_relus(after, finest) == split
    assert_same(before, after, centred(1, 3, 16, 12))


def test_a_leaky_relu_with_two_readers_stays(onnx_model):
    const = weights(w1=(4, 3, 1, 1), b1=(4,), w2=(4, 1, 3, 3), b2=(4,), w3=(2, 4, 1, 1), b3=(2,))
    nodes = [
        node("Conv", "image,w1,b1", "c1"), node("LeakyRelu", "c1", "l1", alpha=0.1),
        node("Conv", "l1,w2,b2", "c2", pads=[1, 1, 1, 1], group=4), node("LeakyRelu", "c2", "l2", alpha=0.1),
        node("Add", "l1,l2", "a"), node("Conv", "a,w3,b3", "y"),
    ]  # fmt: skip
    before = onnx_model(nodes, {"image": (1, 3, 8, 8)}, ["y"], const)
    after = copied(before)
    assert rewrites.split_leaky_relus(after) == 0
    assert after == before


LEFT = {
    "relus alone": [node("Conv", "image,w,b", "c"), node("Relu", "c", "r"), node("Conv", "r,v,b2", "y")],
    "before the activation is read too": [
        node("Conv", "image,w,b", "c"), node("LeakyRelu", "c", "l"), node("Add", "c,l", "a"),
        node("Conv", "a,v,b2", "y"),
    ],
    "after an addition": [
        node("Conv", "image,w,b", "c"), node("Add", "c,c", "a"), node("LeakyRelu", "a", "l"),
        node("Conv", "l,v,b2", "y"),
    ],
    "after a convolution in groups": [
        node("Conv", "image,g,b3", "c", group=3), node("LeakyRelu", "c", "l"), node("Conv", "l,u,b2", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_split_stays(onnx_model, case):
    const = weights(w=(4, 3, 1, 1), b=(4,), v=(2, 4, 1, 1), b2=(2,), g=(3, 1, 1, 1), b3=(3,), u=(2, 3, 1, 1))
    model = onnx_model(LEFT[case], {"image": (1, 3, 6, 6)}, ["y"], const)
    before = copied(model)
    assert rewrites.split_leaky_relus(model) == 0
    assert model == before


def test_the_halves_have_no_negative_values_to_round(onnx_model, run_showing):
    model = chain(onnx_model, alpha=0.1)
    x = {"image": centred(1, 3, 16, 12)}
    leaky = run_showing(model, x, ["l1", "l2"])
    rewrites.split_leaky_relus(model)
    halves = run_showing(model, x, ["l1_halves", "l2_halves"])
    for name, value in leaky.items():
        both = halves[f"{name}_halves"].reshape(1, 2, -1, *value.shape[2:])
        wanted = np.stack([np.maximum(value, 0), np.maximum(-value, 0)], axis=1)
        np.testing.assert_allclose(both, wanted, atol=1e-5)


# join_leaky_relus


def parted(model: Any) -> None:
    """Rescale what is between two convolutions, channel by channel, as equalization does: the halves apart."""
    graph, random = Graph(model), np.random.default_rng(9)
    for relu in (n for n in graph.nodes if n.op_type == "Relu"):
        graph = Graph(model)
        conv, follower = graph.producer[relu.input[0]], graph.only_consumer(relu.output[0])
        factors = random.uniform(0.3, 3, graph.shapes[relu.output[0]][1]).astype(np.float32)
        weight, bias, mix = (graph.constants[n] for n in (*conv.input[1:3], follower.input[1]))
        scaled = {conv.input[1]: weight * factors[:, None, None, None], conv.input[2]: bias * factors}
        edit.set_constants(model, scaled | {follower.input[1]: mix / factors[:, None, None]})


@pytest.mark.parametrize("how", [{"alpha": 0.1}, {"alpha": 0.3, "multiplier": 2}, {}])
def test_joining_what_was_split_and_rescaled_gives_the_network_back(onnx_model, assert_same, how):
    before = chain(onnx_model, **how)
    after = copied(before)
    rewrites.split_leaky_relus(after)
    parted(after)
    assert_same(before, after, centred(1, 3, 16, 12))
    assert rewrites.join_leaky_relus(after, frozenset(Graph(after).trunk_tensors)) == 3
    assert operators(after) == operators(before)
    assert_same(before, after, centred(1, 3, 16, 12))
    shapes, joined = (Graph(m).constants for m in (before, after))
    assert sorted(v.shape for v in shapes.values()) == sorted(v.shape for v in joined.values())
    slopes = [a.f for n in after.graph.node for a in n.attribute if n.op_type == "LeakyRelu" and a.name == "alpha"]
    assert slopes == pytest.approx([how.get("alpha", 0.01)] * 3, rel=1e-5)


@pytest.mark.parametrize(("count", "joined"), [(0, 0), (1, 0), (2, 0), (3, 1), (5, 2), (7, 3)])
def test_only_what_runs_in_float_as_a_whole_is_joined(onnx_model, assert_same, count, joined):
    before = chain(onnx_model, alpha=0.1)
    after = copied(before)
    rewrites.split_leaky_relus(after)
    floats = frozenset([n.output[0] for n in Graph(after).trunk][:count])
    untouched = copied(after)
    assert rewrites.join_leaky_relus(after, floats) == joined
    assert operators(after).get("LeakyRelu", 0) == joined
    assert joined or after == untouched
    assert_same(before, after, centred(1, 3, 16, 12))


# own_constants and the order of everything


def test_every_convolution_gets_a_weight_and_a_bias_of_its_own(onnx_model, assert_same):
    const = weights(w=(3, 3, 3, 3), b=(3,))
    nodes = [
        node("Conv", "image,w,b", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "r"),
        node("Conv", "r,w", "c", pads=[1, 1, 1, 1], strides=[2, 2]), node("Conv", "c,w,b", "y"),
    ]  # fmt: skip
    before = onnx_model(nodes, {"image": (1, 3, 8, 8)}, ["y"], const)
    after = copied(before)
    rewrites.own_constants(after)
    read = [name for n in after.graph.node if n.op_type == "Conv" for name in n.input[1:]]
    assert len(read) == len(set(read)) == 6
    assert sorted(t.name for t in after.graph.initializer) == sorted(read)
    assert not Graph(after).constants[Graph(after).producer["c"].input[2]].any()
    assert_same(before, after, centred(1, 3, 8, 8))


def test_own_constants_takes_weights_of_constant_nodes(onnx_model, assert_same):
    w = weights(w=(4, 3, 1, 1))["w"]
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)),
        node("Conv", "image,w", "a"), node("Conv", "image,w", "b"), node("Add", "a,b", "y"),
        node("Conv", "y,v", "z"),
    ]  # fmt: skip
    before = onnx_model(nodes, {"image": (1, 3, 6, 6)}, ["z"], weights(v=(2, 4, 1, 1)))
    after = copied(before)
    rewrites.own_constants(after)
    edit.set_constants(after, {"a_weight": 2 * w, "b_weight": 0 * w})
    assert_same(before, after, centred(1, 3, 6, 6))


def test_set_constants_adds_and_replaces_as_float32(onnx_model):
    model = onnx_model([node("Conv", "image,w", "y")], {"image": (1, 3, 4, 4)}, ["y"], weights(w=(2, 3, 1, 1)))
    edit.set_constants(model, {"w": np.full((2, 3, 1, 1), 0.5), "new": np.arange(3)})
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert {name: (v.dtype, v.tolist()) for name, v in stored.items()} == {
        "w": (np.float32, np.full((2, 3, 1, 1), 0.5).tolist()), "new": (np.float32, [0.0, 1.0, 2.0])
    }  # fmt: skip


def test_nothing_that_a_rewrite_replaced_is_left_behind(seeded_model):
    model = seeded_model()
    rewrites.all_exact(model)
    read = {name for n in model.graph.node for name in n.input} | {o.name for o in model.graph.output}
    assert {t.name for t in model.graph.initializer} <= read
    assert {n.output[0] for n in model.graph.node if n.op_type != "Constant"} <= read
    assert len({t.name for t in model.graph.initializer}) == len(model.graph.initializer)


def test_the_seeded_network_through_every_rewrite(seeded_model, assert_same, pictures, as_feed):
    before, after = seeded_model(), seeded_model()
    counts = rewrites.all_exact(after)
    assert counts["relu_before_concat"] == 3  # one context module a level
    assert counts["lossless_image"] == 1
    assert counts["split_leaky_relu"] >= 1
    fine = [n for n in Graph(after).nodes if n.op_type == "LeakyRelu" and Graph(after).shapes[n.output[0]][2] >= 80]
    assert not fine
    for picture in pictures[:2]:
        assert_same(before, after, as_feed(picture)["image"], rtol=2e-5)


def test_a_second_pass_changes_nothing(seeded_model):
    model = seeded_model()
    rewrites.all_exact(model)
    once = copied(model)
    assert set(rewrites.all_exact(model).values()) == {0}
    assert [n.SerializeToString() for n in model.graph.node] == [n.SerializeToString() for n in once.graph.node]
    first, second = Graph(once).constants, Graph(model).constants
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


def test_a_relu_network_has_nothing_to_split(seeded_state, tmp_path, pivot_of):
    import torch

    from facex.reference import detector
    from facex.types import ContractOptions

    torch.save(seeded_state(slope=0.0), tmp_path / "relu.pth")
    network = detector.load(tmp_path / "relu.pth", ContractOptions(activation_slope=0.0))
    model = pivot_of(network)
    assert rewrites.all_exact(model) == {
        "integer_gate": 0,
        "relu_before_concat": 3,
        "lossless_image": 1,
        "split_leaky_relu": 0,
    }


def test_random_factors_after_every_rewrite_change_nothing(seeded_model, assert_same, pictures, as_feed):
    before, after = seeded_model(), seeded_model()
    rewrites.all_exact(after)
    graph, random = Graph(after), np.random.default_rng(4)
    factors = {
        group: np.exp(random.normal(size=graph.shapes[names[0]][1])) for group, names in Channels(graph).groups.items()
    }
    assert len(factors) > 20
    equalize.apply(after, factors)
    assert_same(before, after, as_feed(pictures[0])["image"], rtol=5e-5)
