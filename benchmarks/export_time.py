"""Time whole exports, process start to process end, beside litert-torch converting the same network.

    python benchmarks/export_time.py --checkpoint model.pth --runs 5 --peer-python peer-venv/bin/python
    python benchmarks/export_time.py --checkpoint model.pth --full --calib photos/a --images photos/b

The measured command is `facex export` of ONNX and TFLite in fp32, checks and manifest included. The peer,
litert-torch in an interpreter of its own (`pip install litert-torch pillow`), loads the same checkpoint with
facex's reference network and writes one float TFLite file, unchecked. Runs are interleaved, in turn facex
first and peer first, and compared pair by pair, because a busy machine changes from minute to minute.
`--full` adds the export of all three targets in fp32 and fp16 with calibration and evaluation photographs, in
the same rounds.

Peak memory is the largest resident set of any one process of the run.
"""

# Standard library only, and facex's light modules: Linux counts the memory of the process that starts a
# program towards that program's peak.
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import facex
from facex.device_bench import host

PEER_PACKAGES = ("litert_torch", "ai_edge_torch")

# prints "PACKAGE VERSION", or fails with the reason on the last line
PEER_PROBE = """
import importlib.metadata, importlib.util
import facex.reference.detector, torch
found = [n for n in {packages} if importlib.util.find_spec(n)]
if not found:
    raise SystemExit("neither " + " nor ".join({packages}) + " is installed there")
print(found[0], importlib.metadata.version(found[0]))
"""

PEER_SCRIPT = """
import importlib, sys
from pathlib import Path
import torch
from facex.reference import detector
from facex.types import ContractOptions

package, checkpoint, height, width, out = sys.argv[1:]
source = detector.load(Path(checkpoint), ContractOptions())

class RawHeads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = source.network

    def forward(self, image):
        return detector.flatten(self.network(image), source.contract.landmarks)

converter = importlib.import_module(package)
sample = torch.zeros(1, 3, int(height), int(width))
converter.convert(RawHeads().eval(), (sample,)).export(out)
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to time. `expected` are file patterns that it must leave in its output folder."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    expected: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished process."""

    seconds: float
    peak_bytes: int


class RunError(Exception):
    """A timed process failed, so its time means nothing."""


def time_process(argv: Sequence[str], env: Mapping[str, str], log: Path) -> tuple[int, Run]:
    """Run a process to its end; its exit code, wall time and peak memory. Its output goes to `log`."""
    with log.open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, not by Popen
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB elsewhere
    return process.returncode, Run(seconds=seconds, peak_bytes=usage.ru_maxrss * unit)


def run_once(command: Command) -> Run:
    """Run a command in a fresh folder, `{out}` in its arguments, and check what it wrote there.

    Raises:
        RunError: it failed, or an expected file is missing or empty.
    """
    with tempfile.TemporaryDirectory(prefix="export-time-") as folder:
        out, log = Path(folder, "out"), Path(folder, "log.txt")
        out.mkdir()
        argv = [part.replace("{out}", str(out)) for part in command.argv]
        code, run = time_process(argv, command.env, log)
        if code:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise RunError(f"{command.name}: exit code {code}: {' '.join(argv)}\n{tail}")
        for pattern in command.expected:
            files = [p for p in out.glob(pattern) if p.is_dir() or p.stat().st_size > 0]
            if not files:
                raise RunError(f"{command.name}: wrote no {pattern}")
    return run


def facex_command(options: argparse.Namespace) -> Command:
    """ONNX and TFLite in fp32, nothing else asked."""
    argv = (
        sys.executable, "-m", "facex", "export", str(options.checkpoint),
        "--target", "onnx", "--target", "tflite", "--precision", "fp32",
        "--size", options.size, "--out", "{out}",
    )  # fmt: skip
    return Command(name="facex", argv=argv, env=os.environ, expected=("*_fp32.onnx", "*_fp32.tflite"))


def full_command(options: argparse.Namespace) -> Command:
    """All three targets in fp32 and fp16, with photographs."""
    argv = (
        sys.executable, "-m", "facex", "export", str(options.checkpoint),
        "--target", "onnx", "--target", "tflite", "--target", "coreml",
        "--precision", "fp32", "--precision", "fp16", "--size", options.size,
        "--calib", str(options.calib), "--images", str(options.images), "--out", "{out}",
    )  # fmt: skip
    expected = ("*_fp32.onnx", "*_fp32.tflite", "*_fp16.tflite", "*_fp16.mlpackage")
    return Command(name="facex, full", argv=argv, env=os.environ, expected=expected)


