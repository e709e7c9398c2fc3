"""How far each runtime of a file is from facex's executor, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from facex.manifest import Manifest
from facex.report.table import error, share
from facex.types import VS_EXECUTOR, run_name

_FACES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "matched_f1": ("F1", share), "box_iou_p5": ("IoU p5", share), "landmark_nme_mean": ("NME", error),
}  # fmt: skip
_TENSORS = {"snr_db.": ("SNR", " dB"), "max_abs.": ("max abs", "")}


def beside_executor(manifest: Manifest) -> Iterator[str]:
    """A text a run that was held against the executor's: what was measured of its faces and its outputs."""
    values: dict[str, dict[str, float]] = {}
    for f in manifest.findings:
        if f.name.startswith(VS_EXECUTOR) and f.actual is not None:
            values.setdefault(run_name(f.artifact, f.runtime), {})[f.name.removeprefix(VS_EXECUTOR)] = f.actual
    for name, found in values.items():
        parts = [f"{word} {write(found[metric])}" for metric, (word, write) in _FACES.items() if metric in found]
        for group, (word, unit) in _TENSORS.items():
            tensors = {key.removeprefix(group): value for key, value in found.items() if key.startswith(group)}
            if tensors:
                parts.append(f"{word} {', '.join(f'{key} {value:.3g}{unit}' for key, value in tensors.items())}")
        yield f"{name}: {'; '.join(parts)}"
