"""Core ML w8a8 beside the QDQ model that it was lowered from, which onnxruntime runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from facex.calibration.graph import Graph
from facex.calibration.units import closure, units
from facex.errors import UnsupportedOperatorError
from facex.exporters import _nchw, _nodes, _package, coreml
from facex.exporters import onnx as onnx_target
from facex.exporters._mil import executor, program
from facex.types import Head, Precision

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(make_job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Head], Path]:
    """`package(head)` gives an exported package, written once."""
    folder = tmp_path_factory.mktemp("w8a8")

    def export(head: Head = Head.DECODED) -> Path:
        path = folder / f"{head}_w8a8.mlpackage"
        if not path.exists():
            coreml.export(make_job(path, Precision.W8A8, head))
        return path

    return export


@pytest.fixture(scope="module")
def mixed(
    detector: Any, pivot: Callable[..., Path], calibrated: Callable[..., Any], make_job: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, list[str]]:  # fmt: skip
    """A package with some convolutions left in float, its QDQ model, and what was left."""
    folder = tmp_path_factory.mktemp("mixed")
    plan = calibrated(pivot(Head.DECODED), detector)
    names = [unit.name for unit in units(plan.graph)]
    floats = closure(plan.graph, [names[0], names[7]])
    plan.write(folder / "mixed.onnx", floats)
    path = folder / "mixed_w8a8.mlpackage"
    coreml.export(dataclasses.replace(make_job(path, Precision.W8A8), qdq=folder / "mixed.onnx"))
    left = [n.output[0] for n in plan.graph.trunk if n.op_type == "Conv" and n.output[0] in floats]
    return path, folder / "mixed.onnx", left


def outputs(path: Path, image: np.ndarray) -> Mapping[str, np.ndarray]:
    return coreml.open_session(path, threads=1)({"image": image})


@pytest.fixture(scope="module")
def image(draw_photograph: Callable[..., Any]) -> np.ndarray:
    return np.asarray(draw_photograph(5, 160, 160).convert("RGB"))[None]


def errors(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.square(found[name] - value).sum()) for name, value in expected.items()}


def test_in_single_precision_it_computes_what_the_plan_says(
    make_job: Any, qdq: Any, run_onnx: Any, pivot: Any, image: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Step by step the same integers, up to values on a rounding edge, which grow from convolution to convolution."""
    import coremltools as ct

    monkeypatch.setattr(coreml, "_compute_precision", lambda *_: ct.precision.FLOAT32)
    path = tmp_path / "single_w8a8.mlpackage"
    coreml.export(make_job(path, Precision.W8A8))
    feed = {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}
    model = onnx.load(str(qdq(Head.DECODED)))
    results = [o.name for o in model.graph.output]
    graph = Graph(model)
    computed = {n.output[0] for n in graph.nodes if n.op_type == "QuantizeLinear"}
    widened = [n for n in graph.nodes if n.op_type == "DequantizeLinear" and n.input[0] in computed]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n.output[0], 1, None) for n in widened)
    planned = run_onnx(model, feed)
    seen: dict[str, np.ndarray] = {}
    parsed = program.parse(*_package.load(path))
    executor.Executor(parsed)(
        {"image": torch.from_numpy(feed["image"])}, lambda name, value: seen.update({name: value.numpy()})
    )
    mine = [o.outputs[0][0] for o in parsed.operations if o.type == "dequantize"]
    assert len(mine) == len(widened)
    for name, node in zip(mine[:12], widened[:12], strict=True):
        off = np.abs(seen[name] - planned[node.output[0]]) / graph.constants[node.input[1]]
        assert off.max() < 2.001
        assert (off > 0.5).mean() < 0.002
    exact = {name: planned[name] for name in results}
    off_by, quantization = errors(seen, exact), errors(run_onnx(pivot(Head.DECODED), feed), exact)
    assert max(off_by[name] / quantization[name] for name in results) < 0.4


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_half_precision_adds_little_to_the_error_of_the_plan(
    package: Any, qdq: Any, run_onnx: Any, pivot: Any, head: Head, image: np.ndarray
) -> None:
    feed = {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}
    real = run_onnx(pivot(head), feed)
    found, planned = errors(outputs(package(head), image), real), errors(run_onnx(qdq(head), feed), real)
    assert all(found[name] < 2 * planned[name] for name in real)


