"""The forecast of a whole program: shares, transitions, where it first falls off."""

from __future__ import annotations

import numpy as np
import pytest

from facex.exporters._mil import residency
from facex.exporters._mil.program import Literal, Operation, Program, TensorType
from facex.types import Placement

HALF, SINGLE = (TensorType(dtype=dtype, shape=(1, 8, 4, 32)) for dtype in ("fp16", "fp32"))
ONE = Literal(type=TensorType(dtype="fp16", shape=()), value=np.float16(1).reshape(()))
LINE = np.zeros((1, 4, 8, 32), np.float16)


def _operation(kind: str, name: str, *reads: str, gives: TensorType = HALF) -> Operation:
    return Operation(type=kind, name=name, inputs={"x": reads}, outputs=((name, gives),))


def _program(*operations: Operation) -> Program:
    return Program(
        function="main",
        inputs={"image": HALF},
        operations=operations,
        outputs=(operations[-1].name,) if operations else (),
        colours={},
    )


def _there_and_back() -> Program:
    """Relu there; a cast nobody speaks of; two sums elsewhere that read it; a cast back; another relu there."""
    return _program(
        _operation("relu", "a", "image"),
        _operation("cast", "b", "a", gives=SINGLE),
        _operation("add", "c", "b", gives=SINGLE),
        _operation("add", "d", "b", "c", gives=SINGLE),
        _operation("cast", "e", "d"),
        _operation("relu", "f", "e", "a"),
    )


def test_shares_are_of_operations_and_of_multiplications() -> None:
    found = residency.forecast(_there_and_back(), {"a": 3, "c": 1, "unheard of": 100})
    assert found.resident_operation_fraction == 2 / 6
    assert found.resident_mac_fraction == 3 / 4


def test_a_tensor_that_crosses_counts_once_and_unknown_operations_pass_it_on() -> None:
    assert residency.forecast(_there_and_back(), {}).transitions == 2  # a on the way out, d on the way back


def test_what_stays_on_one_side_crosses_nothing() -> None:
    stays = _program(_operation("relu", "a", "image"), _operation("cast", "b", "a"), _operation("relu", "c", "b"))
    assert residency.forecast(stays, {}).transitions == 0


def test_the_first_fall_off_is_the_first_elsewhere_not_the_first_unknown() -> None:
    assert residency.forecast(_there_and_back(), {}).first_elsewhere == "add 'c'"
    assert residency.forecast(_program(_operation("relu", "a", "image")), {}).first_elsewhere is None


def test_operations_treated_alike_are_one_row_in_the_order_of_the_program() -> None:
    rows = residency.forecast(_there_and_back(), {}).operations
    assert [(row.operator, row.count, row.placement) for row in rows] == [
        ("relu", 2, Placement.NEURAL_ENGINE),
        ("cast", 2, Placement.UNKNOWN),
        ("add", 2, Placement.ELSEWHERE),
    ]


def test_a_program_of_nothing() -> None:
    found = residency.forecast(_program(), {})
    assert (found.resident_operation_fraction, found.resident_mac_fraction, found.operations) == (0.0, 0.0, ())


def test_constants_and_what_follows_from_them_do_not_run() -> None:
    constant = Operation(type="const", name="k", inputs={"val": (ONE,)}, outputs=(("k", SINGLE),))
    folded = _operation("reduce_prod", "m", "k", gives=SINGLE)
    reads = Operation(type="add", name="a", inputs={"x": ("image",), "y": ("m",)}, outputs=(("a", HALF),))
    found = residency.forecast(_program(constant, folded, reads), {})
    assert [(row.operator, row.placement) for row in found.operations] == [("add", Placement.NEURAL_ENGINE)]


@pytest.mark.parametrize(
    ("width", "fold"), [(32, None), (64, None), (5, "6.4-fold"), (1, "32-fold"), (33, "1.94-fold")]
)
def test_padding_of_the_last_axis_is_told(width: int, fold: str | None) -> None:
    narrow = TensorType(dtype="fp16", shape=(1, 8, 4, width))
    notes = residency.forecast(_program(_operation("relu", "a", "image", gives=narrow)), {}).notes
    assert [fold in note for note in notes] == ([True] if fold else [])


def _rows(written, body, **inputs) -> dict[str, tuple[Placement, str]]:
    """Operator -> placement and reason, in a file that coremltools wrote."""
    found = residency.of(*written(body, **inputs), {})
    assert found is not None
    return {row.operator: (row.placement, row.reason) for row in found.operations}


@pytest.mark.parametrize(
    ("kernel", "dilations", "wanted"),
    [((3, 3), (1, 1), "neural engine"), ((3, 15), (1, 1), "elsewhere"), ((3, 3), (2, 2), "unknown")],
)
def test_convolutions_of_a_saved_file(written, kernel, dilations, wanted) -> None:
    weight = np.ones((6, 4, *kernel), np.float16)
    rows = _rows(written, lambda mb, x: mb.conv(x=x, weight=weight, dilations=dilations, pad_type="same"), x=LINE)
    assert rows["conv"][0].value == wanted


def test_a_weight_that_is_an_input_is_no_constant(written) -> None:
    rows = _rows(written, lambda mb, x, y: mb.conv(x=x, weight=y), x=LINE, y=np.ones((6, 4, 3, 3), np.float16))
    assert rows["conv"] == (Placement.UNKNOWN, "its weights are computed")


def test_types_of_a_saved_file_decide(written) -> None:
    def body(mb, x):
        wide = mb.cast(x=mb.relu(x=x), dtype="fp32")
        return mb.exp(x=wide), mb.gather(x=x, indices=np.array([1, 0], np.int32), axis=1), mb.shape(x=x)

    rows = _rows(written, body, x=LINE)
    wanted = {"relu": "neural engine", "cast": "unknown", "exp": "elsewhere", "gather": "elsewhere",
              "shape": "elsewhere"}  # fmt: skip
    assert {kind: where.value for kind, (where, _) in rows.items()} == wanted


def test_control_flow_of_a_saved_file_is_elsewhere_and_no_error(written) -> None:
    def body(mb, x):
        some = mb.reduce_max(x=x, axes=[0, 1, 2, 3], keep_dims=False)
        return mb.cond(pred=mb.greater(x=some, y=np.float16(0)), _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: x)

    assert _rows(written, body, x=LINE)["cond"][0] is Placement.ELSEWHERE


def test_compressed_weights_are_noted_and_are_constants(written) -> None:
    def body(mb, x):
        weight = mb.constexpr_affine_dequantize(
            quantized_data=np.ones((6, 4, 3, 3), np.int8), scale=np.float16(0.5), zero_point=np.int8(0), axis=0
        )
        return mb.conv(x=x, weight=weight)

    found = residency.of(*written(body, target="iOS16", x=LINE), {})
    assert [(row.operator, row.placement) for row in found.operations] == [("conv", Placement.NEURAL_ENGINE)]
    assert "constexpr_affine_dequantize are decompressed" in found.notes[0]


def test_a_program_of_more_than_tensors_has_no_forecast(written) -> None:
    def body(mb, x):
        kept = mb.make_list(init_length=2, elem_shape=(1, 4, 8, 32), dtype="fp16")
        return mb.list_read(ls=mb.list_write(ls=kept, index=0, value=x), index=0)

    assert residency.of(*written(body, x=LINE), {}) is None
