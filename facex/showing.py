"""The page of a run: gather what it shows, which needs photographs and models once more, and have it written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from facex.comparing import NO_PHOTOGRAPHS
from facex.errors import FacexError
from facex.sightings import Sightings
from facex.types import FileFacts, ReportPhotographs, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from facex.calibration.insight import Insight
    from facex.manifest import Manifest
    from facex.progress import Clock
    from facex.reference.photographs import Photograph

PHOTOGRAPHS = 2
"""Run through a quantization plan tensor by tensor: each takes as long as a few dozen inferences."""


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """A QDQ ONNX model that shows how w8a8 files are quantized; `title` tells people which."""

    title: str
    path: Path
    size: Size


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a run leaves for its page beside the manifest.

    Attributes:
        facts: artifact -> what the file says of itself.
        sightings: name of a run -> what it saw.
        plans: of the w8a8 files, where they can be read.
        photographs: for parity.
        threads: of every runtime.
    """

    facts: Mapping[str, FileFacts] = field(default_factory=dict)
    sightings: Mapping[str, Sightings] = field(default_factory=dict)
    plans: tuple[QuantizationPlan, ...] = ()
    photographs: Sequence[Photograph] = ()
    threads: int = 1


def page(manifest: Manifest, material: Material, pictures: ReportPhotographs, clock: Clock) -> str:
    """`report.html` of a run.

    Args:
        manifest: the whole one.
        material: the photographs and the plans are still where it says.
        pictures: which photographs are in it.
        clock: times and shows the stages.

    Raises:
        PhotographError: one can no longer be decoded.
    """
    from facex.reference.photographs import load
    from facex.report.page import thumbnails, written
    from facex.report.page.exhibits import Exhibits

    with clock("report", "drawing the report"):
        insights = {plan.title: _insight(manifest, plan, material) for plan in material.plans}
        paths = thumbnails.chosen(material.sightings) if pictures is ReportPhotographs.WORST else ()
        exhibits = Exhibits(
            facts=material.facts,
            sightings=material.sightings,
            thumbnails=thumbnails.made(paths, load),
            insights=insights,
        )
        return written.html(manifest, exhibits)


def _insight(manifest: Manifest, plan: QuantizationPlan, material: Material) -> Insight | str:
    """What a plan does to its tensors, or why that cannot be told."""
    from facex.auditing import spaced
    from facex.calibration import insight

    if not material.photographs:
        return NO_PHOTOGRAPHS
    chosen = spaced(material.photographs, PHOTOGRAPHS)
    try:
        return insight.observe(plan.path, _feeds(manifest, plan.size, chosen), threads=material.threads)
    except FacexError as error:  # a file of another tool: the page tells why, and the checks have their own say
        return error.what


def _feeds(
    manifest: Manifest, size: Size, photographs: Sequence[Photograph]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    import numpy as np

    from facex.reference.photographs import letterbox, load

    for photograph in photographs:
        pixels = letterbox(load(photograph.path), size, manifest.source.contract.mean_rgb).pixels[None]
        yield {"image": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)}
