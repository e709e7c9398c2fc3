"""Every target with every family: the agreed inputs and outputs, and the same faces as the reference.

Targets and families are those of the registries; a new one is tested without a change here.
"""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex import exporters
from facex.errors import SessionUnavailableError
from facex.parity.compare import Candidate, compare
from facex.reference import families, photographs
from facex.reference.detector import ReferenceSession, selected
from facex.reference.photographs import letterbox, load
from facex.types import FileFacts, Head, Precision, Size

SIZE = Size(height=160, width=160)


def single_of(target: str) -> Precision:
    """The precision of a target that is held to the reference: single, or the best it has."""
    precisions: tuple[Precision, ...] = exporters.info(target).precisions
    return Precision.FP32 if Precision.FP32 in precisions else precisions[0]


def variants(family: str) -> tuple[str, ...]:
    """What the family brings, the fully tried one first; see `conftest.py`."""
    source = Path(__file__).parent / "families" / f"{family}.py"
    assert source.is_file(), f"the family '{family}' needs {source}: see conftest.py beside its folder"
    found: tuple[str, ...] = runpy.run_path(str(source))["VARIANTS"]
    return found


def tried(family: str) -> list[tuple[str, str, Precision, Head]]:
    """Variant, target, precision and head: every precision of the first variant, and the single one of the others.

    The raw head is what precedes the decoded one: single precision, and the plan of w8a8, show that it is.
    """
    first, *others = variants(family)
    return [
        *(
            (first, target, precision, head)
            for target in exporters.names()
            for precision in exporters.info(target).precisions
            for head in (Head.DECODED, Head.RAW)
            if head is Head.DECODED or precision in (single_of(target), Precision.W8A8)
        ),
        *((variant, target, single_of(target), Head.DECODED) for variant in others for target in exporters.names()),
    ]


def cases(*, single: bool | None) -> list[Any]:
    """Family, variant, target, precision and head: the single precision alone, all but that, or all of them.

    What needs the packages of an extra, or calibrates, or is no first variant, is slow.
    """
    return [
        pytest.param(
            family,
            variant,
            target,
            precision,
            head,
            id=f"{family}-{variant}-{target}-{precision}-{head}",
            marks=[pytest.mark.slow] if slow(family, variant, target, precision) else [],
        )
        for family in families.names()
        for variant, target, precision, head in tried(family)
        if single is None or single is (precision is single_of(target))
    ]


def slow(family: str, variant: str, target: str, precision: Precision) -> bool:
    heavy = bool(exporters.info(target).extra) or precision is Precision.W8A8
    return heavy or variant != variants(family)[0]


def session_of(job: exporters.Job, target: str) -> Any:
    try:
        return exporters.load(target).open_session(job.path, threads=1)
    except SessionUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("family", "variant", "target", "precision", "head"), cases(single=None))
def test_every_file_has_the_agreed_inputs_and_outputs(artifact_of, family, variant, target, precision, head):
    job, facts = artifact_of(family, variant, target, precision, head)
    assert [t.name for t in facts.inputs] == ["image"]
    names = ["boxes", "scores", "landmarks"] if head is Head.DECODED else ["loc", "conf", "landm"]
    assert [t.name for t in facts.outputs] == [*names, *["mesh"] * (job.detector.contract.mesh > 0)]
    assert {t.dtype for t in facts.outputs} == {"float32"}
    assert facts.macs > 0
    assert facts.operators
    assert facts.integer_mac_fraction == (1.0 if precision is Precision.W8A8 else 0.0)
    assert facts.minimum_runtime
    shown = facts.standard_metadata
    if target != "onnx":  # the only format without fields for tools
        assert [t.name for t in shown.tensors] == [t.name for t in (*facts.inputs, *facts.outputs)]
        assert all(t.description for t in shown.tensors)
        assert facts.metadata["facex.precision"] == precision.value
    assert exporters.target_of(job.path) == target


@pytest.mark.parametrize(("family", "variant", "target", "precision", "head"), cases(single=True))
def test_single_precision_is_the_reference(artifact_of, photo_dir, family, variant, target, precision, head):
    job, _ = artifact_of(family, variant, target, precision, head)
    session = session_of(job, target)
    assert session.runtime
    pictures = photographs.find(photo_dir, option="--images")
    comparison = compare(
        ReferenceSession(job.detector, SIZE, head, threads=1),
        {job.path.name: Candidate(session=session, head=head)},
        pictures,
        contract=job.detector.contract,
        size=SIZE,
        head=head,
    )
    found = comparison.metrics[job.path.name]
    assert comparison.reference_metrics["reference_faces"] >= len(pictures)  # there was something to find
    if precision is Precision.FP32:
        assert found["matched_f1"] == 1.0
        noise_db = {name: value for name, value in found.items() if name.startswith("snr_db.")}
        assert len(noise_db) == 3 + (job.detector.contract.mesh > 0)
        assert all(value is not None and value >= 80 for value in noise_db.values()), noise_db


