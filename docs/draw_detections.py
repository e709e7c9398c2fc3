"""Draw docs/detections.jpg: what the bundled detector finds in rendered photographs, as float and as an exported file.

    python docs/draw_detections.py build/facex-demo_640x640_w8a8.tflite

Above, the untouched float network; below, the file, run by its own runtime.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from facex import demo, exporters
from facex.demo import gallery, scene
from facex.recipe import DEFAULT_SIZE
from facex.reference import detector, geometry, photographs
from facex.types import Head, Session

PAGE = Path(__file__).with_name("detections.jpg")
NUMBERS = (7, 32, 27)
"""Photographs of the evaluation stream, which neither training nor calibration nor parity has seen; of one size."""

WIDTH = 420
FLOAT_COLOUR, FILE_COLOUR = (40, 220, 90), (255, 170, 30)
SCORE = 0.5


def drawn(session: Session, pixels: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """A photograph with boxes, scores and landmarks."""
    boxed = photographs.letterbox(pixels, DEFAULT_SIZE, (123.0, 117.0, 104.0))
    outputs = session({"image": boxed.pixels[None]})
    found = geometry.detect(outputs["boxes"][0], outputs["scores"][0], outputs["landmarks"][0], score=SCORE)
    image = Image.fromarray(pixels)
    scale = WIDTH / image.width
    image = image.resize((WIDTH, round(image.height * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    to_page = scale / boxed.scale
    for box, score, points in zip(found.boxes, found.scores, found.landmarks, strict=True):
        x0, y0, x1, y1 = (float(v) * to_page for v in box)
        draw.rectangle([x0, y0, x1, y1], outline=colour, width=2)
        draw.text((x0 + 2, y0 - 11), f"{score:.2f}", fill=colour)
        for x, y in points * to_page:
            draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=colour)
    return image


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    path = parser.parse_args().file
    target = next(name for name in exporters.names() if exporters.info(name).suffix == path.suffix)
    loaded = detector.load(demo.CHECKPOINT, demo.CONTRACT)
    sessions = (
        (detector.ReferenceSession(loaded, DEFAULT_SIZE, Head.DECODED, threads=2), FLOAT_COLOUR),
        (exporters.load(target).open_session(path, threads=2), FILE_COLOUR),
    )
    columns = []
    for number in NUMBERS:
        height, width = gallery.SIZES[number % len(gallery.SIZES)]
        rendering = scene.photograph((0, int(gallery.Stream.EVALUATION), number), height, width)
        pixels = np.asarray(Image.open(io.BytesIO(rendering.jpeg)))
        columns.append([drawn(session, pixels, colour) for session, colour in sessions])
    rows = [np.concatenate([np.asarray(column[i]) for column in columns], axis=1) for i in range(len(sessions))]
    Image.fromarray(np.concatenate(rows)).save(PAGE, quality=88)


if __name__ == "__main__":
    main()
