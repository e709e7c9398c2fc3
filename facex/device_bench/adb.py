"""Latency of TFLite files on an Android phone that is connected to this machine, by TensorFlow Lite's own benchmark.

The file and the program `benchmark_model` are copied into a folder of their own below `/data/local/tmp`, which is
removed afterwards, also after an error or an interruption. With `benchmark_apk` the benchmark app that is installed on
the phone runs the file in the place of the program, which is nearer to what an app sees.

Flags and forms of output: https://ai.google.dev/edge/litert/models/measurement and
https://github.com/tensorflow/tensorflow/tree/master/tensorflow/lite/tools/benchmark.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import cache
from facex.device_bench import _benchmark_output, _phone
from facex.device_bench._benchmark_output import Timings
from facex.device_bench._phone import Phone
from facex.errors import DeviceError, UsageError, stage
from facex.progress import Progress
from facex.types import (
    Delegate,
    DeviceFile,
    DeviceOptions,
    DeviceReport,
    DeviceRun,
    Latency,
    LatencyKind,
    OperatorTime,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TARGETS = ("tflite",)
OPTIONS = ("benchmark_model", "benchmark_apk", "delegate", "cpu_mask", "profile")

APP = "org.tensorflow.lite.benchmark"
ACTIVITY = f"{APP}/.BenchmarkModelActivity"
PAGE = "https://ai.google.dev/edge/litert/models/measurement"
MAX_S = 60
"""Seconds that `benchmark_model` may warm up, and again time; runs that do not fit are not done."""

RUN_S = 2 * MAX_S + 60.0
"""Longest wait for a result: both of these, and as much again for loading."""

POLL_S = 1.0
"""Between two looks into the log of the phone."""

HEAT = 1
"""Thermal status, Android's THERMAL_STATUS_LIGHT, from which on a phone is too warm to be timed."""

_DOWNLOADS = {"arm64-v8a": "android_aarch64_benchmark_model", "armeabi-v7a": "android_arm_benchmark_model"}
_MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "armeabi": 40, "x86_64": 62, "x86": 3}
"""ABI of Android -> `e_machine` of its programs, from the ELF specification."""

MB_PER_MIB = 2**20 / 1e6

_TAG = "facex"
_IMAGE, _OUTPUTS = "image.raw", "outputs.raw"


def measure(
    files: Sequence[DeviceFile], argument: str, options: DeviceOptions, progress: Progress
) -> tuple[tuple[Latency, ...], DeviceReport]:
    """Time files on a phone, one after another.

    Args:
        files: TFLite files.
        argument: serial number of the phone; empty takes the only one that is connected.
        options: see `OPTIONS`.
        progress: told what goes on, and warned.

    Returns:
        One latency a file, and what else the phone tells.

    Raises:
        UsageError: options contradict each other, or the phone or the program must be named, or the app be installed.
        DeviceError: the phone cannot be reached, or a run fails or gives no result.
    """
    _check(options)
    phone = _phone.connect(argument)
    known = _phone.facts(phone)
    way = _app(phone, options) if options.benchmark_apk else _program(known, options)
    name, warnings = _phone.description(known), list[str]()

    def warn(text: str) -> None:
        warnings.append(text)
        progress.warn(text)

    pairs = []
    with _phone.folder(phone, warn, APP if options.benchmark_apk else "") as folder:
        way.prepare(phone, folder)
        for file in files:
            progress.start(f"timing {file.name} on {name}")
            with stage(file.name):
                pairs.append(_measured(phone, folder, file, way, name, options, warn))
    report = DeviceReport(
        name=name,
        runtime=f"benchmark_model on {name}",
        facts=known,
        runs=tuple(run for _, run in pairs),
        warnings=tuple(warnings),
    )
    return tuple(latency for latency, _ in pairs), report


