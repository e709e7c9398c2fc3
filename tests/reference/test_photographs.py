"""Photographs of every kind to upright RGB, the letterbox, and what must be refused in one line."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facex.errors import EXIT_INPUT, PhotographError
from facex.reference import photographs
from facex.types import Size

Array = np.ndarray[Any, Any]
Draw = Callable[[int, int, int], Image.Image]
ORIENTATION = 0x0112

# How a camera stores an upright picture under each EXIF orientation: the inverse of what a viewer then does.
STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


def refused(path: Path, *words: str) -> PhotographError:
    """Decoding fails in one line that names the file and holds the words."""
    with pytest.raises(PhotographError) as caught:
        photographs.load(path)
    text = str(caught.value)
    assert caught.value.exit_code == EXIT_INPUT
    assert len(text.splitlines()) == 1
    assert str(path) in text
    said = text.replace(str(path), "")  # the folder is named after the test
    assert all(word in said for word in words), text
    return caught.value


# --- decoding


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_orientation_is_applied(draw_photograph: Draw, tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.asarray(draw_photograph(1, 64, 48).resize((128, 96)))  # smooth, so that JPEG stays close
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, **options)

    loaded = photographs.load(path)

    assert loaded.dtype == np.uint8
    assert loaded.shape == upright.shape
    difference = np.abs(loaded.astype(int) - upright.astype(int))
    assert difference.mean() < 3 if suffix == "jpg" else difference.max() == 0


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_files_give_their_pixels(draw_photograph: Draw, tmp_path: Path, suffix: str) -> None:
    image = draw_photograph(2, 70, 50)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(photographs.load(tmp_path / f"a.{suffix}"), np.asarray(image))


def test_cmyk_jpeg(draw_photograph: Draw, tmp_path: Path) -> None:
    image = draw_photograph(3, 64, 48).resize((128, 96))
    image.convert("CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    loaded = photographs.load(tmp_path / "a.jpg")
    assert np.abs(loaded.astype(int) - np.asarray(image).astype(int)).mean() < 4


GREY = (np.arange(32)[:, None] * 7 + np.arange(40)[None]) % 256


def assert_grey(path: Path, values: Array, *, tolerance: int = 0) -> None:
    loaded = photographs.load(path).astype(int)
    assert loaded.shape == (*values.shape, 3)
    assert np.abs(loaded - values[:, :, None]).max() <= tolerance


def test_8_bit_grey(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "a.png")
    assert_grey(tmp_path / "a.png", GREY)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray((GREY * 257).astype(np.uint16)).save(tmp_path / f"a.{suffix}")
    assert Image.open(tmp_path / f"a.{suffix}").mode.startswith("I")
    assert_grey(tmp_path / f"a.{suffix}", GREY)


def test_dark_16_bit_grey_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / "a.png")
    assert_grey(tmp_path / "a.png", np.zeros_like(GREY), tolerance=1)


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_grey(tmp_path: Path, top: float) -> None:
    Image.fromarray((GREY / 255 * top).astype(np.float32)).save(tmp_path / "a.tiff")
    assert_grey(tmp_path / "a.tiff", GREY, tolerance=1)


def test_1_bit(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    assert_grey(tmp_path / "a.png", np.where(GREY > 127, 255, 0))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, :10] = (200, 40, 0, 255)
    pixels[:, 10:20] = (200, 40, 0, 0)
    pixels[:, 20:] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = photographs.load(tmp_path / "a.png").astype(int)
    assert (loaded[:, :10] == (200, 40, 0)).all()
    assert (loaded[:, 10:20] == 255).all()
    assert np.abs(loaded[:, 20:] - 127).max() <= 1


def test_grey_with_alpha(tmp_path: Path) -> None:
    alpha = np.where(np.arange(40) < 20, 255, 0)[None].repeat(32, 0)
    Image.fromarray(np.stack([GREY, alpha], axis=2).astype(np.uint8)).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "LA"
    assert_grey(tmp_path / "a.png", np.where(alpha > 0, GREY, 255))


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (40, 20), 0)
    image.putpalette([10, 20, 30, 250, 0, 0])
    image.paste(1, (20, 0, 40, 20))
    image.save(tmp_path / "a.png", transparency=1)
    loaded = photographs.load(tmp_path / "a.png")
    assert (loaded[:, :20] == (10, 20, 30)).all()
    assert (loaded[:, 20:] == 255).all()


def test_palette_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (40, 20), 0)
    image.putpalette([10, 20, 30])
    image.save(tmp_path / "a.bmp")
    assert (photographs.load(tmp_path / "a.bmp") == (10, 20, 30)).all()


# --- files that are no usable photographs


@pytest.mark.parametrize(
    ("width", "height", "usable"), [(8, 8, False), (15, 400, False), (400, 15, False), (16, 16, True)]
)
def test_tiny(draw_photograph: Draw, tmp_path: Path, width: int, height: int, usable: bool) -> None:
    Image.new("RGB", (width, height)).save(tmp_path / "a.png")
    if usable:
        assert photographs.load(tmp_path / "a.png").shape == (height, width, 3)
    else:
        refused(tmp_path / "a.png", f"{width}x{height} is too small", "16 px")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_truncated(draw_photograph: Draw, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    draw_photograph(4, 120, 90).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"this is no picture\n", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"]
)
def test_something_else_named_jpg(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", "cannot be decoded")


def test_vanished(tmp_path: Path) -> None:
    refused(tmp_path / "a.jpg")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (14_000, 14_500), (30_000, 5_980)])
def test_decompression_bomb(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    refused(tmp_path / "a.png")


def test_pixel_bound_is_facexs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "MAX_PIXELS", 999)
    Image.new("RGB", (40, 25)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "40x25 is larger than any photograph")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_damaged_bytes_decode_or_are_refused(draw_photograph: Draw, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    draw_photograph(5, 40, 30).save(path, **({} if suffix == "bmp" else {"exif": exif}))
    whole = path.read_bytes()
    random = np.random.default_rng(9)
    refusals = []
    for _ in range(60):
        damaged = bytearray(whole)
        for position in random.integers(0, min(len(whole), 600), 4):
            damaged[position] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        try:
            assert photographs.load(path).shape[2] == 3
        except PhotographError as error:
            refusals.append(str(error))
    assert refusals
    assert all(len(text.splitlines()) == 1 for text in refusals)


# --- folders


def test_find_takes_photographs_below_in_the_order_of_paths(photo_dir: Path, tmp_path: Path) -> None:
    photograph = sorted(photo_dir.iterdir())[0].read_bytes()
    wanted = ["a/z.PNG", "a.jpg", "b.jpeg", "b/c/d.webp", "e.Tiff", "f.bmp"]
    ignored = [
        ".hidden.jpg",
        ".thumbnails/a.jpg",
        "b/.cache/x/y.png",
        "notes.txt",
        "gt.json",
        "jpg",
        "x.jpg.part",
    ]
    for i, name in enumerate((*wanted, *ignored)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photograph + bytes([i]))
    (tmp_path / "folder.jpg").mkdir()

    found = photographs.find(tmp_path, option="--calib")

    assert [p.path for p in found] == sorted(tmp_path / name for name in wanted)
    assert [p.sha256 for p in found] == [hashlib.sha256(p.path.read_bytes()).hexdigest() for p in found]
    assert len({p.sha256 for p in found}) == len(wanted)


def test_a_folder_that_is_itself_hidden_counts(photo_dir: Path, tmp_path: Path) -> None:
    hidden = tmp_path / ".data"
    hidden.mkdir()
    (hidden / "a.jpg").write_bytes(b"x")
    assert [p.path.name for p in photographs.find(hidden, option="--images")] == ["a.jpg"]


def test_find_refuses(tmp_path: Path) -> None:
    (tmp_path / "file.jpg").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "texts" / ".a.jpg").write_text("x")
    for name, words in (
        ("absent", "no such folder"), ("file.jpg", "is a file"),
        ("empty", "holds no photograph"), ("texts", "holds no photograph"),
    ):  # fmt: skip
        with pytest.raises(PhotographError) as caught:
            photographs.find(tmp_path / name, option="--calib")
        text = str(caught.value)
        assert text.startswith(f"--calib {tmp_path / name}: {words}")
        assert len(text.splitlines()) == 1


# --- letterbox


FILL = (123.0, 117.4, 103.6)


@given(
    width=st.integers(16, 300), height=st.integers(16, 300),
    across=st.integers(1, 6).map(lambda n: 32 * n), down=st.integers(1, 6).map(lambda n: 32 * n),
)  # fmt: skip
def test_letterbox_keeps_the_aspect_and_pads_bottom_right(width: int, height: int, across: int, down: int) -> None:
    rgb = np.full((height, width, 3), (10, 200, 90), np.uint8)
    boxed = photographs.letterbox(rgb, Size(height=down, width=across), FILL)
    rows, columns = boxed.content

    assert boxed.pixels.shape == (down, across, 3)
    assert boxed.pixels.dtype == np.uint8
    assert boxed.scale == min(down / height, across / width)
    assert rows == down or columns == across
    assert abs(rows - height * boxed.scale) <= 0.5 or rows == 1
    assert abs(columns - width * boxed.scale) <= 0.5 or columns == 1
    assert (boxed.pixels[:rows, :columns] == (10, 200, 90)).all()
    padding = np.ones((down, across), bool)
    padding[:rows, :columns] = False
    assert (boxed.pixels[padding] == (123, 117, 104)).all()


@pytest.mark.parametrize(("width", "height"), [(160, 96), (80, 48), (320, 192)])
def test_no_padding_when_the_aspect_is_exact(draw_photograph: Draw, width: int, height: int) -> None:
    rgb = np.asarray(draw_photograph(6, width, height))
    boxed = photographs.letterbox(rgb, Size(height=96, width=160), FILL)
    assert boxed.content == (96, 160)
    if (width, height) == (160, 96):
        np.testing.assert_array_equal(boxed.pixels, rgb)


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (640, 200), (97, 61)])
def test_scale_maps_points_between_the_frames(width: int, height: int) -> None:
    size = Size(height=160, width=160)
    rng = np.random.default_rng(2)
    for _ in range(5):
        # the centre of a bright square in the photograph is found in the input at scale times its place
        side = 24
        x, y = rng.integers(0, width - side), rng.integers(0, height - side)
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[y : y + side, x : x + side] = 255
        boxed = photographs.letterbox(rgb, size, (0, 0, 0))
        mass = boxed.pixels[:, :, 0].astype(float)
        centre = [(mass.sum(axis=axis) * (np.arange(160) + 0.5)).sum() / mass.sum() for axis in (0, 1)]
        expected = (np.array([x, y]) + side / 2) * boxed.scale
        np.testing.assert_allclose(centre, expected, atol=0.75)


@pytest.mark.parametrize(("fill", "painted"), [((-5.0, 300.0, 254.6), (0, 255, 255)), ((0.4, 0.6, 1.5), (0, 1, 2))])
def test_padding_colour_is_rounded_and_bounded(fill: tuple[float, float, float], painted: tuple[int, ...]) -> None:
    boxed = photographs.letterbox(np.zeros((64, 32, 3), np.uint8), Size(height=64, width=64), fill)
    assert (boxed.pixels[:, 32:] == painted).all()


# --- network input


def test_network_input_orders_subtracts_and_scales() -> None:
    pixels = np.array([[[[10, 20, 30], [40, 50, 60]]]], np.uint8)
    mean, scale = (1.0, 2.0, 3.0), (2.0, 0.5, 1.0)
    rgb = photographs.network_input(pixels, mean, scale, bgr=False)
    bgr = photographs.network_input(pixels, mean, scale, bgr=True)
    assert rgb.dtype == np.float32
    assert rgb.shape == (1, 3, 1, 2)
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb[0, :, 0], [[18, 78], [9, 24], [27, 57]])
    np.testing.assert_array_equal(bgr[0, :, 0], [[58, 118], [9, 24], [7, 37]])
