"""LiteRT's 8-bit kernels against the meaning of QDQ: given the same integers, every result within one step.

Small graphs with random weights, grids and pixels, lowered and converted as a w8a8 file is. What a kernel should
give is computed here in float64 from the integers that it read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper

from facex.types import Precision

pytestmark = pytest.mark.slow

Grid = tuple[float, int]
SHAPE = (1, 6, 13, 18)
IMAGE: Grid = (float(np.float32(0.037)), -11)
RESIZE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@dataclass
class Model:
    """A QDQ graph under construction; `grids` are those of its quantized tensors, `weights` the real ones."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def quantized(self, name: str, scale: float, zero: int) -> str:
        grid = (float(np.float32(scale)), zero)
        self.grids[name] = grid
        self.constants |= {f"{name}_s": np.float32(scale), f"{name}_z": np.int8(zero)}
        self.nodes.append(node("QuantizeLinear", f"{name},{name}_s,{name}_z", f"{name}_q"))
        self.nodes.append(node("DequantizeLinear", f"{name}_q,{name}_s,{name}_z", f"{name}_dq"))
        return f"{name}_dq"

    def image(self) -> str:
        return self.quantized("image", *IMAGE)

    def convolution(self, x: str, y: str, shape: tuple[int, ...], **attributes: Any) -> None:
        """Eight-bit weights by channel, some channels a thousand times smaller than others, and 32-bit biases."""
        random = np.random.default_rng(len(self.nodes))
        q = random.integers(-127, 128, shape, dtype=np.int8)
        q.reshape(shape[0], -1)[:, 0] = 127  # the converter finds the same scale again
        scale = (10 ** random.uniform(-4, -1.5, shape[0])).astype(np.float32)
        unit = (self.grids[x.removesuffix("_dq")][0] * scale.astype(np.float64)).astype(np.float32)
        b = np.rint(random.uniform(-1, 1, shape[0]) / unit).astype(np.int32)
        self.constants |= {f"{y}_w": q, f"{y}_ws": scale, f"{y}_wz": np.zeros(shape[0], np.int8)}
        self.constants |= {f"{y}_b": b, f"{y}_bs": unit, f"{y}_bz": np.zeros(shape[0], np.int32)}
        self.nodes.append(node("DequantizeLinear", f"{y}_w,{y}_ws,{y}_wz", f"{y}_wr", axis=0))
        self.nodes.append(node("DequantizeLinear", f"{y}_b,{y}_bs,{y}_bz", f"{y}_br", axis=0))
        self.nodes.append(node("Conv", f"{x},{y}_wr,{y}_br", y, **attributes))
        self.weights[y] = q * scale.astype(np.float64).reshape(-1, 1, 1, 1)
        self.weights[f"{y}_bias"] = b * unit.astype(np.float64)

    def real(self, name: str, integers: np.ndarray) -> np.ndarray:
        scale, zero = self.grids[name]
        return (integers.astype(np.float64) - zero) * scale

    def steps(self, name: str, values: np.ndarray) -> np.ndarray:
        """Real values as the integers of a tensor's grid."""
        scale, zero = self.grids[name]
        return np.clip(np.rint(values / scale) + zero, -128, 127)


