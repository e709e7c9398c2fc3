"""What the lowering cannot do is refused by name, never lowered to something else; and the arithmetic of its grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from facex.errors import EXIT_BACKEND, UnsupportedOperatorError


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    names = inputs.split(",") if inputs else []
    return helper.make_node(operator, names, [output], name=f"/net/{operator}", **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X = np.ones((1, 3, 4, 6), np.float32)
ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
TRANSPOSED = node("Transpose", "x", "t", perm=[0, 2, 3, 1])

REFUSED = {
    "softmax over channels in place": ([node("Softmax", "x", axis=1)], {}, "axis 1 of 4"),
    "linear resize": (
        [node("Resize", "x,,s", mode="linear")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        "mode linear",
    ),
    "half-pixel resize": (
        [node("Resize", "x,,s", mode="nearest")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        "mode nearest",
    ),
    "resize by 2.1": (
        [node("Resize", "x,,s", **ASYMMETRIC)],
        {"s": np.array([1, 1, 2.1, 2], np.float32)},
        "whole factors",
    ),
    "resize to 7 of 4": ([node("Resize", "x,,,s", **ASYMMETRIC)], {"s": ints(1, 3, 7, 6)}, "whole factors"),
    "resize to half": ([node("Resize", "x,,,s", **ASYMMETRIC)], {"s": ints(1, 3, 2, 3)}, "whole factors"),
    "resize of channels": (
        [node("Resize", "x,,s", **ASYMMETRIC)],
        {"s": np.array([1, 2, 2, 2], np.float32)},
        "whole factors",
    ),
    "gather of several": ([node("Gather", "x,i", axis=1)], {"i": ints(0, 1)}, "a list of indices"),
    "a constant that is text": ([node("Constant", "", "c", value_string="a"), node("Relu", "x")], {}, "value_string"),
    "constant of higher rank": ([node("Add", "x,c")], {"c": np.zeros((2, 1, 3, 4, 6), np.float32)}, "'c' of rank 5"),
    "ranks of two activations": (
        [node("Gather", "x,i", "g", axis=0), node("Add", "x,g")],
        {"i": np.int64(0)},
        "'g' of rank 3 beside an activation of rank 4",
    ),
    "two constants": ([node("Add", "c,c")], {"c": np.zeros(3, np.float32)}, "of rank 1"),
    "reshape to zero": ([node("Reshape", "x,s", allowzero=1)], {"s": ints(1, -1)}, "allowzero"),
    "a shape computed at run time": ([node("Reshape", "x,x")], {}, "must be a constant"),
    "quantization by channel": (
        [node("QuantizeLinear", "x,s,z", "q", axis=1), node("DequantizeLinear", "q,s,z", axis=1)],
        {"s": np.ones(3, np.float32), "z": np.zeros(3, np.int8)},
        "one 8-bit scale",
    ),
    "quantization to 16 bits": (
        [node("QuantizeLinear", "x,s,z", "q"), node("DequantizeLinear", "q,s,z")],
        {"s": np.float32(1), "z": np.int16(0)},
        "one 8-bit scale",
    ),
    "another scale on the way back": (
        [node("QuantizeLinear", "x,s,z", "q"), node("DequantizeLinear", "q,t,z")],
        {"s": np.float32(1), "t": np.float32(2), "z": np.int8(0)},
        "not its QuantizeLinear's",
    ),
    "another zero point on the way back": (
        [node("QuantizeLinear", "x,s,z", "q"), node("DequantizeLinear", "q,s,o")],
        {"s": np.float32(1), "z": np.int8(0), "o": np.int8(3)},
        "not its QuantizeLinear's",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_operator_node_and_reason(lowered, case):
    nodes, constants, reason = REFUSED[case]
    with pytest.raises(UnsupportedOperatorError) as caught:
        lowered(nodes, X, constants)
    text = str(caught.value)
    assert "'/net/" in text
    assert reason in text
    assert "not supported by the TFLite lowering" in text or "must be a constant" in text
    assert caught.value.exit_code == EXIT_BACKEND


def test_a_resize_by_part_of_the_axes_is_refused(lowered):
    """Opset 18 may give factors for some axes only; they must not be taken for those of all four."""
    resize = node("Resize", "x,,s", axes=[2, 3], **ASYMMETRIC)
    with pytest.raises(UnsupportedOperatorError, match="whole factors"):
        lowered([resize], X, {"s": np.array([2, 2], np.float32)}, opset=18)


def test_unknown_operators_are_all_named_at_once_with_their_places(onnx_model):
    from facex.exporters import _nhwc

    nodes = [helper.make_node("Erf", ["x"], ["e0"], name="/a/Erf")]
    nodes += [helper.make_node("Selu", [f"e{i}"], [f"e{i + 1}"], name=f"/b{i}/Selu") for i in range(5)]
    nodes.append(helper.make_node("Relu", ["e5"], ["y"], name="/c/Relu"))
    with pytest.raises(UnsupportedOperatorError) as caught:
        _nhwc.lower(onnx_model(nodes, {"x": X.shape}, ["y"]), quantized=False)
    text = str(caught.value)
    assert "Erf at '/a/Erf'" in text
    assert "Selu at '/b0/Selu', '/b1/Selu', '/b2/Selu' and 2 more" in text
    assert "Relu at" not in text
    assert f"supported: {', '.join(sorted(_nhwc.OPERATORS))}" in text
    assert "\n" not in text


def test_a_node_without_a_name_is_named_after_its_output(onnx_model):
    from facex.exporters import _nhwc

    model = onnx_model([helper.make_node("Erf", ["x"], ["y"])], {"x": X.shape}, ["y"])
    with pytest.raises(UnsupportedOperatorError, match="Erf at 'y'"):
        _nhwc.lower(model, quantized=False)


def test_a_uint8_image_becomes_float_pixels(onnx_model):
    import tensorflow as tf

    from facex.exporters import _nhwc

    function = _nhwc.lower(onnx_model([node("Neg", "x")], {"x": (1, 3, 2, 2)}, ["y"]), quantized=False)
    pixels = np.arange(244, 256, dtype=np.uint8).reshape(1, 2, 2, 3)
    found = function(tf.constant(pixels))["y"].numpy()
    np.testing.assert_array_equal(found, -pixels.transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("zero", [np.int8(-128), np.int8(-5), np.int8(127), np.uint8(0), np.uint8(77)])
@pytest.mark.parametrize("scale", [1e-8, 0.0123, 1.0, 37.5])
def test_quantization_is_the_formula(lowered, scale, zero):
    """q = clip(round(x / s) + z); y = s (q - z), in NumPy; a tie may fall to either side."""
    info, s = np.iinfo(zero.dtype), np.float32(scale)
    x = np.random.default_rng(2).uniform(-1.2, 1.2, (1, 3, 16, 16)).astype(np.float32) * s * 300
    nodes = [node("QuantizeLinear", "x,s,z", "q"), node("DequantizeLinear", "q,s,z")]
    found = lowered(nodes, x, {"s": s, "z": zero})["y"].astype(np.float64)
    position = x.astype(np.float64) / s
    wanted = (np.clip(np.rint(position) + int(zero), info.min, info.max) - int(zero)) * np.float64(s)
    tie = np.abs(np.abs(position - np.floor(position)) - 0.5) < 1e-3
    assert np.abs(found - wanted)[tie].max(initial=0) <= 1.001 * s
    np.testing.assert_allclose(found[~tie], wanted[~tie], rtol=1e-5, atol=1e-4 * scale)
    assert wanted.min() == (info.min - int(zero)) * np.float64(s)
    assert wanted.max() == (info.max - int(zero)) * np.float64(s)


def test_zero_stays_exactly_zero(lowered):
    nodes = [node("QuantizeLinear", "x,s,z", "q"), node("DequantizeLinear", "q,s,z")]
    for zero in range(-128, 128, 15):
        found = lowered(nodes, np.zeros((1, 1, 2, 2), np.float32), {"s": np.float32(0.0371), "z": np.int8(zero)})["y"]
        assert (found == 0).all()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_are_dequantized_by_the_formula(lowered, axis):
    random = np.random.default_rng(8)
    q = random.integers(-127, 128, (3, 4, 6), dtype=np.int8)
    scale = random.uniform(0.001, 2, q.shape[axis]).astype(np.float32)
    zero = random.integers(-20, 20, q.shape[axis]).astype(np.int8)
    nodes = [node("DequantizeLinear", "q,s,z", "w", axis=axis), node("Mul", "x,w")]
    found = lowered(nodes, X, {"q": q, "s": scale, "z": zero})["y"][0]
    shape = [1, 1, 1]
    shape[axis] = -1
    wanted = (q.astype(np.float64) - zero.reshape(shape)) * scale.reshape(shape).astype(np.float64)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
