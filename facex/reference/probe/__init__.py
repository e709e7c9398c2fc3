"""The contract of a checkpoint from its weights and, better, from unlabelled photographs.

No label is used, and activation is never chosen by score: a network may well be surer under the wrong one. Each signal
has its own file; what none decides is left undecided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facex.reference import checkpoint, detector, families, photographs
from facex.reference.probe import anchors, closer, colour, slope, statistics, subject
from facex.reference.probe.colour import Preprocessing
from facex.reference.probe.evidence import (
    MIN_PHOTOGRAPHS,
    Candidate,
    Disagreement,
    Identification,
    Judgement,
    Reading,
)
from facex.types import ChannelOrder, Contract, ContractOptions, Settled, SettledBy, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facex.reference.families import Structure
    from facex.reference.photographs import Photograph
    from facex.reference.probe.subject import Subject
    from facex.types import FloatArray

__all__ = ["SIDE_PX", "Candidate", "Disagreement", "Identification", "chosen", "identify"]

SIDE_PX = 320
"""Of the photographs, letterboxed: large enough for the signals, and a quarter of the work of 640."""
SHOWN_CANDIDATES = 24


def chosen(found: Sequence[Photograph], count: int) -> list[Photograph]:
    """At most `count` of the photographs, evenly spaced."""
    if len(found) <= count:
        return list(found)
    return [found[round(i * (len(found) - 1) / max(1, count - 1))] for i in range(count)]


def identify(
    path: Path,
    stated: ContractOptions,
    found: Sequence[Photograph] = (),
    *,
    advance: Callable[[], None] = lambda: None,
) -> Identification:
    """Find out under which contract a checkpoint was trained, as far as that can be known.

    Args:
        path: the checkpoint.
        stated: what the user states; kept, and held against the evidence.
        found: photographs to run, without labels; some two dozen with faces decide everything that can be decided.
        advance: called before each run over the photographs.

    Raises:
        CheckpointError: see `facex.reference.checkpoint`.
        UsageError: an option contradicts the checkpoint.
        PhotographError: one cannot be decoded.
    """
    digest = checkpoint.sha256(path)
    state = checkpoint.read(path)
    structure = checkpoint.recognise(path, state)
    contract, assumed = detector.settle(structure, _with_sizes(structure, stated))
    if stated.min_sizes is None:
        assumed = tuple(dict.fromkeys([*assumed, "min_sizes"]))
    pixels, warmth = _pixels(found)
    probe = _Probe(
        subject=subject.build(structure, state, contract), contract=contract, stated=stated, advance=advance,
        found=found, pixels=pixels, warmth=warmth,
    )  # fmt: skip
    evidence = probe.evidence()
    return _identification(path, digest, structure, contract, stated, assumed, evidence, len(found))


def _with_sizes(structure: Structure, stated: ContractOptions) -> ContractOptions:
    """What the user states, with sizes to start from where the family's usual ones do not fit the heads."""
    usual = families.load(structure.family).ASSUMED["min_sizes"]
    counts = tuple(structure.anchors_per_cell)
    if stated.min_sizes is not None or tuple(map(len, usual)) == counts:
        return stated
    fitting = (sizes for sizes in anchors.KNOWN if tuple(map(len, sizes)) == counts)
    doubling = tuple(
        tuple(2.0 * stride * 2 ** (i / count) for i in range(count))
        for stride, count in zip(structure.strides, counts, strict=True)
    )
    return dataclasses.replace(stated, min_sizes=next(fitting, doubling))


