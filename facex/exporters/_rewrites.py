"""Exact rewrites of the network on its way out: what a phone needs and the reference must not know.

Every function returns a new module and leaves its argument untouched; each is tested against the reference.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facex.reference import families, geometry
from facex.reference.backbones.layers import first_convolution
from facex.reference.detector import Detector
from facex.reference.families.retinaface import FeaturePyramid
from facex.types import ChannelOrder, Contract, Head, Selection, Size, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Before: conv -> batch norm. After: one conv with bias; exact in eval mode up to rounding.

    Folding is computed in float64 and rounded once.
    """
    folded = copy.deepcopy(network).double()
    for parent, (conv_name, conv), (bn_name, bn) in list(_conv_bn_pairs(folded)):
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, bn))
        setattr(parent, bn_name, nn.Identity())
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise ValueError(f"batch norm without a convolution before it: {', '.join(left)}")
    return folded.float().eval().requires_grad_(False)


def _conv_bn_pairs(
    network: nn.Module,
) -> Iterator[tuple[nn.Module, tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    """Neighbours in definition order, which is the order of execution in every family (tested by equivalence)."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (name, child), (next_name, following) in itertools.pairwise(children):
            if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                yield parent, (name, child), (next_name, following)


def accept_rgb(network: nn.Module, contract: Contract) -> nn.Module:
    """Before: BGR in, scaled. After: RGB in, unscaled; the first convolution's weights are permuted and scaled.

    The mean is not folded: with zero padding that would change the border (see `ImageModel`).
    """
    rewritten = copy.deepcopy(network)
    conv = first_convolution(rewritten)
    weight = conv.weight.double() * torch.tensor(contract.scale, dtype=torch.float64)[None, :, None, None]
    if contract.channel_order is ChannelOrder.BGR:
        weight = weight.flip(1)
    conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    return rewritten


def double_coarse_maps(network: nn.Module, cells: Sequence[tuple[int, int]]) -> nn.Module:
    """Before: pyramids that enlarge to the size of the finer map. After: pyramids that double, and cut.

    Args:
        network: of any family; one without a `FeaturePyramid` is left as it is.
        cells: rows and columns of the map of every level, finest first.
    """
    rewritten = copy.deepcopy(network)
    for parent in list(rewritten.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FeaturePyramid):
                setattr(parent, name, DoublingPyramid(child, cells))
    return rewritten


class DoublingPyramid(nn.Module):
    """A `FeaturePyramid` for one size of the input, of operators that every runtime computes alike.

    Before: a map of n rows is interpolated to the m of the finer map, row i from row floor(i n / m). After: every row
    twice, and the last one cut where m is odd. It is exact, since m is 2n or 2n - 1: i n / (2n - 1) exceeds i / 2 by
    i / (4n - 2), which is less than a half for every i < 2n - 1, and so has the same floor. Columns alike.
    """

    def __init__(self, pyramid: FeaturePyramid, cells: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.laterals, self.merges = pyramid.laterals, pyramid.merges
        # kept as numbers: shapes read while tracing would become operators of the graph
        self.cells = tuple(cells)[: len(pyramid.laterals)]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """See `FeaturePyramid.forward`."""
        out = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(out) - 2, -1, -1):
            doubled = functional.interpolate(out[i + 1], scale_factor=2.0, mode="nearest")
            for axis, fine, coarse in zip((2, 3), self.cells[i], self.cells[i + 1], strict=True):
                doubled = doubled.narrow(axis, 0, fine) if fine < 2 * coarse else doubled
            out[i] = self.merges[i](out[i] + doubled)
        return out


class ImageModel(nn.Module):
    """The network with its preprocessing inside: `image`, float32 [1, 3, H, W], RGB, 0-255.

    The mean is subtracted before the first convolution pads with zeros, as in training; folding it into that
    convolution's bias would be wrong at the border.
    """

    def __init__(self, detector: Detector, size: Size, head: Head) -> None:
        super().__init__()
        contract = detector.contract
        self.mean: Tensor
        network = double_coarse_maps(fold_batch_norms(detector.network), geometry.cells(contract, size))
        self.network = accept_rgb(network, contract)
        self.register_buffer("mean", torch.tensor(contract.mean_rgb, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.landmarks, self.mesh = contract.landmarks, contract.mesh
        self.margin = FaceMargin(contract)
        if head is not head.traced:
            raise ValueError(f"a {head} head is no part of the network: trace {head.traced}")
        self.decoder = Decoder(contract, size) if head is Head.DECODED else None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the head, in the order of `output_names`."""
        levels = self.network(image - self.mean)
        margin = self.margin(levels)
        extra = (_by_prior([level.mesh for level in levels if level.mesh is not None], self.mesh),) if self.mesh else ()
        if self.decoder is not None:
            boxes, landmarks = self.decoder(levels)
            return boxes, torch.sigmoid(margin), landmarks, *extra
        margin = margin.reshape(1, -1, 1)
        return (
            _by_prior([level.loc for level in levels], 4),
            torch.sigmoid(torch.cat([-margin, margin], dim=2)),
            _by_prior([level.landm for level in levels], 2 * self.landmarks),
            *extra,
        )


def _by_prior(maps: list[Tensor], width: int) -> Tensor:
    """Maps of all levels, [1, A*width, H, W] each, to [1, N, width]."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(1, -1, width) for m in maps], dim=1)


class FaceMargin(nn.Module):
    """Before: softmax over (background, face). After: sigmoid of face minus background, which is this module.

    The signs are multiplied in on the map itself: no converter can then run the classification on a coarser grid than
    the head convolution's own, as TFLite does with an 8-bit softmax.
    """

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        for i, sides in enumerate(contract.min_sizes):
            self.register_buffer(f"signs{i}", torch.tensor([-1.0, 1.0]).repeat(len(sides)))

    def forward(self, levels: list[families.LevelOutput]) -> Tensor:
        """Raw maps -> float32 [1, N]."""
        signed = [
            (level.conf.permute(0, 2, 3, 1) * self.get_buffer(f"signs{i}")).reshape(1, -1, 2)
            for i, level in enumerate(levels)
        ]
        return torch.cat([pair.sum(dim=2) for pair in signed], dim=1)


def output_names(contract: Contract, head: Head) -> tuple[str, ...]:
    """Names of the outputs, in the order that every artifact keeps."""
    names = ("loc", "conf", "landm") if head is Head.RAW else ("boxes", "scores", "landmarks")
    return (*names, *((COUNT,) if head is Head.DETECTIONS else ()), *(("mesh",) if contract.mesh else ()))


COUNT = "count"
"""Output of a `detections` head: how many rows of the others hold a face."""


def outputs_of(contract: Contract, size: Size, head: Head, selection: Selection | None) -> tuple[TensorInfo, ...]:
    """Name, shape and dtype of every output, in order; `selection` is that of a `detections` head."""
    cells = [rows * columns for rows, columns in geometry.cells(contract, size)]
    n = sum(c * len(sides) for c, sides in zip(cells, contract.min_sizes, strict=True))
    if selection is not None:
        n = selection.max_faces
    points = 2 * contract.landmarks
    shapes = {
        "boxes": (1, n, 4), "scores": (1, n), "landmarks": (1, n, points), COUNT: (1,),
        "loc": (1, n, 4), "conf": (1, n, 2), "landm": (1, n, points), "mesh": (1, n, contract.mesh),
    }  # fmt: skip
    return tuple(
        TensorInfo(name=name, shape=shapes[name], dtype="int32" if name == COUNT else "float32")
        for name in output_names(contract, head)
    )


class Decoder(nn.Module):
    """Raw maps to boxes and landmarks in input pixels and face scores, without a constant per prior.

    Before: box centre = prior centre + v0 * t * side, half size = side / 2 * exp(v1 * t).
    After, on each level's [1, H, W, A*4] map: m = t * factor + column + row, where for centre channels factor =
    v0 * side, column and row hold the prior's centre x and y; for size channels factor = v1 and column + row =
    ln(side / 2), so that exp(m) is the half size. Constants shrink from 4N to about A*4*(H + W), and the arithmetic is
    the same up to rounding. ln(side / 2) is split into a half-precision part and its remainder, so that a file that
    stores its constants in half precision still decodes exactly.
    """

    def __init__(self, contract: Contract, size: Size) -> None:
        super().__init__()
        self.landmarks = contract.landmarks
        # kept as numbers: shapes read while tracing would become operators of the graph
        self.cells = geometry.cells(contract, size)
        levels = zip(contract.strides, contract.min_sizes, self.cells, strict=True)
        for i, (stride, sides, cells) in enumerate(levels):
            for name, value in _grids(stride, sides, cells, contract).items():
                self.register_buffer(f"{name}{i}", torch.from_numpy(value))

    def _decode_map(self, kind: str, index: int, raw: Tensor, width: int) -> Tensor:
        factor, column, row = (self.get_buffer(f"{kind}_{part}{index}") for part in ("factor", "column", "row"))
        rows, columns = self.cells[index]
        m = raw.permute(0, 2, 3, 1) * factor
        # the reshape between the additions keeps converters from merging their constants into one per prior
        m = m.reshape(1, rows, -1) + column
        return (m.reshape(1, rows, columns, -1) + row).reshape(1, -1, width)

    def forward(self, levels: list[families.LevelOutput]) -> tuple[Tensor, Tensor]:
        """Boxes float32 [1, N, 4] xyxy, landmarks float32 [1, N, 2K]; input pixels."""
        box = torch.cat([self._decode_map("box", i, level.loc, 4) for i, level in enumerate(levels)], dim=1)
        centre, half = box[:, :, :2], torch.exp(box[:, :, 2:])
        points = [self._decode_map("point", i, level.landm, 2 * self.landmarks) for i, level in enumerate(levels)]
        return torch.cat([centre - half, centre + half], dim=2), torch.cat(points, dim=1)


def _grids(stride: int, sides: tuple[float, ...], cells: tuple[int, int], contract: Contract) -> dict[str, np.ndarray]:
    """Constants of one level: `{box,point}_{factor,column,row}`, float32, channels last, prior-major."""
    rows, columns = cells
    x, y = (np.arange(columns) + 0.5) * stride, (np.arange(rows) + 0.5) * stride
    log_half = np.log(np.asarray(sides) / 2)
    coarse = log_half.astype(np.float16).astype(np.float64)
    centre_scale, size_scale = contract.variances
    result: dict[str, np.ndarray] = {}
    for name, points, has_size in (("box", 1, True), ("point", contract.landmarks, False)):
        width = 2 * points + 2 * has_size
        factor = np.full((1, 1, 1, len(sides), width), size_scale)
        column, row = np.zeros((1, 1, columns, len(sides), width)), np.zeros((1, rows, 1, len(sides), width))
        factor[..., : 2 * points] = centre_scale * np.asarray(sides)[:, None]
        column[..., 0 : 2 * points : 2] = x[:, None, None]
        row[..., 1 : 2 * points : 2] = y[:, None, None, None]
        if has_size:
            column[..., 2:] = coarse[:, None]
            row[..., 2:] = (log_half - coarse)[:, None]
        result[f"{name}_factor"] = factor.reshape(-1)
        result[f"{name}_column"] = column.reshape(1, 1, -1)
        result[f"{name}_row"] = row.reshape(1, rows, 1, -1)
    return {name: value.astype(np.float32) for name, value in result.items()}
