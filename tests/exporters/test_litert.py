"""TFLite files from hand-built TensorFlow graphs: what is counted, what is renamed, and which interpreter runs them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex import exporters
from facex.errors import EXIT_MISSING_EXTRA, ArtifactError, MissingExtraError
from facex.exporters import _litert
from facex.types import TensorInfo


@pytest.fixture(scope="session")
def convert() -> Callable[..., bytes]:
    """`convert(function, shape, optimize=False)` gives a TFLite flatbuffer of a TensorFlow function."""
    import tensorflow as tf

    from facex.exporters._quiet import quiet

    def converted(function: Callable[[Any], Any], shape: tuple[int, ...], *, optimize: bool = False) -> bytes:
        with quiet():
            spec = tf.TensorSpec(shape, tf.float32)
            concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
            converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
            converter.optimizations = [tf.lite.Optimize.DEFAULT] if optimize else []
            return bytes(converter.convert())

    return converted


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("operator", "macs"),
    [
        ("CONV_2D", 1 * 4 * 5 * 6 * (3 * 2 * 8)),
        ("DEPTHWISE_CONV_2D", 1 * 8 * 10 * 16 * (3 * 3)),
        ("FULLY_CONNECTED", 80 * 11 * 8),
        ("TRANSPOSE_CONV", 8 * 10 * (2 * 2 * 8 * 3)),
    ],
)
def test_macs_of_every_counted_operator(convert, tmp_path, operator, macs):
    import tensorflow as tf

    function = {
        "CONV_2D": lambda x: tf.nn.conv2d(x, random(3, 2, 8, 6), [1, 2, 2, 1], "SAME"),
        "DEPTHWISE_CONV_2D": lambda x: tf.nn.depthwise_conv2d(x, random(3, 3, 8, 2), [1] * 4, "SAME"),
        "FULLY_CONNECTED": lambda x: tf.matmul(tf.reshape(x, [80, 8]), random(8, 11)),
        "TRANSPOSE_CONV": lambda x: tf.nn.conv2d_transpose(x, random(2, 2, 3, 8), [1, 16, 20, 3], [1, 2, 2, 1]),
    }[operator]
    assert operator in _litert.MAC_OPERATORS
    (tmp_path / "a.tflite").write_bytes(convert(function, (1, 8, 10, 8)))
    facts = _litert.describe(tmp_path / "a.tflite")
    assert facts.operators[operator] == 1
    assert (facts.macs, facts.integer_macs, facts.float_islands) == (macs, 0, ())


def test_eight_bit_weights_alone_do_not_make_integer_arithmetic(convert, tmp_path):
    """The converter's dynamic-range form stores int8 and computes in float."""
    import tensorflow as tf

    flatbuffer = convert(lambda x: tf.nn.conv2d(x, random(3, 3, 16, 64), 1, "SAME"), (1, 8, 8, 16), optimize=True)
    (tmp_path / "a.tflite").write_bytes(flatbuffer)
    assert len(flatbuffer) < 3 * 3 * 16 * 64 * 2  # the weights are int8
    facts = _litert.describe(tmp_path / "a.tflite")
    assert facts.macs > 0
    assert facts.integer_macs == 0


@pytest.fixture
def finished(convert, tmp_path) -> Path:
    """`image` [1, 4, 4, 3] -> `boxes` = 2 image, `scores` = image + 1, by the names that `finish` gave."""
    flatbuffer = convert(lambda x: [x * 2.0, x + 1.0], (1, 4, 4, 3))
    path = tmp_path / "finished.tflite"
    path.write_bytes(_litert.finish(flatbuffer, ["boxes", "scores"], {"facex.head": "decoded", "facex.x": "ä"}))
    return path


