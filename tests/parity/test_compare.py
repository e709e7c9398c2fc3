from __future__ import annotations

import json
import math

import numpy as np
import pytest

from facex.errors import ArtifactError, BackendError, MissingExtraError, PhotographError
from facex.parity import ground_truth
from facex.parity.compare import Candidate, compare
from facex.reference import detector as detectors
from facex.reference import geometry, photographs
from facex.reference.detector import ReferenceSession
from facex.types import ContractOptions, Head, Selection, Size

SIZE = Size(height=160, width=160)
REAL_SIZE = Size(height=640, width=640)


class Wrapped:
    """A session that changes what another one sees or says."""

    runtime = "wrapped"
    untimed = ""

    def __init__(self, inner, *, before=lambda image: image, after=lambda outputs: outputs):
        self.inner, self.before, self.after = inner, before, after
        self.images = []

    def __call__(self, inputs):
        self.images.append(inputs["image"])
        return self.after(dict(self.inner({"image": self.before(inputs["image"])})))

    def invoke(self):
        self.inner.invoke()


@pytest.fixture(scope="module")
def pictures(photo_dir):
    return photographs.find(photo_dir, option="--images")


@pytest.fixture(params=list(Head))
def setting(request, detector):
    """A reference session and what `compare` must be told of it."""
    selection = Selection() if request.param is Head.DETECTIONS else None
    session = ReferenceSession(detector, SIZE, request.param, threads=1, selection=selection)
    return session, {"contract": detector.contract, "size": SIZE, "head": request.param, "selection": selection}


@pytest.fixture
def decoded_setting(detector):
    session = ReferenceSession(detector, SIZE, Head.DECODED, threads=1)
    return session, {"contract": detector.contract, "size": SIZE, "head": Head.DECODED}


def one(session, head, **changes):
    return {"a.onnx": Candidate(session=Wrapped(session, **changes), head=head)}


def test_the_reference_agrees_with_itself(setting, pictures):
    session, told = setting
    result = compare(session, one(session, told["head"]), pictures, **told)
    values = result.metrics["a.onnx"]
    counts = result.counts["a.onnx"]
    assert counts.photographs == len(pictures) == result.reference_metrics["photographs"]
    assert counts.matched == counts.reference_faces == result.reference_metrics["reference_faces"] > 0
    assert (values["matched_f1"], values["lost_faces"], values["landmark_error_max_px"]) == (1, 0, 0)
    names = {
        Head.DECODED: ("boxes", "scores", "landmarks"), Head.RAW: ("loc", "conf", "landm"), Head.DETECTIONS: ()
    }[told["head"]]  # fmt: skip
    assert values.get("malformed_rows") == (0 if told["head"] is Head.DETECTIONS else None)
    assert {k: v for k, v in values.items() if k.startswith("snr_db.")} == {f"snr_db.{n}": 200 for n in names}
    assert not any(name.startswith("ap") for name in values)


def test_everything_sees_the_same_pixels_once(decoded_setting, pictures):
    session, told = decoded_setting
    reference = Wrapped(session)
    candidates = {n: Candidate(session=Wrapped(session), head=Head.DECODED) for n in ("a.onnx", "b.onnx")}
    ticks = []
    compare(reference, candidates, pictures, **told, on_photograph=lambda: ticks.append(1))
    assert len(ticks) == len(pictures)
    for sessions in zip(reference.images, *(c.session.images for c in candidates.values()), strict=True):
        assert all(image is sessions[0] for image in sessions)
    fill = told["contract"].mean_rgb
    for picture, image in zip(pictures, reference.images, strict=True):
        expected = photographs.letterbox(photographs.load(picture.path), SIZE, fill).pixels[None]
        np.testing.assert_array_equal(image, expected)
        with pytest.raises(ValueError, match="read-only"):
            image[:] = 0


def test_faces_are_those_of_score_and_nms(decoded_setting, pictures):
    session, told = decoded_setting
    expected = 0
    for picture in pictures:
        pixels = photographs.letterbox(photographs.load(picture.path), SIZE, told["contract"].mean_rgb).pixels
        out = session({"image": pixels[None]})
        expected += len(geometry.detect(out["boxes"][0], out["scores"][0], out["landmarks"][0], score=0.5))
    assert compare(session, {}, pictures, **told).reference_metrics["reference_faces"] == expected


