"""Turn a trained PyTorch RetinaFace into models that a phone app can ship, and prove each still finds the same faces.

The functions here are the command line's equals. They raise `facex.errors.FacexError` for input that cannot be used
and for backends that fail; checks that fail are findings of what they return, and its `exit_code`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from facex.bundling import Result as Bundles
    from facex.checking import Timing
    from facex.diffing import Diff
    from facex.identifying import IdentifiedFile
    from facex.manifest import Manifest
    from facex.progress import Progress
    from facex.reference.probe import Identification

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "bundle", "check", "diff", "export", "identify", "identify_file"]


def export(
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    targets: Iterable[str] = (),
    precisions: Iterable[str] = (),
    int8: bool = False,
    sizes: Iterable[str] = ("640x640",),
    out: str | os.PathLike[str] = "build",
    progress: Progress | None = None,
    **options: Any,
) -> Manifest:
    """Convert a checkpoint, hold every file against it, keep what passes in `out`, and return the manifest.

    Args:
        checkpoint: a PyTorch checkpoint; without one, the detector that facex brings along, which is for trying
            things out.
        targets: names such as `tflite`; all when empty.
        precisions: `fp32`, `fp16`, `w8`, `p6`, `p4`, `w8a8`; for every target.
        int8: adds what each target means by int8.
        sizes: `HEIGHTxWIDTH`, pixels.
        out: folder for what passed.
        progress: shown what is going on.
        **options: the other options of `facex export` by name: `calib`, `int8_effort`, `int8_steps`, `seed`,
            `fp32_ops`, `images`, `ground_truth`, `report_photographs`, `head`, and with the head `detections`
            `score_threshold`, `nms_iou` and `max_faces`; `threads`, `opset`, `deployment_target`, `author`, `license`,
            `model_version`, `max_size_mb`, `max_latency_ms`, `max_load_ms`, `max_memory_mb`; `limits` as texts like
            `"w8a8.matched_f1=0.97"`; and those of the contract, `activation`, `anchors`, `variances`,
            `channel_order`, `mean`, `scale`, `landmarks`, as texts or values.

    Raises:
        facex.errors.InputError: something given cannot be used.
        facex.errors.MissingExtraError: a target's packages are not installed.
        facex.errors.BackendError: a converter, a runtime or the file system failed.
    """
    from pathlib import Path

    from facex import pipeline
    from facex.recipe import Recipe, parse_size
    from facex.types import Precision

    given = _Options(options)
    recipe = Recipe(
        checkpoint=None if checkpoint is None else Path(checkpoint),
        targets=_several("targets", targets),
        precisions=tuple(given.choice("precisions", Precision, x) for x in _several("precisions", precisions)),
        int8=int8,
        sizes=tuple(parse_size(str(size)) for size in _several("sizes", sizes)),
        out=Path(out),
        contract=given.contract(),
        limits=given.limits(),
        budget=given.budget(),
        options=given.export_options(),
        **given.plain("export"),
    )
    return pipeline.run(pipeline.plan(recipe), command="facex.export()", progress=progress).manifest


def bundle(manifest: str | os.PathLike[str], *, progress: Progress | None = None, **options: Any) -> Bundles:
    """Write what an app needs of an export into a folder a platform: models, code and goldens.

    Args:
        manifest: the `manifest.json` of an export, or its folder.
        progress: shown what is going on.
        **options: the other options of `facex bundle` by name: the platforms, `android` and `ios`, each a folder;
            `reference`, `goldens`, `size`, `threads`, and `precisions`, several.

    Raises:
        facex.errors.InputError: something given cannot be used, or a file does not find the faces of the goldens.
        facex.errors.MissingExtraError: the packages that run a platform's files are not installed.
        facex.errors.BackendError: a runtime or the file system failed, or a written bundle fails its own goldens.
    """
    from pathlib import Path

    from facex import bundles as platforms
    from facex import bundling
    from facex.recipe import parse_size
    from facex.types import Precision

    folders = {name: Path(folder) for name in platforms.names() if (folder := options.pop(name, None)) is not None}
    size = options.pop("size", None)
    given = _Options(options)
    precisions = given.several("precisions", Precision)
    return bundling.bundle(
        Path(manifest),
        folders,
        size=None if size is None else parse_size(str(size)),
        precisions=precisions,
        progress=progress,
        **given.plain("bundle"),
    )


def check(
    *artifacts: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Manifest:
    """Hold existing artifacts, or those of one `manifest.json`, against a checkpoint or goldens: what was found.

    Args:
        *artifacts: files, or one manifest.
        reference: the checkpoint; may be left out where `goldens` are given, a bundle or a folder of goldens.
        progress: shown what is going on.
        **options: the other options of `facex check` by name, see `export`; and `goldens`, `precision`, `runtime`: one
            or several of `executor`, `native`, `native-cpu`, `native-gpu`, `native-ane`; and `arch`: `arm64`.

    Raises:
        facex.errors.InputError: something given cannot be used.
        facex.errors.MissingSetupError: `arch` was asked for, and its emulation is not set up.
        facex.errors.BackendError: a runtime failed.
    """
    from pathlib import Path

    from facex import checking

    given = _Options(options)
    result = checking.check(
        [Path(path) for path in artifacts],
        reference=None if reference is None else Path(reference),
        contract=given.contract(),
        limits=given.limits(),
        budget=given.budget(),
        progress=progress,
        **given.plain("check"),
    )
    return result.manifest


def bench(*artifacts: str | os.PathLike[str], progress: Progress | None = None, **options: Any) -> Timing:
    """Time artifacts, or those of one `manifest.json`, on this host or other devices.

    Args:
        *artifacts: files, or one manifest.
        progress: shown what is going on.
        **options: the other options of `facex bench` by name: `threads` (one number, or for this host several),
            `warmup`, `runs`, `precision`, `runtime`, `max_size_mb`, `max_latency_ms`, `max_load_ms`, `max_memory_mb`,
            `device` (one or several), `benchmark_model`, `benchmark_apk`, `delegate`, `cpu_mask`, `profile`, `replay`.

    Raises:
        facex.errors.InputError: something given cannot be used.
        facex.errors.BackendError: a runtime failed.
    """
    from pathlib import Path

    from facex import checking, device_bench
    from facex.device_bench import budget
    from facex.types import HOST

    given = _Options(options)
    limits, device_options = given.budget(), given.device_options()
    plain = given.plain("bench")
    device = plain.pop("device", HOST)
    words = (device,) if isinstance(device, str) else _several("device", device)
    return checking.bench(
        [Path(path) for path in artifacts],
        budget=budget.each(limits, [device_bench.budgeted(word) for word in words] or [HOST]),
        device=words,
        options=device_options,
        progress=progress,
        **plain,
    )


def identify(checkpoint: str | os.PathLike[str], *, progress: Progress | None = None, **options: Any) -> Identification:
    """Find out under which contract a checkpoint was trained, and what cannot be known.

    Args:
        checkpoint: a PyTorch checkpoint.
        progress: shown what is going on.
        **options: the other options of `facex identify` by name: `images`, `photographs`, `threads`, and those of the
            contract, see `export`.

    Raises:
        facex.errors.InputError: something given cannot be used.
    """
    from pathlib import Path

    from facex import identifying

    given = _Options(options)
    stated = given.contract()
    return identifying.identify(Path(checkpoint), contract=stated, progress=progress, **given.plain("identify"))


def identify_file(
    file: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str],
    progress: Progress | None = None,
    **options: Any,
) -> IdentifiedFile:
    """Find out whether a file of any tool was built from a checkpoint, and what it must be fed to work.

    Args:
        file: a `.onnx`, `.tflite` or `.mlpackage`.
        reference: the checkpoint.
        progress: shown what is going on.
        **options: those of `identify`; the contract is the checkpoint's.

    Raises:
        facex.errors.InputError: something given cannot be used.
        facex.errors.BackendError: a runtime failed.
    """
    from pathlib import Path

    from facex import identifying

    given = _Options(options)
    stated = given.contract()
    return identifying.identify_file(
        Path(file), reference=Path(reference), contract=stated, progress=progress, **given.plain("identify")
    )


def diff(old: str | os.PathLike[str], new: str | os.PathLike[str], *, fail_on: Iterable[str] = ()) -> Diff:
    """Compare two manifests: size, time, parity, operators, contract.

    Args:
        old: a `manifest.json`, the folder of one, or a `report.json`.
        new: likewise.
        fail_on: texts like `"regression:5%"` or `"regression:latency:10%"`, as after `facex diff --fail-on`.

    Raises:
        facex.errors.InputError: a manifest or a rule cannot be used.
    """
    from pathlib import Path

    from facex import diffing
    from facex.regression import parse_rule

    rules = tuple(map(parse_rule, _several("fail_on", fail_on)))
    return diffing.diff(Path(old), Path(new), fail_on=rules)


class _Options:
    """Keyword options of the functions above, as the recipe wants them; what is left over is unknown."""

    PLAIN = {  # noqa: RUF012 - a constant
        "export": (
            *("calib", "int8_effort", "int8_steps", "seed", "fp32_ops", "images", "ground_truth", "head", "threads"),
            *("score_threshold", "nms_iou", "max_faces", "report_photographs"),
        ),
        "check": ("images", "ground_truth", "goldens", "precision", "threads", "runtime", "arch"),
        "bundle": ("reference", "goldens", "threads"),
        "identify": ("images", "photographs", "threads"),
        "bench": ("precision", "device", "replay"),
    }

    AS_GIVEN = ("threads", "int8_steps", "seed", "device", "photographs", "score_threshold", "nms_iou", "max_faces")
    """Of those above, what is neither a path nor one of several words."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._left = dict(options)

    def choice(self, option: str, kind: Any, value: Any) -> Any:
        from facex.errors import UsageError

        try:
            return kind(value)
        except ValueError as error:
            raise UsageError(f"{option} {value}: unknown", hint=f"choose from {', '.join(kind)}") from error

    def several(self, option: str, kind: Any) -> Any:
        return tuple(self.choice(option, kind, value) for value in _several(option, self._left.pop(option, ())))

    def contract(self) -> Any:
        from facex.recipe import parse_activation, parse_anchors, parse_numbers
        from facex.types import ChannelOrder, ContractOptions

        def take(name: str, parse: Any, text: Any = str) -> Any:
            """Values are written as text first, so that they meet the same checks."""
            value = self._left.pop(name, None)
            return None if value is None else parse(value if isinstance(value, str) else text(value))

        def numbers(name: str, count: int, *, positive: bool) -> Any:
            return take(name, lambda text: parse_numbers(text, name, count, positive=positive), _commas)

        def slope(name: str) -> Any:
            return take(name, lambda text: parse_activation(text, name), lambda x: f"leaky:{x}" if x else "relu")

        return ContractOptions(
            activation_slope=slope("activation"),
            pyramid_slope=slope("pyramid_activation"),
            min_sizes=take("anchors", parse_anchors, lambda levels: ";".join(map(_commas, levels))),
            variances=numbers("variances", 2, positive=True),
            channel_order=take("channel_order", lambda text: self.choice("channel_order", ChannelOrder, text)),
            mean=numbers("mean", 3, positive=False),
            scale=numbers("scale", 3, positive=True),
            landmarks=self._left.pop("landmarks", None),
        )

    def limits(self) -> Any:
        from facex.parity.limits import parse_limit

        limits = _several("limits", self._left.pop("limits", ()))
        return tuple(parse_limit(x) if isinstance(x, str) else x for x in limits)

    def budget(self) -> Any:
        from facex.recipe import BUDGET_LIMITS, Budget

        return Budget(**{name: self._left.pop(name) for name in BUDGET_LIMITS if name in self._left})

    def export_options(self) -> Any:
        from facex.recipe import DEFAULT_OPTIONS
        from facex.types import Credits, ExportOptions

        return ExportOptions(
            opset=self._left.pop("opset", DEFAULT_OPTIONS.opset),
            deployment_target=self._left.pop("deployment_target", DEFAULT_OPTIONS.deployment_target),
            credits=Credits(
                author=self._left.pop("author", ""),
                license=self._left.pop("license", ""),
                version=self._left.pop("model_version", ""),
            ),
        )

    def device_options(self) -> Any:
        from dataclasses import fields
        from pathlib import Path

        from facex.errors import UsageError
        from facex.types import Delegate, DeviceOptions, Runtime

        names = [field.name for field in fields(DeviceOptions) if field.name != "also_threads"]
        chosen = {name: value for name in names if (value := self._left.pop(name, None)) is not None}
        if not isinstance(chosen.get("threads", 1), int):
            counts = _several("threads", chosen.pop("threads"))
            if not counts:
                raise UsageError("threads: no number was given")
            chosen |= {"threads": counts[0], "also_threads": counts[1:]}
        for name, kind in (("delegate", Delegate), ("runtime", Runtime)):
            if name in chosen:
                chosen[name] = self.choice(name, kind, chosen[name])
        if "benchmark_model" in chosen:
            chosen["benchmark_model"] = Path(chosen["benchmark_model"])
        return DeviceOptions(**chosen)

    def plain(self, function: str) -> dict[str, Any]:
        """What passes through by its own name.

        Raises:
            UsageError: an option is unknown.
        """
        from pathlib import Path

        from facex.errors import UsageError
        from facex.types import Arch, Effort, Fp32Ops, Head, Precision, ReportPhotographs, Runtime

        kinds: dict[str, Any] = {
            "arch": Arch,
            "head": Head,
            "precision": Precision,
            "int8_effort": Effort,
            "runtime": Runtime,
            "fp32_ops": Fp32Ops,
            "report_photographs": ReportPhotographs,
        }
        taken: dict[str, Any] = {}
        for name in self.PLAIN[function]:
            value = self._left.pop(name, None)
            if value is None:
                continue
            if (function, name) == ("check", "runtime"):
                several = (value,) if isinstance(value, str) else _several(name, value)
                value = tuple(self.choice(name, Runtime, each) for each in several)
            elif name in kinds:
                value = self.choice(name, kinds[name], value)
            elif name not in self.AS_GIVEN:
                value = Path(value)
            taken[name.removeprefix("int8_")] = value
        if self._left:
            raise UsageError(f"unknown option {', '.join(sorted(self._left))}")
        return taken


def _several(option: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """The values as a tuple; a text, which is iterable too, is a mistake.

    Raises:
        UsageError: it is a text.
    """
    from facex.errors import UsageError

    if isinstance(values, str):
        raise UsageError(f"{option} {values!r}: must be several", hint=f"for example {option}=[{values!r}]")
    return tuple(values)


def _commas(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))
