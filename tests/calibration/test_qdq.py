"""The written QDQ model, run by onnxruntime node by node, against a simulation of 8-bit arithmetic in NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

from facex.calibration import qdq
from facex.calibration.graph import Graph
from facex.calibration.plan import QuantizationPlan, affine, make_plan, without
from facex.errors import UnsupportedOperatorError

RESIZE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


NODES = [
    node("Sub", "image,mean", "s"),
    node("Conv", "s,w1,b1", "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
    node("Relu", "c1", "r1"),
    node("Conv", "r1,w2,b2", "c2", pads=[1, 1, 1, 1], group=8),
    node("LeakyRelu", "c2", "l2", alpha=0.1),
    node("Add", "r1,l2", "a"),
    node("Conv", "a,w3", "c3"),
    node("Resize", "c3,,scales", "up", **RESIZE),
    node("Conv", "s,w4,b4", "c4"),
    node("Concat", "up,c4", "cat", axis=1),
    node("Relu", "cat", "r"),
    node("Conv", "r,wh,bh", "h"),
    node("Transpose", "h", "t", perm=[0, 2, 3, 1]),
    node("Mul", "t,factor", "m"),
    node("Exp", "m", "y"),
]
DEPTHWISE = "c2"


def constants() -> dict[str, np.ndarray]:
    random = np.random.default_rng(17)
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (5, 8, 1, 1), "w4": (4, 3, 1, 1), "wh": (2, 9, 1, 1)}
    found = {k: (random.normal(size=s) * 2 / np.sqrt(np.prod(s[1:]))).astype(np.float32) for k, s in shapes.items()}
    found["w2"][3] = 0  # a dead channel
    found |= {f"b{k}": random.normal(size=n).astype(np.float32) for k, n in (("1", 8), ("2", 8), ("4", 4), ("h", 2))}
    found["mean"] = np.array([123, 117, 104], np.float32).reshape(1, 3, 1, 1)
    found["scales"] = np.array([1, 1, 2, 2], np.float32)
    found["factor"] = np.array([0.001, 0.002], np.float32)
    return found


@dataclass(frozen=True, kw_only=True)
class Net:
    """The float model, its plan, the written model with every tensor as an output, and what onnxruntime gives."""

    float_model: Any
    plan: QuantizationPlan
    written: Any
    feed: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


def copied(model: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.fixture(scope="module")
def net(onnx_model: Callable[..., Any], run_onnx: Callable[..., Any], tmp_path_factory: Any) -> Net:
    folder: Path = tmp_path_factory.mktemp("qdq")
    model = onnx_model(NODES, {"image": (1, 3, 16, 12)}, ["y"], constants())
    pixels = np.random.default_rng(3).integers(0, 256, (1, 3, 16, 12)).astype(np.float32)
    feed = {"image": pixels}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(n.output[0]) for n in NODES[:-1])
    floats = run_onnx(watched, feed)
    view = Graph(model)
    names = [name for name in view.quantized_tensors() if name != "image"]
    plan = make_plan(view, {name: (floats[name].min(), floats[name].max()) for name in names}, "minmax")
    qdq.write(copied(model), plan, folder / "qdq.onnx")
    written = onnx.load(str(folder / "qdq.onnx"))
    every = onnx.ModelProto()
    every.CopyFrom(written)
    every.graph.output.extend(
        helper.make_empty_tensor_value_info(n.output[0]) for n in written.graph.node if n.output[0] != "y"
    )
    return Net(float_model=model, plan=plan, written=written, feed=feed, values=run_onnx(every, feed))


def test_it_is_a_standard_model_with_the_same_inputs_and_outputs(net):
    onnx.checker.check_model(net.written, full_check=True)
    assert [(o.domain, o.version) for o in net.written.opset_import] == [("", 17)]
    assert [i.name for i in net.written.graph.input] == ["image"]
    assert [o.name for o in net.written.graph.output] == ["y"]
    assert net.values["y"].dtype == np.float32


def quantize(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return np.clip(np.rint(values / scale) + zero, -128, 127)


def fake(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The grid of Jacob et al. over a range that holds zero, worked out here."""
    scale = np.float64(np.float32((max(high, 0) - min(low, 0)) / 255))
    zero = round(-128 - min(low, 0) / scale)
    return (quantize(values, scale, zero) - zero) * scale


def fake_weight(weight: np.ndarray) -> np.ndarray:
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    scale = np.float32(np.where(largest > 0, largest, 1) / 127).astype(np.float64)
    return np.clip(np.rint(weight / scale), -127, 127) * scale


