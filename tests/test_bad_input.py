"""Everything that a user can get wrong, through the real command line: one line, exit code 2, nothing written."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facex import workspace

Run = Callable[..., Any]


class _Payload:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _bad_checkpoint(kind: str, folder: Path, good: Path) -> Path:
    import torch

    path = folder / f"{kind}.pth"
    if kind == "text":
        path.write_text("this is not a checkpoint\n")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-5000])
    elif kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": _Payload(folder / "executed")}))
    elif kind == "architecture":
        torch.save(torch.nn.Linear(3, 4).state_dict(), path)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "not a PyTorch checkpoint"),
        ("empty", "not a PyTorch checkpoint"),
        ("truncated", "not a PyTorch checkpoint"),
        ("code", "refused: unpickling it "),
        ("architecture", "not a detector that facex knows"),
        ("folder", "is a folder"),
        ("missing", "no such file"),
    ],
)
@pytest.mark.parametrize("command", ["export", "check"])
def test_bad_checkpoints(
    run_facex: Run, tmp_path: Path, seeded_checkpoint: Path, exported: Path, command: str, kind: str, message: str
) -> None:
    path = _bad_checkpoint(kind, tmp_path, seeded_checkpoint)
    arguments = {
        "export": [path, "--target", "onnx", "--size", "160x160"],
        "check": [exported / "manifest.json", "--reference", path],
    }
    ran = run_facex(command, *arguments[command], "--out", "out")
    assert ran.code == 2
    assert message in ran.error
    assert path.name in ran.error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "executed").exists()


NOT_A_NUMBER = "must be a positive number"
BAD_CONTRACTS = [
    (["--anchors", "16,32"], "[2] prior sizes by level, the checkpoint's heads have [2, 2, 2]"),
    (["--anchors", "16;32;64"], "[1, 1, 1] prior sizes by level"),
    (["--anchors", "16,32;64,x;256,512"], "is not a list of numbers"),
    (["--anchors", "16,32;64,128;256,-512"], "sizes must be positive"),
    (["--anchors", "16,32;64,nan;256,512"], "is not a list of numbers"),
    (["--activation", "leaky:2"], "is not relu or leaky:SLOPE"),
    (["--activation", "swish"], "is not relu or leaky:SLOPE"),
    (["--mean", "1,2"], "is not 3 numbers"),
    (["--mean", "1,2,inf"], "is not 3 numbers"),
    (["--scale", "1,1,x"], "is not 3 numbers"),
    (["--scale", "1,0,1"], "must be positive"),
    (["--variances", "0.1"], "is not 2 numbers"),
    (["--variances", "0,0.2"], "must be positive"),
    (["--channel-order", "gbr"], "'gbr' is not one of 'bgr', 'rgb'"),
    (["--landmarks", "0"], "--landmarks"),
    (["--landmarks", "68"], "the checkpoint's landmark heads have 5 points"),
]
BAD_EVIDENCE = [
    (["--images", "missing"], "--images missing: no such folder"),
    (["--images", "a_file"], "--images a_file: is a file"),
    (["--images", "empty"], "--images empty: holds no photograph"),
    (["--images", "without_photographs"], "--images without_photographs: holds no photograph"),
    (["--images", "PHOTOS", "--ground-truth", "missing.json"], "--ground-truth missing.json: cannot be read"),
    (["--images", "PHOTOS", "--ground-truth", "a_file"], "--ground-truth a_file: is not JSON"),
    (["--images", "PHOTOS", "--ground-truth", "other.json"], "has no entry for any of the 6 photographs"),
    (["--ground-truth", "other.json"], "--ground-truth needs the photographs"),
    (["--limit", "nonsense=1"], "no metric is called 'nonsense'"),
    (["--limit", "matched_f1=x"], "must be METRIC=NUMBER"),
    (["--limit", "matched_f1"], "must be METRIC=NUMBER"),
    (["--limit", "matched_f1=nan"], "a number from 0 to 1"),
    (["--limit", "fp99.matched_f1=0.9"], "no metric is called 'fp99.matched_f1'"),
    (["--min-f1", "1.5"], "a number from 0 to 1"),
    (["--min-f1", "nan"], "a number from 0 to 1"),
    (["--max-nme", "-1"], "a number from 0 to 1"),
]
BAD_BUDGETS = [
    (["--max-size-mb", "0"], NOT_A_NUMBER),
    (["--max-size-mb", "nan"], NOT_A_NUMBER),
    (["--max-size-mb", "1MB"], NOT_A_NUMBER),
    (["--max-latency-ms", "-3"], NOT_A_NUMBER),
    (["--max-latency-ms", "inf"], NOT_A_NUMBER),
    (["--max-load-ms", "0"], NOT_A_NUMBER),
    (["--max-memory-mb", "nan"], NOT_A_NUMBER),
    (["--threads", "0"], "--threads"),
    (["--threads", "100000"], "--threads"),
    (["--threads", "two"], "--threads"),
]
BAD_OUT = [
    (["--out", "a_file"], "--out a_file: is a file"),
    (["--out", "a_file/deeper"], "--out a_file/deeper: a_file is a file"),
]
BAD_EXPORTS = [
    (["--size", "0"], "--size 0: must be positive"),
    (["--size", "640x0"], "--size 640x0: must be positive"),
    (["--size", "641"], "--size 641x641: 641 is not a multiple of 8"),
    (["--size", "640x641"], "641 is not a multiple of 8"),
    (["--size", "abc"], "--size abc: is not HEIGHTxWIDTH"),
    (["--size", "-5"], "--size -5: is not HEIGHTxWIDTH"),
    (["--size", "640x480x3"], "is not HEIGHTxWIDTH"),
    (["--size", "64000"], "use 8 to 4096"),
    (["--target", "ncnn"], "'ncnn' is not one of 'coreml', 'onnx', 'tflite'"),
    (["--precision", "fp8"], "'fp8' is not one of 'fp32', 'fp16', 'w8', 'p6', 'p4', 'w8a8'"),
    (["--precision", "w8"], "--precision w8: onnx cannot write it"),
    (["--int8"], "onnx w8a8 needs calibration photographs"),
    (["--int8", "--calib", "missing"], "--calib missing: no such folder"),
    (["--calib", "missing"], "--calib missing: no such folder"),
    (["--int8", "--calib", "empty"], "--calib empty: holds no photograph"),
    (["--int8", "--calib", "PHOTOS", "--images", "PHOTOS"], "--images and --calib share picture_0.jpg"),
    (["--int8-effort", "x"], "'x' is not one of 'minmax', 'fast', 'best'"),
    (["--int8-steps", "0"], "'--int8-steps': 0 is not in the range x>=1"),
    (["--int8-steps", "many"], "'--int8-steps': 'many' is not a valid integer"),
    (["--seed", "-1"], "'--seed': -1 is not in the range x>=0"),
    (["--head", "half"], "'half' is not one of 'decoded', 'raw'"),
    (["--opset", "5"], "--opset"),
    (["--opset", "latest"], "--opset"),
    (["--deployment-target", "iOS3"], "'iOS3' is not one of"),
    (["--colour", "red"], "No such option '--colour'"),
    (["surplus"], "unexpected extra argument (surplus)"),
    (["--size"], "requires an argument"),
]


@pytest.fixture
def run_with(
    run_facex: Run, quick_pivot: None, tmp_path: Path, photo_dir: Path, content: Callable[[Path], Any]
) -> Callable[[list[Any], list[str]], str]:
    """`run_with(command, mistake)` runs it, shows that it is refused and wrote nothing, and gives the error line."""
    (tmp_path / "a_file").write_text("not JSON, no folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "without_photographs").mkdir()
    (tmp_path / "without_photographs" / "notes.txt").write_text("none")
    (tmp_path / "other.json").write_text('{"images": [{"file": "other.jpg", "faces": []}]}')

    def run(command: list[Any], mistake: list[str]) -> str:
        before = content(tmp_path)
        ran = run_facex(*command, *(photo_dir if word == "PHOTOS" else word for word in mistake))
        assert ran.code == 2
        assert ran.out == ""
        assert content(tmp_path) == before
        return str(ran.error)

    return run


@pytest.mark.parametrize(
    ("mistake", "message"), [*BAD_CONTRACTS, *BAD_EVIDENCE, *BAD_BUDGETS, *BAD_OUT, *BAD_EXPORTS], ids=str
)
def test_export_refuses(
    run_with: Callable[..., str], seeded_checkpoint: Path, mistake: list[str], message: str
) -> None:
    command = ["export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out"]
    assert message in run_with(command, mistake)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        *BAD_CONTRACTS,
        *BAD_EVIDENCE,
        *BAD_BUDGETS,
        *BAD_OUT,
        (["--precision", "fp8"], "'fp8' is not one of"),
        (["missing_fp32.onnx"], "missing_fp32.onnx: no such file"),
        (["a_file"], "a_file: is of no known target"),
        (["--size", "160x160"], "No such option '--size'"),
    ],
    ids=str,
)
def test_check_refuses(
    run_with: Callable[..., str], exported: Path, seeded_checkpoint: Path, mistake: list[str], message: str
) -> None:
    artifact = exported / "seeded_160x160_fp32.onnx"
    assert message in run_with(["check", artifact, "--reference", seeded_checkpoint, "--out", "out"], mistake)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        *BAD_BUDGETS,
        (["--runs", "0"], "--runs"),
        (["--warmup", "-1"], "--warmup"),
        (["--precision", "fp8"], "'fp8' is not one of"),
        (["missing_fp32.onnx"], "missing_fp32.onnx: no such file"),
        (["a_file"], "a_file: is of no known target"),
        (["--images", "PHOTOS"], "No such option '--images'"),
    ],
    ids=str,
)
def test_bench_refuses(run_with: Callable[..., str], exported: Path, mistake: list[str], message: str) -> None:
    assert message in run_with(["bench", exported / "seeded_160x160_fp32.onnx"], mistake)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--precision", "fp8"], "'fp8' is not one of"),
        (["missing_fp32.onnx"], "missing_fp32.onnx: no such file"),
        (["a_file"], "a_file: is of no known target"),
        (["--threads", "1"], "No such option '--threads'"),
    ],
    ids=str,
)
def test_inspect_refuses(run_with: Callable[..., str], exported: Path, mistake: list[str], message: str) -> None:
    assert message in run_with(["inspect", exported / "seeded_160x160_fp32.onnx"], mistake)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["export", "--activation", "relu"], "the bundled detector was not trained with that activation slope"),
        (["render"], "Missing argument 'FOLDER'"),
        (["render", "a_file"], "a_file: exists and is not empty"),
        (["render", "a_file/new"], "a_file/new: a_file is a file"),
        (["render", "new", "--count", "0"], "0 is not in the range"),
        (["render", "new", "--seed", "-1"], "-1 is not in the range"),
        (["render", "new", "surplus"], "unexpected extra argument (surplus)"),
        (["check"], "Missing argument 'ARTIFACTS...'"),
        (["check", "a_file"], "nothing was given to hold the artifacts against"),
        (["check", "other.json", "--reference", "m.pth"], "other.json: schema_version is None"),
        (["bench"], "Missing argument 'ARTIFACTS...'"),
        (["bench", "a_file.json"], "a_file.json: cannot be read"),
        (["inspect"], "Missing argument 'ARTIFACTS...'"),
        (["doctor", "--target", "ncnn"], "'ncnn' is not one of"),
        (["doctor", "surplus"], "unexpected extra argument (surplus)"),
        (["convert"], "No such command 'convert'"),
        (["--config", "missing.toml", "doctor"], "--config missing.toml: no such file"),
        (["--config", "empty", "doctor"], "--config empty: no such file"),
        (["--quiet"], "No such option '--quiet'"),
    ],
    ids=str,
)
def test_refuses(run_with: Callable[..., str], line: list[str], message: str) -> None:
    assert message in run_with(line, [])


def test_a_work_folder_of_somebody_else_is_left_alone(
    run_with: Callable[..., str], tmp_path: Path, seeded_checkpoint: Path
) -> None:
    work = tmp_path / "out" / workspace.FOLDER
    work.mkdir(parents=True)
    (work / "thesis.txt").write_text("three years")
    command = ["export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out"]
    assert "exists and is not facex's" in run_with(command, [])


def _photographs(kind: str, folder: Path, good: Path) -> Path:
    """The good photographs with a bad one among them."""
    shutil.copytree(good, folder)
    bad = folder / "picture_3.png"
    if kind == "unreadable":
        bad.write_bytes(bad.read_bytes()[:900])
    elif kind == "no picture":
        bad.write_text("hello")
    elif kind == "tiny":
        Image.new("RGB", (200, 5)).save(bad)
    return folder


def _line(command: str, checkpoint: Path, exported: Path, folder: Path) -> list[Any]:
    export = ["export", checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out"]
    return {
        "export": [*export, "--images", folder],
        "calibrate": [*export, "--int8", "--int8-effort", "fast", "--calib", folder],
        "check": ["check", exported / "seeded_160x160_fp32.onnx", "--reference", checkpoint, "--images", folder],
    }[command]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unreadable", "picture_3.png: cannot be decoded"),
        ("no picture", "picture_3.png: cannot be decoded"),
        ("tiny", "picture_3.png: 200x5 is too small"),
    ],
)
@pytest.mark.parametrize("command", ["export", "check", "calibrate"])
def test_bad_photographs(
    run_with: Callable[..., str],
    tmp_path: Path,
    seeded_checkpoint: Path,
    exported: Path,
    photo_dir: Path,
    command: str,
    kind: str,
    message: str,
) -> None:
    folder = _photographs(kind, tmp_path / "photographs", photo_dir)
    assert message in run_with(_line(command, seeded_checkpoint, exported, folder), [])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "check"])
def test_photographs_without_faces(
    run_with: Callable[..., str],
    tmp_path: Path,
    seeded_state: Callable[..., dict[str, Any]],
    exported: Path,
    photo_dir: Path,
    command: str,
) -> None:
    import torch

    state = seeded_state()
    for key in [key for key in state if key.startswith("ClassHead") and key.endswith("bias")]:
        state[key][1::2] -= 1000  # no prior is ever a face
    torch.save(state, tmp_path / "blind.pth")
    error = run_with(_line(command, tmp_path / "blind.pth", exported, photo_dir), [])
    assert f"{photo_dir}: the reference finds no face in any photograph" in error
    assert "the contract is wrong" in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["export", "nowhere.pth", "--size", "abc"], "error: --size abc: is not HEIGHTxWIDTH — for example 640x640"),
        (["check", "nowhere_fp32.onnx", "--reference", "m.pth"], "error: nowhere_fp32.onnx: no such file"),
        (["export", "text.pth", "--out", "out"], "error: text.pth: not a PyTorch checkpoint"),
    ],
    ids=["option", "file", "checkpoint"],
)
def test_in_a_process_of_its_own(tmp_path: Path, line: list[str], message: str) -> None:
    (tmp_path / "text.pth").write_text("hello")
    done = subprocess.run(
        [sys.executable, "-m", "facex", *line], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert [text for text in done.stderr.splitlines() if not text.endswith(" …")] == [done.stderr.splitlines()[-1]]
    assert done.stderr.splitlines()[-1].startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["text.pth"]
