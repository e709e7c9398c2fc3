"""Existing artifacts: hold them against a reference, time them, or read what they say of themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex import architectures, demo, device_bench, exporters, launching, manifest, profiling
from facex.comparing import Evidence
from facex.device_bench.budget import size_findings
from facex.errors import ArtifactError, FacexError, UsageError
from facex.examination import QUICK_RUNS, Examination, evaluation_of, examine, measure, of_runs
from facex.manifest import Manifest, Source
from facex.pipeline import Result, refuse_overlap, tool_versions
from facex.progress import Clock, Progress
from facex.recipe import Budget, check_ground_truth, check_runtimes, check_threads
from facex.report import ratios
from facex.report.wording import plural
from facex.runs import Subject, open_sessions, runs_of, untimed
from facex.showing import Material, QuantizationPlan
from facex.types import (
    ARM64,
    HOST,
    Arch,
    Artifact,
    Contract,
    ContractOptions,
    DeviceFile,
    DeviceOptions,
    DeviceReport,
    FileFacts,
    Finding,
    Head,
    Latency,
    Limit,
    Precision,
    Ratio,
    Runtime,
    Selection,
    Session,
    Size,
    TargetInfo,
    Verdict,
)

if TYPE_CHECKING:
    from facex.goldens.format import Description

HEAD_OUTPUTS = {
    Head.DECODED: {"boxes", "scores", "landmarks"},
    Head.RAW: {"loc", "conf", "landm"},
    Head.DETECTIONS: {"boxes", "scores", "landmarks", "count"},
}
READABLE = "onnx"
"""The target whose w8a8 files show the plan of every target, tensor by tensor."""
MESH = "mesh"
"""Output of a dense regression, beside those of any head."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An artifact found on disk.

    Attributes:
        contract: recorded with it, or None.
        recorded: its entry in the manifest that it was reached through, or None.
    """

    subject: Subject
    contract: Contract | None
    recorded: Artifact | None


def find(paths: Sequence[Path], precision: Precision | None = None) -> tuple[list[Opened], Manifest | None]:
    """The artifacts behind paths: files of any target, or one manifest that stands for all it promoted.

    Args:
        paths: artifacts, or a single `manifest.json`.
        precision: of the artifacts, where their names do not tell.

    Returns:
        The artifacts in order, and the manifest if it was one.

    Raises:
        ArtifactError: missing, unreadable, of no known target, or not of facex's interface.
        UsageError: none at all, two of one name, a precision that is not known, or one for a manifest, which records
            its own.
    """
    if not paths:
        raise UsageError("no artifact was given", hint="name files of any target, or one manifest.json")
    if len(paths) == 1 and paths[0].suffix == ".json":
        if precision:
            raise UsageError(
                f"--precision {precision}: {paths[0].name} records the precision of each artifact",
                hint="name the artifact itself to judge it as another precision",
            )
        record = manifest.load(paths[0])
        promoted = [a for a in record.artifacts if a.promoted]
        if not promoted:
            raise ArtifactError(f"{paths[0]}: promoted no artifact, so there is nothing to check")
        found = [_open(paths[0].parent / a.path, a.precision, a) for a in promoted]
        return [dataclasses.replace(o, contract=record.source.contract) for o in found], record
    opened = [_open(path, precision, None) for path in paths]
    names = [o.subject.name for o in opened]
    if len(set(names)) < len(names):
        raise UsageError("two artifacts have the same file name", hint="check them one at a time")
    return opened, None


def _open(path: Path, precision: Precision | None, recorded: Artifact | None) -> Opened:
    if not path.exists():
        raise ArtifactError(f"{path}: no such file")
    target = exporters.target_of(path)
    if target is None:
        suffixes = ", ".join(exporters.info(name).suffix for name in exporters.names())
        raise ArtifactError(f"{path}: is of no known target", hint=f"known: {suffixes}, or a manifest.json")
    info = exporters.info(target)
    facts = _described(path, target)
    head = _head(path, facts)
    subject = Subject(
        name=path.name,
        path=path,
        target=target,
        precision=precision or _precision(path, info),
        head=head,
        selection=_selection(path, head, facts),
        size=_size(path, facts, info),
        facts=facts,
    )
    text = facts.metadata.get("facex.contract")
    return Opened(subject=subject, contract=_contract(path, text), recorded=recorded)


def _described(path: Path, target: str) -> FileFacts:
    try:
        facts: FileFacts = exporters.load(target).describe(path)
    except FacexError:
        raise
    # a file that facex did not write may hold anything at all, and its reader fail anywhere
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path}: cannot be read as {target}: {type(error).__name__}: {words}") from error
    return facts


def _precision(path: Path, info: TargetInfo) -> Precision:
    try:
        return Precision(path.name.removesuffix(info.suffix).rsplit("_", 1)[-1])
    except ValueError as error:
        raise UsageError(
            f"{path}: its name does not end in a precision",
            hint=f"say which with --precision {'|'.join(Precision)}; it chooses the default limits",
        ) from error


def _head(path: Path, facts: FileFacts) -> Head:
    names = {tensor.name for tensor in facts.outputs}
    for head, expected in HEAD_OUTPUTS.items():
        if names - {MESH} == expected:
            return head
    raise ArtifactError(
        f"{path}: its outputs are {', '.join(sorted(names))}",
        hint="expected boxes, scores, landmarks and possibly count, or loc, conf, landm; and possibly mesh",
    )


def _selection(path: Path, head: Head, facts: FileFacts) -> Selection | None:
    """How a file with a `detections` head chooses faces, as it says itself.

    Raises:
        ArtifactError: it says nothing, or what its outputs contradict.
    """
    if head is not Head.DETECTIONS:
        return None
    try:
        found = exporters.selection_told(facts.metadata)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error.what}") from error
    if found is None:
        raise ArtifactError(
            f"{path}: chooses faces itself, and its metadata does not say by which threshold",
            hint=f"facex writes it as {exporters.SELECTION}",
        )
    rows = next(tensor.shape[-1] for tensor in facts.outputs if tensor.name == "scores")
    if rows != found.max_faces:
        raise ArtifactError(f"{path}: says that it gives {found.max_faces} faces, and has {rows} rows")
    return found


def _size(path: Path, facts: FileFacts, info: TargetInfo) -> Size:
    image = facts.inputs[0] if len(facts.inputs) == 1 else None
    if image is None or image.name != "image" or image.dtype != info.image_dtype or len(image.shape) != 4:
        found = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in facts.inputs)
        raise ArtifactError(f"{path}: its inputs are {found}", hint=f"expected one {info.image_dtype} 'image'")
    height, width, channels = image.shape[1:] if info.channels_last else (*image.shape[2:], image.shape[1])
    if (image.shape[0], channels) != (1, 3) or height < 1 or width < 1:
        raise ArtifactError(
            f"{path}: its image is {list(image.shape)}",
            hint=f"expected [1, {'H, W, 3' if info.channels_last else '3, H, W'}] of a fixed size",
        )
    return Size(height=height, width=width)


def _contract(path: Path, text: str | None) -> Contract | None:
    if text is None:
        return None
    try:
        return manifest.contract_from_plain(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: the contract in its metadata cannot be read: {error}") from error


def check(
    paths: Sequence[Path],
    *,
    reference: Path | None = None,
    goldens: Path | None = None,
    images: Path | None = None,
    ground_truth: Path | None = None,
    contract: ContractOptions | None = None,
    precision: Precision | None = None,
    limits: Sequence[Limit] = (),
    budget: Budget | None = None,
    threads: int = 1,
    runtime: Runtime | Sequence[Runtime] = Runtime.EXECUTOR,
    arch: Arch | None = None,
    progress: Progress | None = None,
) -> Result:
    """Hold existing artifacts against a checkpoint, goldens or both; the result is judged like an export.

    With goldens alone nothing else is compared, and options about a comparison with the checkpoint are refused. The
    contract is what the caller states, completed by what the artifacts record. `runtime` is that of Core ML files;
    of several, each runs every one of them, and is held against facex's executor too where that is one of them.
    `arch` is a processor that TFLite files are run on as well, emulated, and held against this machine's.

    Raises:
        InputError: something given cannot be used.
        MissingSetupError: `arch` was asked for and its emulation is not set up.
        BackendError: a runtime failed.
    """
    from facex.parity import ground_truth as truth
    from facex.parity.limits import checked
    from facex.reference import detector, photographs

    check_threads(threads)
    check_ground_truth(ground_truth, images)
    runtimes = (runtime,) if isinstance(runtime, Runtime) else tuple(runtime)
    check_runtimes(runtimes)
    clock = Clock(progress)
    if reference is None:
        needing = {
            "--images": images,
            "--ground-truth": ground_truth,
            "--limit": tuple(limits),
            "--arch": arch,
            "an option of the contract": contract != ContractOptions() and contract,
        }
        _require_goldens(goldens, [option for option, value in needing.items() if value])
        assert goldens is not None
        return _check_goldens(paths, goldens, precision, budget or Budget(), threads, runtimes, clock)
    with clock("read", f"reading {reference.name}", named=False):
        opened, record = find(paths, precision)
        description = _goldens(goldens, "--goldens")
        if description is not None:
            _check_replay([o.subject for o in opened], description)
        loaded = detector.load(reference, _completed(contract or ContractOptions(), opened))
        for o in opened:
            _check_size(o, loaded.contract)
        toolchain = architectures.ready([o.subject for o in opened]) if arch else None
        stated = tuple(map(checked, limits))
        found = photographs.find(images, option="--images") if images else []
        evidence = Evidence(
            detector=loaded,
            photographs=found,
            ground_truth=truth.load(ground_truth) if ground_truth else None,
            limits=tuple(x for x in stated if toolchain is None or not x.metric.startswith(ARM64)),
        )
    if record and record.calibration and record.calibration.sha256:
        refuse_overlap(record.calibration.sha256, found)
    left_out = [a.name for a in record.artifacts if not a.promoted] if record else []
    if left_out:
        clock.progress.warn(f"not checked, because the export did not promote them: {', '.join(left_out)}")
    if record and record.source.sha256 != loaded.sha256:
        clock.progress.warn(f"{reference.name} is not the checkpoint that the manifest was made from")
    budget = budget or Budget()
    examination = examine(
        [o.subject for o in opened],
        evidence,
        threads=threads,
        clock=clock,
        runtimes=runtimes,
        start=budget.needs_start,
    )
    elsewhere: tuple[Finding, ...] = ()
    if toolchain is not None:
        subjects = [o.subject for o in opened]
        elsewhere = architectures.compare(toolchain, subjects, found, loaded.contract, stated, clock)
    replayed = _replayed([o.subject for o in opened], runtimes, description, threads, clock)
    artifacts = tuple(examination.artifact(o.subject) for o in opened)
    return Result(
        manifest=Manifest(
            source=Source(
                checkpoint=reference.name,
                sha256=loaded.sha256,
                contract=loaded.contract,
                assumed=loaded.assumed,
                settled=loaded.settled,
                demonstration=demo.is_bundled(loaded.sha256),
            ),
            calibration=record.calibration if record else None,
            evaluation=evaluation_of(found, examination),
            artifacts=artifacts,
            findings=(
                *_unchanged(opened, artifacts),
                *examination.findings,
                *elsewhere,
                *replayed,
                *examination.budget_findings(artifacts, budget),
            ),
            latency=examination.latency,
            tools=tool_versions(dict.fromkeys(o.subject.target for o in opened)),
        ),
        timings_s=dict(clock.timings_s),
        material=Material(
            facts={o.subject.name: o.subject.facts for o in opened},
            sightings=examination.sightings,
            plans=tuple(map(_plan, filter(_shows_plan, opened))),
            photographs=found,
            threads=threads,
        ),
    )


def _goldens(folder: Path | None, option: str) -> Description | None:
    from facex.goldens import format as goldens

    return goldens.load(folder, option=option) if folder else None


def _require_goldens(goldens: Path | None, needing: Sequence[str]) -> None:
    """Refuse a check that holds files against nothing, and options of one that holds them against a checkpoint.

    Raises:
        UsageError: either.
    """
    if goldens is None:
        raise UsageError(
            "nothing was given to hold the artifacts against", hint="--reference CHECKPOINT, --goldens FOLDER, or both"
        )
    if needing:
        raise UsageError(f"{needing[0]}: is about a comparison with the checkpoint", hint="add --reference CHECKPOINT")


def _check_goldens(
    paths: Sequence[Path],
    goldens: Path,
    precision: Precision | None,
    budget: Budget,
    threads: int,
    runtimes: Sequence[Runtime],
    clock: Clock,
) -> Result:
    """Hold artifacts against goldens alone; the record's source is what the goldens say of the reference."""
    from facex.goldens import format as format_
    from facex.goldens import gate

    with clock("read", f"reading {goldens.name}", named=False):
        opened, record = find(paths, precision)
        description = format_.load(goldens)
    subjects = [o.subject for o in opened]
    gate.check(subjects, description)
    replayed = _replayed(subjects, runtimes, description, threads, clock)
    examination = _timed(subjects, runtimes, (threads,), clock, warmup=5, runs=QUICK_RUNS, start=budget.needs_start)
    artifacts = tuple(examination.artifact(subject) for subject in subjects)
    return Result(
        manifest=Manifest(
            source=Source(
                checkpoint=description.checkpoint,
                sha256=description.sha256,
                contract=description.contract,
                assumed=(),
                demonstration=demo.is_bundled(description.sha256),
            ),
            calibration=record.calibration if record else None,
            evaluation=None,
            artifacts=artifacts,
            findings=(
                *_unchanged(opened, artifacts),
                *replayed,
                *examination.budget_findings(artifacts, budget),
            ),
            latency=examination.latency,
            tools=tool_versions(dict.fromkeys(subject.target for subject in subjects)),
        ),
        timings_s=dict(clock.timings_s),
        material=Material(facts={subject.name: subject.facts for subject in subjects}, threads=threads),
    )


