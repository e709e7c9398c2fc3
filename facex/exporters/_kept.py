"""Which operations of a Core ML program stay in single precision where the trunk is in half precision."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from facex.errors import BackendError
from facex.exporters import EVERY

METADATA = "facex.fp32_ops"


def selector(trunk: Callable[[Any], bool], kept: Set[str]) -> Callable[[Any], bool]:
    """What coremltools asks about every operation: whether it goes to half precision.

    Before: the trunk does. After: the trunk does, but for the operations kept. coremltools asks in the order of the
    program, when all is fused that will be, and writes the file with the same operations, their names cleaned.

    Args:
        trunk: whether an operation is of the trunk.
        kept: names of operations as files have them; `EVERY` for all.
    """
    if kept == EVERY:
        return lambda operation: False
    checked = False

    def selected(operation: Any) -> bool:
        nonlocal checked
        if not checked:
            _refuse_unknown(kept, operation.enclosing_block)
            checked = True
        return file_name(operation.name) not in kept and trunk(operation)

    return selected


def file_name(name: str) -> str:
    """An operation's name as coremltools will write it into the file."""
    from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

    return str(NameSanitizer(prefix="op_").sanitize_name(name))


def _refuse_unknown(kept: Set[str], block: Any) -> None:
    """An operation that is not found by its name would quietly go to half precision.

    Raises:
        BackendError: one of those to keep is not in the program.
    """
    unknown = kept - {file_name(operation.name) for operation in block.operations}
    if unknown:
        raise BackendError(f"the converted program has no operation '{min(unknown)}', which is to stay in float32")


def told(kept: Set[str]) -> dict[str, str]:
    """Metadata of a file: the operations kept in single precision, where there are any."""
    return {METADATA: ", ".join(sorted(kept))} if kept else {}
