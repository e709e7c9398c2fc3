"""What `debug-int8` measures, against plain NumPy on a small graph; a ruined grid comes first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from facex.calibration import insight, twin
from facex.errors import ArtifactError

SHAPE = (1, 3, 6, 6)
GRIDS = {"image": (1.0, -128), "c1": (0.5, 3), "l1": (0.4, -60), "c2": (0.3, 0)}
"""Tensor -> scale and zero point; wide enough for everything that the images make."""


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


def pair(name: str) -> list[Any]:
    grid = f"{name}_scale,{name}_zero"
    return [
        node("QuantizeLinear", f"{name},{grid}", f"{name}_q"),
        node("DequantizeLinear", f"{name}_q,{grid}", f"{name}_dq"),
    ]


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    first = random.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8)
    second = random.integers(-127, 128, (2, 4, 1, 1)).astype(np.int8)
    return {
        "w1": first, "w1_scale": np.float32([0.002, 0.001, 0.003, 0.0015]), "w1_zero": np.zeros(4, np.int8),
        "w2": second, "w2_scale": np.float32(0.004), "w2_zero": np.int8(0), "b1": np.float32([1, -2, 3, -4]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def written(onnx_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`written(c1=(0.1, 0))` gives the QDQ file with those grids in place of the healthy ones."""
    folder = tmp_path_factory.mktemp("qdq")

    def write(**changed: tuple[float, int]) -> Path:
        constants = weights()
        for name, (scale, zero) in {**GRIDS, **changed}.items():
            constants |= {f"{name}_scale": np.float32(scale), f"{name}_zero": np.int8(zero)}
        nodes = [
            *pair("image"),
            node("DequantizeLinear", "w1,w1_scale,w1_zero", "w1_dq", axis=0),
            node("Conv", "image_dq,w1_dq,b1", "c1"),
            *pair("c1"),
            node("LeakyRelu", "c1_dq", "l1", alpha=0.1),
            *pair("l1"),
            node("DequantizeLinear", "w2,w2_scale,w2_zero", "w2_dq"),
            node("Conv", "l1_dq,w2_dq", "c2"),
            *pair("c2"),
            node("Exp", "c2_dq", "y"),
        ]
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        onnx.save(onnx_model(nodes, {"image": SHAPE}, ["y"], constants), str(path))
        return path

    return write


@pytest.fixture(scope="module")
def feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [{"image": random.integers(0, 256, SHAPE).astype(np.float32)} for _ in range(3)]


def rounded(x: np.ndarray, grid: tuple[float, int]) -> np.ndarray:
    scale, zero = grid
    return (np.clip(np.rint(x / np.float64(np.float32(scale))) + zero, -128, 127) - zero) * np.float64(
        np.float32(scale)
    )


def network(image: np.ndarray, grids: dict[str, tuple[float, int]]) -> dict[str, np.ndarray]:
    """Every tensor before its grid, with tensors on the grids given; float64."""
    w = weights()

    def read(name: str, x: np.ndarray) -> np.ndarray:
        return rounded(x, grids[name]) if name in grids else x

    first = w["w1"].astype(np.float64)[..., 0, 0] * w["w1_scale"].astype(np.float64)[:, None]
    second = w["w2"].astype(np.float64)[..., 0, 0] * np.float64(w["w2_scale"])
    values = {"image": image.astype(np.float64)}
    c1 = np.einsum("oi,nihw->nohw", first, read("image", values["image"])) + w["b1"][None, :, None, None]
    before = read("c1", c1)
    values |= {"c1": c1, "l1": np.where(before > 0, before, before * np.float64(np.float32(0.1)))}
    values["c2"] = np.einsum("oi,nihw->nohw", second, read("l1", values["l1"]))
    return {**values, "head": read("c2", values["c2"])}


def ratio_db(signal: list[np.ndarray], found: list[np.ndarray]) -> float:
    noise = sum(((x - y) ** 2).sum() for x, y in zip(signal, found, strict=True))
    return 10 * math.log10(sum((x**2).sum() for x in signal) / noise)


