"""Learning the integers: it brings the written model nearer to the float one, repeatably and resumably."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from facex.calibration import edit, qdq, reconstruct
from facex.calibration.graph import Graph
from facex.calibration.heads import levels
from facex.calibration.reconstruct import head_loss, rates
from facex.calibration.schedule import Schedule
from facex.calibration.simulate import Learned, Simulation

pytestmark = pytest.mark.slow

SCHEDULE = Schedule(steps=6, batch=2, side=64, pool=4)
FACES = np.array([[30, 40, 70, 90], [100, 20, 130, 60]], np.float32)


@pytest.fixture(scope="module")
def learn(engine_model: Callable[..., Any], pictures: list[Any]) -> Callable[..., Learned]:
    """`learn(schedule, seed=0, state=None, on_step=None)` on the seeded network and six photographs."""

    def run(schedule: Schedule = SCHEDULE, *, seed: int = 0, **how: Any) -> Learned:
        model, plan = engine_model()
        faces = [FACES] * len(pictures)
        return reconstruct.reconstruct(
            Graph(model), Graph(model), plan, pictures, faces, seed=seed, threads=1, schedule=schedule, **how
        )

    return run


def assert_identical(found: Learned, wanted: Learned) -> None:
    assert found.grids == wanted.grids
    for part in ("constants", "factors"):
        first, second = getattr(found, part), getattr(wanted, part)
        assert set(first) == set(second)
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name])


def difference(found: Learned, wanted: Learned) -> float:
    return max(float(np.abs(value - wanted.constants[name]).max()) for name, value in found.constants.items())


@pytest.fixture(scope="module")
def uninterrupted(learn: Callable[..., Learned]) -> Learned:
    return learn()


def test_the_same_seed_gives_the_same_bits(learn, uninterrupted):
    assert_identical(learn(), uninterrupted)


def test_another_seed_gives_something_else(learn, uninterrupted):
    assert difference(learn(seed=1), uninterrupted) > 0


def test_everything_was_moved_but_the_image(learn, uninterrupted, engine_model):
    _, plan = engine_model()
    start = learn(dataclasses.replace(SCHEDULE, steps=0))
    assert start.grids["image"] == uninterrupted.grids["image"] == plan.activations["image"]
    assert difference(start, uninterrupted) > 0
    assert sum(uninterrupted.grids[name] != grid for name, grid in start.grids.items()) > len(start.grids) / 2
    assert all((value != 1).any() for value in uninterrupted.factors.values())
    for name, grid in start.grids.items():  # nothing learned is nothing changed, but for the logarithm's last bit
        assert grid.zero_point == plan.activations[name].zero_point
        assert grid.scale == pytest.approx(plan.activations[name].scale, rel=1e-6)


class Killed(Exception):  # noqa: N818 - it is no error
    """Stands for a signal."""


def killed_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise Killed

    return on_step


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are written every two steps."""
    monkeypatch.setattr(reconstruct, "SAVE_EVERY", 2)


@pytest.mark.usefixtures("saving")
def test_an_interrupted_run_goes_on_and_ends_at_the_same_bits(learn, uninterrupted, tmp_path):
    state, told = tmp_path / "state.pt", []
    with pytest.raises(Killed):
        learn(state=state, on_step=killed_at(3))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
    with pytest.raises(Killed):
        learn(state=state, on_step=killed_at(5))  # went on at 2
    resumed = learn(state=state, on_step=told.append)
    assert told == [4, 5, 6]
    assert_identical(resumed, uninterrupted)
    assert list(tmp_path.iterdir()) == []


def test_every_step_is_told(learn):
    told: list[int] = []
    learn(dataclasses.replace(SCHEDULE, steps=2), on_step=told.append)
    assert told == [0, 1, 2]


