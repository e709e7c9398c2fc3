"""The end of an ML program that chooses faces itself, with Core ML's non-maximum suppression.

Before: boxes, scores, landmarks [1, N, ...]. After: non_maximum_suppression over min(score, `SATURATED`), the rows at
its indices gathered, zero from `count` on. The operator gives the best box where no box scores enough (iOS15), or knows
no score threshold at all (iOS17): which of the boxes it gives are faces is told by their scores, its count is not used.
Boxes go to it as centre and size, and come back by their index, not from it. The order of equal scores is Core ML's.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from facex.exporters._rewrites import COUNT
from facex.reference.geometry import SATURATED
from facex.types import Selection

NEWER = "iOS17"
"""First deployment target with the operator's second form."""


def register(selection: Selection, names: tuple[str, ...], newer: bool) -> str:
    """Name of a pass of coremltools that gives a program with a decoded head one that chooses faces.

    Args:
        selection: how.
        names: of the outputs of the decoded head, in order.
        newer: whether the program is for `NEWER` or a later system.
    """
    name = f"detections_{selection.score_threshold!r}_{selection.nms_iou!r}_{selection.max_faces}_{len(names)}_{newer}"
    _register(name, selection, names, newer)
    return f"facex::{name}"


@functools.cache
def _register(name: str, selection: Selection, names: tuple[str, ...], newer: bool) -> None:
    from coremltools import TensorType
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    class ChooseFaces(AbstractGraphPass):  # type: ignore[misc]
        """See the module."""

        def apply(self, prog: Any) -> None:
            (block,) = prog.functions.values()
            # a program traced from torch says of every operation which module it is of
            scopes = [
                ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_NAME, data=["detections"]),
                ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_TYPE, data=["Detections"]),
            ]
            with block, Builder.scope(*scopes):
                by_prior = dict(zip(names, block.outputs, strict=True))
                for key, value in by_prior.items():
                    value.set_name(f"{key}_by_prior")
                found = _chosen(by_prior, selection, newer=newer)
                block.set_outputs(found)
                block.set_output_types([TensorType(dtype=value.dtype) for value in found])

    register_pass(namespace="facex", name=name)(ChooseFaces)


def _chosen(by_prior: dict[str, Any], selection: Selection, *, newer: bool) -> list[Any]:
    """The outputs in order; must be called inside of the block."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813  (its name everywhere)

    threshold = np.float32(selection.score_threshold)
    capped = mb.minimum(x=by_prior["scores"], y=np.float32(SATURATED), name="capped_scores")
    index = _kept(mb, by_prior["boxes"], capped, selection, newer=newer)
    some = mb.greater_equal(x=index, y=np.int32(0), name="face_given")
    prior = mb.maximum(x=index, y=np.int32(0), name="face_prior")  # it pads with -1
    best = mb.gather_along_axis(x=capped, indices=prior, axis=1, name="face_capped_score")
    found = mb.logical_and(x=some, y=mb.greater_equal(x=best, y=threshold, name="face_enough"), name="face_found")
    count = mb.reduce_sum(x=mb.cast(x=found, dtype="int32", name="face_ones"), axes=[1], name=COUNT)
    flat = mb.squeeze(x=prior, axes=[0], name="face_priors")
    outputs = []
    for name, values in by_prior.items():
        taken = mb.gather(x=values, indices=flat, axis=1, name=f"{name}_taken")
        wide = mb.expand_dims(x=found, axes=[2], name=f"{name}_found") if len(values.shape) == 3 else found
        outputs.append(mb.select(cond=wide, a=taken, b=np.zeros(taken.shape, np.float32), name=name))
    outputs.insert(3, count)  # a mesh comes last
    return outputs


def _kept(mb: Any, boxes: Any, scores: Any, selection: Selection, *, newer: bool) -> Any:
    """What Core ML gives as the indices of the kept boxes: int32 [1, K]."""
    low = mb.slice_by_index(x=boxes, begin=[0, 0, 0], end=[1, boxes.shape[1], 2], name="box_low")
    high = mb.slice_by_index(x=boxes, begin=[0, 0, 2], end=[1, boxes.shape[1], 4], name="box_high")
    side = mb.sub(x=high, y=low, name="box_side")
    centre = mb.mul(x=mb.add(x=low, y=high, name="box_sum"), y=np.float32(0.5), name="box_centre")
    centred = mb.concat(values=[centre, side], axis=2, name="box_centred")
    given: dict[str, Any] = {"iou_threshold": np.float32(selection.nms_iou), "max_boxes": selection.max_faces}
    if newer:
        found = mb.non_maximum_suppression(
            boxes=mb.transpose(x=centred, perm=[0, 2, 1], name="box_columns"),
            scores=mb.expand_dims(x=scores, axes=[1], name="score_row"), name="nms", **given,
        )  # fmt: skip
    else:
        lowest = np.nextafter(np.float32(selection.score_threshold), np.float32(-1))
        found = mb.non_maximum_suppression(
            boxes=centred, scores=mb.expand_dims(x=scores, axes=[2], name="score_column"),
            score_threshold=lowest, name="nms", **given,
        )  # fmt: skip
    return found[2]
