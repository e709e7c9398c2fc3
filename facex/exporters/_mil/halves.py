"""What half precision does to a value, what is too much, and which operations are kept in single precision for it.

IEEE 754 binary16 has 11 significant bits: up to `LARGEST`, and down to `SMALLEST_NORMAL`, a value is rounded by at most
2^-11 of itself. Below, steps stay 2^-24 wide, so that what is small loses bits, and what is at most 2^-25 is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facex.types import as_plain

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
LOST = 2.0**-25
"""The largest magnitude that becomes zero: half of the smallest subnormal one, and ties go to even."""

HEADROOM = 4.0
"""How much further values may go in other photographs. Of two public detectors, no result went further than 1.75 times
as far in 104 photographs as in 24 others of the same set; photographs of another kind are given as much again."""

ERROR_LIMIT = 2.0**-9
"""Of a channel's error (RMS, relative). Normal values cannot give more than 2^-11, and no result of three healthy
detectors has a channel that gives more than 0.72 of that; at 2^-9 two more of the eleven bits are lost."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One value that a half-precision operation would store or read, as single precision has it.

    Attributes:
        name: of the result, or of the operation and its parameter, `conv_1.weight`, for a constant.
        operator: type of the operation that writes the result, or that reads the constant.
        operations: those that write or read it and would be in half precision.
        constant: whether it is the same for all photographs.
        largest: the largest magnitude over all photographs; infinite where single precision itself has no finite value.
        beyond_fraction: share of values of a magnitude over `LARGEST`, 0-1.
        subnormal_fraction: share of the values other than zero of a magnitude below `SMALLEST_NORMAL`, 0-1.
        lost_fraction: share of them that would become zero, 0-1.
        error: of the channel that rounding to half precision hurts most: root mean square of the error of its finite
            values over that of the values. For a constant it is that of the operation's result.
    """

    name: str
    operator: str
    operations: tuple[str, ...]
    constant: bool
    largest: float
    beyond_fraction: float
    subnormal_fraction: float
    lost_fraction: float
    error: float

    @property
    def danger(self) -> float:
        """How many times over its limit it is, by magnitude or by error; not at risk up to 1."""
        return max(self.largest / self._highest, self.error / ERROR_LIMIT)

    @property
    def risk(self) -> str:
        """Why it must not be stored in half precision; empty where it may be."""
        if self.largest > LARGEST:
            what = f"up to {self.largest:.4g}" if math.isfinite(self.largest) else "not finite even in float32"
            return f"overflow: {what}, half precision ends at {LARGEST:.0f}"
        if self.largest > self._highest:
            return f"overflow: up to {self.largest:.4g}, more than 1/{HEADROOM:g} of {LARGEST:.0f}"
        if self.error > ERROR_LIMIT:
            where = "the result's channels" if self.constant else "its channels"
            return f"underflow: one of {where} is off by {self.error:.2%} (limit {ERROR_LIMIT:.2%})"
        return ""

    @property
    def _highest(self) -> float:
        return LARGEST if self.constant else LARGEST / HEADROOM

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not finite is null."""
        found = {**as_plain(self), "risk": self.risk}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def endangered(seen: Sequence[Seen]) -> list[Seen]:
    """Those at risk, the worst first."""
    return sorted((one for one in seen if one.risk), key=lambda one: -one.danger)


def kept(seen: Sequence[Seen]) -> frozenset[str]:
    """Operations to keep in single precision: all that write or read a value at risk.

    The writers alone would not do: between a writer in single precision and a reader in half precision stands a cast,
    which stores the value in half precision after all.
    """
    return frozenset(name for one in seen if one.risk for name in one.operations)
