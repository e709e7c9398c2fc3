"""What changed between two manifests: size, time, parity, operators, contract; and whether anything became worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facex import exporters, manifest
from facex.errors import ArtifactError, FacexError, stage
from facex.manifest import BUDGET_FINDINGS, Manifest
from facex.regression import BUDGET_UNITS, Figure, Rule, direction_of, judged
from facex.report.wording import condition
from facex.types import HOST, Artifact, Finding, Latency, LatencyKind, Verdict, as_plain

REPORT_KEYS = ("timings_s", "exit_code", "command", manifest.SOURCE_PATH)
"""What a `report.json` holds beside the keys of a manifest."""

_BYTES_PER_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """Something other than a measured figure that is not as it was; values as a manifest writes them.

    Attributes:
        subject: `checkpoint`, `contract`, `calibration`, `evaluation`, `tools`, or the file name of a new artifact.
        name: of the key.
        old: value; None where it had none.
        new: likewise.
    """

    subject: str
    name: str
    old: Any
    new: Any


@dataclass(frozen=True, kw_only=True)
class OperatorChange:
    """How often an operator occurs in two files; or, with a reason, why that is not known (`operator` is empty)."""

    artifact: str
    operator: str
    old: int | None
    new: int | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What `diff` found; the attributes are the keys of `facex diff --json`.

    Attributes:
        fields: checkpoint, contract, photographs, tools, and what artifacts are.
        added: file names of artifacts that only the new manifest has.
        removed: file names of those that only the old one has.
        identical: file names of new artifacts whose bytes are those of the old ones.
        figures: what was measured in either.
        operators: those whose number changed.
        findings: what the rules say, a figure at a time; none without a rule.
    """

    fields: tuple[FieldChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    identical: tuple[str, ...]
    figures: tuple[Figure, ...]
    operators: tuple[OperatorChange, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 when no rule was broken, 3 when one about parity was, 4 when only ones about size, time or memory were."""
        return manifest.exit_code_of(self.findings)


def diff(old: Path, new: Path, *, fail_on: Sequence[Rule] = ()) -> Diff:
    """Compare two manifests.

    Args:
        old: a `manifest.json`, a `report.json` (which has every latency), or a folder with the former.
        new: likewise.
        fail_on: rules; of those that fit a figure one for its metric goes before one for all, and the last one given
            before others.

    Raises:
        ArtifactError: one cannot be read, or is of another schema version.
    """
    before, after = load(old), load(new)
    pairs = _pairs(before.artifacts, after.artifacts)
    paired = {id(artifact) for pair in pairs for artifact in pair}
    removed = tuple(a.name for a in before.artifacts if id(a) not in paired)
    figures = tuple(figure for a, b in pairs for figure in _figures(before, after, a, b))
    return Diff(
        fields=(*_origin(before, after), *(change for a, b in pairs for change in _about(before, after, a, b))),
        added=tuple(a.name for a in after.artifacts if id(a) not in paired),
        removed=removed,
        identical=tuple(b.name for a, b in pairs if a.sha256 == b.sha256),
        figures=figures,
        operators=tuple(c for a, b in pairs for c in _operators(_folder(old), a, _folder(new), b)),
        findings=(*judged(figures, fail_on), *(_missing(name) for name in removed if fail_on)),
    )


def load(path: Path) -> Manifest:
    """The manifest that a path names: of a file, or in a folder.

    Raises:
        ArtifactError: it cannot be read, or is of another schema version.
    """
    if path.is_dir() and not (path / manifest.FILE_NAME).is_file():
        hint = "name the folder of facex export --out, or a report.json"
        raise ArtifactError(f"{path}: has no {manifest.FILE_NAME}", hint=hint)
    return manifest.load(_folder(path) / manifest.FILE_NAME if path.is_dir() else path, besides=REPORT_KEYS)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _pairs(old: Sequence[Artifact], new: Sequence[Artifact]) -> list[tuple[Artifact, Artifact]]:
    """The same artifact in both: by its name, else as the only one of its target, precision, size and head."""
    by_name = {a.name: a for a in old}
    taken = {a.name for a in new} & by_name.keys()

    def kinds(artifacts: Sequence[Artifact]) -> dict[tuple[Any, ...], list[Artifact]]:
        found: dict[tuple[Any, ...], list[Artifact]] = {}
        for a in artifacts:
            if a.name not in taken:
                found.setdefault((a.target, a.precision, a.size, a.head), []).append(a)
        return found

    before, after = kinds(old), kinds(new)
    partner = {a.name: by_name[a.name] for a in new if a.name in taken}
    for kind, found in after.items():
        if len(found) == len(before.get(kind, ())) == 1:
            partner[found[0].name] = before[kind][0]
    return [(partner[a.name], a) for a in new if a.name in partner]


_KEPT = (
    *("target", "precision", "head", "size", "inputs", "outputs", "integer_mac_fraction", "minimum_runtime"),
    *("runtime", "promoted", "credits", "selection"),
)
"""Keys of an artifact that are told where they changed; its size is a figure."""


def _fields(subject: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FieldChange]:
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield FieldChange(subject=subject, name=name, old=old.get(name), new=new.get(name))


def _origin(old: Manifest, new: Manifest) -> Iterator[FieldChange]:
    """Checkpoint, contract, photographs and tools."""
    before, after = as_plain(old), as_plain(new)
    contracts = [plain["source"].pop("contract") for plain in (before, after)]
    yield from _fields("checkpoint", before["source"], after["source"])
    yield from _fields("contract", *contracts)
    for subject in ("calibration", "evaluation", "tools"):
        found = [dict(plain[subject] or {}) for plain in (before, after)]
        for each in found:
            each.pop("sha256", None)  # the digest says as much in a line
        yield from _fields(subject, *found)


def _about(old: Manifest, new: Manifest, before: Artifact, after: Artifact) -> Iterator[FieldChange]:
    """What an artifact is, and its verdict."""
    sides = []
    for record, artifact in ((old, before), (new, after)):
        plain = as_plain(artifact)
        sides.append(
            {"name": artifact.name, **{k: plain[k] for k in _KEPT}, "verdict": as_plain(record.verdict(artifact.name))}
        )
    yield from _fields(after.name, *sides)


def _figures(old: Manifest, new: Manifest, before: Artifact, after: Artifact) -> Iterator[Figure]:
    sizes = (before.size_bytes / _BYTES_PER_MB, after.size_bytes / _BYTES_PER_MB)
    yield Figure(artifact=after.name, name="size", unit="MB", old=sizes[0], new=sizes[1])
    yield from _times(
        after.name,
        [entry for entry in old.latency if entry.artifact == before.name],
        [entry for entry in new.latency if entry.artifact == after.name],
    )
    yield from _parity(old, new, before, after)


def _parity(old: Manifest, new: Manifest, before: Artifact, after: Artifact) -> Iterator[Figure]:
    sides = [
        {(f.name, f.runtime): f for f in record.findings if f.artifact == name and f.name not in BUDGET_FINDINGS}
        for record, name in ((old, before.name), (new, after.name))
    ]
    for name, runtime in dict.fromkeys((*sides[1], *sides[0])):
        if direction_of(name) is None:
            continue  # `unchanged` compares a file with its own manifest
        a, b = (side.get((name, runtime)) for side in sides)
        either = sides[1].get((name, runtime)) or sides[0][name, runtime]
        held = [f.limit for f in (b, a) if f is not None and f.limit is not None]
        yield Figure(
            artifact=after.name,
            name=name,
            unit=either.unit,
            old=a.actual if a else None,
            new=b.actual if b else None,
            limit=held[0] if held else None,
            runtime=runtime,
        )


def _times(artifact: str, old: Sequence[Latency], new: Sequence[Latency]) -> Iterator[Figure]:
    """Latency, load time and memory; like with like: same runtime, device, kind and threads."""
    sides = [{(e.runtime, e.device, e.kind, e.threads): e for e in entries} for entries in (old, new)]
    for key in dict.fromkeys((*sides[1], *sides[0])):
        a, b = (side.get(key) for side in sides)
        either = sides[1].get(key) or sides[0][key]
        word = either.device.partition(":")[0]
        for name, unit in BUDGET_UNITS.items():
            values = [None if e is None else _time(e, name) for e in (a, b)]
            if values != [None, None]:
                yield Figure(
                    artifact=artifact,
                    name=name,
                    unit=unit,
                    old=values[0],
                    new=values[1],
                    reason="" if a and b else _unlike(either, "OLD" if a is None else "NEW", *sides),
                    runtime=either.runtime,
                    device=None if word == HOST else word,
                    condition=condition(either),
                )


def _unlike(entry: Latency, side: str, old: Mapping[Any, Latency], new: Mapping[Any, Latency]) -> str:
    """Why a latency of one side has no like on the other: that has others of the device; empty where it has none."""
    own, there = (new, old) if side == "OLD" else (old, new)
    word = entry.device.partition(":")[0]
    others = [e for key, e in there.items() if key not in own and e.is_on(word) and e.runtime == entry.runtime]
    return f"not like with like: {side} has {'; '.join(map(condition, others))}" if others else ""


def _time(entry: Latency, name: str) -> float | None:
    """Of a measurement the minimum, which repeats best on a machine that does other work too."""
    lowest = entry.low_ms if entry.kind is LatencyKind.MEASURED else entry.p50_ms
    return {"latency": lowest, "load": entry.load_ms, "memory": entry.memory_mb}.get(name)


def _operators(old: Path, before: Artifact, new: Path, after: Artifact) -> Iterator[OperatorChange]:
    """Operators of the files beside the manifests; bytes that did not change need no look."""
    if before.sha256 == after.sha256:
        return
    try:
        a, b = _described(old, before), _described(new, after)
    except FacexError as error:
        yield OperatorChange(artifact=after.name, operator="", old=None, new=None, reason=str(error))
        return
    for operator in sorted(a.keys() | b.keys()):
        if a.get(operator, 0) != b.get(operator, 0):
            yield OperatorChange(artifact=after.name, operator=operator, old=a.get(operator, 0), new=b.get(operator, 0))


def _described(folder: Path, artifact: Artifact) -> Mapping[str, int]:
    """Operator -> count.

    Raises:
        FacexError: the file is not there, is another one than the manifest describes, or cannot be read.
    """
    path = folder / artifact.path
    if not path.exists():
        raise ArtifactError(f"{path}: is not beside its manifest")
    with stage(artifact.name):
        if manifest.sha256_of(path) != artifact.sha256:
            raise ArtifactError(f"{path}: is not the file that its manifest describes")
        found: Mapping[str, int] = exporters.load(artifact.target).describe(path).operators
    return found


def _missing(artifact: str) -> Finding:
    return Finding(
        name="present",
        artifact=artifact,
        unit="1",
        actual=0.0,
        limit=1.0,
        verdict=Verdict.FAIL,
        reason="NEW has no such artifact, so nothing tells whether it became worse",
    )
