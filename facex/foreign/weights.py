"""Whether the convolutions of a file are those of a checkpoint, through rounding, channel scales and folded pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facex.exporters._foreign import Convolution
from facex.provenance import SAME, Agreement, Answer, FirstConvolution, Layer, Weights

if TYPE_CHECKING:
    from torch import nn

    from facex.exporters._foreign import DoubleArray

EXACT_DB = 100.0
"""Folding a batch norm in float32, in whatever order, leaves 120 dB and more."""

FLOOR_DB = {32: 80.0, 16: 50.0}
"""Bits of a weight -> lowest ratio that its rounding explains; below 16 bits see `_floor_db`."""

LIMIT_DB = 150.0
"""What float64 sums can tell from nothing."""

SCALES_TELL_DB = 6.0
"""Channel scales that explain this much more are there; fewer are what any fit gains from its freedom."""

FIRST_BIAS_DB = 30.0
ENOUGH_DB = 60.0
SWEEPS = 30
WORST_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A convolution of the file beside one of the checkpoint.

    Attributes:
        plain_db: of the weights as they are.
        scaled_db: of the weights up to `rows` and `columns`.
        rows: float64 [out of the file], factor of every output channel.
        columns: float64 [in of the file], factor of every input channel.
        channels: permutation of the checkpoint's input channels.
    """

    plain_db: float
    scaled_db: float
    rows: DoubleArray
    columns: DoubleArray
    channels: tuple[int, ...]


def of_network(network: nn.Module) -> tuple[Convolution, ...]:
    """The convolutions of a network whose batch norms are folded, in the order of their definition."""
    from torch import nn

    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().numpy().astype(np.float64)
            bias = np.zeros(len(weight)) if module.bias is None else module.bias.detach().numpy().astype(np.float64)
            found.append(
                Convolution(name=name, weight=weight, bias=bias, groups=module.groups, stored="float32", bits=32)
            )
    return tuple(found)


def compare(wanted: Sequence[Convolution], found: Sequence[Convolution]) -> Weights:
    """Give every convolution of the checkpoint the one of the file that is most like it, each at most once.

    Args:
        wanted: the checkpoint's, folded; the first one over three channels is the one that sees the pixels.
        found: the file's.
    """
    first = next((i for i, c in enumerate(wanted) if c.weight.shape[1] == 3 and c.groups == 1), None)
    pairs = {
        (i, j): likeness
        for i, ours in enumerate(wanted)
        for j, theirs in enumerate(found)
        if (likeness := _likeness(ours, theirs, permuted=i == first)) is not None
    }
    chosen = _assigned({pair: _best_db(likeness) for pair, likeness in pairs.items()})
    layers = tuple(
        _layer(ours, found[chosen[i]], pairs[i, chosen[i]]) if i in chosen
        else Layer(name=ours.name, found="", parameters=_parameters(ours), agreement=Agreement.MISSING)
        for i, ours in enumerate(wanted)
    )  # fmt: skip
    answer, reason = _verdict(layers, len(found))
    seen = None
    if first is not None and first in chosen and layers[first].agreement in SAME:
        seen = _first(wanted[first], found[chosen[first]], pairs[first, chosen[first]])
    unmatched = tuple(c.name for j, c in enumerate(found) if j not in chosen.values())
    return Weights(built_from=answer, reason=reason, layers=layers, unmatched=unmatched, first=seen)


def _assigned(ratios_db: Mapping[tuple[int, int], float]) -> dict[int, int]:
    """Ours -> theirs, one to one: the best pair first, then exchanges while they help.

    A convolution of which one input is alive, as in a squeeze-and-excitation, is like any other up to the scales of its
    outputs. Taken greedily, it might go to the wrong one; beyond `ENOUGH_DB` a pair is therefore no better than that.
    """
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for i, j in sorted(ratios_db, key=lambda pair: (-min(ratios_db[pair], ENOUGH_DB), pair)):
        if i not in chosen and j not in taken:
            chosen[i] = j
            taken.add(j)

    def worth(i: int, j: int) -> float:
        return min(ratios_db.get((i, j), -math.inf), ENOUGH_DB)

    improved = True
    while improved:
        improved = False
        for a, b in itertools.combinations(chosen, 2):
            now, then = worth(a, chosen[a]) + worth(b, chosen[b]), worth(a, chosen[b]) + worth(b, chosen[a])
            if then > now + 1e-6:
                chosen[a], chosen[b] = chosen[b], chosen[a]
                improved = True
    return chosen


def _parameters(convolution: Convolution) -> int:
    return int(convolution.weight.size + convolution.bias.size)