def _replayed(
    subjects: Sequence[Subject],
    runtimes: Sequence[Runtime],
    description: Description | None,
    threads: int,
    clock: Clock,
) -> list[Finding]:
    """What goldens say of files in every runtime; nothing where there are none."""
    from facex.goldens import gate

    if description is None:
        return []
    runs = runs_of(subjects, runtimes)
    return gate.hold(runs, *open_sessions(runs, threads), description, clock)


def _shows_plan(opened: Opened) -> bool:
    """Whether it is a w8a8 file that can be looked into tensor by tensor."""
    return (opened.subject.target, opened.subject.precision) == (READABLE, Precision.W8A8)


def _plan(opened: Opened) -> QuantizationPlan:
    return QuantizationPlan(title=opened.subject.name, path=opened.subject.path, size=opened.subject.size)


def _check_size(opened: Opened, contract: Contract) -> None:
    from facex.reference import detector

    try:
        detector.check_size(opened.subject.size, contract)
    except UsageError as error:
        raise ArtifactError(
            f"{opened.subject.path}: its image is {opened.subject.size} pixels, which is no input of the reference",
            hint=f"sides are multiples of {detector.size_step(contract)}",
        ) from error


def _completed(stated: ContractOptions, opened: Sequence[Opened]) -> ContractOptions:
    """What the user states, and for the rest what the artifacts record, if they agree."""
    recorded = [o.contract for o in opened if o.contract is not None]
    if not recorded:
        return stated
    if any(other != recorded[0] for other in recorded):
        raise ArtifactError("the artifacts record different contracts", hint="check them one at a time")
    fields = [f.name for f in dataclasses.fields(ContractOptions) if f.name != "landmarks"]
    chosen: dict[str, Any] = {name: getattr(recorded[0], name) for name in fields}
    chosen |= {name: value for name in fields if (value := getattr(stated, name)) is not None}
    return ContractOptions(landmarks=stated.landmarks, **chosen)


