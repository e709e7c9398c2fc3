"""Half precision for the trunk of an ONNX file: types tensor by tensor, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facex.exporters import _half
from facex.types import Head


@pytest.fixture(scope="session")
def halved(pivot, tmp_path_factory):
    """`halved(head)` gives the half-precision form of the pivot."""
    folder = tmp_path_factory.mktemp("half")

    def convert(head: Head = Head.DECODED) -> Path:
        path = folder / f"{head}.onnx"
        if not path.exists():
            _half.convert(pivot(head), path)
        return path

    return convert


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name -> element type, by onnx's own inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    found |= {t.name: t.data_type for t in inferred.initializer}
    for node in inferred.node:
        if node.op_type == "Constant":
            found[node.output[0]] = helper.get_attribute_value(node.attribute[0]).data_type
    return found


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_trunk_is_half_and_head_is_float(halved, head):
    model = onnx.load(str(halved(head)))
    types = types_of(model)
    arithmetic = {"Conv", "LeakyRelu", "Relu", "Add", "Sub", "Mul", "Exp", "Sigmoid", "ReduceSum", "Neg", "Softmax"}
    by_type: dict[int, set[str]] = {}
    for node in model.graph.node:
        if node.op_type in arithmetic:
            assert {types[name] for name in node.input if types[name] != TensorProto.INT64} == {types[node.output[0]]}
            by_type.setdefault(types[node.output[0]], set()).add(node.op_type)
    assert {"Conv", "LeakyRelu"} <= by_type[TensorProto.FLOAT16]
    assert not {"Exp", "Sigmoid", "ReduceSum", "Softmax"} & by_type[TensorProto.FLOAT16]
    assert "Conv" not in by_type[TensorProto.FLOAT]
    assert "Sigmoid" in by_type[TensorProto.FLOAT]


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_one_cast_in_and_one_cast_per_head_convolution(halved, head):
    model = onnx.load(str(halved(head)))
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    to = [n.attribute[0].i for n in casts]
    assert to.count(TensorProto.FLOAT16) == 1
    assert to.count(TensorProto.FLOAT) == 9
    producers = {n.output[0]: n.op_type for n in model.graph.node}
    assert {producers[n.input[0]] for n in casts if n.attribute[0].i == TensorProto.FLOAT} == {"Conv"}


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_inputs_outputs_and_metadata_are_unchanged(halved, pivot, head):
    before, after = onnx.load(str(pivot(head))), onnx.load(str(halved(head)))
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert list(before.metadata_props) == list(after.metadata_props)


def test_the_file_is_half_as_large(halved, pivot):
    before, after = onnx.load(str(pivot())), onnx.load(str(halved()))

    def weights(model):
        return sum(t.ByteSize() for t in model.graph.initializer if len(t.dims) == 4 and t.dims[2] in (1, 3))

    assert weights(after) == pytest.approx(weights(before) / 2, rel=0.02)
    assert halved().stat().st_size < 0.56 * pivot().stat().st_size


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_noise_is_that_of_half_precision(halved, pivot, run_onnx, draw_photograph, head, optimized):
    for seed in (61, 62):
        pixels = np.asarray(draw_photograph(seed, 160, 160), np.float32)
        feed = {"image": pixels.transpose(2, 0, 1)[None].copy()}
        wanted, found = run_onnx(pivot(head), feed), run_onnx(halved(head), feed, optimized=optimized)
        for name, expected in wanted.items():
            assert found[name].dtype == np.float32
            noise = np.square(found[name].astype(np.float64) - expected).sum()
            snr_db = 10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise)
            assert 40 < snr_db < 100, name  # above 100 nothing would have been halved


def test_a_tensor_read_by_trunk_and_head_is_cast_once(onnx_model, run_onnx, tmp_path):
    """x -> conv -> a; a -> conv -> b; the head reads a twice and b once."""
    random = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="/a"),
        helper.make_node("Resize", ["a", "", "scales"], ["r"], mode="nearest", name="/r"),
        helper.make_node("Conv", ["r", "w"], ["b"], name="/b"),
        helper.make_node("Mul", ["a", "a"], ["aa"], name="/aa"),
        helper.make_node("Add", ["aa", "b"], ["y"], name="/y"),
    ]
    weight = random.normal(size=(3, 3, 1, 1)).astype(np.float32)
    constants = {"w": weight, "scales": np.ones(4, np.float32)}
    model = onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["y"], constants)
    onnx.save(model, str(tmp_path / "in.onnx"))
    _half.convert(tmp_path / "in.onnx", tmp_path / "out.onnx")
    result = onnx.load(str(tmp_path / "out.onnx"))
    assert sorted(n.input[0] for n in result.graph.node if n.op_type == "Cast") == ["a", "b", "image"]
    constants = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    assert {str(v.dtype) for k, v in constants.items() if k != "scales"} == {"float16"}
    assert constants["scales"].dtype == np.float32
    x = random.normal(size=(1, 3, 4, 4)).astype(np.float32)
    halved_weight = weight[..., 0, 0].astype(np.float16).astype(np.float32)
    a = np.einsum("oi,nihw->nohw", halved_weight, x.astype(np.float16).astype(np.float32))
    wanted = a * a + np.einsum("oi,nihw->nohw", halved_weight, a)
    np.testing.assert_allclose(run_onnx(result, {"image": x})["y"], wanted, rtol=1e-2, atol=2e-2)
