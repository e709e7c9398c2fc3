"""What quantization does to every activation tensor of a QDQ model: its range, its noise, and what it costs the head.

The model is compared with its float twin (`facex.calibration.twin`) on photographs. The *sensitivity* of a tensor is
the error of the head's tensors when it alone is on its grid and everything else is float. Only what depends on the
tensor is computed again for it; the rest comes from the run of the float twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import Graph
from facex.calibration.heads import levels
from facex.calibration.twin import DEQUANTIZE, QUANTIZE, Grid, Twin, with_outputs
from facex.errors import ArtifactError, BackendError, first_line

SQNR_LIMIT_DB = 200.0
"""Identical tensors have no noise; their ratio is reported as this."""

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class TensorInsight:
    """One quantized activation tensor, over all photographs.

    Attributes:
        name: of the float tensor before its QuantizeLinear.
        operator: type of the node that computes it; `input` for an input of the model.
        scale: real value of one step of its grid.
        zero_point: the integer of zero.
        grid_low: the smallest value on the grid.
        grid_high: the largest.
        seen_low: the smallest value in the float twin.
        seen_high: the largest.
        clipped_fraction: share of the float twin's values that lie more than half a step outside the grid, 0-1.
        sqnr_db: energy of the float twin's values over that of the error in the quantized run, in decibels, within
            +-`SQNR_LIMIT_DB`; None where a value is not finite.
        relative_head_error: energy of the head's error over that of its signal when this tensor alone is quantized,
            averaged over scores, boxes, landmarks and mesh codes; NaN where a value is not finite.
    """

    name: str
    operator: str
    scale: float
    zero_point: int
    grid_low: float
    grid_high: float
    seen_low: float
    seen_high: float
    clipped_fraction: float
    sqnr_db: float | None
    relative_head_error: float

    @property
    def head_sqnr_db(self) -> float | None:
        """`relative_head_error` in decibels; a high ratio is harmless."""
        return decibels(1.0, self.relative_head_error)


@dataclass(frozen=True, kw_only=True)
class Insight:
    """What was seen.

    Attributes:
        tensors: in the order of the graph.
        heads: `scores` (logits of background and face), `boxes` and `landmarks` (offsets) and, where there are mesh
            codes, `mesh` of a detector, or the names of the trunk's results -> SQNR in decibels of the whole quantized
            file.
        photographs: how many were run.
    """

    tensors: tuple[TensorInsight, ...]
    heads: Mapping[str, float | None]
    photographs: int


def observe(
    path: Path, feeds: Iterable[Feed], *, threads: int = 1, on_photograph: Callable[[], None] | None = None
) -> Insight:
    """Run a QDQ model and its float twin on photographs.

    Args:
        path: a QDQ ONNX model with one grid per activation tensor.
        feeds: inputs of the model, one photograph each; at least one.
        threads: of onnxruntime.
        on_photograph: called after each.

    Raises:
        ArtifactError: the model has no quantized activation, or a grid per channel.
        BackendError: onnxruntime cannot run it.
    """
    twin = read(path)
    ablation = _Ablation(twin, threads)
    quantized = _Session(_quantized(twin, ablation.heads), threads)
    traces = {grid.tensor: _Trace(grid) for grid in twin.grids}
    whole = _HeadError(ablation.roles)
    count = 0
    for feed in feeds:
        values = ablation.add(feed)
        rounded = quantized.run(feed)
        for grid in twin.grids:
            traces[grid.tensor].add(values[grid.tensor], rounded[grid.dequantized[0]])
        whole.add(values, {name: rounded[twin.read_as(name)] for name in ablation.heads})
        count += 1
        if on_photograph:
            on_photograph()
    errors = ablation.errors()
    return Insight(
        tensors=tuple(trace.insight(errors[name]) for name, trace in traces.items()),
        heads={role: decibels(signal, noise) for role, (signal, noise) in whole.energies.items()},
        photographs=count,
    )


def read(path: Path) -> Twin:
    """A QDQ model and its float twin.

    Raises:
        ArtifactError: it has no quantized activation, a grid per channel, or no convolution.
    """
    import onnx

    twin = Twin(onnx.load(str(path)))
    if not twin.grids:
        raise ArtifactError(f"{path}: has no 8-bit activation, so there is no quantization to look into")
    if not Graph(twin.float_model).heads:
        raise ArtifactError(f"{path}: has no convolution, so nothing in it is a detector")
    return twin


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) within +-`SQNR_LIMIT_DB`; None where either is not finite."""
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return None
    if noise <= 0.0:
        return SQNR_LIMIT_DB
    if signal <= 0.0:
        return -SQNR_LIMIT_DB
    return max(-SQNR_LIMIT_DB, min(SQNR_LIMIT_DB, 10.0 * math.log10(signal / noise)))


class _Ablation:
    """The float twin, and for every tensor what follows it with that tensor alone on its grid.

    Attributes:
        heads: the trunk's results.
        roles: what they mean -> those of them.
    """

    def __init__(self, twin: Twin, threads: int) -> None:
        graph = Graph(twin.float_model)
        self.heads: list[str] = graph.heads
        self.roles = _roles(graph)
        parts = {grid.tensor: _part(graph, twin, grid) for grid in twin.grids}
        fed = {i.name for part in parts.values() for i in part.graph.input}
        given = {i.name for i in twin.float_model.graph.input}
        outputs = [*(name for name in (*fed, *(g.tensor for g in twin.grids), *self.heads) if name not in given)]
        self._whole = _Session(with_outputs(twin.float_model, outputs), threads)
        self._parts = {name: _Session(part, threads) for name, part in parts.items()}
        self._errors = {name: _HeadError(self.roles) for name in parts}

    def add(self, feed: Feed) -> Feed:
        """Take in one photograph; returns the float values of every quantized tensor and of the heads."""
        values = {**feed, **self._whole.run(feed)}
        for name, part in self._parts.items():
            found = {key.removesuffix(_ALONE): value for key, value in part.run(values).items()}
            self._errors[name].add(values, found)
        return values

    def errors(self) -> dict[str, float]:
        """See `TensorInsight.relative_head_error`, by tensor in the order of the graph."""
        return {name: error.relative for name, error in self._errors.items()}


