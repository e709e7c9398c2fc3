"""Faces chosen inside a file: the same rows as the reference's own NMS gives, to the bit, in every runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.reference.detector import selected
from facex.types import Selection

PRIORS, POINTS, CODES = 300, 5, 3
DEFAULT = Selection(max_faces=20)
Values = dict[str, NDArray[np.float32]]


def crowd(seed: int, *, priors: int = PRIORS, mesh: bool = False) -> Values:
    """Overlapping boxes with scores from 0 to 1."""
    rng = np.random.default_rng(seed)
    centre, side = rng.uniform(0, 300, (priors, 2)), rng.uniform(10, 120, (priors, 2))
    values = {
        "boxes": np.concatenate([centre - side / 2, centre + side / 2], axis=1),
        "scores": rng.random(priors),
        "landmarks": rng.uniform(0, 300, (priors, 2 * POINTS)),
        **({"mesh": rng.normal(size=(priors, CODES))} if mesh else {}),
    }
    return {name: value[None].astype(np.float32) for name, value in values.items()}


def coarse(seed: int) -> Values:
    """The scores of 8 bits, most of which many boxes share."""
    values = crowd(seed)
    return values | {"scores": (np.round(values["scores"] * 40) / 40).astype(np.float32)}


def saturated(seed: int) -> Values:
    """Half of the scores beyond what float32 tells apart, the later boxes a little better."""
    values = crowd(seed)
    values["scores"][0, ::2] = np.linspace(0.999991, 1, PRIORS // 2, dtype=np.float32)
    return values


def at_the_limits(_: int) -> Values:
    """Overlaps and scores that are just what is asked for, one step more and one step less."""
    values = crowd(3)
    values["scores"][:] = 0.1
    # 10 x 10 and inside of it 10 x 4: 0.4; then a step more, then a step less
    heights = [4, np.nextafter(np.float32(4), np.float32(5)), np.nextafter(np.float32(4), np.float32(3))]
    for i, height in enumerate(heights):
        values["boxes"][0, 2 * i : 2 * i + 2] = [(20 * i, 0, 20 * i + 10, 10), (20 * i, 0, 20 * i + 10, height)]
    values["scores"][0, :6] = [0.99, 0.98, 0.97, 0.96, 0.95, 0.94]
    half = np.float32(0.5)
    values["boxes"][0, 6:9] = [[100, 0, 110, 10], [200, 0, 210, 10], [300, 0, 310, 10]]
    values["scores"][0, 6:9] = [half, np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(1))]
    return values


def none_at_all(seed: int) -> Values:
    values = crowd(seed)
    return values | {"scores": values["scores"] * np.float32(0.49)}


def odd_boxes(seed: int) -> Values:
    """Slivers, and boxes far outside; the others on integers, where every overlap is exact."""
    values = crowd(seed)
    values["boxes"] = np.round(values["boxes"] / 8) * 8
    values["boxes"][0, :40, 2:] = values["boxes"][0, :40, :2] + np.float32(2**-10)
    values["boxes"][0, 40:60] += 4096
    return values


def many(seed: int) -> Values:
    """More faces than rows."""
    values = crowd(seed)
    values["boxes"][0] = np.arange(PRIORS)[:, None] * 16 + np.asarray([0, 0, 8, 8], np.float32)
    return values


CASES: dict[str, tuple[Callable[[int], Values], Selection]] = {
    "crowd": (crowd, DEFAULT),
    "coarse": (coarse, DEFAULT),
    "saturated": (saturated, DEFAULT),
    "limits": (at_the_limits, DEFAULT),
    "none": (none_at_all, DEFAULT),
    "odd boxes": (odd_boxes, DEFAULT),
    "many": (many, DEFAULT),
    "strict": (crowd, Selection(score_threshold=0.9, nms_iou=0.1, max_faces=7)),
    "lax": (coarse, Selection(score_threshold=0.02, nms_iou=0.8, max_faces=290)),
    "one": (saturated, Selection(score_threshold=0.9999, nms_iou=0.5, max_faces=1)),
    "fewer priors than rows": (lambda seed: crowd(seed, priors=12), DEFAULT),
    "mesh": (lambda seed: crowd(seed, mesh=True), DEFAULT),
}


def onnx_tail(values: Values, selection: Selection, folder: Path) -> Callable[[Values], dict[str, Any]]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    from facex.exporters import _detections_onnx

    def info(name: str, like: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, values[like].shape)

    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in values]
    graph = helper.make_graph(nodes, "head", [info(f"{n}_in", n) for n in values], [info(n, n) for n in values])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "head.onnx"))
    _detections_onnx.append(folder / "head.onnx", selection)
    session = onnxruntime.InferenceSession(str(folder / "head.onnx"), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]

    def run(given: Values) -> dict[str, Any]:
        return dict(zip(names, session.run(None, {f"{n}_in": v for n, v in given.items()}), strict=True))

    return run


def tflite_tail(values: Values, selection: Selection, *, half: bool = False) -> Callable[[Values], dict[str, Any]]:
    tf = pytest.importorskip("tensorflow")
    from facex.exporters import _detections_tf, _litert

    names: list[str] = []

    def head(*given: Any) -> list[Any]:
        found = _detections_tf.chosen(dict(zip(values, given, strict=True)), selection)
        names[:] = found
        return list(found.values())

    specs = [tf.TensorSpec(v.shape, name=f"{n}_in") for n, v in values.items()]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(head, input_signature=specs).get_concrete_function()]
    )
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    _, interpreter_class = _litert.runtime_module()
    interpreter = interpreter_class(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    operators = {o["op_name"] for o in interpreter._get_ops_details()}
    assert "NON_MAX_SUPPRESSION_V4" in operators
    assert not [name for name in operators if name.startswith("Flex") or name == "CUSTOM"]

    def run(given: Values) -> dict[str, Any]:
        for detail, name in zip(interpreter.get_input_details(), given, strict=True):
            assert name in detail["name"]
            interpreter.set_tensor(detail["index"], given[name])
        interpreter.invoke()
        found = [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]
        return dict(zip(names, found, strict=True))

    return run


def coreml_tail(values: Values, selection: Selection, *, system: str) -> Callable[[Values], dict[str, Any]]:
    ct = pytest.importorskip("coremltools")
    import torch
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    from facex.exporters import _detections_mil
    from facex.exporters._mil import program
    from facex.exporters._mil.executor import Executor

    target = getattr(ct.target, system)
    width = sum(int(np.prod(v.shape[2:])) for v in values.values())

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, values["scores"].shape[1], width))], opset_version=target)
    def head(all_values: Any) -> Any:
        parts, start = [], 0
        for value in values.values():
            wide = int(np.prod(value.shape[2:]))
            end = [1, value.shape[1], start + wide]
            part = mb.slice_by_index(x=all_values, begin=[0, 0, start], end=end)
            parts.append(mb.squeeze(x=part, axes=[2]) if value.ndim == 2 else part)
            start += wide
        return parts

    pipeline = ct.PassPipeline.DEFAULT
    pipeline.insert_pass(0, _detections_mil.register(selection, tuple(values), system == "iOS17"))
    model = ct.convert(
        head, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True, pass_pipeline=pipeline,
        compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip
    executor = Executor(program.parse(model.get_spec(), Path(model.weights_dir)))

    def run(given: Values) -> dict[str, Any]:
        joined = np.concatenate([v.reshape(*v.shape[:2], -1) for v in given.values()], axis=2)
        return {name: v.numpy() for name, v in executor({"all_values": torch.from_numpy(joined)}).items()}

    return run


Run = Callable[[Values], dict[str, Any]]

TARGETS: dict[str, Callable[[Values, Selection, Path], Run]] = {
    "onnx": onnx_tail,
    "tflite": lambda values, selection, _: tflite_tail(values, selection),
    "tflite fp16": lambda values, selection, _: tflite_tail(values, selection, half=True),
    "coreml iOS16": lambda values, selection, _: coreml_tail(values, selection, system="iOS16"),
    "coreml iOS17": lambda values, selection, _: coreml_tail(values, selection, system="iOS17"),
}


@pytest.fixture(scope="module")
def tail(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Values, Selection], Run]:
    """`tail(target, like, selection)` gives what runs the operators of a target; each is converted once."""
    made: dict[Any, Run] = {}

    def of(target: str, like: Values, selection: Selection) -> Run:
        key = target, selection, tuple((name, value.shape) for name, value in like.items())
        if key not in made:
            made[key] = TARGETS[target](like, selection, tmp_path_factory.mktemp("tail"))
        return made[key]

    return of


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_the_reference(target: str, case: str, tail: Callable[..., Run]) -> None:
    """On random boxes, on ties, and where a threshold or an overlap is met exactly."""
    make, selection = CASES[case]
    run = tail(target, make(0), selection)
    for seed in range(3):
        values = make(seed)
        wanted, found = selected(values, selection), run(values)
        assert set(found) == set(wanted)
        for name, expected in wanted.items():
            assert found[name].dtype == expected.dtype, name
            np.testing.assert_array_equal(found[name], expected, err_msg=f"{name}, seed {seed}")


def test_the_cases_try_what_they_say() -> None:
    counts = {case: int(selected(make(0), selection)["count"][0]) for case, (make, selection) in CASES.items()}
    assert counts["none"] == 0
    assert counts["many"] == DEFAULT.max_faces
    assert 1 < counts["strict"] <= 7
    assert counts["limits"] == 7  # of six 0.4 and what is less are kept, of three 0.5 and what is more
    assert 0 < counts["fewer priors than rows"] <= 12


@pytest.mark.parametrize("target", TARGETS)
def test_a_box_without_a_sensible_area_does_not_hide_the_others(target: str, tail: Callable[..., Run]) -> None:
    """TFLite's operator would fill all rows with the first one; its files leave such boxes out, others keep them."""
    values = crowd(0)
    values["scores"][0, :4] = 1.0
    values["boxes"][0, 0, 2:] = values["boxes"][0, 0, :2]
    values["boxes"][0, 1] = (-1e20, -1e20, 1e20, 1e20)
    values["boxes"][0, 2] = np.nan
    values["boxes"][0, 3] = (-1.3e19, -1e19, 1.3e19, 1e19)
    found = tail(target, values, DEFAULT)(values)
    count = int(found["count"][0])
    rest = {name: value[:, 4:] for name, value in values.items()}
    wanted = selected(rest, DEFAULT)
    kept = [row for row in range(count) if found["scores"][0, row] < 1]
    assert len(kept) >= min(int(wanted["count"][0]), DEFAULT.max_faces - 4)
    np.testing.assert_array_equal(found["scores"][0, kept], wanted["scores"][0, : len(kept)])
    if target.startswith("tflite"):
        assert len(kept) == count
