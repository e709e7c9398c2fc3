"""The Kotlin of the Android module gives what the reference gives, on outputs recorded from LiteRT.

Every check is also run on altered copies of the Kotlin, and must fail on those that it is there for.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.goldens import replay
from facex.reference import geometry
from facex.reference.detector import ReferenceSession, load
from facex.reference.photographs import letterbox
from facex.types import ContractOptions, Detections, Head

Kotlin = Callable[..., list[Any]]
pytestmark = pytest.mark.slow  # the first test compiles, for half a minute


def save(folder: Path, outputs: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Outputs as files of float32, as a driver reads them."""
    folder.mkdir(parents=True)
    for name, values in outputs.items():
        np.asarray(values, "<f4").tofile(folder / name)
    return {name: str(folder / name) for name in outputs}


def faces(plain: list[list[float]]) -> Detections:
    """What a driver says of faces."""
    rows = np.asarray(plain, np.float64).reshape(len(plain), len(plain[0]) if plain else 15)
    return Detections(
        boxes=rows[:, 1:5], scores=rows[:, 0], landmarks=rows[:, 5:].reshape(len(rows), (rows.shape[1] - 5) // 2, 2)
    )


def assert_same(found: Detections, expected: Detections, px: float = 1e-3) -> None:
    """The same faces in the same order; half a pixel is asked of the module, a hundredth is what it keeps."""
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=px)
    np.testing.assert_allclose(found.landmarks.reshape(expected.landmarks.shape), expected.landmarks, atol=px)


# Recorded outputs


def check_recorded(kotlin: Kotlin, bundled: Any, head: Head, folder: Path) -> int:
    """Faces of twenty photographs, in input pixels and mapped back; gives how many there were."""
    contract, size = bundled.bundle.source.contract, bundled.bundle.goldens.size
    questions, expected = [], []
    for i, photograph in enumerate(bundled.photographs):
        boxed = letterbox(photograph, size, contract.mean_rgb)
        outputs = bundled.sessions[head]({"image": boxed.pixels[None]})
        height, width = photograph.shape[:2]
        questions.append(
            {
                "ask": "mapped",
                "description": bundled.description,
                "model": bundled.model(head),
                "outputs": save(folder / str(i), outputs),
                "source": [width, height],
                "rotation": 0,
            }
        )
        expected.append((replay.faces(outputs, head, contract, size), boxed.scale))
    for answer, (reference, scale) in zip(kotlin(*questions), expected, strict=True):
        assert_same(faces(answer["input"]), reference)
        upright = dataclasses.replace(reference, boxes=reference.boxes / scale, landmarks=reference.landmarks / scale)
        assert_same(faces(answer["upright"]), upright, px=1e-2)
        assert answer["buffer"] == answer["upright"]
    assert len(questions) == 20
    return sum(len(reference) for reference, _ in expected)


@pytest.mark.parametrize("head", [Head.DECODED, Head.RAW])
def test_recorded_outputs_give_the_faces_of_the_reference(kotlin, bundled, head, tmp_path):
    assert check_recorded(kotlin, bundled, head, tmp_path) > 100


@pytest.mark.shared
def test_recorded_outputs_of_real_photographs_give_the_faces_of_the_reference(kotlin, bundled_real, tmp_path):
    assert check_recorded(kotlin, bundled_real, Head.DECODED, tmp_path) > 20


# The module's own way from pixels to faces, with only the model run in Python


