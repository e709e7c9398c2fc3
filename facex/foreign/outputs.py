"""What the outputs of an unknown detector are, found by their sizes and by what they hold, not by their names.

Whatever an output is, a *reading* turns it back into what the network gives before anything is decoded: box offsets,
the face's logit minus the background's, or landmark offsets, by prior. There everything is compared: decoded boxes
follow their priors, whatever the network says, and saturated scores hide differences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facex.reference import geometry
from facex.types import Contract, Size

if TYPE_CHECKING:
    from facex.types import FloatArray

MARGIN_LIMIT = 6.0
"""Logits beyond are as good as this: a score in 8 bits cannot say more."""

ABSURD = 50.0
"""An offset that no network gives; stands for what cannot be encoded, such as the logarithm of a negative side."""

LIMIT_DB = 100.0
KINDS = ("loc", "margin", "landm")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The priors of a detector at a size.

    Attributes:
        anchors: float32 [N, 4], see `geometry.priors`.
        levels: first prior and one past the last, by level.
        per_cell: priors a cell, by level.
    """

    contract: Contract
    size: Size
    anchors: FloatArray
    levels: tuple[tuple[int, int], ...]
    per_cell: tuple[int, ...]


def frame(contract: Contract, size: Size) -> Frame:
    """The priors of a contract at a size."""
    anchors = geometry.priors(contract, size)
    per_cell = tuple(map(len, contract.min_sizes))
    cells = [rows * columns for rows, columns in geometry.cells(contract, size)]
    ends = list(itertools.accumulate(c * a for c, a in zip(cells, per_cell, strict=True)))
    return Frame(
        contract=contract, size=size, anchors=anchors, levels=tuple(zip([0, *ends[:-1]], ends, strict=True)),
        per_cell=per_cell,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A way to understand an output.

    Attributes:
        output: its index.
        kind: one of `KINDS`.
        form: in words.
        priors: first one and one past the last.
        level: index of the pyramid level; None for all together.
        channels_first: whether the axis of the values is the first after that of the batch, not the last.
        width: values a prior.
        columns: those of them that it is about.
        raw: turns float [n, columns] and the priors' anchors into what the network gives.
    """

    output: int
    kind: str
    form: str
    priors: tuple[int, int]
    level: int | None
    channels_first: bool
    width: int
    columns: tuple[int, int]
    raw: Callable[[FloatArray, FloatArray], FloatArray]

    def __call__(self, value: NDArray[np.float32], where: Frame) -> FloatArray:
        """One output of one picture -> float32 [n, 4], [n, 1] or [n, 2K], finite."""
        squeezed = value.reshape(value.shape[1:] if value.ndim > 1 and value.shape[0] == 1 else value.shape)
        if self.channels_first:
            squeezed = np.moveaxis(squeezed, 0, -1)
        taken = squeezed.reshape(-1, self.width)[:, slice(*self.columns)]
        with np.errstate(all="ignore"):
            found = self.raw(taken.astype(np.float32), where.anchors[slice(*self.priors)])
        return np.nan_to_num(np.clip(found, -ABSURD, ABSURD), nan=ABSURD)

    @property
    def meaning(self) -> str:
        """In words, with the level and the layout."""
        level = "" if self.level is None else f" of level {self.level + 1}"
        layout = ", values on the first axis" if self.channels_first else ""
        part = f", values {self.columns[0] + 1}-{self.columns[1]}" if np.ptp(self.columns) < self.width else ""
        return f"{self.form}{level}{part}{layout}"


def readings(shapes: Sequence[tuple[int, ...]], where: Frame) -> Iterator[Reading]:
    """Every way in which outputs of these shapes can be understood."""
    scopes: list[tuple[int | None, tuple[int, int]]] = [(None, (0, len(where.anchors)))]
    if len(where.levels) > 1:
        scopes += list(enumerate(where.levels))
    for (index, shape), (level, priors) in itertools.product(enumerate(shapes), scopes):
        count, width = priors[1] - priors[0], math.prod(shape) // (priors[1] - priors[0])
        if not width or count * width != math.prod(shape):
            continue
        inner = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
        for (first, last), first_axis in itertools.product(_columns(width, where.contract), (False, True)):
            if not _fits(inner, width, 1 if level is None else where.per_cell[level], first_axis):
                continue
            for kind, form, raw in _forms(last - first, where):
                yield Reading(
                    output=index, kind=kind, form=form, priors=priors, level=level, channels_first=first_axis,
                    width=width, columns=(first, last), raw=raw,
                )  # fmt: skip


def _fits(inner: Sequence[int], width: int, per_cell: int, channels_first: bool) -> bool:
    """Whether the axis in question holds the values of a prior, of a cell's priors, or of one value alone."""
    if not channels_first:
        return inner[-1] in (width, width * per_cell) or width == 1 or len(inner) == 1
    return len(inner) > 1 and inner[0] in (width, width * per_cell) and inner[0] != math.prod(inner)


def _columns(width: int, contract: Contract) -> Iterator[tuple[int, int]]:
    """First column and one past the last of what a prior's values can hold: boxes, scores and points in any order."""
    points = 2 * contract.landmarks
    seen: set[tuple[int, int]] = set()
    for score in (1, 2):
        for parts in itertools.chain.from_iterable(itertools.permutations((4, score, points), n) for n in (1, 2, 3)):
            if sum(parts) == width:
                ends = list(itertools.accumulate(parts))
                seen.update(zip([0, *ends[:-1]], ends, strict=True))
    yield from sorted(seen)


_Form = tuple[str, str, Callable[["FloatArray", "FloatArray"], "FloatArray"]]


def _forms(width: int, where: Frame) -> Iterator[_Form]:
    """Kind, name and way back of everything that so many values can be."""
    if width == 4:
        yield "loc", "box offsets", lambda v, _: v
        yield from _boxes(where)
    if width == 2 * where.contract.landmarks:
        yield "landm", "landmark offsets", lambda v, _: v
        yield from _points(where)
    if width == 2:
        yield "margin", "scores (background, face)", lambda v, _: _logit(v[:, 1:])
        yield "margin", "scores (face, background)", lambda v, _: _logit(v[:, :1])
        yield "margin", "logits (background, face)", lambda v, _: _limited(v[:, 1:] - v[:, :1])
        yield "margin", "logits (face, background)", lambda v, _: _limited(v[:, :1] - v[:, 1:])
    if width == 1:
        yield "margin", "scores", lambda v, _: _logit(v)
        yield "margin", "logits", lambda v, _: _limited(v)


def _boxes(where: Frame) -> Iterator[_Form]:
    side = np.asarray([where.size.width, where.size.height] * 2, np.float32)

    def encoded(boxes: FloatArray, anchors: FloatArray) -> FloatArray:
        none = np.zeros((len(boxes), 0, 2), np.float32)
        return geometry.encode(boxes, none, anchors, where.contract.variances)[0]

    def corners(v: FloatArray) -> FloatArray:
        return np.concatenate([v[:, :2] - v[:, 2:] / 2, v[:, :2] + v[:, 2:] / 2], axis=1)

    yield "loc", "boxes x1 y1 x2 y2 in pixels", encoded
    yield "loc", "boxes x1 y1 x2 y2, 0-1", lambda v, a: encoded(v * side, a)
    yield "loc", "boxes y1 x1 y2 x2 in pixels", lambda v, a: encoded(v[:, [1, 0, 3, 2]], a)
    yield "loc", "boxes y1 x1 y2 x2, 0-1", lambda v, a: encoded(v[:, [1, 0, 3, 2]] * side, a)
    yield "loc", "boxes cx cy w h in pixels", lambda v, a: encoded(corners(v), a)
    yield "loc", "boxes cx cy w h, 0-1", lambda v, a: encoded(corners(v * side), a)


def _points(where: Frame) -> Iterator[_Form]:
    side = np.asarray([where.size.width, where.size.height] * where.contract.landmarks, np.float32)

    def encoded(points: FloatArray, anchors: FloatArray) -> FloatArray:
        offsets = points.reshape(len(points), -1, 2) - anchors[:, None, :2]
        return (offsets / (where.contract.variances[0] * anchors[:, None, 2:])).reshape(len(points), -1)

    yield "landm", "landmarks x y in pixels", encoded
    yield "landm", "landmarks x y, 0-1", lambda v, a: encoded(v * side, a)


def _logit(score: FloatArray) -> FloatArray:
    return _limited(np.where((score >= 0) & (score <= 1), np.log(score) - np.log1p(-score), np.nan))


def _limited(margin: FloatArray) -> FloatArray:
    return np.clip(margin, -MARGIN_LIMIT, MARGIN_LIMIT)


Truth = Mapping[str, NDArray[np.float32]]
"""Kind -> float32 [P, N, w] of P pictures."""


def truth(loc: FloatArray, logits: FloatArray, landm: FloatArray) -> dict[str, FloatArray]:
    """The reference's own, as readings give them; all [P, N, w]."""
    return {"loc": loc, "margin": _limited(logits[..., 1:] - logits[..., :1]), "landm": landm}


def agreement_db(expected: FloatArray, found: FloatArray) -> float:
    """Signal-to-noise ratio, dB, within +-`LIMIT_DB`; the signal is what varies, by column: a mean explains nothing."""
    wanted = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    signal = float(np.square(wanted - wanted.mean(axis=0)).sum())
    noise = float(np.square(wanted - found.reshape(wanted.shape)).sum())
    if noise <= signal * 10 ** (-LIMIT_DB / 10):
        return LIMIT_DB if signal > 0 else -LIMIT_DB
    return max(-LIMIT_DB, 10 * math.log10(signal / noise)) if signal > 0 else -LIMIT_DB


@dataclass(frozen=True, kw_only=True)
class Understood:
    """The best reading of every part that was found, and its agreement on the picture that it was chosen on."""

    chosen: tuple[Reading, ...]
    seen_db: Mapping[Reading, float]


def choose(
    candidates: Iterable[Reading], tried: Sequence[Sequence[NDArray[np.float32]]], where: Frame, expected: Truth,
    least_db: float,
) -> Understood:  # fmt: skip
    """For every kind, the readings that come nearest to the reference under any of the feeds.

    Args:
        candidates: of `readings`.
        tried: by feed, the outputs for the first picture.
        where: the priors.
        expected: the reference on that picture first.
        least_db: readings below it are none.
    """
    best: dict[tuple[str, int | None], tuple[float, Reading]] = {}
    for reading in candidates:
        wanted = expected[reading.kind][0, slice(*reading.priors)]
        db = max(agreement_db(wanted, reading(values[reading.output], where)) for values in tried)
        key = reading.kind, reading.level
        if db >= least_db and (key not in best or db > best[key][0]):
            best[key] = db, reading
    chosen: list[tuple[float, Reading]] = []
    for kind in KINDS:
        # a tensor of all levels and one of each: the whole one, unless it is worse
        whole = best.get((kind, None))
        parts = [best[kind, level] for level in range(len(where.levels)) if (kind, level) in best]
        chosen += [whole] if whole is not None else parts
    return Understood(chosen=tuple(r for _, r in chosen), seen_db={r: db for db, r in chosen})


def raw(chosen: Sequence[Reading], values: Sequence[NDArray[np.float32]], where: Frame) -> dict[str, FloatArray]:
    """What was found of one picture, by kind, float32 [n, w], in the order of the readings."""
    found: dict[str, list[FloatArray]] = {}
    for reading in chosen:
        found.setdefault(reading.kind, []).append(reading(values[reading.output], where))
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def picked(chosen: Sequence[Reading], expected: Truth) -> dict[str, FloatArray]:
    """The same part of the reference, [P, n, w]."""
    found: dict[str, list[FloatArray]] = {}
    for reading in chosen:
        found.setdefault(reading.kind, []).append(expected[reading.kind][:, slice(*reading.priors)])
    return {kind: np.concatenate(parts, axis=1) for kind, parts in found.items()}
