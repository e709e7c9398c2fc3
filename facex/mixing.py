"""Find the fewest multiplications to leave in float so that a mixed file meets what the user demands of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facex import exporters
from facex.errors import MissingExtraError, SessionUnavailableError
from facex.types import Limit, Precision, Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.calibration.engine import Calibrated
    from facex.progress import Progress
    from facex.reference.photographs import Photograph
    from facex.types import FloatArray

F1, NME = "matched_f1", "landmark_nme_mean"
F1_MARGIN, NME_MARGIN = 0.002, 0.97
"""The app will see other photographs than those measured, so the search aims a little higher than it must."""
RUNGS = (0.01, 0.02, 0.04, 0.08, 0.11, 0.15, 0.3, 0.6, 1.0)
"""Shares of the multiply-accumulates in float that are tried first."""
WORTH = 0.005
"""A member of a smaller share of the multiply-accumulates is not tried without."""
TOGETHER = 4
"""Models measured in one pass over the photographs while members are tried without, in which most turn out needed."""

Metrics = Mapping[str, "float | None"]
Evaluate = Callable[[Sequence[frozenset[str]]], Sequence[Metrics]]
"""Sets of convolutions to leave in float -> the metrics of each mixed model."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a file must reach; None demands nothing."""

    min_f1: float | None
    max_nme: float | None

    def met(self, metrics: Metrics) -> bool:
        """Whether metrics reach it with the margin; nothing measured reaches nothing."""
        f1, nme = metrics[F1], metrics[NME]
        enough = self.min_f1 is None or (f1 is not None and f1 >= min(self.min_f1 + F1_MARGIN, 1.0))
        near = self.max_nme is None or (nme is not None and nme <= self.max_nme * NME_MARGIN)
        return enough and near

    def missed_by(self, metrics: Metrics) -> float:
        """How far metrics are from it, for choosing the best of failures."""
        f1, nme = metrics[F1], metrics[NME]
        short = max((self.min_f1 or 0.0) - (f1 or 0.0), 0.0)
        return short + (max((nme if nme is not None else 1.0) - self.max_nme, 0.0) if self.max_nme is not None else 0.0)


def goal_of(limits: Sequence[Limit]) -> Goal | None:
    """The user's demands on faces and landmarks of w8a8 files; None when there are none."""
    # as the judge has it: what is said of w8a8 goes before what is said of all, and of two alike the last one holds
    ordered = sorted(limits, key=lambda limit: limit.precision is not None)
    asked = {limit.metric: limit.value for limit in ordered if limit.precision in (None, Precision.W8A8)}
    if not {F1, NME} & asked.keys():
        return None
    return Goal(min_f1=asked.get(F1), max_nme=asked.get(NME))


@dataclass(frozen=True, kw_only=True)
class Part:
    """What may be left in float: its share of all multiply-accumulates, and how much 8 bits hurt it."""

    name: str
    share: float
    sensitivity: float
    convolutions: int = 1


def search(parts: Sequence[Part], goal: Goal, evaluate: Evaluate, say: Callable[[str], None]) -> frozenset[str]:
    """The smallest set found, by multiply-accumulates, with which the goal is met; the best one when none meets it.

    Convolutions are added in the order of sensitivity per multiply-accumulate, first in rungs, then one by one between
    the last rung that fails and the first that holds; at the end those that are worth it are tried without.

    Args:
        parts: of the trunk.
        goal: to meet.
        evaluate: measures mixed models, several in one go.
        say: told the points of the way.
    """
    order = sorted(parts, key=lambda p: p.sensitivity / max(p.share, 1e-9), reverse=True)
    by_name = {p.name: p for p in parts}
    measured: dict[frozenset[str], Metrics] = {}

    def measure(sets: Sequence[frozenset[str]]) -> None:
        new = [s for s in dict.fromkeys(sets) if s not in measured]
        measured.update(zip(new, evaluate(new) if new else (), strict=True))

    def tell(floats: frozenset[str]) -> None:
        metrics = measured[floats]
        say(f"  {_described(floats, by_name)}: {_told(metrics)}{', enough' if goal.met(metrics) else ''}")

    def holds(count: int) -> bool:
        return goal.met(measured[prefix(count)])

    def prefix(count: int) -> frozenset[str]:
        return frozenset(p.name for p in order[:count])

    measure([frozenset()])
    tell(frozenset())
    if holds(0):
        return frozenset()
    low = 0
    for high in _rungs(order):
        measure([prefix(high)])
        tell(prefix(high))
        if holds(high):
            break
        low = high
    else:
        return min(measured, key=lambda s: goal.missed_by(measured[s]))
    measure([prefix(count) for count in range(low + 1, high)])
    best = prefix(next(count for count in range(low + 1, high + 1) if holds(count)))
    if best != prefix(high):
        tell(best)
    fewest = _pruned(best, by_name, measure, lambda s: goal.met(measured[s]))
    if fewest != best:
        tell(fewest)
    return fewest


