"""Find out under which contract a checkpoint was trained, and whether a file is what became of it.

The probe is the part that `identify` and `export` share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex.errors import EXIT_OK, EXIT_PARITY
from facex.progress import Clock, Progress
from facex.provenance import Answer, Foreign
from facex.recipe import check_threads
from facex.types import ContractOptions, as_plain

if TYPE_CHECKING:
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph
    from facex.reference.probe import Identification

PHOTOGRAPHS = 24
"""Run where nobody says how many: all that can be decided is decided with any so many that show people."""


@dataclass(frozen=True, kw_only=True)
class IdentifiedFile:
    """A file held against a checkpoint.

    Attributes:
        reference: what the checkpoint's contract was taken from.
        file: what was found.
    """

    reference: Identification
    file: Foreign

    @property
    def exit_code(self) -> int:
        """That of a failed parity where the file is clearly not what it should be."""
        return EXIT_PARITY if self.file.sound is Answer.NO else EXIT_OK

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.file.plain(), "reference": as_plain(self.reference)}


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


def identify_file(
    file: Path,
    *,
    reference: Path,
    images: Path | None = None,
    contract: ContractOptions | None = None,
    photographs: int = PHOTOGRAPHS,
    threads: int = 1,
    progress: Progress | None = None,
) -> IdentifiedFile:
    """Hold a file of any tool against the checkpoint that it may come from, whose contract is probed first.

    Args:
        file: a `.onnx`, `.tflite` or `.mlpackage`.
        reference: the checkpoint.
        images: folder of photographs with faces, unlabelled; without one, both are fed drawn pictures.
        contract: what the user states of the checkpoint.
        photographs: how many of them are probed with, evenly spaced over the folder.
        threads: of every runtime.
        progress: shown what is going on.

    Raises:
        InputError: something given cannot be used.
        MissingExtraError: the packages that read the format are not installed.
    """
    from facex import foreign
    from facex.reference import detector
    from facex.reference import photographs as files

    check_threads(threads)
    clock, stated = Clock(progress), contract or ContractOptions()
    with clock("read", f"reading {reference.name}", named=False):
        found = files.find(images, option="--images") if images else []
        loaded = detector.load(reference, stated)
    probe = _warned(_probe(reference, stated, found, photographs, threads, clock), clock)
    loaded = settled(loaded, stated, probe)
    seen = foreign.identify(file, loaded, found, threads=threads, progress=progress)
    return IdentifiedFile(reference=probe, file=seen)


def probed(
    checkpoint: Path, stated: ContractOptions, found: Sequence[Photograph], *, threads: int, clock: Clock
) -> Identification:
    """The same for an export, which goes on with what was stated: a contradiction is a loud warning."""
    return _warned(_probe(checkpoint, stated, found, PHOTOGRAPHS, threads, clock), clock)


def _warned(result: Identification, clock: Clock) -> Identification:
    from facex.report import identified

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
