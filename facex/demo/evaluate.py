"""How good a detector is on rendered photographs, whose truth is exact."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from facex.demo import CONTRACT, gallery
from facex.parity import average_precision
from facex.parity.ground_truth import Entry, FaceBoxes
from facex.progress import Progress, Silent
from facex.recipe import DEFAULT_SIZE
from facex.reference import detector, geometry, photographs
from facex.types import Detections, Head

COUNT = 200
SCORE = 0.5
MATCH_IOU = 0.5
LARGE_PX = 80.0
"""Height of a face in the frame of the input, from which it is called large: somebody who holds the phone."""


def evaluate(
    checkpoint: Path, progress: Progress | None = None, *, count: int = COUNT, seed: int = 0
) -> dict[str, Any]:
    """Average precision and landmark error on photographs of the evaluation stream, rendered now.

    Args:
        checkpoint: the detector.
        progress: told of every photograph.
        count: how many photographs.
        seed: of the photographs.

    Returns:
        For each subset of `gallery`, `ap_<subset>` at IoU 0.5, and at a score of 0.5 `recall_<subset>` and
        `landmark_nme_<subset>`, the mean distance of the landmarks of found faces over the root of the box's area;
        `landmark_nme_large` and `faces_large` of those among the easy ones that are `LARGE_PX` high; `false_positives`
        at that score; `photographs` and `faces`.
    """
    told = progress or Silent()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "evaluation"
        told.start(f"rendering {count} photographs for the evaluation", count)
        gallery.render(root, stream=gallery.Stream.EVALUATION, count=count, seed=seed, progress=told)
        return _measured(checkpoint, root, told)


def _measured(checkpoint: Path, root: Path, progress: Progress) -> dict[str, Any]:
    loaded = detector.load(checkpoint, CONTRACT)
    session = detector.ReferenceSession(loaded, DEFAULT_SIZE, Head.DECODED, threads=1)
    images = json.loads((root / gallery.GROUND_TRUTH).read_text(encoding="utf-8"))["images"]
    entries = [_entry(image) for image in images]
    curve = average_precision.ApAccumulator(entries)
    found: dict[str, list[float | None]] = {name: [] for name in gallery.MIN_HEIGHT_PX}
    large: list[float] = []
    wrong = 0
    progress.start("evaluating", len(images))
    for image, entry in zip(images, entries, strict=True):
        boxed = photographs.letterbox(photographs.load(root / image["file"]), DEFAULT_SIZE, loaded.contract.mean_rgb)
        outputs = session({"image": boxed.pixels[None]})
        detections = geometry.detect(outputs["boxes"][0], outputs["scores"][0], outputs["landmarks"][0],
                                     score=average_precision.AP_SCORE)  # fmt: skip
        curve.add(entry, detections, boxed)
        errors, stray = _matched(detections.above(SCORE), image["faces"], boxed.scale)
        wrong += stray
        for face, error in zip(image["faces"], errors, strict=True):
            for name in found:
                found[name] += [error] if face[name] else []
            if error is not None and face["easy"] and face["bbox"][3] * boxed.scale >= LARGE_PX:
                large.append(error)
        progress.advance()
    scores = {name: round(value, 4) for name, value in curve.metrics().items() if value is not None}
    for name, errors in found.items():
        hits = [error for error in errors if error is not None]
        scores[f"recall_{name}"] = round(len(hits) / max(len(errors), 1), 4)
        if hits:
            scores[f"landmark_nme_{name}"] = round(float(np.mean(hits)), 5)
    if large:
        scores |= {"landmark_nme_large": round(float(np.mean(large)), 5), "faces_large": len(large)}
    return {"photographs": len(images), "faces": len(found["hard"]), **scores, "false_positives": wrong}


def _entry(image: dict[str, Any]) -> Entry:
    boxes = np.array([f["bbox"] for f in image["faces"]], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    flags = {name: np.array([f[name] for f in image["faces"]], bool) for name in gallery.MIN_HEIGHT_PX}
    faces = FaceBoxes(boxes=boxes, flags=flags)
    return Entry(file=image["file"], sha256=None, width=image["width"], height=image["height"], faces=faces)


def _matched(detections: Detections, faces: list[dict[str, Any]], scale: float) -> tuple[list[float | None], int]:
    """The landmark error of every face, None of one that was not found; and how many detections lie on no face."""
    if not faces or not len(detections):
        return [None] * len(faces), len(detections)
    boxes = np.array([f["bbox"] for f in faces], np.float64).reshape(-1, 4) * scale
    boxes[:, 2:] += boxes[:, :2]
    iou = geometry.iou_matrix(detections.boxes, boxes)
    errors: list[float | None] = []
    for i, face in enumerate(faces):
        best = int(iou[:, i].argmax())
        off = np.linalg.norm(detections.landmarks[best] - np.array(face["landmarks"]) * scale, axis=1).mean()
        side = np.sqrt((boxes[i, 2:] - boxes[i, :2]).prod())
        errors.append(float(off / side) if iou[best, i] >= MATCH_IOU else None)
    return errors, int((iou.max(axis=1) < MATCH_IOU).sum())
