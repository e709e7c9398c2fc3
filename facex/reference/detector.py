"""A checkpoint as a detector: network, contract, and the session that every artifact is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import UsageError
from facex.reference import checkpoint, families, geometry
from facex.reference.photographs import network_input
from facex.types import ChannelOrder, Contract, ContractOptions, Detections, Head, Selection, Settled, SettledBy, Size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from facex.types import FloatArray

MAX_SIDE_PX = 4096
SETTLED = ("activation_slope", "pyramid_slope", "min_sizes", "variances", "channel_order", "mean", "scale")
"""Fields of a contract that keys and shapes may leave open."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """An untouched float32 network in eval mode and what is known of it.

    Attributes:
        path: the checkpoint.
        sha256: of its bytes.
        network: float32 [B, 3, H, W] -> one `families.LevelOutput` a level.
        contract: see `facex.types.Contract`.
        assumed: fields of the contract that nobody stated, that keys and shapes cannot prove and no probe decided.
        settled: how each field came about.
    """

    path: Path
    sha256: str
    network: nn.Module
    contract: Contract
    assumed: tuple[str, ...]
    settled: tuple[Settled, ...] = ()


def load(path: Path, options: ContractOptions) -> Detector:
    """Read a checkpoint and settle its contract: stated by the user, proved by the shapes, or assumed.

    Raises:
        CheckpointError: see `facex.reference.checkpoint`.
        UsageError: an option contradicts the checkpoint.
    """
    digest = checkpoint.sha256(path)
    state = checkpoint.read(path)
    structure = checkpoint.recognise(path, state)
    contract, assumed = settle(structure, options)
    network = families.load(structure.family).build(structure, state, contract)
    return Detector(
        path=path,
        sha256=digest,
        network=network,
        contract=contract,
        assumed=assumed,
        settled=settled_fields(structure, contract, assumed),
    )


def settled_fields(structure: families.Structure, contract: Contract, assumed: tuple[str, ...]) -> tuple[Settled, ...]:
    """How each field that a checkpoint may leave open came about, where no probe looked."""
    return tuple(
        Settled(
            field=name,
            how=SettledBy.PROVED if name in structure.proved
            else SettledBy.ASSUMED if name in assumed
            else SettledBy.STATED,
        )
        for name in SETTLED
        if getattr(contract, name) is not None
    )  # fmt: skip


def settle(structure: families.Structure, options: ContractOptions) -> tuple[Contract, tuple[str, ...]]:
    """The contract that the user states, completed by what is usual, and the names of the fields that are assumed.

    Raises:
        UsageError: an option contradicts the checkpoint.
    """
    if options.landmarks is not None and options.landmarks != structure.landmarks:
        raise UsageError(
            f"--landmarks {options.landmarks}: the checkpoint's landmark heads have {structure.landmarks} points",
            hint="leave the option out; it follows from the shapes",
        )
    values, assumed = _values(structure, options)
    counts = tuple(len(level) for level in values["min_sizes"])
    if counts != structure.anchors_per_cell:
        raise UsageError(
            f"--anchors: {_anchor_text(values['min_sizes'])} has {list(counts)} prior sizes by level, "
            f"the checkpoint's heads have {list(structure.anchors_per_cell)}",
            hint="give one group per level, for example --anchors '16,32;64,128;256,512'",
        )
    contract = Contract(
        family=structure.family,
        backbone=structure.backbone,
        strides=structure.strides,
        landmarks=structure.landmarks,
        mesh=structure.mesh,
        **values,
    )
    return contract, assumed


def _values(structure: families.Structure, options: ContractOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Every field that a checkpoint may leave open, and the names of those that stay assumed."""
    defaults: dict[str, Any] = families.load(structure.family).ASSUMED
    stated = {name: value for name in (*defaults, "pyramid_slope") if (value := getattr(options, name)) is not None}
    if structure.pyramid_slope is None:
        if "pyramid_slope" in stated:
            raise UsageError(
                f"--pyramid-activation: the family {structure.family} has no pyramid", hint="use --activation"
            )
        values = {**defaults, **stated, **structure.proved}
        return values, tuple(name for name in defaults if name not in {*stated, *structure.proved})
    if "activation_slope" in stated:  # it speaks of every activation
        stated.setdefault("pyramid_slope", stated["activation_slope"])
    values = {**defaults, **stated, **structure.proved}
    values.setdefault("pyramid_slope", structure.pyramid_slope(values["activation_slope"]))
    return values, tuple(name for name in values if name not in {*stated, *structure.proved})


def _anchor_text(min_sizes: tuple[tuple[float, ...], ...]) -> str:
    return ";".join(",".join(f"{side:g}" for side in level) for level in min_sizes)


def size_step(contract: Contract) -> int:
    """What the sides of the input must be multiples of, in pixels."""
    step: int = families.load(contract.family).SIZE_STEP
    return step


