"""Bundles for app teams: one platform a module; the file name is the registry (names with an underscore are parts).

A platform module offers

    TARGET: str                                      target whose files the platform runs
    def write(bundle: Bundle, folder: Path) -> None  writes the whole bundle into an existing, empty folder

Where in the folder things lie is the platform's choice; the description is one file `facex.json` (or equal copies of
it), models and goldens have their own names. `_description` writes all three. Each name is an option of `facex bundle`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facex.goldens.format import GoldenSet, Tolerances
    from facex.manifest import Source
    from facex.types import Artifact


@dataclass(frozen=True, kw_only=True)
class Model:
    """A file that a bundle ships.

    Attributes:
        path: where it is.
        artifact: its entry in the manifest.
        tolerances: that it is held to when goldens are replayed.
    """

    path: Path
    artifact: Artifact
    tolerances: Tolerances


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a platform writes down.

    Attributes:
        source: of the manifest: checkpoint and contract.
        models: of one size and the platform's target; the first is the default.
        goldens: of that size.
    """

    source: Source
    models: tuple[Model, ...]
    goldens: GoldenSet


def names() -> list[str]:
    """Names of the platforms, alphabetical; imports none of them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a platform."""
    return importlib.import_module(f"{__name__}.{name}")
