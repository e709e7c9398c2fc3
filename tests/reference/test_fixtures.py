"""The seeded checkpoint is worth comparing artifacts on: it finds things, and they depend on colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facex.reference import photographs
from facex.reference.detector import Detector, ReferenceSession
from facex.types import Head, Size

SIZE = Size(height=160, width=160)


def test_seeded_checkpoint_scores_twenty_to_sixty_priors(detector: Detector, photo_dir: Path) -> None:
    session = ReferenceSession(detector, SIZE, Head.RAW, threads=1)
    found = photographs.find(photo_dir, option="--images")
    assert len(found) == 6
    assert {p.path.suffix for p in found} == {".jpg", ".png"}
    for photograph in found:
        pixels = photographs.letterbox(photographs.load(photograph.path), SIZE, detector.contract.mean_rgb).pixels
        raw = session({"image": pixels[None]})
        scores = raw["conf"][0, :, 1]
        assert 20 <= (scores > 0.5).sum() <= 60, photograph.path.name
        assert np.ptp(scores[scores > 0.5]) > 0.3
        assert np.abs(raw["loc"]).max() < 1.5
        assert np.abs(raw["landm"]).max() < 2.5
        swapped = session({"image": pixels[None, :, :, ::-1]})["conf"][0, :, 1]
        kept = ((scores > 0.5) & (swapped > 0.5)).sum() / (scores > 0.5).sum()
        assert kept < 0.7, f"{photograph.path.name}: {kept:.2f} of the priors survive swapped channels"
