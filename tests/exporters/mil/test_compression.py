"""Compressed weights, element by element in Python, and networks that coremltools compressed and decompressed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facex.exporters._mil import executor, program
from facex.exporters._quiet import quiet

Array = NDArray[Any]
Compute = Callable[..., Any]
Execute = Callable[..., list[Array]]
Saved = Callable[[Any], tuple[Any, Path]]

INTEGERS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}


def some(random: np.random.Generator, kind: str, shape: Any) -> Array:
    """Integers of the type's whole range."""
    low, high = INTEGERS[kind]
    return random.integers(low, high + 1, shape).astype(kind if kind.endswith("8") else "int8")


def share_of(values: Array | None, place: tuple[int, ...], axis: int | None) -> float:
    """The one of a scalar or a vector that is for a place; 0 if there is none."""
    if values is None:
        return 0.0
    return float(values) if np.ndim(values) == 0 else float(values[place[axis or 0]])


def parameters(random: np.random.Generator, kind: str, count: int | None) -> tuple[Array, Array]:
    """Scale and zero point: scalars, or vectors of a count."""
    scale = random.uniform(0.01, 0.5, () if count is None else count).astype(np.float32)
    return np.asarray(scale), np.asarray(some(random, kind, () if count is None else count))


# ---- one scale, or one along an axis ----


def dequantized(data: Array, scale: Array, zero: Array | None, axis: int | None) -> Array:
    y = np.zeros(data.shape)
    for place in np.ndindex(*data.shape):
        y[place] = share_of(scale, place, axis) * (float(data[place]) - share_of(zero, place, axis))
    return y


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2, -3])
def test_dequantize(compute: Compute, random: np.random.Generator, kind: str, axis: int | None) -> None:
    data = some(random, kind, (4, 3, 5))
    data[0, 0, :2] = INTEGERS[kind]
    scale, zero = parameters(random, kind, None if axis is None else data.shape[axis])
    for point in (zero, None):
        found = compute("dequantize", input=data, scale=scale, zero_point=point, axis=axis)
        np.testing.assert_allclose(found, dequantized(data, scale, point, axis), rtol=1e-6)
        assert found.dtype == np.float32
    found = compute("constexpr_affine_dequantize", quantized_data=data, scale=scale, zero_point=zero,
                    axis=1 if axis is None else axis)  # fmt: skip
    np.testing.assert_allclose(found, dequantized(data, scale, zero, axis), rtol=1e-6)


def test_affine_dequantize_mixes_scalars_and_vectors(compute: Compute, random: np.random.Generator) -> None:
    data = some(random, "uint8", (2, 3))
    scale, zero = np.array([0.5, 0.25, 2], np.float32), np.float32(-1.5)
    found = compute("constexpr_affine_dequantize", quantized_data=data, scale=scale, zero_point=zero, axis=1)
    np.testing.assert_array_equal(found, (data + 1.5) * np.array([[0.5, 0.25, 2]]))
    found = compute("constexpr_affine_dequantize", quantized_data=data, scale=np.float32(2),
                    zero_point=np.array([7, 100], np.uint8), axis=-2)  # fmt: skip
    np.testing.assert_array_equal(found, (data.astype(int) - [[7], [100]]) * 2)
    one = compute("constexpr_affine_dequantize", quantized_data=data, scale=np.array([2], np.float32),
                  zero_point=np.array([3], np.uint8), axis=0)  # fmt: skip
    np.testing.assert_array_equal(one, (data.astype(int) - 3) * 2)


