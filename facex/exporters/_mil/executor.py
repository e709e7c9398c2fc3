"""Run a program in torch: every result is stored in the type that the program declares for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from facex.errors import ArtifactError, BackendError, UnsupportedOperatorError, first_line
from facex.exporters._mil.program import Literal, Operation, Program, TensorType
from facex.exporters._mil.registry import CONVERSIONS, Operator, UnsupportedModeError, Value, operators

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = frozenset({"fp16", "fp32"})
LARGE = "uint32"


def held(values: Any) -> Tensor:
    """A NumPy array as the tensor that stands for it; see `registry`."""
    if values.dtype.kind == "f":
        return torch.from_numpy(values.astype("float32"))
    if values.dtype.kind == "b":
        return torch.from_numpy(values.copy())
    return torch.from_numpy(values.astype("int64" if values.dtype == "uint32" else "int32"))


def stored(value: Tensor, dtype: str) -> Tensor:
    """Round to a type; half precision overflows to infinity and keeps subnormals (IEEE 754).

    Raises:
        TypeError: the value is of another kind: a float where the program declares an integer, or the reverse.
    """
    if dtype in FLOATS:
        if not value.dtype.is_floating_point:
            raise TypeError(f"the result is {value.dtype}, declared {dtype}")
        value = value.float()
        return value.half().float() if dtype == "fp16" else value
    if value.dtype.is_floating_point or (value.dtype == torch.bool) != (dtype == "bool"):
        raise TypeError(f"the result is {value.dtype}, declared {dtype}")
    return value if dtype == "bool" else value.to(torch.int64 if dtype == LARGE else torch.int32)


@dataclass(frozen=True)
class _Step:
    """An operation ready to run: its function, what is known of its inputs, what is still to come, what to forget."""

    operation: Operation
    operator: Operator
    known: Mapping[str, Any]
    awaited: Mapping[str, tuple[str, ...]]
    last_used: tuple[str, ...]


class Executor:
    """A program, runnable.

    What depends on no input is computed once, when the program is loaded.

    Raises:
        UnsupportedOperatorError: the program has an operator that is not known here.
        ArtifactError: the program is not sound.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._constants: dict[str, Value] = {}
        self._steps: list[_Step] = []
        _refuse_unknown(program)
        with torch.inference_mode():
            waiting = list(self._fold(program.operations))
        uses = _last_uses(waiting, program.outputs)
        self._steps = [self._step(op, uses.get(i, ())) for i, op in enumerate(waiting)]

    @property
    def constants(self) -> Mapping[str, Value]:
        """What depends on no input, by name."""
        return self._constants

    def __call__(
        self, inputs: Mapping[str, Tensor], watch: Callable[[str, Tensor], None] | None = None
    ) -> dict[str, Tensor]:
        """Run once.

        Args:
            inputs: name -> tensor of the declared shape.
            watch: told of every result, by name.

        Returns:
            The outputs, by name, in the program's order.

        Raises:
            ArtifactError: an input is not what the program declares, or an operation cannot be computed.
        """
        values: dict[str, Tensor] = {}
        for name, declared in self._program.inputs.items():
            if name not in inputs:
                raise ArtifactError(f"the program's input '{name}' was not given")
            values[name] = stored(inputs[name], declared.dtype)
            _check_shape(values[name], declared, f"input '{name}'")
        with torch.inference_mode():
            for step in self._steps:
                given = dict(step.known)
                for parameter, names in step.awaited.items():
                    given[parameter] = self._bound(step, parameter, [self._value(n, values) for n in names])
                for name, value in _computed(step.operation, step.operator, given):
                    values[name] = value
                    if watch:
                        watch(name, value)
                for name in step.last_used:
                    del values[name]
        return {name: self._tensor(name, values) for name in self._program.outputs}

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Value:
        return values[name] if name in values else self._constants[name]

    def _tensor(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        found = self._value(name, values)
        if isinstance(found, str):
            raise ArtifactError(f"output '{name}' is text")
        return found

    def _bound(self, step: _Step, parameter: str, found: Sequence[Value]) -> Any:
        return _bound(step.operation, step.operator, parameter, found)

    def _fold(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        """Compute what depends on no input; give the rest."""
        known = operators()
        declared = set(self._program.inputs)
        for operation in operations:
            names = [v for given in operation.inputs.values() for v in given if isinstance(v, str)]
            missing = [n for n in names if n not in self._constants and n not in declared]
            if missing:
                raise ArtifactError(f"{_place(operation)}: its input '{missing[0]}' is computed nowhere before it")
            declared.update(name for name, _ in operation.outputs)
            if operation.type == "const":
                self._constants[operation.outputs[0][0]] = _literal(operation.inputs["val"][0])
            elif all(n in self._constants for n in names):
                operator = known[operation.type]
                given = {p: self._ready(operation, operator, p) for p in operation.inputs}
                self._constants.update(_computed(operation, operator, given))
            else:
                yield operation

    def _ready(self, operation: Operation, operator: Operator, parameter: str) -> Any:
        return _bound(operation, operator, parameter, [self._constant(v) for v in operation.inputs[parameter]])

    def _constant(self, value: str | Literal) -> Value:
        return self._constants[value] if isinstance(value, str) else _literal(value)

    def _step(self, operation: Operation, last_used: tuple[str, ...]) -> _Step:
        operator = operators()[operation.type]
        known: dict[str, Any] = {}
        awaited: dict[str, tuple[str, ...]] = {}
        for parameter, given in operation.inputs.items():
            if all(not isinstance(v, str) or v in self._constants for v in given):
                known[parameter] = self._ready(operation, operator, parameter)
                continue
            names = []
            for i, value in enumerate(given):
                if isinstance(value, Literal):  # beside computed ones in a tuple: named, so that all are
                    name = f"{operation.name}.{parameter}.{i}"
                    self._constants[name] = _literal(value)
                    names.append(name)
                else:
                    names.append(value)
            awaited[parameter] = tuple(names)
        return _Step(operation, operator, known, awaited, last_used)


def _refuse_unknown(program: Program) -> None:
    known = operators()
    for place, operation in enumerate(program.operations):
        if operation.type != "const" and operation.type not in known:
            raise UnsupportedOperatorError(
                f"operation {place + 1} of {len(program.operations)} in function '{program.function}', "
                f"{_place(operation)}, is of an operator that facex does not execute",
                hint=f"executed are {', '.join(known)}",
            )
        if operation.type != "const" and not operation.outputs:
            raise ArtifactError(f"{_place(operation)}: has no result")


def _last_uses(operations: Sequence[Operation], outputs: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Index of an operation -> computed values that nothing after it needs."""
    last = {name: i for i, op in enumerate(operations) for name, _ in op.outputs}
    computed = set(last)
    for i, op in enumerate(operations):
        last.update({v: i for given in op.inputs.values() for v in given if isinstance(v, str) and v in computed})
    found: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in outputs:
            found.setdefault(i, []).append(name)
    return {i: tuple(names) for i, names in found.items()}


def _literal(literal: str | Literal) -> Value:
    assert isinstance(literal, Literal)
    return literal.value if isinstance(literal.value, str) else held(literal.value)


def _bound(operation: Operation, operator: Operator, parameter: str, found: Sequence[Value]) -> Any:
    """The argument of an operator's function."""
    kind = operator.kinds.get(parameter)
    if kind is None:
        raise UnsupportedOperatorError(f"{_place(operation)}: its input '{parameter}' is not known")
    if kind == "Tensors":
        return tuple(found)
    if len(found) != 1:
        raise ArtifactError(f"{_place(operation)}: {len(found)} values for its input '{parameter}', which takes one")
    try:
        return CONVERSIONS[kind](found[0])
    except ValueError as error:
        raise ArtifactError(f"{_place(operation)}: its input '{parameter}': {error}") from error


def _computed(operation: Operation, operator: Operator, given: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    missing = operator.required - given.keys()
    if missing:
        raise ArtifactError(f"{_place(operation)}: has no input '{min(missing)}'")
    try:
        result = operator.compute(**given)
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(operation.outputs):
            raise ArtifactError(f"{_place(operation)}: has {len(operation.outputs)} results, computed {len(results)}")
        found = [
            (name, stored(value, declared.dtype))
            for (name, declared), value in zip(operation.outputs, results, strict=True)
        ]
    except UnsupportedModeError as error:
        raise UnsupportedOperatorError(f"{_place(operation)}: {first_line(error)}") from error
    # whatever torch says of arguments that do not fit one another
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise BackendError(f"{_place(operation)} cannot be executed: {first_line(error)}") from error
    for (name, declared), (_, value) in zip(operation.outputs, found, strict=True):
        _check_shape(value, declared, f"{_place(operation)}: '{name}'")
    yield from found


def _check_shape(value: Tensor, declared: TensorType, what: str) -> None:
    same = value.ndim == len(declared.shape) and all(
        d is None or d == n for d, n in zip(declared.shape, value.shape, strict=True)
    )
    if not same:
        wanted = ", ".join("?" if d is None else str(d) for d in declared.shape)
        raise ArtifactError(f"{what} is [{', '.join(map(str, value.shape))}], the program declares [{wanted}]")


def _place(operation: Operation) -> str:
    return f"{operation.type} '{operation.name}'"
