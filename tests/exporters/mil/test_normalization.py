"""Normalizations against NumPy in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Compute = Callable[..., Any]
Execute = Callable[..., list[Array]]

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def standardized(x: Array, axes: Any, epsilon: float) -> Array:
    x = x.astype(np.float64)
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(np.square(x).mean(axes, keepdims=True) - np.square(mean) + epsilon)


def at_channels(values: Array, x: Array) -> Array:
    return values.astype(np.float64).reshape(1, -1, *[1] * (x.ndim - 2))


def responses(x: Array, size: int, alpha: float, beta: float, k: float, axis: int = -3) -> Array:
    """Element by element."""
    x = np.moveaxis(x.astype(np.float64), axis, 0)
    y = np.empty_like(x)
    for c in range(len(x)):
        first = c - size // 2
        near = [x[j] ** 2 for j in range(first, first + size) if 0 <= j < len(x)]
        y[c] = x[c] / (k + alpha / size * np.sum(near, axis=0)) ** beta
    return np.moveaxis(y, 0, axis)


def assert_half(found: Array, wanted: Array) -> None:
    """Within one place of half precision."""
    assert found.shape == wanted.shape
    np.testing.assert_array_max_ulp(found.astype(np.float16), wanted.astype(np.float16), maxulp=1)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (1, 4, 3, 2), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("epsilon", [None, 1e-3, 0.5])
@pytest.mark.parametrize("parameters", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_batch_norm(
    compute: Compute, random: np.random.Generator, shape: Any, epsilon: float | None, parameters: Any
) -> None:
    x, mean = random.normal(5, 3, shape).astype(np.float32), random.normal(5, 1, shape[1]).astype(np.float32)
    variance = random.uniform(1e-4, 9, shape[1]).astype(np.float32)
    given = {name: random.normal(size=shape[1]).astype(np.float32) for name in parameters}
    options = {} if epsilon is None else {"epsilon": epsilon}
    found = compute("batch_norm", x=x, mean=mean, variance=variance, **given, **options)
    gamma, beta = given.get("gamma", np.ones(shape[1])), given.get("beta", np.zeros(shape[1]))
    wanted = np.empty(shape)
    for c in range(shape[1]):
        root = math.sqrt(float(variance[c]) + (1e-5 if epsilon is None else epsilon))
        wanted[:, c] = float(gamma[c]) * (x[:, c].astype(np.float64) - float(mean[c])) / root + float(beta[c])
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_batch_norm_far_from_zero(compute: Compute) -> None:
    """The mean is taken off first: (x - mean) is exact here, x * scale is not."""
    x = np.array([[[4096.25, 4096.5]]], np.float32)
    found = compute("batch_norm", x=x, mean=np.array([4096.0]), variance=np.array([1.0]), epsilon=0.0)
    assert found.tolist() == [[[0.25, 0.5]]]


def test_parameters_of_another_shape_are_refused(compute: Compute) -> None:
    x, one, three = np.zeros((2, 3, 4)), np.ones(1), np.ones(3)
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        compute("batch_norm", x=x, mean=one, variance=three)
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        compute("batch_norm", x=x, mean=three, variance=three, gamma=one)
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        compute("instance_norm", x=x, beta=np.ones(4))
    with pytest.raises(ValueError, match=r"shape \[3, 4\]"):
        compute("layer_norm", x=x, axes=(1, 2), gamma=np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"shape \[3, 4\]"):
        compute("layer_norm", x=x, axes=(2, 1), beta=np.ones((4, 3)))


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 4, 3, 2), (2, 3, 2, 3, 2), (2, 2, 1)])
@pytest.mark.parametrize("epsilon", [None, 1e-3, 0.5])
@pytest.mark.parametrize("parameters", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_instance_norm(
    compute: Compute, random: np.random.Generator, shape: Any, epsilon: float | None, parameters: Any
) -> None:
    x = random.normal(1, 3, shape).astype(np.float32)
    given = {name: random.normal(size=shape[1]).astype(np.float32) for name in parameters}
    options = {} if epsilon is None else {"epsilon": epsilon}
    found = compute("instance_norm", x=x, **given, **options)
    wanted = np.empty(shape)
    for n, c in np.ndindex(*shape[:2]):
        wanted[n, c] = standardized(x[n, c], None, 1e-5 if epsilon is None else epsilon)
        wanted[n, c] = wanted[n, c] * float(given.get("gamma", np.ones(9))[c]) + float(
            given.get("beta", np.zeros(9))[c]
        )
    np.testing.assert_allclose(found, wanted, **CLOSE)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("epsilon", [None, 1e-3, 5.7])
def test_l2_norm(compute: Compute, random: np.random.Generator, shape: Any, epsilon: float | None) -> None:
    x = random.normal(size=shape).astype(np.float32)
    found = compute("l2_norm", x=x) if epsilon is None else compute("l2_norm", x=x, epsilon=epsilon)
    wanted = np.empty(shape)
    for at in np.ndindex(*shape[:-3]):
        squares = math.fsum(float(v) ** 2 for v in x[at].flat)
        wanted[at] = x[at] / math.sqrt(squares + (1e-6 if epsilon is None else epsilon))
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_zeros_stay_zeros(compute: Compute) -> None:
    x = np.zeros((1, 2, 3))
    for name in ("l2_norm", "instance_norm", "layer_norm"):
        np.testing.assert_array_equal(compute(name, x=x), x)
    np.testing.assert_array_equal(compute("local_response_norm", x=x, size=3), x)
    assert compute("l2_norm", x=np.array([[[3.0, 4.0]]]), epsilon=0.0).tolist() == [
        [[np.float32(0.6), np.float32(0.8)]]
    ]


@pytest.mark.parametrize("name", ["l2_norm", "instance_norm"])
def test_too_few_dimensions_are_refused(compute: Compute, name: str) -> None:
    with pytest.raises(ValueError, match="rank 3 or more"):
        compute(name, x=np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4,), (0,)), ((3, 4), (-1,)), ((3, 4), (0,)), ((2, 3, 4), (2,)), ((2, 3, 4), (-2, -1)), ((2, 3, 4), (0, 2)),
        ((2, 3, 4), (2, 0)), ((2, 3, 4), (-1, -3)), ((2, 3, 4), None), ((2, 3, 4, 5), (0, 1, 3)),
        ((2, 3, 2, 3, 2), (-5, -4, -3, -2, -1)), ((2, 3, 2, 3, 2), (4, 0)), ((2, 1, 4), (1,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("parameters", [(), ("gamma",), ("beta",), ("gamma", "beta")])
@pytest.mark.parametrize("epsilon", [None, 0.01])
def test_layer_norm(
    compute: Compute, random: np.random.Generator, shape: Any, axes: Any, parameters: Any, epsilon: float | None
) -> None:
    """Whatever the order of the axes, gamma and beta are in x's order."""
    x = random.normal(1, 3, shape).astype(np.float32)
    rank = len(shape)
    places = sorted(a % rank for a in (range(rank) if axes is None else axes))
    given = {name: random.normal(size=[shape[a] for a in places]).astype(np.float32) for name in parameters}
    options = {} if epsilon is None else {"epsilon": epsilon}
    found = compute("layer_norm", x=x, axes=axes, **given, **options)
    wanted = standardized(x, tuple(places), 1e-5 if epsilon is None else epsilon)
    missing = [a for a in range(rank) if a not in places]
    if "gamma" in given:
        wanted = wanted * np.expand_dims(given["gamma"].astype(np.float64), missing)
    if "beta" in given:
        wanted = wanted + np.expand_dims(given["beta"].astype(np.float64), missing)
    assert found.shape == shape
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_layer_norm_of_one_offset(compute: Compute) -> None:
    """Far from zero the variance is still that of the differences."""
    x = np.array([[10000.0, 10001.0, 10002.0, 10003.0]])
    wanted = standardized(x - 10000, (1,), 1e-5)
    np.testing.assert_allclose(compute("layer_norm", x=x, axes=(-1,)), wanted, rtol=1e-5)


