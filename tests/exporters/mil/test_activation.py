"""Activations, against NumPy and SciPy in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[Any]
Function = Callable[..., Array]


def along_channels(values: Array | list[float], rank: int) -> Array:
    return np.asarray(values, np.float64).reshape([-1 if i == 1 else 1 for i in range(rank)])


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


PLAIN: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": softplus,
    "softsign": lambda x: np.where(x > 0, x / (1 + x), x / (1 - x)),
}
GELU: dict[str, Function] = {
    "EXACT": lambda x: x * stats.norm.cdf(x),
    "TANH_APPROXIMATION": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "SIGMOID_APPROXIMATION": lambda x: x * special.expit(1.702 * x),
}
GIVEN: dict[str, tuple[Function, list[dict[str, float]]]] = {
    "leaky_relu": (
        lambda x, alpha: np.where(x < 0, alpha * x, x),
        [{"alpha": 0.25}, {"alpha": 0}, {"alpha": 1.5}, {"alpha": -1}],
    ),
    "elu": (
        lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1)),
        [{"alpha": 1}, {"alpha": 0.25}, {"alpha": -2}],
    ),
    "clamped_relu": (
        lambda x, alpha, beta: np.minimum(np.where(x < 0, alpha * x, x), beta),
        [{"alpha": 0.5, "beta": 6}, {"alpha": 0, "beta": 1}, {"alpha": -2, "beta": 3}, {"alpha": 0.5, "beta": -1}],
    ),
    "linear_activation": (
        lambda x, alpha, beta: x * alpha + beta,
        [{"alpha": -0.5, "beta": 3}, {"alpha": 2, "beta": 0}],
    ),
    "scaled_tanh": (
        lambda x, alpha, beta: alpha * np.tanh(beta * x),
        [{"alpha": 1.75, "beta": 0.625}, {"alpha": -1, "beta": 2}],
    ),
    "sigmoid_hard": (
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        [{"alpha": 0.25, "beta": 0.5}, {"alpha": -1, "beta": 0}],
    ),
    "thresholded_relu": (
        lambda x, alpha: x * (x >= alpha),
        [{"alpha": 0}, {"alpha": 1.5}, {"alpha": -0.5}],
    ),
}
"""Reference and constants; all of them, and of `GELU`, are numbers of half precision."""
CASES = [(name, given) for name, (_, several) in GIVEN.items() for given in several]
SHAPES = [(7,), (2, 3, 5), (2, 3, 1, 4, 5)]


def numbers(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Positive, negative, zero."""
    x = random.normal(0, 3, shape).astype(np.float32)
    x.reshape(-1)[:3] = [0.0, -0.0, 8.0]
    return x


def assert_typed(found: Array, exact: Array, dtype: str) -> None:
    """In half precision the nearest number or the one beside it; in single precision close."""
    if dtype == "float32":
        np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-7)
        return
    assert np.array_equal(found, found.astype(np.float16))
    np.testing.assert_array_max_ulp(found.astype(np.float16), exact.astype(np.float16), maxulp=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PLAIN)
def test_without_constants(compute: Any, random: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
    x = numbers(random, shape)
    found = compute(name, x=x)
    assert found.dtype == np.float32
    assert found.shape == shape
    np.testing.assert_allclose(found, PLAIN[name](x.astype(np.float64)), rtol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "given"), CASES)