def check_size(size: Size, contract: Contract) -> None:
    """Refuse input sizes that the network cannot divide.

    Raises:
        UsageError: a side is not a positive multiple of the family's step, or is absurdly large.
    """
    step = size_step(contract)
    for side in (size.height, size.width):
        if side % step or not 0 < side <= MAX_SIDE_PX:
            low = min(max(side // step, 1) * step, MAX_SIDE_PX)
            nearest = f"{low} or {low + step}" if 0 < side < MAX_SIDE_PX - step else f"{step} to {MAX_SIDE_PX}"
            raise UsageError(
                f"--size {size}: {side} is not a multiple of {step} in 1..{MAX_SIDE_PX}", hint=f"use {nearest}"
            )


def flatten(levels: list[families.LevelOutput], landmarks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Raw maps to loc [B, N, 4], conf [B, N, 2] (softmaxed) and landm [B, N, 2K], N in the order of the priors."""
    import torch

    loc, logits, landm = flatten_logits(levels, landmarks)
    return loc, torch.softmax(logits, dim=-1), landm


def flatten_logits(levels: list[families.LevelOutput], landmarks: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the logits of background and face in place of their softmax."""
    return (
        by_prior([level.loc for level in levels], 4),
        by_prior([level.conf for level in levels], 2),
        by_prior([level.landm for level in levels], 2 * landmarks),
    )


def by_prior(maps: Sequence[Tensor | None], width: int) -> Tensor:
    """Maps of all levels, [B, A*width, H, W] each, to [B, N, width], N in the order of the priors."""
    import torch

    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, width) for m in maps if m is not None], dim=1)


class ReferenceSession:
    """The reference as a session (`facex.types.Session`), decoding and choosing faces in NumPy.

    `selection` is that of a `detections` head.
    """

    untimed = ""

    def __init__(
        self, detector: Detector, size: Size, head: Head, *, threads: int, selection: Selection | None = None
    ) -> None:
        import torch

        if (head is Head.DETECTIONS) != (selection is not None):
            raise ValueError(f"a {head} head with the selection {selection}")
        self._selection = selection

        self.runtime = f"torch {torch.__version__}"
        self._detector, self._head, self._threads = detector, head, threads
        self._anchors = geometry.priors(detector.contract, size)
        self._input: Any = None

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """`image` uint8 [1, H, W, 3] RGB -> the outputs of the head, as `facex.types.Session` describes."""
        import torch

        contract = self._detector.contract
        bgr = contract.channel_order is ChannelOrder.BGR
        self._input = torch.from_numpy(network_input(inputs["image"], contract.mean, contract.scale, bgr=bgr))
        loc, conf, landm, *mesh = self._forward()
        extra = dict(zip(("mesh",), mesh, strict=False))
        if self._head is Head.RAW:
            return {"loc": loc, "conf": conf, "landm": landm, **extra}
        boxes, points = geometry.decode(loc[0], landm[0], self._anchors, contract.variances)
        landmarks = points.reshape(1, len(boxes), -1)
        by_prior = {"boxes": boxes[None], "scores": conf[..., 1].copy(), "landmarks": landmarks, **extra}
        return by_prior if self._selection is None else selected(by_prior, self._selection)

    def invoke(self) -> None:
        """Run the network again on the last input."""
        self._forward()

    def _forward(self) -> tuple[FloatArray, ...]:
        """loc, conf and landm of the last input, and the mesh code of a network that has one."""
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            contract, levels = self._detector.contract, self._detector.network(self._input)
            found = [*flatten(levels, contract.landmarks)]
            if contract.mesh:
                found.append(by_prior([level.mesh for level in levels], contract.mesh))
            return tuple(t.numpy() for t in found)


def selected(by_prior: Mapping[str, FloatArray], selection: Selection) -> dict[str, Any]:
    """Outputs of a decoded head, [1, N, ...] each, as those of a `detections` head.

    Returns:
        The same names, float32 [1, max_faces, ...], best score first, zero from `count` on; and `count`, int32 [1],
        after the landmarks.
    """
    boxes, scores = by_prior["boxes"][0], by_prior["scores"][0]
    kept = geometry.chosen(boxes, scores, selection.score_threshold, selection.nms_iou)[: selection.max_faces]
    found: dict[str, Any] = {}
    for name, values in by_prior.items():
        found[name] = np.zeros((1, selection.max_faces, *values.shape[2:]), np.float32)
        found[name][0, : len(kept)] = values[0, kept]
        if name == "landmarks":
            found["count"] = np.asarray([len(kept)], np.int32)
    return found


def detections(
    outputs: Mapping[str, FloatArray], head: Head, contract: Contract, size: Size, *, score: float
) -> Detections:
    """The faces of at least `score` in the outputs of any session; NMS is left to a file that does it itself."""
    if head is not Head.DETECTIONS:
        return geometry.detect(*decoded(outputs, head, contract, size), score=score)
    rows = len(outputs["scores"][0])
    count = min(max(int(outputs["count"][0]), 0), rows)
    return Detections(
        boxes=outputs["boxes"][0, :count],
        scores=outputs["scores"][0, :count],
        landmarks=outputs["landmarks"][0, :count].reshape(count, contract.landmarks, 2),
    ).above(score)


def decoded(
    outputs: Mapping[str, FloatArray], head: Head, contract: Contract, size: Size
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The outputs of a session as boxes [N, 4], scores [N] and landmarks [N, 2K] in input pixels, by prior.

    A `raw` head is decoded here, as an app would do it. A `detections` head tells nothing of priors; see `detections`.
    """
    if head is Head.DETECTIONS:
        raise ValueError("a detections head tells nothing of priors")
    if head is Head.DECODED:
        return outputs["boxes"][0], outputs["scores"][0], outputs["landmarks"][0]
    anchors = geometry.priors(contract, size)
    boxes, points = geometry.decode(outputs["loc"][0], outputs["landm"][0], anchors, contract.variances)
    return boxes, np.ascontiguousarray(outputs["conf"][0, :, 1]), points.reshape(len(boxes), -1)