def _best_db(likeness: Likeness) -> float:
    return max(likeness.plain_db, likeness.scaled_db)


def _likeness(ours: Convolution, theirs: Convolution, *, permuted: bool) -> Likeness | None:
    """None where the shapes cannot be the same convolution's."""
    laid = _laid_over(ours, theirs)
    if laid is None:
        return None
    orders = itertools.permutations(range(3)) if permuted else [tuple(range(laid.shape[1]))]
    return max((_scaled(laid, theirs.weight, tuple(order)) for order in orders), key=_best_db)


def _laid_over(ours: Convolution, theirs: Convolution) -> DoubleArray | None:
    """Our weight in the shape of theirs, which may hold every channel twice, or a depthwise one as a dense one.

    W leaky(x) is [W, -W] relu([x, -a x]): an integer file may hold the second form, whose channels are those of the
    first, twice, up to a factor each.
    """
    weight = ours.weight
    if weight.shape[1] == 1 and ours.groups == len(weight) and theirs.groups == 1 and theirs.weight.shape[1] > 1:
        dense = np.zeros((len(weight), len(weight), *weight.shape[2:]))
        dense[range(len(weight)), range(len(weight))] = weight[:, 0]
        weight = dense
    elif ours.groups != theirs.groups:
        return None
    if weight.shape[2:] != theirs.weight.shape[2:]:
        return None
    times = [b / a for a, b in zip(weight.shape[:2], theirs.weight.shape[:2], strict=True)]
    if any(t not in (1, 2) for t in times) or (theirs.groups > 1 and times != [1, 1]):
        return None
    return np.tile(weight, (int(times[0]), int(times[1]), 1, 1))


