"""The values that goldens are made of, and the description of a bundle or of a folder of goldens as JSON."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from facex import manifest
from facex.errors import ArtifactError
from facex.types import Artifact, Contract, Head, Precision, Size, as_plain

SCHEMA_VERSION = 1
DESCRIPTION = "facex.json"
"""The description in a bundle."""

STANDALONE = "goldens.json"
"""The same in a folder that holds goldens alone."""


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far what a file finds may be from what the reference found, derived from the file's own parity.

    Attributes:
        score: largest difference of scores.
        box: largest difference of a coordinate of the box, as a share of sqrt(area of the expected box).
        landmark: largest distance of a landmark point, as a share of the same.
    """

    score: float
    box: float
    landmark: float


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face that the reference found.

    Attributes:
        score: 0-1.
        box: x1, y1, x2, y2, input pixels.
        landmarks: x, y of every point in turn, input pixels.
    """

    score: float
    box: tuple[float, float, float, float]
    landmarks: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One photograph, letterboxed, with its faces.

    Attributes:
        file: name of a PNG in the folder of the goldens: the very input pixels, RGB, height x width of the set.
        sha256: of the PNG's bytes.
        source_height, source_width: of the photograph before it was letterboxed.
        scale: input pixels per pixel of the photograph.
        faces: best score first; those of the float reference at score >= 0.5 after NMS.
    """

    file: str
    sha256: str
    source_height: int
    source_width: int
    scale: float
    faces: tuple[Face, ...]


@dataclass(frozen=True, kw_only=True)
class GoldenSet:
    """Goldens of one input size.

    Attributes:
        folder: that holds the PNGs.
    """

    folder: Path
    size: Size
    goldens: tuple[Golden, ...]


@dataclass(frozen=True, kw_only=True)
class RecordedModel:
    """A file that the goldens were recorded for.

    Attributes:
        file: its name.
        sha256: as `facex.manifest.sha256_of` gives it.
        tolerances: that it is held to.
    """

    file: str
    target: str
    precision: Precision
    head: Head
    size: Size
    sha256: str
    tolerances: Tolerances


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `facex.json` or `goldens.json` says.

    Attributes:
        path: of the JSON file.
        root: the folder that was named, in which everything lies.
        checkpoint, sha256: of the reference.
        contract: under which raw outputs are decoded.
        models: the first is the default.
        goldens: with the folder in which the pictures were found.
    """

    path: Path
    root: Path
    checkpoint: str
    sha256: str
    contract: Contract
    models: tuple[RecordedModel, ...]
    goldens: GoldenSet


def settings(contract: Contract) -> dict[str, Any]:
    """What replaying goldens needs beside them: the colour of the padding, and how scores become faces."""
    from facex.parity.metrics import FACE_SCORE
    from facex.reference import geometry

    return {
        "padding_rgb": [min(255, max(0, round(value))) for value in contract.mean_rgb],
        "score_threshold": FACE_SCORE,
        "nms_iou": geometry.NMS_IOU,
        "saturated_score": geometry.SATURATED,
    }


def recorded(artifact: Artifact, landmarks: int, tolerances: Tolerances) -> dict[str, Any]:
    """The entry of a model."""
    return {
        "file": artifact.name,
        "target": artifact.target,
        "precision": str(artifact.precision),
        "head": str(artifact.head),
        "height": artifact.size.height,
        "width": artifact.size.width,
        "landmarks": landmarks,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "minimum_runtime": artifact.minimum_runtime,
        "tolerances": as_plain(tolerances),
    }


def set_to_plain(found: GoldenSet) -> dict[str, Any]:
    """The entry of the goldens."""
    return {
        "height": found.size.height,
        "width": found.size.width,
        "photographs": [as_plain(golden) for golden in found.goldens],
    }


def to_text(plain: Mapping[str, Any]) -> str:
    """A description as JSON text: keys sorted, ASCII, floats at six significant digits, one final newline.

    Raises:
        ValueError: a value is not finite, which JSON cannot hold.
    """
    return json.dumps(manifest.rounded(dict(plain)), indent=2, sort_keys=True, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a description; a contract is what it is in a manifest."""
    text = resources.files("facex.goldens").joinpath("description.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    words = {"precision": {"enum": list(map(str, Precision))}, "head": {"enum": list(map(str, Head))}}
    return {**loaded, "$defs": {**manifest.schema()["$defs"], **words}}


def load(folder: Path, *, option: str = "--goldens") -> Description:
    """Read the goldens of a bundle, or of a folder that holds them alone, and see that every picture is there.

    Args:
        folder: holds one `facex.json` or `goldens.json`, or equal copies of it, and the pictures, at any depth.
        option: that named the folder, for messages.

    Raises:
        ArtifactError: there is no description, or several that differ; it is damaged; a picture is missing or is not
            the one that was recorded.
    """
    path = _found(folder, option)
    plain = manifest.read_json(path, "description of goldens")
    _validate(path, plain)
    size = Size(height=plain["goldens"]["height"], width=plain["goldens"]["width"])
    goldens = tuple(_golden(entry) for entry in plain["goldens"]["photographs"])
    try:
        contract = manifest.contract_from_plain(plain["contract"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: contract: cannot be read: {error}", hint="bundle again") from error
    _check(path, plain, contract, goldens)
    return Description(
        path=path,
        root=folder,
        checkpoint=plain["checkpoint"]["name"],
        sha256=plain["checkpoint"]["sha256"],
        contract=contract,
        models=tuple(map(_model, plain["models"])),
        goldens=GoldenSet(folder=_pictures(folder, goldens), size=size, goldens=goldens),
    )


def file_of(description: Description, model: RecordedModel) -> Path:
    """Where the file of a model lies in the folder of the goldens.

    Raises:
        ArtifactError: it is not there, or is another file.
    """
    there = _named(description.root, model.file)
    found = next((path for path in there if manifest.sha256_of(path) == model.sha256), None)
    if found is None:
        fault = "is not the file that was recorded" if there else "is missing"
        raise ArtifactError(f"{there[0] if there else description.root / model.file}: {fault}", hint="bundle again")
    return found


def _named(folder: Path, name: str) -> list[Path]:
    """Everything of that name below a folder, sorted; brackets and stars in a name are only themselves."""
    return sorted(folder.rglob(glob.escape(name)))


def _found(folder: Path, option: str) -> Path:
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "no such folder"
        raise ArtifactError(f"{option} {folder}: {fault}", hint="name a folder that facex bundle wrote")
    there = [path for name in (DESCRIPTION, STANDALONE) for path in _named(folder, name)]
    if not there:
        raise ArtifactError(
            f"{option} {folder}: holds no {DESCRIPTION} and no {STANDALONE}",
            hint="name a folder that facex bundle wrote",
        )
    if len({path.read_bytes() for path in there}) > 1:
        listed = ", ".join(path.relative_to(folder).as_posix() for path in there)
        raise ArtifactError(f"{option} {folder}: holds several that differ: {listed}", hint="name the folder of one")
    return there[0]


def _validate(path: Path, plain: Any) -> None:
    import jsonschema

    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version!r}, this facex reads {SCHEMA_VERSION}",
            hint="bundle again with this facex",
        )
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(plain))
    if fault is not None:
        where = "/".join(str(part) for part in fault.absolute_path) or "top level"
        raise ArtifactError(f"{path}: {where}: {fault.message.splitlines()[0][:200]}") from fault


