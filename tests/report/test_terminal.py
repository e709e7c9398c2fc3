from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from facex.manifest import Manifest
from facex.report import terminal
from facex.report.wording import NOTHING
from facex.types import Artifact, ContractOptions, Finding, Latency, LatencyKind, Settled, SettledBy, Verdict

ONNX, FP16, INT8, CORE_ML = range(4)
"""Places of the artifacts in the manifest `rich`."""


LEFT = ", none promoted, 1 left in facex-work/"


def _report(manifest: Manifest, *, out_dir: Path | None = Path("build"), width: int | None = None) -> str:
    """The report without colour: in a log, or in a terminal of a width."""
    console = Console(file=io.StringIO(), width=width or 100, force_terminal=width is not None, no_color=True)
    terminal.render(manifest, out_dir=out_dir, console=console)
    text: str = console.file.getvalue()
    # `no_color` keeps bold and dim
    return text if width is None else "".join(_without_codes(text))


def _without_codes(text: str) -> list[str]:
    first, *others = text.split("\x1b[")
    return [first, *(part.split("m", 1)[1] for part in others)]


def _named(manifest: Manifest, names: dict[int, str]) -> Manifest:
    """The manifest with other file names."""
    new = {manifest.artifacts[i].name: name for i, name in names.items()}
    artifacts = tuple(
        dataclasses.replace(a, path=a.path.replace(a.name, new.get(a.name, a.name))) for a in manifest.artifacts
    )
    findings = tuple(dataclasses.replace(f, artifact=new.get(f.artifact, f.artifact)) for f in manifest.findings)
    latency = tuple(dataclasses.replace(e, artifact=new.get(e.artifact, e.artifact)) for e in manifest.latency)
    return dataclasses.replace(manifest, artifacts=artifacts, findings=findings, latency=latency)


def _passed(manifest: Manifest) -> Manifest:
    """The manifest with what did not pass taken out."""
    return dataclasses.replace(
        manifest,
        artifacts=(manifest.artifacts[FP16],),
        findings=tuple(f for f in manifest.findings if f.artifact == manifest.artifacts[FP16].name),
        latency=(),
    )


def _row(text: str, artifact: Artifact) -> str:
    """The artifact's line in the table."""
    return next(line for line in text.split("\n\n")[0].splitlines() if artifact.name in line)


def _failures(text: str) -> list[str]:
    """Lines of the section that lists what failed."""
    return next(part for part in text.split("\n\n")[1:] if part.startswith("FAIL  ")).splitlines()


@pytest.mark.parametrize(
    ("name", "width"), [("terminal_log.txt", None), ("terminal_80.txt", 80), ("terminal_120.txt", 120)]
)
def test_report_is_as_recorded(
    rich: Manifest, agrees_with_golden: Callable[[str, str], None], name: str, width: int | None
) -> None:
    agrees_with_golden(name, _report(rich, width=width))


@pytest.mark.parametrize(("name", "width"), [("runtimes_log.txt", None), ("runtimes_120.txt", 120)])
def test_report_of_several_runtimes_is_as_recorded(
    several: Manifest, agrees_with_golden: Callable[[str, str], None], name: str, width: int | None
) -> None:
    agrees_with_golden(name, _report(several, out_dir=None, width=width))


@pytest.mark.parametrize("width", [80, 120])
def test_every_runtime_has_its_row_with_its_own_figures(several: Manifest, width: int) -> None:
    table = _report(several, out_dir=None, width=width).split("\n\n")[0].splitlines()
    name = several.artifacts[0].name
    rows = [" ".join(table[i : i + 1 + (width == 80)]).split() for i, line in enumerate(table) if name in line]
    assert [row[:3] for row in rows] == [
        ["pass", name, "executor"],
        ["FAIL", name, "native-cpu"],
        ["skipped", name, "native-ane"],
    ]
    assert [row[7] for row in rows] == ["0.999", "0.997", NOTHING]
    assert [row[-1] for row in rows] == [NOTHING, "(4.10)", NOTHING]


