"""What the results of a trunk mean: which head convolution gives scores, boxes or landmarks, level by level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facex.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor

    from facex.calibration.graph import Graph

ROLES = {
    "boxes": "box", "loc": "box", "scores": "margin", "conf": "margin", "landmarks": "landmarks", "landm": "landmarks",
    "mesh": "mesh",
}  # fmt: skip
"""Output of a model -> what the head convolution behind it gives."""
REQUIRED = {"margin", "box", "landmarks"}
"""What every level has; an `anchor` leads to boxes and landmarks."""
CLASSES = 2
BACKGROUND_WEIGHT = 0.002
"""Weight of a prior where the float network sees no face at all; a certain face weighs 1."""
SCORE_WEIGHT = 6.0
"""Of squared errors of the face margin, in logits."""
LANDMARK_WEIGHT = 2.0
"""Of squared landmark errors against squared box errors, both in units of the variance-scaled offsets."""
MESH_WEIGHT = 1.0
"""Of squared errors of a mesh code, in units of its own mean square: its values have no unit in common."""
SMALLEST_SQUARE = 1e-12
RIVAL_CELLS = 2
"""Priors at most so many cells apart, in a row or a column, are rivals for the same face."""
RIVAL_SLOPE = 0.5
"""A prior counts e times less for every 1 / slope logits that its best rival is ahead."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The head of one pyramid level.

    Attributes:
        margin: tensor of background and face logits, [B, priors * 2, h, w].
        box: tensor of box offsets, [B, priors * 4, h, w].
        landmarks: tensor of landmark offsets, [B, priors * 2K, h, w].
        priors: a cell.
        anchor: of a cascade, tensor of box offsets that both boxes and landmarks start from, like `box`.
        mesh: of a dense regression, tensor of mesh codes, [B, priors * M, h, w].
    """

    margin: str
    box: str
    landmarks: str
    priors: int
    anchor: str | None = None
    mesh: str | None = None

    @property
    def tensors(self) -> list[str]:
        """Every tensor, in the order of `weighted`."""
        return [self.box, self.landmarks, self.margin, *(name for name in (self.anchor, self.mesh) if name)]

    def by_prior(self, value: Tensor) -> Tensor:
        """[B, priors * n, h, w] -> [B, priors, n, h, w]."""
        batch, channels, height, width = value.shape
        return value.reshape(batch, self.priors, channels // self.priors, height, width)

    def face_margin(self, value: Tensor) -> Tensor:
        """Face minus background logit, [B, priors, h, w]; its sigmoid is the score."""
        pairs = self.by_prior(value)
        return pairs[:, :, 1] - pairs[:, :, 0]

    def weighted(
        self, values: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """What counts in the head, and how much a squared error of it does.

        A prior counts by the float network's face probability p there, and the less the further its best rival is
        ahead: of the priors on a face, non-maximum suppression leaves the best to be read. The margin also counts by
        p (1 - p), the slope of the score: near 0.5 it decides whether a face is found.

        Args:
            values: of the head, by tensor.
            expected: of the float network, where `values` are not its own.

        Returns:
            Weights and values for box offsets [B, priors, 4, h, w], landmark offsets [B, priors, 2K, h, w] and face
            margins [B, priors, h, w], then those of the anchors of a cascade, which count as boxes do, and of a mesh
            code. The weights of a prior are for the mean over its box's and its landmarks' values.
        """
        told = expected or values
        margin = self.face_margin(told[self.margin]).detach()
        p, best = margin.sigmoid(), _best(margin)
        prior = (best * p + BACKGROUND_WEIGHT).unsqueeze(2)
        box, points = self.by_prior(values[self.box]), self.by_prior(values[self.landmarks])
        doubt = best * (p * (1 - p) + 0.1 * p) + BACKGROUND_WEIGHT / 2
        found = [
            (prior / box.shape[2], box),
            (LANDMARK_WEIGHT * prior / points.shape[2], points),
            (SCORE_WEIGHT * doubt, self.face_margin(values[self.margin])),
        ]
        if self.anchor:
            anchor = self.by_prior(values[self.anchor])
            found.append((prior / anchor.shape[2], anchor))
        if self.mesh:
            code = self.by_prior(values[self.mesh])
            unit = told[self.mesh].detach().square().mean().clamp(min=SMALLEST_SQUARE)
            found.append((MESH_WEIGHT * prior / (code.shape[2] * unit), code))
        return found

    def face_weight(self, expected: Mapping[str, Tensor]) -> Tensor:
        """How many faces' worth of priors there are: the sum of their weights."""
        margin = self.face_margin(expected[self.margin])
        return (_best(margin) * margin.sigmoid() + BACKGROUND_WEIGHT).sum()


def _best(margin: Tensor) -> Tensor:
    """1 where a prior has no better rival, and less the further it is behind; [B, priors, h, w] like the margin."""
    from torch.nn.functional import max_pool2d

    highest = max_pool2d(margin.amax(1, keepdim=True), 2 * RIVAL_CELLS + 1, stride=1, padding=RIVAL_CELLS)
    return (-RIVAL_SLOPE * (highest - margin)).exp()


def levels(graph: Graph) -> list[Level]:
    """The head of every level, finest first.

    Raises:
        BackendError: the trunk's results are not those of a detector's head.
    """
    by_map: dict[tuple[int, ...], list[dict[str, str]]] = {}
    for name in graph.heads:
        role = _role(graph, name)
        # maps of two coarse levels may be alike: then each has the tensors that come first among those left
        alike = by_map.setdefault(graph.shapes[name][2:], [])
        level = next((tensors for tensors in alike if role not in tensors), None)
        if level is None:
            alike.append(level := {})
        level[role] = name
    found = []
    for cells, alike in sorted(by_map.items(), reverse=True):
        for tensors in alike:
            if REQUIRED - set(tensors):
                raise BackendError(f"the head of {cells[0]}x{cells[1]} cells gives {', '.join(sorted(tensors))} alone")
            found.append(Level(**tensors, priors=graph.shapes[tensors["margin"]][1] // CLASSES))
    return found


def _role(graph: Graph, name: str) -> str:
    """What a result of the trunk gives, by the outputs that it leads to."""
    roles = {ROLES.get(output, "") for output in _reached(graph, name)}
    if roles == {"box", "landmarks"}:
        return "anchor"
    if len(roles) != 1 or "" in roles:
        raise BackendError(f"'{name}' is not part of a detector's head: it leads to {sorted(roles)}")
    return roles.pop()


def _reached(graph: Graph, name: str) -> set[str]:
    """Outputs of the model that a tensor leads to."""
    outputs = {o.name for o in graph.model.graph.output}
    found, ahead = set(), [name]
    while ahead:
        current = ahead.pop()
        if current in outputs:
            found.add(current)
        ahead += [
            output
            for node in graph.consumers.get(current, [])
            if node.op_type != "NonMaxSuppression"  # what chooses faces leads to all that is told of them
            for output in node.output
        ]
    return found
