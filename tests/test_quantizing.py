"""The w8a8 part of an export: what is recorded, what is left in float on demand, and what that is said to cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from facex import exporters, manifest, mixing, quantizing, workspace
from facex.calibration import engine
from facex.calibration.hygiene import Hygiene
from facex.calibration.plan import QuantizationPlan
from facex.calibration.qdq import FLOAT_OPERATORS
from facex.errors import MissingExtraError
from facex.manifest import Stability
from facex.progress import Clock, Silent
from facex.recipe import Recipe
from facex.reference import photographs
from facex.types import Effort, ExportOptions, Head, Limit, Precision, Size

Run = Callable[..., Any]
SIZE = Size(height=160, width=160)
ONNX, TFLITE = "seeded_160x160_w8a8.onnx", "seeded_160x160_w8a8.tflite"


class Recorder(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Calibrated:
    """Stands for the engine's answer: it writes what it was asked to leave in float."""

    def __init__(self, hygiene: Hygiene) -> None:
        self.hygiene = hygiene
        self.plan = QuantizationPlan(activations={}, method="a method")

    def write(self, path: Path, floats: frozenset[str] = frozenset()) -> None:
        path.write_text(json.dumps(sorted(floats)))


@dataclasses.dataclass
class Session:
    """As much of `facex.types.Session` as is read here."""

    runtime: str
    untimed: str


@dataclasses.dataclass
class Evidence:
    """As much of `facex.comparing.Evidence` as is read here."""

    photographs: list[Any]
    detector: Any


def job_of(folder: Path, detector: Any) -> exporters.Job:
    """A w8a8 file that is to be `mixed.onnx`."""
    return exporters.Job(
        path=folder / "mixed.onnx", precision=Precision.W8A8, head=Head.DECODED, size=SIZE, detector=detector,
        pivot=folder / "pivot.onnx", qdq=folder / "qdq.onnx",
        options=ExportOptions(opset=17, deployment_target="iOS16"),
    )  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, detector: Any) -> exporters.Job:
    """`job_of` a folder below another, as a run has them."""
    (tmp_path / "work" / "build-1-x").mkdir(parents=True)
    return job_of(tmp_path / "work" / "build-1-x", detector)


@pytest.fixture
def quantize(
    monkeypatch: pytest.MonkeyPatch, job: exporters.Job, detector: Any, calib_dir: Path
) -> Callable[..., tuple[quantizing.Quantized, Recorder, list[Any]]]:
    """`quantize(limits=…, floats=…)`: everything but calibration and search, which answer at once, for `job`."""
    stability = Stability(median=0.1, worst=0.2, tensor="x")
    hygiene = Hygiene(
        count=4, photographs_with_faces=3, empty=(), groups=(("a", "b"),), exact_duplicates=0, source="",
        stability=stability,
    )  # fmt: skip

    def run(
        *,
        floats: frozenset[str] = frozenset(),
        images: tuple[Any, ...] = ("a photograph",),
        integers: bool = True,
        **options: Any,
    ) -> tuple[quantizing.Quantized, Recorder, list[Any]]:
        asked: list[Any] = []

        def read(pivot: Path, found: Any, setting: Any, clock: Clock) -> engine.Seen:
            assert pivot == job.pivot
            return engine.Seen([p.path for p in found], [], hygiene)

        def calibrate(*arguments: Any, states: Path, clock: Clock) -> Calibrated:
            asked.append((*arguments, states))
            return Calibrated(hygiene)

        def floats_for(_: Any, goal: Any, measured_on: Any, *, jobs: Any, **__: Any) -> frozenset[str]:
            asked.append((goal, list(measured_on), jobs))
            return floats

        monkeypatch.setattr(engine, "read", read)
        monkeypatch.setattr(engine, "rounding_crops", lambda seen, setting: (len(seen.pixels), setting.seed))
        monkeypatch.setattr(engine, "calibrate", calibrate)
        monkeypatch.setattr(mixing, "floats_for", floats_for)
        recorder = Recorder()
        recipe = Recipe(checkpoint=Path("a.pth"), calib=calib_dir, **options)
        calib = photographs.find(calib_dir, option="--calib")
        evidence: Any = Evidence(photographs=list(images), detector=detector)
        jobs = {"onnx": job} if integers else {}
        found = quantizing.quantize(jobs, job.pivot, SIZE, recipe, evidence, calib, Clock(recorder))
        return found, recorder, asked

    return run


