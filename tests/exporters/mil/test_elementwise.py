"""Operators on single elements, against NumPy in double precision, Python's integers and tables of values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from facex.exporters._mil.operators.elementwise import truncated, wrapped

Array = NDArray[Any]

LEAST, GREATEST = -(2**31), 2**31 - 1
RANGES = {name: (int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in ("int8", "uint8", "int16", "uint16")} | {
    "int32": (LEAST, GREATEST)
}

REAL: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.divide,
    "floor_div": lambda x, y: np.floor(x / y),
    "mod": lambda x, y: x - y * np.floor(x / y),
    "pow": lambda x, y: np.exp(y * np.log(x)),
    "maximum": lambda x, y: np.where(x > y, x, y),
    "minimum": lambda x, y: np.where(x > y, y, x),
}
WHOLE: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "real_div": lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1),
    "floor_div": operator.floordiv,
    "mod": operator.mod,
    "pow": lambda x, y: x**y if y >= 0 else {1: 1, -1: 1 if y % 2 == 0 else -1}.get(x, 0),
    "maximum": max,
    "minimum": min,
}
COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "less": operator.lt,
    "less_equal": operator.le,
}
LOGICAL = {
    "logical_and": [False, False, False, True],
    "logical_or": [False, True, True, True],
    "logical_xor": [False, True, True, False],
}
UNARY: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "abs": (lambda x: np.where(x < 0, -x, x), -5, 5),
    "acos": (np.arccos, -1, 1),
    "asin": (np.arcsin, -1, 1),
    "atan": (np.arctan, -9, 9),
    "atanh": (np.arctanh, -0.99, 0.99),
    "ceil": (np.ceil, -5, 5),
    "cos": (np.cos, -9, 9),
    "cosh": (np.cosh, -5, 5),
    "erf": (special.erf, -3, 3),
    "exp": (np.exp, -9, 9),
    "exp2": (np.exp2, -9, 9),
    "floor": (np.floor, -5, 5),
    "round": (np.rint, -5, 5),
    "sign": (np.sign, -1, 1),
    "sin": (np.sin, -9, 9),
    "sinh": (np.sinh, -5, 5),
    "sqrt": (np.sqrt, 0, 9),
    "square": (lambda x: x**2, -9, 9),
    "tan": (np.tan, -9, 9),
    "tanh": (np.tanh, -3, 3),
}
"""Reference and range of the input."""
SHIFTED: dict[str, tuple[Callable[[Array, float], Array], float]] = {
    "inverse": (lambda x, e: 1 / (x + e), 1e-4),
    "log": (lambda x, e: np.log(x + e), 1e-45),
    "rsqrt": (lambda x, e: (x + e) ** -0.5, 1e-12),
}
"""Reference and default of epsilon."""
SHAPES = [((2, 3, 5), (2, 3, 5)), ((3, 1, 5), (4, 1)), ((7,), ()), ((), (2, 3)), ((1, 1, 2, 3), (4, 1, 1, 1))]


def wrap(value: int) -> int:
    """An integer in 32 bits."""
    return (value - LEAST) % 2**32 + LEAST


def looped(function: Callable[..., Any], *values: Array) -> Array:
    """A function of Python numbers on every element."""
    return np.frompyfunc(function, len(values), 1)(*values)


def operands(random: np.random.Generator, name: str, first: tuple[int, ...], second: tuple[int, ...]) -> list[Array]:
    x, y = (np.asarray(random.uniform(0.2, 6, shape), np.float32) for shape in (first, second))
    signs = [np.asarray(random.choice([-1, 1], v.shape), np.float32) for v in (x, y)]
    return [x if name == "pow" else x * signs[0], y * signs[1]]


def assert_half(found: Array, exact: Array) -> None:
    """The exact result in half precision, or the number next to it."""
    assert np.array_equal(found, found.astype(np.float16).astype(np.float32), equal_nan=True)
    np.testing.assert_array_max_ulp(found.astype(np.float16), np.asarray(exact, np.float16), maxulp=1)


def assert_typed(found: Array, exact: Array, dtype: str) -> None:
    """What the type allows: half precision's nearest, or close in single precision."""
    assert found.shape == np.shape(exact)
    if dtype == "float16":
        assert_half(found, exact)
    else:
        np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", REAL)
