"""Which operators of a TFLite file the XNNPACK delegate leaves to the built-in kernels, and their share of the time.

Once tensors are allocated, an interpreter lists, after the operators of the file, a DELEGATE node for every partition
that the delegate took over, with the tensors at its edges. The operators between those edges are XNNPACK's; the others
run on built-in kernels, of which some are only reference code.

No TFLite runtime gives Python a profile of its operators. So every operator left is cut out into a file of its own,
with its tensors, grids and constants; it reads what it reads inside the whole file, and is timed beside that file. A
file without operators tells the cost of a call, which is subtracted from both.

`measure` runs a file that anybody may have written, and a damaged one can take the process down: `inspect` calls
`kernels`, which does it in a process of its own.
"""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facex.errors import first_line
from facex.exporters import _litert
from facex.exporters._quiet import quiet
from facex.types import KernelFacts, ReferenceKernel, as_plain

DELEGATE = "DELEGATE"
MIN_ROUNDS, MAX_ROUNDS = 10, 200
MAX_SECONDS = 1.5
"""Of timed rounds; overrun only to reach `MIN_ROUNDS`."""
PATIENCE_SECONDS = 60
"""After which the process that measures is given up."""

ASK = "import sys; sys.path[:] = sys.argv[2:]; from facex.exporters import _kernels; _kernels.answer(sys.argv[1])"
"""The child's program: it finds its modules where this process does, and never in the working folder."""

Details = Mapping[str, Any]


def kernels(path: Path) -> KernelFacts:
    """`measure` in a process of its own; whatever fails there becomes a reason why nothing is known."""
    line = [sys.executable, "-c", ASK, str(path.resolve()), *sys.path]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter and a fixed program
            line, capture_output=True, text=True, errors="replace", timeout=PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _unknown(f"timing it took longer than {PATIENCE_SECONDS} s")
    except OSError as error:
        return _unknown(f"no process can be started: {error.strerror}")
    if done.returncode < 0:
        return _unknown(f"the runtime crashed on it (signal {-done.returncode})")
    if done.returncode > 0:
        said = [text.strip() for text in done.stderr.splitlines() if text.strip()]
        return _unknown(said[-1][:300] if said else f"the process that measures ended with {done.returncode}")
    try:
        return _from_plain(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):  # a library wrote to its stdout as well
        return _unknown(f"the process that measures answered {done.stdout[:200]!r}")


def _from_plain(plain: Any) -> KernelFacts:
    found = plain["reference_kernels"]
    return KernelFacts(
        reference_kernels=None if found is None else tuple(ReferenceKernel(**kernel) for kernel in found),
        reference_kernels_method=plain["reference_kernels_method"],
    )


def _unknown(reason: str) -> KernelFacts:
    return KernelFacts(reference_kernels=None, reference_kernels_method=f"unknown: {reason}")


def measure(path: Path) -> KernelFacts:
    """Ask the installed runtime which operators its delegate leaves, and time those, in this process.

    Raises:
        ArtifactError: no interpreter can read the file.
        ValueError, RuntimeError: none can prepare or run it.
    """
    runtime, interpreter = _litert._interpreter(path, threads=1)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    partitions = [node for node in nodes if node["op_name"] == DELEGATE]
    if not partitions:
        return _unknown(f"{runtime} shows no delegate at work in this file")
    left = left_over([node for node in nodes if node["op_name"] != DELEGATE], partitions)
    if not left:
        return KernelFacts(reference_kernels=(), reference_kernels_method=f"partition of {runtime}")
    names = {t["index"]: t["name"] for t in interpreter.get_tensor_details()}
    shares, method = _shares(path, interpreter, left)
    found = [
        ReferenceKernel(operator=node["op_name"], name=_name(node, names), share_of_time=share)
        for node, share in zip(left, shares, strict=True)
    ]
    return KernelFacts(reference_kernels=tuple(found), reference_kernels_method=f"partition of {runtime}; {method}")


def _name(node: Details, names: Mapping[int, str]) -> str:
    return next((names[int(i)] for i in node["outputs"] if int(i) in names), "")


def left_over(operators: Sequence[Details], partitions: Sequence[Details]) -> list[Details]:
    """The operators in no partition.

    Args:
        operators: of the file, as the interpreter details them.
        partitions: its DELEGATE nodes; `inputs` and `outputs` are the tensors at their edges.
    """
    producer = {int(tensor): i for i, operator in enumerate(operators) for tensor in operator["outputs"]}
    taken: set[int] = set()
    for partition in partitions:
        edge = set(map(int, partition["inputs"]))
        waiting = list(map(int, partition["outputs"]))
        while waiting:
            tensor = waiting.pop()
            place = producer.get(tensor)
            if place is not None and place not in taken and tensor not in edge:
                taken.add(place)
                waiting += map(int, operators[place]["inputs"])
    return [operator for i, operator in enumerate(operators) if i not in taken]