def _scaled(ours: DoubleArray, theirs: DoubleArray, order: tuple[int, ...]) -> Likeness:
    """Fit theirs = rows * ours * columns by alternating least squares, every output channel counting about the same."""
    laid = ours[:, list(order)]
    both, own, given = ((a * b).sum(axis=(2, 3)) for a, b in ((laid, theirs), (laid, laid), (theirs, theirs)))
    energy = given.sum(axis=1)
    # channels that are all but dead count little: what is rounded to nothing there matters to nobody
    importance = 1 / np.maximum(energy + 1e-3 * energy.mean(), np.finfo(float).tiny)

    def ratio_db(rows: DoubleArray, columns: DoubleArray) -> float:
        factor = rows[:, None] * columns[None]
        noise = (importance @ (given - 2 * factor * both + factor**2 * own)).sum()
        return _db(float(importance @ energy), float(noise))

    columns = np.ones(laid.shape[1])
    if _doubled(laid):
        columns[len(columns) // 2 :] = -1.0
    plain_db = ratio_db(np.ones(len(laid)), np.ones(laid.shape[1]))
    rows = _quotient(both @ columns, own @ columns**2)
    for _ in range(SWEEPS if len(columns) > 1 else 0):
        weighted = importance * rows
        columns = _quotient(weighted @ both, (weighted * rows) @ own)
        rows = _quotient(both @ columns, own @ columns**2)
    return Likeness(plain_db=plain_db, scaled_db=ratio_db(rows, columns), rows=rows, columns=columns, channels=order)


def _doubled(laid: DoubleArray) -> bool:
    half = laid.shape[1] // 2
    return laid.shape[1] % 2 == 0 and bool((laid[:, :half] == laid[:, half:]).all())


def _quotient(a: DoubleArray, b: DoubleArray) -> DoubleArray:
    """The first by the second; 1 where that is zero."""
    return np.divide(a, b, out=np.ones_like(a), where=b > 0)


def _db(signal: float, noise: float) -> float:
    if signal <= 0:
        return LIMIT_DB if noise <= 0 else -LIMIT_DB
    return LIMIT_DB if noise <= signal * 10 ** (-LIMIT_DB / 10) else 10 * math.log10(signal / noise)


def _floor_db(convolution: Convolution) -> float:
    """The lowest ratio that rounding explains; a float32 that half precision holds as well counts as one of that."""
    bits = convolution.bits
    if bits == 32:
        with np.errstate(over="ignore"):
            halves = convolution.weight.astype(np.float16).astype(np.float64)
        bits = 16 if (halves == convolution.weight).all() else 32
    # uniform steps over +-4 standard deviations give 6.02 bits - 7.3; 12 more for one scale over uneven channels
    return FLOOR_DB.get(bits, 6.02 * bits - 19.0)


def _layer(ours: Convolution, theirs: Convolution, likeness: Likeness) -> Layer:
    floor = _floor_db(theirs)
    if likeness.plain_db >= min(EXACT_DB, max(floor, likeness.scaled_db - SCALES_TELL_DB)):
        agreement = Agreement.EXACT if likeness.plain_db >= EXACT_DB else Agreement.ROUNDED
        snr_db, rows = likeness.plain_db, np.ones_like(likeness.rows)
    else:
        agreement = Agreement.SCALED if likeness.scaled_db >= floor else Agreement.DIFFERS
        snr_db, rows = likeness.scaled_db, np.ones_like(likeness.rows) if _even(likeness.rows) else likeness.rows
    bias = _bias(ours, theirs) * rows
    if agreement in (Agreement.SCALED, Agreement.DIFFERS) and not _even(rows):
        # of a factor that rows and columns could share, the biases tell whose it is
        bias = bias * _share(bias, theirs.bias)
    signal, noise = float(np.square(bias).sum()), float(np.square(theirs.bias - bias).sum())
    return Layer(
        name=ours.name,
        found=theirs.name,
        parameters=_parameters(ours),
        agreement=agreement,
        stored=theirs.stored,
        snr_db=snr_db,
        bias_snr_db=None
        if signal == 0 or (agreement is Agreement.SCALED and ours.weight.shape[1] == 1)
        else _db(signal, noise),
    )


def _first(ours: Convolution, theirs: Convolution, likeness: Likeness) -> FirstConvolution:
    """The order, the scale and the mean that were folded into the convolution that sees the pixels."""
    even = _even(likeness.rows)
    factor = float(likeness.rows.mean()) if even else 1.0
    bias = _bias(ours, theirs) * likeness.rows / factor
    # theirs(x) = W'(x - mean) + bias, so that their bias is bias - sum(W') mean; see `_layer` for uneven rows
    sums = theirs.weight.sum(axis=(2, 3))
    unknown = -sums if even else np.column_stack([-sums, bias])
    known = theirs.bias - bias if even else theirs.bias
    solved, *_ = np.linalg.lstsq(unknown, known, rcond=None)
    told = _db(float(np.square(known).sum()), float(np.square(known - unknown @ solved).sum())) >= FIRST_BIAS_DB
    without = bias if even else bias * _share(bias, theirs.bias)
    needed = _db(float(np.square(without).sum()), float(np.square(theirs.bias - without).sum())) < FIRST_BIAS_DB
    return FirstConvolution(
        channels=likeness.channels,
        scale=tuple(float(c * factor) for c in likeness.columns) if even else None,
        mean=tuple(map(float, solved[:3])) if told and needed else None,
    )


def _bias(ours: Convolution, theirs: Convolution) -> DoubleArray:
    """Our bias, once for every copy of the channels; see `_laid_over`."""
    return np.tile(ours.bias, len(theirs.bias) // len(ours.bias))


def _even(rows: DoubleArray) -> bool:
    """Whether all outputs have one factor, which then is the inputs'."""
    return float(np.ptp(rows)) <= 0.02 * abs(float(rows.mean()))


def _share(ours: DoubleArray, theirs: DoubleArray) -> float:
    """The factor on the one that comes nearest to the other."""
    own = float(ours @ ours)
    return float(ours @ theirs) / own if own else 1.0


def _verdict(layers: Sequence[Layer], found: int) -> tuple[Answer, str]:
    if not found:
        return Answer.UNDECIDED, "no convolution with constant weights could be read from the file"
    missing = [layer for layer in layers if layer.agreement is Agreement.MISSING]
    other = sorted(
        (layer for layer in layers if layer.agreement is Agreement.DIFFERS), key=lambda layer: layer.snr_db or 0.0
    )
    same = len(layers) - len(missing) - len(other)
    if not missing and not other:
        return Answer.YES, f"all {len(layers)} convolutions are the checkpoint's"
    parts = [f"{same} of {len(layers)} convolutions are the checkpoint's"]
    if other:
        worst = ", ".join(f"{layer.name} ({layer.snr_db:.1f} dB)" for layer in other[:WORST_SHOWN])
        parts.append(f"{len(other)} of the same shape hold other weights, the worst {worst}")
    if missing:
        parts.append(f"{len(missing)} have no counterpart of their shape, such as {missing[0].name}")
    if other and same > len(layers) // 2:
        parts.append("it may have been trained on, or pruned, from this checkpoint")
    undecided = not other and same > len(layers) // 2
    return Answer.UNDECIDED if undecided else Answer.NO, "; ".join(parts)