def convolve(x: np.ndarray, w: np.ndarray, bias: np.ndarray, *, pad: int, stride: int, depthwise: bool) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    if depthwise:
        windows = windows.repeat(len(w) // x.shape[1], axis=1)
    out = np.einsum("nchwyx,ciyx->nchw" if depthwise else "nihwyx,oiyx->nohw", windows, w)
    return out + bias[None, :, None, None]


@pytest.fixture(scope="session", params=["XNNPACK", "built-in kernels"])
def run(request: pytest.FixtureRequest, onnx_model: Callable[..., Any]) -> Callable[..., dict[str, np.ndarray]]:
    """`run(model, pixels, outputs)`: int8 [1, C, H, W] on the image's grid -> the integers of every output, NCHW."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from facex.exporters import _nhwc, tflite
    from facex.exporters._quiet import quiet

    resolver = OpResolverType.AUTO if request.param == "XNNPACK" else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def converted(model: Model, pixels: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
        names = [f"{name}_dq" for name in outputs]
        function = _nhwc.lower(onnx_model(model.nodes, {"image": SHAPE}, names, model.constants), quantized=True)
        spec = tf.TensorSpec([1, *SHAPE[2:], SHAPE[1]], tf.float32)
        with quiet():
            wrapped = tf.function(lambda x: [function(x)[name] for name in names], input_signature=[spec])
            flatbuffer = tflite._converter(tf, wrapped.get_concrete_function(), Precision.W8A8).convert()
            interpreter = Interpreter(model_content=flatbuffer, experimental_op_resolver_type=resolver)
            interpreter.allocate_tensors()
        (given,) = interpreter.get_input_details()
        assert given["dtype"] == np.uint8
        assert given["quantization"] == (pytest.approx(IMAGE[0], rel=1e-6), IMAGE[1] + 128)
        image = (pixels.astype(np.int16) + 128).astype(np.uint8).transpose(0, 2, 3, 1)
        interpreter.set_tensor(given["index"], np.ascontiguousarray(image))
        interpreter.invoke()
        found = [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]
        result = {}
        for name, values in zip(outputs, found, strict=True):
            assert values.dtype == np.float32
            result[name] = model.steps(name, values.astype(np.float64)).astype(np.int64)
        return result

    return converted


def pixels() -> np.ndarray:
    return np.random.default_rng(20).integers(-128, 128, SHAPE).astype(np.int8)


def assert_within_a_step(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert len(np.unique(wanted)) > 30
    difference = np.abs(found - wanted)
    assert difference.max() <= 1
    # grids of simple ratio meet many ties, which the kernels' fixed-point multipliers round to either side
    assert (difference == 0).mean() > 0.85


CONVOLUTIONS = {
    "pointwise": ((8, 6, 1, 1), {}),
    "3x3": ((8, 6, 3, 3), {"pads": [1] * 4}),
    "strided 3x3": ((8, 6, 3, 3), {"pads": [1] * 4, "strides": [2, 2]}),
    "valid 3x3": ((8, 6, 3, 3), {}),
    "depthwise": ((6, 1, 3, 3), {"pads": [1] * 4, "group": 6}),
    "strided depthwise": ((6, 1, 3, 3), {"pads": [1] * 4, "strides": [2, 2], "group": 6}),
    "depthwise with multiplier 2": ((12, 1, 3, 3), {"pads": [1] * 4, "group": 6}),
}


@pytest.mark.parametrize("relu", [False, True], ids=["bare", "relu"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(run, name, relu):
    shape, attributes = CONVOLUTIONS[name]
    model = Model()
    model.convolution(model.image(), "c", shape, **attributes)
    x = model.real("image", pixels())
    how = {"pad": attributes.get("pads", [0])[0], "stride": attributes.get("strides", [1])[0]}
    wanted = convolve(x, model.weights["c"], model.weights["c_bias"], depthwise="group" in attributes, **how)
    output = "r" if relu else "c"
    if relu:
        model.nodes.append(node("Relu", "c", "r"))
        wanted = np.maximum(wanted, 0)
    # a little narrower than the values, so that the ends are clipped as well
    model.quantized(output, np.quantile(np.abs(wanted), 0.99) / (255 if relu else 120), -128 if relu else 7)
    found = run(model, pixels(), [output])[output]
    assert_within_a_step(found, model.steps(output, wanted))


@pytest.mark.parametrize("alpha", [0.1, 0.01, 0.3])
@pytest.mark.parametrize("grid", [(0.03, -90), IMAGE, (0.011, 0)])
def test_leaky_relu(run, alpha, grid):
    model = Model()
    x = model.image()
    model.nodes.append(node("LeakyRelu", x, "y", alpha=alpha))
    model.quantized("y", *grid)
    real = model.real("image", pixels())
    wanted = model.steps("y", np.where(real > 0, real, alpha * real))
    assert_within_a_step(run(model, pixels(), ["y"])["y"], wanted)


def two_branches(first: Grid, second: Grid) -> Model:
    """Two pointwise convolutions of the image, each on its own grid."""
    model = Model()
    x = model.image()
    for name, grid in (("a", first), ("b", second)):
        model.convolution(x, name, (8, 6, 1, 1))
        model.quantized(name, *grid)
    return model


@pytest.mark.parametrize(("first", "second"), [((0.05, 3), (0.002, -40)), ((0.01, -128), (0.01, 127))])
def test_addition(run, first, second):
    model = two_branches(first, second)
    model.nodes.append(node("Add", "a_dq,b_dq", "y"))
    model.quantized("y", 0.04, -5)
    found = run(model, pixels(), ["y", "a", "b"])
    wanted = model.real("a", found["a"]) + model.real("b", found["b"])
    assert_within_a_step(found["y"], model.steps("y", wanted))


def test_subtraction_of_a_constant(run):
    """The mean: one value a channel on an 8-bit grid of its own."""
    model = Model()
    x = model.image()
    scale, zero = np.float32(3.1 / 255), np.int8(-128)
    q = np.array([-128, -100, -3, 40, 100, 127], np.int8).reshape(1, 6, 1, 1)
    model.constants |= {"mq": q, "ms": scale, "mz": zero}
    model.nodes += [node("DequantizeLinear", "mq,ms,mz", "mean"), node("Sub", f"{x},mean", "y")]
    model.quantized("y", 0.045, 30)
    mean = (q.astype(np.float64) - int(zero)) * np.float64(scale)
    wanted = model.real("image", pixels()) - mean
    assert_within_a_step(run(model, pixels(), ["y"])["y"], model.steps("y", wanted))


@pytest.mark.parametrize("axis", [1, 2])
def test_concatenation_moves_integers(run, axis):
    grid = (0.03, -20)
    model = two_branches(grid, grid)
    model.nodes.append(node("Concat", "a_dq,b_dq", "y", axis=axis))
    model.quantized("y", *grid)
    found = run(model, pixels(), ["y", "a", "b"])
    np.testing.assert_array_equal(found["y"], np.concatenate([found["a"], found["b"]], axis=axis))


def test_resize_moves_integers(run):
    model = Model()
    x = model.image()
    model.constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    model.nodes.append(node("Resize", f"{x},,scales", "y", **RESIZE))
    model.quantized("y", *IMAGE)
    found = run(model, pixels(), ["y"])["y"]
    np.testing.assert_array_equal(found, pixels().repeat(2, axis=2).repeat(2, axis=3))


def test_relu_alone(run):
    model = Model()
    x = model.image()
    model.nodes.append(node("Relu", x, "y"))
    model.quantized("y", 0.02, -128)
    wanted = np.maximum(model.real("image", pixels()), 0)
    assert_within_a_step(run(model, pixels(), ["y"])["y"], model.steps("y", wanted))
