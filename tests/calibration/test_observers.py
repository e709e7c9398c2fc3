"""What the observers see of a model, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from facex.calibration.observers import OBSERVERS, MinMax, observe
from facex.errors import EXIT_BACKEND, BackendError

ARRAYS = npst.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e6, 1e6, width=32))


@given(batches=st.lists(ARRAYS, min_size=1, max_size=5))
def test_minmax_is_the_extremes_of_everything_seen(batches):
    observer = MinMax()
    for batch in batches:
        observer.update(batch)
    everything = np.concatenate(batches)
    assert observer.range() == (float(everything.min()), float(everything.max()))


@pytest.fixture
def model(onnx_model, tmp_path) -> Path:
    """image -> conv 1x1 -> relu -> conv 1x1 -> y; no tensor but y is an output."""
    random = np.random.default_rng(6)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"]),
    ]
    constants = {
        "w": random.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "v": random.normal(size=(2, 4, 1, 1)).astype(np.float32),
    }
    path: Path = tmp_path / "net.onnx"
    onnx.save(onnx_model(nodes, {"image": (1, 3, 5, 7)}, ["y"], constants), str(path))
    return path


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(str(path)).graph.initializer}


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(9)
    return [{"image": random.uniform(0, 255, (1, 3, 5, 7)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("method", OBSERVERS)
def test_every_observer_holds_zero_photographs_of_a_constant(method):
    observer = OBSERVERS[method]()
    observer.update(np.full((1, 3), 2.5, np.float32))
    assert observer.range() == (2.5, 2.5)


def test_ranges_of_inputs_hidden_tensors_and_outputs(model):
    images, seen = feeds(4), []
    found = observe(
        model, ["image", "a", "r", "y"], iter(images), "minmax", threads=1, on_photograph=lambda: seen.append(1)
    )
    assert len(seen) == 4
    const = weights(model)
    pixels = np.stack([f["image"][0] for f in images]).astype(np.float64)
    a = np.einsum("oi,nihw->nohw", const["w"][..., 0, 0], pixels)
    r = np.maximum(a, 0)
    wanted: dict[str, Any] = {
        "image": pixels,
        "a": a,
        "r": r,
        "y": np.einsum("oi,nihw->nohw", const["v"][..., 0, 0], r),
    }
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], (values.min(), values.max()), rtol=1e-5, atol=1e-3)
    assert found["a"][0] < 0  # the negative side that a fused ReLU would hide
    assert found["r"][0] == 0


def test_the_model_file_is_left_as_it_was(model):
    before = model.read_bytes()
    observe(model, ["a", "r"], feeds(1), "minmax", threads=1)
    assert model.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_photograph_that_is_not_finite_is_an_error(model, value):
    images = feeds(2)
    images[1]["image"][0, 1, 2, 3] = value
    with pytest.raises(BackendError, match=r"tensor '\w+' takes values that are not finite") as caught:
        observe(model, ["a", "r"], images, "minmax", threads=1)
    assert caught.value.exit_code == EXIT_BACKEND


def test_a_network_that_overflows_is_an_error_that_names_the_tensor(onnx_model, tmp_path):
    nodes = [helper.make_node("Exp", ["image"], ["e"]), helper.make_node("Relu", ["image"], ["y"])]
    onnx.save(onnx_model(nodes, {"image": (1, 3, 5, 7)}, ["y"]), str(tmp_path / "net.onnx"))
    with pytest.raises(BackendError, match="tensor 'e' takes values that are not finite"):
        observe(tmp_path / "net.onnx", ["image", "e"], feeds(1), "minmax", threads=1)
