"""Bundles for app teams: what of an export goes in, its goldens and tolerances, and the promotion of whole folders.

A bundle is built beside its folder and replayed from there; only then it takes the folder's place, all bundles of a run
at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facex import bundles as platforms
from facex import demo, exporters, manifest, workspace
from facex.bundles import Bundle, Model
from facex.errors import ArtifactError, BackendError, UsageError, stage
from facex.manifest import Manifest, Source
from facex.progress import Clock, Progress
from facex.recipe import check_threads
from facex.report.wording import plural
from facex.types import Artifact, Contract, ContractOptions, Finding, Precision, Size, Verdict

if TYPE_CHECKING:
    from facex.goldens.format import GoldenSet, Tolerances
    from facex.goldens.replay import Replay
    from facex.reference.detector import Detector

MARKER = ".facex-bundle"
"""In every bundle: a folder that has it may be replaced."""

ORDER = (Precision.W8A8, Precision.W8, Precision.FP16, Precision.FP32, Precision.P6, Precision.P4)
"""Of the models of a bundle, of which the first is the default: small before exact, palettes last."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """One bundle.

    Attributes:
        platform: its name.
        folder: where it is.
        models: names of the files, the first is the default.
        files: how many there are in the folder.
        size_bytes: of all of them.
    """

    platform: str
    folder: Path
    models: tuple[str, ...]
    files: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelTolerances:
    """How far a file of a bundle may be off, see `facex.goldens.format.Tolerances`."""

    artifact: str
    score: float
    box: float
    landmark: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was written.

    Attributes:
        source: of the manifest.
        size: of the input of every model.
        goldens: how many photographs.
        faces: how many the reference found in them.
        bundles: in the order of the platforms.
        tolerances: of every model.
        findings: of the replay from the written folders; all passed.
        timings_s: seconds by stage.
    """

    source: Source
    size: Size
    goldens: int
    faces: int
    bundles: tuple[Written, ...]
    tolerances: tuple[ModelTolerances, ...]
    findings: tuple[Finding, ...]
    timings_s: Mapping[str, float]

    @property
    def exit_code(self) -> int:
        """0: a bundle that fails its goldens is an error, and not written."""
        return manifest.exit_code_of(self.findings)


def bundle(
    path: Path,
    folders: Mapping[str, Path],
    *,
    reference: Path | None = None,
    goldens: Path | None = None,
    size: Size | None = None,
    precisions: Sequence[Precision] = (),
    threads: int = 1,
    progress: Progress | None = None,
) -> Result:
    """Write what the platforms of an export need, each into a folder of its own.

    Args:
        path: a `manifest.json`, or its folder.
        folders: platform -> a folder that is not there, is empty, or holds a bundle, which is replaced.
        reference: the checkpoint; without one, that of the export.
        goldens: a folder of photographs; without one, rendered ones.
        size: of the input, where the export has several.
        precisions: of the models; all that there are when empty.
        threads: of every runtime.
        progress: shown what is going on.

    Raises:
        InputError: something given cannot be used, or a file does not find the faces of the goldens.
        MissingExtraError: the packages that run a platform's files are not installed.
        BackendError: a runtime or the file system failed, or a written bundle fails its own goldens.
    """
    check_threads(threads)
    _check_folders(folders)
    _check_kept(folders, {str(path): path, "--reference": reference, "--goldens": goldens})
    folders = {name: folder.resolve() for name, folder in folders.items()}
    clock = Clock(progress)
    record_path = path / manifest.FILE_NAME if path.is_dir() else path
    with clock("read", f"reading {record_path.name}", named=False):
        record = manifest.load(record_path)
        chosen = _chosen(record, record_path, folders, size, precisions)
        at = _one_size(record_path, chosen)
        for model in {m.path: m for models in chosen.values() for m in models}.values():
            _check_unchanged(model.path, model.artifact)
            _check_selection(model.path, model.artifact)
        detector = _reference(record, record_path, reference)
    with tempfile.TemporaryDirectory(prefix="facex-goldens-") as work:
        found = _recorded(goldens, detector, at, Path(work), threads, clock)
        for file in {f.path: f for files in chosen.values() for f in files}.values():
            _check_room(file, found)
        settled = _settled(chosen, found, record.source.contract, threads, clock)
        findings = _write(folders, settled, found, record.source, threads, clock)
    every = {m.artifact.name: m.tolerances for models in settled.values() for m in models}
    return Result(
        source=record.source,
        size=at,
        goldens=len(found.goldens),
        faces=sum(len(golden.faces) for golden in found.goldens),
        bundles=tuple(_told(name, folders[name], settled[name]) for name in folders),
        tolerances=tuple(ModelTolerances(artifact=name, **dataclasses.asdict(t)) for name, t in every.items()),
        findings=findings,
        timings_s=dict(clock.timings_s),
    )


