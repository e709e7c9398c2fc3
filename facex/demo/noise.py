"""Smooth random fields, for everything that is not of one colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
"""float32 throughout this room, except where NumPy widens what is only passed on."""

LATTICE = 128
PERSISTENCE = 0.55
"""Weight of an octave relative to the one before."""


class Noise:
    """Value noise: random numbers on a lattice, interpolated smoothly (Lewis 1989), summed over octaves."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._values = rng.random((LATTICE + 1, LATTICE + 1), dtype=np.float32)
        self._values[-1], self._values[:, -1] = self._values[0], self._values[:, 0]

    def __call__(self, x: NDArray[Any], y: NDArray[Any], octaves: int = 1) -> FloatArray:
        """Values in 0-1 at the coordinates x and y, float32 of one shape; the coarsest cell is 1 x 1.

        The field repeats every 128 cells.
        """
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        weight, norm = 1.0, 0.0
        for octave in range(octaves):
            total += weight * self._single(x * 2.0**octave + 17.3 * octave, y * 2.0**octave + 5.7 * octave)
            norm += weight
            weight *= PERSISTENCE
        return total / np.float32(norm)

    def _single(self, x: NDArray[Any], y: NDArray[Any]) -> FloatArray:
        column, row = np.floor(x), np.floor(y)
        u, v = (x - column).astype(np.float32), (y - row).astype(np.float32)
        u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
        i, j = row.astype(np.int64) % LATTICE, column.astype(np.int64) % LATTICE
        top = self._values[i, j] * (1 - u) + self._values[i, j + 1] * u
        bottom = self._values[i + 1, j] * (1 - u) + self._values[i + 1, j + 1] * u
        result: FloatArray = top * (1 - v) + bottom * v
        return result


def smoothstep(low: float | FloatArray, high: float | FloatArray, x: NDArray[Any]) -> FloatArray:
    """0 below `low`, 1 above `high`, and a smooth rise between; `low` above `high` falls instead."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0).astype(np.float32)
    result: FloatArray = t * t * (3 - 2 * t)
    return result


def bump(x: NDArray[Any], y: NDArray[Any], centre: tuple[float, float], spread: tuple[float, float]) -> FloatArray:
    """A Gaussian hill of height 1."""
    u, v = (x - centre[0]) / spread[0], (y - centre[1]) / spread[1]
    result: FloatArray = np.exp(-0.5 * (u * u + v * v)).astype(np.float32)
    return result