def quantized(x: Array, scale: Array, zero: Array | None, axis: int | None, kind: str) -> Array:
    """In fractions, whose rounding is that of Python: to even."""
    y = np.zeros(x.shape, np.int32)
    low, high = INTEGERS[kind]
    for place in np.ndindex(*x.shape):
        level = round(Fraction(float(x[place])) / Fraction(share_of(scale, place, axis)))
        y[place] = min(max(level + int(share_of(zero, place, axis)), low), high)
    return y


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2, -3])
def test_quantize(compute: Compute, random: np.random.Generator, kind: str, axis: int | None) -> None:
    x = (random.normal(size=(4, 3, 50)) * 30).astype(np.float32)
    scale, zero = parameters(random, kind, None if axis is None else x.shape[axis])
    for point in (zero, None):
        found = compute("quantize", input=x, scale=scale, zero_point=point, axis=axis, output_dtype=kind)
        wanted = quantized(x, scale, point, axis, kind)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == np.int32
        assert {int(wanted.min()), int(wanted.max())} == set(INTEGERS[kind])


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("zero", [None, 0, 1, 100])
def test_quantize_rounds_halves_to_even_before_the_zero_point(compute: Compute, kind: str, zero: int | None) -> None:
    halves = np.arange(-600, 601, dtype=np.float32) / 2
    x, scale = np.concatenate([halves, np.array([1e30, -1e30, np.inf, -np.inf, -0.0])]) * 0.25, np.float32(0.25)
    point = None if zero is None else np.array(zero, kind)
    found = compute("quantize", input=x.astype(np.float32), scale=scale, zero_point=point, output_dtype=kind)
    np.testing.assert_array_equal(found[:-5], quantized(halves * np.float32(0.25), scale, point, None, kind))
    low, high = INTEGERS[kind]
    assert found[-5:].tolist() == [high, low, high, low, zero or 0]


def test_quantizing_refuses(compute: Compute) -> None:
    x, data, two = np.ones((2, 3), np.float32), np.ones((2, 3), np.int8), np.ones(2, np.float32)
    with pytest.raises(ValueError, match="'int4' is neither int8 nor uint8"):
        compute("quantize", input=x, scale=np.float32(1), output_dtype="int4")
    for name, options in (("quantize", {"input": x, "output_dtype": "int8"}), ("dequantize", {"input": data})):
        with pytest.raises(ValueError, match="need an axis"):
            compute(name, scale=two, **options)
        for axis in (1, -1, 2, -3):
            with pytest.raises(ValueError, match=rf"do not fit axis {axis} of \[2, 3\]"):
                compute(name, scale=two, axis=axis, **options)
        with pytest.raises(ValueError, match="do not fit axis 0"):
            compute(name, scale=np.ones((2, 3), np.float32), axis=0, **options)
        with pytest.raises(ValueError, match="do not fit axis 0"):
            compute(name, scale=two, zero_point=np.ones(3, np.int8), axis=0, **options)


def test_constexpr_cast(compute: Compute, random: np.random.Generator) -> None:
    values = random.normal(size=(2, 3)).astype(np.float16)
    found = compute("constexpr_cast", source_val=values, output_dtype="fp32")
    np.testing.assert_array_equal(found, values.astype(np.float32))
    with pytest.raises(NotImplementedError, match="'fp16'"):
        compute("constexpr_cast", source_val=values, output_dtype="fp16")


# ---- tables ----


