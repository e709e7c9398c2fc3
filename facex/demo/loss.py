"""What training makes small: the multi-task loss over matched priors.

Deng et al., RetinaFace (CVPR 2020), section 3: cross-entropy on face or not, smooth L1 on boxes and landmarks of the
positive priors; online hard example mining at `NEGATIVES` to 1 (Shrivastava et al. 2016) on the negative ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facex.demo.noise import FloatArray
from facex.reference import geometry

if TYPE_CHECKING:
    from torch import Tensor

POSITIVE_IOU, NEGATIVE_IOU = 0.4, 0.3
"""A prior is of a face that it overlaps by the first, and of none if it overlaps all by less than the second."""

NEGATIVES = 5
"""Negative priors for every positive one: those that look most like faces."""

MIN_NEGATIVES = 32
"""Also in a photograph without a face."""

BOX_WEIGHT = 1.0
IGNORED = -1


@dataclass(frozen=True, kw_only=True)
class Emphasis:
    """What landmarks weigh beside faces and boxes.

    Attributes:
        weight: of the landmarks' loss.
        turn: error where smooth L1 turns from a parabola into a line, in units of the regressed offsets: the smaller,
            the more a small error still matters.
        full: height of a face, input pixels, from which its landmarks weigh in full; those of a lower one weigh in
            proportion. 0: all weigh alike.
    """

    weight: float
    turn: float
    full: float = 0.0


FACES = Emphasis(weight=0.4, turn=1.0)
"""Boxes to landmarks as in the paper, and both four times as heavy beside faces: the truth is exact."""

LANDMARKS = Emphasis(weight=1.0, turn=0.1)
"""For a network that finds faces already: the last tenths of an offset."""

LARGE = Emphasis(weight=1.0, turn=0.1, full=48.0)
"""For the end: an offset of a face of few pixels is mostly noise, and nobody aligns such a face."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What every prior of one photograph should say.

    Attributes:
        label: int64 [N]: 1 face, 0 background, `IGNORED`.
        loc: float32 [N, 4], offsets of the box where the label is 1.
        landm: float32 [N, 10], offsets of the landmarks there.
        height: float32 [N], of the face there, input pixels.
    """

    label: NDArray[np.int64]
    loc: FloatArray
    landm: FloatArray
    height: FloatArray


def match(
    boxes: FloatArray,
    landmarks: FloatArray,
    counts: NDArray[np.bool_],
    anchors: FloatArray,
    variances: tuple[float, float],
) -> Targets:
    """Give every prior the face that it overlaps most, and every face at least one prior.

    Args:
        boxes: float32 [F, 4] xyxy, input pixels.
        landmarks: float32 [F, 5, 2].
        counts: bool [F]; priors on a face that does not count are ignored.
        anchors: float32 [N, 4] of `geometry.priors`.
        variances: of the contract.
    """
    label = np.zeros(len(anchors), np.int64)
    if not len(boxes):
        none = np.zeros((len(anchors), 4), np.float32)
        return Targets(label=label, loc=none, landm=np.zeros((len(anchors), 10), np.float32), height=none[:, 0])
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    iou = geometry.iou_matrix(boxes, corners)
    best = iou.max(axis=0)
    label[best >= NEGATIVE_IOU] = IGNORED
    face = iou.argmax(axis=0)
    label[best >= POSITIVE_IOU] = 1
    own = iou.argmax(axis=1)
    # in the order of rising overlap, so that a prior wanted by two faces goes to the one that it fits better
    for f in np.argsort(iou.max(axis=1), kind="stable"):
        label[own[f]], face[own[f]] = 1, f
    label[(label == 1) & ~counts[face]] = IGNORED
    loc, landm = geometry.encode(boxes[face], landmarks[face], anchors, variances)
    return Targets(label=label, loc=loc, landm=landm, height=(boxes[:, 3] - boxes[:, 1])[face])


def multitask(
    outputs: tuple[Tensor, Tensor, Tensor], targets: list[Targets], emphasis: Emphasis = FACES
) -> dict[str, Tensor]:
    """The parts of the loss of a batch, each per positive prior, weighted: their sum is the loss.

    Args:
        outputs: loc [B, N, 4], logits of background and face [B, N, 2], landm [B, N, 10].
        targets: one for every photograph.
        emphasis: on the landmarks.

    Returns:
        `class`, `box` and `landmark`.
    """
    import torch
    from torch.nn import functional

    loc, logits, landm = outputs
    label = torch.from_numpy(np.stack([t.label for t in targets])).to(loc.device)
    positive = label == 1
    count = positive.sum().clamp(min=1)
    entropy = functional.cross_entropy(logits.transpose(1, 2), label.clamp(min=0), reduction="none")
    hard = _hardest(entropy.detach(), label == 0, positive)
    wanted_loc = torch.from_numpy(np.stack([t.loc for t in targets])).to(loc.device)
    wanted_landm = torch.from_numpy(np.stack([t.landm for t in targets])).to(loc.device)
    heights = torch.from_numpy(np.stack([t.height for t in targets])).to(loc.device)

    def smooth(given: Tensor, wanted: Tensor, shares: Tensor, turn: float) -> Tensor:
        summed = functional.smooth_l1_loss(given[positive], wanted[positive], reduction="none", beta=turn).sum(dim=1)
        return (summed * shares).sum() / shares.sum().clamp(min=1)

    alike = torch.ones_like(heights[positive])
    shares = (heights[positive] / emphasis.full).clamp(max=1) if emphasis.full else alike
    return {
        "class": entropy[positive | hard].sum() / count,
        "box": BOX_WEIGHT * smooth(loc, wanted_loc, alike, 1.0),
        "landmark": emphasis.weight * smooth(landm, wanted_landm, shares, emphasis.turn),
    }


def _hardest(entropy: Tensor, negative: Tensor, positive: Tensor) -> Tensor:
    """The negative priors of each photograph that the network is most wrong about; bool [B, N]."""
    import torch

    wanted = (NEGATIVES * positive.sum(dim=1)).clamp(min=MIN_NEGATIVES)
    ranked = torch.where(negative, entropy, torch.full_like(entropy, -1.0)).argsort(dim=1, descending=True)
    rank = ranked.argsort(dim=1)
    return negative & (rank < wanted[:, None])
