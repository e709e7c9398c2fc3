"""A forecast of where Core ML runs the operations of a program: on the Neural Engine, elsewhere, or unknown.

Only a device can say, through MLComputePlan, and the answer changes with chip and system. This applies the published
statements of `placement` to the program. That an operation can run there does not mean that it will: for small ones
Core ML was seen to prefer the CPU (github.com/vx-lang/Vx, issue 437).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facex.errors import ArtifactError
from facex.exporters._mil import placement
from facex.exporters._mil.placement import Site
from facex.exporters._mil.program import Literal, Operation, Program, parse
from facex.types import ForecastOperations, NeuralEngineForecast, Placement

ALIGNED_BYTES = 64
HALF_BYTES = 2
TRANSFORMERS = "https://machinelearning.apple.com/research/neural-engine-transformers"
COMPRESSION = "https://apple.github.io/coremltools/docs-guides/source/opt-overview.html"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An operation that runs, and where it is expected to."""

    operation: Operation
    placement: Placement
    reason: str
    source: str


def of(spec: Any, weights: Path, macs: Mapping[str, int]) -> NeuralEngineForecast | None:
    """The forecast for a model, or None where its program holds more than operations on tensors.

    Args:
        spec: `Model` of Core ML's Model.proto, of type mlProgram.
        weights: folder of its weight files.
        macs: name of an operation's first result -> its multiply-accumulates.
    """
    try:
        program = parse(spec, weights, executable=False)
    except ArtifactError:
        return None  # whoever runs the program tells what is wrong with it
    return forecast(program, macs)


def forecast(program: Program, macs: Mapping[str, int]) -> NeuralEngineForecast:
    """Place every operation that depends on an input, and sum up; `macs` as for `of`."""
    placed = list(_placed(program))
    resident = [each for each in placed if each.placement is Placement.NEURAL_ENGINE]
    gone = next((each.operation for each in placed if each.placement is Placement.ELSEWHERE), None)
    total = sum(_macs(each, macs) for each in placed)
    return NeuralEngineForecast(
        operations=_grouped(placed),
        resident_operation_fraction=len(resident) / len(placed) if placed else 0.0,
        resident_mac_fraction=sum(_macs(each, macs) for each in resident) / total if total else 0.0,
        transitions=_transitions(placed),
        first_elsewhere=f"{gone.type} '{gone.name}'" if gone else None,
        notes=(*_compression(program), *_alignment(resident)),
    )


def _macs(placed: Placed, macs: Mapping[str, int]) -> int:
    return macs.get(placed.operation.outputs[0][0], 0) if placed.operation.outputs else 0


def _placed(program: Program) -> Iterator[Placed]:
    """What is computed when the program runs; constants are not."""
    types = dict(program.inputs)
    known: dict[str, Literal | None] = {}
    for operation in program.operations:
        given = {key: values[0] for key, values in operation.inputs.items() if len(values) == 1}
        named = [v for values in operation.inputs.values() for v in values if isinstance(v, str)]
        if all(name in known for name in named) and operation.outputs:
            value = given.get("val") if operation.type == "const" else None
            for name, declared in operation.outputs:
                known[name] = value if isinstance(value, Literal) else Literal(type=declared, value="")
            continue
        types.update(operation.outputs)
        constants = {key: known.get(v) if isinstance(v, str) else v for key, v in given.items()}
        site = Site(
            operation=operation,
            computed=tuple(types[name] for name in named if name in types and name not in known),
            constants={key: value for key, value in constants.items() if value is not None},
        )
        where, reason, source = placement.place(site)
        yield Placed(operation=operation, placement=where, reason=reason, source=source)


def _grouped(placed: list[Placed]) -> tuple[ForecastOperations, ...]:
    counts: dict[tuple[str, Placement, str, str], int] = {}
    for each in placed:
        key = (each.operation.type, each.placement, each.reason, each.source)
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        ForecastOperations(operator=operator, count=count, placement=where, reason=reason, source=source)
        for (operator, where, reason, source), count in counts.items()
    )


def _transitions(placed: list[Placed]) -> int:
    """Tensors that one side computes and the other reads, directly or through operations of unknown place.

    What the app gives and gets is not counted: it is copied in any case.
    """
    origins: dict[str, frozenset[tuple[str, Placement]]] = {}
    crossing: set[str] = set()
    for each in placed:
        named = [v for values in each.operation.inputs.values() for v in values if isinstance(v, str)]
        read = frozenset().union(*(origins.get(name, frozenset()) for name in named))
        if each.placement is Placement.UNKNOWN:
            origins.update({name: read for name, _ in each.operation.outputs})
            continue
        crossing.update(name for name, side in read if side is not each.placement)
        origins.update({name: frozenset({(name, each.placement)}) for name, _ in each.operation.outputs})
    return len(crossing)


def _compression(program: Program) -> Iterator[str]:
    """Weights are decompressed when the model is loaded or while it runs, as the chip can."""
    kinds = sorted({op.type for op in program.operations if op.type.startswith("constexpr_")} - {"constexpr_cast"})
    if kinds:
        yield (
            f"weights of {', '.join(kinds)} are decompressed at load or on the fly, which differs by chip and system; "
            f"palettes suit the Neural Engine best ({COMPRESSION})"
        )


def _alignment(resident: list[Placed]) -> Iterator[str]:
    """Buffers of the engine are padded to 64 bytes along the last axis."""
    short = [
        declared.shape
        for each in resident
        for _, declared in each.operation.outputs
        if declared.shape and (declared.shape[-1] or 0) * HALF_BYTES % ALIGNED_BYTES
    ]
    if short:
        padded = max(-(-extent * HALF_BYTES // ALIGNED_BYTES) * ALIGNED_BYTES / (extent * HALF_BYTES)
                     for shape in short if (extent := shape[-1]))  # fmt: skip
        yield (
            f"{len(short)} tensors there have a last axis that is no multiple of {ALIGNED_BYTES} bytes and is padded "
            f"to one, at most {padded:.3g}-fold ({TRANSFORMERS})"
        )
