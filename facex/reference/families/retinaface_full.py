"""RetinaFace as its paper describes it: ResNet, five pyramid levels, and on demand a cascade and a dense regression.

Deng et al., RetinaFace: Single-shot Multi-level Face Localisation in the Wild, CVPR 2020, section 3, and the preprint
RetinaFace: Single-stage Dense Face Localisation in the Wild (arXiv 1905.00641), sections 3.2, 3.3 and 4.2. Its
deformable convolutions are plain ones here: no runtime of phones has an operator for them. The keys of a checkpoint are
the names of this file's parameters; nobody has published any weights for PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facex.reference import families
from facex.reference.backbones.layers import ConvUnit
from facex.reference.backbones.resnet import DEPTHS, ResNet
from facex.reference.families import LevelOutput, Mismatch, Structure
from facex.reference.families.retinaface import ContextModule, FeaturePyramid
from facex.types import ChannelOrder, Contract

NAME = "retinaface_full"
STRIDES = (4, 8, 16, 32, 64)
SIZE_STEP = 8
"""P2 and P3 divide the input; the coarser levels are rounded up."""
SCALES = tuple(2 ** (i / 3) for i in range(3))
ASSUMED: dict[str, Any] = {
    "activation_slope": 0.0,
    "min_sizes": tuple(tuple(4.0 * stride * scale for scale in SCALES) for stride in STRIDES),
    "variances": (0.1, 0.2),
    "channel_order": ChannelOrder.BGR,
    "mean": (104.0, 117.0, 123.0),
    "scale": (1.0, 1.0, 1.0),
}
"""Priors of the preprint's table 2; the rest as the RetinaFaces of three levels are usually trained."""
CASCADE, MESH = ("first_box_heads.", "refined_contexts."), ("mesh_heads.",)
"""How the keys of the optional parts begin."""


def compose(
    first: Tensor, loc: Tensor, landm: Tensor, *, landmarks: int, size_variance: float
) -> tuple[Tensor, Tensor]:
    """Offsets from regressed anchors, as offsets from the anchors that were regressed.

    Both are coded as in `facex.reference.geometry.decode`. An anchor (c, s) is regressed to c' = c + v0 s t1 and
    s' = s exp(v1 u1), for offsets t1 of the centre and u1 of the log size. From there, c'' = c' + v0 s' t2 is
    c + v0 s (t1 + t2 exp(v1 u1)), s'' = s' exp(v1 u2) is s exp(v1 (u1 + u2)), and points go the way of centres.

    Args:
        first: float32 [B, A*4, H, W], offsets of the regressed anchors from the anchors.
        loc: float32 [B, A*4, H, W], offsets of the boxes from the regressed anchors.
        landm: float32 [B, A*2K, H, W], offsets of the points from the regressed anchors.
        landmarks: K, points per face.
        size_variance: v1, the second of the contract's variances.

    Returns:
        Offsets of the boxes and of the points from the anchors, in the shapes of `loc` and `landm`.
    """
    batch, _, rows, columns = first.shape

    def pairs(raw: Tensor, count: int) -> Tensor:
        """[B, A*count*2, H, W] -> [B, H*W*A, count, 2]."""
        return raw.permute(0, 2, 3, 1).reshape(batch, -1, count, 2)

    def as_map(value: Tensor) -> Tensor:
        return value.reshape(batch, rows, columns, -1).permute(0, 3, 1, 2)

    regressed, box = pairs(first, 2), pairs(loc, 2)
    centre, log_size = regressed[:, :, :1], regressed[:, :, 1:]
    grown = torch.exp(log_size * size_variance)
    offsets = torch.cat([centre + box[:, :, :1] * grown, log_size + box[:, :, 1:]], dim=2)
    return as_map(offsets), as_map(centre + pairs(landm, landmarks) * grown)


