"""Promotion: everything that was built comes into place, or everything is as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facex import workspace
from facex.errors import BackendError, UsageError

Make = Callable[[Path, str], Path]


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _package(path: Path, text: str) -> Path:
    for name in ("Manifest.json", "Data/model.mlmodel"):
        _file(path / name, f"{name} {text}")
    return path


def _full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    _file(folder / workspace.FOLDER / workspace.MARKER, "")
    return folder


@pytest.mark.parametrize("old", [None, _file, _package])
@pytest.mark.parametrize("make", [_file, _package])
def test_promote_moves_and_replaces(out: Path, content: Callable[..., object], make: Make, old: Make | None) -> None:
    build = out / workspace.FOLDER / "build-1"
    source, destination = make(build / "a", "new"), out / "a"
    if old is not None:
        old(destination, "old")
    if (make, old) == (_package, _file):
        with pytest.raises(NotADirectoryError):
            workspace.promote([(source, destination)], out)
        assert destination.read_text() == "old"
        assert source.is_dir()
        return
    wanted = content(build)
    workspace.promote([(source, destination)], out)
    assert {name: data for name, data in content(out).items() if name.split("/")[0] == "a"} == wanted
    assert content(build) == {}
    assert [p.name for p in (out / workspace.FOLDER).iterdir() if p.name.startswith("replaced-")] == []


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("last", [_full_disk, lambda: (_ for _ in ()).throw(KeyboardInterrupt)], ids=["disk", "ctrl-c"])
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_all_is_as_it_was_when_a_move_fails(
    out: Path,
    content: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
    last: Callable[[], None],
    failing: int,
) -> None:
    build = out / workspace.FOLDER / "build-1"
    made: list[Make] = [_file, _package, _file, _package]
    moves = [(make(build / str(i), "new"), out / str(i)) for i, make in enumerate(made)]
    _file(out / "0", "old")
    _package(out / "1", "old")
    _file(out / workspace.FOLDER / "bad.onnx.failed", "of the last run")
    before = content(out)
    replace = os.replace

    def move(a: Path, b: Path) -> None:
        if Path(a) == moves[failing][0]:
            last()
        replace(a, b)

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(workspace.os, "replace", move)
    if not links:
        monkeypatch.setattr(workspace.os, "link", no_links)
    with pytest.raises((OSError, KeyboardInterrupt)):
        workspace.promote(moves, out)
    assert content(out) == before


def test_what_cannot_be_put_back_is_kept_and_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = out / workspace.FOLDER / "build-1"
    moves = [(_package(build / "a", "new"), out / "a")]
    _package(out / "a", "old")
    monkeypatch.setattr(workspace.os, "replace", lambda *_: _full_disk())
    with pytest.raises(BackendError, match=r"No space left .* what was replaced is in ") as caught:
        workspace.promote(moves, out)
    aside = Path(caught.value.what.rsplit(" ", 1)[1])
    assert (aside / "0" / "Data" / "model.mlmodel").read_text() == "Data/model.mlmodel old"


def test_what_failed_in_an_earlier_run_is_forgotten_but_not_what_fails_now(out: Path) -> None:
    work = out / workspace.FOLDER
    moves = [(_file(work / "build-1" / "a", "new"), work / "a.onnx.failed")]
    _file(work / "b.onnx.failed", "old")
    _package(work / "c.mlpackage.failed", "old")
    workspace.promote(moves, out)
    assert {p.name for p in work.iterdir()} == {workspace.MARKER, "build-1", "a.onnx.failed"}


def test_building_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with workspace.building(out) as build:
        _file(build / "x", "")
        assert build.is_relative_to(out / workspace.FOLDER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_building_leaves_nothing_of_its_own_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "there" / "out"
    out.parent.mkdir()

    def fail() -> None:
        with workspace.building(out) as build:
            _file(build / "x", "")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.rglob("*")) == [out.parent]


def test_building_keeps_what_was_there_and_what_was_promoted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _file(out / "mine.txt", "mine")
    _file(out / workspace.FOLDER / workspace.MARKER, "")
    _file(out / workspace.FOLDER / "bad.onnx.failed", "")
    with pytest.raises(ValueError, match="stop"), workspace.building(out):
        raise ValueError("stop")
    with workspace.building(out) as build:
        os.replace(_file(build / "good", "good"), out / "good")
    assert {p.name for p in out.iterdir()} == {"mine.txt", "good", workspace.FOLDER}
    assert {p.name for p in (out / workspace.FOLDER).iterdir()} == {workspace.MARKER, "bad.onnx.failed"}


def test_building_leaves_alone_what_another_run_is_building(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with workspace.building(out) as first:
        half = _file(first / "half.onnx", "")
        with workspace.building(out) as second:
            assert second != first
            assert half.exists()
        assert half.exists()
    assert not out.exists()


def test_building_removes_what_a_process_that_ended_was_building(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = _file(tmp_path / "out" / workspace.FOLDER / f"build-{ended.pid}-ab_12345" / "half.onnx", "")
    (tmp_path / "out" / workspace.FOLDER / workspace.MARKER).touch()
    with workspace.building(tmp_path / "out"):
        assert not left.exists()


@pytest.mark.parametrize("name", [".faces-old", ".faces-1", ".faces-999999999999-short", ".other-99999999-ab_12345"])
def test_a_scratch_folder_removes_nothing_that_is_not_named_like_one(tmp_path: Path, name: str) -> None:
    kept = _file(tmp_path / name / "mine.jpg", "")
    made = workspace.scratch(tmp_path, ".faces")
    assert made.is_dir()
    assert kept.exists()


def test_of_two_runs_at_once_each_promotes_what_it_built(tmp_path: Path) -> None:
    with workspace.building(tmp_path) as one:
        source = _file(one / "a.onnx", "checked")
        with workspace.building(tmp_path) as other:
            unchecked = _file(other / "a.onnx", "not checked yet")
            workspace.promote([(source, tmp_path / "a.onnx")], tmp_path)
            assert unchecked.exists()
    assert (tmp_path / "a.onnx").read_text() == "checked"
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("where", ["out", "out/deeper", "out/much/deeper"])
def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path, where: str) -> None:
    _file(tmp_path / "out", "mine")
    with pytest.raises(UsageError, match=r"--out .*: .*is a file"):
        workspace.check(tmp_path / where)


def test_a_work_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    _file(tmp_path / workspace.FOLDER / "thesis.txt", "mine")
    with pytest.raises(UsageError, match="exists and is not facex's"):
        workspace.check(tmp_path)
    _file(tmp_path / workspace.FOLDER / workspace.MARKER, "")
    workspace.check(tmp_path)
