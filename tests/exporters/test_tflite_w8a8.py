"""The finished full-integer TFLite file holds the quantization plan, number for number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from facex import exporters
from facex.types import Head, Precision

pytestmark = pytest.mark.slow

MOVES = {"PAD", "RESHAPE", "TRANSPOSE", "CONCATENATION"}
"""Operators that pass integers on as they are."""

ULP = 1.2e-7
"""The converter reads scale x 255 from the graph, so a scale may come back one float32 step away."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A file as the interpreter shows it, beside the QDQ model that it was made from."""

    path: Path
    head: Head
    operators: list[dict[str, Any]]
    tensors: dict[int, dict[str, Any]]
    values: Callable[[int], np.ndarray]
    qdq: onnx.ModelProto

    def output(self, operator: dict[str, Any]) -> dict[str, Any]:
        return self.tensors[operator["outputs"][0]]


@pytest.fixture(scope="module", params=[h for h in Head if h is h.traced], ids=str)
def finished(request, make_job, qdq, tmp_path_factory) -> Finished:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path = tmp_path_factory.mktemp("w8a8") / "a.tflite"
    exporters.load("tflite").export(make_job(path, Precision.W8A8, request.param))
    # built-in kernels: a delegate would hide the operators that it took over
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    return Finished(
        path=path,
        head=request.param,
        operators=interpreter._get_ops_details(),
        tensors={t["index"]: t for t in interpreter.get_tensor_details()},
        values=interpreter.get_tensor,
        qdq=onnx.load(str(qdq(request.param))),
    )


def grid_of(tensor: dict[str, Any]) -> tuple[float, int]:
    told = tensor["quantization_parameters"]
    assert len(told["scales"]) == len(told["zero_points"]) == 1
    return float(told["scales"][0]), int(told["zero_points"][0])


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def planned_grids(model: onnx.ModelProto) -> list[tuple[float, int]]:
    constants = constants_of(model)
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    return sorted((float(constants[n.input[1]]), int(constants[n.input[2]])) for n in pairs)


def test_activations_carry_the_scales_and_zero_points_of_the_plan(finished):
    head = {i for o in finished.operators if o["op_name"] == "RESHAPE" for i in o["outputs"]}
    found = sorted(
        grid_of(finished.output(o))
        for o in finished.operators
        if finished.output(o)["dtype"] == np.int8
        and o["op_name"] not in MOVES - {"CONCATENATION"}
        and not head & set(o["inputs"])
    )
    planned = planned_grids(finished.qdq)
    assert [zero for _, zero in found] == [zero for _, zero in planned]
    np.testing.assert_allclose([s for s, _ in found], [s for s, _ in planned], rtol=ULP, atol=0)
    # as many as convolutions at least, or the file would not be integer throughout
    assert len(planned) >= sum(n.op_type == "Conv" for n in finished.qdq.graph.node) > 0


def test_weights_are_the_integers_of_the_plan(finished):
    constants = constants_of(finished.qdq)
    source = {n.output[0]: n for n in finished.qdq.graph.node}
    planned: Counter[tuple[tuple[int, ...], bytes]] = Counter()
    scales: dict[bytes, np.ndarray] = {}
    for conv in (n for n in finished.qdq.graph.node if n.op_type == "Conv"):
        weight, scale = (constants[name] for name in source[conv.input[1]].input[:2])
        depthwise = weight.shape[1] == 1 and conv.attribute and weight.shape[2] == 3
        stored = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        planned[stored.shape, stored.tobytes()] += 1
        scales[stored.tobytes()] = scale
    found: Counter[tuple[tuple[int, ...], bytes]] = Counter()
    for operator in finished.operators:
        if operator["op_name"] in {"CONV_2D", "DEPTHWISE_CONV_2D"}:
            weight = finished.values(operator["inputs"][1])
            assert weight.dtype == np.int8
            found[weight.shape, weight.tobytes()] += 1
            told = finished.tensors[operator["inputs"][1]]["quantization_parameters"]
            assert not told["zero_points"].any()
            np.testing.assert_allclose(told["scales"], scales[weight.tobytes()], rtol=ULP)
    assert found == planned
    assert sum(found.values()) == sum(n.op_type == "Conv" for n in finished.qdq.graph.node) > 0


