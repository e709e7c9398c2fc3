"""What the page says of each artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex.manifest import Manifest
from facex.report import table
from facex.report.page import charts
from facex.report.page.exhibits import Exhibits
from facex.report.page.overlays import Side, caption, sides
from facex.report.page.thumbnails import MANY, shown
from facex.report.wording import NOTHING, comparison, condition, plural, restates, start
from facex.types import Artifact, FileFacts, Finding, Latency, Runtime, Verdict, run_name

if TYPE_CHECKING:
    from markupsafe import Markup

    from facex.sightings import Sightings

NME = "landmark_nme_mean"
TITLES: Mapping[str, str] = {
    "matched_f1": "faces found alike, F1",
    "lost_faces": "share of the sure faces lost",
    "box_iou_mean": "overlap of the boxes, mean",
    "box_iou_p5": "overlap of the boxes, 5th percentile",
    "score_shift_mean": "score shift, mean",
    "score_shift_max": "score shift, largest",
    "landmark_nme_mean": "landmark error over the face's side, mean",
    "landmark_nme_p95": "landmark error over the face's side, 95th percentile",
    "landmark_error_max_px": "landmark error, largest",
    "background_false_positives": "faces in photographs without any",
    "malformed_rows": "rows of the outputs that are not as promised",
    "score_step": "what one 8-bit step is worth in a score",
    "box_step": "what one 8-bit step is worth in a box",
    "landmark_step": "what one 8-bit step is worth in a landmark",
    "float_islands": "operators left in float by mistake",
    "requantizations": "tensors quantized twice",
    "constant_weights": "weight tensors of one value",
    "unchanged": "still the file of the manifest",
    "identical": "share of the pictures on which every 8-bit tensor is the same",
    "golden.file": "one of the files of the goldens",
    "golden.lost": "faces of the goldens not found",
    "golden.extra": "faces found that the goldens do not have",
    "golden.score": "score shift in the goldens, largest",
    "golden.box": "box error over the face's side in the goldens, largest",
    "golden.landmark": "landmark error over the face's side in the goldens, largest",
    "size": "size of the file",
    "latency": "median time, or what the budget compares",
    "load": "time to the first result",
    "memory": "peak memory",
}
GROUPS: Mapping[str, str] = {
    "snr_db.": "signal over noise of an output",
    "max_abs.": "largest difference of an output",
    "ap_drop_": "drop of the average precision",
    "ap_": "average precision",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """A finding as a row; `limit` is empty where there is none."""

    name: str
    title: str
    actual: str
    limit: str
    verdict: Verdict
    reported: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A photograph as both sides saw it; `key` is that of its thumbnail, `name` its file name."""

    key: str
    name: str
    width: int
    height: int
    left: Side
    right: Side
    caption: str


@dataclass(frozen=True, kw_only=True)
class RunView:
    """An artifact in one runtime; `name` is empty where there is one alone."""

    name: str
    verdict: Verdict | None
    checks: tuple[Check, ...]
    charts: tuple[tuple[str, Markup], ...]
    summary: str
    differs: bool
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class ArtifactView:
    """An artifact, with the anchor of its section."""

    anchor: str
    artifact: Artifact
    verdict: Verdict | None
    facts: FileFacts | None
    latency: tuple[tuple[Latency, str, str], ...]
    runs: tuple[RunView, ...]


def views(manifest: Manifest, exhibits: Exhibits, keys: Mapping[Path, str]) -> tuple[ArtifactView, ...]:
    """Every artifact in order; `keys` are those of the thumbnails."""
    return tuple(
        ArtifactView(
            anchor=f"artifact-{i}",
            artifact=artifact,
            verdict=manifest.verdict(artifact.name),
            facts=exhibits.facts.get(artifact.name),
            latency=tuple(
                (entry, condition(entry).removeprefix(f"{entry.kind} "), start(entry))
                for entry in manifest.latency
                if entry.artifact == artifact.name
            ),
            runs=tuple(
                _run(manifest, artifact, runtime, f"a{i}-{j}", exhibits, keys)
                for j, runtime in enumerate(manifest.runtimes(artifact.name))
            ),
        )
        for i, artifact in enumerate(manifest.artifacts, start=1)
    )


