"""Faces over a photograph as SVG: the reference's on one side, the artifact's on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.report.page.exhibits import Thumbnail
from facex.report.wording import plural
from facex.sightings import Scene
from facex.types import Detections


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A face that only one side found: its box as a path, and a word at `x`, `y`, pixels of the thumbnail."""

    path: str
    word: str
    x: str
    y: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one side of a pair of pictures shows, in pixels of the thumbnail.

    Attributes:
        boxes: the faces that both sides found, as one path.
        points: the landmarks of all its faces, as one path of dots.
        lost: faces that the artifact lost; on its own side they mark where.
        extra: faces that only the artifact found.
        text: the same in words.
    """

    boxes: str
    points: str
    lost: tuple[Mark, ...]
    extra: tuple[Mark, ...]
    text: str


LETTER_PX = 7.5
"""Widest that a letter of a word over a photograph gets on average, pixels of the thumbnail; page.css has its size."""


def sides(scene: Scene, thumbnail: Thumbnail) -> tuple[Side, Side]:
    """The reference's side of a scene, and the artifact's."""
    scale = thumbnail.scale / scene.scale
    reference, candidate = scene.reference, scene.candidate
    kept = np.setdiff1d(np.arange(len(reference)), scene.lost)
    matched = np.setdiff1d(np.arange(len(candidate)), scene.extra)
    lost, extra = (
        _marks(faces, which, word, scale, thumbnail.width)
        for faces, which, word in ((reference, scene.lost, "lost"), (candidate, scene.extra, "extra"))
    )
    words = f"{len(scene.lost)} of them lost by the artifact", f"{len(scene.extra)} of them not in the reference"
    return (
        Side(
            boxes=_boxes(reference.boxes[kept] * scale),
            points=_dots(reference.landmarks * scale),
            lost=lost,
            extra=(),
            text=f"Reference: {plural(len(reference), 'face')}, {words[0]}",
        ),
        Side(
            boxes=_boxes(candidate.boxes[matched] * scale),
            points=_dots(candidate.landmarks * scale),
            lost=lost,
            extra=extra,
            text=f"Artifact: {plural(len(candidate), 'face')}, {words[1]}",
        ),
    )


def caption(scene: Scene) -> str:
    """What differs in a photograph, in words."""
    faces = f"{plural(len(scene.reference), 'face')} in the reference, {len(scene.candidate)} in the artifact"
    parts = []
    for which, scores in (
        ("lost", scene.reference.scores[scene.lost]), ("extra", scene.candidate.scores[scene.extra])
    ):  # fmt: skip
        if len(scores):
            listed = ", ".join(f"{score:.2f}" for score in np.sort(scores)[::-1][:6])
            more = f" and {len(scores) - 6} more" if len(scores) > 6 else ""
            parts.append(f"{len(scores)} {which} ({'score' if len(scores) == 1 else 'scores'} {listed}{more})")
    if scene.nme is not None:
        parts.append(f"largest landmark error {_percent(scene.nme)} of a face's side")
    return "; ".join([faces, *parts])


def _percent(value: float) -> str:
    return "not finite" if not np.isfinite(value) else f"{value:.1%}" if value >= 0.0005 else "below 0.05%"


def _marks(faces: Detections, which: NDArray[np.intp], word: str, scale: float, width: int) -> tuple[Mark, ...]:
    """Each with its word above it or below, whole inside the picture's width."""
    found = []
    for i in which.tolist():
        box = faces.boxes[i] * scale
        if np.isfinite(box).all():
            top = float(box[1]) - 4 if box[1] > 16 else float(box[3]) + 13
            text = f"{word} {faces.scores[i]:.2f}"
            left = max(1.0, min(float(box[0]), width - LETTER_PX * len(text)))
            found.append(Mark(path=_boxes(box[None]), word=text, x=_number(left), y=_number(top)))
    return tuple(found)


def _boxes(boxes: NDArray[Any]) -> str:
    return "".join(
        f"M{_number(x1)} {_number(y1)}H{_number(x2)}V{_number(y2)}H{_number(x1)}Z" for x1, y1, x2, y2 in _whole(boxes)
    )


def _dots(landmarks: NDArray[Any]) -> str:
    return "".join(f"M{_number(x)} {_number(y)}h0" for x, y in _whole(landmarks.reshape(-1, 2)))


def _whole(rows: NDArray[Any]) -> Iterable[Sequence[float]]:
    """The rows that are finite; a picture cannot show others."""
    values: list[list[float]] = rows[np.isfinite(rows).all(axis=1)].tolist()
    return values


def _number(value: float) -> str:
    """One decimal, and no further than a little beyond any picture."""
    return f"{min(max(float(value), -5000.0), 5000.0):.1f}".removesuffix(".0")
