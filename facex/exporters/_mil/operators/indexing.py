"""Operators that find elements by index, put them there, and make indices.

A negative index counts from the end until iOS 16; from iOS 17 on it is out of range, and `validate_indices`, new there,
says whether that is an error. What an index out of range gives without it is documented as undefined: here it is an
error always, and a negative one still counts from the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.operators.shaping import axis_from_start
from facex.exporters._mil.registry import Ints, UnsupportedModeError, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "update": lambda old, new: new, "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "max": torch.maximum, "min": torch.minimum,
}  # fmt: skip
UINT16_PLACES = 1 << 16


@operator
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of x: y[p.., i.., q..] = x[p.., indices[i..], q..], where p.. are the dimensions before the axis.

    The first `batch_dims` of them, b.., are the indices' first dimensions too, which say indices[b.., i..] then.
    """
    axis = axis_from_start(axis, x.ndim)
    if not 0 <= batch_dims <= min(axis, indices.ndim) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"{batch_dims} dimensions of {list(x.shape)} and {list(indices.shape)} are not a batch")
    batch, before, after = x.shape[:batch_dims], x.shape[batch_dims:axis], x.shape[axis + 1 :]
    count, extent = math.prod(batch), x.shape[axis]
    flat = x.reshape(count, math.prod(before), extent, math.prod(after))
    places = _places(indices, extent, validate_indices).reshape(count, math.prod(indices.shape[batch_dims:]))
    found = flat[torch.arange(count)[:, None], :, places]  # [batch, index, before, after]
    return found.movedim(1, 2).reshape([*batch, *before, *indices.shape[batch_dims:], *after])


@operator
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """y[p.., i, q..] = x[p.., indices[p.., i, q..], q..]; x and the indices have one shape but for the axis."""
    axis = axis_from_start(axis, x.ndim)
    _refuse_other_extents(x, indices, axis)
    return x.gather(axis, _places(indices, x.shape[axis], validate_indices))


@operator
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """y[i..] = x[indices[i.., 0], indices[i.., 1], ...]: what x has beyond that many dimensions is a slice.

    The first `batch_dims` dimensions are those of x and of the indices: y[b.., i..] = x[b.., indices[b.., i.., 0], ..].
    """
    depth = batch_dims + indices.shape[-1]
    if not 0 <= batch_dims < indices.ndim or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"{batch_dims} dimensions of {list(x.shape)} and {list(indices.shape)} are not a batch")
    count, extents = math.prod(x.shape[:batch_dims]), tuple(x.shape[batch_dims:depth])
    places = _places_nd(indices, extents, validate_indices).reshape(count, math.prod(indices.shape[batch_dims:-1]))
    flat = x.reshape(count, math.prod(extents), math.prod(x.shape[depth:]))
    return flat[torch.arange(count)[:, None], places].reshape([*indices.shape[:-1], *x.shape[depth:]])


@operator
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",  # documented as "update"; coremltools writes this one, and expects it of Core ML in its tests
    validate_indices: bool = False,
) -> Tensor:
    """data, but y[p.., indices[i], q..] = mode(y[p.., indices[i], q..], updates[p.., i, q..]) for every i in order.

    Indices of more dimensions take their place in the updates' shape.
    """
    axis = axis_from_start(axis, data.ndim)
    _refuse_other_shape(updates, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))
    rows = data.movedim(axis, 0)
    taken = tuple(range(axis, axis + indices.ndim))
    news = updates.movedim(taken, tuple(range(indices.ndim)))
    places = _places(indices, data.shape[axis], validate_indices)
    return _scattered(rows, places, news.reshape(places.numel(), *rows.shape[1:]), mode).movedim(0, axis)


@operator
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """data, but y[p.., k, q..] = mode(y[p.., k, q..], updates[p.., i, q..]), k = indices[p.., i, q..], for every i."""
    axis = axis_from_start(axis, data.ndim)
    _refuse_other_extents(data, indices, axis)
    _refuse_other_shape(updates, tuple(indices.shape))
    own = torch.arange(data.numel()).reshape(data.shape)
    places = own.gather(axis, _places(indices, data.shape[axis], validate_indices))
    return _scattered(data.flatten(), places, updates.flatten(), mode).reshape(data.shape)


@operator
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """data, but y[k..] = mode(y[k..], updates[i..]), where k.. = indices[i.., :], for every i in order."""
    depth = indices.shape[-1]
    _refuse_other_shape(updates, (*indices.shape[:-1], *data.shape[depth:]))
    extents, slices = tuple(data.shape[:depth]), data.shape[depth:]
    places = _places_nd(indices, extents, validate_indices)
    rows, news = data.reshape(math.prod(extents), *slices), updates.reshape(places.numel(), *slices)
    return _scattered(rows, places, news, mode).reshape(data.shape)