def test_biases_are_the_integers_of_the_plan(finished):
    constants = constants_of(finished.qdq)
    source = {n.output[0]: n for n in finished.qdq.graph.node}
    planned = [
        np.sort(constants[source[n.input[2]].input[0]]) for n in finished.qdq.graph.node if n.op_type == "Conv"
    ]  # fmt: skip
    found = [
        np.sort(finished.values(o["inputs"][2]))
        for o in finished.operators
        if o["op_name"] in {"CONV_2D", "DEPTHWISE_CONV_2D"}
    ]
    assert {b.dtype for b in found} == {np.dtype(np.int32)}
    assert len(found) == len(planned)
    for bias in found:
        # a scale that came back one float32 step away moves a bias of 10^7 by one
        near = [p for p in planned if p.shape == bias.shape and (np.abs(p - bias) <= 1 + np.abs(p) * 3e-7).all()]
        assert near


def test_all_multiplications_are_integer(finished):
    facts = exporters.load("tflite").describe(finished.path)
    assert facts.integer_mac_fraction == 1.0
    assert facts.float_islands == ()
    assert facts.inputs[0].dtype == "uint8"


def test_the_uint8_image_is_only_relabelled(finished):
    (first,) = (o for o in finished.operators if o["op_name"] == "QUANTIZE")
    image = finished.tensors[first["inputs"][0]]
    assert image["name"] == "image"
    assert (image["dtype"], grid_of(image)) == (np.uint8, (1.0, 0))
    assert grid_of(finished.output(first)) == (1.0, -128)


def test_float_begins_at_the_dequantization_of_head_convolutions(finished):
    """Every float operator comes after a DEQUANTIZE; every DEQUANTIZE is reached from a convolution by moves alone."""
    producer = {o["outputs"][0]: o for o in finished.operators}
    reached = []
    for operator in finished.operators:
        computed = [i for i in operator["inputs"] if i in producer]
        if operator["op_name"] == "DEQUANTIZE":
            reached += _sources(operator["inputs"][0], producer)
        elif finished.output(operator)["dtype"] == np.float32:
            assert computed
            assert all(finished.tensors[i]["dtype"] == np.float32 for i in computed), operator["op_name"]
        else:
            assert all(finished.tensors[i]["dtype"] != np.float32 for i in operator["inputs"] if i >= 0)
    assert len(reached) == len(set(reached)) == 9
    assert {producer[i]["op_name"] for i in reached} == {"CONV_2D"}
    count = sum(o["op_name"] == "DEQUANTIZE" for o in finished.operators)
    # boxes and landmarks of a raw head are joined while they are integers
    assert count == (9 if finished.head is Head.DECODED else 3 + 1 + 1)


def _sources(tensor: int, producer: dict[int, dict[str, Any]]) -> list[int]:
    operator = producer[tensor]
    if operator["op_name"] not in MOVES:
        return [tensor]
    return [found for i in operator["inputs"] if i in producer for found in _sources(i, producer)]


def noise(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.square(found.astype(np.float64) - wanted).sum())


def test_conversion_adds_less_error_than_quantization_did(finished, pivot, qdq, run_onnx, draw_photograph):
    """Kernels round by a step here and there, which adds up over the layers; a wrong range would be far louder."""
    session = exporters.load("tflite").open_session(finished.path, threads=1)
    conversion: Counter[str] = Counter()
    quantization: Counter[str] = Counter()
    for seed in (71, 72, 73):
        image = np.asarray(draw_photograph(seed, 160, 160))[None]
        feed = {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}
        found = session({"image": image})
        floats, planned = run_onnx(pivot(finished.head), feed), run_onnx(qdq(finished.head), feed)
        for name, expected in planned.items():
            conversion[name] += noise(found[name], expected)
            quantization[name] += noise(expected, floats[name])
    for name, added in conversion.items():
        assert 0 < added < quantization[name], name


def test_the_same_bytes_again(finished, make_job, tmp_path):
    exporters.load("tflite").export(make_job(tmp_path / "a.tflite", Precision.W8A8, finished.head))
    assert (tmp_path / "a.tflite").read_bytes() == finished.path.read_bytes()
