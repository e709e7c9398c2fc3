"""Convolutions are read as the real numbers that runtimes compute with, in every way that files store them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from facex import exporters
from facex.errors import ArtifactError
from facex.exporters._foreign import Convolution

X = np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype(np.float32)
WEIGHT = np.random.default_rng(2).normal(size=(5, 4, 3, 3)).astype(np.float32)
BIAS = np.random.default_rng(3).normal(size=5).astype(np.float32)


def _read(model: Any, path: Path) -> Any:
    path.write_bytes(model.SerializeToString())
    return exporters.load("onnx").read_foreign(path, threads=1)


def _computed(convolution: Convolution, x: NDArray[Any]) -> NDArray[Any]:
    """The convolution without padding, by its definition."""
    height, width = (x.shape[i + 2] - convolution.weight.shape[i + 2] + 1 for i in (0, 1))
    out = np.zeros((len(convolution.weight), height, width))
    for row in range(height):
        for column in range(width):
            window = x[0, :, row : row + 3, column : column + 3].astype(np.float64)
            out[:, row, column] = np.tensordot(convolution.weight, window, 3) + convolution.bias
    return out


def _assert_computes(model: Any, path: Path, run_onnx: Callable[..., Any], atol: float = 1e-4) -> Convolution:
    """What was read gives what onnxruntime computes."""
    (found,) = _read(model, path).convolutions
    (wanted,) = run_onnx(path, {"x": X}).values()
    np.testing.assert_allclose(_computed(found, X), wanted[0], atol=atol)
    return found


def test_a_batch_norm_after_the_convolution(onnx_model: Callable[..., Any], run_onnx: Any, tmp_path: Path):
    random = np.random.default_rng(4)
    constants = {
        "w": WEIGHT, "b": BIAS, "gain": random.uniform(0.5, 2, 5).astype(np.float32),
        "shift": random.normal(size=5).astype(np.float32), "mean": random.normal(size=5).astype(np.float32),
        "variance": random.uniform(0.1, 3, 5).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gain", "shift", "mean", "variance"], ["y"], epsilon=1e-3),
    ]
    found = _assert_computes(onnx_model(nodes, {"x": X.shape}, ["y"], constants), tmp_path / "m.onnx", run_onnx)
    assert (found.stored, found.bits, found.groups) == ("float32", 32, 1)


def test_weights_behind_a_dequantization(onnx_model: Callable[..., Any], run_onnx: Any, tmp_path: Path):
    scale = (np.abs(WEIGHT).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    constants = {
        "w": np.rint(WEIGHT / scale[:, None, None, None]).astype(np.int8), "s": scale, "z": np.zeros(5, np.int8),
        "b": BIAS,
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"], axis=0),
        helper.make_node("Conv", ["x", "real", "b"], ["y"]),
    ]
    found = _assert_computes(onnx_model(nodes, {"x": X.shape}, ["y"], constants), tmp_path / "m.onnx", run_onnx)
    assert (found.stored, found.bits) == ("int8", 8)
    np.testing.assert_allclose(found.weight, WEIGHT, atol=scale.max() / 2 + 1e-6)


def test_weights_that_are_rounded_on_the_way(onnx_model: Callable[..., Any], run_onnx: Any, tmp_path: Path):
    scale = np.float32(np.abs(WEIGHT).max() / 127)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["real"]),
        helper.make_node("Conv", ["x", "real"], ["y"]),
    ]
    constants = {"w": WEIGHT, "s": scale, "z": np.int8(3)}
    found = _assert_computes(onnx_model(nodes, {"x": X.shape}, ["y"], constants), tmp_path / "m.onnx", run_onnx)
    assert (found.bias == 0).all()


def test_transposed_weights_in_half_precision(onnx_model: Callable[..., Any], run_onnx: Any, tmp_path: Path):
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
        helper.make_node("Cast", ["t"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "real", "b"], ["y"]),
    ]
    constants = {"w": WEIGHT.transpose(2, 3, 1, 0).astype(np.float16), "b": BIAS}
    found = _assert_computes(onnx_model(nodes, {"x": X.shape}, ["y"], constants), tmp_path / "m.onnx", run_onnx)
    assert (found.stored, found.bits) == ("float16", 16)


def test_integer_convolutions(onnx_model: Callable[..., Any], run_onnx: Any, tmp_path: Path):
    x_scale, y_scale, scale = 0.03, 0.1, np.linspace(0.005, 0.02, 5).astype(np.float32)
    bias = np.rint(BIAS / (x_scale * scale)).astype(np.int32)
    constants = {
        "xs": np.float32(x_scale), "xz": np.uint8(120), "w": np.rint(WEIGHT / 0.02).clip(-127, 127).astype(np.int8),
        "ws": scale, "wz": np.zeros(5, np.int8), "ys": np.float32(y_scale), "yz": np.uint8(128), "b": bias,
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]
    model = onnx_model(nodes, {"x": X.shape}, ["y"], constants)
    # half a step of the input through all weights, and half a step of the output
    found = _assert_computes(model, tmp_path / "m.onnx", run_onnx, atol=1.0)
    np.testing.assert_allclose(found.weight[4], constants["w"][4] * float(scale[4]))
    np.testing.assert_allclose(found.bias, bias * x_scale * scale.astype(np.float64), rtol=1e-6)


def test_computed_weights_are_left_out(onnx_model: Callable[..., Any], tmp_path: Path):
    nodes = [helper.make_node("Sigmoid", ["k"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    model = onnx_model(nodes, {"x": X.shape, "k": WEIGHT.shape}, ["y"])
    found = _read(model, tmp_path / "m.onnx")
    assert found.convolutions == ()
    assert [i.name for i in found.inputs] == ["x", "k"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision", "stored", "least_db"),
    [
        ("tflite", "fp32", "float32", 100), ("tflite", "fp16", "float16", 60), ("tflite", "w8a8", "int8", 30),
        ("coreml", "fp16", "float16", 60), ("coreml", "w8", "int8", 30), ("coreml", "p6", "palette of 64", 25),
    ],
)  # fmt: skip
def test_every_format_keeps_the_weights_of_the_checkpoint(
    exported_as: Callable[..., Path], detector: Any, target: str, precision: str, stored: str, least_db: float
):
    from facex.exporters._rewrites import fold_batch_norms
    from facex.foreign import weights

    file = exporters.load(target).read_foreign(exported_as(target, precision), threads=1)
    assert stored in {c.stored for c in file.convolutions}
    found = weights.compare(weights.of_network(fold_batch_norms(detector.network)), file.convolutions)
    assert found.built_from == "yes", found.reason
    assert min(layer.snr_db or 0 for layer in found.layers) > least_db
    assert found.unmatched == ()


@pytest.mark.slow
def test_a_shape_that_a_file_leaves_open_is_fed(exported_as: Callable[..., Path]):
    file = exporters.load("tflite").read_foreign(exported_as("tflite", "fp32"), threads=1)
    (fed,) = file.inputs
    assert (fed.shape, fed.dtype, fed.scale) == ((1, 160, 160, 3), "uint8", 0.0)
    outputs = dict(file.open(fed.shape).run(np.zeros(fed.shape, np.float32)))
    assert outputs["boxes"].shape == (1, 1050, 4)


def test_a_damaged_package_is_refused(tmp_path: Path):
    (tmp_path / "m.mlpackage").mkdir()
    (tmp_path / "m.mlpackage" / "Manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError):
        exporters.load("coreml").read_foreign(tmp_path / "m.mlpackage", threads=1)
