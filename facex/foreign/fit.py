"""The mean and the scale that a file really applies: those under which the reference follows it best.

Levenberg-Marquardt over four numbers, the three means and the logarithm of a common scale, with differences for
derivatives: the reference is run again, the file is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from facex.types import FloatArray

    Parameters = NDArray[np.float64]
    Predict = Callable[["Parameters"], Mapping[str, "FloatArray"]]

STEP = np.array([2.0, 2.0, 2.0, 0.02])
"""Of the differences: levels of 255, and the share of the scale."""

ROUNDS = 24
SETTLED = np.array([0.02, 0.02, 0.02, 2e-4])
WORTH = 0.995
"""A round that leaves more than this of the error is the last."""

DAMPING = 1e-3
MOST_DAMPING = 10.0


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was found: three means and the natural logarithm of a scale, and the standard error of each."""

    parameters: Parameters
    error: Parameters


def fit(predict: Predict, found: Mapping[str, FloatArray], starts: Sequence[Parameters]) -> Fitted:
    """Minimise the squared difference of prediction and file, every kind of output counting the same.

    Args:
        predict: parameters -> by kind, float32 [P, n, w] of P pictures.
        found: the file's, likewise.
        starts: where one may begin, float64 [4]; the best one is taken.
    """
    weight = {k: 1 / max(float(np.std(v.reshape(-1, v.shape[-1]), axis=0).mean()), 1e-6) / np.sqrt(v.size)
              for k, v in found.items()}  # fmt: skip

    def joined(values: Mapping[str, FloatArray]) -> NDArray[np.float64]:
        pictures = len(next(iter(values.values())))
        return np.concatenate([(values[k].astype(np.float64) * weight[k]).reshape(pictures, -1) for k in found], axis=1)

    target = joined(found)
    begun = [(joined(predict(start)), start) for start in starts]
    (here, at), damping = min(begun, key=lambda pair: float(np.square(target - pair[0]).sum())), DAMPING
    slopes = _slopes(predict, joined, at, here)
    for _ in range(ROUNDS):
        move = _solved(slopes, target - here, damping)
        there = joined(predict(at + move))
        before, after = (float(np.square(target - values).sum()) for values in (here, there))
        if after < before:
            at, here, damping = at + move, there, damping / 10
            slopes = _slopes(predict, joined, at, here)
            if after > WORTH * before or (np.abs(move) < SETTLED).all():
                break
        elif damping > MOST_DAMPING:
            break
        else:
            damping *= 30
    # how far each picture by itself would move the answer
    apart = np.stack([_solved(slopes[i : i + 1], (target - here)[i : i + 1], DAMPING) for i in range(len(target))])
    error = apart.std(axis=0, ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.full(4, np.inf)
    return Fitted(parameters=at, error=error)


def _slopes(
    predict: Predict, joined: Callable[[Mapping[str, FloatArray]], NDArray[np.float64]], at: Parameters,
    here: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """Change of every value by a step of every parameter: float64 [P, n, 4]."""
    return np.stack([joined(predict(at + step)) - here for step in np.diag(STEP)], axis=-1)


def _solved(slopes: NDArray[np.float64], left: NDArray[np.float64], damping: float) -> Parameters:
    """The move that takes away most of what is left, in the parameters' own units."""
    jacobian = slopes.reshape(-1, len(STEP))
    normal = jacobian.T @ jacobian
    normal = normal + damping * np.diag(np.diag(normal)) + 1e-12 * np.trace(normal) * np.eye(len(STEP))
    solved: Parameters = np.linalg.solve(normal, jacobian.T @ left.reshape(-1)) * STEP
    return solved
