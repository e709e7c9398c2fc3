"""A phone by way of this host: what it took for known networks over what this host takes for them.

The ratio belongs to this host at this moment, so it is measured anew each time, interleaved with the file: LiteRT
with XNNPACK, one thread, the least of many runs. The time is what the thread was given of a processor, so that
neighbours that take turns with it do not count; those that share its caches and its clock still do. More threads, or
another moment, would make the ratio worthless.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facex.device_bench import _anchors, _work, host
from facex.device_bench._phones import INT8, Figure
from facex.errors import ArtifactError, first_line, stage
from facex.progress import Progress

MAX_SECONDS = 25.0
ROUNDS = 40
MIN_ROUNDS = 5
"""Rounds that are run however long they take."""

MIN_ANCHORS = 4
"""Known networks that a ratio needs."""


@dataclass(frozen=True, kw_only=True)
class HostTime:
    """What one inference takes of a processor of this host, in milliseconds."""

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
    loaded = {name: _loaded(name, model) for name, model in models.items()}
    names = list(loaded)
    progress.start(f"timing {len(names)} networks on this host", rounds)
    spent_ns: dict[str, list[int]] = {name: [] for name in names}
    deadline = time.monotonic() + max_seconds
    for i in range(rounds):
        if i >= MIN_ROUNDS and time.monotonic() >= deadline:
            break
        for name in host.round_order(names, i):
            with stage(name):
                before = time.thread_time_ns()
                loaded[name].invoke()
                spent_ns[name].append(time.thread_time_ns() - before)
        progress.advance()
    return {
        name: HostTime(minimum_ms=min(spent) / 1e6, median_ms=statistics.median(spent) / 1e6)
        for name, spent in spent_ns.items()
    }


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
    """For every anchor, the median ratio of other families over its own; of other anchors, if there is one family."""
    found = []
    for i, (family, own) in enumerate(zip(families, ratios, strict=True)):
        others = [r for f, r in zip(families, ratios, strict=True) if f != family]
        others = others or [r for j, r in enumerate(ratios) if j != i]
        found.append(statistics.median(others) / own)
    assert all(map(math.isfinite, found))
    return found


def _loaded(name: str, model: Path | bytes) -> Any:
    """An interpreter of one thread that has run once, on noise: no time depends on the image."""
    interpreter = _work.opened(model)
    random = np.random.default_rng(0)
    try:
        interpreter.allocate_tensors()
        for given in interpreter.get_input_details():
            low, high = (-1.0, 1.0) if given["dtype"] is np.float32 else (0.0, 127.0)
            noise = random.uniform(low, high, given["shape"]).astype(given["dtype"])
            interpreter.set_tensor(given["index"], noise)
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{name}: LiteRT cannot run it: {first_line(error)}") from error
    return interpreter
