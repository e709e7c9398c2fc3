"""The fit finds the mean and scale of a function that is known, and says how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.foreign.fit import fit

PIXELS = np.random.default_rng(2).uniform(0, 255, (5, 300, 3))
TURN = np.random.default_rng(3).normal(size=(3, 6))


def _network(parameters: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """A small nonlinear function of pixels less a mean, scaled."""
    seen = (PIXELS - parameters[:3]) * np.exp(parameters[3]) / 60
    mixed = seen @ TURN
    return {"loc": np.where(mixed > 0, mixed, 0.1 * mixed).astype(np.float32), "margin": np.tanh(seen[..., :1] / 4)}


@pytest.mark.parametrize("true", [(104, 117, 123, 0.0), (90.0, 131.0, 99.5, 0.3), (0.0, 0.0, 0.0, -0.2)])
def test_the_parameters_come_back(true: tuple[float, ...]):
    found = fit(_network, _network(np.asarray(true)), [np.array([104.0, 117.0, 123.0, 0.0]), np.zeros(4)])
    np.testing.assert_allclose(found.parameters, true, atol=2e-2)
    assert (found.error < 0.1).all()


def test_noise_shows_in_the_error():
    true, random = np.array([110.0, 112.0, 118.0, 0.05]), np.random.default_rng(9)
    noisy = {k: v + random.normal(0, 0.5, v.shape) for k, v in _network(true).items()}
    found = fit(_network, noisy, [np.array([104.0, 117.0, 123.0, 0.0])])
    assert (found.error[:3] > 0.05).all()
    assert (np.abs(found.parameters - true)[:3] < 6 * found.error[:3]).all()


def test_one_picture_tells_no_error():
    first = {k: v[:1] for k, v in _network(np.array([104.0, 117.0, 123.0, 0.0])).items()}
    found = fit(lambda p: {k: v[:1] for k, v in _network(p).items()}, first, [np.array([100.0, 110.0, 120.0, 0.0])])
    assert np.isinf(found.error).all()
