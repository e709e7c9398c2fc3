"""Attention."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.registry import operator

if TYPE_CHECKING:
    from torch import Tensor


@operator
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(E) + mask) value over the last two dimensions, E their last extent.

    A boolean mask is 0 where true and -infinity where false; a row with no true gives NaN. It broadcasts to the scores.
    """
    ranks = {query.ndim, key.ndim, value.ndim}
    batches = {tuple(given.shape[:-2]) for given in (query, key, value)}
    if len(ranks) > 1 or query.ndim < 3 or len(batches) > 1:
        shapes = ", ".join(str(list(given.shape)) for given in (query, key, value))
        raise ValueError(f"{shapes}: all of one rank, 3 or more, are needed, alike but for the last two dimensions")
    scores = torch.matmul(query, key.transpose(-2, -1)) / sqrt(query.shape[-1])
    if attn_mask is not None:
        if attn_mask.ndim < 1 or attn_mask.shape[-1] != key.shape[-2]:
            raise ValueError(f"the mask is {list(attn_mask.shape)}, the scores are {list(scores.shape)}")
        mask = attn_mask.expand(scores.shape)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.matmul(torch.softmax(scores, -1), value)
