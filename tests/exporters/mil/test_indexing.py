"""Operators that find and put elements by index: every one against loops, and through a saved program."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Compute = Callable[..., Any]
Execute = Callable[..., list[NDArray[Any]]]

DTYPES = ["float32", "float16"]
MODES: dict[str, Callable[[Any, Any], Any]] = {
    "update": lambda old, new: new, "add": lambda old, new: old + new, "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new, "div": lambda old, new: old / new, "max": max, "min": min,
}  # fmt: skip


def values(random: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """All different, so that no exchange of two elements goes unseen."""
    count = int(np.prod(shape))
    return (random.permutation(count).reshape(shape) - count // 2).astype(dtype)


def indices_for(random: np.random.Generator, shape: Any, extent: int, negative: bool = True) -> NDArray[np.int32]:
    return random.integers(-extent if negative else 0, extent, shape).astype(np.int32)


def equal(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(found, wanted)
    assert np.shape(found) == np.shape(wanted)


def close(found: Any, wanted: NDArray[np.float64], dtype: str) -> None:
    """Float32: within a few roundings of the terms. Float16: of the rounded value, at most the next one."""
    assert np.shape(found) == np.shape(wanted)
    if dtype == "float32":
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    else:
        rounded = wanted.astype(np.float16)
        assert (np.abs(found - rounded.astype(np.float64)) <= np.abs(np.spacing(rounded)).astype(np.float64)).all()


def gathered(x: NDArray[Any], indices: NDArray[Any], axis: int, batch_dims: int) -> NDArray[Any]:
    axis %= x.ndim
    batch, before, after = x.shape[:batch_dims], x.shape[batch_dims:axis], x.shape[axis + 1 :]
    wanted = np.empty((*batch, *before, *indices.shape[batch_dims:], *after), x.dtype)
    for b, p, i in itertools.product(
        np.ndindex(*batch), np.ndindex(*before), np.ndindex(*indices.shape[batch_dims:])
    ):  # fmt: skip
        wanted[(*b, *p, *i)] = x[(*b, *p, int(indices[(*b, *i)]))]
    return wanted


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,)])
def test_gather(compute: Compute, random: np.random.Generator, shape: Any, axis: int, negative: bool) -> None:
    x = values(random, (2, 3, 4))
    indices = indices_for(random, shape, x.shape[axis], negative)
    wanted = gathered(x, indices, axis, 0)
    equal(compute("gather", x=x, indices=indices, axis=axis, validate_indices=not negative), wanted)
    assert wanted.shape == np.take(x, indices, axis).shape


@pytest.mark.parametrize(
    ("own", "shape", "axis", "batch_dims"),
    [
        ((2, 3, 4), (2, 5), 1, 1),
        ((2, 3, 4), (2, 5), 2, 1),
        ((2, 3, 4), (2, 3), -1, 2),
        ((2, 3, 4), (2, 3, 5, 2), 2, 2),
        ((2, 3, 4, 5), (2, 6, 2), -2, 1),
        ((2, 3, 4, 5), (2,), 3, 1),
        ((2, 3), (2, 3), 1, 1),
    ],
)
def test_gather_in_batches(
    compute: Compute, random: np.random.Generator, own: Any, shape: Any, axis: int, batch_dims: int
) -> None:
    x, indices = values(random, own, "int32"), indices_for(random, shape, own[axis])
    found = compute("gather", x=x, indices=indices, axis=axis, batch_dims=batch_dims)
    equal(found, gathered(x, indices, axis, batch_dims))
    assert found.dtype == np.int32


def test_gather_of_a_scalar_by_default(compute: Compute) -> None:
    equal(compute("gather", x=np.array([4.0, 5.0, 6.0]), indices=np.array(-2)), np.float32(5))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_gather_along_axis(compute: Compute, random: np.random.Generator, axis: int, count: int) -> None:
    x, shape = values(random, (2, 3, 4)), [2, 3, 4]
    shape[axis] = count
    indices = indices_for(random, shape, x.shape[axis])
    wanted = np.empty(shape, x.dtype)
    for place in np.ndindex(*shape):
        source = list(place)
        source[axis] = int(indices[place])
        wanted[place] = x[tuple(source)]
    equal(compute("gather_along_axis", x=x, indices=indices, axis=axis), wanted)
    if axis == 0:
        equal(compute("gather_along_axis", x=x, indices=indices), wanted)


ND = [
    ((2, 3, 4), (5, 1), 0),
    ((2, 3, 4), (5, 2), 0),
    ((2, 3, 4), (2, 2, 3), 0),
    ((2, 3, 4), (3,), 0),
    ((2, 3, 4), (1,), 0),
    ((2, 3, 4), (5, 0), 0),
    ((2, 3, 4), (2, 1), 1),
    ((2, 3, 4), (2, 5, 1), 1),
    ((2, 3, 4), (2, 5, 2), 1),
    ((2, 3, 4), (2, 3, 1), 2),
    ((2, 3, 4, 5), (2, 3, 2, 6, 1), 2),
]


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize(("own", "shape", "batch_dims"), ND)
def test_gather_nd(
    compute: Compute, random: np.random.Generator, own: Any, shape: Any, batch_dims: int, negative: bool
) -> None:
    x, depth = values(random, own), shape[-1]
    columns = [indices_for(random, shape[:-1], own[batch_dims + k], negative) for k in range(depth)]
    indices = np.stack(columns, axis=-1) if columns else np.empty(shape, np.int32)
    wanted = np.empty((*shape[:-1], *own[batch_dims + depth :]), x.dtype)
    for place in np.ndindex(*shape[:-1]):
        wanted[place] = x[(*place[:batch_dims], *(int(v) for v in indices[place]))]
    found = compute("gather_nd", x=x, indices=indices, batch_dims=batch_dims, validate_indices=not negative)
    equal(found, wanted)


def operands(random: np.random.Generator, *shapes: Any, dtype: str = "float32") -> list[NDArray[Any]]:
    """Away from 0, so that quotients of a few stay moderate."""
    return [(random.choice([-1, 1], s) * random.uniform(0.5, 2, s)).astype(dtype) for s in shapes]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("own", "shape", "axis"),
    [
        ((5,), (3,), 0),
        ((5,), (17,), -1),
        ((4, 3), (6,), 0),
        ((2, 3, 4), (5,), 1),
        ((2, 3, 4), (2,), -1),
        ((2, 3, 4), (7,), -3),
        ((3, 2), (2, 4), 0),
        ((2, 3, 4), (2, 2), 1),
        ((2, 3), (0,), 1),
    ],
)
def test_scatter(compute: Compute, random: np.random.Generator, own: Any, shape: Any, axis: int, mode: str) -> None:
    place = axis % len(own)
    data, updates = operands(random, own, (*own[:place], *shape, *own[place + 1 :]))
    indices = indices_for(random, shape, own[axis])
    wanted = data.astype(np.float64)
    for i in np.ndindex(*shape):
        for p in np.ndindex(*own[:place]):
            for q in np.ndindex(*own[place + 1 :]):
                at = (*p, int(indices[i]), *q)
                wanted[at] = MODES[mode](wanted[at], float(updates[(*p, *i, *q)]))
    close(compute("scatter", data=data, indices=indices, updates=updates, axis=axis, mode=mode), wanted, "float32")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_scatter_along_axis(compute: Compute, random: np.random.Generator, axis: int, mode: str, count: int) -> None:
    own, shape = (2, 3, 4), [2, 3, 4]
    shape[axis] = count
    data, updates = operands(random, own, shape)
    indices = indices_for(random, shape, own[axis])
    wanted = data.astype(np.float64)
    for place in np.ndindex(*shape):
        to = list(place)
        to[axis] = int(indices[place])
        wanted[tuple(to)] = MODES[mode](wanted[tuple(to)], float(updates[place]))
    found = compute("scatter_along_axis", data=data, indices=indices, updates=updates, axis=axis, mode=mode)
    close(found, wanted, "float32")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("own", "shape"), [(own, shape) for own, shape, batch_dims in ND if not batch_dims])
def test_scatter_nd(compute: Compute, random: np.random.Generator, own: Any, shape: Any, mode: str) -> None:
    depth = shape[-1]
    columns = [indices_for(random, shape[:-1], own[k]) for k in range(depth)]
    indices = np.stack(columns, axis=-1) if columns else np.empty(shape, np.int32)
    data, updates = operands(random, own, (*shape[:-1], *own[depth:]))
    wanted = data.astype(np.float64)
    for place in np.ndindex(*shape[:-1]):
        at = tuple(int(v) for v in indices[place])
        for q in np.ndindex(*own[depth:]):
            wanted[(*at, *q)] = MODES[mode](wanted[(*at, *q)], float(updates[(*place, *q)]))
    close(compute("scatter_nd", data=data, indices=indices, updates=updates, mode=mode), wanted, "float32")


@pytest.mark.parametrize("mode", [m for m in MODES if m != "div"])
def test_scatter_of_integers(compute: Compute, random: np.random.Generator, mode: str) -> None:
    data, updates, indices = values(random, (5,), "int32"), values(random, (9,), "int32"), indices_for(random, 9, 5)
    wanted = data.tolist()
    for i, k in enumerate(indices):
        wanted[k] = MODES[mode](wanted[k], int(updates[i]))
    for name in ("scatter", "scatter_along_axis"):
        found = compute(name, data=data, indices=indices, updates=updates, mode=mode)
        equal(found, wanted)
        assert found.dtype == np.int32
    equal(compute("scatter_nd", data=data, indices=indices[:, None], updates=updates, mode=mode), wanted)


@pytest.mark.parametrize("name", ["scatter", "scatter_along_axis", "scatter_nd"])
def test_scatter_adds_unless_told(compute: Compute, name: str) -> None:
    data, indices, updates = np.array([1.0, 2.0]), np.array([1, 1]), np.array([4.0, 8.0])
    indices = indices[:, None] if name == "scatter_nd" else indices
    equal(compute(name, data=data, indices=indices, updates=updates), np.array([1, 14], np.float32))


@pytest.mark.parametrize("name", ["scatter", "scatter_along_axis", "scatter_nd"])
def test_scatter_of_many_updates_to_one_place(compute: Compute, name: str) -> None:
    updates = np.arange(5000, dtype=np.float32)
    indices = np.zeros((5000, 1) if name == "scatter_nd" else 5000, np.int32)
    found = compute(name, data=np.zeros(3, np.float32), indices=indices, updates=updates, mode="update")
    equal(found, np.array([4999, 0, 0], np.float32))


@pytest.mark.parametrize("name", ["scatter", "scatter_along_axis", "scatter_nd"])
def test_scatter_divides_no_integers(compute: Compute, name: str) -> None:
    indices = np.zeros((2, 1) if name == "scatter_nd" else 2, np.int32)
    with pytest.raises(NotImplementedError, match="integers"):
        compute(name, data=np.arange(3), indices=indices, updates=np.arange(2), mode="div")


@pytest.mark.parametrize(("axis", "size"), list(itertools.product([0, 1, 2, -1, -2, -3], [1, 4])))
@pytest.mark.parametrize(
    ("on", "off", "dtype"), [(1, 0, "int32"), (0.5, -np.inf, "float32"), (True, False, "bool"), (False, True, "bool")]
)
def test_one_hot(
    compute: Compute, random: np.random.Generator, axis: int, size: int, on: float, off: float, dtype: str
) -> None:
    indices = indices_for(random, (2, 3), size, negative=False)
    wanted = np.full((2, 3, size), off)
    for place in np.ndindex(2, 3):
        wanted[(*place, indices[place])] = on
    found = compute("one_hot", indices=indices, one_hot_vector_size=size, axis=axis, on_value=on, off_value=off)
    equal(found, np.moveaxis(wanted, -1, axis))
    assert found.dtype == dtype


def test_one_hot_by_default(compute: Compute) -> None:
    found = compute("one_hot", indices=np.array(2), one_hot_vector_size=4)
    equal(found, [0, 0, 1, 0])
    assert found.dtype == np.int32


def ordered(row: NDArray[Any], ascending: bool) -> list[int]:
    """Indices in the order of the values, then of the places."""
    return sorted(range(len(row)), key=lambda i: (row[i] if ascending else -row[i], i))


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_argsort_and_topk(
    compute: Compute, random: np.random.Generator, axis: int, ascending: bool, dtype: str
) -> None:
    x = random.integers(-2, 3, (5, 6, 7)).astype(dtype)  # with equals
    indices = np.apply_along_axis(ordered, axis, x, ascending)
    found = compute("argsort", x=x, axis=axis, ascending=ascending)
    equal(found, indices)
    assert found.dtype == np.int32
    for k in (1, 3, x.shape[axis], -1):
        first = np.take(indices, range(k if k > 0 else x.shape[axis]), axis)
        best = np.take_along_axis(x, first, axis)
        a, b = compute("topk", x=x, k=k, axis=axis, ascending=ascending, output_indices_dtype="uint16")
        equal(a, best)
        equal(b, first)
        assert (a.dtype, b.dtype) == (x.dtype, np.int32)
        a, b = compute("topk", x=x, k=k, axis=axis, ascending=ascending, sort=False)
        equal(np.sort(a, axis), np.sort(best, axis))
        equal(np.take_along_axis(x, b, axis), a)
        equal(compute("topk", x=x, k=k, axis=axis, ascending=ascending, return_indices=False), best)


def test_argsort_and_topk_by_default(compute: Compute) -> None:
    x = np.array([[1, 3, 2], [0, -np.inf, np.inf]], np.float32)
    equal(compute("argsort", x=x), [[1, 2, 0], [2, 0, 1]])
    a, b = compute("topk", x=x)
    equal(a, np.array([[3], [np.inf]], np.float32))
    equal(b, [[1], [2]])


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 4), (2, 0)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_non_zero(compute: Compute, random: np.random.Generator, shape: Any, dtype: str) -> None:
    x = random.integers(-1, 2, shape).astype(dtype)
    rows = [place for place in np.ndindex(*shape) if x[place] != 0]
    found = compute("non_zero", x=x)
    equal(found, np.array(rows, np.int32).reshape(len(rows), len(shape)))
    assert found.dtype == np.int32


def test_non_zero_of_signed_zeros_and_tiny_values(compute: Compute) -> None:
    equal(compute("non_zero", x=np.array([0.0, -0.0, 1e-30, -np.inf], np.float32)), [[2], [3]])


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.25, "float32"), (-np.inf, "float32"), (-7, "int32"), (True, "bool"), (False, "bool")]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)])
def test_fill(compute: Compute, value: float, dtype: str, shape: Any) -> None:
    found, like = (
        compute("fill", shape=shape, value=value), compute("fill_like", ref_tensor=np.ones(shape, bool), value=value),
    )  # fmt: skip
    for result in (found, like):
        equal(result, np.full(shape, value))
        assert result.dtype == dtype


def test_fill_with_zero_by_default(compute: Compute) -> None:
    for found in (compute("fill", shape=(2, 1)), compute("fill_like", ref_tensor=np.ones((2, 1), np.int32))):
        equal(found, np.zeros((2, 1)))
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, 5, 1), (5, 15, 2), (-3, 4, 3), (9, 0, -2), (0, 0, 1), (5, 0, 1), (-1, -8, -7)]
)
def test_range_of_integers(compute: Compute, start: int, end: int, step: int) -> None:
    found = compute("range_1d", start=start, end=end, step=step)
    equal(found, list(range(start, end, step)))
    assert found.dtype == np.int32
    as_floats = compute("range_1d", start=float(start), end=float(end), step=float(step))
    equal(as_floats, list(range(start, end, step)))
    assert as_floats.dtype == np.float32


@pytest.mark.parametrize(
    ("start", "end", "step", "count"),
    [(0, 1, 0.1, 10), (0, 0.6, 0.2, 3), (0, 0.61, 0.2, 4), (0.5, -0.5, -0.25, 4), (1, 1.0625, 0.25, 1), (2, 1, 0.5, 0)],
)
def test_range_of_floats(compute: Compute, start: float, end: float, step: float, count: int) -> None:
    given = [float(np.float32(v)) for v in (start, end, step)]
    found = compute("range_1d", **dict(zip(("start", "end", "step"), given, strict=True)))
    wanted = [given[0] + i * given[2] for i in range(count)]
    assert found.shape == (count,)
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


DATA = np.ones((2, 3, 4), np.float32)
ZEROS = np.zeros((2, 3, 1), np.int32)
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("gather", {"x": DATA, "indices": np.array([2])}, "index 2 is out of range"),
    ("gather", {"x": DATA, "indices": np.array([-3])}, "index -3 is out of range"),
    ("gather", {"x": DATA, "indices": np.array([-1]), "validate_indices": True}, "index -1 is out of range"),
    ("gather", {"x": DATA, "indices": np.array([0]), "axis": 3}, "axis 3 is not one of"),
    (
        "gather",
        {"x": DATA, "indices": np.zeros((2, 1), np.int32), "axis": 0, "batch_dims": 1},
        "1 dimensions of [2, 3, 4] and [2, 1] are not a batch",
    ),
    (
        "gather",
        {"x": DATA, "indices": np.zeros((3, 1), np.int32), "axis": 1, "batch_dims": 1},
        "1 dimensions of [2, 3, 4] and [3, 1] are not a batch",
    ),
    (
        "gather",
        {"x": DATA, "indices": np.zeros(2, np.int32), "axis": 2, "batch_dims": 2},
        "2 dimensions of [2, 3, 4] and [2] are not a batch",
    ),
    (
        "gather",
        {"x": DATA, "indices": np.zeros(2, np.int32), "axis": 2, "batch_dims": -1},
        "-1 dimensions of [2, 3, 4] and [2] are not a batch",
    ),
    ("gather_along_axis", {"x": DATA, "indices": ZEROS + 4, "axis": 2}, "index 4 is out of range"),
    (
        "gather_along_axis",
        {"x": DATA, "indices": ZEROS - 1, "axis": 2, "validate_indices": True},
        "index -1 is out of range",
    ),
    (
        "gather_along_axis",
        {"x": DATA, "indices": ZEROS, "axis": 1},
        "indices [2, 3, 1] and data [2, 3, 4] differ beside",
    ),
    (
        "gather_along_axis",
        {"x": DATA, "indices": ZEROS[0], "axis": 1},
        "indices [3, 1] and data [2, 3, 4] differ beside",
    ),
    ("gather_along_axis", {"x": DATA, "indices": ZEROS, "axis": -4}, "axis -4 is not one of"),
    ("gather_nd", {"x": DATA, "indices": np.array([[0, 3]])}, "index 3 is out of range"),
    ("gather_nd", {"x": DATA, "indices": np.array([[0, -1]]), "validate_indices": True}, "index -1 is out of range"),
    ("gather_nd", {"x": DATA, "indices": np.zeros((1, 4), np.int32)}, "indices of 4 components are more than"),
    (
        "gather_nd",
        {"x": DATA, "indices": np.zeros((3, 1), np.int32), "batch_dims": 1},
        "1 dimensions of [2, 3, 4] and [3, 1] are not a batch",
    ),
    (
        "gather_nd",
        {"x": DATA, "indices": np.zeros((2,), np.int32), "batch_dims": 1},
        "1 dimensions of [2, 3, 4] and [2] are not a batch",
    ),
    ("scatter", {"data": DATA, "indices": np.array([2]), "updates": DATA[:1]}, "index 2 is out of range"),
    (
        "scatter",
        {"data": DATA, "indices": np.array([-1]), "updates": DATA[:1], "validate_indices": True},
        "index -1 is out of range",
    ),
    ("scatter", {"data": DATA, "indices": np.array([0]), "updates": DATA}, "the updates are [2, 3, 4], not [1, 3, 4]"),
    (
        "scatter",
        {"data": DATA, "indices": np.array([0]), "updates": DATA[:1], "mode": "pow"},
        "mode 'pow' is not known",
    ),
    ("scatter", {"data": DATA, "indices": np.array([0]), "updates": DATA[:1], "axis": 3}, "axis 3 is not one of"),
    (
        "scatter_along_axis",
        {"data": DATA, "indices": ZEROS + 4, "updates": DATA[..., :1], "axis": 2},
        "index 4 is out of range",
    ),
    (
        "scatter_along_axis",
        {"data": DATA, "indices": ZEROS, "updates": DATA, "axis": 2},
        "the updates are [2, 3, 4], not [2, 3, 1]",
    ),
    (
        "scatter_along_axis",
        {"data": DATA, "indices": ZEROS, "updates": DATA[..., :1], "axis": 0},
        "indices [2, 3, 1] and data [2, 3, 4] differ beside",
    ),
    (
        "scatter_along_axis",
        {"data": DATA, "indices": ZEROS, "updates": DATA[..., :1], "axis": 2, "mode": "ADD"},
        "mode 'ADD' is not known",
    ),
    ("scatter_nd", {"data": DATA, "indices": np.array([[0, 3]]), "updates": DATA[0, :1]}, "index 3 is out of range"),
    (
        "scatter_nd",
        {"data": DATA, "indices": np.array([[0, -1]]), "updates": DATA[0, :1], "validate_indices": True},
        "index -1 is out of range",
    ),
    (
        "scatter_nd",
        {"data": DATA, "indices": np.array([[0, 1]]), "updates": DATA[0]},
        "the updates are [3, 4], not [1, 4]",
    ),
    (
        "scatter_nd",
        {"data": DATA, "indices": np.zeros((1, 4), np.int32), "updates": DATA[0, 0, :1]},
        "indices of 4 components are more than",
    ),
    ("one_hot", {"indices": np.array([3]), "one_hot_vector_size": 3}, "index 3 is out of range"),
    ("one_hot", {"indices": np.array([-1]), "one_hot_vector_size": 3}, "index -1 is out of range"),
    ("one_hot", {"indices": np.array([1]), "one_hot_vector_size": 3, "axis": 2}, "axis 2 is not one of"),
    (
        "one_hot",
        {"indices": np.array([1]), "one_hot_vector_size": 3, "on_value": 1.0},
        "on value 1.0 and off value 0 are of different",
    ),
    ("topk", {"x": DATA, "k": 5}, "5 values of an extent of 4"),
    ("topk", {"x": DATA, "k": 0}, "0 values of an extent of 4"),
    ("topk", {"x": DATA, "k": -2}, "-2 values of an extent of 4"),
    ("topk", {"x": DATA, "axis": 3}, "axis 3 is not one of"),
    ("topk", {"x": DATA, "output_indices_dtype": "int16"}, "output_indices_dtype 'int16' of indices"),
    (
        "topk",
        {"x": DATA, "output_indices_dtype": "int32", "return_indices": False},
        "output_indices_dtype 'int32' of no indices",
    ),
    (
        "topk",
        {"x": np.zeros((1 << 16) + 1, np.float32), "output_indices_dtype": "uint16"},
        "an extent of 65537 is too large for indices of uint16",
    ),
    ("range_1d", {"start": 0, "end": 3, "step": 0}, "the step is 0"),
    ("range_1d", {"start": 0.0, "end": 3.0, "step": 0.0}, "the step is 0"),
]


@pytest.mark.parametrize(("name", "given", "says"), WRONG, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(WRONG)])
def test_wrong_arguments_are_refused(compute: Compute, name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        compute(name, **given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_gathers(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, i: Any, j: Any) -> Any:
        return (
            mb.gather(x=x, indices=i),
            mb.gather(x=x, indices=np.int32(2), axis=-1),
            mb.gather(x=x, indices=i, axis=2, batch_dims=1),
            mb.gather(x=x, indices=mb.cast(x=i, dtype="uint16"), axis=1, validate_indices=True),
            mb.gather_along_axis(x=x, indices=j, axis=-1),
            mb.gather_along_axis(x=x, indices=mb.cast(x=j, dtype="int8"), axis=2, validate_indices=True),
            mb.gather_nd(x=x, indices=i),
            mb.gather_nd(x=x, indices=j, batch_dims=1, validate_indices=True),
        )

    x = values(random, (2, 3, 4), dtype)
    i, j = indices_for(random, (2, 2), 2, negative=False), indices_for(random, (2, 3, 2), 3, negative=False)
    along = np.take_along_axis(x, j, 2)
    wanted = [
        x[i],
        x[..., 2],
        np.stack([x[0][:, i[0]], x[1][:, i[1]]]),
        x[:, i],
        along,
        along,
        x[i[:, 0], i[:, 1]],
        np.stack([x[k][j[k, :, 0], j[k, :, 1]] for k in range(2)]),
    ]
    for found, expected in zip(execute(body, x=x, i=i, j=j), wanted, strict=True):
        equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_gathers_of_older_systems_count_from_the_end(
    execute: Execute, random: np.random.Generator, dtype: str
) -> None:
    def body(mb: Any, x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=1), mb.gather(x=x, indices=[[-1], [-3]], axis=1, batch_dims=1)

    x = values(random, (2, 3), dtype)
    found = execute(body, target="iOS16", x=x, i=np.array([-1, 0, -2], np.int32))
    equal(found[0], x[:, [2, 0, 1]])
    equal(found[1], np.array([[x[0, 2]], [x[1, 0]]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_scatters(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, u: Any, i: Any, j: Any) -> Any:
        n = mb.expand_dims(x=i, axes=[1])
        return (
            mb.scatter(data=x, indices=i, updates=u),
            *(mb.scatter(data=x, indices=i, updates=u, axis=0, mode=m, validate_indices=True) for m in MODES),
            *(mb.scatter_along_axis(data=x, indices=j, updates=u, axis=-2, mode=m) for m in MODES),
            *(mb.scatter_nd(data=x, indices=n, updates=u, mode=m, validate_indices=False) for m in MODES),
            mb.scatter_along_axis(data=x, indices=j, updates=u, validate_indices=True),
            mb.scatter_nd(data=x, indices=n, updates=u),
        )

    x, u = operands(random, (3, 4), (5, 4), dtype=dtype)
    i, j = indices_for(random, (5,), 3, negative=False), indices_for(random, (5, 4), 3, negative=False)
    by_row, by_place = {}, {}
    for mode, change in MODES.items():
        by_row[mode], by_place[mode] = x.astype(np.float64), x.astype(np.float64)
        for k, column in np.ndindex(5, 4):
            for wanted, row in ((by_row[mode], i[k]), (by_place[mode], j[k, column])):
                wanted[row, column] = change(wanted[row, column], float(u[k, column]))
    all_wanted = [
        by_row["add"], *by_row.values(), *by_place.values(), *by_row.values(), by_place["add"], by_row["add"],
    ]  # fmt: skip
    for found, wanted in zip(execute(body, x=x, u=u, i=i, j=j), all_wanted, strict=True):
        close(found, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_orders(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any) -> Any:
        least, places = mb.topk(x=x, k=2, axis=0, ascending=True, output_indices_dtype="uint16")
        small = mb.topk(x=mb.cast(x=x, dtype="int16"), k=np.int8(2), sort=True, return_indices=False)
        return (
            mb.argsort(x=x),
            mb.argsort(x=x, axis=0, ascending=True),
            *mb.topk(x=x),
            least,
            mb.cast(x=places, dtype="int32"),
            mb.topk(x=x, k=3, axis=-1, return_indices=False),
            mb.cast(x=small, dtype="int32"),
        )

    x = values(random, (4, 5), dtype)
    down, up = np.argsort(-x.astype(np.float64), axis=1), np.argsort(x, axis=0)
    wanted = [
        down,
        up,
        x.max(axis=1, keepdims=True),
        x.argmax(axis=1)[:, None],
        np.sort(x, axis=0)[:2],
        up[:2],
        np.sort(x, axis=1)[:, :1:-1],
        np.sort(x, axis=1)[:, :2:-1].astype(int),
    ]
    for a, b in zip(execute(body, x=x), wanted, strict=True):
        equal(a, b)


def test_saved_topk_of_older_systems(execute: Execute, random: np.random.Generator) -> None:
    x = values(random, (3, 4))
    for target in ("iOS15", "iOS16"):
        best, where = execute(lambda mb, x: mb.topk(x=x, k=2, axis=1), target=target, x=x)
        equal(best, np.sort(x, axis=1)[:, :1:-1])
        equal(where, np.argsort(-x, axis=1)[:, :2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_makers(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    number = np.dtype(dtype).type

    def body(mb: Any, x: Any, i: Any, size: Any, end: Any) -> Any:
        return (
            mb.one_hot(indices=i, one_hot_vector_size=4),
            mb.one_hot(
                indices=i, one_hot_vector_size=mb.squeeze(x=size), axis=0, on_value=number(0.1), off_value=number(-2)
            ),
            mb.cast(
                x=mb.one_hot(indices=i, one_hot_vector_size=4, axis=1, on_value=True, off_value=False), dtype="int32"
            ),
            mb.non_zero(x=x),
            mb.fill(shape=mb.shape(x=i), value=number(0.1)),
            mb.fill(shape=[2, 1], value=-3),
            mb.fill(shape=[2]),
            mb.fill_like(ref_tensor=x, value=number(0.3)),
            mb.fill_like(ref_tensor=x, value=7),
            mb.fill_like(ref_tensor=i),
            mb.range_1d(start=np.int32(1), end=mb.squeeze(x=size), step=np.int32(2)),
            mb.range_1d(start=number(0.5), end=mb.squeeze(x=end), step=number(0.25)),
        )

    x = random.integers(0, 2, (3, 4)).astype(dtype)
    i = np.array([[3, 0], [1, 1]], np.int32)
    eye = np.eye(4, dtype=int)
    found = execute(body, x=x, i=i, size=np.array([4], np.int32), end=np.array([1.5], dtype))
    wanted = [
        eye[i],
        np.where(np.moveaxis(eye[i], -1, 0) == 1, number(0.1), number(-2)),
        np.moveaxis(eye[i], -1, 1),
        np.argwhere(x),
        np.full((2, 2), number(0.1)),
        np.full((2, 1), -3),
        np.zeros(2),
        np.full((3, 4), number(0.3)),
        np.full((3, 4), 7),
        np.zeros((2, 2)),
        np.array([1, 3]),
        np.array([0.5, 0.75, 1.0, 1.25]),
    ]
    for a, b in zip(found, wanted, strict=True):
        equal(a, b)