@pytest.mark.parametrize("axes", [(), (2,), (-3,), (0, 5)])
def test_wrong_axes_are_refused(compute: Compute, axes: Any) -> None:
    with pytest.raises(ValueError, match="rank 2"):
        compute("layer_norm", x=np.zeros((2, 3)), axes=axes)


@pytest.mark.parametrize("shape", [(5, 3, 4), (2, 6, 3, 4), (1, 2, 5, 3, 2)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "beta": 1.5, "k": 2.0}, {"alpha": 1.0}])
def test_local_response_norm(
    compute: Compute, random: np.random.Generator, shape: Any, size: int, options: dict[str, float]
) -> None:
    x = random.normal(0, 3, shape).astype(np.float32)
    found = compute("local_response_norm", x=x, size=size, **options)
    wanted = responses(x, size, **{"alpha": 1e-4, "beta": 0.75, "k": 1.0, **options})
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_local_response_norm_of_rank_3_on_core_ml(compute: Compute) -> None:
    """Two numbers that coremltools' own test expects of Core ML for [1, 3, 2]: each element is alone in its channel."""
    x = np.array([[[1.0, -7.0], [5.0, -6.0], [-3.0, -5.0]]])
    assert compute("local_response_norm", x=x, size=2)[0, 1, 0] == pytest.approx(4.99531746, rel=1e-6)
    assert compute("local_response_norm", x=x, size=3)[0, 1, 0] == pytest.approx(4.99687672, rel=1e-6)