def check(finding: Finding) -> Check:
    """A finding in words."""
    actual, _, limit = comparison(finding).partition(", limit ")
    return Check(
        name=finding.title,
        title=_title(finding.name),
        actual=actual,
        limit=limit,
        verdict=finding.verdict,
        reported=finding.limit is None and finding.verdict is Verdict.PASS,
        reason="" if restates(finding) else finding.reason,
    )


def overview(manifest: Manifest) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """The table of all artifacts: headers, and a row an artifact and runtime."""
    columns = table.COLUMNS[2:-1]
    rows: list[dict[str, Any]] = []
    for i, artifact in enumerate(manifest.artifacts, start=1):
        for runtime in manifest.runtimes(artifact.name):
            row = table.Row(artifact=artifact, runtime=runtime)
            failed = {f.name for f in _about(manifest, artifact, runtime) if f.verdict is Verdict.FAIL}
            rows.append(
                {
                    "anchor": f"artifact-{i}",
                    "name": artifact.name,
                    "runtime": runtime,
                    "verdict": manifest.verdict_in(artifact.name, runtime),
                    "cells": [
                        (column.cell(manifest, row), column.right, column.metric in failed) for column in columns
                    ],
                    "latency": table.shown_latency(manifest, artifact.name, runtime),
                    "late": "latency" in failed,
                }
            )
    words = {"prec.": "precision", "int MACs": "integer MACs"}
    headers = (" ".join(column.header).strip() for column in columns)
    return tuple(words.get(header, header) for header in headers), rows


def _about(manifest: Manifest, artifact: Artifact, runtime: Runtime | None) -> list[Finding]:
    return [f for f in manifest.findings if f.artifact == artifact.name and f.runtime in (None, runtime)]


def _run(
    manifest: Manifest,
    artifact: Artifact,
    runtime: Runtime | None,
    key: str,
    exhibits: Exhibits,
    keys: Mapping[Path, str],
) -> RunView:
    about = _about(manifest, artifact, runtime)
    seen = exhibits.sightings.get(run_name(artifact.name, runtime))
    limit = next((f.limit for f in about if f.name == NME), None)
    return RunView(
        name=runtime.value if runtime else "",
        verdict=manifest.verdict_in(artifact.name, runtime),
        checks=tuple(map(check, about)),
        charts=_charts(key, seen, limit, len(exhibits.sightings)) if seen else (),
        summary=_summary(seen) if seen else "",
        differs=bool(seen and seen.differing),
        pairs=_pairs(seen, exhibits, keys) if seen else (),
    )


def _charts(key: str, seen: Sightings, limit: float | None, runs: int) -> tuple[tuple[str, Markup], ...]:
    if not len(seen.nme) + len(seen.lost_scores) + len(seen.extra_scores):
        return ()
    dots = charts.DOTS * MANY // max(runs, MANY)
    first = ("Score of every face, artifact against reference", charts.scores(key, seen, dots))
    if not len(seen.nme):
        return (first,)
    return (first, ("Landmark error of every face against its size", charts.landmarks(key, seen, limit, dots)))


def _summary(seen: Sightings) -> str:
    lost, extra = len(seen.lost_scores), len(seen.extra_scores)
    where = f", in {plural(seen.differing, 'photograph')}" if seen.differing else ""
    return (
        f"In {plural(seen.photographs, 'photograph')} both sides found {plural(len(seen.nme), 'face')}; the reference "
        f"alone {lost} and the artifact alone {extra}{where}."
    )


def _pairs(seen: Sightings, exhibits: Exhibits, keys: Mapping[Path, str]) -> tuple[Pair, ...]:
    found = []
    for scene in shown(seen, len(exhibits.sightings)):
        thumbnail = exhibits.thumbnails.get(scene.path)
        if thumbnail is not None:
            left, right = sides(scene, thumbnail)
            found.append(
                Pair(
                    key=keys[scene.path],
                    name=scene.path.name,
                    width=thumbnail.width,
                    height=thumbnail.height,
                    left=left,
                    right=right,
                    caption=caption(scene),
                )
            )
    return tuple(found)


def _title(name: str) -> str:
    for prefix, words in (("vs_executor.", " (against facex's executor)"), ("arm64.", " (emulated ARM64)")):
        if name.startswith(prefix):
            return f"{_title(name.removeprefix(prefix))}{words}"
    if name in TITLES:
        return TITLES[name]
    return next((words for group, words in GROUPS.items() if name.startswith(group)), NOTHING)
