"""A TFLite file on an emulated ARM64 processor: what a phone's kernels compute, without a phone.

Numerics only. How long an emulated inference takes says nothing of a phone, so nothing here is timed, and this is no
device of `facex bench`. The emulation is QEMU in user mode, which runs the Linux programs of another processor; in it,
an ARM64 Python with LiteRT (`emulator_setup` puts both in the cache). The same script runs the same pictures on
x86-64, in the same version of LiteRT, so that the processor is all that differs.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import cache
from facex.errors import BackendError, MissingSetupError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.types import FloatArray

CPU = "cortex-a76"
"""The emulated core, of phones of 2019 (Arm, 2018): NEON, half precision and dot products, as every later one has."""

LITERT = "2.1.6"
"""Version of ai-edge-litert on both sides: the newest that runs under QEMU 7.2, where 2.3.0 crashes when imported."""

ARM64_MACHINES = ("aarch64", "arm64")
START_S = 120.0
"""Time for an emulated interpreter to start, to load a file and to write its answer; it takes about 5 s."""

PICTURE_S = 10.0
"""Time for one picture beside its multiply-accumulates."""

MACS_PER_S = 5e6
"""Multiply-accumulates that an emulated core surely does in a second; ten times as many were measured."""

READY = "ready.json"
_SCRIPT = Path(__file__).with_name("_emulated_run.py")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runs the script.

    Attributes:
        name: for messages.
        line: the command up to the script.
        site: folder of numpy and ai-edge-litert; None for those of this interpreter.
        machine: what the processor must say it is, in `platform.machine()`'s words.
        environment: variables of the process, and no others.
    """

    name: str
    line: tuple[str, ...]
    site: Path | None
    machine: str
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """A finished preparation: the emulated machine, and its twin on this processor with the same version of LiteRT."""

    arm64: Machine
    x86_64: Machine


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of a file.

    Attributes:
        kind: its type.
        name: of its first output.
        integer: whether none of its outputs is of floats, nor an index, a count or a comparison of floats.
        sources: numbers of the operators that its inputs come from.
    """

    kind: str
    name: str
    integer: bool
    sources: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What every operator computed.

    Attributes:
        operators: in the order of the file.
        digests: uint64 [N, operators], of the bytes of their outputs, by picture.
        faithful: whether keeping every tensor left the outputs of the file bit for bit what they are without.
    """

    operators: tuple[Operator, ...]
    digests: NDArray[np.uint64]
    faithful: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a machine made of the pictures.

    Attributes:
        runtime: distribution and version.
        outputs: name -> float32 [N, ...], as the file gives them.
        trace: None where it was not asked for.
    """

    runtime: str
    outputs: Mapping[str, FloatArray]
    trace: Trace | None


def folder() -> Path:
    """Where the preparation is, or would be."""
    return cache.folder() / f"arm64-litert-{LITERT}"


def find() -> Toolchain:
    """The finished preparation.

    Raises:
        UsageError: this machine is ARM64 itself.
        MissingSetupError: it was not made, was not finished or is damaged.
    """
    if platform.machine() in ARM64_MACHINES:
        raise UsageError(
            "--arch arm64: this machine is ARM64 itself, nothing is to be emulated",
            hint="check without --arch: its runtime uses the kernels of ARM64",
        )
    ready = folder() / READY
    try:
        found = json.loads(ready.read_text(encoding="utf-8"))
        paths = {key: folder() / found[key] for key in ("emulator", "system", "python", "site", "host_site")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_set_up("it has not been set up" if isinstance(error, OSError) else f"{ready} is damaged") from error
    if gone := [path for path in paths.values() if not path.exists()]:
        raise _not_set_up(f"{gone[0]} is gone")
    return toolchain(paths)


def toolchain(paths: Mapping[str, Path]) -> Toolchain:
    """The two machines of a preparation; keys as in its `ready.json`."""
    isolated = ("-I", "-S", "-B")  # nothing of this machine's Python but its standard library
    emulated = (str(paths["emulator"]), "-cpu", CPU, "-L", str(paths["system"]), str(paths["python"]))
    return Toolchain(
        arm64=Machine(
            name=f"emulated ARM64 ({CPU})",
            line=(*emulated, *isolated),
            site=paths["site"],
            machine="aarch64",
            environment={},
        ),
        x86_64=Machine(
            name="x86-64",
            line=(sys.executable, *isolated),
            site=paths["host_site"],
            machine=platform.machine(),
            environment={},
        ),
    )


def here() -> Machine:
    """This interpreter with the ai-edge-litert that is installed in it."""
    return Machine(
        name="x86-64", line=(sys.executable, "-B"), site=None, machine=platform.machine(), environment=os.environ
    )


def probe(machine: Machine) -> None:
    """Start a machine and import LiteRT in it.

    Raises:
        BackendError: it does not; with what it said last.
    """
    site = f"sys.path.insert(0, {str(machine.site)!r}); " if machine.site else ""
    code = f"import sys; {site}import ai_edge_litert.interpreter, numpy"
    _execute(machine, (*machine.line, "-c", code), START_S, lambda: None)


def _not_set_up(why: str) -> MissingSetupError:
    return MissingSetupError(
        f"--arch arm64 needs an emulated ARM64 machine: {why}", hint="facex doctor --setup-arm64 shows how, and does it"
    )


def run(
    machine: Machine,
    model: Path,
    images: NDArray[np.uint8],
    *,
    macs: int,
    trace: bool,
    on_picture: Callable[[], None] | None = None,
) -> Answer:
    """Run pictures through a file on a machine, one after the other, on one thread.

    Args:
        machine: of a toolchain.
        model: a TFLite file with one input.
        images: uint8 [N, H, W, 3], RGB, input pixels, N >= 1.
        macs: of one inference; together with N it decides for how long the machine is waited for.
        trace: whether to look at what every operator computes as well; doubles the time.
        on_picture: called after each.

    Raises:
        BackendError: the machine crashed, took too long, or answered with something else; with what it said last.
    """
    import numpy as np

    timeout_s = START_S + len(images) * (PICTURE_S + macs / MACS_PER_S) * (2 if trace else 1)
    with tempfile.TemporaryDirectory(prefix="facex-emulator-") as name:
        request, answer = Path(name, "request.npz"), Path(name, "answer.npz")
        np.savez(request, images=images)
        site = str(machine.site) if machine.site else "-"
        line = (*machine.line, str(_SCRIPT), site, str(model.absolute()), str(request), str(answer), str(int(trace)))
        _execute(machine, line, timeout_s, on_picture or (lambda: None))
        return _read(machine, answer, len(images))


def _execute(machine: Machine, line: tuple[str, ...], timeout_s: float, on_picture: Callable[[], None]) -> None:
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603 - our script on our machine
                line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=dict(machine.environment)
            )
        except OSError as error:
            raise BackendError(f"{machine.name}: {line[0]} cannot be started: {error.strerror or error}") from error
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(timeout_s, stop)
        watch.start()
        try:
            with process:
                assert process.stdout is not None
                for _ in process.stdout:
                    on_picture()
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
        if late.is_set():
            raise BackendError(
                f"{machine.name}: gave no answer in {timeout_s:.0f} s and was stopped",
                hint="a smaller --size, or a smaller network: emulation is slow",
            )
        if process.returncode:
            said.seek(0)
            raise BackendError(f"{machine.name}: {_ended(process.returncode)}: {_last_line(said.read())}")


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _read(machine: Machine, path: Path, pictures: int) -> Answer:
    """The answer, with everything of the wrong form or from the wrong processor refused."""
    import numpy as np

    try:
        with np.load(path) as file:
            found: dict[str, Any] = {key: file[key] for key in file.files}
        outputs = {key.partition(".")[2]: value for key, value in found.items() if key.startswith("output.")}
        answer = Answer(runtime=str(found["runtime"]), outputs=outputs, trace=_trace(found, pictures))
        ran_on = str(found["machine"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BackendError(f"{machine.name}: ended well, but its answer cannot be read: {error}") from error
    if ran_on != machine.machine:
        raise BackendError(f"{machine.name}: is a machine of the kind {ran_on}, not {machine.machine}")
    if not outputs or any(len(value) != pictures for value in outputs.values()):
        raise BackendError(f"{machine.name}: answered for another number of pictures than {pictures}")
    return answer


def _trace(found: Mapping[str, Any], pictures: int) -> Trace | None:
    if "digests" not in found:
        return None
    listed = json.loads(str(found["operators"]))
    operators = tuple(Operator(kind=k, name=n, integer=i, sources=tuple(s)) for k, n, i, s in listed)
    digests = found["digests"]
    if digests.shape != (pictures, len(operators)):
        raise ValueError(f"digests are {digests.shape} of {len(operators)} operators and {pictures} pictures")
    return Trace(operators=operators, digests=digests, faithful=bool(found["faithful"]))