def test_against_numpy(written: Callable[..., Path], feeds: list[dict[str, np.ndarray]]) -> None:
    changed = {"c1": (0.2, 3)}
    grids = {**GRIDS, **changed}
    seen = insight.observe(written(**changed), feeds)
    assert [t.name for t in seen.tensors] == list(GRIDS)
    assert [t.operator for t in seen.tensors] == ["input", "Conv", "LeakyRelu", "Conv"]
    assert seen.photographs == len(feeds)
    floats = [network(feed["image"], {}) for feed in feeds]
    whole = [network(feed["image"], grids) for feed in feeds]
    for t in seen.tensors:
        scale, zero = grids[t.name]
        x = [v[t.name] for v in floats]
        assert (t.scale, t.zero_point) == (np.float32(scale), zero)
        assert (t.grid_low, t.grid_high) == pytest.approx((scale * (-128 - zero), scale * (127 - zero)))
        assert (t.seen_low, t.seen_high) == pytest.approx((min(v.min() for v in x), max(v.max() for v in x)), rel=1e-5)
        raw = np.rint(np.concatenate(x) / scale) + zero
        assert t.clipped_fraction == pytest.approx(np.mean((raw < -128) | (raw > 127)), abs=1e-9)
        alone = [network(feed["image"], {t.name: grids[t.name]})["head"] for feed in feeds]
        if t.name == "image":  # whole grey levels: nothing is lost
            assert t.sqnr_db == t.head_sqnr_db == insight.SQNR_LIMIT_DB
            continue
        assert t.sqnr_db == pytest.approx(ratio_db(x, [rounded(v[t.name], grids[t.name]) for v in whole]), abs=0.02)
        assert t.head_sqnr_db == pytest.approx(ratio_db([v["head"] for v in floats], alone), abs=0.02)
    assert next(t for t in seen.tensors if t.name == "c1").clipped_fraction > 0.05
    expected = ratio_db([v["head"] for v in floats], [v["head"] for v in whole])
    assert seen.heads == {"c2": pytest.approx(expected, abs=0.02)}


@pytest.mark.parametrize("name", ["c1", "l1", "c2"])
def test_a_ruined_grid_comes_first(name: str, written: Callable[..., Path], feeds: list[dict[str, np.ndarray]]) -> None:
    def errors(path: Path) -> dict[str, float]:
        return {seen.name: seen.relative_head_error for seen in insight.observe(path, feeds).tensors}

    found = errors(written(**{name: (25.0, 0)}))
    assert max(found, key=lambda key: found[key]) == name
    healthy = errors(written())
    assert found[name] > 20 * healthy[name]
    others = {key: value for key, value in found.items() if key != name}
    assert others == pytest.approx({key: healthy[key] for key in others})


def test_the_twin_has_float_weights_and_no_grids(written: Callable[..., Path]) -> None:
    found = twin.Twin(onnx.load(str(written())))
    assert [n.op_type for n in found.float_model.graph.node] == ["Conv", "LeakyRelu", "Conv", "Exp"]
    w = weights()
    expected = w["w1"] * w["w1_scale"][:, None, None, None]
    np.testing.assert_array_equal(found.constants["w1_dq"], expected)


def test_other_models_are_refused(onnx_model: Callable[..., Any], written: Callable[..., Path], tmp_path: Path) -> None:
    plain = tmp_path / "float.onnx"
    onnx.save(onnx_model([node("Relu", "image", "y")], {"image": SHAPE}, ["y"]), str(plain))
    with pytest.raises(ArtifactError, match="no 8-bit activation"):
        insight.read(plain)
    model = onnx.load(str(written()))
    for tensor in model.graph.initializer:
        if tensor.name in ("c1_scale", "c1_zero"):
            value = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.repeat(value, 4), tensor.name))
    onnx.save(model, str(plain))
    with pytest.raises(ArtifactError, match="'c1' is not one constant scale"):
        insight.read(plain)


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [(1.0, 0.1, 10.0), (1.0, 0.0, 200.0), (0.0, 1.0, -200.0), (math.nan, 1.0, None), (1.0, math.inf, None)],
)
def test_decibels(signal: float, noise: float, expected: float | None) -> None:
    found = insight.decibels(signal, noise)
    assert found == (pytest.approx(expected) if expected is not None else None)


def test_a_tensor_that_is_not_finite_has_no_ratio(written: Callable[..., Path]) -> None:
    with np.errstate(invalid="ignore"):
        seen = insight.observe(written(), [{"image": np.full(SHAPE, np.nan, np.float32)}])
    assert seen.tensors[1].sqnr_db is None
    assert dataclasses.asdict(seen)["heads"] == {"c2": None}
