"""The one-step proof on small graphs: what the rewrites of the engine bring, and what cannot be paired.

Each graph is calibrated on random pixels, written as a QDQ model and converted as an export does it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from facex.types import Precision

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 24, 32
MOVES = {"QUANTIZE", "CONCATENATION", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR", "STRIDED_SLICE"}
RESIZE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


class Graph:
    """A float graph under construction, from `image` [1, 3, 24, 32] to `last` [1, 4, h, w], where its trunk ends."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(41)

    def add(self, operator: str, inputs: str, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value, np.float32)
        return name

    def conv(self, x: str, y: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """A convolution with weights that keep the size of its input's values."""
        weight = self.random.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        self.constant(f"{y}_w", weight * self.random.uniform(0.3, 2, (shape[0], 1, 1, 1)))
        self.constant(f"{y}_b", self.random.normal(0, 3, shape[0]))
        return self.add("Conv", f"{x},{y}_w,{y}_b", y, **attributes)

    def copy(self, x: str, y: str, of: str, factor: float, **attributes: Any) -> str:
        """Another convolution's weights and bias times a factor."""
        self.constant(f"{y}_w", factor * self.constants[f"{of}_w"])
        self.constant(f"{y}_b", factor * self.constants[f"{of}_b"])
        return self.add("Conv", f"{x},{y}_w,{y}_b", y, **attributes)


def mean_by_subtraction(g: Graph) -> None:
    g.constant("mean", np.array([123.0, 117.0, 104.0]).reshape(1, 3, 1, 1))
    g.conv(g.add("Sub", "image,mean", "centred"), "c", (8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    g.conv(g.add("LeakyRelu", "c", "a", alpha=0.1), "last", (4, 8, 1, 1))


def mean_by_strips(g: Graph) -> None:
    """Strips of the mean at the top and the left, in place of padding."""
    mean = np.array([123.0, 117.0, 104.0]).reshape(1, 3, 1, 1)
    g.constant("top", np.broadcast_to(mean, (1, 3, 1, WIDTH)))
    g.constant("left", np.broadcast_to(mean, (1, 3, HEIGHT + 1, 1)))
    g.add("Concat", "top,image", "taller", axis=2)
    g.add("Concat", "left,taller", "wider", axis=3)
    g.add("Relu", g.conv("wider", "c", (8, 3, 3, 3), strides=[2, 2]), "a")
    g.conv("a", "last", (4, 8, 1, 1))


def split_by_subtraction(g: Graph) -> None:
    """leaky(z) = relu(z) - relu(-0.1 z)."""
    g.add("Relu", g.conv("image", "p", (8, 3, 3, 3), pads=[1] * 4), "positive")
    g.add("Relu", g.copy("image", "n", "p", -0.1, pads=[1] * 4), "negative")
    g.conv(g.add("Sub", "positive,negative", "a"), "last", (4, 8, 1, 1))


def split_by_doubled_outputs(g: Graph) -> None:
    """The same as one convolution with [w; -0.1 w] and a pointwise one with [I, -I]."""
    g.conv("image", "z", (8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    for part in ("w", "b"):
        g.constant(f"z_{part}", np.concatenate([g.constants[f"z_{part}"], -0.1 * g.constants[f"z_{part}"]]))
    g.add("Relu", "z", "both")
    g.constant("join_w", np.hstack([np.eye(8), -np.eye(8)])[:, :, None, None])
    g.constant("join_b", np.zeros(8))
    g.conv(g.add("Conv", "both,join_w,join_b", "a"), "last", (4, 8, 1, 1))


def relu_before_concat(g: Graph) -> None:
    for name, width in (("b1", 4), ("b2", 2), ("b3", 2)):
        g.add("Relu", g.conv("image", f"{name}_z", (width, 3, 3, 3), pads=[1] * 4), name)
    g.conv(g.add("Concat", "b1,b2,b3", "joined", axis=1), "last", (4, 8, 1, 1))


def relu_after_concat(g: Graph) -> None:
    for name in ("b1", "b2"):
        g.conv("image", name, (4, 3, 3, 3), pads=[1] * 4)
    g.add("Relu", g.add("Concat", "b1,b2", "joined", axis=1), "a")
    g.conv("a", "last", (4, 8, 1, 1))


def pyramid(g: Graph) -> None:
    g.constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    g.conv("image", "fine", (6, 3, 3, 3), pads=[1] * 4)
    g.conv("image", "coarse", (6, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    g.add("LeakyRelu", "fine", "fine_a", alpha=0.1)
    g.add("LeakyRelu", "coarse", "coarse_a", alpha=0.1)
    g.add("Resize", "coarse_a,,scales", "up", **RESIZE)
    g.conv(g.add("Add", "fine_a,up", "sum"), "last", (4, 6, 3, 3), pads=[1] * 4)


def pyramid_of_an_odd_map(g: Graph) -> None:
    """23 rows of 12, doubled and cut."""
    g.constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    g.constants |= {name: np.array([value]) for name, value in (("start", 0), ("end", HEIGHT - 1), ("axis", 2))}
    g.conv("image", "fine", (6, 3, 3, 3), pads=[0, 1, 1, 1])
    g.conv("fine", "coarse", (6, 6, 3, 3), pads=[1] * 4, strides=[2, 2])
    g.add("LeakyRelu", "coarse", "coarse_a", alpha=0.1)
    g.add("Slice", g.add("Resize", "coarse_a,,scales", "up", **RESIZE) + ",start,end,axis", "cut")
    g.conv(g.add("Add", "fine,cut", "sum"), "last", (4, 6, 3, 3), pads=[1] * 4)


def depthwise(g: Graph) -> None:
    g.add("LeakyRelu", g.conv("image", "d", (3, 1, 3, 3), pads=[1] * 4, group=3), "a", alpha=0.1)
    g.add("Relu", g.conv("a", "m", (6, 1, 3, 3), pads=[1] * 4, strides=[2, 2], group=3), "b")
    g.conv("b", "last", (4, 6, 3, 3), pads=[2] * 4, dilations=[2, 2])


def identical_heads(g: Graph) -> None:
    """Siblings of one shape, told apart by their weights alone."""
    g.add("LeakyRelu", g.conv("image", "c", (6, 3, 3, 3), pads=[1] * 4), "a", alpha=0.1)
    for name, factor in (("h1", 1.0), ("h2", -1.0), ("h3", 0.7)):
        if name == "h1":
            g.conv("a", name, (6, 6, 3, 3), pads=[1] * 4)
        else:
            g.copy("a", name, "h1", factor, pads=[1] * 4)
            g.constants[f"{name}_w"] = np.roll(g.constants[f"{name}_w"], int(name[1]), axis=1)
    g.conv(g.add("Concat", "h1,h2,h3", "joined", axis=1), "last", (4, 18, 1, 1))


def relu6_and_a_sum(g: Graph) -> None:
    """A residual block of MobileNetV2, and a ReLU after the sum as in ResNet."""
    g.constants |= {"zero": np.float32(0), "six": np.float32(6)}
    g.add("Clip", g.conv("image", "c", (6, 3, 3, 3), pads=[1] * 4) + ",zero,six", "a")
    g.add("Clip", g.conv("a", "d", (6, 1, 3, 3), pads=[1] * 4, group=6) + ",zero,six", "b")
    g.add("Relu", g.add("Add", f"{g.conv('b', 'p', (6, 6, 1, 1))},a", "sum"), "r")
    g.conv("r", "last", (4, 6, 1, 1))


def largest_of_windows(g: Graph) -> None:
    """After a ReLU, and of values below zero."""
    how = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    g.add("MaxPool", g.add("Relu", g.conv("image", "c", (6, 3, 3, 3), pads=[1] * 4), "a"), "m", **how)
    g.add("MaxPool", g.conv("m", "d", (6, 6, 1, 1)), "n", **how)
    g.conv("n", "last", (4, 6, 1, 1))


def gated(g: Graph) -> None:
    """Squeeze and excitation of a hard swish, in the form that the rewrites give them."""
    g.constants |= {"zero": np.float32(0), "six": np.float32(6), "three": np.float32(3)}
    g.conv("image", "z", (6, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    g.constants["z_w"] /= 40
    g.add("Clip", g.add("Add", "z,three", "t") + ",zero,six", "g")
    g.add("Mul", "z,g", "swish")
    g.add("Relu", g.conv(g.add("GlobalAveragePool", "swish", "m"), "e1", (2, 6, 1, 1)), "er")
    g.add("Clip", g.conv("er", "e2", (6, 2, 1, 1)) + ",zero,six", "gate")
    g.conv(g.add("Mul", "gate,swish", "excited"), "last", (4, 6, 1, 1))


def swish_as_it_comes(g: Graph) -> None:
    """Without rewrites, as for `minmax`."""
    g.conv("image", "z", (6, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    g.constants["z_w"] /= 40
    g.conv(g.add("HardSwish", "z", "swish"), "last", (4, 6, 1, 1))


def sigmoid_as_it_comes(g: Graph) -> None:
    g.conv("image", "z", (4, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    g.constants["z_w"] /= 40
    g.conv(g.add("HardSigmoid", "z", "gate", alpha=1 / 6), "last", (4, 4, 1, 1))


GRAPHS: dict[str, tuple[Callable[[Graph], None], dict[str, int]]] = {
    "mean by subtraction": (mean_by_subtraction, {"SUB": 1, "CONV": 2, "LEAKY_RELU": 1}),
    "mean by strips": (mean_by_strips, {"CONCATENATION": 2, "CONV": 2}),
    "split by subtraction": (split_by_subtraction, {"CONV": 3, "SUB": 1}),
    "split by doubled outputs": (split_by_doubled_outputs, {"CONV": 3}),
    "relu before concat": (relu_before_concat, {"CONV": 4, "CONCATENATION": 1}),
    "relu after concat": (relu_after_concat, {"CONV": 3, "CONCATENATION": 1, "RELU": 1}),
    "pyramid": (pyramid, {"CONV": 3, "LEAKY_RELU": 2, "RESIZE_NEAREST_NEIGHBOR": 1, "ADD": 1}),
    "pyramid of an odd map": (
        pyramid_of_an_odd_map,
        {"CONV": 3, "LEAKY_RELU": 1, "RESIZE_NEAREST_NEIGHBOR": 1, "STRIDED_SLICE": 1, "ADD": 1},
    ),
    "depthwise": (depthwise, {"CONV": 3, "LEAKY_RELU": 1}),
    "relu6 and a sum": (relu6_and_a_sum, {"CONV": 4, "ADD": 1}),
    "largest of windows": (largest_of_windows, {"CONV": 3, "MAX_POOL_2D": 2}),
    "gated": (gated, {"CONV": 4, "ADD": 1, "MUL": 2, "MEAN": 1}),
    "swish as it comes": (swish_as_it_comes, {"CONV": 2, "HARD_SWISH": 1}),
    "identical heads": (identical_heads, {"CONV": 5, "LEAKY_RELU": 1, "CONCATENATION": 1}),
}


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def written(onnx_model, tmp_path_factory) -> Callable[..., tuple[Path, Path]]:
    """`written(build, in_float=())` gives the TFLite file and the QDQ model of a graph; some tensors get no grid."""
    from facex.calibration import graph, observers, plan
    from facex.calibration import qdq as writer

    folder = tmp_path_factory.mktemp("graphs")

    def write(build: Callable[[Graph], None], in_float: tuple[str, ...] = ()) -> tuple[Path, Path]:
        stem = "_".join((build.__name__, *in_float))
        source, qdq, tflite = (folder / f"{stem}{end}" for end in (".onnx", "_qdq.onnx", ".tflite"))
        if not tflite.exists():
            g = Graph()
            build(g)
            # the head, in float as an export's is; without one the last tensor would never be read as integers
            g.add("Mul", f"last,{g.constant('signs', np.array([1, -1, 2, -2]).reshape(1, 4, 1, 1))}", "y")
            onnx.save(onnx_model(g.nodes, {"image": (1, 3, HEIGHT, WIDTH)}, ["y"], g.constants), str(source))
            model = onnx.load(str(source))
            view = graph.Graph(model)
            watching = observers.range_observers(view, "minmax")
            observers.watch(model, watching, [pixels(seed)[0] for seed in range(4)], threads=1)
            planned = plan.make_plan(view, {n: halves.together().range() for n, halves in watching.items()}, "minmax")
            kept = {name: grid for name, grid in planned.activations.items() if name not in in_float}
            writer.write(model, dataclasses.replace(planned, activations=kept), qdq)
            tflite.write_bytes(_converted(qdq))
        return tflite, qdq

    return write


def _converted(qdq: Path) -> bytes:
    import tensorflow as tf

    from facex.exporters import _litert, _nhwc, _nodes, tflite
    from facex.exporters._quiet import quiet

    function = _nhwc.lower(_nodes.load(qdq), quantized=True)
    spec = tf.TensorSpec([1, HEIGHT, WIDTH, 3], tf.float32, name="image")
    with quiet():
        concrete = tf.function(lambda x: [function(x)["y"]], input_signature=[spec]).get_concrete_function()
        return bytes(_litert.finish(tflite._converter(tf, concrete, Precision.W8A8).convert(), ["y"], {}))


@pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_tensor_agrees_to_one_step(one_step, written, name, delegate):
    build, operators = GRAPHS[name]
    report = one_step.Files(*written(build)).compare(pixels(77), delegate=delegate)
    assert Counter(c.operator for c in report.comparisons) == {**operators, "QUANTIZE": 1}
    assert report.disagreements == []
    assert {c.worst for c in report.comparisons if c.operator in MOVES} == {0}
    found, wanted = report.outputs["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-4)


def test_a_hard_sigmoid_is_a_sum_and_a_product_of_integers(one_step, written, run_onnx):
    """TFLite has none of its own: the sum in between has the integers of the result, and no partner in the plan."""
    tflite, qdq = written(sigmoid_as_it_comes)
    file = one_step.File(tflite)
    gate = [i for i in file.quantized if file.kind[id(file.producer[i])] in ("ADD", "MUL")]
    assert [file.grid(i) for i in gate] == [pytest.approx((width / 255, -128), rel=1e-6) for width in (6, 1)]
    found = file.run(pixels(77), gate, delegate=True)
    np.testing.assert_array_equal(found[gate[0]], found[gate[1]])
    wanted = run_onnx(onnx.load(str(qdq)), {"image": pixels(77).transpose(0, 3, 1, 2).astype(np.float32)})["y"]
    assert np.abs(found["y"] - wanted).max() <= 0.02 * np.ptp(wanted)


@pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
def test_operators_left_in_float_are_judged_together(one_step, written, delegate):
    """From the pairs before them to the pair after them."""
    report = one_step.Files(*written(pyramid, ("coarse",))).compare(pixels(77), delegate=delegate)
    operators = {c.tensor: c.operator for c in report.comparisons}
    assert operators["coarse_a"] == "CONV+LEAKY_RELU"
    assert set(operators) == {"image", "fine", "fine_a", "coarse_a", "up", "sum", "last"}
    assert report.disagreements == []


def test_operands_of_a_subtraction_cannot_be_exchanged(one_step, written, tmp_path):
    import flatbuffers

    tflite, qdq = written(split_by_subtraction)
    files = one_step.Files(tflite, qdq)
    (tensor,) = (r.tensor for r in files.plan.regions if r.operator == "SUB")
    operator = files.file.producer[files.partner[tensor]]
    operator.inputs = operator.inputs[::-1].copy()
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(files.file.model.Pack(builder), b"TFL3")
    path = tmp_path / "exchanged.tflite"
    path.write_bytes(bytes(builder.Output()))
    assert {c.tensor for c in one_step.disagreements(path, qdq, pixels(77))} == {"a"}


def test_siblings_that_nothing_tells_apart_are_refused(one_step):
    """Two convolutions of one input on one grid, both unlike anything planned."""
    from one_step import _told_apart
    from one_step.regions import Convolution, Region

    def region(tensor: Any, weight: int) -> Any:
        one = np.full((1, 1, 1, 1), weight)
        convolution = Convolution(weight=one, scale=np.ones(1), bias=np.zeros(1, np.int64))
        return Region(tensor=tensor, kinds=("CONV",), sources=(0,), grid=(0.5, 3), convolution=convolution)

    planned = [region("a", 1), region("b", 2)]
    assert _told_apart(planned, [region(7, 2), region(8, 1)]) == {"a": 8, "b": 7}
    assert _told_apart(planned, [region(7, 5), region(8, 1)]) == {"a": 8, "b": 7}
    with pytest.raises(one_step.PairingError, match="nothing stored tells apart a, b"):
        _told_apart(planned, [region(7, 5), region(8, 6)])
    with pytest.raises(one_step.PairingError, match="nothing stored tells apart"):
        _told_apart([region("a", 1), region("b", 1)], [region(7, 1), region(8, 1)])
    with pytest.raises(one_step.PairingError, match="1 tensors of the file for 2 of the plan"):
        _told_apart(planned, [region(7, 1)])


def test_a_tensor_that_the_plan_does_not_have_is_refused(one_step, written):
    """The file of a longer graph, whose beginning is the plan's."""
    tflite, _ = written(relu_after_concat)

    def shorter(g: Graph) -> None:
        g.conv("image", "b1", (4, 3, 3, 3), pads=[1] * 4)
        g.conv("image", "last", (4, 3, 3, 3), pads=[1] * 4)

    _, qdq = written(shorter)
    with pytest.raises(one_step.PairingError, match="that the plan does not have"):
        one_step.Files(tflite, qdq)
