"""What every target and every family has in common: a detector of each family, and its files.

A family `<name>` brings `families/<name>.py` with

    VARIANTS: tuple[str, ...]
    def checkpoint(request: pytest.FixtureRequest, variant: str) -> tuple[Path, ContractOptions]

a checkpoint with seeded weights that finds something in `photo_dir` at 160x160, and what must be stated of it. The
first variant is exported in every precision, the others in single precision. Targets bring nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from facex import exporters
from facex.errors import MissingExtraError
from facex.types import ExportOptions, FileFacts, Head, Precision, Selection, Size

if TYPE_CHECKING:
    from facex.calibration.engine import Calibrated
    from facex.exporters import Job
    from facex.reference.detector import Detector

SIZE = Size(height=160, width=160)
SELECTION = Selection(max_faces=24)
"""By which files with a `detections` head choose faces."""
FAMILIES = Path(__file__).parent / "families"


@pytest.fixture(scope="session")
def detector_of(request: pytest.FixtureRequest) -> Callable[[str, str], Detector]:
    """`detector_of(family, variant)` loads a seeded checkpoint of the family."""
    from facex.reference import detector

    loaded: dict[tuple[str, str], Detector] = {}

    def load(family: str, variant: str) -> Detector:
        key = family, variant
        if key not in loaded:
            source = FAMILIES / f"{family}.py"
            assert source.is_file(), f"the family '{family}' needs {source}: see {Path(__file__).name} beside it"
            spec = importlib.util.spec_from_file_location(f"conformance_{family}", source)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            loaded[key] = detector.load(*module.checkpoint(request, variant))
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def job_of(
    detector_of: Callable[[str, str], Detector],
    calibrated: Callable[..., Calibrated],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Job]:
    """`job_of(family, variant, target, precision, head)` gives a job in a folder of its own; pivots are shared."""
    from facex.exporters import _pivot

    pivots: dict[tuple[str, str, Head], Path] = {}
    plans: dict[tuple[str, str, Head], Path] = {}

    def make(family: str, variant: str, target: str, precision: Precision, head: Head) -> Job:
        info = exporters.info(target)
        try:
            exporters.require(info, info.packages, f"the target '{target}'")
        except MissingExtraError as error:
            pytest.skip(str(error))
        key, detector = (family, variant, head.traced), detector_of(family, variant)
        if key not in pivots:
            pivots[key] = tmp_path_factory.mktemp("pivot") / "pivot.onnx"
            _pivot.write(detector, SIZE, head.traced, 17, pivots[key])
        if precision is Precision.W8A8 and key not in plans:
            plans[key] = pivots[key].with_name("qdq.onnx")
            calibrated(pivots[key], detector, head.traced).write(plans[key])
        return exporters.Job(
            path=tmp_path_factory.mktemp("artifact") / f"{variant}_{SIZE}_{precision}{info.suffix}",
            precision=precision,
            head=head,
            selection=SELECTION if head is Head.DETECTIONS else None,
            size=SIZE,
            detector=detector,
            pivot=pivots[key],
            qdq=plans.get(key),
            options=exporters.settled(ExportOptions(opset=17, deployment_target=None), info, precision),
        )

    return make


@pytest.fixture(scope="session")
def artifact_of(job_of: Callable[..., Job]) -> Callable[..., tuple[Job, FileFacts]]:
    """`artifact_of(family, variant, target, precision, head)` exports once, and verifies what the file says."""
    written: dict[tuple[str, str, str, Precision, Head], tuple[Job, FileFacts]] = {}

    def export(family: str, variant: str, target: str, precision: Precision, head: Head) -> tuple[Job, FileFacts]:
        key = family, variant, target, precision, head
        if key not in written:
            job, module = job_of(*key), exporters.load(target)
            module.export(job)
            facts = module.describe(job.path)
            exporters.verify(job, module.INFO, facts)
            written[key] = job, facts
        return written[key]

    return export
