"""Train the bundled detector on rendered photographs alone: `python -m facex.demo.train --out FOLDER`.

Renders the photographs, trains RetinaFace with MobileNetV1-0.25 from random weights, evaluates the stored weights on
photographs of another stream, and writes the checkpoint and its record. A run that is interrupted goes on where it was
when it is started again with the same options.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facex.demo import CHECKPOINT_NAME, CONTRACT, RECORD_NAME, examples, gallery, loss
from facex.demo.evaluate import evaluate
from facex.errors import FacexError
from facex.progress import Progress
from facex.reference import backbones, detector, geometry
from facex.reference.families import retinaface
from facex.reference.photographs import load
from facex.types import ChannelOrder, Contract, Size

if TYPE_CHECKING:
    from torch import Tensor

BACKBONE = backbones.find("mobilenetv1")
STATE_NAME = "training-state.pth"
SAVE_EVERY = 500
WARMUP = 300
FACE_PRIOR = 0.1
"""Probability of a face that an untrained class head gives (Lin et al. 2017, section 3.3)."""

AVERAGING = 0.998
"""Share of the past in the running average of the weights, which is what is stored (Polyak and Juditsky 1992)."""

MAX_NORM = 10.0

STAGES = (loss.FACES, loss.LANDMARKS, loss.LARGE)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the weights.

    Attributes:
        seed: of all chance.
        photographs: how many are rendered.
        steps: of each stage of `STAGES`. All but the first hold the batch norms still; the last one starts anew, from
            the average of the weights.
        batch: crops of a step.
        side: of a crop, pixels.
        rate: highest learning rate.
        decay: of the weights, as a share of the rate.
    """

    seed: int
    photographs: int
    steps: tuple[int, ...]
    batch: int
    side: int
    rate: float
    decay: float


def contract() -> Contract:
    """What the network is trained for."""
    stated = {name: getattr(CONTRACT, name) for name in (*retinaface.ASSUMED, "pyramid_slope")}
    return Contract(
        family=retinaface.NAME, backbone="mobilenetv1-0.25", strides=retinaface.STRIDES, landmarks=5, **stated
    )


def new_network(seed: int) -> retinaface.RetinaFace:
    """An untrained network: He et al. 2015 for the convolutions, little for the heads."""
    torch.manual_seed(seed)
    slope = contract().activation_slope
    network = retinaface.skeleton(BACKBONE, 8, 64, (2, 2, 2), 5, slope, slope)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=slope, mode="fan_out" if module.groups == 1 else "fan_in")
    for head in (*network.class_heads, *network.box_heads, *network.landmark_heads):
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    for name, parameter in network.named_parameters():
        if name.startswith("class_heads") and name.endswith("bias"):
            parameter.data[0::2] = math.log((1 - FACE_PRIOR) / FACE_PRIOR)  # of background
    return network


class Examples:
    """Batches of crops of a folder of rendered photographs; each is decided by the seed and its step."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._settings, self._contract = settings, contract()
        self._anchors = geometry.priors(self._contract, Size(height=settings.side, width=settings.side))
        images = json.loads((folder / gallery.GROUND_TRUTH).read_text(encoding="utf-8"))["images"]
        self._photographs = [_example(folder, entry) for entry in images]

    def batch(self, step: int) -> tuple[Tensor, list[loss.Targets]]:
        """The network's input and the targets of a step."""
        rng = np.random.default_rng((self._settings.seed, step))
        pixels, targets = [], []
        for i in rng.integers(len(self._photographs), size=self._settings.batch):
            cut = examples.crop(rng, self._photographs[i], self._settings.side)
            pixels.append(examples.recolour(rng, cut.pixels))
            targets.append(loss.match(cut.boxes, cut.landmarks, cut.counts, self._anchors, self._contract.variances))
        return self._input(np.stack(pixels)), targets

    def _input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What `photographs.network_input` gives, channels last in memory."""
        order = [2, 1, 0] if self._contract.channel_order is ChannelOrder.BGR else [0, 1, 2]
        values = torch.from_numpy(pixels).float()[..., order]
        return ((values - torch.tensor(self._contract.mean)) * torch.tensor(self._contract.scale)).permute(0, 3, 1, 2)

    def batches(self, first: int, end: int) -> Iterator[tuple[Tensor, list[loss.Targets]]]:
        """Those of all steps, each made while the one before it is trained on."""
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(self.batch, first)
            for step in range(first, end):
                ready = waiting.result()
                if step + 1 < end:
                    waiting = ahead.submit(self.batch, step + 1)
                yield ready


def _example(folder: Path, entry: dict[str, Any]) -> examples.Example:
    faces = entry["faces"]
    corner = np.array([f["bbox"] for f in faces], np.float32).reshape(-1, 4)
    boxes = np.concatenate([corner[:, :2], corner[:, :2] + corner[:, 2:]], axis=1)
    return examples.Example(
        pixels=load(folder / entry["file"]),
        boxes=boxes,
        landmarks=np.array([f["landmarks"] for f in faces], np.float32).reshape(-1, 5, 2),
        counts=examples.usable(np.array([f["visible"] for f in faces], np.float32), boxes),
    )


class Training:
    """A network on its way: weights, their running average, the optimizer, and the losses so far."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # channels last: a third faster on CPUs, the same numbers
        self.network = new_network(settings.seed).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = {k: v.clone() for k, v in self.network.state_dict().items()}
        self._ends = np.cumsum(settings.steps).tolist()
        self.optimizer = self._new_optimizer()
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}

    def learn(self, pixels: Tensor, targets: list[loss.Targets]) -> None:
        """One step."""
        stage = self._stage()
        if stage == len(STAGES) - 1 and self.step == self._ends[-2]:
            self.network.load_state_dict(self.average)
            self.optimizer = self._new_optimizer()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                # statistics that change with every batch are noise to whoever measures tenths of a pixel
                module.train(stage == 0)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        levels = self.network(pixels)
        parts = loss.multitask(detector.flatten_logits(levels, 5), targets, STAGES[stage])
        total = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(total):
            raise FacexError(f"the loss is not finite at step {self.step}", hint="lower --rate")
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
        self.optimizer.step()
        self._follow()
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(part.detach())
        self.step += 1

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        return torch.optim.AdamW(self.network.parameters(), lr=settings.rate, weight_decay=settings.decay)

    def _stage(self) -> int:
        """The stage of the step to come."""
        return min(bisect.bisect_right(self._ends, self.step), len(STAGES) - 1)

    def _rate(self) -> float:
        """Rises over the first steps, then falls by cosines, to half, then to nothing, and from half again.

        Loshchilov and Hutter 2017, with their warm restart.
        """
        stage = self._stage()
        gone = self.step - (self._ends[stage - 1] if stage else 0)
        fall = 0.5 + 0.5 * math.cos(math.pi * gone / max(self.settings.steps[stage], 1) / (1 if stage else 2))
        fall *= 0.5 if stage else 1.0
        if stage in (0, len(STAGES) - 1):
            fall *= min(1.0, (gone + 1) / WARMUP)
        return self.settings.rate * (fall + 0.005)

    @torch.no_grad()
    def _follow(self) -> None:
        share = min(AVERAGING, (self.step + 1) / (self.step + 10))
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - share)

    def note(self, since: int) -> dict[str, float]:
        """The mean losses since a step, added to the curve."""
        count = max(self.step - since, 1)
        point = {"step": self.step, **{name: round(total / count, 4) for name, total in self._sums.items()}}
        self.curve.append(point)
        self._sums = {}
        return point

    def save(self, path: Path) -> None:
        """Everything that is needed to go on."""
        state = {
            "settings": asdict(self.settings), "step": self.step, "network": self.network.state_dict(),
            "average": self.average, "optimizer": self.optimizer.state_dict(), "curve": self.curve,
        }  # fmt: skip
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state of the same settings.

        Raises:
            FacexError: it is of other settings.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise FacexError(f"{path}: is of a training with other options", hint="remove it, or name another --out")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.curve = state["average"], state["step"], state["curve"]


