"""One pass over the photographs: the reference and every artifact see the very same pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError, stage
from facex.parity import ground_truth as truth
from facex.parity.average_precision import AP_SCORE, ApAccumulator
from facex.parity.ground_truth import Entry, GroundTruth
from facex.parity.metrics import FACE_SCORE, Accumulator, Counts, require_same_tensors
from facex.parity.witness import Witness
from facex.reference.detector import detections
from facex.reference.photographs import Letterboxed, Photograph, letterbox, load
from facex.sightings import Sightings
from facex.types import Contract, Detections, Head, Selection, Session, Size

if TYPE_CHECKING:
    from facex.types import FloatArray

REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A loaded artifact; `head` is what its outputs are."""

    session: Session
    head: Head


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the photographs say.

    Attributes:
        metrics: candidate -> metric -> value, see `facex.parity.metrics.Accumulator.metrics`; with ground
            truth also
            `ap_<subset>`, `ap_drop_<subset>` (reference minus candidate) and `background_false_positives`.
        counts: candidate -> what its metrics rest on.
        against: candidate -> metric -> value, with another candidate in place of the reference, for those that
            have one.
        sightings: candidate -> what of this a page shows.
        reference_metrics: `photographs` and `reference_faces`; with ground truth also `ap_<subset>` and
            `background_false_positives` of the reference.
    """

    metrics: Mapping[str, Mapping[str, float | None]]
    counts: Mapping[str, Counts]
    against: Mapping[str, Mapping[str, float | None]]
    sightings: Mapping[str, Sightings]
    reference_metrics: Mapping[str, float | None]


def compare(
    reference: Session,
    candidates: Mapping[str, Candidate],
    photographs: Sequence[Photograph],
    *,
    contract: Contract,
    size: Size,
    head: Head,
    selection: Selection | None = None,
    ground_truth: GroundTruth | None = None,
    against: Mapping[str, str] | None = None,
    on_photograph: Callable[[], None] | None = None,
) -> Comparison:
    """Run everything on every photograph and measure how far each candidate is from the reference.

    Args:
        reference: the untouched network, with outputs of `head`.
        candidates: by artifact name; all of one size and head.
        photographs: none of which served calibration.
        contract: of the detector.
        size: of the input.
        head: what the outputs are.
        selection: how a `detections` head chooses faces.
        ground_truth: gives average precision where it has an entry.
        against: candidate -> another one that it is held against as well.
        on_photograph: called after each photograph, for a progress bar.

    Raises:
        PhotographError: one cannot be decoded.
        ArtifactError: a candidate's outputs are not those of the reference, or the ground truth does not fit.
        BackendError: a runtime failed; its stage is the artifact's name.
    """
    for name, candidate in candidates.items():
        if candidate.head is not head:
            raise ArtifactError(f"{name}: has a {candidate.head} head, the reference has a {head} one")
    entries = truth.assign(ground_truth, photographs) if ground_truth else (None,) * len(photographs)
    # low scores matter to average precision alone; without it, NMS over fewer boxes is faster
    view = _View(contract=contract, size=size, head=head, score=AP_SCORE if ground_truth else FACE_SCORE)
    tally = _Tally(candidates, entries, against or {}, selection)
    for photograph, entry in zip(photographs, entries, strict=True):
        letterboxed = view.letterboxed(photograph, entry)
        image = letterboxed.pixels[None]
        image.flags.writeable = False
        with stage(REFERENCE):
            expected = view.see(reference, image, None)
        tally.add_reference(entry, expected, letterboxed)
        for name, candidate in candidates.items():
            with stage(name):
                seen = view.see(candidate.session, image, expected.outputs)
                tally.add(name, photograph, entry, expected, seen, letterboxed)
        tally.close()
        if on_photograph:
            on_photograph()
    return tally.comparison(len(photographs))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one session says of one photograph."""

    outputs: Mapping[str, FloatArray]
    detections: Detections


@dataclass(frozen=True, kw_only=True)
class _View:
    """How every session of a comparison is looked at; `score` is the lowest that is kept."""

    contract: Contract
    size: Size
    head: Head
    score: float

    def letterboxed(self, photograph: Photograph, entry: Entry | None) -> Letterboxed:
        rgb = load(photograph.path)
        if entry:
            truth.check_frame(entry, *rgb.shape[:2])
        return letterbox(rgb, self.size, self.contract.mean_rgb)

    def see(self, session: Session, image: NDArray[Any], expected: Mapping[str, FloatArray] | None) -> _Seen:
        outputs = session({"image": image})
        if expected is not None:
            require_same_tensors(expected, outputs)
        with np.errstate(over="ignore", invalid="ignore"):
            faces = detections(outputs, self.head, self.contract, self.size, score=self.score)
        return _Seen(outputs=outputs, detections=faces)


class _Tally:
    """The accumulators of one comparison."""

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        entries: Sequence[Entry | None],
        against: Mapping[str, str],
        selection: Selection | None,
    ) -> None:
        self._bases = dict(against)
        self._against = {name: Accumulator(selection) for name in against}
        self._seen: dict[str, _Seen] = {}  # of this photograph, by the candidates that are held against each other
        self._parity = {name: Accumulator(selection) for name in candidates}
        self._witnesses = {name: Witness() for name in candidates}
        self._ap = {name: ApAccumulator(entries) for name in candidates}
        self._reference_ap = ApAccumulator(entries)
        self._reference_faces = 0

    def add_reference(self, entry: Entry | None, expected: _Seen, letterboxed: Letterboxed) -> None:
        self._reference_faces += len(expected.detections.above(FACE_SCORE))
        self._reference_ap.add(entry, expected.detections, letterboxed)

    def add(
        self,
        name: str,
        photograph: Photograph,
        entry: Entry | None,
        expected: _Seen,
        seen: _Seen,
        letterboxed: Letterboxed,
    ) -> None:
        faces = expected.detections.above(FACE_SCORE), seen.detections.above(FACE_SCORE)
        measured = self._parity[name].add(*faces, expected.outputs, seen.outputs)
        self._witnesses[name].add(photograph.path, letterboxed.scale, *faces, measured)
        self._ap[name].add(entry, seen.detections, letterboxed)
        if name in self._bases or name in self._bases.values():
            self._seen[name] = seen

    def close(self) -> None:
        """Compare candidates with each other on the photograph that all of them have seen, and forget it."""
        for name, base in self._bases.items():
            expected, seen = self._seen[base], self._seen[name]
            self._against[name].add(
                expected.detections.above(FACE_SCORE),
                seen.detections.above(FACE_SCORE),
                expected.outputs,
                seen.outputs,
            )
        self._seen.clear()

    def comparison(self, photographs: int) -> Comparison:
        reference_ap = self._reference_ap.metrics()
        metrics: dict[str, Mapping[str, float | None]] = {}
        for name, parity in self._parity.items():
            ap = self._ap[name].metrics()
            drops = {
                f"ap_drop_{key.removeprefix('ap_')}": _difference(reference_ap[key], value)
                for key, value in ap.items() if key.startswith("ap_")
            }  # fmt: skip
            metrics[name] = {**parity.metrics(), **ap, **drops}
        return Comparison(
            metrics=metrics,
            counts={name: parity.counts for name, parity in self._parity.items()},
            against={name: parity.metrics() for name, parity in self._against.items()},
            sightings={name: witness.sightings() for name, witness in self._witnesses.items()},
            reference_metrics={
                "photographs": float(photographs),
                "reference_faces": float(self._reference_faces),
                **reference_ap,
            },
        )


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
