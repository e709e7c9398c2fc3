"""What an export is completed with when nothing is at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from facex import cache, exporters, pipeline
from facex.demo import CHECKPOINT, CONTRACT, bundled, gallery, is_bundled
from facex.errors import BackendError, MissingExtraError, UsageError
from facex.progress import Clock
from facex.recipe import Recipe
from facex.types import ChannelOrder, ContractOptions, Precision


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """What was rendered into a new cache: each photograph is its number instead of a picture."""
    import hashlib
    import json

    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    asked: list[tuple[str, int]] = []

    def render(folder: Path, *, stream: gallery.Stream, count: int, progress: object) -> None:
        asked.append((stream.name, count))
        (folder / "images").mkdir(parents=True)
        entries = []
        for i in range(count):
            (folder / f"images/{i}.jpg").write_text(str(i))
            entries.append({"file": f"images/{i}.jpg", "sha256": hashlib.sha256(str(i).encode()).hexdigest()})
        (folder / "gt.json").write_text(json.dumps({"images": entries}))

    monkeypatch.setattr(gallery, "render", render)
    return asked


def test_what_is_missing_is_filled_in(rendered: list[tuple[str, int]]) -> None:
    found = bundled.completed(Recipe(), Clock(), calibrated=True)
    assert found.checkpoint == CHECKPOINT
    assert found.contract == CONTRACT
    assert found.images is not None
    assert found.calib is not None
    assert found.ground_truth == found.images.parent / "gt.json"
    assert found.images.is_dir()
    assert found.images.parent != found.calib.parent
    assert rendered == [("PARITY", bundled.PARITY_COUNT), ("CALIBRATION", bundled.CALIBRATION_COUNT)]


def test_what_is_there_stays(rendered: list[tuple[str, int]], tmp_path: Path) -> None:
    recipe = Recipe(images=tmp_path / "mine", calib=tmp_path / "calib")
    found = bundled.completed(recipe, Clock(), calibrated=True)
    assert (found.images, found.calib, found.ground_truth) == (recipe.images, recipe.calib, None)
    assert rendered == []


def test_nothing_is_rendered_for_a_calibration_that_nobody_needs(rendered: list[tuple[str, int]]) -> None:
    assert bundled.completed(Recipe(), Clock(), calibrated=False).calib is None
    assert rendered == [("PARITY", bundled.PARITY_COUNT)]


def test_photographs_are_rendered_once(rendered: list[tuple[str, int]]) -> None:
    first = bundled.photographs(gallery.Stream.PARITY, 3, Clock())
    assert bundled.photographs(gallery.Stream.PARITY, 3, Clock()) == first
    assert bundled.photographs(gallery.Stream.PARITY, 4, Clock()) != first
    assert rendered == [("PARITY", 3), ("PARITY", 4)]


@pytest.mark.parametrize("damage", ["changed", "missing", "no truth", "broken truth"])
def test_damaged_photographs_are_rendered_again(rendered: list[tuple[str, int]], damage: str) -> None:
    folder = bundled.photographs(gallery.Stream.PARITY, 3, Clock())
    if damage == "changed":
        (folder / "images/1.jpg").write_text("another")
    elif damage == "missing":
        (folder / "images/1.jpg").unlink()
    elif damage == "no truth":
        (folder / "gt.json").unlink()
    else:
        (folder / "gt.json").write_text('{"images": [1, 2, 3]}')
    assert bundled.photographs(gallery.Stream.PARITY, 3, Clock()) == folder
    assert (folder / "images/1.jpg").read_text() == "1"
    assert len(rendered) == 2


def test_another_renderer_does_not_use_these(rendered: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundled.photographs(gallery.Stream.PARITY, 3, Clock())
    monkeypatch.setattr(bundled, "renderer_digest", lambda: "0" * 64)
    assert bundled.photographs(gallery.Stream.PARITY, 3, Clock()) != first


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(BackendError, match=r"is a file.*name a folder for facex's cache in FACEX_CACHE"):
        bundled.photographs(gallery.Stream.PARITY, 3, Clock())


@pytest.mark.parametrize(
    "stated",
    [{"activation_slope": 0.0}, {"channel_order": ChannelOrder.RGB}, {"min_sizes": ((10.0,), (20.0,), (40.0,))}],
)
def test_a_contract_that_is_not_its_own_is_refused(stated: dict[str, object]) -> None:
    recipe = Recipe(contract=ContractOptions(**stated))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"was not trained with that .* belong to a checkpoint"):
        bundled.completed(recipe, Clock(), calibrated=False)


def test_its_own_contract_may_be_stated(rendered: list[tuple[str, int]]) -> None:
    stated = dataclasses.replace(CONTRACT, landmarks=5)
    assert bundled.completed(Recipe(contract=stated), Clock(), calibrated=False).contract == stated


def test_the_bundled_checkpoint_knows_itself() -> None:
    import hashlib

    assert is_bundled(hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest())
    assert not is_bundled("0" * 64)


def test_a_plan_without_a_checkpoint_is_of_everything() -> None:
    planned = pipeline.plan(Recipe())
    assert {(s.target, s.precision) for s in planned.steps} == {
        (name, precision)
        for name in exporters.names()
        for precision in (exporters.info(name).shown or exporters.info(name).precisions)
    }
    assert all(s.file_name.startswith("facex-demo_640x640_") for s in planned.steps)
    assert "the bundled detector -> build" in str(planned)
    assert str(planned).count("photographs that facex renders") == 2


def test_what_is_asked_for_is_what_is_planned() -> None:
    planned = pipeline.plan(Recipe(targets=("tflite",), precisions=(Precision.FP16,)))
    assert [s.file_name for s in planned.steps] == ["facex-demo_640x640_fp16.tflite"]
    assert "calibration: none needed" in str(planned)


def test_int8_alone_is_planned_alone() -> None:
    planned = pipeline.plan(Recipe(targets=("tflite",), int8=True))
    assert [s.precision for s in planned.steps] == [Precision.W8A8]


def test_nothing_is_rendered_for_an_export_that_cannot_be(
    rendered: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        pipeline.run(pipeline.plan(Recipe(out=tmp_path / "file")), command="")

    def missing(*_: object) -> None:
        raise MissingExtraError("coremltools", extra="coreml", purpose="the target 'coreml'")

    monkeypatch.setattr(exporters, "require", missing)
    with pytest.raises(MissingExtraError):
        pipeline.run(pipeline.plan(Recipe(out=tmp_path / "out")), command="")
    assert rendered == []
    assert not (tmp_path / "out").exists()
