"""The pivot: names, opset, metadata, size, and agreement with the reference at every opset on offer."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from facex import __version__
from facex.errors import BackendError
from facex.exporters import _pivot
from facex.recipe import OPSETS
from facex.reference.detector import ReferenceSession
from facex.reference.photographs import letterbox
from facex.types import ContractOptions, Head, Size, as_plain

pytestmark = pytest.mark.slow

SIZE = Size(height=160, width=160)
OUTPUTS = {Head.DECODED: ["boxes", "scores", "landmarks"], Head.RAW: ["loc", "conf", "landm"]}


@pytest.fixture(scope="session")
def picture(draw_photograph) -> np.ndarray:
    """uint8 [1, 160, 160, 3], RGB."""
    return letterbox(np.asarray(draw_photograph(42, 200, 160)), SIZE, (123, 117, 104)).pixels[None]


def snr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    wanted = wanted.astype(np.float64)
    noise = np.square(found - wanted).sum()
    return float(10 * np.log10(np.square(wanted).sum() / max(noise, 1e-300)))


def as_feed(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32)}


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_outputs_are_named_shaped_and_equal_to_the_reference(pivot, run_onnx, detector, picture, head):
    found = run_onnx(pivot(head), as_feed(picture), optimized=True)
    wanted = ReferenceSession(detector, SIZE, head, threads=1)({"image": picture})
    assert list(found) == OUTPUTS[head] == list(wanted)
    for name, expected in wanted.items():
        assert found[name].shape == expected.shape
        assert found[name].dtype == np.float32
        assert snr_db(found[name], expected) > 100


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_on_offer_is_written_and_computes_the_same(pivot, run_onnx, detector, picture, opset):
    model = onnx.load(str(pivot(Head.DECODED, opset)))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)
    found = run_onnx(model, as_feed(picture), optimized=True)
    wanted = ReferenceSession(detector, SIZE, Head.DECODED, threads=1)({"image": picture})
    assert min(snr_db(found[name], wanted[name]) for name in wanted) > 100


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_on_offer_can_be_halved_quantized_and_lowered(
    pivot, qdq, run_onnx, detector, picture, tmp_path, opset
):
    import tensorflow as tf

    from facex.exporters import _half, _nhwc, _nodes

    wanted = ReferenceSession(detector, SIZE, Head.DECODED, threads=1)({"image": picture})
    path = tmp_path / "half.onnx"
    _half.convert(pivot(Head.DECODED, opset), path)
    halved = run_onnx(path, as_feed(picture))
    assert min(snr_db(halved[name], wanted[name]) for name in wanted) > 40
    integers = run_onnx(qdq(Head.DECODED, opset), as_feed(picture))
    assert snr_db(integers["boxes"], wanted["boxes"]) > 15
    lowered = _nhwc.lower(_nodes.load(pivot(Head.DECODED, opset)), quantized=False)(tf.constant(picture))
    assert min(snr_db(lowered[name].numpy(), wanted[name]) for name in wanted) > 100
    _nhwc.lower(_nodes.load(qdq(Head.DECODED, opset)), quantized=True)(tf.constant(picture, tf.float32))


def test_batch_norms_are_folded_and_what_remains_can_be_lowered(pivot):
    from facex.exporters._nhwc import OPERATORS

    for head in (Head.DECODED, Head.RAW):
        kinds = {node.op_type for node in onnx.load(str(pivot(head))).graph.node}
        assert "BatchNormalization" not in kinds
        assert kinds <= set(OPERATORS)


def test_batch_norms_of_the_network_are_as_many_as_convolutions_with_a_bias_were_without(pivot, detector):
    from torch import nn

    convolutions = [m for m in detector.network.modules() if isinstance(m, nn.Conv2d)]
    nodes = [n for n in onnx.load(str(pivot())).graph.node if n.op_type == "Conv"]
    assert len(nodes) == len(convolutions)
    assert all(len(n.input) == 3 for n in nodes)


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
def test_metadata_says_what_the_file_is(pivot, detector, head):
    model = onnx.load(str(pivot(head)))
    assert (model.producer_name, model.producer_version) == ("facex", __version__)
    told = {p.key: p.value for p in model.metadata_props}
    assert told["facex.version"] == __version__
    assert told["facex.checkpoint_sha256"] == detector.sha256
    assert told["facex.head"] == head.value
    assert json.loads(told["facex.contract"]) == as_plain(detector.contract)
    assert set(told) == {"facex.version", "facex.checkpoint_sha256", "facex.head", "facex.contract"}


def test_the_same_bytes_again(pivot, detector, tmp_path):
    _pivot.write(detector, SIZE, Head.DECODED, 17, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == pivot().read_bytes()


def test_decoding_costs_little_space(pivot):
    """A constant per prior would be 16800 x 4 floats, 269 kB, at this size."""
    size = Size(height=640, width=640)
    decoded, raw = (pivot(head, 17, size).stat().st_size for head in (Head.DECODED, Head.RAW))
    assert 0 < decoded - raw < 80_000


def test_a_simplification_that_changes_the_result_is_an_error(detector, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxsim.simplify", lambda model, **_: (model, False))
    with pytest.raises(BackendError, match="does not compute the same"):
        _pivot.write(detector, SIZE, Head.RAW, 17, tmp_path / "a.onnx")


def test_a_model_that_the_checker_refuses_is_an_error(detector, tmp_path, monkeypatch):
    def spoil(model, **_):
        model.graph.node[0].op_type = "NoSuchOperator"
        return model, True

    monkeypatch.setattr("onnxsim.simplify", spoil)
    with pytest.raises(BackendError, match="onnx's checker refuses"):
        _pivot.write(detector, SIZE, Head.RAW, 17, tmp_path / "a.onnx")


def test_parameters_of_equal_values_keep_their_names(seeded_state, tmp_path, run_onnx, picture):
    """Those of a head that levels share; precisions of Core ML look weights up by their names, and round them apart."""
    import torch

    from facex.reference import detector as detectors

    state = seeded_state()
    for name in ("weight", "bias"):
        state[f"BboxHead.2.conv1x1.{name}"] = state[f"BboxHead.1.conv1x1.{name}"]
    torch.save(state, tmp_path / "shared.pth")
    detector = detectors.load(tmp_path / "shared.pth", ContractOptions())
    _pivot.write(detector, SIZE, Head.RAW, 17, tmp_path / "pivot.onnx")
    model = onnx.load(str(tmp_path / "pivot.onnx"))
    names = {tensor.name for tensor in model.graph.initializer}
    assert {f"network.box_heads.{i}.{name}" for i in range(3) for name in ("weight", "bias")} <= names
    assert [given.name for given in model.graph.input] == ["image"]
    found = run_onnx(model, as_feed(picture), optimized=True)
    wanted = ReferenceSession(detector, SIZE, Head.RAW, threads=1)({"image": picture})
    assert min(snr_db(found[name], wanted[name]) for name in wanted) > 100
