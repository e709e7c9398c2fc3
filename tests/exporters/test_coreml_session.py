"""Sessions of Core ML files: facex's executor everywhere, and Core ML itself, replaced at its outermost call."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facex.errors import ArtifactError, FacexError, SessionUnavailableError
from facex.exporters import coreml
from facex.reference.detector import ReferenceSession
from facex.types import Head, Precision, Runtime, Size

BGR = 30
"""`ImageFeatureType.ColorSpace` in Core ML's FeatureTypes.proto."""


def _edited(path: Path, copy: Path, edit) -> Path:
    """A copy of a package with its model changed."""
    from coremltools.proto import Model_pb2

    shutil.copytree(path, copy)
    file = copy / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    edit(spec)
    file.write_bytes(spec.SerializeToString())
    return copy


@pytest.fixture(scope="module")
def package(make_job, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "a.mlpackage"
    coreml.export(make_job(path, Precision.FP16))
    return path


@pytest.fixture(scope="module")
def picture(draw_photograph) -> np.ndarray:
    return np.asarray(draw_photograph(12, 160, 160))[None]


@pytest.mark.slow
def test_the_executor_runs_a_package_on_any_system(package, picture, detector):
    session = coreml.open_session(package, threads=1)
    found = session({"image": picture})
    wanted = ReferenceSession(detector, Size(height=160, width=160), Head.DECODED, threads=1)({"image": picture})
    assert list(found) == list(wanted)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=0.03)  # half precision, untrained weights
    assert "not the Neural Engine" in session.runtime
    assert session.untimed
    session.invoke()


@pytest.mark.slow
def test_the_executor_feeds_the_colour_layout_that_the_package_states(package, picture, tmp_path):
    def swap(spec):
        spec.description.input[0].type.imageType.colorSpace = BGR

    swapped = coreml.open_session(_edited(package, tmp_path / "b.mlpackage", swap), threads=1)
    right = coreml.open_session(package, threads=1)
    found, wanted = swapped({"image": picture}), right({"image": picture[..., ::-1]})
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    assert np.abs(found["scores"] - right({"image": picture})["scores"]).max() > 0.01


@pytest.mark.slow
def test_a_package_whose_program_names_no_weights_that_are_there_is_refused(package, tmp_path):
    broken = shutil.copytree(package, tmp_path / "c.mlpackage")
    (broken / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weight\.bin: no such file"):
        coreml.open_session(broken, threads=1)


@pytest.mark.skipif(platform.system() == "Darwin", reason="this is a Mac")
def test_off_a_mac_there_is_no_native_session_and_it_is_nobody_s_fault(tmp_path):
    with pytest.raises(SessionUnavailableError, match=f"Core ML runs on macOS only, this is {platform.system()}") as e:
        coreml.open_native(tmp_path / "any.mlpackage", Runtime.NATIVE)
    assert not isinstance(e.value, FacexError)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [r for r in Runtime if r is not Runtime.EXECUTOR])
def test_the_native_session_feeds_an_rgb_picture_and_returns_float32(package, monkeypatch, runtime):
    import coremltools as ct

    fed, units = [], []
    plain = ct.models.MLModel.__init__

    def load(self, *args, compute_units, **others):
        units.append(compute_units.name)
        plain(self, *args, compute_units=compute_units, **others)

    def predict(_model, data):
        fed.append(data)
        return {"boxes": np.arange(8, dtype=np.float64).reshape(1, 2, 4), "scores": np.array([[0.25, 0.5]], np.float16)}

    monkeypatch.setattr(ct.models.MLModel, "__init__", load)
    monkeypatch.setattr(ct.models.MLModel, "predict", predict)
    monkeypatch.setattr(coreml.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(coreml.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    session = coreml.open_native(package, runtime)
    assert units == [coreml.COMPUTE_UNITS[runtime]]
    assert session.runtime == f"Core ML of macOS 15.1, compute units {units[0]}"
    assert session.untimed == ""
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
