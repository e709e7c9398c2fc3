"""A phone by way of this host: what the host takes for a file, times what the phone took for known networks over what
the host takes for them.

The ratio belongs to this host at this moment, so it is measured anew each time, side by side with the file: LiteRT with
XNNPACK, one thread, the minimum of many interleaved runs. More threads than the host has cores to spare, or another
moment, would make it worthless.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facex.device_bench import _anchors, _work, host
from facex.device_bench._phones import INT8, Figure
from facex.errors import ArtifactError, first_line
from facex.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SECONDS = 25.0
ROUNDS = 40
MIN_ANCHORS = 4
"""Known networks that a ratio needs."""


@dataclass(frozen=True, kw_only=True)
class HostTime:
    """What this host takes for one inference, in milliseconds."""

    minimum_ms: float
    median_ms: float

    @property
    def noise(self) -> float:
        """Median over minimum: 1 on a quiet machine."""
        return self.median_ms / self.minimum_ms


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A phone's latency over this host's.

    Attributes:
        value: median over the anchors.
        spread: factor that 90 % of the anchors are within, each told by those of other families.
        median_error: of the same, relative; 0.1 is 10 %.
        anchors, families: how many, and of how many kinds.
        errors: anchor -> told over published, each told by those of other families.
    """

    value: float
    spread: float
    median_error: float
    anchors: int
    families: int
    errors: Mapping[str, float]


def usable(figures: Sequence[Figure]) -> tuple[Figure, ...]:
    """The figures whose networks can be built here."""
    known = set(_anchors.names())
    return tuple(f for f in figures if f.network.name in known)


def anchor_files(figures: Sequence[Figure], arithmetic: str) -> dict[str, bytes]:
    """Label -> file of every network of the figures."""
    names = dict.fromkeys(f.network.name for f in figures)
    return {label(name, arithmetic): _anchors.build(name, int8=arithmetic == INT8) for name in names}


def label(network: str, arithmetic: str) -> str:
    """What a built network is called among the timed files; no path has this form."""
    return f"anchor {network} {arithmetic}"


def times(
    models: Mapping[str, Path | bytes], progress: Progress, *, rounds: int = ROUNDS, max_seconds: float = MAX_SECONDS
) -> dict[str, HostTime]:
    """Time TFLite files interleaved, one thread each.

    Args:
        models: label -> path or content.
        progress: shown the rounds.
        rounds: at most.
        max_seconds: for all of them.

    Raises:
        ArtifactError: a file cannot be loaded.
        BackendError: the runtime failed on one.
    """
    sessions = {name: _Loaded(name, model) for name, model in models.items()}
    progress.start(f"timing {len(models)} networks on this host", rounds)
    found = host.measure(
        sessions,
        {name: {} for name in models},
        threads=1,
        warmup=2,
        runs=rounds,
        max_seconds=max_seconds,
        on_round=lambda done, total: progress.advance(),
    )
    return {entry.artifact: HostTime(minimum_ms=entry.low_ms, median_ms=entry.p50_ms) for entry in found}


def ratio(figures: Sequence[Figure], timed: Mapping[str, HostTime], arithmetic: str) -> Ratio | None:
    """The ratio of a phone to this host; None where too few anchors were timed.

    Args:
        figures: published, of one phone and arithmetic.
        timed: label -> time on this host.
        arithmetic: `float` or `int8`.
    """
    anchors = [f for f in figures if label(f.network.name, arithmetic) in timed]
    if len(anchors) < MIN_ANCHORS:
        return None
    ratios = [f.ms / timed[label(f.network.name, arithmetic)].minimum_ms for f in anchors]
    errors = _held_out([f.network.family for f in anchors], ratios)
    factors = [max(error, 1 / error) for error in errors]
    return Ratio(
        value=statistics.median(ratios),
        spread=float(np.quantile(factors, 0.9)),
        median_error=statistics.median(abs(error - 1) for error in errors),
        anchors=len(anchors),
        families=len({f.network.family for f in anchors}),
        errors={f.network.name: error for f, error in zip(anchors, errors, strict=True)},
    )


def _held_out(families: Sequence[str], ratios: Sequence[float]) -> list[float]:
    """For every anchor, the median ratio of the other families over its own; of the other anchors, if all are of one."""
    found = []
    for i, (family, own) in enumerate(zip(families, ratios, strict=True)):
        others = [r for f, r in zip(families, ratios, strict=True) if f != family]
        others = others or [r for j, r in enumerate(ratios) if j != i]
        found.append(statistics.median(others) / own)
    assert all(map(math.isfinite, found))
    return found


class _Loaded:
    """A TFLite file in LiteRT, one thread; its input is noise, on which no time depends."""

    untimed = ""

    runtime = "ai-edge-litert"

    def __init__(self, name: str, model: Path | bytes) -> None:
        self._interpreter = _work.opened(model)
        try:
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{name}: LiteRT cannot prepare it: {first_line(error)}") from error

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run once on noise."""
        random = np.random.default_rng(0)
        for given in self._interpreter.get_input_details():
            low, high = (-1.0, 1.0) if given["dtype"] is np.float32 else (0.0, 127.0)
            noise = random.uniform(low, high, given["shape"]).astype(given["dtype"])
            self._interpreter.set_tensor(given["index"], noise)
        self._interpreter.invoke()
        return {}

    def invoke(self) -> None:
        """Run again."""
        self._interpreter.invoke()
