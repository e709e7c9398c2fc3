"""The fields of a contract in the words of the command line."""

from __future__ import annotations

from collections.abc import Callable

from facex.types import Contract


def activation(slope: float) -> str:
    """As `--activation` takes it."""
    return f"leaky:{joined((slope,))}" if slope else "relu"


def joined(values: tuple[float, ...]) -> str:
    """With all digits: what is printed may be given back as an option."""
    return ",".join(repr(value).removesuffix(".0") for value in values)


OPTIONS: dict[str, tuple[str, str, Callable[[Contract], str]]] = {
    "activation_slope": ("activation", "--activation", lambda c: activation(c.activation_slope)),
    "pyramid_slope": ("pyramid activation", "--pyramid-activation", lambda c: activation(c.pyramid_slope or 0.0)),
    "min_sizes": ("anchors", "--anchors", lambda c: ";".join(joined(level) for level in c.min_sizes)),
    "variances": ("variances", "--variances", lambda c: joined(c.variances)),
    "channel_order": ("channels", "--channel-order", lambda c: c.channel_order.value),
    "mean": ("mean", "--mean", lambda c: joined(c.mean)),
    "scale": ("scale", "--scale", lambda c: joined(c.scale)),
    "landmarks": ("landmarks", "--landmarks", lambda c: str(c.landmarks)),
}
"""Field of the contract -> what it is called, the option that states it, and its value there."""
