"""Calibration from beginning to end on the seeded detector: every effort, its record, and what it writes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from PIL import Image

from facex.calibration import engine
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph
from facex.calibration.qdq import FLOAT_OPERATORS
from facex.calibration.schedule import Schedule
from facex.calibration.units import closure, units
from facex.errors import PhotographError
from facex.progress import Clock, Silent
from facex.reference import photographs
from facex.types import Effort, Head, Size

if TYPE_CHECKING:
    from facex.calibration.engine import Calibrated
    from facex.reference.detector import Detector

SIZE = Size(height=160, width=160)
TINY = Schedule(steps=6, batch=4, side=96, pool=16)
EFFORTS = [Effort.MINMAX, Effort.FAST, pytest.param(Effort.BEST, marks=pytest.mark.slow)]
REWRITING = EFFORTS[1:]
"""Efforts that rewrite the image's way in, so that nothing of it is rounded before the first convolution."""


class Recorder(Silent):
    """Keeps what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[str] = []
        self.steps: dict[str, int] = {}
        self.said: list[str] = []

    def start(self, task: str, total: int | None = None) -> None:
        self.tasks.append(task)

    def advance(self) -> None:
        self.steps[self.tasks[-1]] = self.steps.get(self.tasks[-1], 0) + 1

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="session")
def float_pivot(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded detector's float32 ONNX file at 160x160, decoded head."""
    from facex.exporters import _pivot

    path = tmp_path_factory.mktemp("engine") / "pivot.onnx"
    _pivot.write(detector, SIZE, Head.DECODED, 17, path)
    return path


@pytest.fixture(scope="session")
def engine_of(
    float_pivot: Path, detector: Detector, calibrated: Callable[..., Calibrated]
) -> Callable[[Effort], tuple[Calibrated, Recorder, Clock]]:
    """`engine_of(effort)`: what the engine gives, what it showed and how long it took, computed once."""
    known: dict[Effort, tuple[Calibrated, Recorder, Clock]] = {}

    def get(effort: Effort) -> tuple[Calibrated, Recorder, Clock]:
        if effort not in known:
            recorder = Recorder()
            clock = Clock(recorder)
            found = calibrated(float_pivot, detector, Head.DECODED, effort, schedule=TINY, clock=clock)
            known[effort] = found, recorder, clock
        return known[effort]

    return get


@pytest.fixture(scope="session")
def feed(draw_photograph: Callable[..., Image.Image]) -> dict[str, Any]:
    picture = np.asarray(draw_photograph(77, 160, 160), np.float32)
    return {"image": np.ascontiguousarray(picture.transpose(2, 0, 1)[None])}


