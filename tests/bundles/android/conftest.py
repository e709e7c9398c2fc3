"""The module's Kotlin, compiled by a real compiler, beside altered copies of it; and a bundle to run it on."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facex import exporters
from facex.bundles import Bundle, Model
from facex.types import ContractOptions, Head, Size

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = ROOT / "facex" / "bundles" / "templates" / "android"
KOTLIN = ROOT / "tests" / "bundles" / "kotlin"
SOURCES = TEMPLATES / "src" / "main" / "kotlin" / "facex" / "detector"
PURE = ("FaceGeometry.kt", "FacePixels.kt", "ModelDescription.kt")
SIZE = Size(height=160, width=160)

GEOMETRY, PIXELS = "FaceGeometry.kt", "FacePixels.kt"
MUTATIONS = {
    "no saturated ties": (GEOMETRY, "min(it.score, saturated)", "it.score"),
    "later of equals": (GEOMETRY, "in faces.sortedByDescending", "in faces.reversed().sortedByDescending"),
    "looser NMS": (GEOMETRY, "> threshold }", "> threshold + 0.3 }"),
    "touching is overlapping": (GEOMETRY, "face.box) > threshold }", "face.box) >= threshold }"),
    "higher threshold": (GEOMETRY, "{ score(it) >= threshold }", "{ score(it) > threshold }"),
    "x and y swapped": (GEOMETRY, "prior[p + k % 2] +", "prior[p + 1 - k % 2] +"),
    "one variance for both": (GEOMETRY, "exp(loc[p + 2] * ofSize)", "exp(loc[p + 2] * ofCentre)"),
    "prior at the corner": (GEOMETRY, "((column + 0.5) * stride)", "(column.toDouble() * stride)"),
    "half away from zero": (GEOMETRY, "Math.rint(uprightWidth", "Math.round(uprightWidth"),
    "scale of one side": (GEOMETRY, "min(inputHeight.toDouble()", "max(inputHeight.toDouble()"),
    "multiplied back": (GEOMETRY, "(values[i] / scale +", "(values[i] * scale +"),
    "crop not added": (GEOMETRY, "if (i % 2 == 0) frame.uprightLeft else frame.uprightTop", "0"),
    "turned the other way": (GEOMETRY, "90 -> floatArrayOf(y, height - x)", "90 -> floatArrayOf(width - y, x)"),
    "landmarks not held": (GEOMETRY, "point = larger(point, hypot(dx, dy))", "point = larger(point, 0.0)"),
    "lost not counted": (GEOMETRY, "partner[it] == null && expected", "partner[it] != null && expected"),
    "nearest pixel": (PIXELS, "max(1.0, step)", "1.0"),
    "BGR": (PIXELS, "r += (pixel shr 16 and 255)", "r += (pixel and 255)"),
    "U and V swapped": (PIXELS, "blue = RowReader(u,", "blue = RowReader(v,"),
    "pictures turned the other way": (PIXELS, "90 -> x * inputWidth + height - 1 - y", "90 -> x * inputWidth + y"),
    "limited range": (PIXELS, "byte(y + ((91881 * cr", "byte(y + ((104597 * cr"),
    "chroma of the next pair": (PIXELS, "(crop.left + x) / 2 - first", "(crop.left + x + 1) / 2 - first"),
}  # fmt: skip
"""What is changed in an altered copy: file, text, other text."""


class Kotlin:
    """Asks `Driver.kt` beside the module's pure part, or beside an altered copy of it."""

    def __init__(self, java: str, classpath: str) -> None:
        self._java, self._classpath = java, classpath

    def __call__(self, *questions: Mapping[str, Any], altered: str | None = None) -> list[Any]:
        """The answers to questions; `altered` is a name of `MUTATIONS`."""
        name = f"{_package(altered)}.DriverKt"
        asked = "".join(json.dumps(question) + "\n" for question in questions)
        line = [self._java, "-XX:TieredStopAtLevel=1", "-cp", self._classpath, name]
        done = subprocess.run(line, input=asked, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return [json.loads(answer) for answer in done.stdout.splitlines()]


def _package(altered: str | None) -> str:
    return "facex.detector" if altered is None else f"facex.altered{list(MUTATIONS).index(altered)}"


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None) or shutil.which("java")
    if found is None:
        pytest.skip("no JDK: there is no java in JAVA_HOME or on the PATH")
    return found