def test_real_operands(compute: Any, random: np.random.Generator, name: str, shapes: Any) -> None:
    x, y = operands(random, name, *shapes)
    expected = REAL[name](x.astype(np.float64), y.astype(np.float64))
    found = compute(name, x=x, y=y)
    assert found.dtype == np.float32
    assert found.shape == np.broadcast_shapes(*shapes)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", WHOLE)
def test_whole_operands(compute: Any, random: np.random.Generator, name: str, shapes: Any) -> None:
    x = np.asarray(random.integers(-9, 10, shapes[0]), np.int32)
    y = np.asarray(random.integers(1, 6, shapes[1]) * random.choice([-1, 1], shapes[1]), np.int32)
    found = compute(name, x=x, y=y)
    assert found.dtype == np.int32
    assert np.array_equal(found, looped(lambda a, b: wrap(WHOLE[name](int(a), int(b))), x, y))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "real_div", "floor_div", "mod", "maximum", "minimum"])
def test_whole_operands_at_the_ends_of_the_range(compute: Any, name: str) -> None:
    x, y = (np.array(v, np.int32) for v in ([[LEAST], [LEAST + 1], [-1], [GREATEST]], [LEAST, -7, -1, 1, 2, GREATEST]))
    assert np.array_equal(
        compute(name, x=x, y=y), looped(lambda a, b: wrap(WHOLE[name](int(a), int(b))), x, y).astype(np.int32)
    )


@pytest.mark.parametrize(
    ("name", "x", "y", "expected"),
    [
        ("real_div", [1, -1, 0, 1, 5], [0, 0, 0, math.inf, -2], [math.inf, -math.inf, math.nan, 0, -2.5]),
        # the quotient itself, not one that is rounded to a whole number first: 1 / float32(0.1) is below 10
        ("floor_div", [7, -7, 7, -7, 1, 1], [2, 2, -2, -2, 0, 0.1], [3, -4, -4, 3, math.inf, 9]),
        ("mod", [7, -7, 7, -7, 6, -6, 5.5], [2, 2, -2, -2, 3, 3, -2], [1, 1, -1, -1, 0, 0, -0.5]),
        ("mod", [1, 5, -5], [0, math.inf, math.inf], [math.nan, 5, math.inf]),
        ("pow", [-2, -2, 0, 0, 2, -8], [2, 3, 0, -1, -1, 0.5], [4, -8, 1, math.inf, 0.5, math.nan]),
        ("maximum", [math.nan, 1, -math.inf], [1, math.nan, -9], [math.nan, math.nan, -9]),
        ("minimum", [math.nan, 1, -math.inf], [1, math.nan, -9], [math.nan, math.nan, -math.inf]),
    ],
)
def test_special_operands(compute: Any, name: str, x: list[float], y: list[float], expected: list[float]) -> None:
    found = compute(name, x=np.array(x, np.float32), y=np.array(y, np.float32))
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("name", ["real_div", "floor_div", "mod"])
def test_integers_are_not_divided_by_zero(compute: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        compute(name, x=np.array([1], np.int32), y=np.array([0], np.int32))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
@pytest.mark.parametrize("name", COMPARED)
def test_comparisons(compute: Any, random: np.random.Generator, name: str, kind: type) -> None:
    x, y = random.integers(-2, 3, (3, 1, 6)).astype(kind), random.integers(-2, 3, (5, 1)).astype(kind)
    found = compute(name, x=x, y=y)
    assert found.dtype == np.bool_
    assert np.array_equal(found, looped(COMPARED[name], x, y))
    assert 0 < found.sum() < found.size


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_with_what_is_no_number(compute: Any, name: str) -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0]
    found = compute(name, x=np.array(values, np.float32)[:, None], y=np.array(values, np.float32))
    assert found.tolist() == [[COMPARED[name](a, b) for b in values] for a in values]


