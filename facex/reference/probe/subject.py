"""The network under the probe: which activations a contract governs, and what follows what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facex.reference import families
from facex.reference.families import Structure
from facex.types import Contract

MARKS = {"activation_slope": 0.3125, "pyramid_slope": 0.34375}
"""Field of the contract -> a slope that no network has and float32 holds exactly, to find the field's activations."""
_SIDE_PX = 128


@dataclass(frozen=True, kw_only=True)
class Link:
    """Batch norm, activation, convolution and batch norm in a row, nothing between them."""

    before: nn.BatchNorm2d
    activation: nn.LeakyReLU
    convolution: nn.Conv2d
    after: nn.BatchNorm2d


@dataclass(frozen=True, kw_only=True)
class FirstLayer:
    """The convolution that sees the pixels, and the batch norm right behind it; None where there is none."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d | None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network whose slopes can be changed.

    Attributes:
        structure: of the checkpoint.
        network: float32, in eval mode; its slopes are whatever `set_slopes` set last.
        activations: field of the contract -> the activations that it governs; only fields that govern any.
        norms: all batch norms, in the order in which they run.
        own_norms: field -> numbers of the batch norms that see its activations and no other field's after them.
        links: every `Link` of the network.
        first: see `FirstLayer`; None where nothing sees three channels.
    """

    structure: Structure
    network: nn.Module
    activations: Mapping[str, tuple[nn.LeakyReLU, ...]]
    norms: tuple[nn.BatchNorm2d, ...]
    own_norms: Mapping[str, tuple[int, ...]]
    links: tuple[Link, ...]
    first: FirstLayer | None

    def set_slopes(self, slopes: Mapping[str, float]) -> None:
        """Field of the contract -> the negative slope of its activations."""
        for name, modules in self.activations.items():
            for module in modules:
                module.negative_slope = slopes[name]


def build(structure: Structure, state: Mapping[str, Tensor], contract: Contract) -> Subject:
    """The checkpoint's network with every slope free.

    Args:
        structure: what keys and shapes prove.
        state: the state dict.
        contract: any contract of the checkpoint; its slopes do not matter.
    """
    marked: dict[str, Any] = {name: slope for name, slope in MARKS.items() if getattr(contract, name) is not None}
    network = families.load(structure.family).build(structure, state, dataclasses.replace(contract, **marked))
    network.requires_grad_(False)
    leaky = [module for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    activations = {name: tuple(m for m in leaky if m.negative_slope == slope) for name, slope in marked.items()}
    activations = {name: modules for name, modules in activations.items() if modules}
    steps = _steps(network)
    norms = tuple(dict.fromkeys(step.module for step in steps if isinstance(step.module, nn.BatchNorm2d)))
    return Subject(
        structure=structure,
        network=network,
        activations=activations,
        norms=norms,
        own_norms=_own_norms(network, activations, norms),
        links=tuple(_links(steps)),
        first=_first(steps),
    )


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One call of a module without children, with the identities of the tensors that it took and gave."""

    module: nn.Module
    taken: int
    given: int
    channels: int


@contextmanager
def hooked(modules: Mapping[Any, Callable[..., Any]], *, before: bool = False) -> Iterator[None]:
    """Call a function at every call of its module, while the block runs."""
    handles = [
        module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
        for module, hook in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _steps(network: nn.Module) -> list[_Step]:
    """Every call of a module without children, in order."""
    kept: list[Any] = []  # tensors stay alive, so that no two have the same identity
    steps: list[_Step] = []

    def note(module: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        kept.append((taken, given))
        steps.append(_Step(module=module, taken=id(taken[0]), given=id(given), channels=taken[0].shape[1]))

    leaves = {module: note for module in network.modules() if not any(module.children())}
    with hooked(leaves), torch.no_grad():
        network(torch.zeros(1, 3, _SIDE_PX, _SIDE_PX))
    return steps


def _links(steps: list[_Step]) -> Iterator[Link]:
    made = {step.given: step for step in steps}
    for step in steps:
        act = made.get(step.taken)
        if not isinstance(step.module, nn.Conv2d) or act is None or not isinstance(act.module, nn.LeakyReLU):
            continue
        before = made.get(act.taken)
        after = next((s.module for s in steps if s.taken == step.given), None)
        if before is not None and isinstance(before.module, nn.BatchNorm2d) and isinstance(after, nn.BatchNorm2d):
            yield Link(before=before.module, activation=act.module, convolution=step.module, after=after)


def _first(steps: list[_Step]) -> FirstLayer | None:
    for step in steps:
        if isinstance(step.module, nn.Conv2d) and step.channels == 3 and step.module.groups == 1:
            after = next((s.module for s in steps if s.taken == step.given), None)
            norm = after if isinstance(after, nn.BatchNorm2d) else None
            return FirstLayer(convolution=step.module, norm=norm)
    return None


def _own_norms(
    network: nn.Module, activations: Mapping[str, tuple[nn.LeakyReLU, ...]], norms: tuple[nn.BatchNorm2d, ...]
) -> dict[str, tuple[int, ...]]:
    """Found by trial: what changes with a field's slope, less what changes with that of a later field."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, _SIDE_PX, _SIDE_PX, generator=generator)

    def inputs() -> list[Tensor]:
        seen: dict[nn.Module, Tensor] = {}

        def note(module: nn.Module, taken: tuple[Tensor, ...]) -> None:
            seen[module] = taken[0]

        with hooked(dict.fromkeys(norms, note), before=True), torch.no_grad():
            network(noise)
        return [seen[norm] for norm in norms]

    usual, moved = inputs(), {}
    for name, modules in activations.items():
        for module in modules:
            module.negative_slope = -1.0
        moved[name] = {i for i, (a, b) in enumerate(zip(usual, inputs(), strict=True)) if not torch.equal(a, b)}
        for module in modules:
            module.negative_slope = MARKS[name]
    names = list(activations)
    return {
        name: tuple(sorted(moved[name].difference(*(moved[later] for later in names[i + 1 :]))))
        for i, name in enumerate(names)
    }