def _told(platform: str, folder: Path, models: Sequence[Model]) -> Written:
    return Written(
        platform=platform,
        folder=folder,
        models=tuple(model.artifact.name for model in models),
        files=sum(path.is_file() for path in folder.rglob("*")),
        size_bytes=manifest.size_of(folder),
    )


def _check_folders(folders: Mapping[str, Path]) -> None:
    """Refuse folders that a bundle cannot be put in, before any work.

    Raises:
        UsageError: no platform, an unknown one, or a folder that holds something else or lies in another one.
    """
    options = ", ".join(f"--{name} DIR" for name in platforms.names())
    if not folders:
        raise UsageError("no platform was given", hint=f"name a folder for at least one: {options}")
    for name, folder in folders.items():
        if name not in platforms.names():
            raise UsageError(f"platform {name}: unknown", hint=f"choose from {', '.join(platforms.names())}")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--{name} {folder}: is a file", hint="name a folder")
        for parent in folder.absolute().parents:
            if parent.exists() and not parent.is_dir():
                raise UsageError(f"--{name} {folder}: {parent} is a file", hint="name a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise UsageError(
                f"--{name} {folder}: exists, is not empty, and is no bundle of facex's", hint="name a new folder"
            )
    # in one case: a file system may not tell Face from face
    resolved = {name: Path(str(folder.resolve()).casefold()) for name, folder in folders.items()}
    for name, folder in resolved.items():
        if other := next((o for o, f in resolved.items() if o != name and (f == folder or f in folder.parents)), None):
            raise UsageError(f"--{name} {folders[name]}: is, or lies in, that of --{other}", hint="keep them apart")


