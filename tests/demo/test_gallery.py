"""Folders of rendered photographs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facex.demo import gallery, scene
from facex.errors import BackendError, UsageError
from facex.parity import ground_truth
from facex.progress import Silent
from facex.reference import photographs

pytestmark = pytest.mark.slow


class _Counting(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def advance(self) -> None:
        self.steps += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("gallery") / "faces"
    gallery.render(found, stream=gallery.Stream.OTHER, count=5, seed=3, processes=2)
    return found


def _entries(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / gallery.GROUND_TRUTH).read_text())["images"]
    return entries


def test_every_photograph_has_its_entry(folder: Path) -> None:
    entries = _entries(folder)
    assert [e["file"] for e in entries] == [f"images/other_{i:05d}.jpg" for i in range(5)]
    assert sorted(p.name for p in (folder / "images").iterdir()) == [Path(e["file"]).name for e in entries]
    for entry, (height, width) in zip(entries, gallery.SIZES, strict=True):
        data = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert photographs.load(folder / entry["file"]).shape == (height, width, 3)
        assert (entry["height"], entry["width"]) == (height, width)


def test_the_ground_truth_is_one_that_parity_reads(folder: Path) -> None:
    truth = ground_truth.load(folder / gallery.GROUND_TRUTH)
    found = ground_truth.assign(truth, photographs.find(folder / gallery.IMAGES, option="--images"))
    assert all(entry is not None and entry.faces is not None for entry in found)
    assert sum(len(entry.faces) for entry in found if entry and entry.faces is not None) > 3


def test_a_photograph_is_the_same_whoever_renders_it(folder: Path) -> None:
    alone = scene.photograph((3, int(gallery.Stream.OTHER), 1), *gallery.SIZES[1])
    assert (folder / "images" / "other_00001.jpg").read_bytes() == alone.jpeg


def test_streams_and_seeds_share_no_photograph(tmp_path: Path, folder: Path) -> None:
    (tmp_path / gallery.IMAGES).mkdir()
    first = (folder / "images" / "other_00000.jpg").read_bytes()
    for stream, seed in ((gallery.Stream.PARITY, 3), (gallery.Stream.OTHER, 4)):
        entry = gallery.write_one(tmp_path, stream, seed, 0)
        assert (tmp_path / entry["file"]).read_bytes() != first


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({}, (True, True, True)),
        ({"yaw_deg": -75.0}, (False, True, True)),
        ({"box": (10.0, 10.0, 30.0, 40.0)}, (False, True, True)),
        ({"box": (10.0, 10.0, 20.0, 25.0)}, (False, False, True)),
        ({"box": (10.0, 10.0, 15.0, 17.0)}, (False, False, False)),
        ({"visible": 0.3}, (False, False, False)),
    ],
)
def test_flags_tell_which_subsets_a_face_counts_for(change: dict[str, Any], flags: tuple[bool, bool, bool]) -> None:
    import numpy as np

    known: dict[str, Any] = {"box": (10.0, 10.0, 60.0, 80.0), "visible": 1.0, "yaw_deg": 10.0}
    face = scene.Face(landmarks=np.zeros((5, 2), np.float32), masked=False, **{**known, **change})
    entry = gallery._entry(face, 480, 640)
    assert (entry["easy"], entry["medium"], entry["hard"]) == flags


def test_progress_counts_photographs(tmp_path: Path) -> None:
    progress = _Counting()
    gallery.render(tmp_path / "new", stream=gallery.Stream.OTHER, count=2, progress=progress)
    assert progress.steps == 2


def test_an_empty_folder_may_be_filled_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    gallery.render(tmp_path / "empty", stream=gallery.Stream.OTHER, count=1)
    assert len(_entries(tmp_path / "empty")) == 1
    with pytest.raises(UsageError, match="not empty"):
        gallery.render(tmp_path / "empty", stream=gallery.Stream.OTHER, count=1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        gallery.render(tmp_path / "file", stream=gallery.Stream.OTHER, count=1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_worker_that_dies_fails_the_whole_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def dying(line: list[str], **options: Any) -> subprocess.Popen[str]:
        return popen([*line[:1], "-c", "import sys; sys.exit('No space left on device: x.jpg')"], **options)

    monkeypatch.setattr(gallery.subprocess, "Popen", dying)
    with pytest.raises(BackendError, match="No space left on device"):
        gallery.render(tmp_path / "new", stream=gallery.Stream.OTHER, count=4)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".faces-{ended.pid}-ab_12345"
    (left / gallery.IMAGES).mkdir(parents=True)
    gallery.render(tmp_path / "faces", stream=gallery.Stream.OTHER, count=1, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_an_interruption_leaves_nothing_and_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(popen(*arguments, **options))
        return started[-1]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gallery.subprocess, "Popen", noted)
    monkeypatch.setattr(gallery.threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gallery.render(tmp_path / "new", stream=gallery.Stream.OTHER, count=400)
    assert started
    assert all(worker.poll() is not None for worker in started)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_says_what_it_cannot_write(tmp_path: Path) -> None:
    import sys

    line = [sys.executable, "-m", "facex.demo.gallery", str(tmp_path / "gone"), "5", "0", "0", "1", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"No such file or directory: {tmp_path}/gone/images/other_00000.jpg"
