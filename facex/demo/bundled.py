"""An export with nothing at hand: the bundled detector, and photographs rendered for it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from importlib import metadata
from pathlib import Path

from facex import cache
from facex.demo import CHECKPOINT, CONTRACT, gallery
from facex.errors import BackendError, UsageError
from facex.progress import Clock
from facex.recipe import Recipe
from facex.types import ContractOptions

CALIBRATION_COUNT, PARITY_COUNT = 96, 64


def completed(recipe: Recipe, clock: Clock, *, calibrated: bool) -> Recipe:
    """Put the bundled detector and rendered photographs where the recipe names none.

    Args:
        recipe: without a checkpoint.
        clock: shows the rendering.
        calibrated: whether calibration photographs are needed.

    Raises:
        UsageError: the recipe states a contract that is not the bundled detector's.
        BackendError: the cache cannot be written.
    """
    found = dataclasses.replace(recipe, checkpoint=CHECKPOINT, contract=_contract(recipe.contract))
    clock.progress.say(
        "no checkpoint was given: exporting facex's own demonstration detector, which knows rendered faces"
    )
    if recipe.images is None:
        folder = photographs(gallery.Stream.PARITY, PARITY_COUNT, clock)
        truth = recipe.ground_truth or folder / gallery.GROUND_TRUTH
        found = dataclasses.replace(found, images=folder / gallery.IMAGES, ground_truth=truth)
    if recipe.calib is None and calibrated:
        folder = photographs(gallery.Stream.CALIBRATION, CALIBRATION_COUNT, clock)
        found = dataclasses.replace(found, calib=folder / gallery.IMAGES)
    return found


def _contract(stated: ContractOptions) -> ContractOptions:
    for field in dataclasses.fields(ContractOptions):
        said, known = getattr(stated, field.name), getattr(CONTRACT, field.name)
        if None not in (said, known) and said != known:
            raise UsageError(
                f"the bundled detector was not trained with that {field.name.replace('_', ' ')}",
                hint="options of the contract belong to a checkpoint: facex export MODEL.pth …",
            )
    return dataclasses.replace(CONTRACT, landmarks=stated.landmarks)


def photographs(stream: gallery.Stream, count: int, clock: Clock) -> Path:
    """A folder of rendered photographs in the user's cache, rendered now unless it is there whole.

    Raises:
        BackendError: the cache cannot be written.
    """
    folder = cache.folder() / "rendered" / renderer_digest()[:16] / f"{stream.name.lower()}-{count}"
    if _whole(folder, count):
        return folder
    task = f"rendering {count} photographs for {stream.name.lower()}"
    with clock("render", task, count):
        try:
            shutil.rmtree(folder, ignore_errors=True)
            gallery.render(folder, stream=stream, count=count, progress=clock.progress)
        except (UsageError, BackendError) as error:
            if _whole(folder, count):  # another run was faster
                return folder
            raise BackendError(
                f"{error.what}, at {folder}", hint=f"name a folder for facex's cache in {cache.VARIABLE}"
            ) from error
    return folder


def renderer_digest() -> str:
    """SHA-256 of everything that decides a rendered photograph: this room's sources and its libraries' versions."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for library in ("numpy", "pillow"):
        digest.update(metadata.version(library).encode())
    return digest.hexdigest()


def _whole(folder: Path, count: int) -> bool:
    """Whether a folder holds what was rendered into it, bit for bit."""
    try:
        entries = json.loads((folder / gallery.GROUND_TRUTH).read_text(encoding="utf-8"))["images"]
        return len(entries) == count and all(
            hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"] for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
