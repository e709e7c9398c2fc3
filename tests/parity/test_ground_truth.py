from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from facex.errors import ArtifactError
from facex.parity import ground_truth
from facex.reference.photographs import Photograph

FACE = {"bbox": [1, 2, 30, 40.5]}
FLAGGED = FACE | {"easy": False, "medium": True, "hard": True}


def photograph(path, content=b"picture"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Photograph(path=path, sha256=hashlib.sha256(content).hexdigest())


def test_a_whole_file(gt_file):
    loaded = ground_truth.load(
        gt_file(
            [
                {
                    "file": "images/a.jpg",
                    "width": 640,
                    "height": 480,
                    "sha256": "AB" * 32,
                    "faces": [FLAGGED, FLAGGED],
                },
                {"file": "b.jpg", "faces": None, "source": "other keys are ignored"},
                {"file": "c.jpg", "faces": []},
                {"file": "d.jpg", "faces": [FACE | {"bbox": [-3, 0, 0, 7]}]},
            ]
        )
    )
    a, b, c, d = loaded.entries
    assert (a.file, a.sha256, a.width, a.height) == ("images/a.jpg", "ab" * 32, 640, 480)
    np.testing.assert_array_equal(a.faces.boxes, [[1, 2, 31, 42.5]] * 2)
    assert {k: v.tolist() for k, v in a.faces.flags.items()} == {
        "easy": [False, False], "medium": [True, True], "hard": [True, True],
    }  # fmt: skip
    assert b.faces is None
    assert c.faces.boxes.shape == (0, 4)
    assert d.faces.flags == {}
    np.testing.assert_array_equal(d.faces.boxes, [[-3, 0, -3, 7]])  # outside the photograph and without area is legal


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [{"file": "a.jpg", "faces": [{"bbox": [0, 0, -1, 5]}]}],
            r"images\[0\].faces\[0\].bbox: width and height",
        ),
        (
            [{"file": "a.jpg", "faces": [FACE, {"bbox": [0, 0, 5]}]}],
            r"images\[0\].faces\[1\].bbox: must be \[x, y",
        ),
        ([{"file": "a.jpg", "faces": [{"bbox": [0, 0, "5", 5]}]}], r"faces\[0\].bbox: \"5\" is not a number"),
        ([{"file": "a.jpg", "faces": [{"bbox": [0, 0, True, 5]}]}], "true is not a number"),
        ([{"file": "a.jpg", "faces": [{"bbox": [0, 0, 10**400, 5]}]}], "is not a number of pixels"),
        ([{"file": "a.jpg", "faces": [{"box": [0, 0, 5, 5]}]}], r"faces\[0\].bbox: must be .* not null"),
        ([{"file": "a.jpg", "faces": ["face"]}], r"faces\[0\].bbox"),
        ([{"file": "a.jpg", "faces": [FLAGGED, FACE]}], r"faces\[1\].easy: must be true or false, not null"),
        ([{"file": "a.jpg", "faces": [FLAGGED | {"hard": "yes"}]}], r"faces\[0\].hard: .* not \"yes\""),
        ([{"file": "a.jpg", "faces": {}}], r"images\[0\].faces: must be a list or null"),
        ([{"file": "a.jpg"}], r"images\[0\].faces: is missing"),
        ([{"file": "a.jpg", "faces": []}, {"faces": []}], r"images\[1\].file: must be a file name"),
        ([{"file": "a.jpg", "faces": []}] * 2, r"images\[1\].file: a.jpg is in images\[0\] already"),
        ([{"file": "a.jpg", "faces": [], "sha256": "abc"}], r"images\[0\].sha256: must be 64 hex"),
        ([{"file": "a.jpg", "faces": [], "width": 0}], r"images\[0\].width: must be a positive"),
        ([{"file": "a.jpg", "faces": [], "height": 1.5}], r"images\[0\].height: must be a positive"),
        (["a.jpg"], r"images\[0\]: must be an object"),
        ([], "images: must be a list with an entry"),
        ({"a.jpg": []}, "images: must be a list"),
        ("[1, 2]", "images: must be a list"),
        ('{"images": [{"file": "a.jpg", "faces": [{"bbox": [0, 0, NaN, 1]}]}]}', "NaN is not a number"),
        (
            '{"images": [{"file": "a.jpg", "faces": [{"bbox": [0, 0, Infinity, 1]}]}]}',
            "Infinity is not a number",
        ),
        ('{"images": [', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_malformed_files_are_refused_by_place(gt_file, images, message):
    path = gt_file(images)
    with pytest.raises(ArtifactError, match=message) as caught:
        ground_truth.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(ArtifactError, match="cannot be read"):
            ground_truth.load(path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ArtifactError, match="is not JSON"):
        ground_truth.load(binary)


def files(entries):
    return [entry and entry.file for entry in entries]


def test_entries_belong_to_the_photographs_at_their_paths(gt_file, tmp_path):
    loaded = ground_truth.load(gt_file([{"file": f"images/{n}.jpg", "faces": []} for n in "ab"]))
    b, a, c = (photograph(tmp_path / "images" / f"{n}.jpg") for n in "bac")
    assert files(ground_truth.assign(loaded, [b, a, c])) == ["images/b.jpg", "images/a.jpg", None]


def test_photographs_elsewhere_are_found_by_name(gt_file, tmp_path):
    loaded = ground_truth.load(gt_file([{"file": "images/a.jpg", "faces": []}]))
    moved = photograph(tmp_path / "elsewhere" / "a.jpg")
    assert files(ground_truth.assign(loaded, [moved])) == ["images/a.jpg"]
    # not the name's photograph when the path's is there
    own = photograph(tmp_path / "images" / "a.jpg")
    assert files(ground_truth.assign(loaded, [moved, own])) == [None, "images/a.jpg"]


def test_another_file_of_the_name_is_refused(gt_file, tmp_path):
    right = photograph(tmp_path / "a.jpg")
    loaded = ground_truth.load(gt_file([{"file": "a.jpg", "faces": [], "sha256": right.sha256.upper()}]))
    assert files(ground_truth.assign(loaded, [right])) == ["a.jpg"]
    for wrong in (
        photograph(tmp_path / "a.jpg", b"another"),
        photograph(tmp_path / "else" / "a.jpg", b"another"),
    ):
        with pytest.raises(ArtifactError, match=r"a\.jpg: describes another file than .*SHA-256"):
            ground_truth.assign(loaded, [wrong])


def test_equal_names_are_told_apart_by_their_sums_or_not_at_all(gt_file, tmp_path):
    one, two = photograph(tmp_path / "x" / "a.jpg", b"one"), photograph(tmp_path / "y" / "a.jpg", b"two")
    sums = [{"file": f"{n}/a.jpg", "faces": [], "sha256": p.sha256} for n, p in (("1", one), ("2", two))]
    loaded = ground_truth.load(gt_file(sums))
    assert files(ground_truth.assign(loaded, [two, one])) == ["2/a.jpg", "1/a.jpg"]

    loaded = ground_truth.load(gt_file([{"file": f"{n}/a.jpg", "faces": []} for n in "12"]))
    with pytest.raises(ArtifactError, match=r"2 entries are called a\.jpg"):
        ground_truth.assign(loaded, [one])

    loaded = ground_truth.load(gt_file([{"file": "1/a.jpg", "faces": []}]))
    with pytest.raises(ArtifactError, match="fits both"):
        ground_truth.assign(loaded, [one, two])


def test_ground_truth_of_other_photographs_is_refused(gt_file, tmp_path):
    loaded = ground_truth.load(gt_file([{"file": "a.jpg", "faces": []}]))
    with pytest.raises(ArtifactError, match="no entry for any of the 1 photographs"):
        ground_truth.assign(loaded, [photograph(tmp_path / "b.jpg")])


def test_boxes_must_be_in_the_photographs_own_pixels(gt_file):
    entries = [
        {"file": "stated.jpg", "width": 640, "height": 480, "faces": [FACE]},
        {"file": "silent.jpg", "faces": [FACE]},
        {"file": "empty.jpg", "width": 640, "height": 480, "faces": []},
        {"file": "unknown.jpg", "width": 640, "height": 480, "faces": None},
    ]
    stated, *others = ground_truth.load(gt_file(entries)).entries
    ground_truth.check_frame(stated, 480, 640)
    with pytest.raises(ArtifactError, match=r"stated\.jpg: says 640x480 px, the upright photograph has 480x640"):
        ground_truth.check_frame(stated, 640, 480)
    for entry in others:
        ground_truth.check_frame(entry, 640, 480)


@pytest.mark.shared
def test_the_real_file_is_readable(shared_dir):
    path = shared_dir / "data" / "dev" / "gt.json"
    loaded = ground_truth.load(path)
    raw = json.loads(path.read_text(encoding="utf-8"))["images"]
    assert len(loaded.entries) == len(raw)
    assert sum(len(e.faces) for e in loaded.entries if e.faces is not None) == sum(len(r["faces"] or ()) for r in raw)
    assert any(e.faces.flags for e in loaded.entries)
