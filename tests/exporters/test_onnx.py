"""The ONNX target: what it copies, what it reads from foreign files, and its session."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facex import exporters
from facex.exporters import onnx as target
from facex.recipe import OPSETS
from facex.types import FloatIsland, Head, Precision


@pytest.mark.slow
def test_single_precision_is_the_pivot_and_eight_bits_are_the_plan(make_job, pivot, qdq, tmp_path):
    target.export(make_job(tmp_path / "a.onnx", Precision.FP32))
    target.export(make_job(tmp_path / "b.onnx", Precision.W8A8, Head.RAW))
    assert (tmp_path / "a.onnx").read_bytes() == pivot().read_bytes()
    assert (tmp_path / "b.onnx").read_bytes() == qdq(Head.RAW).read_bytes()


@pytest.mark.slow
def test_every_opset_on_offer_has_a_minimum_runtime(pivot):
    for opset in OPSETS:
        told = target.describe(pivot(Head.DECODED, opset)).minimum_runtime
        assert told == f"onnxruntime {target.FIRST_ONNXRUNTIME[opset]} (opset {opset})"


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_a_session_takes_bytes_channels_last_and_returns_named_floats(pivot, run_onnx, draw_photograph, head):
    image = np.asarray(draw_photograph(91, 160, 160))[None]
    session = target.open_session(pivot(head), threads=1)
    found = session({"image": image})
    wanted = run_onnx(pivot(head), {"image": image.transpose(0, 3, 1, 2).astype(np.float32)}, optimized=True)
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    session.invoke()
    assert session.runtime == f"onnxruntime {exporters.version('onnxruntime')}"


def saved(model, path):
    onnx.save(model, str(path))
    return target.describe(path)


def test_operators_and_macs_of_a_foreign_file(onnx_model, tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="c", strides=[2, 2], group=2),
        helper.make_node("ConvTranspose", ["a", "u"], ["b"], name="t", strides=[2, 2]),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["h"], name="g", transB=1),
        helper.make_node("MatMul", ["h", "m"], ["y"], name="m"),
    ]
    constants = {
        "w": np.zeros((6, 2, 2, 2), np.float32), "u": np.zeros((6, 3, 2, 2), np.float32),
        "g": np.zeros((5, 3 * 8 * 8), np.float32), "m": np.zeros((5, 7), np.float32),
    }  # fmt: skip
    facts = saved(onnx_model(nodes, {"x": (1, 4, 8, 8)}, ["y"], constants), tmp_path / "a.onnx")
    assert facts.operators == {"Conv": 1, "ConvTranspose": 1, "Flatten": 1, "Gemm": 1, "MatMul": 1}
    assert facts.macs == 6 * 4 * 4 * (2 * 2 * 2) + (6 * 4 * 4) * (3 * 2 * 2) + 5 * 192 + 5 * 7
    assert facts.float_islands == ()


def test_a_partly_quantized_foreign_file_names_its_islands(onnx_model, tmp_path):
    """Weights alone in 8 bits, as dynamic quantizers leave them, are not integer arithmetic."""

    def quantized(name):
        return [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_dq"]),
        ]  # fmt: skip

    nodes = [
        *quantized("x"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["w_dq"]),
        helper.make_node("Conv", ["x_dq", "w_dq"], ["a"], name="integer"),
        helper.make_node("Conv", ["a", "w_dq"], ["b"], name="weights only"),
        helper.make_node("Conv", ["x_dq", "v"], ["c"], name="activations only"),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    constants = {
        "s": np.float32(0.1), "z": np.int8(0), "w": np.ones((3, 3, 1, 1), np.int8),
        "v": np.ones((3, 3, 1, 1), np.float32),
    }  # fmt: skip
    facts = saved(onnx_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants), tmp_path / "a.onnx")
    each = 3 * 3 * 16
    assert (facts.macs, facts.integer_macs) == (3 * each, each)
    assert facts.float_islands == tuple(
        FloatIsland(name=name, operator="Conv", macs=each) for name in ("weights only", "activations only")
    )


def test_sizes_left_open_and_constants_without_tensors_are_read(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=2.0),
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "open",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, None, None])],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")],
    )
    facts = saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "a.onnx")
    assert facts.inputs[0].shape == (0, 3, 0, 0)
    assert facts.macs == 0
    assert facts.integer_mac_fraction == 0.0
