"""Palettes against exact clustering by dynamic programming."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.exporters import _palette


def best_error(values: NDArray[np.float64], count: int) -> float:
    """Least squared error of any clustering of sorted values into intervals: O(n^2 k), exact."""
    n = len(values)
    sums, squares = (np.concatenate([[0], np.cumsum(values**p)]) for p in (1, 2))

    def cost(a: int, b: int) -> float:
        return float(squares[b] - squares[a] - (sums[b] - sums[a]) ** 2 / (b - a))

    least = [0.0] + [np.inf] * n
    for _ in range(count):
        least = [0.0] + [min(least[a] + cost(a, b) for a in range(b)) for b in range(1, n + 1)]
    return least[n]


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_the_error_is_the_least_possible(kind: str, bits: int) -> None:
    weights = getattr(np.random.default_rng(4), kind)(size=(6, 5, 3)).astype(np.float32)
    values, indices = _palette.palette(weights, bits)
    error = float(np.square(values[indices] - weights.astype(np.float64)).sum())
    least = best_error(np.sort(weights.reshape(-1).astype(np.float64)), 1 << bits)
    assert least <= error * (1 + 1e-9)
    assert error <= least * (1 + 1e-6)


def test_every_weight_gets_its_nearest_value() -> None:
    weights = np.random.default_rng(5).standard_t(3, (16, 8, 3, 3)).astype(np.float32)
    values, indices = _palette.palette(weights, 6)
    assert (values.shape, indices.shape, indices.dtype) == ((64,), weights.shape, np.uint8)
    assert (np.diff(values) >= 0).all()
    distance = np.abs(weights.astype(np.float64) - values[indices])
    np.testing.assert_allclose(distance, np.abs(weights[..., None] - values).min(axis=-1), atol=1e-12)


def test_few_different_weights_are_kept_exactly() -> None:
    weights = np.random.default_rng(6).choice([-1.5, 0.0, 0.25, 3.0], (9, 7)).astype(np.float32)
    values, indices = _palette.palette(weights, 4)
    np.testing.assert_array_equal(values[indices], weights)
    assert values.shape == (16,)


def test_equal_weights_have_one_value() -> None:
    values, indices = _palette.palette(np.full((4, 4), 0.3, np.float32), 6)
    np.testing.assert_array_equal(values[indices].astype(np.float32), np.full((4, 4), 0.3, np.float32))


def test_of_many_weights_the_error_is_near_the_least_possible() -> None:
    weights = np.random.default_rng(7).laplace(size=900).astype(np.float32)
    values, indices = _palette.palette(weights, 3)
    error = float(np.square(values[indices] - weights.astype(np.float64)).sum())
    assert error <= 1.001 * best_error(np.sort(weights.astype(np.float64)), 8)
