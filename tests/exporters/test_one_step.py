"""The finished full-integer TFLite file agrees with its QDQ model to one step in every quantized tensor.

See `one_step` for the method. The proof is worth what it can refuse: the second half damages a file in one place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import facex
from facex import exporters
from facex.types import Head, Precision

pytestmark = pytest.mark.slow

KERNELS = pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
MOVES = {"QUANTIZE", "CONCATENATION", "RESIZE_NEAREST_NEIGHBOR"}
"""Operators that pass integers on as they are."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file and the QDQ model that it was lowered from."""

    tflite: Path
    qdq: Path


@pytest.fixture(scope="module", params=[h for h in Head if h is h.traced], ids=str)
def exported(request, make_job, qdq, tmp_path_factory) -> Exported:
    return _exported(request.param, make_job, qdq, tmp_path_factory)


def _exported(head: Head, make_job: Any, qdq: Any, tmp_path_factory: Any) -> Exported:
    path = tmp_path_factory.mktemp("one_step") / "seeded.tflite"
    exporters.load("tflite").export(make_job(path, Precision.W8A8, head))
    return Exported(tflite=path, qdq=qdq(head))


@pytest.fixture(scope="session")
def pictures(draw_photograph) -> dict[str, np.ndarray]:
    """A drawn photograph and noise, uint8 [1, 160, 160, 3]."""
    noise = np.random.default_rng(91).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    return {"photograph": np.asarray(draw_photograph(77, 160, 160))[None], "noise": noise}


def assert_one_step(files: Any, image: np.ndarray, *, delegate: bool) -> Any:
    report = files.compare(image, delegate=delegate)
    planned = [n.input[0] for n in files.plan.model.graph.node if n.op_type == "QuantizeLinear"]
    assert [c.tensor for c in report.comparisons] == planned
    assert report.disagreements == []
    for compared in report.comparisons:
        if compared.operator in MOVES:
            assert compared.worst == 0, compared
        assert (compared.worst_exact is not None) == (compared.operator == "CONV")
        # the kernels of LeakyReLU round twice or multiply by 8-bit fractions, the others round nearly as the plan does
        assert compared.share < (0.4 if compared.operator == "LEAKY_RELU" else 0.05), compared
    for name, (found, wanted) in report.outputs.items():
        # the head is float on both sides; boxes and landmarks are pixels
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4, err_msg=name)
    return report


@KERNELS
@pytest.mark.parametrize("picture", ["photograph", "noise"])
def test_every_quantized_tensor_agrees_to_one_step(one_step, exported, pictures, picture, delegate):
    files = one_step.Files(exported.tflite, exported.qdq)
    report = assert_one_step(files, pictures[picture], delegate=delegate)
    assert len(report.comparisons) > 100
    assert {c.operator for c in report.comparisons} >= {"QUANTIZE", "CONV", "LEAKY_RELU", "ADD", "CONCATENATION"}


@KERNELS
def test_an_exposed_file_computes_what_the_file_computes(one_step, exported, pictures, delegate):
    """Outputs for the asking could keep a runtime from fusing what it fuses in an app."""
    files = one_step.Files(exported.tflite, exported.qdq)
    report = files.compare(pictures["photograph"], delegate=delegate)
    plain = files.file.run(pictures["photograph"], [], delegate=delegate)
    assert list(plain) == list(report.outputs)
    for name, (found, _) in report.outputs.items():
        np.testing.assert_array_equal(found, plain[name])
    if delegate:
        shipped = exporters.load("tflite").open_session(exported.tflite, threads=1)({"image": pictures["photograph"]})
        for name, values in shipped.items():
            np.testing.assert_array_equal(values, plain[name])