def _check_kept(folders: Mapping[str, Path], inputs: Mapping[str, Path | None]) -> None:
    """Refuse to replace a folder that holds what the run reads, or a history that no run can write again.

    Raises:
        UsageError: one does.
    """
    for name, folder in folders.items():
        if (folder / ".git").exists():
            raise UsageError(
                f"--{name} {folder}: is a git repository, and would be replaced with its history",
                hint="name a new folder, and copy what is written there over",
            )
        for option, path in inputs.items():
            if path is not None and folder.resolve() in (path.resolve(), *path.resolve().parents):
                raise UsageError(
                    f"{option}: lies in --{name} {folder}, which would be replaced", hint="move it elsewhere"
                )


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file that is to be bundled."""

    path: Path
    artifact: Artifact


def _chosen(
    record: Manifest, path: Path, names: Iterable[str], size: Size | None, precisions: Sequence[Precision]
) -> dict[str, list[_File]]:
    """Platform -> the promoted files that it runs, the default first.

    Raises:
        UsageError: there is none for a platform, or none of an asked size or precision.
    """
    targets: dict[str, str] = {name: platforms.load(name).TARGET for name in names}
    files = [a for a in record.artifacts if a.promoted and a.target in targets.values()]
    asked = [("--precision", str(p), {str(a.precision) for a in files}) for p in precisions]
    asked += [("--size", str(size), {str(a.size) for a in files})] if size else []
    for option, wanted, have in asked:
        if files and wanted not in have:
            raise UsageError(
                f"{option} {wanted}: {path} promoted no such {' or '.join(sorted(set(targets.values())))} file",
                hint=f"choose from {', '.join(sorted(have))}",
            )
    order = [*dict.fromkeys(precisions), *ORDER]
    chosen = {}
    for name, target in targets.items():
        kept = [a for a in files if a.target == target]
        kept = [a for a in kept if (not precisions or a.precision in precisions) and size in (None, a.size)]
        if not kept:
            what = " ".join(map(str, (*([size] if size else []), *precisions, target)))
            raise UsageError(
                f"--{name}: {path} promoted no {what} file", hint=f"export with --target {target}, or leave it out"
            )
        kept.sort(key=lambda a: order.index(a.precision))
        chosen[name] = [_File(path=path.parent / a.path, artifact=a) for a in kept]
    return chosen


def _one_size(path: Path, chosen: Mapping[str, Sequence[_File]]) -> Size:
    sizes = sorted({file.artifact.size for files in chosen.values() for file in files})
    if len(sizes) > 1:
        raise UsageError(
            f"{path}: has files of several sizes, and a bundle has one: {', '.join(map(str, sizes))}",
            hint=f"choose with --size, for example --size {sizes[0]}",
        )
    return sizes[0]


def _check_unchanged(path: Path, artifact: Artifact) -> None:
    if not path.exists():
        raise ArtifactError(f"{path}: no such file, although the manifest promoted it", hint="export again")
    if manifest.sha256_of(path) != artifact.sha256:
        raise ArtifactError(f"{path}: its SHA-256 is not the one in the manifest", hint="export again")


def _check_selection(path: Path, artifact: Artifact) -> None:
    """Refuse a file that chooses faces by other numbers than the goldens were chosen by.

    Raises:
        UsageError: it does.
    """
    from facex.parity.metrics import FACE_SCORE
    from facex.reference.geometry import NMS_IOU

    chosen = artifact.selection
    if chosen is not None and (chosen.score_threshold, chosen.nms_iou) != (FACE_SCORE, NMS_IOU):
        raise UsageError(
            f"{path}: chooses faces by score {chosen.score_threshold:g} and overlap {chosen.nms_iou:g}, "
            f"the faces of goldens are chosen by {FACE_SCORE:g} and {NMS_IOU:g}",
            hint="export with these for a bundle, or with --head decoded, which leaves the choice to the app",
        )


def _check_room(file: _File, found: GoldenSet) -> None:
    """Refuse a file that gives fewer faces than there are in a golden.

    Raises:
        UsageError: it does.
    """
    fullest = max(found.goldens, key=lambda golden: len(golden.faces))
    chosen, most = file.artifact.selection, len(fullest.faces)
    if chosen is not None and chosen.max_faces < most:
        raise UsageError(
            f"{file.path}: gives {plural(chosen.max_faces, 'face')} at most, and {fullest.file} has {most}",
            hint=f"export with --max-faces {most} or more, or name photographs with fewer faces, --goldens PHOTOS",
        )


def _reference(record: Manifest, path: Path, stated: Path | None) -> Detector:
    """The checkpoint that the files came from, under the contract of the manifest.

    Raises:
        UsageError: it is not known where it is.
        ArtifactError: it is another one.
    """
    from facex.goldens.record import same_contract
    from facex.reference import detector

    source = record.source
    checkpoint = stated or (demo.CHECKPOINT if source.demonstration else _source_path(path, source))
    fields = [f.name for f in dataclasses.fields(ContractOptions) if f.name != "landmarks"]
    loaded = detector.load(checkpoint, ContractOptions(**{name: getattr(source.contract, name) for name in fields}))
    if loaded.sha256 != source.sha256:
        raise ArtifactError(
            f"{checkpoint}: is not the checkpoint that {path} was made from",
            hint=f"name {source.checkpoint}, whose SHA-256 begins with {source.sha256[:12]}, with --reference",
        )
    if not same_contract(loaded.contract, source.contract):
        raise ArtifactError(f"{path}: its contract is none that {checkpoint.name} can have", hint="export again")
    return dataclasses.replace(loaded, contract=source.contract)


def _source_path(path: Path, source: Source) -> Path:
    """Where the export found its checkpoint, as the report beside the manifest tells.

    Raises:
        UsageError: it does not tell, or the checkpoint is not there any more, or another one is.
    """
    report = path.with_name(manifest.REPORT_NAME)
    hint = f"name {source.checkpoint} with --reference CHECKPOINT"
    read = manifest.read_json(report, "report") if report.is_file() else None
    told = read.get(manifest.SOURCE_PATH) if isinstance(read, dict) else None
    if not isinstance(told, str):
        raise UsageError(f"{path}: nothing beside it tells where its checkpoint is", hint=hint)
    found = path.parent / told  # absolute, or relative to the report
    if not found.is_file():
        raise UsageError(f"{found}: the checkpoint that {path} was made from is not there any more", hint=hint)
    if manifest.sha256_of(found) != source.sha256:
        raise UsageError(f"{found}: has changed since {path} was made from it", hint=hint)
    return found


def _recorded(
    photographs: Path | None, detector: Detector, size: Size, work: Path, threads: int, clock: Clock
) -> GoldenSet:
    from facex.goldens import record

    chosen = record.candidates(photographs, clock)
    return record.record(chosen, detector, size, work, threads=threads, clock=clock)


def _settled(
    chosen: Mapping[str, Sequence[_File]], found: GoldenSet, contract: Contract, threads: int, clock: Clock
) -> dict[str, tuple[Model, ...]]:
    """The models with their tolerances, each run once in its own runtime."""
    from facex.goldens import record

    models: dict[str, tuple[Model, ...]] = {}
    known: dict[Path, Tolerances] = {}
    for platform, files in chosen.items():
        for file in files:
            if file.path not in known:
                name = file.artifact.name
                with clock("tolerances", f"running {name} on the goldens", len(found.goldens)), stage(name):
                    seen = _replayed(file.path, file.artifact, found, contract, threads, clock)
                known[file.path] = record.tolerances(name, seen)
        models[platform] = tuple(
            Model(path=file.path, artifact=file.artifact, tolerances=known[file.path]) for file in files
        )
    return models


def _replayed(
    path: Path, artifact: Artifact, found: GoldenSet, contract: Contract, threads: int, clock: Clock
) -> Replay:
    from facex.goldens import replay

    session = exporters.open_session(artifact.target, path, threads)
    return replay.replay(session, found, artifact.head, contract, clock.progress.advance)


def _write(
    folders: Mapping[str, Path],
    models: Mapping[str, tuple[Model, ...]],
    found: GoldenSet,
    source: Source,
    threads: int,
    clock: Clock,
) -> tuple[Finding, ...]:
    """Build every bundle beside its folder, replay it from there, then put all of them in place."""
    findings: list[Finding] = []
    with contextlib.ExitStack() as stack:
        builds: dict[str, Path] = {}
        for platform, folder in folders.items():
            builds[platform] = build = stack.enter_context(workspace.beside(folder))
            with clock("write", f"writing the {platform} bundle"), stage(platform):
                platforms.load(platform).write(Bundle(source=source, models=models[platform], goldens=found), build)
                (build / MARKER).write_text("written by facex bundle, which may replace this folder\n", "utf-8")
            findings += _checked(platform, build, models[platform], len(found.goldens), threads, clock)
        with stage("promote"):
            workspace.promote_folders([(builds[platform], folder) for platform, folder in folders.items()])
    return tuple(findings)


def _checked(
    platform: str, build: Path, models: Sequence[Model], pictures: int, threads: int, clock: Clock
) -> list[Finding]:
    """Replay a bundle from the files that were written, by what was written about them.

    Raises:
        BackendError: a file is not as it was described, or fails its own goldens.
    """
    from facex.goldens import format as goldens

    findings: list[Finding] = []
    task = f"replaying the goldens from the {platform} bundle"
    with clock("replay", task, len(models) * pictures), stage(platform):
        try:
            written = goldens.load(build, option=f"--{platform}")
            entries = {entry.file: entry for entry in written.models}
            for model in models:
                entry = entries[model.artifact.name]
                path = goldens.file_of(written, entry)
                seen = _replayed(path, model.artifact, written.goldens, written.contract, threads, clock)
                findings += seen.findings(entry.file, entry.tolerances)
        except (ArtifactError, KeyError) as error:
            raise BackendError(f"the bundle that was written cannot be replayed: {error}") from error
        failed = next((f for f in findings if f.verdict is not Verdict.PASS), None)
        if failed:
            raise BackendError(f"the bundle that was written fails its own goldens: {failed.artifact}: {failed.reason}")
    return findings