def _unchanged(opened: Sequence[Opened], artifacts: Sequence[Artifact]) -> list[Finding]:
    """Whether each file is still the one that the manifest describes."""
    findings = []
    for o, artifact in zip(opened, artifacts, strict=True):
        if o.recorded is None:
            continue
        same = o.recorded.sha256 == artifact.sha256
        findings.append(
            Finding(
                name="unchanged",
                artifact=artifact.name,
                unit="1",
                actual=float(same),
                limit=1.0,
                verdict=Verdict.PASS if same else Verdict.FAIL,
                reason="" if same else "its SHA-256 is not the one in the manifest",
            )
        )
    return findings


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What `bench` found; keys as in the manifest.

    Attributes:
        ratios: of the latencies to those of the float32 file, where it was timed too.
        devices: what devices tell beside the latencies; of this host, where a profile was asked for.
    """

    artifacts: tuple[Artifact, ...]
    findings: tuple[Finding, ...]
    latency: tuple[Latency, ...]
    tools: dict[str, str]
    ratios: tuple[Ratio, ...] = ()
    devices: tuple[DeviceReport, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, 3 when goldens failed, or 4 when only a budget was exceeded."""
        return manifest.exit_code_of(self.findings)


def bench(
    paths: Sequence[Path],
    *,
    budget: Budget | None = None,
    precision: Precision | None = None,
    device: str | Sequence[str] = HOST,
    options: DeviceOptions | None = None,
    replay: Path | None = None,
    progress: Progress | None = None,
) -> Timing:
    """Time artifacts on a device; on this host interleaved, and Core ML files only in their native runtime, on a Mac.

    `device` is a word for `device_bench.find`, or several of them. A device skips files that it cannot time, as long as
    it can time one. On this host, load time and memory are measured in processes of their own, every file is timed with
    every number of threads, and a profile of the operators is a run of its own. `replay` is a folder of goldens that
    every device runs too.

    Raises:
        InputError: something given cannot be used.
        BackendError: a runtime failed.
    """
    options = options or DeviceOptions()
    counts = (options.threads, *options.also_threads)
    for threads in counts:
        check_threads(threads)
    if twice := next((n for i, n in enumerate(counts) if n in counts[:i]), 0):
        raise UsageError(f"--threads {twice}: given twice")
    if options.warmup < 0 or options.runs < 1:
        raise UsageError(f"--warmup {options.warmup} --runs {options.runs}: must be at least 0 and 1")
    words = (device,) if isinstance(device, str) else tuple(device)
    devices = _devices(words, options)
    if replay is not None:
        _refuse_replay(devices, options)
    clock = Clock(progress)
    with clock("read", "reading", named=False):
        opened, _ = find(paths, precision)
        description = _goldens(replay, "--replay")
    subjects = [o.subject for o in opened]
    if description is not None:
        _check_replay(subjects, description)
    examinations: list[Examination] = []
    reports: list[DeviceReport] = []
    replayed: list[Finding] = []
    for word, (module, argument) in devices.items():
        if word == HOST:
            examinations.append(_on_host(subjects, options, clock))
            replayed += _replayed(subjects, (options.runtime,), description, options.threads, clock)
            if options.profile:
                reports.append(profiling.on_host(subjects, options, clock))
        else:
            examination, report = _on_device(subjects, word, module, argument, options, clock)
            examinations.append(examination)
            reports.append(report)
            replayed += _replayed_on(subjects, word, module, argument, options, description, clock)
    artifacts = tuple(_artifact(subject, examinations) for subject in subjects)
    latency = tuple(entry for e in examinations for entry in e.latency)
    return Timing(
        artifacts=artifacts,
        findings=(*_judged(artifacts, words, examinations, budget or Budget()), *replayed),
        latency=latency,
        ratios=ratios.of(artifacts, latency),
        tools=tool_versions(dict.fromkeys(subject.target for subject in subjects)),
        devices=tuple(reports),
    )