def replay(
    files: Sequence[DeviceFile],
    pictures: Sequence[NDArray[np.uint8]],
    argument: str,
    options: DeviceOptions,
    progress: Progress,
) -> dict[str, list[dict[str, NDArray[Any]]]]:
    """Run files on a phone on given pictures, each in a process of its own, and fetch their outputs.

    Args:
        files: TFLite files.
        pictures: uint8 [1, H, W, 3], RGB, input pixels of every file.
        argument: as for `measure`.
        options: as for `measure`.
        progress: advanced after every picture of every file, and warned.

    Returns:
        Name of a file -> for every picture, its outputs by name, as the file types and shapes them.

    Raises:
        UsageError, DeviceError: as `measure`; and where outputs are not what the file says they are.
    """
    _check(options)
    phone = _phone.connect(argument)
    way = _program(_phone.facts(phone), options)
    found: dict[str, list[dict[str, NDArray[Any]]]] = {}
    with _phone.folder(phone, progress.warn) as folder:
        way.prepare(phone, folder)
        for file in files:
            with stage(file.name):
                model = _pushed(phone, folder, file)
                flags = [*_flags(model, dataclasses.replace(options, warmup=1, runs=1)), *_input_flags(file, folder)]
                found[file.name] = []
                for picture in pictures:
                    found[file.name].append(_outputs(phone, folder, file, picture, way, flags, options.delegate))
                    progress.advance()
    return found


def _input_flags(file: DeviceFile, folder: str) -> list[str]:
    """A picture for the image, and a file for the outputs: one after the other, in the file's order."""
    shape = ",".join(map(str, file.facts.inputs[0].shape))
    return [
        "--input_layer=image",
        f"--input_layer_shape={shape}",
        f"--input_layer_value_files=image:{folder}/{_IMAGE}",
        f"--output_filepath={folder}/{_OUTPUTS}",
    ]


def _outputs(
    phone: Phone,
    folder: str,
    file: DeviceFile,
    picture: NDArray[np.uint8],
    way: _Way,
    flags: Sequence[str],
    delegate: Delegate,
) -> dict[str, NDArray[Any]]:
    with tempfile.TemporaryDirectory() as here:
        image, outputs = Path(here) / _IMAGE, Path(here) / _OUTPUTS
        image.write_bytes(picture.tobytes())
        phone.push(image, f"{folder}/{_IMAGE}")
        phone.shell("rm", "-f", f"{folder}/{_OUTPUTS}")  # what another picture gave is not this one's
        text = way.run(phone, folder, flags)
        found = _benchmark_output.parse(text)
        _check_delegate(found, delegate)
        _check_known(found)
        phone.pull(f"{folder}/{_OUTPUTS}", outputs)
        return _benchmark_output.tensors(outputs.read_bytes(), file.facts.outputs)


def _check_known(found: Timings) -> None:
    """Refuse the outputs of a random picture, or none.

    Raises:
        DeviceError: the program ignored the flags that give it a picture or ask for its outputs.
    """
    for note in found.notes:
        if note.startswith("Unconsumed") and any(flag in note for flag in ("input_layer", "output_filepath")):
            raise DeviceError(
                f"this benchmark_model gives no outputs back: {note}", hint="use a newer one, see docs/devices.md"
            )


def _pushed(phone: Phone, folder: str, file: DeviceFile) -> str:
    model = f"{folder}/model.tflite"  # whatever characters the file's own name has
    phone.push(file.path, model)
    phone.shell("chmod", "644", model)
    return model


def _check(options: DeviceOptions) -> None:
    if options.cpu_mask and not _is_mask(options.cpu_mask):
        raise UsageError(
            f"--cpu-mask {options.cpu_mask}: no mask of CPUs", hint="hexadecimal, such as f0 for CPUs 4 to 7"
        )
    if not options.benchmark_apk:
        return
    for option in ("benchmark_model", "cpu_mask", "profile"):
        if getattr(options, option):
            raise UsageError(f"--{option.replace('_', '-')} contradicts --benchmark-apk: it is for the program alone")


