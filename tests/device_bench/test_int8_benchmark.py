"""The int8 benchmark: its commands, what it keeps, and what it reads from finished files."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from facex.types import ChannelOrder, ContractOptions, FileFacts, FloatIsland, Latency, LatencyKind, Size

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
MODULES = ("int8", "int8_rows", "int8_peers", "export_time")
PHOTOGRAPHS = ["--calib", "c", "--images", "i"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("int8")


@pytest.fixture
def rows(bench: ModuleType) -> ModuleType:
    return bench.int8_rows


def _options(bench: ModuleType, *arguments: str) -> Any:
    return bench.parsed(["--checkpoint", "m.pth", *PHOTOGRAPHS, *arguments])


def _variant(bench: ModuleType, program: str) -> Any:
    return bench.Variant(name="row", argv=(sys.executable, "-c", program, "{out}"), env=os.environ)


WRITING = "import sys; open(sys.argv[1] + '/a.tflite', 'w').write('x'); "


def test_each_row_of_facex_is_asked_for_what_its_name_says(bench: ModuleType) -> None:
    options = _options(bench, "--", "--activation", "relu")

    def argv(row: str) -> tuple[str, ...]:
        found: tuple[str, ...] = bench.int8_variant(row, options, "320x480", 3).argv
        return found

    for row, effort in (("best", "best"), ("fast", "fast"), ("mixed", "best"), ("mixed-calib", "best")):
        words = argv(row)
        assert words[1:5] == ("-m", "facex", "export", "m.pth")
        for option, value in (("--int8-effort", effort), ("--seed", "3"), ("--calib", "c"), ("--size", "320x480")):
            assert words[words.index(option) + 1] == value
        assert words[words.index("--activation") + 1] == "relu"
        assert ("--min-f1" in words) is ("--max-nme" in words) is row.startswith("mixed")
    assert [row for row in bench.EFFORTS if "--images" in argv(row)] == ["mixed"]


def test_rows_of_facex_come_once_a_seed_and_the_others_once(bench: ModuleType) -> None:
    options = _options(bench, "--seed", "0", "--seed", "2", "--row", "fast", "--row", "stock", "--row", "peer")
    contract = ContractOptions(activation_slope=0.0)
    peer = {"name": "peer 1.0", "python": "other", "env": {}}
    found = list(bench.variants(options, "320x320", contract, peer))
    assert [v.name for v in found] == ["facex fast, seed 0", "facex fast, seed 2", "TFLite converter", "peer 1.0"]
    assert [v.raw for v in found] == [False, False, True, True]
    assert [v.argv[0] for v in found[2:]] == [sys.executable, "other"]
    stated = json.loads(found[3].argv[found[3].argv.index("--contract") + 1])
    assert stated["activation_slope"] == 0.0
    assert len(list(bench.variants(options, "320x320", contract, "no --peer-python given"))) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "640"],
        ["--seed", "-1"],
        ["--row", "slow"],
        ["--runs", "0"],
        ["--limit-photographs", "0"],
    ],
)
def test_wrong_arguments_are_usage_errors(bench: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _options(bench, *arguments)
    assert caught.value.code == 2


def test_the_contract_reaches_the_peer_unchanged(bench: ModuleType) -> None:
    stated = ContractOptions(
        activation_slope=0.0,
        min_sizes=((10.0, 20.0), (32.0,)),
        channel_order=ChannelOrder.RGB,
        mean=(1.0, 2.0, 3.0),
    )
    (variant,) = bench.variants(_options(bench, "--row", "stock"), "32x32", stated, "")
    text = variant.argv[variant.argv.index("--contract") + 1]
    assert sys.modules["int8_peers"].contract_options(text) == stated


def test_a_file_is_taken_again_only_from_the_same_command_and_evidence(bench: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"
    variant = _variant(bench, WRITING + f"print('run', file=open({str(log)!r}, 'a'))")
    first = bench.exported(variant, tmp_path / "row", {"code": "1"})
    again = bench.exported(variant, tmp_path / "row", {"code": "1"})
    assert again == first
    assert first.path.read_text() == "x"
    assert first.seconds > 0
    assert len(log.read_text().split()) == 1
    bench.exported(variant, tmp_path / "row", {"code": "2"})
    assert len(log.read_text().split()) == 2


def test_a_file_that_missed_its_limits_is_a_row_with_its_exit_code(bench: ModuleType, tmp_path: Path) -> None:
    program = "import os, sys; os.mkdir(sys.argv[1] + '/w'); open(sys.argv[1] + '/w/a.tflite.failed', 'w'); sys.exit(3)"
    file = bench.exported(_variant(bench, program), tmp_path / "row", {})
    assert (file.exit_code, file.path.name) == (3, "a.tflite.failed")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (WRITING + "print('last words'); sys.exit(6)", r"row: exit code 6(.|\n)*last words"),
        ("pass", "row: wrote 0 .tflite files"),
        (WRITING + "open(sys.argv[1] + '/b.tflite', 'w')", "row: wrote 2 .tflite files"),
    ],
)
def test_a_command_without_one_file_is_an_error(bench: ModuleType, tmp_path: Path, program: str, message: str) -> None:
    with pytest.raises(bench.RunError, match=message):
        bench.exported(_variant(bench, program), tmp_path / "row", {})
    assert not (tmp_path / "row" / "export.json").exists()


@pytest.mark.slow
def test_a_peer_that_cannot_run_is_a_reason(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.peer_interpreter(None, tmp_path / "path") == "no --peer-python given"
    assert "No such file" in bench.peer_interpreter(tmp_path / "python", tmp_path / "path")
    monkeypatch.setattr(bench, "PEER_PACKAGES", ("no-such-package", "pillow"))
    assert bench.peer_interpreter(Path(sys.executable), tmp_path / "path").endswith(
        "no-such-package is not installed there"
    )
    monkeypatch.setattr(bench, "PEER_PACKAGES", ("numpy", "pillow"))
    found = bench.peer_interpreter(Path(sys.executable), tmp_path / "path")
    assert found["name"].startswith(f"numpy {np.__version__} + pillow ")
    assert [p.name for p in Path(found["env"]["PYTHONPATH"]).iterdir()] == ["facex"]


def test_a_limited_folder_links_to_photographs_from_all_over(
    bench: ModuleType, photo_dir: Path, tmp_path: Path
) -> None:
    everything = bench.photographs.find(photo_dir, option="")
    assert bench.limited(photo_dir, None, tmp_path / "all", "") == photo_dir
    assert bench.limited(photo_dir, len(everything), tmp_path / "all", "") == photo_dir
    few = bench.photographs.find(bench.limited(photo_dir, 2, tmp_path / "few", ""), option="")
    assert [p.sha256 for p in few] == [everything[0].sha256, everything[len(everything) // 2].sha256]


CONVOLUTION = ("CONV_2D", {1, 90}, {2})


@pytest.mark.parametrize(
    ("operators", "count"),
    [
        ([CONVOLUTION, ("DEQUANTIZE", {2}, {3})], 0),
        ([("QUANTIZE", {0}, {1}), CONVOLUTION, ("DEQUANTIZE", {2}, {3}), ("LOGISTIC", {3}, {4})], 0),
        (
            [
                CONVOLUTION,
                ("DEQUANTIZE", {2}, {3}),
                ("LEAKY_RELU", {3}, {4}),
                ("QUANTIZE", {4}, {5}),
                ("DEPTHWISE_CONV_2D", {5, 91}, {6}),
                ("DEQUANTIZE", {6}, {7}),
            ],
            1,
        ),
        ([("DEQUANTIZE", {90}, {91}), ("CONV_2D", {0, 91}, {2})], 0),  # a weight, not an activation
    ],
)
def test_dequantize_counts_where_a_convolution_follows(rows: ModuleType, operators: list[Any], count: int) -> None:
    assert rows._count_dequantize(operators) == count


def test_images_and_outputs_are_put_on_the_grid_of_the_file(rows: ModuleType) -> None:
    pixels = np.array([0, 1, 128, 255], np.uint8)
    on_grid = rows.quantized(pixels, {"dtype": np.int8, "quantization": (0.5, -128)})
    assert (on_grid.dtype, on_grid.tolist()) == (np.int8, [-128, -126, 127, 127])
    assert rows.quantized(pixels, {"dtype": np.float32, "quantization": (0.0, 0)}).tolist() == [0, 1, 128, 255]
    values = rows.dequantized(np.array([-5, 3], np.int8), {"quantization": (0.25, -5)})
    assert (values.dtype, values.tolist()) == (np.float32, [0.0, 2.0])


@pytest.mark.slow
def test_the_converter_s_own_calibration_gives_an_integer_file_that_can_be_compared(
    bench: ModuleType, rows: ModuleType, seeded_checkpoint: Path, photo_dir: Path, tmp_path: Path
) -> None:
    path, size = tmp_path / "stock.tflite", Size(height=160, width=160)
    (variant,) = bench.variants(_options(bench, "--row", "stock"), str(size), ContractOptions(), "")
    argv = [*variant.argv[2:]]
    for option, value in (("--checkpoint", seeded_checkpoint), ("--calib", photo_dir), ("--out", path)):
        argv[argv.index(option) + 1] = str(value)
    assert sys.modules["int8_peers"].main(argv) == 0
    files = [rows.File(name=rows.STOCK, path=path, seconds=1.0, exit_code=0, raw=True)]
    detector = bench.detector.load(seeded_checkpoint, ContractOptions())
    photographs = bench.photographs.find(photo_dir, option="")
    (row,) = rows.measured(files, detector, size, photographs, None, threads=1, runs=2)
    assert row.facts.integer_mac_fraction == 1.0
    assert row.dequantize_before_head == 0
    assert row.facts.operators["DEQUANTIZE"] == 3
    assert row.counts["reference_faces"] > 0
    assert row.metrics["matched_f1"] > 0.5  # 0 for outputs in another order, or a frame that is off
    assert (row.ratio_to_fp32, row.ratio_to_stock) == (1.0, 1.0)


def test_what_is_not_finite_is_named_and_the_rest_is_json(rows: ModuleType, tmp_path: Path) -> None:
    row = _row(rows, tmp_path, {"matched_f1": 0.98765432, "box_iou_mean": float("nan"), "ap_drop_easy": None})
    plain = rows.plain(row)
    assert plain["metrics"] == {"matched_f1": 0.987654, "box_iou_mean": None, "ap_drop_easy": None}
    assert plain["not_finite"] == ["box_iou_mean"]
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_tables_show_every_row(rows: ModuleType, tmp_path: Path) -> None:
    row = _row(rows, tmp_path, {"matched_f1": 0.98765432, "lost_faces": 0.002, "ap_drop_easy": -0.0012})
    console = rows.console()
    with console.capture() as caught:
        for columns in (rows.ACCURACY, rows.COST):
            console.print(rows.table([row], columns))
    accuracy, cost = (
        [cell.strip() for cell in line.strip("| \n").split("|")]
        for line in caught.get().splitlines()
        if "facex best" in line
    )
    assert accuracy == ["facex best", "0.988", "0.20", "- / -", "- / -", "-", "-0.12 / - / - / -"]
    assert cost == ["facex best", "75.00", "1", "0.600", "12", "0", "4.00", "0.50", "-"]


def _row(rows: ModuleType, tmp_path: Path, metrics: dict[str, Any]) -> Any:
    facts = FileFacts(
        inputs=(),
        outputs=(),
        operators={"CONV_2D": 2},
        macs=400,
        integer_macs=300,
        float_islands=(FloatIsland(name="a", operator="CONV_2D", macs=100),),
        minimum_runtime="",
    )
    latency = Latency(
        artifact="facex best",
        device="here",
        kind=LatencyKind.MEASURED,
        threads=1,
        runs=5,
        p50_ms=5.0,
        low_ms=4.0,
        high_ms=6.0,
        method="",
    )
    return rows.Row(
        file=rows.File(name="facex best", path=tmp_path, seconds=12.4, exit_code=0, raw=False),
        size=Size(height=32, width=64),
        size_bytes=600_000,
        facts=facts,
        dequantize_before_head=1,
        metrics=metrics,
        counts={"matched": 3},
        latency=latency,
        ratio_to_fp32=0.5,
        ratio_to_stock=None,
    )
