"""What QDQ files and 8-bit operators say of themselves: head tensors, requantizations, empty weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from facex.exporters import _integers
from facex.exporters import onnx as target
from facex.exporters._integers import Grid, Kind, Operation, Weight
from facex.types import HeadUnit, QuantizationFacts

SHAPE = (1, 2, 4, 4)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


def pair(name: str, step: str = "s") -> list[Any]:
    return [
        node("QuantizeLinear", f"{name},{step},z", f"{name}_q"),
        node("DequantizeLinear", f"{name}_q,{step},z", f"{name}_dq"),
    ]


def convolution(x: str, y: str, weight: str = "w") -> list[Any]:
    return [node("DequantizeLinear", f"{weight},s,z", f"{y}_w"), node("Conv", f"{x},{y}_w", y)]


@pytest.fixture
def described(onnx_model: Callable[..., Any], tmp_path: Path) -> Callable[..., QuantizationFacts | None]:
    """`described(nodes, outputs, metadata={})` gives what a QDQ file of these nodes says."""

    def run(nodes: list[Any], outputs: list[str], metadata: dict[str, str] | None = None) -> QuantizationFacts | None:
        constants = {
            "s": np.float32(0.05), "coarse": np.float32(2.5), "z": np.int8(0), "two": np.float32(2.0),
            "w": np.array([[1, 2], [0, 0]], np.int8)[:, :, None, None], "flat": np.full((2, 2, 1, 1), 7, np.int8),
        }  # fmt: skip
        model = onnx_model(nodes, {"image": SHAPE}, outputs, constants)
        for key, value in (metadata or {}).items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, str(tmp_path / "a.onnx"))
        return target.describe(tmp_path / "a.onnx").quantization

    return run


TRUNK = [*pair("image"), *convolution("image_dq", "c"), node("Relu", "c", "r"), *pair("r")]


def test_head_tensors_steps_and_units(described: Callable[..., QuantizationFacts]) -> None:
    nodes = [
        *TRUNK,
        *convolution("r_dq", "cls"), *pair("cls"), node("Sigmoid", "cls_dq", "scores"),
        *convolution("r_dq", "box"), *pair("box", "coarse"), node("Mul", "box_dq,two", "boxes"),
        *convolution("r_dq", "points"), *pair("points"),
        node("Transpose", "points_dq", "landmarks", perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    found = described(nodes, ["boxes", "scores", "landmarks"])
    assert {(h.name, h.output, h.unit, round(h.step, 6)) for h in found.head_tensors} == {
        ("cls", "scores", HeadUnit.LOGIT, 0.05),
        ("box", "boxes", HeadUnit.OFFSET, 2.5),
        ("points", "landmarks", HeadUnit.PIXEL, 0.05),
    }
    assert (found.requantizations, found.unasked_floats, found.constant_weights) == ((), 0, ())
    assert found.dead_channels == 4  # one in each of the four


def test_one_tensor_for_boxes_and_scores(described: Callable[..., QuantizationFacts]) -> None:
    nodes = [
        *TRUNK, *convolution("r_dq", "all"), *pair("all", "coarse"),
        node("Sigmoid", "all_dq", "conf"), node("Identity", "all_dq", "loc"),
    ]  # fmt: skip
    found = described(nodes, ["loc", "conf"])
    assert [(h.name, h.output, h.unit, h.step) for h in found.head_tensors] == [
        ("all", "loc", HeadUnit.OFFSET, 2.5),
        ("all", "conf", HeadUnit.LOGIT, 2.5),
    ]


def test_a_float_operator_between_integers(described: Callable[..., QuantizationFacts]) -> None:
    nodes = [*TRUNK, node("Conv", "r_dq,f", "m"), *pair("m"), *convolution("m_dq", "cls"), *pair("cls")]
    nodes = [node("Cast", "w", "f", to=onnx.TensorProto.FLOAT), *nodes, node("Sigmoid", "cls_dq", "scores")]
    found = described(nodes, ["scores"])
    assert found.requantizations == ("r",)
    assert found.unasked_floats == 1
    asked = described(nodes, ["scores"], {"facex.float_operators": json.dumps(["m"])})
    assert asked.unasked_floats == 0
    assert described(nodes, ["scores"], {"facex.float_operators": json.dumps(["c"])}).unasked_floats == 1
    assert described(nodes, ["scores"], {"facex.float_operators": "["}).unasked_floats == 1


def test_a_last_convolution_in_float_leaves_no_head_tensor(described: Callable[..., QuantizationFacts]) -> None:
    nodes = [node("Cast", "w", "f", to=onnx.TensorProto.FLOAT), *TRUNK, node("Conv", "r_dq,f", "cls")]
    found = described([*nodes, node("Sigmoid", "cls", "scores")], ["scores"])
    assert found.head_tensors == ()
    assert (found.requantizations, found.unasked_floats) == ((), 1)


def test_a_weight_of_one_value(described: Callable[..., QuantizationFacts]) -> None:
    nodes = [*TRUNK, *convolution("r_dq", "cls", "flat"), *pair("cls"), node("Sigmoid", "cls_dq", "scores")]
    assert described(nodes, ["scores"]).constant_weights == ("cls_w",)


def test_a_float_file_has_no_integers(described: Callable[..., QuantizationFacts | None]) -> None:
    assert described([node("Relu", "image", "scores")], ["scores"]) is None


def test_a_sigmoid_on_integers_is_held_by_its_input() -> None:
    """As in a TFLite file with an 8-bit LOGISTIC: the logits' own step decides, not only that of the scores."""
    operations = [
        Operation(kind=Kind.MULTIPLY_ACCUMULATE, inputs=("i",), outputs=("a",)),
        Operation(kind=Kind.SIGMOID, inputs=("a",), outputs=("b",)),
        Operation(kind=Kind.DEQUANTIZE, inputs=("b",), outputs=("c",)),
    ]
    grids = {"a": Grid(name="logits", step=0.5), "b": Grid(name="probability", step=1 / 256)}
    weights = [Weight(name="w", values=np.ones((1, 1), np.float32), axis=0)]
    found = _integers.facts(operations, grids, {"c": "scores"}, weights, 0)
    assert found is not None
    assert [(h.name, h.unit, h.step) for h in found.head_tensors] == [
        ("logits", HeadUnit.LOGIT, 0.5),
        ("probability", HeadUnit.SCORE, 1 / 256),
    ]
    assert found.constant_weights == ()  # one number is of one value by nature
