"""`report.html` of real runs: what is in it, what is left out, and what happens when it cannot be written."""

from __future__ import annotations

import dataclasses
import errno
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import facex
from facex import checking, manifest, pipeline, showing, workspace
from facex.progress import Clock
from facex.reference import photographs
from facex.report.page import written
from facex.types import FAILED_SUFFIX, Precision, ReportPhotographs

pytestmark = pytest.mark.slow  # each needs a whole export or check

FP32, W8A8 = "seeded_160x160_fp32.onnx", "seeded_160x160_w8a8.onnx"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def named_photographs(tmp_path_factory: pytest.TempPathFactory, photo_dir: Path) -> Path:
    """The photographs of `photo_dir`, one with a name that tries to be more than text."""
    folder = shutil.copytree(photo_dir, tmp_path_factory.mktemp("named") / "photographs")
    first = min(folder.iterdir())
    first.rename(folder / f"<img src=x onerror=alert(1)>{first.suffix}")
    return folder


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory,
    _frozen: None,
    seeded_checkpoint: Path,
    named_photographs: Path,
    calib_dir: Path,
) -> Path:
    """The `--out` of an export in fp32 and in w8a8, which loses faces; to be read, not changed."""
    out = tmp_path_factory.mktemp("shown") / "out"
    found = facex.export(
        seeded_checkpoint, targets=["onnx"], precisions=["fp32"], int8=True, int8_effort="minmax",
        sizes=["160x160"], images=named_photographs, calib=calib_dir, max_size_mb=5, out=out,
    )  # fmt: skip
    assert {a.name for a in found.artifacts} == {FP32, W8A8}
    return out


