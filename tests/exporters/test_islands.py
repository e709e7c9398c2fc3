"""TFLite files with convolutions left in float: where integers end and begin again, and what is computed between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from facex import exporters
from facex.calibration.graph import Graph
from facex.calibration.qdq import FLOAT_OPERATORS
from facex.calibration.units import closure, units
from facex.types import Head, Precision

CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
PLACES: dict[str, Callable[[list[str]], list[str]]] = {
    "the first convolution": lambda names: names[:1],
    "the beginning": lambda names: names[:4],
    "one in the middle": lambda names: [n for n in names if "contexts.0/conv3/" in n],
    "those that meet in a concatenation": lambda names: [n for n in names if "contexts.0/conv" in n],
    "two apart": lambda names: [names[8], names[14]],
    "a head": lambda names: [n for n in names if "box_heads.0" in n],
    "all heads": lambda names: [n for n in names if "_heads." in n],
    "everything": lambda names: names,
}


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A mixed file beside the QDQ model that it was lowered from."""

    tflite: Path
    qdq: Path
    names: list[str]
    operators: list[dict[str, Any]]
    tensors: dict[int, dict[str, Any]]

    def is_float(self, index: int) -> bool:
        return bool(self.tensors[index]["dtype"] == np.float32)

    @property
    def float_convolutions(self) -> list[dict[str, Any]]:
        return [o for o in self.operators if o["op_name"] in CONVOLUTIONS and self.is_float(o["outputs"][0])]


@pytest.fixture(scope="module")
def engine_plan(detector: Any, pivot: Callable[..., Path], calibrated: Callable[..., Any]) -> Any:
    return calibrated(pivot(Head.DECODED), detector)


@pytest.fixture(scope="module", params=PLACES)
def mixed(
    request: pytest.FixtureRequest, engine_plan: Any, make_job: Callable[..., Any], tmp_path_factory: Any
) -> Mixed:
    import dataclasses

    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    folder = tmp_path_factory.mktemp("islands")
    chosen = PLACES[request.param]([unit.name for unit in units(engine_plan.graph)])
    floats = closure(engine_plan.graph, chosen)
    names = [n.output[0] for n in engine_plan.graph.trunk if n.op_type == "Conv" and n.output[0] in floats]
    engine_plan.write(folder / "mixed.onnx", floats)
    job = dataclasses.replace(make_job(folder / "mixed.tflite", Precision.W8A8), qdq=folder / "mixed.onnx")
    exporters.load("tflite").export(job)
    # built-in kernels: a delegate would hide the operators that it took over
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(job.path), experimental_op_resolver_type=resolver)
    return Mixed(
        tflite=job.path,
        qdq=folder / "mixed.onnx",
        names=names,
        operators=interpreter._get_ops_details(),
        tensors={t["index"]: t for t in interpreter.get_tensor_details()},
    )


@pytest.mark.slow
def test_just_what_was_asked_for_is_in_float(mixed: Mixed) -> None:
    tflite, qdq = (exporters.load(target).describe(path) for target, path in _files(mixed))
    assert len(mixed.float_convolutions) == len(mixed.names)
    assert tflite.macs == qdq.macs
    assert tflite.integer_macs == qdq.integer_macs
    left = len(mixed.names) if tflite.integer_macs else 0
    assert len(tflite.float_islands) == len(qdq.float_islands) == left
    assert sorted(i.macs for i in tflite.float_islands) == sorted(i.macs for i in qdq.float_islands)
    assert json.loads(tflite.metadata[FLOAT_OPERATORS]) == mixed.names


def _files(mixed: Mixed) -> Iterator[tuple[str, Path]]:
    yield "tflite", mixed.tflite
    yield "onnx", mixed.qdq