@operator
def one_hot(
    indices: Tensor, one_hot_vector_size: int, axis: int = -1, on_value: float = 1, off_value: float = 0
) -> Tensor:
    """A new dimension with the on value at the place that the index says and the off value at the others.

    The axis is its place in the result, which has the type of the two values. Nothing is documented of an index that is
    negative or too large: it is an error.
    """
    axis = axis_from_start(axis, indices.ndim + 1)
    if _dtype(on_value) != _dtype(off_value):
        raise ValueError(f"on value {on_value} and off value {off_value} are of different types")
    places = _places(indices, one_hot_vector_size, validate=True)
    vector = [1] * (indices.ndim + 1)
    vector[axis] = one_hot_vector_size
    on = places.unsqueeze(axis) == torch.arange(one_hot_vector_size).reshape(vector)
    return torch.where(
        on, torch.tensor(on_value, dtype=_dtype(on_value)), torch.tensor(off_value, dtype=_dtype(off_value))
    )


@operator
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """The indices that sort x along the axis; equals keep their order, which no document promises."""
    return x.sort(dim=axis, descending=not ascending, stable=True).indices.int()


@operator
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The k largest values along the axis, or the smallest if ascending, all for k = -1, with their indices.

    They are in order even where `sort` does not ask for one; of equals the first comes first, which no document
    promises.
    """
    axis = axis_from_start(axis, x.ndim)
    extent, dtypes = x.shape[axis], (None, "int32", "uint16") if return_indices else (None,)
    if k != -1 and not 0 < k <= extent:
        raise ValueError(f"{k} values of an extent of {extent}")
    if output_indices_dtype not in dtypes:
        raise ValueError(f"output_indices_dtype '{output_indices_dtype}' of {'' if return_indices else 'no '}indices")
    if output_indices_dtype == "uint16" and extent > UINT16_PLACES:
        raise ValueError(f"an extent of {extent} is too large for indices of uint16")
    found = x.sort(dim=axis, descending=not ascending, stable=True)
    values, indices = (v.narrow(axis, 0, extent if k == -1 else k) for v in found)
    return (values, indices.int()) if return_indices else values


@operator
def non_zero(x: Tensor) -> Tensor:
    """The indices of the elements other than 0, one in each row, in the order of the elements."""
    return x.nonzero().int()


@operator
def fill(shape: Ints, value: float = 0.0) -> Tensor:
    """The value everywhere; its type is the result's."""
    return torch.full(shape, value, dtype=_dtype(value))


@operator
def fill_like(ref_tensor: Tensor, value: float = 0.0) -> Tensor:
    """The value everywhere, in the shape of the reference; its type is the result's, not the reference's."""
    return torch.full(tuple(ref_tensor.shape), value, dtype=_dtype(value))


@operator
def range_1d(end: float, start: float, step: float) -> Tensor:
    """The values start + i * step, ceil((end - start) / step) of them: `end` is not reached."""
    if step == 0:
        raise ValueError("the step is 0")
    if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return (start + torch.arange(len(range(start, end, step))) * step).int()
    # counted in the values' own type: 0.6 / 0.2 is more than 3 in float64, and is 3 in float32
    length = (torch.tensor(end) - torch.tensor(start)) / torch.tensor(step)
    return (start + torch.arange(max(0, math.ceil(length.item())), dtype=torch.float64) * step).float()


def _dtype(value: float) -> torch.dtype:
    """Of the tensor that holds a value of this type; an integer or bool is one although it is called a float."""
    kinds = {bool: torch.bool, int: torch.int32, float: torch.float32}
    return kinds[type(value)]


def _places(indices: Tensor, extent: int, validate: bool) -> Tensor:
    """Indices from 0 on."""
    wrong = (indices < (0 if validate else -extent)) | (indices >= extent)
    if wrong.any():
        raise ValueError(f"index {int(indices[wrong][0])} is out of range: there are {extent} places")
    return torch.where(indices < 0, indices + extent, indices).long()


def _places_nd(indices: Tensor, extents: Ints, validate: bool) -> Tensor:
    """Of indices with a component for each extent in their last dimension: places in all of them, flattened."""
    if indices.shape[-1] != len(extents):
        raise ValueError(f"indices of {indices.shape[-1]} components are more than {len(extents)} dimensions")
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for component, extent in enumerate(extents):
        places = places * extent + _places(indices[..., component], extent, validate)
    return places


def _scattered(rows: Tensor, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Rows changed in the order of the updates, so that one that is named twice is changed twice.

    All first changes are made at once, then all second ones.
    """
    if mode not in MODES:
        raise ValueError(f"mode '{mode}' is not known; {', '.join(MODES)} are")
    if mode == "div" and not rows.is_floating_point():
        raise UnsupportedModeError("scatter divides integers, of which no document says the rounding")
    result, places = rows.clone(), places.flatten()
    ordered, order = places.sort(stable=True)
    turns = torch.arange(len(places)) - torch.searchsorted(ordered, ordered)
    by_turn = order[turns.argsort(stable=True)]
    for chosen in by_turn.split_with_sizes(torch.bincount(turns).tolist()):
        where = places[chosen]
        result[where] = MODES[mode](result[where], updates[chosen])
    return result


def _refuse_other_shape(updates: Tensor, wanted: Ints) -> None:
    if tuple(updates.shape) != wanted:
        raise ValueError(f"the updates are {list(updates.shape)}, not {list(wanted)}")


def _refuse_other_extents(x: Tensor, indices: Tensor, axis: int) -> None:
    if x.ndim != indices.ndim or any(
        a != b for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True)) if i != axis
    ):
        raise ValueError(f"indices {list(indices.shape)} and data {list(x.shape)} differ beside axis {axis}")
