"""What is asked, read from text and refused when it cannot be."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex import recipe
from facex.errors import UsageError
from facex.recipe import (
    BUDGET_LIMITS,
    Budget,
    Recipe,
    check_runtimes,
    parse_activation,
    parse_anchors,
    parse_number,
    parse_numbers,
    parse_size,
)
from facex.types import ExportOptions, Runtime, Size

SIDES = st.integers(1, 999_999)


def test_the_examples_in_the_documentation_are_true() -> None:
    result = doctest.testmod(recipe)
    assert result.attempted >= 2
    assert result.failed == 0


@given(SIDES, SIDES)
def test_sizes_read_back(height: int, width: int) -> None:
    size = Size(height=height, width=width)
    assert parse_size(str(size)) == parse_size(f" {height}X{width} ") == size
    assert parse_size(str(height)) == Size(height=height, width=height)


@pytest.mark.parametrize("text", ["", "0", "0x5", "5x0", "5x", "x5", "-5", "5x5x5", "5 x 5", "5.5", "1e3", "9" * 7])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--size .*: (is not HEIGHTxWIDTH|must be positive)"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "slope"), [("relu", 0.0), ("ReLU", 0.0), ("leaky:0.1", 0.1), (" leaky:.25", 0.25), ("leaky:0.999", 0.999)]
)
def test_activations(text: str, slope: float) -> None:
    assert parse_activation(text) == slope


@pytest.mark.parametrize(
    "text", ["", "leaky", "leaky:", "leaky:0", "leaky:1", "leaky:-0.1", "leaky:nan", "prelu", "relu6"]
)
def test_what_is_no_activation(text: str) -> None:
    with pytest.raises(UsageError, match=r"--activation .*: is not relu or leaky:SLOPE"):
        parse_activation(text)


@given(st.lists(st.lists(st.floats(0.5, 1e4), min_size=1, max_size=3), min_size=1, max_size=5))
def test_anchors_read_back(levels: list[list[float]]) -> None:
    text = "; ".join(", ".join(map(repr, level)) for level in levels)
    assert parse_anchors(text) == parse_anchors(text + ";") == tuple(map(tuple, levels))


@pytest.mark.parametrize("text", ["", ";", "16,32;;64", "16,32;64,x", "16,32;0,64", "16,-32", "inf", "nan"])
def test_what_are_no_anchors(text: str) -> None:
    with pytest.raises(UsageError, match="--anchors"):
        parse_anchors(text)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_numbers_read_back(values: list[float]) -> None:
    text = ",".join(map(repr, values))
    assert parse_numbers(text, "--mean") == parse_numbers(text, "--mean", len(values)) == tuple(values)
    with pytest.raises(UsageError, match=rf"--mean .*: is not {len(values) + 1} numbers"):
        parse_numbers(text, "--mean", len(values) + 1)


@pytest.mark.parametrize("text", ["", ",", "1,", "1,,2", "a", "1 2", "nan", "1,inf", "0x10"])
def test_what_are_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match=r"--mean .*: is not a list of numbers"):
        parse_numbers(text, "--mean")


def test_numbers_that_must_be_positive() -> None:
    assert parse_numbers("0.1,0.2", "--variances", 2, positive=True) == (0.1, 0.2)
    for text in ("0,0.2", "0.1,-0.2"):
        with pytest.raises(UsageError, match=f"--variances {text}: must be positive"):
            parse_numbers(text, "--variances", 2, positive=True)


@given(st.floats(1e-9, 1e9))
def test_a_number_reads_back(value: float) -> None:
    assert parse_number(repr(value), "--max-size-mb") == value


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "", "1MB"])
def test_what_is_no_positive_number(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-size-mb .*: must be a positive number"):
        parse_number(text, "--max-size-mb")


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", BUDGET_LIMITS)
def test_budgets_that_are_none(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .*: must be a positive number"):
        Budget(**{name: value})


@pytest.mark.parametrize(
    ("budget", "needed"),
    [
        (Budget(max_size_mb=1.0, max_latency_ms=1.0), False),
        (Budget(max_load_ms=1.0), True),
        (Budget(max_memory_mb=1.0), True),
        (Budget(others=(Budget(device="pixel-4", max_load_ms=1.0),)), False),
        (Budget(device="adb", others=(Budget(max_load_ms=1.0),)), True),
    ],
)
def test_files_are_started_only_for_limits_of_this_host(budget: Budget, needed: bool) -> None:
    assert budget.needs_start is needed


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recipe(checkpoint=Path("a"), threads=0), "--threads 0: must be 1 to 128"),
        (lambda: Recipe(checkpoint=Path("a"), threads=129), "--threads 129: must be 1 to 128"),
        (lambda: Recipe(checkpoint=Path("a"), steps=0), "--int8-steps 0: must be 1 or more"),
        (lambda: Recipe(checkpoint=Path("a"), seed=-1), "--seed -1: must be 0 or more"),
        (lambda: Recipe(checkpoint=Path("a"), sizes=()), "--size: give at least one"),
        (lambda: Recipe(checkpoint=Path("a"), ground_truth=Path("gt.json")), "add --images FOLDER"),
        (lambda: Recipe(checkpoint=Path("a"), options=_options(opset=12)), "--opset 12: must be 13 to 20"),
        (lambda: Recipe(checkpoint=Path("a"), options=_options(opset=21)), "--opset 21: must be 13 to 20"),
        (
            lambda: Recipe(checkpoint=Path("a"), options=_options(deployment_target="iOS9")),
            "--deployment-target iOS9: unknown — choose from iOS15, iOS16, iOS17, iOS18",
        ),
    ],
)
def test_a_recipe_refuses_what_cannot_be(build: Callable[[], Recipe], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("runtimes", "message"),
    [
        ([], "--runtime: give at least one"),
        ([Runtime.NATIVE, Runtime.EXECUTOR, Runtime.NATIVE], "--runtime native: is given twice"),
    ],
)
def test_runtimes_that_make_no_sense(runtimes: list[Runtime], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_runtimes(runtimes)
    assert message in str(caught.value)
    check_runtimes(list(Runtime))


def _options(**changes: Any) -> ExportOptions:
    return ExportOptions(**{"opset": 17, "deployment_target": "iOS16", **changes})
