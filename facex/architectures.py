"""Finished files on another processor than this machine's: whether they compute the same there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from facex import exporters
from facex.auditing import pixels, spaced
from facex.errors import BackendError, UsageError, stage
from facex.progress import Clock
from facex.runs import Subject
from facex.types import Contract, Finding, Limit, Precision, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.device_bench.emulator import Answer, Machine, Operator, Toolchain
    from facex.reference.photographs import Photograph

TARGET = "tflite"
"""The target whose files are emulated: Core ML has no Linux runtime, and phones that run ONNX are rare."""

PICTURES = {True: 20, False: 4}
"""Photographs at most, of files with 8-bit tensors and of others, whose every value differs on the first already."""

NAMED = 5
"""Differing operators that a message names."""


def ready(subjects: Sequence[Subject]) -> Toolchain:
    """The emulated machine for these files; to be asked for before any long work.

    Raises:
        UsageError: none of the files is of the target that is emulated, or this machine needs no emulation.
        MissingSetupError: it is not set up.
    """
    from facex.device_bench import emulator

    if not any(subject.target == TARGET for subject in subjects):
        raise UsageError("--arch arm64: runs .tflite files, and none was given")
    return emulator.find()


def compare(
    toolchain: Toolchain,
    subjects: Sequence[Subject],
    photographs: Sequence[Photograph],
    contract: Contract,
    limits: Sequence[Limit],
    clock: Clock,
) -> tuple[Finding, ...]:
    """Hold every TFLite file on ARM64 against itself on x86-64; what differs and why is told as progress.

    8-bit tensors have to be bit-identical, all of them, and float outputs close. With another version of LiteRT
    installed here than both sides have, what the version alone changes is told too.

    Args:
        toolchain: from `ready`.
        subjects: files; those of other targets are skipped.
        photographs: to run, evenly spaced; without any, noise.
        contract: of the files.
        limits: the user's.
        clock: times the stage.

    Raises:
        BackendError: a machine failed; its stage is the file's name.
    """
    from facex.parity import judge

    findings: list[Finding] = []
    for subject in subjects:
        if subject.target == TARGET:
            with clock("arm64", f"photographs for {subject.name} on ARM64"):
                findings += _compare(toolchain, subject, photographs, contract, limits, clock)
        else:
            reason = f"only files of {TARGET} are run on ARM64"
            findings.append(judge.skipped_arm64(subject.name, subject.precision, reason, limits))
    return tuple(findings)


def _compare(
    toolchain: Toolchain,
    subject: Subject,
    photographs: Sequence[Photograph],
    contract: Contract,
    limits: Sequence[Limit],
    clock: Clock,
) -> tuple[Finding, ...]:
    from facex.device_bench import emulator
    from facex.parity import judge

    images = _images(photographs, subject, contract, clock)

    def run(machine: Machine, *, told: bool = False) -> Answer:
        if told:
            clock.progress.start(f"{subject.name} on {machine.name}", len(images))
        with stage(subject.name):
            return emulator.run(
                machine, subject.path, images, macs=subject.facts.macs, trace=_has_integers(subject),
                on_picture=clock.progress.advance if told else None,
            )  # fmt: skip

    arm64, x86_64 = run(toolchain.arm64, told=True), run(toolchain.x86_64)
    count = f"{len(images)} {'photographs' if photographs else 'picture of noise'}"
    clock.progress.say(f"{subject.name}: {toolchain.arm64.name} against x86-64, both with {x86_64.runtime}, {count}:")
    clock.progress.say(f"  {_difference(arm64, x86_64)}")
    if exporters.version("ai-edge-litert") not in (None, emulator.LITERT):
        other = run(emulator.here())
        clock.progress.say(f"  what the version alone changes, {other.runtime} on x86-64: {_difference(other, x86_64)}")
    values = _snr(arm64, x86_64)
    if arm64.trace and x86_64.trace:
        values = {"identical": _identical(arm64, x86_64), **values}
    named = _named([o for o in introduced(arm64, x86_64) if o.integer])
    return judge.judge_arm64(subject.name, subject.precision, values, named, limits)


def _has_integers(subject: Subject) -> bool:
    return subject.precision is Precision.W8A8


def _images(photographs: Sequence[Photograph], subject: Subject, contract: Contract, clock: Clock) -> NDArray[np.uint8]:
    """What is run: uint8 [N, H, W, 3], RGB, input pixels."""
    import numpy as np

    from facex.parity import noise

    size: Size = subject.size
    if not photographs:
        return noise.picture(size)
    chosen = spaced(photographs, PICTURES[_has_integers(subject)])
    return np.concatenate(list(pixels(chosen, size, contract.mean_rgb, clock.progress)))


def _identical(one: Answer, other: Answer) -> float:
    """Share of the pictures on which every 8-bit tensor is bit for bit the same, 0-1."""
    differs = _differs(one, other)
    integer = [operator.integer for operator in one.trace.operators] if one.trace else []
    return float((~differs[:, integer].any(axis=1)).mean())


def _differs(one: Answer, other: Answer) -> NDArray[np.bool_]:
    """Bool [pictures, operators]: whose outputs differ.

    Raises:
        BackendError: the two do not tell of the same operators, or looking at them changed what they compute.
    """
    assert one.trace is not None
    assert other.trace is not None
    if one.trace.operators != other.trace.operators:
        raise BackendError("the two machines do not tell of the same operators")
    if not (one.trace.faithful and other.trace.faithful):
        raise BackendError("keeping every tensor changes the outputs of the file, so its operators cannot be compared")
    differs: Any = one.trace.digests != other.trace.digests
    return differs  # type: ignore[no-any-return]


def introduced(one: Answer, other: Answer) -> list[Operator]:
    """Operators whose outputs differ on a picture although none of their inputs does, in the order of the file."""
    if one.trace is None or other.trace is None:
        return []
    differs = _differs(one, other)
    return [
        operator
        for number, operator in enumerate(one.trace.operators)
        if (differs[:, number] & ~differs[:, list(operator.sources)].any(axis=1)).any()
    ]


def _named(operators: Sequence[Operator]) -> str:
    more = f" and {len(operators) - NAMED} more" if len(operators) > NAMED else ""
    return ", ".join(f"{o.kind} '{o.name}'" for o in operators[:NAMED]) + more


def _snr(one: Answer, other: Answer) -> dict[str, float]:
    """`snr_db.NAME` by output, over all pictures; the other is the signal.

    Raises:
        BackendError: the outputs have other names or shapes.
    """
    from facex.parity.metrics import snr_db

    shapes = [{name: value.shape for name, value in answer.outputs.items()} for answer in (one, other)]
    if shapes[0] != shapes[1]:
        raise BackendError(f"the outputs on the two machines are {shapes[0]} and {shapes[1]}")
    floats = {name: value for name, value in other.outputs.items() if value.dtype.kind == "f"}  # a count is none
    return {f"snr_db.{name}": snr_db(expected, one.outputs[name]) for name, expected in floats.items()}


def _difference(one: Answer, other: Answer) -> str:
    """In words."""
    equal = all(one.outputs[n].tobytes() == value.tobytes() for n, value in other.outputs.items() if n in one.outputs)
    outputs = "outputs bit-identical" if equal else _levels(_snr(one, other))
    if one.trace is None:
        return outputs
    begins = introduced(one, other)
    integers, floats = ([o for o in begins if o.integer is kind] for kind in (True, False))
    tensors = f"8-bit tensors differ from {_named(integers)} on" if integers else "every 8-bit tensor bit-identical"
    return f"{tensors}; {outputs}{f', from float {_named(floats)} on' if floats else ''}"


def _levels(levels: dict[str, float]) -> str:
    return ", ".join(f"{name.partition('.')[2]} {value:.0f} dB" for name, value in levels.items())
