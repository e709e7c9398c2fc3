"""Palettes: 2^bits values that the weights of a convolution are drawn from (k-means in one dimension)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 200
POINTS = 512
"""Weights, or bins of equal width that stand for more of them, of which the best clusters are found exactly."""


def palette(weights: NDArray[np.floating], bits: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """A palette of least squared error, and which of its values stands for each weight.

    Dynamic programming over at most `POINTS` sorted points (Wang and Song 2011, The R Journal 3/2) gives clusters from
    which Lloyd's algorithm (Lloyd 1982, IEEE Trans. Inf. Theory 28) goes on with the weights themselves.

    Args:
        weights: of any shape.
        bits: 1 to 8.

    Returns:
        Values in rising order, float64 [2^bits], the largest repeated where fewer are needed; and indices, uint8 of the
        weights' shape.
    """
    values = np.sort(weights.reshape(-1).astype(np.float64))
    distinct = np.unique(values)
    count = min(1 << bits, len(distinct))
    levels = distinct if count == len(distinct) else _lloyd(values, _clusters(*_points(values), count))
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, weights.reshape(-1).astype(np.float64))
    full = np.concatenate([levels, np.full((1 << bits) - len(levels), levels[-1])])
    return full, nearest.astype(np.uint8).reshape(weights.shape)


def _points(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points in rising order and how many values each stands for."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > POINTS:
        edges = np.linspace(values[0], values[-1], POINTS + 1)
        places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, POINTS - 1)
        counts, sums = np.bincount(places, minlength=POINTS), np.bincount(places, values, POINTS)
        distinct, counts = sums[counts > 0] / counts[counts > 0], counts[counts > 0]
    return distinct, counts.astype(np.float64)


def _clusters(points: NDArray[np.float64], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Means of the clusters of least squared error; fewer than `count` points are one each."""
    if len(points) <= count:
        return points
    mass, first, second = (np.concatenate([[0.0], np.cumsum(weights * points**p)]) for p in (0, 1, 2))

    def between(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return a[None, :] - a[:, None]

    # of the points from a row's place to before a column's
    total = np.where(between(mass) > 0, between(mass), 1.0)
    cost = np.where(between(mass) > 0, between(second) - between(first) ** 2 / total, np.inf)
    least, begins = np.where(mass > 0, np.inf, 0.0), []
    for _ in range(count):
        sums = least[:, None] + cost
        begins.append(sums.argmin(axis=0))
        least = sums.min(axis=0)
    edges = [len(points)]
    for begin in reversed(begins):
        edges.append(int(begin[edges[-1]]))
    ends = np.array(edges[::-1])
    means: NDArray[np.float64] = np.diff(first[ends]) / np.diff(mass[ends])
    return means


def _lloyd(values: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(ROUNDS):
        inner = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2)
        edges = np.concatenate([[0], inner, [len(values)]])
        counts = np.diff(edges)
        means = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), levels)
        means.sort()
        if np.array_equal(means, levels):
            break
        levels = means
    return levels
