"""What half precision would do to every value of one Core ML file: `facex debug-fp16`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import exporters
from facex.auditing import pixels, spaced
from facex.checking import find
from facex.errors import ArtifactError, UsageError
from facex.progress import Clock, Progress
from facex.types import Precision

if TYPE_CHECKING:
    from facex.exporters._mil.halves import Seen


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What was seen.

    Attributes:
        artifact: its file name.
        photographs: how many were run.
        available: how many there are in the folder.
        seen: results and constants, in the order of the program.
    """

    artifact: str
    photographs: int
    available: int
    seen: tuple[Seen, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON; the most endangered first, and what is not finite is null."""
        from facex.exporters._mil import halves

        return {
            "artifact": self.artifact,
            "photographs": self.photographs,
            "photographs_available": self.available,
            "fp32_ops": sorted(halves.kept(self.seen)),
            "values": [one.plain() for one in self.worst()],
        }

    def worst(self) -> list[Seen]:
        """All of them, the most endangered first."""
        return sorted(self.seen, key=lambda one: -one.danger)


def debug(path: Path, images: Path, *, photographs: int, threads: int = 1, progress: Progress | None = None) -> Audited:
    """Run a file in single precision on photographs, and see what half precision would do to its trunk.

    Args:
        path: a file of a target that computes in half precision, itself in single precision.
        images: folder of photographs.
        photographs: how many of them to run, evenly spaced.
        threads: of what runs it.
        progress: shown what is going on.

    Raises:
        InputError: something given cannot be used.
        BackendError: the file cannot be executed.
    """
    from facex.reference.families.retinaface import ASSUMED
    from facex.reference.photographs import find as photographs_in

    if photographs < 1:
        raise UsageError(f"--photographs {photographs}: must be at least 1")
    clock = Clock(progress)
    with clock("read", f"reading {path.name}", named=False):
        (opened,), _ = find([path], Precision.FP32)
        if not exporters.info(opened.subject.target).half_compute:
            raise ArtifactError(
                f"{path}: {opened.subject.target} files do not compute in half precision",
                hint="give a Core ML file in single precision, of export --target coreml --precision fp32",
            )
        available = photographs_in(images, option="--images")
    if opened.contract is None:
        clock.progress.warn(f"{path.name} records no contract: photographs are padded with the usual mean")
    usual: Any = ASSUMED["mean"]  # in BGR order
    fill = opened.contract.mean_rgb if opened.contract is not None else usual[::-1]
    chosen = spaced(available, photographs)
    with clock("debug", f"running {path.name} value by value", len(chosen), named=False):
        feeds = pixels(chosen, opened.subject.size, fill, clock.progress)
        seen = exporters.load(opened.subject.target).halves(path, feeds, threads=threads)
    return Audited(artifact=path.name, photographs=len(chosen), available=len(available), seen=seen)