def checkpoint(average: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights to be stored: float16, under the published keys."""
    kept = {name: value for name, value in average.items() if not name.endswith("num_batches_tracked")}
    return {retinaface.published_keys(name, "classic", BACKBONE)[0]: v.contiguous().half() for name, v in kept.items()}


def train(settings: Settings, out: Path, photographs: Path, progress: Progress) -> None:
    """Train, evaluate, and write the checkpoint and its record into `out`.

    Args:
        settings: see `Settings`.
        out: a folder.
        photographs: folder of rendered photographs; rendered if it is not there.
        progress: told of everything.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not photographs.exists():
        progress.start(f"rendering {settings.photographs} photographs", settings.photographs)
        gallery.render(photographs, stream=gallery.Stream.TRAINING, count=settings.photographs, seed=settings.seed,
                       progress=progress)  # fmt: skip
    progress.start("reading the photographs")
    data, training, state = Examples(photographs, settings), Training(settings), out / STATE_NAME
    if state.exists():
        training.resume(state)
    progress.start(f"training from step {training.step}", sum(settings.steps) - training.step)
    started = training.step
    for batch in data.batches(training.step, sum(settings.steps)):
        training.learn(*batch)
        progress.advance()
        if training.step % SAVE_EVERY == 0 or training.step == sum(settings.steps):
            point = training.note(started)
            started = training.step
            progress.say(" ".join(f"{name} {value:g}" for name, value in point.items()))
            training.save(state)
    weights = out / CHECKPOINT_NAME
    torch.save(checkpoint(training.average), weights)
    found = evaluate(weights, progress)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    record = {
        "sha256": digest,
        "settings": asdict(settings),
        "torch": torch.__version__,
        "evaluation": found,
        "loss": training.curve,
    }
    (out / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    state.unlink()


class _Lines:
    """Progress as lines with the time, for a log of hours."""

    def __init__(self) -> None:
        self._started, self._done, self._total, self._told = time.monotonic(), 0, 0, 0.0

    def start(self, task: str, total: int | None = None) -> None:
        """A stage begins."""
        self._done, self._total = 0, total or 0
        self.say(task)

    def advance(self) -> None:
        """Tell every half minute."""
        self._done += 1
        if time.monotonic() - self._told > 30:
            self.say(f"{self._done} of {self._total}")

    def warn(self, text: str) -> None:
        """A warning."""
        self.say(f"warning: {text}")

    def say(self, text: str) -> None:
        """A line."""
        self._told = time.monotonic()
        print(f"{self._told - self._started:7.0f} s  {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m facex.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and its record")
    parser.add_argument("--data", type=Path, help="folder of the rendered photographs  [default: OUT/photographs]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--steps", type=int, nargs=len(STAGES), default=(6000, 12000, 10000), help="of each stage")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=320, help="of a crop, pixels")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = vars(parser.parse_args(arguments))
    given["steps"] = tuple(given["steps"])
    out, data = given.pop("out"), given.pop("data")
    torch.set_num_threads(given.pop("threads"))
    try:
        train(Settings(**given), out, data or out / "photographs", _Lines())
    except FacexError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; start again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
