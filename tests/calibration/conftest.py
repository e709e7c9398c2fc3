"""The seeded detector's float ONNX model, synthetic photographs of its size, and small graphs with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.types import Head, Size

if TYPE_CHECKING:
    from facex.reference.detector import Detector

SIZE = Size(height=160, width=160)


def _showing(model: Any, tensors: Sequence[str]) -> Any:
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    return shown


@pytest.fixture(scope="session")
def run_showing(run_onnx: Callable[..., Any]) -> Callable[..., dict[str, NDArray[Any]]]:
    """`run_showing(model, feeds, tensors)` runs onnxruntime node by node and gives any tensors of the model."""

    def run(model: Any, feeds: Mapping[str, NDArray[Any]], tensors: Sequence[str]) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = run_onnx(_showing(model, tensors), feeds)
        return found

    return run


@pytest.fixture(scope="session")
def pivot_of(_pivots: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`pivot_of(detector, size=160x160)` gives a new copy of a detector's float32 ONNX model with a decoded head."""
    import onnx

    folder: Path = tmp_path_factory.mktemp("pivots")

    def load(detector: Detector, size: Size = SIZE) -> Any:
        _pivots(detector, size, Head.DECODED, 17, folder / "pivot.onnx")
        return onnx.load(str(folder / "pivot.onnx"))

    return load


@pytest.fixture(scope="session")
def seeded_model(detector: Detector, pivot_of: Callable[..., Any]) -> Callable[[], Any]:
    """`seeded_model()` gives a new copy of the seeded detector's float32 ONNX model, decoded head, 160x160."""
    return lambda: pivot_of(detector)


@pytest.fixture(scope="session")
def pictures(draw_photograph: Callable[..., Any]) -> list[NDArray[np.uint8]]:
    """Six photographs, uint8 [160, 160, 3], RGB."""
    return [np.asarray(draw_photograph(300 + i, 160, 160)) for i in range(6)]


@pytest.fixture(scope="session")
def as_feed() -> Callable[..., dict[str, NDArray[np.float32]]]:
    """`as_feed(pixels)` turns uint8 [H, W, 3] or [B, H, W, 3] into the feed of a model's `image`."""

    def feed(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        batch = pixels if pixels.ndim == 4 else pixels[None]
        return {"image": np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)}

    return feed


@pytest.fixture(scope="session")
def best_of_rivals() -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """`best_of_rivals(margin)`, [B, priors, h, w]: exp of half of what a prior is behind the best within two cells."""

    def best(margin: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.empty_like(margin)
        for n, prior, i, j in np.ndindex(*margin.shape):
            rivals = margin[n, :, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            found[n, prior, i, j] = np.exp((margin[n, prior, i, j] - rivals.max()) / 2)
        return found

    return best


@pytest.fixture(scope="session")
def engine_model(seeded_model: Callable[[], Any], pictures: list[NDArray[np.uint8]]) -> Callable[[], tuple[Any, Any]]:
    """`engine_model()` gives a new copy of the rewritten and equalized seeded model, and its plan (chosen once)."""
    import onnx

    from facex.calibration import equalize, observers, rewrites
    from facex.calibration.channels import Channels
    from facex.calibration.graph import Graph
    from facex.calibration.plan import make_plan

    model = seeded_model()
    rewrites.all_exact(model)
    watching = equalize.watched(Graph(model), Channels(Graph(model)))
    magnitudes = {name: observers.ChannelMagnitude() for names in watching.values() for name in names}
    observers.watch(model, magnitudes, pictures, threads=1)
    found = equalize.equalization({name: o.magnitudes() for name, o in magnitudes.items()}, watching)
    equalize.apply(model, found.factors)
    graph = Graph(model)
    ranges = observers.range_observers(graph, "mse")
    observers.watch(model, ranges, pictures, threads=1)
    plan = make_plan(graph, {name: o.together().range() for name, o in ranges.items()}, "mse")
    saved = model.SerializeToString()
    return lambda: (onnx.load_from_string(saved), plan)
