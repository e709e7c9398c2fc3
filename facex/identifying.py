"""Find out under which contract a checkpoint was trained: the part that `identify` and `export` share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facex.progress import Clock, Progress
from facex.recipe import check_threads
from facex.types import ContractOptions

if TYPE_CHECKING:
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph
    from facex.reference.probe import Identification

PHOTOGRAPHS = 24
"""Run where nobody says how many: all that can be decided is decided with any so many that show people."""


def identify(
    checkpoint: Path,
    *,
    images: Path | None = None,
    contract: ContractOptions | None = None,
    photographs: int = PHOTOGRAPHS,
    threads: int = 1,
    progress: Progress | None = None,
) -> Identification:
    """Probe a checkpoint.

    Args:
        checkpoint: of any family.
        images: folder of photographs with faces, unlabelled; without one, only the weights speak.
        contract: what the user states; kept, and held against the evidence.
        photographs: how many of them are run, evenly spaced over the folder.
        threads: of torch.
        progress: shown what is going on.

    Raises:
        InputError: something given cannot be used.
    """
    from facex.reference import photographs as files

    check_threads(threads)
    clock = Clock(progress)
    with clock("read", f"reading {checkpoint.name}", named=False):
        found = files.find(images, option="--images") if images else []
    return _probe(checkpoint, contract or ContractOptions(), found, photographs, threads, clock)


def probed(
    checkpoint: Path, stated: ContractOptions, found: Sequence[Photograph], *, threads: int, clock: Clock
) -> Identification:
    """The same for an export, which goes on with what was stated: a contradiction is a loud warning."""
    from facex.report import identified

    result = _probe(checkpoint, stated, found, PHOTOGRAPHS, threads, clock)
    for line in identified.warnings(result):
        clock.progress.warn(line)
    return result


def _probe(
    checkpoint: Path, stated: ContractOptions, found: Sequence[Photograph], count: int, threads: int, clock: Clock
) -> Identification:
    import torch

    from facex.reference import probe

    chosen = probe.chosen(found, count)
    torch.set_num_threads(threads)
    seen = f" on {len(chosen)} photograph{'s' * (len(chosen) > 1)}" if chosen else ""
    with clock("probe", f"probing {checkpoint.name}{seen}", named=False):
        return probe.identify(checkpoint, stated, chosen, advance=clock.progress.advance)


def settled(loaded: Detector, stated: ContractOptions, found: Identification) -> Detector:
    """The detector under the contract that was found, with a record of how each field came about."""
    from facex.reference import detector

    again = detector.load(loaded.path, found.completed(stated)) if found.probed else loaded
    return dataclasses.replace(again, assumed=found.undecided, settled=found.settled)
