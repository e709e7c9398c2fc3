"""Remembers of a comparison what a page shows of it: a few numbers a face, and the photographs that differ most."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facex.parity.metrics import Measured
from facex.sightings import Scene, Sightings
from facex.types import Detections

if TYPE_CHECKING:
    from facex.types import FloatArray

SCENES = 4
"""Photographs that are kept of a run; of all others, their figures alone."""


class Witness:
    """One candidate so far."""

    def __init__(self) -> None:
        self._figures: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = []
        self._lost: list[FloatArray] = []
        self._extra: list[FloatArray] = []
        self._photographs = self._differing = 0
        self._scenes: list[tuple[tuple[int, int, int, float], Scene]] = []

    def add(
        self,
        path: Path,
        scale: float,
        reference: Detections,
        candidate: Detections,
        measured: Measured,
    ) -> None:
        """Take in one photograph.

        Args:
            path: of the photograph.
            scale: input pixels per pixel of it.
            reference: faces of the reference, as they were matched.
            candidate: faces of the candidate, likewise.
            measured: the match, and its figures.
        """
        pairs = measured.pairs
        lost = np.setdiff1d(np.arange(len(reference)), pairs.reference)
        extra = np.setdiff1d(np.arange(len(candidate)), pairs.candidate)
        with np.errstate(over="ignore", invalid="ignore"):
            side_px, nme = measured.side_px.astype(np.float32), measured.nme.astype(np.float32)
        self._figures.append((reference.scores[pairs.reference], candidate.scores[pairs.candidate], side_px, nme))
        self._lost.append(reference.scores[lost])
        self._extra.append(candidate.scores[extra])
        self._photographs += 1
        self._differing += bool(len(lost) or len(extra))
        if len(reference) or len(candidate):
            worst = None if not len(nme) else float(nme.max()) if np.isfinite(nme).all() else math.inf
            scene = Scene(
                path=path, scale=scale, reference=reference, candidate=candidate, lost=lost, extra=extra, nme=worst
            )
            # a stable sort: of photographs alike, the first stays
            ranked = [*self._scenes, (_badness(scene, measured.sure), scene)]
            self._scenes = sorted(ranked, key=lambda each: each[0], reverse=True)[:SCENES]

    def sightings(self) -> Sightings:
        """All of it."""
        columns = list(zip(*self._figures, strict=True)) or [()] * 4
        reference, candidate, side_px, nme = map(_joined, columns)
        return Sightings(
            reference_scores=reference,
            candidate_scores=candidate,
            side_px=side_px,
            nme=nme,
            lost_scores=_joined(self._lost),
            extra_scores=_joined(self._extra),
            photographs=self._photographs,
            differing=self._differing,
            scenes=tuple(scene for _, scene in self._scenes),
        )


def _joined(parts: object) -> FloatArray:
    return np.concatenate([np.empty(0, np.float32), *parts])  # type: ignore[misc]


def _badness(scene: Scene, sure: float) -> tuple[int, int, int, float]:
    surely = int(np.count_nonzero(scene.reference.scores[scene.lost] >= sure))
    return surely, len(scene.lost), len(scene.extra), -1.0 if scene.nme is None else scene.nme
