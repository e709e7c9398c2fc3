"""The ultra-light detectors for the conformance suite, with seeded weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from facex.types import ContractOptions

VARIANTS = ("rfb", "slim")
ANCHORS = (3, 2, 2, 3)


def checkpoint(request: pytest.FixtureRequest, variant: str) -> tuple[Path, ContractOptions]:
    """A checkpoint that finds faces in `photo_dir` at 160x160, and what must be stated of it."""
    import torch

    from facex.reference.families.ultralight import STEM, UltraLight

    state = request.getfixturevalue("seeded_network")(lambda: UltraLight(variant, STEM, ANCHORS, 5, 0.0))
    path = request.getfixturevalue("tmp_path_factory").mktemp("checkpoint") / f"{variant}.pth"
    torch.save(state, path)
    return path, ContractOptions()