def test_finish_names_inputs_outputs_signature_and_metadata(finished):
    facts = _litert.describe(finished)
    assert facts.inputs == (TensorInfo(name="image", shape=(1, 4, 4, 3), dtype="float32"),)
    assert [o.name for o in facts.outputs] == ["boxes", "scores"]
    assert facts.metadata == {"facex.head": "decoded", "facex.x": "ä"}
    assert facts.minimum_runtime.startswith("TFLite ")
    _, interpreter_class = _litert.runtime_module()
    interpreter = interpreter_class(model_path=str(finished))
    signature = interpreter.get_signature_list()
    assert signature == {"serving_default": {"inputs": ["image"], "outputs": ["boxes", "scores"]}}
    x = random(1, 4, 4, 3)
    result = interpreter.get_signature_runner()(image=x)
    np.testing.assert_allclose(result["boxes"], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(result["scores"], x + 1, rtol=1e-6)


def test_a_session_maps_names_to_results_and_repeats_the_last_run(finished):
    session = _litert.LiteRTSession(finished, 1)
    x = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    found = session({"image": x})
    assert list(found) == ["boxes", "scores"]
    np.testing.assert_array_equal(found["boxes"], 2.0 * x)
    session.invoke()
    again = session({"image": x[:, ::-1].copy()})
    np.testing.assert_array_equal(again["scores"], x[:, ::-1] + 1.0)
    np.testing.assert_array_equal(found["boxes"], 2.0 * x)  # earlier results are not overwritten


def test_a_model_with_two_inputs_is_refused(tmp_path):
    import tensorflow as tf

    from facex.exporters._quiet import quiet

    with quiet():
        specs = [tf.TensorSpec([1, 4], tf.float32), tf.TensorSpec([1, 4], tf.float32)]
        concrete = tf.function(lambda a, b: a + b, input_signature=specs).get_concrete_function()
        (tmp_path / "two.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    with pytest.raises(ArtifactError, match=r"two\.tflite: has 2 inputs"):
        _litert.LiteRTSession(tmp_path / "two.tflite", 1)


def only(monkeypatch: pytest.MonkeyPatch, *installed: str) -> None:
    """Hide every runtime but these."""
    monkeypatch.setattr(_litert, "version", lambda name: "9.9" if name in installed else None)


def test_the_runtimes_are_those_that_the_target_lists():
    assert tuple(_litert.RUNTIMES) == exporters.info("tflite").runtimes
    assert tuple(_litert.RUNTIMES) == ("ai-edge-litert", "tflite-runtime", "tensorflow")


def test_litert_is_preferred(finished):
    session = _litert.LiteRTSession(finished, 1)
    assert session.runtime == f"ai-edge-litert {exporters.version('ai-edge-litert')}"
    assert type(session._interpreter).__module__.startswith("ai_edge_litert")


def test_without_litert_the_tflite_runtime_serves(finished, monkeypatch):
    """The package is not installable beside the others, so a stub stands for it: LiteRT under its module's name."""
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    made = []

    def recording(**options: Any) -> Any:
        made.append(options)
        return interpreter(**options)

    stub = types.ModuleType("tflite_runtime.interpreter")
    stub.Interpreter = recording
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", stub)
    only(monkeypatch, "tflite-runtime", "tensorflow")
    session = exporters.load("tflite").open_session(finished, threads=2)
    assert session.runtime == "tflite-runtime 9.9"
    assert made == [{"model_path": str(finished), "num_threads": 2}]
    x = np.ones((1, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(session({"image": x})["boxes"], 2.0 * x)


def test_without_either_tensorflow_serves(finished, monkeypatch):
    only(monkeypatch, "tensorflow")
    session = exporters.load("tflite").open_session(finished, threads=1)
    assert session.runtime == "tensorflow 9.9"
    assert type(session._interpreter).__module__.startswith("tensorflow")
    x = np.ones((1, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(session({"image": x})["scores"], x + 1.0)
    facts = _litert.describe(finished)
    assert facts.metadata["facex.head"] == "decoded"  # the schema is TensorFlow's own


def test_without_any_the_extra_is_named(finished, monkeypatch):
    only(monkeypatch)
    for use in (
        lambda: exporters.load("tflite").open_session(finished, threads=1),
        lambda: exporters.load("tflite").describe(finished),
    ):
        with pytest.raises(MissingExtraError) as caught:
            use()
        assert caught.value.exit_code == EXIT_MISSING_EXTRA
        assert "ai-edge-litert" in str(caught.value)
        assert "facex[tflite]" in str(caught.value)


def test_a_package_without_the_schema_leaves_the_metadata_out(finished, monkeypatch):
    monkeypatch.setattr(_litert, "_schema", lambda: None)
    facts = _litert.describe(finished)
    assert facts.metadata == {}
    assert [o.name for o in facts.outputs] == ["boxes", "scores"]
    assert facts.minimum_runtime == "TFLite unknown"


def test_an_older_litert_without_the_schema_leaves_it_to_tensorflow(monkeypatch):
    real = importlib.import_module

    def without(name: str) -> Any:
        if name == "ai_edge_litert.schema_py_generated":
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(_litert.importlib, "import_module", without)
    assert _litert._schema().__name__.startswith("tensorflow")


def test_describing_needs_no_tensorflow(finished):
    """In a fresh interpreter: reading a file must not cost an import of seconds."""
    code = (
        "import sys, pathlib; from facex.exporters import tflite; "
        f"path = pathlib.Path({str(finished)!r}); tflite.describe(path); tflite.open_session(path, threads=1); "
        "print('tensorflow' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]
