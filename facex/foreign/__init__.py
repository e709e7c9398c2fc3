"""A file of any tool against a checkpoint: was it built from it, and what must it be fed to work?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import exporters
from facex.errors import ArtifactError
from facex.foreign import feeds
from facex.progress import Clock, Progress
from facex.provenance import Answer, Behaviour, Feed, Foreign, Triple, Weights, numbers
from facex.types import ChannelOrder, TensorInfo, as_plain

if TYPE_CHECKING:
    from facex.exporters._foreign import ForeignFile
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph

PHOTOGRAPHS = 4
"""Enough: every one has thousands of priors, and the fit tells its own error."""

PIXELS_RGB = Feed(label="0-255", channel_order=ChannelOrder.RGB)


def identify(
    path: Path,
    detector: Detector,
    photographs: Sequence[Photograph] = (),
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Foreign:
    """Hold a file against a checkpoint.

    Args:
        path: a `.onnx`, `.tflite` or `.mlpackage` of any tool.
        detector: the checkpoint under its right contract.
        photographs: of which a few are fed to both; without any, coloured noise is.
        threads: of the runtimes.
        progress: shown what is going on.

    Raises:
        ArtifactError: the file is of no known format, or damaged.
        PhotographError: a photograph cannot be decoded.
        MissingExtraError: the packages that read the format are not installed.
    """
    from facex.exporters._rewrites import fold_batch_norms
    from facex.foreign import behaviour, weights

    clock = Clock(progress)
    target = _target(path)
    with clock("read", f"reading {path.name}", named=False):
        file = exporters.load(target).read_foreign(path, threads=threads)
    says, source = _says(file)
    with clock("weights", "comparing weights", named=False):
        compared = weights.compare(weights.of_network(fold_batch_norms(detector.network)), file.convolutions)
    count = min(PHOTOGRAPHS, len(photographs))
    chosen = [photographs[i * len(photographs) // count] for i in range(count)]
    seen = behaviour.observe(file, detector, chosen, says=says, first=compared.first, threads=threads, clock=clock)
    return Foreign(
        file=path.name,
        target=target,
        checkpoint=detector.path.name,
        inputs=tuple(TensorInfo(name=i.name, shape=i.shape, dtype=i.dtype) for i in file.inputs),
        says=says,
        says_source=source,
        weights=compared,
        behaviour=seen,
        sound=_sound(compared, seen, says),
        conclusions=_conclusions(compared, seen, says, file, detector),
    )


def _target(path: Path) -> str:
    target = exporters.target_of(path)
    known = [name for name in exporters.names() if hasattr(exporters.load(name), "read_foreign")]
    if target not in known:
        suffixes = ", ".join(exporters.info(name).suffix for name in known)
        raise ArtifactError(f"{path}: is of a format that cannot be identified", hint=f"known are {suffixes}")
    if not path.exists():
        raise ArtifactError(f"{path}: no such file")
    return target


def _says(file: ForeignFile) -> tuple[Feed | None, str]:
    """What a file says that it must be fed, and where."""
    colours = next((i.colours for i in file.inputs if i.colours), None)
    if "facex.contract" in file.metadata:
        return PIXELS_RGB, "facex wrote it, whose files take RGB, 0-255"
    if colours:
        return Feed(label="0-255", channel_order=ChannelOrder(colours.lower())), "the type of its image input"
    return None, ""


def _as_promised(seen: Behaviour, says: Feed | None) -> bool:
    under = seen.works_under
    if says is None or under is None:
        return True
    return (under.channel_order, under.mean, under.scale) == (says.channel_order, says.mean, says.scale)


def _sound(compared: Weights, seen: Behaviour, says: Feed | None) -> Answer:
    if compared.built_from is Answer.NO or not _as_promised(seen, says):
        return Answer.NO
    return Answer.YES if compared.built_from is Answer.YES and seen.decided else Answer.UNDECIDED


def _conclusions(
    compared: Weights, seen: Behaviour, says: Feed | None, file: ForeignFile, detector: Detector
) -> tuple[str, ...]:
    found = [_origin(compared)]
    if seen.works_under is None:
        found.append(f"what to feed it is undecided: {seen.reason}")
        if exporters.SELECTION in file.metadata:
            found.append("it chooses faces itself, which leaves no output by prior to compare: export another --head")
        elif compared.built_from is Answer.YES and seen.runtime:
            found.append("its weights are right, so an activation, its head, or its quantization may not be")
    elif says is None:
        found.append(f"it says nothing of what it takes: feed it {seen.works_under.in_words()}")
    elif _as_promised(seen, says):
        found.append(f"it works as it says: fed {says.in_words()}")
    else:
        found += _faults(seen, says, seen.works_under, feeds.only_pixels(file.inputs[0]), detector)
    return (*found, *_recorded(file, detector))


def _origin(compared: Weights) -> str:
    words = {
        Answer.YES: "built from this checkpoint",
        Answer.NO: "not built from this checkpoint",
        Answer.UNDECIDED: "whether it was built from this checkpoint is undecided",
    }
    return f"{words[compared.built_from]}: {compared.reason}"


def _faults(seen: Behaviour, says: Feed, under: Feed, only_pixels: bool, detector: Detector) -> list[str]:
    """What is wrong with what a file says, and the ways out."""
    from facex.foreign.effective import MEAN_TOLERANCE, mean_is_off, scale_is_off, sensible

    contract, fit = detector.contract, seen.fit
    found = []
    if under.channel_order is not says.channel_order:
        found.append(
            f"it expects {str(under.channel_order).upper()} although it says {str(says.channel_order).upper()}: "
            f"feed it {str(under.channel_order).upper()}, or export again with --channel-order {contract.channel_order}"
        )
    if fit is not None and mean_is_off(fit):
        error = max(fit.mean_error)
        unsure = f" (give or take {error:.0f})" if error > MEAN_TOLERANCE else ""
        found.append(
            f"its mean is off by {numbers(sensible(fit.mean_difference, fit))}{unsure} in the network's order, "
            f"{str(contract.channel_order).upper()}: export again with --mean {_option(contract.mean)}"
        )
    if fit is not None and scale_is_off(fit):
        found.append(
            f"it scales by {fit.scale_ratio:.3g} times too much: export again with --scale {_option(contract.scale)}"
        )
    plain = not any(under.mean) and set(under.scale) == {1.0}
    way = "works when" if plain or not only_pixels else "would work, could its input hold such values,"
    return [*found, f"it {way} fed {under.in_words()}"]


def _option(values: Triple) -> str:
    return ",".join(f"{v:g}" for v in values)


def _recorded(file: ForeignFile, detector: Detector) -> list[str]:
    """Where the contract that a file records is not the checkpoint's."""
    try:
        recorded: dict[str, Any] = json.loads(file.metadata["facex.contract"])
    except (KeyError, ValueError):
        return []
    own = as_plain(detector.contract)
    other = [
        f"{name} {json.dumps(recorded[name])}, the checkpoint's is {json.dumps(own[name])}"
        for name in own if name in recorded and recorded[name] != own[name]
    ]  # fmt: skip
    return [f"its metadata record another contract: {'; '.join(other)}"] if other else []