@pytest.mark.parametrize("name", LOGICAL)
def test_logic(compute: Any, name: str) -> None:
    found = compute(name, x=np.array([[False], [True]]), y=np.array([False, True]))
    assert found.dtype == np.bool_
    assert found.reshape(-1).tolist() == LOGICAL[name]


def test_logical_not(compute: Any) -> None:
    assert compute("logical_not", x=np.array([[True, False]])).tolist() == [[False, True]]


@pytest.mark.parametrize("shape", [(), (9,), (2, 3, 1, 7)])
@pytest.mark.parametrize("name", UNARY)
def test_functions(compute: Any, random: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
    reference, least, greatest = UNARY[name]
    x = np.asarray(random.uniform(least, greatest, shape), np.float32)
    found = compute(name, x=x)
    assert found.dtype == np.float32
    assert found.shape == shape
    np.testing.assert_allclose(found, reference(x.astype(np.float64)), rtol=2e-6)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("round", [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997, 8388609.0], [-2, -2, 0, 0, 2, 2, 0, 8388609]),
        ("ceil", [-1.5, -0.0, 1e-30, 2, math.inf], [-1, 0, 1, 2, math.inf]),
        ("floor", [-1e-30, -1.5, 2, -math.inf], [-1, -2, 2, -math.inf]),
        ("sign", [-math.inf, -1e-40, -0.0, 0, 1e-40, 3], [-1, -1, 0, 0, 1, 1]),
        ("abs", [-math.inf, -0.0, math.inf], [math.inf, 0, math.inf]),
        ("acos", [1, -1, 1.5, -1.5], [0, math.pi, math.nan, math.nan]),
        ("asin", [1, 0, 1.5, -1.5], [math.pi / 2, 0, math.nan, math.nan]),
        ("atan", [math.inf, -math.inf], [math.pi / 2, -math.pi / 2]),
        ("atanh", [1, -1, 2], [math.inf, -math.inf, math.nan]),
        ("erf", [math.inf, -math.inf, 0], [1, -1, 0]),
        ("exp", [-math.inf, 0, 200], [0, 1, math.inf]),
        ("exp2", [-math.inf, 0, 10, 200], [0, 1, 1024, math.inf]),
        ("sqrt", [0, -1, math.inf], [0, math.nan, math.inf]),
        ("square", [-math.inf, 1e30], [math.inf, math.inf]),
        ("cosh", [math.inf, -math.inf], [math.inf, math.inf]),
        ("sinh", [math.inf, -math.inf], [math.inf, -math.inf]),
        ("tanh", [math.inf, -math.inf], [1, -1]),
        ("sin", [math.inf], [math.nan]),
        ("cos", [0, math.inf], [1, math.nan]),
        ("tan", [0, math.inf], [0, math.nan]),
    ],
)
def test_functions_of_special_values(compute: Any, name: str, x: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(compute(name, x=np.array(x, np.float32)), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abs", [9, 1, 0, 1, 9, LEAST]),
        ("sign", [-1, -1, 0, 1, 1, -1]),
        ("square", [81, 1, 0, 1, 81, 0]),
        ("exp2", [0, 0, 1, 2, 512, 0]),
    ],
)
def test_functions_of_integers(compute: Any, name: str, expected: list[int]) -> None:
    found = compute(name, x=np.array([-9, -1, 0, 1, 9, LEAST], np.int32))
    assert found.dtype == np.int32
    assert found.tolist() == expected


