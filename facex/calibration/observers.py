"""Watch the float model on calibration photographs: a range for every tensor, or the magnitude of its channels.

An observer is fed every value of one tensor and answers at the end. `OBSERVERS` names the ways to choose a range.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facex.calibration import gates
from facex.calibration.graph import Graph, attribute
from facex.calibration.plan import QMAX, QMIN, SMALLEST_SCALE
from facex.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

After = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""What an activation makes of values."""

BINS = 8192
"""Of a histogram that is symmetric about zero; a tensor uses at least a quarter of them."""
CLIPPED_SHARE = 1e-4
"""What the percentile range leaves out at either end."""
COUNTED_SHARE = 0.05
"""Of the mere count of values in their weight, where their importance is known."""
FLATTEST = 0.01
"""Slope of an activation below which the importance of a value before it says nothing of the one after it."""
TOP_SHARE = 1e-3
"""A channel's magnitude on a photograph is exceeded by this share of its values: one outlier must not decide."""
TYPICAL_PHOTOGRAPH = 0.9
"""Quantile over photographs of that magnitude."""


class Observer(Protocol):
    """Collects statistics of one tensor."""

    def update(self, values: NDArray[np.float32]) -> None:
        """Take in the tensor's values on one photograph."""
        ...


class RangeObserver(Observer, Protocol):
    """Chooses the range of one tensor."""

    def merged(self, other: Self) -> Self:
        """One observer that saw what both saw."""
        ...

    def range(self) -> tuple[float, float]:
        """The chosen lower and upper bound, in the tensor's unit."""
        ...


class MinMax:
    """The extremes ever seen: nothing is clipped, and one outlier widens every step."""

    def __init__(self, after: After | None = None) -> None:
        self._low, self._high = np.inf, -np.inf

    def update(self, values: NDArray[np.float32]) -> None:
        """Widen to these values."""
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def merged(self, other: MinMax) -> MinMax:
        """One observer that saw what both saw."""
        result = MinMax()
        result._low, result._high = min(self._low, other._low), max(self._high, other._high)
        return result

    def range(self) -> tuple[float, float]:
        """Smallest and largest value seen."""
        return self._low, self._high


