"""The proof that a full-integer TFLite file is the QDQ model that it was lowered from, tensor by tensor.

End to end the two drift apart, because a result that was rounded to the other side is amplified by the layers after it.
So every operator is judged on the same integers: the file runs once with all its quantized tensors exposed, and the QDQ
model is cut at each of its Quantize/Dequantize pairs and given the integers that the file computed.

Tensors are paired by what computes them from tensors already paired; names play no part. Among siblings (convolutions
that read one tensor) weights and grids decide. Whatever stays open is an error, on either side.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exact import exactly
from .file import File
from .plan import Plan
from .regions import PairingError, Region

__all__ = ["Comparison", "Files", "PairingError", "Report", "disagreements", "pair"]

HEAD_MOVES = frozenset({"CONCATENATION", "RESHAPE", "TRANSPOSE"})
"""A head joins its maps while they are integers, where the QDQ model has no pair; judged by the outputs."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quantized tensor of the plan, computed by both sides from the same integers.

    Attributes:
        tensor: its name in the QDQ model.
        operator: what computes it, kinds joined by "+".
        worst: largest difference to onnxruntime, in steps.
        share: of its elements that differ at all from onnxruntime.
        worst_exact: largest difference to the float64 computation; None where it is not a convolution.
        departures: which of its "grid", "weights", "bias" the file holds otherwise than planned.
    """

    tensor: str
    operator: str
    worst: int
    share: float
    worst_exact: int | None
    departures: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every element is within one step of both computations, and nothing stored departs from the plan."""
        return max(self.worst, self.worst_exact or 0) <= 1 and not self.departures


@dataclass(frozen=True, kw_only=True)
class Report:
    """Every quantized tensor of the plan, and what the heads made of them.

    Attributes:
        comparisons: in the order of the plan.
        outputs: name -> (the file's, the QDQ model's from the file's integers), float32.
    """

    comparisons: tuple[Comparison, ...]
    outputs: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

    @property
    def disagreements(self) -> list[Comparison]:
        """The tensors that differ by more than a step, or are not stored as planned."""
        return [c for c in self.comparisons if not c.agrees]


def pair(file: File, plan: Plan) -> dict[str, int]:
    """QDQ tensor -> tensor of the file, complete on both sides.

    Raises:
        PairingError: a quantized tensor has no partner, or several that nothing tells apart.
    """
    (image,), (given,) = plan.inputs, map(int, file.graph.inputs)
    found: dict[str, int] = {image: given}
    waiting = {region.tensor: region for region in plan.regions}
    candidates = defaultdict(list)
    for made in file.regions:
        candidates[made.kinds, made.sources].append(made)
    while ready := [r for r in waiting.values() if all(source in found for source in r.sources)]:
        siblings = defaultdict(list)
        for region in ready:
            sources = tuple(sorted((found[s] for s in region.sources), key=str))
            siblings[region.kinds, sources].append(region)
        for key, planned in siblings.items():
            found |= _told_apart(planned, candidates.pop(key, []))
        for region in ready:
            del waiting[region.tensor]
    assert not waiting, "a tensor is always ready once its sources are"
    _refuse_leftovers(file, set(found.values()))
    return found


def _told_apart(planned: list[Region[str]], candidates: list[Region[int]]) -> dict[str, int]:
    """Pairs within a family: by all that is stored, then by weights, then by grid, then by being the last."""
    names = ", ".join(f"'{r.tensor}' ({r.operator})" for r in planned)
    if len(planned) != len(candidates):
        raise PairingError(f"{len(candidates)} tensors of the file for {len(planned)} of the plan: {names}")
    left, free = list(planned), list(candidates)
    found: dict[str, int] = {}
    for forgiven in ((), ("grid", "bias"), ("weights", "bias")):
        fits = {p.tensor: [c.tensor for c in free if set(c.departures(p)) <= set(forgiven)] for p in left}
        suitors = Counter(c for fitting in fits.values() for c in fitting)
        found |= {p: c for p, fitting in fits.items() for c in fitting if len(fitting) == suitors[c] == 1}
        left = [p for p in left if p.tensor not in found]
        free = [c for c in free if c.tensor not in found.values()]
    if len(left) > 1:
        raise PairingError(f"nothing stored tells apart {', '.join(str(p.tensor) for p in left)}")
    return found | {p.tensor: c.tensor for p, c in zip(left, free, strict=True)}


def _refuse_leftovers(file: File, paired: set[int]) -> None:
    left = [r for r in file.regions if r.tensor not in paired]
    unknown = [r for r in left if file.kind[id(file.producer[r.tensor])] not in HEAD_MOVES]
    if unknown:
        names = ", ".join(f"{r.tensor} ({r.operator})" for r in unknown)
        raise PairingError(f"tensors of the file that the plan does not have: {names}")


class Files:
    """A TFLite file and the QDQ model that it was lowered from, paired.

    Raises:
        PairingError: see `pair`.
    """

    def __init__(self, tflite: Path, qdq: Path) -> None:
        self.file, self.plan = File(tflite), Plan(qdq)
        self.partner = pair(self.file, self.plan)

    def _integers(self, computed: Mapping[int | str, NDArray[Any]]) -> dict[str, NDArray[np.int8]]:
        """What the file computed, in the QDQ model's names and order of axes."""
        found = {tensor: computed[self.partner[tensor]] for tensor in self.plan.pairs}
        return {t: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for t, v in found.items()}

    def compare(self, image: NDArray[np.uint8], *, delegate: bool = True) -> Report:
        """Judge every quantized tensor on one image.

        Args:
            image: uint8 [1, H, W, 3].
            delegate: with the XNNPACK kernels that an app runs; else with TFLite's built-in ones.
        """
        computed = self.file.run(image, [self.partner[t] for t in self.plan.pairs], delegate=delegate)
        given = self._integers(computed)
        planned = {r.tensor: r for r in self.plan.regions}
        stored = {r.tensor: r for r in self.file.regions}
        departures = {t: stored[self.partner[t]].departures(r) for t, r in planned.items()}
        # a reader is asked about the value that its input has in the file, so a wrong grid is found once, not twice
        grids = {t: stored[self.partner[t]].grid if "grid" in departures[t] else r.grid for t, r in planned.items()}
        expected = self.plan.run(image, given, grids)
        comparisons = []
        for tensor, region in planned.items():
            difference = steps(given[tensor], expected[tensor])
            exact = exactly(self.plan, tensor, given, grids)
            comparisons.append(
                Comparison(
                    tensor=self.plan.name_of(tensor),
                    operator=region.operator,
                    worst=int(difference.max()),
                    share=float((difference != 0).mean()),
                    worst_exact=None if exact is None else int(steps(given[tensor], exact).max()),
                    departures=departures[tensor],
                )
            )
        outputs = {name: (computed[name], expected[name]) for name in self.plan.outputs}
        return Report(comparisons=tuple(comparisons), outputs=outputs)


def steps(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """Absolute difference of integers, element by element."""
    if found.shape != wanted.shape:
        raise PairingError(f"shape {found.shape} beside {wanted.shape}")
    return np.abs(found.astype(np.int64) - wanted.astype(np.int64))


def disagreements(tflite_path: Path, qdq_path: Path, image: NDArray[np.uint8]) -> list[Comparison]:
    """The tensors on which the two do not agree, with XNNPACK or with the built-in kernels, each once a kernel set."""
    files = Files(tflite_path, qdq_path)
    return [c for delegate in (True, False) for c in files.compare(image, delegate=delegate).disagreements]