def test_integers_of_a_picture_are_not_constant(one_step, exported, pictures):
    """A dead tensor would agree with anything."""
    files = one_step.Files(exported.tflite, exported.qdq)
    computed = files.file.run(pictures["photograph"], files.file.quantized, delegate=True)
    values = [len(np.unique(computed[files.partner[tensor]])) for tensor in files.plan.pairs]
    assert min(values) >= 8
    assert np.median(values) > 60


@pytest.fixture(scope="session")
def real(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Files of a real checkpoint, from an export as a user runs it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "calib").mkdir()
    for path in sorted((shared_dir / "data" / "calib" / "images").iterdir())[::8]:
        shutil.copy(path, folder / "calib")
    facex.export(
        shared_dir / "weights" / "mnet025.pth",
        targets=["onnx", "tflite"],
        precisions=["w8a8"],
        int8_effort="fast",
        sizes=["320x320"],
        calib=folder / "calib",
        out=folder / "out",
    )
    return Exported(
        tflite=folder / "out" / "mnet025_320x320_w8a8.tflite", qdq=folder / "out" / "mnet025_320x320_w8a8.onnx"
    )


@KERNELS
@pytest.mark.shared
def test_a_real_detector_on_real_photographs(one_step, real, shared_dir, delegate):
    files = one_step.Files(real.tflite, real.qdq)
    paths = sorted((shared_dir / "data" / "dev" / "images").iterdir())
    images = [np.asarray(Image.open(path).convert("RGB").resize((320, 320)))[None] for path in (paths[0], paths[-1])]
    images.append(np.random.default_rng(92).integers(0, 256, (1, 320, 320, 3), dtype=np.uint8))
    for image in images:
        assert_one_step(files, image, delegate=delegate)


# What the proof refuses. Each damage touches one place of a file that was fine.


@pytest.fixture(scope="module")
def fine(make_job, qdq, tmp_path_factory) -> Exported:
    return _exported(Head.DECODED, make_job, qdq, tmp_path_factory)


