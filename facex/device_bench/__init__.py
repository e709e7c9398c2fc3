"""Size and latency of artifacts: how long each device takes, and whether that fits the budget.

A device is a module of this package; the file name is the registry, and the word a user types. A device
module measures or estimates the artifacts that it is handed and returns one `facex.types.Latency` for each,
which says by its `kind` whether the number is measured, emulated or estimated, and whose `device` begins with that
word. `budget` is not a device: it turns sizes and latencies into findings.
"""

from __future__ import annotations

import pkgutil

_NOT_DEVICES = ("budget",)

PHONES = ("adb", "galaxy-s24-npu", "iphone-12-pro", "pixel-3", "pixel-4", "snapdragon-8-gen-2")
"""Devices that a budget may be set for although nothing here measures them: its checks of time are skipped."""


def known(word: str) -> bool:
    """Whether a budget may be set for a device; a word may have an argument after a colon."""
    return word.partition(":")[0] in (*names(), *PHONES)


def names() -> list[str]:
    """Names of the devices, alphabetical; imports none of them."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in _NOT_DEVICES)
