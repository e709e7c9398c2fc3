"""Convolutions against plain loops in float64, products of matrices against NumPy's in float64."""

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
Pads = tuple[tuple[int, int], ...]


def same_pads(extents: Any, kernel: Any, strides: Any, dilations: Any, *, lower: bool = False) -> Pads:
    """SamePadding of NeuralNetwork.proto."""
    found = []
    for extent, k, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        places = math.ceil(extent / stride)
        total = max(0, (places - 1) * stride + (k - 1) * dilation + 1 - extent)
        half = math.floor(total / 2)
        found.append((total - half, half) if lower else (half, total - half))
    return tuple(found)


def convolved(
    x: Array, weight: Array, strides: Any, dilations: Any, pads: Pads, groups: int = 1, bias: Array | None = None
) -> Array:
    """Place by place."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)]
    places = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    channels, results = weight.shape[1], len(weight) // groups
    y = np.zeros((len(x), len(weight), *places))
    for place in itertools.product(*map(range, places)):
        at = tuple(slice(p * s, p * s + r + 1, d) for p, s, r, d in zip(place, strides, reach, dilations, strict=True))
        for o in range(len(weight)):
            first = o // results * channels
            window = x[(slice(None), slice(first, first + channels), *at)]
            y[(slice(None), o, *place)] = [(part * weight[o]).sum() for part in window]
            y[(slice(None), o, *place)] += 0 if bias is None else float(bias[o])
    return y


def scattered(
    x: Array, weight: Array, strides: Any, dilations: Any, begin: Any, places: Any, groups: int = 1,
    bias: Array | None = None,
) -> Array:  # fmt: skip
    """Product by product: each goes to the place p * stride + k * dilation - begin, if there is one."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    channels, results = x.shape[1] // groups, weight.shape[1]
    y = np.zeros((len(x), results * groups, *places))
    if bias is not None:
        y += bias.astype(np.float64).reshape(-1, *[1] * len(places))
    for p in itertools.product(*map(range, x.shape[2:])):
        for k in itertools.product(*map(range, weight.shape[2:])):
            at = [a * s + b * d - c for a, s, b, d, c in zip(p, strides, k, dilations, begin, strict=True)]
            if all(0 <= a < n for a, n in zip(at, places, strict=True)):
                for c, o in itertools.product(range(len(weight)), range(results)):
                    result = c // channels * results + o
                    y[(slice(None), result, *at)] += x[(slice(None), c, *p)] * weight[(c, o, *k)]
    return y


def assert_half(found: Array, wanted: Array) -> None:
    """Within one place of half precision."""
    assert found.shape == wanted.shape
    np.testing.assert_array_max_ulp(found.astype(np.float16), wanted.astype(np.float16), maxulp=1)


