"""Operators that treat every element alone; operands broadcast as NumPy's do.

Integers wrap around at 32 bits. Where an integer operator has a fraction to lose, it is cut off (towards zero).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.registry import operator

if TYPE_CHECKING:
    from torch import Tensor

INT32 = (-(2**31), 2**31 - 1)
RANGES = {
    "int8": (-(2**7), 2**7 - 1), "uint8": (0, 2**8 - 1), "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1),
    "int32": INT32,
}  # fmt: skip
"""Least and greatest value of the integer types that `cast` knows."""


def truncated(values: Tensor, least: int = INT32[0], greatest: int = INT32[1]) -> Tensor:
    """Floats as integers: the fraction is cut off, what is out of range becomes its nearer end, not-a-number 0."""
    return values.double().nan_to_num(nan=0.0).trunc().clamp(least, greatest).to(torch.int32)


def wrapped(values: Tensor, least: int = INT32[0], greatest: int = INT32[1]) -> Tensor:
    """Integers in a range, modulo its size."""
    return (torch.remainder(values.long() - least, greatest - least + 1) + least).to(torch.int32)


@operator
def add(x: Tensor, y: Tensor) -> Tensor:
    """The sum x + y."""
    return x + y


@operator
def sub(x: Tensor, y: Tensor) -> Tensor:
    """The difference x - y."""
    return x - y


@operator
def mul(x: Tensor, y: Tensor) -> Tensor:
    """The product x * y."""
    return x * y


@operator
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """The quotient x / y; of two integers an integer, rounded towards zero."""
    if x.is_floating_point() or y.is_floating_point():
        return x / y
    return wrapped(torch.div(x.long(), y.long(), rounding_mode="trunc"))


@operator
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """The greatest whole number that is not above x / y, whatever the signs."""
    if x.is_floating_point() or y.is_floating_point():
        return torch.div(x, y, rounding_mode="floor")
    return wrapped(torch.div(x.long(), y.long(), rounding_mode="floor"))


@operator
def mod(x: Tensor, y: Tensor) -> Tensor:
    """The remainder x - y * floor(x / y); it has the sign of y, as that of Python's % does."""
    return torch.remainder(x, y)


@operator
def pow_(x: Tensor, y: Tensor) -> Tensor:
    """The power x^y; of integers an integer, so that a negative power of anything but 1 and -1 is 0."""
    return torch.pow(x, y)


@operator
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The greater of x and y; not-a-number on either side stays."""
    return torch.maximum(x, y)


@operator
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The lesser of x and y; not-a-number on either side stays."""
    return torch.minimum(x, y)


@operator
def equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x = y."""
    return x == y


@operator
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x and y differ."""
    return x != y


@operator
def greater(x: Tensor, y: Tensor) -> Tensor:
    """Whether x > y."""
    return x > y


@operator
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x >= y."""
    return x >= y


@operator
def less(x: Tensor, y: Tensor) -> Tensor:
    """Whether x < y."""
    return x < y


@operator
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x <= y."""
    return x <= y


@operator
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """Whether both are true."""
    return torch.logical_and(x, y)


@operator
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """Whether one of them or both are true."""
    return torch.logical_or(x, y)


@operator
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """Whether one of them is true and the other is not."""
    return torch.logical_xor(x, y)


@operator
def logical_not(x: Tensor) -> Tensor:
    """Whether x is false."""
    return torch.logical_not(x)


@operator
def abs_(x: Tensor) -> Tensor:
    """|x|."""
    return torch.abs(x)


@operator
def acos(x: Tensor) -> Tensor:
    """The angle in [0, pi] whose cosine is x; not-a-number outside [-1, 1]."""
    return torch.acos(x)


@operator
def asin(x: Tensor) -> Tensor:
    """The angle in [-pi/2, pi/2] whose sine is x; not-a-number outside [-1, 1]."""
    return torch.asin(x)


