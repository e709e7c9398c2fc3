"""What a set of photographs says about one artifact, fed photograph by photograph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError
from facex.parity.limits import MALFORMED
from facex.parity.match import Matches, match
from facex.parity.rows import malformed
from facex.types import Detections, Selection

if TYPE_CHECKING:
    from facex.types import FloatArray

FACE_SCORE = 0.5
"""A detection that scores at least this is a face, on both sides."""

SURE_SCORE = 0.7
"""A reference face that scores at least this must not be lost."""

SNR_LIMIT_DB = 200.0
"""Identical tensors have no noise; their signal-to-noise ratio is reported as this."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the metrics rest on.

    Attributes:
        photographs: compared.
        reference_faces: found by the reference.
        candidate_faces: found by the candidate.
        matched: pairs of the two.
        sure_faces: reference faces that must not be lost.
        lost: those of them that no candidate face matches.
    """

    photographs: int = 0
    reference_faces: int = 0
    candidate_faces: int = 0
    matched: int = 0
    sure_faces: int = 0
    lost: int = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one photograph adds to the figures of faces.

    Attributes:
        pairs: which face is which.
        side_px: float64 [P], square root of the area of the pair's reference box, input pixels.
        nme: float64 [P], mean distance of the pair's landmarks over `side_px`.
        sure: score from which on a face of the reference is sure.
    """

    pairs: Matches
    side_px: NDArray[np.float64]
    nme: NDArray[np.float64]
    sure: float


class Accumulator:
    """One artifact against the reference so far, as a few numbers per face and per tensor.

    Of one that chooses faces by a `selection` the tensors are not compared, for a face more moves all rows below it;
    instead the rows are held against what they promise. No face is sure near a threshold.

    `rounding` is, by output, how much of a difference is no noise; see `_TensorNoise`.
    """

    def __init__(self, selection: Selection | None = None, rounding: Mapping[str, float] | None = None) -> None:
        self.counts = Counts()
        self._rounding = rounding or {}
        self._selection = selection
        self._sure = SURE_SCORE
        self._malformed = 0
        if selection is not None:
            threshold = selection.score_threshold
            self._sure = max(SURE_SCORE, min(threshold + SURE_SCORE - FACE_SCORE, (threshold + 1) / 2))
        self._iou: list[NDArray[np.float64]] = []
        self._score_shift: list[NDArray[np.float64]] = []
        self._point_error_px: list[NDArray[np.float64]] = []
        self._nme: list[NDArray[np.float64]] = []
        self._tensors: dict[str, _TensorNoise] = {}

    def add(
        self,
        reference: Detections,
        candidate: Detections,
        reference_outputs: Mapping[str, FloatArray],
        candidate_outputs: Mapping[str, FloatArray],
    ) -> Measured:
        """Compare one photograph; returns what it adds for its faces.

        Args:
            reference: faces of the reference, score >= `FACE_SCORE`, after NMS.
            candidate: faces of the candidate, likewise, same frame.
            reference_outputs: float32, by name.
            candidate_outputs: float32, by name; names beyond those of the reference are ignored.

        Raises:
            ArtifactError: the candidate's outputs have other names or shapes.
        """
        require_same_tensors(reference_outputs, candidate_outputs)
        pairs = match(reference, candidate)
        self._count(reference, candidate, pairs)
        with np.errstate(over="ignore", invalid="ignore"):
            measured = self._measure(reference, candidate, pairs)
            if self._selection is not None:
                self._malformed += malformed(candidate_outputs, self._selection)
                return measured
            for name, expected in reference_outputs.items():
                noise = self._tensors.setdefault(name, _TensorNoise(self._rounding.get(name, 0.0)))
                noise.add(expected, candidate_outputs[name])
        return measured

    def _count(self, reference: Detections, candidate: Detections, pairs: Matches) -> None:
        sure = reference.scores >= self._sure
        lost = sure.copy()
        lost[pairs.reference] = False
        before = self.counts
        self.counts = Counts(
            photographs=before.photographs + 1,
            reference_faces=before.reference_faces + len(reference),
            candidate_faces=before.candidate_faces + len(candidate),
            matched=before.matched + len(pairs),
            sure_faces=before.sure_faces + int(sure.sum()),
            lost=before.lost + int(lost.sum()),
        )

    def _measure(self, reference: Detections, candidate: Detections, pairs: Matches) -> Measured:
        boxes = reference.boxes[pairs.reference].astype(np.float64)
        side_px = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        points = candidate.landmarks[pairs.candidate].astype(np.float64) - reference.landmarks[pairs.reference]
        error_px = np.sqrt((points**2).sum(axis=2))
        scores = candidate.scores[pairs.candidate].astype(np.float64) - reference.scores[pairs.reference]
        measured = Measured(pairs=pairs, side_px=side_px, nme=error_px.mean(axis=1) / side_px, sure=self._sure)
        if len(pairs):
            self._iou.append(pairs.iou)
            self._score_shift.append(np.abs(scores))
            self._point_error_px.append(error_px.max(axis=1))
            self._nme.append(measured.nme)
        return measured

    def metrics(self) -> dict[str, float | None]:
        """Every metric by its name.

        None is a metric with nothing to measure: no face on either side, or no photograph. NaN is one that
        should have been measured and was not: the reference has faces and none is matched, or the candidate
        is not finite.
        """
        counts = self.counts
        faces = counts.reference_faces + counts.candidate_faces
        unmatched = math.nan if counts.reference_faces else None

        def over_faces(values: list[NDArray[np.float64]], percentile: float | None = None) -> float | None:
            if not values:
                return unmatched
            joined = np.concatenate(values)
            if not np.isfinite(joined).all():
                return math.nan
            return float(joined.mean() if percentile is None else np.percentile(joined, percentile))

        return {
            "matched_f1": 2 * counts.matched / faces if faces else None,
            "lost_faces": counts.lost / counts.sure_faces if counts.sure_faces else None,
            "box_iou_mean": over_faces(self._iou),
            "box_iou_p5": over_faces(self._iou, 5),
            "score_shift_mean": over_faces(self._score_shift),
            "score_shift_max": over_faces(self._score_shift, 100),
            "landmark_nme_mean": over_faces(self._nme),
            "landmark_nme_p95": over_faces(self._nme, 95),
            "landmark_error_max_px": over_faces(self._point_error_px, 100),
            **({} if self._selection is None else {MALFORMED: float(self._malformed)}),
            **{f"snr_db.{name}": noise.snr_db() for name, noise in self._tensors.items()},
            **{f"max_abs.{name}": noise.max_abs() for name, noise in self._tensors.items()},
        }


