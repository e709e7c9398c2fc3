"""Targets, one a file; the file name is the registry (names with an underscore are parts of targets).

A target module offers:

    INFO: TargetInfo                        importable without the target's packages
    def export(job: Job) -> None            writes `job.path`
    def describe(path) -> FileFacts         what the finished file says of itself, without running it
    def open_session(path, *, threads) -> Session   raises SessionUnavailableError where it cannot run
    def open_native(path, runtime) -> Session       optional: the system's own runtime, where the one above is facex's
    def halves(path, images, *, threads) -> tuple[Seen, ...]   with INFO.half_compute: what half precision would do
    def kernels(path) -> KernelFacts        optional: runs the file to tell what its fast delegate leaves, and the time
    def profile(path, image, *, threads, warmup, runs) -> Profile   optional: time by operator, measured
    NO_PROFILE: str                         without the above: why its runtime tells no time by operator
    def read_foreign(path, *, threads) -> ForeignFile   optional: a file of any tool's, to be held against a checkpoint

A fourth member, `describe`, is needed because inputs, integer share and minimum runtime must be read from the file that
ships, not remembered from the conversion. `kernels` is apart from it because it runs the file, which `describe` never
does.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from facex.errors import ArtifactError, BackendError, MissingExtraError
from facex.recipe import DEFAULT_DEPLOYMENT_TARGET, DEPLOYMENT_TARGETS
from facex.types import (
    ExportOptions,
    FileFacts,
    Head,
    KernelFacts,
    Precision,
    Profile,
    Runtime,
    Selection,
    Session,
    Size,
    TargetInfo,
    TensorInfo,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.reference.detector import Detector


@dataclass(frozen=True, kw_only=True)
class Job:
    """One artifact to be written.

    Attributes:
        path: where; in the work folder.
        detector: the untouched network and its contract.
        pivot: the simplified float32 ONNX model with preprocessing and head inside.
        qdq: the same with the quantization plan; None when the artifact has no 8-bit activations.
        selection: how the file chooses faces, of a `detections` head, for which `pivot` and `qdq` have a decoded one.
        crops: float32 [n, 3, h, w], 0-255: pixels of calibration photographs to round weights by; None without any.
        fp32_ops: names of operations to keep in single precision where others are in half; `EVERY` for all.
    """

    path: Path
    precision: Precision
    head: Head
    size: Size
    detector: Detector
    pivot: Path
    qdq: Path | None
    options: ExportOptions
    crops: NDArray[np.float32] | None = None
    fp32_ops: frozenset[str] = frozenset()
    selection: Selection | None = None

    def __post_init__(self) -> None:
        """Refuse a head and a selection that contradict each other."""
        if (self.head is Head.DETECTIONS) != (self.selection is not None):
            raise ValueError(f"a {self.head} head with the selection {self.selection}")

    def traced(self, **changes: Any) -> Job:
        """The same with the head that is traced: what a file computes before it chooses faces."""
        return dataclasses.replace(self, head=self.head.traced, selection=None, **changes)


EVERY = frozenset({"*"})


def names() -> list[str]:
    """Names of the targets, alphabetical."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f"{__name__}.{name}")


def info(name: str) -> TargetInfo:
    """What a target says of itself."""
    found: TargetInfo = load(name).INFO
    return found


def settled(options: ExportOptions, target: TargetInfo, precision: Precision) -> ExportOptions:
    """The options of one file: a deployment target that was left open is the oldest one that can load it."""
    oldest = target.oldest_deployment.get(precision, DEFAULT_DEPLOYMENT_TARGET)
    chosen = options.deployment_target or max(oldest, DEFAULT_DEPLOYMENT_TARGET, key=DEPLOYMENT_TARGETS.index)
    return dataclasses.replace(options, deployment_target=chosen)


def target_of(path: Path) -> str | None:
    """The target whose suffix a file carries, or None."""
    return next((name for name in names() if path.name.lower().endswith(info(name).suffix)), None)


