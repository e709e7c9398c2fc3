"""The record of a run: dataclass <-> JSON, digests of files, and atomic writes.

The manifest holds no wall-clock time: the same inputs on the same machine give the same bytes. The one
exception is a latency that was held to a limit, with load time and memory; it is recorded because a verdict
without its figure would be worthless.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from facex.errors import EXIT_BUDGET, EXIT_OK, EXIT_PARITY, ArtifactError
from facex.types import (
    Artifact,
    ChannelOrder,
    Contract,
    Credits,
    Finding,
    ForecastOperations,
    Head,
    Latency,
    LatencyKind,
    NeuralEngineForecast,
    Placement,
    Precision,
    Runtime,
    Selection,
    Settled,
    SettledBy,
    Size,
    TensorInfo,
    Verdict,
    as_plain,
)

SCHEMA_VERSION = 1
"""Of the JSON form. A change of a form that was released raises it; form 1 is unreleased and still changes."""

FILE_NAME = "manifest.json"
REPORT_NAME = "report.json"
SOURCE_PATH = "source_path"
"""Key of the report of an export: where its checkpoint was, which no manifest may depend on."""

FACES_FINDING = "matched_f1"
"""The finding that an artifact cannot pass without, once it was compared with the reference at all."""

GOLDENS_FINDING = "golden.lost"
"""The same of an artifact that was held to goldens alone."""

TIMED_FINDINGS = ("latency", "load", "memory")
"""Findings that differ from run to run."""

BUDGET_FINDINGS = ("size", *TIMED_FINDINGS)
"""Findings whose failure is a budget exceeded (exit 4); any other failure is a lost parity (exit 3)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that everything came from.

    Attributes:
        checkpoint: its file name.
        sha256: of its bytes.
        contract: see `facex.types.Contract`.
        assumed: contract fields that nobody stated, that keys and shapes do not prove and no probe decided.
        demonstration: whether it is the detector that facex brings along, which is none for an app.
        settled: how each field that a checkpoint may leave open came about.
    """

    checkpoint: str
    sha256: str
    contract: Contract
    assumed: tuple[str, ...]
    demonstration: bool = False
    settled: tuple[Settled, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How far the ranges from two halves of the photographs differ.

    Attributes:
        median: relative difference of the spans of a tensor's two ranges, 0-1; median over the tensors.
        worst: the largest of them.
        tensor: the tensor where that is.
    """

    median: float
    worst: float
    tensor: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The photographs behind the ranges, and what was done with them.

    Attributes:
        count: how many.
        digest: `digest_of` their SHA-256 sums.
        method: how the ranges were estimated.
        effort: `minmax`, `fast` or `best`, see `facex.types.Effort`; None when nothing was quantized.
        seed: of every random choice.
        photographs_with_faces: those in which the reference finds a face; None when nobody looked.
        near_duplicates: photographs that look like an earlier one; None when nobody looked.
        stability: of the ranges; None when it was not measured.
        sha256: their SHA-256 sums, sorted: parity is never measured on one of them, now or later.
    """

    count: int
    digest: str
    method: str
    effort: str | None
    seed: int
    photographs_with_faces: int | None
    near_duplicates: int | None
    stability: Stability | None
    sha256: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The photographs behind the parity findings; `None` in the manifest when there were none."""

    count: int
    digest: str
    reference_faces: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a run; the attributes are those of the JSON file."""

    source: Source
    calibration: Calibration | None
    evaluation: Evaluation | None
    artifacts: tuple[Artifact, ...]
    findings: tuple[Finding, ...]
    latency: tuple[Latency, ...]
    tools: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, 3 when parity failed, 4 when only a budget was exceeded."""
        return exit_code_of(self.findings)

    def failed(self, artifact: str) -> bool:
        """Whether any finding about the artifact failed."""
        return any(f.artifact == artifact and f.verdict is Verdict.FAIL for f in self.findings)

    def runtimes(self, artifact: str) -> tuple[Runtime | None, ...]:
        """The runtimes that findings about the artifact tell apart; one None where it was not run in several."""
        told = dict.fromkeys(f.runtime for f in self.findings if f.artifact == artifact and f.runtime)
        return tuple(told) or (None,)

    def verdict(self, artifact: str) -> Verdict | None:
        """What all findings about the artifact say together: the worst of `verdict_in` its runtimes.

        Fail goes before skipped, skipped before pass. None when nothing was held to a limit.
        """
        found = {self.verdict_in(artifact, runtime) for runtime in self.runtimes(artifact)}
        return next((v for v in (Verdict.FAIL, Verdict.SKIPPED, Verdict.PASS) if v in found), None)

    def verdict_in(self, artifact: str, runtime: Runtime | None) -> Verdict | None:
        """What the findings about the artifact in one runtime say together, and those that are about no runtime.

        Fail with any failure; else the finding on faces decides, so a small file that nothing could run does
        not pass, or the one on goldens; where there is neither, any limit that was met does. None when nothing was held
        to a limit.
        """
        about = [f for f in self.findings if f.artifact == artifact and f.runtime in (None, runtime)]
        if any(f.verdict is Verdict.FAIL for f in about):
            return Verdict.FAIL
        told = ([f for f in about if f.name == name] for name in (FACES_FINDING, GOLDENS_FINDING))
        deciding = next(filter(None, told), about)
        if any(f.verdict is Verdict.PASS and f.limit is not None for f in deciding):
            return Verdict.PASS
        return Verdict.SKIPPED if any(f.verdict is Verdict.SKIPPED for f in deciding) else None

    def reproducible(self) -> Manifest:
        """Without the latencies that no limit asked for, which differ from run to run."""
        gated = {f.artifact for f in self.findings if f.name in TIMED_FINDINGS and f.limit is not None}
        return dataclasses.replace(
            self,
            latency=tuple(entry for entry in self.latency if entry.artifact in gated),
            findings=tuple(f for f in self.findings if f.name not in TIMED_FINDINGS or f.limit is not None),
        )


