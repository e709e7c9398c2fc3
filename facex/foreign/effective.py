"""From the mean and scale that were fitted to what they mean: what is off, and what the caller is to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.foreign import feeds
from facex.provenance import Feed, FirstConvolution, Fit, Triple

if TYPE_CHECKING:
    from facex.foreign.fit import Fitted
    from facex.reference.detector import Detector
    from facex.types import Contract

CLEAR_DB = 6.0
"""Agreement from which a file is said to work. Real files fed the wrong channel order reached 4 to 8, fitted."""

APART_DB = 3.0
"""By which one channel order must be better than the other, both with the mean and scale that suit them best."""

MEAN_TOLERANCE = 2.0
"""Of 255 levels; a detector does not notice less, and 8 bits of activations cannot tell it."""

SCALE_TOLERANCE = 0.03

FEIGNED_MEAN = 80.0
FEIGNED_SCALE = 0.7
"""Mean and scale that a fit finds in noise as large as the signal. Files of 8 bits at 18 dB, which rounding shifts all
in one direction, were off by 8 and by 0.02."""


def as_fit(
    solved: Fitted,
    feed: Feed,
    contract: Contract,
    says: Feed | None,
    first: FirstConvolution | None,
    agreement_db: float,
) -> Fit:
    """What the fitted numbers say of the file alone, and how sure that is.

    Args:
        solved: mean and logarithm of the scale of feed and file together.
        feed: under which the file was run.
        contract: the checkpoint's.
        says: what the file says that it must be fed.
        first: the mean that the file's first convolution holds is believed where it agrees with the fit.
        agreement_db: that the fit reaches.
    """
    outside = np.asarray(_by_colour(feed.mean, feed, contract))
    promised = outside if says is None else np.asarray(_by_colour(says.mean, says, contract))
    noise = 10 ** (-agreement_db / 20)
    error = np.maximum(3 * solved.error, np.array([*[FEIGNED_MEAN * noise] * 3, FEIGNED_SCALE * noise]))
    mean, source = solved.parameters[:3], "least squares"
    held = _held_mean(first)
    if held is not None and (np.abs(held + outside - mean) <= error[:3] + MEAN_TOLERANCE).all():
        mean, source, error = held + outside, "the first convolution", np.array([MEAN_TOLERANCE] * 3 + [error[3]])
    return Fit(
        mean=_triple(mean),
        mean_error=_triple(error[:3]),
        mean_from=source,
        mean_difference=_triple(mean - outside + promised - np.asarray(contract.mean)),
        scale_ratio=float(np.exp(solved.parameters[3])),
        scale_error=float(error[3]),
        agreement_db=agreement_db,
    )


def _held_mean(first: FirstConvolution | None) -> NDArray[np.float64] | None:
    """The mean that the first convolution's bias subtracts, by the network's channels."""
    if first is None or first.mean is None:
        return None
    held = np.zeros(3)
    held[list(first.channels)] = first.mean
    return held


def _by_colour(values: Triple, feed: Feed, contract: Contract) -> Triple:
    """From the channel order of a feed to the network's, or back."""
    return values if feed.channel_order is contract.channel_order else feeds.flipped(values)


def _triple(values: Any) -> Triple:
    a, b, c = (float(v) for v in values)
    return a, b, c


def mean_is_off(fit: Fit) -> bool:
    """Whether the file subtracts another mean than it should, beyond what the fit can tell."""
    return _beyond(fit.mean_difference, fit.mean_error)


def _beyond(difference: Triple, error: Triple) -> bool:
    return any(abs(d) > max(MEAN_TOLERANCE, e) for d, e in zip(difference, error, strict=True))


def sensible(values: Triple, fit: Fit) -> Triple:
    """Without the digits that the fit cannot know."""
    digits = 0 if max(fit.mean_error) >= 1 else 1
    return _triple(round(v, digits) + 0.0 for v in values)


def scale_is_off(fit: Fit) -> bool:
    """Whether feed and file together scale otherwise than the contract."""
    return abs(fit.scale_ratio - 1) > max(SCALE_TOLERANCE, fit.scale_error)


def works_under(feed: Feed, fit: Fit, detector: Detector) -> Feed:
    """The feed, with what the fit says that is wanting."""
    missing = np.asarray(detector.contract.mean) - np.asarray(fit.mean)
    off = _beyond(_triple(missing), fit.mean_error)
    if not off and not scale_is_off(fit):
        return feed
    more = _by_colour(_triple(missing), feed, detector.contract) if off else (0.0, 0.0, 0.0)
    factor = 1 / fit.scale_ratio if scale_is_off(fit) else 1.0
    return Feed(
        label=f"{feed.label}, corrected",
        channel_order=feed.channel_order,
        mean=sensible(_triple(a + b for a, b in zip(feed.mean, more, strict=True)), fit),
        scale=_triple(s * factor for s in feed.scale),
    )


def decision(fits: Sequence[tuple[Feed, Fit]], feeds_tried: int) -> tuple[bool, str]:
    """Whether one channel order is clearly right, and why: the fits are those of the best feed of each."""
    ranked = sorted(fits, key=lambda pair: -pair[1].agreement_db)
    (feed, best), rest = ranked[0], ranked[1:]
    how = f"fed {feed.in_words()} and with the mean that suits it best, it follows the reference at "
    if best.agreement_db < CLEAR_DB:
        return False, f"none of {feeds_tried} feeds makes it work: {how}{best.agreement_db:.1f} dB at most"
    if rest and best.agreement_db - rest[0][1].agreement_db < APART_DB:
        other, close = rest[0]
        return (
            False,
            f"{how}{best.agreement_db:.1f} dB, but fed {other.channel_order} at {close.agreement_db:.1f} dB too",
        )
    beside = f", and at {rest[0][1].agreement_db:.1f} dB in the other channel order" if rest else ""
    return True, f"{how}{best.agreement_db:.1f} dB{beside}"
