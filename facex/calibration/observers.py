"""Watch the float model on calibration photographs and choose a range for every tensor.

An observer is fed every batch of a tensor and answers with its range; `OBSERVERS` names the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facex.errors import BackendError


class Observer(Protocol):
    """Collects statistics of one tensor."""

    def update(self, values: NDArray[np.float32]) -> None:
        """Take in the tensor's values on one photograph."""
        ...

    def range(self) -> tuple[float, float]:
        """The chosen lower and upper bound, in the tensor's unit."""
        ...


class MinMax:
    """The extremes ever seen: nothing is clipped, and one outlier widens every step."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def update(self, values: NDArray[np.float32]) -> None:
        """Widen to these values."""
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def range(self) -> tuple[float, float]:
        """Smallest and largest value seen."""
        return self._low, self._high


OBSERVERS: Mapping[str, Callable[[], Observer]] = {"minmax": MinMax}


def observe(
    model_path: Path,
    tensors: Sequence[str],
    inputs: Iterable[Mapping[str, NDArray[Any]]],
    method: str,
    *,
    threads: int,
    on_photograph: Callable[[], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Run the float model and return the range of each tensor.

    Args:
        model_path: ONNX.
        tensors: activations to watch; graph inputs are watched directly.
        inputs: feeds of the model, one per photograph.
        method: a key of `OBSERVERS`.
        threads: for onnxruntime.
        on_photograph: called after each.

    Raises:
        BackendError: a tensor takes values that are not finite.
    """
    session, computed = _watching_session(model_path, tensors, threads)
    observers = {name: OBSERVERS[method]() for name in tensors}
    for feed in inputs:
        values = dict(zip(computed, session.run(computed, feed), strict=True))
        for name in tensors:
            array = values[name] if name in values else feed[name]
            if not np.isfinite(array).all():
                raise BackendError(f"tensor '{name}' takes values that are not finite on a calibration photograph")
            observers[name].update(array)
        if on_photograph:
            on_photograph()
    return {name: observer.range() for name, observer in observers.items()}


def _watching_session(model_path: Path, tensors: Sequence[str], threads: int) -> tuple[Any, list[str]]:
    import onnx
    import onnxruntime

    model = onnx.load(str(model_path))
    given = {i.name for i in model.graph.input}
    computed = [name for name in tensors if name not in given]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in computed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # fusion would remove the very tensors to be watched
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, computed
