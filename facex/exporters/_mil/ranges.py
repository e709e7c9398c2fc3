"""Run a single-precision program on photographs and see what half precision would do to each of its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

import torch

from facex.errors import ArtifactError
from facex.exporters._mil.executor import Executor, held
from facex.exporters._mil.halves import ERROR_LIMIT, LARGEST, LOST, SMALLEST_NORMAL, Seen
from facex.exporters._mil.program import Literal, Operation, Program, TensorType
from facex.exporters._mil.registry import Value

if TYPE_CHECKING:
    from torch import Tensor

Constants = Mapping[str, Value]


def observe(program: Program, feeds: Iterable[Mapping[str, Tensor]], last: Set[str]) -> tuple[Seen, ...]:
    """What the results and constants of the operations that half precision is for look like in single precision.

    Args:
        program: in single precision throughout.
        feeds: of the executor, one a photograph.
        last: operator types; half precision is for their operations and for all on the way to them.

    Returns:
        Results and constants, in the order of the program.

    Raises:
        ArtifactError: the program rounds to half precision itself, which hides the true range, or there is no feed.
    """
    halved = trunk(program, last)
    _refuse_rounded(program)
    executor = Executor(program)
    computed = {n for op in halved for n, t in op.outputs if n not in executor.constants and t.dtype == "fp32"}
    results = {name: _Statistics() for name in computed}
    constants = list(_constants(halved, executor.constants, _types(program)))
    count = 0
    for count, feed in enumerate(feeds, 1):  # noqa: B007 - counted
        _watch(executor, feed, results, constants)
    if not count:
        raise ArtifactError("there is no photograph to see ranges on")
    return tuple(_told(halved, results, constants))


def trunk(program: Program, last: Set[str]) -> list[Operation]:
    """Operations of these types and those that lead to one, in order; constants are none."""
    found: list[Operation] = []
    needed: set[str] = set()
    for operation in reversed(program.operations):
        if _is_constant(operation):
            continue
        if operation.type in last or any(name in needed for name, _ in operation.outputs):
            found.append(operation)
            needed.update(_names(operation))
    return found[::-1]


def _is_constant(operation: Operation) -> bool:
    return operation.type == "const" or operation.type.startswith("constexpr_")


def _names(operation: Operation) -> Iterator[str]:
    for given in operation.inputs.values():
        yield from (value for value in given if isinstance(value, str))


def _refuse_rounded(program: Program) -> None:
    for operation in program.operations:
        if not _is_constant(operation) and any(declared.dtype == "fp16" for _, declared in operation.outputs):
            raise ArtifactError(
                f"{operation.type} '{operation.name}' is in half precision already, which hides how far values go",
                hint="give the file of the same checkpoint in single precision, of export --precision fp32",
            )


class _Statistics:
    """Of one value, over photographs; sums are float64, by channel (axis 1 of four) where there are channels."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.values = self.nonzero = self.beyond = self.subnormal = self.lost = 0
        self._energy: Any = 0.0
        self._noise: Any = 0.0

    def add(self, value: Tensor, *, axis: int | None) -> None:
        """Take in a value."""
        size = torch.where(value.isnan(), torch.inf, value.abs())
        self.largest = max(self.largest, float(size.max())) if size.numel() else self.largest
        self.values += size.numel()
        self.nonzero += int((size != 0).sum())
        self.beyond += int((size > LARGEST).sum())
        self.subnormal += int(((size != 0) & (size < SMALLEST_NORMAL)).sum())
        self.lost += int(((size != 0) & (size <= LOST)).sum())
        finite = torch.where(size <= LARGEST, value, 0.0).double()
        self.add_error(finite.float().half().double() - finite, finite, axis=axis)

    def add_error(self, noise: Tensor, signal: Tensor, *, axis: int | None) -> None:
        """Take in an error and what it is the error of."""
        finite = signal.isfinite()
        self._noise = self._noise + _energies(torch.where(finite, noise, 0.0).double(), axis)
        self._energy = self._energy + _energies(torch.where(finite, signal, 0.0).double(), axis)

    @property
    def error(self) -> float:
        """See `Seen.error`; channels of nothing but zeros have none."""
        energy, noise = torch.as_tensor(self._energy), torch.as_tensor(self._noise)
        ratios = torch.where(energy > 0, noise / energy.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        return float(ratios.max().sqrt()) if ratios.numel() else 0.0


def _energies(value: Tensor, axis: int | None) -> Tensor:
    others = [i for i in range(value.ndim) if i != axis]
    return (value**2).sum(others) if others else value**2


def _channels(value: Tensor) -> int | None:
    return 1 if value.ndim == 4 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Constant:
    """A constant that an operation reads, its statistics, and its effect where its rounding may show.

    Attributes:
        reads: names of the operation's computed inputs.
        rounded: the operation alone, with the constant rounded to half precision; None where rounding is harmless.
        effect: error of its result.
    """

    operation: Operation
    parameter: str
    statistics: _Statistics
    reads: frozenset[str]
    rounded: Executor | None
    effect: _Statistics


def _types(program: Program) -> dict[str, TensorType]:
    return {**program.inputs, **{name: declared for op in program.operations for name, declared in op.outputs}}


def _constants(
    operations: Iterable[Operation], known: Constants, types: Mapping[str, TensorType]
) -> Iterator[_Constant]:
    """Every constant of real numbers that operations read."""
    for operation in operations:
        if operation.outputs[0][1].dtype != "fp32" or operation.outputs[0][0] in known:
            continue
        reads = frozenset(name for name in _names(operation) if name not in known)
        for parameter, given in operation.inputs.items():
            values = [_value(v, known) for v in given]
            real = [v for v in values if v is not None and v.dtype.is_floating_point]
            if not real:
                continue
            statistics = _Statistics()
            for value in real:
                statistics.add(value, axis=0 if value.ndim == 4 else None)  # output channels of a convolution
            suspect = statistics.largest <= LARGEST and statistics.error > ERROR_LIMIT
            rounded = _alone(operation, parameter, known, types) if suspect else None
            yield _Constant(operation=operation, parameter=parameter, statistics=statistics, reads=reads,
                            rounded=rounded, effect=_Statistics())  # fmt: skip


def _value(given: str | Literal, known: Constants) -> Tensor | None:
    """What an operation is given, where that is a constant and no text."""
    if isinstance(given, Literal):
        return None if isinstance(given.value, str) else held(given.value)
    found = known.get(given)
    return None if isinstance(found, str) else found


def _text(name: str, known: Constants) -> str | Literal:
    found = known.get(name)
    return Literal(type=TensorType(dtype="string", shape=()), value=found) if isinstance(found, str) else name


def _alone(operation: Operation, parameter: str, known: Constants, types: Mapping[str, TensorType]) -> Executor:
    """A program of one operation, one of whose constants is rounded to half precision."""

    def given(key: str, name: str | Literal) -> str | Literal:
        value: Any = _value(name, known)
        if value is None:
            return name if isinstance(name, Literal) else _text(name, known)
        rounded = value.half().float() if key == parameter and value.dtype.is_floating_point else value
        return Literal(type=TensorType(dtype="constant", shape=()), value=rounded.numpy())

    inputs = {key: tuple(given(key, v) for v in values) for key, values in operation.inputs.items()}
    return Executor(
        Program(
            function="alone",
            inputs={name: types[name] for name in _names(operation) if name not in known},
            operations=(dataclasses.replace(operation, inputs=inputs),),
            outputs=tuple(name for name, _ in operation.outputs),
            colours={},
        )
    )


def _watch(
    executor: Executor,
    feed: Mapping[str, Tensor],
    results: Mapping[str, _Statistics],
    constants: Iterable[_Constant],
) -> None:
    suspects = [c for c in constants if c.rounded]
    wanted = {name for c in suspects for name in c.reads}
    held: dict[str, Tensor] = {name: value for name, value in feed.items() if name in wanted}

    def watch(name: str, value: Tensor) -> None:
        if name in wanted:
            held[name] = value
        if name in results:
            results[name].add(value, axis=_channels(value))
        for c in suspects:
            if name == c.operation.outputs[0][0] and c.rounded:
                off = c.rounded({n: held[n] for n in c.reads})[name]
                c.effect.add_error(off - value, value, axis=_channels(value))

    executor(feed, watch)


def _told(
    operations: Iterable[Operation], results: Mapping[str, _Statistics], constants: Iterable[_Constant]
) -> Iterator[Seen]:
    readers: dict[str, list[str]] = {}
    for operation in operations:
        for name in dict.fromkeys(_names(operation)):
            readers.setdefault(name, []).append(operation.name)
    own: dict[str, list[_Constant]] = {}
    for c in constants:
        own.setdefault(c.operation.name, []).append(c)
    for operation in operations:
        for c in own.get(operation.name, ()):
            name, error = f"{operation.name}.{c.parameter}", c.effect.error if c.rounded else c.statistics.error
            yield _seen(name, operation, (operation.name,), c.statistics, error, constant=True)
        for name, _ in operation.outputs:
            if name in results:
                around = tuple(dict.fromkeys((operation.name, *readers.get(name, ()))))
                yield _seen(name, operation, around, results[name], results[name].error, constant=False)


def _seen(
    name: str, operation: Operation, around: tuple[str, ...], found: _Statistics, error: float, *, constant: bool
) -> Seen:
    nonzero = max(found.nonzero, 1)
    return Seen(
        name=name,
        operator=operation.type,
        operations=around,
        constant=constant,
        largest=found.largest,
        beyond_fraction=found.beyond / max(found.values, 1),
        subnormal_fraction=found.subnormal / nonzero,
        lost_fraction=found.lost / nonzero,
        error=error,
    )
