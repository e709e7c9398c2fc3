"""What a Core ML package says and holds: types, versions, weights, bytes; its arithmetic has a file of its own."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex import exporters, manifest, pipeline
from facex.errors import EXIT_INPUT, UsageError
from facex.exporters import _coreml_weights, _package, coreml
from facex.recipe import DEPLOYMENT_TARGETS, Recipe
from facex.types import ExportOptions, Head, Precision

pytestmark = pytest.mark.slow

FLOAT32, FLOAT16 = 11, 10
"""Element types of MIL (MIL.proto, DataType)."""

VERSIONS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}


@pytest.fixture(scope="session")
def package(make_job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`package(precision, head=decoded, deployment_target="iOS16")` gives an exported package, written once."""
    folder = tmp_path_factory.mktemp("packages")

    def export(precision: Precision, head: Head = Head.DECODED, deployment_target: str = "iOS16") -> Path:
        path = folder / f"{head}_{precision}_{deployment_target}.mlpackage"
        if not path.exists():
            coreml.export(make_job(path, precision, head, deployment_target=deployment_target))
        return path

    return export


def operations(path: Path) -> list[Any]:
    return _package.operations(_package.load(path)[0])


def element_type(operation: Any) -> int:
    return int(operation.outputs[0].type.tensorType.dataType)


@pytest.mark.parametrize(
    ("precision", "head"),
    [(Precision.FP16, Head.DECODED), (Precision.FP16, Head.RAW), (Precision.W8, Head.DECODED)],
)
def test_the_trunk_is_half_and_the_head_is_float(package, precision, head):
    found = operations(package(precision, head))
    types: dict[str, set[int]] = {}
    for operation in found:
        if operation.type != "const":
            types.setdefault(operation.type, set()).add(element_type(operation))
    for trunk in ("conv", "leaky_relu", "upsample_nearest_neighbor"):
        assert types[trunk] == {FLOAT16}
    for arithmetic in ("exp", "sigmoid", "reduce_sum", "mul", "reshape"):
        assert types.get(arithmetic, {FLOAT32}) == {FLOAT32}
    casts = [element_type(o) for o in found if o.type == "cast"]
    assert (casts.count(FLOAT16), casts.count(FLOAT32)) == (1, 9)
    producer = {o.outputs[0].name: o for o in found}
    read = [o.inputs["x"].arguments[0].name for o in found if o.type == "cast"]
    assert read[0] == "image"
    assert {producer[name].type for name in read[1:]} == {"conv"}


def test_single_precision_is_single_throughout(package):
    found = operations(package(Precision.FP32))
    assert {element_type(o) for o in found if o.type in {"conv", "leaky_relu", "add", "exp"}} == {FLOAT32}
    assert not any(o.type == "cast" for o in found)


@pytest.mark.parametrize("deployment", DEPLOYMENT_TARGETS)
def test_the_deployment_target_is_the_one_asked_for(package, deployment):
    path = package(Precision.FP16, Head.DECODED, deployment)
    assert _package.load(path)[0].specificationVersion == VERSIONS[deployment]
    system = f"{deployment[:3]} {deployment[3:]}"
    assert coreml.describe(path).minimum_runtime == f"{system} (specification {VERSIONS[deployment]})"


@pytest.mark.parametrize("deployment", ["iOS16", "iOS18"])
def test_eight_bit_weights_load_where_they_should(package, deployment):
    path = package(Precision.W8, Head.DECODED, deployment)
    assert _package.load(path)[0].specificationVersion == VERSIONS[deployment]


def test_eight_bit_weights_for_ios_15_are_refused_by_the_plan_and_by_the_export(make_job, tmp_path):
    options = ExportOptions(opset=17, deployment_target="iOS15")
    for asked in ({"precisions": (Precision.W8,)}, {"int8": True}):
        recipe = Recipe(checkpoint=Path("a.pth"), targets=("coreml",), options=options, **asked)
        with pytest.raises(UsageError, match="--deployment-target iOS15: coreml w8 needs iOS16") as caught:
            pipeline.plan(recipe)
        assert caught.value.exit_code == EXIT_INPUT
    with pytest.raises(UsageError, match="--deployment-target iOS15: coreml w8 needs iOS16"):
        coreml.export(make_job(tmp_path / "a.mlpackage", Precision.W8, deployment_target="iOS15"))
    assert list(tmp_path.iterdir()) == []


