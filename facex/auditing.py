"""The half-precision part of an export: what must stay in float32, seen on calibration photographs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from facex import exporters, manifest
from facex.manifest import Calibration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.exporters._mil.halves import Seen
    from facex.progress import Clock, Progress
    from facex.reference.photographs import Photograph
    from facex.types import Size

PHOTOGRAPHS = 24
"""Of the calibration photographs, evenly spaced: the headroom is for what more would show."""


def fp32_ops(
    target: str, job: exporters.Job, calib: Sequence[Photograph], *, threads: int, clock: Clock
) -> frozenset[str]:
    """The operations of a file that half precision endangers on photographs; they are told with the reasons.

    The same file is first written with everything in single precision, into the work folder, and run.

    Args:
        target: that computes in half precision.
        job: the file to be written.
        calib: photographs for calibration.
        threads: of what runs it.
        clock: times and shows the stage.
    """
    from facex.exporters._mil import halves

    module = exporters.load(target)
    twin = job.traced(path=job.path.with_name(f"single_{job.path.name}"), fp32_ops=exporters.EVERY)
    chosen = spaced(calib, PHOTOGRAPHS)
    with clock("audit", f"looking for what half precision endangers in {job.path.name}", len(chosen)):
        module.export(twin)
        fill = job.detector.contract.mean_rgb
        seen = module.halves(twin.path, pixels(chosen, job.size, fill, clock.progress), threads=threads)
        shutil.rmtree(twin.path)
    _tell(job.path.name, seen, len(chosen), clock.progress)
    return halves.kept(seen)


def _tell(name: str, seen: Sequence[Seen], photographs: int, progress: Progress) -> None:
    from facex.exporters._mil import halves

    kept = sorted(halves.kept(seen))
    if not kept:
        widest = max(seen, key=lambda one: one.largest)
        progress.say(
            f"{name}: nothing is endangered by half precision; the largest of {len(seen)} values on {photographs} "
            f"photographs is {widest.largest:.4g}, {widest.operator} '{widest.name}'"
        )
        return
    progress.say(f"{name}: {len(kept)} operations stay in float32: {', '.join(kept)}")
    for one in halves.endangered(seen):
        progress.say(f"  {one.operator} '{one.name}': {one.risk}")


def record(calib: Sequence[Photograph], seed: int) -> Calibration:
    """The photographs of an audit, for the manifest of a run that has no other use for them."""
    sums = [p.sha256 for p in spaced(calib, PHOTOGRAPHS)]
    return Calibration(
        count=len(sums),
        digest=manifest.digest_of(sums),
        method="ranges for --fp32-ops",
        effort=None,
        seed=seed,
        photographs_with_faces=None,
        near_duplicates=None,
        stability=None,
        sha256=tuple(sorted(set(sums))),
    )


def spaced(photographs: Sequence[Photograph], count: int) -> list[Photograph]:
    """At most `count` of them, evenly spaced over the folder, in order."""
    count = min(count, len(photographs))
    return [photographs[i * len(photographs) // count] for i in range(count)]


def pixels(
    photographs: Sequence[Photograph], size: Size, fill: tuple[float, float, float], progress: Progress
) -> Iterator[NDArray[np.uint8]]:
    """What sessions take for `image`: uint8 [1, H, W, 3], RGB, letterboxed with a colour; one by one, with progress."""
    from facex.reference.photographs import letterbox, load

    for photograph in photographs:
        yield letterbox(load(photograph.path), size, fill).pixels[None]
        progress.advance()
