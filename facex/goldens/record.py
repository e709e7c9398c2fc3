"""Goldens from photographs and the reference, and the tolerances of a file from what it finds in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facex import auditing, demo, manifest
from facex.errors import ArtifactError, PhotographError
from facex.goldens import choice, replay
from facex.goldens.format import Face, Golden, GoldenSet, Tolerances
from facex.reference.detector import decoded
from facex.types import Contract, Detections, Head, Session, Size

if TYPE_CHECKING:
    from facex.progress import Clock
    from facex.reference.detector import Detector
    from facex.reference.photographs import Letterboxed, Photograph

PHOTOGRAPHS = 8
LOOKED_AT, RENDERED = 24, 16
"""Of the user's photographs, evenly spaced, and of rendered ones: so many are looked at to choose from."""

MIN_FACES, SURE = 8, 0.7
"""So many faces of such a score, over all goldens, are the least that a comparison can rest on."""

FLOOR = 0.02
"""The least of each tolerance: runtimes of one file, on other processors, differ too."""

MARGIN = 1.5
CEILING = Tolerances(score=0.25, box=0.15, landmark=0.15)
"""What needs more than this does not find the faces."""

_DECIMALS = 4


def candidates(folder: Path | None, clock: Clock, *, option: str = "--goldens") -> list[Photograph]:
    """Photographs to choose goldens from: evenly spaced over a folder; without one, some that facex renders.

    Raises:
        PhotographError: the folder holds none.
        BackendError: they could not be rendered.
    """
    from facex.reference import photographs

    if folder is None:
        from facex.demo import bundled, gallery

        folder = bundled.photographs(gallery.Stream.GOLDENS, RENDERED, clock) / gallery.IMAGES
    return auditing.spaced(photographs.find(folder, option=option), LOOKED_AT)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A photograph and what the reference finds in it."""

    source: tuple[int, int]
    boxed: Letterboxed
    found: Detections
    rating: choice.Rating


def record(
    photographs: Sequence[Photograph], detector: Detector, size: Size, folder: Path, *, threads: int, clock: Clock
) -> GoldenSet:
    """Let the float network find the faces of photographs, and save the best for goldens, letterboxed, as PNG.

    Args:
        photographs: at least one; of more than `PHOTOGRAPHS`, `choice.best` takes its pick.
        detector: the reference.
        size: of the input.
        folder: for the pictures; exists.
        threads: of the reference.
        clock: times and shows the stage.

    Raises:
        PhotographError: one cannot be decoded, or there are too few faces to compare.
    """
    from PIL import Image

    from facex.reference.detector import ReferenceSession

    session = ReferenceSession(detector, size, Head.DECODED, threads=threads)
    seen = []
    with clock("goldens", f"finding faces in {len(photographs)} photographs for goldens", len(photographs)):
        for photograph in photographs:
            seen.append(_seen(photograph, session, detector.contract, size))
            clock.progress.advance()
    chosen = [seen[i] for i in choice.best([each.rating for each in seen], PHOTOGRAPHS)]
    goldens = []
    for i, each in enumerate(chosen):
        path = folder / f"golden_{i}.png"
        Image.fromarray(each.boxed.pixels).save(path, optimize=True)
        goldens.append(
            Golden(
                file=path.name,
                sha256=manifest.sha256_of(path),
                source_height=each.source[0],
                source_width=each.source[1],
                scale=manifest.rounded(each.boxed.scale),
                faces=tuple(_face(each.found, j) for j in range(len(each.found))),
            )
        )
    _require_faces(goldens, photographs, demonstration=demo.is_bundled(detector.sha256))
    return GoldenSet(folder=folder, size=size, goldens=tuple(goldens))


def _seen(photograph: Photograph, session: Session, contract: Contract, size: Size) -> _Seen:
    from facex.reference.photographs import letterbox, load

    rgb = load(photograph.path)
    boxed = letterbox(rgb, size, contract.mean_rgb)
    outputs = session({"image": boxed.pixels[None]})
    return _Seen(
        source=(rgb.shape[0], rgb.shape[1]),
        boxed=boxed,
        found=replay.faces(outputs, Head.DECODED, contract, size),
        rating=choice.rate(*decoded(outputs, Head.DECODED, contract, size), sure=SURE),
    )


def _face(found: Detections, i: int) -> Face:
    """A face with its values as they are written, so that what was recorded and what is read are equal."""
    x1, y1, x2, y2 = manifest.rounded(found.boxes[i].tolist())
    return Face(
        score=manifest.rounded(float(found.scores[i])),
        box=(x1, y1, x2, y2),
        landmarks=tuple(manifest.rounded(found.landmarks[i].ravel().tolist())),
    )


def _require_faces(goldens: Sequence[Golden], photographs: Sequence[Photograph], *, demonstration: bool) -> None:
    count = sum(face.score >= SURE for golden in goldens for face in golden.faces)
    if count >= MIN_FACES:
        return
    hint = "name a folder of photographs with more faces, --goldens PHOTOS; if these have some, the contract is wrong"
    if demonstration:
        hint = "the bundled detector knows rendered faces: leave --goldens out"
    raise PhotographError(
        f"{photographs[0].path.parent}: the reference finds {count} faces with a score of {SURE:g} or more in the best "
        f"{len(goldens)} of {len(photographs)} photographs, too few to compare (at least {MIN_FACES})",
        hint=hint,
    )


def tolerances(name: str, found: replay.Replay) -> Tolerances:
    """How far a file may be off: half as much again as it was on the goldens in its own runtime, and not too little.

    Args:
        name: of the file, for the message.
        found: what it found in the goldens.

    Raises:
        ArtifactError: it does not find the faces, within any tolerance that would mean something.
    """
    from facex.parity.metrics import FACE_SCORE

    deviations = found.deviations
    unpaired = [score - FACE_SCORE for d in deviations for score in (*d.lost, *d.extra)]
    needed = {
        "score": max([*unpaired, *(d.score for d in deviations)]),
        "box": max(d.box for d in deviations),
        "landmark": max(d.landmark for d in deviations),
    }
    settled = {}
    for key, worst in needed.items():
        ceiling = getattr(CEILING, key)
        value = max(FLOOR, _up(worst * MARGIN))
        if not value <= ceiling:
            raise ArtifactError(
                f"{name}: does not find the faces of the goldens: its {key} would need a tolerance of {value:.3g}, "
                f"more than {ceiling:g}",
                hint="leave it out with --precision, or export it with better parity",
            )
        settled[key] = value
    return Tolerances(**settled)


def _up(value: float) -> float:
    """Rounded up, to as many digits as are written."""
    return math.ceil(value * 10**_DECIMALS) / 10**_DECIMALS if math.isfinite(value) else value


def same_contract(a: Contract, b: Contract) -> bool:
    """Whether two contracts are the same as far as a manifest tells, which has six digits of every number."""
    from facex.types import as_plain

    equal: bool = manifest.rounded(as_plain(a)) == manifest.rounded(as_plain(b))
    return equal
