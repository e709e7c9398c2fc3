"""The Swift package: what is written, that a grammar reads it, and, where a Swift compiler is, that it works.

Nothing here runs Core ML. `apple/` declares what the package uses of Apple's frameworks, for the compiler's types.
"""

from __future__ import annotations

import base64
import dataclasses
import fnmatch
import hashlib
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import facex
from facex import manifest
from facex.bundles import Bundle, Model, ios
from facex.errors import ArtifactError
from facex.goldens import format as goldens
from facex.goldens import replay
from facex.goldens.format import Face, Golden, GoldenSet, Tolerances
from facex.manifest import Source
from facex.reference import geometry
from facex.types import Artifact, ChannelOrder, Contract, Head, Precision, Size

ROOT = Path(facex.__file__).parents[1]
TEMPLATES = Path(facex.__file__).parent / "bundles" / "templates"
APPLE = Path(__file__).parent / "apple"
FRAMEWORKS = ("CoreGraphics", "CoreVideo", "CoreImage", "ImageIO", "CoreML", "CryptoKit")
"""In the order in which they need one another."""

SIZE = Size(height=96, width=160)
CONTRACT = Contract(
    family="retinaface", backbone="mobilenetv1", activation_slope=0.1, strides=(8, 16, 32),
    min_sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)), variances=(0.1, 0.2), landmarks=5,
    channel_order=ChannelOrder.BGR, mean=(104.0, 117.0, 123.0), scale=(1.0, 1.0, 1.0),
)  # fmt: skip


def _model(folder: Path, precision: Precision, runtime: str, head: Head) -> Model:
    """A folder that looks like a package, with an entry that tells the truth about it."""
    path = folder / f"model_{SIZE}_{precision}_{head}.mlpackage"
    (path / "Data" / "com.apple.CoreML").mkdir(parents=True)
    (path / "Manifest.json").write_text("{}")
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(f"{precision} {head}".encode())
    artifact = Artifact(
        path=path.name, target="coreml", precision=precision, head=head, size=SIZE, size_bytes=manifest.size_of(path),
        sha256=manifest.sha256_of(path), inputs=(), outputs=(), integer_mac_fraction=0.0, minimum_runtime=runtime,
        runtime=None, promoted=True,
    )  # fmt: skip
    return Model(path=path, artifact=artifact, tolerances=Tolerances(score=0.05, box=0.04, landmark=0.03))


def _face(score: float, x: float) -> Face:
    return Face(score=score, box=(x, 8.0, x + 30, 44.0), landmarks=tuple(float(v) for v in range(10)))


@pytest.fixture(scope="module")
def swift_bundle(tmp_path_factory: pytest.TempPathFactory, draw_photograph: Callable[..., Any]) -> Bundle:
    """Two models of different systems, and three goldens, of which the second has most faces."""
    folder = tmp_path_factory.mktemp("swift-bundle")
    entries = []
    for i, faces in enumerate(((_face(0.9, 4),), (_face(0.99, 4), _face(0.8, 60)), (_face(0.7, 9), _face(0.6, 70)))):
        path = folder / f"golden_{i}.png"
        draw_photograph(i, SIZE.width, SIZE.height).save(path)
        entries.append(
            Golden(
                file=path.name,
                sha256=manifest.sha256_of(path),
                source_height=480,
                source_width=640 + i,
                scale=manifest.rounded(min(96 / 480, 160 / (640 + i))),
                faces=faces,
            )
        )
    models = (
        _model(folder, Precision.FP16, "iOS 16 (specification 7)", Head.DECODED),
        _model(folder, Precision.W8A8, "iOS 17 (specification 8)", Head.RAW),
    )
    source = Source(checkpoint="model.pth", sha256="0f" * 32, contract=CONTRACT, assumed=())
    return Bundle(source=source, models=models, goldens=GoldenSet(folder=folder, size=SIZE, goldens=tuple(entries)))