@pytest.mark.parametrize(("family", "variant", "target", "precision", "head"), cases(single=False))
def test_every_other_precision_computes_the_same_function(
    artifact_of, draw_photograph, family, variant, target, precision, head
):
    job, _ = artifact_of(family, variant, target, precision, head)
    session = session_of(job, target)
    image = np.asarray(draw_photograph(44, 160, 160))[None]
    found = session({"image": image})
    wanted = ReferenceSession(job.detector, SIZE, head, threads=1)({"image": image})
    assert list(found) == list(wanted)
    for name, expected in wanted.items():
        assert (found[name].shape, found[name].dtype) == (expected.shape, np.float32)
        assert np.isfinite(found[name]).all()
        noise = np.square(found[name] - expected.astype(np.float64)).sum()
        assert 10 * math.log10(np.square(expected.astype(np.float64)).sum() / noise) > 3, name


def choosing() -> list[Any]:
    """Family, variant, target, precision: one RetinaFace in every target, and what gives mesh codes in the lightest."""
    tried = [
        ("retinaface", variants("retinaface")[0], target, precision)
        for target in exporters.names()
        for precision in dict.fromkeys((single_of(target), Precision.W8A8))
        if precision in exporters.info(target).precisions
    ]
    tried.append(("retinaface_full", variants("retinaface_full")[0], "onnx", Precision.FP32))
    return [pytest.param(*case, id="-".join(case), marks=[pytest.mark.slow] if slow(*case) else []) for case in tried]


def head_steps(facts: FileFacts) -> list[tuple[str, str, float]]:
    found = facts.quantization.head_tensors if facts.quantization else ()
    return sorted((t.output, str(t.unit), t.step) for t in found)


@pytest.mark.parametrize(("family", "variant", "target", "precision"), choosing())
def test_a_file_that_chooses_faces_gives_what_the_app_would_choose(
    artifact_of, draw_photograph, photo_dir, family, variant, target, precision
):
    """To the bit those rows that the reference's NMS chooses from the same file with a decoded head."""
    (by_prior, before), (job, facts) = (
        artifact_of(family, variant, target, precision, head) for head in (Head.DECODED, Head.DETECTIONS)
    )
    assert job.selection is not None
    meshed = job.detector.contract.mesh > 0
    assert [t.name for t in facts.outputs] == ["boxes", "scores", "landmarks", "count", *["mesh"] * meshed]
    assert facts.integer_mac_fraction == (1.0 if precision is Precision.W8A8 else 0.0)
    assert head_steps(facts) == head_steps(before)  # the lint of w8a8 files looks at them
    decoded, choosing = session_of(by_prior, target), session_of(job, target)
    pixels = [letterbox(load(p), SIZE, (0, 0, 0)).pixels for p in sorted(photo_dir.iterdir())]
    counts = []
    for image in [*pixels, np.full((160, 160, 3), 127, np.uint8)]:
        found = choosing({"image": image[None]})
        wanted = selected(decoded({"image": image[None]}), job.selection)
        assert list(found) == [t.name for t in facts.outputs]
        for name, expected in wanted.items():
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        counts.append(int(found["count"][0]))
    assert max(counts) > 0


@pytest.mark.parametrize(("family", "variant"), [(f, v) for f in families.names() for v in variants(f)])
def test_every_family_recognises_its_own_checkpoint(detector_of, family, variant):
    detector = detector_of(family, variant)
    assert detector.contract.family == family
    module = families.load(family)
    assert family == module.NAME
    unknown = module.recognise({})
    assert isinstance(unknown, families.Mismatch)
    assert unknown.family == family
    assert not detector.network.training


@pytest.mark.parametrize("target", exporters.names())
def test_every_target_says_what_planning_needs(target):
    module = exporters.load(target)
    info = module.INFO
    assert info.name == target
    assert info.suffix.startswith(".")
    assert exporters.target_of(Path("folder") / f"net_160x160_fp32{info.suffix}") == target
    assert len(set(info.precisions)) == len(info.precisions) > 0
    assert info.int8 in info.precisions
    assert info.packages
    assert info.runtimes
    for member in ("export", "describe", "open_session"):
        assert callable(getattr(module, member))


def test_suffixes_tell_targets_apart():
    suffixes = [exporters.info(name).suffix for name in exporters.names()]
    assert len(set(suffixes)) == len(suffixes)


def test_planning_imports_no_heavy_package():
    """Every target's INFO, in a fresh interpreter."""
    code = (
        "import sys; from facex import exporters; [exporters.info(name) for name in exporters.names()]; "
        "print([m for m in ('torch', 'tensorflow', 'onnx', 'onnxruntime', 'coremltools', 'ai_edge_litert', 'rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
