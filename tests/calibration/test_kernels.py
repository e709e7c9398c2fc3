"""What 8-bit convolutions cannot hold, and that a channel without weights keeps its bias in every file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from facex.calibration import edit, kernels, qdq
from facex.calibration.graph import Graph
from facex.calibration.plan import Affine, QuantizationPlan, affine, quantize_weight


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


@pytest.fixture
def model(onnx_model):
    """Two convolutions with a ReLU between them; channels of the first are dead, nearly dead, and alive."""
    weight = np.random.default_rng(4).normal(0, 0.001, (4, 3, 3, 3)).astype(np.float32)
    weight[0], weight[1] = 0, weight[1] * 1e-9
    const = {"w": weight, "b": np.float32([0.7, 0.3, 0.1, 0]), "v": np.ones((2, 4, 1, 1), np.float32)}
    const["c"] = np.float32([0.5, -0.25])
    nodes = [
        node("Conv", "image,w,b", "a", pads=[1] * 4), node("Relu", "a", "r"), node("Conv", "r,v,c", "h"),
        node("Neg", "h", "y"),
    ]  # fmt: skip
    return onnx_model(nodes, {"image": (1, 3, 6, 6)}, ["y"], const)


def plan(**grids: Affine) -> QuantizationPlan:
    return QuantizationPlan(activations={"image": affine(0, 255), **grids}, method="")


def test_dead_channels_get_a_weight_that_does_not_show_and_lets_the_bias_fit(model):
    chosen = plan(r=affine(0, 2), h=affine(-3, 3))
    graph = Graph(model)
    changed = kernels.without_dead_channels(chosen, graph)
    assert set(changed) == {"w"}
    before, after = graph.constants["w"], changed["w"]
    np.testing.assert_array_equal(after[2:], before[2:])
    steps = np.abs(after[:2]).sum(axis=(1, 2, 3)) * 255 / chosen.activations["r"].scale
    np.testing.assert_allclose(steps, 1 / 256, rtol=1e-5)
    unit = quantize_weight(after, axis=0)[1].astype(np.float64) * chosen.activations["image"].scale
    assert (255 * chosen.activations["r"].scale / unit < 2**31 * 1.01).all()  # a bias as large as the whole grid


def test_living_channels_are_left_alone(model):
    edit.set_constants(model, {"w": np.full((4, 3, 3, 3), 0.001)})
    assert kernels.without_dead_channels(plan(r=affine(0, 2), h=affine(-3, 3)), Graph(model)) == {}


def test_a_result_that_is_always_zero_gets_a_step_that_kernels_can_round_to(model):
    chosen = plan(r=affine(0, 0), h=affine(-3, 3))
    graph = Graph(model)
    widened = kernels.with_multipliers(chosen, graph)
    largest = quantize_weight(graph.constants["w"], axis=0)[1].max()
    assert largest / chosen.activations["r"].scale > 256 > largest / widened.activations["r"].scale
    assert widened.activations["h"] == chosen.activations["h"]
    assert widened.activations["r"].zero_point == chosen.activations["r"].zero_point


@pytest.mark.slow
def test_a_bias_without_weights_is_in_the_file(model, run_onnx, tmp_path):
    """TensorFlow's converter quantizes the bias of a channel of zeros in the unit of another channel."""
    import tensorflow as tf

    from facex.exporters import _nhwc, _nodes, tflite
    from facex.exporters._quiet import quiet
    from facex.types import Precision

    chosen = plan(r=affine(0, 4), h=affine(-8, 8))
    pixels = np.random.default_rng(3).integers(0, 256, (1, 3, 6, 6)).astype(np.float32)
    wanted = run_onnx(model, {"image": pixels})["y"]
    edit.set_constants(model, kernels.without_dead_channels(chosen, Graph(model)))
    qdq.write(model, chosen, tmp_path / "qdq.onnx")
    function = _nhwc.lower(_nodes.load(tmp_path / "qdq.onnx"), quantized=True)
    with quiet():
        spec = tf.TensorSpec([1, 6, 6, 3], tf.float32)
        concrete = tf.function(lambda x: [function(x)["y"]], input_signature=[spec]).get_concrete_function()
        interpreter = tf.lite.Interpreter(model_content=tflite._converter(tf, concrete, Precision.W8A8).convert())
        interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels.transpose(0, 2, 3, 1).astype(np.uint8))
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, wanted, atol=0.1)