def _is_mask(text: str) -> bool:
    return re.fullmatch(r"(0x)?[0-9a-f]+", text, re.IGNORECASE) is not None and int(text, 16) > 0


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A way to run `benchmark_model`: what must be done once, and what gives the output for some flags."""

    name: str
    prepare: Callable[[Phone, str], object]
    run: Callable[[Phone, str, Sequence[str]], str]


def _program(known: Mapping[str, str], options: DeviceOptions) -> _Way:
    """The program, given or from the cache.

    Raises:
        UsageError: there is none, or it is for another processor.
    """
    abi = known["abi"]
    path = options.benchmark_model or cache.folder() / "benchmark_model" / abi / "benchmark_model"
    if not path.is_file():
        download = f"get {_DOWNLOADS[abi]} from" if abi in _DOWNLOADS else f"build one for {abi} as told at"
        raise UsageError(
            f"no benchmark_model at {path}",
            hint=f"{download} {PAGE} and put it there, or name it with --benchmark-model; nothing is fetched by itself",
        )
    _check_machine(path, [abi, *known.get("abis", "").split(",")])
    mask = ["taskset", options.cpu_mask.lower().removeprefix("0x")] if options.cpu_mask else []

    def prepare(phone: Phone, folder: str) -> None:
        phone.push(path, f"{folder}/benchmark_model")
        phone.shell("chmod", "755", f"{folder}/benchmark_model")

    def run(phone: Phone, folder: str, flags: Sequence[str]) -> str:
        return phone.shell(*mask, f"{folder}/benchmark_model", *flags, timeout_s=RUN_S)

    return _Way(name=f"program, {f'CPU mask {mask[1]}' if mask else 'any CPU'}", prepare=prepare, run=run)


def _check_machine(path: Path, abis: Sequence[str]) -> None:
    """Refuse what the phone cannot run. `e_machine` is 2 bytes at 18, little-endian on every Android."""
    with stage("benchmark_model"), path.open("rb") as stream:
        head = stream.read(20)
    machine = int.from_bytes(head[18:20], "little")
    if head[:4] != b"\x7fELF" or machine not in {_MACHINES.get(abi) for abi in abis}:
        raise UsageError(f"{path}: is no program for {abis[0]}", hint=f"see {PAGE} for one")


def _app(phone: Phone, options: DeviceOptions) -> _Way:
    """The benchmark app.

    Raises:
        UsageError: it is not installed.
    """
    if "package:" not in phone.script(f"pm path {APP} || true"):
        raise UsageError(
            f"--benchmark-apk: {APP} is not installed on the phone",
            hint=f"get android_aarch64_benchmark_model.apk from {PAGE} and `adb install -r -d -g` it",
        )

    def run(phone: Phone, folder: str, flags: Sequence[str]) -> str:
        # the log holds earlier results too, and is not ours to clear: a line of our own marks where this run begins
        marker = f"{folder} {time.monotonic_ns()}"
        phone.shell("log", "-t", _TAG, marker)
        started = phone.shell("am", "start", "-S", "-n", ACTIVITY, "--es", "args", " ".join(flags))
        if "Error" in started:
            raise DeviceError(f"the benchmark app did not start: {_benchmark_output.failure(started)}")
        return _logged(phone, marker)

    return _Way(name="app", prepare=lambda phone, folder: None, run=run)


def _logged(phone: Phone, marker: str) -> str:
    """What the app logs after a marker, as soon as its result is there.

    Raises:
        DeviceError: it fails, or has no result in time.
    """
    deadline = time.monotonic() + RUN_S
    while True:
        log = phone.shell("logcat", "-d", "-v", "raw", "-s", f"{_TAG}:V", "tflite:V")
        text = log.rpartition(marker)[2] if marker in log else ""
        if _benchmark_output.finished(text) or "Benchmarking failed" in text:
            return text
        if time.monotonic() >= deadline:
            said = _benchmark_output.failure(text)
            raise DeviceError(f"the benchmark app gave no result in {RUN_S:.0f} s; it logged: {said}")
        time.sleep(POLL_S)


def _flags(model: str, options: DeviceOptions) -> list[str]:
    # each minimum in seconds would add runs to those that were asked for
    return [
        f"--graph={model}",
        f"--num_threads={options.threads}",
        f"--warmup_runs={options.warmup}",
        "--warmup_min_secs=0",
        f"--num_runs={options.runs}",
        "--min_secs=0",
        f"--max_secs={MAX_S}",
        f"--use_xnnpack={str(options.delegate is Delegate.XNNPACK).lower()}",
        f"--use_gpu={str(options.delegate is Delegate.GPU).lower()}",
    ]


def _measured(
    phone: Phone,
    folder: str,
    file: DeviceFile,
    way: _Way,
    device: str,
    options: DeviceOptions,
    warn: Callable[[str], None],
) -> tuple[Latency, DeviceRun]:
    flags = _flags(_pushed(phone, folder, file), options)
    before = _phone.state(phone)
    text = way.run(phone, folder, flags)
    after = _phone.state(phone)
    found = _benchmark_output.parse(text)
    _check_delegate(found, options.delegate)
    hot = max(state.thermal_status or 0 for state in (before, after))
    if hot >= HEAT:
        warn(f"{file.name}: the phone was hot (thermal status {hot}) and may have been slowed down; let it cool")
    run = DeviceRun(
        artifact=file.name,
        load_ms=found.load_ms,
        first_ms=found.first_ms,
        warmup_ms=found.warmup_ms,
        memory_mb=found.memory_mb,
        before=before,
        after=after,
        operators=_profiled(phone, folder, flags, way) if options.profile else (),
        notes=found.notes,
    )
    return _latency(file.name, device, found, way, options), run


def _check_delegate(found: Timings, delegate: Delegate) -> None:
    """Refuse times of something else than what was asked for.

    Raises:
        DeviceError: the program ignored the flag that chooses the delegate, or the delegate took no operator.
    """
    for note in found.notes:
        if note.startswith("Unconsumed") and f"--use_{delegate}=true" in note:
            raise DeviceError(f"this benchmark_model does not know {delegate}: {note}", hint="use a newer one")
        if note.startswith("Though") and str(delegate) in note.lower() and "will not be executed" in note:
            raise DeviceError(f"{delegate} runs none of the operators: {note}", hint="choose another --delegate")


def _profiled(phone: Phone, folder: str, flags: Sequence[str], way: _Way) -> tuple[OperatorTime, ...]:
    """Every operator, from a run of its own: the profiler slows the whole down."""
    remote = f"{folder}/profile.csv"
    extra = ("--enable_op_profiling=true", "--op_profiling_output_mode=csv", f"--op_profiling_output_file={remote}")
    way.run(phone, folder, [*flags, *extra])
    with tempfile.TemporaryDirectory() as here:
        local = Path(here) / "profile.csv"
        phone.pull(remote, local)
        return _benchmark_output.profile(local.read_text(encoding="utf-8", errors="replace"))


def _latency(artifact: str, device: str, found: Timings, way: _Way, options: DeviceOptions) -> Latency:
    if found.runs is None:
        told = "only the mean is told"
    elif found.median_ms is None:
        told = "p50 is the mean, low the minimum, high the maximum: no more is told"
    else:
        told = "low is the minimum, high the 95th percentile"
    return Latency(
        artifact=artifact,
        device=device,
        kind=LatencyKind.MEASURED,
        threads=options.threads,
        runs=found.runs or options.runs,
        p50_ms=found.median_ms or found.mean_ms,
        low_ms=found.low_ms or found.mean_ms,
        high_ms=found.high_ms or found.mean_ms,
        method=f"benchmark_model ({way.name}), delegate {options.delegate}; {options.warmup} warm-up runs; {told}; "
        "load ends with the first inference; memory is what the process grew by",
        load_ms=found.load_ms + found.first_ms if found.load_ms and found.first_ms else None,
        memory_mb=found.memory_mb * MB_PER_MIB if found.memory_mb is not None else None,
    )
