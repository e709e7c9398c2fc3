"""Which convolutions must stay in float: the search on models whose answers are known."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex import mixing
from facex.calibration import units
from facex.errors import SessionUnavailableError
from facex.mixing import F1, F1_MARGIN, NME, NME_MARGIN, WORTH, Goal, Part, goal_of, search, worst
from facex.types import Limit, Precision

Metrics = dict[str, "float | None"]


class Additive:
    """Every convolution on integers adds its own noise, whatever the others do: F1 = 1 - sum, NME = sum / 10."""

    def __init__(self, noise: dict[str, float]) -> None:
        self.noise = noise
        self.asked: list[frozenset[str]] = []

    def metrics(self, floats: frozenset[str]) -> Metrics:
        total = sum(noise for name, noise in self.noise.items() if name not in floats)
        return {F1: 1 - total, NME: total / 10}

    def __call__(self, sets: Sequence[frozenset[str]]) -> list[Metrics]:
        assert sets, "asked for nothing"
        self.asked += sets
        return [self.metrics(s) for s in sets]


def parts_of(noise: dict[str, float], shares: dict[str, float]) -> list[Part]:
    return [Part(name=name, share=shares[name], sensitivity=noise[name]) for name in noise]


def silent(_: str) -> None:
    """Nobody listens."""


def goal(f1: float | None = None, nme: float | None = None) -> Goal:
    return Goal(min_f1=f1, max_nme=nme)


NAMES = tuple("abcdefgh")
NOISE = st.lists(st.floats(0.001, 0.1), min_size=2, max_size=8)


def equal_shares(noise: dict[str, float]) -> dict[str, float]:
    return dict.fromkeys(noise, 1 / len(noise))


@given(NOISE, st.floats(0.3, 0.99))
def test_among_equals_it_finds_the_fewest(values: list[float], least: float) -> None:
    noise = dict(zip(NAMES, values, strict=False))
    model, wanted = Additive(noise), goal(least)
    found = search(parts_of(noise, equal_shares(noise)), wanted, model, silent)
    sets = (frozenset(s) for n in range(len(noise) + 1) for s in itertools.combinations(noise, n))
    fewest = next((len(s) for s in sets if wanted.met(model.metrics(s))), None)
    assert fewest is not None, "all in float has no noise"
    assert len(found) == fewest
    assert wanted.met(model.metrics(found))
    assert len(model.asked) == len(set(model.asked)), "no set is measured twice"


@given(NOISE, st.lists(st.integers(1, 50), min_size=8, max_size=8), st.floats(0.3, 0.99), st.floats(0.001, 0.08))
def test_it_meets_the_goal_and_no_member_that_is_worth_it_can_be_missed(
    values: list[float], weights: list[int], least: float, most: float
) -> None:
    noise = dict(zip(NAMES, values, strict=False))
    shares = {name: w / sum(weights[: len(noise)]) for name, w in zip(noise, weights, strict=False)}
    model, wanted = Additive(noise), goal(least, most)
    found = search(parts_of(noise, shares), wanted, model, silent)
    assert wanted.met(model.metrics(found))
    for name in (n for n in found if shares[n] >= WORTH):
        assert not wanted.met(model.metrics(found - {name})), f"{name} was not needed"
    assert len(model.asked) == len(set(model.asked))


def test_integers_that_are_good_enough_are_measured_once_and_kept() -> None:
    model = Additive({"a": 0.01, "b": 0.01})
    parts = parts_of(model.noise, {"a": 0.5, "b": 0.5})
    assert search(parts, goal(0.97, 0.01), model, silent) == frozenset()
    assert model.asked == [frozenset()]


def test_what_hurts_most_for_its_size_goes_first() -> None:
    noise = {"large": 0.05, "small": 0.04, "harmless": 0.001}
    model = Additive(noise)
    parts = parts_of(noise, {"large": 0.5, "small": 0.01, "harmless": 0.49})
    assert search(parts, goal(0.94), model, silent) == {"small"}


def test_a_misleading_sensitivity_costs_no_more_than_a_longer_search() -> None:
    """The order is wrong, so the prefix holds convolutions that turn out to be of no use."""
    noise = {"guilty": 0.2, **{f"innocent{i}": 1e-4 for i in range(6)}}
    model = Additive(noise)
    parts = [Part(name=name, share=1 / 7, sensitivity=0.0 if name == "guilty" else 1.0) for name in noise]
    assert search(parts, goal(0.99), model, silent) == {"guilty"}
    assert len(model.asked) == len(set(model.asked))


def test_members_that_only_work_together_stay_together() -> None:
    def evaluate(sets: Sequence[frozenset[str]]) -> list[Metrics]:
        return [{F1: 1.0 if {"a", "c"} <= s else 0.5, NME: 0.0} for s in sets]

    parts = [Part(name=name, share=0.25, sensitivity=9.0 - i) for i, name in enumerate("abcd")]
    assert search(parts, goal(0.9), evaluate, silent) == {"a", "c"}


def test_when_nothing_is_enough_the_best_found_is_returned() -> None:
    metrics: dict[int, Metrics] = {0: {F1: 0.5, NME: 0.1}, 1: {F1: 0.8, NME: 0.1}, 2: {F1: 0.7, NME: 0.1}}
    parts = [Part(name="a", share=0.2, sensitivity=2.0), Part(name="b", share=0.8, sensitivity=1.0)]
    found = search(parts, goal(0.95), lambda sets: [metrics[len(s)] for s in sets], silent)
    assert found == {"a"}


def test_the_way_is_told_with_its_price() -> None:
    said: list[str] = []
    model = Additive({"a": 0.05, "b": 0.001})
    search(parts_of(model.noise, {"a": 0.25, "b": 0.75}), goal(0.99), model, said.append)
    assert len(said) == len(model.asked)
    assert said[0] == "  all integer: F1 0.9490, NME 0.0051"
    assert "  1 in float, 25.0% of the multiplications: F1 0.9990, NME 0.0001, enough" in said


def test_nothing_measured_is_told_as_such_and_meets_nothing() -> None:
    said: list[str] = []
    parts = [Part(name="a", share=1.0, sensitivity=1.0)]
    search(parts, goal(0.9), lambda sets: [{F1: None, NME: None} for _ in sets], said.append)
    assert said == [
        "  all integer: F1 -, NME -",
        "  1 in float, 100.0% of the multiplications: F1 -, NME -",
    ]


def test_a_network_without_parts_is_measured_and_no_more() -> None:
    model = Additive({})
    model.noise = {"beyond reach": 0.5}
    assert search([], goal(0.9), model, silent) == frozenset()


@pytest.mark.parametrize(
    ("asked", "f1", "nme", "met"),
    [
        (goal(0.9), 0.9 + F1_MARGIN, 9.0, True),
        (goal(0.9), 0.9 + F1_MARGIN / 2, 0.0, False),
        (goal(1.0), 1.0, 0.0, True),
        (goal(0.9), None, 0.0, False),
        (goal(nme=0.01), None, 0.01 * NME_MARGIN, True),
        (goal(nme=0.01), 1.0, 0.01, False),
        (goal(nme=0.01), 1.0, None, False),
        (goal(0.9, 0.01), 0.95, 0.005, True),
        (goal(0.9, 0.01), 0.95, 0.02, False),
        (goal(0.9, 0.01), 0.85, 0.005, False),
        (goal(), None, None, True),
    ],
)
def test_a_goal_is_met_with_a_margin(asked: Goal, f1: float | None, nme: float | None, met: bool) -> None:
    assert asked.met({F1: f1, NME: nme}) is met


def test_of_failures_the_nearest_is_the_best() -> None:
    asked = goal(0.9, 0.01)
    ordered: list[Metrics] = [
        {F1: 0.95, NME: 0.005},
        {F1: 0.89, NME: 0.01},
        {F1: 0.89, NME: 0.05},
        {F1: 0.5, NME: 0.01},
        {F1: None, NME: None},
    ]
    missed = [asked.missed_by(m) for m in ordered]
    assert missed == sorted(missed)
    assert missed[0] == 0
    assert len(set(missed)) == len(missed)


def _limit(metric: str, value: float, precision: Precision | None = None) -> Limit:
    return Limit(metric=metric, value=value, precision=precision)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], None),
        ([_limit("box_iou_p5", 0.9)], None),
        ([_limit(F1, 0.9, Precision.FP16)], None),
        ([_limit(F1, 0.9)], goal(0.9)),
        ([_limit(NME, 0.01, Precision.W8A8)], goal(nme=0.01)),
        ([_limit(F1, 0.9), _limit(NME, 0.01), _limit("lost_faces", 0.0)], goal(0.9, 0.01)),
        ([_limit(F1, 0.9), _limit(F1, 0.95)], goal(0.95)),
        # as the judge will have it: what is said of w8a8 goes before what is said of all
        ([_limit(F1, 0.95, Precision.W8A8), _limit(F1, 0.9)], goal(0.95)),
    ],
)
def test_the_goal_is_what_the_judge_will_ask(limits: list[Limit], expected: Goal | None) -> None:
    assert goal_of(limits) == expected


@pytest.mark.parametrize(
    ("of", "together"),
    [
        ([(0.9, 0.02), (0.8, 0.01)], (0.8, 0.02)),
        ([(0.9, 0.02)], (0.9, 0.02)),
        ([(None, 0.02), (0.8, None)], (None, None)),
        ([(float("nan"), 0.02), (0.8, 0.01)], (None, 0.02)),
        ([(0.8, 0.01), (0.9, float("nan"))], (0.8, None)),
    ],
)
def test_of_several_files_the_worst_counts(of: Any, together: Any) -> None:
    assert worst([{F1: f1, NME: nme} for f1, nme in of]) == {F1: together[0], NME: together[1]}


def test_without_a_runtime_for_the_files_the_qdq_model_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each set is written, opened where that is possible, and thrown away again."""
    opened: list[str] = []

    class Target:
        def __init__(self, runs: bool) -> None:
            self.runs = runs

        def export(self, job: Any) -> None:
            job.path.write_bytes(job.qdq.read_bytes())

        def open_session(self, path: Path, *, threads: int) -> str:
            assert path.read_bytes() == b"qdq"
            if not self.runs:
                raise SessionUnavailableError("not here")
            opened.append(path.name)
            return path.name

    class Written:
        graph = None

        def write(self, path: Path, _floats: frozenset[str]) -> None:
            path.write_bytes(b"qdq")

    @dataclasses.dataclass
    class Job:
        path: Path
        qdq: Path | None = None

    monkeypatch.setattr(units, "closure", lambda _graph, floats: floats)
    trial = object.__new__(mixing._Trial)
    trial._calibrated, trial._work, trial._threads = Written(), tmp_path, 1  # type: ignore[assignment]
    trial._jobs = {"absent": Job(tmp_path / "a.absent")}  # type: ignore[dict-item]
    monkeypatch.setattr(mixing.exporters, "load", lambda name: Target(runs=name != "absent"))
    assert trial._sessions(frozenset()) == {"onnx": "mixed_qdq.onnx"}
    trial._jobs = {"absent": Job(tmp_path / "a.absent"), "here": Job(tmp_path / "a.here")}  # type: ignore[dict-item]
    assert trial._sessions(frozenset()) == {"here": "mixed_a.here"}
    assert opened == ["mixed_qdq.onnx", "mixed_a.here"]
    slow = Target(runs=True)
    slow.open_native = None  # type: ignore[attr-defined]
    monkeypatch.setattr(mixing.exporters, "load", lambda name: slow if name == "slow" else Target(runs=True))
    trial._jobs = {"slow": Job(tmp_path / "a.slow"), "here": Job(tmp_path / "a.here")}  # type: ignore[dict-item]
    assert trial._sessions(frozenset()) == {"here": "mixed_a.here", "onnx": "mixed_qdq.onnx"}
    assert list(tmp_path.iterdir()) == []


def test_a_reference_is_asked_once_for_each_picture() -> None:
    class Session:
        runtime = "counting"
        untimed = ""

        def __init__(self) -> None:
            self.asked = 0

        def __call__(self, inputs: Any) -> dict[str, Any]:
            self.asked += 1
            return {"boxes": inputs["image"].astype(np.float32)}

        def invoke(self) -> None:
            """Not counted."""

    session = Session()
    remembering = mixing._Remembering(session)
    first, second = (np.full((1, 2, 2, 3), value, np.uint8) for value in (1, 2))
    for image in (first, second, first.copy(), second):
        np.testing.assert_array_equal(remembering({"image": image})["boxes"], image)
    assert session.asked == 2
    assert remembering.runtime == "counting"
