"""`facex bundle`: what goes in, that it replays, and that folders change as a whole or not at all.

The platforms here are modules of their own for ONNX files, put beside those of facex: a platform is a file.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import facex
from facex import bundles, bundling, manifest
from facex.demo import CHECKPOINT, gallery
from facex.errors import ArtifactError, BackendError, FacexError, UsageError
from facex.goldens import format as goldens
from facex.report import bundles as report
from facex.types import Precision, Size, Verdict, as_plain

pytestmark = pytest.mark.slow  # every bundle is recorded and replayed

Run = Callable[..., Any]
FP32, FP16, W8A8 = (f"seeded_160x160_{precision}.onnx" for precision in ("fp32", "fp16", "w8a8"))

PLATFORM = """
from facex.bundles import _description

TARGET = "onnx"


def write(bundle, folder):
    (folder / "code").mkdir()
    (folder / "code" / "detector.txt").write_text("code of an app")
    (folder / _description.FILE_NAME).write_text(_description.to_text(bundle))
    _description.copy_models(bundle, folder / "models")
    _description.copy_goldens(bundle, folder / "pictures")
"""
SPOILT = {
    "clumsy": 'raise OSError(28, "No space left on device", str(folder))',
    "mixed": 'models = sorted((folder / "models").iterdir()); models[0].write_bytes(models[1].read_bytes())',
    "blotted": '(folder / "pictures" / "golden_0.png").write_bytes(b"blot")',
    "wrong": "import json; path = folder / _description.FILE_NAME; plain = json.loads(path.read_text()); "
    'plain["goldens"]["photographs"][0]["faces"] = []; path.write_text(json.dumps(plain))',
}
"""Platforms that write one, and then spoil it."""


@pytest.fixture(autouse=True)
def platforms(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`phone` and `watch`, and those that spoil what they write."""
    folder = tmp_path_factory.mktemp("platforms")
    for name in ("phone", "watch", *SPOILT):
        (folder / f"{name}.py").write_text(f"{PLATFORM}    {SPOILT.get(name, '')}\n")
    monkeypatch.setattr(bundles, "__path__", [*bundles.__path__, str(folder)])
    yield folder
    for name in ("phone", "watch", *SPOILT):
        sys.modules.pop(f"facex.bundles.{name}", None)


@pytest.fixture(scope="session")
def bundled(
    tmp_path_factory: pytest.TempPathFactory, exported: Path, photo_dir: Path
) -> Callable[[], tuple[Path, bundling.Result]]:
    """`bundled()` gives a bundle of the export, and what was said of it; to be copied, not changed."""
    known: list[tuple[Path, bundling.Result]] = []

    def make() -> tuple[Path, bundling.Result]:
        if not known:
            folder = tmp_path_factory.mktemp("bundled") / "phone"
            known.append((folder, bundling.bundle(exported, {"phone": folder}, goldens=photo_dir)))
        return known[0]

    return make