def check_whole_way(kotlin: Kotlin, bundled: Any, folder: Path) -> int:
    """Letterboxed in Kotlin, run by LiteRT, read in Kotlin, against letterboxed and read in Python.

    Where Pillow resizes columns before rows (since 13, where the height shrinks more), a pixel may differ by 1, to
    which a seeded network is too sensitive; gives how many photographs were letterboxed alike and compared to the end.
    """
    contract, size = bundled.bundle.source.contract, bundled.bundle.goldens.size
    session = bundled.sessions[Head.DECODED]
    pictures = []
    for i, photograph in enumerate(bundled.photographs):
        (folder / f"{i}.rgb").write_bytes(photograph.tobytes())
        files = {"pixels": str(folder / f"{i}.rgb"), "into": str(folder / f"{i}.input")}
        shape = {"source": [photograph.shape[1], photograph.shape[0]], "rotation": 0}
        pictures.append({"format": "rgb", **files, **shape})
    padding = json.loads(Path(bundled.description).read_text())["padding_rgb"]
    kotlin({"ask": "fill", "input": [size.width, size.height], "padding": padding, "pictures": pictures})
    questions, expected = [], []
    for i, photograph in enumerate(bundled.photographs):
        pixels = np.fromfile(folder / f"{i}.input", np.uint8).reshape(size.height, size.width, 3)
        boxed = letterbox(photograph, size, contract.mean_rgb)
        assert np.abs(pixels.astype(int) - boxed.pixels).max() <= 1
        if not np.array_equal(pixels, boxed.pixels):
            continue
        outputs = session({"image": pixels[None]})
        case = {
            "ask": "mapped",
            "description": bundled.description,
            "model": bundled.model(Head.DECODED),
            **pictures[i],
        }
        questions.append({**case, "outputs": save(folder / f"out{i}", outputs)})
        found = replay.faces(session({"image": boxed.pixels[None]}), Head.DECODED, contract, size)
        expected.append((found, boxed.scale))
    for answer, (reference, scale) in zip(kotlin(*questions), expected, strict=True):
        upright = dataclasses.replace(reference, boxes=reference.boxes / scale, landmarks=reference.landmarks / scale)
        assert_same(faces(answer["upright"]), upright, px=1e-2)
    return len(questions)


def test_pixels_letterboxed_in_kotlin_give_the_same_faces(kotlin, bundled, tmp_path):
    assert check_whole_way(kotlin, bundled, tmp_path) >= 10


@pytest.mark.shared
def test_real_pixels_letterboxed_in_kotlin_give_the_same_faces(kotlin, bundled_real, tmp_path):
    assert check_whole_way(kotlin, bundled_real, tmp_path) >= 10


# Outputs made up for what photographs do not show