def weights_of(path: Path) -> list[np.ndarray]:
    """Real weights of every convolution as Core ML would see them, in order, by coremltools' own loader."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    found = []
    for operation in program.functions["main"].operations:
        if operation.op_type == "conv":
            weight = operation.weight
            found.append(weight.op.materialized_val_inference() if weight.val is None else weight.val)
    return found


def test_weights_are_those_of_the_folded_network(package, detector):
    import torch

    from facex.exporters._rewrites import accept_rgb, fold_batch_norms

    folded = accept_rgb(fold_batch_norms(detector.network), detector.contract)
    wanted = [m.weight.numpy() for m in folded.modules() if isinstance(m, torch.nn.Conv2d)]

    def matched(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each weight of the file with the one of the network that it is nearest to."""
        pairs = []
        for weight in weights_of(path):
            same = [w for w in wanted if w.shape == weight.shape]
            pairs.append((min(same, key=lambda w, x=weight: float(np.abs(w - x).sum())), weight))
        assert len({w.tobytes() for w, _ in pairs}) == len(wanted) == 56
        return pairs

    for original, stored in matched(package(Precision.FP32)):
        np.testing.assert_array_equal(stored, original)
    for original, stored in matched(package(Precision.FP16)):
        np.testing.assert_array_equal(stored, original.astype(np.float16))
    for original, stored in matched(package(Precision.W8)):
        half = np.abs(original).max(axis=(1, 2, 3), keepdims=True) / 127 / 2
        # scales and results are in half precision too, which near 127 steps adds a quarter of that half
        assert (np.abs(stored.astype(np.float64) - original) <= 1.3 * half).all()
        assert max(len(np.unique(channel)) for channel in stored) <= 255


def test_smaller_precisions_are_smaller(package):
    sizes = [sum(f.stat().st_size for f in package(p).rglob("*") if f.is_file()) for p in
             (Precision.FP32, Precision.FP16, Precision.W8)]  # fmt: skip
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.75 * sizes[1]


def test_the_image_is_rgb_and_everything_is_described(package, detector):
    spec = _package.load(package(Precision.FP16))[0]
    (image,) = spec.description.input
    assert image.name == "image"
    assert (image.type.imageType.width, image.type.imageType.height) == (160, 160)
    assert image.type.imageType.colorSpace == 20  # RGB in FeatureTypes.proto
    told = {tensor.name: tensor.shortDescription for tensor in (*spec.description.input, *spec.description.output)}
    assert told == {
        "image": "RGB photograph, 0 to 255, resized with the aspect kept and padded at the bottom and right",
        "boxes": "x1 y1 x2 y2 of a face, pixels of the input image; a row a prior",
        "scores": "probability of a face, 0 to 1; a row a prior",
        "landmarks": "x y of every landmark point, pixels of the input image; a row a prior",
    }
    assert spec.description.metadata.shortDescription == (
        "Face detector with 5 landmarks, converted by facex. "
        "Keep the rows that score enough, then suppress overlapping boxes."
    )
    shown = coreml.describe(package(Precision.FP16)).standard_metadata
    assert (shown.format, shown.name) == ("Core ML", "")
    assert shown.description == spec.description.metadata.shortDescription
    assert {t.name: t.description for t in shown.tensors} == told
    assert [t.content for t in shown.tensors] == ["image", "", "", ""]
    told = dict(spec.description.metadata.userDefined)
    assert told["facex.checkpoint_sha256"] == detector.sha256
    assert told["facex.precision"] == "fp16"
    assert not [key for key in told if "date" in key]


