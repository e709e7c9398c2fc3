"""Prior sizes and variances: neighbouring cells that see one face must place it at one point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facex.reference.probe.evidence import Judgement, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from facex.reference.families import LevelOutput, Structure

Sizes = tuple[tuple[float, ...], ...]

KNOWN: tuple[Sizes, ...] = (
    ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
    ((10.0, 20.0), (32.0, 64.0), (128.0, 256.0)),
    ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0)),
)
"""Sizes that detectors are published with."""
SURE, SURER = 0.5, 0.9
MIN_PAIRS, MIN_SLOT_PAIRS, MIN_SLOTS, FULL_SLOT = 50, 10, 2, 100
MAX_DISTANCE, MIN_GAP = 0.2, 0.2
"""Logarithms of sizes: up to 0.19 for the right set and from 0.43 on for wrong ones, on eleven checkpoints."""
LISTED = 0.1
"""Median logarithm by which the sizes of a known set may miss those measured; farther off, the set is another one."""
WELL = 0.15
"""Most by which a known size may miss one that is measured by `FULL_SLOT` pairs."""
NICE = 0.05
"""Measured sizes are that near to the round number that was meant."""
MIN_AGREEING = 0.8
"""Share of the pairs whose offsets change against the step between the cells, as those of one face do."""
SPREAD = 0.243
"""Root of the summed variances of the five points of a face over the side of its box: 0.235 to 0.255 in nine
checkpoints, all of the WIDER FACE annotation."""
SPREADS = (0.15, 0.36)
"""What it can be for other points: ten gave 0.196, and points all over the box would have 0.41."""
POINTS = 5
VARIANCES = (0.1, 0.2)
"""What either variance is in published code."""
VARIANCE_STEP = math.log(1.2)
MIN_FACES, MIN_CORRELATION = 60, 0.8
MIN_PHOTOGRAPHS = 6
"""With detections in neighbouring cells: few photographs without faces may have many of one and the same thing."""
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What the detections of one level and prior size say.

    Attributes:
        product: size times the first variance, input pixels; nan without pairs.
        pairs: of neighbouring cells, one for each axis that they differ in.
        agreeing: share of all such pairs whose offsets change against the step; the others are left out.
        photographs: numbers of those that the pairs are from.
        sizes: float64 [M], mean log-size offset of each sure detection.
        spreads: float64 [M], root of the summed variances of its points, in units of `product`.
    """

    product: float
    pairs: int
    agreeing: float
    photographs: frozenset[int]
    sizes: NDArray[np.float64]
    spreads: NDArray[np.float64]


def measure(levels: Sequence[LevelOutput], structure: Structure) -> list[Slot]:
    """Every slot of the priors, in their order, from the raw maps of photographs."""
    slots = []
    for level, stride, count in zip(levels, structure.strides, structure.anchors_per_cell, strict=True):
        batch, _, rows, columns = level.conf.shape
        conf = level.conf.view(batch, count, 2, rows, columns).double()
        loc = level.loc.view(batch, count, 4, rows, columns).double()
        landm = level.landm.view(batch, count, -1, 2, rows, columns).double()
        score = torch.sigmoid(conf[:, :, 1] - conf[:, :, 0])
        slots += [_slot(score[:, i], loc[:, i], landm[:, i], stride) for i in range(count)]
    return slots


def _slot(score: Tensor, loc: Tensor, landm: Tensor, stride: int) -> Slot:
    """Score [B, H, W], loc [B, 4, H, W] and landm [B, K, 2, H, W] of one prior size."""
    squares = products = 0.0
    agreeing = count = 0
    photographs: set[int] = set()
    for rows, columns in _STEPS:
        both = _from(score, rows, columns).gt(SURE) & _to(score, rows, columns).gt(SURE)
        for axis, cells in ((0, columns), (1, rows)):
            if cells == 0:
                continue
            photographs.update(both.flatten(1).any(1).nonzero().flatten().tolist())
            step = float(cells * stride)
            change = (_to(loc[:, axis], rows, columns) - _from(loc[:, axis], rows, columns))[both]
            along = change[-step * change > 0]
            squares += step * step * len(along)
            products += float((-step * along).sum())
            agreeing, count = agreeing + len(along), count + len(change)
    surer = score > SURER
    points = landm.permute(0, 3, 4, 1, 2)[surer]
    spread = (points - points.mean(1, keepdim=True)).square().mean(1).sum(1).sqrt()
    return Slot(
        product=squares / products if products > 0 else math.nan,
        pairs=agreeing,
        agreeing=agreeing / count if count else 0.0,
        photographs=frozenset(photographs),
        sizes=loc[:, 2:].mean(1)[surer].numpy(),
        spreads=spread.numpy(),
    )