def exit_code_of(findings: Iterable[Finding]) -> int:
    """0 when nothing failed, 3 when parity failed, 4 when only a budget was exceeded."""
    failed = [f for f in findings if f.verdict is Verdict.FAIL]
    if any(f.name not in BUDGET_FINDINGS for f in failed):
        return EXIT_PARITY
    return EXIT_BUDGET if failed else EXIT_OK


def digest_of(sums: list[str]) -> str:
    """SHA-256 over the sorted SHA-256 sums of a set of files."""
    return hashlib.sha256("\n".join(sorted(sums)).encode()).hexdigest()


def to_json(manifest: Manifest) -> str:
    """The manifest as JSON text, keys sorted, floats at six significant digits.

    Raises:
        ValueError: a value is not finite, which JSON cannot hold.
    """
    return json.dumps(to_plain(manifest), indent=2, sort_keys=True, allow_nan=False) + "\n"


def to_plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as the plain values that JSON knows, floats at six significant digits."""
    plain: dict[str, Any] = rounded(as_plain(manifest))
    return plain


def rounded(value: Any) -> Any:
    """Plain values with every float at six significant digits."""
    if isinstance(value, float):
        # the last digits differ between processors and thread counts; allow_nan refuses the infinities later
        return float(f"{value:.6g}") if math.isfinite(value) else value
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value


def schema() -> dict[str, Any]:
    """The JSON Schema of `manifest.json`."""
    text = resources.files("facex").joinpath("manifest.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _finite(text: str) -> float:
    """A number of a JSON file. Python's reader would let `NaN` through, and `1e999` as infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_json(path: Path, kind: str) -> Any:
    """The plain values of a JSON file, every number finite.

    Args:
        path: of the file.
        kind: what it should be, for the message.

    Raises:
        ArtifactError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is not a {kind}: {error}") from error


def load(path: Path, *, besides: Collection[str] = ()) -> Manifest:
    """Read and validate a manifest.

    Args:
        path: of a JSON file.
        besides: keys that may stand beside those of a manifest, and are left out.

    Raises:
        ArtifactError: missing, not JSON, of another schema version, or not valid against the schema.
    """
    import jsonschema

    data = read_json(path, "manifest")
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in besides}
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version!r}, this facex reads {SCHEMA_VERSION}",
            hint="export again with this facex",
        )
    # the schema itself is tested: to check it on every call, as jsonschema.validate does, is what takes long
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(data))
    if fault is not None:
        where = "/".join(str(part) for part in fault.absolute_path) or "top level"
        raise ArtifactError(f"{path}: {where}: {fault.message.splitlines()[0][:200]}") from fault
    return _from_plain(data)


def _tensor(entry: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(name=entry["name"], shape=tuple(entry["shape"]), dtype=entry["dtype"])


def contract_from_plain(data: Mapping[str, Any]) -> Contract:
    """A contract from its JSON form.

    Raises:
        KeyError, TypeError, ValueError: `data` is not one.
    """
    contract = dict(data)
    contract["channel_order"] = ChannelOrder(contract["channel_order"])
    contract["min_sizes"] = tuple(tuple(float(side) for side in level) for level in contract["min_sizes"])
    for key in ("strides", "variances", "mean", "scale"):
        contract[key] = tuple(contract[key])
    return Contract(**contract)


def _runtime(entry: Mapping[str, Any]) -> Runtime | None:
    return Runtime(entry["runtime"]) if entry["runtime"] else None


def _calibration(entry: Mapping[str, Any]) -> Calibration:
    stability = Stability(**entry["stability"]) if entry["stability"] else None
    return Calibration(**{**entry, "sha256": tuple(entry["sha256"]), "stability": stability})


def _forecast(entry: Mapping[str, Any]) -> NeuralEngineForecast:
    operations = tuple(
        ForecastOperations(**{**each, "placement": Placement(each["placement"])}) for each in entry["operations"]
    )
    return NeuralEngineForecast(**{**entry, "operations": operations, "notes": tuple(entry["notes"])})


def _artifact(entry: Mapping[str, Any]) -> Artifact:
    forecast = entry["neural_engine_forecast"]
    parsed = {
        "precision": Precision(entry["precision"]),
        "head": Head(entry["head"]),
        "size": Size(**entry["size"]),
        "inputs": tuple(map(_tensor, entry["inputs"])),
        "outputs": tuple(map(_tensor, entry["outputs"])),
        "credits": Credits(**entry["credits"]),
        "neural_engine_forecast": _forecast(forecast) if forecast else None,
        "selection": Selection(**entry["selection"]) if entry["selection"] else None,
    }
    return Artifact(**{**entry, **parsed})


def _from_plain(data: Mapping[str, Any]) -> Manifest:
    return Manifest(
        source=Source(
            checkpoint=data["source"]["checkpoint"],
            sha256=data["source"]["sha256"],
            contract=contract_from_plain(data["source"]["contract"]),
            assumed=tuple(data["source"]["assumed"]),
            demonstration=data["source"]["demonstration"],
            settled=tuple(Settled(**{**entry, "how": SettledBy(entry["how"])}) for entry in data["source"]["settled"]),
        ),
        calibration=_calibration(data["calibration"]) if data["calibration"] else None,
        evaluation=Evaluation(**data["evaluation"]) if data["evaluation"] else None,
        artifacts=tuple(map(_artifact, data["artifacts"])),
        findings=tuple(
            Finding(**{**entry, "verdict": Verdict(entry["verdict"]), "runtime": _runtime(entry)})
            for entry in data["findings"]
        ),
        latency=tuple(
            Latency(**{**entry, "kind": LatencyKind(entry["kind"]), "runtime": _runtime(entry)})
            for entry in data["latency"]
        ),
        tools=dict(data["tools"]),
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's relative paths and contents in sorted order (for `.mlpackage`)."""
    digest = hashlib.sha256()
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
        for name in sorted(files):
            digest.update(os.fsencode(name) + b"\0")
            digest.update(hashlib.sha256(files[name].read_bytes()).digest())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: to a neighbour, flushed to disk, then renamed over the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
