"""RetinaFace with three pyramid levels: backbone, feature pyramid, context modules, three heads a level.

Deng et al., RetinaFace: Single-shot Multi-level Face Localisation in the Wild, CVPR 2020, section 3; the context
modules are those of SSH (Najibi et al. 2017). Written for the layers of the published MobileNet checkpoints, whose two
key layouts are tables here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.reference.backbones import MOBILENET_V1_BLOCKS, ConvUnit, MobileNetV1
from facex.reference.families import LevelOutput, Mismatch, Structure
from facex.types import ChannelOrder, Contract

NAME = "retinaface"
STRIDES = (8, 16, 32)
ASSUMED = {
    "activation_slope": 0.1,
    "min_sizes": ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
    "variances": (0.1, 0.2),
    "channel_order": ChannelOrder.BGR,
    "mean": (104.0, 117.0, 123.0),
    "scale": (1.0, 1.0, 1.0),
}
"""What most published checkpoints of this family were trained with."""


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, top-down nearest upsampling and a 3x3 merge on the two finer levels."""

    def __init__(self, c_in: list[int], c_out: int, slope: float) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvUnit(c, c_out, 1, slope=slope) for c in c_in)
        self.merges = nn.ModuleList(ConvUnit(c_out, c_out, 3, slope=slope) for _ in c_in[:-1])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps float32 [B, C_i, H_i, W_i], finest first -> the same with C_out channels."""
        out = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(out) - 2, -1, -1):
            # levels differ by exactly 2 because input sizes are multiples of the coarsest stride
            out[i] = self.merges[i](out[i] + functional.interpolate(out[i + 1], scale_factor=2.0, mode="nearest"))
        return out


class ContextModule(nn.Module):
    """Receptive fields of 3x3, 5x5 and 7x7 from stacked 3x3 convolutions, concatenated, then ReLU.

    The final ReLU is a true ReLU whatever the slope elsewhere: that is what the published networks do.
    """

    def __init__(self, c_in: int, c_out: int, slope: float) -> None:
        super().__init__()
        half, quarter = c_out // 2, c_out // 4
        self.conv3 = ConvUnit(c_in, half, 3, slope=None)
        self.shared = ConvUnit(c_in, quarter, 3, slope=slope)
        self.conv5 = ConvUnit(quarter, quarter, 3, slope=None)
        self.middle7 = ConvUnit(quarter, quarter, 3, slope=slope)
        self.conv7 = ConvUnit(quarter, quarter, 3, slope=None)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C, H, W] -> float32 [B, C_out, H, W]."""
        shared = self.shared(x)
        branches = [self.conv3(x), self.conv5(shared), self.conv7(self.middle7(shared))]
        return functional.relu(torch.cat(branches, dim=1))


class RetinaFace(nn.Module):
    """The detector; see the module's docstring."""

    def __init__(
        self, backbone: MobileNetV1, width: int, anchors_per_cell: tuple[int, ...], landmarks: int, slope: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.channels, width, slope)
        self.contexts = nn.ModuleList(ContextModule(width, width, slope) for _ in anchors_per_cell)
        self.class_heads = nn.ModuleList(nn.Conv2d(width, a * 2, 1) for a in anchors_per_cell)
        self.box_heads = nn.ModuleList(nn.Conv2d(width, a * 4, 1) for a in anchors_per_cell)
        self.landmark_heads = nn.ModuleList(nn.Conv2d(width, a * 2 * landmarks, 1) for a in anchors_per_cell)

    def forward(self, x: Tensor) -> list[LevelOutput]:
        """float32 [B, 3, H, W], H and W multiples of 32 -> raw maps, finest level first."""
        out = []
        for i, pyramid_map in enumerate(self.pyramid(self.backbone(x))):
            feature = self.contexts[i](pyramid_map)
            out.append(
                LevelOutput(
                    conf=self.class_heads[i](feature),
                    loc=self.box_heads[i](feature),
                    landm=self.landmark_heads[i](feature),
                )
            )
        return out


# Key layouts: ordered (canonical pattern -> published key) substitutions. Canonical names are this file's modules.
_COMMON = (
    (r"pyramid\.laterals\.(\d)\.", lambda m: f"fpn.output{int(m[1]) + 1}."),
    (r"pyramid\.merges\.(\d)\.", lambda m: f"fpn.merge{int(m[1]) + 1}."),
    (r"contexts\.(\d)\.conv3\.", lambda m: f"ssh{int(m[1]) + 1}.conv3X3."),
    (r"contexts\.(\d)\.shared\.", lambda m: f"ssh{int(m[1]) + 1}.conv5X5_1."),
    (r"contexts\.(\d)\.conv5\.", lambda m: f"ssh{int(m[1]) + 1}.conv5X5_2."),
    (r"contexts\.(\d)\.middle7\.", lambda m: f"ssh{int(m[1]) + 1}.conv7X7_2."),
    (r"contexts\.(\d)\.conv7\.", lambda m: f"ssh{int(m[1]) + 1}.conv7x7_3."),
)


def _classic_block(m: re.Match[str]) -> str:
    stage, block, part, layer = int(m[1]), int(m[2]), m[3], m[4]
    index = {"depthwise": 0, "pointwise": 3}[part] + {"conv": 0, "bn": 1}[layer]
    return f"body.stage{stage + 1}.{block + (stage == 0)}.{index}."


def _fx_block(m: re.Match[str]) -> str:
    stage, block, part, layer = int(m[1]), int(m[2]), m[3], m[4]
    part_index, layer_index = {"depthwise": 0, "pointwise": 1}[part], {"conv": 0, "bn": 1}[layer]
    return f"fx.stage{stage + 1}.{block + (stage == 0)}.{part_index}.{layer_index}."


