"""Pooling against plain loops in float64: every window gathers the elements that it really covers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Compute = Callable[..., Any]
Execute = Callable[..., list[Array]]


def same_begin(extents: Any, kernel: Any, strides: Any, *, lower: bool = False) -> list[int]:
    """How much SamePadding of NeuralNetwork.proto puts before each dimension."""
    found = []
    for extent, k, stride in zip(extents, kernel, strides, strict=True):
        total = max(0, (math.ceil(extent / stride) - 1) * stride + k - extent)
        found.append(math.ceil(total / 2) if lower else math.floor(total / 2))
    return found


def count(extent: int, kernel: int, stride: int, before: int, after: int, *, ceil_mode: bool = False) -> int:
    """Of windows, by the documentation's two formulas."""
    if not ceil_mode:
        return math.floor((extent + before + after - kernel) / stride) + 1
    found = math.ceil((extent + before + after - kernel) / stride) + 1
    if (found - 1) * stride >= extent + before and before + after > 0:
        found -= 1
    return found


def pooled(name: str, x: Array, kernel: Any, strides: Any, begin: Any, places: Any, *, exclude: bool = False) -> Array:
    """Window by window, over the elements inside the input."""
    x = x.astype(np.float64)
    y = np.zeros((*x.shape[:2], *places))
    for n, c in itertools.product(*map(range, x.shape[:2])):
        for place in itertools.product(*map(range, places)):
            corner = [p * s - b for p, s, b in zip(place, strides, begin, strict=True)]
            cover = [
                range(max(a, 0), min(a + k, e)) for a, k, e in zip(corner, kernel, x.shape[2:], strict=True)
            ]  # fmt: skip
            elements = [float(x[(n, c, *at)]) for at in itertools.product(*cover)]
            if name == "max_pool":
                y[(n, c, *place)] = max(elements)
            elif name == "l2_pool":
                y[(n, c, *place)] = math.sqrt(math.fsum(e * e for e in elements))
            else:
                y[(n, c, *place)] = math.fsum(elements) / (len(elements) if exclude else math.prod(kernel))
    return y


def assert_half(found: Array, wanted: Array) -> None:
    """Within one place of half precision."""
    assert found.shape == wanted.shape
    np.testing.assert_array_max_ulp(found.astype(np.float16), wanted.astype(np.float16), maxulp=1)


KINDS = [("max_pool", {}), ("l2_pool", {}), ("avg_pool", {}), ("avg_pool", {"exclude_padding_from_average": True})]
SIZES = [
    ((1, 1, 1), (1, 1, 1)),
    ((2, 3, 2), (1, 1, 1)),
    ((3, 2, 2), (2, 2, 1)),
    ((4, 3, 3), (3, 1, 2)),
    ((2, 2, 2), (3, 4, 3)),
]


