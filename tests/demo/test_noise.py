"""Smooth random fields."""

from __future__ import annotations

import numpy as np
import pytest

from facex.demo.noise import LATTICE, Noise, bump, smoothstep


@pytest.fixture
def noise() -> Noise:
    return Noise(np.random.default_rng(3))


@pytest.mark.parametrize("octaves", [1, 4])
def test_values_are_shares(noise: Noise, octaves: int) -> None:
    x, y = np.random.default_rng(0).uniform(-500, 500, (2, 4000)).astype(np.float32)
    values = noise(x, y, octaves)
    assert values.dtype == np.float32
    assert 0 <= values.min() < 0.25
    assert 0.75 < values.max() <= 1


def test_the_lattice_is_met_and_repeats(noise: Noise) -> None:
    i, j = np.meshgrid(np.arange(5.0), np.arange(5.0))
    assert np.array_equal(noise(i, j), noise._values[:5, :5])
    assert np.allclose(noise(i + 0.3, j + LATTICE), noise(i + 0.3 - LATTICE, j), atol=1e-5)


def test_it_is_smooth_and_not_flat(noise: Noise) -> None:
    x = np.linspace(0, 30, 3001)
    steps = np.abs(np.diff(noise(x, np.full_like(x, 0.4))))
    assert steps.max() < 0.02  # 1.5 is the steepest slope of smoothstep, 1 the largest difference of two cells
    assert steps.max() > 0.002


def test_smoothstep_rises_and_falls() -> None:
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    assert smoothstep(0, 1, x).tolist() == [0, 0, 0.5, 1, 1]
    assert smoothstep(1, 0, x).tolist() == [1, 1, 0.5, 0, 0]


def test_a_bump_is_a_gaussian() -> None:
    x, y = np.array([1.0, 1.5, 1.0]), np.array([2.0, 2.0, 2.4])
    assert bump(x, y, (1.0, 2.0), (0.5, 0.2)) == pytest.approx([1.0, np.exp(-0.5), np.exp(-2.0)])