EXPORT = """
import sys, pathlib
from facex.exporters import Job, _pivot, coreml
from facex.reference import detector
from facex.types import ContractOptions, ExportOptions, Head, Precision, Size
known, size = detector.load(pathlib.Path(sys.argv[1]), ContractOptions()), Size(height=160, width=160)
pivot = pathlib.Path(sys.argv[2]).with_suffix(".onnx")
_pivot.write(known, size, Head.DECODED, 17, pivot)
for precision in (Precision.FP16, Precision.W8):
    coreml.export(Job(
        path=pathlib.Path(sys.argv[2]) / f"{precision}.mlpackage", precision=precision, head=Head.DECODED,
        size=size, detector=known, pivot=pivot, qdq=None,
        options=ExportOptions(opset=17, deployment_target="iOS16"),
    ))
"""


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_bytes_from_another_process_folder_and_hash_seed(seeded_checkpoint, tmp_path):
    found = []
    for seed, place in (("1", "a"), ("77", "another/and deeper")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", EXPORT, str(seeded_checkpoint), str(folder)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        found.append(digests(folder))
    assert found[0] == found[1]
    assert len(found[0]) == 2 * 3
    for precision in ("fp16", "w8"):
        facts = coreml.describe(tmp_path / "a" / f"{precision}.mlpackage")  # coremltools still loads it
        assert facts.macs > 0
        manifest = json.loads((tmp_path / "a" / f"{precision}.mlpackage" / "Manifest.json").read_text())
        assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]
        assert len(manifest["itemInfoEntries"]) == 2


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.W8])
def test_the_same_bytes_on_another_day(package, make_job, tmp_path, monkeypatch, precision):
    class Day(datetime.date):
        @classmethod
        def today(cls) -> datetime.date:
            return datetime.date(2001, 2, 3)

    today = package(precision)
    monkeypatch.setattr("coremltools.converters._converters_entry.date", Day)
    another = tmp_path / today.name
    coreml.export(make_job(another, precision, Head.DECODED, deployment_target="iOS16"))
    assert manifest.sha256_of(another) == manifest.sha256_of(today)


def test_int8_means_eight_bit_weights_for_this_target():
    assert exporters.info("coreml").int8 is Precision.W8


def test_six_bit_weights_are_drawn_from_palettes_and_small_tensors_are_not(package):
    spec = _package.load(package(Precision.P6))[0]
    found = _package.operations(spec)
    producer = {o.outputs[0].name: o for o in found}
    shapes = {o.outputs[0].name: _package.shape(o.outputs[0].type) for o in found}
    kinds = {True: set(), False: set()}
    for convolution in (o for o in found if o.type == "conv"):
        name = convolution.inputs["weight"].arguments[0].name
        kinds[int(np.prod(shapes[name])) >= _coreml_weights.FEWEST_PALETTIZED].add(producer[name].type)
    assert kinds == {True: {"constexpr_lut_to_dense"}, False: {"const"}}
    assert manifest.size_of(package(Precision.P6)) < 0.85 * manifest.size_of(package(Precision.W8))


def test_constants_are_stored_in_half_precision_only_where_that_is_exact(package, monkeypatch, tmp_path, make_job,
                                                                         draw_photograph):  # fmt: skip
    halved, wide = package(Precision.FP32), tmp_path / "wide.mlpackage"
    monkeypatch.setattr(coreml, "FEWEST_HALVED", 10**9)
    coreml.export(make_job(wide, Precision.FP32))
    assert any(o.type == "constexpr_cast" for o in operations(halved))
    assert not any(o.type == "constexpr_cast" for o in operations(wide))
    assert manifest.size_of(halved) < manifest.size_of(wide)
    image = {"image": np.asarray(draw_photograph(10, 160, 160))[None]}
    found, wanted = (coreml.open_session(path, threads=1)(image) for path in (halved, wide))
    for name, expected in wanted.items():
        np.testing.assert_array_equal(found[name], expected)


def test_equal_constants_are_stored_once_and_the_file_computes_the_same_bits(make_job, tmp_path, draw_photograph,
                                                                             monkeypatch):  # fmt: skip
    shared, plain = tmp_path / "shared.mlpackage", tmp_path / "plain.mlpackage"
    coreml.export(make_job(shared, Precision.W8))
    monkeypatch.setattr(_package, "_share_constants", lambda spec: None)
    coreml.export(make_job(plain, Precision.W8))
    assert manifest.size_of(shared) < 0.95 * manifest.size_of(plain)
    operations = _package.operations(_package.load(shared)[0])
    values = [op.attributes["val"].SerializeToString(deterministic=True) for op in operations if op.type == "const"]
    assert len(set(values)) == len(values)
    names = [output.name for op in operations for output in op.outputs]
    assert len(set(names)) == len(names)
    image = {"image": np.asarray(draw_photograph(9, 160, 160))[None]}
    found, wanted = (coreml.open_session(path, threads=1)(image) for path in (shared, plain))
    for name, expected in wanted.items():
        np.testing.assert_array_equal(found[name], expected)
