"""Something to show for every part of a page, and a reader of pages that is none of ours."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.calibration.insight import Insight, TensorInsight
from facex.manifest import Manifest, load
from facex.report.page import thumbnails
from facex.report.page.exhibits import Exhibits
from facex.sightings import Scene, Sightings
from facex.types import Detections, FileFacts, run_name

VOID = {"meta", "link", "br", "img", "hr", "input"}


@dataclass(frozen=True)
class Element:
    """A start tag, with the text directly in it."""

    tag: str
    attributes: dict[str, str]
    texts: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """All elements of a page in order; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        assert len(element.attributes) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].texts.append(data)

    def of(self, tag: str) -> list[Element]:
        """The elements of a tag."""
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        """What a reader sees, roughly."""
        hidden = {"style", "title"}
        return " ".join(" ".join(t for e in self.elements if e.tag not in hidden for t in e.texts).split())


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Page]:
    """`read_page(html)` parses with Python's own parser."""
    return Page


@pytest.fixture
def golden() -> Manifest:
    """A run with everything: passes, failures of both kinds, skips, two devices, an assumed contract."""
    return load(Path(__file__).parents[2] / "golden" / "manifest.json")


def _faces(random: np.random.Generator, count: int, side: float) -> Detections:
    corner = random.uniform(0, 300, (count, 2))
    points = corner[:, None] + random.uniform(0, side, (count, 5, 2))
    return Detections(
        boxes=np.hstack([corner, corner + side]).astype(np.float32),
        scores=np.sort(random.uniform(0.5, 1, count))[::-1].astype(np.float32),
        landmarks=points.astype(np.float32),
    )


def _sightings(paths: list[Path], faces: int, seed: int, *, differing: bool = True) -> Sightings:
    """As after a comparison on as many photographs; every second face of the scenes is lost or extra if `differing`."""
    random = np.random.default_rng(seed)
    lost = np.arange(0, 3 if differing else 0)
    scenes = tuple(
        Scene(
            path=path,
            scale=0.8,
            reference=_faces(random, 6, 40),
            candidate=_faces(random, 5, 40),
            lost=lost,
            extra=lost[:2],
            nme=0.034,
        )
        for path in paths
    )
    scores = random.uniform(0.5, 1, (2, faces)).astype(np.float32)
    return Sightings(
        reference_scores=scores[0],
        candidate_scores=scores[1],
        side_px=random.uniform(8, 300, faces).astype(np.float32),
        nme=random.uniform(1e-5, 0.1, faces).astype(np.float32),
        lost_scores=np.float32([0.91, 0.55]) if differing else np.float32([]),
        extra_scores=np.float32([0.6]) if differing else np.float32([]),
        photographs=64,
        differing=len(paths) if differing else 0,
        scenes=scenes,
    )


@pytest.fixture(scope="session")
def sightings() -> Callable[..., Sightings]:
    """`sightings(paths, faces, seed, differing=True)`: seeded, with a scene a path."""
    return _sightings


def _insight(name: str = "/stem/conv") -> Insight:
    tensors = tuple(
        TensorInsight(
            name=f"{name}_{i}",
            operator="Conv",
            scale=0.01,
            zero_point=3,
            grid_low=-1.25,
            grid_high=1.3,
            seen_low=-0.5 - i / 10,
            seen_high=0.75,
            clipped_fraction=0.002 * (i > 10),
            sqnr_db=None if i == 2 else 20.0 + i,
            relative_head_error=10 ** -(1 + i / 5),
        )
        for i in range(24)
    )
    return Insight(tensors=tensors, heads={"scores": 21.5, "boxes": None}, photographs=2)


@pytest.fixture(scope="session")
def make_insight() -> Callable[..., Insight]:
    """`make_insight(name)`: 24 tensors of falling sensitivity."""
    return _insight


@pytest.fixture(scope="session")
def exhibit(draw_photograph: Callable[..., Any]) -> Callable[..., Exhibits]:
    """`exhibit(manifest, names, faces=40)`: everything, of photographs of these names that are drawn in memory."""

    @functools.cache
    def pixels(path: Path) -> NDArray[np.uint8]:
        return np.asarray(draw_photograph(len(path.name), 640, 480))

    def build(manifest: Manifest, names: list[str], faces: int = 40) -> Exhibits:
        paths = [Path("photographs") / name for name in names]
        runs = [run_name(a.name, r) for a in manifest.artifacts for r in manifest.runtimes(a.name)]
        turned = {run: [*paths[2 * i % len(paths) :], *paths[: 2 * i % len(paths)]] for i, run in enumerate(runs)}
        seen = {run: _sightings(turned[run][:4], faces, i, differing=i > 0) for i, run in enumerate(runs)}
        facts = {
            a.name: FileFacts(
                inputs=a.inputs,
                outputs=a.outputs,
                operators={"CONV_2D": 56, "ADD": 3},
                macs=982_000_000,
                integer_macs=0,
                float_islands=(),
                minimum_runtime=a.minimum_runtime,
            )
            for a in manifest.artifacts
        }
        return Exhibits(
            facts=facts,
            sightings=seen,
            thumbnails=thumbnails.made(thumbnails.chosen(seen), pixels),
            insights={"w8a8 at 640x640": _insight(), "other_w8a8.onnx": "has a grid per channel"},
        )

    return build


HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>\N{RIGHT-TO-LEFT OVERRIDE}\x07\udcff&amp;"


@pytest.fixture
def hostile(golden: Manifest) -> tuple[Manifest, str]:
    """The golden run with a name in every text of it that tries to be more than text; and that name."""
    source = golden.source
    text = HOSTILE

    def named(value: str) -> str:
        return f"{value}{text}".replace("/", "\N{FRACTION SLASH}")

    renamed = {a.name: named(a.name) for a in golden.artifacts}
    return dataclasses.replace(
        golden,
        source=dataclasses.replace(source, checkpoint=named(source.checkpoint)),
        artifacts=tuple(
            dataclasses.replace(
                a,
                path=renamed[a.name],
                minimum_runtime=text,
                runtime=text,
                credits=dataclasses.replace(a.credits, author=text, license=text, version=text),
                outputs=(dataclasses.replace(a.outputs[0], name=text),),
            )
            for a in golden.artifacts
        ),
        findings=tuple(
            dataclasses.replace(f, artifact=renamed[f.artifact], reason=f.reason and text) for f in golden.findings
        ),
        latency=tuple(
            dataclasses.replace(e, artifact=renamed[e.artifact], method=text, device=f"host: {text}")
            for e in golden.latency
        ),
        tools={**golden.tools, text: text},
    ), text
