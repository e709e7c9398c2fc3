"""Ground truth: where the faces of each photograph really are.

The file is JSON:

    {"images": [{"file": "images/a.jpg", "sha256": "…", "width": 640, "height": 427, "faces": [
        {"bbox": [x, y, width, height], "easy": true, "medium": true, "hard": true}, …]}, …]}

`file` is relative to the folder of the JSON file. Boxes are in pixels of the upright photograph. `faces` is
null where nobody looked, and empty where somebody looked and found none. `sha256`, `width` and `height` are
checked when they are there. The flags are those of WIDER FACE (Yang et al. 2016): a face counts for a subset
when its flag is true and is ignored there otherwise; a photograph carries them on all of its faces or on
none. Other keys are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError
from facex.parity.limits import FLAGS
from facex.reference.photographs import Photograph

_MAX_PX = 1e6
"""No photograph is this wide; a coordinate beyond it is a mistake."""


@dataclass(frozen=True, kw_only=True)
class FaceBoxes:
    """The faces of one photograph.

    Attributes:
        boxes: float64 [F, 4], xyxy, pixels of the upright photograph.
        flags: subset -> bool [F], whether the face counts for it; empty where the faces carry no flags.
    """

    boxes: NDArray[np.float64]
    flags: Mapping[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the file says of one photograph; `faces` is None where nobody looked."""

    file: str
    sha256: str | None
    width: int | None
    height: int | None
    faces: FaceBoxes | None


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A ground-truth file. Entries are in its order."""

    path: Path
    entries: tuple[Entry, ...]


def load(path: Path) -> GroundTruth:
    """Read and check a ground-truth file.

    Raises:
        ArtifactError: missing, not JSON, or wrong in a place that the message names.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"--ground-truth {path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"--ground-truth {path}: is not JSON: {error}") from error
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list) or not images:
        raise ArtifactError(
            f"--ground-truth {path}: images: must be a list with an entry per photograph",
            hint='for example {"images": [{"file": "a.jpg", "faces": [{"bbox": [x, y, width, height]}]}]}',
        )
    try:
        entries = tuple(_entry(e, f"images[{i}]") for i, e in enumerate(images))
        _check_unique(entries)
        return GroundTruth(path=path, entries=entries)
    except _MalformedError as error:
        raise ArtifactError(f"--ground-truth {path}: {error}") from error


def assign(ground_truth: GroundTruth, photographs: Sequence[Photograph]) -> tuple[Entry | None, ...]:
    """The entry of each photograph, None where it has none.

    An entry belongs to the photograph at its path; failing that, to one with its file name, so that the
    photographs may be elsewhere than the file says. Where several entries share the name, the SHA-256 sum
    decides.

    Raises:
        ArtifactError: a photograph is not the one that its entry describes, two entries or two photographs
            cannot be told apart, or no photograph has an entry.
    """
    folder = ground_truth.path.resolve().parent
    by_path = {(folder / entry.file).resolve(): entry for entry in ground_truth.entries}
    found = [by_path.get(photograph.path.resolve()) for photograph in photographs]
    taken = {entry.file for entry in found if entry}
    by_name: dict[str, list[Entry]] = {}
    for entry in ground_truth.entries:
        if entry.file not in taken:
            by_name.setdefault(Path(entry.file).name, []).append(entry)
    entries = tuple(
        entry or _named(ground_truth.path, photograph, by_name.get(photograph.path.name, []))
        for entry, photograph in zip(found, photographs, strict=True)
    )
    _check_assigned(ground_truth.path, photographs, entries)
    return entries


def _named(path: Path, photograph: Photograph, entries: list[Entry]) -> Entry | None:
    if len(entries) > 1:
        same = [entry for entry in entries if entry.sha256 == photograph.sha256]
        if not same:
            raise ArtifactError(
                f"--ground-truth {path}: {len(entries)} entries are called {photograph.path.name}, "
                f"and none is of the photograph {photograph.path} by its SHA-256 sum"
            )
        return same[0]
    return entries[0] if entries else None