def test_a_file_compared_in_one_of_its_runtimes_is_not_called_compared(several: Manifest) -> None:
    assert "1 not compared in every runtime" in _report(several)
    both = dataclasses.replace(several, findings=tuple(f for f in several.findings if f.verdict is not Verdict.SKIPPED))
    assert "not compared" not in _report(both)


@pytest.mark.parametrize("width", [None, 60, 80, 100, 200])
def test_lines_fit_and_names_are_whole(rich: Manifest, width: int | None) -> None:
    text = _report(rich, width=width)
    assert max(map(len, text.splitlines())) <= (width or 100) or width == 60  # the figures alone need 67
    assert all(text.count(a.name) >= 1 for a in rich.artifacts)
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "…" not in text


@pytest.mark.parametrize("width", [None, 80, 200])
def test_names_longer_than_the_line_and_with_spaces_are_whole(rich: Manifest, width: int | None) -> None:
    long = f"my net {'very ' * 50}long_640x640_w8a8.tflite"
    manifest = _named(rich, {INT8: long})
    text = _report(manifest, width=width)
    assert long in _row(text, manifest.artifacts[INT8])
    assert f"FAIL  {long}" in text
    assert text.count(long) >= 4


def test_what_was_not_measured_is_a_dash_and_never_zero(rich: Manifest) -> None:
    cells = _row(_report(rich), rich.artifacts[CORE_ML]).split()
    assert cells == ["skipped", rich.artifacts[CORE_ML].name, "coreml", "fp16", "0.95", "0%", *[NOTHING] * 5]


def test_a_failed_artifact_is_red_and_says_so(rich: Manifest) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    terminal.render(rich, out_dir=None, console=console)
    row = _row(console.file.getvalue(), rich.artifacts[INT8])
    assert row.startswith("\x1b[1;31mFAIL\x1b[0m")
    assert f"\x1b[31m{rich.artifacts[INT8].name}" in row
    assert "\x1b[1;31m0.873" in row  # the metric that failed stands out from the row
    assert "\x1b[31m33.5 (25.1)" in row
    passed = _row(console.file.getvalue(), rich.artifacts[FP16])
    assert "\x1b[32mpass" in passed
    assert "31m" not in passed
    assert _row(_report(rich), rich.artifacts[INT8]).startswith("FAIL ")


@pytest.mark.parametrize(
    ("metric", "actual", "shown"),
    [
        ("matched_f1", 1.0, "1.000"),
        ("matched_f1", 0.99999, "0.999"),
        ("matched_f1", 0.57, "0.570"),
        ("lost_faces", 0.0, "0%"),
        ("lost_faces", 1e-5, "<0.01%"),
        ("lost_faces", 0.0024, "0.24%"),
        ("lost_faces", 0.1211, "12.1%"),
        ("lost_faces", 1.0, "100.0%"),
        ("box_iou_p5", 0.9999, "0.999"),
        ("landmark_nme_mean", 0.0, "0.0000"),
        ("landmark_nme_mean", 2.1e-6, "2e-06"),
        ("landmark_nme_mean", 0.00412, "0.0041"),
    ],
)
def test_figures_never_look_better_than_they_are(rich: Manifest, metric: str, actual: float, shown: str) -> None:
    name = rich.artifacts[FP16].name
    findings = tuple(
        dataclasses.replace(f, actual=actual) if (f.artifact, f.name) == (name, metric) else f for f in rich.findings
    )
    row = _row(_report(dataclasses.replace(rich, findings=findings)), rich.artifacts[FP16])
    column = {"matched_f1": 6, "lost_faces": 7, "box_iou_p5": 8, "landmark_nme_mean": 9}[metric]
    assert row.split()[column] == shown


@pytest.mark.parametrize(("fraction", "shown"), [(0.0, "0%"), (0.001, "<1%"), (0.9999, "99%"), (1.0, "100%")])
def test_integer_share_is_cut_off(rich: Manifest, fraction: float, shown: str) -> None:
    artifacts = (dataclasses.replace(rich.artifacts[FP16], integer_mac_fraction=fraction),)
    text = _report(dataclasses.replace(rich, artifacts=artifacts))
    assert _row(text, rich.artifacts[FP16]).split()[5] == shown


