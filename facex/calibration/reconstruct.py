"""Learn the integers: make the rounded trunk answer like the float one on unlabelled photographs.

End-to-end distillation. Weights, biases, activation grids and equalization factors follow the gradient of the head's
error through straight-through rounding (LSQ, Esser et al. 2020; LSQ+, Bhalgat et al. 2020), on crops around the faces
that the float network itself finds.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from facex.calibration.heads import Level, levels
from facex.calibration.schedule import Schedule
from facex.calibration.simulate import Learned, Simulation, torch_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facex.calibration.graph import Graph
    from facex.calibration.plan import QuantizationPlan


WARM_UP_STEPS = 10
SAVE_EVERY = 50
MOST_BYTES = 3e9
"""Of activations that a backward pass may hold."""
BYTES_HELD = 16
"""By it for every value of the trunk: float32 before and after rounding, and what operators keep for themselves."""


def reconstruct(
    graph: Graph,
    teacher: Graph,
    plan: QuantizationPlan,
    photographs: Sequence[NDArray[np.uint8]],
    faces: Sequence[NDArray[np.float32]],
    *,
    seed: int,
    threads: int,
    schedule: Schedule,
    state: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Learned:
    """Learn from photographs.

    The same arguments give the same result; an interrupted call goes on from `state` and ends at that result too.

    Args:
        graph: of the rewritten and equalized model, its biases corrected: where learning starts.
        teacher: of the same model with the float network's own biases: what is learned.
        plan: the grids to start from.
        photographs: letterboxed, uint8 [H, W, 3], RGB.
        faces: boxes that the float network finds on each, float32 [n, 4], xyxy in input pixels.
        seed: of crops and their order.
        threads: for torch.
        schedule: how long and how fast.
        state: file that holds an interrupted call's progress; removed at the end.
        on_step: told how many steps are done: first what `state` had done already, then after each.

    Raises:
        UnsupportedOperatorError: the trunk has an operator that cannot be learned through.
    """
    with torch_threads(threads):
        learning = _Learning(graph, teacher, plan, photographs, faces, seed, schedule)
        learning.run(state, on_step)
        return learning.simulation.learned()


class _Learning:
    """One reconstruction: the pool of crops with the float network's answers, the optimizer, and the loop."""

    def __init__(
        self,
        graph: Graph,
        teacher: Graph,
        plan: QuantizationPlan,
        photographs: Sequence[NDArray[np.uint8]],
        faces: Sequence[NDArray[np.float32]],
        seed: int,
        schedule: Schedule,
    ) -> None:
        self._seed, self._schedule = seed, schedule
        self.simulation = Simulation(graph, plan)
        self._levels = levels(graph)
        self._names = [name for level in self._levels for name in level.tensors]
        self._crops = crops(photographs, faces, schedule, np.random.default_rng([seed, 0]))
        self._targets = self._answers(Simulation(teacher, plan))
        self._part = part_of(graph, self._crops.shape[1], schedule.batch)
        self._optimizer = torch.optim.Adam(rates(self.simulation, schedule), betas=(0.9, 0.99))
        self._top_rates = [group["lr"] for group in self._optimizer.param_groups]

    @torch.no_grad()
    def _answers(self, teacher: Simulation) -> list[Tensor]:
        """The float network's head on every crop, one tensor per name, float32 [pool, C, h, w]."""
        found: list[list[Tensor]] = [[] for _ in self._names]
        for batch in torch.split(self._crops, self._schedule.batch):
            values = teacher(as_input(batch), quantized=False, keep=self._names)
            for tensors, name in zip(found, self._names, strict=True):
                tensors.append(values[name].clone())
        return [torch.cat(tensors) for tensors in found]

    def run(self, state: Path | None, on_step: Callable[[int], None] | None) -> None:
        """Every step that `state` has not done yet."""
        done = self._resume(state)
        if on_step:
            on_step(done)
        for step in range(done, self._schedule.steps):
            self._step(step)
            if on_step:
                on_step(step + 1)
            if state is not None and (step + 1) % SAVE_EVERY == 0:
                self._save(state, step + 1)
        if state is not None:
            state.unlink(missing_ok=True)

    def _step(self, step: int) -> None:
        rate = _cosine(step, self._schedule.steps)
        for group, top in zip(self._optimizer.param_groups, self._top_rates, strict=True):
            group["lr"] = top * rate
        index = self._batch(step)
        faces = _faces(self._levels, self._targets_of(index))
        self._optimizer.zero_grad()
        for part in torch.split(index, self._part):
            values = self.simulation(as_input(self._crops[part]), keep=self._names)
            (head_error(self._levels, values, self._targets_of(part)) / faces).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _targets_of(self, index: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, (t[index] for t in self._targets), strict=True))

    def _batch(self, step: int) -> Tensor:
        """Crops of a step: epochs in a new order each, a function of the step alone."""
        size, batch = len(self._crops), self._schedule.batch
        per_epoch = max(size // batch, 1)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(size)
        return torch.from_numpy(order[place * batch : (place + 1) * batch])

    def _resume(self, state: Path | None) -> int:
        if state is None or not state.exists():
            return 0
        fresh = copy.deepcopy((self.simulation.state_dict(), self._optimizer.state_dict()))
        try:
            saved = torch.load(state, weights_only=True)
            self._load(saved["simulation"], saved["optimizer"])
            return int(saved["step"])
        except Exception:  # noqa: BLE001 - a half-written or foreign file is as good as none
            state.unlink()
            self._load(*fresh)
            return 0

    def _load(self, simulation: dict[str, Any], optimizer: dict[str, Any]) -> None:
        self.simulation.load_state_dict(simulation)
        self._optimizer.load_state_dict(optimizer)

    def _save(self, state: Path, step: int) -> None:
        """Written beside and renamed: a killed run leaves the last whole state."""
        partial = state.with_name(f"{state.name}.partial")
        content = {
            "step": step,
            "simulation": self.simulation.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        try:
            torch.save(content, partial)
            os.replace(partial, state)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _cosine(step: int, steps: int) -> float:
    warm = min((step + 1) / WARM_UP_STEPS, 1.0)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def as_input(batch: Tensor) -> Tensor:
    """Crops as the network takes them: uint8 [n, h, w, 3] -> float32 [n, 3, h, w]."""
    return batch.permute(0, 3, 1, 2).float()


def crops(
    photographs: Sequence[NDArray[np.uint8]],
    faces: Sequence[NDArray[np.float32]],
    schedule: Schedule,
    random: np.random.Generator,
) -> Tensor:
    """Squares of the photographs, most of them around a face where there is one, half of them mirrored, some halved.

    Returns:
        uint8 [pool, side, side, 3]; the side is the photographs' shorter one where that is smaller.
    """
    height, width = photographs[0].shape[:2]
    side = min(schedule.side, height, width)
    found = np.empty((schedule.pool, side, side, 3), np.uint8)
    for i in range(schedule.pool):
        index = int(random.integers(len(photographs)))
        boxes = faces[index] if random.random() < schedule.near_faces else faces[index][:0]
        halved = random.random() < schedule.halved and 2 * side <= min(height, width)
        crop = _square(photographs[index], boxes, 2 * side if halved else side, random)
        if halved:  # the mean of 2x2 pixels: a large face stands for a small one
            crop = np.rint(crop.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
        found[i] = crop[:, ::-1] if random.random() < 0.5 else crop
    return torch.from_numpy(found)


def _square(
    photograph: NDArray[np.uint8], boxes: NDArray[np.float32], side: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """A square of a photograph, about one of the boxes if there are any."""
    height, width = photograph.shape[:2]
    corner = random.integers(0, (height - side + 1, width - side + 1))
    if len(boxes):
        x1, y1, x2, y2 = boxes[int(random.integers(len(boxes)))]
        centre = np.array([(y1 + y2) / 2, (x1 + x2) / 2]) + random.normal(0, side / 5, 2)
        corner = np.clip(np.rint(centre - side / 2), 0, (height - side, width - side)).astype(int)
    return photograph[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def rates(simulation: Simulation, schedule: Schedule) -> list[dict[str, Any]]:
    """Parameter groups for Adam, each with its rate in the unit of its parameters."""
    groups = []
    for key, weight in simulation.weight.items():
        step = float(weight.detach().abs().amax(dim=(1, 2, 3)).median()) / 127
        groups.append({"params": [weight], "lr": schedule.weight_rate * step})
        bias = simulation.bias[key]
        groups.append({"params": [bias], "lr": schedule.bias_rate * float(bias.detach().abs().mean())})
    groups.append({"params": list(simulation.log_factor.values()), "lr": schedule.factor_rate})
    groups.append({"params": [simulation.log_scale], "lr": schedule.scale_rate})
    groups.append({"params": [simulation.zero], "lr": schedule.zero_rate})
    return groups


def part_of(graph: Graph, side: int, batch: int) -> int:
    """How many crops of a batch to run at a time: what a backward pass holds of them stays below `MOST_BYTES`.

    Args:
        graph: of the network.
        side: of a crop, in pixels.
        batch: crops a step.
    """
    (image,) = (i.name for i in graph.model.graph.input)
    share = side * side / math.prod(graph.shapes[image][2:])
    elements = sum(math.prod(graph.shapes[name]) for name in graph.trunk_tensors) * share
    return max(1, min(batch, int(MOST_BYTES / (elements * BYTES_HELD))))


def head_loss(found_levels: Sequence[Level], values: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """`head_error` for each face's worth of priors."""
    return head_error(found_levels, values, targets) / _faces(found_levels, targets)


def head_error(found_levels: Sequence[Level], values: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Squared errors of the head, weighted as `Level.weighted` says."""
    total = torch.zeros(())
    for level in found_levels:
        pairs = zip(level.weighted(values, targets), level.weighted(targets), strict=True)
        total = total + sum((weight * (value - target).square()).sum() for (weight, value), (_, target) in pairs)
    return total


def _faces(found_levels: Sequence[Level], targets: dict[str, Tensor]) -> Tensor:
    return sum((level.face_weight(targets) for level in found_levels), torch.zeros(()))
