"""Reading a package and running it: types, order, what is refused, and where an error says it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facex.errors import ArtifactError, BackendError, UnsupportedOperatorError
from facex.exporters._mil import program, registry
from facex.exporters._mil.executor import Executor, held, stored
from facex.exporters._mil.program import Literal, Operation, Program, TensorType
from facex.exporters._quiet import quiet

FLOAT2 = TensorType(dtype="fp32", shape=(2,))


def _program(*operations: Operation, outputs: tuple[str, ...] = ("y",)) -> Program:
    return Program(function="main", inputs={"x": FLOAT2}, operations=operations, outputs=outputs, colours={})


def _operation(kind: str, out: str = "y", declared: TensorType = FLOAT2, **inputs: str | Literal) -> Operation:
    given = {name: (value,) for name, value in inputs.items()}
    return Operation(type=kind, name=f"{kind}_{out}", inputs=given, outputs=((out, declared),))


def _literal(value: Any, dtype: str = "fp32") -> Literal:
    array = np.asarray(value, program.NUMPY[dtype])
    return Literal(type=TensorType(dtype=dtype, shape=array.shape), value=array)


@pytest.fixture(scope="module")
def saved(saved_model: Callable[[Any], tuple[Any, Path]]) -> tuple[Any, Path]:
    """A saved convolution with an image input of three colours."""
    with quiet():
        import coremltools as ct

        torch.manual_seed(1)
        layer = torch.nn.Conv2d(3, 8, 3)
        shape = (1, 3, 16, 16)
        model = ct.convert(
            torch.jit.trace(layer.eval(), torch.zeros(shape)), skip_model_load=True,
            inputs=[ct.ImageType(name="image", shape=shape, color_layout=ct.colorlayout.BGR)],
            minimum_deployment_target=ct.target.iOS16,
        )  # fmt: skip
    return saved_model(model)


def test_a_saved_package_is_read_whole(saved: tuple[Any, Path]) -> None:
    parsed = program.parse(*saved)
    assert parsed.colours == {"image": "BGR"}
    assert parsed.inputs == {"image": TensorType(dtype="fp32", shape=(1, 3, 16, 16))}
    conv = next(op for op in parsed.operations if op.type == "conv")
    weights = next(op for op in parsed.operations if op.outputs[0][0] == conv.inputs["weight"][0])
    literal = weights.inputs["val"][0]
    assert isinstance(literal, Literal)
    assert isinstance(literal.value, np.ndarray)
    torch.manual_seed(1)
    wanted = torch.nn.Conv2d(3, 8, 3).weight.detach().half().numpy()
    np.testing.assert_array_equal(literal.value, wanted)


def test_an_unknown_function_is_refused(saved: tuple[Any, Path]) -> None:
    with pytest.raises(ArtifactError, match="no function 'second' — it has main"):
        program.parse(*saved, function="second")


def test_weights_that_are_missing_or_cut_short_are_refused(saved: tuple[Any, Path], tmp_path: Path) -> None:
    spec, weights = saved
    with pytest.raises(ArtifactError, match=r"weight\.bin: no such file"):
        program.parse(spec, tmp_path)
    whole = (weights / "weight.bin").read_bytes()
    for length in (0, 40, 150, len(whole) // 2):
        (tmp_path / "weight.bin").write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"weight\.bin: cannot be read at \d+"):
            program.parse(spec, tmp_path)


@pytest.mark.parametrize(("dtype", "low", "high"), [("uint4", 0, 15), ("int4", -8, 7), ("uint6", 0, 63),
                                                    ("uint3", 0, 7), ("uint2", 0, 3), ("uint1", 0, 1)])  # fmt: skip
def test_integers_of_less_than_a_byte_are_unpacked_from_the_lowest_bit(dtype: str, low: int, high: int) -> None:
    values = np.random.default_rng(3).integers(low, high + 1, 23)
    width = program.SUB_BYTE_BITS[dtype]
    whole = sum(int(v) % (1 << width) << (i * width) for i, v in enumerate(values))
    packed = whole.to_bytes(-(-23 * width // 8), "little")
    found = program.unpacked(packed, dtype, 23)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == (np.int8 if low else np.uint8)


def test_an_operator_that_is_not_known_is_named_with_its_place_and_what_is_known() -> None:
    steps = _program(_operation("relu", "a", x="x"), _operation("warp", x="a"))
    with pytest.raises(UnsupportedOperatorError) as error:
        Executor(steps)
    assert "operation 2 of 2 in function 'main', warp 'warp_y'" in error.value.what
    assert ", ".join(registry.operators()) in error.value.hint
    assert error.value.exit_code == 6


def test_an_input_of_an_operator_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="relu 'relu_y': its input 'slope' is not known"):
        Executor(_program(_operation("relu", x="x", slope=_literal(1.0))))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (_program(_operation("relu", x="nowhere")), "'nowhere' is computed nowhere before it"),
        (_program(_operation("relu", "a", x="b"), _operation("relu", "b", x="x")), "'b' is computed nowhere"),
    ],
)
def test_a_value_that_nothing_computes_is_refused(steps: Program, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Executor(steps)


def test_a_result_of_another_shape_than_the_program_declares_is_an_error() -> None:
    steps = _program(_operation("relu", declared=TensorType(dtype="fp32", shape=(3,)), x="x"))
    with pytest.raises(ArtifactError, match=r"relu 'relu_y': 'y' is \[2\], the program declares \[3\]"):
        Executor(steps)({"x": torch.zeros(2)})
    open_ended = _program(_operation("relu", declared=TensorType(dtype="fp32", shape=(None,)), x="x"))
    assert Executor(open_ended)({"x": torch.zeros(2)})["y"].shape == (2,)


def test_a_result_of_another_kind_than_the_program_declares_is_an_error() -> None:
    steps = _program(_operation("relu", declared=TensorType(dtype="int32", shape=(2,)), x="x"))
    with pytest.raises(BackendError, match=r"relu 'relu_y' cannot be executed: the result is .*, declared int32"):
        Executor(steps)({"x": torch.zeros(2)})


def test_what_torch_refuses_is_an_error_that_names_the_operation() -> None:
    steps = _program(_operation("add", x="x", y=_literal([1.0, 2.0, 3.0])))
    with pytest.raises(BackendError, match="add 'add_y' cannot be executed"):
        Executor(steps)({"x": torch.zeros(2)})


def test_an_input_that_is_missing_or_of_another_shape_is_refused() -> None:
    run = Executor(_program(_operation("relu", x="x")))
    with pytest.raises(ArtifactError, match="the program's input 'x' was not given"):
        run({})
    with pytest.raises(ArtifactError, match=r"input 'x' is \[3\], the program declares \[2\]"):
        run({"x": torch.zeros(3)})


def test_what_depends_on_no_input_is_computed_once_and_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    known = registry.operators()
    exp = known["exp"]
    counted = registry.Operator(lambda x: calls.append(1) or exp.compute(x), exp.kinds, exp.required)
    monkeypatch.setitem(known, "exp", counted)
    run = Executor(_program(_operation("exp", "e", x=_literal([0.0, 1.0])), _operation("add", x="x", y="e")))
    assert len(calls) == 1
    for _ in range(3):
        np.testing.assert_allclose(run({"x": torch.ones(2)})["y"], [2, 1 + np.e], rtol=1e-6)
    assert len(calls) == 1


def test_everything_that_is_computed_is_shown_to_who_watches() -> None:
    seen = {}
    half = TensorType(dtype="fp16", shape=(2,))
    steps = _program(_operation("relu", "a", half, x="x"), _operation("add", x="a", y="a"))
    Executor(steps)({"x": torch.tensor([-1.0, 2.0])}, lambda name, value: seen.update({name: value.tolist()}))
    assert seen == {"a": [0.0, 2.0], "y": [0.0, 4.0]}


def test_half_precision_rounds_to_nearest_even_overflows_and_keeps_subnormals() -> None:
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519.9, 65520.0, -7e4, 2**-24, 2**-26, np.nan], np.float32)
    with np.errstate(over="ignore"):
        wanted = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(stored(torch.from_numpy(values), "fp16"), wanted)
    assert wanted[:6].tolist() == [1.0, 1 + 2**-9, 65504.0, np.inf, -np.inf, 2**-24]


@pytest.mark.parametrize(("dtype", "kind"), [("float16", torch.float32), ("float32", torch.float32),
                                             ("int8", torch.int32), ("uint16", torch.int32), ("uint32", torch.int64),
                                             ("bool", torch.bool)])  # fmt: skip
def test_values_are_held_in_the_types_that_operators_expect(dtype: str, kind: torch.dtype) -> None:
    values = np.array([0, 1, 1], dtype)
    assert held(values).dtype is kind
    np.testing.assert_array_equal(held(values).numpy().astype(dtype), values)