def _check(path: Path, plain: Mapping[str, Any], contract: Contract, goldens: tuple[Golden, ...]) -> None:
    """What a schema cannot say."""
    for kind, entries in (("models", plain["models"]), ("goldens/photographs", plain["goldens"]["photographs"])):
        names = [entry["file"] for entry in entries]
        if len(set(names)) < len(names):
            raise ArtifactError(f"{path}: {kind}: two have the same file name")
    own = settings(contract)
    for key in ("score_threshold", "nms_iou", "saturated_score"):
        if plain[key] != own[key]:
            raise ArtifactError(f"{path}: {key} is {plain[key]}, this facex finds faces by {own[key]}")
    values = 2 * contract.landmarks
    for golden in goldens:
        for i, face in enumerate(golden.faces):
            where = f"{path}: {golden.file}: face {i}"
            if len(face.landmarks) != values:
                raise ArtifactError(f"{where}: has {len(face.landmarks)} landmark values, expected {values}")
            if face.box[2] <= face.box[0] or face.box[3] <= face.box[1]:
                raise ArtifactError(f"{where}: its box is empty: {list(face.box)}")


def _pictures(folder: Path, goldens: tuple[Golden, ...]) -> Path:
    """The folder that holds every picture, each bit for bit."""
    candidates = [path.parent for path in _named(folder, goldens[0].file)]
    faults = [f"{folder}: {goldens[0].file} is missing"]
    for candidate in candidates:
        faulty = next((g for g in goldens if not _is(candidate / g.file, g.sha256)), None)
        if faulty is None:
            return candidate
        fault = "is not the picture that was recorded" if (candidate / faulty.file).is_file() else "is missing"
        faults.append(f"{candidate / faulty.file}: {fault}")
    raise ArtifactError(faults[-1], hint="bundle again, or copy the whole folder")


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and manifest.sha256_of(path) == sha256


def _golden(entry: Mapping[str, Any]) -> Golden:
    faces = tuple(
        Face(score=face["score"], box=tuple(face["box"]), landmarks=tuple(face["landmarks"])) for face in entry["faces"]
    )
    return Golden(**{**entry, "faces": faces})


def _model(entry: Mapping[str, Any]) -> RecordedModel:
    return RecordedModel(
        file=entry["file"],
        target=entry["target"],
        precision=Precision(entry["precision"]),
        head=Head(entry["head"]),
        size=Size(height=entry["height"], width=entry["width"]),
        sha256=entry["sha256"],
        tolerances=Tolerances(**entry["tolerances"]),
    )
