"""Each published statement on the Neural Engine, from both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facex.exporters._mil import placement
from facex.exporters._mil.placement import Site
from facex.exporters._mil.program import Literal, Operation, TensorType
from facex.types import Placement

THERE, ELSEWHERE, UNKNOWN = Placement.NEURAL_ENGINE, Placement.ELSEWHERE, Placement.UNKNOWN
Shape = tuple[int | None, ...]
MAP: Shape = (1, 8, 20, 20)


def _literal(value: Any) -> Literal:
    if isinstance(value, str):
        return Literal(type=TensorType(dtype="string", shape=()), value=value)
    array = np.asarray(value)
    return Literal(type=TensorType(dtype="fp16", shape=array.shape), value=array)


def _placed(
    kind: str, *shapes: Shape, dtype: str = "fp16", gives: str | None = None, to: Shape | None = None, **constants: Any
) -> tuple[Placement, str, str]:
    """Where an operation is placed that reads tensors of one type, and gives one of the first's shape or of `to`."""
    read = tuple(TensorType(dtype=dtype, shape=shape) for shape in shapes or (MAP,))
    given = TensorType(dtype=gives or dtype, shape=to or read[0].shape)
    operation = Operation(type=kind, name="it", inputs={}, outputs=(("y", given),))
    return placement.place(
        Site(operation=operation, computed=read, constants={k: _literal(v) for k, v in constants.items()})
    )


def _kernel(height: int, width: int) -> np.ndarray:
    return np.zeros((8, 8, height, width), np.float16)


@pytest.mark.parametrize(
    ("there", "gone", "outcome", "source"),
    [
        (_placed("relu", (1, 2, 3, 4, 5)), _placed("relu", (1, 2, 3, 4, 5, 6)), ELSEWHERE, placement.RANK),
        (_placed("relu", (1, 8, 20, 20)), _placed("relu", (1, 8, None, 20)), UNKNOWN, placement.FLEXIBLE_SHAPES),
        (_placed("add"), _placed("add", dtype="fp32"), ELSEWHERE, placement.TYPED_EXECUTION),
        (_placed("add"), _placed("add", dtype="int32"), ELSEWHERE, placement.GUIDE_RULES),
        (_placed("greater", gives="bool"), _placed("greater", dtype="int32", gives="bool"), ELSEWHERE,
         placement.GUIDE_RULES),
        (_placed("reduce_sum"), _placed("reduce_prod"), ELSEWHERE, placement.GUIDE_OPERATIONS),
        (_placed("logical_not", dtype="bool"), _placed("logical_and", dtype="bool"), ELSEWHERE,
         placement.GUIDE_OPERATIONS),
        (_placed("tanh"), _placed("lstm"), ELSEWHERE, placement.RECURRENT),
        (_placed("select"), _placed("cond"), ELSEWHERE, placement.CATALOG),
        (_placed("exp"), _placed("sin"), ELSEWHERE, placement.CATALOG),
        (_placed("split"), _placed("gather"), ELSEWHERE, placement.DECODER_PLAN),
        (_placed("reduce_max"), _placed("topk"), ELSEWHERE, placement.RF_DETR_PLANS),
        (_placed("concat"), _placed("non_maximum_suppression"), ELSEWHERE, placement.CAPABILITIES),
        (_placed("relu", (1, 65536, 1, 16384)), _placed("relu", (1, 8, 1, 16385)), ELSEWHERE, placement.GUIDE_RULES),
        (_placed("relu", (1, 8, 16384, 1)), _placed("relu", (1, 8, 16385, 1)), ELSEWHERE, placement.GUIDE_RULES),
        (_placed("relu", (1, 65536, 1, 1)), _placed("relu", (1, 65537, 1, 1)), ELSEWHERE, placement.GUIDE_RULES),
        (_placed("conv", weight=_kernel(3, 13)), _placed("conv", weight=_kernel(3, 14)), ELSEWHERE,
         placement.GUIDE_RULES),
        (_placed("conv", weight=_kernel(29, 3)), _placed("conv", weight=_kernel(30, 3)), ELSEWHERE,
         placement.GUIDE_RULES),
        (_placed("conv", weight=_kernel(3, 3)), _placed("conv", weight=np.zeros((8, 8, 3, 3, 3))), ELSEWHERE,
         placement.GUIDE_OPERATIONS),
        (_placed("conv", weight=_kernel(3, 3)), _placed("conv", MAP, (8, 8, 3, 3)), UNKNOWN, placement.CAPABILITIES),
        (_placed("conv", weight=_kernel(3, 3), dilations=[1, 1]),
         _placed("conv", weight=_kernel(3, 3), dilations=[1, 2]), UNKNOWN, placement.HOLLEMANS),
        (_placed("max_pool", kernel_sizes=[13, 13], strides=[2, 2]), _placed("max_pool", kernel_sizes=[14, 2]), UNKNOWN,
         placement.HOLLEMANS_LOGS),
        (_placed("avg_pool", kernel_sizes=[2, 2]), _placed("avg_pool", kernel_sizes=[2, 2], strides=[1, 3]), UNKNOWN,
         placement.HOLLEMANS_LOGS),
        (_placed("upsample_nearest_neighbor", scale_factor_height=2, scale_factor_width=1),
         _placed("upsample_nearest_neighbor", scale_factor_height=2, scale_factor_width=3), UNKNOWN,
         placement.HOLLEMANS_LOGS),
        (_placed("matmul"), _placed("matmul", (1, 2, 8, 20, 20)), ELSEWHERE, placement.GUIDE_RULES),
        (_placed("reduce_argmax", (1, 2048), axis=1), _placed("reduce_argmax", (1, 2049), axis=1), ELSEWHERE,
         placement.GUIDE_RULES),
        (_placed("pad", pad=[0, 0, 0, 0, 1, 1, 1, 1], mode="constant"),
         _placed("pad", pad=[0, 0, 1, 0, 1, 1, 1, 1], mode="constant"), ELSEWHERE, placement.GUIDE_RULES),
        (_placed("pad", pad=[1, 1, 1, 1]), _placed("pad", pad=[1, 1, 1, 1], mode="reflect"), UNKNOWN,
         placement.CATALOG),
        (_placed("slice_by_index"), _placed("slice_by_index", MAP, (4,)), UNKNOWN, placement.GUIDE_OPERATIONS),
        (_placed("relu"), _placed("an_operator_of_tomorrow"), UNKNOWN, ""),
    ],
)  # fmt: skip
def test_a_statement_and_what_it_leaves_alone(
    there: tuple[Placement, str, str], gone: tuple[Placement, str, str], outcome: Placement, source: str
) -> None:
    assert there[0] is THERE
    assert (gone[0], gone[2]) == (outcome, source)
    assert gone[1]


