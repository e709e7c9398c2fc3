"""The values that travel between the rooms: frozen, plain, and cheap to import."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facex import types
from facex.types import (
    Artifact,
    ChannelOrder,
    Contract,
    Detections,
    FileFacts,
    FloatIsland,
    Head,
    LatencyKind,
    Precision,
    Size,
    Verdict,
    as_plain,
)

HEAVY = {
    "numpy",
    "torch",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "coremltools",
    "PIL",
    "rich",
    "jsonschema",
}
DATACLASSES = [value for _, value in inspect.getmembers(types, inspect.isclass) if dataclasses.is_dataclass(value)]
ENUMS = [Precision, Head, ChannelOrder, Verdict, LatencyKind]


def imported_by(module: str) -> set[str]:
    """Top-level packages that importing a module brings in, in a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["facex", "facex.errors", "facex.types", "facex.manifest"])
def test_leaf_modules_import_nothing_heavy(module: str) -> None:
    assert imported_by(module) & HEAVY == set()


@pytest.mark.parametrize("module", ["facex.reference.detector", "facex.reference.photographs"])
def test_reading_photographs_does_not_need_torch(module: str) -> None:
    found = imported_by(module) & HEAVY
    assert "numpy" in found, "nothing was seen at all"
    assert found <= {"numpy", "PIL"}


@pytest.mark.parametrize("cls", DATACLASSES, ids=lambda c: c.__name__)
def test_every_value_is_frozen_and_keyword_only(cls: type) -> None:
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(cls))


def test_there_are_values_to_check() -> None:
    assert {"Contract", "Artifact", "Detections", "Finding", "Latency"} <= {c.__name__ for c in DATACLASSES}


@pytest.mark.parametrize("member", [m for e in ENUMS for m in e], ids=repr)
def test_words_are_written_as_their_value(member: enum.Enum) -> None:
    assert str(member) == f"{member}" == f"{member:s}" == member.value
    assert json.dumps(member) == f'"{member.value}"'
    assert type(member)(member.value) is member


def test_published_words() -> None:
    assert [str(p) for p in Precision] == ["fp32", "fp16", "w8", "p6", "p4", "w8a8"]
    assert [str(h) for h in Head] == ["decoded", "raw", "detections"]
    assert [str(v) for v in Verdict] == ["pass", "fail", "skipped"]
    assert [str(k) for k in LatencyKind] == ["measured", "emulated", "estimate"]
    assert f"{Size(height=480, width=640)}" == "480x640"


@pytest.mark.parametrize(
    ("order", "mean_rgb"),
    [(ChannelOrder.BGR, (123.0, 117.0, 104.0)), (ChannelOrder.RGB, (104.0, 117.0, 123.0))],
)
def test_the_mean_in_rgb(order: ChannelOrder, mean_rgb: tuple[float, float, float]) -> None:
    contract = Contract(
        family="f", backbone="b", activation_slope=0.1, strides=(8,), min_sizes=((16.0,),), landmarks=5,
        variances=(0.1, 0.2), channel_order=order, mean=(104.0, 117.0, 123.0), scale=(1.0, 1.0, 1.0),
    )  # fmt: skip
    assert contract.mean_rgb == mean_rgb
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.landmarks = 3  # type: ignore[misc]


def test_detections_above_a_score_keep_their_rows() -> None:
    found = Detections(
        boxes=np.arange(12, dtype=np.float32).reshape(3, 4),
        scores=np.array([0.9, 0.5, 0.4], np.float32),
        landmarks=np.arange(30, dtype=np.float32).reshape(3, 5, 2),
    )
    assert len(found) == 3
    some = found.above(0.5)
    assert len(some) == 2
    np.testing.assert_array_equal(some.boxes, found.boxes[:2])
    np.testing.assert_array_equal(some.scores, found.scores[:2])
    np.testing.assert_array_equal(some.landmarks, found.landmarks[:2])
    assert len(found.above(0.95)) == 0
    assert found.above(0.95).landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(("macs", "integer", "fraction"), [(0, 0, 0.0), (8, 0, 0.0), (8, 6, 0.75), (8, 8, 1.0)])
def test_integer_share(macs: int, integer: int, fraction: float) -> None:
    facts = FileFacts(
        inputs=(),
        outputs=(),
        operators={},
        macs=macs,
        integer_macs=integer,
        float_islands=(),
        minimum_runtime="1",
    )
    assert facts.integer_mac_fraction == fraction


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("m_640x640_fp16.tflite", "m_640x640_fp16.tflite"),
        ("work/m_640x640_w8a8.onnx.failed", "m_640x640_w8a8.onnx"),
        ("a/b/m.mlpackage", "m.mlpackage"),
        ("a.failed/m.onnx", "m.onnx"),
    ],
)
def test_the_name_of_an_artifact(path: str, name: str) -> None:
    artifact = Artifact(
        path=path, target="onnx", precision=Precision.FP32, head=Head.RAW, size=Size(height=32, width=32),
        size_bytes=1, sha256="", inputs=(), outputs=(), integer_mac_fraction=0.0, minimum_runtime="",
        runtime=None, promoted=False,
    )  # fmt: skip
    assert artifact.name == name


def test_as_plain() -> None:
    value = {
        Precision.FP16: Size(height=32, width=64),
        "islands": (FloatIsland(name="a", operator="Conv", macs=3),),
        "nested": [(1, 2.5), {"deep": (Verdict.PASS, None, True)}],
        "path": Path("a") / "b",
        3: "three",
    }
    plain = as_plain(value)
    assert plain == {
        "fp16": {"height": 32, "width": 64},
        "islands": [{"name": "a", "operator": "Conv", "macs": 3}],
        "nested": [[1, 2.5], {"deep": ["pass", None, True]}],
        "path": "a/b",
        "3": "three",
    }
    assert type(plain["nested"][1]["deep"][0]) is str
    assert json.loads(json.dumps(plain)) == plain