def test_every_failed_finding_has_its_line(rich: Manifest) -> None:
    lines = _failures(_report(rich))
    failed = [f for f in rich.findings if f.verdict is Verdict.FAIL]
    assert [line.split()[1:3] for line in lines] == [[f.artifact, f.name] for f in failed]
    assert lines[0].endswith("0.87312, limit >= 0.98")
    assert lines[-1].endswith("1.734 MB, limit <= 1.5 MB")


def _with_failure(manifest: Manifest, actual: float | None, reason: str) -> Manifest:
    finding = Finding(
        name="matched_f1",
        artifact=manifest.artifacts[FP16].name,
        unit="ratio",
        actual=actual,
        limit=0.995,
        verdict=Verdict.FAIL,
        reason=reason,
    )
    return dataclasses.replace(manifest, findings=(finding,))


@pytest.mark.parametrize(
    ("actual", "reason", "told"),
    [
        (0.9, "0.9 is below 0.995", False),
        (0.9, "0.9 ratio is below the limit of 0.995 ratio", False),
        (0.9, "0.9 is below 0.995: blurred faces", True),
        (None, "not a finite number", True),
        (None, "is", True),
    ],
)
def test_a_reason_is_told_unless_it_only_repeats_the_figures(
    rich: Manifest, actual: float | None, reason: str, told: bool
) -> None:
    (line,) = _failures(_report(_with_failure(rich, actual, reason)))
    assert line.endswith(reason) is told
    assert (f"{NOTHING}, limit 0.995" in line) is (actual is None)


def test_a_long_reason_goes_below(rich: Manifest) -> None:
    words = [f"word{i}" for i in range(40)]
    _, *below = _failures(_report(_with_failure(rich, None, " ".join(words))))
    assert " ".join(below).split() == words
    assert all(line.startswith("        word") and len(line) <= 100 for line in below)


def test_skipped_findings_are_told_once_a_reason(rich: Manifest) -> None:
    text = _report(rich)
    assert text.count("SKIPPED") == 2 == len({f.reason for f in rich.findings if f.verdict is Verdict.SKIPPED})
    names = ", ".join(a.name for a in rich.artifacts[:3])
    assert f"SKIPPED  no --ground-truth was given\n         ap_drop_*: {names}\n" in text


def test_assumed_fields_are_marked_with_the_options_that_state_them(rich: Manifest) -> None:
    text = _report(rich)
    text = " ".join(text.split())
    assert "activation leaky:0.1*, anchors 16,32;64,128;256,512*, variances 0.1,0.2, channels bgr*," in text
    assert "--activation leaky:0.1 --anchors '16,32;64,128;256,512' --channel-order bgr" in text
    stated = dataclasses.replace(rich, source=dataclasses.replace(rich.source, assumed=()))
    assert "*" not in _report(stated).split("Contract")[1]
    assert "--activation" not in _report(stated)


def test_a_demonstration_is_said_to_be_one(rich: Manifest) -> None:
    shown = dataclasses.replace(rich, source=dataclasses.replace(rich.source, demonstration=True))
    told = "This is the demonstration detector that facex brings along."
    assert told in " ".join(_report(shown).split())
    assert "facex export MODEL.pth" in _report(shown)
    assert told not in " ".join(_report(rich).split())


def test_options_can_be_given_back_exactly(rich: Manifest) -> None:
    contract = dataclasses.replace(
        rich.source.contract, activation_slope=0.0, pyramid_slope=0.0, scale=(1 / 57.375, 0.017507, 1.0)
    )
    source = dataclasses.replace(rich.source, contract=contract, assumed=("activation_slope", "scale"))
    text = _report(dataclasses.replace(rich, source=source))
    assert f"--activation relu --scale {1 / 57.375!r},0.017507,1\n" in text


def test_every_assumption_can_be_worded(rich: Manifest) -> None:
    names = tuple(field.name for field in dataclasses.fields(ContractOptions))
    contract = dataclasses.replace(rich.source.contract, pyramid_slope=0.05)
    text = _report(dataclasses.replace(rich, source=dataclasses.replace(rich.source, assumed=names, contract=contract)))
    options = text.split("state it:")[1].split("Photographs")[0]
    assert options.count("--") == len(names)
    assert not any(line.rstrip().endswith(word) for line in options.splitlines() for word in ("--scale", "--mean"))