def test_its_weights_are_the_plans_integers(package: Any, qdq: Any) -> None:
    parsed = program.parse(*_package.load(package(Head.DECODED)))
    graph = Graph(onnx.load(str(qdq(Head.DECODED))))
    source = {n.output[0]: n for n in graph.nodes}
    planned = [graph.constants[source[n.input[1]].input[0]] for n in graph.nodes if n.op_type == "Conv"]
    widened = {o.outputs[0][0]: o for o in parsed.operations if o.type == "constexpr_affine_dequantize"}
    stored = [widened[o.inputs["weight"][0]] for o in parsed.operations if o.type == "conv"]  # type: ignore[index]
    assert len(stored) == len(planned) > 50
    for operation, expected in zip(stored, planned, strict=True):
        integers = operation.inputs["quantized_data"][0]
        assert not isinstance(integers, str)
        assert np.array_equal(integers.value, expected)


def test_its_grids_are_the_plans(package: Any, qdq: Any) -> None:
    facts, planned = coreml.describe(package(Head.DECODED)), onnx_target.describe(qdq(Head.DECODED))
    assert facts.integer_macs == facts.macs == planned.macs
    assert facts.float_islands == ()
    assert facts.minimum_runtime.startswith("iOS 17")
    assert facts.quantization is not None
    assert planned.quantization is not None
    for mine, expected in zip(facts.quantization.head_tensors, planned.quantization.head_tensors, strict=True):
        assert (mine.output, mine.unit) == (expected.output, expected.unit)
        assert mine.step == pytest.approx(expected.step, rel=1e-6)
    assert facts.quantization.requantizations == ()
    assert facts.quantization.unasked_floats == 0


def test_what_is_left_in_float_keeps_its_own_weights(mixed: tuple[Path, Path, list[str]], image: np.ndarray) -> None:
    path, _, left = mixed
    facts = coreml.describe(path)
    assert 0 < facts.integer_macs < facts.macs
    assert len(facts.float_islands) == len(left)
    assert facts.quantization is not None
    assert facts.quantization.unasked_floats == 0
    parsed = program.parse(*_package.load(path))
    constant = {o.outputs[0][0] for o in parsed.operations if o.type == "const"}
    own = [o for o in parsed.operations if o.type == "conv" and o.inputs["weight"][0] in constant]
    assert {o.outputs[0][0] for o in own} == {island.name for island in facts.float_islands}


def test_a_mixed_file_is_about_as_exact_as_its_plan(
    mixed: tuple[Path, Path, list[str]], run_onnx: Any, pivot: Any, image: np.ndarray
) -> None:
    path, plan, _ = mixed
    feed = {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}
    real = run_onnx(pivot(Head.DECODED), feed)
    found, planned = errors(outputs(path, image), real), errors(run_onnx(plan, feed), real)
    assert all(found[name] < 2 * planned[name] for name in real)


def test_a_float_convolution_that_nobody_asked_for_is_counted(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from facex.exporters import _integers

    monkeypatch.setattr(_integers, "asked_floats", lambda metadata: [])
    facts = coreml.describe(mixed[0])
    assert facts.quantization is not None
    assert facts.quantization.unasked_floats == len(facts.float_islands) > 0


@pytest.mark.parametrize(
    ("node", "constants", "reason"),
    [
        (("Conv", "x,w"), {"w": np.ones((2, 3, 1), np.float32)}, "a 1-D convolution"),
        (("QuantizeLinear", "x,s,z"), {"s": np.ones(3, np.float32), "z": np.zeros(3, np.int8)}, "one 8-bit scale"),
        (("Gather", "x,i"), {"i": np.array([0, 1])}, "a list of indices"),
    ],
)
def test_what_cannot_be_lowered_is_refused_by_name(node: Any, constants: Any, reason: str) -> None:
    operator, inputs = node
    proto = onnx.helper.make_node(operator, inputs.split(","), ["y"], name="/net/it")
    graph = onnx.helper.make_graph(
        [proto], "g", [onnx.helper.make_tensor_value_info("x", 1, (1, 3, 4, 6))],
        [onnx.helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    import coremltools as ct

    with pytest.raises(UnsupportedOperatorError) as caught:
        _nchw.lower(onnx.helper.make_model(graph), ct.target.iOS17)
    assert "'/net/it'" in str(caught.value)
    assert reason in str(caught.value)
    assert "Core ML lowering" in str(caught.value)


def test_an_unknown_operator_is_refused_with_its_place(qdq: Any) -> None:
    model = _nodes.load(qdq(Head.DECODED))
    model.graph.node[3].op_type = "Einsum"
    import coremltools as ct

    with pytest.raises(UnsupportedOperatorError, match="no Core ML lowering for Einsum at '"):
        _nchw.lower(model, ct.target.iOS17)


def test_the_same_plan_gives_the_same_bytes(package: Any, make_job: Any, tmp_path: Path) -> None:
    again = tmp_path / "again_w8a8.mlpackage"
    coreml.export(make_job(again, Precision.W8A8))
    first = package(Head.DECODED)
    for path in (p for p in first.rglob("*") if p.is_file()):
        assert (again / path.relative_to(first)).read_bytes() == path.read_bytes()
