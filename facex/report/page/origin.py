"""What the artifacts came from, as rows of a page: checkpoint, contract, photographs, calibration, tools."""

from __future__ import annotations

from dataclasses import dataclass

from facex.manifest import Calibration, Manifest
from facex.report.fields import OPTIONS, joined
from facex.report.wording import plural
from facex.types import SettledBy

HOW = {
    SettledBy.STATED: "stated",
    SettledBy.PROVED: "proved by the checkpoint",
    SettledBy.PROBED: "found by a probe",
    SettledBy.ASSUMED: "assumed",
}


@dataclass(frozen=True, kw_only=True)
class ContractRow:
    """One field of the contract.

    Attributes:
        name: as it is called.
        option: that states it; empty for what follows from the checkpoint.
        value: in the words of the option.
        how: it came about, in words.
        assumed: whether nothing supports it.
        evidence: of a probe.
    """

    name: str
    option: str
    value: str
    how: str
    assumed: bool
    evidence: str


def contract(manifest: Manifest) -> tuple[ContractRow, ...]:
    """The fields that a checkpoint leaves open first, then those that follow from it."""
    source = manifest.source
    settled = {s.field: s for s in source.settled}
    rows = []
    for field, (name, option, value) in OPTIONS.items():
        if field == "pyramid_slope" and source.contract.pyramid_slope is None:
            continue
        told = settled.get(field)
        assumed = field in source.assumed
        how = HOW[told.how] if told else "assumed" if assumed else "stated, or proved by the checkpoint"
        if told and told.confidence is not None:
            how += f", confidence {told.confidence:.2f}"
        evidence = told.evidence if told else ""
        rows.append(
            ContractRow(
                name=name, option=option, value=value(source.contract), how=how, assumed=assumed, evidence=evidence
            )
        )
    mesh = [("mesh code", f"{source.contract.mesh} values")] if source.contract.mesh else []
    for name, text in (("strides", joined(source.contract.strides)), *mesh):
        rows.append(
            ContractRow(name=name, option="", value=text, how=HOW[SettledBy.PROVED], assumed=False, evidence="")
        )
    return tuple(rows)


def facts(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Checkpoint and photographs."""
    source, evaluation = manifest.source, manifest.evaluation
    return (
        ("Checkpoint", source.checkpoint),
        ("Detector", f"{source.contract.family} {source.contract.backbone}"),
        ("SHA-256", source.sha256),
        (
            "Photographs for parity",
            f"{evaluation.count}, with {plural(evaluation.reference_faces, 'face')} of the reference; digest "
            f"{evaluation.digest}"
            if evaluation
            else "none",
        ),
    )


def calibration(found: Calibration) -> tuple[tuple[str, str], ...]:
    """The photographs behind the ranges, and how clean they are."""
    stability = found.stability
    return (
        ("Photographs", f"{found.count}; digest {found.digest}"),
        ("Method", found.method + (f", effort {found.effort}" if found.effort else "") + f", seed {found.seed}"),
        ("With a face in them", _count(found.photographs_with_faces)),
        ("Near duplicates", _count(found.near_duplicates)),
        (
            "Ranges from two halves differ by",
            f"{stability.median:.1%} (median over the tensors), {stability.worst:.1%} at worst, in {stability.tensor}"
            if stability
            else "not measured",
        ),
    )


def _count(value: int | None) -> str:
    return "not counted" if value is None else str(value)