def _rungs(order: Sequence[Part]) -> Iterator[int]:
    """How many convolutions make up the shares of `RUNGS`, rising; at the end all of them."""
    last = 0
    for rung in RUNGS:
        total, count = 0.0, 0
        while count < len(order) and (rung >= 1 or total + order[count].share <= rung):
            total += order[count].share
            count += 1
        if count > last:
            yield count
        last = max(last, count)


def _pruned(
    best: frozenset[str],
    parts: Mapping[str, Part],
    measure: Callable[[Sequence[frozenset[str]]], None],
    met: Callable[[frozenset[str]], bool],
) -> frozenset[str]:
    """Without the members that are not needed: each that is worth it is tried once, the most expensive first."""
    ahead = sorted((n for n in best if parts[n].share >= WORTH), key=lambda n: (-parts[n].share, n))
    while ahead and len(best) > 1:
        some = ahead[:TOGETHER]
        measure([best - {name} for name in some])
        unneeded = next((name for name in some if met(best - {name})), None)
        if unneeded is None:
            ahead = ahead[TOGETHER:]
        else:
            best, ahead = best - {unneeded}, ahead[ahead.index(unneeded) + 1 :]
    return best


def _described(floats: frozenset[str], parts: Mapping[str, Part]) -> str:
    if not floats:
        return "all integer"
    left = [parts[name] for name in floats]
    return f"{sum(p.convolutions for p in left)} in float, {sum(p.share for p in left):.1%} of the multiplications"


def _told(metrics: Metrics) -> str:
    f1, nme = metrics[F1], metrics[NME]
    return f"F1 {'-' if f1 is None else f'{f1:.4f}'}, NME {'-' if nme is None else f'{nme:.4f}'}"


def floats_for(
    calibrated: Calibrated,
    goal: Goal,
    photographs: Sequence[Photograph],
    *,
    jobs: Mapping[str, exporters.Job],
    threads: int,
    progress: Progress,
) -> frozenset[str]:
    """Outputs of the nodes to leave in float so that the files meet the goal on these photographs.

    Args:
        calibrated: the quantized trunk.
        goal: to meet by every file that this host can run.
        photographs: to measure on.
        jobs: by target, the w8a8 files to be written from the trunk.
        threads: of every runtime.
        progress: shown what is tried.
    """
    from facex.calibration.graph import Graph
    from facex.calibration.units import closure, sensitivities, units

    trial = _Trial(calibrated, photographs, jobs, threads, progress)
    relaxed = Graph(_loaded(calibrated.relaxed))
    found = units(relaxed)
    total = sum(unit.macs for unit in found)
    hurt = sensitivities(relaxed, calibrated.plan, calibrated.crops, threads)
    parts = {
        u.name: Part(name=u.name, share=u.macs / total, sensitivity=hurt[u.name], convolutions=len(u.convolutions))
        for u in found
    }
    chosen = search(list(parts.values()), goal, trial.evaluate, progress.say)
    if chosen:
        left = sorted(name for u in found if u.name in chosen for name in u.convolutions)
        progress.say(f"left in float at {trial.size}: {_described(chosen, parts)}: {', '.join(left)}")
    return closure(calibrated.graph, chosen)