def _devices(words: Sequence[str], options: DeviceOptions) -> dict[str, tuple[Any, str]]:
    """Word -> module and argument.

    Raises:
        UsageError: a device is unknown, named twice, or does not know an option that was given; or none is named.
    """
    if not words:
        raise UsageError("no device was given", hint=f"the default is {HOST}")
    if twice := next((word for i, word in enumerate(words) if word in words[:i]), ""):
        raise UsageError(f"--device {twice}: given twice")
    found = {word: device_bench.find(word) for word in words}
    for word, (module, _) in found.items():
        device_bench.refuse_unknown(word, module, options)
    return found


def _refuse_replay(devices: Mapping[str, tuple[Any, str]], options: DeviceOptions) -> None:
    """Refuse devices that give no results back.

    Raises:
        UsageError: there is one, or the options have what runs the files keep them.
    """
    able = [HOST, *(name for name in device_bench.names() if name != HOST and hasattr(_module(name), "replay"))]
    for word, (module, _) in devices.items():
        if word != HOST and not hasattr(module, "replay"):
            raise UsageError(f"--replay: --device {word} gives no results back", hint=f"choose from {', '.join(able)}")
    if options.benchmark_apk:
        raise UsageError("--replay contradicts --benchmark-apk: the app cannot give results back")


