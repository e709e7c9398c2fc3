"""Reproduce the int8 table: facex's int8 files beside what other tools give for the same checkpoint and photographs.

    python benchmarks/int8.py --checkpoint model.pth --calib a/images --images b/images --ground-truth b/gt.json \
        --size 640x640 --size 480x640 --seed 0 --seed 1 --seed 2 --peer-python peer-venv/bin/python --json int8.json
    python benchmarks/int8.py ... --row fast --row stock --limit-photographs 16
    python benchmarks/int8.py ... -- --activation relu

Rows, in one table a size; those of facex once for every seed:

- `fp32`: the float TFLite file of `facex export`, always there: times are compared with it;
- `best`, `fast`: `facex export --target tflite --int8` with that `--int8-effort`;
- `mixed`: `best` with `--min-f1 0.983 --max-nme 0.010`, which leaves in float what these need. It is given the
  evaluation photographs, as somebody with such limits would do: facex searches on them and judges by them, and the
  seconds include both. Every other row has seen no evaluation photograph;
- `mixed-calib`, only when asked for: the same without them, so that facex searches on the calibration photographs;
- `stock`: the TFLite converter's own calibration;
- `peer`: litert-torch with ai-edge-quantizer, in an interpreter of its own (`--peer-python`;
  `pip install litert-torch pillow`), and skipped without it.

`int8_peers.py` has what the last two do. What follows `--` goes to every `facex export`; the reference takes the
contract that the fp32 export recorded.

All is measured on the finished files, run by LiteRT on one thread: parity with the float network as in `facex check`,
and the time in one interleaved run of all files of a size (the minimum). Seconds are those of the whole command that
wrote the file. Files that end in raw heads are decoded in NumPy, outside their times.

`--work FOLDER` keeps the files. A row whose command, photographs, checkpoint and code are unchanged is taken from
there, with the seconds that it took then, so that a run which was cut short goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import int8_rows
from export_time import RunError, _count, _size, time_process
from int8_peers import size_of
from int8_rows import STOCK, File, Row

import facex
from facex import manifest
from facex.device_bench import host
from facex.errors import EXIT_OK, EXIT_PARITY, FacexError
from facex.parity import ground_truth
from facex.reference import checkpoint, detector, photographs
from facex.types import ContractOptions, as_plain

HERE = Path(__file__).parent
EFFORTS = {"best": "best", "fast": "fast", "mixed": "best", "mixed-calib": "best"}
ROWS = (*EFFORTS, "stock", "peer")
DEFAULT_ROWS = tuple(row for row in ROWS if row != "mixed-calib")
BUDGET = ("--min-f1", "0.983", "--max-nme", "0.010")
FP32 = "facex fp32"
FOLDER = "int8-files"
"""Below `--work`; everything in it is ours to replace."""

PEER_PACKAGES = ("litert-torch", "ai-edge-quantizer", "pillow")

# prints a version a line, or fails with the reason on the last line
PEER_PROBE = """
import importlib.metadata, facex.reference.detector, facex.exporters._rewrites
for package in {packages}:
    try:
        print(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(package + " is not installed there")
"""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row to be: the command that writes its file, `{out}` standing for its folder."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    raw: bool = False


def facex_variant(name: str, options: argparse.Namespace, size: str, *more: str) -> Variant:
    """One `facex export` of a TFLite file."""
    argv = (
        sys.executable, "-m", "facex", "export", str(options.checkpoint),
        "--target", "tflite", "--size", size, *more, *options.export_options, "--out", "{out}",
    )  # fmt: skip
    return Variant(name=name, argv=argv, env=os.environ)


def int8_variant(row: str, options: argparse.Namespace, size: str, seed: int) -> Variant:
    """A row of facex."""
    more = ["--int8", "--int8-effort", EFFORTS[row], "--seed", str(seed), "--calib", str(options.calib)]
    if row.startswith("mixed"):
        more += BUDGET
    if row == "mixed":
        more += ["--images", str(options.images)]
    return facex_variant(f"facex {row}, seed {seed}", options, size, *more)


def peer_variant(tool: str, options: argparse.Namespace, size: str, contract: ContractOptions, **how: Any) -> Variant:
    """A row of `int8_peers.py`; `how` is its name, interpreter and environment."""
    argv = (
        str(how["python"]), str(HERE / "int8_peers.py"), tool,
        "--checkpoint", str(options.checkpoint), "--calib", str(options.calib), "--size", size,
        "--contract", json.dumps(as_plain(contract), sort_keys=True), "--out", "{out}/peer.tflite",
    )  # fmt: skip
    return Variant(name=how["name"], argv=argv, env=how["env"], raw=True)


def peer_interpreter(python: Path | None, folder: Path) -> dict[str, Any] | str:
    """Name, interpreter and environment of the litert-torch row, or the reason why it cannot run."""
    if python is None:
        return "no --peer-python given"
    # a folder that holds facex alone: the packages beside an installed facex belong to another interpreter
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "facex").symlink_to(Path(facex.__file__).parent, target_is_directory=True)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    probe = [str(python), "-c", PEER_PROBE.format(packages=PEER_PACKAGES)]
    try:
        done = subprocess.run(probe, env=env, capture_output=True, text=True)
    except OSError as error:
        return f"{python}: {error.strerror}"
    if done.returncode:
        return f"{python}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    versions = dict(line.split() for line in done.stdout.splitlines())
    name = " + ".join(f"{package} {versions[package]}" for package in PEER_PACKAGES[:2])
    return {"name": name, "python": python, "env": env}


def exported(variant: Variant, folder: Path, evidence: Mapping[str, str]) -> File:
    """The variant's file, from `folder` where the same command wrote it from the same evidence, else written now.

    Raises:
        RunError: the command failed, or did not leave one file.
    """
    record, out = folder / "export.json", folder / "out"
    key = {"argv": list(variant.argv), **evidence}
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["key"] == key:
            return _file(variant, folder / known["path"], known["seconds"], known["exit_code"])
    shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    argv = [part.replace("{out}", str(out)) for part in variant.argv]
    code, run = time_process(argv, variant.env, folder / "log.txt")
    if code not in (EXIT_OK, EXIT_PARITY):
        tail = "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-15:])
        raise RunError(f"{variant.name}: exit code {code}: {' '.join(argv)}\n{tail}")
    # a file that missed its limits stays below, under a longer name
    found = [p for pattern in ("*.tflite", "*.tflite.failed") for p in out.rglob(pattern) if p.is_file()]
    if len(found) != 1:
        raise RunError(f"{variant.name}: wrote {len(found)} .tflite files, expected one")
    known = {"key": key, "path": str(found[0].relative_to(folder)), "seconds": run.seconds, "exit_code": code}
    manifest.write_text(record, json.dumps(known, indent=2))
    return _file(variant, found[0], run.seconds, code)


def _file(variant: Variant, path: Path, seconds: float, exit_code: int) -> File:
    return File(name=variant.name, path=path, seconds=seconds, exit_code=exit_code, raw=variant.raw)


def evidence_of(options: argparse.Namespace) -> dict[str, str]:
    """Sums of everything a command reads that its arguments do not tell apart."""
    sources = [*sorted(Path(facex.__file__).parent.rglob("*.py")), HERE / "int8_peers.py"]
    return {
        "code": hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest(),
        "checkpoint": checkpoint.sha256(options.checkpoint),
        "calib": _digest(options.calib, "--calib"),
        "images": _digest(options.images, "--images"),
    }


def _digest(folder: Path, option: str) -> str:
    return manifest.digest_of([photograph.sha256 for photograph in photographs.find(folder, option=option)])


def limited(folder: Path, count: int | None, into: Path, option: str) -> Path:
    """The folder, or one with links to `count` of its photographs, evenly spaced in the order of their paths."""
    found = photographs.find(folder, option=option)
    if count is None or count >= len(found):
        return folder
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for index in range(count):
        path = found[index * len(found) // count].path
        (into / f"{index:04}{path.suffix}").symlink_to(path.resolve())
    return into


def variants(
    options: argparse.Namespace, size: str, contract: ContractOptions, peer: dict[str, Any] | str
) -> Iterator[Variant]:
    """The int8 rows of one size, in the order of the table."""
    for row in ROWS:
        if row not in options.rows:
            continue
        if row == "stock":
            here = {"name": STOCK, "python": sys.executable, "env": os.environ}
            yield peer_variant("tflite", options, size, contract, **here)
        elif row == "peer":
            if not isinstance(peer, str):
                yield peer_variant("litert-torch", options, size, contract, **peer)
        else:
            for seed in options.seeds:
                yield int8_variant(row, options, size, seed)


def stated(path: Path) -> ContractOptions:
    """The contract that an export recorded, as options."""
    contract = manifest.load(path).source.contract
    return ContractOptions(
        **{field.name: getattr(contract, field.name) for field in dataclasses.fields(ContractOptions)}
    )


def of_size(
    options: argparse.Namespace, size: str, work: Path, evidence: Mapping[str, str], peer: dict[str, Any] | str
) -> tuple[list[Row], list[str]]:
    """The rows of one size, and the failures of those that have none.

    Raises:
        RunError: the float export failed, so there is nothing to compare with.
    """
    float_one = facex_variant(FP32, options, size, "--precision", "fp32")
    files = [_told(exported(float_one, work / size / "fp32", evidence))]
    contract = stated(work / size / "fp32" / "out" / manifest.FILE_NAME)
    failures = []
    for variant in variants(options, size, contract, peer):
        try:
            files.append(_told(exported(variant, work / size / _slug(variant.name), evidence)))
        except RunError as error:
            print(f"  {error}", file=sys.stderr)
            failures.append(str(error))
    loaded = detector.load(options.checkpoint, contract)
    found = photographs.find(options.images, option="--images")
    truth = ground_truth.load(options.ground_truth) if options.ground_truth else None
    print(f"  measuring {len(files)} files on {len(found)} photographs", flush=True)
    rows = int8_rows.measured(
        files, loaded, size_of(size), found, truth, threads=os.cpu_count() or 1, runs=options.runs
    )
    return rows, failures


def _told(file: File) -> File:
    print(f"  {file.name:44} {file.seconds:7.1f} s, exit code {file.exit_code}", flush=True)
    return file


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `export_options` is what follows `--`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, export_options = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="trained .pth")
    add("--calib", type=Path, required=True, help="calibration photographs")
    add("--images", type=Path, required=True, help="evaluation photographs, none of them among those of --calib")
    add("--ground-truth", type=Path, help="gt.json of the evaluation photographs: adds the drop of AP")
    add("--size", dest="sizes", type=_size, action="append", help="HEIGHTxWIDTH; repeatable (default: 640x640)")
    add("--seed", dest="seeds", type=_count, action="append", help="repeatable (default: 0)")
    add(
        "--row",
        dest="rows",
        choices=ROWS,
        action="append",
        help="only this one; repeatable (default: all but mixed-calib)",
    )
    add("--peer-python", type=Path, help="interpreter that has litert-torch; left out, no such row")
    add("--runs", type=_count, default=100, help="timed rounds (default: 100)")
    add("--limit-photographs", type=_count, metavar="N", help="use N of each folder, to try the script out")
    add("--work", type=Path, help="folder that keeps the files (default: a temporary one)")
    add("--json", type=Path, metavar="FILE", help="write every number there")
    options = parser.parse_args(own)
    if options.runs < 1 or options.limit_photographs == 0:
        parser.error("--runs and --limit-photographs must be at least 1")
    options.sizes = list(dict.fromkeys(options.sizes or ["640x640"]))
    options.seeds = list(dict.fromkeys(options.seeds or [0]))
    options.rows = options.rows or list(DEFAULT_ROWS)
    options.export_options = tuple(export_options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every row that was asked for is there, 1 otherwise."""
    options = parsed(arguments)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="int8-")))
        try:
            return _run(options, work.resolve() / FOLDER)
        except (RunError, FacexError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _run(options: argparse.Namespace, work: Path) -> int:
    machine = f"{host.description()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {sys.version.split()[0]}, facex {facex.__version__}", flush=True)
    peer = peer_interpreter(options.peer_python, work / "path") if "peer" in options.rows else "not asked for"
    if isinstance(peer, str):
        print(f"row of litert-torch skipped: {peer}")
    options.calib = limited(options.calib, options.limit_photographs, work / "calib", "--calib")
    options.images = limited(options.images, options.limit_photographs, work / "images", "--images")
    evidence = evidence_of(options)
    rows: list[Row] = []
    failures: list[str] = []
    for size in options.sizes:
        print(f"\n{options.checkpoint.name}, {size}", flush=True)
        found, failed = of_size(options, size, work, evidence, peer)
        rows += found
        failures += failed
        for columns in (int8_rows.ACCURACY, int8_rows.COST):
            int8_rows.console().print(int8_rows.table(found, columns))
    if options.json:
        about = {"machine": machine, "peer": peer if isinstance(peer, str) else peer["name"], "evidence": evidence}
        _write(options, rows, failures, about)
    return 1 if failures else 0


def _write(options: argparse.Namespace, rows: Sequence[Row], failures: Sequence[str], about: Mapping[str, Any]) -> None:
    document = {
        **about,
        "facex": facex.__version__,
        "checkpoint": options.checkpoint.name,
        "export_options": list(options.export_options),
        "rows": [int8_rows.plain(row) for row in rows],
        "failures": list(failures),
    }
    manifest.write_text(options.json, json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
