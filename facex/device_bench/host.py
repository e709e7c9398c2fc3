"""Latency of artifacts on this machine, measured side by side, each with one or several numbers of threads.

The artifacts are timed in rounds, each once a round, so that a busy neighbour or a falling clock frequency
hits all of them alike. On a shared machine the median still wanders; the minimum repeats within a few per
cent, so both are reported.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex.errors import stage
from facex.types import Latency, LatencyKind, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_ROUNDS = 5
"""Timed rounds that are run however long they take: fewer say nothing about noise."""

OPTIONS = ("also_threads", "profile")
"""What this device knows of `DeviceOptions` beside what every one does; see the package."""

_WARMUP_SHARE = 0.5
_CPUINFO = Path("/proc/cpuinfo")
_CPUINFO_KEYS = ("model name", "Model", "Hardware")  # the last two: ARM boards, which have no model name


def measure(
    sessions: Mapping[str, Session],
    inputs: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    threads: int | Mapping[str, int],
    warmup: int = 5,
    runs: int = 50,
    max_seconds: float = 20.0,
    on_round: Callable[[int, int], None] | None = None,
) -> tuple[Latency, ...]:
    """Time `invoke()` of every session, interleaved.

    Each session is called once to load its inputs, then warmed up, then timed. The order changes every round
    so that each artifact follows every other one equally often.

    Args:
        sessions: artifact name -> opened session.
        inputs: artifact name -> the inputs of its session, as `facex.types.Session` describes them.
        threads: threads that the sessions were opened with, all or each by its name, at least 1; recorded, not set.
        warmup: untimed rounds; cut short when they have used half of `max_seconds`.
        runs: timed rounds at most.
        max_seconds: time for all rounds, warm-up included, in seconds; overrun only to reach the smaller of
            `runs` and `MIN_ROUNDS` timed rounds.
        on_round: called after every timed round with the rounds done and the rounds planned.

    Returns:
        One latency an artifact, in the order of `sessions`; `runs` is the number of rounds that were timed.

    Raises:
        ValueError: a session has no inputs, or `runs` is below 1.
        BackendError: a session failed; the message names the artifact.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}, must be at least 1")
    if unfed := sorted(sessions.keys() - inputs.keys()):
        raise ValueError(f"no inputs for {', '.join(unfed)}")
    if not sessions:
        return ()
    for name, session in sessions.items():
        with stage(name):
            session(inputs[name])
    with _no_collection():
        started = time.perf_counter_ns()
        warmed = _warm_up(sessions, warmup, started + max_seconds * _WARMUP_SHARE * 1e9)
        times = _timed_rounds(sessions, runs, started + max_seconds * 1e9, on_round)
    device, counts = description(), dict.fromkeys(sessions, threads) if isinstance(threads, int) else threads
    company = _company(len(sessions), several=len({counts[name] for name in sessions}) > 1)
    return tuple(
        _latency(name, times[name], device, counts[name], _method(session.runtime, warmed, company))
        for name, session in sessions.items()
    )


def description() -> str:
    """This machine in a line, e.g. `host: AMD EPYC 7B13, linux x86_64`."""
    return f"host: {_processor()}, {platform.system().lower()} {platform.machine()}"


def round_order(names: list[str], index: int) -> list[str]:
    """The names in the order of round `index`.

    A Williams design (E. J. Williams 1949, Aust. J. Sci. Res. A 2): rotations of the zigzag 0, 1, n-1, 2,
    n-2, … and then the same backwards, so that over 2n rounds each name comes directly after each other one
    equally often.
    """
    count = len(names)
    zigzag = [(j + 1) // 2 if j % 2 else -(j // 2) for j in range(count)]
    order = [names[(index + offset) % count] for offset in zigzag]
    return order[::-1] if (index // count) % 2 else order


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the timings."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _warm_up(sessions: Mapping[str, Session], rounds: int, deadline_ns: float) -> int:
    """Run untimed rounds until done or late; how many were run."""
    for done in range(rounds):
        if time.perf_counter_ns() >= deadline_ns:
            return done
        for name in round_order(list(sessions), done):
            with stage(name):
                sessions[name].invoke()
    return rounds


def _timed_rounds(
    sessions: Mapping[str, Session],
    runs: int,
    deadline_ns: float,
    on_round: Callable[[int, int], None] | None,
) -> dict[str, list[int]]:
    """Artifact name -> nanoseconds of each timed run."""
    times: dict[str, list[int]] = {name: [] for name in sessions}
    for index in range(runs):
        if index >= MIN_ROUNDS and time.perf_counter_ns() >= deadline_ns:
            break
        for name in round_order(list(sessions), index):
            invoke = sessions[name].invoke
            with stage(name):
                before = time.perf_counter_ns()
                invoke()
                after = time.perf_counter_ns()
            times[name].append(after - before)
        if on_round is not None:
            on_round(index + 1, runs)
    return times


def _latency(name: str, times_ns: list[int], device: str, threads: int, method: str) -> Latency:
    milliseconds = [t / 1e6 for t in times_ns]
    return Latency(
        artifact=name,
        device=device,
        kind=LatencyKind.MEASURED,
        threads=threads,
        runs=len(milliseconds),
        p50_ms=statistics.median(milliseconds),
        low_ms=min(milliseconds),
        high_ms=percentile_90(milliseconds),
        method=method,
    )


def percentile_90(values: list[float]) -> float:
    """The 90th percentile, linear between the two nearest values; of one value, that value."""
    return values[0] if len(values) == 1 else statistics.quantiles(values, n=10, method="inclusive")[-1]


def _company(count: int, *, several: bool) -> str:
    """What was timed in turns; `several` numbers of threads count an artifact once each."""
    if count == 1:
        return "alone"
    return f"interleaved over {count} {'pairs of artifact and threads' if several else 'artifacts'}"


def _method(runtime: str, warmed: int, company: str) -> str:
    return f"{runtime}; {warmed} warm-up rounds; {company}; low is the minimum, high the 90th percentile"


def _processor() -> str:
    """Name of the processor, as well as the system tells it."""
    name = _sysctl("machdep.cpu.brand_string") if platform.system() == "Darwin" else _cpuinfo_name()
    return " ".join((name or platform.processor() or "unknown processor").split())


def _cpuinfo_name() -> str:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or hidden by a sandbox: the caller has another source
        return ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return next((fields[key] for key in _CPUINFO_KEYS if fields.get(key)), "")


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program and a fixed key
            ["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):  # the caller has another source
        return ""
    return done.stdout.strip()