def test_with_constants(
    compute: Any, random: np.random.Generator, name: str, given: dict[str, float], shape: tuple[int, ...]
) -> None:
    x = numbers(random, shape)
    found = compute(name, x=x, **given)
    assert found.dtype == np.float32
    assert found.shape == shape
    np.testing.assert_allclose(found, GIVEN[name][0](x.astype(np.float64), **given), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", GELU)
def test_gelu(compute: Any, random: np.random.Generator, mode: str, shape: tuple[int, ...]) -> None:
    x = numbers(random, shape).clip(-4, 9)
    found = compute("gelu", x=x, mode=mode)
    assert found.shape == shape
    np.testing.assert_allclose(found, GELU[mode](x.astype(np.float64)), rtol=1e-5)


def test_gelu_far_below_zero(compute: Any) -> None:
    x = np.array([-6, -9, -12], np.float32)
    np.testing.assert_allclose(compute("gelu", x=x), x * stats.norm.cdf(x.astype(np.float64)), rtol=2e-5)


def test_gelu_is_exact_unless_told_otherwise(compute: Any) -> None:
    x = np.array([-1.3, 0.7, 2.5], np.float32)
    assert np.array_equal(compute("gelu", x=x), compute("gelu", x=x, mode="EXACT"))
    assert not np.array_equal(compute("gelu", x=x), compute("gelu", x=x, mode="TANH_APPROXIMATION"))
    with pytest.raises(ValueError, match="mode 'tanh' is not known, only EXACT"):
        compute("gelu", x=x, mode="tanh")


@pytest.mark.parametrize(
    ("name", "given", "x", "expected"),
    [
        ("relu", {}, [-math.inf, math.inf], [0, math.inf]),
        ("relu6", {}, [-math.inf, math.inf, 6], [0, 6, 6]),
        ("sigmoid", {}, [-math.inf, -200, 0, 200, math.inf], [0, 0, 0.5, 1, 1]),
        ("silu", {}, [0, 200, math.inf], [0, 200, math.inf]),
        ("softplus", {}, [-math.inf, -200, 200, math.inf, 3e38], [0, 0, 200, math.inf, 3e38]),
        ("softsign", {}, [0, 3, -3], [0, 0.75, -0.75]),
        ("elu", {"alpha": 2.0}, [-math.inf, -0.0, math.inf, 200], [-2, 0, math.inf, 200]),
        ("leaky_relu", {"alpha": 0.5}, [-math.inf, math.inf], [-math.inf, math.inf]),
        ("clamped_relu", {"alpha": 0.5, "beta": 2.0}, [-math.inf, math.inf], [-math.inf, 2]),
        ("sigmoid_hard", {"alpha": 0.25, "beta": 0.5}, [-math.inf, math.inf, -2, 2, 0], [0, 1, 0, 1, 0.5]),
        ("scaled_tanh", {"alpha": 3.0, "beta": 2.0}, [-math.inf, math.inf], [-3, 3]),
        ("thresholded_relu", {"alpha": 1.0}, [1, 0.99999994, -5, math.inf], [1, 0, 0, math.inf]),
        ("gelu", {}, [0, 200, math.inf], [0, 200, math.inf]),
        ("gelu", {"mode": "TANH_APPROXIMATION"}, [0, 1e30, -1e30], [0, 1e30, 0]),
        ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, [0, 1e30, -1e30], [0, 1e30, 0]),
    ],
)
def test_special_values(compute: Any, name: str, given: dict[str, Any], x: list[float], expected: list[float]) -> None:
    found = compute(name, x=np.array(x, np.float32), **given)
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("name", "given"), [*((n, {}) for n in [*PLAIN, "gelu"]), *((n, s[0]) for n, (_, s) in GIVEN.items())]
)
def test_what_is_no_number_stays(compute: Any, name: str, given: dict[str, float]) -> None:
    assert np.isnan(compute(name, x=np.array([math.nan], np.float32), **given))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 3, 5), (1, 4, 2, 3, 2), (3, 4)])
def test_prelu(compute: Any, random: np.random.Generator, shape: tuple[int, ...]) -> None:
    x, alpha = numbers(random, shape), np.array([0.25, 0, -1, 2], np.float32)
    expected = np.where(x > 0, x, x * along_channels(alpha, len(shape)))
    assert np.array_equal(compute("prelu", x=x, alpha=alpha), expected)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 3, 2)])