def made_up(bundled: Any, head: Head, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Outputs with crowds of overlapping boxes, saturated and equal scores, scores at the threshold, and NaN."""
    random = np.random.default_rng(seed)
    contract, size = bundled.bundle.source.contract, bundled.bundle.goldens.size
    anchors = geometry.priors(contract, size)
    n = len(anchors)
    offsets, points = random.normal(0, 1, (n, 4)), random.normal(0, 2, (n, 2 * contract.landmarks))
    scores = random.uniform(0, 0.49, n).astype(np.float32)
    picked = random.permutation(n)
    scores[picked[:40]] = 1 - random.uniform(0, 9e-6, 40)  # from 0.99999 on all are equal
    scores[picked[40:60]] = np.float32(0.75)
    scores[picked[60:80]] = np.float32(0.5)
    scores[picked[80:90]] = np.nan
    scores[picked[90:130]] = random.uniform(0.5, 1, 40)
    loc, landm = offsets.astype(np.float32), points.astype(np.float32)
    loc[picked[100], 0] = np.nan
    if head is Head.RAW:
        return {"loc": loc[None], "conf": np.stack([1 - scores, scores], axis=1)[None], "landm": landm[None]}
    boxes, points = geometry.decode(loc, landm, anchors, contract.variances)
    return {"boxes": boxes[None], "scores": scores[None], "landmarks": points.reshape(1, n, -1)}


def check_made_up(kotlin: Kotlin, bundled: Any, folder: Path) -> None:
    contract, size = bundled.bundle.source.contract, bundled.bundle.goldens.size
    questions, expected = [], []
    for head in (Head.DECODED, Head.RAW):
        for seed in range(6):
            outputs = made_up(bundled, head, seed)
            case = {"ask": "faces", "description": bundled.description, "model": bundled.model(head)}
            questions.append({**case, "outputs": save(folder / f"{head}{seed}", outputs)})
            expected.append(replay.faces(outputs, head, contract, size))
    for answer, reference in zip(kotlin(*questions), expected, strict=True):
        assert len(reference) > 20
        assert_same(faces(answer), reference)
    # where one box overlaps another by exactly the threshold, both stay: 0.4 of 10 x 10
    edge = np.float32([[[0, 0, 10, 10], [0, 0, 10, 4], [0, 0, 10, 4.001]]])
    outputs = {"boxes": edge, "scores": np.float32([[0.9, 0.8, 0.7]]), "landmarks": np.zeros((1, 3, 10), np.float32)}
    reference = replay.faces(outputs, Head.DECODED, contract, size)
    assert len(reference) == 2
    (answer,) = kotlin({**questions[0], "outputs": save(folder / "edge", outputs)})
    assert_same(faces(answer), reference)


def test_made_up_outputs_give_the_faces_of_the_reference(kotlin, bundled, tmp_path):
    check_made_up(kotlin, bundled, tmp_path)


def test_priors_are_those_of_the_reference(kotlin, bundled):
    contract, size = bundled.bundle.source.contract, dataclasses.replace(bundled.bundle.goldens.size, width=150)
    (found,) = kotlin({"ask": "priors", "description": bundled.description, "input": [size.width, size.height]})
    np.testing.assert_array_equal(np.float32(found).reshape(-1, 4), geometry.priors(contract, size))


def test_detections_are_read_as_they_are(kotlin, bundled, tmp_path):
    contract, size = bundled.bundle.source.contract, bundled.bundle.goldens.size
    reference = replay.faces(made_up(bundled, Head.DECODED), Head.DECODED, contract, size)
    k, points = 100, 2 * contract.landmarks
    outputs = {
        "boxes": np.zeros((1, k, 4)),
        "scores": np.zeros((1, k)),
        "landmarks": np.zeros((1, k, points)),
        "count": np.asarray([len(reference)]),
    }
    n = len(reference)
    outputs["boxes"][0, :n], outputs["scores"][0, :n] = reference.boxes, reference.scores
    outputs["landmarks"][0, :n] = reference.landmarks.reshape(n, -1)
    description = json.loads(Path(bundled.description).read_text())
    description["models"][0]["head"] = "detections"
    (tmp_path / "facex.json").write_text(json.dumps(description))
    question = {"ask": "faces", "description": str(tmp_path / "facex.json"), "model": description["models"][0]["file"]}
    (answer,) = kotlin({**question, "outputs": save(tmp_path / "outputs", outputs)})
    assert_same(faces(answer), reference)


def test_outputs_of_another_file_are_refused(kotlin, bundled, tmp_path):
    """Fewer values than there are rows, and a count that there is no room for, are no faces."""
    description = json.loads(Path(bundled.description).read_text())
    description["models"][0]["head"] = "detections"
    (tmp_path / "facex.json").write_text(json.dumps(description))
    rows = {"boxes": np.ones((1, 3, 4)), "scores": np.ones((1, 3)), "landmarks": np.ones((1, 3, 10)), "count": [3]}
    questions = []
    for head in (Head.DECODED, Head.RAW):
        outputs = made_up(bundled, head)
        case = {"ask": "faces", "description": bundled.description, "model": bundled.model(head)}
        questions += [(case, outputs | {name: outputs[name][:, :-1]}) for name in outputs]
    case = {"ask": "faces", "description": str(tmp_path / "facex.json"), "model": description["models"][0]["file"]}
    questions += [(case, rows | {name: rows[name][:, :2]}) for name in ("boxes", "scores", "landmarks")]
    questions += [(case, rows | {"count": [count]}) for count in (4, -1)]
    saved = [{**q, "outputs": save(tmp_path / str(i), values)} for i, (q, values) in enumerate(questions)]
    *sizes, more, less = kotlin(*saved, {**case, "outputs": save(tmp_path / "whole", rows)})[:-1]
    assert all(" rows" in answer["error"] for answer in sizes)
    assert "count is 4, and there is room for 3 faces" in more["error"]
    assert "count is -1" in less["error"]


def test_a_head_that_is_not_known_is_refused(kotlin, bundled, tmp_path):
    description = json.loads(Path(bundled.description).read_text())
    description["models"][0]["head"] = "segments"
    (tmp_path / "facex.json").write_text(json.dumps(description))
    question = {"ask": "faces", "description": str(tmp_path / "facex.json"), "model": description["models"][0]["file"]}
    (answer,) = kotlin({**question, "outputs": {}})
    assert "a segments head; can read decoded, raw, detections" in answer["error"]


# Goldens


def verdicts(kotlin: Kotlin, bundled: Any, head: Head, folder: Path, run: Callable[[Any], Mapping[str, Any]]) -> Any:
    """What Kotlin and Python say of what `run` gives for the goldens, side by side."""
    contract, goldens = bundled.bundle.source.contract, bundled.bundle.goldens
    tolerances = next(m.tolerances for m in bundled.bundle.models if m.artifact.head is head)
    questions, expected = [], []
    for i, golden in enumerate(goldens.goldens):
        outputs = run(replay.pixels(goldens, golden))
        case = {"ask": "verdict", "description": bundled.description, "model": bundled.model(head), "golden": i}
        questions.append({**case, "outputs": save(folder / str(i), outputs)})
        found = replay.deviation(golden.faces, replay.faces(outputs, head, contract, goldens.size))
        sure = 0.5 + tolerances.score
        expected.append(
            {
                "pairs": len(found.pairs),
                "lost": sum(not score < sure for score in found.lost),
                "extra": sum(not score < sure for score in found.extra),
                **{name: getattr(found, name) for name in ("score", "box", "landmark")},
            }
        )
        held = all(expected[-1][name] <= getattr(tolerances, name) for name in ("score", "box", "landmark"))
        expected[-1]["passed"] = held and expected[-1]["lost"] == expected[-1]["extra"] == 0
    return kotlin(*questions), expected


def check_verdicts(kotlin: Kotlin, bundled: Any, head: Head, folder: Path, run: Callable[[Any], Any]) -> int:
    """Kotlin judges as Python does; gives how many goldens pass."""
    found, expected = verdicts(kotlin, bundled, head, folder, run)
    for one, other in zip(found, expected, strict=True):
        for name in ("score", "box", "landmark"):
            value = one.pop(name)
            assert math.isclose(math.inf if math.isnan(value) else value, other.pop(name), abs_tol=1e-5)
        assert one == other
    return sum(one["passed"] for one in found)


def noisy(bundled: Any, amount: float) -> Callable[[Any], Mapping[str, NDArray[Any]]]:
    """The decoded model with boxes, landmarks and scores a little, or far, off."""

    def run(image: Any) -> Mapping[str, NDArray[Any]]:
        random = np.random.default_rng(int(image.sum()) % 1000)
        outputs = bundled.sessions[Head.DECODED]({"image": image})
        return {
            name: (v + random.normal(0, amount * (0.01 if name == "scores" else 1), v.shape)).astype(np.float32)
            for name, v in outputs.items()
        }

    return run


@pytest.mark.parametrize("head", [Head.DECODED, Head.RAW])
def test_the_file_itself_passes_its_goldens(kotlin, bundled, head, tmp_path):
    run = lambda image: bundled.sessions[head]({"image": image})  # noqa: E731
    assert check_verdicts(kotlin, bundled, head, tmp_path, run) == len(bundled.bundle.goldens.goldens)


@pytest.mark.shared
def test_a_trained_file_passes_its_goldens_and_not_with_swapped_channels(kotlin, bundled_real, tmp_path):
    session = bundled_real.sessions[Head.DECODED]
    right = check_verdicts(kotlin, bundled_real, Head.DECODED, tmp_path / "a", lambda x: session({"image": x}))
    assert right == len(bundled_real.bundle.goldens.goldens)
    swapped = lambda x: session({"image": np.ascontiguousarray(x[..., ::-1])})  # noqa: E731
    assert check_verdicts(kotlin, bundled_real, Head.DECODED, tmp_path / "b", swapped) < right


@pytest.mark.parametrize("amount", [0.1, 1.0, 5.0])
def test_noise_is_judged_as_in_python(kotlin, bundled, amount, tmp_path):
    check_verdicts(kotlin, bundled, Head.DECODED, tmp_path, noisy(bundled, amount))


def test_swapped_channels_fail_the_goldens(kotlin, bundled, tmp_path):
    session = bundled.sessions[Head.DECODED]
    run = lambda image: session({"image": np.ascontiguousarray(image[..., ::-1])})  # noqa: E731
    assert check_verdicts(kotlin, bundled, Head.DECODED, tmp_path, run) < len(bundled.bundle.goldens.goldens)


def test_other_weights_fail_the_goldens(kotlin, bundled, other_checkpoint, tmp_path):
    session = ReferenceSession(
        load(other_checkpoint, ContractOptions()), bundled.bundle.goldens.size, Head.DECODED, threads=1
    )
    assert check_verdicts(kotlin, bundled, Head.DECODED, tmp_path, lambda image: session({"image": image})) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["boxes", "landmarks"])
def test_what_is_not_finite_fails_the_goldens(kotlin, bundled, name, value, tmp_path):
    def run(image: Any) -> Mapping[str, NDArray[Any]]:
        outputs = {k: v.copy() for k, v in bundled.sessions[Head.DECODED]({"image": image}).items()}
        outputs[name][..., 1] = value
        return outputs

    assert check_verdicts(kotlin, bundled, Head.DECODED, tmp_path, run) == 0


# The description


def test_the_description_is_read_as_it_was_written(kotlin, bundled):
    text = Path(bundled.description).read_text()
    plain = json.loads(text)
    (found,) = kotlin({"ask": "description", "text": text})
    contract = plain["contract"]
    for name in ("strides", "min_sizes", "variances"):
        assert found[name] == contract[name]
    for name in ("padding_rgb", "score_threshold", "nms_iou", "saturated_score"):
        assert found[name] == plain[name]
    assert found["models"] == [
        [*(m[k] for k in ("file", "precision", "head", "width", "height", "landmarks", "minimum_runtime")), *off]
        for m in plain["models"]
        for off in [[m["tolerances"][k] for k in ("score", "box", "landmark")]]
    ]
    for golden, told in zip(plain["goldens"]["photographs"], found["goldens"], strict=True):
        assert told[:4] == [golden[k] for k in ("file", "source_width", "source_height", "scale")]
        rows = [[face["score"], *face["box"], *face["landmarks"]] for face in golden["faces"]]
        np.testing.assert_allclose(np.asarray(told[4]), np.asarray(rows), rtol=1e-6)
    assert (bundled.folder / "src/main/assets/facex" / found["choosing"]).is_file()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "no object"),
        ("", "no more at character 0"),
        ('{"schema_version": 2}', "version 2"),
        ('{"schema_version": 1}', "contract is null"),
        ('{"schema_version": 1} x', "no the end"),
        ('{"schema_version": NaN}', "no a value"),
        ('{"a": [1, 2', "no more"),
        ('{"a": "b', "no more"),
        ('{"a" 1}', "no : at"),
    ],
)
def test_a_damaged_description_is_refused(kotlin, text, complaint):
    (answer,) = kotlin({"ask": "description", "text": text})
    assert complaint in answer["error"]


def test_any_text_in_a_description_is_read(kotlin, bundled):
    plain = json.loads(Path(bundled.description).read_text())
    plain["models"][0]["minimum_runtime"] = "tab\t, slash \\/, é, \U0001f600, [}]"
    plain["unknown"] = [None, True, False, -1.5e-3, {}, []]
    for text in (json.dumps(plain), json.dumps(plain, indent=3, ensure_ascii=False)):
        (found,) = kotlin({"ask": "description", "text": text})
        assert found["models"][0][6] == plain["models"][0]["minimum_runtime"]


# Altered copies


def altered(kotlin: Kotlin, name: str) -> Kotlin:
    return lambda *questions: kotlin(*questions, altered=name)


@pytest.mark.parametrize(
    "name",
    [
        *("no saturated ties", "later of equals", "looser NMS", "touching is overlapping", "higher threshold"),
        *("x and y swapped", "one variance for both", "prior at the corner"),
    ],
)
def test_another_decoding_would_be_seen(kotlin, bundled, name, tmp_path):
    with pytest.raises(AssertionError):
        check_made_up(altered(kotlin, name), bundled, tmp_path)


@pytest.mark.parametrize("name", ["multiplied back", "looser NMS"])
def test_another_mapping_would_be_seen(kotlin, bundled, name, tmp_path):
    with pytest.raises(AssertionError):
        check_recorded(altered(kotlin, name), bundled, Head.DECODED, tmp_path)


@pytest.mark.parametrize("name", ["landmarks not held", "lost not counted"])
def test_another_comparison_would_be_seen(kotlin, bundled, name, tmp_path):
    with pytest.raises(AssertionError):
        check_verdicts(altered(kotlin, name), bundled, Head.DECODED, tmp_path, noisy(bundled, 5.0))


@pytest.mark.parametrize("name", ["BGR", "scale of one side"])
def test_other_pixels_would_be_seen(kotlin, bundled, name, tmp_path):
    with pytest.raises(AssertionError):
        check_whole_way(altered(kotlin, name), bundled, tmp_path)
