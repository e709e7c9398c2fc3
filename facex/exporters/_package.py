"""The files of an `.mlpackage`: their permissions."""

from __future__ import annotations

import shutil
from pathlib import Path


def usual_modes(package: Path) -> None:
    """Before: some files and folders that only their owner can read. After: the permissions that new ones get here."""
    probe = package / "probe"
    probe.mkdir()
    (probe / "file").touch()
    modes = {True: probe.stat().st_mode, False: (probe / "file").stat().st_mode}
    shutil.rmtree(probe)
    for path in (package, *package.rglob("*")):
        path.chmod(modes[path.is_dir()] & 0o777)
