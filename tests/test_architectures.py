"""Files held on ARM64 against themselves on x86-64: what passes, what fails and what is named."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facex
from facex import architectures, exporters
from facex.checking import find
from facex.device_bench import emulator
from facex.device_bench.emulator import Answer, Machine, Operator, Toolchain, Trace
from facex.errors import BackendError, MissingSetupError, UsageError
from facex.parity.limits import parse_limit
from facex.progress import Clock, Silent
from facex.runs import Subject
from facex.types import FileFacts, Finding, Head, Precision, Size, Verdict

OPERATORS = (
    Operator(kind="CONV_2D", name="stem", integer=True, sources=()),
    Operator(kind="ADD", name="sum", integer=True, sources=(0,)),
    Operator(kind="LOGISTIC", name="scores", integer=False, sources=(1,)),
)
NO_CONTRACT: Any = None
"""Of use to photographs alone; here noise is run."""

SCORES = np.array([[0.5, 0.25]], np.float32)


class Listening(Silent):
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def answer(*changed: int, error: float = 0.0, faithful: bool = True, trace: bool = True) -> Answer:
    """One picture, on which the operators of these numbers compute something else."""
    digests = np.array([[1000 + n if n in changed else n for n in range(len(OPERATORS))]], np.uint64)
    seen = Trace(operators=OPERATORS, digests=digests, faithful=faithful) if trace else None
    return Answer(runtime="ai-edge-litert 2", outputs={"scores": SCORES * np.float32(1 + error)}, trace=seen)


def subject(name: str = "a_160x160_w8a8.tflite", precision: Precision = Precision.W8A8) -> Subject:
    facts = FileFacts(
        inputs=(), outputs=(), operators={}, macs=1, integer_macs=1, float_islands=(), minimum_runtime="unknown"
    )
    return Subject(
        name=name, path=Path(name), target="onnx" if name.endswith(".onnx") else "tflite", precision=precision,
        head=Head.DECODED, size=Size(height=32, width=32), facts=facts,
    )  # fmt: skip


def machine(name: str, **changes: Any) -> Machine:
    plain = Machine(name=name, line=(sys.executable,), site=None, machine="x86_64", environment={})
    return dataclasses.replace(plain, **changes)


TOOLCHAIN = Toolchain(arm64=machine("arm"), x86_64=machine("x86"))
Compare = Callable[..., tuple[tuple[Finding, ...], list[str]]]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`compare({"arm": …, "x86": …})` judges those answers, and gives the findings and what was said."""

    def judged(
        answers: dict[str, Answer], found: Sequence[Subject] = (), limits: Sequence[str] = ()
    ) -> tuple[tuple[Finding, ...], list[str]]:
        installed = "9.9" if "here" in answers else emulator.LITERT
        monkeypatch.setattr(exporters, "version", lambda name: installed)
        monkeypatch.setattr(emulator, "here", lambda: machine("here"))

        def run(where: Machine, model: Path, images: Any, *, macs: int, trace: bool, on_picture: Any) -> Answer:
            assert images.dtype == np.uint8
            given = answers[where.name]
            return given if trace else dataclasses.replace(given, trace=None)

        monkeypatch.setattr(emulator, "run", run)
        progress = Listening()
        stated = [parse_limit(text) for text in limits]
        findings = architectures.compare(TOOLCHAIN, found or [subject()], (), NO_CONTRACT, stated, Clock(progress))
        return findings, progress.said

    return judged


def test_bit_identical_passes(compare: Compare) -> None:
    findings, said = compare({"arm": answer(), "x86": answer()})
    assert [(f.name, f.actual, f.limit, f.verdict) for f in findings] == [
        ("arm64.identical", 1.0, 1.0, Verdict.PASS),
        ("arm64.snr_db.scores", 200.0, 100.0, Verdict.PASS),
    ]
    assert "every 8-bit tensor bit-identical; outputs bit-identical" in said[1]


