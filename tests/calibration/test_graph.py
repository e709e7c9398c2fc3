"""Trunk, fusion and shared ranges on a graph small enough to see through."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from facex.calibration.graph import Graph, attribute, macs

WEIGHT = np.ones((2, 2, 1, 1), np.float32)


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def graph(onnx_model):
    """image -> sub -> conv relu -> {conv leaky, conv} -> concat relu -> two head convolutions -> decoding.

    `c1` is fused into its ReLU, `c2` is followed by a leaky one, `c4` by a ReLU and something else.
    """
    nodes = [
        helper.make_node("Constant", [], ["mean"], value=numpy_helper.from_array(np.ones((1, 2, 1, 1), np.float32))),
        node("Sub", "image,mean", "s"),
        node("Conv", "s,w", "c1"),
        node("Relu", "c1", "r1"),
        node("Conv", "r1,w", "c2"),
        node("LeakyRelu", "c2", "l2"),
        node("Conv", "r1,w", "c3"),
        node("Add", "l2,c3", "a"),
        node("Relu", "a", "ra"),
        node("Conv", "ra,w", "c4"),
        node("Relu", "c4", "r4"),
        node("Add", "c4,r4", "b"),
        node("Concat", "b,l2", "cat", axis=1),
        node("Relu", "cat", "rcat"),
        node("Conv", "rcat,v", "h1"),
        node("Conv", "rcat,v", "h2"),
        node("Conv", "rcat,v", "h3"),
        node("Transpose", "h1", "t1", perm=[0, 2, 3, 1]),
        node("Transpose", "h2", "t2", perm=[0, 2, 3, 1]),
        node("Reshape", "t1,shape", "f1"),
        node("Reshape", "t2,shape", "f2"),
        node("Concat", "f1,f2", "loc", axis=1),
        node("Exp", "h3", "size"),
        node("Relu", "size", "y"),
    ]
    constants = {"w": WEIGHT, "v": np.ones((2, 4, 1, 1), np.float32), "shape": np.array([1, -1, 2])}
    return Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["loc", "y"], constants))


TRUNK = ["s", "c1", "r1", "c2", "l2", "c3", "a", "ra", "c4", "r4", "b", "cat", "rcat", "h1", "h2", "h3"]


def test_the_trunk_ends_with_the_last_convolutions(graph):
    assert [n.output[0] for n in graph.trunk] == TRUNK
    assert graph.trunk_tensors == set(TRUNK)


def test_heads_are_what_the_arithmetic_after_the_trunk_reads(graph):
    assert graph.heads == ["h1", "h2", "h3"]


def test_a_tensor_of_the_trunk_that_the_caller_gets_is_a_head_too(onnx_model):
    nodes = [
        node("Conv", "image,w", "a"), node("Relu", "a", "r"), node("Conv", "r,w", "b"), node("Conv", "r,w", "y"),
        node("Exp", "b", "z"),
    ]  # fmt: skip
    graph = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["z", "y", "r"], {"w": WEIGHT}))
    assert graph.heads == ["r", "b", "y"]


def test_shapes_of_everything_that_is_computed(graph):
    computed = {n.output[0] for n in graph.nodes if n.op_type != "Constant"}
    assert computed | {"image"} <= set(graph.shapes)
    assert {graph.shapes[name] for name in ("image", "s", "c1", "l2", "a", "b", "h1")} == {(1, 2, 4, 4)}
    assert graph.shapes["cat"] == (1, 4, 4, 4)
    assert graph.shapes["t1"] == (1, 4, 4, 2)
    assert graph.shapes["loc"] == (1, 32, 2)


def test_the_only_consumer_is_one_node_and_not_the_caller(graph):
    assert graph.only_consumer("c1").output[0] == "r1"
    assert graph.only_consumer("r1") is None  # two convolutions
    assert graph.only_consumer("loc") is None  # nobody but the caller
    assert graph.only_consumer("image").output[0] == "s"


def test_a_tensor_that_the_caller_reads_beside_a_node_has_no_only_consumer(onnx_model):
    nodes = [node("Conv", "image,w", "a"), node("Relu", "a", "y")]
    graph = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["y", "a"], {"w": WEIGHT}))
    assert graph.only_consumer("a") is None


def test_one_node_that_reads_a_tensor_twice_is_no_only_consumer(onnx_model):
    nodes = [node("Conv", "image,w", "a"), node("Add", "a,a", "y")]
    graph = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["y"], {"w": WEIGHT}))
    assert graph.only_consumer("a") is None


def test_attributes_as_python_values():
    conv = node("Conv", "x,w", "y", pads=[1, 2, 3, 4], group=5, auto_pad="VALID")
    assert attribute(conv, "pads", None) == [1, 2, 3, 4]
    assert attribute(conv, "group", 1) == 5
    assert attribute(conv, "auto_pad", None) == b"VALID"
    assert attribute(conv, "strides", [1, 1]) == [1, 1]
    assert attribute(node("LeakyRelu", "x", "y", alpha=0.25), "alpha", 0.01) == 0.25


def test_constants_come_from_initializers_and_constant_nodes(graph):
    assert set(graph.constants) == {"mean", "w", "v", "shape"}
    np.testing.assert_array_equal(graph.constants["mean"], np.ones((1, 2, 1, 1)))


def test_producers_and_consumers(graph):
    assert graph.producer["ra"].op_type == "Relu"
    assert "mean" not in graph.producer
    assert "image" not in graph.producer
    assert [n.output[0] for n in graph.consumers["l2"]] == ["a", "cat"]
    assert "loc" not in graph.consumers


def test_activations_leave_constants_out(graph):
    assert graph.activations(graph.producer["s"]) == ["image"]
    assert graph.activations(graph.producer["c1"]) == ["s"]
    assert graph.activations(graph.producer["cat"]) == ["b", "l2"]


def test_an_input_left_empty_is_no_activation(onnx_model):
    resize = node("Resize", "image,,scales", "y", mode="nearest")
    model = onnx_model([resize], {"image": (1, 2, 4, 4)}, ["y"], {"scales": np.ones(4, np.float32)})
    assert Graph(model).activations(resize) == ["image"]


def test_only_what_a_relu_alone_follows_is_fused(graph):
    fused = {n.output[0] for n in graph.nodes if n.op_type != "Constant" and graph.fused_into_relu(n)}
    assert fused == {"c1", "a"}


def test_every_computed_tensor_of_the_trunk_has_a_scale_unless_it_is_fused(graph):
    assert graph.quantized_tensors() == ["image", *(name for name in TRUNK if name not in {"c1", "a"})]


def test_what_meets_in_a_concatenation_shares_a_range_in_trunk_and_head(graph):
    groups = {frozenset(group) for group in graph.shared_ranges() if len(group) > 1}
    assert groups == {frozenset({"b", "l2", "cat"}), frozenset({"h1", "h2"})}
    assert sorted(name for group in graph.shared_ranges() for name in group) == sorted(graph.quantized_tensors())


def test_ranges_pass_through_whatever_moves_integers_unchanged(onnx_model):
    """conv -> resize -> cut -> concat with a max pool of another conv: one range for all six; a relu ends the chain."""
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        node("Conv", "image,w", "p"),
        node("Resize", "p,,scales", "up", **how),
        node("Conv", "image,w", "q"),
        node("MaxPool", "q", "pool", kernel_shape=[1, 1]),
        node("Slice", "up,start,end,axis", "cut"),
        node("Concat", "cut,pool", "cat", axis=2),
        node("Relu", "cat", "r"),
        node("Conv", "r,v", "h"),
    ]
    constants = {"w": WEIGHT, "v": np.ones((1, 2, 1, 1), np.float32), "scales": np.ones(4, np.float32)}
    constants |= {name: np.array([value], np.int64) for name, value in (("start", 0), ("end", 3), ("axis", 2))}
    graph = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["h"], constants))
    assert {frozenset(g) for g in graph.shared_ranges()} == {
        frozenset({"p", "up", "cut", "q", "pool", "cat"}),
        *(frozenset({name}) for name in ("image", "r", "h")),
    }


def test_a_graph_without_convolutions_has_no_trunk(onnx_model):
    graph = Graph(onnx_model([node("Relu", "image", "y")], {"image": (1, 2, 4, 4)}, ["y"]))
    assert graph.trunk == []
    assert graph.quantized_tensors() == []


def test_constants_of_every_kind_are_read(onnx_model):
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=1.5),
        helper.make_node("Constant", [], ["b"], value_ints=[1, 2]),
        node("Add", "image,a", "y"),
    ]
    constants = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["y"])).constants
    assert constants["a"] == 1.5
    assert constants["b"].tolist() == [1, 2]


def counted(c_in: int, c_out: int, kernel: tuple[int, int], groups: int, positions: int) -> int:
    """Every multiplication of a convolution, one by one."""
    count = 0
    for _ in range(positions):
        for channel in range(c_out):
            first = channel // (c_out // groups) * (c_in // groups)
            for _source in range(first, first + c_in // groups):
                count += kernel[0] * kernel[1]
    return count


@pytest.mark.parametrize("groups", [1, 4])
def test_macs_of_a_convolution(groups):
    conv = node("Conv", "x,w", "y")
    wanted = counted(4, 8, (3, 2), groups, 5 * 6)
    assert macs(conv, (1, 4, 10, 12), (8, 4 // groups, 3, 2), (1, 8, 5, 6)) == wanted


@pytest.mark.parametrize("groups", [1, 2])
def test_macs_of_a_transposed_convolution_are_those_of_its_mirror(groups):
    """Each input value meets the kernel once, as each output value of the mirrored convolution does."""
    wanted = counted(8, 4, (2, 2), groups, 5 * 6)
    found = macs(node("ConvTranspose", "x,w", "y"), (1, 4, 5, 6), (4, 8 // groups, 2, 2), (1, 8, 10, 12))
    assert found == wanted


def test_macs_of_matrix_products():
    assert macs(node("MatMul", "x,w", "y"), (3, 7), (7, 11), (3, 11)) == 3 * 7 * 11
    assert macs(node("MatMul", "x,w", "y"), (2, 3, 7), (2, 7, 11), (2, 3, 11)) == 2 * 3 * 7 * 11
    assert macs(node("Gemm", "x,w", "y"), (3, 7), (7, 11), (3, 11)) == 3 * 7 * 11
    assert macs(node("Gemm", "x,w", "y", transB=1), (3, 7), (11, 7), (3, 11)) == 3 * 7 * 11


@pytest.mark.parametrize(("high", "fused"), [(6, True), (5, False), (None, False)])
def test_a_clip_is_fused_where_it_is_a_relu6(onnx_model, high, fused):
    bounds = {"zero": np.float32(0)} | ({} if high is None else {"high": np.float32(high)})
    nodes = [
        node("Conv", "image,w", "c"), node("Clip", "c,zero" + (",high" if high else ""), "r"), node("Conv", "r,w", "y")
    ]  # fmt: skip
    graph = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["y"], {"w": WEIGHT, **bounds}))
    assert graph.bounds(graph.producer["r"]) == (0, high or np.inf)
    assert graph.fused_into_relu(graph.producer["c"]) == fused
    assert graph.quantized_tensors() == ["image", *(() if fused else ("c",)), "r", "y"]


def test_a_max_pool_shares_the_grid_of_its_input_and_a_mean_does_not(onnx_model):
    nodes = [
        node("Conv", "image,w", "c"), node("MaxPool", "c", "m", kernel_shape=[2, 2]),
        node("GlobalAveragePool", "m", "g"), node("Conv", "g,w", "y"),
    ]  # fmt: skip
    graph = Graph(onnx_model(nodes, {"image": (1, 2, 4, 4)}, ["y"], {"w": WEIGHT}))
    assert graph.shared_ranges() == [{"image"}, {"c", "m"}, {"g"}, {"y"}]