def packed(numbers: Array, bits: int) -> Array:
    """One long number, of which the first has the lowest digits; in bytes."""
    flat = [int(n) for n in numbers.reshape(-1)]
    whole = sum(n << (bits * i) for i, n in enumerate(flat))
    return np.frombuffer(whole.to_bytes(-(-len(flat) * bits // 8), "little"), np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 3), (1, 7), (4, 3, 1, 2)])
@pytest.mark.parametrize("kind", [np.float32, np.int8, np.uint8])
def test_table_of_ios16(
    compute: Compute, random: np.random.Generator, bits: int, shape: tuple[int, ...], kind: Any
) -> None:
    lut = (random.permutation(2**bits) - (0 if kind == np.uint8 else 2 ** (bits - 1))).astype(kind)
    indices = random.integers(0, 2**bits, shape)
    found = compute("constexpr_lut_to_dense", indices=packed(indices, bits), lut=lut, shape=shape)
    assert found.shape == shape
    assert found.dtype == (np.float32 if kind == np.float32 else np.int32)
    assert found.reshape(-1).tolist() == [lut[i] for i in indices.reshape(-1)]


def test_table_of_the_documentation_of_ios16(compute: Compute) -> None:
    indices = np.array([0b01101100, 0b00000011], np.uint8)
    found = compute("constexpr_lut_to_dense", indices=indices, lut=np.array([10, 20, 30, 40], np.float32), shape=(5,))
    assert found.tolist() == [10, 40, 30, 20, 40]


def looked_up(indices: Array, lut: Array, axis: int | None) -> Array:
    width = lut.shape[-1]
    blocks = [n // k for n, k in zip(indices.shape, lut.shape[:-2], strict=True)]
    shape = [n * (width if i == (axis or 0) % indices.ndim else 1) for i, n in enumerate(indices.shape)]
    y = np.zeros(shape if width > 1 else indices.shape)
    for place in np.ndindex(*indices.shape):
        table = lut[tuple(i // b for i, b in zip(place, blocks, strict=True))]
        for k in range(width):
            there = list(place)
            if width > 1:
                there[axis or 0] = there[axis or 0] * width + k
            y[tuple(there)] = table[indices[place], k]
    return y


def tables(random: np.random.Generator, shape: tuple[int, ...]) -> Iterator[tuple[Array, Array, int | None]]:
    """Indices, a table for every way to divide them in blocks, and an axis."""
    for blocks in itertools.product(*[[k for k in (1, 2, n) if n % k == 0] for n in shape]):
        for bits, width in ((1, 1), (3, 1), (2, 3), (4, 2)):
            axes: list[int | None] = [*range(-len(shape), len(shape))]
            for axis in axes if width > 1 else [None, 0]:
                lut = random.normal(size=(*blocks, 2**bits, width)).astype(np.float32)
                yield random.integers(0, 2**bits, shape).astype(np.uint8), lut, axis


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 4)])
def test_table_of_ios18(compute: Compute, random: np.random.Generator, shape: tuple[int, ...]) -> None:
    for indices, lut, axis in tables(random, shape):
        found = compute("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=axis)
        np.testing.assert_array_equal(found, looked_up(indices, lut, axis))
    whole = compute("constexpr_lut_to_dense", indices=indices % 2, lut=np.array([3, -4], np.int8).reshape(
        *[1] * len(shape), 2, 1))  # fmt: skip
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(whole, np.where(indices % 2, -4, 3))


def test_tables_of_the_documentation_of_ios18(compute: Compute) -> None:
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    lut = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float16).reshape(2, 1, 4, 1)
    found = compute("constexpr_lut_to_dense", indices=indices, lut=lut)
    assert found.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    indices = np.array([0, 0, 1, 0, 1, 1, 0, 0], np.uint8).reshape(2, 2, 2)
    a0, a1, a2, b0, b1, b2 = 1, 2, 3, 4, 5, 6
    lut = np.array([a0, a1, a2, b0, b1, b2], np.int8).reshape(1, 1, 1, 2, 3)
    assert compute("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=1).tolist() == [
        [[a0, a0], [a1, a1], [a2, a2], [b0, a0], [b1, a1], [b2, a2]],
        [[b0, b0], [b1, b1], [b2, b2], [a0, a0], [a1, a1], [a2, a2]],
    ]
    assert compute("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=2).tolist() == [
        [[a0, a1, a2, a0, a1, a2], [b0, b1, b2, a0, a1, a2]],
        [[b0, b1, b2, b0, b1, b2], [a0, a1, a2, a0, a1, a2]],
    ]


def test_tables_refuse(compute: Compute) -> None:
    four, indices = np.ones(4, np.float32), np.zeros(2, np.uint8)
    for lut in (np.ones(8, np.float32), np.ones((2, 2), np.float32)):
        with pytest.raises(ValueError, match="not of 2, 4, 16, 64, 256 entries"):
            compute("constexpr_lut_to_dense", indices=indices, lut=lut, shape=(5,))
    for count in (4, 9):
        with pytest.raises(ValueError, match=f"2 bytes are not {count} numbers of 2 bits"):
            compute("constexpr_lut_to_dense", indices=indices, lut=four, shape=(count,))
    with pytest.raises(ValueError, match="no vector_axis"):
        compute("constexpr_lut_to_dense", indices=indices, lut=four, shape=(5,), vector_axis=0)
    for blocks in ((2, 2), (1,), (1, 1, 1)):
        with pytest.raises(ValueError, match="do not divide"):
            compute("constexpr_lut_to_dense", indices=np.zeros((2, 3), np.uint8), lut=np.ones((*blocks, 2, 1)))
    for axis in (None, 1, -2):
        with pytest.raises(ValueError, match="needs a vector_axis"):
            compute("constexpr_lut_to_dense", indices=indices, lut=np.ones((1, 2, 3)), vector_axis=axis)
    with pytest.raises(IndexError):
        compute("constexpr_lut_to_dense", indices=indices + np.uint8(2), lut=np.ones((1, 2, 1)))


# ---- sparse ----


def sparse(random: np.random.Generator, shape: tuple[int, ...], values: Array) -> tuple[Array, Array]:
    """A mask, and as many of the values."""
    mask = (random.uniform(size=shape) < 0.6).astype(np.uint8)
    mask.reshape(-1)[0] = 1
    return mask, values[: int(mask.sum())]


def spread(mask: Array, values: Array) -> Array:
    y, rest = np.zeros(mask.shape, values.dtype), list(values)
    for place in np.ndindex(*mask.shape):
        if mask[place]:
            y[place] = rest.pop(0)
    assert not rest
    return y


def gathered(mask: Array, dense: Array) -> list[Any]:
    return [dense[place] for place in np.ndindex(*mask.shape) if mask[place]]


@pytest.mark.parametrize("shape", [(5,), (8,), (3, 4), (2, 3, 1, 5)])
@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_sparse_to_dense(compute: Compute, random: np.random.Generator, shape: tuple[int, ...], kind: Any) -> None:
    values = random.permutation(np.arange(1, 61)).astype(kind)
    mask, values = sparse(random, shape, values)
    wanted = spread(mask, values)
    for found in (
        compute("constexpr_sparse_to_dense", nonzero_data=values, mask=mask),
        compute("constexpr_sparse_to_dense", nonzero_data=values, mask=packed(mask, 1), shape=shape),
    ):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == (np.float32 if kind == np.float32 else np.int32)
    empty = compute("constexpr_sparse_to_dense", nonzero_data=values[:0], mask=mask * 0)
    np.testing.assert_array_equal(empty, np.zeros(shape))


def test_sparse_to_dense_of_the_documentation(compute: Compute) -> None:
    found = compute("constexpr_sparse_to_dense", nonzero_data=np.array([7, 8], np.float32),
                    mask=np.array([0b01100], np.uint8), shape=(5,))  # fmt: skip
    assert found.tolist() == [0, 0, 7, 8, 0]


def test_sparse_refuses(compute: Compute) -> None:
    mask = np.array([[1, 0, 1]], np.uint8)
    for values in (np.ones(3, np.float32), np.ones((2, 1), np.float32), np.ones(1, np.float32)):
        with pytest.raises(ValueError, match="are not the 2 of the mask"):
            compute("constexpr_sparse_to_dense", nonzero_data=values, mask=mask)
    with pytest.raises(ValueError, match="1 bytes are not 9 numbers of 1 bits"):
        compute("constexpr_sparse_to_dense", nonzero_data=np.ones(1), mask=np.ones(1, np.uint8), shape=(3, 3))


# ---- blocks ----


def scaled(data: Array, scale: Array, offset: Array | None) -> Array:
    y = np.zeros(data.shape)
    blocks = [n // k for n, k in zip(data.shape, scale.shape, strict=True)]
    for place in np.ndindex(*data.shape):
        block = tuple(i // b for i, b in zip(place, blocks, strict=True))
        y[place] = float(scale[block]) * (float(data[place]) - (0.0 if offset is None else float(offset[block])))
    return y


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8", "float"])
@pytest.mark.parametrize("blocks", [(1, 1, 1), (4, 1, 1), (1, 3, 2), (2, 3, 3), (4, 3, 6), (2, 1, 2)])
def test_blockwise_shift_scale(
    compute: Compute, random: np.random.Generator, kind: str, blocks: tuple[int, ...]
) -> None:
    if kind == "float":
        data, offset = (random.normal(size=s).astype(np.float32) for s in ((4, 3, 6), blocks))
    else:
        data, offset = (some(random, kind, s) for s in ((4, 3, 6), blocks))
    scale = random.uniform(0.01, 0.5, blocks).astype(np.float32)
    mask, values = sparse(random, data.shape, data.reshape(-1))
    for shift in (offset, None, random.normal(size=blocks).astype(np.float32)):
        found = compute("constexpr_blockwise_shift_scale", data=data, scale=scale, offset=shift)
        np.testing.assert_allclose(found, scaled(data, scale, shift), rtol=1e-5, atol=1e-6)
        assert found.dtype == np.float32
        kept, found = compute(
            "constexpr_sparse_blockwise_shift_scale", data_mask=mask, nonzero_data=values, scale=scale, offset=shift
        )
        np.testing.assert_array_equal(kept, mask)
        wanted = gathered(mask, scaled(spread(mask, values), scale, shift))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_sparse_blocks_of_the_documentation(compute: Compute) -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    _, found = compute(
        "constexpr_sparse_blockwise_shift_scale", data_mask=mask, nonzero_data=np.array([10, 11, 3, 4, 5, 6, 7, 8, 9]),
        scale=np.array([[0.1, 0.2, 0.3, 0.4]]), offset=np.array([[1, 2, 3, 4]]),
    )  # fmt: skip
    np.testing.assert_allclose(found, [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4], rtol=1e-6)


def test_blocks_refuse(compute: Compute) -> None:
    data = np.zeros((4, 6), np.int8)
    for blocks in ((3, 1), (1, 4), (1,), (1, 1, 1)):
        with pytest.raises(ValueError, match="do not divide"):
            compute("constexpr_blockwise_shift_scale", data=data, scale=np.ones(blocks))
    with pytest.raises(ValueError, match="differ in shape"):
        compute("constexpr_blockwise_shift_scale", data=data, scale=np.ones((2, 1)), offset=np.ones((1, 2)))


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 4)])
def test_sparse_tables(compute: Compute, random: np.random.Generator, shape: tuple[int, ...]) -> None:
    for indices, lut, axis in tables(random, shape):
        mask, values = sparse(random, shape, indices.reshape(-1))
        kept, found = compute(
            "constexpr_lut_to_sparse", indices_mask=mask, indices_nonzero_data=values, lut=lut, vector_axis=axis
        )
        ones = np.repeat(mask, lut.shape[-1], axis=axis or 0)
        np.testing.assert_array_equal(kept, ones)
        np.testing.assert_array_equal(found, gathered(ones, looked_up(spread(mask, values), lut, axis)))


def test_sparse_tables_of_the_documentation(compute: Compute) -> None:
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    indices = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8)
    given = {"indices_mask": mask, "indices_nonzero_data": indices}
    kept, found = compute("constexpr_lut_to_sparse", lut=np.array([2.0, 3.0]).reshape(1, 1, 2, 1), **given)
    np.testing.assert_array_equal(kept, mask)
    assert found.tolist() == [2, 3, 3, 2, 3, 3, 2, 2, 3]
    lut = np.array([2.0, 2.0, 3.0, 3.0]).reshape(1, 1, 2, 2)
    kept, found = compute("constexpr_lut_to_sparse", lut=lut, vector_axis=0, **given)
    assert kept.tolist() == [row for row in mask.tolist() for _ in (0, 1)]
    assert found.tolist() == [2, 3, 2, 3, 3, 2, 3, 3, 2, 3, 3, 2, 2, 3, 2, 2, 3, 3]


# ---- saved ----


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_quantizing(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x = (random.normal(size=(2, 3, 7)) * 20).astype(dtype)
    cases = [
        (kind, axis, with_zero, *parameters(random, kind, None if axis is None else x.shape[axis]))
        for kind, axis, with_zero in itertools.product(("int8", "uint8"), (None, 1, -1), (False, True))
    ]
    cases = [(kind, axis, np.asarray(scale.astype(dtype)), zero if with_zero else None)
             for kind, axis, with_zero, scale, zero in cases]  # fmt: skip

    def body(mb: Any, x: Any) -> Any:
        results = []
        for kind, axis, scale, zero in cases:
            options = {"scale": scale, **({} if zero is None else {"zero_point": zero})}
            options |= {} if axis is None else {"axis": np.int32(axis)}
            whole = mb.quantize(input=x, output_dtype=kind, **options)
            results += [mb.cast(x=whole, dtype="int32"), mb.dequantize(input=whole, **options)]
        return tuple(results)

    found = execute(body, target="iOS17", x=x)
    for (kind, axis, scale, zero), whole, back in zip(cases, found[::2], found[1::2], strict=True):
        wanted = quantized(x, scale, zero, axis, kind)
        np.testing.assert_array_equal(whole, wanted)
        exact = dequantized(wanted, scale, zero, axis)
        np.testing.assert_array_equal(back, exact.astype(dtype).astype(np.float32))


def in_sum(execute: Execute, make: Callable[[Any], Any], shape: Any, dtype: Any, target: str) -> Array:
    """A constant of a program, through the saved file: the sum of nothing and it."""
    x = np.zeros(shape, dtype)
    return execute(lambda mb, x: mb.add(x=x, y=make(mb)), target=target, x=x)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_constants_of_ios16(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    shape = (2, 3, 5)
    data, scale, zero = some(random, "uint8", shape), random.uniform(0.01, 1, 3).astype(dtype), some(random, "uint8", 3)
    indices, lut = random.integers(0, 64, shape), random.normal(size=64).astype(dtype)
    mask, values = sparse(random, shape, random.normal(size=30).astype(dtype))
    half = random.normal(size=shape).astype(np.float16)
    size = np.array(shape, np.uint32)

    def body(mb: Any, x: Any) -> Any:
        given = {"quantized_data": data, "scale": scale, "zero_point": zero, "axis": np.int32(-2)}
        constants = [
            mb.constexpr_affine_dequantize(**given),
            mb.constexpr_lut_to_dense(indices=packed(indices, 6), lut=lut, shape=size),
            mb.constexpr_sparse_to_dense(nonzero_data=values, mask=packed(mask, 1), shape=size),
        ]
        if dtype == np.float32:
            constants.append(mb.constexpr_cast(source_val=half, output_dtype="fp32"))
        return tuple(mb.add(x=x, y=constant) for constant in constants)

    found = execute(body, target="iOS16", x=np.zeros(shape, dtype))
    wanted = [
        dequantized(data, scale, zero, 1), looked_up(indices, lut.reshape(1, 1, 1, 64, 1), None), spread(mask, values),
        half,
    ]  # fmt: skip
    for f, w in zip(found, wanted[: len(found)], strict=True):
        np.testing.assert_array_equal(f, w.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_constants_of_ios18(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    with quiet():
        from coremltools.converters.mil.mil import types
    shape, blocks = (2, 4, 6), (2, 1, 3)

    def small(mb: Any, values: Array, kind: str) -> Any:
        return mb.const(val=values.astype(types.nptype_from_builtin(types.string_to_builtin(kind))))

    data, offset = some(random, "int4", shape), some(random, "int4", blocks)
    scale = random.uniform(0.01, 1, blocks).astype(dtype)
    three, seven = random.integers(0, 8, shape), random.integers(0, 64, shape)
    lut, vectors = random.normal(size=(*blocks, 8, 1)).astype(dtype), random.normal(size=(1, 2, 1, 64, 2)).astype(dtype)
    mask, values = sparse(random, shape, random.normal(size=48).astype(dtype))
    some_of_data, some_of_three = (np.array(gathered(mask, v)) for v in (data, three))
    byte_lut = some(random, "int8", (1, 1, 1, 8, 1))

    def body(mb: Any, x: Any, wide: Any) -> Any:
        ones = small(mb, mask, "uint1")
        table = mb.constexpr_lut_to_dense(indices=small(mb, three, "uint3"), lut=byte_lut)
        whole, shift = small(mb, data, "int4"), small(mb, offset, "int4")
        sums = [
            mb.constexpr_blockwise_shift_scale(data=whole, scale=scale, offset=shift),
            mb.constexpr_blockwise_shift_scale(data=small(mb, data + 8, "uint4"), scale=scale),
            mb.constexpr_lut_to_dense(indices=small(mb, three, "uint3"), lut=lut),
            mb.constexpr_blockwise_shift_scale(data=table, scale=scale),
            mb.constexpr_sparse_to_dense(nonzero_data=values, mask=ones),
        ]
        scales = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=ones, nonzero_data=small(mb, some_of_data, "int4"), scale=scale
        )
        sums.append(mb.constexpr_sparse_to_dense(nonzero_data=scales[1], mask=scales[0]))
        entries = mb.constexpr_lut_to_sparse(
            indices_mask=ones, indices_nonzero_data=small(mb, some_of_three, "uint3"), lut=lut
        )
        sums.append(mb.constexpr_sparse_to_dense(nonzero_data=entries[1], mask=entries[0]))
        broad = mb.constexpr_lut_to_dense(indices=small(mb, seven, "uint6"), lut=vectors, vector_axis=np.int32(-2))
        return (*[mb.add(x=x, y=constant) for constant in sums], mb.add(x=wide, y=broad))

    found = execute(body, target="iOS18", x=np.zeros(shape, dtype), wide=np.zeros((2, 8, 6), dtype))
    wanted = [
        scaled(data, scale, offset), scaled(data + 8, scale, None), looked_up(three, lut, None),
        scaled(looked_up(three, byte_lut, None), scale, None), spread(mask, values),
        scaled(data, scale, None) * mask, looked_up(three, lut, None) * mask, looked_up(seven, vectors, -2),
    ]  # fmt: skip
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(f, w.astype(dtype).astype(np.float32))


# ---- networks ----


@pytest.fixture(scope="module")
def net() -> torch.nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    made = torch.nn.Sequential(
        torch.nn.Conv2d(4, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 1), torch.nn.Linear(8, 24)
    )
    for values in made.parameters():
        values.data = torch.randn(values.shape, generator=generator)
    return made.eval()


@pytest.fixture(scope="module")
def converted(net: torch.nn.Sequential) -> Callable[[str, str], Any]:
    with quiet():
        import coremltools as ct
    made: dict[tuple[str, str], Any] = {}

    def convert(target: str, precision: str) -> Any:
        if (target, precision) not in made:
            with quiet():
                made[target, precision] = ct.convert(
                    torch.jit.trace(net, torch.zeros(1, 4, 10, 10)), inputs=[ct.TensorType("x", (1, 4, 10, 10))],
                    convert_to="mlprogram", minimum_deployment_target=getattr(ct.target, target),
                    compute_precision=getattr(ct.precision, precision), skip_model_load=True,
                )  # fmt: skip
        return made[target, precision]

    return convert


def quantized_by(mode: str, dtype: str, granularity: str, joint: bool = False, **options: Any) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        import coremltools.optimize.coreml as cto

        config = cto.OpLinearQuantizerConfig(
            mode=mode, dtype=dtype, granularity=granularity, weight_threshold=1, **options
        )
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(config), joint_compression=joint)

    return compress


def palettized_by(bits: int, joint: bool = False, **options: Any) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        import coremltools.optimize.coreml as cto

        config = cto.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=1, **options)
        return cto.palettize_weights(model, cto.OptimizationConfig(config), joint_compression=joint)

    return compress


def pruned(model: Any) -> Any:
    import coremltools.optimize.coreml as cto

    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=1)
    return cto.prune_weights(model, cto.OptimizationConfig(config))


GROUPED = {"granularity": "per_grouped_channel", "group_size": 8}
TABLE, MASK = "constexpr_lut_to_dense", "constexpr_sparse_to_dense"
SCALES, MASKED_SCALES = "constexpr_blockwise_shift_scale", "constexpr_sparse_blockwise_shift_scale"

COMPRESSIONS = [
    *[
        (f"{mode} {dtype} {granularity}", "iOS16", [quantized_by(mode, dtype, granularity)],
         {"constexpr_affine_dequantize"})
        for mode, dtype, granularity in itertools.product(
            ("linear", "linear_symmetric"), ("int8", "uint8"), ("per_tensor", "per_channel")
        )
    ],
    *[(f"table of {bits} bits", "iOS16", [palettized_by(bits)], {TABLE}) for bits in (8, 6, 4, 2, 1)],
    ("pruned iOS16", "iOS16", [pruned], {MASK}),
    *[
        (f"linear {dtype} per_block", "iOS18", [quantized_by("linear", dtype, "per_block", block_size=4)], {SCALES})
        for dtype in ("int4", "uint4", "int8", "uint8")
    ],
    ("linear_symmetric int4", "iOS18", [quantized_by("linear_symmetric", "int4", "per_channel")], {SCALES}),
    *[(f"tables of {bits} bits", "iOS18", [palettized_by(bits, **GROUPED)], {TABLE}) for bits in (6, 4, 3, 2, 1)],
    ("tables and scales", "iOS18", [palettized_by(4, enable_per_channel_scale=True, **GROUPED)], {TABLE, SCALES}),
    ("pruned", "iOS18", [pruned], {MASK}),
    ("pruned int8", "iOS18", [pruned, quantized_by("linear", "int8", "per_channel", joint=True)],
     {MASK, MASKED_SCALES}),
    ("pruned int4 per_block", "iOS18", [pruned, quantized_by("linear", "int4", "per_block", joint=True, block_size=4)],
     {MASK, MASKED_SCALES}),
    ("pruned table", "iOS18", [pruned, palettized_by(3, joint=True)], {MASK, "constexpr_lut_to_sparse"}),
    ("int8 tables", "iOS18",
     [palettized_by(4, **GROUPED), quantized_by("linear_symmetric", "int8", "per_tensor", joint=True)],
     {TABLE, SCALES}),
]  # fmt: skip
HALVES = {"linear uint8 per_channel", "table of 6 bits", "pruned iOS16", "linear int4 per_block", "tables and scales",
          "pruned int4 per_block", "pruned table"}  # fmt: skip
CASES = [pytest.param(*case, "FLOAT32", id=name) for name, *case in COMPRESSIONS] + [
    pytest.param(*case, "FLOAT16", id=f"{name} of half precision") for name, *case in COMPRESSIONS if name in HALVES
]


def weights_of(parsed: program.Program) -> list[str]:
    return [str(op.inputs["weight"][0]) for op in parsed.operations if op.type in ("conv", "linear")]


def computed(parsed: program.Program, names: list[str], x: Array) -> list[Array]:
    """Values of a program by name, whether or not they are its results."""
    found = executor.Executor(dataclasses.replace(parsed, outputs=tuple(names)))({"x": executor.held(x)})
    return [value.numpy() for value in found.values()]


@pytest.mark.parametrize(("target", "steps", "operators", "precision"), CASES)
def test_network_as_coremltools_decompresses_it(
    converted: Callable[[str, str], Any], saved_model: Saved, net: torch.nn.Sequential, random: np.random.Generator,
    target: str, steps: list[Callable[[Any], Any]], operators: set[str], precision: str,
) -> None:  # fmt: skip
    import coremltools.optimize.coreml as cto

    model = converted(target, precision)
    with quiet():
        for step in steps:
            model = step(model)
        plain = cto.decompress_weights(model)
    parsed, plainly = (program.parse(*saved_model(m)) for m in (model, plain))
    assert {op.type for op in parsed.operations if op.type.startswith("constexpr")} == operators
    assert not [op for op in plainly.operations if op.type.startswith("constexpr")]

    x = random.normal(size=(1, 4, 10, 10)).astype(np.float32)
    weights = computed(parsed, weights_of(parsed), x)
    stored = {op.outputs[0][0]: op.inputs["val"][0] for op in plainly.operations if op.type == "const"}
    wanted = [stored[name].value.astype(np.float32) for name in weights_of(plainly)]
    assert len(weights) == 3
    for f, w in zip(weights, wanted, strict=True):
        np.testing.assert_array_equal(f, w)
        assert len(np.unique(w)) > 1
    if precision == "FLOAT32":
        exact = copy.deepcopy(net).double()
        for layer, weight in zip((exact[0], exact[2], exact[3]), wanted, strict=True):
            layer.weight.data = torch.from_numpy(weight).double()
        y = exact(torch.from_numpy(x).double()).detach().numpy()
        found = computed(parsed, list(parsed.outputs), x)[0]
        np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-6 * float(np.abs(y).max()))
