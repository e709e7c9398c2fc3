"""Write the int8 file that others' tools give, for `int8.py`, which runs this as a process of its own and times it.

    python benchmarks/int8_peers.py tflite --checkpoint model.pth --calib photos --size 480x640 --out file.tflite
    peer-venv/bin/python benchmarks/int8_peers.py litert-torch --checkpoint model.pth …

Both start from the same module: preprocessing inside, the raw heads as outputs (loc, conf after softmax, landm), and
none of the rewrites that facex makes for int8. Both calibrate on the same letterboxed photographs, by minimum and
maximum.

- `tflite`: facex's float lowering to TensorFlow, `tf.lite.TFLiteConverter` with a representative dataset,
  TFLITE_BUILTINS_INT8 and a uint8 image.
- `litert-torch`: its own conversion with a channels-last image, then ai-edge-quantizer's `static_wi8_ai8`. Its
  interpreter needs litert-torch, which brings ai-edge-quantizer, and pillow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facex.reference import detector, photographs
from facex.types import ChannelOrder, ContractOptions, Head, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTPUTS = ("loc", "conf", "landm")
RECIPE = "static_wi8_ai8"


def raw_heads(source: detector.Detector, size: Size) -> Any:
    """A torch module, RGB 0-255 float32 [1, 3, H, W] -> loc, conf, landm, in the form that people export."""
    from facex.exporters._rewrites import ImageModel

    class RawHeads(ImageModel):
        def forward(self, image: Any) -> Any:
            return detector.flatten(self.network(image - self.mean), self.landmarks)

    return RawHeads(source, size, Head.RAW).eval()


def pictures(folder: Path, source: detector.Detector, size: Size) -> Iterator[NDArray[np.float32]]:
    """Letterboxed calibration photographs, float32 [1, H, W, 3], RGB, 0-255."""
    for photograph in photographs.find(folder, option="--calib"):
        boxed = photographs.letterbox(photographs.load(photograph.path), size, source.contract.mean_rgb)
        yield boxed.pixels[None].astype(np.float32)


def write_tflite(source: detector.Detector, calib: Path, size: Size, out: Path) -> None:
    """The TFLite converter's own calibration, fully integer but for the outputs."""
    import tensorflow as tf

    from facex.exporters import _litert, _nhwc, _nodes

    with tempfile.TemporaryDirectory(prefix="int8-peers-") as folder:
        function = _nhwc.lower(_nodes.load(_traced(source, size, Path(folder, "raw.onnx"))), quantized=True)
    spec = tf.TensorSpec([1, size.height, size.width, 3], tf.float32, name="image")

    def ordered(image: Any) -> list[Any]:
        named = function(image)
        return [named[name] for name in OUTPUTS]

    concrete = tf.function(ordered, input_signature=[spec]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture] for picture in pictures(calib, source, size))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    out.write_bytes(_litert.finish(converter.convert(), OUTPUTS, {}))


def _traced(source: detector.Detector, size: Size, path: Path) -> Path:
    """The raw heads as a simplified ONNX file, from which facex's lowering starts."""
    import onnx
    import onnxsim
    import torch

    with torch.inference_mode():
        torch.onnx.export(
            raw_heads(source, size),
            (torch.zeros(1, 3, size.height, size.width),),
            str(path),
            input_names=["image"],
            output_names=list(OUTPUTS),
            opset_version=17,
            dynamo=False,
        )
    simplified, equivalent = onnxsim.simplify(onnx.load(str(path)), check_n=1)
    if not equivalent:
        raise SystemExit("onnxsim's model does not compute the same")
    onnx.save(simplified, str(path))
    return path


def write_litert_torch(source: detector.Detector, calib: Path, size: Size, out: Path) -> None:
    """litert-torch, then ai-edge-quantizer with its recipe for integer weights and activations."""
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    model = litert_torch.to_channel_last_io(raw_heads(source, size), args=[0])
    sample = torch.zeros(1, size.height, size.width, 3)
    with tempfile.TemporaryDirectory(prefix="int8-peers-") as folder:
        path = Path(folder, "float.tflite")
        litert_torch.convert(model.eval(), (sample,)).export(str(path))
        found = quantizer.Quantizer(str(path), getattr(recipe, RECIPE)())
        samples = [{"args_0": picture} for picture in pictures(calib, source, size)]  # it goes over them twice
        calibrated = found.calibrate({"serving_default": samples}, num_threads=os.cpu_count() or 1)
        found.quantize(calibrated).export_model(str(out), overwrite=True)


def contract_options(text: str) -> ContractOptions:
    """What `int8.py` states of the contract, JSON."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    stated = {name: frozen(value) for name, value in json.loads(text).items()}
    if stated.get("channel_order") is not None:
        stated["channel_order"] = ChannelOrder(stated["channel_order"])
    return ContractOptions(**stated)


def size_of(text: str) -> Size:
    """`HEIGHTxWIDTH`."""
    height, width = map(int, text.split("x"))
    return Size(height=height, width=width)


WRITERS = {"tflite": write_tflite, "litert-torch": write_litert_torch}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tool", choices=sorted(WRITERS))
    add("--checkpoint", type=Path, required=True, help="trained .pth")
    add("--calib", type=Path, required=True, help="calibration photographs")
    add("--size", type=size_of, required=True, help="network input, HEIGHTxWIDTH")
    add("--contract", type=contract_options, default=ContractOptions(), help="facex.types.ContractOptions as JSON")
    add("--out", type=Path, required=True, help="the .tflite file to write")
    options = parser.parse_args(arguments)
    source = detector.load(options.checkpoint, options.contract)
    WRITERS[options.tool](source, options.calib, options.size, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