def test_quantization_is_there_and_other_work_on_its_integers_is_not() -> None:
    assert _placed("quantize", gives="int8")[0] is THERE
    assert _placed("dequantize", dtype="int8", gives="fp16")[::2] == (THERE, placement.WHATS_NEW)
    assert _placed("add", dtype="int8")[0] is ELSEWHERE
    assert _placed("dequantize", dtype="int8", gives="fp32")[0] is ELSEWHERE


def test_casts_between_floats_are_unknown_and_those_of_integers_elsewhere() -> None:
    for here, gives in (("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "bool")):
        assert _placed("cast", dtype=here, gives=gives)[::2] == (UNKNOWN, placement.CAST_PLANS)
    for here, gives in (("fp16", "int32"), ("int32", "fp16"), ("uint8", "fp16")):
        assert _placed("cast", dtype=here, gives=gives)[0] is ELSEWHERE


def test_a_refusal_goes_before_what_is_supported() -> None:
    assert _placed("conv", dtype="fp32", weight=_kernel(3, 3))[2] == placement.TYPED_EXECUTION
    assert _placed("gather", dtype="fp32")[2] == placement.TYPED_EXECUTION


def test_a_convolution_along_one_axis_has_a_width_alone() -> None:
    assert _placed("conv", (1, 8, 20), weight=np.zeros((8, 8, 13), np.float16))[0] is THERE
    assert _placed("conv", (1, 8, 20), weight=np.zeros((8, 8, 14), np.float16))[0] is ELSEWHERE


def test_axes_count_from_either_end() -> None:
    assert _placed("reduce_argmax", (4096, 8), axis=-1)[0] is THERE
    assert _placed("reduce_argmax", (8, 4096), axis=-1)[0] is ELSEWHERE


@pytest.mark.parametrize(
    "broken", [("conv", {"weight": 1.0}), ("reduce_argmax", {"axis": 9}), ("pad", {"pad": []}), ("max_pool", {})]
)
def test_a_damaged_operation_is_no_error_here(broken: tuple[str, dict[str, Any]]) -> None:
    kind, constants = broken
    assert _placed(kind, **constants)[1]


def test_no_operator_is_on_two_lists_and_every_source_is_an_address() -> None:
    lists = [set(placement.PLANNED), placement.MEASURED, placement.WITHOUT_PATH, placement.UNCONVERTED, placement.LATER]
    assert sum(map(len, lists)) == len(set().union(*lists))
    for kind in (*placement.PLANNED, *placement.MEASURED):
        where, reason, source = _placed(kind, weight=_kernel(3, 3), pad=[0, 0])
        assert where is THERE, kind
        assert reason
        assert source.startswith("https://")
