"""The lint of w8a8 files: each finding passes on a good file and fails on one with that fault, naming the tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from facex.parity.limits import LINTS, parse_limit
from facex.parity.lint import lint
from facex.reference.detector import Detector
from facex.types import (
    Contract,
    FileFacts,
    Finding,
    FloatIsland,
    HeadTensor,
    HeadUnit,
    Precision,
    QuantizationFacts,
    Verdict,
)

HEADS = (
    HeadTensor(name="cls", output="scores", unit=HeadUnit.LOGIT, step=0.04),
    HeadTensor(name="cls2", output="scores", unit=HeadUnit.LOGIT, step=0.05),
    HeadTensor(name="box", output="boxes", unit=HeadUnit.OFFSET, step=0.04),
    HeadTensor(name="points", output="landmarks", unit=HeadUnit.OFFSET, step=0.07),
)
GOOD = QuantizationFacts(head_tensors=HEADS, requantizations=(), unasked_floats=0, constant_weights=(), dead_channels=3)
ISLAND = FloatIsland(name="conv7", operator="Conv", macs=10)


def facts(islands: tuple[FloatIsland, ...] = (), integer_macs: int = 100, **changed: Any) -> FileFacts:
    quantization = dataclasses.replace(GOOD, **changed)
    return FileFacts(
        inputs=(), outputs=(), operators={}, macs=100, integer_macs=integer_macs, float_islands=islands,
        minimum_runtime="", quantization=quantization,
    )  # fmt: skip


@pytest.fixture
def contract(detector: Detector) -> Contract:
    return detector.contract


@pytest.fixture
def found(contract: Contract) -> Callable[..., dict[str, Finding]]:
    def run(file: FileFacts, *limits: str, known: Contract | None = contract) -> dict[str, Finding]:
        findings = lint("a_w8a8.onnx", Precision.W8A8, file, known, [parse_limit(text) for text in limits])
        return {f.name: f for f in findings}

    return run


def test_a_good_file_passes(found: Callable[..., dict[str, Finding]]) -> None:
    findings = found(facts())
    assert tuple(findings) == LINTS
    assert {f.verdict for f in findings.values()} == {Verdict.PASS}
    assert findings["score_step"].actual == pytest.approx(0.0125)  # the coarsest of two, at slope 1/4
    assert findings["box_step"].actual == pytest.approx(0.004)
    assert findings["landmark_step"].actual == pytest.approx(0.007)
    assert {f.artifact for f in findings.values()} == {"a_w8a8.onnx"}


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.W8A8])
def test_other_precisions_have_no_such_findings(precision: Precision, contract: Contract) -> None:
    assert lint("a.onnx", precision, facts(), contract, [parse_limit("score_step=0.1")]) == ()


@pytest.mark.parametrize(
    ("head", "name", "value"),
    [
        (HeadTensor(name="all", output="scores", unit=HeadUnit.LOGIT, step=640 / 255), "score_step", 640 / 255 / 4),
        (HeadTensor(name="all", output="scores", unit=HeadUnit.SCORE, step=0.031), "score_step", 0.031),
        (HeadTensor(name="all", output="boxes", unit=HeadUnit.PIXEL, step=640 / 255), "box_step", 640 / 255 / 16),
        (HeadTensor(name="all", output="loc", unit=HeadUnit.OFFSET, step=0.2), "box_step", 0.02),
        (HeadTensor(name="all", output="landm", unit=HeadUnit.OFFSET, step=0.3), "landmark_step", 0.03),
    ],
)
def test_a_coarse_step_fails_and_names_the_tensor(
    head: HeadTensor, name: str, value: float, found: Callable[..., dict[str, Finding]]
) -> None:
    findings = found(facts(head_tensors=(*HEADS, head)))
    assert [f.name for f in findings.values() if f.verdict is Verdict.FAIL] == [name]
    assert findings[name].actual == pytest.approx(value)
    assert findings[name].reason.endswith("tensor 'all'")


@pytest.mark.parametrize(
    ("changed", "name", "named"),
    [
        ({"unasked_floats": 1, "islands": (ISLAND,)}, "float_islands", "'conv7'"),
        ({"requantizations": ("r1", "r2", "r3", "r4")}, "requantizations", "'r1', 'r2', 'r3' and 1 more"),
        ({"constant_weights": ("w",)}, "constant_weights", "'w'"),
    ],
)
def test_what_must_not_be_there(
    changed: dict[str, Any], name: str, named: str, found: Callable[..., dict[str, Finding]]
) -> None:
    findings = found(facts(**changed))
    assert [f.name for f in findings.values() if f.verdict is Verdict.FAIL] == [name]
    assert named in findings[name].reason
    assert found(facts(**changed), f"{name}=4")[name].verdict is Verdict.PASS


def test_floats_that_were_asked_for(found: Callable[..., dict[str, Finding]]) -> None:
    mixed = facts(islands=(ISLAND,), unasked_floats=0, requantizations=("r1",))
    findings = found(mixed)
    assert {f.verdict for f in findings.values()} == {Verdict.PASS}
    assert (findings["requantizations"].actual, findings["requantizations"].limit) == (1, None)
    assert found(mixed, "w8a8.requantizations=0")["requantizations"].verdict is Verdict.FAIL


def test_what_is_not_found_is_skipped(found: Callable[..., dict[str, Finding]]) -> None:
    findings = found(facts(head_tensors=HEADS[:2]))
    assert findings["score_step"].verdict is Verdict.PASS
    assert findings["box_step"].verdict is findings["landmark_step"].verdict is Verdict.SKIPPED
    assert "no 8-bit tensor of the head leads to boxes or loc" in findings["box_step"].reason
    unknown = found(facts(), known=None)
    assert unknown["score_step"].verdict is Verdict.PASS
    assert unknown["box_step"].verdict is Verdict.SKIPPED
    assert "no contract" in unknown["box_step"].reason


def test_a_float_file_in_the_name_of_w8a8_fails(found: Callable[..., dict[str, Finding]]) -> None:
    findings = found(dataclasses.replace(facts(integer_macs=0), quantization=None))
    assert findings.pop("float_islands").verdict is Verdict.FAIL
    assert {f.verdict for f in findings.values()} == {Verdict.SKIPPED}