def kernels(name: str, path: Path) -> KernelFacts | None:
    """Which kernels run a file of a target on this host, or None where the target has no delegate to ask.

    It never raises for what is in the file: what cannot be told is unknown, with the reason.
    """
    ask = getattr(load(name), "kernels", None)
    found: KernelFacts | None = ask(path) if ask is not None else None
    return found


def profile(name: str, path: Path, image: NDArray[np.uint8], *, threads: int, warmup: int, runs: int) -> Profile:
    """Time by operator of a file, measured in runs of its own, or the reason why its runtime tells none.

    Raises:
        SessionUnavailableError, MissingExtraError, ArtifactError, BackendError: as for `open_session`.
    """
    target = load(name)
    ask = getattr(target, "profile", None)
    if ask is None:
        return Profile(operators=(), note=f"no profile: {target.NO_PROFILE}")
    found: Profile = ask(path, image, threads=threads, warmup=warmup, runs=runs)
    return found


def open_session(name: str, path: Path, threads: int, runtime: Runtime = Runtime.EXECUTOR) -> Session:
    """A session for a file of a target: `runtime` decides where facex can execute it itself.

    Raises:
        SessionUnavailableError: this machine cannot run it.
        MissingExtraError: the target's packages are not installed.
        ArtifactError: it cannot be loaded.
    """
    target = load(name)
    found: Session
    if runtime is not Runtime.EXECUTOR and has_native(name):
        found = target.open_native(path, runtime)
    else:
        found = target.open_session(path, threads=threads)
    return found


def has_native(name: str) -> bool:
    """Whether files of a target run in more than one runtime: facex's own, and the system's."""
    return hasattr(load(name), "open_native")


def version(distribution: str) -> str | None:
    """Installed version of a distribution, or None."""
    from importlib import metadata  # a tenth of the time of `facex --help`, which needs no versions

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def require(target: TargetInfo, packages: Iterable[str], purpose: str) -> None:
    """Check that distributions are installed, without importing them.

    Raises:
        MissingExtraError: the first that is not, with the extra that brings it.
    """
    for package in packages:
        if version(package) is None:
            raise MissingExtraError(package, extra=target.extra or "all", purpose=purpose)


def verify(job: Job, target: TargetInfo, facts: FileFacts) -> None:
    """Assert name, order, dtype and shape of a finished file's inputs and outputs, its selection, and its credits.

    Raises:
        BackendError: the converter changed one of them.
    """
    from facex.exporters._rewrites import outputs_of

    height, width = job.size.height, job.size.width
    shape = (1, height, width, 3) if target.channels_last else (1, 3, height, width)
    wanted_inputs = (TensorInfo(name="image", shape=shape, dtype=target.image_dtype),)
    wanted_outputs = outputs_of(job.detector.contract, job.size, job.head, job.selection)
    for kind, wanted, found in (("inputs", wanted_inputs, facts.inputs), ("outputs", wanted_outputs, facts.outputs)):
        if wanted != found:
            raise BackendError(f"{job.path.name}: {kind} are {_listed(found)}, expected {_listed(wanted)}")
    told = selection_told(facts.metadata)
    if told != job.selection:
        raise BackendError(f"{job.path.name}: says that it chooses faces by {told}, expected {job.selection}")
    if facts.credits != job.options.credits:
        raise BackendError(f"{job.path.name}: says {facts.credits}, expected {job.options.credits}")


SELECTION = "facex.selection"
"""Key of the metadata of a file with a `detections` head: its `Selection`, as JSON."""


def selection_told(metadata: Mapping[str, str]) -> Selection | None:
    """How a file says that it chooses faces; None where it says nothing.

    Raises:
        ArtifactError: what it says makes no sense.
    """
    text = metadata.get(SELECTION)
    if text is None:
        return None
    try:
        found = Selection(**json.loads(text))
        sound = 0 <= found.score_threshold <= 1 and 0 <= found.nms_iou <= 1 and found.max_faces >= 1
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{SELECTION} in its metadata cannot be read: {text[:100]}") from error
    if not sound:
        raise ArtifactError(f"{SELECTION} in its metadata makes no sense: {text[:100]}")
    return found


def _listed(tensors: Iterable[TensorInfo]) -> str:
    return ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in tensors) or "none"