class RetinaFaceFull(nn.Module):
    """The detector.

    Every level has heads of its own. The paper shares them between levels; then those of all levels hold the same
    values, which is what the state dict of a network with one module in five places says.

    Args:
        depth: of the ResNet.
        width: channels of the pyramid, a multiple of 4.
        anchors: priors a cell, by level.
        landmarks: points per face.
        slope: negative slope of the activations of pyramid and context modules.
        size_variance: second of the contract's variances, for a cascade; None builds none.
        mesh: values a prior of the dense regression; 0 builds none.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        anchors: tuple[int, ...],
        landmarks: int,
        slope: float,
        *,
        size_variance: float | None,
        mesh: int,
    ) -> None:
        super().__init__()
        self.landmarks, self.size_variance = landmarks, size_variance
        self.backbone = ResNet(depth)
        self.pyramid = FeaturePyramid(self.backbone.all_channels, width, slope)
        self.coarsest = ConvUnit(self.backbone.all_channels[-1], width, 3, 2, slope=slope)

        def contexts() -> nn.ModuleList:
            return nn.ModuleList(ContextModule(width, width, slope) for _ in anchors)

        def heads(values: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, a * values, 1) for a in anchors)

        self.contexts = contexts()
        if size_variance is not None:
            self.first_box_heads, self.refined_contexts = heads(4), contexts()
        self.class_heads, self.box_heads, self.landmark_heads = heads(2), heads(4), heads(2 * landmarks)
        self.mesh_heads = heads(mesh) if mesh else None

    def forward(self, x: Tensor) -> list[LevelOutput]:
        """float32 [B, 3, H, W], H and W multiples of 8 -> raw maps, finest level first."""
        maps = self.backbone.all_maps(x)
        return [self._level(i, m) for i, m in enumerate([*self.pyramid(maps), self.coarsest(maps[-1])])]

    def _level(self, index: int, pyramid_map: Tensor) -> LevelOutput:
        feature = self.contexts[index](pyramid_map)
        if self.size_variance is None:
            loc, landm = self.box_heads[index](feature), self.landmark_heads[index](feature)
        else:
            first = self.first_box_heads[index](feature)
            feature = self.refined_contexts[index](feature)
            loc, landm = compose(
                first,
                self.box_heads[index](feature),
                self.landmark_heads[index](feature),
                landmarks=self.landmarks,
                size_variance=self.size_variance,
            )
        mesh = None if self.mesh_heads is None else self.mesh_heads[index](feature)
        return LevelOutput(conf=self.class_heads[index](feature), loc=loc, landm=landm, mesh=mesh)


@functools.cache
def _layouts() -> dict[str, tuple[int, bool, bool, dict[str, str]]]:
    """Name -> depth, whether there is a cascade, whether a mesh, and parameter -> key."""
    found = {}
    for depth in DEPTHS:
        with torch.device("meta"):
            every = list(RetinaFaceFull(depth, 4, (1,) * len(STRIDES), 1, 0.0, size_variance=0.0, mesh=1).state_dict())
        for cascade in (False, True):
            for mesh in (False, True):
                left_out = (() if cascade else CASCADE) + (() if mesh else MESH)
                name = f"resnet{depth}{' cascade' if cascade else ''}{' mesh' if mesh else ''}"
                keys = {key: key for key in every if not key.startswith(left_out)}
                found[name] = depth, cascade, mesh, keys
    return found


def recognise(state: Mapping[str, Tensor]) -> Structure | Mismatch:
    """Read the structure from keys and shapes.

    Returns:
        The structure, or why `state` is not one of these networks.
    """
    found = families.match_keys(NAME, ((name, layout[3]) for name, layout in _layouts().items()), state)
    if isinstance(found, Mismatch):
        return found
    layout, renamed = found
    depth, cascade, has_mesh, _ = _layouts()[layout]

    def first(name: str) -> int:
        return families.first_side(state, name)

    width = max(4, first("pyramid.laterals.0.conv.weight") // 4 * 4)  # context modules halve it twice
    anchors = tuple(max(1, first(f"box_heads.{i}.weight") // 4) for i in range(len(STRIDES)))
    landmarks = max(1, first("landmark_heads.0.weight") // (2 * anchors[0]))
    mesh = max(1, first("mesh_heads.0.weight") // anchors[0]) if has_mesh else 0
    variance = 0.0 if cascade else None
    with torch.device("meta"):
        expected = RetinaFaceFull(depth, width, anchors, landmarks, 0.0, size_variance=variance, mesh=mesh)
    wrong = families.wrong_shapes(expected.state_dict(), renamed, state)
    if wrong:
        return Mismatch(family=NAME, layout=layout, common=len(renamed), missing=(), unexpected=(), shapes=wrong)
    return Structure(
        family=NAME,
        backbone=f"resnet{depth}",
        layout=layout,
        strides=STRIDES,
        anchors_per_cell=anchors,
        landmarks=landmarks,
        mesh=mesh,
        renamed=renamed,
        channels={"depth": depth, "width": width, "cascade": cascade},
        proved={"activation_slope": 0.0},
        pyramid_slope=lambda slope: slope,
    )


def build(structure: Structure, state: Mapping[str, Tensor], contract: Contract) -> nn.Module:
    """The float32 network in eval mode, with the checkpoint's weights and the contract's activation and variances."""
    assert contract.pyramid_slope is not None
    network = RetinaFaceFull(
        structure.channels["depth"],
        structure.channels["width"],
        structure.anchors_per_cell,
        structure.landmarks,
        contract.pyramid_slope,
        size_variance=contract.variances[1] if structure.channels["cascade"] else None,
        mesh=structure.mesh,
    )
    return families.with_weights(network, structure, state)
