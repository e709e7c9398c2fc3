"""Attention against its formula, row by row in float64."""

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

SHAPES = [
    ((2, 3, 4), (2, 5, 4), (2, 5, 6)),
    ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 1)),
    ((2, 1, 3, 1, 7), (2, 1, 3, 4, 7), (2, 1, 3, 4, 2)),
]


def attended(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """For every row of the query, a mean of the value's rows, weighted."""
    wanted = np.zeros((*query.shape[:-1], value.shape[-1]))
    scores = (*query.shape[:-1], key.shape[-2])
    added = np.zeros(scores) if mask is None else np.broadcast_to(mask, scores)
    if mask is not None and mask.dtype == bool:
        added = np.where(added, 0.0, -np.inf)
    for at in np.ndindex(*query.shape[:-1]):
        batch = at[:-1]
        logits = [
            math.fsum(float(a) * float(b) for a, b in zip(query[at], row, strict=True)) / math.sqrt(len(row)) + float(m)
            for row, m in zip(key[batch], added[at], strict=True)
        ]
        weights = [math.exp(v - max(logits)) for v in logits]
        for weight, row in zip(weights, value[batch], strict=True):
            wanted[at] += weight / math.fsum(weights) * row.astype(np.float64)
    return wanted


@pytest.mark.parametrize("masked", ["no", "float", "bool", "float row", "bool row", "vector", "head"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_attention(compute: Compute, random: np.random.Generator, shapes: Any, masked: str) -> None:
    query, key, value = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    full = (*query.shape[:-1], key.shape[-2])
    shape = {"row": full[-1:], "vector": full[-1:], "head": (1, *full[1:-2], 1, full[-1])}.get(masked.split()[-1], full)
    mask: Array | None = None
    if masked.startswith("bool"):
        mask = random.random(shape) < 0.6
        mask[..., 0] = True
    elif masked != "no":
        mask = random.normal(0, 2, shape).astype(np.float32)
    found = compute("scaled_dot_product_attention", query=query, key=key, value=value, attn_mask=mask)
    wanted = attended(query, key, value, mask)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_masked_elements_have_no_part(compute: Compute) -> None:
    query, key = np.zeros((1, 1, 2)), np.zeros((1, 3, 2))
    value = np.array([[[1.0], [2.0], [6.0]]])
    given = {"query": query, "key": key, "value": value}
    assert compute("scaled_dot_product_attention", **given).tolist() == [[[3.0]]]
    only = compute("scaled_dot_product_attention", **given, attn_mask=np.array([False, True, False]))
    assert only.tolist() == [[[2.0]]]
    only = compute("scaled_dot_product_attention", **given, attn_mask=np.array([-np.inf, -np.inf, 0]))
    assert only.tolist() == [[[6.0]]]
    none = compute("scaled_dot_product_attention", **given, attn_mask=np.zeros(3, bool))
    assert np.isnan(none).all()


def test_large_scores_do_not_overflow(compute: Compute) -> None:
    query = key = np.full((1, 2, 4), 100.0)
    value = np.array([[[1.0], [3.0]]])
    found = compute("scaled_dot_product_attention", query=query, key=key, value=value)
    assert found.tolist() == [[[2.0], [2.0]]]


@pytest.mark.parametrize(
    ("shapes", "mask"),
    [
        (((3, 4), (5, 4), (5, 6)), None),
        (((2, 3, 4), (1, 5, 4), (2, 5, 6)), None),
        (((2, 3, 4), (2, 5, 4), (1, 5, 6)), None),
        (((1, 2, 3, 4), (2, 5, 4), (2, 5, 6)), None),
        (((2, 3, 4), (2, 5, 4), (2, 5, 6)), (3, 1)),
        (((2, 3, 4), (2, 5, 4), (2, 5, 6)), (3, 4)),
        (((2, 3, 4), (2, 5, 4), (2, 5, 6)), ()),
    ],
)
def test_wrong_shapes_are_refused(compute: Compute, shapes: Any, mask: Any) -> None:
    query, key, value = map(np.ones, shapes)
    with pytest.raises(ValueError, match="are needed" if mask is None else "the mask is"):
        compute(
            "scaled_dot_product_attention", query=query, key=key, value=value,
            attn_mask=None if mask is None else np.ones(mask),
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (2, 2, 5), (4, 5)])
def test_masks_that_do_not_broadcast_are_refused(compute: Compute, shape: Any) -> None:
    with pytest.raises(RuntimeError, match="expand"):
        compute(
            "scaled_dot_product_attention", query=np.ones((1, 3, 4)), key=np.ones((1, 5, 4)), value=np.ones((1, 5, 6)),
            attn_mask=np.ones(shape),
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_attention(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    query, key, value = (
        random.normal(size=shape).astype(dtype) for shape in ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6))
    )
    mask = random.normal(size=(3, 5)).astype(dtype)
    shown = np.tri(3, 5, 2, dtype=bool)
    found = execute(
        lambda mb, query, key, value, mask: (
            mb.scaled_dot_product_attention(query=query, key=key, value=value),
            mb.scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=mask),
            mb.scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=shown),
        ),
        target="iOS18",
        query=query,
        key=key,
        value=value,
        mask=mask,
    )
    for one, given in zip(found, (None, mask, shown), strict=True):
        wanted = attended(query, key, value, given)
        assert one.shape == wanted.shape
        if dtype == np.float16:
            np.testing.assert_array_max_ulp(one.astype(np.float16), wanted.astype(np.float16), maxulp=1)
        else:
            np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)