@operator
def atan(x: Tensor) -> Tensor:
    """The angle in [-pi/2, pi/2] whose tangent is x."""
    return torch.atan(x)


@operator
def atanh(x: Tensor) -> Tensor:
    """log((1 + x) / (1 - x)) / 2: infinite at -1 and 1, not-a-number beyond."""
    return torch.atanh(x)


@operator
def ceil(x: Tensor) -> Tensor:
    """The least whole number that is not below x."""
    return torch.ceil(x)


@operator
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(x, alpha), beta)."""
    return torch.clamp(x, alpha, beta)


@operator
def cos(x: Tensor) -> Tensor:
    """The cosine of x, in radians."""
    return torch.cos(x)


@operator
def cosh(x: Tensor) -> Tensor:
    """(e^x + e^-x) / 2."""
    return torch.cosh(x)


@operator
def erf(x: Tensor) -> Tensor:
    """2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    return torch.erf(x)


@operator
def exp(x: Tensor) -> Tensor:
    """The power e^x."""
    return torch.exp(x)


@operator
def exp2(x: Tensor) -> Tensor:
    """The power 2^x; of an integer an integer, so that a negative power is 0."""
    return torch.exp2(x) if x.is_floating_point() else truncated(torch.exp2(x.double()))


@operator
def floor(x: Tensor) -> Tensor:
    """The greatest whole number that is not above x."""
    return torch.floor(x)


@operator
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return 1 / (x + epsilon)


@operator
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """The natural logarithm of x + epsilon."""
    return torch.log(x + epsilon)


@operator
def round_(x: Tensor) -> Tensor:
    """The nearest whole number, and of two equally near the even one."""
    return torch.round(x)


@operator
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


@operator
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1 where x is below, at or above zero."""
    return torch.sign(x)


@operator
def sin(x: Tensor) -> Tensor:
    """The sine of x, in radians."""
    return torch.sin(x)


@operator
def sinh(x: Tensor) -> Tensor:
    """(e^x - e^-x) / 2."""
    return torch.sinh(x)


@operator
def sqrt(x: Tensor) -> Tensor:
    """The square root of x; not-a-number below zero."""
    return torch.sqrt(x)


@operator
def square(x: Tensor) -> Tensor:
    """The product x * x."""
    return x * x


@operator
def tan(x: Tensor) -> Tensor:
    """The tangent of x, in radians."""
    return torch.tan(x)


@operator
def tanh(x: Tensor) -> Tensor:
    """(e^x - e^-x) / (e^x + e^-x)."""
    return torch.tanh(x)


@operator
def threshold(x: Tensor, alpha: float) -> Tensor:
    """max(x, alpha)."""
    return torch.clamp(x, min=alpha)


@operator
def cast(x: Tensor, dtype: str) -> Tensor:
    """The elements in another type.

    To bool: whether x differs from zero; from bool: 0 or 1. A float becomes an integer as `truncated` says, an
    integer another one as `wrapped` says.
    """
    if dtype in ("fp16", "fp32"):
        return x.float()
    if dtype == "bool":
        return x != 0
    if dtype not in RANGES:
        raise ValueError(f"a cast to '{dtype}' is not known, only to bool, fp16, fp32, {', '.join(RANGES)}")
    # Not documented out of range: so ARM processors convert floats to 32 bits, and NumPy integers to fewer bits.
    return truncated(x, *RANGES[dtype]) if x.is_floating_point() else wrapped(x, *RANGES[dtype])


@operator
def select(cond: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """An element of a where the condition is true, of b where it is not.

    Without a and b, the places where the condition is true: int32 [places, rank].
    """
    if a is None and b is None:
        return torch.nonzero(cond).to(torch.int32)
    if a is None or b is None:
        raise ValueError("select needs both a and b, or neither")
    return torch.where(cond, a, b)


@operator
def identity(x: Tensor) -> Tensor:
    """The value itself."""
    return x