@pytest.mark.slow
def test_the_image_enters_as_bytes_and_integers_end_only_at_islands_and_heads(mixed: Mixed) -> None:
    facts = exporters.load("tflite").describe(mixed.tflite)
    assert facts.inputs[0].dtype == "uint8"
    readers: dict[int, list[dict[str, Any]]] = {}
    for operator in mixed.operators:
        for index in operator["inputs"]:
            readers.setdefault(int(index), []).append(operator)
    reached = _reaching_convolutions(mixed)
    for operator in mixed.operators:
        source, result = operator["inputs"][0], operator["outputs"][0]
        if operator["op_name"] == "DEQUANTIZE":
            inside = [r for r in readers[result] if r["outputs"][0] in reached]
            # before an island it is read by what the island computes, after the trunk by the arithmetic of the head
            assert all(mixed.is_float(r["outputs"][0]) for r in readers[result])
            assert mixed.names or not inside
        elif operator["op_name"] == "QUANTIZE" and mixed.is_float(source):
            assert result in reached, "nothing is quantized for the head"
        elif operator["op_name"] not in ("QUANTIZE", "DEQUANTIZE"):
            floats = {mixed.is_float(i) for i in (source, result) if mixed.tensors[i]["dtype"] != np.int32}
            assert len(floats) == 1, f"{operator['op_name']} mixes integers and floats"
    quantized = sum(o["op_name"] == "QUANTIZE" and mixed.is_float(o["inputs"][0]) for o in mixed.operators)
    assert quantized == sum(n.op_type == "QuantizeLinear" for n in _after_floats(mixed))


def _reaching_convolutions(mixed: Mixed) -> set[int]:
    """Tensors from which a convolution can be reached."""
    reaching: set[int] = set()
    for operator in reversed(mixed.operators):
        if operator["op_name"] in CONVOLUTIONS or reaching & {int(i) for i in operator["outputs"]}:
            reaching |= {int(i) for i in operator["inputs"]}
    return reaching


def _after_floats(mixed: Mixed) -> list[Any]:
    """The QuantizeLinears of the QDQ model whose values an island computed."""
    graph = Graph(onnx.load(str(mixed.qdq)))
    floats = set(mixed.names)
    found = []
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            if node.input[0] in floats:
                found.append(node)
        elif node.op_type not in ("DequantizeLinear", "Conv") and floats.intersection(node.input):
            floats.add(node.output[0])
    return found


@pytest.mark.slow
def test_float_convolutions_have_the_weights_of_the_model(mixed: Mixed) -> None:
    from ai_edge_litert.interpreter import Interpreter

    graph = Graph(onnx.load(str(mixed.qdq)))
    # the converter multiplies what follows a head into its weights
    inside = set(mixed.names) - set(graph.heads)
    planned = [graph.constants[n.input[1]] for n in graph.trunk if n.op_type == "Conv" and n.output[0] in inside]
    interpreter = Interpreter(model_path=str(mixed.tflite))
    found = [interpreter.get_tensor(o["inputs"][1]) for o in mixed.float_convolutions]
    assert all(weight.dtype == np.float32 for weight in found)
    sums = [float(np.abs(weight.astype(np.float64)).sum()) for weight in found]
    for weight in planned:
        assert np.isclose(sums, np.abs(weight.astype(np.float64)).sum(), rtol=1e-6).any()


@pytest.mark.slow
def test_answers_are_those_of_the_qdq_model(
    mixed: Mixed, pivot: Callable[..., Path], run_onnx: Any, draw_photograph: Any
) -> None:
    """Kernels round by a step here and there, as in the fully integer file; without integers there is no difference."""
    session = exporters.load("tflite").open_session(mixed.tflite, threads=1)
    image = np.asarray(draw_photograph(71, 160, 160))[None]
    feed = {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}
    found, planned, floats = session({"image": image}), run_onnx(mixed.qdq, feed), run_onnx(pivot(), feed)
    everything = len(mixed.float_convolutions) == sum(o["op_name"] in CONVOLUTIONS for o in mixed.operators)
    for name, wanted in planned.items():
        if everything:
            np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-3)
        else:
            conversion, quantization = (np.square(x - wanted).sum() for x in (found[name], floats[name]))
            assert conversion < 1.5 * quantization, name