def convolve(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, *, pad: int, stride: int, groups: int) -> np.ndarray:
    """Plain convolution in float64 over windows."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    subscripts = "nihwyx,oiyx->nohw" if groups == 1 else "nchwyx,ciyx->nchw"
    out = np.einsum(subscripts, windows, w)
    return out if b is None else out + b[None, :, None, None]


def simulate(output: str, read: Callable[[str], np.ndarray], plan: QuantizationPlan) -> np.ndarray:
    """The real value of a tensor before it is quantized, from the quantized tensors that its operator reads."""
    const = constants()

    def conv(name: str, x: str, weight: str, bias: str | None, **how: int) -> np.ndarray:
        w = fake_weight(const[weight])
        b = None
        if bias is not None:
            largest = np.abs(const[weight]).max(axis=(1, 2, 3))
            unit = plan.activations[x].scale * np.float32(np.where(largest > 0, largest, 1) / 127).astype(np.float64)
            b = np.rint(const[bias] / unit) * unit
        return convolve(read(x), w, b, **{"pad": 0, "stride": 1, "groups": 1, **how})

    def leaky(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, 0.1 * x)

    mean = const["mean"].astype(np.float64)
    return {
        "s": lambda: read("image") - fake(mean, mean.min(), mean.max()),
        "r1": lambda: np.maximum(conv("c1", "s", "w1", "b1", pad=1, stride=2), 0),
        "c2": lambda: conv("c2", "r1", "w2", "b2", pad=1, groups=8),
        "l2": lambda: leaky(read("c2")),
        "a": lambda: read("r1") + read("l2"),
        "c3": lambda: conv("c3", "a", "w3", None),
        "up": lambda: read("c3").repeat(2, axis=2).repeat(2, axis=3),
        "c4": lambda: conv("c4", "s", "w4", "b4"),
        "cat": lambda: np.concatenate([read("up"), read("c4")], axis=1),
        "r": lambda: np.maximum(read("cat"), 0),
        "h": lambda: conv("h", "r", "wh", "bh"),
    }[output]()


QUANTIZED = ["s", "r1", "c2", "l2", "a", "c3", "up", "c4", "cat", "r", "h"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_tensor_is_what_integer_arithmetic_gives(net, name):
    def read(source: str) -> np.ndarray:
        grid = net.plan.activations[source]
        return (net.values[f"{source}_q"].astype(np.float64) - grid.zero_point) * grid.scale

    grid = net.plan.activations[name]
    found = net.values[f"{name}_q"].astype(np.int64)
    wanted = quantize(simulate(name, read, net.plan), grid.scale, grid.zero_point)
    assert found.dtype == np.int64
    assert np.abs(found - wanted).max() <= 1
    assert (found == wanted).mean() > 0.99  # the rest are ties that float32 sums see otherwise
    assert len(np.unique(found)) > 20


def test_every_planned_tensor_was_compared(net):
    assert set(net.plan.activations) == {"image", *QUANTIZED}


def test_the_image_enters_without_loss(net):
    np.testing.assert_array_equal(net.values["image_q"].astype(np.int64) + 128, net.feed["image"])
    np.testing.assert_array_equal(net.values["image_dq"], net.feed["image"])


def test_the_head_is_float_arithmetic_on_one_dequantized_tensor(net):
    grid = net.plan.activations["h"]
    real = (net.values["h_q"].astype(np.float64) - grid.zero_point) * grid.scale
    wanted = np.exp(real.transpose(0, 2, 3, 1) * constants()["factor"])
    np.testing.assert_allclose(net.values["y"], wanted, rtol=1e-5)
    readers = [n.op_type for n in net.written.graph.node if "h_dq" in n.input]
    assert readers == ["Transpose"]


def test_scales_and_zero_points_are_the_plan_s(net):
    stored = {t.name: numpy_helper.to_array(t) for t in net.written.graph.initializer}
    pairs = [n for n in net.written.graph.node if n.op_type == "QuantizeLinear"]
    assert {n.input[0] for n in pairs} == set(net.plan.activations)
    for pair in pairs:
        grid = net.plan.activations[pair.input[0]]
        assert (stored[pair.input[1]], stored[pair.input[2]]) == (np.float32(grid.scale), grid.zero_point)
        assert (stored[pair.input[1]].dtype, stored[pair.input[2]].dtype) == (np.float32, np.int8)
        assert stored[pair.input[1]].ndim == 0


def test_what_a_relu_clips_is_not_quantized_before_it(net):
    quantized = {n.input[0] for n in net.written.graph.node if n.op_type == "QuantizeLinear"}
    assert "c1" not in quantized
    assert {"c2", "c3", "cat"} <= quantized


def test_integers_of_weights_and_biases(net):
    stored = {t.name: numpy_helper.to_array(t) for t in net.written.graph.initializer}
    producer = {n.output[0]: n for n in net.written.graph.node}
    for name, weight, bias, x in (("c1", "w1", "b1", "s"), ("c2", "w2", "b2", "r1"), ("h", "wh", "bh", "r")):
        source, added = (producer[i] for i in producer[name].input[1:])
        w, scale, zero = (stored[i] for i in source.input)
        assert (w.dtype, scale.shape, int(np.abs(zero).max())) == (np.int8, (w.shape[0],), 0)
        real = w.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
        assert np.abs(real - constants()[weight]).max() <= 0.5001 * scale.max()
        b, unit, _ = (stored[i] for i in added.input)
        assert b.dtype == np.int32
        np.testing.assert_allclose(unit, net.plan.activations[x].scale * scale.astype(np.float64), rtol=1e-6)
        assert np.abs(b * unit.astype(np.float64) - constants()[bias]).max() <= 0.5001 * unit.max()


def test_onnxruntime_fused_to_integers_agrees(net, run_onnx):
    found, wanted = run_onnx(net.written, net.feed, optimized=True)["y"], net.values["y"]
    step = net.plan.activations["h"].scale * constants()["factor"].max()
    assert np.abs(np.log(found) - np.log(wanted)).max() < 8 * step


def written(onnx_model: Callable[..., Any], nodes: list[Any], constants: dict[str, Any], folder: Path) -> Any:
    """A small net with a plan of -8..8 for every tensor, written and loaded again."""
    model = onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], constants)
    view = Graph(model)
    plan = QuantizationPlan(activations=dict.fromkeys(view.quantized_tensors(), affine(-8, 8)), method="minmax")
    qdq.write(model, plan, folder / "qdq.onnx")
    return onnx.load(str(folder / "qdq.onnx"))


def test_convolutions_that_share_weight_and_bias_are_told_apart(onnx_model, run_onnx, tmp_path):
    """Tracing merges equal constants; the integers of a bias depend on the input that it is added to."""
    nodes = [node("Conv", "image,w,b", "a"), node("Relu", "a", "r"), node("Conv", "r,w,b", "y")]
    const = {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "b": np.full(3, 0.25, np.float32)}
    model = written(onnx_model, nodes, const, tmp_path)
    x = np.random.default_rng(2).uniform(-4, 4, (1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run_onnx(model, {"image": x})["y"], np.maximum(x + 0.25, 0) + 0.25, atol=0.13)


def test_additions_that_share_a_constant_are_told_apart(onnx_model, run_onnx, tmp_path):
    nodes = [node("Add", "image,c", "a"), node("Add", "a,c", "b"), node("Conv", "b,w", "y")]
    const = {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "c": np.full((1, 3, 1, 1), 0.5, np.float32)}
    model = written(onnx_model, nodes, const, tmp_path)
    x = np.random.default_rng(2).uniform(-4, 4, (1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run_onnx(model, {"image": x})["y"], x + 1, atol=0.13)


@pytest.mark.parametrize("operator", ["MatMul", "ConvTranspose"])
def test_what_has_no_integer_kernel_here_is_refused_by_name(onnx_model, tmp_path, operator):
    shape = (4, 4) if operator == "MatMul" else (3, 3, 1, 1)
    with pytest.raises(UnsupportedOperatorError, match=f"{operator} at '/y'"):
        written(onnx_model, [node(operator, "image,w", "y")], {"w": np.ones(shape, np.float32)}, tmp_path)


def test_a_fully_integer_model_says_nothing_of_floats(net):
    assert list(net.written.metadata_props) == []


def test_constants_in_a_concatenation_lie_on_its_grid(onnx_model, run_showing, tmp_path):
    """A strip beside the image is stored in its integers: whole grey levels exactly, others to the nearest."""
    strip = np.broadcast_to(np.array([123, 117.25, 103.6], np.float32).reshape(1, 3, 1, 1), (1, 3, 1, 4))
    nodes = [node("Concat", "strip,image", "cat", axis=2), node("Relu", "cat", "r"), node("Conv", "r,w", "y")]
    const = {"strip": strip, "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)}
    model = onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], const)
    plan = make_plan(Graph(model), {"cat": (0.0, 255.0), "r": (0.0, 255.0), "y": (0.0, 255.0)}, "minmax")
    assert plan.activations["cat"] == plan.activations["image"] == affine(0.0, 255.0)
    qdq.write(model, plan, tmp_path / "qdq.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 4, 4)).astype(np.float32)
    written = onnx.load(str(tmp_path / "qdq.onnx"))
    found = run_showing(written, {"image": pixels}, ["cat"])["cat"]
    np.testing.assert_array_equal(found[0, :, 0], np.repeat([[123], [117], [104]], 4, axis=1))
    np.testing.assert_array_equal(found[:, :, 1:], pixels)
    (concat,) = (n for n in written.graph.node if n.op_type == "Concat")
    producer = {n.output[0]: n for n in written.graph.node}
    assert [producer[name].op_type for name in concat.input] == ["DequantizeLinear", "DequantizeLinear"]


def test_without_a_zero_in_the_grid_of_a_constant_it_is_still_right(onnx_model, run_showing, tmp_path):
    """The zero point of a strip is its concatenation's, whatever that is."""
    nodes = [node("Conv", "image,w", "a"), node("Concat", "a,strip", "cat", axis=3), node("Conv", "cat,w", "y")]
    const = {"strip": np.full((1, 3, 4, 2), -3.3, np.float32), "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)}
    model = onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], const)
    ranges = {"a": (-5.0, 2.0), "cat": (-5.0, 2.0), "y": (-5.0, 2.0)}
    qdq.write(model, make_plan(Graph(model), ranges, "minmax"), tmp_path / "qdq.onnx")
    x = {"image": np.zeros((1, 3, 4, 4), np.float32)}
    found = run_showing(onnx.load(str(tmp_path / "qdq.onnx")), x, ["cat"])["cat"]
    np.testing.assert_allclose(found[..., 4:], -3.3, atol=0.5 * 7 / 255 * 1.001)


