"""The pivot: the network with preprocessing and head inside, traced to ONNX and simplified; other files start here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnxsim
import torch

from facex import __version__
from facex.errors import BackendError
from facex.exporters import SELECTION, _credits
from facex.exporters._quiet import quiet
from facex.exporters._rewrites import ImageModel, output_names
from facex.reference.detector import Detector
from facex.types import Credits, Head, Selection, Size, as_plain

MERGING = "eliminate_duplicate_initializer"
"""A pass of onnxsim that is left out: heads with the same weights would lose their names, and be rounded as one."""


def write(detector: Detector, size: Size, head: Head, opset: int, path: Path, credits: Credits | None = None) -> None:
    """Trace, simplify, check and save, with the credits in the metadata, from where other files take them.

    Raises:
        BackendError: onnxsim could not show that its result is equivalent, or onnx's checker refuses it.
    """
    model = ImageModel(detector, size, head).eval()
    image = torch.zeros(1, 3, size.height, size.width)
    with quiet(), torch.inference_mode():
        torch.onnx.export(
            model,
            (image,),
            str(path),
            input_names=["image"],
            output_names=list(output_names(detector.contract, head)),
            opset_version=opset,
            dynamo=False,  # the tracing exporter names nodes after modules, and needs no package beyond torch
            keep_initializers_as_inputs=True,  # or else parameters of equal values become one: see MERGING
        )
        traced = _with_one_input(onnx.load(str(path)))
        simplified, equivalent = onnxsim.simplify(traced, check_n=1, skipped_optimizers=[MERGING])
    if not equivalent:
        raise BackendError("onnxsim's simplified model does not compute the same as the traced one")
    _save(simplified, metadata(detector, head) | _credits.entries(credits or Credits()), path)


def _with_one_input(model: Any) -> Any:
    """Before: parameters among the inputs. After: the image alone."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    kept = [given for given in model.graph.input if given.name not in parameters]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def metadata(detector: Detector, head: Head, selection: Selection | None = None) -> dict[str, str]:
    """What every artifact says of itself, in the formats that can carry it."""
    chosen = {SELECTION: json.dumps(as_plain(selection), sort_keys=True)} if selection else {}
    return {
        "facex.version": __version__,
        "facex.checkpoint_sha256": detector.sha256,
        "facex.contract": json.dumps(as_plain(detector.contract), sort_keys=True),
        "facex.head": str(head),
        **chosen,
    }


def _save(model: Any, properties: dict[str, str], path: Path) -> None:
    del model.metadata_props[:]
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "facex", __version__
    del model.graph.value_info[:]  # stale or missing after simplification; inferred anew where needed
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise BackendError(f"onnx's checker refuses the exported model: {error}") from error
    onnx.save(model, str(path))
