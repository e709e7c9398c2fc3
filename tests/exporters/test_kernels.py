"""Which operators of a TFLite file run on built-in kernels, and the share of the time they are said to take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex import exporters
from facex.exporters import _kernels, _litert, tflite
from facex.types import KernelFacts, Precision


def node(inputs: list[int], outputs: list[int]) -> dict[str, list[int]]:
    return {"inputs": inputs, "outputs": outputs}


CHAIN = [node([0, 10], [1]), node([1], [2]), node([2, 1, -1], [3]), node([3], [4]), node([4], [5, 6])]


@pytest.mark.parametrize(
    ("partitions", "left"),
    [
        ([], [0, 1, 2, 3, 4]),
        ([node([0, 10], [5, 6])], []),
        ([node([0, 10], [5])], []),
        ([node([0, 10], [1]), node([2, 1], [5])], [1]),
        ([node([1], [3])], [0, 3, 4]),
        ([node([0, 10], [2, 1]), node([4], [5, 6])], [2, 3]),
    ],
)
def test_what_lies_between_the_edges_of_a_partition_is_taken(partitions, left):
    assert _kernels.left_over(CHAIN, partitions) == [CHAIN[i] for i in left]


def test_the_minimum_of_every_call_is_taken():
    waits = {"short": iter([0.004] * 300), "long": iter([0.03, *[0.012] * 300])}
    calls = [lambda wait=wait: time.sleep(next(wait)) for wait in waits.values()]
    (short, long), rounds = _kernels.minima(calls)
    assert 0.004 <= short < 0.012 <= long < 0.03
    assert _kernels.MIN_ROUNDS <= rounds <= _kernels.MAX_ROUNDS


ANSWERS = {
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "the runtime crashed on it (signal 11)",
    "import sys; sys.exit('first\\n\\nOddError: what it is\\n')": "OddError: what it is",
    "import sys; sys.exit(3)": "the process that measures ended with 3",
    "print('a library greets you')": "the process that measures answered 'a library greets you\\n'",
    "print('[]')": "the process that measures answered '[]\\n'",
    "import time; time.sleep(60)": "timing it took longer than 2 s",
}


@pytest.mark.parametrize("program", ANSWERS)
def test_whatever_happens_to_the_process_is_a_reason(monkeypatch, tmp_path, program):
    monkeypatch.setattr(_kernels, "ASK", program)
    monkeypatch.setattr(_kernels, "PATIENCE_SECONDS", 2)
    assert _kernels.kernels(tmp_path / "a.tflite") == KernelFacts(
        reference_kernels=None, reference_kernels_method=f"unknown: {ANSWERS[program]}"
    )


def test_without_a_python_to_start_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.executable", str(tmp_path / "absent"))
    assert _kernels.kernels(tmp_path / "a.tflite").reference_kernels is None


def test_the_working_folder_holds_no_modules(monkeypatch, tmp_path):
    for name in ("json", "numpy", "facex"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    (tmp_path / "-c.tflite").write_text("a text")
    monkeypatch.chdir(tmp_path)
    found = _kernels.kernels(Path("-c.tflite"))
    assert found.reference_kernels is None
    assert "not this one" not in found.reference_kernels_method
    assert "-c.tflite: is not a TFLite file" in found.reference_kernels_method


def test_only_targets_with_a_delegate_are_asked(tmp_path):
    assert exporters.kernels("onnx", tmp_path / "a.onnx") is None


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save(function, shape)`: a float function of one tensor as a TFLite file; `w8a8=True` reads its fake grids."""
    import tensorflow as tf

    from facex.exporters._quiet import quiet

    def write(function: Callable[[Any], Any], shape: list[int], *, w8a8: bool = False) -> Path:
        with quiet():
            traced = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32)])
            precision = Precision.W8A8 if w8a8 else Precision.FP32
            content = tflite._converter(tf, traced.get_concrete_function(), precision).convert()
        path = tmp_path / "small.tflite"
        path.write_bytes(content)
        return path

    return write


