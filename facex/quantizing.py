"""The w8a8 part of an export: calibrate, search for what must stay in float, write the QDQ model, and record it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facex import exporters, manifest, mixing
from facex.errors import MissingExtraError, SessionUnavailableError
from facex.manifest import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from facex.calibration.hygiene import Hygiene
    from facex.examination import Evidence
    from facex.progress import Clock
    from facex.recipe import Recipe
    from facex.reference.photographs import Photograph

COST_RUNS = 20
"""Timed rounds of a mixed file beside the integer one."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What a calibration of one input size gave.

    Attributes:
        integer_qdq: the fully integer QDQ model beside the mixed one, when operators are in float; None otherwise.
        record: for the manifest.
    """

    integer_qdq: Path | None
    record: Calibration


def quantize(
    jobs: Mapping[str, exporters.Job], recipe: Recipe, evidence: Evidence, calib: Sequence[Photograph], clock: Clock
) -> Quantized:
    """Calibrate a pivot and write its QDQ model.

    Where the user demands faces or landmarks of it (`--min-f1`, `--max-nme`), what cannot stay in integers is left in
    float, as little as possible, measured on the photographs for parity; without any, on those for calibration.

    Args:
        jobs: by target, the w8a8 files of one input size; their common `qdq` is what is written.
        recipe: what was asked.
        evidence: what files are compared with.
        calib: photographs for calibration.
        clock: times and shows the stages.
    """
    from facex.calibration import engine, hygiene
    from facex.calibration.schedule import Schedule

    one = next(iter(jobs.values()))
    assert one.qdq is not None
    schedule = Schedule(steps=recipe.steps)
    setting = engine.Setting(
        contract=one.detector.contract,
        size=one.size,
        head=recipe.head,
        effort=recipe.effort,
        seed=recipe.seed,
        threads=recipe.threads,
        # a crop that no step would learn from need not be drawn
        schedule=dataclasses.replace(schedule, pool=min(schedule.pool, schedule.steps * schedule.batch)),
    )
    calibrated = engine.calibrate(one.pivot, calib, setting, states=one.pivot.parent.parent, clock=clock)
    for warning in hygiene.warnings(calibrated.hygiene, f"--calib {recipe.calib}"):
        clock.progress.warn(warning)
    integer = None
    goal = mixing.goal_of(recipe.limits)
    floats: frozenset[str] = frozenset()
    if goal is not None:
        with clock("search", f"measuring the integer model at {one.size}"):
            floats = mixing.floats_for(
                calibrated,
                goal,
                evidence.photographs or calib,
                jobs=jobs,
                threads=recipe.threads,
                progress=clock.progress,
            )
    if floats:
        integer = one.qdq.with_name(f"integer_{one.qdq.name}")
        calibrated.write(integer)
    calibrated.write(one.qdq, floats)
    return Quantized(integer_qdq=integer, record=_record(recipe, calib, calibrated.plan.method, calibrated.hygiene))


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
        try:
            sessions = {p.name: module.open_session(p, threads=threads) for p in (job.path, twin.path)}
        except (SessionUnavailableError, MissingExtraError):
            times = "its time cannot be measured here"
        else:
            image = np.zeros((1, job.size.height, job.size.width, 3), np.uint8)
            feeds = {name: {"image": image} for name in sessions}
            mixed, integer = host.measure(sessions, feeds, threads=threads, runs=COST_RUNS)
            times = f"{mixed.low_ms:.2f} ms against {integer.low_ms:.2f} ms ({mixed.low_ms / integer.low_ms:.2f}x)"
        sizes = tuple(manifest.size_of(p) / 1e6 for p in (job.path, twin.path))
        twin.path.unlink()
    clock.progress.say(f"{job.path.name}: {sizes[0]:.2f} MB against {sizes[1]:.2f} MB fully integer, {times}")