def test_the_record_is_of_every_photograph_and_of_what_was_asked(quantize: Any, job: Any, calib_dir: Path) -> None:
    found, recorder, asked = quantize(effort=Effort.FAST, seed=7, threads=2, head=Head.RAW)
    sums = sorted(manifest.sha256_of(path) for path in calib_dir.iterdir())
    record = found.record
    assert (record.count, record.sha256, record.digest) == (4, tuple(sums), manifest.digest_of(sums))
    assert (record.method, record.effort, record.seed) == ("a method", "fast", 7)
    assert (record.photographs_with_faces, record.near_duplicates) == (3, 1)
    assert record.stability == Stability(median=0.1, worst=0.2, tensor="x")
    (pivot, seen, setting, states) = asked[0]
    assert len(asked) == 1, "nothing was demanded, so nothing is searched for"
    assert (setting.size, setting.head, setting.effort, setting.seed, setting.threads) == (
        SIZE, Head.RAW, Effort.FAST, 7, 2
    )  # fmt: skip
    assert len(seen.pixels) == 4
    assert states == pivot.parent.parent, "a state outlives the folder that is built in"
    assert any("4 photographs are few" in text and f"--calib {calib_dir}" in text for text in recorder.warnings)
    assert (job.qdq.read_text(), found.integer_qdq) == ("[]", None)


def test_rounding_needs_no_integers(quantize: Any, job: Any) -> None:
    found, recorder, asked = quantize(integers=False, seed=5)
    assert not asked
    assert not job.qdq.exists()
    assert found.crops == (4, 5)
    assert (found.record.method, found.record.count) == ("rounded-with-feedback", 4)
    assert any("4 photographs are few" in text for text in recorder.warnings)


@pytest.mark.parametrize(
    ("effort", "recorded"), [(Effort.MINMAX, "minmax"), (Effort.FAST, "fast"), (Effort.BEST, "best")]
)
def test_the_recorded_effort_is_in_the_manifests_words(quantize: Any, effort: Effort, recorded: str) -> None:
    assert quantize(effort=effort)[0].record.effort == recorded
    assert recorded in manifest.schema()["$defs"]["calibration"]["properties"]["effort"]["enum"]


@pytest.mark.parametrize(("steps", "pool"), [(2, 32), (10**6, 1536)])
def test_no_more_crops_are_drawn_than_steps_learn_from(quantize: Any, steps: int, pool: int) -> None:
    _, _, asked = quantize(steps=steps)
    schedule = asked[0][2].schedule
    assert (schedule.steps, schedule.pool) == (steps, pool)


def test_a_demand_leaves_in_float_what_the_search_finds(quantize: Any, job: Any) -> None:
    demand = Limit(metric="matched_f1", value=0.98, precision=None)
    found, _, asked = quantize(limits=(demand,), floats=frozenset({"b", "a"}))
    assert asked[1] == (mixing.Goal(min_f1=0.98, max_nme=None), ["a photograph"], {"onnx": job})
    assert json.loads(job.qdq.read_text()) == ["a", "b"]
    assert found.integer_qdq is not None
    assert json.loads(found.integer_qdq.read_text()) == []
    assert found.integer_qdq != job.qdq


def test_without_photographs_for_parity_the_search_uses_those_for_calibration(quantize: Any, calib_dir: Path) -> None:
    demand = Limit(metric="landmark_nme_mean", value=0.01, precision=Precision.W8A8)
    found, _, asked = quantize(limits=(demand,), images=())
    goal, measured_on, _ = asked[1]
    assert goal == mixing.Goal(min_f1=None, max_nme=0.01)
    assert [p.path.parent for p in measured_on] == [calib_dir] * 4
    assert found.integer_qdq is None, "integers were enough"