@pytest.mark.parametrize("epsilon", [None, 0.5, 1e-3])
@pytest.mark.parametrize("name", SHIFTED)
def test_functions_with_an_epsilon(compute: Any, random: np.random.Generator, name: str, epsilon: float | None) -> None:
    reference, default = SHIFTED[name]
    x = random.uniform(1e-3, 4, (2, 5, 3)).astype(np.float32)
    found = compute(name, x=x) if epsilon is None else compute(name, x=x, epsilon=epsilon)
    expected = reference(x.astype(np.float64), default if epsilon is None else epsilon)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_epsilons_keep_zero_finite(compute: Any) -> None:
    zero = np.zeros(1, np.float32)
    assert compute("inverse", x=zero) == pytest.approx(1e4)
    assert compute("rsqrt", x=zero) == pytest.approx(1e6)
    assert compute("log", x=zero) == pytest.approx(math.log(2.0**-149))  # the least float32 above zero
    assert compute("log", x=zero, epsilon=0.0) == -math.inf


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.5, 0.75), (-math.inf, 0.0), (2.0, -2.0)])
def test_clip(compute: Any, random: np.random.Generator, bounds: tuple[float, float]) -> None:
    x = random.normal(0, 2, (3, 4, 5)).astype(np.float32)
    expected = looped(lambda v: min(max(float(v), bounds[0]), bounds[1]), x)
    assert np.array_equal(compute("clip", x=x, alpha=bounds[0], beta=bounds[1]), expected)


def test_clip_keeps_what_is_no_number(compute: Any) -> None:
    assert np.isnan(compute("clip", x=np.array([math.nan], np.float32), alpha=0.0, beta=1.0))


@pytest.mark.parametrize(("kind", "alpha"), [(np.float32, 0.25), (np.float32, -1.5), (np.int32, 1), (np.int32, -2)])
def test_threshold(compute: Any, random: np.random.Generator, kind: type, alpha: float) -> None:
    x = random.normal(0, 3, (3, 4, 5)).astype(kind)
    found = compute("threshold", x=x, alpha=alpha)
    assert found.dtype == kind
    assert np.array_equal(found, looped(lambda v: max(v, alpha), x))


@pytest.mark.parametrize("dtype", RANGES)
def test_a_float_becomes_an_integer(compute: Any, dtype: str) -> None:
    least, greatest = RANGES[dtype]
    values = [0.0, -0.0, 0.5, -0.5, 0.99, -0.99, 1.5, 2.5, -3.7, 126.9, 127.5, 128, -128.9, -129, 254.9, 255.5, 300]
    values += [32767.5, 40000, 65535.5, 70000, 2147483520, 3e9, -3e9, 1e30]
    found = compute("cast", x=np.array([*values, math.inf, -math.inf, math.nan], np.float32), dtype=dtype)
    exact = [float(np.float32(v)) for v in values]
    assert found.dtype == np.int32
    assert found.tolist() == [*(min(max(math.trunc(v), least), greatest) for v in exact), greatest, least, 0]


@pytest.mark.parametrize("dtype", RANGES)
def test_an_integer_becomes_another(compute: Any, dtype: str) -> None:
    x = np.array([0, 1, -1, 127, 128, 255, 256, -128, -129, 32768, 65535, 65536, LEAST, GREATEST], np.int32)
    found = compute("cast", x=x, dtype=dtype)
    assert found.dtype == np.int32
    assert np.array_equal(found, x.astype(dtype))


def test_an_unsigned_integer_becomes_a_signed_one(compute: Any) -> None:
    found = compute("cast", x=np.array([2**32 - 1, 2**31, 5], np.uint32), dtype="int32")
    assert found.dtype == np.int32
    assert found.tolist() == [-1, LEAST, 5]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_integers_and_truth_become_floats(compute: Any, dtype: str) -> None:
    found = compute("cast", x=np.array([-3, 0, 2047], np.int32), dtype=dtype)
    assert found.dtype == np.float32
    assert found.tolist() == [-3.0, 0.0, 2047.0]
    found = compute("cast", x=np.array([True, False]), dtype=dtype)
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 0.0]


