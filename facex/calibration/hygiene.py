"""What is wrong with a set of calibration photographs, found while they are loaded for calibration.

`Watch` looks at each photograph once; `Hygiene` is what it saw, plain data; `warnings` says it to the user.
"""

from __future__ import annotations

import collections
import itertools
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facex.calibration import appearance
from facex.calibration.appearance import Appearance, Fault
from facex.errors import PhotographError
from facex.manifest import Stability
from facex.reference.photographs import Photograph

FEW_PHOTOGRAPHS = 64
VERY_FEW_PHOTOGRAPHS = 8
MIN_FACE_SHARE = 0.25
"""Share of the photographs that must hold a face, or the ranges are those of backgrounds."""

MAX_EMPTY_SHARE = 0.5
"""Share of blank pictures above which the set is refused: more of the ranges would come from them than not."""

MAX_HASH_DISTANCE = 26
"""Bits of 128 in which the hashes of near-duplicates differ at most. Copies of 128 photographs: at most 20 after JPEG
at quality 20, 6 after halving, 18 after cropping 2 % on every side; all pairs of different ones: 34 or more."""

MIN_CORRELATION = 0.85
"""Correlation of the coarse copies that near-duplicates reach as well: before one plain wall the hashes of different
photographs are close. All the copies named above: 0.88 or more."""

SOURCE_PHOTOGRAPHS = 8
"""Fewer photographs than this say nothing about where they come from."""

SOURCE_SPREAD = (12.0, 6.0, 6.0)
"""Standard deviations over a set (brightness, red and blue minus brightness, 0-255) below which photographs of one
size look like one camera in one place. Eight photographs drawn from mixed ones stay below in 2 of 10,000 cases."""

MAX_MEDIAN_DIFFERENCE = 0.15
"""Median relative difference of the ranges' spans above which two halves disagree. Halves of 32 to 128 real
photographs (extremes, 105 tensors, 900 random cuts): 0.05-0.08, never above 0.132."""

MAX_WORST_DIFFERENCE = 0.5
"""The same for the worst tensor: 0.3 as a rule, below 0.46 in all 600 cuts of 64 or more photographs."""

_SHOWN = 3
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Empty:
    """A picture that is none: its name and what it is instead."""

    name: str
    fault: str


@dataclass(frozen=True, kw_only=True)
class Hygiene:
    """What a set of calibration photographs is like.

    Names are paths relative to the folder that holds all of them, with forward slashes.

    Attributes:
        count: photographs.
        photographs_with_faces: those in which the reference finds a face; None when nobody looked.
        empty: pictures of one colour, without edges, or of noise.
        groups: photographs that look the same, two or more a group, in the order in which they came; no empty ones.
        exact_duplicates: photographs, without the empty ones, whose bytes are those of an earlier one.
        source: what shows that all come from one camera or one place; "" when they do not seem to.
        stability: how far the ranges of two halves differ; None when that was not measured.
    """

    count: int
    photographs_with_faces: int | None
    empty: tuple[Empty, ...]
    groups: tuple[tuple[str, ...], ...]
    exact_duplicates: int
    source: str
    stability: Stability | None = None

    @property
    def near_duplicates(self) -> int:
        """Photographs that look like an earlier one, exact duplicates among them."""
        return sum(len(group) - 1 for group in self.groups)

    @property
    def usable(self) -> int:
        """Photographs that are not empty, those that look the same counted once."""
        return self.count - len(self.empty) - self.near_duplicates


@dataclass(frozen=True, kw_only=True)
class _Seen:
    photograph: Photograph
    look: Appearance
    camera: str
    faces: int | None