def _check_assigned(path: Path, photographs: Sequence[Photograph], entries: tuple[Entry | None, ...]) -> None:
    owners: dict[str, Photograph] = {}
    for photograph, entry in zip(photographs, entries, strict=True):
        if entry is None:
            continue
        if entry.sha256 not in (None, photograph.sha256):
            raise ArtifactError(
                f"--ground-truth {path}: {entry.file}: describes another file than {photograph.path} "
                "(their SHA-256 sums differ)",
                hint="its boxes may not fit: use the photographs that the ground truth was made for",
            )
        owner = owners.setdefault(entry.file, photograph)
        if owner is not photograph and owner.sha256 != photograph.sha256:
            raise ArtifactError(f"--ground-truth {path}: {entry.file}: fits both {owner.path} and {photograph.path}")
    if not owners:
        raise ArtifactError(
            f"--ground-truth {path}: has no entry for any of the {len(photographs)} photographs",
            hint="entries are matched by file name",
        )


def check_frame(entry: Entry, height: int, width: int) -> None:
    """Refuse ground truth whose boxes are in another frame than the upright photograph.

    Args:
        entry: of the photograph.
        height: of the upright photograph, px.
        width: of the upright photograph, px.

    Raises:
        ArtifactError: the entry has faces and states another width or height.
    """
    stated = (entry.width or width, entry.height or height)
    if entry.faces and stated != (width, height):
        raise ArtifactError(
            f"--ground-truth: {entry.file}: says {stated[0]}x{stated[1]} px, "
            f"the upright photograph has {width}x{height}",
            hint="its boxes would not fit: they must be in the photograph's pixels, after EXIF orientation",
        )


class _MalformedError(Exception):
    """Something in the file has the wrong shape; the text says where and what."""


def _check_unique(entries: tuple[Entry, ...]) -> None:
    first: dict[str, int] = {}
    for i, entry in enumerate(entries):
        if first.setdefault(entry.file, i) != i:
            raise _MalformedError(f"images[{i}].file: {entry.file} is in images[{first[entry.file]}] already")


def _entry(data: Any, where: str) -> Entry:
    if not isinstance(data, dict):
        raise _MalformedError(f"{where}: must be an object, not {_shown(data)}")
    file, sha256, faces = data.get("file"), data.get("sha256"), data.get("faces")
    if not isinstance(file, str) or not file:
        raise _MalformedError(f"{where}.file: must be a file name, not {_shown(file)}")
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256)):
        raise _MalformedError(f"{where}.sha256: must be 64 hexadecimal digits, not {_shown(sha256)}")
    if "faces" not in data:
        raise _MalformedError(f"{where}.faces: is missing; null says that nobody looked")
    if faces is not None and not isinstance(faces, list):
        raise _MalformedError(f"{where}.faces: must be a list or null, not {_shown(faces)}")
    return Entry(
        file=file,
        sha256=sha256.lower() if sha256 else None,
        width=_side(data.get("width"), f"{where}.width"),
        height=_side(data.get("height"), f"{where}.height"),
        faces=None if faces is None else _faces(faces, f"{where}.faces"),
    )


def _side(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_PX:
        raise _MalformedError(f"{where}: must be a positive number of pixels, not {_shown(value)}")
    return value


def _faces(faces: list[Any], where: str) -> FaceBoxes:
    boxes = [_box(face, f"{where}[{i}]") for i, face in enumerate(faces)]
    flags: dict[str, NDArray[np.bool_]] = {}
    if any(name in face for face in faces for name in FLAGS):
        for i, face in enumerate(faces):
            for name in FLAGS:
                if face.get(name) not in (True, False):  # 0 and 1 too
                    raise _MalformedError(f"{where}[{i}].{name}: must be true or false, not {_shown(face.get(name))}")
        flags = {name: np.array([bool(face[name]) for face in faces]) for name in FLAGS}
    return FaceBoxes(boxes=np.array(boxes, np.float64).reshape(-1, 4), flags=flags)


def _box(face: Any, where: str) -> tuple[float, float, float, float]:
    """The face's `bbox` x, y, width, height as xyxy."""
    box = face.get("bbox") if isinstance(face, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        raise _MalformedError(f"{where}.bbox: must be [x, y, width, height] in pixels, not {_shown(box)}")
    for value in box:
        # also refuses NaN and infinity, which Python's JSON reader accepts
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _MAX_PX:
            raise _MalformedError(f"{where}.bbox: {_shown(value)} is not a number of pixels")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise _MalformedError(f"{where}.bbox: width and height must not be negative, got {width:g} x {height:g}")
    return x, y, x + width, y + height


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