def pointwise(x: Any, seed: int) -> Any:
    import tensorflow as tf

    channels = int(x.shape[-1])
    w = np.random.default_rng(seed).normal(size=(1, 1, channels, channels)).astype(np.float32)
    return tf.nn.conv2d(x, w / np.abs(w).max(axis=(0, 1, 2)), 1, "SAME")


def lone_relu(x: Any) -> Any:
    """Two 8-bit convolutions with a ReLU between them that fuses with neither: its input has a grid of its own."""
    import tensorflow as tf

    def grid(x: Any, low: float, high: float) -> Any:
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high)

    x = grid(pointwise(grid(x, 0.0, 255.0), 1), -400.0, 400.0)
    return grid(pointwise(grid(tf.nn.relu(tf.concat([x, x], axis=1)), 0.0, 400.0), 2), -900.0, 900.0)


@pytest.mark.slow
def test_a_share_is_the_time_that_leaving_the_operator_out_saves(save):
    from ai_edge_litert.interpreter import Interpreter

    path = save(lone_relu, [1, 96, 96, 16], w8a8=True)
    found = tflite.kernels(path)
    assert found.reference_kernels is not None
    shares = {kernel.operator: kernel.share_of_time for kernel in found.reference_kernels}
    assert "RELU" in shares
    names = [kernel.operator for kernel in found.reference_kernels]
    assert names.count("RELU") == 1
    assert "timed alone beside the whole file on this host, 1 thread" in found.reference_kernels_method

    interpreters = [Interpreter(model_content=c, num_threads=1) for c in (path.read_bytes(), without_relu(path))]
    for interpreter in interpreters:
        interpreter.allocate_tensors()
    (whole, rest), _ = _kernels.minima([interpreter.invoke for interpreter in interpreters])
    saved = 1 - rest / whole
    assert saved > 0.15
    assert shares["RELU"] == pytest.approx(saved, abs=0.15)


def without_relu(path: Path) -> bytes:
    """The file with the readers of its one RELU reading what that reads."""
    import flatbuffers

    schema = _litert._schema()
    assert schema is not None
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    (relu,) = (o for o in graph.operators if codes[o.opcodeIndex] == schema.BuiltinOperator.RELU)
    graph.operators.remove(relu)
    for operator in graph.operators:
        operator.inputs = [relu.inputs[0] if i == relu.outputs[0] else i for i in operator.inputs]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.slow
def test_a_file_that_the_delegate_takes_whole_leaves_none(save):
    found = tflite.kernels(save(lambda x: pointwise(x, 1), [1, 32, 32, 8]))
    assert found.reference_kernels == ()
    assert found.reference_kernels_method.startswith("partition of ai-edge-litert ")


@pytest.mark.slow
def test_an_operator_that_needs_the_rest_of_its_file_is_named_but_not_timed(save):
    import tensorflow as tf

    def loop(x: Any) -> Any:
        count, y = tf.constant(0), pointwise(x, 1)
        _, y = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y)), (count, y))
        return pointwise(y, 2)

    found = tflite.kernels(save(loop, [1, 32, 32, 8]))
    assert found.reference_kernels is not None
    assert [(k.operator, k.share_of_time) for k in found.reference_kernels] == [("WHILE", None)]