def test_candidates_are_measured_apart(decoded_setting, pictures):
    session, told = decoded_setting

    def moved(outputs):
        return outputs | {"landmarks": outputs["landmarks"] + np.float32(0.25)}

    candidates = one(session, Head.DECODED) | {
        "b.onnx": Candidate(session=Wrapped(session, after=moved), head=Head.DECODED)
    }
    metrics = compare(session, candidates, pictures, **told).metrics
    assert metrics["a.onnx"]["landmark_error_max_px"] == 0
    assert metrics["b.onnx"]["landmark_error_max_px"] == pytest.approx(0.25 * math.sqrt(2), rel=1e-4)
    assert metrics["b.onnx"]["max_abs.landmarks"] == pytest.approx(0.25, rel=1e-4)
    assert metrics["b.onnx"]["snr_db.boxes"] == 200


def test_candidates_are_held_against_one_another(decoded_setting, pictures):
    """Two candidates that are equally far from the reference, and not in the same direction."""
    session, told = decoded_setting

    def moved(by):
        return Wrapped(session, after=lambda o: o | {"landmarks": o["landmarks"] + np.float32(by)})

    up, same, down = moved(0.25), Wrapped(session), moved(-0.25)
    sessions = {"up": up, "same": same, "down": down}
    candidates = {name: Candidate(session=each, head=Head.DECODED) for name, each in sessions.items()}
    found = compare(session, candidates, pictures, **told, against={"up": "down", "same": "same"})
    assert found.against.keys() == {"up", "same"}
    assert found.metrics["up"]["max_abs.landmarks"] == pytest.approx(0.25, rel=1e-4)
    assert found.against["up"]["max_abs.landmarks"] == pytest.approx(0.5, rel=1e-4)
    assert found.against["up"]["landmark_error_max_px"] == pytest.approx(0.5 * math.sqrt(2), rel=1e-4)
    assert found.against["up"]["snr_db.boxes"] == found.against["same"]["snr_db.landmarks"] == 200
    assert all(len(each.images) == len(pictures) for each in sessions.values())
    swapped = compare(down, {"up": candidates["up"]}, pictures, **told)  # the same, by what is tested above
    assert found.against["up"] == {k: swapped.metrics["up"][k] for k in found.against["up"]}


def test_candidates_that_are_held_against_none_have_no_such_metrics(decoded_setting, pictures):
    session, told = decoded_setting
    assert compare(session, one(session, Head.DECODED), pictures, **told).against == {}


def test_a_session_that_raises_is_a_backend_error_of_its_artifact(setting, pictures):
    session, told = setting

    def crash(_):
        raise RuntimeError("kernel fault\nsecond line")

    with pytest.raises(BackendError, match=r"^\[a\.onnx\] RuntimeError: kernel fault") as caught:
        compare(session, one(session, told["head"], after=crash), pictures, **told)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(BackendError, match=r"^\[reference\]"):
        compare(Wrapped(session, after=crash), {}, pictures, **told)


def test_errors_of_ours_keep_their_kind(decoded_setting, pictures):
    session, told = decoded_setting

    def missing(_):
        raise MissingExtraError("ai-edge-litert", extra="tflite", purpose="running .tflite")

    with pytest.raises(MissingExtraError, match=r"^\[a\.onnx\]"):
        compare(session, one(session, Head.DECODED, after=missing), pictures, **told)


def test_missing_outputs_are_named(setting, pictures):
    session, told = setting
    first, *others = ("loc", "conf", "landm") if told["head"] is Head.RAW else ("boxes", "scores", "landmarks")

    def without(outputs):
        return {first: outputs[first]}

    with pytest.raises(ArtifactError, match=rf"^\[a\.onnx\] has no output {', '.join(others)}"):
        compare(session, one(session, told["head"], after=without), pictures, **told)
    with pytest.raises(ArtifactError, match=r"\(it has none\)"):
        compare(session, one(session, told["head"], after=lambda _: {}), pictures, **told)


def test_outputs_of_another_shape_are_refused(setting, pictures):
    session, told = setting
    for shape in (lambda v: v[:, :0], lambda v: v[:, :-1], lambda v: v[0]):
        cut = one(
            session,
            told["head"],
            after=lambda outputs, shape=shape: {k: v if k == "count" else shape(v) for k, v in outputs.items()},
        )
        with pytest.raises(ArtifactError, match=r"^\[a\.onnx\] output .* has shape"):
            compare(session, cut, pictures, **told)


def test_another_head_is_refused_before_anything_runs(decoded_setting, pictures):
    session, told = decoded_setting
    reference = Wrapped(session)
    with pytest.raises(ArtifactError, match=r"a\.onnx: has a raw head, the reference has a decoded one"):
        compare(reference, one(session, Head.RAW), pictures, **told)
    assert reference.images == []


