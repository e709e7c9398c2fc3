"""Manifests for the reports to tell, and golden files to compare what they say with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from facex.manifest import Manifest, load, write_text

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def rich() -> Manifest:
    """A run with everything: passes, failures of both kinds, skips, two devices, an assumed contract."""
    return load(GOLDEN / "manifest.json")


@pytest.fixture
def agrees_with_golden() -> Callable[[str, str], None]:
    """`agrees_with_golden(name, text)` compares with a file; FACEX_REFRESH_GOLDEN=1 records it anew."""

    def check(name: str, text: str) -> None:
        if os.environ.get("FACEX_REFRESH_GOLDEN") == "1":
            write_text(GOLDEN / name, text)
        assert text == (GOLDEN / name).read_text(encoding="utf-8")

    return check
