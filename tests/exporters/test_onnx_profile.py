"""onnxruntime's trace: a real one against the model's own nodes, and made ones whose sums are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from facex import exporters
from facex.errors import ArtifactError, BackendError
from facex.exporters import _onnx_profile


def _run(ts: float, *nodes: tuple[str, float], dur: float = 100.0) -> list[dict[str, Any]]:
    """The events of one inference; each node begins where the last ended."""
    events, at = [], ts + 1
    for name, took in nodes:
        args = {"op_name": name.capitalize(), "provider": "CPUExecutionProvider"}
        events.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": took, "args": args})
        events.append({"cat": "Node", "name": f"{name}_fence_after", "ts": at + took, "dur": 0, "args": args})
        at += took
    return [*events, {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}]


TRACE = [
    {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9000, "args": {}},
    *_run(10_000, ("conv", 9000.0), ("add", 900.0), dur=10_000),  # a warm-up
    *_run(30_000, ("conv", 60.0), ("add", 20.0)),
    *_run(31_000, ("conv", 80.0), ("add", 10.0), dur=140.0),
]


def test_means_and_shares_are_over_the_last_runs() -> None:
    operators, mean_ms = _onnx_profile.read(TRACE, runs=2)
    assert mean_ms == pytest.approx(0.12)
    assert [(o.operator, o.name, o.unit) for o in operators] == [("Conv", "conv", "cpu"), ("Add", "add", "cpu")]
    assert [o.mean_ms for o in operators] == pytest.approx([0.07, 0.015])
    assert [o.share for o in operators] == pytest.approx([70 / 120, 15 / 120])


def test_a_trace_that_does_not_hold_the_runs_is_an_error() -> None:
    with pytest.raises(BackendError, match="holds 3 inferences of 4"):
        _onnx_profile.read(TRACE, runs=4)
    with pytest.raises(BackendError, match="holds no node"):
        _onnx_profile.read([e for e in TRACE if e["cat"] == "Session"], runs=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """`y` = softplus(image) + softplus(2 image): nodes that onnxruntime does not merge."""
    import onnx

    nodes = [
        helper.make_node("Softplus", ["image"], ["a"], name="first"),
        helper.make_node("Add", ["image", "image"], ["twice"], name="double"),
        helper.make_node("Softplus", ["twice"], ["b"], name="second"),
        helper.make_node("Sub", ["a", "b"], ["y"], name="difference"),
    ]
    image, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 40, 30]) for n in ("image", "y"))
    made = helper.make_model(helper.make_graph(nodes, "g", [image], [y]), opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, str(tmp_path / "a.onnx"))
    return tmp_path / "a.onnx"


IMAGE = np.full((1, 40, 30, 3), 7, np.uint8)


def test_a_real_trace_holds_the_nodes_of_the_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    found = exporters.profile("onnx", model, IMAGE, threads=1, warmup=2, runs=4)
    operators = {o.name: o.operator for o in found.operators}
    assert operators == {"first": "Softplus", "double": "Add", "second": "Softplus", "difference": "Sub"}
    assert [o.name for o in found.operators].index("double") < [o.name for o in found.operators].index("second")
    assert all(o.mean_ms >= 0 for o in found.operators)
    assert 0 < sum(o.share for o in found.operators) <= 1
    assert "in 4 runs of their own after 2 to warm up, 1 thread;" in found.note
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_file_that_cannot_be_run_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"a\.onnx: onnxruntime cannot run it"):
        exporters.profile("onnx", tmp_path / "a.onnx", IMAGE, threads=1, warmup=0, runs=1)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("target", exporters.names())
def test_a_target_without_a_profile_says_why(target: str, tmp_path: Path) -> None:
    module = exporters.load(target)
    assert hasattr(module, "profile") is not hasattr(module, "NO_PROFILE")
    if hasattr(module, "NO_PROFILE"):
        found = exporters.profile(target, tmp_path / "unread", IMAGE, threads=1, warmup=0, runs=1)
        assert found.operators == ()
        assert found.note == f"no profile: {module.NO_PROFILE}"


def test_litert_still_tells_python_no_profile() -> None:
    """What `NO_PROFILE` of TFLite says; where this fails, a newer LiteRT can give one."""
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert import interpreter
    from ai_edge_litert._pywrap_litert_interpreter_wrapper import InterpreterWrapper

    assert not [n for c in (interpreter.Interpreter, InterpreterWrapper) for n in dir(c) if "profil" in n.lower()]