_BLOCK = r"backbone\.stages\.(\d)\.(\d+)\.(depthwise|pointwise)\.(conv|bn)\."
_SEQUENTIAL = ((r"\.conv\.(weight)$", lambda m: f".0.{m[1]}"), (r"\.bn\.(\w+)$", lambda m: f".1.{m[1]}"))

LAYOUTS = {
    "classic": (
        (r"backbone\.stem\.", lambda _: "body.stage1.0."),
        (_BLOCK, _classic_block),
        *_COMMON,
        (r"class_heads\.(\d)\.", lambda m: f"ClassHead.{m[1]}.conv1x1."),
        (r"box_heads\.(\d)\.", lambda m: f"BboxHead.{m[1]}.conv1x1."),
        (r"landmark_heads\.(\d)\.", lambda m: f"LandmarkHead.{m[1]}.conv1x1."),
        *_SEQUENTIAL,
    ),
    "fx": (
        (r"backbone\.stem\.", lambda _: "fx.stage1.0."),
        (_BLOCK, _fx_block),
        *_COMMON,
        (r"class_heads\.(\d)\.", lambda m: f"class_head.class_head.{m[1]}."),
        (r"box_heads\.(\d)\.", lambda m: f"bbox_head.bbox_head.{m[1]}."),
        (r"landmark_heads\.(\d)\.", lambda m: f"landmark_head.landmark_head.{m[1]}."),
        *_SEQUENTIAL,
    ),
}


def published_key(canonical: str, layout: str) -> str:
    """The key that `layout` gives to a parameter of `RetinaFace`."""
    key = canonical
    for pattern, replacement in LAYOUTS[layout]:
        key = re.sub(pattern, replacement, key)
    return key


def skeleton(stem: int, width: int, anchors: tuple[int, ...], landmarks: int, slope: float) -> RetinaFace:
    """A RetinaFace without weights.

    Args:
        stem: channels of the first convolution; the backbone's width is a 32nd of it.
        width: channels of the pyramid.
        anchors: priors a cell, by level.
        landmarks: points per face.
        slope: negative slope of every activation.
    """
    # ceil keeps the published channel counts for widths 0.25, 0.5 and 1.0 and is what any other width would mean
    blocks = [[(max(1, -(-c * stem // 32)), s) for c, s in stage] for stage in MOBILENET_V1_BLOCKS]
    return RetinaFace(MobileNetV1(stem, blocks, slope), width, anchors, landmarks, slope)


def _optional(key: str) -> bool:
    """Batch norm's step counter is missing from old checkpoints and plays no part in inference."""
    return key.endswith("num_batches_tracked")


def recognise(state: Mapping[str, Tensor]) -> Structure | Mismatch:
    """Read the structure from keys and shapes.

    Args:
        state: a flat state dict without `module.` prefixes.

    Returns:
        The structure, or why `state` is not a RetinaFace with a MobileNetV1 backbone.
    """
    with torch.device("meta"):
        model_keys = list(skeleton(8, 64, (2, 2, 2), 5, 0.0).state_dict())
    best: Mismatch | None = None
    for layout in LAYOUTS:
        renamed = {name: published_key(name, layout) for name in model_keys}
        wanted = {key for key in renamed.values() if not _optional(key)}
        present = {key for key in state if not _optional(key)}
        if wanted == present:
            return _structure(state, layout, renamed)
        mismatch = Mismatch(
            family=NAME,
            layout=layout,
            common=len(wanted & present),
            missing=tuple(sorted(wanted - present)),
            unexpected=tuple(sorted(present - wanted)),
        )
        if best is None or mismatch.common > best.common:
            best = mismatch
    assert best is not None
    return best


def _structure(state: Mapping[str, Tensor], layout: str, renamed: dict[str, str]) -> Structure | Mismatch:
    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[renamed[name]].shape)

    levels = range(len(STRIDES))
    stem = (shape("backbone.stem.conv.weight") or (0,))[0]
    width = (shape("pyramid.laterals.0.conv.weight") or (0,))[0]
    boxes = [(shape(f"box_heads.{i}.weight") or (0,))[0] for i in levels]
    points = [(shape(f"landmark_heads.{i}.weight") or (0,))[0] for i in levels]
    anchors = tuple(max(1, b // 4) for b in boxes)
    landmarks = max(1, points[0] // (2 * anchors[0]))
    with torch.device("meta"):
        expected = skeleton(max(stem, 1), max(width, 4), anchors, landmarks, 0.0).state_dict()
    wrong = [
        f"{renamed[name]} is {list(shape(name))}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if not _optional(name) and shape(name) != tuple(tensor.shape)
    ]
    if wrong:
        return Mismatch(family=NAME, layout=layout, common=len(renamed), missing=(), unexpected=(), shapes=tuple(wrong))
    return Structure(
        family=NAME,
        backbone=f"mobilenetv1-{stem / 32:g}",
        layout=layout,
        strides=STRIDES,
        anchors_per_cell=anchors,
        landmarks=landmarks,
        renamed={k: v for k, v in renamed.items() if v in state},
        channels={"stem": stem, "width": width},
    )


def build(structure: Structure, state: Mapping[str, Tensor], contract: Contract) -> RetinaFace:
    """The float32 network in eval mode, with the checkpoint's weights and the contract's activation."""
    network = skeleton(
        structure.channels["stem"],
        structure.channels["width"],
        structure.anchors_per_cell,
        structure.landmarks,
        contract.activation_slope,
    )
    weights = {name: state[key].to(torch.float32) for name, key in structure.renamed.items() if not _optional(name)}
    result = network.load_state_dict(weights, strict=False)
    assert all(_optional(key) for key in result.missing_keys), result.missing_keys
    return network.eval().requires_grad_(False)
