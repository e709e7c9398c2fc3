"""What is said about a set of calibration photographs, and what is not."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facex.calibration import appearance, hygiene
from facex.calibration.appearance import Fault
from facex.calibration.hygiene import Empty, Hygiene, Watch
from facex.errors import EXIT_INPUT, PhotographError
from facex.manifest import Stability
from facex.reference import photographs
from facex.reference.photographs import Photograph

CLEAN = Hygiene(count=64, photographs_with_faces=64, empty=(), groups=(), exact_duplicates=0, source="")


def photograph(name: str, rgb: np.ndarray) -> Photograph:
    """One that needs no file: its sum is that of its pixels."""
    return Photograph(path=Path("/photographs") / name, sha256=hashlib.sha256(rgb.tobytes()).hexdigest())


def watched(pictures, faces=1) -> Hygiene:
    """`pictures`: name -> PIL image or uint8 array; `faces` in each."""
    watch = Watch()
    for name, picture in pictures.items():
        rgb = np.asarray(picture)
        watch.add(photograph(name, rgb), rgb, faces)
    return watch.result()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def brightened(image: Image.Image, factor: float) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image, np.float64) * factor, 0, 255).astype(np.uint8))


COPIES = {
    "recompressed": lambda image: jpeg(image, 50),
    "halved": lambda image: resized(image, 0.5),
    "enlarged": lambda image: resized(image, 1.25),
    "darkened": lambda image: brightened(image, 0.7),
    "brightened": lambda image: brightened(image, 1.2),
    "cropped": lambda image: cropped(image, 0.02),
    "cropped, shrunk and recompressed": lambda image: jpeg(resized(cropped(image, 0.01), 0.7), 60),
}


# One picture


def gradient(height, width, channels=(1, 1, 1)):
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 1)) * np.asarray(channels)
    return ramp.astype(np.uint8)


def radial(height, width):
    y, x = np.mgrid[:height, :width]
    away = (x - width / 2) ** 2 + (y - height / 2) ** 2
    return np.repeat((255 * (1 - away / away.max()))[..., None], 3, axis=2).astype(np.uint8)


def noise(height, width):
    return np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(16, 16), (48, 64), (160, 200), (480, 640)], ids=str)
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda *shape: np.full((*shape, 3), 90, np.uint8), Fault.ONE_COLOUR),
        (lambda *shape: gradient(*shape, (1, 0, 0)), Fault.NO_EDGES),
        (lambda *shape: gradient(*shape).transpose(1, 0, 2), Fault.NO_EDGES),
        (radial, Fault.NO_EDGES),
        (noise, Fault.NOISE),
        (lambda *shape: np.repeat(noise(*shape)[..., :1], 3, axis=2), Fault.NOISE),
    ],
    ids=["one colour", "red ramp", "grey ramp", "radial", "colour noise", "grey noise"],
)
def test_a_picture_that_is_none_is_recognised(shape, make, fault):
    assert appearance.of(make(*shape)).fault is fault


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (200, 160), (640, 480)], ids=str)
def test_a_drawn_picture_has_no_fault(draw_photograph, size):
    assert [appearance.of(np.asarray(draw_photograph(seed, *size))).fault for seed in range(5)] == [None] * 5


def test_dim_and_faint_pictures_have_no_fault(draw_photograph):
    rgb = np.asarray(draw_photograph(1, 200, 160), np.float64)
    for faint in (rgb * 0.15, rgb * 0.2 + 180):
        assert appearance.of(faint.astype(np.uint8)).fault is None


def test_a_small_face_before_a_plain_wall_has_no_fault(draw_photograph):
    wall = Image.new("RGB", (640, 480), (200, 190, 180))
    wall.paste(draw_photograph(2, 64, 64), (300, 200))
    assert appearance.of(np.asarray(wall)).fault is None


def test_colour_is_brightness_and_tint():
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[:] = (200, 100, 50)
    brightness = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    found = appearance.of(rgb)
    assert found.size == (30, 20)
    assert found.colour == pytest.approx((brightness, 200 - brightness, 50 - brightness))


def test_the_hash_is_that_of_its_definition():
    cells = np.random.default_rng(3).permutation(72).reshape(8, 9) * 3
    picture = Image.fromarray(np.kron(cells, np.ones((16, 16))).astype(np.uint8))
    bits = appearance.difference_hash(picture)
    assert (bits.shape, bits.dtype) == ((appearance.HASH_BITS,), bool)
    np.testing.assert_array_equal(bits[:64].reshape(8, 8), cells[:, 1:] > cells[:, :-1])


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON\x00", " D90 \x00", "NIKON D90"),
        (None, "D90", "D90"),
        ("NIKON", None, ""),
        (None, None, ""),
        ("A\nB", "C\x1b[31m", "A B C [31m"),
    ],
)
def test_the_camera_is_read_from_exif(tmp_path, draw_photograph, make, model, expected):
    exif = Image.Exif()
    for tag, text in ((271, make), (272, model)):
        if text is not None:
            exif[tag] = text
    draw_photograph(1, 32, 32).save(tmp_path / "a.jpg", exif=exif)
    assert appearance.camera(tmp_path / "a.jpg") == expected


def test_no_camera_in_what_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe1\x00\x10Exif\x00\x00broken")
    assert appearance.camera(tmp_path / "a.jpg") == ""
    assert appearance.camera(tmp_path / "missing.jpg") == ""


# Near-duplicates


def test_different_pictures_are_no_duplicates(draw_photograph):
    found = watched({f"{seed}.png": draw_photograph(seed, 200, 160) for seed in range(40)})
    assert (found.groups, found.near_duplicates, found.exact_duplicates) == ((), 0, 0)
    assert found.usable == found.count == 40


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_seen(draw_photograph, copy):
    pictures = {f"{seed}.png": draw_photograph(seed, 320, 240) for seed in range(10)}
    copies = {f"copy of {name}": COPIES[copy](picture) for name, picture in pictures.items()}
    found = watched(pictures | copies)
    assert set(found.groups) == {(name, f"copy of {name}") for name in pictures}
    assert (found.near_duplicates, found.exact_duplicates, found.usable) == (10, 0, 10)


def test_other_crops_of_one_picture_are_no_duplicates(draw_photograph):
    picture = draw_photograph(4, 400, 320)
    crops = {"left.png": picture.crop((0, 0, 200, 160)), "right.png": picture.crop((200, 160, 400, 320))}
    assert watched(crops | {"whole.png": picture}).groups == ()


def test_identical_files_are_counted_apart(draw_photograph):
    one, two = draw_photograph(1, 200, 160), draw_photograph(2, 200, 160)
    found = watched({"a.png": one, "b.png": two, "c.png": one, "d.png": jpeg(one, 60), "e.png": one})
    assert found.groups == (("a.png", "c.png", "d.png", "e.png"),)
    assert (found.near_duplicates, found.exact_duplicates, found.usable) == (3, 2, 2)


def test_files_with_equal_bytes_are_duplicates_whatever_they_look_like(draw_photograph):
    watch = Watch()
    for seed, name in enumerate(("a.png", "b.png")):
        watch.add(Photograph(path=Path(name), sha256="ab" * 32), np.asarray(draw_photograph(seed, 64, 48)), None)
    assert watch.result().groups == (("a.png", "b.png"),)


def looking(bits, coarse=None):
    unit = np.eye(1, appearance.COARSE_PX**2, dtype=np.float32)[0]
    return appearance.Appearance(
        fault=None, bits=bits, coarse=unit if coarse is None else coarse, size=(64, 48), colour=(0.0, 0.0, 0.0)
    )


def test_close_pairs_are_those_of_the_distance(monkeypatch):
    random = np.random.default_rng(2)
    bits = list(random.random((50, appearance.HASH_BITS)) < 0.5)
    for index, flips in ((30, hygiene.MAX_HASH_DISTANCE), (41, hygiene.MAX_HASH_DISTANCE + 1)):
        bits[index] = bits[7].copy()
        bits[index][:flips] ^= True
    monkeypatch.setattr(hygiene, "_BLOCK", 16)  # so that pairs lie across blocks
    wanted = {
        (i, j) for i in range(50) for j in range(i + 1, 50) if (bits[i] != bits[j]).sum() <= hygiene.MAX_HASH_DISTANCE
    }
    assert (7, 30) in wanted
    assert (7, 41) not in wanted
    assert set(hygiene._close_pairs([looking(one) for one in bits])) == wanted


@pytest.mark.parametrize(("correlation", "pairs"), [(0.86, [(0, 1)]), (0.84, []), (-1.0, [])])
def test_close_pairs_correlate(correlation, pairs):
    bits = np.zeros(appearance.HASH_BITS, bool)
    other = np.zeros(appearance.COARSE_PX**2, np.float32)
    other[:2] = correlation, math.sqrt(1 - correlation**2)
    assert list(hygiene._close_pairs([looking(bits), looking(bits, other)])) == pairs


def test_groups_join_through_others():
    bits = [np.zeros(appearance.HASH_BITS, bool) for _ in range(4)]
    for index, ones in enumerate((40, 20, 0, 128)):
        bits[index][:ones] = True
    assert hygiene._alike([looking(one) for one in bits], list("abcd")) == [[0, 1, 2]]


def test_people_before_one_plain_wall_are_no_duplicates(draw_photograph):
    assert watched({f"{i}.png": scene(draw_photograph, i) for i in range(20)}).groups == ()


# Empty pictures


def test_some_empty_pictures_are_named(draw_photograph):
    pictures = {f"{seed}.png": draw_photograph(seed, 64, 48) for seed in range(3)}
    empty = {"black.png": np.zeros((48, 64, 3), np.uint8), "ramp.png": gradient(48, 64), "noise.png": noise(48, 64)}
    found = watched(pictures | empty)
    assert found.empty == (
        Empty(name="black.png", fault="of one colour"),
        Empty(name="ramp.png", fault="a gradient without edges"),
        Empty(name="noise.png", fault="noise"),
    )
    assert found.usable == 3


def test_empty_pictures_are_not_called_duplicates(draw_photograph):
    grey = {f"grey {i}.png": np.full((48, 64, 3), 90, np.uint8) for i in range(2)}
    found = watched({f"{seed}.png": draw_photograph(seed, 64, 48) for seed in range(2)} | grey)
    assert (found.groups, found.exact_duplicates, len(found.empty)) == ((), 0, 2)


def test_a_set_that_is_mostly_empty_is_refused(draw_photograph):
    pictures = {f"{seed}.png": draw_photograph(seed, 64, 48) for seed in range(2)}
    empty = {"a.png": noise(48, 64), "b.png": gradient(48, 64), "c.png": np.zeros((48, 64, 3), np.uint8)}
    with pytest.raises(PhotographError, match="3 of 5 calibration photographs are blank") as caught:
        watched(pictures | empty)
    assert caught.value.exit_code == EXIT_INPUT
    assert "/photographs:" in str(caught.value)
    assert "(1 of one colour, 1 a gradient without edges, 1 noise)" in str(caught.value)


def test_nothing_watched_is_nothing_wrong_but_few():
    found = Watch().result()
    assert (found.count, found.usable, found.photographs_with_faces) == (0, 0, 0)
    assert len(hygiene.warnings(found)) == 1


# One source


def scene(draw_photograph, frame, size=(200, 160)):
    """The same wall and light; people move before it."""
    wall = Image.new("RGB", size, (140, 120, 100))
    for i in range(3):
        x, y = np.random.default_rng(100 * frame + i).integers(0, (size[0] - 48, size[1] - 48))
        wall.paste(draw_photograph(50 * frame + i, 48, 48), (int(x), int(y)))
    return wall


def test_frames_of_one_scene_are_one_source(draw_photograph):
    found = watched({f"{i}.png": scene(draw_photograph, i) for i in range(8)})
    assert found.source.startswith("all 8 have the size 200x160 and nearly the same exposure and tint (brightness 1")
    assert found.groups == ()


def test_few_frames_are_not_judged(draw_photograph):
    assert watched({f"{i}.png": scene(draw_photograph, i) for i in range(7)}).source == ""


def test_one_other_size_is_another_source(draw_photograph):
    sizes = [(200, 160)] * 8 + [(208, 160)]
    assert watched({f"{i}.png": scene(draw_photograph, i, size) for i, size in enumerate(sizes)}).source == ""


def test_one_size_with_many_exposures_is_no_source(draw_photograph):
    frames = {f"{i}.png": brightened(scene(draw_photograph, i), 0.4 + 0.1 * i) for i in range(8)}
    assert watched(frames).source == ""


def with_cameras(folder, draw_photograph, models):
    watch = Watch()
    for i, model in enumerate(models):
        exif = Image.Exif()
        if model:
            exif[271], exif[272] = "Maker", model
        image = draw_photograph(i, 100 + 4 * i, 80)
        image.save(folder / f"{i}.jpg", exif=exif)
    for found in photographs.find(folder, option="--calib"):
        watch.add(found, photographs.load(found.path), None)
    return watch.result()


def test_one_camera_in_every_exif_is_one_source(tmp_path, draw_photograph):
    assert with_cameras(tmp_path, draw_photograph, ["X1"] * 8).source == "all 8 were taken by one camera, Maker X1"


@pytest.mark.parametrize("last", ["X2", None])
def test_another_camera_or_none_at_all_is_another_source(tmp_path, draw_photograph, last):
    assert with_cameras(tmp_path, draw_photograph, ["X1"] * 8 + [last]).source == ""


# Faces and names


def test_photographs_with_faces_are_counted(draw_photograph):
    watch = Watch()
    for seed, faces in enumerate((0, 3, 1)):
        rgb = np.asarray(draw_photograph(seed, 64, 48))
        watch.add(photograph(f"{seed}.png", rgb), rgb, faces)
    assert watch.result().photographs_with_faces == 2
    rgb = np.asarray(draw_photograph(9, 64, 48))
    watch.add(photograph("9.png", rgb), rgb, None)
    assert watch.result().photographs_with_faces is None


def test_names_tell_subfolders_apart(draw_photograph):
    one = draw_photograph(1, 64, 48)
    assert watched({"x/a.png": one, "y/a.png": one}).groups == (("x/a.png", "y/a.png"),)
    assert watched({"x/a.png": one, "x/b.png": one}).groups == (("a.png", "b.png"),)


# Stability


def test_stability_compares_spans():
    first = {"a": (0.0, 10.0), "b": (-1.0, 1.0), "c": (2.0, 6.0)}
    second = {"a": (5.0, 15.0), "b": (-1.0, 0.5), "c": (0.0, 1.0)}
    found = hygiene.stability(first, second)
    assert found == Stability(median=0.25, worst=0.75, tensor="c")
    assert hygiene.stability(second, first) == found


def test_stability_of_equal_and_of_empty_ranges():
    same = {"b": (0.0, 0.0), "a": (1.0, 2.0)}
    assert hygiene.stability(same, same) == Stability(median=0.0, worst=0.0, tensor="a")
    assert hygiene.stability({"a": (1.0, 1.0)}, {"a": (0.0, 3.0)}).worst == 1.0


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({}, {}, "at least one"),
        ({"a": (0.0, 1.0)}, {"b": (0.0, 1.0)}, "same tensors"),
        ({"a": (0.0, math.nan)}, {"a": (0.0, 1.0)}, "'a' has no range"),
        ({"a": (0.0, 1.0)}, {"a": (-math.inf, 1.0)}, "'a' has no range"),
        ({"a": (1.0, 0.0)}, {"a": (0.0, 1.0)}, "'a' has no range"),
    ],
)
def test_stability_refuses_what_cannot_be_compared(first, second, match):
    with pytest.raises(ValueError, match=match):
        hygiene.stability(first, second)


_ranges = st.tuples(st.floats(-1e3, 0), st.floats(0, 1e3))


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.tuples(_ranges, _ranges), min_size=1, max_size=6),
    st.sampled_from([0.5, 2.0, 1024.0]),
)
def test_stability_is_a_share_and_has_no_unit(pairs, unit):
    first = {name: pair[0] for name, pair in pairs.items()}
    second = {name: pair[1] for name, pair in pairs.items()}
    found = hygiene.stability(first, second)
    assert 0 <= found.median <= found.worst <= 1
    assert found.tensor in pairs
    scaled = hygiene.stability(
        {name: (low * unit, high * unit) for name, (low, high) in first.items()},
        {name: (low * unit, high * unit) for name, (low, high) in second.items()},
    )
    assert (scaled.median, scaled.worst) == pytest.approx((found.median, found.worst))


# Warnings


def test_a_clean_set_gives_no_warning():
    stable = Stability(median=hygiene.MAX_MEDIAN_DIFFERENCE, worst=hygiene.MAX_WORST_DIFFERENCE, tensor="x")
    assert hygiene.warnings(CLEAN) == []
    assert hygiene.warnings(dataclasses.replace(CLEAN, photographs_with_faces=None, stability=stable)) == []
    assert hygiene.warnings(dataclasses.replace(CLEAN, photographs_with_faces=16)) == []


FOUR_GROUPS = (("a", "b", "c"), ("d", "e"), ("f", "g"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 63, "photographs_with_faces": 63}, ["63 photographs are few; 64 or more are better"]),
        ({"count": 7, "photographs_with_faces": 7}, ["7 photographs are few, so few", "take 64 or more"]),
        ({"photographs_with_faces": 0}, ["none of 64 photographs holds a face", "check the contract"]),
        ({"photographs_with_faces": 15}, ["only 15 of 64 photographs hold a face", "add photographs with faces"]),
        (
            {"count": 100, "groups": FOUR_GROUPS, "exact_duplicates": 2},
            ["4 of 100 photographs repeat others, 2 of them byte for byte", "a and b, a and c, d and e, and 1 more"],
        ),
        ({"count": 100, "groups": (("a", "b"),)}, ["1 of 100 photographs repeat others: a and b; they"]),
        (
            {"count": 100, "empty": (Empty(name="dark.png", fault="of one colour"),)},
            ["1 of 100 are blank: dark.png is of one colour", "remove them"],
        ),
        ({"source": "all 64 were taken by one camera, X"}, ["all 64 were taken by one camera, X;", "add photographs"]),
        (
            {"stability": Stability(median=0.151, worst=0.3, tensor="conv 3")},
            ["two halves differ by 15%", "by 30% at worst, in tensor 'conv 3'"],
        ),
        ({"stability": Stability(median=0.01, worst=0.51, tensor="conv 3")}, ["1% (median", "51% at worst"]),
    ],
)
def test_every_fault_gives_one_line_that_names_it(changes, words):
    (line,) = hygiene.warnings(dataclasses.replace(CLEAN, **changes), "--calib photos")
    assert line.startswith("--calib photos: ")
    assert all(word in line for word in words)
    assert "\n" not in line


def test_what_is_usable_is_what_counts_as_few():
    empty = tuple(Empty(name=f"{i}", fault="noise") for i in range(3))
    changed = dataclasses.replace(CLEAN, empty=empty, groups=FOUR_GROUPS)
    assert hygiene.warnings(changed)[0] == "--calib: 57 usable of 64 photographs are few; 64 or more are better"
    assert len(hygiene.warnings(changed)) == 3


def test_a_name_with_a_line_break_stays_on_one_line():
    changed = dataclasses.replace(CLEAN, count=100, groups=(("a\nwarning: b", "c"),))
    (line,) = hygiene.warnings(changed)
    assert "a warning: b and c" in line
    assert "\n" not in line


def test_the_value_is_plain_and_repeats(draw_photograph):
    pictures = {f"{seed}.png": draw_photograph(seed, 64, 48) for seed in range(9)} | {"noise.png": noise(48, 64)}
    assert watched(pictures) == watched(pictures)
    hash(watched(pictures))


# Real photographs


@pytest.fixture(scope="module")
def real(shared_dir):
    return photographs.find(shared_dir / "data" / "calib" / "images", option="--calib")


@pytest.mark.shared
def test_nothing_is_wrong_with_the_real_set(real):
    watch = Watch()
    for found in real:
        watch.add(found, photographs.load(found.path), 1)
    assert hygiene.warnings(watch.result()) == []
    assert watch.result().usable == 128


@pytest.mark.shared
def test_copies_of_real_photographs_are_seen(real):
    watch, wanted = Watch(), set()
    for found in real[::4]:
        rgb = photographs.load(found.path)
        watch.add(found, rgb, None)
        for i, copy in enumerate(COPIES.values()):
            copied = found.path.with_name(f"{found.path.stem}_{i}.jpg")
            changed = np.asarray(copy(Image.fromarray(rgb)))
            watch.add(Photograph(path=copied, sha256=f"{copied.name}"), changed, None)
        wanted.add((found.path.name, *(f"{found.path.stem}_{i}.jpg" for i in range(len(COPIES)))))
    assert set(watch.result().groups) == wanted
