"""The seeded detector as files of facex, right and wrong, and as other tools write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from facex.types import ContractOptions, Head, Precision, Selection, Size

if TYPE_CHECKING:
    from facex.calibration.engine import Calibrated
    from facex.foreign import Foreign
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph

SIZE = Size(height=160, width=160)


@pytest.fixture(scope="session")
def photographs(photo_dir: Path) -> list[Photograph]:
    """Three of `photo_dir`."""
    from facex.reference.photographs import find

    return find(photo_dir, option="--images")[:3]


@pytest.fixture(scope="session")
def exported_as(
    seeded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, calibrated: Callable[..., Calibrated]
) -> Callable[..., Path]:
    """`exported_as("onnx", "fp32", head=decoded, channel_order=…, mean=…)`: a file that facex writes, written once."""
    from facex import exporters
    from facex.exporters import Job, _pivot
    from facex.reference import detector
    from facex.types import ExportOptions

    folder = tmp_path_factory.mktemp("exported_as")
    written: dict[Any, Path] = {}

    def once(key: Any, suffix: str, make: Callable[[Path], None]) -> Path:
        if key not in written:
            written[key] = folder / f"{len(written)}{suffix}"
            make(written[key])
        return written[key]

    def write(target: str, precision: str = "fp32", head: Head = Head.DECODED, **stated: Any) -> Path:
        contract = (head, *sorted(stated.items()))
        wrong = detector.load(seeded_checkpoint, ContractOptions(**stated))
        pivot = once(contract, ".onnx", lambda path: _pivot.write(wrong, SIZE, head.traced, 17, path))
        quantized = precision == "w8a8"
        qdq = once((contract, "qdq"), ".onnx", calibrated(pivot, wrong, head.traced).write) if quantized else None
        info = exporters.info(target)
        options = exporters.settled(ExportOptions(opset=17, deployment_target=None), info, Precision(precision))

        def export(path: Path) -> None:
            exporters.load(target).export(
                Job(path=path, precision=Precision(precision), head=head, size=SIZE, detector=wrong, pivot=pivot,
                    qdq=qdq, options=options, selection=Selection() if head is Head.DETECTIONS else None)
            )  # fmt: skip

        return once((target, precision, contract), info.suffix, export)

    return write


@pytest.fixture(scope="session")
def by_another_tool(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`by_another_tool(form)`: ONNX as others write it: batch norms in the graph, mean and order left to the caller.

    `concatenated`: loc, softmaxed conf and landms of all levels. `maps`: NHWC maps of logits, a level each, coarsest
    first. `transposed`: the same concatenation, values before priors. `pixels`: BGR pixels in, the mean inside.
    `open`: any height and width.
    """
    import torch
    from torch import Tensor, nn

    from facex.exporters._quiet import quiet

    folder = tmp_path_factory.mktemp("another")

    class Other(nn.Module):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.network, self.form = detector.network, form

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            if self.form == "pixels":
                x = x - torch.tensor(detector.contract.mean).reshape(1, 3, 1, 1)
            levels = self.network(x)
            if self.form == "maps":
                return tuple(
                    m.permute(0, 2, 3, 1) for level in levels[::-1] for m in (level.landm, level.conf, level.loc)
                )
            loc, conf, landm = (
                torch.cat([m.permute(0, 2, 3, 1).reshape(1, -1, w) for m in maps], 1)
                for w, maps in (
                    (4, [level.loc for level in levels]),
                    (2, [level.conf for level in levels]),
                    (10, [level.landm for level in levels]),
                )
            )
            found = (loc, conf.softmax(-1), landm)
            return tuple(t.transpose(1, 2) for t in found) if self.form == "transposed" else found

    def write(form: str) -> Path:
        path = folder / f"{form}.onnx"
        if not path.exists():
            side = 160
            with quiet():
                torch.onnx.export(
                    Other(form).eval(), (torch.zeros(1, 3, side, side),), str(path), input_names=["data"],
                    opset_version=13, dynamo=False, do_constant_folding=False,
                    training=torch.onnx.TrainingMode.PRESERVE,
                    dynamic_axes={"data": {2: "height", 3: "width"}} if form == "open" else None,
                )  # fmt: skip
        return path

    return write


@pytest.fixture(scope="session")
def identified(detector: Detector, photographs: list[Photograph]) -> Callable[..., Foreign]:
    """`identified(path, photographs=…)`: the file against the seeded checkpoint, each asked once."""
    from facex import foreign

    known: dict[Any, Foreign] = {}

    def ask(path: Path, *, drawn: bool = False) -> Foreign:
        if (path, drawn) not in known:
            known[path, drawn] = foreign.identify(path, detector, () if drawn else photographs, threads=1)
        return known[path, drawn]

    return ask