# Graphs of a few operators


BETWEEN = ("nothing", "relu", "cut")
"""What may stand between a convolution and the pair after it."""


def _single(between: str, weight_in_float: bool) -> tuple[list[Any], dict[str, Any]]:
    """Image -> pair -> Conv (-> Relu, or Slice) -> pair -> Conv on integers."""
    random = np.random.default_rng(3)
    nodes, constants = [], {}

    def pair(name: str, scale: float, zero: int) -> str:
        constants[f"{name}_s"], constants[f"{name}_z"] = np.float32(scale), np.int8(zero)
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [f"{name}_dq"]))
        return f"{name}_dq"

    def conv(source: str, output: str, in_float: bool) -> str:
        if in_float:
            constants[f"{output}_w"] = random.normal(0, 0.1, (3, 3, 3, 3)).astype(np.float32)
            weight = f"{output}_w"
        else:
            q = random.integers(-127, 128, (3, 3, 3, 3)).astype(np.int8)
            q[:, 0, 0, 0] = 127
            constants[f"{output}_q"], constants[f"{output}_ws"] = q, np.full(3, 1e-3, np.float32)
            constants[f"{output}_wz"] = np.zeros(3, np.int8)
            inputs = [f"{output}_q", f"{output}_ws", f"{output}_wz"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{output}_w"], axis=0))
            weight = f"{output}_w"
        constants[f"{output}_b"] = random.normal(0, 5, 3).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, weight, f"{output}_b"], [output], pads=[1, 1, 1, 1]))
        return output

    image = pair("x", 1.0, -128)
    middle = conv(image, "m", weight_in_float)
    if between == "relu":
        nodes.append(helper.make_node("Relu", [middle], ["r"]))
    elif between == "cut":
        constants |= {name: np.array([value]) for name, value in (("start", 0), ("end", 7), ("axis", 2))}
        nodes.append(helper.make_node("Slice", [middle, "start", "end", "axis"], ["r"]))
    middle = "m" if between == "nothing" else "r"
    last = conv(pair(middle, 1.2, -128 if between == "relu" else 0), "l", False)
    nodes.append(helper.make_node("Identity", [pair(last, 0.8, 0)], ["y"]))
    return nodes, constants


@pytest.mark.slow
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("in_float", [False, True], ids=["integer", "float"])
def test_a_convolution_between_two_grids_is_what_its_weights_are(onnx_model: Any, between: str, in_float: bool) -> None:
    """The converter would make integers of either."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from facex.exporters import _nhwc
    from facex.exporters.tflite import _converter

    nodes, constants = _single(between, in_float)
    function = _nhwc.lower(onnx_model(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants), quantized=True)
    image = tf.TensorSpec([1, 8, 8, 3], tf.float32)
    concrete = tf.function(lambda x: function(x)["y"], input_signature=[image]).get_concrete_function()
    content = _converter(tf, concrete, Precision.W8A8).convert()
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    convolutions = [o for o in interpreter._get_ops_details() if o["op_name"] == "CONV_2D"]
    kinds = [tensors[o["outputs"][0]]["dtype"] for o in convolutions]
    assert kinds == [np.float32 if in_float else np.int8, np.int8]


@pytest.mark.slow
@pytest.mark.parametrize("between", BETWEEN)
def test_what_parts_an_island_from_its_grid_changes_nothing(assert_lowered: Any, between: str) -> None:
    nodes, constants = _single(between, weight_in_float=True)
    x = np.random.default_rng(5).integers(0, 256, (1, 3, 8, 8)).astype(np.float32)
    middle = "m" if between == "nothing" else "r"
    at = next(i for i, node in enumerate(nodes) if node.input[0] == middle)
    head = [*nodes[:at], helper.make_node("Identity", [middle], ["y"])]
    assert_lowered(head, x, constants)
    pairs = [*nodes[: at + 2], helper.make_node("Identity", [nodes[at + 1].output[0]], ["y"])]
    assert_lowered(pairs, x, constants)