@pytest.mark.parametrize(
    ("backbone", "pyramid", "assumed", "told"),
    [
        (0.1, 0.1, ("activation_slope", "pyramid_slope"), "--activation leaky:0.1"),
        (0.1, 0.0, ("activation_slope", "pyramid_slope"), "--activation leaky:0.1 --pyramid-activation relu"),
        (0.0, 0.0, ("pyramid_slope",), "--pyramid-activation relu"),
        (0.0, None, ("activation_slope",), "--activation relu"),
    ],
)
def test_the_activation_of_the_pyramid_is_told_where_it_matters(rich: Manifest, backbone, pyramid, assumed, told):
    contract = dataclasses.replace(rich.source.contract, activation_slope=backbone, pyramid_slope=pyramid)
    text = _report(
        dataclasses.replace(rich, source=dataclasses.replace(rich.source, contract=contract, assumed=assumed))
    )
    assert text.split("state it:")[1].split("Probe")[0].strip() == told


def test_photographs_are_counted(rich: Manifest) -> None:
    assert "50 for parity, 412 reference faces; 2 for calibration (min-max)" in _report(rich)
    none = dataclasses.replace(rich, evaluation=None, calibration=None)
    assert "Photographs  none for parity; none for calibration" in _report(none)


def _estimate(artifact: str) -> Latency:
    return Latency(
        artifact=artifact, device="Example Phone", kind=LatencyKind.ESTIMATE, threads=1, runs=0,
        p50_ms=1234.5, low_ms=1000.0, high_ms=1500.0, method="ratio",
    )  # fmt: skip


def test_an_estimate_is_called_one_and_has_its_band(rich: Manifest) -> None:
    manifest = dataclasses.replace(rich, latency=(_estimate(rich.artifacts[FP16].name),))
    text = _report(manifest, width=120)
    assert _row(text, rich.artifacts[FP16]).endswith("1234 (estimate)")
    assert "1234 ms (1000 to 1500), estimate for Example Phone, 1 thread\n" in text
    assert "measured" not in text


def test_what_a_file_takes_to_start_is_told_with_its_device(rich: Manifest) -> None:
    entry = dataclasses.replace(rich.latency[FP16], load_ms=40.25, memory_mb=None)
    assert "Start  " not in _report(dataclasses.replace(rich, latency=rich.latency[:1]))
    text = _report(dataclasses.replace(rich, latency=(entry,)), width=120)
    name = rich.artifacts[FP16].name
    assert f"\nStart        {name}: load 40.2 ms, measured on host: Example CPU" in text
    both = dataclasses.replace(entry, memory_mb=9.5)
    assert "load 40.2 ms, peak memory 9.5 MB, " in _report(dataclasses.replace(rich, latency=(both,)), width=120)


def test_a_finding_about_a_device_names_it(rich: Manifest) -> None:
    failed = dataclasses.replace(
        next(f for f in rich.findings if f.name == "size" and f.verdict is Verdict.FAIL), device="pixel-4"
    )
    skipped = dataclasses.replace(
        failed, name="latency", actual=None, verdict=Verdict.SKIPPED, reason="nothing measured it"
    )
    text = _report(dataclasses.replace(rich, findings=(failed, skipped)))
    assert "  size on pixel-4  " in text
    assert "SKIPPED  nothing measured it\n         latency on pixel-4: " in text


