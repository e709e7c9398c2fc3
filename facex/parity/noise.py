"""The check that needs no photographs: artifact and reference on seeded noise, tensor by tensor.

It shows that a file runs and computes the same function; it says nothing of faces, so it replaces no photograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facex.errors import stage
from facex.parity.limits import MALFORMED
from facex.parity.metrics import Accumulator
from facex.types import Detections, Selection, Session, Size

if TYPE_CHECKING:
    from facex.types import FloatArray

SEED = 20200613

ROUNDING = dict.fromkeys(("scores", "conf"), 2.0**-22)
"""Two last places of a probability of 1 in float32, which are no noise in outputs that are probabilities.

On noise all of them may be nearly zero, and runtimes are not that exact there: onnxruntime's sigmoid is off by one last
place of 1, and is 0 below it.
"""


def picture(size: Size) -> NDArray[np.uint8]:
    """uint8 [1, H, W, 3], every value equally likely; the same for the same size."""
    return np.random.default_rng(SEED).integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8)


def compare(
    reference: Session, candidates: Mapping[str, Session], size: Size, selection: Selection | None = None
) -> dict[str, dict[str, float | None]]:
    """`snr_db.*` and `max_abs.*` of every candidate; of one that chooses faces by `selection`, `malformed_rows`.

    Raises:
        ArtifactError: a candidate's outputs are not those of the reference.
        BackendError: a runtime failed; its stage is the artifact's name.
    """
    inputs = {"image": picture(size)}
    expected = reference(inputs)
    found = {}
    for name, session in candidates.items():
        with stage(name):
            values = Accumulator(selection, ROUNDING)
            values.add(_no_faces(expected), _no_faces(expected), expected, session(inputs))
        found[name] = {k: v for k, v in values.metrics().items() if k.startswith(("snr_db.", "max_abs.", MALFORMED))}
    return found


def _no_faces(outputs: Mapping[str, FloatArray]) -> Detections:
    points = next(iter(outputs.values())).shape[-1] // 2
    return Detections(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        landmarks=np.zeros((0, points, 2), np.float32),
    )
