"""An export that ends in an error: the stage is named, and everything is as it was before."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex import exporters, workspace
from facex.errors import ArtifactError

pytestmark = pytest.mark.slow  # each is a whole export

Run = Callable[..., Any]
NAME = "seeded_160x160_fp32.onnx"


@pytest.fixture
def export(run_facex: Run, quick_pivot: None, seeded_checkpoint: Path, photo_dir: Path) -> Run:
    """`export()` exports the seeded checkpoint to ONNX at 160x160 into `out`, with photographs."""

    def run() -> Any:
        line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--images", photo_dir)
        return run_facex(*line, "--out", "out")

    return run


def test_a_missing_package_is_named_and_nothing_is_written(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = exporters.version
    monkeypatch.setattr(exporters, "version", lambda name: None if name == "onnxsim" else version(name))
    ran = export()
    assert ran.code == 5
    assert "needs the package 'onnxsim'" in ran.error
    assert "pip install 'facex[" in ran.error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def before(
    exported: Path, tmp_path: Path, content: Callable[[Path], dict[str, bytes | None]]
) -> dict[str, bytes | None]:
    """`out` as a run left it of which one artifact failed, with a file of the user's beside."""
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "out" / workspace.FOLDER).mkdir()
    (tmp_path / "out" / workspace.FOLDER / workspace.MARKER).touch()
    (tmp_path / "out" / workspace.FOLDER / "seeded_160x160_w8a8.onnx.failed").write_text("lost faces")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    return content(tmp_path / "out")


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("facex.exporters._pivot.write", "trace"),
        ("facex.exporters.onnx.export", "export onnx"),
        ("facex.exporters.onnx.describe", "export onnx"),
        ("facex.exporters.onnx.OnnxSession.__call__", NAME),
        ("facex.device_bench.host.measure", "latency"),
        ("facex.report.junit.to_xml", "promote"),
    ],
)
def test_a_backend_that_fails_changes_nothing(
    export: Run,
    tmp_path: Path,
    content: Callable[[Path], dict[str, bytes | None]],
    before: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    stage: str,
) -> None:
    monkeypatch.setattr(where, _raise(RuntimeError("segment\noverlap\n")))
    ran = export()
    assert ran.code == 6
    assert ran.error.startswith(f"error: [{stage}] RuntimeError: segment")
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("facex.workspace.tempfile.mkdtemp", "prepare"),
        ("facex.exporters.onnx.shutil.copyfile", "export onnx"),
        ("facex.manifest.os.fsync", "promote"),
        ("facex.workspace.os.replace", "promote"),
    ],
)
def test_a_full_disk_changes_nothing(
    export: Run,
    tmp_path: Path,
    content: Callable[[Path], dict[str, bytes | None]],
    before: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    stage: str,
) -> None:
    monkeypatch.setattr(where, _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    ran = export()
    monkeypatch.undo()
    assert ran.code == 6
    assert ran.error == f"error: [{stage}] No space left on device — free some space and run again"
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("promoted", [0, 1, 2, 3])
def test_a_promotion_that_stops_half_way_changes_nothing(
    export: Run,
    tmp_path: Path,
    content: Callable[[Path], dict[str, bytes | None]],
    before: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    promoted: int,
) -> None:
    replace, moved = os.replace, []

    def move(source: Path, destination: Path) -> None:
        if Path(destination).parent == Path("out"):
            if len(moved) == promoted:
                monkeypatch.setattr("facex.workspace.os.replace", replace)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            moved.append(destination)
        replace(source, destination)

    monkeypatch.setattr("facex.workspace.os.replace", move)
    ran = export()
    assert ran.code == 6
    assert "[promote] Input/output error" in ran.error
    assert len(moved) == promoted
    assert content(tmp_path / "out") == before


def test_an_export_that_cannot_be_read_back_is_the_backends_fault(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facex.exporters.onnx.export", lambda job: job.path.write_bytes(b"half a file"))
    ran = export()
    assert ran.code == 6
    assert ran.error.startswith("error: [export onnx] ")
    assert "is not an ONNX model" in ran.error
    assert not (tmp_path / "out").exists()


def test_an_export_that_no_runtime_loads_is_the_backends_fault(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facex.exporters.onnx.open_session", _raise(ArtifactError("no kernel for Conv")))
    ran = export()
    assert ran.code == 6
    assert ran.error == f"error: [{NAME}] no kernel for Conv"
    assert not (tmp_path / "out").exists()


def _renamed(graph: Any) -> None:
    next(node for node in graph.node if "scores" in node.output).output[0] = "Identity_1"
    next(output for output in graph.output if output.name == "scores").name = "Identity_1"


def _reordered(graph: Any) -> None:
    first = graph.output.pop(0)
    graph.output.append(first)


def _grown(graph: Any) -> None:
    graph.output.append(graph.input[0])


@pytest.mark.parametrize("change", [_renamed, _reordered, _grown], ids=lambda change: change.__name__[1:])
def test_an_interface_that_the_converter_changed_is_the_backends_fault(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]
) -> None:
    import onnx

    from facex.exporters import onnx as target

    written = target.export

    def changed(job: exporters.Job) -> None:
        written(job)
        model = onnx.load(str(job.path))
        change(model.graph)
        onnx.save(model, str(job.path))

    monkeypatch.setattr(target, "export", changed)
    ran = export()
    assert ran.code == 6
    assert ran.error.startswith(f"error: [export onnx] {NAME}: outputs are ")
    assert ", expected boxes float32[1, 1050, 4], scores " in ran.error
    assert not (tmp_path / "out").exists()