def _shares(path: Path, whole: Any, left: Sequence[Details]) -> tuple[list[float | None], str]:
    """Share of one inference that each operator takes, 0-1, None where it cannot run alone, and how it was found."""
    schema = _litert._schema()
    if schema is None:
        return [None] * len(left), "not timed: no installed package has the schema of the file"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    values = _values(path, whole, {int(i) for node in left for i in node["inputs"]})
    nothing = _load(cut(schema, model, None), {})
    assert nothing is not None
    alone = [_alone(schema, model, node, values) for node in left]
    calls = [whole.invoke, nothing.invoke, *(one.invoke for one in alone if one is not None)]
    (whole_s, nothing_s, *rest), rounds = minima(calls)
    seconds = iter(rest)
    span = max(whole_s - nothing_s, 1e-9)
    shares = [None if one is None else min(max(next(seconds) - nothing_s, 0.0) / span, 1.0) for one in alone]
    method = (
        "each operator cut out and timed alone beside the whole file on this host, "
        f"1 thread, minimum of {rounds} interleaved rounds, the cost of a call ({nothing_s * 1e6:.0f} µs) subtracted; "
        f"the whole file takes {whole_s * 1e3:.2f} ms"
    )
    return shares, method


def minima(calls: Sequence[Callable[[], Any]]) -> tuple[list[float], int]:
    """Shortest time of every call in seconds, taken in turns, and how many turns there were."""
    best = [float("inf")] * len(calls)
    started = time.perf_counter()
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - started < MAX_SECONDS):
        for i, call in enumerate(calls):
            before = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - before)
        rounds += 1
    return best, rounds


def _runtime() -> tuple[Any, Any]:
    """The interpreter's class, and the resolver that leaves every operator to the built-in kernels."""
    _, interpreter_class = _litert.runtime_module()
    module = importlib.import_module(interpreter_class.__module__)
    return interpreter_class, module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def _values(path: Path, whole: Any, tensors: set[int]) -> dict[int, Any]:
    """What tensors hold after an inference on noise, which `whole` is given as well; unreadable ones are left out."""
    interpreter_class, _ = _runtime()
    kept = interpreter_class(model_path=str(path), num_threads=1, experimental_preserve_all_tensors=True)
    kept.allocate_tensors()
    random = np.random.default_rng(0)
    for given in kept.get_input_details():
        noise = random.integers(0, 128, given["shape"]).astype(given["dtype"])
        for interpreter in (kept, whole):
            interpreter.set_tensor(given["index"], noise)
    kept.invoke()
    found = {}
    for tensor in tensors:
        try:
            found[tensor] = kept.get_tensor(tensor)
        except (ValueError, RuntimeError):  # no data of its own: an optional input, a resource
            continue
    return found


def _alone(schema: Any, model: Any, node: Details, values: Mapping[int, Any]) -> Any:
    """An interpreter of one operator with its inputs set, or None where it cannot run alone."""
    operator = model.subgraphs[0].operators[node["index"]]
    if list(operator.inputs) != list(node["inputs"]):
        return None
    return _load(cut(schema, model, operator), values)


def cut(schema: Any, model: Any, operator: Any) -> bytes:
    """A file of one operator of the first subgraph, or of none: its tensors keep grids and constants.

    Variable inputs become those of the file, named by their place in the original.
    """
    import flatbuffers

    graph, part = schema.SubGraphT(), schema.ModelT()
    source = model.subgraphs[0]
    used = [int(i) for i in (*operator.inputs, *operator.outputs)] if operator else [int(source.inputs[0])]
    places = {old: new for new, old in enumerate(dict.fromkeys(i for i in used if i >= 0))}
    part.version, part.buffers, graph.tensors = model.version, [schema.BufferT()], []
    for old in places:
        tensor = copy.copy(source.tensors[old])
        tensor.name = str(old)
        data = model.buffers[tensor.buffer]
        tensor.buffer = 0
        if data.data is not None and len(data.data):
            tensor.buffer = len(part.buffers)
            part.buffers.append(data)
        graph.tensors.append(tensor)
    graph.operators, part.operatorCodes = [], []
    read = [int(i) for i in operator.inputs if i >= 0] if operator else used
    graph.inputs = [places[i] for i in dict.fromkeys(read) if graph.tensors[places[i]].buffer == 0]
    graph.outputs = [places[int(i)] for i in (operator.outputs if operator else used)]
    if operator:
        lone = copy.copy(operator)
        lone.opcodeIndex = 0
        lone.inputs = [places.get(int(i), -1) for i in operator.inputs]
        lone.outputs = graph.outputs
        graph.operators, part.operatorCodes = [lone], [model.operatorCodes[operator.opcodeIndex]]
    part.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(part.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _load(content: bytes, values: Mapping[int, Any]) -> Any:
    """An interpreter on built-in kernels that has run once on `values` (by the inputs' names), or None."""
    interpreter_class, resolver = _runtime()
    try:
        interpreter = interpreter_class(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
        known = [
            (g["index"], values[int(g["name"])]) for g in interpreter.get_input_details() if int(g["name"]) in values
        ]
        for index, value in known:
            interpreter.resize_tensor_input(index, value.shape)  # the file may not know it
        interpreter.allocate_tensors()
        for index, value in known:
            interpreter.set_tensor(index, value)
        interpreter.invoke()
    except (ValueError, RuntimeError):  # an operator that needs more of its file than its tensors
        return None
    return interpreter


def answer(path: str) -> None:
    """Print what `measure` finds as JSON, or end with 1 and a line on stderr: the child's part of `kernels`."""
    try:
        with quiet():
            found = measure(Path(path))
    except Exception as error:  # noqa: BLE001 - a file may fail anywhere; the caller is told in one line
        sys.exit(f"{type(error).__name__}: {first_line(error)}")
    sys.stdout.write(json.dumps(as_plain(found)))