def _module(name: str) -> Any:
    return device_bench.find(name)[0]


def _check_replay(subjects: Sequence[Subject], description: Description) -> None:
    from facex.goldens import gate

    gate.check(subjects, description)


def _replayed_on(
    subjects: Sequence[Subject],
    word: str,
    device: Any,
    argument: str,
    options: DeviceOptions,
    description: Description | None,
    clock: Clock,
) -> list[Finding]:
    """What goldens say of files that a device beside this host ran; nothing where there are none."""
    from facex.goldens import gate, replay

    if description is None:
        return []
    able = [s for s in subjects if s.target in device.TARGETS]
    files = [DeviceFile(name=s.name, path=s.path, size=s.size, facts=s.facts) for s in able]
    goldens = description.goldens
    pictures = [replay.pixels(goldens, golden) for golden in goldens.goldens]
    with clock("goldens", f"replaying the goldens on {word}", len(files) * len(pictures)):
        outputs = device.replay(files, pictures, argument, options, clock.progress)
    return gate.judge(able, outputs, description, device_bench.budgeted(word))


def _judged(
    artifacts: Sequence[Artifact], words: Sequence[str], examinations: Sequence[Examination], budget: Budget
) -> tuple[Finding, ...]:
    """Sizes once, then what each device takes against its own budget, and the limits of devices that were not asked."""
    budgets = {each.device: dataclasses.replace(each, others=()) for each in (budget, *budget.others)}
    asked = [device_bench.budgeted(word) for word in words]
    findings = [*size_findings(artifacts, budget)]
    others = tuple(each for device, each in budgets.items() if device not in asked)
    for i, (device, examination) in enumerate(zip(asked, examinations, strict=True)):
        own = budgets.get(device, Budget(device=device))
        findings += examination.latency_findings(artifacts, dataclasses.replace(own, others=() if i else others))
    return tuple(findings)