class Watch:
    """Collects what `Hygiene` needs, a photograph at a time; keeps no pixels."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []

    def add(self, photograph: Photograph, rgb_pixels: NDArray[np.uint8], faces: int | None) -> None:
        """Look at one photograph.

        Args:
            photograph: where it came from. Of the file, only the header is read again, for the camera's name.
            rgb_pixels: uint8 [h, w, 3], as loaded: upright, not letterboxed.
            faces: that the reference finds in it at a score of 0.5 or more; None when nobody looked.
        """
        look, camera = appearance.of(rgb_pixels), appearance.camera(photograph.path)
        self._seen.append(_Seen(photograph=photograph, look=look, camera=camera, faces=faces))

    def result(self) -> Hygiene:
        """What was seen so far.

        Raises:
            PhotographError: more than half of the photographs are empty.
        """
        folder, names = _names([seen.photograph.path for seen in self._seen])
        empty = tuple(
            Empty(name=name, fault=seen.look.fault.value)
            for name, seen in zip(names, self._seen, strict=True)
            if seen.look.fault
        )
        _refuse_empty(folder, empty, len(names))
        pictures = [(name, seen) for name, seen in zip(names, self._seen, strict=True) if not seen.look.fault]
        sums = [seen.photograph.sha256 for _, seen in pictures]
        faces = [seen.faces for seen in self._seen]
        return Hygiene(
            count=len(names),
            photographs_with_faces=None if None in faces else sum(map(bool, faces)),
            empty=empty,
            groups=tuple(
                tuple(pictures[i][0] for i in group) for group in _alike([seen.look for _, seen in pictures], sums)
            ),
            exact_duplicates=len(sums) - len(set(sums)),
            source=_source(self._seen),
        )


def _names(paths: list[Path]) -> tuple[str, list[str]]:
    """The folder that holds all of them, and their names in it."""
    if not paths:
        return "", []
    folder = os.path.commonpath([path.parent.absolute() for path in paths])
    return folder, [path.absolute().relative_to(folder).as_posix() for path in paths]


def _refuse_empty(folder: str, empty: tuple[Empty, ...], count: int) -> None:
    if len(empty) <= MAX_EMPTY_SHARE * count:
        return
    kinds = collections.Counter(entry.fault for entry in empty)
    share = f"all {count}" if len(empty) == count else f"{len(empty)} of {count}"
    raise PhotographError(
        f"{folder}: {share} calibration photographs are blank "
        f"({', '.join(f'{kinds[fault.value]} {fault.value}' for fault in Fault if kinds[fault.value])})",
        hint="ranges need real photographs with faces in them",
    )


def _alike(looks: list[Appearance], sums: list[str]) -> list[list[int]]:
    """Indices of photographs that are the same by bytes or by looks, directly or through others between."""
    group = list(range(len(looks)))  # each points to an earlier member of its group, the first to itself

    def first(index: int) -> int:
        while group[index] != index:
            group[index] = index = group[group[index]]
        return index

    by_sum = {sha256: index for index, sha256 in reversed(list(enumerate(sums)))}
    same_bytes = ((by_sum[sha256], index) for index, sha256 in enumerate(sums))
    for a, b in itertools.chain(same_bytes, _close_pairs(looks)):
        low, high = sorted((first(a), first(b)))
        group[high] = low
    members: dict[int, list[int]] = {}
    for index in range(len(group)):
        members.setdefault(first(index), []).append(index)
    return [found for found in members.values() if len(found) > 1]


def _close_pairs(looks: list[Appearance]) -> Iterator[tuple[int, int]]:
    """Pairs of indices, the smaller first, whose hashes are close and whose coarse copies correlate."""
    if not looks:
        return
    signs = np.where(np.stack([look.bits for look in looks]), 1.0, -1.0).astype(np.float32)
    coarse = np.stack([look.coarse for look in looks])
    for start in range(0, len(signs), _BLOCK):  # the whole table of a large set would take gigabytes
        distance = (appearance.HASH_BITS - signs[start : start + _BLOCK] @ signs.T) / 2
        correlation = coarse[start : start + _BLOCK] @ coarse.T
        for row, column in np.argwhere((distance <= MAX_HASH_DISTANCE) & (correlation >= MIN_CORRELATION)):
            if start + row < column:
                yield int(start + row), int(column)


def _source(seen: list[_Seen]) -> str:
    """What shows that the photographs come from one source, in words; "" when nothing does.

    One camera in every EXIF; or none in any, one size in pixels, and hardly any spread of exposure and tint.
    """
    cameras, sizes = {s.camera for s in seen}, {s.look.size for s in seen}
    if len(seen) < SOURCE_PHOTOGRAPHS or len(cameras) > 1:
        return ""
    (camera,) = cameras
    if camera:
        return f"all {len(seen)} were taken by one camera, {camera}"
    colours = np.asarray([s.look.colour for s in seen])
    if len(sizes) > 1 or (colours.std(axis=0) > SOURCE_SPREAD).any():
        return ""
    ((width, height),) = sizes
    return (
        f"all {len(seen)} have the size {width}x{height} and nearly the same exposure and tint "
        f"(brightness {colours[:, 0].mean():.0f} of 255, spread {colours[:, 0].std():.1f})"
    )


def stability(first: Mapping[str, tuple[float, float]], second: Mapping[str, tuple[float, float]]) -> Stability:
    """How far the ranges from two halves of a set differ.

    The relative difference of a tensor is that of its two spans (high - low), as a share of the larger: 0 when they
    are equal, 1 when one is empty.

    Args:
        first: tensor -> (low, high), from one half.
        second: the same tensors, from the other half.

    Raises:
        ValueError: they do not name the same tensors, name none, or a span is negative or not finite.
    """
    if not first or first.keys() != second.keys():
        raise ValueError("stability needs the ranges of the same tensors twice, at least one")
    spans = {name: (first[name][1] - first[name][0], second[name][1] - second[name][0]) for name in sorted(first)}
    for name, pair in spans.items():
        if not all(math.isfinite(span) and span >= 0 for span in pair):
            raise ValueError(f"tensor '{name}' has no range: its spans are {pair[0]} and {pair[1]}")
    differences = {name: abs(a - b) / max(a, b) if a != b else 0.0 for name, (a, b) in spans.items()}
    tensor = max(differences, key=differences.__getitem__)  # of equal ones the first by name
    return Stability(median=statistics.median(differences.values()), worst=differences[tensor], tensor=tensor)


def warnings(hygiene: Hygiene, where: str = "--calib") -> list[str]:
    """One line for everything that is wrong: what it is, where, and what to do about it.

    Args:
        hygiene: of `Watch.result`, with its `stability` replaced where that was measured.
        where: put before each line, for example the option with its folder.
    """
    judges = (_of_number, _of_empty, _of_faces, _of_duplicates, _of_source, _of_stability)
    return [f"{where}: {' '.join(line.split())}" for judge in judges if (line := judge(hygiene))]


def _of_number(h: Hygiene) -> str:
    which = f"{h.usable}" if h.usable == h.count else f"{h.usable} usable of {h.count}"
    if h.usable < VERY_FEW_PHOTOGRAPHS:
        return f"{which} photographs are few, so few that the ranges are left to chance; take {FEW_PHOTOGRAPHS} or more"
    return f"{which} photographs are few; {FEW_PHOTOGRAPHS} or more are better" if h.usable < FEW_PHOTOGRAPHS else ""


def _of_empty(h: Hygiene) -> str:
    if not h.empty:
        return ""
    named = _listed(f"{entry.name} is {entry.fault}" for entry in h.empty)
    return f"{len(h.empty)} of {h.count} are blank: {named}; remove them, they only widen or narrow ranges"


def _of_faces(h: Hygiene) -> str:
    faces = h.photographs_with_faces
    if faces is None or not h.count or faces >= MIN_FACE_SHARE * h.count:
        return ""
    found = f"only {faces} of {h.count} photographs hold" if faces else f"none of {h.count} photographs holds"
    return (
        f"{found} a face that the float network finds; add photographs with faces, "
        "and check the contract (colour order, mean) if they do have some"
    )


def _of_duplicates(h: Hygiene) -> str:
    if not h.near_duplicates:
        return ""
    exact = f", {h.exact_duplicates} of them byte for byte" if h.exact_duplicates else ""
    pairs = _listed(f"{group[0]} and {other}" for group in h.groups for other in group[1:])
    return (
        f"{h.near_duplicates} of {h.count} photographs repeat others{exact}: {pairs}; "
        "they add nothing, replace them with different ones"
    )


def _of_source(h: Hygiene) -> str:
    if not h.source:
        return ""
    return f"{h.source}; ranges learned from one source may not fit another, add photographs from elsewhere"


def _of_stability(h: Hygiene) -> str:
    found = h.stability
    if not found or (found.median <= MAX_MEDIAN_DIFFERENCE and found.worst <= MAX_WORST_DIFFERENCE):
        return ""
    return (
        f"the ranges of two halves differ by {found.median:.0%} (median over the tensors) and by {found.worst:.0%} at "
        f"worst, in tensor '{found.tensor}'; add photographs, and look for odd ones"
    )


def _listed(items: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    known = list(items)
    more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more
