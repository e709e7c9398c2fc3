"""Size and latency of artifacts: how long each device takes, and whether that fits the budget.

A device is a module of this package; the file name is the registry, and the word a user types. A device
module measures or estimates the artifacts that it is handed and returns one `facex.types.Latency` for each,
which says by its `kind` whether the number is measured, emulated or estimated. `budget` is not a device: it
turns sizes and latencies into findings. Nor is `emulator`, which computes as a phone does but takes its own time.
"""

from __future__ import annotations

import pkgutil

_NOT_DEVICES = ("budget", "emulator", "emulator_setup")


def names() -> list[str]:
    """Names of the devices, alphabetical; imports none of them."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in _NOT_DEVICES)