def test_local_response_norm_by_hand(compute: Compute) -> None:
    """Of an even size, the neighbour before counts and the one after does not."""
    x = np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    found = compute("local_response_norm", x=x, size=2, alpha=2.0, beta=1.0, k=1.0)
    np.testing.assert_allclose(found.ravel(), [1 / 2, 2 / 6, 4 / 21], rtol=1e-6)
    with pytest.raises(ValueError, match="size 0"):
        compute("local_response_norm", x=x, size=0)
    with pytest.raises(ValueError, match="rank 2"):
        compute("local_response_norm", x=np.zeros((2, 3)), size=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_normalizations(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    """The parameters of a program of half precision may have single precision, as here those of batch_norm."""
    x, line = random.normal(1, 3, (2, 3, 4, 5)).astype(dtype), random.normal(1, 3, (2, 3, 7)).astype(dtype)
    mean, gamma, beta = (random.normal(size=3).astype(np.float32) for _ in range(3))
    variance, inner = random.uniform(0.1, 4, 3).astype(np.float32), random.normal(size=(3, 5)).astype(dtype)
    found = execute(
        lambda mb, x, line: (
            mb.batch_norm(x=x, mean=mean, variance=variance),
            mb.batch_norm(x=line, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=np.float32(0.25)),
            mb.instance_norm(x=x),
            mb.instance_norm(x=line, gamma=gamma.astype(dtype), beta=beta.astype(dtype), epsilon=dtype(0.25)),
            mb.l2_norm(x=x, epsilon=dtype(0.25)),
            mb.layer_norm(x=x, axes=[0, 1, 2, 3]),
            mb.layer_norm(x=x, axes=[-1, 1], gamma=inner, beta=inner, epsilon=dtype(0.25)),
            mb.local_response_norm(x=x, size=3, alpha=dtype(0.5), beta=dtype(0.75), k=dtype(2)),
        ),
        x=x,
        line=line,
    )
    rounded = gamma.astype(dtype), beta.astype(dtype)
    small = float(dtype(1e-5))
    across = inner.astype(np.float64)[None, :, None, :]
    wanted = (
        (x.astype(np.float64) - at_channels(mean, x)) / np.sqrt(at_channels(variance, x) + 1e-5),
        at_channels(gamma, line) * (line.astype(np.float64) - at_channels(mean, line))
        / np.sqrt(at_channels(variance, line) + 0.25) + at_channels(beta, line),
        standardized(x, (2, 3), small),
        at_channels(rounded[0], line) * standardized(line, (2,), 0.25) + at_channels(rounded[1], line),
        x.astype(np.float64) / np.sqrt(np.square(x.astype(np.float64)).sum((1, 2, 3), keepdims=True) + 0.25),
        standardized(x, (0, 1, 2, 3), small),
        across * standardized(x, (1, 3), 0.25) + across,
        responses(x, 3, 0.5, 0.75, 2),
    )  # fmt: skip
    for one, other in zip(found, wanted, strict=True):
        if dtype == np.float16:
            assert_half(one, other)
        else:
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, **CLOSE)
