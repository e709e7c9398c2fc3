"""The comparison of goldens: what a runtime found against what must be found.

The same rules are written in Kotlin and Swift in the bundles for apps: pairs are formed by overlap alone, then what is
left over counts as lost or extra only beyond the tolerance of scores, and every pair is held to all three tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError
from facex.goldens.format import Face, Golden, GoldenSet, Tolerances
from facex.parity.match import MATCH_IOU
from facex.parity.metrics import FACE_SCORE
from facex.reference import geometry
from facex.reference.detector import detections
from facex.types import Contract, Detections, Finding, Head, Session, Size, Verdict

if TYPE_CHECKING:
    from facex.types import FloatArray

FINDINGS = ("golden.lost", "golden.extra", "golden.score", "golden.box", "golden.landmark")


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far the faces that were found in one golden are from those that must be.

    Attributes:
        pairs: indices of an expected and a found face, best overlap first.
        lost: scores of expected faces without a partner.
        extra: scores of found faces without a partner.
        score: largest difference of scores of a pair.
        box: largest difference of a coordinate of the box, as a share of the side of the expected one.
        landmark: largest distance of a landmark point, likewise.
            All three are 0 without a pair, and infinite where a value is not finite.
    """

    pairs: tuple[tuple[int, int], ...]
    lost: tuple[float, ...]
    extra: tuple[float, ...]
    score: float
    box: float
    landmark: float


def pixels(found: GoldenSet, golden: Golden) -> NDArray[np.uint8]:
    """The picture of a golden as sessions take it, uint8 [1, H, W, 3], RGB, input pixels.

    Raises:
        ArtifactError: it cannot be decoded, or is of another size than the goldens say.
    """
    from PIL import Image, UnidentifiedImageError

    path = found.folder / golden.file
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be decoded: {error}", hint="bundle again") from error
    if (image.mode, image.height, image.width) != ("RGB", found.size.height, found.size.width):
        raise ArtifactError(
            f"{path}: is {image.mode} {image.height}x{image.width}, the goldens are RGB {found.size}",
            hint="bundle again",
        )
    return np.asarray(image)[None]


def faces(outputs: Mapping[str, FloatArray], head: Head, contract: Contract, size: Size) -> Detections:
    """The faces in the outputs of a file, as an app finds them; a file that chooses them itself has done so."""
    with np.errstate(over="ignore", invalid="ignore"):
        return detections(outputs, head, contract, size, score=FACE_SCORE)


def deviation(expected: Sequence[Face], found: Detections) -> Deviation:
    """Pair faces one to one by overlap, ties in their order, and measure every pair.

    Args:
        expected: of the reference, input pixels.
        found: of the file, input pixels.
    """
    boxes = np.asarray([face.box for face in expected], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # boxes that are not finite overlap nothing
        iou = geometry.iou_matrix(boxes, found.boxes)
    rows, columns = np.nonzero(iou >= MATCH_IOU)
    pairs: list[tuple[int, int]] = []
    for i in np.lexsort((columns, rows, -iou[rows, columns])):
        row, column = int(rows[i]), int(columns[i])
        if all(row != r and column != c for r, c in pairs):
            pairs.append((row, column))
    measured = [_measured(expected[row], found, column) for row, column in pairs]
    taken = {row for row, _ in pairs}, {column for _, column in pairs}
    return Deviation(
        pairs=tuple(pairs),
        lost=tuple(face.score for i, face in enumerate(expected) if i not in taken[0]),
        extra=tuple(float(score) for i, score in enumerate(found.scores) if i not in taken[1]),
        score=max((m[0] for m in measured), default=0.0),
        box=max((m[1] for m in measured), default=0.0),
        landmark=max((m[2] for m in measured), default=0.0),
    )


def _measured(face: Face, found: Detections, column: int) -> tuple[float, float, float]:
    """Differences of score, box and landmarks of a pair; infinite where one is not finite."""
    box = np.asarray(face.box, np.float64)
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    points = np.asarray(face.landmarks, np.float64).reshape(-1, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        score = abs(face.score - float(found.scores[column]))
        corners = np.abs(box - np.asarray(found.boxes[column], np.float64)).max() / side
        distance = np.linalg.norm(points - np.asarray(found.landmarks[column], np.float64), axis=1).max() / side
    a, b, c = (float(value) if math.isfinite(value) else math.inf for value in (score, corners, distance))
    return a, b, c


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What one file found in every golden; `deviations` are in the order of the goldens."""

    goldens: GoldenSet
    deviations: tuple[Deviation, ...]

    def findings(self, artifact: str, tolerances: Tolerances) -> tuple[Finding, ...]:
        """One finding a tolerance and one each for lost and extra faces: the worst, and on which golden it was."""
        return (
            self._counted(artifact, "lost", "not found", tolerances),
            self._counted(artifact, "extra", "found that are not there", tolerances),
            self._worst(artifact, "score", tolerances),
            self._worst(artifact, "box", tolerances),
            self._worst(artifact, "landmark", tolerances),
        )

    def _counted(self, artifact: str, kind: str, what: str, tolerances: Tolerances) -> Finding:
        """Faces without a partner whose score is too high for chance."""
        least = FACE_SCORE + tolerances.score
        counts = [sum(not score < least for score in getattr(d, kind)) for d in self.deviations]
        total, at = sum(counts), int(np.argmax(counts))
        where = self.goldens.goldens[at].file
        return Finding(
            name=f"golden.{kind}",
            artifact=artifact,
            unit="1",
            actual=float(total),
            limit=0.0,
            verdict=Verdict.FAIL if total else Verdict.PASS,
            reason=f"faces {what}: {total}, of which {counts[at]} in {where}" if total else "",
        )

    def _worst(self, artifact: str, kind: str, tolerances: Tolerances) -> Finding:
        """The pair that is farthest apart."""
        values, limit = [float(getattr(d, kind)) for d in self.deviations], float(getattr(tolerances, kind))
        worst, where = max(values), self.goldens.goldens[int(np.argmax(values))].file
        paired, finite = any(d.pairs for d in self.deviations), math.isfinite(worst)
        if not paired:
            # also where every score is in doubt and none counts as lost
            verdict = Verdict.FAIL if any(d.lost for d in self.deviations) else Verdict.SKIPPED
            reason = "no face that was found is one of those that must be"
        elif not finite:
            verdict, reason = Verdict.FAIL, f"not a finite number in {where}"
        elif worst > limit:
            verdict, reason = Verdict.FAIL, f"{worst:.3g} is above {limit:g} in {where}"
        else:
            verdict, reason = Verdict.PASS, ""
        return Finding(
            name=f"golden.{kind}",
            artifact=artifact,
            unit="ratio",
            actual=worst if paired and finite else None,
            limit=limit,
            verdict=verdict,
            reason=reason,
        )


def replay(
    session: Session,
    found: GoldenSet,
    head: Head,
    contract: Contract,
    on_golden: Callable[[], None] | None = None,
) -> Replay:
    """Run a file on every golden.

    Args:
        session: of the file.
        found: the goldens, of the file's size.
        head: what the file returns.
        contract: under which a raw head is decoded.
        on_golden: called after each, for a progress bar.

    Raises:
        ArtifactError: a picture cannot be used.
        BackendError: the runtime failed.
    """
    deviations = []
    for golden in found.goldens:
        outputs: Mapping[str, Any] = session({"image": pixels(found, golden)})
        deviations.append(deviation(golden.faces, faces(outputs, head, contract, found.size)))
        if on_golden:
            on_golden()
    return Replay(goldens=found, deviations=tuple(deviations))
