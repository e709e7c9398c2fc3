"""Operators that move elements: every one against NumPy, and through a saved program."""

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

SHAPES = [(5,), (2, 3), (3, 1, 4), (2, 3, 1, 5)]
DTYPES = ["float32", "float16"]


def values(random: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """All different, so that no exchange of two elements goes unseen."""
    count = int(np.prod(shape))
    drawn = random.permutation(count).reshape(shape)
    return (drawn % 2 == 0) if dtype == "bool" else (drawn - count // 2).astype(dtype)


def scalars(*given: int | bool) -> tuple[NDArray[Any], ...]:
    return tuple(np.array(v, bool if isinstance(v, bool) else np.int32) for v in given)


def equal(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(found, wanted)
    assert np.shape(found) == np.shape(wanted)


def all_equal(found: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        equal(a, b)


@pytest.mark.parametrize("shape", [(), *SHAPES, (2, 0, 3)])
def test_shape(compute: Compute, shape: tuple[int, ...]) -> None:
    found = compute("shape", x=np.zeros(shape, np.float32))
    equal(found, np.array(shape, np.int32))
    assert found.dtype == np.int32


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize(
    ("own", "asked", "wanted"),
    [
        ((2, 3, 4), (4, 6), (4, 6)),
        ((2, 3, 4), (-1, 4), (6, 4)),
        ((2, 3, 4), (24,), (24,)),
        ((2, 3, 4), (0, -1, 2), (2, 6, 2)),
        ((10, 3, 5), (25, 0, -1), (25, 3, 2)),
        ((2, 50), (1, 0, -1, 0), (1, 1, 2, 50)),
        ((2, 3, 4), (0, 0, 3, 4), (1, 2, 3, 4)),
        ((2, 3, 4), (-1, 0), (6, 4)),
        ((), (1, 1), (1, 1)),
        ((1, 1), (), ()),
        ((3, 0), (0, 0), (3, 0)),
    ],
)
def test_reshape(
    compute: Compute, random: np.random.Generator, own: tuple[int, ...], asked: Any, wanted: Any, dtype: str
) -> None:
    x = values(random, own, dtype)
    equal(compute("reshape", x=x, shape=asked), np.array(x.ravel().tolist(), dtype).reshape(wanted))


@pytest.mark.parametrize(
    ("own", "references", "begins", "ends", "masks", "wanted"),
    [
        ((6, 30), [(2, 3, 4), (1, 5, 6)], (0, 1), (2, 0), (False, True), (2, 3, 5, 6)),
        ((12,), [(2, 3, 4)], (1,), (3,), (False,), (3, 4)),
        ((12,), [(2, 3, 4)], (-2,), (0,), (True,), (3, 4)),
        ((2, 6), [(2, 3, 4), (4, 1)], (1, 0), (-1, 1), (False, False), (3, 4)),
        ((1,), [(5,)], (1,), (0,), (True,), ()),
    ],
)
def test_reshape_like(
    compute: Compute, random: np.random.Generator, own: Any, references: Any, begins: Any, ends: Any, masks: Any,
    wanted: Any,
) -> None:  # fmt: skip
    x = values(random, own)
    found = compute(
        "reshape_like", x=x, ref_tensors=tuple(np.zeros(r, np.float32) for r in references), begins=scalars(*begins),
        ends=scalars(*ends), end_masks=scalars(*masks),
    )  # fmt: skip
    equal(found, x.ravel().reshape(wanted))


@pytest.mark.parametrize(
    ("own", "axis", "wanted"),
    [
        ((3,), -1, (1, 3)), ((3,), 1, (3, 1)), ((4, 3), -1, (4, 3)), ((2, 3, 2), -1, (6, 2)), ((5, 5, 2), 1, (5, 10)),
        ((5, 5, 2), 0, (1, 50)), ((5, 5, 2), 3, (50, 1)), ((5, 5, 2), -3, (1, 50)),
    ],
)  # fmt: skip
def test_flatten2d(compute: Compute, random: np.random.Generator, own: Any, axis: int, wanted: Any) -> None:
    x = values(random, own)
    equal(compute("flatten2d", x=x, axis=axis), x.ravel().reshape(wanted))
    equal(compute("flatten2d", x=x), x.reshape(x.shape[0], -1))


@pytest.mark.parametrize("axes", [(0,), (-1,), (1, 2), (2, 0), (-1, 0), (-2, -4), (1, -1, 3)])
def test_expand_dims(compute: Compute, random: np.random.Generator, axes: Any) -> None:
    x = values(random, (2, 3))
    equal(compute("expand_dims", x=x, axes=axes), np.expand_dims(x, axes))
    one = tuple(range(len(axes)))
    equal(compute("expand_dims", x=np.float32(7), axes=one), np.full((1,) * len(axes), 7, np.float32))


@pytest.mark.parametrize(
    ("own", "axes", "wanted"),
    [
        ((1, 3, 1, 2), None, (3, 2)),
        ((1, 3, 1, 2), (0,), (3, 1, 2)),
        ((1, 3, 1, 2), (-2, 0), (3, 2)),
        ((1, 3, 1, 2), (1, 2), (1, 3, 2)),  # an extent of 3 stays
        ((1, 3, 1, 2), (), (1, 3, 1, 2)),
        ((1,), None, ()),
        ((1, 1), (-1, -2), ()),
        ((2, 3), None, (2, 3)),
    ],
)
def test_squeeze(compute: Compute, random: np.random.Generator, own: Any, axes: Any, wanted: Any) -> None:
    x = values(random, own)
    equal(compute("squeeze", x=x, axes=axes), x.ravel().reshape(wanted))


@pytest.mark.parametrize("perm", [*itertools.permutations(range(3)), (-1, 0, 1), (-2, -1, -3)])
def test_transpose(compute: Compute, random: np.random.Generator, perm: tuple[int, ...]) -> None:
    x = values(random, (2, 3, 4), "int32")
    found = compute("transpose", x=x, perm=perm)
    assert found.shape == tuple(x.shape[p] for p in perm)
    for place in np.ndindex(found.shape):
        source = [0, 0, 0]
        for i, p in enumerate(perm):
            source[p] = place[i]
        assert found[place] == x[tuple(source)]


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_concat(compute: Compute, random: np.random.Generator, axis: int) -> None:
    shapes = [[2, 3, 4] for _ in range(3)]
    shapes[1][axis], shapes[2][axis] = 1, 5
    parts = tuple(values(random, tuple(s)) for s in shapes)
    equal(compute("concat", values=parts, axis=axis), np.concatenate(parts, axis))
    equal(compute("concat", values=parts[:1], axis=axis), parts[0])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_concat_interleaved(compute: Compute, random: np.random.Generator, axis: int, count: int) -> None:
    parts = tuple(values(random, (2, 3, 4)) + 100 * i for i in range(count))
    wanted = np.moveaxis(np.empty_like(np.concatenate(parts, axis)), axis, 0)
    for i, part in enumerate(parts):
        wanted[i::count] = np.moveaxis(part, axis, 0)
    equal(compute("concat", values=parts, axis=axis, interleave=True), np.moveaxis(wanted, 0, axis))


def test_concat_of_scalars_is_a_vector(compute: Compute) -> None:
    equal(compute("concat", values=scalars(4, 5, 6), axis=0), np.array([4, 5, 6]))


def test_concat_of_bools(compute: Compute) -> None:
    parts = (np.array([True, False]), np.array([True]))
    found = compute("concat", values=parts, axis=0)
    equal(found, [True, False, True])
    assert found.dtype == bool


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_stack(compute: Compute, random: np.random.Generator, axis: int) -> None:
    parts = tuple(values(random, (2, 3)) for _ in range(4))
    equal(compute("stack", values=parts, axis=axis), np.stack(parts, axis))


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ({"num_splits": 3}, (2, 2, 2)),
        ({"num_splits": 1}, (6,)),
        ({"split_sizes": (1, 3, 2)}, (1, 3, 2)),
        ({"split_sizes": (6,)}, (6,)),
        ({"split_sizes": (5, 1), "num_splits": 2}, (5, 1)),
    ],
)
def test_split(compute: Compute, random: np.random.Generator, axis: int, asked: Any, sizes: Any) -> None:
    x = values(random, (2, 6, 3))
    found = compute("split", x=x, axis=axis, **asked)
    assert isinstance(found, tuple)
    all_equal(list(found), np.split(x, np.cumsum(sizes)[:-1], axis=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_tile(compute: Compute, random: np.random.Generator, shape: Any) -> None:
    x, reps = values(random, shape), tuple(range(2, 2 + len(shape)))[::-1]
    equal(compute("tile", x=x, reps=reps), np.tile(x, reps))


@pytest.mark.parametrize("axes", [None, (), (0,), (-1,), (0, 2), (-2, 0), (2, 1, 0)])
def test_reverse(compute: Compute, random: np.random.Generator, axes: Any) -> None:
    x = values(random, (2, 3, 4), "int32")
    turned = {0, 1, 2} if axes is None else {a % 3 for a in axes}
    equal(compute("reverse", x=x, axes=axes), x[tuple(slice(None, None, -1 if i in turned else 1) for i in range(3))])


@pytest.mark.parametrize(("batch", "sequence"), [(0, 1), (1, 0), (2, 0), (0, 2), (-1, -2), (1, -1)])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_reverse_sequence(compute: Compute, random: np.random.Generator, batch: int, sequence: int, dtype: str) -> None:
    x = values(random, (4, 5, 6), dtype)
    lengths = tuple(int(n) for n in random.integers(0, x.shape[sequence] + 1, x.shape[batch]))
    lengths = (0, x.shape[sequence], *lengths[2:])
    wanted = x.copy()
    for i, length in enumerate(lengths):
        for k in range(length):
            to, source = [slice(None)] * 3, [slice(None)] * 3
            to[batch] = source[batch] = slice(i, i + 1)
            to[sequence], source[sequence] = slice(k, k + 1), slice(length - 1 - k, length - k)
            wanted[tuple(to)] = x[tuple(source)]
    found = compute("reverse_sequence", x=x, lengths=lengths, batch_axis=batch, seq_axis=sequence)
    equal(found, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 1), (3, 2), (2, 3), (4, 1)])
def test_sliding_windows(compute: Compute, random: np.random.Generator, axis: int, size: int, stride: int) -> None:
    x = values(random, (4, 5, 6))
    starts = range(0, x.shape[axis] - size + 1, stride)
    windows = [np.moveaxis(x, axis, 0)[s : s + size] for s in starts]
    wanted = np.moveaxis(np.array(windows), (0, 1), (axis % 3, axis % 3 + 1))
    equal(compute("sliding_windows", x=x, axis=axis, size=size, stride=stride), wanted)
    if stride == 1:
        equal(compute("sliding_windows", x=x, axis=axis, size=size), wanted)


@pytest.mark.parametrize(("lower", "upper"), list(itertools.product([-1, 0, 1, 2, 9], repeat=2)))
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_band_part(compute: Compute, random: np.random.Generator, lower: int, upper: int, dtype: str) -> None:
    x = values(random, (2, 4, 5), dtype)
    if dtype == "float32":
        x[0, 3, 0] = x[1, 0, 4] = np.inf
    wanted = np.zeros_like(x)
    for k, m, n in np.ndindex(x.shape):
        if (lower < 0 or m - n <= lower) and (upper < 0 or n - m <= upper):
            wanted[k, m, n] = x[k, m, n]
    equal(compute("band_part", x=x, lower=lower, upper=upper), wanted)


def test_band_part_keeps_everything_unless_told(compute: Compute, random: np.random.Generator) -> None:
    x = values(random, (3, 2))
    equal(compute("band_part", x=x), x)


def drawn_section(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Inputs of a slice, and the index that NumPy takes for it."""
    given: dict[str, list[Any]] = {
        k: [] for k in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    }  # fmt: skip
    index: list[Any] = []
    for extent in shape:
        begin, end = (int(v) for v in random.integers(-extent - 2, extent + 3, 2))
        stride = int(random.choice([-3, -2, -1, 1, 2, 3]))
        opened, endless, gone = (bool(v) for v in random.random(3) < (0.25, 0.25, 0.2))
        if gone:
            begin = int(random.integers(-extent, extent))
        for name, value in zip(given, (begin, end, stride, opened, endless, gone), strict=True):
            given[name].append(value)
        part = slice(None if opened else begin, None if endless else end, stride)
        index.append((0 if opened else begin) if gone else part)
    return {name: tuple(v) for name, v in given.items()}, tuple(index)


@pytest.mark.parametrize("shape", SHAPES)
def test_slice_by_index(compute: Compute, random: np.random.Generator, shape: tuple[int, ...]) -> None:
    x, empty, scalar = values(random, shape), 0, 0
    for _ in range(150):
        given, index = drawn_section(random, shape)
        wanted = x[index]
        equal(compute("slice_by_index", x=x, **given), wanted)
        empty, scalar = empty + (wanted.size == 0), scalar + (wanted.ndim == 0)
    assert empty
    assert scalar or len(shape) > 2


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_slice_by_index_of_begin_and_end_alone(compute: Compute, random: np.random.Generator, dtype: str) -> None:
    x = values(random, (4, 5), dtype)
    equal(compute("slice_by_index", x=x, begin=(1, -3), end=(3, 99)), x[1:3, -3:99])
    equal(compute("slice_by_index", x=x, begin=(0, 0), end=(0, 0), end_mask=(True, False)), x[0:, 0:0])
    found = compute("slice_by_index", x=x, begin=(-1, 2), end=(0, 0), squeeze_mask=(True, True))
    equal(found, x[-1, 2])


@pytest.mark.parametrize("shape", SHAPES)
def test_slice_update(compute: Compute, random: np.random.Generator, shape: tuple[int, ...]) -> None:
    x, done = values(random, shape), 0
    while done < 60:
        given, index = drawn_section(random, shape)
        if x[index].ndim == 0:
            continue
        update = random.normal(size=x[index].shape).astype(np.float32)
        wanted = x.copy()
        wanted[index] = update
        equal(compute("slice_update", x=x, update=update, **given), wanted)
        done += 1


@pytest.mark.parametrize(
    ("begin", "size", "index"),
    [
        ((0, 0), (4, 5), np.s_[:, :]),
        ((1, 2), (2, -1), np.s_[1:3, 2:]),
        ((-2, -5), (1, 3), np.s_[2:3, 0:3]),
        ((-1, 4), (-1, 1), np.s_[3:, 4:]),
        ((4, 0), (0, 2), np.s_[4:4, 0:2]),
    ],
)
def test_slice_by_size(compute: Compute, random: np.random.Generator, begin: Any, size: Any, index: Any) -> None:
    x = values(random, (4, 5))
    equal(compute("slice_by_size", x=x, begin=begin, size=size), x[index])


@pytest.mark.parametrize("shape", [(1, 4, 6), (2, 3, 5, 7)])
def test_crop(compute: Compute, random: np.random.Generator, shape: Any) -> None:
    x = values(random, shape)
    equal(compute("crop", x=x, crop_height=(1, 0), crop_width=(2, 3)), x[..., 1:, 2:-3])
    equal(compute("crop", x=x, crop_height=(0, 0), crop_width=(0, 1)), x[..., :-1])


@pytest.mark.parametrize(
    ("shape", "pad"),
    [
        ((5,), (2, 3)),
        ((2, 3), (1, 0, 2, 1)),
        ((2, 3), (0, 2)),
        ((2, 3, 4), (1, 1, 0, 2, 3, 0)),
        ((2, 1, 3, 4), (2, 1, 1, 3)),
        ((2, 2, 3, 2, 3), (1, 1, 1, 0, 2, 2, 0, 1, 2, 1)),
        ((3, 4), (0, 0, 0, 0)),
        ((3, 4), ()),
    ],
)
@pytest.mark.parametrize(("mode", "name"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge")])
def test_pad(
    compute: Compute, random: np.random.Generator, shape: tuple[int, ...], pad: tuple[int, ...], mode: str, name: Any
) -> None:
    x = values(random, shape)
    amounts = np.zeros((len(shape), 2), int)
    amounts[len(shape) - len(pad) // 2 :] = np.reshape(pad, (-1, 2))
    limits = np.array(shape) - (mode == "reflect")
    if mode != "constant" and (amounts.max(axis=1) > limits).any():
        with pytest.raises(ValueError, match="cannot be made"):
            compute("pad", x=x, pad=pad, mode=mode)
        return
    if mode != "constant":
        equal(compute("pad", x=x, pad=pad, mode=mode, constant_val=4.0), np.pad(x, amounts, name))
        return
    equal(compute("pad", x=x, pad=pad), np.pad(x, amounts))
    for value in (0.5, -np.inf):
        equal(compute("pad", x=x, pad=pad, mode=mode, constant_val=value), np.pad(x, amounts, constant_values=value))


BLOCKS = [(1, 1, 2, 3), (2, 3, 2, 2), (2, 2, 1, 4)]
"""n, c, h, w; a block is as many places on either side as the test says."""


@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("block", BLOCKS)
def test_depth_and_space(compute: Compute, random: np.random.Generator, block: Any, b: int) -> None:
    n, c, h, w = block
    deep = values(random, (n, c * b * b, h, w))
    shuffled, wide = np.empty((2, n, c, h * b, w * b), np.float32)
    for image, k, i, j in np.ndindex(n, c, b, b):
        wide[image, k, i::b, j::b] = deep[image, (i * b + j) * c + k]
        shuffled[image, k, i::b, j::b] = deep[image, (k * b + i) * b + j]
    equal(compute("depth_to_space", x=deep, block_size=b), wide)
    equal(compute("space_to_depth", x=wide, block_size=b), deep)
    equal(compute("pixel_shuffle", x=deep, upscale_factor=b), shuffled)
    equal(compute("pixel_unshuffle", x=shuffled, downscale_factor=b), deep)


@pytest.mark.parametrize("shape", [(1, 1, 4, 6), (2, 3, 2, 9)])
@pytest.mark.parametrize(("block", "amounts"), [((2, 3), (0, 0, 0, 0)), ((2, 3), (1, 3, 2, 1)), ((1, 3), (2, 0, 0, 3))])
def test_space_and_batch(compute: Compute, random: np.random.Generator, shape: Any, block: Any, amounts: Any) -> None:
    x = values(random, shape)
    padded = np.pad(x, ((0, 0), (0, 0), amounts[:2], amounts[2:]))
    images = [padded[:, :, i :: block[0], j :: block[1]] for i, j in np.ndindex(*block)]
    batch = np.concatenate(images)
    equal(compute("space_to_batch", x=x, block_shape=block, paddings=amounts), batch)
    equal(compute("batch_to_space", x=batch, block_shape=block, crops=amounts), x)
    equal(compute("batch_to_space", x=batch, block_shape=block, crops=(0, 0, 0, 0)), padded)


ONES = np.ones((2, 3, 4), np.float32)
IMAGE = np.ones((2, 6, 4, 6), np.float32)
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("flatten2d", {"x": ONES, "axis": 4}, "axis 4 is not one of"),
    ("flatten2d", {"x": ONES, "axis": -4}, "axis -4 is not one of"),
    ("expand_dims", {"x": ONES, "axes": (4,)}, "axes [4] are not different"),
    ("expand_dims", {"x": ONES, "axes": (-5,)}, "axes [-5] are not different"),
    ("expand_dims", {"x": ONES, "axes": (0, -5)}, "axes [0, -5] are not different"),
    (
        "reshape_like",
        {"x": ONES, "ref_tensors": (ONES,), "begins": scalars(0, 1), "ends": scalars(3), "end_masks": ()},
        "1 references, 2 begins, 1 ends, 0 masks",
    ),
    ("concat", {"values": (ONES, ONES), "axis": 3, "interleave": True}, "axis 3 is not one of"),
    ("concat", {"values": (ONES, ONES), "axis": -5, "interleave": True}, "axis -5 is not one of"),
    ("split", {"x": ONES, "axis": 2}, "neither num_splits nor split_sizes is given"),
    ("split", {"x": ONES, "axis": 2, "num_splits": 3}, "an extent of 4 does not divide into 3"),
    ("split", {"x": ONES, "axis": 2, "num_splits": 0}, "an extent of 4 does not divide into 0"),
    ("split", {"x": ONES, "axis": 2, "num_splits": 3, "split_sizes": (2, 2)}, "2 sizes for 3 parts"),
    ("tile", {"x": ONES, "reps": (2, 2)}, "reps [2, 2] are not one positive"),
    ("tile", {"x": ONES, "reps": (2, 2, 0)}, "reps [2, 2, 0] are not one positive"),
    ("reverse_sequence", {"x": ONES, "lengths": (1, 1)}, "the batch axis and the sequence axis are both 0"),
    ("reverse_sequence", {"x": ONES, "lengths": (1, 1), "seq_axis": 2, "batch_axis": 3}, "axis 3 is not one of"),
    ("reverse_sequence", {"x": ONES, "lengths": (1, 5), "seq_axis": 2}, "lengths [1, 5] are not 2 numbers"),
    ("reverse_sequence", {"x": ONES, "lengths": (-1, 2), "seq_axis": 2}, "lengths [-1, 2] are not 2 numbers"),
    ("reverse_sequence", {"x": ONES, "lengths": (1,), "seq_axis": 2}, "lengths [1] are not 2 numbers"),
    ("band_part", {"x": ONES[0, 0]}, "a matrix is needed, not 1 dimensions"),
    (
        "slice_by_index",
        {"x": ONES, "begin": (0, 0), "end": (1, 1)},
        "a slice has [2, 2, 3, 3, 3, 3] numbers and masks for 3 dimensions",
    ),
    (
        "slice_by_index",
        {"x": ONES, "begin": (0, 0, 0), "end": (1, 1, 1), "stride": (1, 0, 1)},
        "slice step cannot be zero",
    ),
    (
        "slice_by_index",
        {"x": ONES, "begin": (0, 0, 0), "end": (1, 1, 1), "end_mask": (True, True)},
        "a slice has [3, 3, 3, 3, 2, 3] numbers and masks for 3 dimensions",
    ),
    (
        "slice_update",
        {"x": ONES, "update": ONES[:, :, :1], "begin": (0, 0, 0), "end": (2, 3, 4)},
        "the update is [2, 3, 1], the slice [2, 3, 4]; a scalar is none",
    ),
    (
        "slice_update",
        {"x": ONES, "update": ONES[0, 0, 0], "begin": (0,) * 3, "end": (1,) * 3, "squeeze_mask": (True,) * 3},
        "the update is [], the slice []; a scalar is none",
    ),
    ("slice_by_size", {"x": ONES, "begin": (0, 0, 1), "size": (1, 1, 4)}, "4 places from 1 on are not in"),
    ("slice_by_size", {"x": ONES, "begin": (0, 0, 1), "size": (1, 1, -2)}, "-2 places from 1 on are not in"),
    ("slice_by_size", {"x": ONES, "begin": (0, -4, 0), "size": (1, 1, 1)}, "1 places from -4 on are not in"),
    ("slice_by_size", {"x": ONES, "begin": (0, 0), "size": (1, 1)}, "2 begins and 2 sizes for 3 dimensions"),
    ("crop", {"x": ONES[0], "crop_height": (0, 0), "crop_width": (0, 0)}, "at least 3 dimensions are needed, not 2"),
    (
        "crop",
        {"x": ONES, "crop_height": (2, 2), "crop_width": (0, 0)},
        "rows [2, 2] and columns [0, 0] cannot be cropped",
    ),
    (
        "crop",
        {"x": ONES, "crop_height": (0, 0), "crop_width": (-1, 0)},
        "rows [0, 0] and columns [-1, 0] cannot be cropped",
    ),
    ("pad", {"x": ONES, "pad": (1, 1, 1)}, "pad [1, 1, 1] is not two amounts"),
    ("pad", {"x": ONES, "pad": (-1, 1)}, "pad [-1, 1] is not two amounts"),
    ("pad", {"x": ONES, "pad": (0,) * 8}, "pad [0, 0, 0, 0, 0, 0, 0, 0] is not two amounts"),
    ("pad", {"x": ONES, "pad": (1, 1), "mode": "symmetric"}, "mode 'symmetric' is not known"),
    ("pad", {"x": ONES, "pad": (4, 0), "mode": "reflect"}, "4 and 0 places cannot be made"),
    ("pad", {"x": ONES, "pad": (0, 5), "mode": "replicate"}, "0 and 5 places cannot be made"),
    ("depth_to_space", {"x": IMAGE, "block_size": 2}, "an extent of 6 does not divide into 4"),
    ("depth_to_space", {"x": ONES, "block_size": 1}, "4 dimensions are needed, not 3"),
    ("space_to_depth", {"x": IMAGE, "block_size": 4}, "an extent of 6 does not divide into 4"),
    ("space_to_depth", {"x": IMAGE, "block_size": 0}, "an extent of 4 does not divide into 0"),
    ("pixel_shuffle", {"x": IMAGE, "upscale_factor": 2}, "an extent of 6 does not divide into 4"),
    ("pixel_unshuffle", {"x": IMAGE, "downscale_factor": 3}, "an extent of 4 does not divide into 3"),
    (
        "space_to_batch",
        {"x": IMAGE, "block_shape": (2, 2), "paddings": (0, 1, 0, 0)},
        "an extent of 5 does not divide into 2",
    ),
    (
        "space_to_batch",
        {"x": IMAGE, "block_shape": (2, 2), "paddings": (-2, 0, 0, 0)},
        "paddings [-2, 0, 0, 0] are negative",
    ),
    (
        "batch_to_space",
        {"x": IMAGE, "block_shape": (2, 2), "crops": (0, 0, 0, 0)},
        "an extent of 2 does not divide into 4",
    ),
    (
        "batch_to_space",
        {"x": IMAGE, "block_shape": (1, 2), "crops": (0, 5, 0, 0)},
        "rows [0, 5] and columns [0, 0] cannot be cropped",
    ),
]


@pytest.mark.parametrize(("name", "given", "says"), WRONG, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(WRONG)])
def test_wrong_arguments_are_refused(compute: Compute, name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        compute(name, **given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("reshape", {"x": ONES, "shape": (-1, -1)}),
        ("reshape", {"x": ONES, "shape": (5, -1)}),
        ("transpose", {"x": ONES, "perm": (0, 0, 1)}),
        ("transpose", {"x": ONES, "perm": (0, 1)}),
        ("concat", {"values": (ONES, ONES[:, :2]), "axis": 0}),
        ("concat", {"values": (ONES, ONES[:, :2]), "axis": 1, "interleave": True}),
        ("stack", {"values": (ONES, ONES[:1]), "axis": 0}),
        ("split", {"x": ONES, "axis": 2, "split_sizes": (1, 2)}),
        ("reverse", {"x": ONES, "axes": (3,)}),
        ("squeeze", {"x": ONES, "axes": (3,)}),
        ("sliding_windows", {"x": ONES, "axis": 1, "size": 4}),
        ("slice_by_index", {"x": ONES, "begin": (2, 0, 0), "end": (0, 0, 0), "squeeze_mask": (True, False, False)}),
    ],
)
def test_what_does_not_fit_is_refused_by_torch(compute: Compute, name: str, given: dict[str, Any]) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        compute(name, **given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_shapes(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, y: Any) -> Any:
        return (
            mb.shape(x=x),
            mb.reshape(x=x, shape=[4, -1]),
            mb.reshape(x=x, shape=[0, 1, 0, -1, 0]),
            mb.reshape(x=x, shape=mb.concat(values=(mb.shape(x=y), [2]), axis=0)),
            mb.reshape_like(x=x, ref_tensors=(y, x), begins=(0, 0), ends=(-9, 1), end_masks=(True, False)),
            mb.flatten2d(x=x, axis=2),
            mb.expand_dims(x=x, axes=[-1, 0]),
            mb.squeeze(x=mb.expand_dims(x=x, axes=[1, 3])),
            mb.squeeze(x=mb.expand_dims(x=x, axes=[1, 3]), axes=[-2]),
            mb.transpose(x=x, perm=[2, 0, 1]),
            mb.transpose(x=x, perm=[-1, 0, -2]),
            mb.tile(x=x, reps=[1, 3, 2]),
            mb.reverse(x=x),
            mb.reverse(x=x, axes=[-1]),
            mb.reverse_sequence(x=x, lengths=[2, 4], seq_axis=1),
            mb.sliding_windows(x=x, axis=-1, size=2),
            mb.sliding_windows(x=x, axis=1, size=2, stride=2),
            mb.band_part(x=x, lower=0, upper=1),
        )

    x, y = values(random, (2, 4, 3), dtype), values(random, (4, 3), dtype)
    banded = np.triu(np.tril(x, 1))
    turned = x.copy()
    turned[0, :2], turned[1] = x[0, 1::-1], x[1, ::-1]
    wanted = [
        np.array([2, 4, 3]),
        x.reshape(4, 6),
        x.reshape(1, 1, 2, 4, 3),
        x.reshape(4, 3, 2),
        x.reshape(4, 3, 2),
        x.reshape(8, 3),
        x[None, ..., None],
        x,
        x[:, None],
        np.transpose(x, (2, 0, 1)),
        np.transpose(x, (2, 0, 1)),
        np.tile(x, (1, 3, 2)),
        x[::-1, ::-1, ::-1],
        x[..., ::-1],
        turned,
        np.stack([x[..., :2], x[..., 1:]], axis=2),
        np.stack([x[:, :2], x[:, 2:]], axis=1),
        banded,
    ]
    all_equal(execute(body, x=x, y=y), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_parts(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, y: Any, z: Any) -> Any:
        return (
            mb.concat(values=(x, y), axis=1),
            mb.concat(values=(x, z, x), axis=-2, interleave=True),
            mb.stack(values=(x, z), axis=-1),
            mb.stack(values=(x, z), axis=0),
            *mb.split(x=x, axis=-1, num_splits=3),
            *mb.split(x=x, axis=1, split_sizes=[1, 3]),
            *mb.split(x=y, axis=1, num_splits=2, split_sizes=[3, 2]),
            mb.concat(values=(mb.squeeze(x=mb.slice_by_index(x=mb.shape(x=x), begin=[1], end=[2])), 7), axis=0),
        )

    x, y, z = (values(random, s, dtype) for s in ((2, 4, 3), (2, 5, 3), (2, 4, 3)))
    wanted = [
        np.concatenate([x, y], 1),
        np.stack([x, z, x], axis=2).reshape(2, 12, 3),
        np.stack([x, z], -1),
        np.array([x, z]),
        *np.split(x, 3, axis=2),
        x[:, :1],
        x[:, 1:],
        y[:, :3],
        y[:, 3:],
        np.array([4, 7]),
    ]
    all_equal(execute(body, x=x, y=y, z=z), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_slices(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, u: Any, v: Any, w: Any, first: Any) -> Any:
        return (
            mb.slice_by_index(x=x, begin=[1, 0, -2], end=[2, 3, 5]),
            mb.slice_by_index(x=x, begin=[0, 3, -1], end=[2, 0, 0], stride=[1, -2, -1], end_mask=[False, False, True]),
            mb.slice_by_index(
                x=x, begin=[0, 9, 2], end=[1, 9, 9], stride=[1, -1, 1], begin_mask=[False, True, False],
                end_mask=[False, True, False], squeeze_mask=[True, False, True],
            ),
            mb.slice_by_index(x=x, begin=[1, -1, 0], end=[0, 0, 0], squeeze_mask=[True] * 3),
            mb.slice_by_index(x=x, begin=first, end=[2, 4, 5]),
            mb.slice_by_size(x=x, begin=[0, 1, 2], size=[-1, 2, 1]),
            mb.slice_by_size(x=x, begin=first, size=[1, 2, 3]),
            mb.slice_update(x=x, update=u, begin=[0, 3, 0], end=[2, 0, 5], stride=[1, -2, 1]),
            mb.slice_update(
                x=x, update=v, begin=[1, 3, 0], end=[0, 1, 3], begin_mask=[False, True, False],
                end_mask=[False, True, False], squeeze_mask=[True, False, False],
            ),
            mb.slice_update(x=x, update=w, begin=first, end=[2, 3, 4]),
            mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]),
        )  # fmt: skip

    x, u, v, w = (values(random, s, dtype) + 100 for s in ((2, 4, 5), (2, 2, 5), (4, 3), (1, 1, 2)))
    updated = [x.copy(), x.copy(), x.copy()]
    updated[0][:, 3:0:-2], updated[1][1, :, :3], updated[2][1:, 2:3, 2:4] = u, v, w
    wanted = [
        x[1:2, 0:3, -2:5],
        x[0:2, 3:0:-2, ::-1],
        x[0, ::-1, 2],
        x[1, -1, 0],
        x[1:, 2:, 2:],
        x[:, 1:3, 2:3],
        x[1:, 2:4, 2:5],
        *updated,
        x[:, 1:-2, :-3],
    ]
    all_equal(execute(body, target="iOS18", x=x, u=u, v=v, w=w, first=np.array([1, 2, 2], np.int32)), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_padding(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, amounts: Any) -> Any:
        return (
            mb.pad(x=x, pad=[1, 2]),
            mb.pad(x=x, pad=[0, 1, 1, 0, 2, 2], mode="constant", constant_val=np.dtype(dtype).type(0.1)),
            mb.pad(x=x, pad=[1, 0, 2, 3], mode="reflect"),
            mb.pad(x=x, pad=[1, 2, 4, 0], mode="replicate"),
            mb.pad(x=x, pad=amounts, mode="replicate"),
        )

    x = values(random, (2, 3, 4), dtype)
    wanted = [
        np.pad(x, ((0, 0), (0, 0), (1, 2))),
        np.pad(x, ((0, 1), (1, 0), (2, 2)), constant_values=0.1),
        np.pad(x, ((0, 0), (1, 0), (2, 3)), "reflect"),
        np.pad(x, ((0, 0), (1, 2), (4, 0)), "edge"),
        np.pad(x, ((0, 0), (2, 1), (3, 4)), "edge"),
    ]
    all_equal(execute(body, x=x, amounts=np.array([0, 0, 2, 1, 3, 4], np.int32)), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_blocks(execute: Execute, random: np.random.Generator, dtype: str) -> None:
    def body(mb: Any, x: Any, y: Any) -> Any:
        return (
            mb.depth_to_space(x=x, block_size=2),
            mb.pixel_shuffle(x=x, upscale_factor=2),
            mb.space_to_depth(x=y, block_size=2),
            mb.pixel_unshuffle(x=y, downscale_factor=np.uint32(2)),
            mb.space_to_batch(x=y, block_shape=[1, 2], paddings=[[1, 0], [2, 0]]),
            mb.batch_to_space(x=y, block_shape=[2, 1], crops=[[0, 3], [1, 0]]),
        )

    # the example of Core ML's NeuralNetwork.proto, where the two orders differ
    x = np.arange(1, 17).astype(dtype).reshape(1, 8, 1, 2)
    y = values(random, (4, 3, 4, 6), dtype)
    corners = [y[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    padded = np.pad(y, ((0, 0), (0, 0), (1, 0), (2, 0)))
    high = np.empty((2, 3, 8, 6), dtype)
    high[:, :, ::2], high[:, :, 1::2] = y[:2], y[2:]
    wanted = [
        np.array([[[[1, 5, 2, 6], [9, 13, 10, 14]], [[3, 7, 4, 8], [11, 15, 12, 16]]]]),
        np.array([[[[1, 3, 2, 4], [5, 7, 6, 8]], [[9, 11, 10, 12], [13, 15, 14, 16]]]]),
        np.concatenate(corners, axis=1),
        np.stack(corners, axis=2).reshape(4, 12, 2, 3),
        np.concatenate([padded[..., ::2], padded[..., 1::2]]),
        high[:, :, :-3, 1:],
    ]
    all_equal(execute(body, x=x, y=y), wanted)


def test_saved_moves_of_small_integers_and_bools(execute: Execute, random: np.random.Generator) -> None:
    def body(mb: Any, x: Any) -> Any:
        small, even = mb.cast(x=x, dtype="int8"), mb.equal(x=mb.mod(x=x, y=np.float32(2)), y=np.float32(0))
        moved = [
            mb.transpose(x=small, perm=[1, 0]),
            mb.reshape(x=small, shape=[-1]),
            mb.slice_by_index(x=small, begin=[0, 1], end=[2, 3]),
            mb.concat(values=(small, small), axis=0),
            mb.reverse(x=even, axes=[0]),
            mb.band_part(x=even, lower=0, upper=0),
        ]
        return tuple(mb.cast(x=m, dtype="int32") for m in moved)

    x = values(random, (2, 3))
    even = (x % 2 == 0).astype(int)
    wanted = [x.T, x.ravel(), x[:, 1:], np.concatenate([x, x]), even[::-1], even * np.eye(2, 3)]
    all_equal(execute(body, x=x), wanted)
