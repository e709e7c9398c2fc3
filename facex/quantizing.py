"""What calibration photographs are for in an export: the QDQ model of w8a8 files, and crops to round weights by."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facex import exporters, manifest, mixing, workspace
from facex.errors import MissingExtraError, SessionUnavailableError
from facex.manifest import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from facex.calibration.engine import Calibrated
    from facex.calibration.hygiene import Hygiene
    from facex.comparing import Evidence
    from facex.progress import Clock
    from facex.recipe import Recipe
    from facex.reference.photographs import Photograph
    from facex.types import Size

COST_RUNS = 20
"""Timed rounds of a mixed file beside the integer one."""


ROUNDED_METHOD = "rounded-with-feedback"


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What a calibration of one input size gave.

    Attributes:
        integer_qdq: the fully integer QDQ model beside the mixed one, when operators are in float; None otherwise.
        crops: float32 [n, 3, h, w], 0-255: pixels around faces to round weights by; see `calibration.rounding`.
        record: for the manifest.
    """

    integer_qdq: Path | None
    crops: NDArray[np.float32]
    record: Calibration


def quantize(
    jobs: Mapping[str, exporters.Job],
    pivot: Path,
    size: Size,
    recipe: Recipe,
    evidence: Evidence,
    calib: Sequence[Photograph],
    clock: Clock,
) -> Quantized:
    """Read the photographs, calibrate a pivot for w8a8 files if there are any, and write their QDQ model.

    Where the user demands faces or landmarks of it (`--min-f1`, `--max-nme`), what cannot stay in integers is left in
    float, as little as possible, measured on the photographs for parity; without any, on those for calibration.

    Args:
        jobs: by target, the w8a8 files of one input size; their common `qdq` is what is written.
        pivot: the float model of that size.
        size: of the input.
        recipe: what was asked.
        evidence: what files are compared with.
        calib: photographs for calibration.
        clock: times and shows the stages.
    """
    from facex.calibration import engine, hygiene
    from facex.calibration.schedule import Schedule

    schedule = Schedule(steps=recipe.steps)
    setting = engine.Setting(
        contract=evidence.detector.contract,
        size=size,
        head=recipe.head.traced,
        effort=recipe.effort,
        seed=recipe.seed,
        threads=recipe.threads,
        # a crop that no step would learn from need not be drawn
        schedule=dataclasses.replace(schedule, pool=min(schedule.pool, schedule.steps * schedule.batch)),
    )
    seen = engine.read(pivot, calib, setting, clock)
    crops, method, found, integer = engine.rounding_crops(seen, setting), ROUNDED_METHOD, seen.hygiene, None
    if jobs:
        calibrated = engine.calibrate(pivot, seen, setting, states=pivot.parent.parent, clock=clock)
        method, found = calibrated.plan.method, calibrated.hygiene
        integer = _write(calibrated, jobs, recipe, evidence.photographs or calib, clock)
    for warning in hygiene.warnings(found, f"--calib {recipe.calib}"):
        clock.progress.warn(warning)
    return Quantized(integer_qdq=integer, crops=crops, record=_record(recipe, calib, method, found))


def _write(
    calibrated: Calibrated,
    jobs: Mapping[str, exporters.Job],
    recipe: Recipe,
    photographs: Sequence[Photograph],
    clock: Clock,
) -> Path | None:
    """The QDQ model of w8a8 files, and its fully integer form where operators are in float."""
    one = next(iter(jobs.values()))
    assert one.qdq is not None
    goal, floats = mixing.goal_of(recipe.limits), frozenset[str]()
    if goal is not None:
        with clock("search", f"measuring the integer model at {one.size}"):
            floats = mixing.floats_for(
                calibrated, goal, photographs, jobs=jobs, threads=recipe.threads, progress=clock.progress
            )
    integer = one.qdq.with_name(f"integer_{one.qdq.name}") if floats else None
    if integer:
        calibrated.write(integer)
    calibrated.write(one.qdq, floats)
    return integer


def _record(recipe: Recipe, calib: Sequence[Photograph], method: str, hygiene: Hygiene) -> Calibration:
    sums = [p.sha256 for p in calib]
    return Calibration(
        count=len(sums),
        digest=manifest.digest_of(sums),
        method=method,
        effort=str(recipe.effort),
        seed=recipe.seed,
        photographs_with_faces=hygiene.photographs_with_faces,
        near_duplicates=hygiene.near_duplicates,
        stability=hygiene.stability,
        sha256=tuple(sorted(set(sums))),
    )


def tell_cost(target: str, job: exporters.Job, integer_qdq: Path, threads: int, clock: Clock) -> None:
    """Say what the operators left in float cost in size and time, against the fully integer file of the same plan."""
    import numpy as np

    from facex.device_bench import host

    twin = dataclasses.replace(job, path=job.path.with_name(f"integer_{job.path.name}"), qdq=integer_qdq)
    module = exporters.load(target)
    with clock("search", f"comparing {job.path.name} with its fully integer form"):
        module.export(twin)
        times = "its time cannot be measured here"
        with contextlib.suppress(SessionUnavailableError, MissingExtraError):
            sessions = {p.name: module.open_session(p, threads=threads) for p in (job.path, twin.path)}
            if not any(session.untimed for session in sessions.values()):
                image = np.zeros((1, job.size.height, job.size.width, 3), np.uint8)
                feeds = {name: {"image": image} for name in sessions}
                mixed, integer = host.measure(sessions, feeds, threads=threads, runs=COST_RUNS)
                times = f"{mixed.low_ms:.2f} ms against {integer.low_ms:.2f} ms ({mixed.low_ms / integer.low_ms:.2f}x)"
        sizes = tuple(manifest.size_of(p) / 1e6 for p in (job.path, twin.path))
        workspace.remove(twin.path)
    clock.progress.say(f"{job.path.name}: {sizes[0]:.2f} MB against {sizes[1]:.2f} MB fully integer, {times}")
