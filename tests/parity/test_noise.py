"""The check on noise, where every score may be nearly zero: rounding passes, and a wrong class head does not."""

import numpy as np
import pytest

from facex.demo import CHECKPOINT
from facex.exporters.onnx import session_options
from facex.parity import noise
from facex.parity.judge import judge
from facex.parity.metrics import snr_db
from facex.reference import detector as detectors
from facex.types import ContractOptions, Head, Precision, Size, Verdict

SIZE = Size(height=160, width=160)
LAST_PLACE = 2.0**-23
"""Of 1 in float32."""


class Changed:
    """The reference, and one of its outputs changed."""

    def __init__(self, inner, name, change):
        self.inner, self.name, self.change = inner, name, change

    def __call__(self, inputs):
        outputs = dict(self.inner(inputs))
        return outputs | {self.name: self.change(outputs[self.name]).astype(np.float32)}


@pytest.fixture(scope="module")
def references():
    found = detectors.load(CHECKPOINT, ContractOptions())
    return {head: detectors.ReferenceSession(found, SIZE, head, threads=1) for head in (Head.DECODED, Head.RAW)}


@pytest.fixture
def failed(references):
    def run(name, change):
        reference = references[Head.RAW if name == "conf" else Head.DECODED]
        values = noise.compare(reference, {"a.onnx": Changed(reference, name, change)}, SIZE)["a.onnx"]
        return {f.name for f in judge("a.onnx", Precision.FP32, values) if f.verdict is Verdict.FAIL}

    return run


def rounded(scores):
    return np.round(scores / LAST_PLACE) * LAST_PLACE


def moved(by):
    """Scores as if every logit were larger by so much."""

    def change(scores):
        logits = np.log(scores.astype(np.float64)) - np.log1p(-scores.astype(np.float64))
        return 1 / (1 + np.exp(-logits - by))

    return change


def swapped(conf):
    return conf[..., ::-1]


def test_every_score_on_noise_is_nearly_zero(references):
    scores = references[Head.DECODED]({"image": noise.picture(SIZE)})["scores"]
    assert scores.max() < 0.02
    assert (scores < 1e-4).mean() > 0.5


@pytest.mark.parametrize("name", ["scores", "conf"])
def test_scores_to_the_last_place_of_one_pass(failed, name):
    assert not failed(name, rounded)
    assert not failed(name, lambda scores: scores + LAST_PLACE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores", np.zeros_like),
        ("scores", lambda scores: np.full_like(scores, 0.5)),
        ("scores", lambda scores: scores[:, ::-1]),
        ("scores", moved(0.001)),
        ("scores", lambda scores: scores + 16 * LAST_PLACE),
        ("scores", lambda scores: scores * np.nan),
        ("conf", swapped),
        ("conf", moved(0.5)),
        ("conf", lambda conf: conf * np.nan),
    ],
)
def test_a_class_head_that_is_off_fails(failed, name, change):
    assert f"snr_db.{name}" in failed(name, change)


def test_only_probabilities_may_be_rounded(failed):
    assert failed("boxes", lambda boxes: boxes * 0 + LAST_PLACE) == {"snr_db.boxes"}
    assert set(noise.ROUNDING) == {"scores", "conf"}


def test_the_largest_difference_is_told_with_its_rounding(references):
    reference = references[Head.DECODED]
    values = noise.compare(reference, {"a": Changed(reference, "scores", lambda s: s + LAST_PLACE)}, SIZE)["a"]
    assert values["snr_db.scores"] == 200
    assert values["max_abs.scores"] == pytest.approx(LAST_PLACE, rel=0.01)


def test_onnxruntimes_sigmoid_is_as_far_off_as_is_excused():
    """Held against float64: near zero its error alone is worse than the limit of fp32, and within `ROUNDING`."""
    import onnxruntime
    from onnx import TensorProto, helper

    shape = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["y"])], "sigmoid",
        [shape("x", TensorProto.FLOAT, [4001])], [shape("y", TensorProto.FLOAT, [4001])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(1), ["CPUExecutionProvider"])
    x = np.linspace(-25, -8, 4001, dtype=np.float32)
    exact, (found,) = 1 / (1 + np.exp(-x.astype(np.float64))), session.run(None, {"x": x})
    assert np.abs(exact - found).max() < noise.ROUNDING["scores"]
    assert snr_db(exact.astype(np.float32)[x < -11], found[x < -11]) < 80