def settings() -> list[Any]:
    """Extents, kernel, strides, dilations."""
    found = []
    for extents in ((9,), (7, 6), (5, 4, 6)):
        n = len(extents)
        for kernel, strides, dilations in (
            ((1, 1, 1), (1, 1, 1), (1, 1, 1)), ((3, 2, 1), (1, 1, 1), (1, 1, 1)), ((2, 3, 2), (2, 1, 3), (1, 1, 1)),
            ((3, 3, 2), (1, 2, 2), (2, 1, 3)), ((4, 2, 3), (3, 2, 1), (1, 2, 1)), ((1, 2, 2), (3, 3, 3), (1, 1, 2)),
        ):  # fmt: skip
            name = f"{n}d-{kernel}-{strides}"
            found.append(pytest.param(extents, kernel[:n], strides[:n], dilations[:n], id=name))
    return found


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom", "custom asymmetric"])
@pytest.mark.parametrize(("extents", "kernel", "strides", "dilations"), settings())
def test_conv(
    compute: Compute,
    random: np.random.Generator,
    extents: Any,
    kernel: Any,
    strides: Any,
    dilations: Any,
    pad_type: str,
    groups: int,
) -> None:
    x = random.normal(size=(2, 4, *extents)).astype(np.float32)
    weight = random.normal(size=(6, 4 // groups, *kernel)).astype(np.float32)
    bias = random.normal(size=6).astype(np.float32) if groups == 1 else None
    n = len(extents)
    pads = {
        "valid": ((0, 0),) * n,
        "same": same_pads(extents, kernel, strides, dilations),
        "same_lower": same_pads(extents, kernel, strides, dilations, lower=True),
        "custom": ((2, 2), (1, 1), (0, 0))[:n],
        "custom asymmetric": ((0, 3), (2, 1), (1, 0))[:n],
    }[pad_type]
    kind = pad_type.split()[0]
    found = compute(
        "conv", x=x, weight=weight, bias=bias, strides=strides, pad_type=kind, dilations=dilations, groups=groups,
        pad=sum(pads, ()) if kind == "custom" else None,
    )  # fmt: skip
    wanted = convolved(x, weight, strides, dilations, pads, groups, bias)
    if kind.startswith("same"):
        assert found.shape[2:] == tuple(math.ceil(e / s) for e, s in zip(extents, strides, strict=True))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_conv_by_hand(compute: Compute) -> None:
    """`same` pads at the end, `same_lower` at the beginning."""
    x, weight = np.array([[[1.0, 2, 3]]]), np.array([[[10.0, 1]]])
    assert compute("conv", x=x, weight=weight).tolist() == [[[12, 23]]]
    assert compute("conv", x=x, weight=weight, pad_type="same").tolist() == [[[12, 23, 30]]]
    assert compute("conv", x=x, weight=weight, pad_type="same_lower").tolist() == [[[1, 12, 23]]]
    assert compute("conv", x=x, weight=weight, pad_type="custom", pad=(2, 0)).tolist() == [[[0, 1, 12, 23]]]


@pytest.mark.parametrize("extents", [(7,), (5, 6), (3, 4, 5)])
def test_depthwise_conv(compute: Compute, random: np.random.Generator, extents: Any) -> None:
    """Each channel has two kernels of its own."""
    x = random.normal(size=(1, 3, *extents)).astype(np.float32)
    weight = random.normal(size=(6, 1, *(2,) * len(extents))).astype(np.float32)
    found = compute("conv", x=x, weight=weight, groups=3)
    ones = (1,) * len(extents)
    for channel in range(3):
        part = slice(2 * channel, 2 * channel + 2)
        wanted = convolved(x[:, channel : channel + 1], weight[part], ones, ones, ((0, 0),) * len(extents))
        np.testing.assert_allclose(found[:, part], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"pad_type": "full"}, "pad_type 'full'"),
        ({"pad_type": "valid", "pad": (1, 1, 1, 1)}, "does not take"),
        ({"pad_type": "same", "pad": (0, 0, 0, 1)}, "does not take"),
        ({"pad_type": "custom", "pad": (1, 1)}, "two numbers"),
        ({"pad_type": "custom", "pad": (1, 1, 1, 1, 1, 1)}, "two numbers"),
        ({"pad_type": "custom", "pad": (1, 0, 0, -1)}, "from 0 up"),
        ({"strides": (2,)}, "for 2 dimensions"),
        ({"dilations": (1, 1, 1)}, "for 2 dimensions"),
    ],
)
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_wrong_convolutions(compute: Compute, name: str, given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        compute(name, x=np.zeros((1, 1, 4, 4)), weight=np.zeros((1, 1, 2, 2)), **given)


@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_convolutions_of_other_ranks(compute: Compute, name: str) -> None:
    for shape in ((2, 3), (1, 2, 3, 3, 3, 3)):
        with pytest.raises(ValueError, match="rank 3, 4 or 5"):
            compute(name, x=np.zeros(shape), weight=np.zeros(shape))


def test_no_padding_is_said_in_two_ways(compute: Compute) -> None:
    """A file holds zeros where its author gave nothing."""
    x, weight = np.arange(4.0)[None, None], np.ones((1, 1, 2))
    for kind in ("valid", "same", "custom"):
        with_zeros = compute("conv", x=x, weight=weight, pad_type=kind, pad=(0, 0))
        np.testing.assert_array_equal(with_zeros, compute("conv", x=x, weight=weight, pad_type=kind))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pad_type", ["valid", "same", "custom", "custom asymmetric"])
@pytest.mark.parametrize(("extents", "kernel", "strides", "dilations"), settings())
def test_conv_transpose(
    compute: Compute,
    random: np.random.Generator,
    extents: Any,
    kernel: Any,
    strides: Any,
    dilations: Any,
    pad_type: str,
    groups: int,
) -> None:
    x = random.normal(size=(2, 4, *extents)).astype(np.float32)
    weight = random.normal(size=(4, 6 // groups, *kernel)).astype(np.float32)
    bias = random.normal(size=6).astype(np.float32) if groups == 2 else None
    n = len(extents)
    pads = {"custom": ((1, 1), (2, 2), (0, 0)), "custom asymmetric": ((0, 2), (1, 0), (2, 1))}.get(pad_type)
    whole = [(e - 1) * s + (k - 1) * d + 1 for e, k, s, d in zip(extents, kernel, strides, dilations, strict=True)]
    if pads:
        begin = [before for before, _ in pads[:n]]
        places = [w - before - after for w, (before, after) in zip(whole, pads[:n], strict=True)]
    elif pad_type == "same":
        places = [e * s for e, s in zip(extents, strides, strict=True)]
        begin = [before for before, _ in same_pads(places, kernel, strides, dilations)]
    else:
        begin, places = [0] * n, whole
    given = {
        "weight": weight, "bias": bias, "strides": strides, "pad_type": pad_type.split()[0], "dilations": dilations,
        "groups": groups, "pad": sum(pads[:n], ()) if pads else None,
    }  # fmt: skip
    found = compute("conv_transpose", x=x, **given)
    wanted = scattered(x, weight, strides, dilations, begin, places, groups, bias)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    again = compute("conv_transpose", x=x, **given, output_shape=wanted.shape)
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("extents", [(11,), (12,), (13,), (7, 10), (8, 9), (7, 6, 7)])
@pytest.mark.parametrize("pad_type", ["valid", "same", "custom"])
def test_conv_transpose_is_the_transpose_of_conv(
    compute: Compute, random: np.random.Generator, extents: Any, pad_type: str
) -> None:
    """For every shape that `conv` turns into x's, given as output_shape: <conv(u), x> = <u, conv_transpose(x)>."""
    n = len(extents)
    given = {
        "weight": random.normal(size=(4, 2, *(3, 2, 2)[:n])).astype(np.float32), "groups": 2, "pad_type": pad_type,
        "strides": (3, 2, 2)[:n], "dilations": (1, 3, 1)[:n], "pad": (0, 2, 1, 1, 1, 0)[: 2 * n],
    }  # fmt: skip
    if pad_type != "custom":
        del given["pad"]
    u = random.normal(size=(2, 4, *extents)).astype(np.float32)
    forward = compute("conv", x=u, **given)
    x = random.normal(size=forward.shape).astype(np.float32)
    back = compute("conv_transpose", x=x, **given, output_shape=u.shape)
    assert back.shape == u.shape
    here, there = np.vdot(forward.astype(np.float64), x), np.vdot(u, back.astype(np.float64))
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_places_without_products_are_the_bias(compute: Compute) -> None:
    given = {"x": np.array([[[1.0, 2]]]), "weight": np.array([[[3.0]]]), "bias": np.array([7.0]), "strides": (3,)}
    assert compute("conv_transpose", **given).tolist() == [[[10, 7, 7, 13]]]
    assert compute("conv_transpose", **given, pad_type="same").tolist() == [[[10, 7, 7, 13, 7, 7]]]
    assert compute("conv_transpose", **given, output_shape=(1, 1, 5)).tolist() == [[[10, 7, 7, 13, 7]]]


def test_shapes_of_no_convolution_are_refused(compute: Compute) -> None:
    given = {"x": np.zeros((1, 2, 4)), "weight": np.zeros((2, 3, 3)), "strides": (2,)}
    for places in (9, 10):
        assert compute("conv_transpose", **given, output_shape=(1, 3, places)).shape == (1, 3, places)
    for places in (8, 11):
        with pytest.raises(NotImplementedError, match=f"asks for {places}"):
            compute("conv_transpose", **given, output_shape=(1, 3, places))
    for places in (6, 9):
        with pytest.raises(NotImplementedError, match=f"asks for {places}"):
            compute("conv_transpose", **given, output_shape=(1, 3, places), pad_type="same")
    for shape in ((1, 2, 9), (2, 3, 9), (9,), (1, 3, 9, 1)):
        with pytest.raises(ValueError, match="begin with"):
            compute("conv_transpose", **given, output_shape=shape)
    with pytest.raises(ValueError, match="pad_type 'same_lower'"):
        compute("conv_transpose", **given, pad_type="same_lower")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_convolutions(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x = random.normal(size=(1, 4, 7, 8)).astype(dtype)
    dynamic = random.normal(size=(2, 4, 2, 3)).astype(dtype)
    depthwise = random.normal(size=(4, 1, 3, 3)).astype(dtype)
    grouped = random.normal(size=(6, 2, 3, 2)).astype(dtype)
    bias = random.normal(size=6).astype(dtype)
    found = execute(
        lambda mb, x, w: (
            mb.conv(x=x, weight=depthwise, groups=4, pad_type="same", strides=[2, 2]),
            mb.conv(x=x, weight=grouped, bias=bias, groups=2, pad_type="custom", pad=[1, 0, 2, 1], dilations=[2, 1]),
            mb.conv(x=x, weight=w),
            mb.conv(x=x, weight=w, pad_type="same_lower"),
        ),
        x=x,
        w=dynamic,
    )
    wanted = (
        convolved(x, depthwise, (2, 2), (1, 1), same_pads((7, 8), (3, 3), (2, 2), (1, 1)), 4),
        convolved(x, grouped, (1, 1), (2, 1), ((1, 0), (2, 1)), 2, bias),
        convolved(x, dynamic, (1, 1), (1, 1), ((0, 0), (0, 0))),
        convolved(x, dynamic, (1, 1), (1, 1), same_pads((7, 8), (2, 3), (1, 1), (1, 1), lower=True)),
    )
    for one, other in zip(found, wanted, strict=True):
        if dtype == np.float16:
            assert_half(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_saved_transposed_convolutions(execute: Execute, random: np.random.Generator) -> None:
    x, y = random.normal(size=(1, 4, 3, 4)).astype(np.float32), random.normal(size=(2, 2, 5)).astype(np.float16)
    weight = random.normal(size=(4, 3, 3, 2)).astype(np.float32)
    line = random.normal(size=(2, 3, 4)).astype(np.float16)
    bias = random.normal(size=6).astype(np.float32)
    found = execute(
        lambda mb, x, y: (
            mb.conv_transpose(x=x, weight=weight, bias=bias, groups=2, strides=[2, 3], pad_type="same"),
            mb.conv_transpose(x=x, weight=weight, pad_type="custom", pad=[1, 0, 0, 1], dilations=[1, 2]),
            mb.conv_transpose(x=x, weight=weight, strides=[2, 1], output_shape=[1, 3, 8, 5]),
            mb.conv_transpose(x=y, weight=line, strides=[2], pad_type="custom", pad=[1, 1], output_shape=[2, 3, 11]),
        ),
        x=x,
        y=y,
    )
    begin = [before for before, _ in same_pads((6, 12), (3, 2), (2, 3), (1, 1))]
    wanted = (
        scattered(x, weight, (2, 3), (1, 1), begin, (6, 12), 2, bias),
        scattered(x, weight, (1, 1), (1, 2), (1, 0), (4, 5)),
        scattered(x, weight, (2, 1), (1, 1), (0, 0), (8, 5)),
        scattered(y, line, (2,), (1,), (1,), (11,)),
    )
    for one, other in zip(found[:3], wanted[:3], strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert_half(found[3], wanted[3])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("biased", [False, True])
def test_linear(compute: Compute, random: np.random.Generator, shape: Any, biased: bool) -> None:
    x, weight = random.normal(size=shape).astype(np.float32), random.normal(size=(4, 5)).astype(np.float32)
    bias = random.normal(size=4).astype(np.float32) if biased else None
    wanted = np.einsum("...i,oi->...o", x.astype(np.float64), weight) + (0 if bias is None else bias)
    found = compute("linear", x=x, weight=weight, bias=bias)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_linear_of_integers(compute: Compute, random: np.random.Generator) -> None:
    x, weight = random.integers(-9, 9, (2, 3, 5), dtype=np.int32), random.integers(-9, 9, (4, 5), dtype=np.int32)
    bias = random.integers(-9, 9, 4, dtype=np.int32)
    wanted = np.einsum("...i,oi->...o", x, weight) + bias
    found = compute("linear", x=x, weight=weight, bias=bias)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)
    mixed = compute("linear", x=x.astype(np.float32), weight=weight, bias=bias)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed, wanted)
    with pytest.raises(NotImplementedError, match="not documented"):
        compute("linear", x=x, weight=weight.astype(np.float32))
    with pytest.raises(NotImplementedError, match="not documented"):
        compute("linear", x=x, weight=weight, bias=bias.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((3, 4), (4, 2)), ((10, 3, 4), (4,)), ((4,), (10, 4, 3)),
        ((10, 4, 3), (5, 10, 3, 2)), ((2, 1, 4, 3), (5, 3, 2)), ((1, 3), (3, 1)), ((2, 0, 3), (3, 4)),
        ((2, 1, 3, 1, 4), (1, 2, 1, 4, 2)),
    ],
)  # fmt: skip
def test_matmul(compute: Compute, random: np.random.Generator, left: Any, right: Any, dtype: Any) -> None:
    """NumPy's own rules, with every transposition; a vector is never transposed."""
    x, y = (random.normal(scale=5, size=shape).astype(dtype) for shape in (left, right))
    wanted = np.matmul(x.astype(np.float64), y.astype(np.float64))
    for across, down in itertools.product((False, True), repeat=2):
        a = x.swapaxes(-1, -2) if across and x.ndim > 1 else x
        b = y.swapaxes(-1, -2) if down and y.ndim > 1 else y
        found = compute("matmul", x=a, y=b, transpose_x=across, transpose_y=down)
        assert found.dtype == dtype
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_matmul_of_a_float_and_an_integer(compute: Compute) -> None:
    x, y = np.array([[0.5, 1.25]]), np.array([[2], [4]], np.int32)
    for found in (compute("matmul", x=x, y=y), compute("matmul", x=y, y=x, transpose_x=True, transpose_y=True)):
        assert found.dtype == np.float32
        assert found.tolist() == [[6.0]]


@pytest.mark.parametrize("equation", ["nchw,nwhu->nchu", "abcd,adce->abce", "hxyz,hzyn->hxyn"])
@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3, 4, 5), (2, 5, 4, 6)), ((1, 3, 4, 5), (2, 5, 1, 6)), ((2, 3, 1, 5), (1, 5, 4, 1)), ((2, 1, 1, 1),) * 2],
)
def test_einsum_of_rank_4(compute: Compute, random: np.random.Generator, equation: str, left: Any, right: Any) -> None:
    x, y = (random.normal(size=shape).astype(np.float32) for shape in (left, right))
    found = compute("einsum", values=(x, y), equation=equation)
    batch, high = max(left[0], right[0]), max(left[2], right[2])
    wanted = np.zeros((batch, left[1], high, right[3]))
    for n, c, h, u in np.ndindex(*wanted.shape):
        one, other = x[n % len(x), c, h % left[2]], y[n % len(y), :, h % right[2], u]
        wanted[n, c, h, u] = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("equation", ["chw,whr->chr", "abc,cbd->abd"])