@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom", "custom asymmetric"])
@pytest.mark.parametrize(("kernel", "strides"), SIZES)
@pytest.mark.parametrize("extents", [(9,), (7, 6), (5, 4, 6)])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_pooling(
    compute: Compute,
    random: np.random.Generator,
    name: str,
    options: dict[str, Any],
    extents: Any,
    kernel: Any,
    strides: Any,
    pad_type: str,
) -> None:
    n = len(extents)
    kernel, strides = kernel[:n], strides[:n]
    x = random.normal(size=(2, 2, *extents)).astype(np.float32) - 1  # mostly negative: a padding of 0 would be seen
    kind = pad_type.split()[0]
    given = {"x": x, "kernel_sizes": kernel, "strides": strides, "pad_type": kind, **options}
    if kind.startswith("same"):
        begin = same_begin(extents, kernel, strides, lower=kind == "same_lower")
        places = [math.ceil(e / s) for e, s in zip(extents, strides, strict=True)]
    else:
        less = tuple((k - 1) // 2 for k in kernel)
        pads = {
            "valid": ((0, 0),) * n, "custom": tuple(zip(less, less, strict=True)),
            "custom asymmetric": tuple((a, k - 1) for a, k in zip(less, kernel, strict=True)),
        }[pad_type]  # fmt: skip
        begin = [before for before, _ in pads]
        places = [count(e, k, s, *p) for e, k, s, p in zip(extents, kernel, strides, pads, strict=True)]
        given |= {"pad": sum(pads, ())} if kind == "custom" else {}
    if name == "l2_pool" and n == 3:
        with pytest.raises(ValueError, match="one or two"):
            compute(name, **given)
        return
    found = compute(name, **given)
    wanted = pooled(name, x, kernel, strides, begin, places, exclude=bool(options))
    assert found.shape == wanted.shape
    if name == "max_pool":
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extents", [(7,), (8,), (9,), (7, 6), (8, 5)])
@pytest.mark.parametrize(
    ("kernel", "strides", "pad"),
    [((2, 2), (2, 2), 0), ((3, 2), (2, 2), 1), ((3, 3), (3, 2), 1), ((2, 3), (2, 3), 1), ((4, 3), (3, 3), 2)],
)
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_ceil_mode(
    compute: Compute,
    random: np.random.Generator,
    name: str,
    options: dict[str, Any],
    kernel: Any,
    strides: Any,
    pad: int,
    extents: Any,
) -> None:
    """The last window may reach beyond the padding; an average counts that too unless padding is excluded."""
    n = len(extents)
    kernel, strides = kernel[:n], strides[:n]
    x = random.normal(size=(1, 2, *extents)).astype(np.float32) - 1
    places = [count(e, k, s, pad, pad, ceil_mode=True) for e, k, s in zip(extents, kernel, strides, strict=True)]
    given = {"x": x, "kernel_sizes": kernel, "strides": strides, "ceil_mode": True, **options}
    found = compute(name, **given, pad_type="custom", pad=(pad,) * (2 * n))
    wanted = pooled(name, x, kernel, strides, [pad] * n, places, exclude=bool(options))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if not pad:
        np.testing.assert_array_equal(compute(name, **given, pad_type="valid"), found)


def test_pooling_by_hand(compute: Compute) -> None:
    x = np.array([[[3.0, 4, 12, 0, 5]]])
    given = {"x": x, "kernel_sizes": (2,), "strides": (2,)}
    assert compute("avg_pool", **given, pad_type="valid").tolist() == [[[3.5, 6]]]
    assert compute("avg_pool", **given, pad_type="valid", ceil_mode=True).tolist() == [[[3.5, 6, 2.5]]]
    assert compute("avg_pool", **given, pad_type="same").tolist() == [[[3.5, 6, 2.5]]]
    assert compute("avg_pool", **given, pad_type="same_lower").tolist() == [[[1.5, 8, 2.5]]]
    excluded = compute("avg_pool", **given, pad_type="same", exclude_padding_from_average=True)
    assert excluded.tolist() == [[[3.5, 6, 5]]]
    assert compute("l2_pool", **given, pad_type="same").tolist() == [[[5, 12, 5]]]
    assert compute("max_pool", x=-x, kernel_sizes=(2,), pad_type="same_lower").tolist() == [[[-3, -3, -4, 0, 0]]]


def test_infinities(compute: Compute) -> None:
    x = np.array([[[-np.inf, -np.inf, 1, np.inf]]])
    assert compute("max_pool", x=x, kernel_sizes=(2,), pad_type="valid").tolist() == [[[-np.inf, 1, np.inf]]]
    assert compute("l2_pool", x=x, kernel_sizes=(2,), pad_type="valid").tolist() == [[[np.inf] * 3]]


@pytest.mark.parametrize(
    ("shape", "given", "error"),
    [
        ((1, 1, 5), {"kernel_sizes": (2,), "pad_type": "full"}, "pad_type 'full'"),
        ((1, 1, 5), {"kernel_sizes": (2,), "pad_type": "valid", "pad": (1, 1)}, "does not take"),
        ((1, 1, 5), {"kernel_sizes": (2, 2), "pad_type": "valid"}, "for 1 dimensions"),
        ((1, 1, 5, 5), {"kernel_sizes": (2, 2), "pad_type": "valid", "strides": (2,)}, "for 2 dimensions"),
        ((1, 1, 5, 5), {"kernel_sizes": (2, 2), "pad_type": "custom", "pad": (1, 1)}, "two numbers"),
        ((1, 1, 5), {"kernel_sizes": (6,), "pad_type": "valid"}, "does not fit"),
        ((1, 1, 5), {"kernel_sizes": (2,), "pad_type": "same", "ceil_mode": True}, "ceil_mode"),
        ((1, 1, 5), {"kernel_sizes": (2,), "pad_type": "same_lower", "ceil_mode": True}, "ceil_mode"),
        ((1, 1, 5), {"kernel_sizes": (2,), "pad_type": "custom", "pad": (0, 1), "ceil_mode": True}, "ceil_mode"),
        ((1, 1, 5, 5, 5), {"kernel_sizes": (2, 2, 2), "pad_type": "valid", "ceil_mode": True}, "ceil_mode"),
        ((5, 5), {"kernel_sizes": (), "pad_type": "valid"}, "rank 3, 4 or 5"),
    ],
)
@pytest.mark.parametrize("name", ["avg_pool", "max_pool", "l2_pool"])
def test_wrong_pooling(compute: Compute, name: str, shape: Any, given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match="one or two" if name == "l2_pool" and len(shape) == 5 else error):
        compute(name, x=np.zeros(shape), **given)


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_sizes": (1,), "strides": (2,), "pad_type": "valid", "ceil_mode": True},
        {"kernel_sizes": (2,), "pad_type": "custom", "pad": (2, 0)},
        {"kernel_sizes": (2,), "pad_type": "custom", "pad": (0, 2)},
    ],
)
@pytest.mark.parametrize("name", ["avg_pool", "max_pool", "l2_pool"])
def test_windows_of_padding_alone_are_refused(compute: Compute, name: str, given: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="padding alone"):
        compute(name, x=np.zeros((1, 1, 4)), **given)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_pooling(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x, line = random.normal(size=(1, 2, 7, 6)).astype(dtype) - 1, random.normal(size=(2, 1, 9)).astype(dtype)
    solid = random.normal(size=(1, 1, 4, 5, 3)).astype(dtype)
    window = {"kernel_sizes": [3, 2], "strides": [2, 3]}
    found = execute(
        lambda mb, x, line, solid: (
            mb.avg_pool(x=x, **window, pad_type="same"),
            mb.avg_pool(x=x, **window, pad_type="same_lower", exclude_padding_from_average=True),
            mb.avg_pool(x=line, kernel_sizes=[2], strides=[2], pad_type="valid", ceil_mode=True),
            mb.avg_pool(x=solid, kernel_sizes=[2, 3, 1], pad_type="custom", pad=[1, 0, 0, 2, 0, 0]),
            mb.l2_pool(x=x, **window, pad_type="custom", pad=[0, 0, 1, 1], ceil_mode=True),
            mb.l2_pool(x=line, kernel_sizes=[4], pad_type="same"),
            mb.max_pool(x=x, **window, pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True),
            mb.max_pool(x=solid, kernel_sizes=[2, 2, 2], strides=[2, 2, 2], pad_type="same"),
        ),
        x=x,
        line=line,
        solid=solid,
    )
    size, step = (3, 2), (2, 3)
    wanted = (
        pooled("avg_pool", x, size, step, same_begin((7, 6), size, step), (4, 2)),
        pooled("avg_pool", x, size, step, same_begin((7, 6), size, step, lower=True), (4, 2), exclude=True),
        pooled("avg_pool", line, (2,), (2,), (0,), (5,)),
        pooled("avg_pool", solid, (2, 3, 1), (1, 1, 1), (1, 0, 0), (4, 5, 3)),
        pooled("l2_pool", x, size, step, (0, 1), (3, 3)),
        pooled("l2_pool", line, (4,), (1,), (1,), (9,)),
        pooled("max_pool", x, size, step, (1, 1), (4, 3)),
        pooled("max_pool", solid, (2, 2, 2), (2, 2, 2), (0, 0, 0), (2, 3, 2)),
    )
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if i >= 6:
            np.testing.assert_array_equal(one, other)
        elif dtype == np.float16:
            assert_half(one, other)
        else:
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
