"""Weights of few values: the algebra against an exhaustive search, the network against the float one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from facex.calibration import edit, observers, rounding
from facex.calibration.graph import Graph
from facex.calibration.plan import quantize_weight
from facex.types import Head

VALUES = 48


def loss(weight: np.ndarray, found: np.ndarray, inputs: np.ndarray) -> float:
    return float(np.square((weight - found) @ inputs).sum())


def correlated(seed: int, columns: int, samples: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(columns, columns)) @ rng.normal(size=(columns, samples)) + rng.normal(size=(columns, 1))


@pytest.mark.parametrize("seed", range(4))
def test_feedback_is_near_the_best_of_all_choices(seed: int) -> None:
    """With 5 weights of 3 values each, all 243 can be tried."""
    values, inputs = np.array([-1.0, 0.1, 0.9]), correlated(seed, 5)
    weight = np.random.default_rng(seed + 10).normal(size=(6, 5)).astype(np.float32)
    nearest = rounding.one_of(values)
    flat = nearest(torch.from_numpy(weight)).numpy()
    found = rounding.column_by_column(torch.from_numpy(weight), torch.from_numpy(inputs @ inputs.T), nearest).numpy()
    best = sum(
        min(loss(row, np.array(choice), inputs) for choice in itertools.product(values, repeat=5)) for row in weight
    )
    assert set(np.unique(found)) <= set(values.astype(np.float32))
    assert best <= loss(weight, found, inputs) * (1 + 1e-6)
    assert loss(weight, found, inputs) - best < 0.5 * (loss(weight, flat, inputs) - best)


def test_inputs_that_tell_nothing_of_one_another_need_no_feedback() -> None:
    weight = np.random.default_rng(3).normal(size=(4, 9)).astype(np.float32)
    nearest = rounding.eight_bits(weight)
    found = rounding.column_by_column(torch.from_numpy(weight), torch.eye(9, dtype=torch.float64), nearest).numpy()
    assert np.array_equal(found, nearest(torch.from_numpy(weight)).numpy())


def test_an_input_that_is_always_zero_is_no_obstacle() -> None:
    inputs = correlated(1, 4)
    inputs[2] = 0
    weight = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
    for moments in (inputs @ inputs.T, np.zeros((4, 4))):
        found = rounding.column_by_column(
            torch.from_numpy(weight), torch.from_numpy(moments), rounding.eight_bits(weight)
        )
        assert bool(torch.isfinite(found).all())


def test_eight_bits_are_those_of_the_plan() -> None:
    weight = np.random.default_rng(5).normal(size=(5, 3, 3, 3)).astype(np.float32)
    weight[2] = 0
    integers, scale = quantize_weight(weight, axis=0)
    found = rounding.eight_bits(weight)(torch.from_numpy(weight.reshape(5, -1))).numpy()
    assert np.array_equal(found.reshape(weight.shape), integers * scale[:, None, None, None])


def test_one_of_a_few_values_is_the_nearest() -> None:
    values = np.array([-2.0, -0.5, 0.0, 0.0, 3.0])
    given = np.random.default_rng(6).normal(size=(7, 11)).astype(np.float32) * 3
    found = rounding.one_of(values)(torch.from_numpy(given)).numpy()
    expected = values[np.abs(given[..., None] - values).argmin(axis=-1)]
    assert np.array_equal(found, expected.astype(np.float32))


@pytest.fixture
def model(pivot_160: Path) -> Any:
    return onnx.load(str(pivot_160))


@pytest.fixture(scope="module")
def pivot_160(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from facex.exporters import _pivot
    from facex.types import Size

    path = tmp_path_factory.mktemp("rounding") / "pivot.onnx"
    _pivot.write(detector, Size(height=160, width=160), Head.DECODED, 17, path)
    return path


@pytest.fixture(scope="module")
def pictures(draw_photograph: Callable[..., Any]) -> np.ndarray:
    drawn = [np.asarray(draw_photograph(i, 160, 160).convert("RGB")) for i in range(8)]
    return np.stack(drawn).transpose(0, 3, 1, 2).astype(np.float32)


def coarse(weight: np.ndarray) -> rounding.Nearest:
    """A few values, evenly spaced."""
    return rounding.one_of(np.linspace(weight.min(), weight.max(), VALUES))


def run(model: Any, pictures: np.ndarray) -> dict[str, np.ndarray]:
    session = observers.session(model.SerializeToString(), 1)
    heads = [o.name for o in session.get_outputs()]
    return {name: np.concatenate([session.run([name], {"image": p[None]})[0] for p in pictures]) for name in heads}


def test_without_crops_every_weight_takes_the_nearest_value(model: Any) -> None:
    graph = Graph(model)
    found = rounding.rounded(model, coarse, None)
    weights = {n.input[1] for n in graph.trunk if n.op_type == "Conv"}
    assert found.keys() == weights
    for name, value in found.items():
        expected = coarse(graph.constants[name])(torch.tensor(graph.constants[name])).numpy()
        assert np.array_equal(value, expected)


def test_what_the_grid_leaves_alone_stays(model: Any) -> None:
    graph = Graph(model)
    found = rounding.rounded(model, lambda weight: None, None)
    assert not found
    first = next(n for n in graph.trunk if n.op_type == "Conv")
    size = graph.constants[first.input[1]].size
    kept = rounding.rounded(model, lambda w: None if w.size == size else coarse(w), None)
    assert first.input[1] not in kept


def test_with_crops_weights_are_still_of_the_grid(model: Any, pictures: np.ndarray) -> None:
    graph = Graph(model)
    found = rounding.rounded(model, coarse, pictures)
    for node in (n for n in graph.trunk if n.op_type == "Conv"):
        allowed = np.linspace(graph.constants[node.input[1]].min(), graph.constants[node.input[1]].max(), VALUES)
        assert set(np.unique(found[node.input[1]])) <= set(allowed.astype(np.float32))
        assert found[node.input[2]].shape == graph.constants[node.input[2]].shape


def test_with_crops_the_network_gives_less_wrong_results_on_other_pictures(
    pivot_160: Path, pictures: np.ndarray, draw_photograph: Callable[..., Any]
) -> None:
    others = np.stack([np.asarray(draw_photograph(50 + i, 160, 160).convert("RGB")) for i in range(4)])
    others = others.transpose(0, 3, 1, 2).astype(np.float32)
    expected = run(onnx.load(str(pivot_160)), others)
    errors = []
    for crops in (None, pictures):
        model = onnx.load(str(pivot_160))
        edit.set_constants(model, rounding.rounded(model, coarse, crops))
        found = run(model, others)
        errors.append({name: float(np.square(found[name] - expected[name]).mean()) for name in expected})
    for name in expected:
        assert errors[1][name] < 0.75 * errors[0][name]


def test_the_same_crops_give_the_same_bits_whatever_the_threads(model: Any, pictures: np.ndarray) -> None:
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(rounding.rounded(model, coarse, pictures))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
