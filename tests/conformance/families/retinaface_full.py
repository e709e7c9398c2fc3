"""The RetinaFace of the paper for the conformance suite, small, with seeded weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from facex.types import ContractOptions

VARIANTS = ("cascade_mesh", "plain")
"""The one with everything comes first: it is tried in every precision."""
DEPTH, WIDTH, MESH = 18, 16, 6
ANCHORS = (3, 3, 3, 3, 3)


def checkpoint(request: pytest.FixtureRequest, variant: str) -> tuple[Path, ContractOptions]:
    """A checkpoint that finds faces in `photo_dir` at 160x160, and what must be stated of it."""
    import torch

    from facex.reference.families.retinaface_full import ASSUMED, RetinaFaceFull

    variance, mesh = (ASSUMED["variances"][1], MESH) if variant == "cascade_mesh" else (None, 0)
    state = request.getfixturevalue("seeded_network")(
        lambda: RetinaFaceFull(DEPTH, WIDTH, ANCHORS, 5, 0.0, size_variance=variance, mesh=mesh)
    )
    path = request.getfixturevalue("tmp_path_factory").mktemp("checkpoint") / f"{variant}.pth"
    torch.save(state, path)
    return path, ContractOptions()
