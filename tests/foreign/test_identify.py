"""Files that are right are said to be, and what is wrong with the others is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from facex import foreign
from facex.errors import ArtifactError
from facex.provenance import Agreement, Answer, Foreign
from facex.types import ChannelOrder, Head

if TYPE_CHECKING:
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph

pytestmark = pytest.mark.slow  # `test_command` has the quick cases
RAW = ("onnx", "fp32", Head.RAW)
WRONG_MEANS = {
    "zero": ((0.0, 0.0, 0.0), (-104, -117, -123)),
    "crossed": ((123.0, 117.0, 104.0), (19, 0, -19)),
    "grey": ((127.5, 127.5, 127.5), (23.5, 10.5, 4.5)),
    "odd": ((90.0, 100.0, 130.0), (-14, -17, 7)),
}
SLOW_FILES = [("tflite", "fp32"), ("tflite", "w8a8"), ("coreml", "fp16"), ("onnx", "w8a8")]

Identified = Callable[..., Foreign]


def _assert_well(found: Foreign) -> None:
    assert found.sound is Answer.YES, found.conclusions
    assert found.weights.built_from is Answer.YES
    assert found.behaviour.works_under == found.says
    assert "works as it says" in " ".join(found.conclusions)


def _assert_swapped(found: Foreign) -> None:
    assert found.sound is Answer.NO
    assert found.weights.built_from is Answer.YES
    assert found.behaviour.works_under is not None
    assert found.behaviour.works_under.channel_order is ChannelOrder.BGR
    assert not any(found.behaviour.works_under.mean)
    words = " ".join(found.conclusions)
    assert "expects BGR although it says RGB: feed it BGR, or export again with --channel-order bgr" in words
    assert 'channel_order "rgb", the checkpoint\'s is "bgr"' in words


def _assert_mean(found: Foreign, difference: tuple[float, ...], tolerance: float) -> None:
    assert found.sound is Answer.NO
    assert found.weights.built_from is Answer.YES
    assert found.behaviour.fit is not None
    assert found.behaviour.fit.mean_difference == pytest.approx(difference, abs=tolerance)
    words = " ".join(found.conclusions)
    assert "its mean is off by (" in words
    assert "--mean 104,117,123" in words
    assert "although it says" not in words


@pytest.mark.parametrize("head", [Head.DECODED, Head.RAW])
def test_all_is_well_with_a_right_file(exported_as: Callable[..., Path], identified: Identified, head: Head):
    found = identified(exported_as("onnx", "fp32", head))
    _assert_well(found)
    assert found.behaviour.trials[0].matched_f1 == 1.0
    assert found.behaviour.trials[0].agreement_db > 60
    assert all(output.meaning for output in found.behaviour.outputs)


def test_of_a_file_that_chooses_faces_the_weights_are_told(exported_as: Callable[..., Path], identified: Identified):
    found = identified(exported_as("onnx", "fp32", Head.DETECTIONS))
    assert found.weights.built_from is Answer.YES
    assert found.sound is Answer.UNDECIDED
    assert "chooses faces itself" in " ".join(found.conclusions)


def test_a_wrong_channel_order_is_found(exported_as: Callable[..., Path], identified: Identified):
    _assert_swapped(identified(exported_as(*RAW, channel_order=ChannelOrder.RGB)))


@pytest.mark.parametrize("name", list(WRONG_MEANS))
def test_a_wrong_mean_is_found_and_measured(exported_as: Callable[..., Path], identified: Identified, name: str):
    mean, difference = WRONG_MEANS[name]
    found = identified(exported_as(*RAW, mean=mean))
    _assert_mean(found, difference, 0.2)
    under = found.behaviour.works_under
    assert under is not None
    assert under.channel_order is ChannelOrder.RGB
    assert under.mean == pytest.approx(tuple(-d for d in difference)[::-1], abs=0.2)


def test_a_wrong_scale_is_found(exported_as: Callable[..., Path], identified: Identified):
    found = identified(exported_as(*RAW, scale=(0.5, 0.5, 0.5)))
    assert found.sound is Answer.NO
    assert found.behaviour.fit is not None
    assert found.behaviour.fit.scale_ratio == pytest.approx(0.5, abs=0.02)
    assert "--scale 1,1,1" in " ".join(found.conclusions)
    assert found.weights.first is not None
    assert found.weights.first.scale == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("target", "precision"), SLOW_FILES)
def test_every_format_tells_right_from_wrong(
    exported_as: Callable[..., Path], identified: Identified, target: str, precision: str
):
    _assert_well(identified(exported_as(target, precision)))
    _assert_swapped(identified(exported_as(target, precision, channel_order=ChannelOrder.RGB)))
    _assert_mean(identified(exported_as(target, precision, mean=(123.0, 117.0, 104.0))), (19, 0, -19), 8.0)


def test_without_photographs_drawn_pictures_decide_the_order(exported_as: Callable[..., Path], identified: Identified):
    _assert_well(identified(exported_as(*RAW), drawn=True))
    found = identified(exported_as(*RAW, channel_order=ChannelOrder.RGB), drawn=True)
    _assert_swapped(found)
    assert not found.behaviour.photographs


@pytest.mark.parametrize("form", ["concatenated", "maps", "transposed", "open"])
def test_a_file_of_another_tool_is_understood(
    by_another_tool: Callable[[str], Path], identified: Identified, form: str
):
    found = identified(by_another_tool(form))
    assert found.weights.built_from is Answer.YES
    assert found.weights.layer_counts == {Agreement.EXACT.value: len(found.weights.layers)}
    assert found.says is None
    under = found.behaviour.works_under
    assert under is not None
    assert (under.channel_order, under.mean, under.scale) == (ChannelOrder.BGR, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))
    assert all(output.meaning for output in found.behaviour.outputs), found.behaviour.outputs
    assert "says nothing of what it takes: feed it BGR, minus (104, 117, 123)" in " ".join(found.conclusions)


def test_maps_are_given_their_levels(by_another_tool: Callable[[str], Path], identified: Identified):
    meanings = [o.meaning for o in identified(by_another_tool("maps")).behaviour.outputs]
    kinds = ("landmark offsets", "logits (background, face)", "box offsets")
    assert meanings == [f"{kind} of level {level}" for level in (3, 2, 1) for kind in kinds]


def test_pixels_with_the_mean_inside(by_another_tool: Callable[[str], Path], identified: Identified):
    under = identified(by_another_tool("pixels")).behaviour.works_under
    assert under is not None
    assert (under.channel_order, under.mean) == (ChannelOrder.BGR, (0.0, 0.0, 0.0))


def test_a_file_of_another_checkpoint_is_named_so(
    exported_as: Callable[..., Path], other_checkpoint: Path, photographs: list[Photograph]
):
    from facex.reference import detector
    from facex.types import ContractOptions

    other = detector.load(other_checkpoint, ContractOptions())
    found = foreign.identify(exported_as("onnx", "fp32"), other, photographs[:2])
    assert found.sound is Answer.NO
    assert found.weights.built_from is Answer.NO
    assert found.weights.parameter_shares == {Agreement.DIFFERS.value: 1.0}
    assert found.conclusions[0].startswith("not built from this checkpoint: 0 of")


def test_unknown_outputs_are_told_and_nothing_is_decided(
    onnx_model: Callable[..., Any], detector: Detector, photographs: list[Photograph], tmp_path: Path
):
    import onnx
    from onnx import helper

    model = onnx_model([helper.make_node("GlobalAveragePool", ["x"], ["mean"])], {"x": (1, 3, 160, 160)}, ["mean"])
    path = tmp_path / "mean.onnx"
    onnx.save(model, str(path))
    found = foreign.identify(path, detector, photographs[:1])
    assert found.sound is Answer.UNDECIDED
    assert found.weights.built_from is Answer.UNDECIDED
    assert not found.behaviour.decided
    assert "mean [1, 3, 1, 1]" in found.behaviour.reason


@pytest.mark.parametrize("name", ["broken.onnx", "broken.tflite", "broken.mlpackage", "none.onnx", "model.bin"])
def test_what_cannot_be_read_is_refused(detector: Detector, tmp_path: Path, name: str):
    if name == "broken.mlpackage":
        (tmp_path / name).mkdir()
    elif name != "none.onnx":
        (tmp_path / name).write_bytes(b"\x08\x07 this is no model")
    with pytest.raises(ArtifactError) as error:
        foreign.identify(tmp_path / name, detector)
    assert error.value.exit_code == 2
    assert name in str(error.value)


def test_the_plain_form_is_json(exported_as: Callable[..., Path], identified: Identified):
    found = identified(exported_as(*RAW))
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["sound"] == "yes"
    assert plain["weights"]["parameter_shares"].keys() == plain["weights"]["layer_counts"].keys()
    assert sum(plain["weights"]["parameter_shares"].values()) == pytest.approx(1.0)
    assert plain["behaviour"]["works_under"]["channel_order"] == "rgb"
    broken = dataclasses.replace(found.behaviour.fit, agreement_db=float("nan"))
    behaviour = dataclasses.replace(found.behaviour, fit=broken)
    assert dataclasses.replace(found, behaviour=behaviour).plain()["behaviour"]["fit"]["agreement_db"] is None
