"""The gate itself: a sabotaged artifact must turn it red, an intact one must not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from facex.parity.compare import Candidate, compare
from facex.parity.judge import judge
from facex.reference import detector as detectors
from facex.reference import photographs
from facex.reference.detector import Detector, ReferenceSession
from facex.types import ContractOptions, Head, Precision, Selection, Size, Verdict

OUTPUTS = dict.fromkeys(Head, ("boxes", "scores", "landmarks")) | {Head.RAW: ("loc", "conf", "landm")}
SELECTION = Selection()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A detector, the photographs, and the input size that they are compared at."""

    detector: Detector
    pictures: list[photographs.Photograph]
    size: Size


class Sabotaged:
    """The reference session with its input or its outputs changed."""

    runtime = "sabotaged"
    untimed = ""

    def __init__(self, inner, *, image=lambda x: x, outputs=lambda x: x):
        self.inner, self.image, self.outputs = inner, image, outputs

    def __call__(self, inputs):
        return self.outputs(dict(self.inner({"image": self.image(inputs["image"])})))

    def invoke(self):
        self.inner.invoke()


def session_of(scene: Scene, head: Head, detector: Detector | None = None) -> ReferenceSession:
    selection = SELECTION if head is Head.DETECTIONS else None
    return ReferenceSession(detector or scene.detector, scene.size, head, threads=1, selection=selection)


def with_contract(scene: Scene, **changes) -> Detector:
    contract = dataclasses.replace(scene.detector.contract, **changes)
    return dataclasses.replace(scene.detector, contract=contract)


def swapped_channels(scene, head):
    return Sabotaged(session_of(scene, head), image=lambda x: np.ascontiguousarray(x[..., ::-1]))


def shifted_mean(scene, head):
    mean = tuple(m + 20 for m in scene.detector.contract.mean)
    return session_of(scene, head, with_contract(scene, mean=mean))


def mean_left_out(scene, head):
    return session_of(scene, head, with_contract(scene, mean=(0.0, 0.0, 0.0)))


def wrong_anchors(scene, head):
    """A raw head has no anchors inside; there it is the offsets that were made for other anchors."""
    if head is Head.RAW:
        return Sabotaged(session_of(scene, head), outputs=lambda o: o | {"loc": o["loc"] + np.float32(2)})
    sides = tuple(tuple(side * 1.25 for side in level) for level in scene.detector.contract.min_sizes)
    return session_of(scene, head, with_contract(scene, min_sizes=sides))


