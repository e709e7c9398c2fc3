"""A Swift package: the Core ML models, the detector in Swift, and tests that replay the goldens.

The model is copied into the package as it is and compiled on the device, because only Xcode, and not Swift's own build,
compiles models among a package's resources. See docs/ios.md for what was tried and what was not.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from facex.bundles import _description
from facex.errors import ArtifactError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from facex.bundles import Bundle
    from facex.types import Artifact

TARGET = "coreml"

MODEL, GOLDENS = Path("Sources/FaceX/Model"), Path("Tests/FaceXTests/Goldens")
"""Where the resources lie: of the app, and of the tests alone."""

MACOS = {15: 12, 16: 13, 17: 14, 18: 15}
"""Major version of iOS -> that of macOS that appeared with it, and loads the same models."""

RENDERED = ".jinja"
"""Ending of the templates that hold values of the bundle; all other files are copied."""


def write(bundle: Bundle, folder: Path) -> None:
    """Write the whole package into a folder.

    Args:
        bundle: of Core ML models.
        folder: exists, and is empty.

    Raises:
        ArtifactError: a model or a golden is not the recorded one, no golden has a face, or it is unknown which system
            a model needs.
        OSError: the file system refuses a file.
    """
    from facex.bundles import _ios_vectors

    systems = _systems(model.artifact for model in bundle.models)
    tried = tried_first(bundle)
    _write_templates(bundle, folder, systems)
    _description.copy_models(bundle, folder / MODEL)
    (folder / MODEL / _description.FILE_NAME).write_text(_description.to_text(bundle), encoding="utf-8")
    _description.copy_goldens(bundle, folder / GOLDENS)
    shutil.copyfile(folder / GOLDENS / tried, folder / MODEL / tried)
    vectors = json.dumps(_ios_vectors.compute(bundle), indent=1, sort_keys=True, allow_nan=False)
    (folder / GOLDENS / "vectors.json").write_text(vectors + "\n", encoding="utf-8")


def tried_first(bundle: Bundle) -> str:
    """The golden that a device is tried with: the one with the most faces, of equals the first.

    Raises:
        ArtifactError: none has a face, so none would tell anything.
    """
    golden = max(bundle.goldens.goldens, key=lambda golden: len(golden.faces), default=None)
    if golden is None or not golden.faces:
        raise ArtifactError("the goldens hold no face", hint="name photographs of people")
    return golden.file


def _systems(artifacts: Iterable[Artifact]) -> dict[str, str]:
    """The oldest iOS and macOS that load every file."""
    newest = 0
    for artifact in artifacts:
        found = re.match(r"iOS (\d+)\b", artifact.minimum_runtime)
        if not found or int(found[1]) not in MACOS:
            raise ArtifactError(
                f"{artifact.name}: minimum_runtime is {artifact.minimum_runtime!r}, which says no system that is known",
                hint="export again with this facex",
            )
        newest = max(newest, int(found[1]))
    return {"ios": f"{newest}.0", "macos": f"{MACOS[newest]}.0"}


def _write_templates(bundle: Bundle, folder: Path, systems: dict[str, str]) -> None:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # noqa: S701  Swift and Markdown, no HTML
    )  # fmt: skip
    told = _description.describe(bundle)
    values = {
        **systems,
        "threshold": told["score_threshold"],
        "padding": told["padding_rgb"],
        "source": bundle.source,
        "models": [model.artifact for model in bundle.models],
        "tolerances": [model.tolerances for model in bundle.models],
        "size": bundle.goldens.size,
        "goldens": len(bundle.goldens.goldens),
        "tried": tried_first(bundle),
    }
    for name, template in _files(resources.files("facex.bundles") / "templates" / "ios"):
        text = template.read_text(encoding="utf-8")
        if name.endswith(RENDERED):
            text = environment.from_string(text).render(values)
        path = folder / name.removesuffix(RENDERED)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _files(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    """The files below a folder with their paths in it, sorted."""
    found: list[tuple[str, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = prefix + entry.name
        found += _files(entry, f"{name}/") if entry.is_dir() else [(name, entry)]
    return found