def test_a_damaged_photograph_stops_with_its_name(decoded_setting, tmp_path):
    session, told = decoded_setting
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(PhotographError, match=r"a\.jpg"):
        compare(session, {}, photographs.find(tmp_path, option="--images"), **told)


def test_no_photographs_measure_nothing(decoded_setting):
    session, told = decoded_setting
    values = compare(session, one(session, Head.DECODED), [], **told).metrics["a.onnx"]
    assert values
    assert set(values.values()) == {None}


@pytest.fixture
def truth(decoded_setting, pictures, tmp_path):
    """The reference's own detections, unsure ones too, as ground truth; the last picture is "empty"."""
    session, told = decoded_setting
    images = []
    for picture in pictures:
        letterboxed = photographs.letterbox(photographs.load(picture.path), SIZE, told["contract"].mean_rgb)
        out = session({"image": letterboxed.pixels[None]})
        found = geometry.detect(out["boxes"][0], out["scores"][0], out["landmarks"][0], score=0.3)
        xyxy = found.boxes.astype(float) / letterboxed.scale
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        faces = [{"bbox": box} for box in xywh.tolist()]
        images.append({"file": str(picture.path), "sha256": picture.sha256, "faces": faces})
    images[-1]["faces"] = []
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    return ground_truth.load(path), len(found.above(0.5))


def test_ground_truth_gives_average_precision_and_its_drop(decoded_setting, pictures, truth):
    session, told = decoded_setting
    gt, invented = truth
    head = Head.DECODED
    blind = Wrapped(session, after=lambda o: o | {"scores": o["scores"] * np.float32(0)})
    sure = Wrapped(session, after=lambda o: o | {"scores": np.where(o["scores"] < 0.5, 0, o["scores"])})
    candidates = {
        "same.onnx": Candidate(session=session, head=head),
        "blind.onnx": Candidate(session=blind, head=head),
        "sure.onnx": Candidate(session=sure, head=head),
    }
    result = compare(session, candidates, pictures, **told, ground_truth=gt)
    reference_ap = result.reference_metrics["ap_all"]
    assert 0.5 < reference_ap < 1  # complete, but for the faces of the picture that is said to be empty
    assert result.reference_metrics["background_false_positives"] == invented > 0
    values = {name: result.metrics[f"{name}.onnx"] for name in ("same", "blind", "sure")}
    assert (values["same"]["ap_all"], values["same"]["ap_drop_all"]) == (reference_ap, 0)
    assert (values["blind"]["ap_all"], values["blind"]["ap_drop_all"]) == (0, reference_ap)
    assert values["blind"]["background_false_positives"] == 0
    assert values["sure"]["matched_f1"] == 1
    assert values["sure"]["ap_drop_all"] > 0.05  # the unsure detections are on the curve
    # the lower threshold that average precision needs changes no face metric
    plain = compare(session, candidates, pictures, **told)
    for name, values in plain.metrics.items():
        ours = {key: result.metrics[name][key] for key in values}
        assert ours == pytest.approx(dict(values), nan_ok=True)


def test_ground_truth_in_another_frame_is_refused(decoded_setting, pictures, tmp_path):
    session, told = decoded_setting
    path = tmp_path / "gt.json"
    entry = {"file": str(pictures[0].path), "width": 1, "height": 1, "faces": [{"bbox": [0, 0, 1, 1]}]}
    path.write_text(json.dumps({"images": [entry]}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="says 1x1 px, the upright photograph has 200x160"):
        compare(session, {}, pictures, **told, ground_truth=ground_truth.load(path))


@pytest.mark.slow
@pytest.mark.shared
def test_average_precision_of_the_real_reference(shared_dir):
    """The figures that were measured with another implementation, over the same photographs."""
    net = detectors.load(shared_dir / "weights" / "mnet025.pth", ContractOptions())
    dev = shared_dir / "data" / "dev"
    result = compare(
        ReferenceSession(net, REAL_SIZE, Head.DECODED, threads=1),
        {},
        photographs.find(dev / "images", option="--images"),
        contract=net.contract,
        size=REAL_SIZE,
        head=Head.DECODED,
        ground_truth=ground_truth.load(dev / "gt.json"),
    )
    expected = {"ap_easy": 0.816, "ap_medium": 0.682, "ap_hard": 0.447, "ap_all": 0.807}
    measured = {name: result.reference_metrics[name] for name in expected}
    assert measured == pytest.approx(expected, abs=0.02)
    assert result.reference_metrics["background_false_positives"] == 2