def _compiler(java: str) -> tuple[list[str], str]:
    """The command of a Kotlin compiler, and the class path that what it compiles runs on."""
    stated = os.environ.get("FACEX_KOTLINC") or shutil.which("kotlinc")
    if stated:
        library = Path(stated).resolve().parent.parent / "lib" / "kotlin-stdlib.jar"
        if not library.is_file():
            pytest.fail(f"{stated}: is no kotlinc of a Kotlin distribution: there is no {library}")
        return [stated], str(library)
    wheel = importlib.util.find_spec("run_kotlin_kernel")
    if wheel is None or wheel.origin is None:
        pytest.skip(
            "no Kotlin compiler: install kotlin-jupyter-kernel, which holds one, put kotlinc on the PATH, or name it "
            "in FACEX_KOTLINC"
        )
    jars = Path(wheel.origin).parent / "jars"
    names = ("kotlin-jupyter-kernel-*-all", "kotlin-stdlib-*", "kotlin-reflect-*", "kotlin-script-runtime-*")
    parts = [str(next(jars.glob(f"{name}.jar"))) for name in (*names, "annotations-*")]
    flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx1g"]
    command = [java, *flags, "-cp", os.pathsep.join(parts), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    return [*command, "-no-stdlib", "-no-reflect", "-cp", parts[1]], parts[1]


def _altered(folder: Path) -> Iterator[Path]:
    """Copies of the pure part with the driver, each in a package of its own and with one thing changed."""
    for name, (changed, text, other) in MUTATIONS.items():
        package = folder / _package(name)
        package.mkdir(parents=True)
        for source in (*(SOURCES / file for file in PURE), KOTLIN / "Driver.kt"):
            content = source.read_text(encoding="utf-8")
            if source.name == changed:
                assert content.count(text) >= 1, f"{name}: {changed} no longer says: {text}"
                content = content.replace(text, other)
            copy = package / source.name
            copy.write_text(content.replace("package facex.detector", f"package {_package(name)}"), encoding="utf-8")
            yield copy


def _samples(folder: Path) -> Iterator[Path]:
    """The Kotlin that documents show, each piece in a package of its own."""
    for i, page in enumerate((TEMPLATES / "README.md.jinja", ROOT / "docs" / "android.md")):
        pieces = re.findall(r"^```kotlin\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        assert pieces, page
        for j, piece in enumerate(pieces):
            path = folder / f"sample{i}_{j}.kt"
            path.write_text(f"package sample{i}_{j}\n\n{piece}", encoding="utf-8")
            yield path


@pytest.fixture(scope="session")
def kotlin(tmp_path_factory: pytest.TempPathFactory) -> Kotlin:
    """The whole module, compiled with stubs in place of Android, LiteRT, JUnit and ML Kit."""
    java = _java()
    command, library = _compiler(java)
    folder = tmp_path_factory.mktemp("kotlin")
    sources = [
        *sorted(TEMPLATES.rglob("*.kt")),
        KOTLIN / "Driver.kt",
        *_altered(folder / "altered"),
        *_samples(folder),
        KOTLIN / "stubs",
    ]
    classes = folder / "classes"
    line = [*command, "-d", classes, *sources]
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return Kotlin(java, os.pathsep.join([str(classes), library]))


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A bundle with what it was made of.

    Attributes:
        folder: the module that `facex.bundles.android` wrote.
        sessions: LiteRT on the model of each head.
        photographs: uint8 [h, w, 3], upright, RGB, of many sizes; none is a golden.
    """

    bundle: Bundle
    folder: Path
    sessions: Mapping[Head, Any]
    photographs: Sequence[NDArray[np.uint8]]

    @property
    def description(self) -> str:
        return str(self.folder / "src/main/assets/facex/facex.json")

    def model(self, head: Head) -> str:
        return next(m.artifact.name for m in self.bundle.models if m.artifact.head is head)


def _bundled(
    checkpoint: Path,
    goldens: Path,
    photographs: Sequence[NDArray[np.uint8]],
    size: Size,
    heads: Sequence[Head],
    precision: str,
    folder: Path,
) -> Bundled:
    import facex
    from facex import manifest
    from facex.bundles import android
    from facex.goldens import record, replay
    from facex.progress import Clock
    from facex.reference import detector
    from facex.reference import photographs as reading

    loaded = detector.load(checkpoint, ContractOptions())
    (folder / "goldens").mkdir()
    chosen = reading.find(goldens, option="--goldens")[: record.PHOTOGRAPHS]
    recorded = record.record(chosen, loaded, size, folder / "goldens", threads=1, clock=Clock())
    models, sessions = [], {}
    for head in heads:
        out = folder / head
        facex.export(
            checkpoint,
            targets=["tflite"],
            precisions=[precision],
            sizes=[str(size)],
            head=str(head),
            images=goldens,
            out=out,
        )
        found = manifest.load(out / "manifest.json")
        (artifact,) = found.artifacts
        # the names of two heads of a checkpoint are the same, and a folder holds one of each
        path = (out / artifact.path).rename(out / f"{head}_{artifact.name}")
        session = sessions[head] = exporters.load("tflite").open_session(path, threads=1)
        seen = replay.replay(session, recorded, head, loaded.contract)
        models.append(
            Model(
                path=path,
                artifact=replace(artifact, path=path.name),
                tolerances=record.tolerances(path.name, seen),
            )
        )
    bundle = Bundle(source=found.source, models=tuple(models), goldens=recorded)
    (folder / "module").mkdir()
    android.write(bundle, folder / "module")
    return Bundled(bundle=bundle, folder=folder / "module", sessions=sessions, photographs=photographs)


@pytest.fixture(scope="session")
def bundled(
    tmp_path_factory: pytest.TempPathFactory,
    seeded_checkpoint: Path,
    photo_dir: Path,
    draw_photograph: Callable[[int, int, int], Image.Image],
) -> Bundled:
    """A seeded detector at 160x160, decoded and raw, with twenty drawn pictures that are not its goldens."""
    sides = np.random.default_rng(3).integers(120, 420, (20, 2)).tolist()
    drawn = [np.asarray(draw_photograph(700 + i, width, height)) for i, (width, height) in enumerate(sides)]
    folder = tmp_path_factory.mktemp("bundled")
    return _bundled(seeded_checkpoint, photo_dir, drawn, SIZE, (Head.DECODED, Head.RAW), "fp32", folder)


@pytest.fixture(scope="session")
def bundled_real(tmp_path_factory: pytest.TempPathFactory, shared_dir: Path) -> Bundled:
    """A trained detector at 320x320 in half precision, with twenty real photographs."""
    from facex.reference import photographs as reading

    folder = tmp_path_factory.mktemp("real")
    found = reading.find(shared_dir / "data" / "dev" / "images", option="--images")
    (folder / "photographs").mkdir()
    with_faces = [p.path for p in found if not p.path.name.startswith("bg_")]
    for path in with_faces[::4][:8]:
        shutil.copy(path, folder / "photographs")
    others = [reading.load(path) for path in with_faces[2::4][:20]]
    checkpoint = shared_dir / "weights" / "mnet025.pth"
    size = Size(height=320, width=320)
    return _bundled(checkpoint, folder / "photographs", others, size, (Head.DECODED,), "fp16", folder)
