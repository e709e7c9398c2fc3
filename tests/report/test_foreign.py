"""What `identify` prints of a file: conclusions first, then weights and behaviour."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from facex.provenance import (
    Agreement,
    Answer,
    Behaviour,
    Feed,
    FirstConvolution,
    Fit,
    Foreign,
    Layer,
    Output,
    Trial,
    Weights,
)
from facex.report.foreign import identified
from facex.types import ChannelOrder, Size, TensorInfo


@pytest.fixture
def found() -> Foreign:
    """A file of the right weights that takes BGR, with one layer of eleven that is missing and nine that differ."""
    same = Layer(
        name="stem", found="Conv_0", parameters=100, agreement=Agreement.EXACT, stored="float32", snr_db=150.0,
        bias_snr_db=150.0,
    )  # fmt: skip
    other = [
        dataclasses.replace(same, name=f"layer{i}", agreement=Agreement.DIFFERS, snr_db=float(i)) for i in range(9)
    ]
    missing = Layer(name="head", found="", parameters=100, agreement=Agreement.MISSING)
    rgb, bgr = (Feed(label="0-255", channel_order=order) for order in (ChannelOrder.RGB, ChannelOrder.BGR))
    return Foreign(
        file="face[1].onnx",
        target="onnx",
        checkpoint="model.pth",
        inputs=(TensorInfo(name="x", shape=(1, 3, 160, 160), dtype="float32"),),
        says=rgb,
        says_source="facex wrote it",
        weights=Weights(
            built_from=Answer.NO, reason="because", layers=(same, *other, missing), unmatched=("Conv_9",),
            first=FirstConvolution(channels=(2, 1, 0), scale=None, mean=(123.0, 117.0, 104.04)),
        ),
        behaviour=Behaviour(
            decided=True, reason="it follows", runtime="runtime 1", size=Size(height=160, width=160), pictures=4,
            photographs=True, works_under=bgr,
            trials=(
                Trial(feed=bgr, agreement_db=30.04, matched_f1=1.0), Trial(feed=rgb, agreement_db=-3, matched_f1=None),
            ),
            outputs=(
                Output(name="a", shape=(1, 10, 4), meaning="box offsets", agreement_db=31.0),
                Output(name="b", shape=(7,), meaning="", agreement_db=None),
            ),
            fit=Fit(
                mean=(104.0, 117.0, 123.0), mean_error=(0.1, 0.1, 0.1), mean_from="least squares",
                mean_difference=(0.0, 0.0, 0.0), scale_ratio=1.0, scale_error=0.01, agreement_db=30.0,
            ),
        ),
        sound=Answer.NO,
        conclusions=("it expects BGR",),
    )  # fmt: skip


def _shown(found: Foreign) -> list[str]:
    stream = io.StringIO()
    identified(found, Console(file=stream, width=100, highlight=False, soft_wrap=True))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_the_conclusions_come_first(found: Foreign):
    lines = _shown(found)
    assert lines[:2] == ["face[1].onnx against model.pth: not as it should be", "  it expects BGR"]
    assert "  says               RGB, 0-255: facex wrote it" in lines


def test_weights_are_summed_up_and_the_worst_layers_named(found: Foreign):
    lines = _shown(found)
    text = "\n".join(lines)
    assert "1 convolution, 9.1% of the parameters, 150.0 dB and more in float32" in text
    assert "9 convolutions, 81.8% of the parameters, 0.0 dB and more" in text
    named = [line.split()[0] for line in lines if line.startswith(("head ", "layer")) and "dB" not in line]
    assert named == ["head", *(f"layer{i}" for i in range(7))]
    assert "and 2 more (--json lists all)" in text
    assert "(123, 117, 104), by its own channels" in text
    assert "the order 3, 2, 1" in text


def test_behaviour_tells_outputs_and_feeds(found: Foreign):
    text = "\n".join(_shown(found))
    assert "a [1, 10, 4]: box offsets, 31.0 dB" in text
    assert "b [7]: unknown" in text
    assert "runtime 1, on 4 photographs of 160x160" in text
    rows = [line.split() for line in text.splitlines() if line.startswith(("BGR", "RGB"))]
    assert rows == [["BGR,", "0-255", "30.0", "1.000"], ["RGB,", "0-255", "-3.0", "-"]]


def test_what_was_not_run_is_left_out(found: Foreign):
    silent = dataclasses.replace(found, says=None, behaviour=Behaviour(decided=False, reason="it has 2 inputs"))
    lines = _shown(silent)
    assert lines[-2:] == ["behaviour: decided: no", "  reason             it has 2 inputs"]
    assert "  says               nothing of what it takes" in lines
