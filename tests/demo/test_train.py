"""The training, at a scale of seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facex import demo
from facex.demo import gallery, train
from facex.errors import FacexError
from facex.progress import Silent
from facex.reference import checkpoint, detector
from facex.reference.photographs import network_input

pytestmark = pytest.mark.slow

SETTINGS = train.Settings(seed=0, photographs=2, steps=(2, 2, 2), batch=2, side=64, rate=1e-3, decay=0.01)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "photographs"
    gallery.render(folder, stream=gallery.Stream.TRAINING, count=SETTINGS.photographs)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Evaluations are only noted."""
    evaluated: list[Path] = []

    def evaluate(path: Path, progress: object) -> dict[str, Any]:
        evaluated.append(path)
        return {"ap_hard": 0.5}

    monkeypatch.setattr(train, "evaluate", evaluate)
    return evaluated


def test_the_record_tells_what_was_done(photographs: Path, quick: list[Path], tmp_path: Path) -> None:
    train.train(SETTINGS, tmp_path / "out", photographs, Silent())
    record = json.loads((tmp_path / "out" / demo.RECORD_NAME).read_text())
    assert record["settings"] == {**dataclasses.asdict(SETTINGS), "steps": [2, 2, 2]}
    assert record["evaluation"] == {"ap_hard": 0.5}
    assert [point["step"] for point in record["loss"]] == [6]
    assert all(np.isfinite(value) for value in record["loss"][0].values())
    assert quick == [tmp_path / "out" / demo.CHECKPOINT_NAME]
    assert not (tmp_path / "out" / train.STATE_NAME).exists()


def test_what_it_writes_is_a_checkpoint_of_half_the_size(photographs: Path, quick: list[Path], tmp_path: Path) -> None:
    train.train(SETTINGS, tmp_path, photographs, Silent())
    path = tmp_path / demo.CHECKPOINT_NAME
    loaded = detector.load(path, demo.CONTRACT)
    assert loaded.contract.backbone == "mobilenetv1-0.25"
    assert loaded.assumed == ()
    assert {tensor.dtype for tensor in checkpoint.read(path).values()} == {torch.float16}
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("at", [3, 4, 5])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    photographs: Path, quick: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    train.train(SETTINGS, tmp_path / "whole", photographs, Silent())
    learn = train.Training.learn

    def interrupted(self: train.Training, *batch: Any) -> None:
        if self.step == at:
            raise KeyboardInterrupt
        learn(self, *batch)

    monkeypatch.setattr(train.Training, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, tmp_path / "parts", photographs, Silent())
    monkeypatch.setattr(train.Training, "learn", learn)
    train.train(SETTINGS, tmp_path / "parts", photographs, Silent())
    whole, parts = (checkpoint.read(tmp_path / name / demo.CHECKPOINT_NAME) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_state_of_other_settings_is_refused(photographs: Path, tmp_path: Path) -> None:
    train.Training(SETTINGS).save(tmp_path / train.STATE_NAME)
    with pytest.raises(FacexError, match="of a training with other options"):
        train.train(dataclasses.replace(SETTINGS, rate=0.5), tmp_path, photographs, Silent())


def test_a_batch_is_what_the_reference_feeds_the_network(photographs: Path) -> None:
    data = train.Examples(photographs, SETTINGS)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    known = train.contract()
    expected = network_input(pixels, known.mean, known.scale, bgr=True)
    assert np.array_equal(data._input(pixels).numpy(), expected)


def test_training_lowers_the_loss_on_what_it_sees(photographs: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=(60, 0, 0), rate=4e-3)
    training, batch = train.Training(settings), train.Examples(photographs, settings).batch(0)
    training.step = train.WARMUP // 10
    training.learn(*batch)
    first = sum(v for k, v in training.note(training.step - 1).items() if k != "step")
    for _ in range(25):
        training.learn(*batch)
    training.note(training.step)
    training.learn(*batch)
    last = sum(v for k, v in training.note(training.step - 1).items() if k != "step")
    assert last < 0.85 * first


def test_a_loss_that_is_not_finite_stops_it(photographs: Path) -> None:
    training = train.Training(SETTINGS)
    pixels, targets = train.Examples(photographs, SETTINGS).batch(0)
    with pytest.raises(FacexError, match="not finite at step 0"):
        training.learn(pixels * float("nan"), targets)


def test_a_mistake_on_its_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "mine").write_text("")
    train.Training(SETTINGS).save(tmp_path / train.STATE_NAME)
    data = tmp_path / "new"
    assert (
        train.main(["--out", str(tmp_path), "--data", str(data), "--photographs", "1", "--steps", "9", "9", "9"]) != 0
    )
    assert "of a training with other options" in capsys.readouterr().err.splitlines()[-1]


def test_the_rate_rises_and_falls_without_a_jump() -> None:
    training = train.Training(dataclasses.replace(SETTINGS, steps=(2000, 3000, 2000), rate=1.0))
    rates = []
    for step in range(7001):
        training.step = step
        rates.append(training._rate())
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(1.0, abs=0.07)
    assert rates[2000] == pytest.approx(0.505)
    assert rates[4999] == pytest.approx(0.005, abs=1e-5)
    assert rates[5000] < 0.01
    assert max(rates[5000:]) == pytest.approx(0.5, abs=0.03)
    assert rates[-1] == pytest.approx(0.005)
    assert np.abs(np.diff(rates)).max() < 0.005


def test_only_the_first_stage_moves_the_batch_norms(photographs: Path) -> None:
    training = train.Training(SETTINGS)
    batch = train.Examples(photographs, SETTINGS).batch(0)
    name = "backbone.stem.bn.running_mean"
    seen = []
    for _ in range(sum(SETTINGS.steps)):
        training.learn(*batch)
        seen.append(training.network.state_dict()[name].clone())
    assert not torch.equal(seen[0], seen[1])
    assert all(torch.equal(seen[1], later) for later in seen[2:4])


def test_the_last_stage_starts_from_the_average(photographs: Path) -> None:
    training = train.Training(SETTINGS)
    batch = train.Examples(photographs, SETTINGS).batch(0)
    for _ in range(4):
        training.learn(*batch)
    average = {name: value.clone() for name, value in training.average.items()}
    name = "landmark_heads.0.weight"
    assert not torch.equal(training.network.state_dict()[name], average[name])
    before = training.optimizer
    training.learn(*batch)
    # the first step of a warm-up, by Adam, moves no weight by more than the rate
    moved = (training.network.state_dict()[name] - average[name]).abs().max()
    assert 0 < moved <= 1.1 * SETTINGS.rate * (0.5 / train.WARMUP + 0.005)
    assert training.optimizer is not before
