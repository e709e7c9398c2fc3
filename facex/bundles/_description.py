"""The parts that every platform writes alike: `facex.json`, and the files of models and goldens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import __version__, manifest
from facex.errors import ArtifactError
from facex.goldens import format as goldens
from facex.types import as_plain

if TYPE_CHECKING:
    from facex.bundles import Bundle, Model

FILE_NAME = goldens.DESCRIPTION
"""What the description is called in every bundle."""


def describe(bundle: Bundle) -> dict[str, Any]:
    """What an app must know of a bundle, as the plain values that JSON knows; see docs/bundles.md."""
    source = bundle.source
    return {
        "schema_version": goldens.SCHEMA_VERSION,
        "facex": __version__,
        "checkpoint": {"name": source.checkpoint, "sha256": source.sha256},
        "contract": as_plain(source.contract),
        **goldens.settings(source.contract),
        "models": [goldens.recorded(m.artifact, source.contract.landmarks, m.tolerances) for m in bundle.models],
        "goldens": goldens.set_to_plain(bundle.goldens),
    }


def to_text(bundle: Bundle) -> str:
    """The description as JSON text: keys sorted, ASCII, floats at six significant digits, one final newline.

    Raises:
        ValueError: a value is not finite, which JSON cannot hold.
    """
    return goldens.to_text(describe(bundle))


def copy_models(bundle: Bundle, folder: Path) -> list[Path]:
    """Copy the models into a folder, under their own names, and read every copy back.

    Args:
        bundle: whose models.
        folder: made where it is missing.

    Returns:
        The copies, in the order of the models.

    Raises:
        ArtifactError: a model is not the file that the manifest records.
        OSError: the file system refuses a copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_copied(model, folder / model.artifact.name) for model in bundle.models]


def _copied(model: Model, target: Path) -> Path:
    if model.path.is_dir():
        shutil.copytree(model.path, target)
    else:
        shutil.copyfile(model.path, target)
    if manifest.sha256_of(target) != model.artifact.sha256:
        raise ArtifactError(
            f"{model.path}: is not the file that the manifest records: its SHA-256 differs",
            hint="export again, or put the right file back",
        )
    return target


def copy_goldens(bundle: Bundle, folder: Path) -> list[Path]:
    """Copy the pictures of the goldens into a folder, under their own names, and read every copy back.

    Args:
        bundle: whose goldens.
        folder: made where it is missing.

    Returns:
        The copies, in the order of the goldens.

    Raises:
        ArtifactError: a picture is not the one that the goldens record.
        OSError: the file system refuses a copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for golden in bundle.goldens.goldens:
        target = folder / golden.file
        shutil.copyfile(bundle.goldens.folder / golden.file, target)
        if manifest.sha256_of(target) != golden.sha256:
            raise ArtifactError(f"{bundle.goldens.folder / golden.file}: is not the picture that the goldens record")
        copies.append(target)
    return copies