# What it costs


@pytest.fixture
def cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: Any, onnx_model: Any
) -> Callable[..., tuple[str, list[Any]]]:
    """`cost(error=None)`: what is said of a file of 3 kB whose integer form has 2 kB and takes half the time."""
    from facex.device_bench import host

    sizes = {"mixed.onnx": 3000, "integer_mixed.onnx": 2000}
    (tmp_path / "mixed.onnx").write_bytes(bytes(3000))
    job = job_of(tmp_path, detector)

    class Target:
        @staticmethod
        def export(twin: exporters.Job) -> None:
            assert twin.qdq == tmp_path / "integer.onnx"
            twin.path.write_bytes(bytes(sizes[twin.path.name]))

    def run(error: Exception | None = None, untimed: str = "") -> tuple[str, list[Any]]:
        def open_session(path: Path, *, threads: int) -> Session:
            if error:
                raise error
            return Session(runtime=f"{path.name} on {threads}", untimed=untimed)

        timed: list[Any] = []

        def measure(sessions: Any, feeds: Any, *, threads: int, runs: int) -> list[Any]:
            timed.append(
                (
                    {k: s.runtime for k, s in sessions.items()},
                    {name: feed["image"].shape for name, feed in feeds.items()},
                )
            )
            return [dataclasses.make_dataclass("Latency", ["low_ms"])(value) for value in (4.0, 2.0)]

        monkeypatch.setattr(Target, "open_session", staticmethod(open_session), raising=False)
        monkeypatch.setattr(exporters, "load", lambda _: Target)
        monkeypatch.setattr(host, "measure", measure)
        recorder = Recorder()
        quantizing.tell_cost("onnx", job, tmp_path / "integer.onnx", 3, Clock(recorder))
        assert [path.name for path in tmp_path.iterdir()] == ["mixed.onnx"], "the twin is thrown away"
        (text,) = recorder.said
        return text, timed

    return run


def test_a_runtime_whose_time_says_nothing_is_not_timed(cost: Any) -> None:
    text, timed = cost(untimed="executed by facex itself")
    assert text.endswith("fully integer, its time cannot be measured here")
    assert not timed


def test_the_cost_is_told_in_size_and_time(cost: Any) -> None:
    text, timed = cost()
    assert text == "mixed.onnx: 0.00 MB against 0.00 MB fully integer, 4.00 ms against 2.00 ms (2.00x)"
    names = ("mixed.onnx", "integer_mixed.onnx")
    assert timed == [({n: f"{n} on 3" for n in names}, dict.fromkeys(names, (1, 160, 160, 3)))]


def test_without_a_runtime_the_size_alone_is_told(cost: Any) -> None:
    text, timed = cost(MissingExtraError("ai-edge-litert", extra="tflite", purpose="running it"))
    assert text == "mixed.onnx: 0.00 MB against 0.00 MB fully integer, its time cannot be measured here"
    assert timed == []


# The command line


@pytest.fixture
def export(run_facex: Run, quick_pivot: None, seeded_checkpoint: Path, photo_dir: Path, calib_dir: Path) -> Run:
    """`export(*options)`: the seeded checkpoint to w8a8 at 160x160 with `fast`, into `out`."""

    def run(*options: object) -> Any:
        line = ("export", seeded_checkpoint, "--int8", "--int8-effort", "fast", "--size", "160x160", "--out", "out")
        return run_facex(*line, "--images", photo_dir, "--calib", calib_dir, *options)

    return run


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "in float" in line or "all integer" in line]