def test_single_precision_is_left_to_the_executor_to_round(compute: Any) -> None:
    x = np.array([0.1, 70000.0], np.float32)
    assert np.array_equal(compute("cast", x=x, dtype="fp16"), x)


@pytest.mark.parametrize("dtype", RANGES)
def test_truth_becomes_an_integer(compute: Any, dtype: str) -> None:
    found = compute("cast", x=np.array([True, False]), dtype=dtype)
    assert found.dtype == np.int32
    assert found.tolist() == [1, 0]


def test_numbers_become_truth(compute: Any) -> None:
    floats = compute("cast", x=np.array([0.0, -0.0, 1e-40, -2, math.nan], np.float32), dtype="bool")
    assert floats.tolist() == [False, False, True, True, True]
    assert compute("cast", x=np.array([0, 1, -5, 256], np.int32), dtype="bool").tolist() == [False, True, True, True]
    assert compute("cast", x=np.array([True, False]), dtype="bool").tolist() == [True, False]


def test_a_cast_to_a_type_that_is_not_known(compute: Any) -> None:
    with pytest.raises(ValueError, match="'int4' is not known, only to bool"):
        compute("cast", x=np.zeros(1, np.float32), dtype="int4")


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.bool_])
def test_select(compute: Any, random: np.random.Generator, kind: type) -> None:
    cond = random.random((4, 1, 3)) < 0.5
    a, b = random.integers(-4, 5, (2, 1)).astype(kind), random.integers(-4, 5, (1, 1, 1)).astype(kind)
    found = compute("select", cond=cond, a=a, b=b)
    assert found.dtype == kind
    expected = np.zeros((4, 2, 3), kind)
    for i, j, k in np.ndindex(*expected.shape):
        expected[i, j, k] = a[j, 0] if cond[i, 0, k] else b[0, 0, 0]
    assert np.array_equal(found, expected)


def test_select_places(compute: Any) -> None:
    cond = np.array([[True, False, False], [False, True, True]])
    found = compute("select", cond=cond)
    assert found.dtype == np.int32
    assert found.tolist() == [[0, 0], [1, 1], [1, 2]]
    assert compute("select", cond=np.zeros((2, 3, 4), bool)).shape == (0, 3)
    with pytest.raises(ValueError, match="both"):
        compute("select", cond=cond, a=np.zeros(3, np.float32))


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.bool_])
def test_identity(compute: Any, kind: type) -> None:
    x = np.arange(6).reshape(2, 3).astype(kind)
    found = compute("identity", x=x)
    assert found.dtype == kind
    assert np.array_equal(found, x)


def test_whole_numbers_of_a_range() -> None:
    import torch

    assert truncated(torch.tensor([1.9, -1.9, 7.2, -9])).tolist() == [1, -1, 7, -9]
    assert truncated(torch.tensor([1.9, -1.9, 7.2, -9]), -2, 5).tolist() == [1, -1, 5, -2]
    assert wrapped(torch.tensor([2**31, -(2**31) - 1])).tolist() == [LEAST, GREATEST]
    assert wrapped(torch.tensor([4, 5, -3, -2]), -2, 4).tolist() == [4, -2, 4, -2]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_real_operands(execute: Any, random: np.random.Generator, dtype: str) -> None:
    x, y = (v.astype(dtype) for v in operands(random, "pow", (2, 3, 4), (3, 1)))
    found = execute(lambda mb, x, y: tuple(getattr(mb, name)(x=x, y=y) for name in REAL), x=x, y=y)
    for name, result in zip(REAL, found, strict=True):
        assert_typed(result, REAL[name](x.astype(np.float64), y.astype(np.float64)), dtype)


