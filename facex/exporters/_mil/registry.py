"""From an operation of a program to the function that computes it.

An operator is a function named after it whose parameters are the operator's inputs, with the documentation's defaults:

    @operator
    def leaky_relu(x: Tensor, alpha: float) -> Tensor:
        ...

Its annotations say what each input is turned into: `Tensor` or `Tensors` (a tuple of them) for data; `Ints`, `Floats`,
`Bools`, `int`, `float`, `bool`, `str` for what describes the operation. `| None` marks an input that may be left out.

Tensors are torch tensors: float32 for every float type, holding only values that the type has; bool; int32 for every
integer type, but int64 for uint32. A function gives its result at full precision: rounding to the type that the program
declares is the executor's.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Tensors: TypeAlias = "tuple[Tensor, ...]"
Ints: TypeAlias = tuple[int, ...]
Floats: TypeAlias = tuple[float, ...]
Bools: TypeAlias = tuple[bool, ...]

Value: TypeAlias = "Tensor | str"


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if value.numel() != 1:
        raise ValueError(f"one value is needed, not {list(value.shape)}")
    return value.reshape(()).item()


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value.reshape(-1).tolist())


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "Tensor": lambda value: value, "Ints": _several, "Floats": _several, "Bools": _several, "int": _scalar,
    "float": _scalar, "bool": _scalar, "str": _scalar,
}  # fmt: skip


class UnsupportedModeError(NotImplementedError):
    """A mode of an operator that no documentation settles, and that is refused rather than guessed."""


@dataclass(frozen=True)
class Operator:
    """A function, and what each of its parameters is."""

    compute: Callable[..., Any]
    kinds: dict[str, str]
    required: frozenset[str]


_FOUND: dict[str, Operator] = {}


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function the operator of its name; a trailing underscore keeps a name clear of Python's own."""
    parameters = inspect.signature(function).parameters
    _FOUND[function.__name__.removesuffix("_")] = Operator(
        compute=function,
        kinds={name: str(p.annotation).removesuffix(" | None") for name, p in parameters.items()},
        required=frozenset(name for name, p in parameters.items() if p.default is p.empty),
    )
    return function


@cache
def operators() -> dict[str, Operator]:
    """Every operator by name; a file of `operators/` adds its own."""
    from facex.exporters._mil import operators as room

    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
    return dict(sorted(_FOUND.items()))
