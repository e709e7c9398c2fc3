"""`facex identify FILE --reference CHECKPOINT`: what a user sees, and the exit code that a gate needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import facex
from facex.errors import ArtifactError
from facex.provenance import Answer
from facex.types import ChannelOrder

ORDER = ("--channel-order", "bgr")


@pytest.mark.slow
def test_a_right_file_is_sound(run_facex: Any, exported_as: Callable[..., Path], seeded_checkpoint: Path) -> None:
    ran = run_facex("identify", exported_as("onnx"), "--reference", seeded_checkpoint, *ORDER)
    assert ran.code == 0
    assert "all is well" in ran.out.splitlines()[0]
    assert "built from this checkpoint" in ran.out
    assert "--channel-order bgr" in ran.out.splitlines()[-1]  # the contract that everything was measured by


def test_exchanged_channels_fail_the_gate(
    run_facex: Any, exported_as: Callable[..., Path], seeded_checkpoint: Path, photo_dir: Path
) -> None:
    wrong = exported_as("onnx", channel_order=ChannelOrder.RGB)
    ran = run_facex("identify", wrong, "--reference", seeded_checkpoint, "--images", photo_dir, *ORDER, "--json")
    found = json.loads(ran.out)
    assert ran.code == found["exit_code"] == 3
    assert found["sound"] == "no"
    assert found["weights"]["built_from"] == "yes"
    assert found["behaviour"]["works_under"]["channel_order"] == "bgr"
    assert any("expects BGR although it says RGB" in text for text in found["conclusions"])
    assert found["reference"]["contract"]["channel_order"] == "bgr"


@pytest.mark.slow
def test_python_has_the_same(exported_as: Callable[..., Path], seeded_checkpoint: Path) -> None:
    found = facex.identify_file(exported_as("onnx"), reference=seeded_checkpoint, channel_order="bgr")
    assert found.file.sound is Answer.YES
    assert found.exit_code == 0
    with pytest.raises(ArtifactError, match="format that cannot be identified"):
        facex.identify_file(seeded_checkpoint, reference=seeded_checkpoint)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("FILE",), "is no checkpoint — name the one that it may come from: --reference CHECKPOINT"),
        (("nowhere.onnx", "--reference", "CHECKPOINT"), "nowhere.onnx: no such file"),
        (("FILE", "--reference", "nowhere.pth"), "nowhere.pth: no such file"),
        (("CHECKPOINT", "--reference", "CHECKPOINT"), "format that cannot be identified — known are"),
        (("FILE", "--reference", "FILE"), ".onnx: "),
        (("FILE", "--reference", "CHECKPOINT", "--landmarks", "9"), "--landmarks 9"),
        (("FILE", "--reference", "CHECKPOINT", "--images", "nowhere"), "--images nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(
    run_facex: Any, exported_as: Callable[..., Path], seeded_checkpoint: Path, arguments: Any, words: str
) -> None:
    given = {"FILE": exported_as("onnx"), "CHECKPOINT": seeded_checkpoint}
    ran = run_facex("identify", *(given.get(a, a) for a in arguments))
    assert ran.code == 2
    assert words in ran.error
    assert ran.out == ""