@pytest.mark.slow
def test_a_demand_is_met_by_a_mixed_file(export: Run, run_facex: Run, tmp_path: Path) -> None:
    """The demand is a little above what integers alone reach, whatever that is."""
    others = ("--max-nme", "1", "--limit", "w8a8.lost_faces=1")  # of which random weights lose some
    first = export("--target", "onnx", "--min-f1", "0", *others)
    (reached,) = _lines(first.err)
    assert first.code == 0
    f1 = float(reached.split("F1 ")[1].split(",")[0])
    assert f1 < 0.98, "else there is nothing to do for floats"

    ran = export("--target", "onnx", "--target", "tflite", "--min-f1", f"{f1 + 0.01:.4f}", *others)
    assert ran.code == 0, ran.err
    told = _lines(ran.err)
    assert told[0].startswith("  all integer: F1 ")
    assert "enough" not in told[0]
    assert told[-1].startswith("left in float at 160x160: ")
    assert [line for line in ran.err.splitlines() if line.startswith(f"{ONNX}: ")]
    assert [line for line in ran.err.splitlines() if line.startswith(f"{TFLITE}: ") and "MB fully integer" in line]

    record = manifest.load(tmp_path / "out" / "manifest.json")
    artifacts = {a.name: a for a in record.artifacts}
    assert all(artifact.promoted for artifact in artifacts.values()), "they are the very files that the search measured"
    reached = {f.artifact: f.actual for f in record.findings if f.name == "matched_f1"}
    (told_f1,) = [line.split("F1 ")[1].split(",")[0] for line in told[-2:-1]]
    assert min(reached.values()) == pytest.approx(float(told_f1), abs=5e-5)
    shares = {name: a.integer_mac_fraction for name, a in artifacts.items()}
    assert 0 < shares[ONNX] < 1
    assert shares[TFLITE] == pytest.approx(shares[ONNX])
    names = told[-1].split(": ", 2)[2].split(", ")
    for artifact in artifacts.values():
        path = tmp_path / "out" / artifact.path
        facts = exporters.load(artifact.target).describe(path.rename(tmp_path / artifact.name))
        assert sorted(json.loads(facts.metadata[FLOAT_OPERATORS])) == names
        assert len(facts.float_islands) == len(names)
        shown = run_facex("inspect", tmp_path / artifact.name, "--json")
        (said,) = json.loads(shown.out)["artifacts"]
        assert len(said["float_islands"]) == len(names)
        assert said["integer_mac_fraction"] < 1


@pytest.mark.slow
def test_an_impossible_demand_fails_with_the_best_that_was_found(export: Run, tmp_path: Path) -> None:
    ran = export("--target", "onnx", "--max-nme", "1e-12")
    assert ran.code == 3
    assert not (tmp_path / "out" / ONNX).exists()
    failed = tmp_path / "out" / workspace.FOLDER / f"{ONNX}.failed"
    model = onnx.load(str(failed))
    (left,) = [p.value for p in model.metadata_props if p.key == FLOAT_OPERATORS]
    told = _lines(ran.err)
    nme = {line: float(line.split("NME ")[1]) for line in told[:-1]}
    assert len(json.loads(left)) == int(told[-1].split(": ")[1].split()[0])
    best = min(nme, key=lambda line: nme[line])
    assert told[-1].split(": ")[1] in best
    assert "enough" not in ran.err


def test_what_is_wrong_with_the_photographs_reaches_the_user(export: Run, tmp_path: Path, draw_photograph: Any) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    for i in range(5):
        draw_photograph(1, 200, 160).save(folder / f"{i}.png", compress_level=i)
    ran = export("--target", "onnx", "--calib", folder, "--int8-effort", "minmax")
    warnings = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert any("are few" in line for line in warnings)
    assert any("0.png and 1.png" in line for line in warnings)
    assert manifest.load(tmp_path / "out" / "manifest.json").calibration


def test_blank_photographs_are_refused(export: Run, tmp_path: Path) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (200, 160), (40 * i, 10, 20)).save(folder / f"{i}.png")
    ran = export("--target", "onnx", "--calib", folder)
    assert ran.code == 2
    assert "all 4 calibration photographs are blank" in ran.error
    assert not (tmp_path / "out").exists()