@pytest.fixture
def damaged(one_step, fine, tmp_path) -> Callable[..., tuple[Path, str]]:
    """`damaged(kinds, change)`: change the file at a tensor in its middle; gives the file, and that tensor's name.

    `kinds` are the operators that compute and read the tensor ("" for any); `change(file, index)` edits the flatbuffer.
    """
    import flatbuffers

    def damage(kinds: tuple[str, str], change: Callable[[Any, int], None]) -> tuple[Path, str]:
        files = one_step.Files(fine.tflite, fine.qdq)
        file, plan = files.file, files.plan
        found = []
        for tensor in (r.tensor for r in plan.regions if r.operator == kinds[0]):
            readers = [r.operator for r in plan.regions if tensor in r.sources]
            if not kinds[1] or set(readers) == {kinds[1]}:
                found.append(tensor)
        tensor = found[len(found) // 2]
        change(file, files.partner[tensor])
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(file.model.Pack(builder), b"TFL3")
        path = tmp_path / "damaged.tflite"
        path.write_bytes(bytes(builder.Output()))
        return path, plan.name_of(tensor)

    return damage


def change_weight(file: Any, index: int) -> None:
    buffer = _buffer(file, file.producer[index].inputs[1])
    weight = buffer.view(np.int8)
    at = int(np.abs(weight.astype(np.int16)).argmax())
    weight[at] = -weight[at]


def change_bias(file: Any, index: int) -> None:
    operator = file.producer[index]
    scale, _ = file.grid(index)
    unit = file.graph.tensors[operator.inputs[2]].quantization.scale[0]
    _buffer(file, operator.inputs[2]).view(np.int32)[0] += int(5 * scale / unit)


def _buffer(file: Any, index: int) -> np.ndarray:
    buffer = file.model.buffers[file.graph.tensors[index].buffer]
    buffer.data = np.array(buffer.data)  # the one that was read is read-only
    return buffer.data


def change_zero_point(file: Any, index: int) -> None:
    file.graph.tensors[index].quantization.zeroPoint = [file.grid(index)[1] + 6]


def change_scale(file: Any, index: int) -> None:
    file.graph.tensors[index].quantization.scale = [file.grid(index)[0] * 1.2]


def change_slope(file: Any, index: int) -> None:
    file.producer[index].builtinOptions.alpha *= 1.5


def exchange_operands(file: Any, index: int) -> None:
    """The last two, which have the same shape."""
    inputs = file.producer[index].inputs
    inputs = [*inputs[:-2], inputs[-1], inputs[-2]]
    file.producer[index].inputs = np.array(inputs, np.int32)


DAMAGES: dict[str, tuple[tuple[str, str], Callable[[Any, int], None], tuple[str, ...]]] = {
    "a weight": (("CONV", "LEAKY_RELU"), change_weight, ("weights",)),
    "a bias": (("CONV", "LEAKY_RELU"), change_bias, ("bias",)),
    "a zero point": (("CONV", "LEAKY_RELU"), change_zero_point, ("grid",)),
    "a scale": (("CONV", "LEAKY_RELU"), change_scale, ("grid",)),
    "a slope": (("LEAKY_RELU", ""), change_slope, ()),
    "an order": (("CONCATENATION", ""), exchange_operands, ()),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found_at_its_tensor_and_nowhere_else(one_step, fine, damaged, pictures, what):
    kinds, change, departures = DAMAGES[what]
    path, tensor = damaged(kinds, change)
    found = one_step.disagreements(path, fine.qdq, pictures["photograph"])
    assert [c.tensor for c in found] == [tensor, tensor]  # by either set of kernels
    for compared in found:
        assert compared.operator == kinds[0]
        assert compared.worst > 1, "seen in the integers, not only in what is stored"
        assert compared.departures == departures
        if kinds[0] == "CONV":
            assert compared.worst_exact > 1


def test_what_is_stored_is_compared_even_where_integers_agree(one_step, fine, damaged, pictures):
    def change(file: Any, index: int) -> None:
        file.graph.tensors[index].quantization.scale = [file.grid(index)[0] * 1.00001]

    path, tensor = damaged(("CONV", "LEAKY_RELU"), change)
    found = one_step.disagreements(path, fine.qdq, pictures["photograph"])
    assert [(c.tensor, c.worst <= 1, c.departures) for c in found] == [(tensor, True, ("grid",))] * 2


def test_an_undamaged_file_is_rewritten_without_a_disagreement(one_step, fine, damaged, pictures):
    path, _ = damaged(("CONV", "LEAKY_RELU"), lambda *_: None)
    assert one_step.disagreements(path, fine.qdq, pictures["photograph"]) == []


def test_a_planned_tensor_that_the_file_does_not_have_is_an_error(one_step, fine, tmp_path):
    """Before: leaky -> pair -> readers. After: leaky -> pair -> leaky -> pair beside them."""
    import onnx

    model = onnx.load(str(fine.qdq))
    nodes = list(model.graph.node)
    leaky = next(n for n in nodes if n.op_type == "LeakyRelu")
    (quantize,) = (n for n in nodes if n.op_type == "QuantizeLinear" and n.input[0] == leaky.output[0])
    (dequantize,) = (n for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] == quantize.output[0])
    more = onnx.helper.make_node("LeakyRelu", [dequantize.output[0]], ["twice"], alpha=0.1)
    pair = onnx.helper.make_node("QuantizeLinear", ["twice", *quantize.input[1:]], ["twice_q"])
    model.graph.ClearField("node")
    at = nodes.index(dequantize) + 1
    model.graph.node.extend([*nodes[:at], more, pair, *nodes[at:]])
    onnx.save(model, str(tmp_path / "more.onnx"))
    with pytest.raises(one_step.PairingError, match=r"0 tensors of the file for 1 of the plan: 'twice_q' \(LEAKY_RELU"):
        one_step.Files(fine.tflite, tmp_path / "more.onnx")
