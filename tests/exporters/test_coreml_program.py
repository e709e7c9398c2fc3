"""The arithmetic of a Core ML package without a Mac: its program, read from the file and run operator by operator.

The operators are implemented here from the MIL reference with torch; nothing of the converter takes part. Core ML
itself may round half precision elsewhere; what is checked is which arithmetic the program asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from facex.exporters import coreml
from facex.reference.detector import ReferenceSession
from facex.types import Head, Precision, Size

pytestmark = pytest.mark.slow

SIZE = Size(height=160, width=160)


def _conv(i: dict[str, Any]) -> torch.Tensor:
    top, bottom, left, right = i["pad"] if i["pad_type"] == "custom" else (0, 0, 0, 0)
    assert i["pad_type"] in {"custom", "valid"}
    x = functional.pad(i["x"], (left, right, top, bottom))
    strides, dilations = [int(s) for s in i["strides"]], [int(d) for d in i["dilations"]]
    # sums in float32, as the hardware keeps them, then rounded to the type of the operator
    weight, bias = i["weight"].float(), i["bias"].float()
    return functional.conv2d(x.float(), weight, bias, strides, 0, dilations, int(i["groups"])).to(x.dtype)


def _slice(i: dict[str, Any]) -> torch.Tensor:
    x, rank = i["x"], i["x"].ndim
    assert not any(i.get("squeeze_mask", [False]))
    assert i.get("stride") is None or all(s == 1 for s in i["stride"])
    cut = []
    for axis in range(rank):
        begin = 0 if i.get("begin_mask", [False] * rank)[axis] else int(i["begin"][axis])
        end = x.shape[axis] if i.get("end_mask", [False] * rank)[axis] else int(i["end"][axis])
        cut.append(slice(begin, end))
    return x[tuple(cut)]


def _upsample(i: dict[str, Any]) -> torch.Tensor:
    rows, columns = int(i["scale_factor_height"]), int(i["scale_factor_width"])
    return i["x"].repeat_interleave(rows, dim=2).repeat_interleave(columns, dim=3)


MIL: dict[str, Callable[[dict[str, Any]], torch.Tensor]] = {
    "add": lambda i: i["x"] + i["y"],
    "cast": lambda i: i["x"].to({"fp16": torch.float16, "fp32": torch.float32}[str(i["dtype"])]),
    "concat": lambda i: torch.cat(list(i["values"]), dim=int(i["axis"])),
    "conv": _conv,
    "exp": lambda i: torch.exp(i["x"]),
    "leaky_relu": lambda i: torch.where(i["x"] >= 0, i["x"], i["x"] * i["alpha"]),
    "mul": lambda i: i["x"] * i["y"],
    "reduce_sum": lambda i: i["x"].sum(dim=[int(a) for a in i["axes"]], keepdim=bool(i["keep_dims"])),
    "relu": lambda i: i["x"].clamp(min=0),
    "reshape": lambda i: i["x"].reshape([int(s) for s in i["shape"]]),
    "sigmoid": lambda i: torch.sigmoid(i["x"]),
    "slice_by_index": _slice,
    "sub": lambda i: i["x"] - i["y"],
    "transpose": lambda i: i["x"].permute([int(p) for p in i["perm"]]),
    "upsample_nearest_neighbor": _upsample,
}
"""Core ML's operators, as the MIL reference defines them."""


def _load(path: Any) -> Any:
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)


def run_program(path: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """Run a package on a uint8 [1, H, W, 3] image, in the element type of every operator."""
    function = _load(path).functions["main"]
    values: dict[str, torch.Tensor] = {"image": torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float32))}

    def value(variable: Any) -> Any:
        if isinstance(variable, (tuple, list)):
            return [value(v) for v in variable]
        if variable.name in values:
            return values[variable.name]
        stored = variable.val
        if stored is None and variable.op.op_type.startswith("constexpr"):
            stored = variable.op.materialized_val_inference()
        # numbers and arrays of floats take part in arithmetic, the rest configures
        floating = isinstance(stored, np.ndarray) and stored.dtype.kind == "f" and stored.ndim
        return torch.from_numpy(np.array(stored)) if floating else stored

    for operation in function.operations:
        if operation.op_type == "const" or operation.op_type.startswith("constexpr"):
            continue
        told = {name: value(v) for name, v in operation.inputs.items() if v is not None}
        values[operation.outputs[0].name] = MIL[operation.op_type](told)
    return {output.name: values[output.name].numpy() for output in function.outputs}


def snr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    wanted = wanted.astype(np.float64)
    if np.array_equal(found, wanted):
        return float("inf")
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
@pytest.mark.parametrize(
    ("precision", "lowest_db"),
    [(Precision.FP32, 100), (Precision.FP16, 40), (Precision.W8, 20), (Precision.P6, 10)],
    ids=str,
)
def test_the_program_computes_what_the_reference_does(
    make_job, detector, draw_photograph, tmp_path, head, precision, lowest_db
):
    path = tmp_path / "a.mlpackage"
    coreml.export(make_job(path, precision, head))
    image = np.asarray(draw_photograph(81, 160, 160))[None]
    found = run_program(path, image)
    wanted = ReferenceSession(detector, SIZE, head, threads=1)({"image": image})
    assert set(found) == set(wanted)
    for name, expected in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == expected.shape
        assert lowest_db < snr_db(found[name], expected), name
    executed = coreml.open_session(path, threads=1)({"image": image})
    assert list(executed) == list(wanted)
    for name, values in executed.items():
        # the same arithmetic, so nearly the same bits: what differs is the order of sums
        assert snr_db(values, found[name]) > (110 if precision is Precision.FP32 else 60), name
    swapped = run_program(path, image[..., ::-1].copy())
    assert min(snr_db(swapped[name], wanted[name]) for name in wanted) < 20  # the channels are told apart
