"""Ranges of tiny programs against NumPy's own half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facex.errors import ArtifactError
from facex.exporters._mil import ranges
from facex.exporters._mil.halves import ERROR_LIMIT, Seen, kept
from facex.exporters._mil.program import Literal, Operation, Program, TensorType

SHAPE = (1, 2, 3, 4)
LAST = frozenset({"conv"})
RANDOM = np.random.default_rng(3)


def _literal(value: Any, dtype: str = "fp32") -> Literal:
    array = np.asarray(value, np.float32 if dtype == "fp32" else np.int32)
    return Literal(type=TensorType(dtype=dtype, shape=array.shape), value=array)


def _operation(kind: str, out: str, shape: tuple[int, ...] = SHAPE, dtype: str = "fp32", **given: Any) -> Operation:
    inputs = {key: (value,) for key, value in given.items()}
    return Operation(
        type=kind, name=f"the_{out}", inputs=inputs, outputs=((out, TensorType(dtype=dtype, shape=shape)),)
    )


def _program(*operations: Operation) -> Program:
    last = operations[-1].outputs[0][0]
    inputs = {"image": TensorType(dtype="fp32", shape=SHAPE)}
    return Program(function="main", inputs=inputs, operations=operations, outputs=(last,), colours={})


def _conv(weight: NDArray[np.float32], source: str, out: str = "c") -> list[Operation]:
    shape = (1, len(weight), *SHAPE[2:])
    named = _operation("const", f"{out}_weight", weight.shape, val=_literal(weight))
    return [named, _operation("conv", out, shape, x=source, weight=f"{out}_weight")]


def _observed(program: Program, *images: NDArray[np.float32]) -> dict[str, Seen]:
    seen = ranges.observe(program, [{"image": torch.from_numpy(image)} for image in images], LAST)
    assert len({one.name for one in seen}) == len(seen)
    return {one.name: one for one in seen}


def _images(*scales: float) -> list[NDArray[np.float32]]:
    return [(RANDOM.standard_normal(SHAPE) * scale).astype(np.float32) for scale in scales]


def _error(values: NDArray[np.float32], axes: tuple[int, ...]) -> float:
    """The largest relative RMS error of a channel, of values that half precision holds."""
    wide = values.astype(np.float64)
    noise = ((wide - values.astype(np.float16).astype(np.float64)) ** 2).sum(axes)
    return float(np.sqrt((noise / (wide**2).sum(axes)).max()))


ONES = np.ones((1, 2, 1, 1), np.float32)


def test_statistics_of_a_result_over_photographs_are_numpys() -> None:
    factor = np.array([1.0, 2e-7], np.float32).reshape(1, 2, 1, 1)
    program = _program(_operation("mul", "m", x="image", y=_literal(factor)), *_conv(ONES, "m"))
    images = _images(1.0, 4.0, 3.0)
    images[1][0, 0, 0, 0] = 0.0
    seen = _observed(program, *images)["m"]
    values = np.concatenate([image * factor for image in images])
    size = np.abs(values)
    assert seen.operator == "mul"
    assert not seen.constant
    assert seen.operations == ("the_m", "the_c")
    assert seen.largest == size.max()
    assert seen.subnormal_fraction == pytest.approx(((size > 0) & (size < 2.0**-14)).sum() / (size > 0).sum())
    lost = (values.astype(np.float16) == 0) & (size > 0)
    assert 0 < lost.mean() < seen.subnormal_fraction
    assert seen.lost_fraction == pytest.approx(lost.sum() / (size > 0).sum())
    assert seen.beyond_fraction == 0
    assert seen.error == pytest.approx(_error(values, (0, 2, 3)), rel=1e-9)
    assert seen.error > ERROR_LIMIT  # of the second channel, though the first has nearly all the energy
    assert _error(values, (0, 1, 2, 3)) < ERROR_LIMIT / 3


def test_what_is_too_large_is_counted_and_hides_no_error() -> None:
    factor = np.array([6e4, 1.0], np.float32).reshape(1, 2, 1, 1)
    program = _program(_operation("mul", "m", x="image", y=_literal(factor)), *_conv(ONES, "m"))
    images = _images(1.0, 2.0)
    seen = _observed(program, *images)["m"]
    values = np.concatenate([image * factor for image in images])
    assert seen.beyond_fraction == pytest.approx((np.abs(values) > 65504).mean())
    assert seen.largest == np.abs(values).max()
    fitting = np.where(np.abs(values) <= 65504, values, 0)
    assert seen.error == pytest.approx(_error(fitting, (0, 2, 3)), rel=1e-9)
    assert "overflow" in seen.risk


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_in_single_precision_is_at_risk(bad: float) -> None:
    program = _program(_operation("mul", "m", x="image", y=_literal(np.float32(1))), *_conv(ONES, "m"))
    (image,) = _images(1.0)
    image[0, 0, 0, 0] = bad
    seen = _observed(program, image)
    assert seen["m"].largest == np.inf
    assert "not finite" in seen["m"].risk
    assert np.isfinite(seen["m"].error)


def test_ordinary_rounding_is_no_risk_at_any_scale_that_fits() -> None:
    for scale in (2.0**-6, 1.0, 2.0**11):
        weight = (RANDOM.standard_normal((4, 2, 1, 1)) * scale).astype(np.float32)
        seen = _observed(_program(*_conv(weight, "image")), *_images(1.0))
        assert not kept(list(seen.values()))
        assert max(one.error for one in seen.values()) < 2.0**-11


def test_a_constant_is_judged_by_the_result_it_spoils() -> None:
    """Channels of tiny weights: one is all that its result is made of, the other vanishes beside a bias."""
    weight = np.array([[1.0, 1.0], [1e-6, 2e-6], [1e-6, 2e-6]], np.float32).reshape(3, 2, 1, 1)
    images = _images(1.0, 2.0)
    for bias, harmed in (((0.0, 0.5, 0.5), False), ((0.0, 0.5, 0.0), True)):
        named, conv = _conv(weight, "image")
        conv = _operation("conv", "c", (1, 3, *SHAPE[2:]), x="image", weight="c_weight", bias=_literal(bias))
        seen = _observed(_program(named, conv), *images)["the_c.weight"]
        assert seen.constant
        assert seen.operations == ("the_c",)
        assert seen.largest == 1.0
        stacked = np.concatenate(images).astype(np.float64)
        offset = np.asarray(bias).reshape(1, 3, 1, 1)

        def computed(w: NDArray[Any], x: NDArray[Any] = stacked, b: NDArray[Any] = offset) -> NDArray[np.float64]:
            return np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype(np.float64), x) + b

        exact, rounded = computed(weight), computed(weight.astype(np.float16))
        wanted = np.sqrt((((rounded - exact) ** 2).sum((0, 2, 3)) / (exact**2).sum((0, 2, 3))).max())
        assert seen.error == pytest.approx(wanted, rel=1e-3, abs=1e-6)  # sums are float32
        assert bool(seen.risk) == harmed


def test_only_what_leads_to_the_last_operators_would_be_in_half_precision() -> None:
    weight = np.full((2, 2, 1, 1), 1e6, np.float32)
    program = _program(
        _operation("relu", "r", x="image"),
        *_conv(weight, "r"),
        _operation("mul", "head", x="c", y=_literal(np.float32(1e6))),
    )
    assert [op.name for op in ranges.trunk(program, LAST)] == ["the_r", "the_c"]
    seen = _observed(program, *_images(1.0))
    assert set(seen) == {"r", "c", "the_c.weight"}
    assert seen["c"].operations == ("the_c",)  # the head reads it in single precision anyhow
    assert kept(list(seen.values())) == {"the_c"}


def test_a_program_in_half_precision_is_refused() -> None:
    program = _program(_operation("relu", "r", x="image", dtype="fp16"), *_conv(ONES, "r"))
    with pytest.raises(ArtifactError, match=r"relu 'the_r' is in half precision already.*--precision fp32"):
        _observed(program, *_images(1.0))


def test_a_photograph_is_needed() -> None:
    with pytest.raises(ArtifactError, match="no photograph"):
        _observed(_program(*_conv(ONES, "image")))
