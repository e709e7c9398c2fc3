"""Reductions and running sums, against NumPy and SciPy in double precision and Python's integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

Array = NDArray[Any]

REAL: dict[str, Callable[..., Array]] = {
    "reduce_l1_norm": lambda x, **k: np.where(x < 0, -x, x).sum(**k),
    "reduce_l2_norm": lambda x, **k: (x**2).sum(**k) ** 0.5,
    "reduce_log_sum": lambda x, **k: np.log(x.sum(**k)),
    "reduce_log_sum_exp": lambda x, **k: special.logsumexp(x, **k),
    "reduce_max": np.max,
    "reduce_mean": lambda x, **k: x.sum(**k) / (x.size / x.sum(**k).size),
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **k: (x**2).sum(**k),
}
"""Reference; it takes `axis`, a tuple or None, and `keepdims`."""
WHOLE: dict[str, Callable[[list[int]], float]] = {
    "reduce_l1_norm": lambda v: sum(map(abs, v)),
    "reduce_l2_norm": lambda v: math.isqrt(sum(n * n for n in v)),
    "reduce_log_sum": lambda v: math.trunc(math.log(sum(v))),
    "reduce_log_sum_exp": lambda v: math.trunc(math.log(sum(map(math.exp, v)))),
    "reduce_max": max,
    "reduce_mean": lambda v: math.trunc(sum(v) / len(v)),
    "reduce_min": min,
    "reduce_prod": math.prod,
    "reduce_sum": sum,
    "reduce_sum_square": lambda v: sum(n * n for n in v),
}
"""Of a list of integers; the fraction is cut off."""
AXES = [None, (), (0,), (2,), (-1,), (-2, 1), (3, -4), (0, 1, 2, 3)]
SHAPE = (2, 3, 1, 5)


def wrap(value: int) -> int:
    """An integer in 32 bits."""
    return (value + 2**31) % 2**32 - 2**31


def numbers(random: np.random.Generator, name: str, shape: tuple[int, ...] = SHAPE) -> Array:
    positive = name in ("reduce_log_sum", "reduce_sum", "reduce_mean")  # sums near zero have few digits
    return random.uniform(0.25 if positive else -2, 2, shape).astype(np.float32)


def assert_typed(found: Array, exact: Array, dtype: str) -> None:
    """In half precision the nearest number or the one beside it; in single precision close."""
    assert found.shape == np.shape(exact)
    if dtype == "float32":
        np.testing.assert_allclose(found, exact, rtol=2e-6)
        return
    assert np.array_equal(found, found.astype(np.float16))
    np.testing.assert_array_max_ulp(found.astype(np.float16), np.asarray(exact, np.float16), maxulp=1)


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", REAL)
def test_reals(
    compute: Any, random: np.random.Generator, name: str, axes: tuple[int, ...] | None, keep_dims: bool
) -> None:
    x = numbers(random, name)
    if axes == () and name == "reduce_log_sum":
        x += 1  # the logarithm of 1 is 0
    found = compute(name, x=x, axes=axes, keep_dims=keep_dims)
    expected = REAL[name](x.astype(np.float64), axis=axes, keepdims=keep_dims)
    assert found.dtype == np.float32
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize("name", REAL)
def test_without_arguments_all_dimensions_go(compute: Any, random: np.random.Generator, name: str) -> None:
    x = numbers(random, name)
    found = compute(name, x=x)
    assert found.shape == ()
    np.testing.assert_allclose(found, REAL[name](x.astype(np.float64)), rtol=5e-6)
    np.testing.assert_allclose(compute(name, x=x[0, 0, 0]), REAL[name](x[0, 0, 0].astype(np.float64)), rtol=5e-6)


@pytest.mark.parametrize("axes", [None, (), (1,), (-3, 2)])
@pytest.mark.parametrize("name", WHOLE)
def test_integers(compute: Any, random: np.random.Generator, name: str, axes: tuple[int, ...] | None) -> None:
    x = random.integers(1 if name == "reduce_log_sum" else -6, 7, (3, 4, 2)).astype(np.int32)
    found = compute(name, x=x, axes=axes, keep_dims=True)
    assert found.dtype == np.int32
    gone = range(3) if axes is None else [axis % 3 for axis in axes]
    for place in np.ndindex(*found.shape):
        taken = x[tuple(slice(None) if i in gone else n for i, n in enumerate(place))]
        assert found[place] == WHOLE[name](taken.reshape(-1).tolist())


@pytest.mark.parametrize("name", ["reduce_l1_norm", "reduce_prod", "reduce_sum", "reduce_sum_square", "reduce_mean"])
def test_integers_beyond_32_bits(compute: Any, name: str) -> None:
    rows = [[2**31 - 1, 2**31 - 1, 5], [-(2**31), -(2**31) + 1, 3], [123456789, -987654321, 1000001]]
    expected = [wrap(int(WHOLE[name](row))) for row in rows]
    assert compute(name, x=np.array(rows, np.int32), axes=(1,)).tolist() == expected


def test_the_mean_of_integers_is_cut_off(compute: Any) -> None:
    x = np.array([[-3, 0], [3, 0], [-1, 0], [2**31 - 1, 2**31 - 2]], np.int32)
    assert compute("reduce_mean", x=x, axes=(-1,)).tolist() == [-1, 1, 0, 2**31 - 2]


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("reduce_log_sum_exp", [1000, 1000], 1000 + math.log(2)),
        ("reduce_log_sum_exp", [-1000, -1000], -1000 + math.log(2)),
        ("reduce_log_sum_exp", [-math.inf, -math.inf], -math.inf),
        ("reduce_log_sum_exp", [-math.inf, 3], 3),
        ("reduce_log_sum_exp", [math.inf, 3], math.inf),
        ("reduce_log_sum", [2, -2], -math.inf),
        ("reduce_log_sum", [1, -2], math.nan),
        ("reduce_max", [-math.inf, -9], -9),
        ("reduce_max", [1, math.nan], math.nan),
        ("reduce_min", [math.nan, 1], math.nan),
        ("reduce_min", [math.inf, 9], 9),
        ("reduce_prod", [0, -5], 0),
        ("reduce_mean", [math.inf, 1], math.inf),
        ("reduce_l2_norm", [3, -4], 5),
        ("reduce_l1_norm", [-math.inf, 1], math.inf),
    ],
)
def test_special_values(compute: Any, name: str, x: list[float], expected: float) -> None:
    found = compute(name, x=np.array(x, np.float32), axes=(0,))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("axes", [(3,), (-4,), (1, -2), (0, 0)])
@pytest.mark.parametrize("name", REAL)
def test_axes_that_are_not_there(compute: Any, name: str, axes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit \[2, 3, 4\]"):
        compute(name, x=np.ones((2, 3, 4), np.float32), axes=axes)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("name", ["reduce_argmax", "reduce_argmin"])
def test_places_of_extremes(
    compute: Any, random: np.random.Generator, name: str, keep_dims: bool, axis: int | None, kind: type
) -> None:
    x = random.permutation(60).reshape(3, 4, 5).astype(kind) - kind(30)
    given = {} if axis is None else {"axis": axis}
    found = compute(name, x=x, keep_dims=keep_dims, **given)
    axis = -1 if axis is None else axis
    sign = -1 if name == "reduce_argmax" else 1
    expected = np.argsort(sign * x, axis=axis).take([0], axis=axis)
    assert found.dtype == np.int32
    assert np.array_equal(found, expected if keep_dims else expected.squeeze(axis))


@pytest.mark.parametrize(("name", "expected"), [("reduce_argmax", [1, 0, 2]), ("reduce_argmin", [0, 0, 0])])
def test_the_first_of_equals(compute: Any, name: str, expected: list[int]) -> None:
    x = np.array([[0, 5, 5, 5], [7, 7, 7, 7], [-math.inf, 1, math.inf, math.inf]], np.float32)
    assert compute(name, x=x).tolist() == expected


def test_types_of_an_index(compute: Any) -> None:
    x = np.zeros(2**16 + 1, np.float32)
    x[[-2, -1]] = [1, 2]
    assert compute("reduce_argmax", x=x[:-1], output_dtype="uint16") == 2**16 - 1
    assert compute("reduce_argmax", x=x[:-1], output_dtype="UINT16") == 2**16 - 1
    assert compute("reduce_argmax", x=x, output_dtype="int32") == 2**16
    for name in ("reduce_argmax", "reduce_argmin"):
        with pytest.raises(ValueError, match="uint16 does not count to 65537"):
            compute(name, x=x, output_dtype="uint16")
        with pytest.raises(ValueError, match="'int8' is not known, only int32, uint16"):
            compute(name, x=x, output_dtype="int8")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -3])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumsum(
    compute: Any, random: np.random.Generator, exclusive: bool, reverse: bool, axis: int | None, kind: type
) -> None:
    x = random.integers(-50, 50, (4, 1, 5)).astype(kind)
    given = {} if axis is None else {"axis": axis}
    found = compute("cumsum", x=x, exclusive=exclusive, reverse=reverse, **given)
    rows = np.moveaxis(x, axis or 0, -1)
    expected = np.zeros_like(rows)
    for place in np.ndindex(*rows.shape):
        *row, i = place
        before = range(i + 1, rows.shape[-1]) if reverse else range(i)
        expected[place] = sum(rows[(*row, k)] for k in before) + (0 if exclusive else rows[place])
    assert found.dtype == kind
    assert np.array_equal(found, np.moveaxis(expected, -1, axis or 0))


def test_an_exclusive_sum_leaves_its_own_place_out(compute: Any) -> None:
    x = np.array([1, math.inf, 2], np.float32)
    assert compute("cumsum", x=x, exclusive=True).tolist() == [0, 1, math.inf]
    assert compute("cumsum", x=np.array([2**31 - 1, 2], np.int32)).tolist() == [2**31 - 1, wrap(2**31 + 1)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_reals(execute: Any, random: np.random.Generator, dtype: str) -> None:
    x = random.uniform(1, 1.25, SHAPE).astype(dtype)
    options = [{}, {"axes": [-3], "keep_dims": True}, {"axes": [3, 0]}]
    calls = [(name, given) for name in REAL for given in options]
    found = execute(lambda mb, x: tuple(getattr(mb, name)(x=x, **given) for name, given in calls), x=x)
    for (name, given), result in zip(calls, found, strict=True):
        axes = tuple(given["axes"]) if "axes" in given else None
        assert_typed(result, REAL[name](x.astype(np.float64), axis=axes, keepdims="keep_dims" in given), dtype)


def test_saved_integers(execute: Any) -> None:
    x = np.array([[1, 2, 6], [5, 3, 4]], np.int32)
    found = execute(lambda mb, x: tuple(getattr(mb, name)(x=x, axes=[1]) for name in WHOLE), x=x)
    for name, result in zip(WHOLE, found, strict=True):
        assert result.dtype == np.int32
        assert result.tolist() == [WHOLE[name](row) for row in x.tolist()]


@pytest.mark.parametrize("target", ["iOS15", "iOS17"])
def test_saved_places_of_extremes(execute: Any, target: str) -> None:
    x = np.array([[3, 9, 1], [4, 2, 8]], np.float32)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        given = {"output_dtype": "uint16"} if target == "iOS17" else {}
        small = mb.reduce_argmax(x=mb.cast(x=x, dtype="fp16"), axis=-2, **given)
        return (
            mb.reduce_argmax(x=x),
            mb.reduce_argmin(x=x, axis=0, keep_dims=True),
            mb.reduce_argmin(x=mb.cast(x=x, dtype="int32"), axis=1),
            mb.cast(x=small, dtype="int32"),
        )

    found = execute(body, x=x, target=target)
    assert [v.tolist() for v in found] == [[1, 2], [[0, 1, 0]], [2, 1], [1, 0, 1]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_saved_cumsum(execute: Any, random: np.random.Generator, dtype: str) -> None:
    x = random.integers(-9, 9, (3, 4)).astype(dtype)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        return mb.cumsum(x=x), mb.cumsum(x=x, axis=-1, exclusive=True), mb.cumsum(x=x, axis=1, reverse=True)

    plain, exclusive, reverse = execute(body, x=x)
    assert np.array_equal(plain, np.cumsum(x, axis=0))
    assert np.array_equal(exclusive, np.cumsum(x, axis=1) - x)
    assert np.array_equal(reverse, np.cumsum(x[:, ::-1], axis=1)[:, ::-1])