def test_softplus_parametric(compute: Any, random: np.random.Generator, shape: tuple[int, ...]) -> None:
    x, alpha, beta = numbers(random, shape), np.array([0.5, -2, 1], np.float32), np.array([1, 3, -0.5], np.float32)
    expected = along_channels(alpha, len(shape)) * softplus(along_channels(beta, len(shape)) * x)
    found = compute("softplus_parametric", x=x, alpha=alpha, beta=beta)
    assert found.shape == shape
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("alpha", [np.ones(3, np.float32), np.ones(1, np.float32), np.ones((4, 1), np.float32)])
def test_constants_that_do_not_fit_the_channels(compute: Any, alpha: Array) -> None:
    x, fitting = np.zeros((2, 4, 3), np.float32), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="do not fit the channels"):
        compute("prelu", x=x, alpha=alpha)
    with pytest.raises(ValueError, match="do not fit the channels"):
        compute("softplus_parametric", x=x, alpha=alpha, beta=fitting)
    with pytest.raises(ValueError, match="do not fit the channels"):
        compute("softplus_parametric", x=x, alpha=fitting, beta=alpha)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2, -3])
def test_softmax(compute: Any, random: np.random.Generator, axis: int | None) -> None:
    x = random.normal(0, 4, (3, 1, 5)).astype(np.float32)
    found = compute("softmax", x=x) if axis is None else compute("softmax", x=x, axis=axis)
    powers = np.exp(x.astype(np.float64))
    expected = powers / powers.sum(axis=-1 if axis is None else axis, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_softmax_does_not_overflow(compute: Any) -> None:
    x = np.array([[1e4, 1e4, -math.inf], [-1e4, -1e4, -2e4]], np.float32)
    assert compute("softmax", x=x).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0]]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_without_constants(execute: Any, random: np.random.Generator, dtype: str) -> None:
    x = numbers(random, (2, 3, 4, 5)).astype(dtype)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        plain = [getattr(mb, name)(x=x) for name in PLAIN]
        softmaxes = [mb.softmax(x=x), mb.softmax(x=x, axis=1), mb.softmax(x=x, axis=-2)]
        return (*plain, *softmaxes, mb.gelu(x=x), *(mb.gelu(x=x, mode=mode) for mode in GELU))

    exact = x.astype(np.float64)
    expected = [function(exact) for function in PLAIN.values()]
    expected += [special.softmax(exact, axis=axis) for axis in (-1, 1, -2)]
    expected += [GELU["EXACT"](exact), *(function(exact) for function in GELU.values())]
    for result, wanted in zip(execute(body, x=x), expected, strict=True):
        assert_typed(result, wanted, dtype)


@pytest.mark.parametrize(("dtype", "target"), [("float32", "iOS17"), ("float16", "iOS15")])
def test_saved_with_constants(execute: Any, random: np.random.Generator, dtype: str, target: str) -> None:
    x, kind = numbers(random, (2, 3, 4, 5)).astype(dtype).astype("float32"), np.dtype(dtype).type
    alpha, beta = np.array([0.25, 2, -1], dtype), np.array([1, -0.5, 1.5], dtype)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        x = mb.cast(x=x, dtype="fp16") if dtype == "float16" else x
        single = [getattr(mb, n)(x=x, **{key: kind(v) for key, v in given.items()}) for n, given in CASES]
        results = [*single, mb.prelu(x=x, alpha=alpha), mb.softplus_parametric(x=x, alpha=alpha, beta=beta)]
        return tuple(mb.cast(x=v, dtype="fp32") for v in results)

    exact = x.astype(np.float64)
    expected = [GIVEN[name][0](exact, **given) for name, given in CASES]
    expected.append(np.where(exact > 0, exact, exact * along_channels(alpha, 4)))
    expected.append(along_channels(alpha, 4) * softplus(along_channels(beta, 4) * exact))
    for result, wanted in zip(execute(body, x=x, target=target), expected, strict=True):
        assert_typed(result, wanted, dtype)


def test_saved_constants_of_another_type(execute: Any) -> None:
    x = np.array([[[[-1.5, 3]], [[-0.5, 2]]]], np.float16)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        slopes = np.array([0.25, 4], np.float32)
        return mb.leaky_relu(x=x, alpha=np.float32(0.1)), mb.prelu(x=x, alpha=slopes)

    leaky, sloped = execute(body, x=x)
    assert_typed(leaky, np.where(x < 0, x * float(np.float32(0.1)), x.astype(np.float64)), "float16")
    assert sloped.tolist() == [[[[-0.375, 3]], [[-2, 2]]]]