@pytest.mark.parametrize(("left", "right"), [((3, 4, 5), (5, 4, 6)), ((3, 1, 5), (5, 4, 2)), ((1, 4, 2), (2, 1, 3))])
def test_einsum_of_rank_3(compute: Compute, random: np.random.Generator, equation: str, left: Any, right: Any) -> None:
    x, y = (random.normal(size=shape).astype(np.float32) for shape in (left, right))
    found = compute("einsum", values=(x, y), equation=equation)
    wanted = (x.astype(np.float64)[:, :, :, None] * y.transpose(1, 0, 2)[None]).sum(2)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("equation", ["nchw,nwhu->nchv", "nchw,ncwu->nchu", "ij,jk->ik", "chw,whr", "chw,whr->chr", ""])
def test_other_equations_are_refused(compute: Compute, equation: str) -> None:
    x = np.ones((2, 2, 2, 2))
    with pytest.raises(ValueError, match="nchw,nwhu->nchu"):
        compute("einsum", values=(x, x), equation=equation)
    with pytest.raises(ValueError, match="nchw,nwhu->nchu"):
        compute("einsum", values=(x, x, x), equation="nchw,nwhu->nchu")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_products(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x, y = random.normal(size=(2, 3, 4, 5)).astype(dtype), random.normal(size=(2, 5, 1, 6)).astype(dtype)
    weight, bias = random.normal(size=(3, 5)).astype(dtype), random.normal(size=3).astype(dtype)
    right = random.normal(size=(3, 7, 5)).astype(dtype)
    found = execute(
        lambda mb, x, y: (
            mb.linear(x=x, weight=weight, bias=bias),
            mb.linear(x=x, weight=weight),
            mb.matmul(x=x, y=right, transpose_y=True),
            mb.matmul(x=x, y=mb.const(val=np.ones((5, 2), np.int32))),
            mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        ),
        x=x,
        y=y,
    )
    a, b = x.astype(np.float64), y.astype(np.float64)
    products = np.einsum("ncij,kj->ncik", a, weight.astype(np.float64))
    wanted = (
        products + bias.astype(np.float64),
        products,
        np.einsum("ncij,ckj->ncik", a, right.astype(np.float64)),
        np.repeat(a.sum(-1, keepdims=True), 2, axis=-1),
        np.einsum("nchw,nwu->nchu", a, b[:, :, 0]),
    )
    for one, other in zip(found, wanted, strict=True):
        if dtype == np.float16:
            assert_half(one, other)
        else:
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_saved_products_of_integers(execute: Execute, random: np.random.Generator) -> None:
    """Also a vector on the left; coremltools builds none on the right, nor any beside more than two dimensions."""
    x, weight = random.integers(-9, 9, (5,), dtype=np.int32), random.integers(-9, 9, (4, 5), dtype=np.int32)
    right = random.integers(-9, 9, (5, 3), dtype=np.int32)
    found = execute(lambda mb, x: (mb.linear(x=x, weight=weight), mb.matmul(x=x, y=right)), x=x, target="iOS15")
    np.testing.assert_array_equal(found[0], [int(np.dot(x, row)) for row in weight])
    np.testing.assert_array_equal(found[1], [int(np.dot(x, column)) for column in right.T])
    assert found[0].dtype == found[1].dtype == np.int32
