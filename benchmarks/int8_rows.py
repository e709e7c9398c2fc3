"""What `int8.py` measures on finished files, and how it shows it: parity, time, what a file says of itself, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facex import exporters
from facex.device_bench import host
from facex.exporters import _litert
from facex.manifest import rounded
from facex.parity import compare
from facex.reference.detector import ReferenceSession, decoded
from facex.reference.photographs import letterbox, load
from facex.types import Head, Session, Size, as_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from facex.parity.ground_truth import GroundTruth
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph
    from facex.types import FileFacts, FloatArray, Latency

THREADS = 1
STOCK = "TFLite converter"
"""The row that everybody can have; times are compared with it."""

NOTHING = "-"
RAW_OUTPUTS = ("loc", "conf", "landm")


@dataclass(frozen=True, kw_only=True)
class File:
    """An exported file.

    Attributes:
        name: of its row, e.g. `facex best, seed 0`.
        path: where it is.
        seconds: of the whole command that wrote it.
        exit_code: of that command.
        raw: whether its outputs are the raw heads, in another tool's form.
    """

    name: str
    path: Path
    seconds: float
    exit_code: int
    raw: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the tables; ratios are of the minima, from one interleaved run on one thread, None without the other.

    Attributes:
        metrics: see `facex.parity.compare.Comparison`.
        counts: see `facex.parity.metrics.Counts`.
        dequantize_before_head: DEQUANTIZE of an activation with a convolution somewhere after it.
    """

    file: File
    size: Size
    size_bytes: int
    facts: FileFacts
    dequantize_before_head: int
    metrics: Mapping[str, float | None]
    counts: Mapping[str, int]
    latency: Latency
    ratio_to_fp32: float | None
    ratio_to_stock: float | None


