"""What an 8-bit file does with its integers, read off its operators; the formats bring theirs in one neutral form.

*Head tensors* are the 8-bit tensors that the arithmetic of the head starts from: dequantized, or fed to a sigmoid, with
no multiply-accumulate after them. Their steps are the finest difference that an output can show.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facex.calibration.heads import ROLES
from facex.calibration.qdq import FLOAT_OPERATORS
from facex.types import HeadTensor, HeadUnit, QuantizationFacts


class Kind(enum.Enum):
    """What an operator does to a grid."""

    QUANTIZE = enum.auto()
    DEQUANTIZE = enum.auto()
    MULTIPLY_ACCUMULATE = enum.auto()
    SIGMOID = enum.auto()
    LAYOUT = enum.auto()
    CHOICE = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operator with its computed inputs, constants left out, and its outputs; tensors by any unique key."""

    kind: Kind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight tensor as real numbers.

    Attributes:
        name: in the file.
        values: float, any shape.
        axis: of the output channels.
    """

    name: str
    values: NDArray[np.floating]
    axis: int


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Name and step of an 8-bit tensor."""

    name: str
    step: float


def facts(
    operations: Sequence[Operation],
    grids: Mapping[str, Grid],
    outputs: Mapping[str, str],
    weights: Iterable[Weight],
    unasked_floats: int,
) -> QuantizationFacts | None:
    """What there is to know of a file's integers; None when it has no 8-bit activation.

    Args:
        operations: in topological order.
        grids: of the 8-bit activations, by key.
        outputs: key -> name of every output of the file.
        weights: of its multiply-accumulates.
        unasked_floats: number of multiply-accumulates in float that nobody asked for.
    """
    if not grids:
        return None
    # what chooses faces takes everything in, and would seem to lead from any head tensor to any output
    operations = [o for o in operations if o.kind is not Kind.CHOICE]
    ways = _Ways(operations)
    known = list(weights)
    return QuantizationFacts(
        head_tensors=tuple(_head_tensors(operations, grids, outputs, ways)),
        requantizations=tuple(
            grids[o.inputs[0]].name
            for o in operations
            if o.kind is Kind.DEQUANTIZE and o.inputs and o.inputs[0] in grids and ways.requantized(o)
        ),
        unasked_floats=unasked_floats,
        constant_weights=tuple(w.name for w in known if w.values.size > 1 and np.ptp(w.values) == 0),
        dead_channels=sum(_dead_channels(w) for w in known),
    )


def asked_floats(metadata: Mapping[str, str]) -> list[str]:
    """Outputs of the multiply-accumulates that a file says were left in float on purpose; none if that is damaged."""
    try:
        found = json.loads(metadata.get(FLOAT_OPERATORS, "[]"))
    except ValueError:
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _dead_channels(weight: Weight) -> int:
    others = tuple(i for i in range(weight.values.ndim) if i != weight.axis % weight.values.ndim)
    return int(np.count_nonzero(~weight.values.any(axis=others)))


class _Ways:
    """Which operators a tensor leads to, and what lies between."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._readers: dict[str, list[Operation]] = {}
        for operation in operations:
            for name in operation.inputs:
                self._readers.setdefault(name, []).append(operation)

    def after(self, name: str) -> list[Operation]:
        """Every operation that depends on a tensor."""
        found: dict[int, Operation] = {}
        waiting = list(self._readers.get(name, ()))
        while waiting:
            operation = waiting.pop()
            if id(operation) not in found:
                found[id(operation)] = operation
                waiting += [reader for output in operation.outputs for reader in self._readers.get(output, ())]
        return list(found.values())

    def multiplies(self, name: str) -> bool:
        """Whether a multiply-accumulate depends on a tensor."""
        return any(o.kind is Kind.MULTIPLY_ACCUMULATE for o in self.after(name))

    def requantized(self, dequantize: Operation) -> bool:
        """Whether what leaves the integers comes back to them before a multiply-accumulate."""
        after = [o for name in dequantize.outputs for o in self.after(name)]
        return any(o.kind is Kind.QUANTIZE and any(map(self.multiplies, o.outputs)) for o in after)


def _head_tensors(
    operations: Sequence[Operation], grids: Mapping[str, Grid], outputs: Mapping[str, str], ways: _Ways
) -> list[HeadTensor]:
    left = dict.fromkeys(
        name
        for o in operations
        if o.kind in (Kind.DEQUANTIZE, Kind.SIGMOID)
        for name in o.inputs
    )  # fmt: skip
    left.update(dict.fromkeys(key for key in outputs if key in grids))
    found = []
    for key in left:
        if key not in grids or ways.multiplies(key):
            continue
        after = ways.after(key)
        made = {key, *(name for o in after for name in o.outputs)}
        for output in (outputs[name] for name in outputs if name in made and outputs[name] in ROLES):
            between = {o.kind for o in _between(after, key, output, outputs)}
            grid = grids[key]
            found.append(HeadTensor(name=grid.name, output=output, unit=_unit(output, between), step=grid.step))
    return found


def _between(after: Sequence[Operation], key: str, output: str, outputs: Mapping[str, str]) -> list[Operation]:
    """The operations on a way from a tensor to an output."""
    by_output = {name: o for o in after for name in o.outputs}
    waiting = [name for name, said in outputs.items() if said == output]
    found: dict[int, Operation] = {}
    while waiting:
        name = waiting.pop()
        operation = by_output.get(name)
        if name != key and operation is not None and id(operation) not in found:
            found[id(operation)] = operation
            waiting += operation.inputs
    return list(found.values())


def _unit(output: str, between: set[Kind]) -> HeadUnit:
    """What one unit of a head tensor is, from what lies between it and the output."""
    if ROLES[output] == "margin":
        return HeadUnit.LOGIT if Kind.SIGMOID in between else HeadUnit.SCORE
    if ROLES[output] == "mesh":
        return HeadUnit.CODE
    decoded = output in ("boxes", "landmarks")
    return HeadUnit.PIXEL if decoded and Kind.OTHER not in between else HeadUnit.OFFSET