def peer_command(options: argparse.Namespace, folder: Path) -> Command | str:
    """litert-torch on the same network, or the reason why it cannot run. `folder` holds what it needs."""
    if options.peer_python is None:
        return "no --peer-python given"
    # a folder that holds facex alone: the packages beside an installed facex belong to another interpreter
    folder.mkdir()
    (folder / "facex").symlink_to(Path(facex.__file__).parent, target_is_directory=True)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    python = str(options.peer_python)
    probe = [python, "-c", PEER_PROBE.format(packages=PEER_PACKAGES)]
    try:
        done = subprocess.run(probe, env=env, capture_output=True, text=True)
    except OSError as error:
        return f"{python}: {error.strerror}"
    if done.returncode:
        return f"{python}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    package, version = done.stdout.split()[-2:]
    script = folder / "convert.py"
    script.write_text(PEER_SCRIPT, encoding="utf-8")
    height, width = options.size.split("x")
    argv = (python, str(script), package, str(options.checkpoint), height, width, "{out}/peer.tflite")
    name = f"{package.replace('_', '-')} {version}"
    return Command(name=name, argv=argv, env=env, expected=("peer.tflite",))


def interleaved(commands: Sequence[Command], *, warmup: int, runs: int) -> dict[str, list[Run]]:
    """Every command once a round, in turn forwards and backwards; the warm-up rounds are not kept.

    Raises:
        RunError: a run failed.
    """
    kept: dict[str, list[Run]] = {command.name: [] for command in commands}
    for index in range(-warmup, runs):
        for command in commands[:: 1 if index % 2 == 0 else -1]:
            run = run_once(command)
            label = f"run {index + 1}/{runs}" if index >= 0 else "warm-up"
            print(f"  {label:10} {command.name:22} {run.seconds:7.2f} s  {_mb(run):7.0f} MB", flush=True)
            if index >= 0:
                kept[command.name].append(run)
    return kept


def _mb(run: Run) -> float:
    return run.peak_bytes / 1e6


def summary(results: Mapping[str, Sequence[Run]], peer: str | None) -> str:
    """A table of seconds and peak memory, and the peer's time over facex's, pair by pair."""
    lines = [f"{'':22} {'min s':>8} {'median s':>9} {'max s':>8} {'peak MB':>8}"]
    for name, runs in results.items():
        seconds, peak = [run.seconds for run in runs], max(map(_mb, runs))
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        lines.append(f"{name:22} {low:8.2f} {middle:9.2f} {high:8.2f} {peak:8.0f}")
    if peer is not None:
        ratios = [b.seconds / a.seconds for a, b in zip(results["facex"], results[peer], strict=True)]
        lines.append(
            f"{peer} / facex, pair by pair: "
            f"min {min(ratios):.2f}, median {statistics.median(ratios):.2f}, max {max(ratios):.2f}"
        )
    return "\n".join(lines)


def _size(text: str) -> str:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH")
    return text


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="trained .pth")
    add("--runs", type=_count, default=3, help="timed rounds (default: 3)")
    add("--warmup", type=_count, default=1, help="untimed rounds, which fill disk caches (default: 1)")
    add("--size", type=_size, default="640x640", help="network input, HEIGHTxWIDTH (default: 640x640)")
    add("--peer-python", type=Path, help="interpreter that has litert-torch; left out, no comparison")
    add("--full", action="store_true", help="also time all targets, fp32 and fp16, with photographs")
    add("--calib", type=Path, help="calibration photographs, for --full")
    add("--images", type=Path, help="evaluation photographs, for --full")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.full and not (options.calib and options.images):
        parser.error("--full needs --calib and --images")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every run succeeded, 1 otherwise."""
    options = parsed(arguments)
    machine = f"{host.description()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {sys.version.split()[0]}, facex {facex.__version__}")
    with tempfile.TemporaryDirectory(prefix="export-time-peer-") as folder:
        peer = peer_command(options, Path(folder, "path"))
        commands = [facex_command(options)]
        if isinstance(peer, Command):
            commands.append(peer)
        else:
            print(f"comparison with litert-torch skipped: {peer}")
        if options.full:
            commands.append(full_command(options))
        try:
            results = interleaved(commands, warmup=options.warmup, runs=options.runs)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(summary(results, peer.name if isinstance(peer, Command) else None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