def test_a_measured_latency_goes_before_an_estimate(rich: Manifest) -> None:
    name = rich.artifacts[FP16].name
    manifest = dataclasses.replace(rich, latency=(_estimate(name), *rich.latency))
    assert _row(_report(manifest), rich.artifacts[FP16]).endswith("119 (89.1)")


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ((), "PASSED  exit code 0, nothing failed: 1 artifact, 1 promoted to ./"),
        (
            ("matched_f1", "size"),
            f"FAILED  exit code 3, parity failed: 1 of 1 artifact failed{LEFT}",
        ),
        (
            ("latency",),
            f"FAILED  exit code 4, budget exceeded: 1 of 1 artifact failed{LEFT}",
        ),
    ],
)
def test_last_line_is_the_outcome(rich: Manifest, failures: tuple[str, ...], expected: str) -> None:
    manifest = _passed(rich)
    if failures:
        artifact = dataclasses.replace(manifest.artifacts[0], path="facex-work/a.tflite.failed", promoted=False)
        named = [dataclasses.replace(f, artifact="a.tflite") for f in manifest.findings]
        failed = {"verdict": Verdict.FAIL, "reason": "worse"}
        findings = [dataclasses.replace(f, **failed) if f.name in failures else f for f in named]
        manifest = dataclasses.replace(manifest, artifacts=(artifact,), findings=tuple(findings))
    assert _report(manifest, out_dir=Path("."), width=200).splitlines()[-1] == expected


def test_a_pass_that_nothing_was_compared_for_says_so(rich: Manifest) -> None:
    manifest = dataclasses.replace(_passed(rich), findings=())
    assert _report(manifest, out_dir=None, width=200).splitlines()[-1] == (
        "PASSED  exit code 0, nothing failed: 1 artifact, 1 not compared with the reference"
    )


def test_nothing_is_said_of_places_where_nothing_was_written(rich: Manifest) -> None:
    assert "promoted" not in _report(rich, out_dir=None)
    assert "left in" not in _report(rich, out_dir=None)


def test_a_manifest_without_artifacts(rich: Manifest) -> None:
    text = _report(dataclasses.replace(rich, artifacts=(), findings=(), latency=()))
    assert text.startswith("No artifacts.\n")
    assert text.splitlines()[-1] == "PASSED  exit code 0, nothing failed: 0 artifacts, none promoted"


def test_names_that_a_terminal_would_obey_are_escaped(rich: Manifest) -> None:
    name = "a\x1b[31m\n[red]\udcff.tflite"
    manifest = _named(rich, {INT8: name})
    text = _report(manifest)
    assert r"a\x1b[31m\n[red]\udcff.tflite" in text
    assert "\x1b" not in text
    text.encode("utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_encoding_gets_a_report(rich: Manifest, encoding: str) -> None:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    terminal.render(_named(rich, {FP16: "日本_640x640_fp16.tflite"}), out_dir=Path("build"), console=Console(file=file))
    file.flush()
    text = buffer.getvalue().decode(encoding)
    assert (NOTHING in text) is (encoding in ("cp1252", "utf-8"))
    assert ("日本" in text) is (encoding == "utf-8")
    assert "_640x640_fp16.tflite" in text


def test_columns_hold_for_wide_characters(rich: Manifest) -> None:
    from rich.cells import cell_len

    manifest = _named(rich, {FP16: "日本_640x640_fp16.tflite"})
    text = _report(manifest, width=120)
    assert len({cell_len(_row(text, a)) for a in manifest.artifacts}) == 1


def test_reports_load_without_rich() -> None:
    code = (
        "import sys\n"
        "from facex.report import document, junit, table, terminal, wording\n"
        "print(sorted({'rich', 'torch', 'numpy', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_what_a_probe_found_and_left_open_is_told(rich: Manifest) -> None:
    text = " ".join(_report(rich).split())
    assert "Probe found variances 0.74, scale 0.98 (confidence, from 0.5 on decided)" in text
    assert "undecided: anchors (too few neighbouring detections)" in text
    bare = dataclasses.replace(rich, source=dataclasses.replace(rich.source, settled=()))
    assert "Probe" not in _report(bare)


def test_an_activation_by_design_is_not_called_one_that_was_chosen(rich: Manifest) -> None:
    contract = dataclasses.replace(rich.source.contract, activation_slope=0.0, pyramid_slope=0.0)
    settled = (Settled(field="activation_slope", how=SettledBy.PROVED),)
    source = dataclasses.replace(rich.source, contract=contract, settled=settled, assumed=())
    text = _report(dataclasses.replace(rich, source=source))
    told = text.split("Contract")[1].split("Photographs")[0]
    assert "pyramid activation relu" in told
    assert "activation" not in told.replace("pyramid activation", "")