def _redrawn(scene: Scene, blend: float) -> Detector:
    """Every convolution moved towards weights of another seed with the same spread."""
    import torch

    network = copy.deepcopy(scene.detector.network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(99)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                other = torch.randn_like(module.weight) * module.weight.std()
                module.weight.mul_(1 - blend).add_(other, alpha=blend)
    return dataclasses.replace(scene.detector, network=network)


def stale_weights(scene, head):
    return session_of(scene, head, _redrawn(scene, 1.0))


def slightly_stale_weights(scene, head):
    return session_of(scene, head, _redrawn(scene, 0.1))


def zeroed_class_head(scene, head):
    """Equal logits: every prior scores one half."""
    name, half = OUTPUTS[head][1], np.float32(0.5)
    return Sabotaged(session_of(scene, head), outputs=lambda o: o | {name: np.full_like(o[name], half)})


def zeroed_box_head(scene, head):
    import torch

    network = copy.deepcopy(scene.detector.network)
    with torch.no_grad():
        for layer in network.box_heads:
            layer.weight.zero_()
            layer.bias.zero_()
    return session_of(scene, head, dataclasses.replace(scene.detector, network=network))


def zeroed_landmark_head(scene, head):
    name = OUTPUTS[head][2]
    return Sabotaged(session_of(scene, head), outputs=lambda o: o | {name: np.zeros_like(o[name])})


def nan_everywhere(scene, head):
    nan = np.float32(np.nan)
    spoil = {"count": lambda v: v}
    return Sabotaged(
        session_of(scene, head),
        outputs=lambda o: {k: spoil.get(k, lambda v: np.full_like(v, nan))(v) for k, v in o.items()},
    )


def one_nan(scene, head):
    """A single NaN box of a single prior, which no face metric may ever see."""

    def spoil(outputs):
        outputs[OUTPUTS[head][0]] = outputs[OUTPUTS[head][0]].copy()
        outputs[OUTPUTS[head][0]][0, -1, 0] = np.nan
        return outputs

    return Sabotaged(session_of(scene, head), outputs=spoil)


def permuted_landmarks(scene, head):
    """Every point takes the place of its neighbour, as when an exporter mixes up their order."""
    name = OUTPUTS[head][2]

    def permute(outputs):
        points = outputs[name].reshape(*outputs[name].shape[:2], -1, 2)
        return outputs | {name: np.roll(points, 1, axis=2).reshape(outputs[name].shape)}

    return Sabotaged(session_of(scene, head), outputs=permute)


def finds_nothing(scene, head):
    return Sabotaged(session_of(scene, head), outputs=lambda o: {k: np.zeros_like(v) for k, v in o.items()})


def stuck_on_the_first_photograph(scene, head):
    first = []

    def repeat(outputs):
        first.append(outputs)
        return first[0]

    return Sabotaged(session_of(scene, head), outputs=repeat)


def choosing(scene: Scene, **changes) -> ReferenceSession:
    selection = dataclasses.replace(SELECTION, **changes)
    return ReferenceSession(scene.detector, scene.size, Head.DETECTIONS, threads=1, selection=selection)


def suppresses_too_little(scene):
    return choosing(scene, nms_iou=0.75)


def suppresses_too_much(scene):
    return choosing(scene, nms_iou=0.01)


def threshold_too_high(scene):
    return choosing(scene, score_threshold=0.95)


def threshold_too_low(scene):
    return choosing(scene, score_threshold=0.05)


def drops_the_better_half(scene):
    """As when the rows come worst first and are cut."""

    def drop(outputs):
        gone = -(-int(outputs["count"][0]) // 2)
        shifted = {k: np.roll(v, -gone, axis=1) for k, v in outputs.items() if k != "count"}
        for value in shifted.values():
            value[:, value.shape[1] - gone :] = 0
        return shifted | {"count": outputs["count"] - np.int32(gone)}

    return Sabotaged(choosing(scene), outputs=drop)


def counts_one_too_many(scene):
    return Sabotaged(choosing(scene), outputs=lambda o: o | {"count": o["count"] + np.int32(1)})


def counts_rows_that_are_not_there(scene):
    return Sabotaged(choosing(scene), outputs=lambda o: o | {"count": o["count"] * np.int32(0) + np.int32(101)})


def leaves_the_padding_as_it_was(scene):
    """What gathering at index 0 gives from `count` on."""

    def pad(outputs):
        rows = np.arange(SELECTION.max_faces)
        index = np.where(rows < outputs["count"][0], rows, 0)
        return {k: v if k == "count" else v[:, index] for k, v in outputs.items()}

    return Sabotaged(choosing(scene), outputs=pad)


def worst_first(scene):
    def turn(outputs):
        count = int(outputs["count"][0])
        order = np.concatenate([np.arange(count)[::-1], np.arange(count, SELECTION.max_faces)])
        return {k: v if k == "count" else v[:, order] for k, v in outputs.items()}

    return Sabotaged(choosing(scene), outputs=turn)


def landmarks_of_another_face(scene):
    return Sabotaged(choosing(scene), outputs=lambda o: o | {"landmarks": o["landmarks"][:, ::-1]})


CHOOSING: tuple[Callable, ...] = (
    suppresses_too_little, suppresses_too_much, threshold_too_high, threshold_too_low, drops_the_better_half,
    counts_one_too_many, counts_rows_that_are_not_there, leaves_the_padding_as_it_was, worst_first,
    landmarks_of_another_face,
)  # fmt: skip

SABOTAGES: tuple[Callable, ...] = (
    swapped_channels, shifted_mean, mean_left_out, wrong_anchors, stale_weights, slightly_stale_weights,
    zeroed_class_head, zeroed_box_head, zeroed_landmark_head, nan_everywhere, one_nan, permuted_landmarks,
    finds_nothing, stuck_on_the_first_photograph,
)  # fmt: skip


def measured(scene: Scene, head: Head, make: Callable) -> Mapping[str, float | None]:
    candidates = {"a.onnx": Candidate(session=make(scene, head), head=head)}
    selection = SELECTION if head is Head.DETECTIONS else None
    told = {"contract": scene.detector.contract, "size": scene.size, "head": head, "selection": selection}
    return compare(session_of(scene, head), candidates, scene.pictures, **told).metrics["a.onnx"]


def assert_red(values: Mapping[str, float | None], precisions=tuple(Precision)) -> None:
    for precision in precisions:
        findings = judge("a.onnx", precision, values)
        assert any(f.verdict is Verdict.FAIL for f in findings), (precision, dict(values))


def assert_green(values: Mapping[str, float | None]) -> None:
    findings = judge("a.onnx", Precision.FP32, values)
    assert [f for f in findings if f.verdict is not Verdict.PASS] == []


@pytest.fixture(scope="session")
def seeded_scene(detector, photo_dir):
    pictures = photographs.find(photo_dir, option="--images")
    return Scene(detector=detector, pictures=pictures, size=Size(height=160, width=160))


@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda f: f.__name__)
def test_sabotage_is_seen(seeded_scene, head, sabotage):
    assert_red(measured(seeded_scene, head, sabotage))


@pytest.mark.parametrize("sabotage", CHOOSING, ids=lambda f: f.__name__)
def test_sabotage_of_how_faces_are_chosen_is_seen(seeded_scene, sabotage):
    assert_red(measured(seeded_scene, Head.DETECTIONS, lambda scene, _: sabotage(scene)))


@pytest.mark.parametrize("head", list(Head))
def test_the_intact_session_passes(seeded_scene, head):
    assert_green(measured(seeded_scene, head, session_of))


@pytest.fixture(scope="session")
def real_scene(shared_dir):
    net = detectors.load(shared_dir / "weights" / "mnet025.pth", ContractOptions())
    found = photographs.find(shared_dir / "data" / "dev" / "images", option="--images")
    faces = [p for p in found if not p.path.name.startswith("bg_")]
    return Scene(detector=net, pictures=faces[:: len(faces) // 12][:12], size=Size(height=320, width=320))


@pytest.mark.shared
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda f: f.__name__)
def test_sabotage_of_the_real_detector_is_seen(real_scene, sabotage):
    values = measured(real_scene, Head.DECODED, sabotage)
    if sabotage is shifted_mean:
        # a mean that is off by 20 of 255 moves this detector less than good full-integer arithmetic does
        # (landmark NME 0.012 against 0.018): what lets the one pass must let the other; `mean_left_out` fails
        assert_red(values, (Precision.FP32, Precision.FP16, Precision.W8))
    else:
        assert_red(values)


@pytest.mark.shared
@pytest.mark.parametrize("sabotage", [*CHOOSING, swapped_channels], ids=lambda f: f.__name__)
def test_sabotage_of_the_faces_that_the_real_detector_chooses_is_seen(real_scene, sabotage):
    """One threshold is as good as another where the detector is sure of every face: then nothing is to be seen."""
    make = sabotage if sabotage is swapped_channels else lambda scene, _: sabotage(scene)
    assert_red(measured(real_scene, Head.DETECTIONS, make))


@pytest.mark.shared
@pytest.mark.parametrize("head", list(Head))
def test_the_real_intact_session_passes(real_scene, head):
    assert_green(measured(real_scene, head, session_of))
