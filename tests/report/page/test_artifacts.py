"""What the page says of findings, and of values that nobody can draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from facex.goldens.replay import FINDINGS
from facex.manifest import Manifest
from facex.parity.limits import METRICS
from facex.report.page import artifacts, charts, written
from facex.report.page.exhibits import Exhibits
from facex.report.wording import NOTHING
from facex.sightings import Sightings
from facex.types import Finding, Head, Runtime, Selection, Verdict

BUDGETS = ("size", "latency", "load", "memory")


@pytest.mark.parametrize("name", [*METRICS, *FINDINGS, *BUDGETS, "golden.file", "unchanged", "ap_drop_all"])
def test_every_check_is_explained(golden: Manifest, name: str) -> None:
    finding = dataclasses.replace(golden.findings[0], name=name.replace("*", "boxes"))
    assert artifacts.check(finding).title.partition(" (")[0] not in ("", NOTHING)


def _goldens(name: str, runtime: Runtime | None, *, run: bool = True) -> list[Finding]:
    values = {"lost": 0.0, "extra": 0.0, "score": 0.001, "box": 0.002, "landmark": 0.003} if run else {"lost": None}
    return [
        Finding(
            name=f"golden.{key}", artifact=name, unit="1", actual=value,
            limit=0.0 if key in ("lost", "extra") else 0.02,
            verdict=Verdict.PASS if run else Verdict.SKIPPED, reason="" if run else "needs a Mac", runtime=runtime,
        )
        for key, value in values.items()
    ]  # fmt: skip


def test_a_check_against_goldens_alone_is_told_as_one(golden: Manifest) -> None:
    name = golden.artifacts[0].name
    record = dataclasses.replace(
        golden, artifacts=golden.artifacts[:1], evaluation=None, findings=tuple(_goldens(name, None))
    )
    html = written.html(record, Exhibits())
    assert f"<li>{name}: lost 0, extra 0, score 0.001 of 0.02" in html
    assert "held to goldens" in html
    assert "on noise" not in html
    assert '<header class="pass">' in html


def test_a_runtime_that_ran_no_golden_is_not_proven(golden: Manifest) -> None:
    name = golden.artifacts[0].name
    both = (*_goldens(name, Runtime.EXECUTOR), *_goldens(name, Runtime.NATIVE, run=False))
    record = dataclasses.replace(golden, artifacts=golden.artifacts[:1], evaluation=None, findings=both)
    html = written.html(record, Exhibits())
    assert '<header class="skipped">' in html
    assert "1 not compared in every runtime" in html


def test_it_says_what_a_file_chooses_faces_by(golden: Manifest) -> None:
    first = dataclasses.replace(golden.artifacts[0], head=Head.DETECTIONS, selection=Selection(score_threshold=0.7))
    html = written.html(dataclasses.replace(golden, artifacts=(first,)), Exhibits())
    assert "<dd>detections (score &gt;= 0.7, overlap &lt;= 0.4, 100 faces at most)</dd>" in html


def test_a_mean_that_is_not_known_is_not_told(sightings: Callable[..., Sightings]) -> None:
    seen = sightings([], 9, 0)
    mean = f"mean {100 * seen.nme.mean():.2f}%,"
    assert mean in charts.landmarks("a", seen, 0.01)
    seen.nme[4] = np.inf
    broken = charts.landmarks("a", seen, 0.01)
    assert "mean not known, limit of the mean 1.00%" in broken
    assert ">mean<" not in broken
