"""Where facex keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "FACEX_CACHE"
"""The environment variable that names another folder."""


def folder() -> Path:
    """`$FACEX_CACHE`, else the folder that this system gives to caches of one user; absolute, and perhaps not there."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("facex", appauthor=False))