@pytest.fixture
def quick_export(quick_pivot: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of this test neither trace again nor probe the contract, which takes longer than all the rest."""
    monkeypatch.setattr(pipeline, "_probed", lambda planned, evidence, seen, clock: evidence)


def _html(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_a_page_of_an_export_tells_what_the_manifest_does(shown: Path) -> None:
    html, record = _html(shown), manifest.load(shown / "manifest.json")
    assert len(html.encode()) < 3_000_000
    for artifact in record.artifacts:
        assert artifact.sha256 in html
    assert html.count('class="chart"') == 2 * 2 + 2  # two a file, two of the quantization plan
    assert "w8a8 at 160x160" in html
    assert "The tensors that cost the head most (12 of" in html
    assert "photographs of those that the files were compared on" not in html.split("<nav", 1)[1]
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<img" not in html
    assert not list(shown.rglob("*qdq*"))  # what the plan was read from is gone


def test_the_figures_of_the_page_are_those_of_the_metrics(shown: Path) -> None:
    """Faces that only one side found, counted from the manifest's F1 by hand: F1 = 2 TP / (2 TP + FP + FN)."""
    html, record = _html(shown), manifest.load(shown / "manifest.json")
    section = html.split(f'<bdi class="file">{W8A8}</bdi> <span class="badge')[1].split("</section>")[0]
    words = section.split("both sides found ")[1].split(".</p>")[0]
    both, lost, extra = (int(n) for n in _integers(words)[:3])
    f1 = next(f.actual for f in record.findings if f.artifact == W8A8 and f.name == "matched_f1")
    assert record.evaluation
    assert both + lost == record.evaluation.reference_faces
    assert 2 * both / (2 * both + lost + extra) == pytest.approx(f1, rel=1e-5)


def _integers(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word.isdigit()]


@pytest.fixture
def check(run_facex: Run, shown: Path, seeded_checkpoint: Path, named_photographs: Path) -> Run:
    """`check(option, …)` checks the fp32 file on the photographs, with `--out reports`."""

    def run(*options: object, file: str = FP32) -> Any:
        line = ("check", shown / file, "--reference", seeded_checkpoint, "--images", named_photographs)
        return run_facex(*line, "--out", "reports", *options)

    return run


def test_check_writes_it_and_says_where(check: Run, tmp_path: Path) -> None:
    ran = check()
    assert ran.code == 0
    assert "\nPage         reports/report.html, with photographs (--report-photographs none)\n" in ran.out
    html = _html(tmp_path / "reports")
    assert "image/webp" in html
    assert 'id="int8"' not in html


def test_photographs_can_be_left_out(check: Run, tmp_path: Path, named_photographs: Path) -> None:
    ran = check("--report-photographs", "none")
    assert ran.code == 0
    assert "\nPage         reports/report.html\n" in ran.out
    html = _html(tmp_path / "reports")
    assert "image/" not in html.replace("img-src", "")
    assert not any(path.stem in html for path in named_photographs.iterdir())
    assert 'class="chart"' in html


def test_photographs_can_be_left_out_of_an_export(
    run_facex: Run, quick_export: None, seeded_checkpoint: Path, named_photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "facex.toml").write_text('report-photographs = "none"\n')
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--images", named_photographs)
    assert run_facex(*line).code == 0
    assert "image/webp" not in _html(tmp_path / "build")


def test_without_photographs_there_is_a_page_too(
    run_facex: Run, shown: Path, seeded_checkpoint: Path, tmp_path: Path
) -> None:
    assert run_facex("check", shown / FP32, "--reference", seeded_checkpoint, "--out", "reports").code == 0
    html = _html(tmp_path / "reports")
    assert "compared on noise, without photographs" in html
    assert "no photographs were given (--images)" in html
    assert 'class="chart"' not in html


@pytest.mark.parametrize("command", ["check", "export"])
def test_a_full_disk_is_an_error_and_leaves_nothing_behind(
    check: Run,
    run_facex: Run,
    quick_export: None,
    seeded_checkpoint: Path,
    named_photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    fsync = manifest.os.fsync

    def full(handle: int) -> None:
        if ".report.html." in Path(f"/proc/self/fd/{handle}").resolve().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(manifest.os, "fsync", full)
    if command == "check":
        ran = check()
    else:
        line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--images", named_photographs)
        ran = run_facex(*line, "--out", "reports")
    assert ran.code == 6
    assert "No space left on device" in ran.error
    assert "free some space" in ran.error
    left = list((tmp_path / "reports").iterdir()) if (tmp_path / "reports").exists() else []
    assert not [path for path in left if "html" in path.name]
    assert command == "check" or left == []


def test_a_photograph_that_goes_away_is_named(check: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = [], photographs.load

    def gone(path: Path) -> Any:
        loaded.append(path)
        # one is read once more for the timing, before the page
        return load(path if len(loaded) == 1 else path.with_name("gone.png"))

    monkeypatch.setattr(photographs, "load", gone)
    ran = check()
    assert ran.code == 2
    assert "gone.png: cannot be decoded" in ran.error
    assert not (tmp_path / "reports").exists()


def test_the_same_inputs_give_the_same_page_but_for_times(
    shown: Path, seeded_checkpoint: Path, named_photographs: Path, tmp_path: Path
) -> None:
    pages = []
    shutil.copy(shown / workspace.FOLDER / f"{W8A8}{FAILED_SUFFIX}", tmp_path / W8A8)
    for _ in range(2):
        result = checking.check(
            [shown / FP32, tmp_path / W8A8], reference=seeded_checkpoint, images=named_photographs, threads=1
        )
        record = result.manifest.reproducible()
        pages.append(showing.page(record, result.material, ReportPhotographs.WORST, Clock()))
    first, second = (page.splitlines() for page in pages)
    assert [(a[:200], b[:200]) for a, b in zip(first, second, strict=True) if a != b] == []
    assert "image/webp" in pages[0]


def test_a_file_that_shows_no_plan_is_told(shown: Path, seeded_checkpoint: Path, named_photographs: Path) -> None:
    result = checking.check(
        [shown / FP32], reference=seeded_checkpoint, images=named_photographs, precision=Precision.W8A8, threads=1
    )  # no 8-bit tensor in it
    html = showing.page(result.manifest, result.material, ReportPhotographs.NONE, Clock())
    assert "has no 8-bit activation, so there is no quantization to look into" in html


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium with a profile of its own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on the PATH: looked for {', '.join(CHROMIUM)}")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=path, args=list(FLAGS), headless=True
        )
        yield context
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light")])
def test_a_browser_shows_it(shown: Path, browser: Any, width: int, scheme: str) -> None:
    faults, requests = [], []
    page = browser.new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    address = (shown / "report.html").as_uri()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    widths = page.evaluate(
        """Promise.all([...document.querySelectorAll('image')].map(async element => {
            const image = new Image(); image.src = element.href.baseVal; await image.decode(); return image.naturalWidth
        }))"""
    )
    assert widths
    assert min(widths) > 0
    assert page.evaluate("[...document.querySelectorAll('.chart, .faces')].every(e => e.clientWidth > 200)")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)")
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert faults == []
    page.close()


def test_a_browser_draws_the_photograph_under_the_faces(
    browser: Any, shown: Path, seeded_checkpoint: Path, named_photographs: Path, tmp_path: Path
) -> None:
    """The picture on the screen has the colours of the photograph on the disk, which is drawn from a shared store."""
    result = checking.check([shown / FP32], reference=seeded_checkpoint, images=named_photographs, threads=1)
    html = showing.page(result.manifest, result.material, ReportPhotographs.WORST, Clock())
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    seen = page.locator(".faces").first
    path = next(iter(result.material.sightings.values())).scenes[0].path
    screen = np.asarray(Image.open(io.BytesIO(seen.screenshot())).convert("RGB").resize((32, 32)), np.float64)
    disk = np.asarray(Image.fromarray(photographs.load(path)).resize((32, 32)), np.float64)
    page.close()
    # lines and dots cover a part; an empty frame would be white, or black, everywhere
    assert np.median(np.abs(screen - disk)) < 25
    assert np.median(np.abs(255 - disk)) > 50


def test_a_page_without_anything_to_draw_is_whole(shown: Path) -> None:
    record = manifest.load(shown / "manifest.json")
    empty = dataclasses.replace(record, artifacts=(), findings=(), latency=(), evaluation=None, calibration=None)
    html = written.html(empty, written.Exhibits())
    assert "PASSED" in html
    assert html.endswith("</html>\n")
