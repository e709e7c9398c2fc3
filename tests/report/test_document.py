from __future__ import annotations

import dataclasses
import json

import pytest

from facex.errors import EXIT_PARITY
from facex.manifest import Manifest, to_plain
from facex.report.document import to_dict, to_text


def test_document_is_the_whole_manifest_and_three_keys(rich: Manifest) -> None:
    document = to_dict(rich, timings_s={"export": 1.23456789, "parity": 2}, command="facex export a.pth")
    extra = {key: document.pop(key) for key in ("timings_s", "exit_code", "command")}
    assert document == to_plain(rich)
    assert len(document["latency"]) == len(rich.latency) > len(rich.reproducible().latency)
    assert extra == {
        "timings_s": {"export": 1.23457, "parity": 2.0},
        "exit_code": EXIT_PARITY,
        "command": "facex export a.pth",
    }


def test_text_is_json_with_sorted_keys(rich: Manifest) -> None:
    document = to_dict(rich, timings_s={}, command="facex check 'é\udcff.onnx'")
    text = to_text(document)
    assert json.loads(text) == document
    assert text.isascii()
    assert text.endswith("}\n")
    assert to_text(dict(reversed(document.items()))) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_text_refuses_numbers_that_are_not_finite(rich: Manifest, value: float) -> None:
    findings = (dataclasses.replace(rich.findings[0], actual=value),)
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_text(to_dict(dataclasses.replace(rich, findings=findings), timings_s={}, command=""))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_text(to_dict(rich, timings_s={"export": value}, command=""))
