"""What callers do to pixels before they give them to a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.provenance import Feed, Triple
from facex.types import ChannelOrder, Contract

if TYPE_CHECKING:
    from facex.exporters._foreign import Fed
    from facex.types import FloatArray

CAFFE_BGR: Triple = (104.0, 117.0, 123.0)
"""Mean of ImageNet in BGR order, rounded, as the models of Caffe's zoo subtract it, and most RetinaFaces."""

IMAGENET_RGB: tuple[Triple, Triple] = ((123.675, 116.28, 103.53), (1 / 58.395, 1 / 57.12, 1 / 57.375))
"""Mean, and one over the standard deviation, of torchvision's models, in RGB order and 0-255 pixels."""

HALF: Triple = (127.5, 127.5, 127.5)


def flipped(values: Triple) -> Triple:
    """In the other channel order."""
    a, b, c = values
    return (c, b, a)


def _same(value: float) -> Triple:
    return (value, value, value)


def candidates(contract: Contract, fed: Fed) -> list[Feed]:
    """What to try, each once: the usual preprocessings, and the contract's, in both channel orders.

    An input that takes bytes, or pictures of the system, can be fed nothing but pixels.
    """
    found: list[Feed] = []
    for order in ChannelOrder:
        turn = order is not contract.channel_order
        own = Feed(
            label="contract", channel_order=order,
            mean=flipped(contract.mean) if turn else contract.mean,
            scale=flipped(contract.scale) if turn else contract.scale,
        )  # fmt: skip
        found += [Feed(label="0-255", channel_order=order), own]
        if not only_pixels(fed):
            found += _usual(order)
            if fed.scale:
                found.append(_bytes(order, fed))
    unique = {(f.channel_order, f.mean, f.scale): f for f in reversed(found)}
    kept = [f for f in reversed(unique.values()) if not only_pixels(fed) or (not any(f.mean) and set(f.scale) == {1.0})]
    return sorted(kept, key=lambda f: f.channel_order.value, reverse=True)


def means(contract: Contract) -> list[Triple]:
    """Those that a file is likely to subtract: the right one, it in the other order, none, and grey."""
    return [contract.mean, flipped(contract.mean), CAFFE_BGR, flipped(CAFFE_BGR), (0.0, 0.0, 0.0), HALF]


def only_pixels(fed: Fed) -> bool:
    """Whether values below 0 or between two integers cannot be fed."""
    return fed.colours is not None or (np.dtype(fed.dtype).kind in "iu" and not fed.scale) or _is_pixels(fed)


def _is_pixels(fed: Fed) -> bool:
    return fed.dtype == "uint8" and fed.zero_point == 0 and abs(fed.scale - 1) < 0.01


def _usual(order: ChannelOrder) -> list[Feed]:
    bgr = order is ChannelOrder.BGR
    mean, scale = (flipped(v) for v in IMAGENET_RGB) if bgr else IMAGENET_RGB
    return [
        Feed(label="mean of ImageNet", channel_order=order, mean=CAFFE_BGR if bgr else flipped(CAFFE_BGR)),
        Feed(label="mean of the other order", channel_order=order, mean=flipped(CAFFE_BGR) if bgr else CAFFE_BGR),
        Feed(label="0-1", channel_order=order, scale=_same(1 / 255)),
        Feed(label="mean and deviation of ImageNet", channel_order=order, mean=mean, scale=scale),
        Feed(label="-1 to 1", channel_order=order, mean=HALF, scale=_same(1 / 127.5)),
        Feed(label="-1 to 1, by 128", channel_order=order, mean=HALF, scale=_same(1 / 128)),
    ]


def _bytes(order: ChannelOrder, fed: Fed) -> Feed:
    """Pixels as they are in the integers of the input: (q - zero point) * scale, q the pixel, or less 128 as int8."""
    zero = fed.zero_point + (128 if fed.dtype == "int8" else 0)
    return Feed(label="bytes as they are", channel_order=order, mean=_same(float(zero)), scale=_same(fed.scale))


def apply(feed: Feed, pixels: NDArray[Any], *, channels_last: bool) -> FloatArray:
    """uint8 or float [1, H, W, 3], RGB -> float32 as the file's layout wants it."""
    ordered = pixels[..., ::-1] if feed.channel_order is ChannelOrder.BGR else pixels
    values = (ordered.astype(np.float32) - np.asarray(feed.mean, np.float32)) * np.asarray(feed.scale, np.float32)
    return np.ascontiguousarray(values if channels_last else values.transpose(0, 3, 1, 2), np.float32)
