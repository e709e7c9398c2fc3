"""RetinaFace for the conformance suite: the seeded checkpoint of every other test."""

from __future__ import annotations

from pathlib import Path

import pytest

from facex.types import ContractOptions


def checkpoint(request: pytest.FixtureRequest) -> tuple[Path, ContractOptions]:
    """A checkpoint that finds faces in `photo_dir` at 160x160, and what must be stated of it."""
    path: Path = request.getfixturevalue("seeded_checkpoint")
    return path, ContractOptions()