def test_an_8_bit_difference_fails_and_names_where_it_begins(compare: Compare) -> None:
    findings, said = compare({"arm": answer(0, 1, 2, error=0.1), "x86": answer()})
    identical, snr = findings
    assert (identical.verdict, identical.actual) == (Verdict.FAIL, 0.0)
    assert identical.reason == "0 is below 1: CONV_2D 'stem'"
    assert (snr.verdict, round(snr.actual or 0.0)) == (Verdict.FAIL, 20)
    assert "8-bit tensors differ from CONV_2D 'stem' on" in said[1]


def test_a_float_difference_is_held_to_its_size(compare: Compare) -> None:
    findings, said = compare({"arm": answer(2, error=1e-6), "x86": answer()})
    assert [f.verdict for f in findings] == [Verdict.PASS, Verdict.PASS]
    assert said[1].endswith("from float LOGISTIC 'scores' on")


def test_float_files_are_held_to_their_outputs_alone(compare: Compare) -> None:
    files = [subject("a_fp32.tflite", Precision.FP32)]
    findings, _ = compare({"arm": answer(error=1e-4), "x86": answer()}, files)
    (snr,) = findings
    assert (snr.name, snr.verdict) == ("arm64.snr_db.scores", Verdict.FAIL)
    findings, _ = compare({"arm": answer(error=1e-4), "x86": answer()}, files, ["arm64.snr_db=70", "arm64.identical=1"])
    assert [(f.name, f.verdict) for f in findings] == [
        ("arm64.snr_db.scores", Verdict.PASS),
        ("arm64.identical", Verdict.SKIPPED),
    ]


def test_what_is_no_number_fails(compare: Compare) -> None:
    findings, _ = compare({"arm": answer(2, error=float("nan")), "x86": answer()})
    assert [f.verdict for f in findings] == [Verdict.PASS, Verdict.FAIL]


def test_what_the_version_changes_is_told_apart(compare: Compare) -> None:
    findings, said = compare({"arm": answer(), "x86": answer(), "here": answer(0, 1, 2, error=0.1)})
    assert {f.verdict for f in findings} == {Verdict.PASS}
    assert "version alone changes" in said[2]
    assert "CONV_2D 'stem'" in said[2]


def test_files_of_other_targets_are_skipped(compare: Compare) -> None:
    findings, _ = compare({"arm": answer(), "x86": answer()}, [subject("a_160x160_w8a8.onnx")])
    (skipped,) = findings
    assert (skipped.name, skipped.verdict) == ("arm64.identical", Verdict.SKIPPED)
    assert "only files of tflite" in skipped.reason


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (answer(faithful=False), "keeping every tensor changes the outputs"),
        (
            dataclasses.replace(
                answer(), trace=Trace(operators=OPERATORS[:1], digests=np.zeros((1, 1), np.uint64), faithful=True)
            ),
            "do not tell of the same operators",
        ),
        (dataclasses.replace(answer(), outputs={"boxes": SCORES}), "the outputs on the two machines are"),
        (dataclasses.replace(answer(), outputs={"scores": SCORES[:, :1]}), "the outputs on the two machines are"),
    ],
)
def test_answers_that_cannot_be_compared_are_errors(compare: Compare, arm: Answer, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        compare({"arm": arm, "x86": answer()})


def test_many_differing_operators_are_counted() -> None:
    many = tuple(Operator(kind="CONV_2D", name=f"c{n}", integer=True, sources=()) for n in range(7))
    one, other = (
        dataclasses.replace(answer(), trace=Trace(operators=many, digests=np.full((1, 7), n, np.uint64), faithful=True))
        for n in (0, 1)
    )
    assert architectures._named(architectures.introduced(one, other)).endswith("CONV_2D 'c4' and 2 more")


def test_only_tflite_files_can_be_asked_for() -> None:
    with pytest.raises(UsageError, match=r"runs \.tflite files"):
        architectures.ready([subject("a_fp32.onnx", Precision.FP32)])


def test_a_machine_that_is_not_set_up_is_found_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(MissingSetupError, match="facex doctor --setup-arm64") as caught:
        architectures.ready([subject()])
    assert caught.value.exit_code == 5


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory: pytest.TempPathFactory, seeded_checkpoint: Path, calib_dir: Path) -> Path:
    """A w8a8 TFLite file of the seeded network at 160x160."""
    pytest.importorskip("tensorflow", reason="needs the extra tflite")
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    out = tmp_path_factory.mktemp("int8")
    facex.export(
        seeded_checkpoint, targets=["tflite"], precisions=["w8a8"], sizes=["160x160"], calib=calib_dir,
        int8_effort="minmax", limits=["float_islands=1000"], out=out,
    )  # fmt: skip
    (found,) = out.glob("*.tflite")
    return found