FLOATS = frozenset({"c3", "up", "c4", "cat", "r"})


@pytest.fixture(scope="module")
def mixed(net: Net, run_showing: Callable[..., Any], tmp_path_factory: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The same net with two convolutions and what follows them in float, and its tensors on the same image."""
    path = tmp_path_factory.mktemp("mixed") / "qdq.onnx"
    qdq.write(copied(net.float_model), without(net.plan, Graph(net.float_model), FLOATS), path)
    model = onnx.load(str(path))
    tensors = [n.output[0] for n in model.graph.node]
    return model, run_showing(model, net.feed, tensors)


def test_floats_compute_with_their_own_weights(net, mixed):
    _, values = mixed
    const = constants()
    grid = net.plan.activations["a"]
    a = (values["a_q"].astype(np.float64) - grid.zero_point) * grid.scale
    s_grid = net.plan.activations["s"]
    s = (values["s_q"].astype(np.float64) - s_grid.zero_point) * s_grid.scale
    c3 = convolve(a, const["w3"].astype(np.float64), None, pad=0, stride=1, groups=1)
    c4 = convolve(s, const["w4"].astype(np.float64), const["b4"].astype(np.float64), pad=0, stride=1, groups=1)
    np.testing.assert_allclose(values["c3"], c3, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values["c4"], c4, rtol=1e-5, atol=1e-3)
    wanted = np.maximum(np.concatenate([c3.repeat(2, axis=2).repeat(2, axis=3), c4], axis=1), 0)
    np.testing.assert_allclose(values["r"], wanted, rtol=1e-5, atol=1e-3)


def test_floats_meet_integers_over_one_pair(mixed):
    model, values = mixed
    quantized = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert quantized == {"image", "s", "r1", "c2", "l2", "a", "r", "h"}
    assert {"c3_weight_q", "c4_weight_q"}.isdisjoint(values)
    readers = {n.output[0]: list(n.input) for n in model.graph.node}
    assert readers["c3"] == ["a_dq", "w3"]
    assert readers["c4"] == ["s_dq", "w4", "b4"]
    assert readers["h"][0] == "r_dq"


def test_floats_are_named_in_the_metadata(mixed):
    model, _ = mixed
    (entry,) = model.metadata_props
    assert entry.key == qdq.FLOAT_OPERATORS
    assert json.loads(entry.value) == ["c3", "c4"]


def test_everything_in_float_is_the_float_model(net, run_onnx, tmp_path):
    graph = Graph(net.float_model)
    plan = without(net.plan, graph, frozenset(graph.trunk_tensors))
    assert list(plan.activations) == ["image"]
    qdq.write(copied(net.float_model), plan, tmp_path / "qdq.onnx")
    found = run_onnx(tmp_path / "qdq.onnx", net.feed)["y"]
    np.testing.assert_array_equal(found, run_onnx(net.float_model, net.feed)["y"])
