"""What counts as endangered by half precision, and which operations are kept for it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from facex.exporters._mil import halves
from facex.exporters._mil.halves import Seen


def _seen(**changes: Any) -> Seen:
    harmless: dict[str, Any] = {
        "name": "y", "operator": "conv", "operations": ("conv_1",), "constant": False, "largest": 1.0,
        "beyond_fraction": 0.0, "subnormal_fraction": 0.0, "lost_fraction": 0.0, "error": 0.0,
    }  # fmt: skip
    return Seen(**(harmless | changes))


def test_the_limits_are_those_of_numpys_half_precision() -> None:
    info = np.finfo(np.float16)
    assert float(info.max) == halves.LARGEST
    assert float(info.tiny) == halves.SMALLEST_NORMAL
    assert np.float16(halves.LOST) == 0
    assert np.float16(np.nextafter(np.float32(halves.LOST), np.float32(1))) > 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"largest": 16376.0}, ""),
        ({"largest": 16377.0}, "overflow: up to 1.638e+04, more than 1/4"),
        ({"largest": 65505.0}, "overflow: up to 6.55e+04, half precision ends"),
        ({"largest": math.inf}, "overflow: not finite even in float32"),
        ({"largest": 65504.0, "constant": True}, ""),
        ({"largest": 65505.0, "constant": True}, "overflow"),
        ({"error": 2.0**-9}, ""),
        ({"error": 0.01}, "underflow: one of its channels is off by 1.00%"),
        ({"error": 0.01, "constant": True}, "underflow: one of the result's channels"),
        ({"subnormal_fraction": 0.9, "lost_fraction": 0.5}, ""),
    ],
)
def test_what_is_at_risk(changes: dict[str, Any], word: str) -> None:
    seen = _seen(**changes)
    assert seen.risk.startswith(word)
    assert bool(seen.risk) == bool(word) == (seen.danger > 1)


def test_writers_and_readers_of_what_is_at_risk_are_kept_and_no_others() -> None:
    fine = _seen(operations=("a", "b"))
    large = _seen(largest=1e5, operations=("b", "c", "d"))
    tiny = _seen(error=0.5, operations=("x",))
    assert halves.kept([fine, large, tiny]) == {"b", "c", "d", "x"}
    assert halves.kept([fine]) == frozenset()
    assert halves.endangered([fine, large, tiny]) == [tiny, large]  # 256 and 6 times over


def test_what_is_not_finite_is_null_in_json() -> None:
    plain = _seen(largest=math.inf).plain()
    assert plain["largest"] is None
    assert plain["risk"].startswith("overflow")
    assert json.loads(json.dumps(plain, allow_nan=False)) == {**plain, "operations": ["conv_1"]}
