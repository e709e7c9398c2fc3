"""A session that executes an `.mlpackage`; see `facex.types.Session`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from facex.calibration.simulate import torch_threads
from facex.exporters._mil import program
from facex.exporters._mil.executor import Executor

if TYPE_CHECKING:
    from torch import Tensor

    from facex.types import FloatArray

UNTIMED = "executed by facex itself, whose time says nothing of Core ML's"


def fed(image: NDArray[Any], colours: Mapping[str, str]) -> dict[str, Tensor]:
    """What the executor takes for `image`, uint8 [1, H, W, 3], RGB, in a program of these colour layouts."""
    order = [2, 1, 0] if colours.get("image") == "BGR" else [0, 1, 2]
    return {"image": torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)[:, order], dtype=np.float32))}


class ExecutorSession:
    """A package, read back and executed with Core ML's arithmetic.

    Args:
        spec: `Model` of Core ML's Model.proto.
        weights: folder of its weight files.
        threads: of torch, while it runs.

    Raises:
        ArtifactError: the package is not sound.
        UnsupportedOperatorError: it has an operator that facex does not execute.
    """

    runtime = "facex's executor (float16 stored, float32 accumulated; not the Neural Engine's own rounding)"
    untimed = UNTIMED

    def __init__(self, spec: Any, weights: Path, *, threads: int) -> None:
        found = program.parse(spec, weights)
        self._colours = found.colours
        self._threads = threads
        self._executor = Executor(found)
        self._feed: dict[str, Tensor] = {}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Run once on uint8 [1, H, W, 3], RGB, brought into the colour layout that the package states."""
        self._feed = fed(inputs["image"], self._colours)
        return self._run()

    def invoke(self) -> None:
        """Run again on the last input."""
        self._run()

    def _run(self) -> dict[str, FloatArray]:
        with torch_threads(self._threads):
            found = self._executor(self._feed).items()
            return {name: (v.float() if v.dtype.is_floating_point else v).numpy() for name, v in found}
