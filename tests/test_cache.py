"""Where the cache is."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from facex import cache


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path / "a b"))
    assert cache.folder() == tmp_path / "a b"
    assert not cache.folder().exists()


def test_a_folder_relative_to_here_or_to_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.setenv("FACEX_CACHE", "here")
    assert cache.folder() == tmp_path / "here"
    monkeypatch.setenv("FACEX_CACHE", "~/there")
    assert cache.folder() == Path("/homes/me/there")


@pytest.mark.parametrize("value", [None, ""])
def test_otherwise_it_is_the_one_of_this_user(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("FACEX_CACHE", raising=False)
    else:
        monkeypatch.setenv("FACEX_CACHE", value)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, appauthor: f"/caches/{name}/{appauthor}")
    assert cache.folder() == Path("/caches/facex/False")
