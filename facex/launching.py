"""How long an artifact takes to start and what memory it needs: each start in a process of its own.

    python -m facex.launching TARGET PATH HEIGHT WIDTH THREADS RUNTIME

is such a process. It prints one JSON object: `load_ms`, `memory_mb`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facex import exporters
from facex.errors import ArtifactError, BackendError, MissingExtraError, SessionUnavailableError, stage
from facex.progress import Clock
from facex.runs import Run
from facex.types import Latency, Runtime

STARTS = 3
"""Processes an artifact; the median of an odd number is one of them."""

BYTES_PER_MB = 1e6
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of an artifact.

    Attributes:
        load_ms: from opening the file to the first result; the runtime's library is loaded before.
        memory_mb: 10^6 bytes of peak resident memory above what the process held before; None where the system does
            not tell.
    """

    load_ms: float
    memory_mb: float | None


def added(runs: Sequence[Run], latency: Sequence[Latency], clock: Clock) -> tuple[Latency, ...]:
    """The latencies with load time and memory, measured in rounds so that a busy neighbour hits all alike.

    Args:
        runs: files in their runtimes.
        latency: of some of them, by the name of the run; each is started with its number of threads.
        clock: times the stage.

    Raises:
        BackendError: a process failed; the message names the artifact.
    """
    if not latency:
        return ()
    known = {run.name: run for run in runs}
    starts: dict[tuple[str, int], list[Start]] = {(entry.artifact, entry.threads): [] for entry in latency}
    with clock("start", "starting each file in processes of its own", STARTS * len(starts)):
        for _ in range(STARTS):
            for (name, threads), found in starts.items():
                found.append(_in_process(known[name], threads))
                clock.progress.advance()
    return tuple(_with(entry, starts[entry.artifact, entry.threads]) for entry in latency)


def _with(entry: Latency, starts: Sequence[Start]) -> Latency:
    peaks = [start.memory_mb for start in starts if start.memory_mb is not None]
    memory = "memory their highest peak above what they held before" if peaks else "memory is not told here"
    return dataclasses.replace(
        entry,
        load_ms=statistics.median(start.load_ms for start in starts),
        memory_mb=max(peaks, default=None),
        method=f"{entry.method}; load is the median of {len(starts)} processes with the library loaded and the file "
        f"cached, {memory}",
    )


def _in_process(run: Run, threads: int) -> Start:
    subject, here = run.subject, Path(__file__).parents[1]
    command = [sys.executable, "-m", "facex.launching", subject.target, str(subject.path.resolve())]
    command += map(str, (subject.size.height, subject.size.width, threads, run.runtime))
    # the same modules as here, whatever the folder that facex was started in holds
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}
    with stage(run.name):
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter and a module of ours
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=here, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BackendError(f"gave no result within {_TIMEOUT_S:g} s of a process of its own") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BackendError(f"failed in a process of its own: {last[:300]}")
        return Start(**json.loads(done.stdout.splitlines()[-1]))


def measure(target: str, path: Path, height: int, width: int, threads: int, runtime: Runtime) -> Start:
    """Open a file in this process and run it once on a grey picture; only the first call in a process is a start."""
    import numpy as np

    image = np.full((1, height, width, 3), 128, dtype=np.uint8)
    _load_library(target, path.suffix, runtime)
    before = _resident("VmRSS") if _forget_peak() else None
    began = time.perf_counter_ns()
    exporters.open_session(target, path, threads, runtime)({"image": image})
    load_ms = (time.perf_counter_ns() - began) / 1e6
    peak = _resident("VmHWM")
    grown = peak - before if peak is not None and before is not None else 0
    return Start(load_ms=load_ms, memory_mb=grown / BYTES_PER_MB if grown > 0 else None)


def _load_library(target: str, suffix: str, runtime: Runtime) -> None:
    """Have the target load what runs its files: it does so before it finds that an empty file is none."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / f"empty{suffix}"
        empty.touch()
        with contextlib.suppress(ArtifactError, SessionUnavailableError, MissingExtraError):
            exporters.open_session(target, empty, 1, runtime)


def _forget_peak() -> bool:
    """Let Linux count the peak anew, if it does. `getrusage` will not do: it inherits the peak of the parent."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:  # another system, or a sandbox
        return False
    return True


def _resident(key: str) -> int | None:
    """Bytes of resident memory, now (`VmRSS`) or at most so far (`VmHWM`); None where the system does not tell."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def main(target: str, path: str, height: str, width: str, threads: str, runtime: str) -> None:
    """The process: measure one start and print it."""
    found = measure(target, Path(path), int(height), int(width), int(threads), Runtime(runtime))
    print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
