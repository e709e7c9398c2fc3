"""Calibration from beginning to end: a float pivot and photographs in, a QDQ model and a record out."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from facex.calibration import edit, equalize, hygiene, images, kernels, observers, qdq, rewrites
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph
from facex.calibration.hygiene import Hygiene
from facex.calibration.plan import QuantizationPlan, for_leaky_kernels, make_plan, without
from facex.calibration.schedule import Schedule
from facex.errors import UnsupportedOperatorError
from facex.manifest import Stability
from facex.reference import geometry
from facex.reference.detector import decoded
from facex.types import Contract, Effort, Head, Size
from facex.workspace import STATE_PREFIX

if TYPE_CHECKING:
    from torch import Tensor

    from facex.calibration.simulate import Learned
    from facex.progress import Clock
    from facex.reference.photographs import Photograph

T = TypeVar("T")

FACE_SCORE = 0.5
MOST_PHOTOGRAPHS = 1024
"""More are thinned out evenly: their pixels are held in memory, and ranges settle long before."""
STATISTICS_PHOTOGRAPHS = 64
"""Of these, as many are watched tensor by tensor; more change the ranges by less than two halves of them differ."""
IMPORTANCE_CROPS, CORRECTION_CROPS, SENSITIVITY_CROPS = 96, 48, 16
METHODS = {
    Effort.MINMAX: "minmax",
    Effort.FAST: "equalized-weighted-mse",
    Effort.BEST: "equalized-weighted-mse-reconstructed",
}
TIMED_STEPS = 10
"""After so many steps of the reconstruction its duration is told."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a calibration is for and how hard it tries."""

    contract: Contract
    size: Size
    head: Head
    effort: Effort
    seed: int
    threads: int
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A quantized trunk that is not written yet.

    Attributes:
        model: the float ONNX model after rewriting, equalization and learning; weights lie on their 8-bit grids.
        relaxed: the same with the network's own weights, unrounded: what an operator left in float computes with.
        plan: the grid of every activation.
        hygiene: what the photographs are like.
        rewritten: name of an exact rewrite -> places it changed.
        crops: float32 [n, 3, h, w], pixels around faces for measuring sensitivities.
    """

    model: bytes
    relaxed: bytes
    plan: QuantizationPlan
    hygiene: Hygiene
    rewritten: dict[str, int]
    crops: NDArray[np.float32]

    @cached_property
    def graph(self) -> Graph:
        """Of `model`."""
        return Graph(_parsed(self.model))

    def write(self, path: Path, floats: frozenset[str] = frozenset()) -> None:
        """The QDQ model, with some nodes of the trunk left in float, computing with their own float weights.

        Args:
            path: to write.
            floats: outputs of those nodes.
        """
        model, source = _parsed(self.model), Graph(_parsed(self.relaxed))
        for node in (n for n in source.trunk if n.op_type == "Conv" and n.output[0] in floats):
            edit.set_constants(model, {name: source.constants[name] for name in node.input[1:3]})
        rewrites.join_leaky_relus(model, floats)
        qdq.write(model, without(self.plan, Graph(model), floats), path)


def _parsed(model: bytes) -> Any:
    import onnx

    return onnx.load_from_string(model)


@dataclass(frozen=True)
class Seen:
    """Calibration photographs once they are read.

    Attributes:
        pixels: uint8 [H, W, 3] each, letterboxed to the input.
        faces: float32 [n, 4] each, xyxy in the frame of the input: what the float network finds.
        hygiene: what the photographs are like.
    """

    pixels: list[NDArray[np.uint8]]
    faces: list[NDArray[np.float32]]
    hygiene: Hygiene


def read(pivot: Path, photographs: Sequence[Photograph], setting: Setting, clock: Clock) -> Seen:
    """Read photographs, and find the faces on them with the float model.

    Args:
        pivot: ONNX.
        photographs: for calibration; of more than `MOST_PHOTOGRAPHS`, evenly spaced ones.
        setting: see there.
        clock: times and shows the stages.

    Raises:
        PhotographError: a photograph cannot be decoded, or most of them are blank.
        BackendError: the float network gives values that are not finite.
    """
    chosen = spread(photographs, MOST_PHOTOGRAPHS)
    with clock("calibrate", f"reading {len(chosen)} calibration photographs at {setting.size}", len(chosen)):
        return _read(pivot, chosen, setting, clock)


def calibrate(pivot: Path, seen: Seen, setting: Setting, *, states: Path, clock: Clock) -> Calibrated:
    """Decide every integer.

    The same arguments give the same result on the same machine.

    Args:
        pivot: ONNX.
        seen: photographs that `read` read for it.
        setting: see there.
        states: folder in which an interrupted reconstruction waits to be gone on with.
        clock: times and shows the stages.

    Raises:
        BackendError: the float network gives values that are not finite.
    """
    import onnx

    model = onnx.load(str(pivot))
    rewritten = {}
    if setting.effort is not Effort.MINMAX:
        rewritten = rewrites.all_exact(model)
        _equalize(model, seen, setting, clock)
    relaxed = onnx.load_from_string(model.SerializeToString())
    plan, stability = _plan(model, seen, setting, clock)
    if setting.effort is Effort.BEST:
        learned = _reconstruct(model, relaxed, plan, seen, setting, states, clock)
        edit.set_constants(model, learned.constants)
        equalize.apply(relaxed, learned.factors)
        plan = dataclasses.replace(plan, activations={name: learned.grids[name] for name in plan.activations})
    if setting.effort is not Effort.MINMAX:
        plan = for_leaky_kernels(plan, Graph(model))
    plan = kernels.with_multipliers(plan, Graph(model))
    edit.set_constants(model, kernels.without_dead_channels(plan, Graph(model)))
    return Calibrated(
        model=model.SerializeToString(),
        relaxed=relaxed.SerializeToString(),
        plan=plan,
        hygiene=dataclasses.replace(seen.hygiene, stability=stability),
        rewritten=rewritten,
        crops=_crops(seen, setting, SENSITIVITY_CROPS).numpy(),
    )


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of them, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _read(pivot: Path, photographs: Sequence[Photograph], setting: Setting, clock: Clock) -> Seen:
    session = observers.session(pivot.read_bytes(), setting.threads)
    names = [o.name for o in session.get_outputs()]
    watch = hygiene.Watch()
    pixels, faces = [], []
    for frame in images.frames(photographs, setting.size, setting.contract.mean_rgb):
        feed = frame.pixels.transpose(0, 3, 1, 2).astype(np.float32)
        outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: feed}), strict=True))
        boxes = geometry.detect(*decoded(outputs, setting.head, setting.contract, setting.size), score=FACE_SCORE).boxes
        watch.add(frame.photograph, frame.rgb, len(boxes))
        pixels.append(frame.pixels[0])
        faces.append(boxes)
        clock.progress.advance()
    return Seen(pixels, faces, watch.result())


def _equalize(model: Any, seen: Seen, setting: Setting, clock: Clock) -> None:
    graph = Graph(model)
    watching = equalize.watched(graph, Channels(graph))
    magnitudes = {name: observers.ChannelMagnitude() for names in watching.values() for name in names}
    few = spread(seen.pixels, STATISTICS_PHOTOGRAPHS)
    with clock("equalize", f"equalizing channels at {setting.size}", len(few)):
        observers.watch(model, magnitudes, few, threads=setting.threads, on_photograph=clock.progress.advance)
    found = equalize.equalization({name: o.magnitudes() for name, o in magnitudes.items()}, watching)
    equalize.apply(model, found.factors)


def _plan(model: Any, seen: Seen, setting: Setting, clock: Clock) -> tuple[QuantizationPlan, Stability | None]:
    """Grids, and how far those of two halves of the photographs differ; biases of the model are corrected in place."""
    graph, few = Graph(model), spread(seen.pixels, STATISTICS_PHOTOGRAPHS)
    watching = observers.range_observers(graph, "minmax" if setting.effort is Effort.MINMAX else "mse")
    at = f"at {setting.size}"
    with clock("calibrate", f"choosing ranges {at}", len(few)):
        observers.watch(model, watching, few, threads=setting.threads, on_photograph=clock.progress.advance)
        together = {name: halves.together() for name, halves in watching.items()}
        method = METHODS[setting.effort]
        plan = make_plan(graph, {name: o.range() for name, o in together.items()}, method)
        stability = _stability(watching) if len(few) > 1 else None
    if setting.effort is Effort.MINMAX:
        return plan, stability
    try:
        with clock("calibrate", f"weighing values by what they do to faces {at}", IMPORTANCE_CROPS):
            _weigh(graph, plan, together, seen, setting, clock)
            plan = make_plan(graph, {name: o.range() for name, o in together.items()}, method)
        with clock("calibrate", f"correcting biases {at}"):
            edit.set_constants(model, _corrected(graph, plan, seen, setting))
    except UnsupportedOperatorError as reason:
        clock.progress.warn(f"ranges are not weighed by what they do to faces, biases not corrected: {reason.what}")
    return plan, stability


def _stability(watching: Mapping[str, observers.Halves]) -> Stability:
    pairs = {name: halves.of_halves() for name, halves in watching.items()}
    first, second = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
    return hygiene.stability(first, second)


def _weigh(
    graph: Graph, plan: QuantizationPlan, together: Mapping[str, Any], seen: Seen, setting: Setting, clock: Clock
) -> None:
    from facex.calibration import importance
    from facex.calibration.simulate import Simulation, torch_threads

    images = {i.name for i in graph.model.graph.input}
    weighed = {n: o for n, o in together.items() if n not in images and isinstance(o, observers.MeanSquaredError)}
    with torch_threads(setting.threads):
        crops = _crops(seen, setting, IMPORTANCE_CROPS)
        simulation = Simulation(graph, plan)
        importance.weigh(graph, simulation, weighed, crops, seed=setting.seed, on_crop=clock.progress.advance)


def _corrected(graph: Graph, plan: QuantizationPlan, seen: Seen, setting: Setting) -> dict[str, NDArray[np.float32]]:
    """Corrected biases by name."""
    from facex.calibration.correct import correct_biases
    from facex.calibration.heads import levels
    from facex.calibration.simulate import Simulation, torch_threads

    with torch_threads(setting.threads):
        simulation = Simulation(graph, plan)
        correct_biases(simulation, levels(graph), _crops(seen, setting, CORRECTION_CROPS))
        constants = simulation.learned().constants
    biases = {node.input[2] for node in graph.trunk if node.op_type == "Conv"}
    return {name: value for name, value in constants.items() if name in biases}


def _reconstruct(
    model: Any, relaxed: Any, plan: QuantizationPlan, seen: Seen, setting: Setting, states: Path, clock: Clock
) -> Learned:
    from facex.calibration import reconstruct

    schedule = setting.schedule
    task = f"learning the integers at {setting.size}, {schedule.steps} steps"
    with clock("reconstruct", task, schedule.steps):
        ticker = _Ticker(task, schedule.steps, clock)
        return reconstruct.reconstruct(
            Graph(model),
            Graph(relaxed),
            plan,
            seen.pixels,
            seen.faces,
            seed=setting.seed,
            threads=setting.threads,
            schedule=schedule,
            state=states / f"{STATE_PREFIX}{_key(model, plan, seen, setting)}.pt",
            on_step=ticker,
        )


class _Ticker:
    """Advances the progress, and says how long it will take once that is known."""

    def __init__(self, task: str, steps: int, clock: Clock) -> None:
        self._task, self._steps, self._progress = task, steps, clock.progress
        self._first, self._shown, self._started = -1, 0, 0.0

    def __call__(self, done: int) -> None:
        if self._first < 0:
            self._first, self._started = done, time.perf_counter()
            if done:
                self._progress.say(f"going on after step {done} of {self._steps}, where an interrupted run was")
        if done == self._first + TIMED_STEPS < self._steps:
            left = (time.perf_counter() - self._started) / TIMED_STEPS * (self._steps - done)
            self._progress.start(f"{self._task}, about {max(left / 60, 0.1):.1f} min left", self._steps)
            self._shown = 0
        for _ in range(done - self._shown):
            self._progress.advance()
        self._shown = done


def _key(model: Any, plan: QuantizationPlan, seen: Seen, setting: Setting) -> str:
    """Of everything that a reconstruction depends on."""
    import torch

    digest = hashlib.sha256(model.SerializeToString())
    for part in (plan, setting.seed, setting.threads, setting.schedule, torch.__version__):
        digest.update(repr(part).encode())
    for pixels in seen.pixels:
        digest.update(pixels.data)
    return digest.hexdigest()[:32]


def rounding_crops(seen: Seen, setting: Setting) -> NDArray[np.float32]:
    """Pixels for `rounding.rounded`: float32 [n, 3, h, w], 0-255."""
    found: NDArray[np.float32] = _crops(seen, setting, CORRECTION_CROPS).numpy()
    return found


def _crops(seen: Seen, setting: Setting, count: int) -> Tensor:
    """Pixels, most of them around faces: float32 [count, 3, h, w]."""
    from facex.calibration import reconstruct

    few = dataclasses.replace(setting.schedule, pool=count)
    found = reconstruct.crops(seen.pixels, seen.faces, few, np.random.default_rng([setting.seed, 2]))
    return reconstruct.as_input(found)
