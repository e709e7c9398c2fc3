"""Tiny ONNX graphs lowered and run by TensorFlow, and the seeded detector's files, each written once."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.exporters._quiet import quiet
from facex.types import ExportOptions, Head, Precision, Size

if TYPE_CHECKING:
    from facex.calibration.engine import Calibrated
    from facex.exporters import Job
    from facex.reference.detector import Detector

SIZE = Size(height=160, width=160)


@pytest.fixture(scope="session")
def lowered(onnx_model: Callable[..., Any]) -> Callable[..., dict[str, NDArray[Any]]]:
    """`lowered(nodes, x, constants={}, outputs=("y",), opset=17)`: x [1, C, H, W] -> outputs, run by TensorFlow."""
    import tensorflow as tf

    from facex.exporters import _nhwc

    def run(
        nodes: Sequence[Any],
        x: NDArray[np.float32],
        constants: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = ("y",),
        opset: int = 17,
    ) -> dict[str, NDArray[Any]]:
        model = onnx_model(nodes, {"x": x.shape}, outputs, constants, opset)
        function = _nhwc.lower(model, quantized=True)
        return {name: value.numpy() for name, value in function(tf.constant(x.transpose(0, 2, 3, 1))).items()}

    return run


@pytest.fixture(scope="session")
def assert_lowered(
    onnx_model: Callable[..., Any], run_onnx: Callable[..., Any], lowered: Callable[..., Any]
) -> Callable[..., None]:
    """`assert_lowered(nodes, x, constants={}, outputs=("y",), opset=17)`: TensorFlow and onnxruntime agree."""

    def check(
        nodes: Sequence[Any],
        x: NDArray[np.float32],
        constants: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = ("y",),
        opset: int = 17,
    ) -> None:
        wanted = run_onnx(onnx_model(nodes, {"x": x.shape}, outputs, constants, opset), {"x": x})
        found = lowered(nodes, x, constants, outputs, opset)
        assert list(found) == list(wanted)
        for name, expected in wanted.items():
            assert found[name].shape == expected.shape
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=2e-6 * max(1.0, np.abs(expected).max()))

    return check


@pytest.fixture(scope="session")
def assert_program(onnx_model: Callable[..., Any], run_onnx: Callable[..., Any]) -> Callable[..., None]:
    """`assert_program(nodes, x, constants={}, outputs=("y",))`: a saved ML program, executed, and onnxruntime agree."""
    with quiet():
        import coremltools as ct
    import torch

    from facex.exporters import _nchw, _package
    from facex.exporters._mil import executor, program

    def check(
        nodes: Sequence[Any],
        x: NDArray[np.float32],
        constants: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = ("y",),
    ) -> None:
        model = onnx_model(nodes, {"x": x.shape}, outputs, constants)
        with quiet(), tempfile.TemporaryDirectory() as folder:
            converted = ct.convert(
                _nchw.lower(model, ct.target.iOS17), convert_to="mlprogram", skip_model_load=True,
                minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.EMPTY,
            )  # fmt: skip
            converted.save(f"{folder}/model.mlpackage")
            parsed = program.parse(*_package.load(Path(folder) / "model.mlpackage"))
        found = list(executor.Executor(parsed)({"image": torch.from_numpy(x)}).values())
        wanted = run_onnx(model, {"x": x})
        for value, expected in zip(found, wanted.values(), strict=True):
            assert tuple(value.shape) == expected.shape
            atol = 2e-6 * max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=atol)

    return check


@pytest.fixture(scope="session")
def pivot(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`pivot(head=decoded, opset=17, size=160x160)` gives the seeded detector's float32 ONNX file, written once."""
    from facex.exporters import _pivot

    folder = tmp_path_factory.mktemp("pivots")

    def write(head: Head = Head.DECODED, opset: int = 17, size: Size = SIZE) -> Path:
        path = folder / f"{head}_{opset}_{size}.onnx"
        if not path.exists():
            _pivot.write(detector, size, head, opset, path)
        return path

    return write


@pytest.fixture(scope="session")
def qdq(
    detector: Detector,
    pivot: Callable[..., Path],
    calibrated: Callable[..., Calibrated],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """`qdq(head=decoded, opset=17)` gives the pivot with the engine's plan (`fast`), written once."""
    folder = tmp_path_factory.mktemp("plans")

    def write(head: Head = Head.DECODED, opset: int = 17) -> Path:
        path = folder / f"{head}_{opset}.onnx"
        if not path.exists():
            calibrated(pivot(head, opset), detector, head).write(path)
        return path

    return write


@pytest.fixture(scope="session")
def make_job(detector: Detector, pivot: Callable[..., Path], qdq: Callable[..., Path]) -> Callable[..., Job]:
    """`make_job(path, precision, head=decoded, deployment_target=None)` gives a job of the seeded detector."""
    from facex import exporters
    from facex.exporters import Job

    def make(
        path: Path, precision: Precision, head: Head = Head.DECODED, *, deployment_target: str | None = None
    ) -> Job:
        options, target = ExportOptions(opset=17, deployment_target=deployment_target), exporters.target_of(path)
        return Job(
            path=path,
            precision=precision,
            head=head,
            size=SIZE,
            detector=detector,
            pivot=pivot(head),
            qdq=qdq(head) if precision is Precision.W8A8 else None,
            options=exporters.settled(options, exporters.info(target), precision) if target else options,
        )

    return make


@pytest.fixture(scope="session")
def one_step() -> ModuleType:
    """The package `one_step` beside this file, which test modules cannot import."""
    folder = Path(__file__).parent / "one_step"
    spec = importlib.util.spec_from_file_location(
        "one_step", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its parts import one another by this name
    spec.loader.exec_module(module)
    return module