def _spoiled(path: Path, folder: Path) -> tuple[Path, str]:
    """A copy with the sign of one weight turned round, and the name of the tensor that it is a weight of."""
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(path.read_bytes())
    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    convolutions = [o for o in map(graph.Operators, range(graph.OperatorsLength())) if o.InputsLength() == 3]
    chosen = convolutions[len(convolutions) // 2]
    weights = model.Buffers(graph.Tensors(chosen.Inputs(1)).Buffer()).DataAsNumpy()
    at = bytes(data).find(weights.tobytes()) + int(np.abs(weights.view(np.int8).astype(int)).argmax())
    data[at] = (256 - data[at]) % 256
    spoiled = folder / path.name
    spoiled.write_bytes(bytes(data))
    return spoiled, graph.Tensors(chosen.Outputs(0)).Name().decode()


@pytest.mark.slow
def test_an_artifact_changed_on_one_side_is_caught_and_the_operator_named(int8_file: Path, tmp_path: Path) -> None:
    """The real script in two real interpreters of this machine, of which one is handed another file."""
    spoiled, name = _spoiled(int8_file, tmp_path)
    deceiving = tmp_path / "deceiving.py"
    deceiving.write_text(
        "import runpy, sys\n"
        "_, script, site, model, *rest = sys.argv\n"
        f"sys.argv = [script, site, {str(spoiled)!r}, *rest]\n"
        "sys.path.insert(0, '')\n"
        "runpy.run_path(script, run_name='__main__')\n",
        encoding="utf-8",
    )
    here = emulator.here()
    (opened,), _ = find([int8_file])
    arguments = ([opened.subject], (), opened.contract, (), Clock(Silent()))
    same = architectures.compare(Toolchain(arm64=here, x86_64=here), *arguments)
    assert {f.verdict for f in same} == {Verdict.PASS}
    liar = dataclasses.replace(here, line=(*here.line, str(deceiving)))
    found = {f.name: f for f in architectures.compare(Toolchain(arm64=liar, x86_64=here), *arguments)}
    assert found["arm64.identical"].verdict is Verdict.FAIL
    assert found["arm64.identical"].reason.endswith(f"'{name}'")
    assert found["arm64.snr_db.boxes"].verdict is Verdict.FAIL


@pytest.mark.slow
def test_asked_for_and_not_set_up_exits_with_5(
    int8_file: Path, run_facex: Any, seeded_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    ran = run_facex("check", int8_file, "--reference", seeded_checkpoint, "--arch", "arm64")
    assert (ran.code, ran.out) == (5, "")
    assert "facex doctor --setup-arm64" in ran.error


@pytest.mark.slow
def test_a_limit_on_arm64_is_skipped_where_nobody_asked_for_arm64(
    int8_file: Path, run_facex: Any, seeded_checkpoint: Path
) -> None:
    line = ("check", int8_file, "--reference", seeded_checkpoint, "--limit", "arm64.identical=1", "--json")
    (found,) = (f for f in json.loads(run_facex(*line).out)["findings"] if f["name"].startswith("arm64."))
    assert (found["verdict"], found["reason"]) == ("skipped", "not measured: needs facex check --arch arm64")


@pytest.mark.slow
def test_the_real_emulated_phone_computes_the_same(int8_file: Path, run_facex: Any, seeded_checkpoint: Path) -> None:
    try:
        emulator.find()
    except (MissingSetupError, UsageError) as reason:
        pytest.skip(str(reason))
    ran = run_facex("check", int8_file, "--reference", seeded_checkpoint, "--arch", "arm64", "--json")
    found = {f["name"]: f for f in json.loads(ran.out)["findings"]}
    assert found["arm64.identical"]["verdict"] == "pass", found["arm64.identical"]
    assert found["arm64.snr_db.boxes"]["actual"] >= 100.0
