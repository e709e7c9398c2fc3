"""How files come to their place whole, or not at all; and what identifies them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facex import manifest as manifest_module
from facex.manifest import sha256_of, size_of, write_text


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_text_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert _names(path.parent) == ["a.json"]


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
def test_write_text_leaves_the_old_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    monkeypatch.setattr(manifest_module.os, function, _full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.json"]


def test_write_text_leaves_the_old_file_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest_module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.json"]


def _package(path: Path, text: str, names: tuple[str, ...] = ("Manifest.json", "Data/model.mlmodel")) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{name} {text}")
    return path


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = _file(tmp_path / "a", "abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert size_of(path) == 3


def test_digest_of_a_folder_ignores_the_order_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("b", "a/z", "a/b", "a.txt", "a-b/c")
    one, other = _package(tmp_path / "1", "x", names), _package(tmp_path / "2", "x", names[::-1])
    digest = sha256_of(one)
    assert sha256_of(other) == digest
    assert size_of(one) == sum(len(f"{name} x") for name in names)
    listed = sorted(one.rglob("*"))
    for order in (listed, listed[::-1]):  # a file system may list them in any
        monkeypatch.setattr(Path, "rglob", lambda *_, order=order: iter(order))
        assert sha256_of(one) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a").rename(folder / "c"),
        lambda folder: (folder / "a").write_text("other"),
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "new").write_text(""),
        lambda folder: shutil.move(folder / "a", folder / "sub" / "a"),
    ],
    ids=["rename", "content", "delete", "add", "move"],
)
def test_digest_of_a_folder_changes_with_names_and_contents(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = _package(tmp_path / "package", "x", ("a", "b", "sub/c"))
    before = sha256_of(folder)
    change(folder)
    assert sha256_of(folder) != before


def test_digest_of_a_set_of_files_ignores_their_order() -> None:
    assert manifest_module.digest_of(["b", "a"]) == manifest_module.digest_of(["a", "b"])
    assert manifest_module.digest_of(["ab"]) != manifest_module.digest_of(["a", "b"])
