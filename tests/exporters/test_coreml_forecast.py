"""The forecast for whole detectors, and the permissions of their packages."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from facex.exporters import _package, coreml
from facex.exporters._mil import placement
from facex.types import Head, Placement, Precision


def _forecast(make_job, path: Path, precision: Precision, head: Head = Head.DECODED):
    coreml.export(make_job(path, precision, head))
    return coreml.describe(path).neural_engine_forecast


def _counted(found, where: Placement) -> Counter[str]:
    counts: Counter[str] = Counter()
    for each in found.operations:
        counts[each.operator] += each.count * (each.placement is where)
    return +counts


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.W8, Precision.P6])
def test_the_trunk_is_expected_there_and_the_head_elsewhere(make_job, tmp_path, precision):
    found = _forecast(make_job, tmp_path / "a.mlpackage", precision)
    there, elsewhere = (_counted(found, where) for where in (Placement.NEURAL_ENGINE, Placement.ELSEWHERE))
    trunk = {"conv": 56, "leaky_relu": 38, "relu": 3, "add": 2, "concat": 3, "upsample_nearest_neighbor": 2, "sub": 1}
    assert there == trunk
    assert {"transpose", "exp", "sigmoid", "reduce_sum"} <= set(elsewhere)
    assert not {"conv", "leaky_relu", "relu"} & set(elsewhere)
    assert _counted(found, Placement.UNKNOWN) == {"cast": 10}
    assert {o.source for o in found.operations if o.placement is Placement.ELSEWHERE} == {placement.TYPED_EXECUTION}
    assert found.resident_mac_fraction == 1.0
    assert found.resident_operation_fraction == sum(there.values()) / (sum((there + elsewhere).values()) + 10)
    assert found.transitions == 9  # three tensors a level of the pyramid, three levels
    assert found.first_elsewhere
    noted = [note for note in found.notes if "decompressed" in note]
    assert len(noted) == (0 if precision is Precision.FP16 else 1)


@pytest.mark.slow
def test_nothing_of_a_float32_file_is_expected_there(make_job, tmp_path):
    found = _forecast(make_job, tmp_path / "a.mlpackage", Precision.FP32)
    assert (found.resident_operation_fraction, found.resident_mac_fraction, found.transitions) == (0.0, 0.0, 0)
    assert {each.placement for each in found.operations} == {Placement.ELSEWHERE}
    assert found.first_elsewhere


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def _modes(folder: Path) -> dict[bool, set[int]]:
    found: dict[bool, set[int]] = {True: set(), False: set()}
    for path in (folder, *folder.rglob("*")):
        found[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    return found


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize(
    ("mask", "folders", "files"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664), (0o077, 0o700, 0o600)]
)
def test_files_and_folders_get_the_permissions_that_new_ones_get(tmp_path, umask, mask, folders, files):
    package = tmp_path / "a.mlpackage"
    (package / "Data" / "weights").mkdir(parents=True)
    for name in ("Manifest.json", "Data/weights/weight.bin"):
        (package / name).write_bytes(b"1")
    (package / "Data" / "weights").chmod(0o700)
    (package / "Manifest.json").chmod(0o600)
    os.umask(mask)
    _package._usual_modes(package)
    assert _modes(package) == {True: {folders}, False: {files}}
    assert sorted(p.name for p in package.rglob("*")) == ["Data", "Manifest.json", "weight.bin", "weights"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_an_exported_package_can_be_read_by_those_who_can_read_other_files(make_job, tmp_path, umask):
    coreml.export(make_job(tmp_path / "a.mlpackage", Precision.FP16))
    assert _modes(tmp_path / "a.mlpackage") == {True: {0o755}, False: {0o644}}
