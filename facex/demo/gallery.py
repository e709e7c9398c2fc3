"""Folders of rendered photographs with their ground truth, made by several processes.

A photograph is decided by the seed, its stream and its number: one can be rendered again alone, and photographs of
different streams share nobody.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facex import workspace
from facex.demo import scene
from facex.errors import BackendError, UsageError, stage
from facex.progress import Progress, Silent

GROUND_TRUTH = "gt.json"
IMAGES = "images"
SIZES = ((480, 640), (640, 480), (448, 448), (512, 512), (360, 640))
"""Heights and widths that take turns, pixels."""

MIN_HEIGHT_PX = {"easy": 40.0, "medium": 22.0, "hard": 10.0}
"""Lowest face that counts for a subset, at a long side of 640 px; close to those of WIDER FACE (Yang et al. 2016)."""

EASY_YAW_DEG = 60.0


class Stream(enum.IntEnum):
    """What photographs are for."""

    TRAINING = 1
    EVALUATION = 2
    CALIBRATION = 3
    PARITY = 4
    OTHER = 5
    GOLDENS = 6


def render(folder: Path, *, stream: Stream, count: int, seed: int = 0, processes: int | None = None,
           progress: Progress | None = None) -> None:  # fmt: skip
    """Render photographs into a new folder: `images/*.jpg` and `gt.json`. All of it appears at once, at the end.

    Args:
        folder: must not exist, or be empty.
        stream: what they are for.
        count: how many.
        seed: of all chance.
        processes: how many render at once; None is one for every core.
        progress: told of every photograph.

    Raises:
        UsageError: the folder holds something, or would be in a file.
        BackendError: a file cannot be written, or a process failed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not empty", hint="name a new folder")
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{folder}: {parent} is a file", hint="name a new folder")
    with stage("render"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = workspace.scratch(folder.parent, f".{folder.name}")
        try:
            (work / IMAGES).mkdir()
            found = _rendered(work, stream, count, seed, processes or _cores(), progress or Silent())
            truth = {"note": f"rendered by facex: stream {stream.name.lower()}, seed {seed}", "images": found}
            (work / GROUND_TRUTH).write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rmdir()
            work.chmod(0o755)  # mkdtemp lets nobody else in
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rendered(
    work: Path, stream: Stream, count: int, seed: int, processes: int, progress: Progress
) -> list[dict[str, Any]]:
    """The entries of all photographs, in order, when every worker is done."""
    entries: list[dict[str, Any]] = []
    parts = [range(first, count, processes) for first in range(min(processes, count))]
    with _workers(work, stream, seed, parts) as running:
        readers = [threading.Thread(target=_read, args=(w, entries, progress), daemon=True) for w in running]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        for worker in running:
            assert worker.stderr is not None
            said = worker.stderr.read()
            if worker.wait():
                raise BackendError(said.strip().splitlines()[-1] if said.strip() else "a process was killed")
    return sorted(entries, key=lambda entry: str(entry["file"]))


@contextlib.contextmanager
def _workers(work: Path, stream: Stream, seed: int, parts: list[range]) -> Iterator[list[subprocess.Popen[str]]]:
    # subprocesses and not multiprocessing, which would run the caller's own script again in each of them
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}
    running: list[subprocess.Popen[str]] = []
    try:
        for part in parts:
            line = [sys.executable, "-m", __name__, str(work), str(int(stream)), str(seed)]
            line += map(str, (part.start, part.stop, part.step))
            running.append(
                subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)  # noqa: S603
            )
        yield running
    finally:
        for worker in running:
            if worker.poll() is None:
                worker.kill()
            worker.communicate()


def _read(worker: subprocess.Popen[str], entries: list[dict[str, Any]], progress: Progress) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        entries.append(json.loads(line))
        progress.advance()


def write_one(work: Path, stream: Stream, seed: int, number: int) -> dict[str, Any]:
    """Render one photograph into `work/images` and give its entry of the ground truth."""
    height, width = SIZES[number % len(SIZES)]
    rendering = scene.photograph((seed, int(stream), number), height, width)
    file = f"{IMAGES}/{stream.name.lower()}_{number:05d}.jpg"
    (work / file).write_bytes(rendering.jpeg)
    faces = [_entry(face, height, width) for face in rendering.faces]
    digest = hashlib.sha256(rendering.jpeg).hexdigest()
    return {"file": file, "sha256": digest, "width": width, "height": height, "faces": faces}


def _entry(face: scene.Face, height: int, width: int) -> dict[str, Any]:
    x0, y0, x1, y1 = (round(float(v), 2) for v in face.box)
    at_640 = (y1 - y0) * 640 / max(height, width)
    seen = face.visible >= scene.VISIBLE
    counts = {name: bool(seen and at_640 >= low) for name, low in MIN_HEIGHT_PX.items()}
    counts["easy"] &= abs(face.yaw_deg) <= EASY_YAW_DEG
    return {
        "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
        "landmarks": [[round(float(v), 2) for v in point] for point in face.landmarks],
        "visible": round(face.visible, 3),
        "yaw_deg": round(face.yaw_deg, 1),
        "masked": face.masked,
        **counts,
    }


def _main(arguments: list[str]) -> None:
    """One worker: FOLDER STREAM SEED START STOP STEP; tells of every photograph in a line of JSON."""
    work, (stream, seed, start, stop, step) = Path(arguments[0]), map(int, arguments[1:])
    for number in range(start, stop, step):
        print(json.dumps(write_one(work, Stream(stream), seed, number)), flush=True)


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
