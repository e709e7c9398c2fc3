"""Operations of a Core ML file kept in single precision: by name, in the program that coremltools writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facex.errors import BackendError
from facex.exporters import EVERY, _kept, _package, coreml
from facex.exporters._mil import program, ranges
from facex.exporters._mil.program import Operation, Program
from facex.types import Head, Precision

CAST = "_cast_fp16"
"""What coremltools appends to the name of an operation that it moves to half precision."""


def _block(*names: str) -> list[Any]:
    block = SimpleNamespace(operations=[])
    block.operations = [SimpleNamespace(name=name, enclosing_block=block) for name in names]
    return list(block.operations)


def test_kept_operations_are_not_selected_and_the_trunk_is() -> None:
    selected = _kept.selector(lambda operation: operation.name != "head", frozenset({"input_9", "op_764"}))
    operations = _block("input.9", "input_7", "764", "head")
    assert [selected(operation) for operation in operations] == [False, True, False, False]


def test_an_operation_that_is_not_there_is_an_error_not_silence() -> None:
    selected = _kept.selector(lambda operation: True, frozenset({"input_9", "input_8"}))
    with pytest.raises(BackendError, match="no operation 'input_8'"):
        selected(_block("input.9")[0])


def test_every_operation_can_be_kept() -> None:
    selected = _kept.selector(lambda operation: True, EVERY)
    assert not any(map(selected, _block("a", "b")))


def test_kept_operations_are_told_in_order() -> None:
    assert _kept.told(frozenset({"b", "a"})) == {"facex.fp32_ops": "a, b"}
    assert _kept.told(frozenset()) == {}


@pytest.fixture(scope="module")
def written(make_job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Program]:
    """`written(precision, fp32_ops)` gives the program of an export, made once."""
    folder = tmp_path_factory.mktemp("halves")
    known: dict[Any, Program] = {}

    def write(precision: Precision, fp32_ops: frozenset[str] = frozenset()) -> Program:
        if (precision, fp32_ops) not in known:
            path = folder / f"{len(known)}.mlpackage"
            coreml.export(dataclasses.replace(make_job(path, precision, Head.DECODED), fp32_ops=fp32_ops))
            known[precision, fp32_ops] = program.parse(*_package.load(path))
        return known[precision, fp32_ops]

    return write


def _computed(found: Program) -> dict[str, Operation]:
    return {op.name: op for op in found.operations if op.type != "const" and not op.type.startswith("constexpr_")}


def _types(found: Program) -> Mapping[str, str]:
    return {name: op.outputs[0][1].dtype for name, op in _computed(found).items()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", coreml.INFO.half_compute)
def test_the_audit_looks_at_just_what_the_file_has_in_half_precision(written, precision):
    types = _types(written(precision))
    halves = {name.removesuffix(CAST) for name, dtype in types.items() if dtype == "fp16" and name.endswith(CAST)}
    twin = written(precision, EVERY)
    assert set(_types(twin).values()) == {"fp32"}
    assert {op.name for op in ranges.trunk(twin, coreml.MAC_OPERATORS)} == halves
    assert len(halves) > 80


@pytest.mark.slow
@pytest.mark.parametrize("precision", coreml.INFO.half_compute)
def test_kept_operations_are_in_single_precision_with_no_half_between(written, precision):
    trunk = ranges.trunk(written(precision, EVERY), coreml.MAC_OPERATORS)
    writer = next(op for op in trunk[20:] if op.type == "conv")
    readers = {op.name for op in trunk if writer.outputs[0][0] in ranges._names(op)}
    kept = frozenset({writer.name, *readers})
    found = written(precision, kept)
    types = _types(found)
    assert {name: types[name] for name in kept} == dict.fromkeys(kept, "fp32")
    # what the readers read is what the writer writes: no cast stands between
    result = _computed(found)[writer.name].outputs[0][0]
    assert all(result in ranges._names(_computed(found)[name]) for name in readers)
    rest = {op.name for op in trunk} - kept
    assert {name.removesuffix(CAST) for name, t in types.items() if t == "fp16" and name.endswith(CAST)} == rest


@pytest.mark.slow
def test_a_name_that_the_conversion_does_not_know_ends_it(make_job, tmp_path: Path) -> None:
    job = make_job(tmp_path / "a.mlpackage", Precision.FP16)
    with pytest.raises(BackendError, match="no operation 'input_none'"):
        coreml.export(dataclasses.replace(job, fp32_ops=frozenset({"input_none"})))
    assert list(tmp_path.iterdir()) == []
