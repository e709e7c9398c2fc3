"""Core ML parity needs a Mac; what leads up to Core ML's own call is tested with that call replaced."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from PIL import Image

from facex.errors import FacexError, SessionUnavailableError
from facex.exporters import coreml
from facex.types import Precision


@pytest.mark.skipif(platform.system() == "Darwin", reason="this is a Mac")
def test_off_a_mac_there_is_no_session_and_it_is_nobody_s_fault(tmp_path):
    with pytest.raises(SessionUnavailableError, match=f"Core ML runs on macOS only, this is {platform.system()}") as e:
        coreml.open_session(tmp_path / "any.mlpackage", threads=1)
    assert not isinstance(e.value, FacexError)


@pytest.mark.slow
def test_the_session_feeds_an_rgb_picture_and_returns_float32(make_job, tmp_path, monkeypatch):
    import coremltools as ct

    path = tmp_path / "a.mlpackage"
    coreml.export(make_job(path, Precision.FP16))
    fed = []

    def predict(_model, data):
        fed.append(data)
        return {"boxes": np.arange(8, dtype=np.float64).reshape(1, 2, 4), "scores": np.array([[0.25, 0.5]], np.float16)}

    monkeypatch.setattr(ct.models.MLModel, "predict", predict)
    monkeypatch.setattr(coreml.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(coreml.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    session = coreml.open_session(path, threads=3)
    assert session.runtime == "Core ML of macOS 15.1"
    pixels = np.random.default_rng(1).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    found = session({"image": pixels})
    assert list(fed[0]) == ["image"]
    picture = fed[0]["image"]
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("RGB", (160, 160))
    np.testing.assert_array_equal(np.asarray(picture), pixels[0])
    assert {name: values.dtype for name, values in found.items()} == {"boxes": np.float32, "scores": np.float32}
    np.testing.assert_array_equal(found["boxes"], np.arange(8).reshape(1, 2, 4))
    session.invoke()
    assert len(fed) == 2
    np.testing.assert_array_equal(np.asarray(fed[1]["image"]), pixels[0])