class RawSession:
    """A file with raw heads in another tool's form, as a session with decoded outputs (`facex.types.Session`).

    It quantizes the image and dequantizes the outputs where the file leaves that to the caller, and decodes in NumPy.
    `invoke` runs the file alone.
    """

    def __init__(self, path: Path, detector: Detector, size: Size, *, threads: int) -> None:
        self.runtime, interpreter_class = _litert.runtime_module()
        self._interpreter = interpreter_class(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        runner = self._interpreter.get_signature_runner()
        (self._image,) = runner.get_input_details().values()
        outputs = runner.get_output_details()
        # litert-torch numbers its outputs in the order of the module's
        names = RAW_OUTPUTS if set(outputs) == set(RAW_OUTPUTS) else sorted(outputs)
        self._outputs = {raw: outputs[name] for raw, name in zip(RAW_OUTPUTS, names, strict=True)}
        self._contract, self._size = detector.contract, size

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Run once on uint8 [1, H, W, 3]."""
        self._interpreter.set_tensor(self._image["index"], quantized(inputs["image"], self._image))
        self._interpreter.invoke()
        raw = {name: dequantized(self._interpreter.get_tensor(o["index"]), o) for name, o in self._outputs.items()}
        boxes, scores, landmarks = decoded(raw, Head.RAW, self._contract, self._size)
        return {"boxes": boxes[None], "scores": scores[None], "landmarks": landmarks[None]}

    def invoke(self) -> None:
        """Run again on the last image."""
        self._interpreter.invoke()


def quantized(pixels: NDArray[np.uint8], tensor: Mapping[str, Any]) -> NDArray[Any]:
    """Pixels 0-255 on the grid of an input, as an app would put them there; as they are for a float one."""
    dtype, (scale, zero) = tensor["dtype"], tensor["quantization"]
    values: NDArray[Any] = pixels
    if scale:
        info = np.iinfo(dtype)
        values = np.clip(np.rint(pixels.astype(np.float64) / scale) + zero, info.min, info.max)
    return values.astype(dtype)


def dequantized(values: NDArray[Any], tensor: Mapping[str, Any]) -> FloatArray:
    """An output as float32; as it is from a float one."""
    scale, zero = tensor["quantization"]
    real = (values.astype(np.float64) - zero) * scale if scale else values
    return real.astype(np.float32)


def measured(
    files: Sequence[File],
    detector: Detector,
    size: Size,
    photographs: Sequence[Photograph],
    ground_truth: GroundTruth | None,
    *,
    threads: int,
    runs: int,
) -> list[Row]:
    """Parity over the photographs and one interleaved timing of all files of one size.

    Args:
        files: the float one first.
        detector: the checkpoint that they were made from.
        size: of their input.
        photographs: for evaluation.
        ground_truth: of the photographs, or None.
        threads: of the reference; the files run on `THREADS`.
        runs: timed rounds.
    """
    sessions = {file.name: _opened(file, detector, size) for file in files}
    comparison = compare.compare(
        ReferenceSession(detector, size, Head.DECODED, threads=threads),
        {name: compare.Candidate(session=session, head=Head.DECODED) for name, session in sessions.items()},
        photographs,
        contract=detector.contract,
        size=size,
        head=Head.DECODED,
        ground_truth=ground_truth,
    )
    pixels = letterbox(load(photographs[0].path), size, detector.contract.mean_rgb).pixels[None]
    inputs = {name: {"image": pixels} for name in sessions}
    latency = host.measure(sessions, inputs, threads=THREADS, warmup=10, runs=runs, max_seconds=300.0)
    floor_ms = {entry.artifact: entry.low_ms for entry in latency}
    stock_ms = floor_ms.get(STOCK)
    return [
        Row(
            file=file,
            size=size,
            size_bytes=file.path.stat().st_size,
            facts=_litert.describe(file.path),
            dequantize_before_head=dequantize_before_head(file.path),
            metrics=comparison.metrics[file.name],
            counts=vars(comparison.counts[file.name]),
            latency=entry,
            ratio_to_fp32=entry.low_ms / floor_ms[files[0].name],
            ratio_to_stock=entry.low_ms / stock_ms if stock_ms else None,
        )
        for file, entry in zip(files, latency, strict=True)
    ]


def _opened(file: File, detector: Detector, size: Size) -> Session:
    if file.raw:
        return RawSession(file.path, detector, size, threads=THREADS)
    session: Session = exporters.load("tflite").open_session(file.path, threads=THREADS)
    return session


def dequantize_before_head(path: Path) -> int:
    """How often an activation leaves the integers although a convolution comes after it."""
    _, interpreter_class = _litert.runtime_module()
    operators = interpreter_class(model_path=str(path))._get_ops_details()
    return _count_dequantize(
        [(o["op_name"], set(map(int, o["inputs"])), set(map(int, o["outputs"]))) for o in operators]
    )


def _count_dequantize(operators: Sequence[tuple[str, set[int], set[int]]]) -> int:
    """Of operators in the order of execution: name, inputs, outputs.

    Integer weights of a float convolution are dequantized too; no operator writes them, so they do not count.
    """
    activations = set().union(*(outputs for _, _, outputs in operators))
    needed: set[int] = set()
    count = 0
    for name, inputs, outputs in reversed(operators):
        wanted = bool(outputs & needed)
        count += name == "DEQUANTIZE" and wanted and bool(inputs & activations)
        if wanted or name in _litert.MAC_OPERATORS:
            needed |= inputs
    return count


def plain(row: Row) -> dict[str, Any]:
    """A row as JSON knows it; what should have been measured and was not finite is null and named apart."""
    broken = sorted(name for name, value in row.metrics.items() if value is not None and not math.isfinite(value))
    found: dict[str, Any] = rounded(
        {
            "name": row.file.name,
            "size": str(row.size),
            "export_seconds": row.file.seconds,
            "exit_code": row.file.exit_code,
            "metrics": {name: None if name in broken else value for name, value in row.metrics.items()},
            "not_finite": broken,
            "counts": dict(row.counts),
            "integer_mac_fraction": row.facts.integer_mac_fraction,
            "float_islands": as_plain(row.facts.float_islands),
            "operators": dict(row.facts.operators),
            "dequantize_before_head": row.dequantize_before_head,
            "size_bytes": row.size_bytes,
            "latency": as_plain(row.latency),
            "ratio_to_fp32": row.ratio_to_fp32,
            "ratio_to_stock": row.ratio_to_stock,
        }
    )
    return found


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading and what stands below it."""

    heading: str
    cell: Callable[[Row], str]


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    # adding zero turns -0.0 into 0.0
    return NOTHING if value is None else f"{round(value * factor, digits) + 0.0:.{digits}f}"


def _metrics(heading: str, names: Sequence[str], digits: int, factor: float = 1.0) -> Column:
    return Column(
        heading=heading, cell=lambda row: " / ".join(_number(row.metrics.get(name), digits, factor) for name in names)
    )


FILE = Column(heading="file", cell=lambda row: row.file.name)
AP_DROPS = ("ap_drop_easy", "ap_drop_medium", "ap_drop_hard", "ap_drop_all")
ACCURACY = (
    FILE,
    _metrics("F1", ["matched_f1"], 3),
    _metrics("lost, %", ["lost_faces"], 2, 100),
    _metrics("IoU mean / p5", ["box_iou_mean", "box_iou_p5"], 3),
    _metrics("NME mean / p95", ["landmark_nme_mean", "landmark_nme_p95"], 4),
    _metrics("score shift", ["score_shift_mean"], 4),
    _metrics("AP drop, points: easy / medium / hard / all", AP_DROPS, 2, 100),
)
COST = (
    FILE,
    Column(heading="integer MACs, %", cell=lambda row: _number(row.facts.integer_mac_fraction, 2, 100)),
    Column(heading="DEQUANTIZE before the head", cell=lambda row: str(row.dequantize_before_head)),
    Column(heading="MB", cell=lambda row: _number(row.size_bytes, 3, 1e-6)),
    Column(heading="export, s", cell=lambda row: _number(row.file.seconds, 0)),
    Column(heading="exit code", cell=lambda row: str(row.file.exit_code)),
    Column(heading="ms, 1 thread", cell=lambda row: _number(row.latency.low_ms, 2)),
    Column(heading="/ fp32", cell=lambda row: _number(row.ratio_to_fp32, 2)),
    Column(heading="/ TFLite converter", cell=lambda row: _number(row.ratio_to_stock, 2)),
)


def table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Rows as a table that can be pasted into Markdown."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.MARKDOWN)
    for column in columns:
        shown.add_column(column.heading, no_wrap=True, justify="left" if column is FILE else "right")
    for row in rows:
        shown.add_row(*(column.cell(row) for column in columns))
    return shown


def console() -> Any:
    """As wide as the tables, wherever they go."""
    from rich.console import Console

    return Console(width=180, soft_wrap=False, highlight=False)
