"""The commands: options to a recipe, a recipe to a run, a run to a report and an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facex import __version__, config, exporters
from facex import bundles as platforms
from facex.cli_options import (
    PATH,
    RULE,
    budget_of,
    budget_options,
    calibration_options,
    contract_of,
    contract_options,
    conversion_options,
    credit_options,
    device_options,
    evidence_options,
    export_options_of,
    json_option,
    limit_option,
    limits_of,
    photographs_option,
    report_option,
    runtime_option,
    runtimes_option,
    several_threads_option,
    size_option,
    stacked,
    threads_option,
)
from facex.errors import EXIT_BACKEND, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_MISSING_EXTRA, FacexError, UsageError, stage
from facex.recipe import (
    DEFAULT_DEPLOYMENT_TARGET,
    DEFAULT_OPTIONS,
    DEPLOYMENT_TARGETS,
    OPSETS,
    Recipe,
)
from facex.types import (
    Arch,
    DeviceOptions,
    Effort,
    FileFacts,
    Fp32Ops,
    Head,
    KernelFacts,
    Precision,
    ReportPhotographs,
    as_plain,
)

if TYPE_CHECKING:
    from facex.manifest import Manifest
    from facex.pipeline import Result
    from facex.types import Artifact


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="facex")
@click.option(
    "--config",
    "config_path",
    type=PATH,
    help="Options file  [default: ./facex.toml, then [tool.facex] of ./pyproject.toml]",
)
@click.option("--debug", is_flag=True, help="Show tracebacks and what the converters print.")
@click.pass_context
def cli(context: click.Context, config_path: Path | None, debug: bool) -> None:
    """Turn a trained PyTorch RetinaFace into ONNX, TFLite and Core ML, and prove that each still finds the same faces.

    Exit codes: 0 all passed, 2 usage or bad input, 3 parity failed, 4 budget exceeded, 5 a needed extra is missing,
    6 a backend failed.
    """
    if debug:
        os.environ["FACEX_DEBUG"] = "1"
    if config_path is not None and not config_path.is_file():
        raise UsageError(f"--config {config_path}: no such file")
    path = config_path or config.find(Path.cwd())
    if path is not None:
        assert isinstance(context.command, click.Group)
        context.default_map = config.defaults(path, context.command)
        context.obj = config.budgets(path)


@cli.command()
@click.argument("checkpoint", type=PATH, required=False)
@conversion_options
@calibration_options
@evidence_options
@contract_options
@budget_options
@threads_option
@click.option(
    "--opset",
    type=click.IntRange(OPSETS[0], OPSETS[-1]),
    default=DEFAULT_OPTIONS.opset,
    show_default=True,
    help="ONNX operator set.",
)
@click.option(
    "--deployment-target",
    type=click.Choice(DEPLOYMENT_TARGETS),
    help=f"Oldest system of the Core ML files.  [default: {DEFAULT_DEPLOYMENT_TARGET}, or the first that loads them]",
)
@credit_options
@click.option("--out", type=PATH, default=Path("build"), show_default=True, help="Folder for what passed.")
@report_option
@click.option("--plan", "only_plan", is_flag=True, help="Print what would be written, and stop.")
@json_option
def export(checkpoint: Path | None, only_plan: bool, as_json: bool, **values: Any) -> int:
    """Convert CHECKPOINT, hold every file against it, and keep what passes.

    Without a checkpoint the demonstration detector that facex brings along is exported, and photographs are rendered
    where --calib and --images name none; without --precision then in everything that the targets can write.

    \b
    Examples:
      facex export
      facex export model.pth --target tflite --fp16 --images photos/
      facex export model.pth --target tflite --int8 --calib calib/ --images photos/ --size 480x640
      facex export model.pth --target onnx --target coreml --activation relu --channel-order rgb --out build/
    """  # noqa: D301 - click wants the character itself
    from facex import pipeline

    if values.pop("fp16"):
        values["precisions"] = (*values["precisions"], Precision.FP16)
    values["precisions"] = (*values["precisions"], *(f"p{bits}" for bits in values.pop("palettes")))
    recipe = Recipe(
        checkpoint=checkpoint,
        targets=values.pop("targets"),
        precisions=tuple(map(Precision, values.pop("precisions"))),
        sizes=tuple(values.pop("sizes")),
        head=Head(values.pop("head")),
        effort=Effort(values.pop("effort")),
        fp32_ops=Fp32Ops(values.pop("fp32_ops")),
        contract=contract_of(values),
        limits=limits_of(values),
        budget=budget_of(values),
        options=export_options_of(values),
        **values,
    )
    planned = pipeline.plan(recipe)
    if only_plan:
        with _printing():
            click.echo(_json(as_plain(planned), 0) if as_json else f"{planned}\n", nl=False)
        return 0
    with _progress() as progress:
        result = pipeline.run(planned, command=_command(), progress=progress)
    page = _page(recipe.out, result, recipe.report_photographs)
    return _report(result.manifest, result.timings_s, recipe.out, as_json, page)


@cli.command()
@click.argument("manifest", type=PATH)
@stacked(
    *(
        click.option(f"--{name}", metavar="DIR", type=PATH, help=f"Folder for the {name} bundle.")
        for name in platforms.names()
    )
)
@click.option("--reference", type=PATH, help="The checkpoint of the export.  [default: where the export found it]")
@click.option(
    "--goldens",
    type=PATH,
    help="Folder of photographs with faces to choose the goldens from.  [default: rendered ones]",
)
@size_option
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(list(map(str, Precision))),
    multiple=True,
    help="Models to take along, the default first; repeatable.  [default: all that passed]",
)
@threads_option
@json_option
def bundle(manifest: Path, as_json: bool, **values: Any) -> int:
    """Write what an app needs of an export into a folder a platform: models, code, and goldens that prove it at work.

    Goldens are photographs with the faces that must be found in them, and how far each model may be off. A folder that
    facex bundle wrote before is replaced, as a whole; one that holds anything else is refused. See docs/bundles.md.

    \b
    Examples:
      facex bundle build/manifest.json --android app/face --ios FaceKit
      facex bundle build/manifest.json --android app/face --goldens photos/ --precision w8a8
    """  # noqa: D301 - click wants the character itself
    from facex import bundling

    folders = {name: folder for name in platforms.names() if (folder := values.pop(name)) is not None}
    precisions = tuple(map(Precision, values.pop("precisions")))
    with _progress() as progress:
        result = bundling.bundle(manifest, folders, precisions=precisions, progress=progress, **values)
    with _printing():
        if as_json:
            click.echo(_json(as_plain(result), result.exit_code), nl=False)
        else:
            from facex.report import bundles

            bundles.render(result, _console())
    return result.exit_code


@cli.command()
@click.argument("folder", type=PATH)
@click.option("--count", type=click.IntRange(1, 100_000), default=16, show_default=True, help="Photographs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything in them.")
def render(folder: Path, count: int, seed: int) -> int:
    """Render photographs of people who do not exist into the new FOLDER, with gt.json: the truth about every face.

    \b
    Examples:
      facex render faces --count 64
      facex render others --count 64 --seed 1
    """  # noqa: D301 - click wants the character itself
    from facex.demo import gallery

    with _progress() as progress:
        progress.start(f"rendering {count} photographs", count)
        gallery.render(folder, stream=gallery.Stream.OTHER, count=count, seed=seed, progress=progress)
    with _printing():
        click.echo(f"{folder}: {count} photographs in {gallery.IMAGES}/, what is in them in {gallery.GROUND_TRUTH}")
    return 0


@cli.command()
@click.argument("artifacts", type=PATH, nargs=-1, required=True)
@click.option("--reference", type=PATH, help="The checkpoint that the artifacts must agree with.")
@click.option("--goldens", type=PATH, help="A bundle, or a folder of goldens, that the artifacts must reproduce.")
@click.option("--precision", type=click.Choice(list(map(str, Precision))), help="Of artifacts whose names do not tell.")
@evidence_options
@contract_options
@budget_options
@threads_option
@runtimes_option
@click.option(
    "--arch",
    type=click.Choice(list(map(str, Arch))),
    callback=lambda _context, _option, value: Arch(value) if value else None,
    help="Also run TFLite files on this processor, emulated, and hold them against this machine's; see doctor.",
)
@click.option("--out", type=PATH, help="Folder for report.html, report.json and junit.xml.")
@report_option
@json_option
def check(artifacts: Sequence[Path], as_json: bool, **values: Any) -> int:
    """Hold existing ARTIFACTS, or all those of one manifest.json, against a checkpoint or goldens: the gate for CI.

    Goldens are what facex bundle left beside the models, and need neither checkpoint nor photographs. With a
    checkpoint, what the contract options do not state is taken from what the artifacts record.

    \b
    Examples:
      facex check build/manifest.json --reference model.pth --images photos/
      facex check app/assets/face_w8a8.tflite --reference model.pth --images photos/ --min-f1 0.98 --max-size-mb 0.7
      facex check build/model_640x640_w8a8.tflite --reference model.pth --images photos/ --arch arm64
      facex check build/model_640x640_w8a8.tflite --goldens app/face
    """  # noqa: D301 - click wants the character itself
    from facex import checking, workspace
    from facex.pipeline import write_reports
    from facex.progress import Clock

    out, pictures = values.pop("out"), values.pop("report_photographs")
    if out is not None:
        workspace.check_folder(out)
    precision = values.pop("precision")
    with _progress() as progress:
        result = checking.check(
            artifacts,
            contract=contract_of(values),
            limits=limits_of(values),
            budget=budget_of(values),
            precision=Precision(precision) if precision else None,
            progress=progress,
            **values,
        )
        if out is not None:
            with stage("report"):
                result = write_reports(out, result, _command(), pictures, Clock(progress))
    page = _page(out, result, pictures) if out is not None else ""
    return _report(result.manifest, result.timings_s, None, as_json, page)


@cli.command()
@click.argument("artifacts", type=PATH, nargs=-1, required=True)
@click.option("--precision", type=click.Choice(list(map(str, Precision))), help="Of artifacts whose names do not tell.")
@click.option("--warmup", type=click.IntRange(0), default=5, show_default=True, help="Rounds before the timed ones.")
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Timed rounds.")
@budget_options
@several_threads_option
@runtime_option
@device_options
@click.option(
    "--replay",
    type=PATH,
    help="A bundle, or a folder of goldens, that this host or the phone of adb must reproduce as well.",
)
@json_option
def bench(artifacts: Sequence[Path], as_json: bool, **values: Any) -> int:
    """Time ARTIFACTS, or all those of one manifest.json, on this host, where several are interleaved, or on devices.

    \b
    Examples:
      facex bench build/model_640x640_fp32.tflite build/model_640x640_w8a8.tflite --threads 1 --threads 2
      facex bench build/model_640x640_w8a8.onnx --profile
      facex bench build/manifest.json --max-latency-ms 30 --max-size-mb 2
      facex bench build/model_640x640_w8a8.tflite --device adb --threads 4 --cpu-mask f0
      facex bench build/model_640x640_w8a8.tflite --device adb --replay app/face
      facex bench build/model_640x640_w8a8.tflite --device pixel-4 --device snapdragon-8-gen-2
    """  # noqa: D301 - click wants the character itself
    from facex import checking

    precision, device, replay = values.pop("precision"), values.pop("device"), values.pop("replay")
    threads = values.pop("threads")
    with _progress() as progress:
        timing = checking.bench(
            artifacts,
            budget=budget_of(values, device),
            precision=Precision(precision) if precision else None,
            device=device,
            options=DeviceOptions(threads=threads[0], also_threads=threads[1:], **values),
            replay=replay,
            progress=progress,
        )
    with _printing():
        if as_json:
            click.echo(_json(as_plain(timing), timing.exit_code), nl=False)
        else:
            from facex.report import devices, listing

            console = _console()
            listing.timing(timing.artifacts, timing.latency, timing.findings, console)
            for report in timing.devices:
                devices.told(report, console)
    return timing.exit_code


@cli.command()
@click.argument("artifacts", type=PATH, nargs=-1, required=True)
@click.option("--precision", type=click.Choice(list(map(str, Precision))), help="Of artifacts whose names do not tell.")
@json_option
def inspect(artifacts: Sequence[Path], precision: str | None, as_json: bool) -> int:
    """Show what ARTIFACTS, or all those of one manifest.json, say of themselves.

    A TFLite file is also run, for about two seconds, to tell which operators the XNNPACK delegate leaves to reference
    kernels, and their share of the time on this host.

    \b
    Examples:
      facex inspect build/model_640x640_w8a8.tflite
      facex inspect build/manifest.json --json
    """  # noqa: D301 - click wants the character itself
    from facex import checking

    opened, record = checking.find(artifacts, Precision(precision) if precision else None)
    described = []
    with _progress() as progress:
        for o in opened:
            progress.start(f"inspecting {o.subject.name}")
            artifact = o.subject.artifact(o.recorded.runtime if o.recorded else None)
            described.append((artifact, o.subject.facts, exporters.kernels(o.subject.target, o.subject.path)))
    with _printing():
        if as_json:
            listed = [_inspected(*each) for each in described]
            plain = {"artifacts": listed, "manifest": as_plain(record) if record else None}
            click.echo(_json(plain, 0), nl=False)
        else:
            from facex.report import listing

            listing.facts(described, record, _console())
    return 0


@cli.command()
@click.argument("file", type=PATH)
@click.option("--reference", type=PATH, help="The checkpoint that an exported FILE is held against.")
@click.option("--images", type=PATH, help="Folder of photographs with faces, unlabelled.")
@click.option(
    "--photographs",
    type=click.IntRange(1),
    default=24,
    show_default=True,
    help="How many of them, evenly spaced over the folder.",
)
@contract_options
@threads_option
@json_option
def identify(file: Path, reference: Path | None, as_json: bool, **values: Any) -> int:
    """Find out under which contract a checkpoint FILE was trained: activation, anchors, variances, channel order, mean.

    Weights tell a part, photographs of people nearly all of it. What nothing decides is undecided, never guessed; what
    the options state is kept, and a clear contradiction is shown.

    With --reference CHECKPOINT, whether an exported FILE of any tool was built from it, and what it must be fed to
    work; the options are then about the checkpoint. The exit code is 3 where the file is not what it should be.

    \b
    Examples:
      facex identify model.pth
      facex identify model.pth --images photos/
      facex identify model.pth --images photos/ --activation relu --json
      facex identify app/assets/face.tflite --reference model.pth --images photos/
    """  # noqa: D301 - click wants the character itself
    from facex import identifying
    from facex.report import foreign, identified

    contract, exported = contract_of(values), exporters.target_of(file) is not None
    if exported and reference is None:
        raise UsageError(f"{file}: is no checkpoint", hint="name the one that it may come from: --reference CHECKPOINT")
    if reference is not None:
        with _progress() as progress:
            result = identifying.identify_file(
                file, reference=reference, contract=contract, progress=progress, **values
            )
        with _printing():
            if as_json:
                click.echo(_json(result.plain(), result.exit_code), nl=False)
            else:
                foreign.render(result.file, result.reference, _console())
        return result.exit_code
    with _progress() as progress:
        found = identifying.identify(file, contract=contract, progress=progress, **values)
    with _printing():
        if as_json:
            click.echo(_json(identified.plain(found), 0), nl=False)
        else:
            identified.render(found, _console())
    return 0


@cli.command()
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option(
    "--fail-on",
    type=RULE,
    multiple=True,
    help="regression:TOLERANCE or regression:METRIC:TOLERANCE, e.g. regression:5%, regression:size:2%; repeatable.",
)
@json_option
def diff(old: Path, new: Path, fail_on: Sequence[Any], as_json: bool) -> int:
    """Compare two manifests, for a release note or as a gate: size, time, parity, operators, contract.

    OLD and NEW are a manifest.json, the folder of one, or a report.json, which has every latency. With --fail-on the
    exit code is 3 where parity became worse, and 4 where only size, time or memory did. A tolerance in per cent is a
    share of the old value, for parity of its limit where that is more; a number is in the unit of the metric.

    \b
    Examples:
      facex diff released/ build/
      facex diff released/ build/ --fail-on regression:5% --fail-on regression:matched_f1:0.002
    """  # noqa: D301 - click wants the character itself
    from facex import diffing

    found = diffing.diff(old, new, fail_on=fail_on)
    with _printing():
        if as_json:
            click.echo(_json(as_plain(found), found.exit_code), nl=False)
        else:
            from facex.report import changes

            changes.render(found, _console())
    return found.exit_code


@cli.command("debug-int8")
@click.argument("artifact", type=PATH)
@click.option("--images", type=PATH, required=True, help="Folder of photographs to run.")
@photographs_option
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Rows of the table.")
@limit_option
@threads_option
@json_option
def debug_int8(artifact: Path, top: int, as_json: bool, **values: Any) -> int:
    """Show what 8 bits do to every tensor of ARTIFACT, a w8a8 ONNX file, and what each costs the head.

    Each tensor is compared with the float one, and put on its grid alone to see what the head loses. Other targets
    share the quantization plan of the .onnx of the same export: for them only the lint is shown.

    \b
    Examples:
      facex debug-int8 build/model_640x640_w8a8.onnx --images photos/
      facex debug-int8 build/model_640x640_w8a8.onnx --images photos/ --photographs 64 --top 40
    """  # noqa: D301 - click wants the character itself
    from facex import debugging

    with _progress() as progress:
        found = debugging.debug(artifact, progress=progress, **values)
    code = found.exit_code if found.insight is not None else EXIT_INPUT
    with _printing():
        if as_json:
            click.echo(_json(found.plain(), code), nl=False)
        else:
            from facex.report import listing

            listing.debugged(found, top, _console())
    found.refuse_unread()
    return code


@cli.command("debug-fp16")
@click.argument("artifact", type=PATH)
@click.option("--images", type=PATH, required=True, help="Folder of photographs to run.")
@photographs_option
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Rows of the table.")
@threads_option
@json_option
def debug_fp16(artifact: Path, top: int, as_json: bool, **values: Any) -> int:
    """Show what half precision would do to every value of ARTIFACT, a Core ML file in single precision (fp32).

    Only single precision shows how far values go, so give the fp32 file of the same export. What is at risk is what
    export --fp32-ops auto would keep in float32; it is no failure, and the exit code is 0.

    \b
    Examples:
      facex debug-fp16 build/model_640x640_fp32.mlpackage --images photos/
      facex debug-fp16 build/model_640x640_fp32.mlpackage --images photos/ --photographs 64 --top 40
    """  # noqa: D301 - click wants the character itself
    from facex import debugging_fp16

    with _progress() as progress:
        found = debugging_fp16.debug(artifact, progress=progress, **values)
    with _printing():
        if as_json:
            click.echo(_json(found.plain(), 0), nl=False)
        else:
            from facex.report import listing

            listing.audited(found, top, _console())
    return 0


@cli.command()
@click.option(
    "--target",
    "targets",
    type=click.Choice(exporters.names()),
    multiple=True,
    help="Exit with 5 unless this target can be exported here; repeatable.",
)
@click.option("--setup-arm64", is_flag=True, help="Show the commands that prepare check --arch arm64 on this machine.")
@click.option("--yes", is_flag=True, help="With --setup-arm64: run them, which downloads packages into the cache.")
@json_option
def doctor(targets: Sequence[str], setup_arm64: bool, yes: bool, as_json: bool) -> int:
    """Show which targets can be exported and run here, and what is missing.

    \b
    Examples:
      facex doctor
      facex doctor --target coreml
      facex doctor --setup-arm64 --yes
    """  # noqa: D301 - click wants the character itself
    from facex import doctor as doctors

    if setup_arm64:
        return _setup_arm64(yes, targets, as_json)
    if yes:
        raise UsageError("--yes: belongs to --setup-arm64")
    health = doctors.examine()
    code = EXIT_MISSING_EXTRA if any(t.name in targets and not t.exports for t in health.targets) else 0
    with _printing():
        if as_json:
            click.echo(_json(as_plain(health), code), nl=False)
        else:
            from facex.report import listing

            listing.health(health, _console())
    return code


def _setup_arm64(yes: bool, targets: Sequence[str], as_json: bool) -> int:
    from facex.device_bench import emulator_setup

    if targets or as_json:
        raise UsageError(f"--setup-arm64: goes with --yes alone, not with {'--target' if targets else '--json'}")
    preparation = emulator_setup.plan()
    if yes and not preparation.is_ready:
        with _progress() as progress:
            emulator_setup.prepare(preparation, progress)
    with _printing():
        done = f"{preparation.folder}: ready; facex check --arch arm64 uses it\n"
        click.echo(done if preparation.is_ready else preparation.script(), nl=False)
    return 0


@cli.group()
def weights() -> None:
    """List public checkpoints to try facex with, and fetch one.

    They go to $FACEX_CACHE or this user's cache folder. Nothing is fetched unless pull asks for it by name.

    \b
    Examples:
      facex weights list
      facex weights pull mnet025
    """  # noqa: D301 - click wants the character itself


@weights.command("list")
@json_option
def weights_list(as_json: bool) -> int:
    """Show the public checkpoints: licence, address, checksum, what is in the cache, and how to export each.

    \b
    Examples:
      facex weights list
      facex weights list --json
    """  # noqa: D301 - click wants the character itself
    from facex import cache
    from facex import weights as checkpoints

    found = [checkpoints.look(checkpoint) for checkpoint in checkpoints.catalogue()]
    with _printing():
        if as_json:
            plain = {"cache": cache.folder().as_posix(), "checkpoints": [copy.plain() for copy in found]}
            click.echo(_json(plain, 0), nl=False)
        else:
            from facex.report import listing

            listing.weights(found, _console())
    return 0


@weights.command("pull")
@click.argument("name")
@json_option
def weights_pull(name: str, as_json: bool) -> int:
    """Fetch the public checkpoint NAME into the cache, verify its checksum, and show how to export it.

    One that is there already is verified again, without a connection. An interrupted pull goes on where it stopped.

    \b
    Examples:
      facex weights pull mnet025
      facex weights pull mnet025_relu --json
    """  # noqa: D301 - click wants the character itself
    from facex import weights as checkpoints
    from facex.report import listing

    checkpoint = checkpoints.find(name)
    if not as_json:
        with _printing():
            listing.licence(checkpoint, _console())
    with _progress() as progress:
        pulled = checkpoints.pull(checkpoint, progress)
    with _printing():
        if as_json:
            click.echo(_json(pulled.plain(), 0), nl=False)
        else:
            listing.pulled(pulled, _console())
    return 0


def _inspected(artifact: Artifact, facts: FileFacts, kernels: KernelFacts | None) -> dict[str, Any]:
    """One entry of `inspect --json`: keys of the artifact, of its file and of its kernels, null where nobody asked."""
    said = {key: as_plain(value) for key, value in vars(facts).items() if key not in ("inputs", "outputs")}
    unasked = dict.fromkeys(field.name for field in dataclasses.fields(KernelFacts))
    return {**as_plain(artifact), **said, **(as_plain(kernels) if kernels is not None else unasked)}


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Write to stdout: a reader that goes away, as `| head` does, changes nothing about the result."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _json(plain: dict[str, Any], code: int) -> str:
    from facex.manifest import rounded
    from facex.report import document

    return document.to_text(rounded({**plain, "exit_code": code}))


def _command() -> str:
    return shlex.join(["facex", *sys.argv[1:]])


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _page(out: Path, result: Result, pictures: ReportPhotographs) -> str:
    """Where the page is, and whether photographs are in it."""
    shown = pictures is ReportPhotographs.WORST and any(seen.scenes for seen in result.material.sightings.values())
    return f"{out / 'report.html'}{', with photographs (--report-photographs none)' if shown else ''}"


def _report(record: Manifest, timings_s: Any, out: Path | None, as_json: bool, page: str) -> int:
    with _printing():
        if as_json:
            from facex.report import document

            text = document.to_text(document.to_dict(record, timings_s=timings_s, command=_command()))
            click.echo(text, nl=False)
        else:
            from facex.report import terminal

            terminal.render(record, out_dir=out, console=_console(), page=page)
    return record.exit_code


def _progress() -> Any:
    from facex.report.progress import TerminalProgress

    return TerminalProgress()


def main() -> None:
    """Run the command line and exit with its code; errors are one line on stderr, and a traceback with --debug."""
    signal.signal(signal.SIGTERM, _interrupt)
    # OpenMP threads that spin between torch's operators take the cores from every other runtime. Read when torch is
    # first imported, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in sys.argv[1:]
    if not debug:
        warnings.simplefilter("ignore")  # those of libraries; ours are lines of the progress
    try:
        code = cli.main(prog_name="facex", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = EXIT_INPUT
    except click.ClickException as error:
        code = _say(_one_line(error), EXIT_INPUT)
    except FacexError as error:
        if debug:
            traceback.print_exc()
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _say("interrupted; nothing was changed", EXIT_INTERRUPTED)
    except SystemExit:
        code = 0  # click exits by itself only when the reader of its own text, such as --help, went away
    except Exception as error:  # noqa: BLE001 - the last boundary; a traceback is for --debug
        if debug:
            traceback.print_exc()
        code = _say(
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]} — a fault of facex; "
            "run again with --debug and report it",
            EXIT_BACKEND,
        )
    sys.exit(code or 0)


def _one_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())


def _say(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
