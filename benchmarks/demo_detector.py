"""How the bundled detector does on real photographs, which it has never seen the like of.

    python benchmarks/demo_detector.py --images photos --ground-truth photos/gt.json FILE [FILE ...]

FILE is an exported .onnx or .tflite of the bundled detector, run by its own runtime. A face counts from `--min-height`
on, in the frame of 640x640 that the photographs are letterboxed into, whatever way it is turned; it is found by a
detection of score 0.5 or more that overlaps it by half. What overlaps no annotated face by `STRAY_IOU` is a false
positive.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from facex import exporters
from facex.parity import ground_truth
from facex.recipe import DEFAULT_SIZE
from facex.reference import geometry, photographs
from facex.types import Session

SCORE, FOUND_IOU, STRAY_IOU = 0.5, 0.5, 0.3
FILL_RGB = (123.0, 117.0, 104.0)


@dataclass
class Count:
    """What one file did."""

    faces: int = 0
    found: int = 0
    stray: int = 0
    photographs: int = 0
    background: int = 0
    background_stray: int = 0


def counted(
    session: Session, found: list[photographs.Photograph], truth: ground_truth.GroundTruth, low: float
) -> Count:
    """Run every photograph that somebody looked at."""
    count = Count()
    for photograph, entry in zip(found, ground_truth.assign(truth, found), strict=True):
        if entry is None or entry.faces is None:
            continue
        boxed = photographs.letterbox(photographs.load(photograph.path), DEFAULT_SIZE, FILL_RGB)
        outputs = session({"image": boxed.pixels[None]})
        given = (outputs[name][0] for name in ("boxes", "scores", "landmarks"))
        detections = geometry.detect(*given, score=SCORE)
        boxes = entry.faces.boxes * boxed.scale
        iou = geometry.iou_matrix(detections.boxes, boxes) if len(boxes) else np.zeros((len(detections), 1))
        stray = int((iou.max(axis=1, initial=0) < STRAY_IOU).sum())
        if not len(boxes):
            count.background += 1
            count.background_stray += stray
            continue
        large = boxes[:, 3] - boxes[:, 1] >= low
        count.photographs += 1
        count.stray += stray
        count.faces += int(large.sum())
        count.found += int((iou.max(axis=0, initial=0)[large] >= FOUND_IOU).sum())
    return count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--min-height", type=float, default=64.0, help="of a face that counts, px")
    given = parser.parse_args()
    found = photographs.find(given.images, option="--images")
    truth = ground_truth.load(given.ground_truth)
    table = Table("file", "faces", "recall", "false positives", "photographs", "on background", "photographs")
    for path in given.files:
        target = next(name for name in exporters.names() if exporters.info(name).suffix == path.suffix)
        count = counted(exporters.load(target).open_session(path, threads=2), found, truth, given.min_height)
        recall = f"{count.found / max(count.faces, 1):.3f}"
        row = (count.faces, recall, count.stray, count.photographs, count.background_stray, count.background)
        table.add_row(path.name, *map(str, row))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