def snr_db(reference: FloatArray, candidate: FloatArray) -> float:
    """Signal-to-noise ratio of one tensor, of any and the same shape; see `_TensorNoise.snr_db`."""
    noise = _TensorNoise()
    noise.add(reference, candidate)
    return noise.snr_db()


class _TensorNoise:
    """Difference of one output tensor from its reference, over all photographs, in float64.

    Only what a difference has beyond `rounding` is noise; the largest difference is told with it.
    """

    def __init__(self, rounding: float = 0.0) -> None:
        self._rounding = rounding
        self._signal = self._noise = self._max_abs = 0.0

    def add(self, reference: FloatArray, candidate: FloatArray) -> None:
        expected = np.asarray(reference, np.float64)
        difference = np.abs(expected - np.asarray(candidate, np.float64))
        self._signal += float(np.square(expected).sum())
        # np.maximum keeps a NaN that max() would lose
        self._noise += float(np.square(np.maximum(difference - self._rounding, 0.0)).sum())
        self._max_abs = float(np.maximum(self._max_abs, difference.max(initial=0.0)))

    def max_abs(self) -> float:
        """Largest absolute difference; NaN when anything was not finite."""
        return self._max_abs if math.isfinite(self._max_abs) else math.nan

    def snr_db(self) -> float:
        """10 log10(signal / noise), within +-`SNR_LIMIT_DB`; NaN when anything was not finite."""
        if not (math.isfinite(self._signal) and math.isfinite(self._noise)):
            return math.nan
        if self._noise == 0.0:
            return SNR_LIMIT_DB
        if self._signal == 0.0:
            return -SNR_LIMIT_DB
        ratio_db = 10.0 * (math.log10(self._signal) - math.log10(self._noise))
        return min(max(ratio_db, -SNR_LIMIT_DB), SNR_LIMIT_DB)


def require_same_tensors(reference: Mapping[str, FloatArray], candidate: Mapping[str, FloatArray]) -> None:
    """Refuse outputs that cannot be compared.

    Raises:
        ArtifactError: an output of the reference is missing from the candidate, or has another shape there.
    """
    missing = [name for name in reference if name not in candidate]
    if missing:
        raise ArtifactError(
            f"has no output {', '.join(missing)} (it has {', '.join(candidate) or 'none'})",
            hint="was it exported with another --head?",
        )
    for name, expected in reference.items():
        if candidate[name].shape != expected.shape:
            raise ArtifactError(
                f"output {name} has shape {list(candidate[name].shape)}, the reference has {list(expected.shape)}",
                hint="was it exported for another --size, --anchors or number of landmarks?",
            )
