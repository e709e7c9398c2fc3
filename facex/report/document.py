"""The manifest with everything that differs from run to run, for `report.json` and `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from facex.manifest import Manifest, rounded, to_plain


def to_dict(manifest: Manifest, *, timings_s: Mapping[str, float], command: str) -> dict[str, Any]:
    """The manifest's own keys with `timings_s`, `exit_code` and `command` beside them.

    Args:
        manifest: the whole one, with all latencies and findings, not its `reproducible()` form.
        timings_s: stage -> seconds that it took.
        command: the command line.

    Returns:
        Plain values; floats at six significant digits, as in `manifest.json`.
    """
    timings = rounded({name: float(seconds) for name, seconds in timings_s.items()})
    return {**to_plain(manifest), "timings_s": timings, "exit_code": manifest.exit_code, "command": command}


def to_text(document: Mapping[str, Any]) -> str:
    """A document as JSON text: keys sorted, ASCII, one final newline.

    Raises:
        ValueError: a value is not finite, which JSON cannot hold.
    """
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"
