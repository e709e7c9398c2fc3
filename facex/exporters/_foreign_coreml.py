"""Any ML program: float, half, palettes or integers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from facex.calibration.simulate import torch_threads
from facex.exporters import _package
from facex.exporters._foreign import Convolution, Fed, ForeignFile, Opened, Outputs
from facex.exporters._mil import program
from facex.exporters._mil.executor import Executor
from facex.exporters._mil.registry import operators
from facex.exporters._mil.session import ExecutorSession

if TYPE_CHECKING:
    from facex.exporters._mil.program import Operation, Program

INTEGERS = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}
PALETTE = "constexpr_lut_to_dense"
BITS = {"fp32": 32, "fp16": 16, "int8": 8, "uint8": 8} | program.SUB_BYTE_BITS


def read(path: Path, threads: int) -> ForeignFile:
    """See `ForeignFile`.

    Raises:
        ArtifactError: it is not a sound ML program.
        MissingExtraError: coremltools is not installed.
    """
    spec, weights = _package.load(path)
    found = program.parse(spec, weights, executable=False)
    inputs = tuple(
        Fed(
            name=name,
            shape=tuple(d or 0 for d in declared.shape),
            dtype={"fp16": "float16", "fp32": "float32"}.get(declared.dtype, declared.dtype),
            colours=found.colours.get(name),
        )
        for name, declared in found.inputs.items()
    )
    return ForeignFile(
        convolutions=tuple(_convolutions(found)),
        inputs=inputs,
        open=lambda _: _opened(spec, weights, inputs, threads),
        metadata=dict(spec.description.metadata.userDefined),
    )


def _opened(spec: Any, weights: Path, inputs: tuple[Fed, ...], threads: int) -> Opened:
    executor = Executor(program.parse(spec, weights))
    (fed,) = inputs

    def run(values: NDArray[np.float32]) -> Outputs:
        with torch_threads(threads):
            found = executor({fed.name: torch.from_numpy(np.ascontiguousarray(values, np.float32))})
        return tuple((name, value.float().numpy()) for name, value in found.items())

    return Opened(runtime=ExecutorSession.runtime, run=run)


def _constants(found: Program) -> Mapping[str, Any]:
    """Values that depend on no input; operators that facex does not execute hinder nobody here."""
    known: set[str] = set()
    kept: list[Operation] = []
    executed = operators()
    for operation in found.operations:
        needed = {v for given in operation.inputs.values() for v in given if isinstance(v, str)}
        if operation.type == "const" or (operation.type in executed and needed <= known):
            kept.append(operation)
            known.update(name for name, _ in operation.outputs)
    return Executor(dataclasses.replace(found, operations=tuple(kept), outputs=())).constants


def _convolutions(found: Program) -> Iterator[Convolution]:
    constants = _constants(found)
    makers = {name: operation for operation in found.operations for name, _ in operation.outputs}

    def value(operation: Operation, parameter: str) -> Any:
        (given,) = operation.inputs.get(parameter, (None,))
        held = constants.get(given) if isinstance(given, str) else getattr(given, "value", None)
        return None if held is None else np.asarray(held)

    for operation in found.operations:
        if operation.type != "conv":
            continue
        weight, bias, groups = (value(operation, p) for p in ("weight", "bias", "groups"))
        if weight is None or weight.ndim != 4:
            continue
        stored, bits = _stored(operation.inputs["weight"][0], makers)
        yield Convolution(
            name=operation.outputs[0][0],
            weight=weight.astype(np.float64),
            bias=np.zeros(len(weight)) if bias is None else bias.astype(np.float64),
            groups=1 if groups is None else int(groups),
            stored=stored,
            bits=bits,
        )


def _stored(given: Any, makers: Mapping[str, Operation]) -> tuple[str, int]:
    """How the file holds a weight, and in how many bits a value."""

    def literal(value: Any) -> Any:
        return makers[value].inputs["val"][0] if isinstance(value, str) else value

    maker = makers[given] if isinstance(given, str) else None
    if maker is not None and maker.type in INTEGERS:
        dtype = literal(maker.inputs[INTEGERS[maker.type]][0]).type.dtype
        return dtype, BITS.get(dtype, 8)
    if maker is not None and maker.type == PALETTE:
        lut = literal(maker.inputs["lut"][0]).value
        entries = lut.size if lut.ndim == 1 else lut.shape[-2]
        return f"palette of {entries}", max(1, round(math.log2(entries)))
    declared = literal(given).type if maker is None or maker.type == "const" else dict(maker.outputs)[str(given)]
    return {"fp16": "float16", "fp32": "float32"}.get(declared.dtype, declared.dtype), BITS.get(declared.dtype, 32)