class _Histogram:
    """Counts over [-reach, reach]; the reach doubles, and bins merge in pairs, when a larger value comes."""

    def __init__(self, after: After | None = None) -> None:
        self._after = after
        self._reach = 0.0
        self._counts = np.zeros(BINS)
        self._importance = np.zeros(BINS)
        self._low, self._high = np.inf, -np.inf

    def update(self, values: NDArray[np.float32]) -> None:
        """Count these values."""
        import torch

        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        self._widen(2.0 ** np.ceil(np.log2(max(-self._low, self._high, SMALLEST_SCALE))))
        flat = torch.from_numpy(np.ascontiguousarray(values)).reshape(-1)
        self._counts += torch.histc(flat, BINS, -self._reach, self._reach).double().numpy()

    def merged(self, other: Self) -> Self:
        """One observer that saw what both saw."""
        result = copy.deepcopy(self)
        result._low, result._high = min(self._low, other._low), max(self._high, other._high)
        result._widen(other._reach)
        more = copy.deepcopy(other)
        more._widen(result._reach)
        result._counts += more._counts
        result._importance += more._importance
        return result

    def weigh(self, values: Tensor, importance: Tensor) -> None:
        """Note how much errors of values matter; float32, of one shape. Values beyond those counted go to the ends."""
        import torch

        index = ((values + self._reach) * (BINS / 2 / self._reach)).long().clamp_(0, BINS - 1)
        noted = torch.bincount(index.reshape(-1), weights=importance.reshape(-1).double(), minlength=BINS)
        self._importance += noted.numpy()

    def _widen(self, reach: float) -> None:
        """Reach at least this far; reaches are powers of two."""
        self._reach = self._reach or reach
        while self._reach < reach:
            self._counts, self._importance = _coarser(self._counts), _coarser(self._importance)
            self._reach *= 2

    def _occupied(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres and counts of the bins that hold something."""
        used = np.flatnonzero(self._counts)
        return self._centres()[used], self._counts[used]

    def _centres(self) -> NDArray[np.float64]:
        return (np.arange(BINS) + 0.5) * (2 * self._reach / BINS) - np.float64(self._reach)


def _coarser(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same histogram over twice the reach."""
    result = np.zeros(BINS)
    result[BINS // 4 : BINS // 4 * 3] = bins.reshape(-1, 2).sum(axis=1)
    return result


class Percentile(_Histogram):
    """Leaves out the most extreme values at either end."""

    def range(self) -> tuple[float, float]:
        """The bounds that `CLIPPED_SHARE` of the values lie beyond, each."""
        centres, counts = self._occupied()
        below = np.cumsum(counts) / counts.sum()
        low = centres[int(np.searchsorted(below, CLIPPED_SHARE))]
        high = centres[min(int(np.searchsorted(below, 1 - CLIPPED_SHARE)), len(centres) - 1)]
        low, high = np.clip((low, high), self._low, self._high)
        return float(low), float(high)


class MeanSquaredError(_Histogram):
    """The range of the least squared error after the activation that alone reads the tensor, if one does.

    What the activation shrinks counts less: a range may clip negative values that would come out small anyway. Once it
    is told (`weigh`), errors count by how much they matter to the result; that knows the activation already.
    """

    def range(self) -> tuple[float, float]:
        """The best of a coarse grid of clipped bounds, refined once around it."""
        weighted = self._weighted()
        low, high = min(self._low, 0.0), max(self._high, 0.0)
        if low == high:
            return low, high
        lows = np.linspace(0.05, 1, 20) if low < 0 else np.ones(1)
        highs = np.linspace(0.3, 1, 15) if high > 0 else np.ones(1)
        for _ in range(2):
            errors = np.array([[self._error(a * low, b * high, weighted) for b in highs] for a in lows])
            i, j = np.unravel_index(errors.argmin(), errors.shape)
            best = float(lows[i]), float(highs[j])
            lows, highs = _around(lows, int(i)), _around(highs, int(j))
        return best[0] * low, best[1] * high

    def _weighted(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Centres of bins, how much an error counts there, and how much one after the activation."""
        centres, total = self._centres(), self._counts.sum()
        # what errors after the activation would weigh, which is what the mere count is added to
        known = (self._importance / self._squared_slopes(centres)).sum()
        used = np.flatnonzero(self._importance + self._counts)
        importance = self._importance / known if known else self._importance
        counts = self._counts / total * (COUNTED_SHARE if known else 1.0)
        return centres[used], importance[used], counts[used]

    def _squared_slopes(self, centres: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._after is None:
            return np.ones_like(centres)
        return np.maximum(np.square(np.gradient(self._after(centres), centres)), FLATTEST**2)

    def _error(self, low: float, high: float, weighted: tuple[NDArray[np.float64], ...]) -> float:
        centres, importance, counts = weighted
        scale = max((high - low) / (QMAX - QMIN), SMALLEST_SCALE)
        zero = np.round(QMIN - low / scale)
        kept = (np.clip(np.round(centres / scale) + zero, QMIN, QMAX) - zero) * scale
        after = np.square(self._after(kept) - self._after(centres)) if self._after else np.square(kept - centres)
        return float(importance @ np.square(kept - centres) + counts @ after)


def _around(grid: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """A finer grid between the neighbours of one point."""
    return np.linspace(grid[max(index - 1, 0)], grid[min(index + 1, len(grid) - 1)], 9)


OBSERVERS: Mapping[str, Callable[[After | None], RangeObserver]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "mse": MeanSquaredError,
}
"""Name -> maker; its argument is the activation that follows, None for none."""


class Halves:
    """Two observers of one tensor that take the photographs in turn: do they agree?"""

    def __init__(self, first: RangeObserver, second: RangeObserver) -> None:
        self._halves, self._seen = (first, second), 0

    def update(self, values: NDArray[np.float32]) -> None:
        """Show the values to one of the two."""
        self._halves[self._seen % 2].update(values)
        self._seen += 1

    def together(self) -> RangeObserver:
        """One observer that saw everything."""
        first, second = self._halves
        return first.merged(second) if self._seen > 1 else first

    def of_halves(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The range that each of them chooses."""
        first, second = self._halves
        return first.range(), second.range()


class ChannelMagnitude:
    """How large the values of each channel of a [1, C, H, W] tensor get."""

    def __init__(self) -> None:
        self._photographs: list[NDArray[np.float32]] = []

    def update(self, values: NDArray[np.float32]) -> None:
        """Note what `TOP_SHARE` of each channel's values exceed."""
        import torch

        magnitudes = torch.from_numpy(values[0]).reshape(values.shape[1], -1).abs()
        top = max(1, round(magnitudes.shape[1] * TOP_SHARE))
        self._photographs.append(magnitudes.topk(top, dim=1).values[:, -1].numpy())

    def magnitudes(self) -> NDArray[np.float64]:
        """Float64 [C]: the `TYPICAL_PHOTOGRAPH` quantile."""
        return np.quantile(np.stack(self._photographs).astype(np.float64), TYPICAL_PHOTOGRAPH, axis=0)


def range_observers(graph: Graph, method: str) -> dict[str, Halves]:
    """Observers for every quantized tensor; a method that looks behind activations is told which follows."""
    found = {}
    for name in graph.quantized_tensors():
        make, after = OBSERVERS["minmax" if _one_value(graph, name) else method], _activation_after(graph, name)
        found[name] = Halves(make(after), make(after))
    return found


def _one_value(graph: Graph, name: str) -> bool:
    """Whether a tensor has one value a channel: each counts for a whole photograph, so none is an outlier."""
    return all(side == 1 for side in graph.shapes[name][2:])


def _activation_after(graph: Graph, name: str) -> After | None:
    """The LeakyReLU or hard swish that alone reads a tensor."""
    follower = graph.only_consumer(name)
    if follower is not None and follower.op_type == "LeakyRelu":
        slope = float(attribute(follower, "alpha", 0.01))
        return lambda x: np.where(x > 0, x, slope * x)
    swish = gates.gates_itself(graph, name) or (follower is not None and follower.op_type == "HardSwish")
    if swish:
        return gates.hard_swish
    # the gate of a hard swish is shut for most of what is below zero, from where on depends on the channel
    return (lambda x: np.maximum(x, 0)) if gates.is_gated(graph, name) else None


def watch(
    model: Any,
    observers: Mapping[str, Observer],
    photographs: Iterable[NDArray[np.uint8]],
    *,
    threads: int,
    on_photograph: Callable[[], None] | None = None,
) -> None:
    """Run the float model and feed every observer with its tensor.

    Args:
        model: ONNX, of one image input [1, 3, H, W].
        observers: by tensor; the image itself is watched directly.
        photographs: uint8 [H, W, 3], RGB, of the model's size.
        threads: for onnxruntime.
        on_photograph: called after each.

    Raises:
        BackendError: a tensor takes values that are not finite.
    """
    (image,) = (i.name for i in model.graph.input)
    computed = [name for name in observers if name != image]
    running = session(_showing(model, computed), threads, optimized=False)
    for pixels in photographs:
        feed = pixels[None].transpose(0, 3, 1, 2).astype(np.float32)
        values = dict(zip(computed, running.run(computed, {image: feed}), strict=True))
        for name, observer in observers.items():
            array = values.get(name, feed)
            if not np.isfinite(array).all():
                raise BackendError(f"tensor '{name}' takes values that are not finite on a calibration photograph")
            observer.update(array)
        if on_photograph:
            on_photograph()


def _showing(model: Any, tensors: list[str]) -> bytes:
    """The model with other outputs, serialised."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    result: bytes = shown.SerializeToString()
    return result


def session(model: bytes, threads: int, *, optimized: bool = True) -> Any:
    """An onnxruntime session on the CPU; unoptimized, no tensor is fused away that somebody wants to see."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
