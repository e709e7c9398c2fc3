"""Values that the tests of a Swift package hold its arithmetic against, computed by the reference's own code."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from facex.goldens import replay
from facex.goldens.format import Face, Tolerances
from facex.parity.metrics import FACE_SCORE
from facex.reference import geometry
from facex.reference.photographs import letterbox
from facex.types import Contract, Detections, Head, Size, as_plain

if TYPE_CHECKING:
    from facex.bundles import Bundle
    from facex.types import FloatArray

EXIF_ORIENTATION = 0x0112
ORIENTATIONS = range(1, 9)
SEED = 2024
_SMALL = Size(height=64, width=96)
"""Of the input that outputs are of, so that they are few."""


_SOURCES = (
    (480, 640), (640, 480), (540, 960), (1008, 756), (641, 643), (5, 7), (3000, 2), (2, 3000), (640, 640),
    (641, 1280), (643, 1280), (1280, 642), (1280, 646),
)  # fmt: skip
"""Height and width of pictures; the last ones give contents of half a pixel, to be rounded down and up."""

_INPUTS = ((640, 640), (320, 320), (480, 640), (96, 160))
_PICTURES = ((23, 17, 16, 12), (9, 14, 24, 20), (16, 12, 16, 16), (40, 31, 8, 12))
"""Height and width of a stored picture, and of the input that it becomes."""


def compute(bundle: Bundle) -> dict[str, Any]:
    """Every vector, as the plain values that JSON knows. The same bundle gives the same values.

    Raises:
        ArtifactError: a picture of the goldens cannot be used.
    """
    contract, size = bundle.source.contract, bundle.goldens.size
    random = np.random.default_rng(SEED)
    return {
        "letterbox": [_letterbox(source, into) for source in _SOURCES for into in _INPUTS],
        "turns": [_turn(orientation) for orientation in ORIENTATIONS],
        "pictures": [_picture(random, orientation, *sides) for orientation in ORIENTATIONS for sides in _PICTURES],
        "priors": _priors(geometry.priors(contract, size)),
        "outputs": [_raw(random, contract), *_decoded(random, contract.landmarks)],
        "suppression": [_suppression(random, case) for case in range(12)],
        "comparisons": _comparisons(contract.landmarks),
        "halves": _halves(),
        "pixels": [
            {"file": golden.file, "sha256": hashlib.sha256(replay.pixels(bundle.goldens, golden).tobytes()).hexdigest()}
            for golden in bundle.goldens.goldens
        ],
    }


def _letterbox(source: tuple[int, int], into: tuple[int, int]) -> dict[str, Any]:
    pixels = np.broadcast_to(np.uint8(0), (*source, 3))
    found = letterbox(np.ascontiguousarray(pixels), Size(height=into[0], width=into[1]), (0, 0, 0))
    return {
        "upright_height": source[0], "upright_width": source[1], "input_height": into[0], "input_width": into[1],
        "scale": found.scale, "content_height": found.content[0], "content_width": found.content[1],
    }  # fmt: skip


def _upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A stored picture as Pillow turns it upright."""
    image = Image.fromarray(stored)
    image.getexif()[EXIF_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def _turn(orientation: int) -> dict[str, Any]:
    """Where one marked pixel of a picture is once it is upright."""
    stored = np.zeros((5, 8, 3), np.uint8)
    row, column = 1, 2
    stored[row, column] = 255
    upright = _upright(stored, orientation)
    ((y, x),) = np.argwhere(upright[..., 0])
    return {
        "orientation": orientation, "height": stored.shape[0], "width": stored.shape[1],
        "upright_height": upright.shape[0], "upright_width": upright.shape[1],
        "buffer": [column + 0.5, row + 0.5], "upright": [float(x) + 0.5, float(y) + 0.5],
    }  # fmt: skip


def _picture(
    random: np.random.Generator, orientation: int, height: int, width: int, input_height: int, input_width: int
) -> dict[str, Any]:
    stored = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    red, green, blue = random.integers(0, 256, 3).tolist()
    size = Size(height=input_height, width=input_width)
    found = letterbox(_upright(stored, orientation), size, (red, green, blue))
    return {
        "orientation": orientation, "height": height, "width": width, "input_height": input_height,
        "input_width": input_width, "padding_rgb": [red, green, blue],
        "source": base64.b64encode(stored.tobytes()).decode(),
        "input": base64.b64encode(found.pixels.tobytes()).decode(),
    }  # fmt: skip


def _priors(anchors: FloatArray) -> dict[str, Any]:
    indices = np.unique(np.linspace(0, len(anchors) - 1, 60).astype(int))
    return {"count": len(anchors), "indices": indices.tolist(), "values": anchors[indices].tolist()}


def _outputs(head: Head, outputs: dict[str, list[float]], found: Detections) -> dict[str, Any]:
    faces = [
        {"score": float(score), "box": _flat(box), "landmarks": _flat(points)}
        for score, box, points in zip(found.scores, found.boxes, found.landmarks, strict=True)
    ]
    return {"head": str(head), **as_plain(_SMALL), "outputs": outputs, "faces": faces}


def _raw(random: np.random.Generator, contract: Contract) -> dict[str, Any]:
    anchors = geometry.priors(contract, _SMALL)
    loc = random.normal(0, 1, (len(anchors), 4)).astype(np.float32)
    landm = random.normal(0, 1, (len(anchors), 2 * contract.landmarks)).astype(np.float32)
    scores = random.uniform(0, 1, len(anchors)).astype(np.float32)
    boxes, points = geometry.decode(loc, landm, anchors, contract.variances)
    values = {"loc": _flat(loc), "conf": _flat(np.stack([1 - scores, scores], axis=1)), "landm": _flat(landm)}
    return _outputs(Head.RAW, values, geometry.detect(boxes, scores, points, score=FACE_SCORE))


def _crowd(random: np.random.Generator, clusters: int, each: int) -> tuple[FloatArray, FloatArray]:
    """Boxes that overlap in clusters, and scores with ties below and within the saturated ones."""
    centres = np.repeat(random.uniform(60, 580, (clusters, 2)), each, axis=0)
    centres += random.normal(0, 7, centres.shape)
    half = random.uniform(15, 25, centres.shape)
    boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
    scores = np.round(random.uniform(0.2, 1, len(boxes)), 1).astype(np.float32)
    saturated = random.random(len(boxes)) < 0.3
    scores[saturated] = 1 - random.integers(0, 160, int(saturated.sum())) * np.float32(2**-24)
    order = random.permutation(len(boxes))
    return boxes[order], scores[order]


def _suppression(random: np.random.Generator, case: int) -> dict[str, Any]:
    boxes, scores = _crowd(random, 1 + case, 5) if case else (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "kept": geometry.nms(boxes, scores).tolist()}


def _decoded(random: np.random.Generator, landmarks: int) -> list[dict[str, Any]]:
    """Outputs with a decoded head, and those of a file that keeps the same faces by itself, with room for more."""
    boxes, scores = _crowd(random, 12, 6)
    points = (np.tile(boxes[:, :2], landmarks) + random.uniform(0, 30, (len(boxes), 2 * landmarks))).astype(np.float32)
    found = geometry.detect(boxes, scores, points, score=FACE_SCORE)
    room = [0.0] * (len(found) + 3)
    kept = {
        "boxes": _flat(found.boxes) + 4 * room, "scores": _flat(found.scores) + room,
        "landmarks": _flat(found.landmarks) + 2 * landmarks * room, "count": [float(len(found))],
    }  # fmt: skip
    values = {"boxes": _flat(boxes), "scores": _flat(scores), "landmarks": _flat(points)}
    return [_outputs(Head.DECODED, values, found), {**_outputs(Head.DECODED, kept, found), "head": "detections"}]


def _face(score: float, x: float, y: float, side: float, landmarks: int, off: float = 0.0) -> Face:
    """A square face at a place, its points on the diagonal, `off` pixels to the right of it."""
    points = [value for k in range(landmarks) for value in (x + off + k * side / landmarks, y + k * side / landmarks)]
    return Face(score=score, box=(x, y, x + side, y + side), landmarks=tuple(points))


def _comparisons(k: int) -> list[dict[str, Any]]:
    """Cases of every rule of the comparison."""
    tolerances = Tolerances(score=0.1, box=0.05, landmark=0.06)
    a, b, c = _face(0.95, 10, 10, 40, k), _face(0.9, 100, 20, 60, k), _face(0.55, 200, 200, 20, k)
    cases: dict[str, tuple[list[Face], list[Face]]] = {
        "the same": ([a, b, c], [a, b, c]),
        "in another order": ([a, b, c], [c, b, a]),
        "nothing expected, nothing found": ([], []),
        "lost beyond doubt": ([a, b], [a]),
        "lost in doubt": ([a, c], [a]),
        "extra beyond doubt": ([a], [a, b]),
        "extra in doubt": ([a], [a, c]),
        "scores apart": ([a], [_face(0.84, 10, 10, 40, k)]),
        "scores within": ([a], [_face(0.86, 10, 10, 40, k)]),
        "boxes apart": ([a], [_face(0.95, 12.5, 10, 40, k, off=-2.5)]),
        "boxes within": ([a], [_face(0.95, 11.5, 10, 40, k, off=-1.5)]),
        "landmarks apart": ([a], [_face(0.95, 10, 10, 40, k, off=2.5)]),
        "landmarks within": ([a], [_face(0.95, 10, 10, 40, k, off=2.0)]),
        "too little overlap to be a pair": ([a], [_face(0.95, 30, 10, 40, k)]),
        "two found for one": ([a], [_face(0.9, 14, 10, 40, k), _face(0.9, 11, 10, 40, k)]),
        "equal overlaps": ([a, _face(0.9, 14, 10, 40, k)], [_face(0.9, 12, 10, 40, k), _face(0.9, 12, 10, 40, k)]),
        "best overlap first": (
            [a, _face(0.9, 20, 10, 40, k)], [_face(0.9, 18, 10, 40, k), _face(0.9, 6, 10, 40, k)],
        ),
    }  # fmt: skip
    return [_comparison(name, *case, tolerances, k) for name, case in cases.items()]


def _comparison(
    name: str, expected: Sequence[Face], found: Sequence[Face], tolerances: Tolerances, landmarks: int
) -> dict[str, Any]:
    detections = Detections(
        boxes=np.array([face.box for face in found], np.float32).reshape(-1, 4),
        scores=np.array([face.score for face in found], np.float32),
        landmarks=np.array([face.landmarks for face in found], np.float32).reshape(-1, landmarks, 2),
    )
    deviation = replay.deviation(expected, detections)
    least = FACE_SCORE + tolerances.score
    lost, extra = (sum(not score < least for score in scores) for scores in (deviation.lost, deviation.extra))
    within = all(getattr(deviation, key) <= getattr(tolerances, key) for key in ("score", "box", "landmark"))
    return {
        "name": name,
        "expected": [as_plain(face) for face in expected], "found": [as_plain(face) for face in found],
        "tolerances": as_plain(tolerances), "pairs": len(deviation.pairs),
        "lost": lost, "extra": extra,
        "score": deviation.score, "box": deviation.box, "landmark": deviation.landmark,
        "passed": not lost and not extra and within,
    }  # fmt: skip


def _halves() -> list[dict[str, Any]]:
    """Half-precision numbers: zeros, the smallest, some of every exponent, the largest."""
    bits = np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x8001, 0xFBFF, *range(0x401, 0x7C00, 997)], np.uint16)
    return [{"bits": int(b), "value": float(v)} for b, v in zip(bits, bits.view(np.float16), strict=True)]


def _flat(values: NDArray[Any]) -> list[float]:
    flat: list[float] = values.astype(np.float64).ravel().tolist()
    return flat