_ALONE = "//on_its_grid"
"""Appended to the name of the one tensor that is quantized; no exporter writes such names."""


def _roles(graph: Graph) -> dict[str, list[str]]:
    """What the trunk's results mean -> their names; each is its own role where they are not a detector's head."""
    try:
        found = levels(graph)
    except BackendError:
        return {name: [name] for name in graph.heads}
    roles = {
        "scores": [level.margin for level in found],
        "boxes": [name for level in found for name in (level.anchor, level.box) if name],
        "landmarks": [level.landmarks for level in found],
        "mesh": [level.mesh for level in found if level.mesh],
    }
    return {role: names for role, names in roles.items() if names}


def _part(graph: Graph, twin: Twin, grid: Grid) -> Any:
    """The trunk's nodes that depend on a tensor, which passes its QuantizeLinear and DequantizeLinear first.

    Inputs are the tensor and everything else that those nodes read; outputs the heads among their results.
    """
    from onnx import NodeProto, TensorProto, helper, numpy_helper

    alone = grid.tensor + _ALONE
    given = [grid.tensor, *(name for name in grid.constants if name)]
    nodes = [
        helper.make_node(QUANTIZE, given, [f"{alone}_q"]),
        helper.make_node(DEQUANTIZE, [f"{alone}_q", *given[1:]], [alone]),
    ]
    reached, read = {grid.tensor}, dict.fromkeys([grid.tensor])
    for node in graph.trunk:
        if not reached & set(node.input):
            continue
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [alone if name == grid.tensor else name for name in node.input]
        nodes.append(copy)
        reached.update(node.output)
        read |= dict.fromkeys(name for name in graph.activations(node))
    inputs = [name for name in read if name not in reached or name == grid.tensor]
    outputs = [alone if name == grid.tensor else name for name in graph.heads if name in reached]
    used = {name for node in nodes for name in node.input}
    constants = {**twin.constants, **graph.constants}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "part",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
        ),
        opset_imports=list(twin.quantized.opset_import),
        ir_version=twin.quantized.ir_version,
    )


def _quantized(twin: Twin, heads: Sequence[str]) -> Any:
    """The QDQ model with the heads and every activation, after its grid, as outputs."""
    dequantized = [grid.dequantized[0] for grid in twin.grids]
    return with_outputs(twin.quantized, [*dequantized, *(twin.read_as(name) for name in heads)])


class _Session:
    """A model in onnxruntime, its Q and DQ as they are written: neither fused nor dropped."""

    def __init__(self, model: Any, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_cpu_mem_arena = False  # a hundred sessions live side by side
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            content = model.SerializeToString()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        # onnxruntime's exceptions share no base class beneath Exception
        except Exception as error:
            raise BackendError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._inputs = [i.name for i in self._session.get_inputs()]

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Outputs by name; of `feed` it reads its inputs alone."""
        given = {name: feed[name] for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(None, given), strict=True))


class _Trace:
    """One tensor so far."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._low, self._high = math.inf, -math.inf
        self._clipped = self._count = 0
        self._signal = self._noise = 0.0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Take in the float values and those of the quantized run."""
        grid, half = self._grid, self._grid.scale / 2
        self._low, self._high = min(self._low, float(x.min())), max(self._high, float(x.max()))
        self._clipped += int(np.count_nonzero((x < grid.low - half) | (x > grid.high + half)))
        self._count += x.size
        self._signal += _energy(x)
        self._noise += _energy(x - y)

    def insight(self, error: float) -> TensorInsight:
        """What was seen, with the sensitivity."""
        grid = self._grid
        return TensorInsight(
            name=grid.tensor,
            operator=grid.operator,
            scale=grid.scale,
            zero_point=grid.zero_point,
            grid_low=grid.low,
            grid_high=grid.high,
            seen_low=self._low,
            seen_high=self._high,
            clipped_fraction=self._clipped / self._count,
            sqnr_db=decibels(self._signal, self._noise),
            relative_head_error=error,
        )


class _HeadError:
    """Energy of the signal and of the error of the head's tensors so far.

    Attributes:
        energies: role -> both.
    """

    def __init__(self, roles: Mapping[str, Sequence[str]]) -> None:
        self._roles = roles
        self.energies = dict.fromkeys(roles, (0.0, 0.0))

    def add(self, reference: Feed, found: Feed) -> None:
        """Compare; a tensor that is not in `found` is as in the reference."""
        for role, names in self._roles.items():
            signal, noise = self.energies[role]
            signal += sum(_energy(reference[name]) for name in names)
            noise += sum(_energy(reference[name] - found[name]) for name in names if name in found)
            self.energies[role] = (signal, noise)

    @property
    def relative(self) -> float:
        """Noise over signal, averaged over the roles; a role without signal counts its noise as infinite."""
        shares = [
            0.0 if noise == 0.0 else noise / signal if signal else math.inf for signal, noise in self.energies.values()
        ]
        return float(np.mean(shares))


def _energy(x: NDArray[np.float32]) -> float:
    """Sum of squares, float64 over float32 partial sums of a row each."""
    flat = np.ascontiguousarray(x).reshape(-1)
    return float(np.dot(flat, flat)) if flat.size < 4096 else float(np.einsum("i,i->", flat, flat, dtype=np.float64))