@pytest.mark.slow
def test_a_size_known_only_at_run_time_is_timed(save):
    import tensorflow as tf

    def gather(x: Any) -> Any:
        return tf.gather_nd(x, tf.where(pointwise(x, 1) > 0))

    found = tflite.kernels(save(gather, [1, 64, 64, 8]))
    assert found.reference_kernels is not None
    shares = {kernel.operator: kernel.share_of_time for kernel in found.reference_kernels}
    assert shares["WHERE"] is not None
    assert shares["GATHER_ND"] is not None
    assert shares["GATHER_ND"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", _litert.RUNTIMES)
def test_every_runtime_that_has_the_delegate_is_asked(save, monkeypatch, runtime):
    if exporters.version(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    path = save(lone_relu, [1, 16, 16, 8], w8a8=True)
    monkeypatch.setattr(_litert, "RUNTIMES", {runtime: _litert.RUNTIMES[runtime]})
    found = _kernels.measure(path)
    assert runtime in found.reference_kernels_method
    assert found.reference_kernels is not None
    assert "RELU" in [kernel.operator for kernel in found.reference_kernels]


@pytest.mark.slow
def test_a_runtime_without_a_delegate_leaves_it_unknown(save, monkeypatch):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    def plain(**options: Any) -> Any:
        return Interpreter(**options, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)

    path = save(lambda x: pointwise(x, 1), [1, 16, 16, 8])
    monkeypatch.setattr(_litert, "runtime_module", lambda: ("plain 1.0", plain))
    assert _kernels.measure(path) == KernelFacts(
        reference_kernels=None, reference_kernels_method="unknown: plain 1.0 shows no delegate at work in this file"
    )


@pytest.mark.slow
def test_without_a_schema_operators_are_named_but_not_timed(save, monkeypatch):
    path = save(lone_relu, [1, 16, 16, 8], w8a8=True)
    whole = _kernels.measure(path).reference_kernels
    monkeypatch.setattr(_litert, "_schema", lambda: None)
    found = _kernels.measure(path)
    assert whole
    assert found.reference_kernels is not None
    assert [(k.operator, k.name) for k in found.reference_kernels] == [(k.operator, k.name) for k in whole]
    assert {kernel.share_of_time for kernel in found.reference_kernels} == {None}
    assert "not timed: no installed package has the schema" in found.reference_kernels_method


@pytest.fixture(scope="module")
def artifact(make_job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Path]:
    """`artifact(precision)` gives the seeded detector's file, written once."""
    folder = tmp_path_factory.mktemp("kernels")

    def export(precision: Precision) -> Path:
        path = folder / f"seeded_160x160_{precision}.tflite"
        if not path.exists():
            tflite.export(make_job(path, precision))
        return path

    return export


@pytest.mark.slow
@pytest.mark.parametrize("precision", tflite.INFO.precisions)
def test_a_detector_is_divided_as_by_a_delegate_that_takes_operators_singly(artifact, precision):
    from ai_edge_litert.interpreter import Interpreter

    path = artifact(precision)
    single = Interpreter(model_path=str(path), num_threads=1, experimental_disable_delegate_node_fusion=True)
    single.allocate_tensors()
    nodes = single._get_ops_details()
    taken = {tuple(n["outputs"]) for n in nodes if n["op_name"] == _kernels.DELEGATE}
    left = [n for n in nodes if n["op_name"] != _kernels.DELEGATE and tuple(n["outputs"]) not in taken]
    names = {t["index"]: t["name"] for t in single.get_tensor_details()}

    found = tflite.kernels(path).reference_kernels
    assert found is not None
    assert [(k.operator, k.name) for k in found] == [(n["op_name"], names[n["outputs"][0]]) for n in left]
    assert all(k.share_of_time is not None and 0 <= k.share_of_time < 1 for k in found)
    assert sum(k.share_of_time for k in found) < 1


@pytest.mark.slow
def test_damage_is_a_reason_and_never_an_exception(artifact, tmp_path):
    content = artifact(Precision.W8A8).read_bytes()
    random = np.random.default_rng(3)
    reasons = set()
    for i in range(8):
        spoilt = bytearray(content)
        for place in random.integers(1, 20_000, 60):
            spoilt[-place] = int(random.integers(0, 256))
        path = tmp_path / f"{i}.tflite"
        path.write_bytes(spoilt)
        found = tflite.kernels(path)
        if found.reference_kernels is None:
            assert found.reference_kernels_method.startswith("unknown: ")
            assert "\n" not in found.reference_kernels_method
            reasons.add(found.reference_kernels_method)
    assert reasons