@pytest.fixture(scope="module")
def package(swift_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is written."""
    folder = tmp_path_factory.mktemp("package")
    ios.write(swift_bundle, folder)
    return folder


@pytest.fixture(scope="module")
def vectors(package: Path) -> dict[str, Any]:
    """What the package's tests hold its arithmetic against."""
    found: dict[str, Any] = json.loads((package / ios.GOLDENS / "vectors.json").read_text())
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# What is written


def test_the_package_holds_what_its_manifest_names(package: Path, swift_bundle: Bundle) -> None:
    written = {name for name in _files(package) if ".mlpackage/" not in name}
    sources = {
        f"Sources/FaceX/{name}.swift"
        for name in ("FaceBundle", "FaceDetector", "FaceGeometry", "FacePixels", "FaceTensor", "ModelDescription")
    }
    tests = {f"Tests/FaceXTests/{name}.swift" for name in ("GeometryTests", "GoldenTests", "Vectors")}
    pictures = {f"Tests/FaceXTests/Goldens/golden_{i}.png" for i in range(3)}
    vectors = {"Tests/FaceXTests/Goldens/vectors.json"}
    app = {"Sources/FaceX/Model/facex.json", "Sources/FaceX/Model/golden_1.png"}
    assert written == {"Package.swift", "README.md", *sources, *tests, *pictures, *vectors, *app}
    declared = (package / "Package.swift").read_text()
    assert re.findall(r'\.copy\("(\w+)"\)', declared) == [ios.MODEL.name, ios.GOLDENS.name]
    assert declared.startswith("// swift-tools-version:5.9\n")


def test_the_oldest_system_loads_every_model(package: Path) -> None:
    assert '.iOS("17.0"), .macOS("14.0")' in (package / "Package.swift").read_text()


def test_models_and_goldens_are_the_recorded_ones(package: Path, swift_bundle: Bundle) -> None:
    for model in swift_bundle.models:
        assert manifest.sha256_of(package / ios.MODEL / model.path.name) == model.artifact.sha256
    description = goldens.load(package)
    assert description.goldens.goldens == swift_bundle.goldens.goldens
    assert [goldens.file_of(description, model).parent.name for model in description.models] == ["Model", "Model"]
    chosen = (package / ios.MODEL / "golden_1.png").read_bytes()
    assert chosen == (package / ios.GOLDENS / "golden_1.png").read_bytes()


def test_the_same_bundle_gives_the_same_bytes(package: Path, swift_bundle: Bundle, tmp_path: Path) -> None:
    ios.write(swift_bundle, tmp_path)
    assert _files(tmp_path) == _files(package)


def test_the_readme_tells_of_this_bundle(package: Path, swift_bundle: Bundle) -> None:
    text = (package / "README.md").read_text()
    assert "{" + "{" not in text
    assert "{%" not in text
    for model in swift_bundle.models:
        assert f"| `{model.artifact.name}` | {model.artifact.precision} | {model.artifact.head} |" in text
        assert f"| `{model.artifact.name}` | 0.05 | 0.04 | 0.03 |" in text
    assert "never compiled against Apple's SDK, and never run" in text
    assert "`golden_1.png`" in text
    assert "(123, 117, 104)" in text
    assert "demonstration" not in text
    for name in re.findall(r"^\| `(\w+\.swift)` \|", text, flags=re.M):
        assert (package / "Sources" / "FaceX" / name).is_file()


def test_a_demonstration_is_called_one(swift_bundle: Bundle, tmp_path: Path) -> None:
    source = dataclasses.replace(swift_bundle.source, demonstration=True)
    ios.write(dataclasses.replace(swift_bundle, source=source), tmp_path)
    assert "**This is the demonstration detector" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("runtime", ["unknown (specification 12)", "iOS 14 (specification 5)", "TensorFlow Lite 2.19"])
def test_a_system_that_is_not_known_is_refused(swift_bundle: Bundle, tmp_path: Path, runtime: str) -> None:
    artifact = dataclasses.replace(swift_bundle.models[0].artifact, minimum_runtime=runtime)
    models = (dataclasses.replace(swift_bundle.models[0], artifact=artifact),)
    with pytest.raises(ArtifactError, match=re.escape(f"minimum_runtime is {runtime!r}")):
        ios.write(dataclasses.replace(swift_bundle, models=models), tmp_path)
    assert not list(tmp_path.iterdir())


def test_goldens_without_a_face_are_refused(swift_bundle: Bundle, tmp_path: Path) -> None:
    blind = tuple(dataclasses.replace(golden, faces=()) for golden in swift_bundle.goldens.goldens)
    found = dataclasses.replace(swift_bundle.goldens, goldens=blind)
    with pytest.raises(ArtifactError, match="hold no face"):
        ios.write(dataclasses.replace(swift_bundle, goldens=found), tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_template_is_installed() -> None:
    declared = re.search(r'^"facex.bundles" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert declared
    patterns = re.findall(r'"([^"]+)"', declared[1])
    for path in (TEMPLATES / "ios").rglob("*"):
        name = path.relative_to(TEMPLATES.parent).as_posix()
        # setuptools skips names that begin with a dot
        assert path.is_dir() or any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
        assert not path.name.startswith(".")


# The vectors, computed another way


def test_letterboxes_are_right(vectors: dict[str, Any]) -> None:
    rounded = {"down": 0, "up": 0}
    for v in vectors["letterbox"]:
        height, width = v["upright_height"], v["upright_width"]
        exact = min(Fraction(v["input_height"], height), Fraction(v["input_width"], width))
        assert v["scale"] == pytest.approx(float(exact), rel=1e-15)
        for side, content, most in (
            (height, v["content_height"], v["input_height"]),
            (width, v["content_width"], v["input_width"]),
        ):
            assert content == min(most, max(1, round(side * exact)))
            if (2 * side * exact) % 2 == 1:
                rounded["up" if content > side * exact else "down"] += 1
    assert all(rounded.values()), "no content with half a pixel: rounding is not tested"


def test_pictures_are_right(vectors: dict[str, Any]) -> None:
    turns = [
        None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
    ]  # fmt: skip
    assert {v["orientation"] for v in vectors["pictures"]} == set(range(1, 9))
    for v in vectors["pictures"]:
        stored = np.frombuffer(base64.b64decode(v["source"]), np.uint8).reshape(v["height"], v["width"], 3)
        turn = turns[v["orientation"] - 1]
        upright = Image.fromarray(stored) if turn is None else Image.fromarray(stored).transpose(turn)
        scale = min(v["input_height"] / upright.height, v["input_width"] / upright.width)
        content = upright.resize((round(upright.width * scale), round(upright.height * scale)), Image.BILINEAR)
        expected = Image.new("RGB", (v["input_width"], v["input_height"]), tuple(v["padding_rgb"]))
        expected.paste(content, (0, 0))
        assert base64.b64decode(v["input"]) == expected.tobytes()


def test_priors_are_right(vectors: dict[str, Any]) -> None:
    found = [
        [(column + 0.5) * stride, (row + 0.5) * stride, side, side]
        for stride, sides in zip(CONTRACT.strides, CONTRACT.min_sizes, strict=True)
        for row in range(-(-SIZE.height // stride)) for column in range(-(-SIZE.width // stride)) for side in sides
    ]  # fmt: skip
    assert vectors["priors"]["count"] == len(found)
    assert vectors["priors"]["indices"][-1] == len(found) - 1
    assert vectors["priors"]["values"] == [found[i] for i in vectors["priors"]["indices"]]


def _overlap(a: list[float], b: list[float]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, across) * max(0.0, down)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _kept(boxes: list[list[float]], scores: list[float]) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-min(scores[i], float(np.float32(geometry.SATURATED))), i)):
        if all(_overlap(boxes[k], boxes[i]) <= geometry.NMS_IOU for k in kept):
            kept.append(i)
    return kept


def test_suppression_is_right(vectors: dict[str, Any]) -> None:
    tied = swayed = 0
    for v in vectors["suppression"]:
        assert v["kept"] == _kept(v["boxes"], v["scores"])
        high = [s for s in v["scores"] if s >= geometry.SATURATED]
        tied += len(v["scores"]) - len(set(v["scores"]))
        plain = sorted(range(len(v["scores"])), key=lambda i: (-v["scores"][i], i))
        capped = sorted(plain, key=lambda i: (-min(v["scores"][i], geometry.SATURATED), i))
        swayed += len(high) > 1 and plain != capped
    assert tied, "no equal scores: the order of ties is not tested"
    assert swayed, "no saturated scores whose order matters"


def test_faces_of_outputs_are_right(vectors: dict[str, Any]) -> None:
    by_head = {v["head"]: v for v in vectors["outputs"]}
    assert set(by_head) == {"decoded", "raw", "detections"}
    decoded = by_head["decoded"]["outputs"]
    boxes, scores = np.reshape(decoded["boxes"], (-1, 4)).tolist(), decoded["scores"]
    chosen = [i for i, score in enumerate(scores) if score >= 0.5]
    kept = [chosen[i] for i in _kept([boxes[i] for i in chosen], [scores[i] for i in chosen])]
    assert [face["box"] for face in by_head["decoded"]["faces"]] == [boxes[i] for i in kept]
    assert by_head["detections"]["faces"] == by_head["decoded"]["faces"]
    assert by_head["detections"]["outputs"]["count"] == [len(kept)]
    assert len(by_head["detections"]["outputs"]["scores"]) > len(kept)
    assert by_head["raw"]["faces"]


def test_a_raw_face_is_right(vectors: dict[str, Any]) -> None:
    (v,) = (v for v in vectors["outputs"] if v["head"] == "raw")
    best = max(range(len(v["outputs"]["conf"]) // 2), key=lambda i: v["outputs"]["conf"][2 * i + 1])
    prior, sides = [], []
    for stride, pair in zip(CONTRACT.strides, CONTRACT.min_sizes, strict=True):
        for _, column, side in itertools.product(range(v["height"] // stride), range(v["width"] // stride), pair):
            prior.append((column + 0.5) * stride)
            sides.append(side)
    loc = v["outputs"]["loc"][4 * best : 4 * best + 4]
    middle, width = prior[best] + loc[0] * 0.1 * sides[best], sides[best] * np.exp(loc[2] * 0.2)
    face = v["faces"][0]
    assert face["score"] == v["outputs"]["conf"][2 * best + 1]
    assert [face["box"][0], face["box"][2]] == pytest.approx([middle - width / 2, middle + width / 2], abs=1e-3)
    points = v["outputs"]["landm"][10 * best : 10 * best + 10]
    assert face["landmarks"][::2] == pytest.approx([prior[best] + p * 0.1 * sides[best] for p in points[::2]], abs=1e-3)


def test_comparisons_have_every_outcome(vectors: dict[str, Any]) -> None:
    """What they should be is known by their names; figures by hand for a square face of 40 px."""
    by_name = {v["name"]: v for v in vectors["comparisons"]}
    failing = {"beyond", "apart", "too little overlap to be a pair"}
    for name, v in by_name.items():
        if name.endswith(("in doubt", "within")) or name.startswith(("the same", "in another", "nothing")):
            assert v["passed"], name
        elif any(word in name for word in failing):
            assert not v["passed"], name
    assert (by_name["lost beyond doubt"]["lost"], by_name["extra beyond doubt"]["extra"]) == (1, 1)
    assert by_name["scores apart"]["score"] == pytest.approx(0.11, abs=1e-6)
    assert by_name["boxes apart"]["box"] == pytest.approx(2.5 / 40)
    assert by_name["boxes apart"]["landmark"] == pytest.approx(0)
    assert by_name["landmarks apart"]["landmark"] == pytest.approx(2.5 / 40)
    assert by_name["two found for one"]["box"] == pytest.approx(1 / 40)
    assert by_name["two found for one"]["extra"] == 1
    assert by_name["best overlap first"]["pairs"] == 2


def test_halves_are_right(vectors: dict[str, Any]) -> None:
    exponents = set()
    for v in vectors["halves"]:
        sign, exponent, fraction = v["bits"] >> 15, v["bits"] >> 10 & 31, v["bits"] & 1023
        size = fraction * 2.0**-24 if exponent == 0 else (1024 + fraction) * 2.0 ** (exponent - 25)
        assert v["value"] == (-size if sign else size)
        exponents.add(exponent)
    assert exponents == set(range(31))


def test_turns_and_pixels_are_right(vectors: dict[str, Any], package: Path) -> None:
    for v in vectors["turns"]:
        image = Image.new("L", (v["width"], v["height"]))
        image.putpixel((int(v["buffer"][0]), int(v["buffer"][1])), 255)
        image.getexif()[0x0112] = v["orientation"]
        upright = ImageOps.exif_transpose(image)
        assert upright.size == (v["upright_width"], v["upright_height"])
        assert upright.getpixel((int(v["upright"][0]), int(v["upright"][1]))) == 255
    for v in vectors["pixels"]:
        with Image.open(package / ios.GOLDENS / v["file"]) as image:
            assert v["sha256"] == hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


# The grammar


@pytest.fixture(scope="module")
def parse() -> Callable[[str, bytes], Any]:
    """`parse("swift", source)` gives the root of a syntax tree."""
    reason = "the grammars are not installed: pip install 'facex[dev]'"
    tree_sitter = pytest.importorskip("tree_sitter", reason=reason)
    grammars = {
        name: tree_sitter.Language(pytest.importorskip(f"tree_sitter_{name}", reason=reason).language())
        for name in ("swift", "kotlin")
    }
    return lambda language, source: tree_sitter.Parser(grammars[language]).parse(source).root_node


def _nodes(root: Any) -> Iterator[Any]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(node.children)


def _faults(root: Any) -> list[str]:
    return [f"{node.start_point}: {node.type}" for node in _nodes(root) if node.is_error or node.is_missing]


def _swift(package: Path) -> list[Path]:
    return sorted(package.rglob("*.swift"))


def test_a_grammar_reads_every_file(package: Path, parse: Callable[[str, bytes], Any]) -> None:
    assert len(_swift(package)) == 10
    for path in _swift(package):
        root = parse("swift", path.read_bytes())
        assert not _faults(root), path
        assert sum(1 for _ in _nodes(root)) > 30, path


@pytest.mark.parametrize(
    ("old", "new"),
    [("{", ""), ("}", ""), ("(", "(("), (" -> ", " > > "), ("func ", "funk "), ("return ", "return ) "), (": ", ":: ")],
)
def test_a_fault_of_syntax_is_seen(package: Path, parse: Callable[[str, bytes], Any], old: str, new: str) -> None:
    source = (package / "Sources" / "FaceX" / "FaceGeometry.swift").read_text()
    middle = source.index(old, len(source) // 2)
    assert _faults(parse("swift", (source[:middle] + new + source[middle + len(old) :]).encode()))


def test_lines_are_not_too_long(package: Path) -> None:
    for path in _swift(package):
        assert max(map(len, path.read_text().splitlines())) <= 120, path


def _public(root: Any, hidden: Callable[[str], bool]) -> set[str]:
    """Names of the types and functions that others may use; not those inside functions."""
    found = set()
    stack = [root]
    while stack:
        node = stack.pop()
        name = node.child_by_field_name("name")
        named = name is not None and node.type in ("class_declaration", "function_declaration", "object_declaration")
        modifiers = " ".join(c.text.decode() for c in node.children if c.type == "modifiers")
        extension = node.children and node.children[0].type == "extension"
        if named and not extension:
            if hidden(modifiers):
                continue
            found.add(name.text.decode())
        if node.type != "function_declaration":
            stack += node.children
    return found


def test_kotlin_and_swift_have_the_same_names(package: Path, parse: Callable[[str, bytes], Any]) -> None:
    """The arithmetic is written twice; whoever changes one side must find the other."""
    kotlin = next(iter((TEMPLATES / "android").rglob("FaceGeometry.kt")), None)
    if kotlin is None:
        pytest.skip("this checkout writes no Android bundle")
    swift = package / "Sources" / "FaceX" / "FaceGeometry.swift"
    ours = _public(parse("swift", swift.read_bytes()), lambda modifiers: "public" not in modifiers)
    theirs = _public(
        parse("kotlin", kotlin.read_bytes()),
        lambda modifiers: any(word in modifiers for word in ("private", "internal", "override", "companion")),
    )
    assert ours - theirs == {"FaceGeometry", "Orientation"}, "a namespace, and what Android calls rotation degrees"
    assert theirs - ours == {"Crop"}, "a pixel buffer is looked at whole"
    assert {"letterbox", "toUpright", "toBuffer", "priors", "faces", "iou", "nms", "compare"} <= ours


# The compiler


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def swiftc() -> str:
    """A Swift compiler."""
    found = shutil.which("swiftc")
    if found is None:
        pytest.skip("no Swift compiler on the PATH (docs/ios.md says where one comes from)")
    return found


@pytest.mark.slow
def test_the_arithmetic_passes_its_own_tests(swiftc: str, package: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(package, tmp_path / "FaceX")
    done = _run(Path(swiftc).with_name("swift"), "test", "--package-path", copy, cwd=copy)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert re.search(r"Executed 12 tests, with 0 failures", told), told


@pytest.fixture(scope="module")
def check_types(swiftc: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[Path]], Any]:
    """`check_types(module, files)` holds Swift files against the declarations of Apple's frameworks in `apple/`."""
    folder = tmp_path_factory.mktemp("frameworks")
    for name in FRAMEWORKS:
        module = folder / f"{name}.swiftmodule"
        done = _run(
            swiftc, "-parse-as-library", "-emit-module", "-module-name", name, "-emit-module-path", module,
            "-I", folder, APPLE / f"{name}.swift", cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    # what Swift's own build generates for a target with resources
    generated = folder / "Module.swift"
    generated.write_text("import Foundation\nextension Bundle { static var module: Bundle { .main } }\n")

    def check(module: str, files: list[Path]) -> subprocess.CompletedProcess[str]:
        return _run(
            swiftc, "-swift-version", "5", "-enable-testing", "-parse-as-library", "-emit-module",
            "-module-name", module, "-emit-module-path", folder / f"{module}.swiftmodule", "-I", folder,
            generated, *files, cwd=folder,
        )  # fmt: skip

    return check


@pytest.mark.slow
def test_types_fit_what_apple_documents(package: Path, check_types: Callable[[str, list[Path]], Any]) -> None:
    done = check_types("FaceX", sorted((package / "Sources").rglob("*.swift")))
    assert done.returncode == 0, done.stderr
    done = check_types("FaceXTests", sorted((package / "Tests").rglob("*.swift")))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("network.prediction(from: features)", "network.prediction(of: features)"),
        ("kCVPixelFormatType_32BGRA, attributes", "attributes, kCVPixelFormatType_32BGRA"),
        ("array.dataPointer", "array.pointer"),
        ("guard let kind =", "let kind ="),
    ],
)
def test_types_that_do_not_fit_are_seen(
    package: Path, tmp_path: Path, check_types: Callable[[str, list[Path]], Any], old: str, new: str
) -> None:
    copy = shutil.copytree(package / "Sources", tmp_path / "Sources")
    path = copy / "FaceX" / "FaceDetector.swift"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    done = check_types("Broken", sorted(copy.rglob("*.swift")))
    assert done.returncode != 0
    assert "FaceDetector.swift" in done.stderr


# A real model


@pytest.mark.slow
def test_a_real_export_finds_its_goldens_from_the_package(
    seeded_checkpoint: Path, photo_dir: Path, tmp_path: Path
) -> None:
    from facex.exporters import coreml
    from facex.reference import detector
    from facex.reference.photographs import letterbox, load
    from facex.types import ContractOptions

    pytest.importorskip("coremltools", reason="coremltools is not installed")
    size = Size(height=160, width=160)
    build = tmp_path / "build"
    record = facex.export(seeded_checkpoint, targets=["coreml"], precisions=["fp32"], sizes=[str(size)], out=build)
    (artifact,) = record.artifacts
    reference = detector.load(seeded_checkpoint, ContractOptions())
    session = detector.ReferenceSession(reference, size, Head.DECODED, threads=1)
    entries = []
    for i, path in enumerate(sorted(photo_dir.iterdir())[:2]):
        rgb = load(path)
        boxed = letterbox(rgb, size, reference.contract.mean_rgb)
        picture = tmp_path / f"golden_{i}.png"
        Image.fromarray(boxed.pixels).save(picture)
        found = replay.faces(session({"image": boxed.pixels[None]}), Head.DECODED, reference.contract, size)
        faces = tuple(
            Face(score=float(s), box=tuple(map(float, b)), landmarks=tuple(map(float, p.ravel())))
            for s, b, p in zip(found.scores, found.boxes, found.landmarks, strict=True)
        )
        entries.append(
            Golden(
                file=picture.name,
                sha256=manifest.sha256_of(picture),
                source_height=rgb.shape[0],
                source_width=rgb.shape[1],
                scale=boxed.scale,
                faces=faces,
            )
        )
    tolerances = Tolerances(score=0.02, box=0.02, landmark=0.02)
    bundle = Bundle(
        source=record.source,
        models=(Model(path=build / artifact.path, artifact=artifact, tolerances=tolerances),),
        goldens=GoldenSet(folder=tmp_path, size=size, goldens=tuple(entries)),
    )
    package = tmp_path / "package"
    package.mkdir()
    ios.write(bundle, package)
    description = goldens.load(package)
    opened = coreml.open_session(goldens.file_of(description, description.models[0]), threads=1)
    seen = replay.replay(opened, description.goldens, artifact.head, description.contract)
    verdicts = {f.name: f.verdict for f in seen.findings(artifact.name, tolerances)}
    assert set(map(str, verdicts.values())) == {"pass"}
    assert sum(len(d.pairs) for d in seen.deviations) == sum(len(golden.faces) for golden in entries)
