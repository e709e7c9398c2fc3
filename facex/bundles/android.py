"""Android: a Gradle library module with the models, a detector in Kotlin, and goldens that it tests itself with.

The module's files are those of `templates/android`; only its README differs from bundle to bundle.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from facex import __version__
from facex.bundles import _description

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from facex.bundles import Bundle
    from facex.goldens.format import Golden

TARGET = "tflite"
ASSETS = Path("src/main/assets/facex")
"""In the app: the description, the models, and the one golden that delegates are chosen by."""

TEST_ASSETS = Path("src/androidTest/assets/facex_goldens")
"""In the module's own test: every golden."""

_RENDERED = ".jinja"


def write(bundle: Bundle, folder: Path) -> None:
    """Write the module.

    Args:
        bundle: of TFLite files.
        folder: exists and is empty.

    Raises:
        ArtifactError: a model or a golden is not the file that was recorded.
        ValueError: a value of the description is not finite.
        OSError: the file system refuses a file.
    """
    _write_templates(resources.files("facex.bundles") / "templates" / "android", folder, bundle)
    _description.copy_models(bundle, folder / ASSETS)
    text = _description.to_text(bundle)
    (folder / ASSETS / _description.FILE_NAME).write_text(text, encoding="utf-8")
    _description.copy_goldens(bundle, folder / TEST_ASSETS)
    chosen = choosing(bundle.goldens.goldens).file
    shutil.copyfile(folder / TEST_ASSETS / chosen, folder / ASSETS / chosen)


def choosing(goldens: tuple[Golden, ...]) -> Golden:
    """The golden that delegates are chosen by: the first of those with the most faces, as `Description.choosing`."""
    return max(goldens, key=lambda golden: len(golden.faces))


def _write_templates(source: Traversable, folder: Path, bundle: Bundle) -> None:
    folder.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            _write_templates(entry, folder / entry.name, bundle)
        elif entry.name.endswith(_RENDERED):
            text = _rendered(entry.read_text(encoding="utf-8"), bundle)
            (folder / entry.name.removesuffix(_RENDERED)).write_text(text, encoding="utf-8")
        else:
            (folder / entry.name).write_bytes(entry.read_bytes())


def _rendered(text: str, bundle: Bundle) -> str:
    from jinja2 import Environment, StrictUndefined

    # the result is Markdown, in which nothing is escaped; every value is one of the manifest's
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, autoescape=False)  # noqa: S701
    return environment.from_string(text).render(
        version=__version__,
        bundle=bundle,
        models=[model.artifact for model in bundle.models],
        tolerances=[model.tolerances for model in bundle.models],
        landmarks=bundle.source.contract.landmarks,
        golden=choosing(bundle.goldens.goldens),
    )
