"""Goldens on a phone behind the fake `adb`: what is sent, what comes back, and what is left. No real phone was seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import facex
from facex import exporters
from facex.device_bench import adb
from facex.errors import DeviceError, UsageError
from facex.goldens import format as goldens
from facex.goldens import replay
from facex.goldens.format import Description, Tolerances
from facex.goldens.record import record
from facex.progress import Clock, Silent
from facex.reference import photographs
from facex.types import DeviceFile, DeviceOptions, FileFacts, Size, TensorInfo, Verdict

OUTPUTS = (
    TensorInfo(name="boxes", shape=(1, 3, 4), dtype="float32"),
    TensorInfo(name="count", shape=(1,), dtype="int32"),
    TensorInfo(name="scores", shape=(1, 3), dtype="float32"),
)


@pytest.fixture
def file(tmp_path: Path) -> DeviceFile:
    path = tmp_path / "a model_fp32.tflite"
    path.write_bytes(b"TFL3 or not")
    facts = FileFacts(
        inputs=(TensorInfo(name="image", shape=(1, 4, 5, 3), dtype="uint8"),), outputs=OUTPUTS, operators={}, macs=0,
        integer_macs=0, float_islands=(), minimum_runtime="",
    )  # fmt: skip
    return DeviceFile(name=path.name, path=path, size=Size(height=4, width=5), facts=facts)


def _picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, 4, 5, 3), dtype=np.uint8)


def _tensors(seed: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(100 + seed)
    return {
        "boxes": random.normal(size=(1, 3, 4)).astype(np.float32),
        "count": np.asarray([seed], np.int32),
        "scores": random.random((1, 3), dtype=np.float32),
    }


def _know(phone: Any, seeds: range) -> list[NDArray[np.uint8]]:
    """The phone knows what to answer to these pictures."""
    for seed in seeds:
        phone.outputs(_picture(seed).tobytes(), b"".join(t.tobytes() for t in _tensors(seed).values()))
    return [_picture(seed) for seed in seeds]


def _run(file: DeviceFile, pictures: list[NDArray[np.uint8]], options: DeviceOptions | None = None) -> Any:
    return adb.replay([file], pictures, "", options or DeviceOptions(), Silent())


def test_each_picture_comes_back_as_its_own_outputs(fake_phone: Any, file: DeviceFile) -> None:
    found = _run(file, _know(fake_phone, range(3)), DeviceOptions(threads=3, runs=50, warmup=9))
    assert list(found) == [file.name]
    for seed, outputs in enumerate(found[file.name]):
        assert list(outputs) == ["boxes", "count", "scores"]
        for name, expected in _tensors(seed).items():
            assert outputs[name].dtype == expected.dtype
            assert np.array_equal(outputs[name], expected)
    assert fake_phone.left == []
    (flags, *others) = [call for call in fake_phone.calls if "--graph=" in call]
    assert len(others) == 2
    folder = flags.split("/benchmark_model ", 1)[0].split(" ")[-1]
    for flag in (
        "--input_layer=image", "--input_layer_shape=1,4,5,3", f"--input_layer_value_files=image:{folder}/image.raw",
        f"--output_filepath={folder}/outputs.raw", "--num_threads=3", "--num_runs=1", "--warmup_runs=1",
        "--use_xnnpack=true",
    ):  # fmt: skip
        assert flag in flags.split(" "), flag


def test_what_an_earlier_picture_gave_is_never_taken_for_anothers(fake_phone: Any, file: DeviceFile) -> None:
    known = _know(fake_phone, range(1))
    with pytest.raises(DeviceError, match="pull"):
        _run(file, [*known, _picture(7)])  # for the second the program writes nothing
    assert fake_phone.left == []


@pytest.mark.parametrize(("change", "size"), [(lambda raw: raw[:-1], 63), (lambda raw: raw + b"\0", 65), (bytes, 0)])
def test_outputs_that_are_cut_off_or_too_many_are_refused(
    fake_phone: Any, file: DeviceFile, change: Callable[[bytes], bytes], size: int
) -> None:
    raw = b"".join(t.tobytes() for t in _tensors(0).values())
    assert len(raw) == 64
    fake_phone.outputs(_picture(0).tobytes(), b"" if change is bytes else change(raw))
    with pytest.raises(DeviceError, match=rf"wrote {size} bytes of outputs, the file's outputs are 64"):
        _run(file, [_picture(0)])
    assert fake_phone.left == []


def test_a_phone_that_goes_away_half_way_is_an_error(fake_phone: Any, file: DeviceFile) -> None:
    pictures = _know(fake_phone, range(2))
    fake_phone.rule("pull", unplug=True, exit=1)
    progress = Silent()
    with pytest.raises(DeviceError, match="see that the phone is still connected") as caught:
        adb.replay([file], pictures, "", DeviceOptions(), progress)
    assert caught.value.stage == file.name
    assert any("may be left on the phone" in warning for warning in progress.warnings)


@pytest.mark.parametrize("flag", ["--input_layer_value_files=image:x", "--output_filepath=x"])
def test_a_program_that_is_too_old_is_told(fake_phone: Any, file: DeviceFile, flag: str) -> None:
    pictures = _know(fake_phone, range(1))
    output = (fake_phone.here / "output").read_text()
    fake_phone.set("output", f"WARN: Unconsumed cmdline flags: {flag}\n{output}")
    with pytest.raises(DeviceError, match="this benchmark_model gives no outputs back: Unconsumed"):
        _run(file, pictures)
    fake_phone.set("output", "ERROR: it broke\n")
    with pytest.raises(DeviceError, match="printed no result, but: ERROR: it broke"):
        _run(file, pictures)
    assert fake_phone.left == []


@pytest.fixture
def golden_dir(seeded_checkpoint: Path, detector: Any, photo_dir: Path, tmp_path: Path) -> Path:
    """A TFLite file with goldens of its own."""
    pytest.importorskip("tensorflow", reason="needs the extra tflite")
    out = tmp_path / "out"
    size = Size(height=160, width=160)
    found = facex.export(seeded_checkpoint, targets=["tflite"], precisions=["fp32"], sizes=[str(size)], out=out)
    sources = photographs.find(photo_dir, option="--goldens")
    tolerances = Tolerances(score=0.02, box=0.02, landmark=0.02)
    plain = {
        "schema_version": goldens.SCHEMA_VERSION,
        "facex": "",
        "checkpoint": {"name": "seeded.pth", "sha256": detector.sha256},
        "contract": goldens.as_plain(detector.contract),
        **goldens.settings(detector.contract),
        "models": [goldens.recorded(found.artifacts[0], 5, tolerances)],
        "goldens": goldens.set_to_plain(record(sources, detector, size, out, threads=1, clock=Clock())),
    }
    (out / goldens.STANDALONE).write_text(goldens.to_text(plain))
    return out


def _answers(phone: Any, path: Path, found: Description, *, shift: float) -> None:
    """The phone computes as LiteRT does, with boxes that are moved by so many pixels."""
    session = exporters.open_session("tflite", path, 1)
    for golden in found.goldens.goldens:
        pixels = replay.pixels(found.goldens, golden)
        outputs = session({"image": pixels})
        outputs["boxes"] = outputs["boxes"] + np.float32(shift)
        phone.outputs(pixels.tobytes(), b"".join(tensor.tobytes() for tensor in outputs.values()))


@pytest.mark.slow
def test_a_phone_is_held_to_the_goldens_like_this_host(
    fake_phone: Any, golden_dir: Path, run_facex: Callable[..., Any]
) -> None:
    (path,) = golden_dir.glob("*.tflite")
    found = goldens.load(golden_dir)
    line = ("bench", path, "--device", "adb", "--device", "host", "--runs", 1, "--replay", golden_dir, "--json")
    for shift, verdict, code in ((0.0, Verdict.PASS, 0), (9.0, Verdict.FAIL, 3)):
        _answers(fake_phone, path, found, shift=shift)
        ran = run_facex(*line)
        told = {(f["device"], f["name"]): f["verdict"] for f in json.loads(ran.out)["findings"]}
        assert ran.code == code
        assert told["adb", "golden.box"] == verdict
        assert told["adb", "golden.file"] == told[None, "golden.box"] == "pass"
    told_in_words = run_facex(*line[:-1])
    assert f"goldens: {path.name} on adb: lost " in told_in_words.out
    assert f"goldens: {path.name}: lost 0, extra 0, score " in told_in_words.out
    assert f"FAIL {path.name} golden.box on adb: " in told_in_words.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "pixel-4"], "--replay: --device pixel-4 gives no results back — choose from host, adb"),
        (["--device", "apple"], "--replay: --device apple gives no results back"),
        (["--device", "adb", "--benchmark-apk"], "--replay contradicts --benchmark-apk"),
    ],
)
def test_what_gives_no_results_back_is_refused(
    run_facex: Callable[..., Any], tmp_path: Path, words: list[str], message: str
) -> None:
    ran = run_facex("bench", tmp_path / "a_fp32.tflite", *words, "--replay", tmp_path)
    assert ran.code == 2
    assert message in ran.error


def test_a_program_of_another_abi_is_refused_for_goldens_too(fake_phone: Any, file: DeviceFile) -> None:
    fake_phone.program.unlink()
    with pytest.raises(UsageError, match="no benchmark_model at"):
        _run(file, [_picture(0)])
    assert fake_phone.left == []
