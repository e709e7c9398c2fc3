"""The Android module as files: all there, as recorded, and saying the same things in every place."""

from __future__ import annotations

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex.bundles import android
from facex.errors import ArtifactError
from facex.goldens import format as goldens

pytestmark = pytest.mark.slow  # the first test exports

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = ROOT / "facex" / "bundles" / "templates" / "android"


def test_the_module_holds_its_code_the_models_and_the_goldens(bundled):
    written = {p.relative_to(bundled.folder).as_posix() for p in bundled.folder.rglob("*") if p.is_file()}
    code = {p.relative_to(TEMPLATES).as_posix().removesuffix(".jinja") for p in TEMPLATES.rglob("*") if p.is_file()}
    models = {f"src/main/assets/facex/{m.artifact.name}" for m in bundled.bundle.models}
    pictures = {golden.file for golden in bundled.bundle.goldens.goldens}
    tests = {f"src/androidTest/assets/facex_goldens/{name}" for name in pictures}
    chosen = android.choosing(bundled.bundle.goldens.goldens).file
    assert written == {
        *code,
        *models,
        *tests,
        "src/main/assets/facex/facex.json",
        f"src/main/assets/facex/{chosen}",
    }
    assert len(pictures) > 4
    for name in ("build.gradle.kts", "consumer-rules.pro", "README.md", "src/main/AndroidManifest.xml"):
        assert (bundled.folder / name).stat().st_size > 0


def test_what_is_written_is_what_was_recorded(bundled):
    read = goldens.load(bundled.folder)
    assert [m.file for m in read.models] == [m.artifact.name for m in bundled.bundle.models]
    assert [m.tolerances for m in read.models] == [m.tolerances for m in bundled.bundle.models]
    assert read.goldens.goldens == bundled.bundle.goldens.goldens
    for model, made in zip(read.models, bundled.bundle.models, strict=True):
        assert goldens.file_of(read, model).read_bytes() == made.path.read_bytes()


def test_the_golden_of_the_app_is_the_first_with_the_most_faces(bundled):
    found = bundled.bundle.goldens.goldens
    most = max(len(golden.faces) for golden in found)
    assert android.choosing(found) == next(g for g in found if len(g.faces) == most)
    alike = tuple(dataclasses.replace(g, faces=()) for g in found)
    assert android.choosing(alike) == alike[0]


def test_the_same_bundle_gives_the_same_bytes(
    bundled: Any, content: Callable[[Path], dict[str, bytes | None]], tmp_path: Path
) -> None:
    android.write(bundled.bundle, tmp_path)
    assert content(tmp_path) == content(bundled.folder)


def test_a_model_that_is_not_the_recorded_one_is_refused(bundled, tmp_path):
    (first, *others) = bundled.bundle.models
    other = shutil.copy(first.path, tmp_path / "other.tflite")
    with Path(other).open("ab") as file:
        file.write(b"x")
    wrong = dataclasses.replace(bundled.bundle, models=(dataclasses.replace(first, path=Path(other)), *others))
    (tmp_path / "module").mkdir()
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        android.write(wrong, tmp_path / "module")


def test_the_readme_tells_models_and_tolerances(bundled):
    text = (bundled.folder / "README.md").read_text(encoding="utf-8")
    assert "{" not in re.sub(r"```.*?```", "", text, flags=re.S)
    for model in bundled.bundle.models:
        row = next(line for line in text.splitlines() if f"`{model.artifact.name}`" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        off = model.tolerances
        assert cells[1:4] == ["fp32", str(model.artifact.head), "160x160"]
        assert cells[5:] == [model.artifact.minimum_runtime, f"{off.score}, {off.box}, {off.landmark}"]
    assert "A demonstration" not in text
    for path in re.findall(r"^\| `(src/[^`]*)`", text, flags=re.M):
        assert (bundled.folder / path).exists(), path


def test_a_demonstration_says_so(bundled, tmp_path):
    source = dataclasses.replace(bundled.bundle.source, demonstration=True)
    android.write(dataclasses.replace(bundled.bundle, source=source), tmp_path)
    assert "**A demonstration:**" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_readme_docs_and_build_agree_on_versions():
    build = (TEMPLATES / "build.gradle.kts").read_text(encoding="utf-8")
    runtimes = set(re.findall(r"com\.google\.ai\.edge\.litert:litert[\w-]*:([\d.]+)", build))
    (runtime,), (sdk,) = runtimes, re.findall(r"minSdk = (\d+)", build)
    for page in (TEMPLATES / "README.md.jinja", ROOT / "docs" / "android.md"):
        text = page.read_text(encoding="utf-8")
        assert f"LiteRT {runtime}" in text, page
        assert f"minSdk {sdk}" in text, page


def test_the_android_manifest_is_one_and_needs_no_library():
    manifest = ElementTree.parse(TEMPLATES / "src/main/AndroidManifest.xml").getroot()
    android_name = "{http://schemas.android.com/apk/res/android}"
    libraries = manifest.findall("application/uses-native-library")
    assert manifest.tag == "manifest"
    assert all(library.get(f"{android_name}required") == "false" for library in libraries)
    assert "libOpenCL.so" in [library.get(f"{android_name}name") for library in libraries]


def test_every_template_is_installed_with_the_package():
    line = re.search(r'^"facex.bundles" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.M)
    patterns = re.findall(r'"([^"]+)"', line[1])
    installed = {path for pattern in patterns for path in (ROOT / "facex" / "bundles").glob(pattern)}
    templates = {path for path in TEMPLATES.rglob("*") if path.is_file()}
    assert templates
    assert templates <= installed