def _from(maps: Tensor, rows: int, columns: int) -> Tensor:
    """[B, H, W] without the cells that have no neighbour so many rows and columns on."""
    height, width = maps.shape[1:]
    return maps[:, : height - rows, max(0, -columns) : width - max(0, columns)]


def _to(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Those neighbours, in the same order."""
    height, width = maps.shape[1:]
    return maps[:, rows:height, max(0, columns) : width + min(0, columns)]


@dataclass(frozen=True, kw_only=True)
class Variances:
    """What the points of the faces say of both variances; nan where they do not tell.

    Attributes:
        centre: the first one.
        lowest: bound of the first one.
        highest: likewise.
        size: the second one.
        faces: sure detections that were used.
    """

    centre: float
    lowest: float
    highest: float
    size: float
    faces: int

    def possible(self, centre: float) -> bool:
        """Whether the first variance may be this."""
        return math.isnan(self.centre) or self.lowest <= centre <= self.highest


def variances(slots: Sequence[Slot], landmarks: int) -> Variances:
    """Measure both from how far the points of a face spread, which no variance of the boxes changes.

    A box of width s exp(v1 t) whose points spread over `SPREAD` of it, and points that spread over u v0 s: within a
    slot ln u grows with t by v1, and v0 = SPREAD exp(v1 t) / u. The size s is in neither, so v0 tells it from the
    product v0 s that the cells measure.
    """
    used = [s for s in slots if len(s.sizes) >= MIN_SLOT_PAIRS and (s.spreads > 0).all()]
    faces = sum(len(s.sizes) for s in used)
    nothing = Variances(centre=math.nan, lowest=0.0, highest=math.inf, size=math.nan, faces=faces)
    if faces < MIN_FACES:
        return nothing
    x = np.concatenate([s.sizes - s.sizes.mean() for s in used])
    y = np.concatenate([np.log(s.spreads) - np.log(s.spreads).mean() for s in used])
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    if not xx > 0 or not yy > 0 or xy / math.sqrt(xx * yy) < MIN_CORRELATION:
        return nothing
    size = math.sqrt(yy / xx)  # both are measured with errors: the middle of the two regressions
    logs = np.concatenate([size * s.sizes - np.log(s.spreads) for s in used])
    unit = math.exp(float(np.median(logs)))
    near = math.exp(VARIANCE_STEP)
    low, high = (SPREAD / near, SPREAD * near) if landmarks == POINTS else SPREADS
    return Variances(centre=SPREAD * unit, lowest=low * unit, highest=high * unit, size=size, faces=faces)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A set of sizes with the first variance, held against the slots.

    Attributes:
        distance: weighted mean of the logarithms by which it misses the slots.
        misses: see `_misses`.
        close: whether it is this set and no other one near it.
        known: whether it is published, stated or usual, and not made from the measurement.
    """

    sizes: Sizes
    centre: float
    distance: float
    misses: tuple[float, ...]
    close: bool
    known: bool


def _bias(size: float, stride: int) -> float:
    """How much too large the regression measures a size, because networks place faces a little towards the cell.

    Read from nine checkpoints: 1.04 to 1.16 where the prior is two cells large, 0.98 to 1.04 from four cells on.
    """
    return 1.02 + 0.2 * (stride / size) ** 2


def _strides(structure: Structure) -> list[int]:
    """One for every slot."""
    return [s for s, n in zip(structure.strides, structure.anchors_per_cell, strict=True) for _ in range(n)]


def _misses(sizes: Sizes, centre: float, slots: Sequence[Slot], strides: Sequence[int]) -> list[float]:
    """Logarithm of measured over expected, of every slot; nan where it was not measured."""
    each = (size for level in sizes for size in level)
    return [
        math.log(slot.product / (centre * size * _bias(size, stride))) if slot.pairs >= MIN_SLOT_PAIRS else math.nan
        for slot, size, stride in zip(slots, each, strides, strict=True)
    ]


def _fit(sizes: Sizes, centre: float, slots: Sequence[Slot], strides: Sequence[int], *, known: bool) -> _Fit:
    misses = _misses(sizes, centre, slots, strides)
    used = [
        (min(slot.pairs, FULL_SLOT), abs(miss))
        for slot, miss in zip(slots, misses, strict=True)
        if not math.isnan(miss)
    ]
    total = sum(weight for weight, _ in used)
    return _Fit(
        sizes=sizes,
        centre=centre,
        distance=sum(weight * distance for weight, distance in used) / total if total else math.inf,
        misses=tuple(misses),
        close=bool(used)
        and float(np.median([distance for _, distance in used])) <= LISTED
        and all(distance <= WELL for weight, distance in used if weight == FULL_SLOT),
        known=known,
    )


def _gap(best: _Fit, other: _Fit, slots: Sequence[Slot]) -> float:
    """How much worse the other is over the slots in which the two differ; 0 where none of those was seen."""
    used = [
        (min(slot.pairs, FULL_SLOT), abs(theirs) - abs(ours))
        for slot, ours, theirs in zip(slots, best.misses, other.misses, strict=True)
        if slot.pairs >= MIN_SLOT_PAIRS and abs(ours - theirs) > LISTED
    ]
    total = sum(weight for weight, _ in used)
    return sum(weight * gap for weight, gap in used) / total if total else 0.0


def estimated(slots: Sequence[Slot], structure: Structure, centre: float) -> Sizes | None:
    """The sizes themselves, to the round numbers that they are near; None unless every slot has enough pairs."""
    if any(slot.pairs < MIN_SLOT_PAIRS for slot in slots):
        return None
    sizes = []
    for slot, stride in zip(slots, _strides(structure), strict=True):
        size = slot.product / centre
        for _ in range(8):  # the bias depends on the size itself, weakly
            size = slot.product / centre / _bias(size, stride)
        sizes.append(size)
    each = iter(_doubling(sizes) or [_nice(size) for size in sizes])
    return tuple(tuple(next(each) for _ in range(count)) for count in structure.anchors_per_cell)


def _doubling(sizes: Sequence[float]) -> list[float] | None:
    """Sizes that double from slot to slot, as they mostly do, where the measured ones are near to such."""
    first = _nice(float(np.median([size / 2**i for i, size in enumerate(sizes)])))
    series = [first * 2**i for i in range(len(sizes))]
    near = all(abs(math.log(size / other)) <= WELL for size, other in zip(sizes, series, strict=True))
    return series if near else None


def _nice(size: float) -> float:
    """The number with the most factors of two within `NICE` of a measured size."""
    for step in (64, 32, 16, 8, 4, 2, 1):
        rounded = step * round(size / step)
        if rounded and abs(rounded / size - 1) <= NICE:
            return float(rounded)
    return round(size, 1)


def enough(slots: Sequence[Slot]) -> bool:
    """Whether there are enough detections, of enough photographs, that behave as those of faces do."""
    good = [s for s in slots if s.pairs >= MIN_SLOT_PAIRS]
    pairs = sum(s.pairs for s in good)
    agreeing = sum(s.agreeing * s.pairs for s in good) / max(1, pairs)
    seen = frozenset[int]().union(*(s.photographs for s in good))
    return (
        len(good) >= MIN_SLOTS and pairs >= MIN_PAIRS and agreeing >= MIN_AGREEING and len(seen) >= MIN_PHOTOGRAPHS
    )  # fmt: skip


def unseen(slots: Sequence[Slot]) -> bool:
    """Whether some slot has too few pairs to be measured, beside others that have enough."""
    return enough(slots) and any(s.pairs < MIN_SLOT_PAIRS for s in slots)


def filled(slots: Sequence[Slot], closer: Sequence[Slot]) -> list[Slot]:
    """The slots, those without enough pairs from photographs brought closer."""
    return [a if a.pairs >= MIN_SLOT_PAIRS else b for a, b in zip(slots, closer, strict=True)]


def judge(
    slots: Sequence[Slot] | None, structure: Structure, listed: Iterable[Sizes], stated_centre: float | None, why: str
) -> tuple[list[Judgement], list[Reading]]:
    """Weigh the known sets and the measured one, with the first variance.

    Args:
        slots: of `measure`; None where there is nothing to measure.
        structure: of the checkpoint.
        listed: sets to try beside `KNOWN`.
        stated_centre: first variance that the user states, tried beside `VARIANCES`.
        why: there is nothing to measure.
    """
    if slots is None:
        return [Judgement(field=n, value=None, margin=0.0, text=why) for n in ("min_sizes", "variances")], []
    measured = variances(slots, structure.landmarks)
    pairs = sum(s.pairs for s in slots)
    text = _text(slots, pairs, measured)
    if not enough(slots):
        text = f"too few neighbouring detections: {text}"
        return [Judgement(field=n, value=None, margin=0.0, text=text) for n in ("min_sizes", "variances")], []
    fits = _fits(slots, structure, [*KNOWN, *listed], measured, stated_centre)
    if not fits:
        return [Judgement(field=n, value=None, margin=0.0, text=text) for n in ("min_sizes", "variances")], []
    best = fits[0]
    gap = min((_gap(best, f, slots) for f in fits[1:]), default=math.inf)
    margin = min(MAX_DISTANCE / max(best.distance, 0.01), gap / MIN_GAP)
    verdicts = [
        Judgement(field="min_sizes", value=best.sizes, margin=margin, text=text),
        _variances_verdict(best, measured, margin, text),
    ]
    readings = [
        Reading(
            values={"min_sizes": f.sizes, "variances": (f.centre, _nearest(measured.size))},
            cost=0.0 if f is best else (f.distance - best.distance) / MIN_GAP,
            signals={"anchor_distance": f.distance, "anchor_pairs": float(pairs)},
        )
        for f in fits
    ]
    return verdicts, readings


def _fits(
    slots: Sequence[Slot], structure: Structure, listed: Iterable[Sizes], measured: Variances, stated: float | None
) -> list[_Fit]:
    """Every set that fits the checkpoint's heads with every first variance that is possible, best first."""
    counts = structure.anchors_per_cell
    centres = [v for v in dict.fromkeys([*VARIANCES, *([stated] if stated else [])]) if measured.possible(v)]
    fitting = [sizes for sizes in dict.fromkeys(listed) if tuple(map(len, sizes)) == tuple(counts)]
    strides = _strides(structure)
    fits = [_fit(sizes, centre, slots, strides, known=True) for sizes in fitting for centre in centres]
    fits.sort(key=lambda f: f.distance)
    if fits and fits[0].distance <= MAX_DISTANCE and fits[0].close:
        return fits
    # no known set: the measured one, where the points of the faces tell the first variance
    own = estimated(slots, structure, centres[0]) if len(centres) == 1 and not math.isnan(measured.centre) else None
    if own is None:
        return []
    return [_fit(own, centres[0], slots, strides, known=False), *(f for f in fits if not _alike(f.sizes, own))]


def _alike(one: Sizes, other: Sizes) -> bool:
    pairs = zip((s for level in one for s in level), (s for level in other for s in level), strict=True)
    return all(abs(math.log(a / b)) <= LISTED for a, b in pairs)


def _nearest(size: float) -> float:
    return VARIANCES[1] if math.isnan(size) else min(VARIANCES, key=lambda v: abs(math.log(v / size)))


def _variances_verdict(best: _Fit, measured: Variances, margin: float, text: str) -> Judgement:
    """Both must be near a usual value; the first one may follow from the sizes that are known."""
    if math.isnan(measured.size):
        return Judgement(field="variances", value=None, margin=0.0, text=text)
    size = _nearest(measured.size)
    near = VARIANCE_STEP / max(abs(math.log(size / measured.size)), 0.02)
    return Judgement(field="variances", value=(best.centre, size), margin=min(margin, near), text=text)


def _text(slots: Sequence[Slot], pairs: int, measured: Variances) -> str:
    found = ", ".join(f"{s.product / VARIANCES[0]:.0f}" if s.pairs >= MIN_SLOT_PAIRS else "-" for s in slots)
    text = f"sizes {found} px if the first variance is {VARIANCES[0]:g}, from {pairs} pairs of cells"
    if not math.isnan(measured.size):
        centre = "" if math.isnan(measured.centre) else f"{measured.centre:.2g} and "
        text += f"; variances {centre}{measured.size:.2g} by the points of {measured.faces} detections"
    return text


def agrees(name: str, stated: Any, probed: Any) -> bool:
    """Whether a stated value is what was measured, as far as that can be told."""
    if name == "min_sizes":
        return tuple(map(len, stated)) == tuple(map(len, probed)) and _alike(stated, probed)
    pairs: Iterable[tuple[float, float]] = zip(stated, probed, strict=True)
    return all(abs(math.log(a / b)) <= VARIANCE_STEP for a, b in pairs)
