"""Run pictures through a TFLite file and write down what came out: a script for other interpreters than facex's own.

It needs Python 3.10, numpy and ai-edge-litert alone, since it also runs on an emulated machine that has no more.

    python _emulated_run.py SITE MODEL REQUEST ANSWER TRACE

SITE is the folder of numpy and ai-edge-litert, `-` for those of the interpreter; REQUEST an npz with `images`, uint8
[N, H, W, 3]; TRACE 1 or 0. A line on stdout for every finished picture. ANSWER is an npz with

- `runtime`, `machine`: str.
- `output.NAME`: float32 [N, ...], in the order of `images`.
- where traced, `operators`: str, JSON, by operator in the order of the file `[type, name of the first output, whether
  no output is of floats, [operators that its inputs come from]]`; `digests`, uint64 [N, operators], of the bytes of
  the outputs; and `faithful`, bool, whether tracing left the outputs of the file what they are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
import warnings
from typing import Any


def main() -> None:
    """Do what the arguments say."""
    site, model, request, answer, trace = sys.argv[1:]
    sys.path[0:1] = [] if site == "-" else [site]  # in place of the folder of this script
    import numpy as np

    images = np.load(request)["images"]
    plain = _Interpreter(model)
    traced = _Interpreter(model, experimental_preserve_all_tensors=True) if trace == "1" else None
    outputs, digests, faithful = [], [], True
    for image in images:
        outputs.append(plain.run(image))
        if traced is not None:
            again = traced.run(image)
            faithful = faithful and all(again[k].tobytes() == v.tobytes() for k, v in outputs[-1].items())
            digests.append(traced.digests())
        print("done", flush=True)
    found: dict[str, Any] = {f"output.{name}": np.concatenate([each[name] for each in outputs]) for name in outputs[0]}
    if traced is not None:
        found |= {"digests": np.array(digests, np.uint64), "faithful": np.array(faithful)}
        found["operators"] = np.array(json.dumps(traced.operators()))
    runtime = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    np.savez(answer, runtime=np.array(runtime), machine=np.array(platform.machine()), **found)


class _Interpreter:
    def __init__(self, model: str, **options: Any) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that keeping every tensor takes memory
            self._own = Interpreter(model_path=model, num_threads=1, **options)
        self._own.allocate_tensors()
        self._tensors = {t["index"]: t for t in self._own.get_tensor_details()}
        # private, but the only view of the operators; those that delegates put in their place come after them
        self._operators = [o for o in self._own._get_ops_details() if o["op_name"] != "DELEGATE"]

    def run(self, image: Any) -> dict[str, Any]:
        (entry,) = self._own.get_input_details()
        self._own.set_tensor(entry["index"], image[None].astype(entry["dtype"], copy=False))
        self._own.invoke()
        return {o["name"]: self._own.get_tensor(o["index"]) for o in self._own.get_output_details()}

    def digests(self) -> list[int]:
        found = []
        for operator in self._operators:
            digest = hashlib.blake2b(digest_size=8)
            for index in operator["outputs"]:
                digest.update(self._own.get_tensor(index).tobytes())
            found.append(int.from_bytes(digest.digest(), "little"))
        return found

    def operators(self) -> list[list[Any]]:
        import numpy as np

        made = {index: number for number, o in enumerate(self._operators) for index in o["outputs"]}
        found: list[list[Any]] = []
        of_floats: list[bool] = []
        for operator in self._operators:
            outputs = [self._tensors[index] for index in operator["outputs"]]
            sources = [made[index] for index in operator["inputs"] if index in made]
            floats = any(np.issubdtype(tensor["dtype"], np.floating) for tensor in outputs)
            derived = any(of_floats[number] for number in sources)
            # comparisons, indices and counts of floats are no integer arithmetic; 8-bit tensors always are
            wide = any(
                np.dtype(tensor["dtype"]) == bool or np.dtype(tensor["dtype"]).itemsize > 2 for tensor in outputs
            )
            integer = not floats and not (wide and derived)
            of_floats.append(floats or derived)
            found.append([operator["op_name"], outputs[0]["name"], integer, sources])
        return found


if __name__ == "__main__":
    main()