def _artifact(subject: Subject, examinations: Sequence[Examination]) -> Artifact:
    """A file with what ran it, the first of several that did."""
    found = [examination.artifact(subject) for examination in examinations]
    return next((artifact for artifact in found if artifact.runtime), found[0])


def _on_host(subjects: Sequence[Subject], options: DeviceOptions, clock: Clock) -> Examination:
    counts, (warmup, runs) = (options.threads, *options.also_threads), (options.warmup, options.runs)
    return _timed(subjects, (options.runtime,), counts, clock, warmup=warmup, runs=runs, start=True)


def _timed(
    subjects: Sequence[Subject],
    runtimes: Sequence[Runtime],
    counts: Sequence[int],
    clock: Clock,
    *,
    warmup: int,
    runs: int,
    start: bool,
) -> Examination:
    """Every file with every number of threads, all of one size in turns, and no parity.

    Load time and memory too where `start` says so.
    """
    latency: list[Latency] = []
    ran: dict[str, str] = {}
    no_latency: dict[str, str] = {}
    files = runs_of(subjects, runtimes)
    for size in dict.fromkeys(subject.size for subject in subjects):
        pairs: dict[str, tuple[str, int]] = {}
        opened: dict[str, Session] = {}
        for threads in counts:
            sessions, absent = open_sessions([file for file in files if file.subject.size == size], threads)
            no_latency.update(absent | untimed(sessions))
            ran.update({name: session.runtime for name, session in sessions.items()})
            several = f", {plural(threads, 'thread')}" if len(counts) > 1 else ""
            labels = {name: f"{name}{several}" for name in sessions}
            pairs |= {label: (name, threads) for name, label in labels.items()}
            opened |= {labels[name]: session for name, session in sessions.items()}
        by_label = {label: threads for label, (_, threads) in pairs.items()}
        timed = measure(opened, None, size, by_label, clock, warmup=warmup, runs=runs)
        latency += [dataclasses.replace(entry, artifact=pairs[entry.artifact][0]) for entry in timed]
    order = [file.name for file in files]
    latency.sort(key=lambda entry: order.index(entry.artifact))  # stable: numbers of threads as they were given
    labelled = of_runs(files, launching.added(files, latency, clock) if start else tuple(latency))
    return Examination(
        runs=files, findings=(), latency=tuple(labelled), runtimes=ran, untimed=no_latency, reference_faces=None
    )


def _on_device(
    subjects: Sequence[Subject], word: str, device: Any, argument: str, options: DeviceOptions, clock: Clock
) -> tuple[Examination, DeviceReport]:
    """Files on a device beside this host; see `device_bench`.

    Raises:
        UsageError: the device can time none of the files.
    """
    able = [s for s in subjects if s.target in device.TARGETS]
    files = [DeviceFile(name=s.name, path=s.path, size=s.size, facts=s.facts) for s in able]
    suffixes = ", ".join(exporters.info(target).suffix for target in device.TARGETS)
    if not files:
        raise UsageError(f"--device {word}: times {suffixes} files, and none was given")
    with clock("latency", f"timing on {word}"):
        latency, report = device.measure(files, argument, options, clock.progress)
    reason = f"{word} times {suffixes} files only"
    examination = Examination(
        runs=runs_of(subjects, (options.runtime,)),
        findings=(),
        latency=latency,
        runtimes={entry.artifact: report.runtime for entry in latency if report.runtime},
        untimed={**{s.name: reason for s in subjects if s.target not in device.TARGETS}, **report.skipped},
        reference_faces=None,
    )
    return examination, report