def test_a_bundle_holds_models_goldens_and_what_an_app_must_know(
    bundled: Callable[[], tuple[Path, bundling.Result]], exported: Path
) -> None:
    folder, found = bundled()
    record = manifest.load(exported / "manifest.json")
    written = goldens.load(folder)
    assert [model.file for model in written.models] == [FP16, FP32]
    assert (written.checkpoint, written.sha256, written.contract) == (
        record.source.checkpoint, record.source.sha256, record.source.contract,
    )  # fmt: skip
    for model in written.models:
        assert goldens.file_of(written, model).read_bytes() == (exported / model.file).read_bytes()
    assert written.models[1].tolerances == goldens.Tolerances(score=0.02, box=0.02, landmark=0.02)
    assert (folder / "code" / "detector.txt").is_file()
    assert (found.size, found.goldens, found.exit_code) == (Size(height=160, width=160), 6, 0)
    assert found.faces == sum(len(golden.faces) for golden in written.goldens.goldens)
    assert {f.verdict for f in found.findings} == {Verdict.PASS}
    assert len(found.findings) == 2 * 5
    (told,) = found.bundles
    assert (told.platform, told.folder, told.models) == ("phone", folder, (FP16, FP32))
    assert (told.files, told.size_bytes) == (2 + 6 + 3, manifest.size_of(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["phone"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_what_it_prints_names_folders_models_and_room(bundled: Callable[[], tuple[Path, bundling.Result]]) -> None:
    folder, found = bundled()
    out = io.StringIO()
    report.render(found, Console(file=out, width=200))
    text = out.getvalue()
    assert f"phone: {folder} (11 files, " in text
    assert f"{FP16} is the default, beside {FP32}" in text
    assert f"6 goldens of 160x160 with {found.faces} faces" in text
    assert " of 0.02" in text
    json.dumps(as_plain(found), allow_nan=False)


def test_several_platforms_are_written_at_once_and_older_bundles_replaced(
    exported: Path, photo_dir: Path, tmp_path: Path, content: Callable[[Path], Any]
) -> None:
    options = {"goldens": photo_dir, "precisions": ["fp32", "fp16"]}
    first = facex.bundle(exported / "manifest.json", phone=tmp_path / "a", watch=tmp_path / "deep" / "b", **options)
    assert [b.platform for b in first.bundles] == ["phone", "watch"]
    assert goldens.load(tmp_path / "a").models[0].file == FP32  # the first that was named
    before = content(tmp_path)
    (tmp_path / "a" / "models" / "stale.onnx").touch()
    facex.bundle(exported, phone=tmp_path / "a", **options)
    assert content(tmp_path) == before  # bit for bit
    narrow = facex.bundle(exported, phone=tmp_path / "a", size="160x160", precisions=["fp16"], goldens=photo_dir)
    assert narrow.bundles[0].models == (FP16,)
    assert not (tmp_path / "a" / "models" / FP32).exists()


def _refused(kind: type[FacexError], message: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        bundling.bundle(*arguments, **options)
    assert message in str(caught.value)


def test_folders_that_hold_something_else_are_left_alone(
    exported: Path, tmp_path: Path, content: Callable[[Path], Any]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    before = content(tmp_path)
    for folders, message in (
        ({"phone": tmp_path / "mine"}, "mine: exists, is not empty, and is no bundle of facex's"),
        ({"phone": tmp_path / "mine" / "file"}, "is a file"),
        ({"phone": tmp_path / "mine" / "file" / "deeper"}, "is a file"),
        ({"phone": tmp_path / "a", "watch": tmp_path / "a"}, "is, or lies in, that of --"),
        ({"phone": tmp_path / "a", "watch": tmp_path / "a" / "b"}, "--watch"),
        ({"phone": tmp_path / "Face", "watch": tmp_path / "face"}, "is, or lies in, that of --"),
        ({"toaster": tmp_path / "a"}, "platform toaster: unknown"),
        ({}, "no platform was given"),
    ):
        _refused(UsageError, message, exported, folders)
    assert content(tmp_path) == before


def test_what_no_bundle_can_bring_back_is_not_replaced(
    exported: Path, tmp_path: Path, content: Callable[[Path], Any]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(exported, old / "build")
    (old / bundling.MARKER).touch()
    (tmp_path / "link").symlink_to(old / "build")
    before = content(tmp_path)
    for manifest_path, options in (
        (old / "build", {}),
        (tmp_path / "link" / "manifest.json", {}),
        (exported, {"goldens": old / "build"}),
        (exported, {"reference": old / "model.pth"}),
    ):
        _refused(UsageError, "lies in --phone", manifest_path, {"phone": old}, **options)
    (old / ".git").mkdir()
    _refused(UsageError, "is a git repository, and would be replaced with its history", exported, {"phone": old})
    (old / ".git").rmdir()
    assert content(tmp_path) == before


def test_a_file_with_room_for_fewer_faces_than_a_golden_has_is_refused(
    copied: Path, photo_dir: Path, tmp_path: Path
) -> None:
    selection = {"score_threshold": 0.5, "nms_iou": 0.4, "max_faces": 1}
    _rewrite(copied, lambda d: [a.update(head="detections", selection=selection) for a in d["artifacts"]])
    message = "gives 1 face at most, and golden_"
    _refused(UsageError, message, copied, {"phone": tmp_path / "a"}, goldens=photo_dir)


def test_a_name_may_hold_what_patterns_are_made_of(
    seeded_checkpoint: Path, photo_dir: Path, tmp_path: Path, run_facex: Run
) -> None:
    odd = tmp_path / "odd[1] é*.pth"
    shutil.copy(seeded_checkpoint, odd)
    facex.export(
        odd, targets=["onnx"], precisions=["fp32"], sizes=["160x160"], images=photo_dir, out=tmp_path / "build"
    )
    found = bundling.bundle(tmp_path / "build", {"phone": tmp_path / "a"}, goldens=photo_dir)
    assert found.bundles[0].models == ("odd[1] é*_160x160_fp32.onnx",)
    assert run_facex("check", tmp_path / "build" / "manifest.json", "--goldens", tmp_path / "a").code == 0


@pytest.mark.parametrize("name", SPOILT)
def test_a_bundle_that_is_not_sound_never_appears(
    exported: Path, photo_dir: Path, tmp_path: Path, content: Callable[[Path], Any], name: str,
    bundled: Callable[[], tuple[Path, bundling.Result]],
) -> None:  # fmt: skip
    shutil.copytree(bundled()[0], tmp_path / "good")
    before = content(tmp_path)
    folders = {"phone": tmp_path / "good", name: tmp_path / "deep" / "spoilt"}
    with pytest.raises(BackendError) as caught:
        bundling.bundle(exported, folders, goldens=photo_dir)
    assert caught.value.stage == name
    assert content(tmp_path) == before


@pytest.mark.parametrize("failing", range(1, 5))
def test_folders_are_put_back_when_one_cannot_be_moved(
    exported: Path, photo_dir: Path, tmp_path: Path, content: Callable[[Path], Any], failing: int,
    bundled: Callable[[], tuple[Path, bundling.Result]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("a", "b"):
        shutil.copytree(bundled()[0], tmp_path / name)
        (tmp_path / name / "note").write_text("of the old one")
    before = content(tmp_path)
    calls: list[Any] = []
    rename = os.rename

    def fail(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    _refused(BackendError, "Input/output error", exported, {"phone": tmp_path / "a", "watch": tmp_path / "b"},
             goldens=photo_dir)  # fmt: skip
    assert content(tmp_path) == before


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "build")
    return tmp_path / "build"


def test_a_file_that_is_not_the_manifests_is_refused(copied: Path, tmp_path: Path) -> None:
    with (copied / FP16).open("ab") as file:
        file.write(b"\0")
    folders = {"phone": tmp_path / "a"}
    _refused(ArtifactError, f"{FP16}: its SHA-256 is not the one in the manifest", copied, folders)
    (copied / FP16).unlink()
    _refused(ArtifactError, f"{FP16}: no such file", copied, folders)
    assert not (tmp_path / "a").exists()


def _rewrite(folder: Path, change: Callable[[Any], object], name: str = "manifest.json") -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def test_what_was_not_promoted_or_is_of_another_size_is_no_choice(copied: Path, tmp_path: Path) -> None:
    folders = {"phone": tmp_path / "a"}
    for options, message in (
        ({"precisions": (Precision.W8,)}, "--precision w8: .* promoted no such onnx file — choose from fp16, fp32"),
        ({"size": Size(height=320, width=320)}, "--size 320x320: .* choose from 160x160"),
        ({"threads": 0}, "--threads 0"),
    ):
        with pytest.raises(UsageError, match=message):
            bundling.bundle(copied, folders, **options)  # type: ignore[arg-type]
    _rewrite(copied, lambda d: d["artifacts"][0]["size"].update(height=320))
    _refused(UsageError, "has files of several sizes, and a bundle has one: 160x160, 320x160", copied, folders)
    _rewrite(copied, lambda d: [a.update(promoted=False) for a in d["artifacts"]])
    _refused(UsageError, "--phone: ", copied, folders)


def test_the_checkpoint_is_found_where_the_export_found_it(
    copied: Path, seeded_checkpoint: Path, other_checkpoint: Path, tmp_path: Path, photo_dir: Path
) -> None:
    folders = {"phone": tmp_path / "a"}
    assert json.loads((copied / "report.json").read_text())["source_path"] == seeded_checkpoint.as_posix()
    assert "source_path" not in json.loads((copied / "manifest.json").read_text())
    _refused(ArtifactError, "other.pth: is not the checkpoint that", copied, folders, reference=other_checkpoint)
    moved = tmp_path / "moved.pth"
    for path, message in (
        (moved, "is not there any more — name seeded.pth with --reference CHECKPOINT"),
        (other_checkpoint, "other.pth: has changed since"),
        (None, "nothing beside it tells where its checkpoint is"),
    ):
        _rewrite(copied, lambda d, path=path: d.update(source_path=path and str(path)), "report.json")
        _refused(UsageError, message, copied, folders)
    (copied / "report.json").unlink()
    _refused(UsageError, "nothing beside it tells where its checkpoint is", copied, folders)
    shutil.copy(seeded_checkpoint, moved)
    found = bundling.bundle(copied, folders, reference=moved, goldens=photo_dir)
    assert found.source.checkpoint == "seeded.pth"


def test_the_command_line_has_an_option_for_every_platform(
    exported: Path, photo_dir: Path, tmp_path: Path, platforms: Path
) -> None:
    code = f"from facex import bundles; bundles.__path__.append({str(platforms)!r}); from facex.cli import main; main()"
    line = ["bundle", str(exported / "manifest.json"), "--phone", "out", "--goldens", str(photo_dir)]
    done = subprocess.run(
        [sys.executable, "-c", code, *line, "--precision", "fp32", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["exit_code"], told["bundles"][0]["models"], told["goldens"]) == (0, [FP32], 6)
    assert "replaying the goldens from the phone bundle" in done.stderr
    assert goldens.load(tmp_path / "out").models[0].file == FP32
    helped = subprocess.run(
        [sys.executable, "-c", code, "bundle", "--help"], capture_output=True, text=True, check=True
    )
    assert "--watch DIR" in helped.stdout


@pytest.fixture(scope="session")
def sabotaged(tmp_path_factory: pytest.TempPathFactory, _frozen: None) -> Path:
    """Exports of the bundled detector in fp32 and w8a8, and the photographs that were rendered for them.

    `right` is as it should be, `swapped` has red and blue exchanged, `other` has weights as if it was trained further.
    """
    folder = tmp_path_factory.mktemp("sabotaged")
    gallery.render(folder / "rendered", stream=gallery.Stream.OTHER, count=12, seed=3)
    (folder / "calib").mkdir()
    for path in sorted((folder / "rendered" / "images").iterdir())[:8]:
        shutil.copy(path, folder / "calib")
    torch.manual_seed(0)
    state = torch.load(CHECKPOINT, weights_only=True)
    noise = {key: 0.1 * value.std() * torch.randn_like(value) for key, value in state.items() if value.dim() == 4}
    torch.save({key: value + noise.get(key, 0) for key, value in state.items()}, folder / "other.pth")
    for name, checkpoint, options in (
        ("right", CHECKPOINT, {"int8_effort": "fast"}),
        ("swapped", CHECKPOINT, {"channel_order": "rgb", "mean": (123, 117, 104), "int8_effort": "minmax"}),
        ("other", folder / "other.pth", {"int8_effort": "minmax"}),
    ):
        facex.export(
            checkpoint, targets=["onnx"], precisions=["fp32", "w8a8"], sizes=["320x320"], calib=folder / "calib",
            out=folder / name, limits=["fp32.snr_db=60"], **options,
        )  # fmt: skip
    return folder


def _red(ran: Any, code: int) -> set[str]:
    """The findings that failed, of a check of one file; and whether the goldens know it."""
    told = json.loads(ran.out)
    assert ran.code == code, ran.out
    assert ran.code == told["exit_code"]
    (known,) = (f["verdict"] for f in told["findings"] if f["name"] == "golden.file")
    assert known == ("pass" if code == 0 else "skipped")
    return {f["name"] for f in told["findings"] if f["verdict"] == "fail"}


def test_swapped_channels_and_other_weights_fail_the_goldens(sabotaged: Path, tmp_path: Path, run_facex: Run) -> None:
    found = bundling.bundle(
        sabotaged / "right", {"phone": tmp_path / "phone"}, goldens=sabotaged / "rendered" / "images"
    )
    assert [entry.artifact.rsplit("_", 1)[-1] for entry in found.tolerances] == ["w8a8.onnx", "fp32.onnx"]
    files = sorted(sabotaged.glob("*/*.onnx"))
    assert len(files) == 6
    for path in files:
        is_right = path.parent.name == "right"
        failed = _red(
            run_facex("check", path, "--goldens", tmp_path / "phone", "--out", "ci", "--json"), 3 * (not is_right)
        )
        assert bool(failed) != is_right, path
        assert ("<failure" in (tmp_path / "ci" / "junit.xml").read_text()) != is_right


def test_a_check_against_goldens_alone_says_so_and_refuses_what_needs_more(
    bundled: Callable[[], tuple[Path, bundling.Result]], exported: Path, run_facex: Run, tmp_path: Path
) -> None:
    folder, _ = bundled()
    ran = run_facex("check", exported / "manifest.json", "--goldens", folder, "--max-size-mb", "0.001", "--out", "ci")
    assert ran.code == 4  # the goldens pass, the budget does not
    assert f"Goldens      {FP32}: lost 0, extra 0, score " in ran.out
    assert "not compared with the reference" not in ran.out
    page = (tmp_path / "ci" / "report.html").read_text(encoding="utf-8")
    assert f"<li>{FP32}: lost 0, extra 0, score " in page
    assert "held to goldens" in page
    assert "on noise" not in page
    assert "<div><dt>Operators</dt>" in page  # what the files say of themselves is known all the same
    assert run_facex("diff", "ci/report.json", "ci/report.json", "--fail-on", "regression:1%").code == 0
    renamed = tmp_path / "seeded_160x160_w8a8.onnx"
    shutil.copy(exported / FP32, renamed)
    for arguments, message in (
        ([exported / FP32], "nothing was given to hold the artifacts against"),
        (
            [exported / FP32, "--goldens", folder, "--images", "x"],
            "--images: is about a comparison with the checkpoint",
        ),
        ([exported / FP32, "--goldens", folder, "--mean", "1,2,3"], "an option of the contract: is about a comparison"),
        ([exported / FP32, "--goldens", tmp_path / "none"], "--goldens "),
    ):
        ran = run_facex("check", *arguments)
        assert (ran.code, message in ran.error) == (2, True), ran.err
    assert run_facex("check", renamed, "--goldens", folder).code == 0  # of the bundle, whatever it is called
    with renamed.open("ab") as file:
        file.write(b"\x0a\x00")  # an empty field of the model: another file
    assert "none is of its precision, w8a8" in run_facex("check", renamed, "--goldens", folder).error


def test_goldens_go_beside_a_checkpoint(
    bundled: Callable[[], tuple[Path, bundling.Result]], exported: Path, seeded_checkpoint: Path, other_checkpoint: Path
) -> None:
    both = facex.check(exported / FP32, reference=seeded_checkpoint, goldens=bundled()[0])
    assert both.exit_code == 0
    assert {"golden.file", "golden.box", "matched_f1", "snr_db.boxes"} <= {f.name for f in both.findings}
    other = facex.check(exported / FP32, reference=other_checkpoint, goldens=bundled()[0])
    assert other.exit_code == 3
    assert not [f for f in other.findings if f.name.startswith("golden.") and f.verdict is Verdict.FAIL]


def test_goldens_of_another_size_are_told_before_a_long_comparison(
    bundled: Callable[[], tuple[Path, bundling.Result]], exported: Path, seeded_checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(bundled()[0], tmp_path / "taller")
    _rewrite(tmp_path / "taller", lambda d: d["goldens"].update(height=192), goldens.DESCRIPTION)
    monkeypatch.setattr("facex.checking.examine", None)
    with pytest.raises(ArtifactError, match="its image is 160x160 pixels, the goldens are 192x160 — name the goldens"):
        facex.check(exported / FP32, reference=seeded_checkpoint, goldens=tmp_path / "taller")


@pytest.mark.shared
def test_checkpoints_of_the_same_architecture_fail_one_anothers_goldens(
    shared_dir: Path, tmp_path: Path, run_facex: Run
) -> None:
    calib = shared_dir / "data" / "calib"
    for name, options in (("mnet025", {}), ("mnet025_fx_keys", {}), ("mnet025_rgb", {"channel_order": "rgb"})):
        facex.export(
            shared_dir / "weights" / f"{name}.pth", targets=["onnx"], precisions=["fp32", "w8a8"], sizes=["320x320"],
            calib=calib, out=tmp_path / name, int8_effort="fast" if name == "mnet025" else "minmax", **options,
        )  # fmt: skip
    bundling.bundle(tmp_path / "mnet025", {"phone": tmp_path / "phone"}, goldens=calib)
    for path in sorted(tmp_path.glob("mnet025*/*.onnx")):
        ran = run_facex("check", path, "--goldens", tmp_path / "phone", "--json")
        assert bool(_red(ran, 3 * (path.parent.name != "mnet025"))) == (path.parent.name != "mnet025"), path