def test_saved_real_operand_beside_a_literal(execute: Any) -> None:
    x = np.array([[-1.5, 0.25, 4]], np.float32)
    found = execute(lambda mb, x: (mb.sub(x=x, y=np.float32(2)), mb.sub(x=np.float32(2), y=x)), x=x)
    assert [v.tolist() for v in found] == [[[-3.5, -1.75, 2]], [[3.5, 1.75, -2]]]


def test_saved_whole_operands(execute: Any) -> None:
    x, y = np.array([[-7], [0], [9], [LEAST]], np.int32), np.array([-3, -1, 1, 2], np.int32)
    found = execute(lambda mb, x, y: tuple(getattr(mb, name)(x=x, y=y) for name in WHOLE), x=x, y=y)
    for name, result in zip(WHOLE, found, strict=True):
        assert result.dtype == np.int32
        assert np.array_equal(result, looped(lambda a, b, n=name: wrap(WHOLE[n](int(a), int(b))), x, y))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_saved_comparisons_and_logic(execute: Any, random: np.random.Generator, dtype: str) -> None:
    x, y = random.integers(-1, 2, (2, 5)).astype(dtype), random.integers(-1, 2, (3, 1, 1)).astype(dtype)

    def body(mb: Any, x: Any, y: Any) -> tuple[Any, ...]:
        compared = [getattr(mb, name)(x=x, y=y) for name in COMPARED]
        less, equal = mb.less(x=x, y=y), mb.equal(x=x, y=y)
        joined = [getattr(mb, name)(x=less, y=equal) for name in LOGICAL]
        return tuple(mb.cast(x=v, dtype="int32") for v in [*compared, *joined, mb.logical_not(x=less)])

    found = execute(body, x=x, y=y)
    tables = [lambda a, b, t=t: t[2 * (a < b) + (a == b)] for t in LOGICAL.values()]
    for result, function in zip(found, [*COMPARED.values(), *tables, lambda a, b: not a < b], strict=True):
        assert np.array_equal(result, looped(function, x, y).astype(np.int32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_functions(execute: Any, random: np.random.Generator, dtype: str) -> None:
    x = {"unit": random.uniform(0.01, 0.99, (2, 3, 5)).astype(dtype), "wide": random.uniform(-4, 4, 30).astype(dtype)}
    taken = {name: "wide" if least < -1 else "unit" for name, (_, least, _) in UNARY.items()}

    def body(mb: Any, unit: Any, wide: Any) -> tuple[Any, ...]:
        return tuple(getattr(mb, name)(x=wide if which == "wide" else unit) for name, which in taken.items())

    for (name, which), result in zip(taken.items(), execute(body, **x), strict=True):
        assert_typed(result, UNARY[name][0](x[which].astype(np.float64)), dtype)


def test_saved_functions_of_integers(execute: Any) -> None:
    x = np.array([[-3, 0, 10]], np.int32)
    names = ("abs", "sign", "square", "exp2")
    found = execute(lambda mb, x: (*(getattr(mb, n)(x=x) for n in names), mb.threshold(x=x, alpha=np.int32(2))), x=x)
    expected = [[3, 0, 10], [-1, 0, 1], [9, 0, 100], [0, 1, 1024], [2, 2, 10]]
    assert [v.tolist() for v in found] == [[row] for row in expected]


@pytest.mark.parametrize(("dtype", "target"), [("float32", "iOS17"), ("float16", "iOS15")])
def test_saved_functions_with_constants(execute: Any, random: np.random.Generator, dtype: str, target: str) -> None:
    x, kind = random.uniform(0.01, 4, (2, 7)).astype("float32"), np.dtype(dtype).type

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        x = mb.cast(x=x, dtype="fp16") if dtype == "float16" else x
        shifted = [getattr(mb, n)(x=x, **given) for n in SHIFTED for given in ({}, {"epsilon": kind(0.25)})]
        results = [*shifted, mb.clip(x=x, alpha=kind(0.5), beta=kind(2.5)), mb.threshold(x=x, alpha=kind(1.5))]
        return tuple(mb.cast(x=v, dtype="fp32") for v in results)

    found = execute(body, x=x, target=target)
    exact = x.astype(dtype).astype(np.float64)
    cases = [(f, float(kind(e))) for f, default in SHIFTED.values() for e in (default, 0.25)]
    expected = [f(exact, e) for f, e in cases] + [np.clip(exact, 0.5, 2.5), np.where(exact < 1.5, 1.5, exact)]
    for result, wanted in zip(found, expected, strict=True):
        if dtype == "float16":
            assert_half(result, wanted)
        else:
            np.testing.assert_allclose(result, wanted, rtol=2e-6, atol=1e-6)


def test_saved_epsilon_of_another_type(execute: Any) -> None:
    x = np.array([1, 3], np.float16)
    found = execute(lambda mb, x: tuple(getattr(mb, n)(x=x, epsilon=np.float32(1)) for n in SHIFTED), x=x)
    for result, (function, _) in zip(found, SHIFTED.values(), strict=True):
        assert_half(result, function(x.astype(np.float64), 1))


def test_saved_casts_of_floats(execute: Any) -> None:
    x = np.array([[-300.7, -1.5, 0], [0.9, 100.5, 70000]], np.float32)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        whole = [mb.cast(x=mb.cast(x=x, dtype=name), dtype="int32") for name in RANGES if name != "int32"]
        whole.append(mb.cast(x=x, dtype="int32"))
        half, truth = mb.cast(x=x, dtype="fp16"), mb.cast(x=x, dtype="bool")
        return (*whole, half, mb.cast(x=half, dtype="fp32"), mb.cast(x=truth, dtype="fp32"))

    *whole, half, single, truth = execute(body, x=x)
    for result, (least, greatest) in zip(whole, RANGES.values(), strict=True):
        assert np.array_equal(result, np.clip(np.trunc(x), least, greatest).astype(np.int32))
    with np.errstate(over="ignore"):
        assert np.array_equal(half, x.astype(np.float16).astype(np.float32))
    assert np.array_equal(single, half)
    assert truth.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_saved_casts_of_integers(execute: Any) -> None:
    x = np.array([[-300, -1, 0], [1, 200, 70001]], np.int32)

    def body(mb: Any, x: Any) -> tuple[Any, ...]:
        whole = [mb.cast(x=mb.cast(x=x, dtype=name), dtype="int32") for name in RANGES]
        return (*whole, mb.cast(x=x, dtype="fp32"), mb.cast(x=mb.cast(x=x, dtype="bool"), dtype="int32"))

    *whole, single, truth = execute(body, x=x)
    for result, name in zip(whole, RANGES, strict=True):
        assert np.array_equal(result, x.astype(name).astype(np.int32))
    assert np.array_equal(single, x.astype(np.float32))
    assert truth.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_saved_select_and_identity(execute: Any) -> None:
    x, n = np.array([[0.5, -0.5], [2, -3]], np.float16), np.array([[1, 2], [3, 4]], np.int32)

    def body(mb: Any, x: Any, n: Any) -> tuple[Any, ...]:
        cond = mb.greater(x=x, y=np.float16(0))
        both = mb.select(cond=cond, a=cond, b=mb.logical_not(x=cond))
        return (
            mb.select(cond=cond, a=x, b=np.float16(7)),
            mb.select(cond=cond, a=n, b=np.array([[-1, -2], [-3, -4]], np.int32)),
            mb.cast(x=both, dtype="int32"),
            mb.identity(x=x),
            mb.identity(x=n),
        )

    floats, whole, truth, same, same_whole = execute(body, x=x, n=n)
    assert floats.tolist() == [[0.5, 7], [2, 7]]
    assert whole.tolist() == [[1, -2], [3, -4]]
    assert truth.tolist() == [[1, 1], [1, 1]]
    assert np.array_equal(same, x)
    assert np.array_equal(same_whole, n)
