"""`report.html` read back with Python's own parser."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex.manifest import Manifest
from facex.report.page import written
from facex.report.page.exhibits import Exhibits
from facex.report.page.thumbnails import PHOTOGRAPHS
from facex.sightings import Sightings
from facex.types import LatencyKind, Verdict

NAMES = ["one.jpg", "second.png", "the_third.jpg"]
CSS = Path(written.__file__).parents[1] / "templates" / "page.css"
Read = Callable[[str], Any]
Exhibit = Callable[..., Exhibits]


def test_the_verdict_comes_first(golden: Manifest, read_page: Read) -> None:
    page = read_page(written.html(golden, Exhibits()))
    (title,) = page.of("title")
    assert title.texts == [f"FAILED: {golden.source.checkpoint} \N{EN DASH} facex"]
    headings = [e for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert (headings[0].tag, headings[0].texts[0].strip()) == ("h1", "FAILED")
    assert page.text.index("FAILED parity failed") < page.text.index("Artifacts")
    assert "2 of 4 artifacts failed, 1 not compared with the reference. Exit code 3" in page.text


def test_headings_are_in_order(golden: Manifest, exhibit: Exhibit, read_page: Read) -> None:
    page = read_page(written.html(golden, exhibit(golden, NAMES)))
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_figure_of_the_manifest_is_there(golden: Manifest, read_page: Read) -> None:
    page = read_page(written.html(golden, Exhibits()))
    for artifact in golden.artifacts:
        assert artifact.sha256 in page.text
        assert artifact.minimum_runtime in page.text
        assert f"{artifact.size_bytes / 1e6:.2f} MB" in page.text
    for finding in golden.findings:
        assert finding.name in page.text
        if finding.actual is not None:
            assert f"{finding.actual:.6g}" in page.text
    for entry in golden.latency:
        assert entry.method in page.text
    for name, version in golden.tools.items():
        assert f"{name} {version}" in page.text
    assert golden.source.sha256 in page.text
    assert golden.calibration
    assert golden.evaluation
    for digest in (golden.calibration.digest, golden.evaluation.digest):
        assert digest in page.text


def test_every_time_says_what_it_is(golden: Manifest, read_page: Read) -> None:
    first = golden.artifacts[0].name
    entry = next(e for e in golden.latency)
    kinds = tuple(dataclasses.replace(entry, artifact=first, kind=kind, device=f"at-{kind}") for kind in LatencyKind)
    page = read_page(written.html(dataclasses.replace(golden, latency=kinds), Exhibits()))
    badges = [e.texts[0] for e in page.of("span") if "kind" in e.attributes.get("class", "").split()]
    assert {str(kind) for kind in LatencyKind} <= set(badges)
    medians = [e for e in page.of("th") if e.texts and e.texts[0].startswith("at-")]
    assert len(medians) == 0 or all(e.texts for e in medians)
    for kind in LatencyKind:
        assert f"at-{kind}" in page.text


def test_failures_show_value_and_limit(golden: Manifest, read_page: Read) -> None:
    html = written.html(golden, Exhibits())
    failures = html.split('<section id="failures">')[1].split("</section>")[0]
    failed = [f for f in golden.findings if f.verdict is Verdict.FAIL]
    assert failed
    assert failures.count("<tr>") == len(failed) + 1
    for finding in failed:
        assert f"{finding.actual:.6g}" in failures
        assert f"{finding.limit:.6g}" in failures
    passing = tuple(f for f in golden.findings if f.verdict is not Verdict.FAIL)
    assert 'id="failures"' not in written.html(dataclasses.replace(golden, findings=passing), Exhibits())


def test_what_was_skipped_is_told_with_its_reason(golden: Manifest) -> None:
    html = written.html(golden, Exhibits())
    skipped = html.split('<section id="skipped">')[1].split("</section>")[0]
    reasons = {f.reason for f in golden.findings if f.verdict is Verdict.SKIPPED}
    assert reasons
    assert all(reason in skipped for reason in reasons)


def test_what_was_assumed_is_marked(golden: Manifest) -> None:
    html = written.html(golden, Exhibits())
    contract = html.split('<section id="contract">')[1].split("</section>")[0]
    assert contract.count('class="assumed"') == len([f for f in golden.source.assumed if f != "strides"])


def test_photographs_are_announced_and_shown_once(golden: Manifest, exhibit: Exhibit, read_page: Read) -> None:
    exhibits = exhibit(golden, NAMES)
    page = read_page(written.html(golden, exhibits))
    images = page.of("image")
    pictures = [e for e in images if e.attributes["href"].startswith("data:image/webp")]
    assert len(pictures) == len(exhibits.thumbnails) == len(NAMES)
    assert "This page contains 3 photographs" in page.text
    # three artifacts with three scenes of two sides each, and the first one with a scene in which nothing differs
    assert len([e for e in page.of("svg") if e.attributes.get("class") == "faces"]) == 2 * (3 * 3 + 1)
    assert all(name in page.text for name in NAMES)


def test_without_photographs_their_names_are_not_told_either(golden: Manifest, exhibit: Exhibit) -> None:
    html = written.html(golden, dataclasses.replace(exhibit(golden, NAMES), thumbnails={}))
    assert "image/webp" not in html
    assert "This page contains" not in html
    assert not any(name in html for name in NAMES)
    assert 'class="chart"' in html


def test_lost_and_extra_faces_are_marked(golden: Manifest, exhibit: Exhibit) -> None:
    html = written.html(golden, exhibit(golden, NAMES[:1]))
    left, right = html.split('<svg class="faces"')[3:5]  # of the second artifact
    assert left.count('<path class="lost"') == right.count('<path class="lost"') == 3
    assert (left.count('<path class="extra"'), right.count('<path class="extra"')) == (0, 2)
    assert 'aria-label="Reference: 6 faces, 3 of them lost by the artifact"' in left
    assert 'aria-label="Artifact: 5 faces, 2 of them not in the reference"' in right


def test_plans_are_shown_or_the_reason_why_not(golden: Manifest, exhibit: Exhibit, read_page: Read) -> None:
    page = read_page(written.html(golden, exhibit(golden, NAMES[:1])))
    assert "/stem/conv_0" in page.text
    assert "/stem/conv_23" not in page.text  # the least sensitive of 24
    assert "12 of 24" in page.text
    assert "Not shown: has a grid per channel" in page.text


def test_it_loads_nothing(golden: Manifest, exhibit: Exhibit, read_page: Read) -> None:
    html = written.html(golden, exhibit(golden, NAMES))
    page = read_page(html)
    inside = ("#", "data:")
    for element in page.elements:
        for key, value in element.attributes.items():
            if key in ("href", "src", "xlink:href", "srcset", "action", "poster", "data", "formaction", "background"):
                assert value.startswith(inside), (element.tag, key, value[:80])
            assert "http:" not in value.replace("http://www.w3.org/2000/svg", ""), (element.tag, key)
            assert "https:" not in value
            assert not key.startswith("on")
        assert element.tag not in ("script", "iframe", "object", "embed", "base", "form", "audio", "video")
    assert "url(" not in html
    assert "@import" not in html
    policy = next(e for e in page.of("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_anchors_lead_somewhere_and_are_unique(golden: Manifest, exhibit: Exhibit, read_page: Read) -> None:
    page = read_page(written.html(golden, exhibit(golden, NAMES)))
    anchors = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(anchors) == len(set(anchors))
    links = [v for e in page.elements for k, v in e.attributes.items() if k == "href" and v.startswith("#")]
    assert links
    assert {link[1:] for link in links} <= set(anchors)


def test_pictures_and_tables_speak(golden: Manifest, exhibit: Exhibit, read_page: Read) -> None:
    page = read_page(written.html(golden, exhibit(golden, NAMES)))
    for svg in page.of("svg"):
        told = svg.attributes.get("role") == "img" and svg.attributes.get("aria-label")
        assert told or svg.attributes.get("aria-hidden") == "true"
    assert all(e.attributes.get("scope") in ("row", "col") for e in page.of("th"))
    (root,) = page.of("html")
    assert root.attributes["lang"] == "en"


def test_hostile_names_are_text(hostile: tuple[Manifest, str], exhibit: Exhibit, read_page: Read) -> None:
    manifest, text = hostile
    photograph = f"a{text}".replace("/", "\N{FRACTION SLASH}") + ".jpg"
    exhibits = exhibit(manifest, [photograph])
    harmless = exhibit(manifest, ["a.jpg"])
    title = f"plan {text}"
    exhibits = dataclasses.replace(exhibits, insights={title: text, **exhibits.insights})
    html = written.html(manifest, exhibits)
    html.encode("utf-8")  # a lone surrogate could not be
    page = read_page(html)
    assert page.of("script") == page.of("img") == []
    assert not any(key.startswith("on") for e in page.elements for key in e.attributes)
    # the same elements as with harmless names, but the note of the plan
    tags = [e.tag for e in page.elements]
    assert len(tags) == len(read_page(written.html(manifest, harmless)).elements) + len(["h3", "p"])
    assert "\x07" not in html
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "\\udcff" in page.text


def test_the_same_run_gives_the_same_bytes(golden: Manifest, exhibit: Exhibit) -> None:
    assert written.html(golden, exhibit(golden, NAMES)) == written.html(golden, exhibit(golden, NAMES))


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 30])
def test_many_artifacts_stay_below_three_megabytes(golden: Manifest, exhibit: Exhibit, count: int) -> None:
    artifacts = tuple(
        dataclasses.replace(golden.artifacts[0], path=f"detector_640x640_{i}_w8a8.tflite") for i in range(count)
    )
    findings = tuple(
        dataclasses.replace(f, artifact=a.path)
        for a in artifacts
        for f in golden.findings
        if f.artifact == golden.artifacts[0].name
    )
    large = dataclasses.replace(golden, artifacts=artifacts, findings=findings, latency=())
    names = [f"{'x' * i}.jpg" for i in range(40)]  # noisy pictures, which compress badly
    exhibits = exhibit(large, names, faces=3000)
    assert len(exhibits.thumbnails) == PHOTOGRAPHS
    assert len(written.html(large, exhibits).encode()) < 3_000_000


def _luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance of `#rgb` or `#rrggbb`."""
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_that_wcag_asks_for() -> None:
    assert _contrast("#000", "#ffffff") == pytest.approx(21)
    schemes = re.findall(r":root\{([^}]*)\}", CSS.read_text(encoding="utf-8"))[:2]
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+):(#\w+)", scheme))
        for text in ("ink", "faint", "accent", "pass", "fail", "skipped", "extra"):
            for paper in ("paper", "card"):
                assert _contrast(colours[text], colours[paper]) >= 4.5, (text, paper)
        for verdict in ("pass", "fail", "skipped"):
            assert _contrast(colours[verdict], colours[f"{verdict}-soft"]) >= 4.5, verdict
            assert _contrast(colours["ink"], colours[f"{verdict}-soft"]) >= 4.5, verdict
            assert _contrast(colours["faint"], colours[f"{verdict}-soft"]) >= 4.5, verdict


def test_faces_that_are_not_finite_are_left_out(
    golden: Manifest, exhibit: Exhibit, sightings: Callable[..., Sightings]
) -> None:
    exhibits = exhibit(golden, NAMES[:1])
    path = next(iter(exhibits.thumbnails))
    seen = sightings([path], 10, 0)
    seen.scenes[0].candidate.boxes[:] = float("nan")
    seen.scenes[0].candidate.landmarks[:] = float("inf")
    seen.nme[:] = float("nan")
    html = written.html(golden, dataclasses.replace(exhibits, sightings={golden.artifacts[0].name: seen}))
    drawn = re.findall(r'(?: d|viewBox|x|y)="([^"]*)"', html)
    assert not any("nan" in text or "inf" in text for text in drawn)
