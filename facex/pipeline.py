"""The order of an export: `plan` decides and touches nothing, `run` does what the plan says.

Everything is built in a work folder below `out` and checked there; what passed is moved into `out` at the very end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from facex import __version__, demo, exporters, manifest, showing, workspace
from facex.comparing import Evidence
from facex.errors import ArtifactError, BackendError, PhotographError, UsageError, stage
from facex.examination import evaluation_of, examine
from facex.manifest import Calibration, Manifest, Source
from facex.progress import Clock, Progress
from facex.recipe import DEPLOYMENT_TARGETS, Recipe
from facex.runs import Subject
from facex.showing import Material, QuantizationPlan
from facex.types import (
    FAILED_SUFFIX,
    Artifact,
    FileFacts,
    Fp32Ops,
    Precision,
    ReportPhotographs,
    Size,
    TargetInfo,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from facex.reference.photographs import Photograph

REPORTS = (manifest.REPORT_NAME, "junit.xml", "report.html")
CALIBRATED = frozenset({Precision.W8A8})
"""What cannot be written without calibration photographs."""
ROUNDED = frozenset({Precision.W8, Precision.P6, Precision.P4})
"""What gains by them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One artifact of a plan."""

    target: str
    precision: Precision
    size: Size
    file_name: str


def audited(step: Step, recipe: Recipe) -> bool:
    """Whether photographs decide which operations of a file stay in single precision."""
    return recipe.fp32_ops is Fp32Ops.AUTO and step.precision in exporters.info(step.target).half_compute


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will write, in order. `str()` is for people."""

    recipe: Recipe
    steps: tuple[Step, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, each once, in order."""
        return tuple(dict.fromkeys(step.target for step in self.steps))

    @property
    def calibrated(self) -> bool:
        """Whether calibration photographs, where there are any, decide something."""
        return any(step.precision in CALIBRATED | ROUNDED or audited(step, self.recipe) for step in self.steps)

    def __str__(self) -> str:
        recipe = self.recipe
        lines = [f"{recipe.checkpoint or 'the bundled detector'} -> {recipe.out}"]
        lines += [f"  {s.file_name}  ({s.target}, {s.precision}, {s.size}, {recipe.head} head)" for s in self.steps]
        rendered = "photographs that facex renders" if recipe.checkpoint is None else None
        lines.append(f"  calibration: {recipe.calib or (rendered if self.calibrated else None) or 'none needed'}")
        lines.append(f"  parity: {recipe.images or rendered or 'skipped, no --images'}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        manifest: with every latency and finding.
        timings_s: seconds by stage.
        material: for the page.
    """

    manifest: Manifest
    timings_s: Mapping[str, float]
    material: Material = field(default_factory=Material)


def plan(recipe: Recipe) -> Plan:
    """Resolve targets and precisions to files. Pure: reads nothing, writes nothing.

    Raises:
        UsageError: an unknown target, a precision that a target cannot write or a deployment target cannot load, or
            calibration without photographs.
    """
    known = exporters.names()
    for name in recipe.targets:
        if name not in known:
            raise UsageError(f"--target {name}: unknown", hint=f"choose from {', '.join(known)}")
    stem = (recipe.checkpoint or demo.CHECKPOINT).stem
    steps = [
        Step(
            target=name,
            precision=precision,
            size=size,
            file_name=f"{stem}_{size}_{precision}{exporters.info(name).suffix}",
        )
        for size in dict.fromkeys(recipe.sizes)
        for name in dict.fromkeys(recipe.targets or known)
        for precision in _precisions(recipe, exporters.info(name))
    ]
    calibrated = [step for step in steps if step.precision in CALIBRATED]
    if calibrated and recipe.calib is None and recipe.checkpoint is not None:
        raise UsageError(
            f"{calibrated[0].target} {calibrated[0].precision} needs calibration photographs",
            hint="add --calib FOLDER, with photographs like those the app will see",
        )
    _check_fp32_ops(recipe, steps)
    return Plan(recipe=recipe, steps=tuple(steps))


def _check_fp32_ops(recipe: Recipe, steps: Sequence[Step]) -> None:
    if recipe.fp32_ops is Fp32Ops.NONE:
        return
    if not any(audited(step, recipe) for step in steps):
        halves = [f"--target {n} --precision {p}" for n in exporters.names() for p in exporters.info(n).half_compute]
        raise UsageError(
            f"--fp32-ops {recipe.fp32_ops}: none of these files computes in half precision",
            hint=f"leave it out, or add one that does: {', '.join(halves)}",
        )
    if recipe.calib is None and recipe.checkpoint is not None:
        raise UsageError(
            f"--fp32-ops {recipe.fp32_ops} needs calibration photographs, to see how far values go",
            hint="add --calib FOLDER, with photographs like those the app will see",
        )


def _precisions(recipe: Recipe, target: TargetInfo) -> list[Precision]:
    if recipe.int8 and target.int8 is None:
        raise UsageError(f"--int8: {target.name} has no 8-bit form", hint="export it apart, or choose other targets")
    asked = [*recipe.precisions, *([target.int8] if recipe.int8 and target.int8 else [])]
    for precision in asked:
        if precision not in target.precisions:
            raise UsageError(
                f"--precision {precision}: {target.name} cannot write it",
                hint=f"{target.name} writes {', '.join(target.precisions)}; export targets apart to give each its own",
            )
        oldest, asked_for = target.oldest_deployment.get(precision), recipe.options.deployment_target
        if oldest and asked_for and DEPLOYMENT_TARGETS.index(asked_for) < DEPLOYMENT_TARGETS.index(oldest):
            raise UsageError(
                f"--deployment-target {asked_for}: {target.name} {precision} needs {oldest} or newer",
                hint=f"use --deployment-target {oldest}, or another precision",
            )
    # with nothing at hand, everything is shown
    default = (target.shown or target.precisions) if recipe.checkpoint is None else target.precisions[:1]
    return list(dict.fromkeys(asked or default))


def run(planned: Plan, *, command: str, progress: Progress | None = None) -> Result:
    """Export, check, judge, and move what passed into the recipe's `out`.

    A failed artifact stays in `out/facex-work`, its name ending in `.failed`. On any error `out` is as it was.

    Args:
        planned: of `plan`.
        command: recorded in `report.json`.
        progress: shown what is going on.

    Raises:
        InputError: something given cannot be used.
        MissingExtraError: a target's packages are not installed.
        BackendError: a converter, a runtime or the file system failed.
    """
    out, clock = planned.recipe.out, Clock(progress)
    if planned.recipe.checkpoint is None:
        planned = _completed(planned, clock)
    checkpoint = planned.recipe.checkpoint
    assert checkpoint is not None
    with clock("read", f"reading {checkpoint.name}", named=False):
        evidence, calib, seen = _read(planned, checkpoint)
    evidence = _probed(planned, evidence, seen, clock)
    with workspace.building(out) as build:
        record, material = _build(build, planned, evidence, calib, clock)
        result = Result(manifest=record, timings_s=dict(clock.timings_s), material=material)
        with stage("promote"):
            result = _write_out(build, result, command, planned.recipe, checkpoint, clock)
    return result


def _completed(planned: Plan, clock: Clock) -> Plan:
    """The same plan with the bundled detector and rendered photographs; what can be refused early is."""
    from facex.demo import bundled

    workspace.check(planned.recipe.out)
    _require(planned)
    recipe = bundled.completed(planned.recipe, clock, calibrated=planned.calibrated)
    return dataclasses.replace(planned, recipe=recipe)


def _require(planned: Plan) -> None:
    for name in planned.targets:
        target = exporters.info(name)
        exporters.require(target, target.packages, f"the target '{name}'")


def _read(planned: Plan, checkpoint: Path) -> tuple[Evidence, list[Photograph], list[Photograph]]:
    """Everything a run reads, validated before anything is written.

    Returns:
        The evidence for parity, the photographs for calibration, and those that a probe of the contract may run.
    """
    from facex.parity import ground_truth, limits
    from facex.reference import detector, photographs

    recipe = planned.recipe
    workspace.check(recipe.out)
    loaded = detector.load(checkpoint, recipe.contract)
    for size in recipe.sizes:
        detector.check_size(size, loaded.contract)
    images = photographs.find(recipe.images, option="--images") if recipe.images else []
    found = photographs.find(recipe.calib, option="--calib") if recipe.calib else []
    calib = found if planned.calibrated else []
    refuse_overlap([p.sha256 for p in calib], images)
    truth = ground_truth.load(recipe.ground_truth) if recipe.ground_truth else None
    _require(planned)
    checked = tuple(map(limits.checked, recipe.limits))
    return Evidence(detector=loaded, photographs=images, ground_truth=truth, limits=checked), calib, found or images


def _probed(planned: Plan, evidence: Evidence, seen: Sequence[Photograph], clock: Clock) -> Evidence:
    """The same with what photographs tell of the contract, and loud where they contradict what was stated."""
    from facex import identifying

    if not seen or demo.is_bundled(evidence.detector.sha256):
        return evidence
    stated, threads = planned.recipe.contract, planned.recipe.threads
    found = identifying.probed(evidence.detector.path, stated, seen, threads=threads, clock=clock)
    return dataclasses.replace(evidence, detector=identifying.settled(evidence.detector, stated, found))


def refuse_overlap(calibrated: Iterable[str], images: Sequence[Photograph]) -> None:
    """Parity never runs on calibration photographs.

    Args:
        calibrated: SHA-256 sums of the calibration photographs.
        images: photographs for parity.

    Raises:
        PhotographError: they share some, by content.
    """
    sums = set(calibrated)
    shared = [p.path.name for p in images if p.sha256 in sums]
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise PhotographError(
            f"--images and --calib share {', '.join(shared[:3])}{more}",
            hint="parity on calibration photographs flatters the result: keep the two apart",
        )


def _build(
    work: Path, planned: Plan, evidence: Evidence, calib: list[Photograph], clock: Clock
) -> tuple[Manifest, Material]:
    recipe = planned.recipe
    written: dict[Step, Subject] = {}
    calibration: Calibration | None = None
    for size in dict.fromkeys(step.size for step in planned.steps):
        found, calibrated = _export_size(work, planned, evidence, calib, size, clock)
        written.update(found)
        calibration = calibration or calibrated
    subjects = [written[step] for step in planned.steps]
    with _not_the_users(*(s.name for s in subjects)):
        examination = examine(subjects, evidence, threads=recipe.threads, clock=clock, start=recipe.budget.needs_start)
    artifacts = tuple(map(examination.artifact, subjects))
    detector = evidence.detector
    record = Manifest(
        source=Source(
            checkpoint=detector.path.name,
            sha256=detector.sha256,
            contract=detector.contract,
            assumed=detector.assumed,
            settled=detector.settled,
            demonstration=demo.is_bundled(detector.sha256),
        ),
        calibration=calibration,
        evaluation=evaluation_of(evidence.photographs, examination),
        artifacts=artifacts,
        findings=(*examination.findings, *examination.budget_findings(artifacts, recipe.budget)),
        latency=examination.latency,
        tools=tool_versions(planned.targets),
    )
    material = Material(
        facts={s.name: s.facts for s in subjects},
        sightings=examination.sightings,
        plans=tuple(
            QuantizationPlan(title=f"w8a8 at {size}", path=_qdq(work, size), size=size)
            for size in dict.fromkeys(step.size for step in planned.steps if step.precision in CALIBRATED)
        ),
        photographs=evidence.photographs,
        threads=recipe.threads,
    )
    return dataclasses.replace(record, artifacts=tuple(_demoted(a, record) for a in artifacts)), material


def _qdq(work: Path, size: Size) -> Path:
    """The quantization plan that the w8a8 files of a size share, as a QDQ model."""
    return work / f"pivot_{size}_qdq.onnx"


@contextlib.contextmanager
def _not_the_users(*names: str) -> Iterator[None]:
    """An artifact made here that cannot be read is the converter's fault, not a wrong input.

    Raises:
        BackendError: in place of an `ArtifactError` about one of `names`.
    """
    try:
        yield
    except ArtifactError as error:
        if error.stage not in (None, *names):
            raise  # about the ground truth
        failure = BackendError(error.what)
        failure.stage = error.stage
        raise failure from error


def _export_size(
    work: Path, planned: Plan, evidence: Evidence, calib: list[Photograph], size: Size, clock: Clock
) -> tuple[dict[Step, Subject], Calibration | None]:
    """Pivot, quantization plan, and every artifact of one input size."""
    from facex import auditing, quantizing
    from facex.exporters import _pivot

    recipe = planned.recipe
    steps = [step for step in planned.steps if step.size == size]
    pivot = work / f"pivot_{size}.onnx"
    with clock("trace", f"tracing and simplifying at {size}"):
        _pivot.write(evidence.detector, size, recipe.head.traced, recipe.options.opset, pivot, recipe.options.credits)
    jobs = {
        step: exporters.Job(
            path=work / step.file_name,
            precision=step.precision,
            head=recipe.head,
            selection=recipe.selection,
            size=size,
            detector=evidence.detector,
            pivot=pivot,
            qdq=_qdq(work, size) if step.precision in CALIBRATED else None,
            options=exporters.settled(recipe.options, exporters.info(step.target), step.precision),
        )
        for step in steps
    }
    quantized = None
    if calib and any(step.precision in CALIBRATED | ROUNDED for step in steps):
        integer_jobs = {step.target: job for step, job in jobs.items() if job.qdq}
        quantized = quantizing.quantize(integer_jobs, pivot, size, recipe, evidence, calib, clock)
        jobs = {s: dataclasses.replace(j, crops=quantized.crops) for s, j in jobs.items()}
    written = {}
    for step, job in jobs.items():
        if audited(step, recipe):
            found = auditing.fp32_ops(step.target, job, calib, threads=recipe.threads, clock=clock)
            job = dataclasses.replace(job, fp32_ops=found)
        written[step] = _written(step, job, clock)
        if job.qdq and quantized and quantized.integer_qdq:
            quantizing.tell_cost(step.target, job, quantized.integer_qdq, recipe.threads, clock)
    seen = auditing.record(calib, recipe.seed) if any(audited(step, recipe) for step in steps) else None
    return written, quantized.record if quantized else seen


def _written(step: Step, job: exporters.Job, clock: Clock) -> Subject:
    """Export one artifact, and hold what it says of itself against what was asked."""
    target = exporters.load(step.target)
    with clock(f"export {step.target}", f"writing {step.file_name}"):
        target.export(job)
        with _not_the_users(step.file_name):
            facts: FileFacts = target.describe(job.path)
        exporters.verify(job, target.INFO, facts)
    return Subject(
        name=step.file_name,
        path=job.path,
        target=step.target,
        precision=step.precision,
        head=job.head,
        selection=job.selection,
        size=step.size,
        facts=facts,
    )


def _demoted(artifact: Artifact, record: Manifest) -> Artifact:
    if record.verdict(artifact.name) is not Verdict.FAIL:
        return artifact
    return dataclasses.replace(artifact, path=f"{workspace.FOLDER}/{artifact.path}{FAILED_SUFFIX}", promoted=False)


def tool_versions(targets: Iterable[str]) -> dict[str, str]:
    """Versions of Python, facex and every package that had a hand in the artifacts."""
    packages = {"torch", "numpy", "pillow"}
    for name in targets:
        info = exporters.info(name)
        packages.update(info.packages, info.runtimes)
    found = {name: version for name in sorted(packages) if (version := exporters.version(name))}
    return {"facex": __version__, "python": platform.python_version(), **found}


def _write_out(build: Path, result: Result, command: str, recipe: Recipe, checkpoint: Path, clock: Clock) -> Result:
    """Write the reports where everything else was built, then move all of it at once."""
    record, out = result.manifest, recipe.out
    result = write_reports(build, result, command, recipe.report_photographs, clock, checkpoint)
    manifest.write_text(build / manifest.FILE_NAME, manifest.to_json(record.reproducible()))
    moves = [(build / artifact.name, out / artifact.path) for artifact in record.artifacts]
    workspace.promote([*moves, *((build / name, out / name) for name in (*REPORTS, manifest.FILE_NAME))], out)
    return result


def write_reports(
    out: Path,
    result: Result,
    command: str,
    pictures: ReportPhotographs,
    clock: Clock,
    checkpoint: Path | None = None,
) -> Result:
    """`report.json`, `junit.xml` and `report.html` of a run; all are made before one is written.

    Of an export, `report.json` tells where its checkpoint is.

    Returns:
        The result with the time that the page took.

    Raises:
        PhotographError: one that the page shows can no longer be decoded.
        OSError: one cannot be written.
    """
    from facex.report import document, junit

    page = showing.page(result.manifest, result.material, pictures, clock)
    result = dataclasses.replace(result, timings_s={**result.timings_s, **clock.timings_s})
    report = document.to_dict(result.manifest, timings_s=result.timings_s, command=command)
    if checkpoint is not None:
        report[manifest.SOURCE_PATH] = checkpoint.resolve().as_posix()
    for name, text in zip(REPORTS, (document.to_text(report), junit.to_xml(result.manifest), page), strict=True):
        manifest.write_text(out / name, text)
    return result
