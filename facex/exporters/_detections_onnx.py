"""The end of an ONNX model that chooses faces itself, in standard operators.

Before: boxes, scores, landmarks [1, N, ...]. After: NonMaxSuppression over min(score, `SATURATED`), its indices padded
to K, the rows at them gathered, zero from `count` on. The operator keeps scores above its threshold, not from it on, so
that it gets the next smaller number. The order of equal scores is not in its specification: onnxruntime keeps the
earlier prior first, as `facex.reference.geometry` does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facex.exporters import SELECTION
from facex.exporters._rewrites import COUNT
from facex.reference.geometry import SATURATED
from facex.types import Head, Selection, as_plain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PREFIX = "detections/"
"""Begins the names of everything that is added here."""


def append(path: Path, selection: Selection) -> None:
    """Give the model at `path`, with a decoded head, one that chooses faces."""
    model = onnx.load(str(path))
    onnx.save(chosen(model, selection), str(path))


def chosen(model: Any, selection: Selection) -> Any:
    """The same model with its faces chosen; the given one, with a decoded head, is left alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    by_prior = [o.name for o in copy.graph.output]
    widths = {o.name: tuple(d.dim_value for d in o.type.tensor_type.shape.dim)[2:] for o in copy.graph.output}
    inner = {name: f"{PREFIX}by_prior/{name}" for name in by_prior}
    for node in copy.graph.node:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    tail = _Tail(copy)
    index, count = tail.selected(inner["boxes"], inner["scores"], selection)
    rows = selection.max_faces
    place = tail.constant("place", np.arange(rows, dtype=np.int64))
    found = tail.node("Less", place, count, name="found")  # int64 [K] against [1]
    del copy.graph.output[:]
    for name in by_prior:
        tail.rows(name, inner[name], index, found, (rows, *widths[name]))
    tail.node("Cast", count, name=COUNT, output=COUNT, to=TensorProto.INT32)
    outputs = [(name, TensorProto.FLOAT, (1, rows, *widths[name])) for name in by_prior]
    outputs.insert(3, (COUNT, TensorProto.INT32, (1,)))  # a mesh comes last
    copy.graph.output.extend(helper.make_tensor_value_info(*output) for output in outputs)
    _tell(copy, selection)
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Tail:
    """Adds nodes and constants to a model."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(value, f"{PREFIX}{name}"))
        return f"{PREFIX}{name}"

    def node(self, operator: str, *inputs: str, name: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{PREFIX}{name}"
        self._graph.node.append(helper.make_node(operator, inputs, [output], name=f"{PREFIX}{name}", **attributes))
        return output

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.asarray(values, np.int64))

    def selected(self, boxes: str, scores: str, selection: Selection) -> tuple[str, str]:
        """Priors of the faces, int64 [K], best first, then the prior 0; and how many are faces, int64 [1]."""
        rows = selection.max_faces
        limit = self.constant("saturated", np.asarray(SATURATED, np.float32))
        capped = self.node("Min", scores, limit, name="capped")
        by_class = self.node("Unsqueeze", capped, self.integers("axis", 1), name="by_class")
        below = np.nextafter(np.float32(selection.score_threshold), np.float32(-1))
        kept = self.node(
            "NonMaxSuppression", boxes, by_class,
            self.integers("most", rows),
            self.constant("iou", np.asarray([selection.nms_iou], np.float32)),
            self.constant("threshold", np.asarray([below], np.float32)),
            name="nms",
        )  # fmt: skip
        priors = self.node("Gather", kept, self.constant("column", np.asarray(2, np.int64)), name="priors", axis=1)
        shape = self.node("Shape", priors, name="count_of")
        padded = self.node("Concat", priors, self.constant("padding", np.zeros(rows, np.int64)), name="padded", axis=0)
        cut = self.node("Slice", padded, self.integers("first", 0), self.integers("last", rows), name="cut")
        return self.node("Reshape", cut, self.integers("rows", rows), name="index"), shape

    def rows(self, name: str, values: str, index: str, found: str, shape: tuple[int, ...]) -> None:
        """The output of that name: rows [1, K, ...] of the faces, and zero."""
        taken = self.node("Gather", values, index, name=f"taken/{name}", axis=1)
        mask = self.node(
            "Reshape", found, self.integers(f"mask_shape/{name}", 1, shape[0], *(1 for _ in shape[1:])),
            name=f"mask/{name}",
        )  # fmt: skip
        zero = self.constant(f"zero/{name}", np.asarray(0, np.float32))
        self.node("Where", mask, taken, zero, name=name, output=name)


def _tell(model: Any, selection: Selection) -> None:
    """Correct what the model says of itself."""
    told = {p.key: p.value for p in model.metadata_props}
    told |= {"facex.head": str(Head.DETECTIONS), SELECTION: json.dumps(as_plain(selection), sort_keys=True)}
    del model.metadata_props[:]
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