def head_error(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    return float(np.square(found["boxes"].astype(np.float64) - wanted["boxes"]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("effort", EFFORTS, ids=str)
def test_every_effort_writes_a_model_that_answers_like_the_float_one(
    engine_of: Any, float_pivot: Path, run_onnx: Any, feed: Any, tmp_path: Path, effort: Effort
) -> None:
    found, _, _ = engine_of(effort)
    found.write(tmp_path / "a.onnx")
    wanted, got = run_onnx(float_pivot, feed), run_onnx(tmp_path / "a.onnx", feed)
    assert list(got) == ["boxes", "scores", "landmarks"]
    for name, values in wanted.items():
        assert got[name].shape == values.shape
        noise = np.square(got[name] - values).sum()
        assert 0 < noise < 0.3 * np.square(values - values.mean()).sum(), name
    model = onnx.load(str(tmp_path / "a.onnx"))
    assert not [p for p in model.metadata_props if p.key == FLOAT_OPERATORS]


@pytest.mark.slow
def test_algebra_and_statistics_beat_extremes(
    engine_of: Any, float_pivot: Path, run_onnx: Any, feed: Any, tmp_path: Path
) -> None:
    wanted, errors = run_onnx(float_pivot, feed), {}
    for effort in (Effort.MINMAX, Effort.FAST):
        path = tmp_path / f"{effort}.onnx"
        engine_of(effort)[0].write(path)
        errors[effort] = head_error(run_onnx(path, feed), wanted)
    assert errors[Effort.FAST] < errors[Effort.MINMAX]


def test_methods_rewrites_and_stages_are_those_of_the_effort(engine_of: Any) -> None:
    minmax, fast = (engine_of(effort) for effort in (Effort.MINMAX, Effort.FAST))
    assert [c.plan.method for c, _, _ in (minmax, fast)] == [engine.METHODS[e] for e in (Effort.MINMAX, Effort.FAST)]
    assert minmax[0].rewritten == {}
    assert set(fast[0].rewritten) == {"integer_gate", "relu_before_concat", "lossless_image", "split_leaky_relu"}
    assert all(fast[0].rewritten.values())
    assert minmax[1].tasks == ["reading 8 calibration photographs at 160x160", "choosing ranges at 160x160"]
    ahead = iter(fast[1].tasks)
    assert all(task in ahead for task in (minmax[1].tasks[0], "equalizing channels at 160x160", minmax[1].tasks[1]))
    for _, recorder, clock in (minmax, fast):
        assert [recorder.steps[task] for task in minmax[1].tasks] == [8, 8]
        assert {"calibrate"} <= set(clock.timings_s) <= {"calibrate", "equalize"}


@pytest.mark.slow
def test_the_best_effort_goes_on_from_the_fast_one(engine_of: Any) -> None:
    fast, best = engine_of(Effort.FAST), engine_of(Effort.BEST)
    assert best[0].plan.method == engine.METHODS[Effort.BEST] == f"{fast[0].plan.method}-reconstructed"
    assert best[0].rewritten == fast[0].rewritten
    assert best[1].tasks == [*fast[1].tasks, "learning the integers at 160x160, 6 steps"]
    assert best[1].steps[best[1].tasks[-1]] == TINY.steps
    assert list(best[2].timings_s) == [*fast[2].timings_s, "reconstruct"]


@pytest.mark.parametrize("effort", REWRITING, ids=str)
def test_the_float_weights_keep_the_network_what_it_was(
    engine_of: Any, float_pivot: Path, run_onnx: Any, feed: Any, effort: Effort
) -> None:
    wanted = run_onnx(float_pivot, feed)
    for name, values in run_onnx(onnx.load_from_string(engine_of(effort)[0].relaxed), feed).items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-4, atol=2e-3)


@pytest.mark.slow
def test_learning_changes_weights_and_grids(engine_of: Any) -> None:
    fast, best = engine_of(Effort.FAST)[0], engine_of(Effort.BEST)[0]
    assert list(best.plan.activations) == list(fast.plan.activations)
    moved = [name for name, grid in best.plan.activations.items() if grid != fast.plan.activations[name]]
    assert len(moved) > len(best.plan.activations) / 2
    assert best.plan.activations["image"] == fast.plan.activations["image"]
    before, after = Graph(onnx.load_from_string(fast.model)).constants, best.graph.constants
    weights = [node.input[1] for node in best.graph.trunk if node.op_type == "Conv"]
    assert all(np.isfinite(after[name]).all() for name in weights)
    assert sum(not np.array_equal(before[name], after[name]) for name in weights) > len(weights) / 2


@pytest.mark.slow
@pytest.mark.parametrize("effort", REWRITING, ids=str)
def test_the_same_again_for_the_same_seed(
    engine_of: Any, float_pivot: Path, detector: Detector, calibrated: Any, effort: Effort
) -> None:
    first = engine_of(effort)[0]
    again = calibrated(float_pivot, detector, Head.DECODED, effort, schedule=TINY, clock=Clock())
    assert (again.model, again.relaxed, again.plan) == (first.model, first.relaxed, first.plan)
    np.testing.assert_array_equal(again.crops, first.crops)


@pytest.mark.slow
def test_another_seed_learns_something_else(
    engine_of: Any, float_pivot: Path, detector: Detector, calibrated: Any
) -> None:
    other = calibrated(float_pivot, detector, Head.DECODED, Effort.BEST, seed=1, schedule=TINY)
    first = engine_of(Effort.BEST)[0]
    assert other.model != first.model
    assert other.hygiene == first.hygiene


def test_the_record_holds_hygiene_and_stability(engine_of: Any) -> None:
    found = engine_of(Effort.FAST)[0].hygiene
    assert found.photographs_with_faces == 8
    assert found.near_duplicates == 0
    assert found.stability is not None
    assert 0 < found.stability.median <= found.stability.worst <= 1
    assert found.stability.tensor in engine_of(Effort.FAST)[0].plan.activations


@pytest.fixture
def calibrate(float_pivot: Path, detector: Detector, tmp_path: Path) -> Callable[..., Calibrated]:
    """`calibrate(folder)`: the engine on any folder, without learning."""

    def run(folder: Path, effort: Effort = Effort.MINMAX, progress: Silent | None = None) -> Calibrated:
        setting = engine.Setting(
            contract=detector.contract, size=SIZE, head=Head.DECODED, effort=effort, seed=0, threads=1
        )
        chosen = photographs.find(folder, option="--calib")
        clock = Clock(progress)
        seen = engine.read(float_pivot, chosen, setting, clock)
        return engine.calibrate(float_pivot, seen, setting, states=tmp_path, clock=clock)

    return run


def test_one_photograph_has_no_halves_to_compare(
    calibrate: Any, draw_photograph: Callable[..., Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    draw_photograph(1, 160, 160).save(tmp_path / "one" / "a.png")
    assert calibrate(tmp_path / "one").hygiene.stability is None


def test_blank_photographs_are_refused(calibrate: Any, tmp_path: Path) -> None:
    folder = tmp_path / "blank"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (160, 160), (20 * i, 30, 40)).save(folder / f"{i}.png")
    with pytest.raises(PhotographError, match="blank") as caught:
        calibrate(folder, Effort.FAST)
    assert caught.value.exit_code == 2


def test_too_many_photographs_are_thinned_out_evenly(
    calibrate: Any, calib_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_PHOTOGRAPHS", 2)
    recorder = Recorder()
    calibrate(calib_dir, progress=recorder)
    assert recorder.tasks[0] == "reading 2 calibration photographs at 160x160"
    chosen = engine.spread(photographs.find(calib_dir, option="--calib"), 2)
    assert [p.path.name for p in chosen] == ["calibration_0.png", "calibration_3.png"]
    assert list(engine.spread(range(11), 4)) == [0, 3, 7, 10]
    assert list(engine.spread(range(4), 4)) == [0, 1, 2, 3]


# The key of a state


@pytest.fixture(scope="module")
def question(detector: Detector) -> dict[str, Any]:
    """The arguments of a reconstruction, small stand-ins where their kind does not matter."""
    setting = engine.Setting(
        contract=detector.contract, size=SIZE, head=Head.DECODED, effort=Effort.BEST, seed=0, threads=1, schedule=TINY
    )
    pixels = [np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)]
    return {"model": _model(1.0), "plan": _plan(0.5), "seen": _seen(pixels), "setting": setting}


def _model(value: float) -> onnx.ModelProto:
    constant = onnx.numpy_helper.from_array(np.float32(value), "c")
    graph = onnx.helper.make_graph([], "g", [], [], [constant])
    return onnx.helper.make_model(graph)


def _plan(scale: float) -> Any:
    from facex.calibration.plan import Affine, QuantizationPlan

    return QuantizationPlan(activations={"x": Affine(scale=scale, zero_point=1)}, method="mse")


def _seen(pixels: list[Any], faces: Any = ()) -> Any:
    from facex.calibration.hygiene import Hygiene

    fields = {f.name: None for f in dataclasses.fields(Hygiene)}
    return engine.Seen(pixels, list(faces), Hygiene(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        lambda q: {"model": _model(2.0)},
        lambda q: {"plan": _plan(0.25)},
        lambda q: {"setting": dataclasses.replace(q["setting"], seed=1)},
        lambda q: {"setting": dataclasses.replace(q["setting"], threads=2)},
        lambda q: {"setting": dataclasses.replace(q["setting"], schedule=Schedule(steps=7))},
        lambda q: {"setting": dataclasses.replace(q["setting"], schedule=dataclasses.replace(TINY, zero_rate=0.1))},
        lambda q: {"seen": _seen(q["seen"].pixels[::-1])},
        lambda q: {"seen": _seen(q["seen"].pixels[:1])},
        lambda q: {"seen": _seen([q["seen"].pixels[0], q["seen"].pixels[1] + 1])},
    ],
    ids=["weights", "grids", "seed", "threads", "steps", "rates", "order", "number", "pixels"],
)
def test_a_state_is_gone_on_with_only_for_the_same_question(question: dict[str, Any], changed: Any) -> None:
    key = engine._key(**question)
    assert key == engine._key(**question)
    assert key != engine._key(**{**question, **changed(question)})


def test_a_new_release_of_torch_starts_anew(question: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    key = engine._key(**question)
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    assert engine._key(**question) != key


@pytest.mark.parametrize("seed", ["1", "2"])
def test_what_a_state_is_indexed_by_does_not_depend_on_the_process(engine_of: Any, tmp_path: Path, seed: str) -> None:
    """Sets of names are ordered by a hash that is new in every process; a state outlives its own."""
    (tmp_path / "a.onnx").write_bytes(engine_of(Effort.FAST)[0].model)
    program = (
        "import json, onnx\n"
        "from facex.calibration.channels import Channels\n"
        "from facex.calibration.graph import Graph\n"
        "graph = Graph(onnx.load('a.onnx'))\n"
        "print(json.dumps([[sorted(g) for g in graph.shared_ranges()], list(Channels(graph).groups.items())]))"
    )
    line = [sys.executable, "-c", program]
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    graph = engine_of(Effort.FAST)[0].graph
    shared = [sorted(group) for group in graph.shared_ranges()]
    assert json.loads(done.stdout) == [shared, [list(item) for item in Channels(graph).groups.items()]]


def test_the_time_left_is_told_once_it_is_known() -> None:
    recorder = Recorder()
    recorder.start("learning")
    ticker = engine._Ticker("learning", 100, Clock(recorder))
    for done in range(101):
        ticker(done)
    assert len(recorder.tasks) == 2
    assert recorder.tasks[1].startswith("learning, about ")
    assert recorder.tasks[1].endswith(" min left")
    assert recorder.steps[recorder.tasks[1]] == 100, "the bar begins anew, and what was done is done there too"
    assert recorder.said == []


def test_an_interrupted_learning_is_said_to_go_on() -> None:
    recorder = Recorder()
    recorder.start("learning")
    ticker = engine._Ticker("learning", 60, Clock(recorder))
    for done in range(50, 61):
        ticker(done)
    assert recorder.said == ["going on after step 50 of 60, where an interrupted run was"]
    assert recorder.steps == {"learning": 60}
    assert recorder.tasks == ["learning"], "with ten steps to go there is nothing worth telling"


# Some of it in float


def _names(found: Calibrated) -> list[str]:
    return [unit.name for unit in units(found.graph)]


@pytest.mark.parametrize("effort", REWRITING, ids=str)
@pytest.mark.parametrize("count", [1, 5])
def test_a_float_prefix_computes_what_the_network_computes(
    engine_of: Any, run_onnx: Any, feed: Any, tmp_path: Path, effort: Effort, count: int
) -> None:
    """With the network's own weights; the image is whole numbers and loses nothing on its grid."""
    found = engine_of(effort)[0]
    floats = closure(found.graph, _names(found)[:count])
    found.write(tmp_path / "mixed.onnx", floats)
    mixed, relaxed = onnx.load(str(tmp_path / "mixed.onnx")), onnx.load_from_string(found.relaxed)
    last = [node.output[0] for node in found.graph.trunk if node.output[0] in floats][-1]
    for model in (mixed, relaxed):
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    # the strips of mean colour about the image are on its grid; they touch the border alone
    got, wanted = (run_onnx(model, feed)[last][:, :, 8:-8, 8:-8] for model in (mixed, relaxed))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("effort", REWRITING, ids=str)
def test_everything_in_float_is_the_float_network(
    engine_of: Any, float_pivot: Path, run_onnx: Any, feed: Any, tmp_path: Path, effort: Effort
) -> None:
    found = engine_of(effort)[0]
    found.write(tmp_path / "floats.onnx", closure(found.graph, _names(found)))
    wanted, got = run_onnx(float_pivot, feed), run_onnx(tmp_path / "floats.onnx", feed)
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=5e-3)
    model = onnx.load(str(tmp_path / "floats.onnx"))
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    # the image, and the image with strips of mean colour about it
    assert {
        (node.input[0] == "image") or found.graph.producer[node.input[0]].op_type == "Concat" for node in pairs
    } == {True}


def test_what_was_left_in_float_is_in_the_file(engine_of: Any, tmp_path: Path) -> None:
    found = engine_of(Effort.FAST)[0]
    names = _names(found)[7:9]
    found.write(tmp_path / "mixed.onnx", closure(found.graph, names))
    model = onnx.load(str(tmp_path / "mixed.onnx"))
    (told,) = [p.value for p in model.metadata_props if p.key == FLOAT_OPERATORS]
    assert json.loads(told) == names
    graph = Graph(model)
    source = {name: graph.producer.get(name) for name in graph.producer}
    for node in (n for n in model.graph.node if n.op_type == "Conv"):
        weight = source.get(node.input[1])
        integer = weight is not None and weight.op_type == "DequantizeLinear"
        assert integer is (node.output[0] not in names), node.output[0]


def test_writing_changes_nothing_that_is_written_later(engine_of: Any, tmp_path: Path) -> None:
    found = engine_of(Effort.FAST)[0]
    found.write(tmp_path / "first.onnx")
    found.write(tmp_path / "mixed.onnx", closure(found.graph, _names(found)[:3]))
    found.write(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()
    assert (tmp_path / "mixed.onnx").read_bytes() != (tmp_path / "first.onnx").read_bytes()
