"""What a file of any tool and a checkpoint have in common: what `facex identify FILE --reference` answers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from facex.types import ChannelOrder, Size, TensorInfo, _Word, as_plain

Triple = tuple[float, float, float]


class Answer(_Word):
    """To a question that the evidence may leave open."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


class Agreement(_Word):
    """How a convolution of the file follows from one of the checkpoint, batch norm folded."""

    EXACT = "exact"
    ROUNDED = "rounded"
    SCALED = "scaled"
    DIFFERS = "differs"
    MISSING = "missing"


SAME = frozenset({Agreement.EXACT, Agreement.ROUNDED, Agreement.SCALED})


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution of the checkpoint and the one of the file that is most like it.

    Attributes:
        name: of the module in the network.
        found: name in the file; empty where nothing has its shape.
        parameters: weights and biases of it.
        stored: type of the file's weights; empty where nothing was found.
        snr_db: of the file's weights, up to the scales of channels where `agreement` is `scaled`.
        bias_snr_db: of its biases, with the same scales; None where the checkpoint's are all zero, and where a
            depthwise weight is scaled, for its factors are those of outputs over those of inputs.
    """

    name: str
    found: str
    parameters: int
    agreement: Agreement
    stored: str = ""
    snr_db: float | None = None
    bias_snr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class FirstConvolution:
    """What the first convolution shows of a preprocessing that was folded into it.

    Attributes:
        channels: input channel of the network that each of the file's meets: (2, 1, 0) is the other colour order.
        scale: factor on each of the file's, where it is the same for all outputs; else None.
        mean: that its bias subtracts, of the file's own input, by the file's channels; None where the bias tells none.
    """

    channels: tuple[int, ...]
    scale: tuple[float, ...] | None
    mean: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The comparison of weights.

    Attributes:
        layers: the checkpoint's, in its order.
        unmatched: convolutions of the file that no layer of the checkpoint claims.
        reason: of `built_from`, in words.
    """

    built_from: Answer
    reason: str
    layers: tuple[Layer, ...]
    unmatched: tuple[str, ...]
    first: FirstConvolution | None

    @property
    def parameter_shares(self) -> dict[str, float]:
        """Share of the checkpoint's parameters by agreement, 0-1."""
        total = sum(layer.parameters for layer in self.layers)
        counted: Counter[str] = Counter()
        for layer in self.layers:
            counted[layer.agreement.value] += layer.parameters
        return {a.value: counted[a.value] / total for a in Agreement if counted[a.value]}

    @property
    def layer_counts(self) -> dict[str, int]:
        """Convolutions of the checkpoint by agreement."""
        counted = Counter(layer.agreement.value for layer in self.layers)
        return {a.value: counted[a.value] for a in Agreement if counted[a.value]}


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a caller does to pixels of 0-255 before the file: order, then (pixel - mean) * scale.

    Attributes:
        label: its name, for people.
        mean: by channel as fed.
        scale: by channel as fed.
    """

    label: str
    channel_order: ChannelOrder
    mean: Triple = (0.0, 0.0, 0.0)
    scale: Triple = (1.0, 1.0, 1.0)

    def in_words(self) -> str:
        """Such as `BGR, minus (104, 117, 123)`."""
        words = [str(self.channel_order).upper()]
        if any(self.mean):
            words.append(f"minus {numbers(self.mean)}")
        if set(self.scale) != {1.0}:
            words.append(f"divided by {numbers(tuple(1 / s for s in self.scale))}")
        return ", ".join([*words, "0-255"] if len(words) == 1 else words)


def numbers(values: tuple[float, ...]) -> str:
    """`(104, 117, 123)`; at most one decimal."""
    return f"({', '.join(f'{round(v, 1) + 0.0:g}' for v in values)})"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One feed, tried.

    Attributes:
        agreement_db: signal-to-noise ratio of the file's outputs against the reference's, before decoding, mean over
            boxes, scores and landmarks.
        matched_f1: of faces; None where no boxes or scores were recognised, or there is no face.
    """

    feed: Feed
    agreement_db: float
    matched_f1: float | None


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output of the file and what its values turned out to be; `meaning` is empty where nothing fits."""

    name: str
    shape: tuple[int, ...]
    meaning: str
    agreement_db: float | None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The mean and the scale under which the reference follows the file best, by least squares.

    Attributes:
        mean: that feed and file subtract together, 0-255 pixels, in the network's channel order.
        mean_error: what it may be wrong by: three standard errors, from the spread over the pictures, or what the noise
            of the file's own rounding can feign, whichever is more.
        mean_from: where the mean was read: the file's first convolution, or the least squares alone.
        mean_difference: what the file subtracts too much by itself, if the feed is to be what the file says of itself,
            or 0-255 pixels; network's channel order.
        scale_ratio: the scale of feed and file together over the contract's.
        scale_error: what it may be wrong by.
        agreement_db: that the reference reaches with them.
    """

    mean: Triple
    mean_error: Triple
    mean_from: str
    mean_difference: Triple
    scale_ratio: float
    scale_error: float
    agreement_db: float


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the file does, run on pictures beside the reference.

    Attributes:
        runtime: what ran it; empty where nothing could.
        pictures: photographs, or drawn ones.
        photographs: whether they are photographs.
        decided: whether one preprocessing is clearly the right one.
        reason: why it is not, or what decides it.
        works_under: what the caller must do for it to work; None where undecided.
        trials: best first.
        fit: None where nothing was recognised.
    """

    decided: bool
    reason: str
    runtime: str = ""
    size: Size | None = None
    pictures: int = 0
    photographs: bool = False
    works_under: Feed | None = None
    trials: tuple[Trial, ...] = ()
    outputs: tuple[Output, ...] = ()
    fit: Fit | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A file against a checkpoint.

    Attributes:
        file: its name.
        inputs: as the file states them.
        says: what the file says that it must be fed; None where it says nothing.
        says_source: where it says so.
        conclusions: in words, the most important first.
        sound: built from the checkpoint and working under what it says: yes; clearly not: no.
    """

    file: str
    target: str
    checkpoint: str
    inputs: tuple[TensorInfo, ...]
    says: Feed | None
    says_source: str
    weights: Weights
    behaviour: Behaviour
    sound: Answer
    conclusions: tuple[str, ...] = field(default_factory=tuple)

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not finite is null."""
        weights = {
            **as_plain(self.weights),
            "parameter_shares": self.weights.parameter_shares,
            "layer_counts": self.weights.layer_counts,
        }
        plain: dict[str, Any] = _finite({**as_plain(self), "weights": weights})
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
