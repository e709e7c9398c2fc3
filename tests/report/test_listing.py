"""The tables of `bench`, `inspect` and `doctor`."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from facex import doctor
from facex.manifest import Manifest
from facex.report import listing
from facex.types import (
    Artifact,
    Credits,
    FileFacts,
    Finding,
    FloatIsland,
    ForecastOperations,
    Head,
    HeadTensor,
    HeadUnit,
    KernelFacts,
    Latency,
    LatencyKind,
    NeuralEngineForecast,
    Placement,
    Precision,
    QuantizationFacts,
    ReferenceKernel,
    ShownTensor,
    Size,
    StandardMetadata,
    TensorInfo,
    Verdict,
)


class Ascii(io.StringIO):
    """A stream of a terminal that knows only ASCII."""

    encoding = "ascii"  # type: ignore[assignment]

    def write(self, text: str) -> int:
        return super().write(text.encode("ascii").decode())


def _shown(show: Callable[[Console], None], stream: io.StringIO | None = None, width: int = 80) -> list[str]:
    stream = io.StringIO() if stream is None else stream
    show(Console(file=stream, width=width, highlight=False, soft_wrap=True))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def _artifact(name: str, precision: Precision, **changes: Any) -> Artifact:
    artifact = Artifact(
        path=name,
        target="tflite",
        precision=precision,
        head=Head.DECODED,
        size=Size(height=160, width=160),
        size_bytes=1_234_567,
        sha256="0" * 64,
        inputs=(TensorInfo(name="image", shape=(1, 160, 160, 3), dtype="uint8"),),
        outputs=(TensorInfo(name="scores", shape=(1, 1050), dtype="float32"),),
        integer_mac_fraction=0.0,
        minimum_runtime="LiteRT 1.14",
        runtime=None,
        promoted=True,
    )
    return dataclasses.replace(artifact, **changes)


def _latency(name: str, low: float, p50: float) -> Latency:
    return Latency(
        artifact=name,
        device="host: a processor",
        kind=LatencyKind.MEASURED,
        threads=1,
        runs=50,
        p50_ms=p50,
        low_ms=low,
        high_ms=2 * p50,
        method="LiteRT 2; alone",
    )


def _timing(
    artifacts: list[Artifact], latency: list[Latency], findings: tuple[Finding, ...] = (), **options: Any
) -> list[str]:
    return _shown(lambda console: listing.timing(artifacts, latency, findings, console), **options)


def _row(lines: list[str], name: str) -> list[str]:
    return next(line for line in lines if line.startswith(name)).removeprefix(name).split()


def test_ratios_are_of_minima_to_the_float_file() -> None:
    artifacts = [_artifact("a_fp32", Precision.FP32), _artifact("a_w8a8", Precision.W8A8)]
    lines = _timing(artifacts, [_latency("a_fp32", 10, 11), _latency("a_w8a8", 4, 11)])
    headers = [
        "artifact",
        "times are",
        "min ms",
        "p50 ms",
        "p90 ms",
        "x fp32 min",
        "x fp32 p50",
        "load ms",
        "peak MB",
        "MB",
    ]
    assert re.split(r" {2,}", lines[0].strip()) == headers
    assert _row(lines, "a_fp32") == ["measured", "10.00", "11.00", "22.00", "1.00", "1.00", "-", "-", "1.235"]
    assert _row(lines, "a_w8a8") == ["measured", "4.00", "11.00", "22.00", "0.40", "1.00", "-", "-", "1.235"]
    assert "measured on host: a processor, 1 thread, 50 runs: LiteRT 2; alone" in lines


def test_ratios_are_between_the_same_numbers_of_threads() -> None:
    artifacts = [_artifact("a_fp32", Precision.FP32), _artifact("a_w8a8", Precision.W8A8)]
    one = [_latency("a_fp32", 10, 12), _latency("a_w8a8", 4, 6)]
    two = [dataclasses.replace(_latency(*each), threads=2) for each in (("a_fp32", 5, 8), ("a_w8a8", 4, 4))]
    lines = _timing(artifacts, [one[0], two[0], one[1], two[1]])
    assert lines[0].split()[:4] == ["artifact", "threads", "times", "are"]
    rows = [line.split() for line in lines if line.startswith("a_")]
    assert [(row[0], row[1], row[6], row[7]) for row in rows] == [
        ("a_fp32", "1", "1.00", "1.00"),
        ("a_fp32", "2", "1.00", "1.00"),
        ("a_w8a8", "1", "0.40", "0.50"),
        ("a_w8a8", "2", "0.80", "0.50"),
    ]
    assert "measured on host: a processor, 2 threads, 50 runs: LiteRT 2; alone" in lines


@pytest.mark.parametrize(
    "changes",
    [{"target": "onnx"}, {"size": Size(height=320, width=320)}, {"head": Head.RAW}, {"precision": Precision.FP16}],
    ids=lambda changes: next(iter(changes)),
)
def test_only_the_float_file_of_the_same_target_size_and_head_is_a_base(changes: dict[str, Any]) -> None:
    artifacts = [_artifact("a_fp32", **{"precision": Precision.FP32, **changes}), _artifact("b_w8a8", Precision.W8A8)]
    lines = _timing(artifacts, [_latency("a_fp32", 10, 11), _latency("b_w8a8", 4, 5)])
    assert _row(lines, "b_w8a8")[4] == listing.ABSENT


def test_what_a_file_takes_to_start() -> None:
    entry = dataclasses.replace(_latency("a_fp32", 10, 11), load_ms=20.5, memory_mb=9.25)
    assert _row(_timing([_artifact("a_fp32", Precision.FP32)], [entry]), "a_fp32")[6:8] == ["20.50", "9.25"]


def test_an_estimate_is_called_one_and_has_no_ratio_to_a_measurement() -> None:
    phone = dataclasses.replace(
        _latency("b_w8a8", 4, 5), kind=LatencyKind.ESTIMATE, device="pixel-4: a processor", runs=0, method="ratio"
    )
    artifacts = [_artifact("a_fp32", Precision.FP32), _artifact("b_w8a8", Precision.W8A8)]
    lines = _timing(artifacts, [_latency("a_fp32", 10, 11), phone])
    assert "low ms" in lines[0]
    assert "min ms" not in lines[0]
    assert _row(lines, "b_w8a8")[:6] == ["pixel-4", "estimate", "4.00", "5.00", "10.00", listing.ABSENT]
    assert "b_w8a8, estimate for pixel-4: a processor, 1 thread: ratio" in lines


def test_what_was_not_timed_has_no_figures() -> None:
    skipped = Finding(
        name="latency",
        artifact="a_fp32",
        unit="ms",
        actual=None,
        limit=3.0,
        verdict=Verdict.SKIPPED,
        reason="runs on Darwin only",
    )
    lines = _timing([_artifact("a_fp32", Precision.FP32), _artifact("b_w8a8", Precision.W8A8)], [], (skipped,))
    assert _row(lines, "a_fp32") == [*[listing.ABSENT] * 8, "1.235"]
    assert "skipped a_fp32 latency: runs on Darwin only" in lines
    assert not [line for line in lines if line.startswith(("measured", "x fp32"))]


def test_an_exceeded_budget_is_told_and_a_met_one_is_not() -> None:
    finding = Finding(
        name="size", artifact="a_fp32", unit="MB", actual=1.2, limit=1.0, verdict=Verdict.FAIL, reason="1.2 is above 1"
    )
    met = dataclasses.replace(finding, verdict=Verdict.PASS, reason="")
    lines = _timing([_artifact("a_fp32", Precision.FP32)], [], (finding, met))
    assert [line for line in lines if "size" in line] == ["FAIL a_fp32 size: 1.2 is above 1"]


@pytest.mark.parametrize("name", ["[red]face[bold]_fp32.tflite", "a[b]_fp32.tflite", "x" * 120 + "_fp32.tflite"])
def test_file_names_are_whole_and_are_no_markup(name: str) -> None:
    artifact = _artifact(name, Precision.FP32)
    assert any(line.startswith(name) for line in _timing([artifact], [_latency(name, 1, 2)], width=60))
    assert _inspected(artifact)[0] == name


@pytest.mark.parametrize("stream", [io.StringIO, Ascii])
def test_file_names_cannot_move_the_cursor_nor_break_the_output(stream: type[io.StringIO]) -> None:
    artifact = _artifact("a\x1b[2Jb\udcff_é_fp32.tflite", Precision.FP32)
    written = "a\\x1b[2Jb\\udcff_" + ("\\xe9" if stream is Ascii else "é") + "_fp32.tflite"
    assert any(line.startswith(written) for line in _timing([artifact], [], stream=stream()))
    assert _inspected(artifact, stream=stream())[0] == written


FACTS = FileFacts(
    inputs=(TensorInfo(name="image", shape=(1, 160, 160, 3), dtype="uint8"),),
    outputs=(TensorInfo(name="boxes", shape=(1, 1050, 4), dtype="float32"),),
    operators={"ADD": 3, "CONV_2D": 30},
    macs=2_000_000,
    integer_macs=1_900_000,
    float_islands=tuple(FloatIsland(name=f"head/{i}", operator="CONV_2D", macs=5_000) for i in range(20)),
    minimum_runtime="LiteRT 1.14",
    metadata={"facex.head": "decoded", "size": "theirs"},
)


def _inspected(
    artifact: Artifact,
    facts: FileFacts = FACTS,
    record: Manifest | None = None,
    kernels: KernelFacts | None = None,
    **options: Any,
) -> list[str]:
    return _shown(lambda console: listing.facts([(artifact, facts, kernels)], record, console), **options)


def test_facts_of_a_file() -> None:
    lines = _inspected(_artifact("a_w8a8.tflite", Precision.W8A8))
    fields = [(line[2:21].strip(), line[21:]) for line in lines[1:]]
    assert lines[0] == "a_w8a8.tflite"
    assert ("target", "tflite, w8a8, decoded head, 160x160") in fields
    assert ("size", f"1.235 MB, sha256 {'0' * 64}") in fields
    assert ("runs on", "LiteRT 1.14") in fields
    assert ("inputs", "image uint8[1, 160, 160, 3]") in fields
    assert ("outputs", "boxes float32[1, 1050, 4]") in fields
    assert ("MACs", "2.0 M, 95.00% of them integer") in fields
    assert ("operators", "3 ADD, 30 CONV_2D") in fields
    assert ("head", "decoded") in fields
    assert ("size", "theirs") in fields  # what a file says cannot hide what it is
    assert fields.count(("float island", "head/0 (CONV_2D, 0.25% of the MACs)")) == 1
    assert len([name for name, _ in fields if name == "float island"]) == listing.SHOWN_ISLANDS
    assert fields[-1] == ("", f"and {20 - listing.SHOWN_ISLANDS} more (--json lists all)")


def test_a_file_without_islands_says_nothing_of_them() -> None:
    facts = dataclasses.replace(FACTS, float_islands=(), macs=0, integer_macs=0)
    assert not [line for line in _inspected(_artifact("a.tflite", Precision.FP32), facts) if "island" in line]


def test_credits_are_shown_where_there_are_any() -> None:
    signed = dataclasses.replace(FACTS, credits=Credits(author="[b]Some Body", version="2"))
    lines = _inspected(_artifact("a.tflite", Precision.FP32), signed)
    assert "  author             [b]Some Body" in lines
    assert "  model version      2" in lines
    assert not [line for line in lines if "licence" in line]


def test_what_tools_show_of_a_file_is_shown() -> None:
    tensors = (
        ShownTensor(name="image", content="image", description="a [b]photograph"),
        ShownTensor(name="scores", content="", description=""),
    )
    shown = StandardMetadata(format="Core ML", name="", description="a detector", tensors=tensors)
    lines = _inspected(_artifact("a.mlpackage", Precision.FP16), dataclasses.replace(FACTS, standard_metadata=shown))
    at = lines.index("  tools show         a detector (Core ML)")
    assert lines[at + 1 : at + 3] == [
        "                     image (image): a [b]photograph",
        "                     scores: not described",
    ]
    named = dataclasses.replace(shown, name="n", format="TFLite Metadata, parser 1.0.0")
    lines = _inspected(_artifact("a.tflite", Precision.FP16), dataclasses.replace(FACTS, standard_metadata=named))
    assert "  tools show         n: a detector (TFLite Metadata, parser 1.0.0)" in lines
    assert not [line for line in _inspected(_artifact("a.tflite", Precision.FP16)) if "tools show" in line]


def test_a_forecast_is_called_one_and_names_its_sources() -> None:
    def row(operator: str, placement: Placement, source: str) -> ForecastOperations:
        return ForecastOperations(
            operator=operator, count=3, placement=placement, reason=f"why {operator}", source=source
        )

    forecast = NeuralEngineForecast(
        operations=(
            row("conv", Placement.NEURAL_ENGINE, "https://a.example"),
            row("exp", Placement.ELSEWHERE, "https://b.example"),
            row("relu", Placement.NEURAL_ENGINE, "https://a.example"),
            row("odd", Placement.UNKNOWN, ""),
        ),
        resident_operation_fraction=0.5,
        resident_mac_fraction=0.999,
        transitions=1,
        first_elsewhere="exp 'e'",
        notes=("something else",),
    )
    artifact = _artifact("a.mlpackage", Precision.FP16)
    lines = _inspected(artifact, dataclasses.replace(FACTS, neural_engine_forecast=forecast))
    told = lines[len(_inspected(artifact)) :]
    assert told[0] == "forecast for the Neural Engine, from published statements; no device was asked"
    assert told[1:6] == [
        "  operations there   50.0%",
        "  MACs there         99.9%",
        "  transitions        1 tensor copied between it and other engines",
        "  first elsewhere    exp 'e'",
        "  note               something else",
    ]
    assert [line.split() for line in told[8:12]] == [
        ["conv", "3", "neural", "engine", "why", "conv", "[1]"],
        ["exp", "3", "elsewhere", "why", "exp", "[2]"],
        ["relu", "3", "neural", "engine", "why", "relu", "[1]"],
        ["odd", "3", "unknown", "why", "odd", listing.ABSENT],
    ]
    assert told[12:] == ["  [1]                https://a.example", "  [2]                https://b.example"]
    everywhere = dataclasses.replace(forecast, first_elsewhere=None)
    told = _inspected(artifact, dataclasses.replace(FACTS, neural_engine_forecast=everywhere))
    assert "  first elsewhere    none" in told


def test_what_a_file_does_with_its_integers() -> None:
    head = HeadTensor(name="cls", output="scores", unit=HeadUnit.LOGIT, step=0.05)
    many = tuple(f"t{i}" for i in range(listing.SHOWN_ISLANDS + 2))
    found = QuantizationFacts(
        head_tensors=(head,), requantizations=many, unasked_floats=0, constant_weights=("w",), dead_channels=3
    )
    lines = _inspected(_artifact("a.onnx", Precision.W8A8), dataclasses.replace(FACTS, quantization=found))
    fields = [(line[2:21].strip(), line[21:]) for line in lines[1:]]
    assert ("head step", "scores: 0.05 logit, cls") in fields
    assert [name for name, _ in fields].count("requantized") == listing.SHOWN_ISLANDS
    assert ("", "and 2 more (--json lists all)") in fields
    assert ("constant weight", "w") in fields
    assert ("dead channels", "3 with no weight but zero") in fields


def _kernels(shares: list[float | None] | None) -> list[tuple[str, str]]:
    """What is shown of the kernels after everything else; names are the places in the file."""
    left = None
    if shares is not None:
        left = tuple(ReferenceKernel(operator="RELU", name=f"r[{i}]", share_of_time=s) for i, s in enumerate(shares))
    kernels = KernelFacts(reference_kernels=left, reference_kernels_method="how it was done")
    artifact = _artifact("a.tflite", Precision.W8A8)
    lines = _inspected(artifact, kernels=kernels)
    assert lines[: -1 - (0 if not shares else 1 + min(len(shares), listing.SHOWN_KERNELS + 1))] == _inspected(artifact)
    return [(line[2:21].strip(), line[21:]) for line in lines[len(_inspected(artifact)) :]]


def test_operators_on_reference_kernels_the_slowest_first() -> None:
    assert _kernels([0.01, None, 0.25]) == [
        ("reference kernels", "3 operators, 26.00% of the time and 1 not timed"),
        ("reference kernel", "r[2] (RELU, 25.00% of the time)"),
        ("reference kernel", "r[0] (RELU, 1.00% of the time)"),
        ("reference kernel", "r[1] (RELU, not timed)"),
        ("measured", "how it was done"),
    ]


def test_of_many_operators_the_quick_ones_are_summed_up() -> None:
    fields = _kernels([0.0001 * i for i in range(listing.SHOWN_KERNELS + 4)])
    assert len([name for name, _ in fields if name == "reference kernel"]) == listing.SHOWN_KERNELS
    assert fields[-2] == ("", "and 4 more, 0.06% of the time (--json lists all)")


def test_no_operator_on_a_reference_kernel_is_told() -> None:
    assert _kernels([]) == [("reference kernels", "none (how it was done)")]


def test_unknown_kernels_are_told_apart_from_none() -> None:
    assert _kernels(None) == [("reference kernels", "how it was done")]


def test_what_a_manifest_recorded(rich: Manifest) -> None:
    lines = _inspected(rich.artifacts[0], FACTS, rich)
    recorded = [line[2:] for line in lines[lines.index("manifest") + 1 :]]
    assert len(recorded) == 5 + len(rich.findings)
    assert recorded[0] == f"checkpoint         {rich.source.checkpoint}, sha256 {rich.source.sha256}"
    assert rich.calibration
    assert any(line.startswith(f"calibration        {rich.calibration.count} photographs") for line in recorded)
    for finding in rich.findings:
        assert any(line.startswith(f"{finding.verdict:<18} {finding.artifact} {finding.name} ") for line in recorded)


def test_a_manifest_of_a_run_without_photographs(rich: Manifest) -> None:
    bare = dataclasses.replace(rich, calibration=None, evaluation=None, findings=())
    bare = dataclasses.replace(bare, source=dataclasses.replace(bare.source, assumed=()))
    lines = _inspected(rich.artifacts[0], FACTS, bare)
    assert "  assumed            nothing" in lines
    assert "  calibration        none" in lines
    assert "  parity             no photographs" in lines


def test_health() -> None:
    lacking = doctor.TargetHealth(
        name="tflite", exports=False, runs="", packages={"tensorflow": None}, advice="pip install 'facex[tflite]'"
    )
    good = doctor.TargetHealth(name="onnx", exports=True, runs="onnxruntime 1.2", packages={"onnx": "1.1"}, advice="")
    found = doctor.Health(facex="0.1", python="3.11", system="Linux x86_64", targets=(lacking, good))
    lines = _shown(lambda console: listing.health(found, console))
    assert lines[0] == "facex 0.1, Python 3.11, Linux x86_64"
    assert _row(lines, "tflite") == ["NO", "no", "tensorflow", "missing"]
    assert _row(lines, "onnx") == ["yes", "onnxruntime", "1.2", "onnx", "1.1"]
    assert lines[-1] == "tflite: pip install 'facex[tflite]'"