def _pixels(found: Sequence[Photograph]) -> tuple[NDArray[np.uint8] | None, float]:
    """The photographs as uint8 [B, `SIDE_PX`, `SIDE_PX`, 3], RGB, and by how much they are redder than blue, 0-255.

    None without photographs. Padding is left out of the colours.
    """
    if not found:
        return None, 0.0
    size = Size(height=SIDE_PX, width=SIDE_PX)
    boxed = [photographs.letterbox(photographs.load(p.path), size, colour.TYPICAL_RGB) for p in found]
    inside = [b.pixels[: b.content[0], : b.content[1]].reshape(-1, 3).mean(0) for b in boxed]
    red, _, blue = np.mean(inside, axis=0)
    return np.stack([b.pixels for b in boxed]), float(red - blue)


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What all signals say.

    Attributes:
        verdicts: field -> what the evidence says of it.
        groups: readings of fields that are judged together, best first.
        detections: see `Identification`.
    """

    verdicts: Mapping[str, Judgement]
    groups: tuple[list[Reading], ...]
    detections: int | None


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """One subject with its photographs; every run over them is kept."""

    subject: Subject
    contract: Contract
    stated: ContractOptions
    found: Sequence[Photograph]
    pixels: NDArray[np.uint8] | None
    warmth: float
    advance: Callable[[], None]
    runs: dict[Any, statistics.Pass] = dataclasses.field(default_factory=dict)

    def evidence(self) -> _Evidence:
        """Slopes first, for everything else needs them; then colours; sizes last, for they need both."""
        stated = {n: v for n in colour.FIELDS if (v := getattr(self.stated, n)) is not None}
        assumed = Preprocessing(**{n: getattr(self.contract, n) for n in colour.FIELDS})
        ranked = colour.rank(colour.from_weights(self.subject.first), stated, assumed)
        first = next(iter(ranked.costs))
        slopes = {name: getattr(self.contract, name) for name in self.subject.activations}
        verdicts: dict[str, Judgement] = {}
        groups: list[list[Reading]] = []
        for name in slopes:
            verdicts[name], readings = self._slope(name, slopes, first)
            slopes[name] = verdicts[name].value if verdicts[name].decided else slopes[name]
            groups.append(readings)
        compared = None
        if self.warmth >= colour.MIN_WARMTH:
            compared = colour.compare(colour.contenders(ranked), lambda p: self._run(slopes, p).levels)
        best, colours, readings = colour.judge(ranked, compared, cast=self.pixels is not None and compared is None)
        groups.append(readings)
        verdicts |= {v.field: v for v in colours}
        unsure = [n for n in (*slopes, "channel_order") if not verdicts[n].decided]
        sizes, readings = self._sizes(slopes, best, unsure)
        groups.append(readings)
        verdicts |= {v.field: v for v in sizes}
        return _Evidence(verdicts=verdicts, groups=tuple(groups), detections=self._detections(slopes, best))

    def _slope(
        self, name: str, slopes: Mapping[str, float], preprocessing: Preprocessing
    ) -> tuple[Judgement, list[Reading]]:
        measured = slope.from_weights(self.subject, name)
        divergences: dict[float, float] = {}
        own = self.subject.own_norms[name]
        if self.pixels is not None and len(self.pixels) >= MIN_PHOTOGRAPHS and len(own) >= slope.MIN_NORMS:
            later = list(slopes)[list(slopes).index(name) + 1 :]
            for value in slope.candidates(measured, getattr(self.stated, name)):
                # slopes further on do not matter to the field's own norms: the same one spares a run
                tried = {**slopes, name: value, **dict.fromkeys(later, value)}
                divergences[value] = self._run(tried, preprocessing).mean_divergence(own)
        return slope.judge(name, measured, divergences)

    def _sizes(
        self, slopes: Mapping[str, float], best: Preprocessing, unsure: Sequence[str]
    ) -> tuple[list[Judgement], list[Reading]]:
        structure = self.subject.structure
        usual = families.load(structure.family).ASSUMED["min_sizes"]
        stated = self.stated
        listed = [usual, *([stated.min_sizes] if stated.min_sizes else [])]
        centre = stated.variances[0] if stated.variances else None
        if self.pixels is None or unsure:
            why = f"needs {' and '.join(unsure)}, undecided" if self.pixels is not None else "no photographs"
            return anchors.judge(None, structure, listed, centre, why)
        slots = anchors.measure(self._run(slopes, best).levels, structure)
        found = anchors.judge(slots, structure, listed, centre, "")
        if not found[1] and anchors.unseen(slots):  # no known set: measure what the photographs as they are do not show
            slots = anchors.filled(slots, anchors.measure(self._closer(slopes, best, slots), structure))
            found = anchors.judge(slots, structure, listed, centre, "")
        return found

    def _closer(
        self, slopes: Mapping[str, float], best: Preprocessing, slots: Sequence[anchors.Slot]
    ) -> Sequence[families.LevelOutput]:
        """Raw maps of the largest faces, brought closer."""
        self.advance()
        crops = []
        size = Size(height=SIDE_PX, width=SIDE_PX)
        levels = self._run(slopes, best).levels
        for face in closer.largest(levels, self.subject.structure, slots)[: closer.FACES]:
            rgb = photographs.load(self.found[face.photograph].path)
            scale = photographs.letterbox(rgb, size, colour.TYPICAL_RGB).scale
            crops += [closer.crop(rgb, face, scale, margin, colour.TYPICAL_RGB) for margin in closer.MARGINS]
        if not crops:
            return levels
        return statistics.run(self.subject, _input(np.stack(crops), best)).levels

    def _detections(self, slopes: Mapping[str, float], best: Preprocessing) -> int | None:
        if self.pixels is None:
            return None
        levels = self._run(slopes, best).levels
        return sum(int((level.conf[:, 1::2] > level.conf[:, 0::2]).sum()) for level in levels)

    def _run(self, slopes: Mapping[str, float], preprocessing: Preprocessing) -> statistics.Pass:
        key = tuple(slopes.values()), preprocessing
        if key not in self.runs:
            assert self.pixels is not None
            self.advance()
            self.subject.set_slopes(slopes)
            self.runs[key] = statistics.run(self.subject, _input(self.pixels, preprocessing))
        return self.runs[key]


def _input(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> FloatArray:
    bgr = preprocessing.channel_order is ChannelOrder.BGR
    return photographs.network_input(pixels, preprocessing.mean, preprocessing.scale, bgr=bgr)


def _identification(
    path: Path, digest: str, structure: Structure, start: Contract, stated: ContractOptions, assumed: tuple[str, ...],
    evidence: _Evidence, count: int,
) -> Identification:  # fmt: skip
    verdicts = evidence.verdicts
    decided = {n: v.value for n, v in verdicts.items() if v.decided and n not in structure.proved}
    contract = _filled(structure, start, {n: v for n, v in decided.items() if n in assumed}, assumed)
    probed = _filled(structure, start, decided, assumed)
    settled = tuple(_settled(s, verdicts.get(s.field)) for s in detector.settled_fields(structure, start, assumed))
    disagreements = tuple(
        Disagreement(
            field=n, stated=getattr(start, n), probed=value, confidence=verdicts[n].confidence,
            evidence=verdicts[n].text,
        )
        for n, value in decided.items()
        if n not in assumed and not _agrees(n, start, probed)
    )  # fmt: skip
    open_fields = [s for s in settled if s.how in (SettledBy.PROBED, SettledBy.ASSUMED)]
    return Identification(
        checkpoint=path.name,
        sha256=digest,
        photographs=count,
        detections=evidence.detections,
        contract=contract,
        confidence=min((s.confidence or 0.0 for s in open_fields), default=1.0),
        settled=settled,
        undecided=tuple(s.field for s in settled if s.how is SettledBy.ASSUMED),
        disagreements=disagreements,
        candidates=_candidates(probed, contract, evidence.groups),
    )


def _filled(structure: Structure, start: Contract, decided: Mapping[str, Any], assumed: Sequence[str]) -> Contract:
    """The contract with what is decided; an assumed slope of the pyramid follows that of the backbone, as is usual."""
    values = dict(decided)
    if "pyramid_slope" in assumed and "pyramid_slope" not in values and structure.pyramid_slope is not None:
        values["pyramid_slope"] = structure.pyramid_slope(values.get("activation_slope", start.activation_slope))
    return dataclasses.replace(start, **values)


def _settled(start: Settled, verdict: Judgement | None) -> Settled:
    if verdict is None or start.how is SettledBy.PROVED:
        return start
    how = SettledBy.PROBED if start.how is SettledBy.ASSUMED and verdict.decided else start.how
    confidence = verdict.confidence if how is not SettledBy.STATED else None
    return dataclasses.replace(start, how=how, confidence=confidence, evidence=verdict.text)


def _agrees(name: str, start: Contract, probed: Contract) -> bool:
    """Whether a stated field is what the evidence says, as far as it can tell."""
    one, other = getattr(start, name), getattr(probed, name)
    if name in ("activation_slope", "pyramid_slope"):
        return bool(abs(one - other) < slope.ALIKE)
    if name in ("min_sizes", "variances"):
        return anchors.agrees(name, one, other)
    if name == "channel_order":
        return bool(one is other)
    usual = Preprocessing(**{n: getattr(probed, n) for n in colour.FIELDS})
    return usual.alike(Preprocessing(**{**usual.values, name: one}))


def _candidates(best: Contract, used: Contract, groups: Sequence[Sequence[Reading]]) -> tuple[Candidate, ...]:
    """The contract that fits best, and every other reading of one group of fields in it."""
    signals: dict[str, float] = {}
    found: list[Candidate] = []
    for readings in groups:
        for reading in readings:
            values = {n: v for n, v in reading.values.items() if getattr(best, n) is not None}
            contract = dataclasses.replace(best, **values)
            differs = tuple(n for n in values if getattr(contract, n) != getattr(best, n))
            if not differs:
                signals |= reading.signals
            elif all(contract != c.contract for c in found):
                found.append(Candidate(contract=contract, cost=reading.cost, differs=differs, signals=reading.signals))
    found.sort(key=lambda c: c.cost)
    first = Candidate(contract=best, cost=0.0, differs=(), signals=signals)
    kept = [c for i, c in enumerate(found) if i < SHOWN_CANDIDATES - 1 or c.contract == used]
    return (first, *kept)