def _loaded(model: bytes) -> Any:
    import onnx

    return onnx.load_from_string(model)


class _Trial:
    """Measures mixed files on photographs; the reference runs once a photograph and is remembered."""

    def __init__(
        self,
        calibrated: Calibrated,
        photographs: Sequence[Photograph],
        jobs: Mapping[str, exporters.Job],
        threads: int,
        progress: Progress,
    ) -> None:
        from facex.reference.detector import ReferenceSession

        self._calibrated, self._photographs = calibrated, photographs
        self._threads, self._progress = threads, progress
        # which faces a file chooses follows exactly from what it computes before
        self._jobs = {target: job.traced() for target, job in jobs.items()}
        one = next(iter(self._jobs.values()))
        self.size, self._head, self._detector, self._work = one.size, one.head, one.detector, one.path.parent
        self._reference = _Remembering(ReferenceSession(self._detector, self.size, self._head, threads=threads))

    def evaluate(self, sets: Sequence[frozenset[str]]) -> list[Metrics]:
        """See `Evaluate`; of several files the worst counts."""
        from facex.parity.compare import Candidate, compare

        self._progress.start(f"measuring {len(sets)} mixed models at {self.size}", len(self._photographs))
        sessions = [self._sessions(floats) for floats in sets]
        found = compare(
            self._reference,
            {
                f"{target} {i}": Candidate(session=session, head=self._head)
                for i, by_target in enumerate(sessions)
                for target, session in by_target.items()
            },
            self._photographs,
            contract=self._detector.contract,
            size=self.size,
            head=self._head,
            on_photograph=self._progress.advance,
        )
        return [worst([found.metrics[f"{target} {i}"] for target in sessions[i]]) for i in range(len(sets))]

    def _sessions(self, floats: frozenset[str]) -> dict[str, Session]:
        """A set's files, by target, in the runtimes of this host.

        The QDQ model stands in where it has none for any of them, and for a file that facex would execute itself: that
        takes long, and differs from the QDQ model by half precision alone.
        """
        from facex.calibration.units import closure

        qdq = self._work / "mixed_qdq.onnx"
        self._calibrated.write(qdq, closure(self._calibrated.graph, floats))
        found: dict[str, Session] = {}
        modules = {target: exporters.load(target) for target in self._jobs}
        slow = {target for target, module in modules.items() if hasattr(module, "open_native")}
        for target, job in self._jobs.items():
            if target in slow:
                continue
            module = modules[target]
            path = job.path.with_name(f"mixed_{job.path.name}")
            module.export(dataclasses.replace(job, path=path, qdq=qdq))
            with contextlib.suppress(SessionUnavailableError, MissingExtraError):
                found[target] = module.open_session(path, threads=self._threads)
            path.unlink()
        if "onnx" not in found and (slow or not found):
            found["onnx"] = exporters.load("onnx").open_session(qdq, threads=self._threads)
        qdq.unlink()
        return found


def worst(metrics: Sequence[Metrics]) -> Metrics:
    """What a demand on several files must look at; what one of them has no finite value of is None."""

    def of(name: str, choose: Callable[[Sequence[float]], float]) -> float | None:
        values = [value for m in metrics if (value := m[name]) is not None and math.isfinite(value)]
        return choose(values) if len(values) == len(metrics) else None

    return {F1: of(F1, min), NME: of(NME, max)}


class _Remembering:
    """A session whose answers are kept, by picture."""

    def __init__(self, session: Session) -> None:
        self.runtime, self.untimed, self._session = session.runtime, session.untimed, session
        self._known: dict[int, dict[str, FloatArray]] = {}

    def __call__(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, FloatArray]:
        key = hash(inputs["image"].tobytes())
        if key not in self._known:
            self._known[key] = self._session(inputs)
        return self._known[key]

    def invoke(self) -> None:
        """Run again; nothing to remember."""
        self._session.invoke()
