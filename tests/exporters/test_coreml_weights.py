"""Weights of few bits in saved packages: the values that were chosen, and what photographs are good for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from facex import manifest
from facex.calibration import equalize, level, rounding
from facex.calibration.graph import Graph
from facex.errors import BackendError, UsageError
from facex.exporters import _coreml_weights, _package, coreml
from facex.exporters._mil import executor, program
from facex.types import Head, Precision

pytestmark = pytest.mark.slow

COMPRESSED = [Precision.W8, Precision.P6, Precision.P4]


@pytest.fixture(scope="module")
def crops(draw_photograph: Callable[..., Any]) -> np.ndarray:
    drawn = [np.asarray(draw_photograph(70 + i, 160, 160).convert("RGB")) for i in range(8)]
    return np.stack(drawn).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def package(make_job: Callable[..., Any], crops: np.ndarray, tmp_path_factory: Any) -> Callable[..., Path]:
    """`package(precision, seen=True)` gives a package, its weights rounded by photographs or not; written once."""
    folder = tmp_path_factory.mktemp("compressed")

    def export(precision: Precision, *, seen: bool = True) -> Path:
        path: Path = folder / f"{seen}_{precision}.mlpackage"
        if not path.exists():
            coreml.export(dataclasses.replace(make_job(path, precision), crops=crops if seen else None))
        return path

    return export


def weights_of(path: Path) -> list[np.ndarray]:
    """Weights of the convolutions as the executor decompresses them, in the order of the program."""
    parsed = program.parse(*_package.load(path))
    known = executor.Executor(parsed).constants
    return [np.asarray(known[str(o.inputs["weight"][0])]) for o in parsed.operations if o.type == "conv"]


@pytest.mark.parametrize("precision", COMPRESSED)
def test_the_file_holds_the_values_that_were_chosen(
    package: Any, pivot: Any, crops: np.ndarray, precision: Precision
) -> None:
    model = onnx.load(str(pivot(Head.DECODED)))
    bits = _coreml_weights.PALETTE_BITS.get(precision)
    if bits:
        equalize.apply(model, level.factors(model))
    grid = _coreml_weights._palettes(bits) if bits else rounding.eight_bits
    chosen = rounding.rounded(model, grid, crops)
    expected = [chosen[n.input[1]] for n in Graph(model).nodes if n.op_type == "Conv"]
    found = weights_of(package(precision))
    assert len(found) == len(expected) > 50
    for stored, value in zip(found, expected, strict=True):
        # half precision rounds a value, and where there is a scale, that and the largest value that it is made from
        np.testing.assert_allclose(stored, value, rtol=2**-9, atol=2**-24)


@pytest.mark.parametrize(("precision", "values"), [(Precision.P6, 64), (Precision.P4, 16)])
def test_a_palette_has_no_more_values_than_its_bits_can_name(package: Any, precision: Precision, values: int) -> None:
    found = weights_of(package(precision))
    large = [len(np.unique(w)) for w in found if w.size >= _coreml_weights.FEWEST_PALETTIZED]
    assert max(large) <= values
    assert max(large) > values // 2
    assert any(len(np.unique(w)) > values for w in found if w.size < _coreml_weights.FEWEST_PALETTIZED)


@pytest.mark.parametrize("precision", COMPRESSED)
def test_photographs_make_the_file_more_exact(
    package: Any, pivot: Any, run_onnx: Any, draw_photograph: Callable[..., Any], precision: Precision
) -> None:
    image = np.asarray(draw_photograph(5, 160, 160).convert("RGB"))[None]
    real = run_onnx(pivot(Head.DECODED), {"image": image.transpose(0, 3, 1, 2).astype(np.float32)})
    errors = []
    for seen in (False, True):
        found = coreml.open_session(package(precision, seen=seen), threads=1)({"image": image})
        errors.append(sum(float(np.square(found[n] - v).sum() / np.square(v).sum()) for n, v in real.items()))
    assert errors[1] < 0.8 * errors[0]


def test_fewer_bits_make_a_smaller_file(package: Any) -> None:
    w8, p6, p4 = (manifest.size_of(package(precision)) for precision in COMPRESSED)
    assert p6 < 0.85 * w8
    assert p4 < 0.85 * p6


@pytest.mark.parametrize("precision", [Precision.W8, Precision.P4])
def test_the_same_photographs_give_the_same_bytes(
    package: Any, make_job: Any, crops: np.ndarray, tmp_path: Path, precision: Precision
) -> None:
    again = tmp_path / f"again_{precision}.mlpackage"
    coreml.export(dataclasses.replace(make_job(again, precision), crops=crops.copy(order="C")))
    first = package(precision)
    assert not crops.flags.c_contiguous, "the two lie differently in memory"
    for path in (p for p in first.rglob("*") if p.is_file()):
        assert (again / path.relative_to(first)).read_bytes() == path.read_bytes()


def test_a_weight_that_the_pivot_lacks_is_an_error(make_job: Any, pivot: Any, tmp_path: Path) -> None:
    model = onnx.load(str(pivot(Head.DECODED)))
    name = Graph(model).trunk[1].input[1]
    for node in model.graph.node:
        for i, given in enumerate(node.input):
            node.input[i] = "renamed" if given == name else given
    for tensor in model.graph.initializer:
        tensor.name = "renamed" if tensor.name == name else tensor.name
    onnx.save(model, str(tmp_path / "renamed.onnx"))
    job = dataclasses.replace(make_job(tmp_path / "a_w8.mlpackage", Precision.W8), pivot=tmp_path / "renamed.onnx")
    with pytest.raises(BackendError, match="has no constant '"):
        coreml.export(job)
    assert not job.path.exists()


def test_a_system_that_cannot_load_the_plan_is_refused(make_job: Any, tmp_path: Path) -> None:
    from facex import pipeline
    from facex.recipe import Recipe
    from facex.types import ExportOptions

    options = ExportOptions(opset=17, deployment_target="iOS16")
    recipe = Recipe(
        checkpoint=Path("a.pth"), targets=("coreml",), precisions=(Precision.W8A8,), calib=tmp_path, options=options
    )
    with pytest.raises(UsageError, match="--deployment-target iOS16: coreml w8a8 needs iOS17") as caught:
        pipeline.plan(recipe)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("precision", "system"),
    [(Precision.FP16, "iOS 16"), (Precision.W8, "iOS 16"), (Precision.P4, "iOS 16"), (Precision.W8A8, "iOS 17")],
)
def test_the_oldest_system_that_can_load_a_file_is_chosen(
    make_job: Any, tmp_path: Path, precision: Precision, system: str
) -> None:
    path = tmp_path / f"a_{precision}.mlpackage"
    coreml.export(make_job(path, precision))
    assert coreml.describe(path).minimum_runtime.startswith(system)
