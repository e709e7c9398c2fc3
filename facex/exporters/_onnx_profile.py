"""onnxruntime's own profile of an ONNX file: what every node took, from the trace that it writes."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError, BackendError, first_line
from facex.types import OperatorTime, Profile

US_PER_MS = 1000.0
KERNEL = "_kernel_time"
"""Ends the name of the event that is a node's own work."""

INFERENCE = "model_run"
"""Name of the event that is a whole inference."""


def profile(path: Path, image: NDArray[np.uint8], *, threads: int, warmup: int, runs: int) -> Profile:
    """Run a file with onnxruntime's profiler, whose trace is kept nowhere.

    Args:
        path: an ONNX file with an `image`.
        image: uint8 [1, H, W, 3], RGB, input pixels.
        threads: of the runtime.
        warmup: runs that do not count.
        runs: runs that do, at least 1.

    Raises:
        ArtifactError: onnxruntime cannot load or run the file.
        BackendError: its trace does not hold what was run.
    """
    import onnxruntime

    from facex.exporters.onnx import session_options

    feed = {"image": np.ascontiguousarray(image.transpose(0, 3, 1, 2), dtype=np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for _ in range(warmup + runs):
                session.run(None, feed)
        # onnxruntime's exceptions share no base class beneath Exception
        except Exception as error:
            raise ArtifactError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    operators, mean_ms = read(events, runs)
    note = (
        f"operators: measured by the profiler of onnxruntime {onnxruntime.__version__} in {runs} runs of their own "
        f"after {warmup} to warm up, {threads} thread{'s' * (threads != 1)}; an inference takes {mean_ms:.2f} ms in "
        "them, which is no latency: the profiler slows it down"
    )
    return Profile(operators=operators, note=note)


def read(events: Sequence[Mapping[str, Any]], runs: int) -> tuple[tuple[OperatorTime, ...], float]:
    """The nodes in the last runs of a trace, and what one of these runs took in milliseconds, mean.

    Args:
        events: of onnxruntime's trace, times in microseconds.
        runs: how many of the last inferences count.

    Raises:
        BackendError: there are fewer inferences than that, or none holds a node.
    """
    whole = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == INFERENCE)[-runs:]
    if len(whole) < runs:
        raise BackendError(f"onnxruntime's profile holds {len(whole)} inferences of {runs}")
    began, ended = whole[0][0], whole[-1][1]
    nodes = [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith(KERNEL)]
    timed = sorted((e for e in nodes if began <= e["ts"] <= ended), key=lambda e: e["ts"])
    if not timed:
        raise BackendError("onnxruntime's profile holds no node")
    mean_us = statistics.mean(end - start for start, end in whole)
    sums: dict[str, float] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for event in timed:
        first.setdefault(event["name"], event)
        sums[event["name"]] = sums.get(event["name"], 0.0) + event["dur"]
    operators = (
        OperatorTime(
            operator=first[name]["args"]["op_name"],
            name=name.removesuffix(KERNEL),
            mean_ms=total / runs / US_PER_MS,
            share=total / runs / mean_us,
            unit=first[name]["args"]["provider"].removesuffix("ExecutionProvider").lower(),
        )
        for name, total in sums.items()
    )
    return tuple(operators), mean_us / US_PER_MS
