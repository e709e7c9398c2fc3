"""RetinaFace for the conformance suite: the seeded checkpoint of every other test, and one of every other backbone."""

from __future__ import annotations

from pathlib import Path

import pytest

from facex.types import ContractOptions

VARIANTS = ("mobilenetv1", "mobilenetv2", "mobilenetv3-small", "resnet18", "resnet50")
WIDTH = 16
"""Channels of the pyramid of all but the first: few, so that the suite is fast."""


def checkpoint(request: pytest.FixtureRequest, variant: str) -> tuple[Path, ContractOptions]:
    """A checkpoint that finds faces in `photo_dir` at 160x160, and what must be stated of it."""
    if variant == VARIANTS[0]:
        found: Path = request.getfixturevalue("seeded_checkpoint")
        return found, ContractOptions()
    import torch

    from facex.reference import backbones
    from facex.reference.families import retinaface

    backbone = backbones.find(variant)
    slope = retinaface.usual_pyramid_slope(WIDTH, 0.0, own_activations=True)
    state = request.getfixturevalue("seeded_network")(
        lambda: retinaface.skeleton(backbone, 8, WIDTH, (2, 2, 2), 5, 0.0, slope)
    )
    path = request.getfixturevalue("tmp_path_factory").mktemp("checkpoint") / f"{variant}.pth"
    torch.save({retinaface.published_keys(name, "classic", backbone)[0]: t for name, t in state.items()}, path)
    return path, ContractOptions()
