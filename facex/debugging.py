"""What quantization does inside one w8a8 file: `facex debug-int8`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import manifest
from facex.auditing import spaced
from facex.checking import READABLE, Opened, find
from facex.errors import ArtifactError, UsageError
from facex.progress import Clock, Progress
from facex.types import Finding, Limit, Precision, as_plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.calibration.insight import Insight
    from facex.reference.photographs import Photograph

DEFAULT_PHOTOGRAPHS = 16


@dataclass(frozen=True, kw_only=True)
class Debugged:
    """What was found.

    Attributes:
        artifact: its file name.
        available: photographs in the folder, of which `insight` says how many were run.
        insight: tensor by tensor; None for a file that does not show its plan.
        findings: of the lint.
    """

    artifact: str
    available: int
    insight: Insight | None
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 when the lint failed."""
        return manifest.exit_code_of(self.findings)

    def refuse_unread(self) -> None:
        """Say where the plan is to be read when this file does not show it.

        Raises:
            ArtifactError: only the lint could be done.
        """
        if self.insight is None:
            beside = Path(self.artifact).with_suffix(".onnx").name
            raise ArtifactError(
                f"{self.artifact}: only its lint can be shown, for its tensors have no float ones to compare with",
                hint=f"the targets of an export share one quantization plan: give {beside}, of --target onnx",
            )

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not finite is null."""
        seen = self.insight
        tensors = [{**as_plain(t), "head_sqnr_db": t.head_sqnr_db} for t in seen.tensors] if seen else None
        return {
            "artifact": self.artifact,
            "photographs": seen.photographs if seen else None,
            "photographs_available": self.available,
            "head_sqnr_db": dict(seen.heads) if seen else None,
            "tensors": [{k: _finite(v) for k, v in t.items()} for t in tensors] if tensors is not None else None,
            "findings": as_plain(self.findings),
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def debug(
    path: Path,
    images: Path,
    *,
    photographs: int = DEFAULT_PHOTOGRAPHS,
    limits: Sequence[Limit] = (),
    threads: int = 1,
    progress: Progress | None = None,
) -> Debugged:
    """Lint a w8a8 file and, where it shows its plan, compare every quantized tensor with the float one.

    Args:
        path: the file.
        images: folder of photographs.
        photographs: how many of them to run, evenly spaced.
        limits: the user's, in place of the defaults of the lint.
        threads: of onnxruntime.
        progress: shown what is going on.

    Raises:
        InputError: something given cannot be used.
        BackendError: onnxruntime failed.
    """
    from facex.parity.limits import checked
    from facex.parity.lint import lint
    from facex.reference.photographs import find as photographs_in

    if photographs < 1:
        raise UsageError(f"--photographs {photographs}: must be at least 1")
    clock = Clock(progress)
    with clock("read", f"reading {path.name}", named=False):
        (opened,), _ = find([path], Precision.W8A8)
        available = photographs_in(images, option="--images")
    overrides = tuple(map(checked, limits))
    findings = lint(opened.subject.name, Precision.W8A8, opened.subject.facts, opened.contract, overrides)
    chosen = spaced(available, photographs)
    return Debugged(
        artifact=opened.subject.name,
        available=len(available),
        insight=_insight(opened, chosen, threads, clock) if opened.subject.target == READABLE else None,
        findings=findings,
    )


def _insight(opened: Opened, photographs: Sequence[Photograph], threads: int, clock: Clock) -> Insight:
    from facex.calibration import insight

    with clock("debug", f"running {opened.subject.name} tensor by tensor", len(photographs), named=False):
        return insight.observe(
            opened.subject.path,
            _feeds(opened, photographs, clock),
            threads=threads,
            on_photograph=clock.progress.advance,
        )


def _feeds(opened: Opened, photographs: Sequence[Photograph], clock: Clock) -> Iterator[dict[str, NDArray[np.float32]]]:
    import numpy as np

    from facex.reference.families.retinaface import ASSUMED
    from facex.reference.photographs import letterbox, load

    if opened.contract is None:
        clock.progress.warn(f"{opened.subject.name} records no contract: photographs are padded with the usual mean")
    usual: Any = ASSUMED["mean"]  # in BGR order
    fill = opened.contract.mean_rgb if opened.contract is not None else usual[::-1]
    for photograph in photographs:
        pixels = letterbox(load(photograph.path), opened.subject.size, fill).pixels[None]
        yield {"image": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)}