def saved(state: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(state, weights_only=True)
    return content


@pytest.mark.usefixtures("saving")
@pytest.mark.parametrize(
    "what",
    [
        "half",
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("noise", "no step", "no optimizer", "foreign")),
        "foreign optimizer",
    ],
)
def test_a_state_that_is_not_whole_is_as_good_as_none(learn, uninterrupted, tmp_path, what):
    state, told = tmp_path / "state.pt", []
    with pytest.raises(Killed):
        learn(state=state, on_step=killed_at(3))
    whole, content = state.read_bytes(), saved(state)
    if what in {"noise", "half"}:
        state.write_bytes({"noise": b"not a state", "half": whole[: len(whole) // 2]}[what])
    else:
        if what == "foreign optimizer":
            content["optimizer"]["param_groups"] = content["optimizer"]["param_groups"][:-1]
        elif what == "foreign":
            content["simulation"].pop("zero")
        else:
            del content[what.split()[1]]
        torch.save(content, state)
    found = learn(state=state, on_step=told.append)
    assert told[0] == 0
    assert_identical(found, uninterrupted)
    assert not state.exists()


@pytest.mark.usefixtures("saving")
def test_a_state_that_cannot_be_written_leaves_no_half_file(learn, tmp_path, monkeypatch):
    def full(_content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        learn(state=tmp_path / "state.pt")
    assert list(tmp_path.iterdir()) == []


def test_torch_s_threads_are_given_back(learn):
    before = torch.get_num_threads()
    with pytest.raises(Killed):
        learn(on_step=killed_at(0))
    assert torch.get_num_threads() == before


@pytest.fixture
def loss(best_of_rivals: Callable[..., Any]) -> Callable[..., float]:
    """The distillation loss in float64, written out: weights by face probability, best prior and slope of the score."""

    def parts(side: dict[str, np.ndarray], name: str) -> np.ndarray:
        value = side[name].astype(np.float64)
        n, c, h, w = value.shape
        return value.reshape(n, 2, c // 2, h, w)

    def margin(side: dict[str, np.ndarray], level: dict[str, str]) -> np.ndarray:
        logits = parts(side, level["margin"])
        return logits[:, :, 1] - logits[:, :, 0]

    def of(values: dict[str, np.ndarray], targets: dict[str, np.ndarray], names: list[dict[str, str]]) -> float:
        total = faces = 0.0
        for level in names:
            expected = margin(targets, level)
            p, best = 1 / (1 + np.exp(-expected)), best_of_rivals(expected)
            box, points = (
                np.square(parts(values, level[k]) - parts(targets, level[k])).mean(axis=2) for k in ("box", "landmarks")
            )
            score = np.square(margin(values, level) - expected)
            total += ((best * p + 0.002) * (box + 2 * points)).sum()
            total += 6 * ((best * (p * (1 - p) + 0.1 * p) + 0.001) * score).sum()
            faces += (best * p + 0.002).sum()
        return total / faces

    return of


def test_the_loss_is_the_formula_in_float64(seeded_model, loss):
    found = levels(Graph(seeded_model()))
    names = [{"margin": v.margin, "box": v.box, "landmarks": v.landmarks} for v in found]
    random = np.random.default_rng(3)
    sides = [
        {
            name: random.normal(size=(2, channels, 6 + i, 7)).astype(np.float32) * 2
            for i, level in enumerate(names)
            for name, channels in ((level["margin"], 4), (level["box"], 8), (level["landmarks"], 20))
        }
        for _ in range(2)
    ]
    tensors = [{name: torch.from_numpy(value) for name, value in side.items()} for side in sides]
    assert float(head_loss(found, *tensors)) == pytest.approx(loss(*sides, names), rel=1e-5)
    assert float(head_loss(found, tensors[1], tensors[1])) == 0


@pytest.mark.slow
def test_learning_brings_the_written_model_nearer(learn, engine_model, pictures, as_feed, run_showing, tmp_path, loss):
    """Measured on what is written, by onnxruntime, on whole photographs; the seeded network needs small steps."""
    model, plan = engine_model()
    graph = Graph(model)
    names = [{"margin": v.margin, "box": v.box, "landmarks": v.landmarks} for v in levels(graph)]
    feeds = [as_feed(picture) for picture in pictures]
    targets = [run_showing(model, feed, graph.heads) for feed in feeds]

    def error(steps: int) -> float:
        learned = learn(Schedule(steps=steps, batch=8, side=96, pool=32), seed=1)
        changed, _ = engine_model()
        edit.set_constants(changed, learned.constants)
        path = tmp_path / f"{steps}.onnx"
        qdq.write(changed, dataclasses.replace(plan, activations=dict(learned.grids)), path)
        written = onnx.load(str(path))
        shown = [f"{name}_dq" for name in graph.heads]
        losses = []
        for feed, target in zip(feeds, targets, strict=True):
            found = run_showing(written, feed, shown)
            losses.append(loss({name: found[f"{name}_dq"] for name in graph.heads}, target, names))
        return float(np.mean(losses))

    before, after = error(0), error(40)
    assert after < 0.93 * before  # random weights amplify every rounding; trained ones learn much more


# Rates and order


def test_every_parameter_has_a_rate_in_its_own_unit(engine_model):
    model, plan = engine_model()
    simulation = Simulation(Graph(model), plan)
    groups = rates(simulation, Schedule(weight_rate=0.5, bias_rate=0.25, factor_rate=1, scale_rate=2, zero_rate=3))
    given = [parameter for group in groups for parameter in group["params"]]
    assert len(given) == len(set(given)) == len(list(simulation.parameters()))
    rate = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    weight, bias = simulation.weight["conv3"], simulation.bias["conv3"]
    steps = np.abs(weight.detach().numpy()).max(axis=(1, 2, 3)) / 127
    assert rate[weight] == pytest.approx(0.5 * np.sort(steps)[(len(steps) - 1) // 2])
    assert rate[bias] == pytest.approx(0.25 * np.abs(bias.detach().numpy()).mean())
    assert [rate[p] for p in (simulation.log_factor["group0"], simulation.log_scale, simulation.zero)] == [1, 2, 3]


def test_the_rate_warms_up_and_ends_near_zero():
    course = [reconstruct._cosine(step, 100) for step in range(100)]
    assert course[0] == pytest.approx(0.1)
    assert max(course) == course[9] > 0.95
    assert all(a > b for a, b in itertools.pairwise(course[9:]))
    assert course[-1] < 0.001


@pytest.mark.parametrize(("pool", "batch"), [(10, 3), (8, 4), (3, 8)])
def test_an_epoch_shows_every_crop_at_most_once_and_the_next_another_order(pool, batch):
    learning = object.__new__(reconstruct._Learning)
    learning._seed, learning._crops = 4, torch.zeros(pool, 1)
    learning._schedule = Schedule(batch=batch)
    per_epoch = max(pool // batch, 1)
    epochs = [[learning._batch(e * per_epoch + i).tolist() for i in range(per_epoch)] for e in range(2)]
    for epoch in epochs:
        seen = [index for step in epoch for index in step]
        assert len(seen) == len(set(seen)) == min(per_epoch * batch, pool)
    assert epochs[0] != epochs[1]
    assert learning._batch(1).tolist() == learning._batch(1).tolist()


@pytest.mark.slow
def test_it_learns_what_the_teacher_says_not_what_it_starts_from(engine_model, pictures):
    """A bias that was shifted before learning is pulled back; with itself as teacher it would stay."""
    schedule = Schedule(steps=30, batch=4, side=64, pool=8)
    (model, plan), (true, _) = engine_model(), engine_model()
    graph = Graph(model)
    head = next(n for n in graph.trunk if n.output[0] == levels(graph)[0].box)
    shifted = graph.constants[head.input[2]] + 0.05
    edit.set_constants(model, {head.input[2]: shifted})
    faces = [FACES] * len(pictures)

    def bias_learned_from(teacher: Any) -> Any:
        how: dict[str, Any] = {"seed": 0, "threads": 1, "schedule": schedule}
        found = reconstruct.reconstruct(Graph(model), Graph(teacher), plan, pictures, faces, **how)
        return found.constants[head.input[2]]

    back = float((shifted - bias_learned_from(true)).mean())
    stays = float((shifted - bias_learned_from(model)).mean())
    assert back > stays + 1e-4


def test_a_large_network_runs_a_batch_in_parts_and_learns_the_same(engine_model, pictures, monkeypatch):
    model, plan = engine_model()
    graph = Graph(model)
    assert reconstruct.part_of(graph, 96, 4) == 4
    schedule = Schedule(steps=2, batch=4, side=96, pool=8)
    boxes = [np.zeros((0, 4), np.float32)] * len(pictures)

    def learned() -> Any:
        return reconstruct.reconstruct(graph, graph, plan, pictures, boxes, seed=0, threads=1, schedule=schedule)

    whole = learned()
    elements = sum(np.prod(graph.shapes[name]) for name in graph.trunk_tensors) * (96 / 160) ** 2
    monkeypatch.setattr(reconstruct, "MOST_BYTES", 1.5 * elements * reconstruct.BYTES_HELD)
    assert reconstruct.part_of(graph, 96, 4) == 1
    parts = learned()
    for name, value in whole.constants.items():
        np.testing.assert_allclose(parts.constants[name], value, atol=0.05 * np.abs(value).max() + 1e-6)
