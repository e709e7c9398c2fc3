"""What every target reads from its own files: MACs counted on the torch network, integer share, damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from facex import exporters
from facex.errors import EXIT_INPUT, ArtifactError
from facex.types import Head, Precision, TensorInfo, as_plain

PACKAGES = {"coreml"}
"""Targets that write a folder."""


def marked(names: Iterable[str]) -> list[Any]:
    """Targets as parameters; those that need an extra's packages convert slowly."""
    return [pytest.param(n, marks=[pytest.mark.slow] if exporters.info(n).extra else []) for n in names]


TARGETS = marked(exporters.names())
INTEGER_TARGETS = marked(n for n in exporters.names() if Precision.W8A8 in exporters.info(n).precisions)
FILES = marked(n for n in exporters.names() if n not in PACKAGES)


@pytest.fixture(scope="session")
def artifact(make_job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`artifact(target, precision, head=decoded)` gives an exported file, written once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def export(target: str, precision: Precision, head: Head = Head.DECODED) -> Path:
        path = folder / f"{head}_{precision}{exporters.info(target).suffix}"
        if not path.exists():
            exporters.load(target).export(make_job(path, precision, head))
        return path

    return export


@pytest.fixture(scope="session")
def network_macs(detector) -> dict[str, int]:
    """Module -> multiply-accumulates at 160x160, from the shapes that pass through the torch network."""
    import torch

    found: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(module: Any, _inputs: Any, output: Any) -> None:
            found[name] = output[0].numel() * module.weight[0].numel()

        return hook

    convolutions = {n: m for n, m in detector.network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    hooks = [module.register_forward_hook(count(name)) for name, module in convolutions.items()]
    with torch.inference_mode():
        detector.network(torch.zeros(1, 3, 160, 160))
    for hook in hooks:
        hook.remove()
    return found


SPLIT = {
    "backbone.stem.conv": 2,  # twice the outputs
    "backbone.stages.0.0.depthwise.conv": 8 * 2 * 2,  # dense over 8 channels, twice the inputs, twice the outputs
    "backbone.stages.0.0.pointwise.conv": 2 * 2,
    "backbone.stages.0.1.depthwise.conv": 16 * 2,  # dense over 16 channels, twice the inputs
}
"""Module -> how many times its MACs an integer file takes, where LeakyReLUs are split."""


@pytest.fixture(scope="session")
def integer_macs(network_macs) -> dict[str, int]:
    """Module -> multiply-accumulates at 160x160 in an integer file."""
    assert network_macs.keys() > SPLIT.keys()
    return {name: macs * SPLIT.get(name, 1) for name, macs in network_macs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_macs_are_those_of_the_network_in_every_precision(artifact, network_macs, integer_macs, target):
    for precision in exporters.info(target).precisions:
        integers = precision is Precision.W8A8
        total = sum((integer_macs if integers else network_macs).values())
        facts = exporters.load(target).describe(artifact(target, precision))
        assert facts.macs == total > 10**7
        assert facts.integer_macs == (total if integers else 0)
        assert facts.integer_mac_fraction == float(integers)
        assert facts.float_islands == ()


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
@pytest.mark.parametrize("target", TARGETS)
def test_inputs_outputs_and_metadata_are_read_from_the_file(artifact, make_job, detector, target, head):
    info = exporters.info(target)
    path = artifact(target, info.precisions[0], head)
    facts = exporters.load(target).describe(path)
    exporters.verify(make_job(path, info.precisions[0], head), info, facts)
    shape = (1, 160, 160, 3) if info.channels_last else (1, 3, 160, 160)
    assert facts.inputs == (TensorInfo(name="image", shape=shape, dtype=info.image_dtype),)
    priors = 2 * (20 * 20 + 10 * 10 + 5 * 5)
    names = ("boxes", "scores", "landmarks") if head is Head.DECODED else ("loc", "conf", "landm")
    middle = (1, priors) if head is Head.DECODED else (1, priors, 2)
    assert [(o.name, o.shape, o.dtype) for o in facts.outputs] == [
        (names[0], (1, priors, 4), "float32"),
        (names[1], middle, "float32"),
        (names[2], (1, priors, 10), "float32"),
    ]
    assert facts.metadata["facex.checkpoint_sha256"] == detector.sha256
    assert facts.metadata["facex.head"] == head.value
    assert json.loads(facts.metadata["facex.contract"]) == as_plain(detector.contract)
    assert "unknown" not in facts.minimum_runtime


def left_in_float(model: Any) -> tuple[str, int]:
    """Take one pointwise convolution out of the plan: its weight, its input and its output stay in float.

    Returns:
        Its node's name and its place among the convolutions.
    """
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    place = 10
    conv = convolutions[place]
    source = {n.output[0]: n for n in model.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weight = source[conv.input[1]]
    quantized, scale = (constants[name] for name in weight.input[:2])
    real = (quantized * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(real, "float_weight"))
    before, after = conv.input[0].removesuffix("_dq"), conv.output[0]
    conv.input[0], conv.input[1] = before, "float_weight"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == f"{after}_dq":
                node.input[i] = after
    unread = {f"{after}_q", f"{after}_dq", weight.output[0]}
    kept = [n for n in model.graph.node if n.output[0] not in unread]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return conv.name, place


@pytest.mark.slow
@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_a_convolution_left_out_of_the_plan_is_a_float_island(qdq, make_job, integer_macs, tmp_path, target):
    model = onnx.load(str(qdq()))
    name, place = left_in_float(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(tmp_path / "plan.onnx"))
    path = tmp_path / f"partly{exporters.info(target).suffix}"
    exporters.load(target).export(replace(make_job(path, Precision.W8A8), qdq=tmp_path / "plan.onnx"))
    facts = exporters.load(target).describe(path)
    total, left = sum(integer_macs.values()), list(integer_macs.values())[place]
    assert (facts.macs, facts.integer_macs) == (total, total - left)
    assert facts.integer_mac_fraction == pytest.approx(1 - left / total)
    (island,) = facts.float_islands
    assert island.macs == left
    assert island.operator in {"Conv", "CONV_2D", "conv"}
    assert target != "onnx" or island.name == name


def one_line(error: ArtifactError, path: Path) -> None:
    text = str(error)
    assert str(path) in text
    assert "\n" not in text
    assert error.exit_code == EXIT_INPUT


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("target", FILES)
def test_a_truncated_file_is_an_artifact_error(artifact, tmp_path, target, keep):
    module = exporters.load(target)
    whole = artifact(target, Precision.FP32).read_bytes()
    path = tmp_path / f"cut{exporters.info(target).suffix}"
    path.write_bytes(whole[: int(len(whole) * keep)])
    for read in (module.describe, lambda p: module.open_session(p, threads=1)):
        with pytest.raises(ArtifactError) as caught:
            read(path)
        one_line(caught.value, path)


@pytest.mark.parametrize("target", FILES)
def test_text_and_absence_are_artifact_errors(tmp_path, target):
    module, suffix = exporters.load(target), exporters.info(target).suffix
    (tmp_path / f"text{suffix}").write_text("not a model at all, whatever its name says\n" * 20)
    for name in ("text", "missing"):
        for read in (module.describe, lambda p: module.open_session(p, threads=1)):
            with pytest.raises(ArtifactError) as caught:
                read(tmp_path / f"{name}{suffix}")
            one_line(caught.value, tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize("target", FILES)
def test_damage_anywhere_is_read_or_refused_but_never_crashes(artifact, tmp_path, target):
    """Seeded byte flips where structure is dense: near both ends."""
    whole = artifact(target, Precision.FP32).read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for i in range(60):
        spoilt = bytearray(whole)
        for _ in range(int(random.integers(1, 12))):
            near = int(random.integers(0, 3000))
            spoilt[near if random.random() < 0.5 else -1 - near] = int(random.integers(0, 256))
        path = tmp_path / f"{i}{exporters.info(target).suffix}"
        path.write_bytes(spoilt)
        try:
            exporters.load(target).describe(path)
        except ArtifactError as error:
            one_line(error, path)
            refused += 1
        path.unlink()
    assert refused > 10


def _neural_network(path: Path) -> None:
    """A package of the older kind of Core ML model."""
    import coremltools as ct
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    array = datatypes.Array(3)
    builder = NeuralNetworkBuilder([("a", array)], [("b", array)])
    builder.add_activation("relu", "RELU", "a", "b")
    ct.models.utils.save_spec(builder.spec, str(path.with_suffix(".mlmodel")))
    package = ct.models.MLModel(str(path.with_suffix(".mlmodel")), skip_model_load=True)
    program = path / "Data" / "com.apple.CoreML"
    (program / "model.mlmodel").write_bytes(package.get_spec().SerializeToString())


PACKAGE_DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no manifest": lambda p: (p / "Manifest.json").unlink(),
    "manifest is not JSON": lambda p: (p / "Manifest.json").write_text("{"),
    "manifest is empty JSON": lambda p: (p / "Manifest.json").write_text("{}"),
    "no program": lambda p: (p / "Data" / "com.apple.CoreML" / "model.mlmodel").unlink(),
    "program is text": lambda p: (p / "Data" / "com.apple.CoreML" / "model.mlmodel").write_text("not a program"),
    "program is cut": lambda p: (p / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(
        (p / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes()[:5000]
    ),
    "program is empty": lambda p: (p / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b""),
    "older kind": _neural_network,
    "no data": lambda p: shutil.rmtree(p / "Data"),
    "a file": lambda p: (shutil.rmtree(p), p.write_text("a file")),
    "nothing": lambda p: shutil.rmtree(p),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", PACKAGE_DAMAGE)
def test_a_damaged_package_is_an_artifact_error(artifact, tmp_path, damage):
    path = tmp_path / "damaged.mlpackage"
    shutil.copytree(artifact("coreml", Precision.FP32), path)
    PACKAGE_DAMAGE[damage](path)
    with pytest.raises(ArtifactError) as caught:
        exporters.load("coreml").describe(path)
    one_line(caught.value, path)
